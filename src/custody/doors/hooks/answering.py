"""A runtime that answers hooks: what is told is guarded, recorded, and given its files' old states.

Owns what is done for each kind of event. Nothing is held in memory between two hooks of one tool, so that
they may come to different processes, and the CLI may outlive them all. Used by `mount`, and by `custody hook
run` where no daemon serves.
"""

import asyncio
import logging
import os
import time
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from custody.calls.handle import RunHandle
from custody.calls.lifecycle import Judgement, judge_result
from custody.calls.narrated import NarratedCall, append_narrated
from custody.calls.owned import (
    OwnedCall,
    OwnedEnd,
    append_ended,
    append_rejected,
    append_started,
    asks_the_same,
)
from custody.calls.runtime import Runtime
from custody.changes import Observed, settle_left
from custody.doors.hooks.adopting import offer
from custody.doors.hooks.event import (
    ALLOW,
    Answer,
    HookEvent,
    HookUnclear,
    Spoken,
    speak,
    speak_failure,
)
from custody.doors.hooks.guarding import Means, decided, reach_of, scope_of
from custody.doors.hooks.own_files import spellings
from custody.doors.hooks.secrets import Secrets
from custody.doors.hooks.sessions import DOOR, Sessions, WorkspaceOf
from custody.doors.hooks.told import Told, decode
from custody.doors.hooks.tools import Use, adopted_in, in_background, use_of
from custody.errors import CustodyError, NotFound, PathRefused, ToolError
from custody.index import CallFilter
from custody.records import CALL_ID_BYTES, Call, Decision, Effect, RunOutcome
from custody.tools import Scope

log = logging.getLogger("custody")

LATEST_MAX = 50
"""Calls of one id that are looked through for the one that is open."""

AT_ONCE_BYTES_MAX = 256 * 1024
"""Of a request that is read on the event loop; a larger one would keep others waiting for milliseconds."""

OPEN_MAX = 1_000
"""Calls that a run leaves open; the index gives no larger page, and what is beyond ends with the CLI."""

ANOTHER = "This use of a tool was decided on with other arguments."
"""Of a second hook with the id of the first: only what was decided on may run."""

UNTOLD = Judgement("unknown", "its CLI did not say how it ended")
REFUSED = Judgement("rejected", "its CLI asked, and did not run it")


