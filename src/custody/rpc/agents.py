"""Coding CLIs that somebody had started: each is a run of its own, which outlives whoever asked for it.

Owns how one is started, what is told of it, and its end on somebody's word. What drives the CLI is the tool
`drive_cli`, through the one way every call goes; what is told is read from the record, so it is there after a
restart as well. Used by `methods.agents` and by the doors that offer the same to others.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from msgspec import Struct

from custody.calls.handle import RunHandle
from custody.calls.runtime import Runtime
from custody.calls.uncut import until_done
from custody.errors import CustodyError, Denied, InvalidInput, NotFound, NotRecorded
from custody.index import CallFilter, Index
from custody.records import Call, Run, RunOutcome
from custody.tools import Origin

TOOL = "drive_cli"

CHANNEL = "agent_spawn"
"""By which a run is known to be one of these."""

RUNNING_MAX = 16
"""At once, for one daemon: each is a model that works, edits files and costs money."""

PROMPT_CHARACTERS_MAX = 64 * 1024
INTENT_CHARACTERS_MAX = 200
OUTPUT_CHARACTERS_MAX = 16 * 1024

TOLD_SECONDS = 0.25
"""How long whoever spawns waits for a refusal, or for a CLI that is not there: both come at once."""

CANCEL_SECONDS = 15.0
"""For a tree of processes to be ended and its end to be recorded."""


class AgentState(Struct, frozen=True, kw_only=True):
    """One agent, as the record has it."""

    id: str
    """Of its run."""
    status: str
    """`running`, or the outcome of its run: `succeeded failed timed_out cancelled rejected unknown
    incomplete`."""
    cli: str | None
    prompt: str | None
    started_at: str
    finished_at: str | None
    reason: str | None
    call_id: str | None
    """The call of `drive_cli` in its run; null until it is on the record."""
    exit_code: int | None
    output: str | None
    """The end of what it printed, redacted."""


class Agents:
    """Those of one runtime. Lives on its event loop."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._running: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    async def spawn(
        self,
        cli: str,
        prompt: str,
        *,
        cwd: str | None = None,
        timeout_s: float | None = None,
        agent: str | None = None,
        caller: str | None = None,
        parent: str | None = None,
        origin: Origin | None = None,
    ) -> AgentState:
        """Start one, and tell how it stands once its run is durable and it had time to be refused.

        `agent` is whose run it is. Whoever is cancelled meanwhile was told no id, so the agent is ended.
        Raises InvalidInput, Denied, NotRecorded.
        """
        if not prompt.strip() or len(prompt) > PROMPT_CHARACTERS_MAX:
            raise InvalidInput(f"prompt has 1 to {PROMPT_CHARACTERS_MAX} characters.", field="prompt")
        if timeout_s is not None and not 0 < timeout_s <= 24 * 3600:
            raise InvalidInput("timeout_s is a number of seconds, at most a day.", field="timeout_s")
        if len(self._running) >= RUNNING_MAX:
            raise Denied(f"{RUNNING_MAX} agents run already.", hint="Wait for one to end, or cancel one.")
        arguments: dict[str, object] = {"cli": cli, "prompt": prompt}
        if cwd is not None:
            arguments["cwd"] = cwd
        # cut behind the redaction: half a secret is one that nobody recognises
        intent = self._runtime.ledger.recorder.clean_text(prompt.strip(), "intent")[0]
        handle = self._runtime.run(
            intent[:INTENT_CHARACTERS_MAX],
            name=f"agent {cli}"[:64],
            agent=agent,
            caller=caller,
            parent=parent,
            channel=CHANNEL,
            on_error="raise",
        )
        begun: asyncio.Future[None] = asyncio.ensure_future(handle.start(durable=True))
        work = asyncio.create_task(self._work(handle, begun, arguments, timeout_s, origin))
        self._running[handle.id] = work
        work.add_done_callback(lambda _: self._running.pop(handle.id, None))
        try:
            await asyncio.shield(begun)
            await asyncio.wait({work}, timeout=TOLD_SECONDS)
            return await self.status(handle.id)
        except asyncio.CancelledError:
            work.cancel()
            await until_done(work)
            raise

    async def _work(
        self,
        handle: RunHandle,
        begun: "asyncio.Future[None]",
        arguments: dict[str, object],
        timeout_s: float | None,
        origin: Origin | None,
    ) -> None:
        """To its end, which is on the record however it comes. Where it was not begun, nothing is done."""
        try:
            await asyncio.shield(begun)
            call = await self._runtime.call(TOOL, arguments, run=handle, timeout=timeout_s, origin=origin)
        except asyncio.CancelledError:
            await until_done(begun)
            if begun.exception() is None:
                with suppress(NotRecorded):
                    reason = "the daemon stopped" if self._closed else "it was cancelled"
                    await handle.finish("cancelled", reason=reason)
            raise
        except CustodyError as error:
            if begun.exception() is None:
                with suppress(NotRecorded):
                    await handle.finish("failed", reason=error.message)
        else:
            outcome, reason = _ended(call)
            with suppress(NotRecorded):
                await handle.finish(outcome, reason=reason, durable=True)

    async def close(self) -> None:
        """End them all, on the record."""
        self._closed = True
        running = list(self._running.values())
        for work in running:
            work.cancel()
        if running:
            await asyncio.wait(running, timeout=CANCEL_SECONDS)

    async def status(self, run_id: str) -> AgentState:
        """How it stands. `run_id` is a whole id or the beginning of one. Raises NotFound, Ambiguous."""
        return await asyncio.to_thread(self._read, lambda index: index.run(run_id))

    async def cancel(self, run_id: str) -> AgentState:
        """End it with everything it started, and tell how it stands then; one that is over stays as it is.

        Raises NotFound, Ambiguous.
        """
        state = await self.status(run_id)
        work = self._running.get(state.id)
        if work is not None:
            work.cancel()
            await asyncio.wait({work}, timeout=CANCEL_SECONDS)
        elif state.status == "running":  # of another process on this store
            await self._runtime.cancel(state.id)
        return await self.status(state.id)

    def _read(self, find: Callable[[Index], Run]) -> AgentState:
        """In a thread."""
        index = self._runtime.index
        run = find(index)
        if run.channel != CHANNEL:
            raise NotFound("No agent has that id.", hint="`custody runs` lists what ran.")
        page = index.calls(CallFilter(run=run.id, tool=TOOL), 1, None)
        return state_of(run, page.items[0] if page.items else None)


def state_of(run: Run, call: Call | None) -> AgentState:
    """What the record says of an agent: `call` is the one that drives its CLI."""
    arguments = _mapping(None if call is None else call.arguments)
    result = _mapping(None if call is None else call.result)
    output = result.get("output_tail")
    return AgentState(
        id=run.id,
        status=run.outcome or "running",
        cli=arguments.get("cli"),
        prompt=arguments.get("prompt") or run.intent,
        started_at=run.started_at,
        finished_at=run.finished_at,
        reason=run.reason or (None if call is None else call.reason),
        call_id=None if call is None else call.id,
        exit_code=result.get("exit_code"),
        output=None if output is None else str(output)[-OUTPUT_CHARACTERS_MAX:],
    )


def _ended(call: Call) -> tuple[RunOutcome | None, str | None]:
    """How the agent's run ended. To a call an exit code is an answer; of an agent it tells a failure."""
    exit_code = _mapping(call.result).get("exit_code")
    if call.outcome == "succeeded" and exit_code != 0:
        return "failed", f"its CLI ended with exit code {exit_code}"
    return call.outcome, call.reason


def _mapping(value: Any) -> dict[str, Any]:
    """What was purged, or kept as a digest alone, has no parts to tell."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
