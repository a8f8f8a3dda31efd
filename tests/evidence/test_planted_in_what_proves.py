"""Secrets that are handed to, or come out of, the commands that prove, purge and judge secrets; and what
listeners are told of calls."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.bridges.boundary_listener import Listening, be_patient, listening
from tests.cli.conftest import Program
from tests.evidence.planting import KNOWN, by_form, by_surroundings, known_values, leaks, no_trace

import custody
from custody.compose import open_runtime
from custody.settings import load_settings

SOME = (*by_form()[1::9], *by_surroundings()[::7], *known_values()[:12:4])
FEW = SOME[::3]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    (tmp_path / "program").mkdir()
    program = Program(tmp_path / "program")
    program.environment |= KNOWN
    yield program
    program.close()


@custody.tool(effect="read")
def look(what: Any) -> Any:
    return what


def printed(program: Program, *arguments: str, **options: Any) -> tuple[str, bytes]:
    done = program(*arguments, **options)
    return " ".join(arguments[:2]), (done.out + done.err).encode("utf-8", "surrogateescape")


def test_a_report_of_secrets_in_a_file_shows_none(program: Program):
    text = "\n\n".join(f"{secret.text} " for secret in SOME)
    (program.work / "build.log").write_text(text)
    program("exec", "--", "true")
    shown = [printed(program, "redact", "test", "build.log", *more) for more in ((), ("--json",))]
    shown += [printed(program, "redact", "test", "-", stdin=text)]
    assert all(len(output) > 100 for _, output in shown)
    found = leaks(SOME, shown)
    assert found == [], "\n".join(found)
    no_trace(SOME, program.store)


def test_reasons_for_holding_allowing_and_purging_have_no_secret_on_the_record(program: Program):
    with program.recording() as runtime:
        for number in range(len(FEW)):
            with runtime.run("work") as run:
                run.call(look, {"what": number})
    runs = [run["id"] for run in program("runs", "--json", "--all").json["items"]]
    shown = []
    for run_id, secret in zip(runs, FEW, strict=True):
        reason = f"--reason=because of {secret.text}"
        shown.append(printed(program, "hold", run_id, reason, "--json"))
        shown.append(printed(program, "hold", run_id, "--release", reason, "--json"))
        shown.append(printed(program, "purge", "--run", run_id, reason, "--yes", "--json"))
        shown.append(printed(program, "redact", "allow", "5f2a90c1", reason, "--json"))
    shown += [printed(program, "hold", "--list"), printed(program, "redact", "list", "--json")]
    no_trace(SOME, program.store)
    found = leaks(SOME, shown)
    assert found == [], "\n".join(found)


def test_the_text_that_is_purged_is_not_on_the_record_afterwards(program: Program):
    words = "a sentence that nobody was to keep"
    with program.recording() as runtime, runtime.run("work") as run:
        run.call(look, {"what": words})
    assert any(words.encode() in path.read_bytes() for path in program.store.rglob("*.seg"))
    for selector in (words, by_form()[1].text):
        done = program("purge", "--match", selector, "--yes", "--json")
        assert done.code == 0, done.err
        assert selector not in done.out + done.err
    for path in program.store.rglob("*"):
        assert not path.is_file() or words.encode() not in path.read_bytes(), path
    no_trace(by_form(), program.store)


def test_proofs_checkpoints_and_verification_show_no_secret(program: Program):
    with program.recording() as runtime, runtime.run("work", agent=SOME[0].text) as run:
        for secret in SOME:
            run.call(look, {"what": {"text": secret.text, secret.text: 1}})
            with run.observe(f"tool {secret.text}", {}, external_id=secret.text) as call:
                call.fail(secret.text)
    shown = [printed(program, "prove", run.id, "--json"), printed(program, "checkpoint", "--json")]
    shown += [printed(program, "verify"), printed(program, "verify", "--json")]
    assert len(shown[0][1]) > 1_000
    shown.append(("decoded", repr(json.loads(shown[0][1])).encode()))
    found = leaks(SOME, shown)
    assert found == [], "\n".join(found)
    no_trace(SOME, program.store)


def test_nothing_of_a_secret_is_told_to_a_listener_at_the_boundary(
    store: Path, monkeypatch: pytest.MonkeyPatch
):
    be_patient(monkeypatch)

    async def scenario(listener: Listening) -> None:
        runtime = await open_runtime(load_settings(store=str(store)), boundary=listener.url)
        async with runtime, runtime.run("work", agent=SOME[0].text) as run:
            for secret in SOME:
                await run.call(look, {"what": secret.text}, external_id=secret.text)
                await run.call(f"tool {secret.text}", {secret.text: secret.text})
                async with run.observe(secret.text, {"a": secret.text}) as call:
                    call.fail(secret.text, type=secret.text)
            await asyncio.to_thread(listener.wait_for, 6 * len(SOME))

    with listening() as listener:
        asyncio.run(scenario(listener))
        told = b"\n".join([*listener.bodies, *listener.heads])
    found = leaks(SOME, [("notices", told)])
    assert found == [], "\n".join(found)
