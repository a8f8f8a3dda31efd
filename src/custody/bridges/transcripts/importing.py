"""Turns of a transcript as runs marked imported: each once, however often its file is read.

Owns the ids, which follow from the CLI's own, so that what is on the record already is known again; and when
a turn is left for later, as it may still go on. Redaction is the recorder's, as for all that is recorded.
Used by `custody import`.
"""

import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Generator
from typing import Any, cast

from msgspec import Struct

from custody.bridges.transcripts.claude_code import (
    EFFECTS,
    LINE_BYTES_MAX,
    Answer,
    Counts,
    ToolUse,
    Transcript,
    Turn,
)
from custody.calls.imported import (
    ImportedCall,
    ImportedRun,
    ImportedStep,
    append_imported,
    call_finished,
    run_finished,
    run_started,
    step_recorded,
)
from custody.calls.recording import Recording
from custody.index import Index
from custody.recorder import Draft
from custody.records import CALL_ID_BYTES, RUN_ID_BYTES

DOOR = "import"
AGENT = "claude-code"

QUIET_SECONDS = 600.0
"""The last turn of a file that was written to since is left for another time: the CLI may be at it."""

TOO_LONG = b"a line that is too long\n"
SKIPPED_BYTES = 1024**2  # read at once of what is not kept

META_BYTES_MAX = 1024**2  # beside a subagent's transcript: a few hundred bytes


class Imported(Struct, kw_only=True):
    """What became of one file."""

    runs: int = 0
    steps: int = 0
    calls: int = 0
    known: int = 0
    """Runs that were on the record already."""
    going_on: int = 0
    """Turns left for later."""
    counts: Counts


class Importer:
    """Puts transcripts on the record of one store. Everything here may wait; one thread at a time."""

    def __init__(
        self,
        recording: Recording,
        index: Index,
        progress: Callable[[int], object] = lambda lines: None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._recording = recording
        self._index = index
        self._progress = progress
        self._clock = clock
        self._lines = 0
        self._parents: dict[str, bytes] = {}
        """Subagent, or the call it was at work in -> the run that started it."""

    def file(self, path: str) -> Imported:
        """One transcript. Raises OSError, NotRecorded."""
        with open(path, "rb", opener=_opened) as file:
            quiet = self._clock() - os.fstat(file.fileno()).st_mtime >= QUIET_SECONDS
            transcript = Transcript(self._counted(file))
            done = Imported(counts=transcript.counts)
            meta = _meta(path)
            for turn in transcript.turns():
                if turn.last and not quiet and turn.end()[0] == "incomplete":
                    done.going_on += 1
                else:
                    self._turn(turn, meta, done)
        return done

    def _counted(self, file: Any) -> Generator[bytes]:
        while line := file.readline(LINE_BYTES_MAX + 1):
            self._lines += 1
            self._progress(self._lines)
            if len(line) > LINE_BYTES_MAX and not line.endswith(b"\n"):
                line = TOO_LONG
                while (rest := file.readline(SKIPPED_BYTES)) and not rest.endswith(b"\n"):
                    pass
            yield line

    def _turn(self, turn: Turn, meta: dict[str, Any], done: Imported) -> None:
        run_id = _id("run", turn, turn.id, RUN_ID_BYTES)
        for part in turn.parts:
            if isinstance(part, ToolUse):
                self._parents[part.id] = run_id
                if part.agent_id is not None:
                    self._parents[part.agent_id] = run_id
        ids = {part.id: _id("part", turn, part.id, CALL_ID_BYTES) for part in turn.parts}
        known, taken = self._index.known.look(run_id, ids.values())
        missing = [part for part in turn.parts if ids[part.id] not in taken]
        if known is not None and known.outcome is not None and not missing:
            done.known += 1
            return
        drafts: list[Draft] = []
        if known is None:
            drafts.append(run_started(self._recording, self._run(run_id, turn, meta)))
            done.runs += 1
        position = 0 if known is None else known.last_position + 1
        for number, part in enumerate(missing):
            if isinstance(part, Answer):
                drafts.append(step_recorded(self._recording, _step(run_id, part, ids, position + number)))
                done.steps += 1
            else:
                drafts.append(call_finished(self._recording, _call(run_id, part, ids, position + number)))
                done.calls += 1
        outcome, reason = turn.end()
        drafts.append(run_finished(self._recording, run_id, turn.ended_us, outcome, reason=reason))
        append_imported(self._recording, drafts)

    def _run(self, run_id: bytes, turn: Turn, meta: dict[str, Any]) -> ImportedRun:
        agent = AGENT
        parent: bytes | None = None
        if turn.agent_id is not None:
            agent = str(meta.get("agentType") or "subagent")
            parent = self._parents.get(turn.agent_id) or self._parents.get(str(meta.get("toolUseId")))
        labels = {"imported_from": AGENT, "subagent": turn.agent_id, "git_branch": turn.branch}
        return ImportedRun(
            run_id=run_id,
            at_us=turn.started_us,
            door=DOOR,
            agent=agent,
            session_id=turn.session_id or None,
            parent_run_id=parent,
            client=AGENT if turn.version is None else f"{AGENT} {turn.version}",
            workspace=turn.folder,
            external_id=turn.id,
            intent=turn.prompt,
            labels={name: value for name, value in labels.items() if value is not None},
        )


def _step(run_id: bytes, answer: Answer, ids: dict[str, bytes], position: int) -> ImportedStep:
    return ImportedStep(
        step_id=ids[answer.id],
        run_id=run_id,
        position=position,
        started_us=answer.started_us,
        ended_us=answer.ended_us,
        text="\n".join(answer.text) if answer.text else None,
        model=answer.model,
        tokens=answer.tokens,
        finish_reason=answer.stop_reason,
        calls=[{"id": use.id, "name": use.name, "arguments": use.arguments} for use in answer.calls],
        external_id=answer.id,
    )


def _call(run_id: bytes, use: ToolUse, ids: dict[str, bytes], position: int) -> ImportedCall:
    unknown = use.ended_us is None
    error = None
    if use.outcome in ("failed", "timed_out"):
        error = {"type": "ToolError", "message": use.result if isinstance(use.result, str) else ""}
    return ImportedCall(
        call_id=ids[use.id],
        run_id=run_id,
        position=position,
        door=DOOR,
        tool=use.name,
        arguments=use.arguments,
        result=use.result,
        started_us=use.started_us,
        ended_us=use.started_us if use.ended_us is None else use.ended_us,
        effect=EFFECTS.get(use.name, "unknown"),
        outcome="unknown" if unknown else use.outcome,
        reason="its transcript has no result of it" if unknown else use.reason,
        error=error,
        external_id=use.id,
        step_id=ids.get(use.answer_id),
    )


def _opened(path: str, flags: int) -> int:
    """Of a file alone, and waiting for nobody: a pipe has no end. Raises OSError."""
    fd = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no file")
    return fd


def _id(kind: str, turn: Turn, name: str, length: int) -> bytes:
    """Always the same of the same. A session that goes on in another file keeps the ids of its lines, so
    those alone count."""
    whole = f"{AGENT}\0{kind}\0{turn.agent_id or ''}\0{name}"
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).digest()[:length]


def _meta(path: str) -> dict[str, Any]:
    """What stands beside the transcript of a subagent."""
    try:
        with open(path.removesuffix(".jsonl") + ".meta.json", "rb") as file:
            said = json.loads(file.read(META_BYTES_MAX))
    except (OSError, ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", said) if isinstance(said, dict) else {}
