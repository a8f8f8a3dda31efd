"""A CLI's sessions, prompts and subagents as sessions, runs and child runs.

A prompt begins a run, and the end of its turn finishes it; what happens outside any turn (a hook that was set
up in the middle, work in the background) begins one without a prompt. A subagent is a run below that of its
turn. Each lives with the CLI's process. Owns which run that is. Used by `answering`.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from custody.calls.beginning import RunOptions
from custody.calls.handle import RunHandle
from custody.calls.runtime import Runtime
from custody.doors.hooks.event import HookEvent
from custody.doors.hooks.told import Told
from custody.index.query import RunFilter
from custody.records import Run, RunOutcome

DOOR = "hook"

WorkspaceOf = Callable[[str], str | None]
"""Gives the root of the working tree a folder is in."""

RUNS_MAX = 1_000
"""Of one session that are open at once; the index gives no larger page."""


class Sessions:
    """The runs of CLIs in one store."""

    def __init__(self, runtime: Runtime, workspace_of: WorkspaceOf) -> None:
        self._runtime = runtime
        self.workspace_of = workspace_of

    async def run_of(self, event: HookEvent, told: Told) -> RunHandle:
        """The open run that something belongs to; begun where there is none. Raises NotRecorded."""
        turn = await self._turn(event, told, None)
        if event.agent_id is None:
            return turn
        options = self._options(event, told)
        options["agent"] = event.agent_type or event.cli
        options["parent"] = turn.id
        options["external_id"] = event.agent_id
        name = f"{_name(event)} {event.agent_id}"
        return await self._runtime.named_run(name, event.agent_type, **options)

    async def begin_turn(self, event: HookEvent, told: Told, prompt: Any) -> RunHandle:
        """A run for a prompt. Raises NotRecorded."""
        return await self._turn(event, told, prompt)

    async def _turn(self, event: HookEvent, told: Told, prompt: Any) -> RunHandle:
        return await self._runtime.named_run(_name(event), prompt, **self._options(event, told))

    def _options(self, event: HookEvent, told: Told) -> RunOptions:
        options = RunOptions(
            agent=event.cli,
            session=event.session,
            client=event.cli,
            door=DOOR,
            owner_pid=told.owner_pid,
            on_error="raise",
        )
        if event.cwd is not None:
            options["workspace"] = self.workspace_of(event.cwd)
        return options

    async def open_runs(self, event: HookEvent, *, of_turn: bool) -> list[Run]:
        """Those of the session, the newest first; `of_turn`: of the main agent, or of its subagent."""
        page = await asyncio.to_thread(
            self._runtime.index.runs, RunFilter(session=event.session, running=True), limit=RUNS_MAX
        )
        runs = [run for run in page.items if run.door == DOOR and run.client == event.cli]
        return [run for run in runs if run.external_id == event.agent_id] if of_turn else runs

    async def finish(self, run: Run, outcome: RunOutcome, reason: str | None) -> None:
        """Raises NotRecorded."""
        handle = await self._runtime.join(run.id)
        handle.on_error = "raise"
        await handle.finish(outcome, reason=reason)


def _name(event: HookEvent) -> str:
    """Of the open run of a session: at most one has it."""
    return f"{event.cli} {event.session}"
