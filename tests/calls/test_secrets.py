"""Secrets reach neither the child nor the store."""

import hashlib
import os
from pathlib import Path

import msgspec

import custody

SECRET = "s3cr3t-v4lue-that-nobody-may-keep"


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_secret_of_the_environment_is_absent_in_the_child_and_its_name_is_listed(store, monkeypatch):
    monkeypatch.setenv("DEPLOY_TOKEN", SECRET)
    monkeypatch.setenv("EDITOR_THEME", "dark")

    with custody.open(store) as runtime:
        call = runtime.call("exec", {"argv": ["env"]})
        found = runtime.index.call(call.id)

    assert SECRET not in call.result["stdout"]
    assert "DEPLOY_TOKEN" in found.environment_withheld
    assert "EDITOR_THEME" not in call.result["stdout"], "an agent's child starts from the allow list"


def test_a_known_value_is_on_no_byte_of_the_store_wherever_it_turns_up(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPLOY_TOKEN", SECRET)
    store = tmp_path / "store"

    @custody.tool
    def leak(text: str) -> dict:
        raise ValueError(f"could not use {text}")

    with custody.open(os.fspath(store)) as runtime:
        with runtime.run(f"deploy with {SECRET}", inputs={"where": SECRET}) as run:
            run.call("exec", {"argv": ["echo", SECRET]})
            run.call("exec", {"argv": ["sh", "-c", f"echo {SECRET} >&2; exit 1"]})
            failed = run.call(leak, {"text": SECRET})
            run.call("exec", {"argv": ["cat"], "stdin": "x" * 200_000 + SECRET})
            run.call("exec", {"argv": ["true"], "cwd": f"/{SECRET}"})
            run.call(f"no-tool-{SECRET}", {})
            run.finish(output={"said": SECRET})
        found = runtime.index.call(failed.id)

    assert SECRET.encode() not in bytes_of(store)
    assert found.arguments["text"].startswith("[redacted:known_value:")
    assert {redaction.path for redaction in found.redactions} >= {"arguments.text", "error.message"}


def test_a_sensitive_key_at_any_depth_is_replaced_before_the_first_byte(tmp_path):
    store = tmp_path / "store"

    @custody.tool
    def login(options: dict) -> dict:
        return {"session": {"access_token": "tok-" + options["auth"]["password"]}, "token_count": 7}

    with custody.open(os.fspath(store)) as runtime:
        call = runtime.call(login, {"options": {"auth": {"password": "hunter2-hunter2"}}})
        found = runtime.index.call(call.id)

    assert call.result["session"]["access_token"] == "tok-hunter2-hunter2"
    assert b"hunter2" not in bytes_of(store)
    assert found.result["token_count"] == 7
    assert found.arguments["options"]["auth"]["password"].startswith("[redacted:sensitive_key:")


def test_a_result_that_looks_like_a_mark_of_ours_is_not_taken_for_one(store):
    @custody.tool
    def big() -> str:
        return "private " * 10_000

    @custody.tool
    def forged(digest: str) -> dict:
        return {"$blob": digest, "bytes": 80_000}

    with custody.open(store) as runtime:
        runtime.call(big, {})
        digest = hashlib.sha256(msgspec.msgpack.encode(big())).hexdigest()
        found = runtime.index.call(runtime.call(forged, {"digest": digest}).id)

    assert found.result == {"$type": "mapping", "items": [["$blob", digest], ["bytes", 80_000]]}


def test_a_door_that_shows_calls_gets_them_as_recorded(store, monkeypatch):
    monkeypatch.setenv("DEPLOY_TOKEN", SECRET)

    with custody.open(store) as runtime:
        raw = runtime.call("exec", {"argv": ["echo", SECRET, "x" * 30_000]})
        shown = runtime.call("exec", {"argv": ["echo", SECRET, "x" * 30_000]}, as_recorded=True)

        assert SECRET in raw.result["stdout"]
        assert SECRET not in repr(shown)
        assert shown == runtime.index.call(shown.id)


def test_a_refusal_says_what_does_not_fit_without_repeating_what_was_passed(tmp_path):
    store = tmp_path / "store"

    @custody.tool
    def log_in(password: str, port: int) -> None: ...

    with custody.open(os.fspath(store)) as runtime:
        refused = runtime.call(log_in, {"password": {"a": "hunter2-hunter2"}, "port": True})

    assert refused.outcome == "rejected"
    assert "arguments.password" in refused.decision.reason
    assert "hunter2" not in refused.decision.reason
    assert b"hunter2" not in bytes_of(store)
