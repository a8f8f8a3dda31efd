"""`custody import claude-code`: transcripts as runs of the store, once, marked imported."""

import os
from pathlib import Path
from typing import Any

import pytest
from tests.bridges.transcript_lines import SESSION, answer, prompt, put, result, session, text, use
from tests.cli.test_policy import Typed

import custody
from custody.bridges.transcripts import importing
from custody.records import rfc3339


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    monkeypatch.delenv("CLAUDE_CONFIG_DIR", raising=False)
    return Typed(tmp_path, monkeypatch, capsys)


def long_ago(file: Path) -> None:
    os.utime(file, (1_700_000_000, 1_700_000_000))


def runs(typed: Typed) -> dict[str, Any]:
    found = typed("runs", "--all", "--json").json["items"]
    return {typed("show", one["id"], "--json").json["intent"]: one for one in found}


def test_a_session_becomes_runs_once(typed: Typed, tmp_path: Path):
    long_ago(put(tmp_path / ".claude/projects/-srv-shop"))
    first = typed("import", "claude-code", "--json")
    assert first.code == 0, first.err
    said = first.json
    assert (said["files"], said["runs"], said["steps"], said["calls"], said["known"]) == (2, 3, 6, 5, 0)
    assert (said["unknown"], said["torn"]) == ({"from-the-future": 1}, 0)
    by_prompt = runs(typed)
    assert {prompt: run["outcome"] for prompt, run in by_prompt.items()} == {
        "make the tests pass": "succeeded",
        "now push": "cancelled",
        "look around": "succeeded",
    }
    main, child = by_prompt["make the tests pass"], by_prompt["look around"]
    assert (main["session_id"], main["agent"], main["workspace"]) == (SESSION, "claude-code", "/srv/shop")
    assert main["started_at"] == rfc3339(1_763_632_802_000_000).replace("2025", "2026")
    assert (child["parent_run_id"], child["agent"]) == (main["id"], "Explore")
    again = typed("import", "claude-code", "--json").json
    assert (again["runs"], again["steps"], again["calls"], again["known"]) == (0, 0, 0, 3)
    assert len(runs(typed)) == 3


def test_calls_have_their_steps_times_and_ends(typed: Typed, tmp_path: Path):
    typed("import", "claude-code", str(put(tmp_path / "some")))
    calls = {call["external_id"]: call for call in typed("calls", "--all", "--json").json["items"]}
    one = calls["toolu_1"]
    assert (one["source"], one["outcome"], one["tool"]) == ("imported", "failed", "Bash")
    assert (one["latency_us"], one["started_at"]) == (2_000_000, "2026-11-20T10:00:06.000000Z")
    assert (calls["toolu_2"]["effect"], calls["toolu_4"]["outcome"]) == ("read", "rejected")
    shown = typed("show", one["id"], "--json").json
    assert (shown["arguments"], shown["result"]) == ({"command": "pytest -q"}, "Exit code 1\n1 failed")
    steps = {call["step_id"] for call in calls.values()}
    assert len(steps) == 4, "two calls of one answer have one step"