class Hooks:
    """Answers what CLIs tell."""

    def __init__(self, runtime: Runtime, workspace_of: WorkspaceOf) -> None:
        self._runtime = runtime
        self._sessions = Sessions(runtime, workspace_of)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """One tool of a session is decided at a time."""

    async def answer(self, request: bytes) -> Spoken:
        """What the client is to print, and its exit code. Raises nothing."""
        told: Told | None = None
        try:
            aside = len(request) > AT_ONCE_BYTES_MAX
            told = await asyncio.to_thread(decode, request) if aside else decode(request)
            event = await asyncio.to_thread(told.read) if aside else told.read()
            answer = await self._answered(event, told)
            return speak(told.dialect, event, answer)
        except HookUnclear as error:
            self._note(told, str(error))
            return speak_failure("before" if told is None else told.kind, str(error))
        except CustodyError as error:
            return speak_failure("before" if told is None else told.kind, str(error))
        except Exception as error:
            log.exception("A hook ended in an error")
            words = f"{type(error).__name__} in Custody; its log says more."
            return speak_failure("before" if told is None else told.kind, words)

    def _note(self, told: Told | None, why: str) -> None:
        data = {"why": why} if told is None else {"cli": told.cli, "event": told.event, "why": why}
        try:
            self._runtime.ledger.recorder.event("hook.unclear", data)
        except CustodyError as error:
            log.warning("A hook that was not understood could not be recorded: %s", error)

    async def _answered(self, event: HookEvent, told: Told) -> Answer:
        match event.kind:
            case "before":
                return await self._before(event, told)
            case "after" | "failed":
                await self._after(event, told)
            case "prompted":
                await self._prompted(event, told)
            case "stopped" | "subagent_stopped":
                outcome: RunOutcome = "cancelled" if event.interrupted else "succeeded"
                await self._finish(event, outcome, None, of_turn=True)
            case "subagent_started":
                await self._sessions.run_of(event, told)
            case "session_ended":
                await self._finish(event, "succeeded", "its session ended", of_turn=False)
                await self._tell("session.ended", event)
            case "session_started":
                await self._tell("session.started", event)
            case "compacting":
                await self._tell("session.compacted", event)
            case "other":
                pass  # a newer CLI may tell of more
        return ALLOW

    # -- sessions and turns -----------------------------------------------------------------------------

    async def _prompted(self, event: HookEvent, told: Told) -> None:
        prompt, _ = await asyncio.to_thread(Secrets(told.secrets).replaced, event.prompt, "intent")
        await self._finish(event, "cancelled", "another prompt came", of_turn=True)
        await self._sessions.begin_turn(event, told, prompt)

    async def _finish(
        self, event: HookEvent, outcome: RunOutcome, reason: str | None, *, of_turn: bool
    ) -> None:
        for run in await self._sessions.open_runs(event, of_turn=of_turn):
            await asyncio.to_thread(self._close_calls, bytes.fromhex(run.id))
            await self._sessions.finish(run, outcome, reason)

    async def _tell(self, name: str, event: HookEvent) -> None:
        data = {"cli": event.cli, "session": event.session, **event.details}
        await asyncio.to_thread(self._runtime.ledger.recorder.event, name, data)

    def _close_calls(self, run_id: bytes) -> None:
        """Of a run that ends: nobody will say any more how they ended."""
        wanted = CallFilter(run=run_id.hex(), outcome="running", door=DOOR)
        for call in self._runtime.index.calls(wanted, limit=OPEN_MAX).items:
            if call.level == "none":  # a command that goes on in the background ends its own call
                self._end(call, REFUSED if call.decision.verdict == "ask" else UNTOLD, None, Secrets({}))

    # -- before a tool ----------------------------------------------------------------------------------

    async def _before(self, event: HookEvent, told: Told) -> Answer:
        turn = self._turns.setdefault(event.session, asyncio.Lock())
        async with turn:
            known = None if event.tool_use_id is None else await asyncio.to_thread(self._open_call, event)
            run = await self._sessions.run_of(event, told)
            if known is not None:  # two hooks are set up: of the user and of the project
                return await asyncio.to_thread(self._again, event, told, run, known)
            answer, receipt = await asyncio.to_thread(self._start, event, told, run)
            if receipt is not None:
                await receipt.durable()
            return answer

    def _again(self, event: HookEvent, told: Told, run: RunHandle, known: Call) -> Answer:
        """The answer to a hook whose tool another hook was told of already."""
        secrets, runtime = Secrets(told.secrets), self._runtime
        decision = Decision("deny", "error", ANOTHER)
        call = _asked(
            event, told, secrets, runtime.ledger.recorder.ids.take(CALL_ID_BYTES), "unknown", decision
        )
        known = runtime.index.call(known.id, details=False)
        if asks_the_same(runtime.ledger.recorder, known, call, runtime.recording.keep(call.tool)):
            return Answer(verdict=known.decision.verdict, reason=known.decision.reason)
        append_rejected(run, call)
        return Answer(verdict="deny", reason=ANOTHER)

    def _start(self, event: HookEvent, told: Told, run: RunHandle) -> tuple[Answer, Any]:
        """The answer, and the receipt of a start that has to be durable before it is given."""
        began_ns = time.monotonic_ns()
        use, secrets = use_of(event), Secrets(told.secrets)
        workspace = None if event.cwd is None else self._sessions.workspace_of(event.cwd)
        scope = scope_of(self._runtime, event.cwd, workspace)
        recorder = self._runtime.ledger.recorder
        call_id = recorder.ids.take(CALL_ID_BYTES)
        argv = offer(self._runtime, event, told, use, call_id, scope)
        means: Means = use.means if argv is None else (*use.means, ("exec", {"argv": argv.command}))
        decision = decided(self._runtime, run, event, use, means, call_id, secrets, scope, told.folders)
        call = _asked(event, told, secrets, call_id, use.effect, decision, began_ns)
        if decision.verdict == "ask" and not told.dialect.asks:
            reason = f"{decision.reason} {told.dialect.title} cannot be told to ask its user."
            call = msgspec.structs.replace(call, decision=_no(decision, reason))
            run.recording.guards.release(call_id)
        if call.decision.verdict == "deny":
            append_rejected(run, call)
            return Answer(verdict="deny", reason=call.decision.reason), None
        try:
            watch = self._watch(call_id, use, scope, told)
        except (ToolError, PathRefused, OSError) as error:
            run.recording.guards.release(call_id)
            reason = f"What stands there cannot be kept, so it could not be undone: {error}"
            append_rejected(run, msgspec.structs.replace(call, decision=Decision("deny", "error", reason)))
            return Answer(verdict="deny", reason=reason), None
        try:
            if argv is not None:
                argv.publish()
            receipt = append_started(run, call)
        except BaseException:
            run.recording.guards.release(call_id)
            watch.abandon()
            raise
        watch.leave()
        durable = use.effect in self._runtime.settings.durable_before
        answer = Answer(
            verdict=decision.verdict,
            reason=decision.reason,
            arguments=None if argv is None else argv.arguments,
        )
        return answer, receipt if durable else None

    def _watch(self, call_id: bytes, use: Use, scope: Scope, told: Told) -> Observed:
        """What stands at the paths a tool will write is kept before. Raises ToolError, PathRefused,
        OSError."""
        reach, kept = reach_of(scope), set[str]()
        owner = (told.owner_pid, told.owner_start_ticks)
        watch = Observed(self._runtime.undo_store, call_id, roots=("/",), owner=owner)
        try:
            for path in use.writes:
                for spelt in spellings(path, scope.cwd):
                    target = reach.target(spelt, write=True)
                    for each in (*missing_above(target.path), target.path):
                        if each not in kept:
                            kept.add(each)
                            watch.keep(reach.target(each, write=True))
            if use.writes:
                watch.ready()
        except BaseException:
            watch.abandon()
            raise
        return watch

    # -- after a tool -----------------------------------------------------------------------------------

    async def _after(self, event: HookEvent, told: Told) -> None:
        call = await asyncio.to_thread(self._open_call, event)
        if call is None and await asyncio.to_thread(self._is_over, event):
            return  # another hook of the same tool was quicker
        if call is not None and call.tool == event.tool:  # what another tool came to is no end of this one
            judgement = _judged(event)
            await asyncio.to_thread(self._end, call, judgement, event.result, Secrets(told.secrets))
            return
        run = await self._sessions.run_of(event, told)
        await asyncio.to_thread(self._narrate, run, event, Secrets(told.secrets))

    def _open_call(self, event: HookEvent) -> Call | None:
        """The start of what has just ended; None where nobody told of it."""
        index = self._runtime.index
        wanted = CallFilter(
            session=event.session, external_id=event.external_id, door=DOOR, outcome="running"
        )
        found = index.calls(wanted, limit=LATEST_MAX).items
        if found:
            return found[0]
        named = adopted_in(event) if event.tool_use_id is None else None
        if named is None:
            return None
        try:
            call = index.call(named)
        except NotFound:
            return None
        return call if call.outcome is None and call.session_id == event.session else None

    def _is_over(self, event: HookEvent) -> bool:
        if event.tool_use_id is None:
            return False
        wanted = CallFilter(session=event.session, external_id=event.tool_use_id, door=DOOR)
        return bool(self._runtime.index.calls(wanted, limit=1).items)

    def _end(self, call: Call, judgement: Judgement, result: Any, secrets: Secrets) -> None:
        call_id = bytes.fromhex(call.id)
        runtime = self._runtime
        if not in_background(call.arguments):  # there the tool ends before its command has begun
            runtime.journal.adoptions.take(call_id)
        made = runtime.index.calls(CallFilter(parent=call.id, tool="exec"), limit=1).items
        ran = made[0] if made and made[0].outcome not in (None, "rejected") else None
        if ran is not None and ran.outcome is not None:
            judgement = Judgement(ran.outcome, ran.reason, ran.error, ran.passed)
        result, redactions = secrets.replaced(result, "result")
        append_ended(
            runtime.ledger.recorder,
            call,
            OwnedEnd(
                judgement=judgement,
                result=result,
                changes=settle_left(runtime.undo_store, call_id) if call.effect == "write" else None,
                exit_code=None if ran is None else ran.exit_code,
                signal=None if ran is None else ran.signal,
                redactions=redactions,
            ),
            keep=runtime.recording.keep(call.tool),
        )

    def _narrate(self, run: RunHandle, event: HookEvent, secrets: Secrets) -> None:
        """Nobody saw its start: a hook was set up in the middle, or left out of a tool's way."""
        arguments, hits = secrets.replaced(event.arguments, "arguments")
        result, more = secrets.replaced(event.result, "result")
        if event.error is not None:
            result = {"result": result, "error": event.error}
        told = NarratedCall(
            tool=event.tool or "", arguments=arguments, result=result, redactions=(*hits, *more)
        )
        append_narrated(run, [told])


