"""The transcripts of Claude Code: lines of JSON in, turns out.

Owns the form of the lines, which its maker documents nowhere; it is as others had found it on 2026-11-22: one
object a line; `user` with a prompt or with results of tools, `assistant` with one block of an answer, whose
blocks share `message.id`. What is not understood is counted, never guessed. Does no I/O and knows nothing of
records. Used by `importing`.
"""

import json
from collections import Counter
from collections.abc import Generator, Iterable
from datetime import datetime
from typing import Any, cast

from msgspec import Struct

from custody.records import Effect, Outcome, RunOutcome

LINE_BYTES_MAX = 64 * 1024 * 1024
"""Pictures stand in the lines; a longer line is told apart from what can be read, and counted."""

KINDS_UNKNOWN_MAX = 100
"""That are told by name; further ones are counted together, as whoever wrote the file chose their names."""

NO_TURN = frozenset(
    {
        "system", "summary", "file-history-snapshot", "progress", "queue-operation", "attachment",
        "permission-mode", "custom-title", "ai-title", "agent-name", "last-prompt", "tag", "mode", "pr-link",
    }
)  # fmt: skip
"""Kinds of lines that are no part of a turn."""

KINDS = NO_TURN | {"user", "assistant"}

YEARS = 2020, 2100

INTERRUPTED = "[Request interrupted by user"
COMMANDS = ("<command-name>", "<command-message>", "<local-command", "<bash-input>", "<bash-stdout>")
"""What a prompt begins with that was typed for the CLI itself."""

SYNTHETIC = "<synthetic>"  # the model of an answer that the CLI made up, as after an error of the API

REFUSED = ("The user doesn't want to proceed", "The user doesn't want to take this action", "User rejected")
REFUSED_WITHIN = (" has been denied", "hook error:", "blocked by hook")
TIMED_OUT = "Command timed out after"

EFFECTS: dict[str, Effect] = {
    **dict.fromkeys(("Read", "Glob", "Grep", "LS", "NotebookRead", "WebFetch", "WebSearch"), "read"),
    **dict.fromkeys(("Edit", "MultiEdit", "Write", "NotebookEdit"), "write"),
}
ENDS: dict[str, tuple[RunOutcome, str | None]] = {
    "end_turn": ("succeeded", None),
    "stop_sequence": ("succeeded", None),
    "max_tokens": ("failed", "max_tokens"),
    "refusal": ("failed", "refusal"),
}
"""`stop_reason` of a turn's last answer -> how the turn ended."""


class Answer(Struct, kw_only=True):
    """One answer of the model: a step."""

    id: str
    started_us: int
    ended_us: int
    model: str | None = None
    text: list[str]
    tokens: dict[str, int | None] | None = None
    stop_reason: str | None = None
    calls: "list[ToolUse]"


class ToolUse(Struct, kw_only=True):
    """A call that the model asked for, and what came of it."""

    id: str
    answer_id: str
    name: str
    arguments: Any
    started_us: int
    ended_us: int | None = None
    """None: the transcript has no result."""
    result: Any = None
    outcome: Outcome | None = None
    """None: what the result says of itself."""
    reason: str | None = None
    agent_id: str | None = None
    """Of the subagent that was at work in it."""


class Turn(Struct, kw_only=True):
    """A prompt and all that was done for it."""

    id: str
    session_id: str
    agent_id: str | None
    """Of a subagent; None: the CLI's own."""
    prompt: str
    started_us: int
    ended_us: int
    folder: str | None
    version: str | None
    branch: str | None
    parts: list[Answer | ToolUse]
    """In the order in which they began."""
    answers: dict[str, Answer]
    """Those of the parts, by id."""
    interrupted: bool = False
    last: bool = False
    """Nothing of its thread comes after it."""

    def end(self) -> tuple[RunOutcome, str | None]:
        """How it ended, and why so."""
        if self.interrupted:
            return "cancelled", "interrupted by the user"
        last = next(reversed(self.answers.values()), None)
        said = None if last is None else last.stop_reason
        return ENDS.get(said or "", ("incomplete", "its transcript has no end of it"))


class Counts(Struct):
    """What of a transcript became no turn: kind -> how many."""

    left_out: Counter[str]
    """Lines of kinds that are no part of a turn."""
    unknown: Counter[str]
    """Lines and blocks of kinds that nobody has seen before."""
    unreadable: int = 0
    """Lines that are no JSON objects."""
    torn: int = 0
    """Last lines that had not been written to their end."""
    understood: int = 0
    """Lines of kinds that a transcript has."""

    def strange(self, kind: str) -> None:
        """One more of a kind that nobody has seen before."""
        known = kind in self.unknown or len(self.unknown) < KINDS_UNKNOWN_MAX
        self.unknown[kind if known else "others"] += 1


