"""Secrets planted through the command line, and what each command that looks shows of them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Program
from tests.evidence.planting import KNOWN, Secret, by_form, by_surroundings, known_values, leaks, no_trace

PRINTS = (
    "import os, sys; print(os.environ['SHOWN']); print(os.environ['SHOWN'], file=sys.stderr); sys.exit(3)"
)


@pytest.fixture
def custody(tmp_path: Path) -> Iterator[Program]:
    (tmp_path / "program").mkdir()
    program = Program(tmp_path / "program")
    program.environment |= KNOWN
    yield program
    program.close()


def one_text(secrets: tuple[Secret, ...]) -> str:
    """All of them, as one command may print them."""
    return "\n".join(f"{number}: {secret.text}" for number, secret in enumerate(secrets))


def argv_safe(secrets: tuple[Secret, ...]) -> list[str]:
    return [secret.text for secret in secrets]


def looks(custody: Program, *, everything: bool) -> Iterator[tuple[str, bytes]]:
    """What every command that looks prints, for people and for programs."""
    runs = custody("runs", "--all", "--json").json["items"]
    calls = custody("calls", "--all", "--json").json["items"]
    asked = [("tail",), ("sessions",), ("stats", "failures", "--all")]
    asked += [("changes", item["id"]) for item in runs[:1]]
    asked += [("sql", f"SELECT * FROM {view}") for view in ("runs", "calls", "events")]
    asked += [("show", item["id"]) for item in (*runs[:1], calls[0], calls[-1])]
    if everything:
        asked += [("runs", "--all"), ("calls", "--all"), ("doctor",), ("sql", "SELECT * FROM steps")]
        asked += [("stats", name, "--all") for name in ("tools", "loops", "slowest", "agents")]
        asked += [("show", item["id"]) for item in runs[1:3] + calls[1:6]]
        asked += [("changes", item["id"]) for item in runs[1:3]]
    for number, arguments in enumerate(asked):
        for more in ((), ("--json",)) if everything else ((("--json",), ())[number % 2],):
            done = custody(*arguments, *more)
            yield " ".join((*arguments, *more)), (done.out + done.err).encode("utf-8", "surrogateescape")


def nothing_left(custody: Program, secrets: tuple[Secret, ...], *, everything: bool = False) -> None:
    __tracebackhide__ = True
    no_trace(secrets, custody.store)
    found = leaks(secrets, looks(custody, everything=everything))
    assert found == [], "\n".join(found)
    no_trace(secrets, custody.store)  # nor after it was looked at


def test_arguments_of_a_command(custody: Program, secrets: tuple[Secret, ...]):
    done = custody("exec", "--json", "--", "echo", *argv_safe(secrets))
    assert leaks(secrets, [("output", (done.out + done.err).encode())]) == []
    assert custody("exec", "--", "true", *argv_safe(secrets)).code == 0
    assert custody("exec", "--", "no-such-program", *argv_safe(secrets)).code == 127
    nothing_left(custody, secrets)


def test_output_errors_and_input_of_a_command(custody: Program, secrets: tuple[Secret, ...]):
    text = one_text(secrets)
    done = custody("exec", "--json", "--env", f"SHOWN={text}", "--", "python3", "-c", PRINTS)
    assert done.json["result"]["stdout"].count("\n") >= len(secrets)
    assert leaks(secrets, [("output", (done.out + done.err).encode())]) == []
    done = custody("exec", "--", "cat", stdin=text)
    assert done.out == text, "it looks as always"
    done = custody("exec", "--env", "SHOWN", "--", "python3", "-c", PRINTS, SHOWN=text)
    assert done.code == 3 and text in done.out and text in done.err
    nothing_left(custody, secrets)


MIXED = (*by_form()[1::12], *by_surroundings()[::9], *known_values()[:12:4])
"""Some of each way of being known, where every secret is a command or more."""


def test_names_of_who_acts_and_why(custody: Program):
    for secret in MIXED[::2]:
        options = [f"--{name}={secret.text}" for name in ("agent", "caller", "intent", "session", "run")]
        custody("exec", *options, "--", "true")
    nothing_left(custody, MIXED)


@pytest.mark.long
def test_no_command_that_looks_shows_a_secret(custody: Program):
    for secret in MIXED:
        options = [f"--{name}={secret.text}" for name in ("agent", "caller", "intent", "session", "run")]
        custody("exec", *options, "--", "echo", secret.text, f"--password={secret.value}")
        custody("call", "file_read", "--intent", secret.text, "--args", json.dumps({"path": secret.text}))
    nothing_left(custody, MIXED, everything=True)


def test_a_folder_named_after_a_secret(custody: Program):
    for name in [secret.text for secret in MIXED if "/" not in secret.text][::2]:
        folder = custody.work / name
        folder.mkdir()
        (folder / ".git").mkdir()
        custody("exec", "--", "sh", "-c", "pwd; echo x > here", cwd=folder)
        custody("exec", f"--root={folder}", "--cwd=/nowhere", "--", "true")
    nothing_left(custody, MIXED)


def test_calls_by_name(custody: Program, secrets: tuple[Secret, ...]):
    text = one_text(secrets)
    asked = [
        ("shell", {"command": "cat", "stdin": text}),
        ("shell", {"command": f"cat <<'EOF'\n{text}\nEOF"}),
        ("file_write", {"path": "settings.conf", "content": text}),
        ("file_write", {"path": "settings.conf", "content": f"{text}\nmore"}),
        ("file_read", {"path": "settings.conf"}),
        ("file_edit", {"path": "settings.conf", "edits": [{"old": "more", "new": text}]}),
        ("file_search", {"pattern": ".", "path": "settings.conf"}),
        ("exec", {"argv": text}),
        ("no_such_tool", {"a": text, text: 1}),
    ]
    for tool, arguments in asked:
        done = custody("call", tool, "--args", "-", "--json", stdin=json.dumps(arguments))
        assert leaks(secrets, [(tool, (done.out + done.err).encode())]) == []
    for secret in secrets[::10]:
        done = custody("call", "exec", "--args", json.dumps({"argv": ["echo", secret.text]}))
    nothing_left(custody, secrets)


def test_what_a_refusal_prints_has_no_secret(custody: Program):
    """A line of Custody's own ends up in other programs' logs, and a document at other programs."""
    for secret in MIXED[::3]:
        for arguments in (
            ("call", "exec", "--args", json.dumps({"argv": secret.text})),
            ("call", "file_read", "--args", json.dumps({"path": f"/nowhere/{secret.text}"})),
            ("call", secret.text, "--json"),
            ("exec", "--json", f"--cwd=/nowhere/{secret.text}", "--", "true"),
        ):
            done = custody(*arguments)
            assert done.code != 0
            assert leaks([secret], [(arguments[1], (done.out + done.err).encode())]) == []


def test_a_failed_call_says_why_without_the_secret(custody: Program):
    for secret in MIXED[::4]:
        edit = {"path": "a.txt", "edits": [{"old": secret.text, "new": "x"}]}
        (custody.work / "a.txt").write_text("nothing of the kind")
        for more in ((), ("--json",)):
            done = custody("call", "file_edit", "--args", json.dumps(edit), *more)
            assert done.code == 1
            assert leaks([secret], [("file_edit", (done.out + done.err).encode())]) == []