def _asked(
    event: HookEvent,
    told: Told,
    secrets: Secrets,
    call_id: bytes,
    effect: Effect,
    decision: Decision,
    began_ns: int | None = None,
) -> OwnedCall:
    arguments, redactions = secrets.replaced(event.arguments, "arguments")
    return OwnedCall(
        call_id=call_id,
        tool=event.tool or "",
        arguments=arguments,
        effect=effect,
        decision=decision,
        external_id=event.external_id,
        agent=event.agent_type,
        door=DOOR,
        cwd=event.cwd,
        owner_pid=told.owner_pid,
        owner_start_ticks=told.owner_start_ticks,
        decide_us=None if began_ns is None else (time.monotonic_ns() - began_ns) // 1000,
        redactions=redactions,
    )


def missing_above(path: str) -> list[str]:
    """Folders on the way to a path that are not there, the uppermost first: a tool that writes makes them."""
    missing: list[str] = []
    folder = os.path.dirname(path)
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    return missing[::-1]


def _judged(event: HookEvent) -> Judgement:
    if event.interrupted:
        return Judgement("cancelled", "its user ended it")
    if event.error is not None:
        return Judgement(
            "failed", "its CLI says that it failed", {"type": "ToolError", "message": event.error}
        )
    if event.kind == "failed":
        return Judgement("failed", "its CLI says that it failed")
    return judge_result(event.result)


def _no(decision: Decision, reason: str) -> Decision:
    return msgspec.structs.replace(decision, verdict="deny", by="nobody", reason=reason)