class Transcript:
    """Reads one file; `turns` may be asked for once."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self.counts = Counts(Counter(), Counter())
        self._lines = lines
        self._open: dict[str, Turn] = {}
        """Thread -> its turn: the CLI's own thread is called "", and subagents are at work beside it."""
        self._threads: dict[str, str] = {}
        """Line of a subagent that has no name -> its thread."""
        self._uses: dict[str, ToolUse] = {}

    def turns(self) -> Generator[Turn]:
        """The turns of all threads, each when it is over; the last of each at the end."""
        for line in self._objects():
            kind = line.get("type")
            self.counts.understood += isinstance(kind, str) and kind in KINDS
            if kind == "user":
                yield from self._user(line)
            elif kind == "assistant":
                self._assistant(line)
            elif isinstance(kind, str) and kind in NO_TURN:
                self.counts.left_out[kind] += 1
            else:
                self.counts.strange(str(kind)[:64])
        for turn in self._open.values():
            turn.last = True
            yield turn
        self._open.clear()

    def _objects(self) -> Generator[dict[str, Any]]:
        for line in self._lines:
            if not line.strip():
                continue
            whole = line.endswith(b"\n")
            try:
                said = json.loads(line) if len(line) <= LINE_BYTES_MAX else None
            except (ValueError, RecursionError):
                said = None
            if isinstance(said, dict):
                yield cast("dict[str, Any]", said)
            elif whole:
                self.counts.unreadable += 1
            else:
                self.counts.torn += 1

    # -- what a person said, and what tools gave ------------------------------------------------------

    def _user(self, line: dict[str, Any]) -> Generator[Turn]:
        blocks = _blocks(_mapping(line.get("message")).get("content"))
        results = [block for block in blocks if block.get("type") == "tool_result"]
        for block in results:
            self._result(line, block)
        texts = [block["text"] for block in blocks if block.get("type") == "text" and _is_text(block)]
        for block in blocks:
            if block.get("type") not in ("tool_result", "text", "image", "document"):
                self.counts.strange(f"user.{str(block.get('type'))[:64]}")
        said, thread = "\n".join(texts), self._thread(line)
        if said.startswith(INTERRUPTED):
            self._interrupt(thread, _at_us(line))
        elif results:
            return  # what stands beside results is put there by the CLI
        elif line.get("isMeta") or line.get("isCompactSummary") or said.startswith(COMMANDS) or not blocks:
            self.counts.left_out["command" if said.startswith(COMMANDS) else "meta"] += 1
        else:
            ended = self._open.pop(thread, None)
            if ended is not None:
                yield ended
            self._begin(line, thread, said)

    def _begin(self, line: dict[str, Any], thread: str, prompt: str) -> None:
        at_us, turn_id = _at_us(line), _text(line.get("uuid"))
        if at_us is None or turn_id is None:
            self.counts.strange("user without time or id")
            return
        self._open[thread] = Turn(
            id=turn_id,
            session_id=_text(line.get("sessionId")) or "",
            agent_id=thread or None,
            prompt=prompt,
            started_us=at_us,
            ended_us=at_us,
            folder=_text(line.get("cwd")),
            version=_text(line.get("version")),
            branch=_text(line.get("gitBranch")) or None,
            parts=[],
            answers={},
        )

    def _interrupt(self, thread: str, at_us: int | None) -> None:
        turn = self._open.get(thread)
        if turn is not None:
            turn.interrupted = True
            turn.ended_us = max(turn.ended_us, at_us or 0)

    def _result(self, line: dict[str, Any], block: dict[str, Any]) -> None:
        use = self._uses.pop(str(block.get("tool_use_id")), None)
        if use is None:
            self.counts.strange("result of no call")
            return
        use.ended_us = max(_at_us(line) or use.started_us, use.started_us)
        use.result = _content(block.get("content"))
        said = _mapping(line.get("toolUseResult"))
        use.agent_id = _text(said.get("agentId"))
        use.outcome, use.reason = _outcome(use.result, said, failed=block.get("is_error") is True)
        turn = self._open.get(self._thread(line))
        if turn is not None:
            turn.ended_us = max(turn.ended_us, use.ended_us)

    def _thread(self, line: dict[str, Any]) -> str:
        """Whose line it is. Subagents of older versions stand in their session's file without a name: then
        their first line is it."""
        if not line.get("isSidechain"):
            return _text(line.get("agentId")) or ""
        named = _text(line.get("agentId"))
        if named is not None:
            return named
        own, parent = str(line.get("uuid")), str(line.get("parentUuid"))
        return self._threads.setdefault(own, self._threads.get(parent, own))

    # -- what the model answered ----------------------------------------------------------------------

    def _assistant(self, line: dict[str, Any]) -> None:
        message, at_us = _mapping(line.get("message")), _at_us(line)
        turn = self._open.get(self._thread(line))
        answer_id = _text(message.get("id"))
        if turn is None or at_us is None or answer_id is None:
            self.counts.left_out["answer to no prompt" if turn is None else "answer without time or id"] += 1
            return
        if message.get("model") == SYNTHETIC:
            self.counts.left_out["made up by the CLI"] += 1
            return
        answer = turn.answers.get(answer_id)
        if answer is None:
            answer = Answer(id=answer_id, started_us=turn.ended_us, ended_us=at_us, text=[], calls=[])
            turn.answers[answer_id] = answer
            turn.parts.append(answer)
        answer.ended_us = turn.ended_us = max(at_us, turn.ended_us)
        answer.model = _text(message.get("model")) or answer.model
        answer.stop_reason = _text(message.get("stop_reason")) or answer.stop_reason
        answer.tokens = _tokens(message.get("usage")) or answer.tokens
        for block in _blocks(message.get("content")):
            self._block(turn, answer, block, at_us)

    def _block(self, turn: Turn, answer: Answer, block: dict[str, Any], at_us: int) -> None:
        kind = block.get("type")
        if kind == "text" and _is_text(block):
            answer.text.append(block["text"])
        elif kind in ("tool_use", "server_tool_use", "mcp_tool_use"):
            use_id = str(block.get("id"))
            if any(use.id == use_id for use in answer.calls):
                return  # some versions repeat what an answer had so far
            name = _text(block.get("name")) or "unknown"
            use = ToolUse(
                id=use_id, answer_id=answer.id, name=name, arguments=block.get("input"), started_us=at_us
            )
            answer.calls.append(use)
            turn.parts.append(use)
            self._uses[use_id] = use
        elif kind in ("thinking", "redacted_thinking"):
            self.counts.left_out[cast("str", kind)] += 1
        else:
            self.counts.strange(f"assistant.{str(kind)[:64]}")


