"""Lines of a transcript as turns: what belongs together, how it ended, and what is not understood."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bridges.transcript_lines import answer, line, prompt, result, session, text, use, written

from custody.bridges.transcripts.claude_code import Answer, ToolUse, Transcript, Turn


def read(data: bytes) -> tuple[list[Turn], Transcript]:
    transcript = Transcript(data.splitlines(keepends=True))
    return list(transcript.turns()), transcript


def uses(turn: Turn) -> list[ToolUse]:
    return [part for part in turn.parts if isinstance(part, ToolUse)]


def test_a_session_is_turns_of_steps_and_calls():
    [first, second], transcript = read(written(session()))
    assert (first.prompt, second.prompt) == ("make the tests pass", "now push")
    steps = [part for part in first.parts if isinstance(part, Answer)]
    assert [(step.id, step.text, step.stop_reason) for step in steps] == [
        ("msg_1", ["I look."], "tool_use"),
        ("msg_2", [], "tool_use"),
        ("msg_3", ["Done."], "end_turn"),
    ]
    assert steps[0].tokens == {"input": 123, "output": 50, "cache_read": 100, "cache_write": 20}
    assert [(call.name, call.outcome, call.result) for call in uses(first)] == [
        ("Bash", "failed", "Exit code 1\n1 failed"),
        ("Read", "succeeded", "one\ntwo"),
        ("Task", "succeeded", "found it"),
    ]
    assert (first.end(), second.end()[0]) == (("succeeded", None), "cancelled")
    assert uses(second)[0].outcome == "rejected"
    counts = transcript.counts
    assert counts.unknown == {"from-the-future": 1}
    assert counts.left_out == {
        "file-history-snapshot": 1, "command": 1, "meta": 1, "thinking": 1, "system": 1
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "more", "outcome"),
    [
        ("Command timed out after 2m 0.0s", {}, "timed_out"),
        ("Permission to use Bash with command rm has been denied.", {}, "rejected"),
        ("PreToolUse:Bash hook error: no", {}, "rejected"),
        ("boom", {"toolUseResult": {"interrupted": True}}, "cancelled"),
        ("boom", {"toolUseResult": "Error: boom"}, "failed"),
    ],
)
def test_how_a_call_ended_is_taken_from_what_the_cli_says(said: str, more: dict[str, Any], outcome: str):
    lines = [prompt(1, "go"), answer(2, "m", use("t", "Bash")), result(3, "t", said, error=True, **more)]
    [turn], _ = read(written(lines))
    assert uses(turn)[0].outcome == outcome


def test_a_call_without_a_result_has_no_end_and_neither_has_its_turn():
    [turn], _ = read(written([prompt(1, "go"), answer(2, "m", use("t", "Bash"))]))
    assert (uses(turn)[0].ended_us, turn.end()[0], turn.last) == (None, "incomplete", True)


def test_pictures_are_counted_and_not_kept():
    picture = {"type": "image", "source": {"type": "base64", "data": "A" * 1000}}
    [turn], _ = read(written([prompt(1, "go"), answer(2, "m", use("t", "Read")), result(3, "t", [picture])]))
    [kept] = uses(turn)[0].result
    assert (kept["type"], kept["omitted_bytes"] > 1000) == ("image", True)


def test_a_subagent_in_its_sessions_file_is_a_turn_of_its_own():
    side = {"isSidechain": True}
    lines = [
        prompt(1, "go"),
        prompt(2, "look", **side, uuid="s1"),
        answer(3, "m_side", text("seen"), stop="end_turn", **side, uuid="s2", parentUuid="s1"),
        answer(4, "m_main", text("ok"), stop="end_turn"),
    ]
    turns, _ = read(written(lines))
    assert [(turn.prompt, turn.agent_id, list(turn.answers)) for turn in turns] == [
        ("go", None, ["m_main"]),
        ("look", "s1", ["m_side"]),
    ]


def test_a_torn_last_line_and_lines_that_are_no_json_are_counted():
    data = written([prompt(1, "go")]) + b"nonsense\n[1]\n\n" + b'{"type": "user", "mess'
    turns, transcript = read(data)
    assert (len(turns), transcript.counts.unreadable, transcript.counts.torn) == (1, 2, 1)


ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.integers()
    | st.sampled_from(["", "text", "tool_use", "tool_result", "2026-11-20T10:00:00Z"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["type", "id", "content", "text", "usage", "input_tokens"]), inner, max_size=3
        )
    ),
    max_leaves=5,
)
FIELDS = st.sampled_from(["message", "uuid", "timestamp", "isSidechain", "toolUseResult", "sessionId"])
KINDS = st.sampled_from(["user", "assistant", "system", "new"])
LINES = st.lists(st.tuples(KINDS, st.dictionaries(FIELDS, ANYTHING, max_size=4)), max_size=5)


@given(LINES)
@settings(max_examples=30)
def test_whatever_stands_in_the_lines_nothing_breaks(lines: list[tuple[str, dict[str, Any]]]):
    turns, transcript = read(written(line(kind, 1) | more for kind, more in lines))
    assert len(turns) + transcript.counts.unreadable <= len(lines)