def test_secrets_are_replaced_as_everywhere(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    secret = "a1B2c3D4e5F6g7H8"
    monkeypatch.setenv("SHOP_API_TOKEN", secret)
    lines = [
        prompt(1, f"use {secret}"),
        answer(2, "m", text(f"I use {secret}"), use("t", "Bash", command=f"curl -H 'x: {secret}'")),
        result(3, "t", secret),
        answer(4, "n", text("ok"), stop="end_turn"),
    ]
    typed("import", "claude-code", str(put(tmp_path / "some", lines)))
    files = [file for file in typed.store.rglob("*") if file.is_file()]
    assert [file for file in files if secret.encode() in file.read_bytes()] == []
    assert "[redacted:known_value:" in "".join(runs(typed))


def test_what_may_go_on_is_left_until_it_has_ended(typed: Typed, tmp_path: Path):
    whole = session()
    file = put(tmp_path / "some", whole[:9])
    said = typed("import", "claude-code", str(file), "--json").json
    assert (said["going_on"], said["runs"]) == (1, 1), "the subagent's has ended"
    put(tmp_path / "some", whole)
    said = typed("import", "claude-code", str(file), "--json").json
    assert (said["going_on"], said["runs"], said["known"]) == (0, 2, 1)


def test_what_ended_with_its_program_is_incomplete_and_its_last_call_unknown(typed: Typed, tmp_path: Path):
    file = put(tmp_path / "some", [prompt(1, "go"), answer(2, "m", use("t", "Bash"))], torn=b'{"type": "us')
    long_ago(file)
    said = typed("import", "claude-code", str(file), "--json").json
    assert (said["torn"], said["runs"]) == (1, 2)
    [call] = typed("calls", "--all", "--tool", "Bash", "--json").json["items"]
    assert (call["outcome"], call["latency_us"]) == ("unknown", 0)
    assert runs(typed)["go"]["outcome"] == "incomplete"


def test_what_a_crash_left_half_imported_is_made_whole(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lines = [prompt(1, "go")]
    for number in range(300):
        lines += [answer(2, f"m{number}", use(f"t{number}", "Bash")), result(3, f"t{number}", "x")]
    file = put(tmp_path / "some", [*lines, answer(4, "end", text("ok"), stop="end_turn")])
    with monkeypatch.context() as broken:
        broken.setattr(importing, "append_imported", _half(importing.append_imported))
        assert typed("import", "claude-code", str(file)).code == 130
    said = typed("import", "claude-code", str(file), "--json").json
    assert (said["runs"], said["steps"], said["calls"]) == (1, 151 + 2, 150 + 1), "with the subagent's"
    [run] = [one for name, one in runs(typed).items() if name == "go"]
    assert (run["outcome"], typed("show", run["id"], "--json").json["totals"]["calls"]) == ("succeeded", 300)
    assert typed("import", "claude-code", str(file), "--json").json["known"] == 2


def _half(append: Any) -> Any:
    def half(recording: Any, drafts: list[Any]) -> None:
        append(recording, drafts[: len(drafts) // 2])
        raise KeyboardInterrupt

    return half


def test_a_session_that_goes_on_in_another_file_is_not_imported_twice(typed: Typed, tmp_path: Path):
    typed("import", "claude-code", str(put(tmp_path / "one")))
    more = [prompt(40, "and now"), answer(41, "msg_new", text("yes"), stop="end_turn")]
    copied = [one | {"sessionId": "another"} for one in session() + more]
    said = typed("import", "claude-code", str(put(tmp_path / "two", copied)), "--json").json
    assert (said["runs"], said["known"]) == (1, 3)


def test_paths_that_are_not_there_are_told(typed: Typed, tmp_path: Path):
    ran = typed("import", "claude-code", str(tmp_path / "nothing"))
    assert (ran.code, "There is no" in ran.err) == (2, True)


OTHER = '{"event": 1}\n{"event": 2}\n'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hello\nworld\n", "nothing in it is understood"),
        (OTHER, "nothing in it is understood"),
        ('{"type": "us', "nothing in it is understood"),
        ("", "is empty"),
    ],
    ids=["text", "other JSON", "torn", "empty"],
)
def test_what_is_no_transcript_is_told_and_is_no_success(typed: Typed, tmp_path: Path, text: str, why: str):
    file = tmp_path / "some.jsonl"
    file.write_text(text, encoding="utf-8")
    ran = typed("import", "claude-code", str(file))
    assert (ran.code, why in ran.err) == (1, True), ran.err
    assert typed("import", "claude-code", str(file), "--json").json["runs"] == 0


def test_one_file_that_is_none_keeps_no_transcript_out(typed: Typed, tmp_path: Path):
    file = put(tmp_path / "some")
    (tmp_path / "some" / "notes.jsonl").write_text(OTHER, encoding="utf-8")
    os.mkfifo(tmp_path / "some" / "pipe.jsonl")
    ran = typed("import", "claude-code", str(file.parent), "--json")
    assert (ran.code, ran.json["runs"]) == (1, 3)
    assert {os.path.basename(one["path"]): one["reason"] for one in ran.json["failed"]} == {
        "notes.jsonl": "nothing in it is understood as a transcript of Claude Code",
        "pipe.jsonl": "it is no file",
    }


def test_a_folder_without_transcripts_is_told(typed: Typed, tmp_path: Path):
    ran = typed("import", "claude-code", str(tmp_path))
    assert (ran.code, "There is no transcript in" in ran.err) == (2, True)


def test_a_line_without_an_end_is_passed_over_and_counted(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(importing, "LINE_BYTES_MAX", 2_000)
    monkeypatch.setattr(importing, "SKIPPED_BYTES", 1_000)
    lines = [prompt(1, "go"), {"type": "x", "pad": "x" * 9_500}, answer(2, "m", text("ok"), stop="end_turn")]
    said = typed("import", "claude-code", str(put(tmp_path / "some", lines)), "--json").json
    assert (said["unreadable"], said["runs"], said["steps"]) == (1, 2, 3), "with the subagent's"


def test_hostile_lines_become_what_can_be_shown(typed: Typed, tmp_path: Path):
    deep: Any = "x"
    for _ in range(300):
        deep = [deep]
    lines: list[Any] = [
        prompt(1, "a\0b\ud800") | {"uuid": "\ud800", "sessionId": "s\0" * 1_000, "cwd": "/srv\0"},
        answer(2, "m", use("t" * 9_000, "n" * 9_000, deep=deep), use("m", "Bash"), text("\x1b[2J")),
        result(3, "m", 10**40),
        answer(4, "m", text("again"), stop="end_turn"),
        prompt(5, "in the year 9999") | {"timestamp": "9999-12-31T23:59:59Z"},
        prompt(6, "in the year 1") | {"timestamp": "0001-01-01T00:00:00+14:00"},
        *({"type": f"kind {number}"} for number in range(150)),
    ]
    file = put(tmp_path / "some", lines)
    long_ago(file)
    said = typed("import", "claude-code", str(file), "--json").json
    assert len(said["unknown"]) <= 101, "names of kinds are the file's"
    assert said["unknown"]["others"] == 51
    assert said["unknown"]["user without time or id"] == 2
    assert said["runs"] == len(typed("runs", "--all", "--json").json["items"]) == 2
    assert typed("import", "claude-code", str(file), "--json").json["known"] == 2
    assert "\x1b" not in typed("runs", "--all").out
    assert typed("verify").code == 0


def test_a_person_is_told_in_words(typed: Typed, tmp_path: Path):
    file = put(tmp_path / "some", torn=b"{")
    ran = typed("import", "claude-code", str(file))
    assert ran.out.splitlines()[0] == "Imported 3 runs, 6 steps, 5 calls from 2 transcripts."
    assert "Not understood, so left out: 1 from-the-future." in ran.out
    assert "1 last line had not been written to the end." in ran.out
    with custody.open(str(typed.store)) as runtime:
        assert len(runtime.index.runs().items) == 3
