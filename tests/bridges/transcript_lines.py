"""Transcripts as Claude Code writes them: lines of the forms that were found in its files."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SESSION = "5f0c7f3e-1111-4222-8333-944445555666"
FROM = "2026-11-20T10:00:"


def line(kind: str, second: float, **more: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": f"{kind}-{second}-{more.get('agentId', '')}",
        "parentUuid": None,
        "isSidechain": False,
        "sessionId": SESSION,
        "timestamp": f"{FROM}{second:06.3f}Z",
        "cwd": "/srv/shop",
        "version": "2.1.40",
        "gitBranch": "main",
        **more,
    }


def prompt(second: float, text: Any, **more: Any) -> dict[str, Any]:
    return line("user", second, message={"role": "user", "content": text}, **more)


def answer(
    second: float, id: str, *blocks: dict[str, Any], stop: str | None = None, out: int = 7, **more: Any
) -> dict[str, Any]:
    usage = {"input_tokens": 3, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20}
    message = {
        "id": id, "role": "assistant", "model": "claude-opus-4-6", "content": list(blocks),
        "stop_reason": stop, "usage": usage | {"output_tokens": out},
    }  # fmt: skip
    return line("assistant", second, message=message, **more)


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def use(id: str, name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": arguments}


def result(second: float, id: str, content: Any, *, error: bool = False, **more: Any) -> dict[str, Any]:
    block = {"type": "tool_result", "tool_use_id": id, "content": content, "is_error": error}
    return prompt(second, [block], **more)


def written(lines: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


def session() -> list[dict[str, Any]]:
    """Two prompts: tools that succeed, fail, are refused and run out of time, and a subagent."""
    return [
        {"type": "file-history-snapshot", "messageId": "m", "snapshot": {}},
        prompt(0, "<command-name>/clear</command-name>"),
        prompt(1, "a caveat", isMeta=True),
        prompt(2, "make the tests pass"),
        answer(4, "msg_1", {"type": "thinking", "thinking": "hm", "signature": "x"}, out=1),
        answer(5, "msg_1", text("I look."), out=2),
        answer(6, "msg_1", use("toolu_1", "Bash", command="pytest -q"), out=40),
        answer(6.5, "msg_1", use("toolu_2", "Read", file_path="/srv/shop/a.py"), stop="tool_use", out=50),
        result(8, "toolu_1", "Exit code 1\n1 failed", error=True),
        result(9, "toolu_2", [text("one"), text("two")]),
        answer(12, "msg_2", use("toolu_3", "Task", prompt="look around"), stop="tool_use"),
        result(20, "toolu_3", "found it", toolUseResult={"agentId": "a77", "status": "completed"}),
        answer(22, "msg_3", text("Done."), stop="end_turn"),
        {"type": "system", "subtype": "turn_duration"},
        prompt(30, [text("now push")]),
        answer(31, "msg_4", use("toolu_4", "Bash", command="git push")),
        result(33, "toolu_4", "The user doesn't want to proceed with this tool use.", error=True),
        prompt(33.5, [text("[Request interrupted by user for tool use]")]),
        {"type": "from-the-future", "uuid": "x"},
    ]  # fmt: skip


def subagent() -> list[dict[str, Any]]:
    side: dict[str, Any] = {"isSidechain": True, "agentId": "a77"}
    return [
        prompt(13, "look around", **side),
        answer(14, "msg_a", use("toolu_a", "Grep", pattern="def "), stop="tool_use", **side),
        result(15, "toolu_a", "a.py:1", **side),
        answer(16, "msg_b", text("found it"), stop="end_turn", **side),
    ]


def put(folder: Path, lines: Iterable[dict[str, Any]] | None = None, torn: bytes = b"") -> Path:
    """A session's file, with its subagent's beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{SESSION}.jsonl"
    file.write_bytes(written(session() if lines is None else lines) + torn)
    below = folder / SESSION / "subagents"
    below.mkdir(parents=True, exist_ok=True)
    (below / "agent-a77.jsonl").write_bytes(written(subagent()))
    (below / "agent-a77.meta.json").write_text('{"agentType": "Explore", "toolUseId": "toolu_3"}')
    return file
