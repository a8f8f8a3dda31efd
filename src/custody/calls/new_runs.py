"""Runs before anybody holds them: new ones, children, and those that others have started.

Owns what is said of a run that its caller leaves unsaid, and which runs it is below. Used by `runtime`, for
either face.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from custody.calls import stated
from custody.calls.asked import Who
from custody.calls.beginning import NAMES, Beginning, NewRun, RunOptions, user_name
from custody.calls.call_settings import CallSettings
from custody.calls.delegation import Task
from custody.calls.ledger import Ledger
from custody.calls.recording import OnError
from custody.errors import NotFound, RunNotShared
from custody.journal import Journal
from custody.records import RUN_ID_BYTES, Run
from custody.sandbox import start_ticks

if TYPE_CHECKING:
    from custody.index import Index


class Above(Protocol):
    """The run another is started from."""

    who: Who
    lineage: tuple[Task, ...]
    on_error: OnError

    @property
    def id(self) -> str: ...

    @property
    def chain(self) -> tuple[bytes, ...]: ...

    @property
    def channel(self) -> str | None: ...


class NewRuns:
    """Makes runs for one runtime."""

    def __init__(
        self,
        settings: CallSettings,
        ledger: Ledger,
        journal: Journal,
        index: "Callable[[], Index]",
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._journal = journal
        self._index = index

    def new(
        self,
        intent: str | None,
        name: str | None,
        shared: bool,
        options: RunOptions,
        surrounding: Above | None,
    ) -> NewRun:
        """One that is started, below the surrounding one unless another parent is said."""
        said: dict[str, Any] = {**options}
        lineage: tuple[Task, ...] = ()
        above: tuple[bytes, ...] = ()
        if surrounding is not None:
            said = {"parent": surrounding.id, **options}
            lineage = surrounding.lineage
        if surrounding is not None and said["parent"] == surrounding.id:
            above = surrounding.chain
        elif said.get("parent") is not None:
            above = (bytes.fromhex(said["parent"]),)
        run_id = self._ledger.recorder.ids.take(RUN_ID_BYTES)
        beginning = self._beginning(intent, name, shared, said)
        return NewRun(run_id, beginning, ancestors=lineage, above=above)

    def child_of(self, parent: Above, intent: str | None, name: str | None, options: RunOptions) -> NewRun:
        """One below another: it speaks for the same caller in the same channel."""
        inherited: dict[str, Any] = {
            "parent": parent.id,
            "agent": parent.who.agent,
            "caller": parent.who.caller,
            "session": parent.who.session_id,
            "workspace": parent.who.workspace,
            "channel": parent.channel,
            "on_error": parent.on_error,
        }
        run_id = self._ledger.recorder.ids.take(RUN_ID_BYTES)
        beginning = self._beginning(intent, name, False, inherited | {**options})
        return NewRun(run_id, beginning, ancestors=parent.lineage, above=parent.chain)

    async def joined(self, run_id: str) -> NewRun:
        """A shared one that others started. Raises RunNotShared, NotFound, Ambiguous."""
        found: Run = await asyncio.to_thread(lambda: self._index().run(run_id))
        if not found.shared:
            raise RunNotShared(
                f"Run {found.id[:8]} was not started as shared, so no other process may join it."
            )
        options = RunOptions(agent=found.agent, caller=found.caller, session=found.session_id)
        beginning = self._beginning(found.intent, found.name, True, options)
        above = () if found.parent_run_id is None else (bytes.fromhex(found.parent_run_id),)
        return NewRun(bytes.fromhex(found.id), beginning, joined=True, outcome=found.outcome, above=above)

    async def of_name(self, name: str, intent: str | None, options: RunOptions) -> NewRun:
        """The shared one of this name, started where there is none."""
        beginning = self._beginning(intent, name, True, options)
        run_id = await asyncio.to_thread(self._open_named_run, name, beginning)
        return NewRun(run_id, beginning, joined=True)

    def _open_named_run(self, name: str, beginning: Beginning) -> bytes:
        recorder = self._ledger.recorder

        def create() -> bytes:
            run_id = recorder.ids.take(RUN_ID_BYTES)
            recorder.append(beginning.draft(recorder, run_id))
            self._journal.create_shared(run_id)
            return run_id

        def is_open(run_id: bytes) -> bool:
            try:
                return self._index().run(run_id.hex()).outcome is None
            except NotFound:  # its start was lost with the power
                return False

        run_id, _ = self._journal.named_run(name, create, is_open)
        return run_id

    def _beginning(
        self, intent: str | None, name: str | None, shared: bool, options: Mapping[str, Any]
    ) -> Beginning:
        said: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        parent = said.pop("parent", None)
        owner_pid: int = said.pop("owner_pid", None) or os.getpid()
        payload = {
            name: said.pop(name) for name in ("outcome_description", "inputs", "labels") if name in said
        }
        if intent is not None:
            payload["intent"] = intent
        settings = self._settings
        on_error = said.pop("on_error", None)
        fields: dict[str, Any] = {
            "name": name,
            "agent": settings.agent,
            "caller": settings.caller,
            "workspace": settings.workspace,
            "session_id": said.pop("session", None) or settings.session_id,
            "parent_run_id": None if parent is None else bytes.fromhex(parent),
            "door": settings.door,
            "shared": shared,
            "user": user_name(),
            "host": socket.gethostname(),
            "owner_pid": owner_pid,
            "owner_start_ticks": start_ticks(owner_pid),
        }
        fields |= said
        fields |= {name: stated.name(fields[name]) for name in NAMES & fields.keys()}
        return Beginning(payload, fields, on_error)