def _outcome(result: Any, said: dict[str, Any], *, failed: bool) -> tuple[Outcome | None, str | None]:
    """What the CLI says of an end; None: nothing that its result does not say."""
    text = result if isinstance(result, str) else ""
    if said.get("interrupted") is True or text.startswith(INTERRUPTED):
        return "cancelled", "interrupted by the user"
    if not failed:
        return "succeeded", None
    if text.startswith(REFUSED) or any(words in text for words in REFUSED_WITHIN):
        return "rejected", "refused where it was to run"
    if TIMED_OUT in text:
        return "timed_out", "the CLI ended it at its own time limit"
    return "failed", "the CLI reports an error"


def _content(content: Any) -> Any:
    """The text of a result; what is more than text as it stands, without pictures."""
    if not isinstance(content, list):
        return content
    blocks = _blocks(cast("Any", content))
    if all(block.get("type") == "text" and _is_text(block) for block in blocks):
        return "\n".join(block["text"] for block in blocks)
    return [
        {"type": block.get("type"), "omitted_bytes": len(json.dumps(block))}
        if block.get("type") in ("image", "document")
        else block
        for block in blocks
    ]


def _tokens(usage: Any) -> dict[str, int | None] | None:
    """Their `input_tokens` leaves out what the cache gave and took; ours has it."""
    said = _mapping(usage)
    read, written = (
        _count(said.get("cache_read_input_tokens")),
        _count(said.get("cache_creation_input_tokens")),
    )
    taken = _count(said.get("input_tokens"))
    if taken is None and _count(said.get("output_tokens")) is None:
        return None
    return {
        "input": None if taken is None else taken + (read or 0) + (written or 0),
        "output": _count(said.get("output_tokens")),
        "cache_read": read,
        "cache_write": written,
    }


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _at_us(line: dict[str, Any]) -> int | None:
    """None also for a time at which no such program can have run."""
    try:
        at = datetime.fromisoformat(str(line.get("timestamp")))
        return round(at.timestamp() * 1e6) if YEARS[0] <= at.year < YEARS[1] else None
    except (ValueError, OverflowError):
        return None


def _blocks(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    items = cast("list[Any]", content) if isinstance(content, list) else []
    return [cast("dict[str, Any]", item) for item in items if isinstance(item, dict)]


def _is_text(block: dict[str, Any]) -> bool:
    return isinstance(block.get("text"), str)


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
