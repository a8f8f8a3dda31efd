"""Secrets where a recorder may miss them: in large values, at the edges of pieces, below sensitive names, in
what is kept to undo."""

import json
import sys
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
from tests.evidence.planting import (
    ALNUM,
    Maker,
    Secret,
    by_form,
    by_surroundings,
    escaped_values,
    files_of,
    known_values,
    no_trace,
)

import custody
from custody.recorder import INLINE_BYTES_MAX
from custody.sandbox.output import KEEP_HEAD_BYTES, KEEP_TAIL_BYTES

EVERYTHING = (*by_form(), *by_surroundings(), *known_values())

FILLER = "The quick brown fox jumps over the lazy dog, line after line.\n"


@custody.tool(effect="read")
def look(what: Any) -> Any:
    return what


def filled(size: int) -> str:
    return FILLER * (size // len(FILLER) + 1)


# -- large values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [INLINE_BYTES_MAX // 2, INLINE_BYTES_MAX, 1_000_000])
def test_a_secret_within_a_large_value(store: Path, secrets: tuple[Secret, ...], size: int):
    """Whether the value is kept inside its record or in a blob of its own."""
    with custody.open(store) as runtime, runtime.run("large") as run:
        planted = secrets[3::13]
        for secret in planted:
            text = filled(size)[: size - len(secret.text)]
            for at in (0, len(text) // 2, len(text)):
                what = f"{text[:at]}\n{secret.text}\n{text[at:]}"
                assert run.call(look, {"what": [what]}).outcome == "succeeded"
    assert any("blobs/" in name for name, _ in files_of(store)) == (size > INLINE_BYTES_MAX // 2)
    no_trace(planted, store)


def test_a_known_value_in_each_way_of_escaping_it(store: Path):
    secrets = escaped_values()
    with custody.open(store) as runtime, runtime.run("escaped") as run:
        for secret in secrets:
            for text in (secret.text, f"before {secret.text} after", f"one\ntwo\t{secret.text}\n"):
                run.call(look, {"what": text})
                run.call(look, {"what": {text: [text.encode()]}})
                run.call("exec", {"argv": ["cat"], "stdin": text})
                run.step(text, model=text)
                with run.observe("search", {}, external_id=text) as call:
                    call.fail(text)
    no_trace(secrets, store)


IN_PIECES = f"""
import os, sys, time
text = b" " + os.environ["SHOWN"].encode() + b"\\n"
half = len(text) // 2
for stream in (1, 2):
    os.write(stream, text[:half])
    time.sleep(0.005)
    os.write(stream, text[half:])
filler = {FILLER.encode()!r} * 2000
sys.stdout.buffer.write(filler[: 65536 - half] + text + filler[:100])
"""


def test_a_secret_that_a_command_prints_in_two_pieces(store: Path, secrets: tuple[Secret, ...]):
    """Written in two goes, with a wait between them, and across the edge of what a pipe holds."""
    argv = [sys.executable, "-I", "-S", "-c", IN_PIECES]
    with custody.open(store) as runtime, runtime.run("pieces") as run:
        for secret in secrets[::6]:
            call = run.call("exec", {"argv": argv, "env": {"SHOWN": secret.text}})
            assert call.outcome == "succeeded", call.error
    no_trace(secrets, store)


PRINTER = f"""
import os, sys
before, after = int(sys.argv[1]), int(sys.argv[2])
filler = {FILLER.encode()!r} * 6000
out = os.fdopen({{stream}}, "wb")
out.write(filler[:before] + b" " + os.environ["SHOWN"].encode() + b" " + filler[:after])
out.flush()
"""


@pytest.mark.parametrize(
    "stream", [pytest.param(1, id="stdout"), pytest.param(2, id="stderr", marks=pytest.mark.long)]
)
@pytest.mark.parametrize(
    "kind",
    [
        "GitHub token ghp_",
        "DEPLOY_TOKEN",
        pytest.param("private key", marks=pytest.mark.long),
        pytest.param("JSON web token", marks=pytest.mark.long),
    ],
)
def test_a_secret_across_a_cut_of_an_output_leaves_no_half_behind(store: Path, kind: str, stream: int):
    """Head and tail of a long output are kept, and what is between them is dropped."""
    secret = next(secret for secret in EVERYTHING if secret.kind == kind)
    argv = [sys.executable, "-I", "-S", "-c", PRINTER.format(stream=stream)]
    length = len(secret.text)
    step = max(5, length // 6)
    with custody.open(store) as runtime, runtime.run("bounded") as run:
        for inside in range(-1, length + 2, step):  # how much of it lies on the kept side
            cut_head, cut_tail = KEEP_HEAD_BYTES - inside - 1, KEEP_TAIL_BYTES - inside - 1
            for before, after in ((cut_head, 300_000), (300_000, cut_tail)):
                places = [str(before), str(after)]
                call = run.call("exec", {"argv": [*argv, *places], "env": {"SHOWN": secret.text}})
                assert call.usage is not None
                assert call.usage.stdout_dropped_bytes or call.usage.stderr_dropped_bytes
    no_trace([secret], store)


def test_a_secret_at_every_offset_around_a_text_that_is_cut(store: Path):
    """Texts of steps, names in leaves and the reprs of objects are cut."""
    secrets = (by_form()[1], known_values()[0], by_form()[19])

    class Thing:
        def __init__(self, text: str) -> None:
            self.text = text

        def __repr__(self) -> str:
            return self.text

    with custody.open(store) as runtime, runtime.run("cut") as run:
        for secret in secrets:
            for cut in (128, 256, 1_024, 2_000, 4_096):
                for before in range(cut - len(secret.text) - 2, cut + 2, 3):
                    text = filled(before)[: before - 1] + " " + secret.text + " and more"
                    run.step(text, finish_reason=text, external_id=text, model=text)
                    run.event(text, a=text)
                    with run.observe(text, {"a": Thing(text)}, external_id=text, agent=text) as call:
                        call.fail(text, type=text)
                    with runtime.run(text, agent=text, name=text, external_id=text) as other:
                        other.finish("failed", reason=text)
                    run.call(text, {})
    no_trace(secrets, store)


# -- names that say so --------------------------------------------------------------------------------------


def test_what_stands_below_a_sensitive_name_in_any_shape(store: Path):
    """A secret of no form at all: only its name tells. Within a text it is at least no word."""
    make = Maker(7)
    secrets: list[Secret] = []

    def mixed() -> str:
        return new(ALNUM)

    def new(alphabet: str = ascii_lowercase) -> str:
        value = make.of(alphabet, 16)
        secrets.append(Secret(f"number {len(secrets)}", value, value, value))
        return value

    names = (
        "password", "api_key", "apiKey", "API-KEY", "client_secret", "secretAccessKey", "db.password",
        "X-Api-Key", "Authorization", "access_token", "refreshToken", "PGPASSWORD", "private_key",
        "SECRET_KEY_BASE_SECRET", "credentials", "Set-Cookie", "signing-key", "passphrase",
    )  # fmt: skip
    with custody.open(store) as runtime, runtime.run("named") as run:
        for name in names:
            values: list[Any] = [
                {name: new()},
                {"a": [{"b": {name: new()}}]},
                {name: [new(), {"x": new()}]},
                {name: {"a": 1, "deep": {"er": new()}}},
                {name: new().encode()},
                {"name": name, "value": new()},
                [{"key": name, "value": new()}],
                [[name, new()]],
                [f"--{name}={new()}"],
                [f"--{name}", new()],
                {"env": [f"{name}={new()}"]},
                json.dumps({name: mixed(), "b": 1}),
                json.dumps({"body": json.dumps({name: mixed()})}),
                {"text": json.dumps({"a": {name: mixed()}})},
            ]
            for value in values:
                run.call(look, {"what": value})
                with run.observe("search", {"q": value}) as call:
                    call.result = value
                run.step("x", calls=[{"id": "1", "name": "look", "arguments": value}], data=value)
                run.event("noted", value=value)
            with runtime.run("inputs", inputs={name: new()}, labels={name: new()}) as other:
                other.finish(output={name: new()}, totals={name: new()})
    no_trace(secrets, store)


# -- undo data -----------------------------------------------------------------------------------------------


def test_what_is_kept_to_undo_is_encrypted(store: Path, secrets: tuple[Secret, ...]):
    text = "\n".join(secret.text for secret in secrets)
    Path("settings.conf").write_text(text)
    with custody.open(store) as runtime, runtime.run("change") as run:
        call = run.call("file_write", {"path": "settings.conf", "content": "nothing"})
        run.call("exec", {"argv": ["sh", "-c", "echo more > settings.conf"]})
        kept = sum(len(data) for name, data in files_of(store) if name.startswith("undo/"))
        assert kept > 0, "there is something to undo"
        no_trace(secrets, store)
        run.call("undo", {"call": call.id})
    no_trace(secrets, store)
