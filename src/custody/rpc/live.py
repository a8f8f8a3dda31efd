"""The runs that peers work on: started, found, gone on with, and ended, whoever asks.

Owns which connection works on which run, what is in flight in each, the one end of each, and what becomes of
a run whose peer is gone. Refuses to know frames and roles: `whose` are the agents a caller speaks for, None
is somebody who may see everything, and to anybody else a run does not exist. Usable without any peer. Used by
`service`, the methods and whoever makes calls in a run.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from custody.calls.handle import RunHandle
from custody.calls.runtime import Runtime
from custody.calls.uncut import to_the_end
from custody.errors import (
    CustodyError,
    InvalidInput,
    NotFound,
    NotRecorded,
    RunClosed,
    RunNotShared,
    StoreClosed,
)
from custody.records import Run, RunOutcome
from custody.rpc.live_run import LiveRun, closed
from custody.rpc.run_bounds import ID_CHARACTERS_MAX, check_texts
from custody.rpc.trace_records import wire_id

log = logging.getLogger("custody")

GRACE_SECONDS = 0.25
"""How long a run outlives the last connection that works on it, as in the reference: time for an answer that
was on its way."""

LEASE_SECONDS = 10.0
"""The same where the peer said that it can go on with a run over another connection."""

NARRATED_MAX = 2_000
"""Records of a run that are told afterwards, as in the reference; what is run here has no such bound."""

OPEN_PER_CONNECTION_MAX = 1_024
"""Runs a connection may have open at once: each holds memory until it ends."""

STOP_SECONDS = 10.0
"""How long what is in flight in a run may take to end once it is told to; its records included."""

READING_THREADS = 2
"""Threads that read traces: the index answers one question at a time, so more would only wait in line."""

PEER_GONE = "its peer is gone"

T = TypeVar("T")


class Known(Struct, frozen=True):
    """A run that whoever asked may know of."""

    id: str
    """On the wire."""
    run_id: bytes
    agent: str | None
    """As it is on the record."""
    over: bool
    live: LiveRun | None = None


class Resumed(Struct, frozen=True):
    """Who goes on with a run, and who worked on it before."""

    run_id: str
    agent_id: str
    client_id: str
    resumed_from_client_id: str | None


class LiveRuns:
    """All of them, for one runtime. Lives on the event loop that first uses it."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        grace_seconds: float = GRACE_SECONDS,
        lease_seconds: float = LEASE_SECONDS,
        narrated_max: int = NARRATED_MAX,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        self.runtime = runtime
        self.narrated_max = narrated_max
        self.stop_seconds = stop_seconds
        self._grace_seconds = grace_seconds
        self._lease_seconds = lease_seconds
        self._by_id: dict[str, list[LiveRun]] = {}
        """Open ones, by their ids on the wire and by their own; agents may use the same keys."""
        self._by_connection: dict[str, dict[LiveRun, None]] = {}
        self._locks: dict[object, tuple[asyncio.Lock, list[None]]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._readers = ThreadPoolExecutor(READING_THREADS, thread_name_prefix="custody-traces")
        self.departing: list[Callable[[str], None]] = []
        """Told of each connection that is gone: whoever keeps something for connections."""
        runtime.closing.insert(0, self._close)

    def __len__(self) -> int:
        """How many are open."""
        return sum(run.handle.id == name for name, runs in self._by_id.items() for run in runs)

    # -- starting -----------------------------------------------------------------------------------------

    async def start(
        self,
        intent: str | None,
        *,
        agent: str,
        key: str | None = None,
        outcome_description: str | None = None,
        connection: str | None = None,
        resumable: bool = False,
        shared: bool = False,
        parent: str | None = None,
        session: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> LiveRun:
        """A new run, durable when this returns; or the one this agent has started under that key.

        A run that is found over is returned so, and nothing more is recorded in it. Without a connection it
        stays open until it is ended. Raises InvalidInput, NotFound (for `parent`), NotRecorded.
        """
        check_texts(agent, key, session, intent, outcome_description, labels)
        if len(self._by_connection.get(connection or "", ())) >= OPEN_PER_CONNECTION_MAX:
            raise InvalidInput(f"The connection has {OPEN_PER_CONNECTION_MAX} open runs; complete one first.")
        if parent is not None:
            above = await self.find(parent, {agent})
            if above is None:
                raise InvalidInput("There is no such parent.", field="parent")
            parent = above.run_id.hex()
        said: dict[str, Any] = {
            "agent": agent,
            "external_id": key,
            "outcome_description": outcome_description,
            "client": connection,
            "parent": parent,
            "session": session,
            "labels": labels,
            "on_error": "raise",
        }
        if key is None:
            handle = self.runtime.run(intent, shared=shared, **said)
            return await to_the_end(self._begin(handle, agent, None, connection, resumable))
        async with self.alone(("start", agent, key)):
            known = await self.find(key, {agent})
            if known is not None:
                return await self._again(known, agent, connection, resumable)
            handle = self.runtime.run(intent, shared=shared, **said)
            return await to_the_end(self._begin(handle, agent, key, connection, resumable))

    async def begin(
        self, handle: RunHandle, *, agent: str, connection: str, resumable: bool
    ) -> LiveRun:  # fmt: skip
        """Put a run that was made elsewhere on the record; as `start` otherwise."""
        return await to_the_end(self._begin(handle, agent, None, connection, resumable))

    async def _begin(
        self, handle: RunHandle, agent: str, key: str | None, connection: str | None, resumable: bool
    ) -> LiveRun:
        live = LiveRun(handle, agent=agent, key=key)
        try:
            await handle.start(durable=True)
        except NotRecorded:
            if self._is_begun(handle):
                # Whoever asks again under the key gets it once it is durable; its connection ends it.
                live.in_doubt = True
                self._add(live, connection, resumable)
            raise
        self._add(live, connection, resumable)
        return live

    def _is_begun(self, handle: RunHandle) -> bool:
        if handle.numbering.shared:
            return self.runtime.journal.shared_exists(handle.run_id)
        return handle.run_id in self.runtime.recording.open_runs

    async def _again(self, known: Known, agent: str, connection: str | None, resumable: bool) -> LiveRun:
        """The run there is under that key already."""
        live = known.live
        if live is None:
            return self._of_record(known, agent)
        if live.in_doubt:
            await asyncio.to_thread(self.runtime.journal.sync)
            live.in_doubt = False
        if not live.over:
            self.attach(live, connection, resumable)
        return live

    def _of_record(self, known: Known, agent: str) -> LiveRun:
        """A run that nothing more is recorded in from here: it has ended, or another process works on it."""
        new = self.runtime.new_run(None, None, False, {"agent": agent})
        new = msgspec.structs.replace(new, run_id=known.run_id, joined=True, outcome="unknown")
        live = LiveRun(RunHandle(self.runtime, new), agent=agent, key=known.id)
        live.ending = True
        live.ended.set()
        return live

    # -- finding ------------------------------------------------------------------------------------------

    async def find(self, run_id: str, whose: Collection[str] | None) -> Known | None:
        """By the key it was started with or by its own id; None also for a run of somebody else."""
        if not 0 < len(run_id) <= ID_CHARACTERS_MAX:
            return None
        live = self.find_live(run_id, whose)
        if live is not None and whose is None and live.handle.id != run_id and _is_own_id(run_id):
            # A key may spell another's id, on purpose too: the run whose id it is goes first.
            run = await self.in_thread(self._on_record, run_id, None)
            live = live if run is None or run.id != run_id else None
        if live is not None:
            return Known(live.id, live.handle.run_id, self.as_recorded(live.agent), live.over, live)
        agents = None if whose is None else sorted({self.as_recorded(agent) for agent in whose})
        run = await self.in_thread(self._on_record, run_id, agents)
        if run is None:
            return None
        return Known(wire_id(run), bytes.fromhex(run.id), run.agent, run.outcome is not None)

    def find_live(self, run_id: str, whose: Collection[str] | None) -> LiveRun | None:
        """Only among those that are worked on here."""
        found = [live for live in self._by_id.get(run_id, ()) if whose is None or live.agent in whose]
        return max(reversed(found), key=lambda live: live.handle.id == run_id, default=None)

    def _on_record(self, run_id: str, agents: list[str] | None) -> Run | None:
        index = self.runtime.index
        if _is_own_id(run_id):
            with suppress(NotFound):
                run = index.run(run_id)
                if agents is None or run.agent in agents:
                    return run
        key = self.as_recorded(run_id)
        for agent in [None] if agents is None else agents:
            page = index.runs(external_id=key, agent=agent, limit=1)
            if page.items:
                return page.items[0]
        return None

    def as_recorded(self, text: str) -> str:
        """As an id stands on the record: one that is a known secret is a token there."""
        return self.runtime.ledger.recorder.clean_text(text, "leaf")[0]

    # -- who works on it ----------------------------------------------------------------------------------

    def touched(self, run: LiveRun | None) -> None:
        """Something of the run was recorded."""
        if run is not None:
            for watcher in run.watchers:
                watcher.set()

    def departed(self, connection: str) -> None:
        """The connection is gone, and what was worked on for it has ended."""
        for tell in self.departing:
            tell(connection)
        for live in list(self._by_connection.pop(connection, ())):
            resumable = live.attached.pop(connection, False)
            if not live.attached and not live.ending:
                self._let_expire(live, self._lease_seconds if resumable else self._grace_seconds)

    def _let_expire(self, live: LiveRun, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        live.grace = loop.call_later(seconds, lambda: self.spawn(self._expire(live)))

    async def _expire(self, live: LiveRun) -> None:
        if live.attached or live.ending:
            return
        if live.handle.outcome is not None:
            self._drop(live)
            return
        try:
            await self.end(live, "incomplete", reason=PEER_GONE)
        except (NotRecorded, RunClosed) as error:
            log.warning("Run %s could not be ended as incomplete: %s", live.handle.id[:8], error)

    async def resume(
        self, run_id: str, *, whose: Collection[str] | None, connection: str, resumable: bool = True
    ) -> tuple[LiveRun, Resumed]:
        """Go on with a run whose connection is gone; of several that ask one gets it.

        Raises NotFound, RunClosed, RunNotShared (somebody works on it), NotRecorded.
        """
        known = await self.find(run_id, whose)
        if known is None:
            raise no_such_run()
        live = known.live
        if live is None or live.over:
            raise closed(known.id)
        before = live.last_connection
        if connection not in live.attached:
            if live.attached or before is None:
                raise RunNotShared("Somebody still works on this run.")
            self.attach(live, connection, resumable)
            data = {"connection": connection, "before": before}
            try:
                await self.record("run.resumed", data, live.handle.run_id)
            except NotRecorded:
                self.departed_from(live, connection)
                raise
        return live, Resumed(live.id, live.agent, connection, before)

    def departed_from(self, live: LiveRun, connection: str) -> None:
        """The connection does not work on the run any more."""
        self._by_connection.get(connection, {}).pop(live, None)
        live.attached.pop(connection, None)
        if not live.attached and not live.ending:
            self._let_expire(live, self._grace_seconds)

    def _add(self, live: LiveRun, connection: str | None, resumable: bool) -> None:
        for name in {live.id, live.handle.id}:
            self._by_id.setdefault(name, []).append(live)
        self.attach(live, connection, resumable)

    def attach(self, live: LiveRun, connection: str | None, resumable: bool) -> None:
        """The connection works on the run, too, until it departs."""
        if connection is None:
            return
        if live.grace is not None:
            live.grace.cancel()
            live.grace = None
        live.attached.pop(connection, None)
        live.attached[connection] = resumable
        live.last_connection = connection
        self._by_connection.setdefault(connection, {})[live] = None

    def _drop(self, live: LiveRun) -> None:
        """It has ended: from here on it is found on the record."""
        for name in {live.id, live.handle.id}:
            left = [other for other in self._by_id.get(name, ()) if other is not live]
            if left:
                self._by_id[name] = left
            else:
                self._by_id.pop(name, None)
        for connection in live.attached:
            self._by_connection.get(connection, {}).pop(live, None)
        if live.grace is not None:
            live.grace.cancel()
        live.ending = True
        live.ended.set()
        self.touched(live)

    # -- ending -------------------------------------------------------------------------------------------

    async def end(
        self,
        live: LiveRun,
        outcome: RunOutcome | None,
        *,
        output: Any = None,
        reason: str | None = None,
        passed: bool | None = None,
        totals: Any = None,
    ) -> None:
        """End the run: what is in flight is ended and recorded first. Durable when this returns, and done
        although whoever asked may be gone. Raises RunClosed for all but the first who ask, NotRecorded."""
        self.claim(live)
        await asyncio.shield(self.spawn(self._end(live, outcome, output, reason, passed, totals)))

    def claim(self, live: LiveRun) -> None:
        """Whoever gets here first ends the run. Raises RunClosed."""
        if live.over:
            raise closed(live.id)
        live.ending = True

    async def _end(
        self, live: LiveRun, outcome: RunOutcome | None, output: Any, reason: str | None,
        passed: bool | None, totals: Any,
    ) -> None:  # fmt: skip
        await live.stop(self.stop_seconds)
        await self.finish(live, outcome, output=output, reason=reason, passed=passed, totals=totals)

    async def finish(
        self, live: LiveRun, outcome: RunOutcome | None, *, output: Any = None, reason: str | None = None,
        passed: bool | None = None, totals: Any = None,
    ) -> None:  # fmt: skip
        """Record the end of a run that was claimed. Raises NotRecorded; then it is open again."""
        handle = live.handle
        try:
            await handle.finish(
                outcome, output=output, reason=reason, passed=passed, totals=totals, durable=True
            )
        except NotRecorded:
            if (await self.in_thread(self.runtime.index.run, handle.id)).outcome is None:
                handle.outcome = None
                if not handle.numbering.shared:
                    self.runtime.recording.open_runs[handle.run_id] = handle
                live.ending = False
                if not live.attached and live.last_connection is not None:
                    self._let_expire(live, self._lease_seconds)
            else:
                self._drop(live)
            raise
        self._drop(live)

    # -- for its neighbours -------------------------------------------------------------------------------

    async def record(self, name: str, data: dict[str, Any], run_id: bytes) -> None:
        """An event of the run, durable when this returns. Raises NotRecorded."""
        ledger = self.runtime.ledger
        receipt = await ledger.append(ledger.recorder.draft_event(name, data, run_id=run_id, leaf_data=True))
        await receipt.durable()

    async def in_thread(self, read: Callable[..., T], *arguments: Any) -> T:
        """Ask the index, which waits."""
        loop = asyncio.get_running_loop()
        try:
            reading = loop.run_in_executor(self._readers, read, *arguments)
        except RuntimeError:
            raise StoreClosed() from None
        return await reading

    @asynccontextmanager
    async def alone(self, about: object) -> AsyncGenerator[None]:
        """One at a time, of those about the same."""
        lock, users = self._locks.setdefault(about, (asyncio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield
        finally:
            users.pop()
            if not users:
                self._locks.pop(about, None)

    def spawn(self, work: Awaitable[T]) -> "asyncio.Task[T]":
        """Something that goes on although whoever began it may be gone."""
        task: asyncio.Task[T] = asyncio.ensure_future(work)  # pyright: ignore[reportAssignmentType]
        self._tasks.add(task)
        task.add_done_callback(self._spawned)
        return task

    def _spawned(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, CustodyError):  # one of ours was told to who waited
            log.error("Work on a run failed.", exc_info=error)

    def _close(self) -> None:
        """The store is about to be closed: what is still open is ended by that."""
        self._readers.shutdown(wait=False, cancel_futures=True)


def no_such_run() -> NotFound:
    """The same words for a run that is not there and for one of somebody else."""
    return NotFound("There is no such run.")


def _is_own_id(text: str) -> bool:
    return len(text) == 32 and all(character in "0123456789abcdef" for character in text)
