"""The runtime: one store, one set of tools, and the one way to call them.

Owns what lives as long as a program uses Custody: the ledger, the launchers, the calls in flight and
their cancellation. Knows nothing of settings files or of how it is shown; `compose` builds it, doors and
the blocking face use it.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, Unpack

import msgspec

from custody.calls.asked import Asked, Who
from custody.calls.beginning import NewRun, RunOptions, user_name
from custody.calls.call_settings import CallSettings
from custody.calls.deadline import limit_seconds
from custody.calls.deciding import Deciding
from custody.calls.drops import cause_of
from custody.calls.execute import execute, unknown_end
from custody.calls.guards import guards_of, guards_of_observed
from custody.calls.handle import RunHandle
from custody.calls.ledger import Ledger
from custody.calls.machinery import Machinery
from custody.calls.new_runs import NewRuns
from custody.calls.notices import Notices
from custody.calls.observed_guards import ObservedGuards
from custody.calls.private_folders import PrivateFolders
from custody.calls.recording import ObserveSettings, Recording
from custody.calls.run import RunRecord, asker_of, current_run
from custody.calls.samples import Samples
from custody.calls.telling import tell
from custody.calls.walled import Walled
from custody.errors import NotRecorded, OutcomeUnknown, StoreClosed, UsageError
from custody.host import Breaker, Sampler
from custody.journal import Journal
from custody.policy import Policy
from custody.policy.model import Afterwards, WallLevel
from custody.prices import Prices
from custody.recorder import Draft, Recorder
from custody.records import CALL_ID_BYTES, Call, Run
from custody.redaction import secret_name
from custody.sandbox import InheritedEnvironment, Launchers
from custody.tools import Asker, Context, Means, Origin, ProcessIO, Registry, Scope

if TYPE_CHECKING:
    from custody.calls.answers import Prompt
    from custody.calls.recovery import Recovered
    from custody.changes import HeldStore, UndoStore
    from custody.index import Index

log = logging.getLogger("custody")

CANCEL_POLL_SECONDS = 0.2
"""How soon a call hears that another process wants it ended; a call shorter than this never looks."""

CLOSE_SECONDS = 10.0  # calls still running at close get so long to end, their process trees included


class Runtime:
    """Guards, runs and records calls. Lives on one event loop; close it to seal the store."""

    def __init__(
        self,
        *,
        journal: Journal,
        recorder: Recorder,
        open_index: Callable[[], "Index"],
        registry: Registry,
        policy: Callable[[], Policy],
        deciding: Deciding,
        sampler: Sampler,
        breaker: Breaker,
        launchers: Launchers,
        settings: CallSettings,
        observing: ObserveSettings,
        load_prices: Callable[[], Prices],
        undo: "Callable[[], UndoStore]",
        held: "Callable[[], HeldStore]",
        unfinished: list[Draft],
        recovered: "Recovered | None" = None,
        notices: Notices | None = None,
        private: PrivateFolders | None = None,
    ) -> None:
        self.journal = journal
        self._open_index = open_index
        self.tools = registry
        self.policy = policy
        """Gives the policy in force."""
        self.sampler = sampler
        self.breaker = breaker
        self.settings = settings
        self.recovered = recovered
        """What was closed when the store was opened; None when nothing had been left open."""
        self.notices = notices
        """Who is told of each call beside the record; None where nobody is."""
        self.closing: list[Callable[[], None]] = []
        """What follows the journal beside the calls, ended before the store is closed; last what signs it."""
        self.ledger = Ledger(recorder)
        self._launchers = launchers
        self.walled = Walled(launchers, settings, private)
        self._means = _means(settings, launchers, undo, held, lambda: self.index)
        self._machinery = Machinery(
            ledger=self.ledger,
            samples=Samples(sampler, self.ledger),
            guards=guards_of(registry, breaker),
            slots=asyncio.Semaphore(settings.parallel_calls),
            durable_before=settings.durable_before,
            unrecorded=set(),
            unfinished=unfinished,
            notices=notices,
            policy=policy,
            deciding=deciding,
            walled=self.walled,
        )
        self.prompt: Prompt | None = None  # asks a person at this program's door, where a rule asks
        self._deciding = deciding
        self.recording = Recording(
            recorder,
            observing,
            guards=_observed_guards(breaker, policy, deciding, settings, sampler),
            durable_before=settings.durable_before,
            door=settings.door,
            load_prices=load_prices,
            unfinished=unfinished,
            unrecorded=self._machinery.unrecorded,
            notices=notices,
        )
        self.new_runs = NewRuns(settings, self.ledger, journal, lambda: self.index)
        self._running: dict[bytes, tuple[Context, asyncio.Task[Call | None], RunRecord | None]] = {}
        self._watch: asyncio.Task[None] | None = None
        self._closed = False

    @cached_property
    def index(self) -> "Index":
        """Questions about what is recorded. A program that only makes calls never loads it."""
        return self._open_index()

    @property
    def undo_store(self) -> "UndoStore":
        """Where the old states of files are kept."""
        return self._means.undo()

    @cached_property
    def _scope(self) -> Scope:
        """Where calls may work, with what is held there for those that commit it."""
        return msgspec.structs.replace(self.settings.scope, held=self._means.held)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- calls --------------------------------------------------------------------------------------

    async def call(
        self,
        tool: str | Callable[..., Any],
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        level: WallLevel | None = None,
        sandbox: str | None = None,
        afterwards: Afterwards | None = None,
        dry_run: bool = False,
        run: RunRecord | None = None,
        external_id: str | None = None,
        agent: str | None = None,
        caller: str | None = None,
        session: str | None = None,
        cwd: str | None = None,
        io: ProcessIO | None = None,
        as_recorded: bool = False,
        origin: Origin | None = None,
        prompt: "Prompt | None" = None,
    ) -> Call:
        """Check, record, run, measure and record one call; returns it for every outcome.

        `timeout` is in seconds (0: none). `level` and `sandbox` (`read_only`, `workspace`, `network`, `open`;
        alone it means confined) are the walls of its command, for agents never fewer than the settings say;
        `afterwards` is what becomes of the changes of a transaction.
        Outside `run` (or a surrounding `async with runtime.run`) the call stands alone. Arguments, result and
        error are as they were, or, `as_recorded`, with secrets replaced. `origin` says through which door and
        as which action of a proposal it comes, and may bring tools and guards of its own; `prompt` asks a
        person at the door itself. Raises NotRecorded (nothing ran), OutcomeUnknown, UsageError.
        """
        if self._closed:
            raise StoreClosed()
        run = run or self._surrounding_run()
        if run is not None:
            await _offer(run, tool)
        origin = origin or Origin()
        tools = origin.tools or self.tools
        known = tools.get(tool) if isinstance(tool, str) else self.tools.know(tool)
        name = known.name if known is not None else str(tool)
        limit = limit_seconds(timeout, known, self.settings.timeout_seconds)
        call_id = self.ledger.recorder.ids.take(CALL_ID_BYTES)
        scope = self._scope.at(cwd)
        stated, who = self._who(Who(session_id=session, agent=agent, caller=caller), run)
        door = origin.door or self.settings.door
        asker = asker_of(who, run, door, caused=origin.caused)
        wish, origin = await self.walled.wished(level, sandbox, afterwards, known, asker, origin)
        context = self._context(call_id, asker, scope, limit, dry_run, io, origin)
        asked = Asked(
            call_id=call_id,
            tool=known,
            name=name,
            arguments={} if arguments is None else arguments,
            scope=scope,
            timeout_seconds=limit,
            dry_run=dry_run,
            numbering=None if run is None else run.numbering,
            stated=stated,
            who=who,
            external_id=external_id,
            run_chain=() if run is None else run.chain,
            prompt=prompt or self.prompt,
            origin=origin,
            door=door,
            keep="full" if known is None else tools.keep(known),
            as_recorded=as_recorded,
            wish=wish,
        )
        call = await self._carry_out(asked, context, run)
        return call if call.held is None else await self._settle(call, context, run, asked.prompt)

    async def _settle(
        self, call: Call, context: Context, run: RunRecord | None, prompt: "Prompt | None"
    ) -> Call:
        from custody.calls.settling import settle  # few commands have their changes held

        return await settle(self.call, call, context.confinement, run, prompt)

    async def _carry_out(self, asked: Asked, context: Context, run: RunRecord | None) -> Call:
        """Wait for the call; if the caller is cancelled, the call is ended and recorded before it hears."""
        loop = asyncio.get_running_loop()
        told: asyncio.Future[Call] = loop.create_future()
        task = loop.create_task(tell(execute(asked, context, self._machinery), told))
        self._running[asked.call_id] = (context, task, run)
        self._look_for_cancellations()
        try:
            call = await told
        except OutcomeUnknown:
            if run is not None:
                run.tally.call_ended("unknown")
            raise
        except NotRecorded:
            if run is not None:
                run.tally.call_withdrawn()
            raise
        except asyncio.CancelledError:
            context.request_cancel()
            while not task.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({task})
            ended = None if task.cancelled() or task.exception() is not None else task.result()
            if run is not None and ended is not None:
                run.tally.call_ended(ended.outcome or "unknown")
            raise
        finally:
            del self._running[asked.call_id]
            if run is None:
                self.walled.end_run(asked.call_id.hex())
        if run is not None and call.outcome is not None:
            run.tally.call_ended(call.outcome)
        return call

    def _who(self, stated: Who, run: RunRecord | None) -> tuple[Who, Who]:
        """What is stated of a call, and the same with the rest taken from its run, or from this runtime's
        settings: without a run that is stated as well."""
        around = self.settings if run is None else run.who
        who = Who(
            session_id=stated.session_id or around.session_id,
            agent=stated.agent or around.agent,
            caller=stated.caller or around.caller,
            workspace=stated.workspace or around.workspace,
        )
        return who if run is None else stated, who

    def _context(
        self,
        call_id: bytes,
        asker: Asker,
        scope: Scope,
        limit: float | None,
        dry_run: bool,
        io: ProcessIO | None,
        origin: Origin,
    ) -> Context:
        return Context(
            call_id=call_id.hex(),
            run_id=asker.run_id,
            dry_run=dry_run,
            scope=scope,
            timeout_seconds=limit,
            io=io or ProcessIO(),
            means=self._means,
            asker=asker,
            origin=origin,
            egress=lambda: self.walled.egress(asker),
        )

    # -- runs ---------------------------------------------------------------------------------------

    def run(
        self,
        intent: str | None = None,
        *,
        name: str | None = None,
        shared: bool = False,
        **options: Unpack[RunOptions],
    ) -> RunHandle:
        """A new run, started by `async with`. Other processes may join a `shared` one by its id."""
        return RunHandle(self, self.new_run(intent, name, shared, options))

    async def join(self, run_id: str) -> RunHandle:
        """Take part in a shared run by its id, a unique prefix of it, or its name. Raises RunNotShared."""
        return RunHandle(self, await self.new_runs.joined(run_id))

    async def named_run(
        self, name: str, intent: str | None = None, **options: Unpack[RunOptions]
    ) -> RunHandle:
        """The shared run of this name: joined, or started when there is none open. Exactly one process
        starts it."""
        return RunHandle(self, await self.new_runs.of_name(name, intent, options))

    def new_run(self, intent: str | None, name: str | None, shared: bool, options: RunOptions) -> NewRun:
        """For `run` of either face."""
        return self.new_runs.new(intent, name, shared, options, self._surrounding_run())

    def _surrounding_run(self) -> RunRecord | None:
        run = current_run.get()
        return run if run is not None and run.belongs_to(self) else None

    # -- cancellation -------------------------------------------------------------------------------

    async def cancel(self, target: str) -> list[str]:
        """Ask a call, or every call of a run, to end, wherever it runs; returns the ids asked.

        Raises NotFound, Ambiguous.
        """
        found = await asyncio.to_thread(self.index.find, target)
        if not isinstance(found, Run | Call):
            raise UsageError(f"{target} is a step: it is over.", hint="Calls and runs can be cancelled.")
        if found.outcome is not None:
            return []
        return await asyncio.to_thread(self._request_cancel, found)

    def _request_cancel(self, found: Run | Call) -> list[str]:
        target = bytes.fromhex(found.id)
        asked = [found.id] if isinstance(found, Call) else self._running_calls(target)
        about: dict[str, Any] = {"run_id" if isinstance(found, Run) else "call_id": target}
        self.ledger.recorder.event("call.cancel_requested", {"by": user_name()}, leaf_data=True, **about)
        self.journal.cancel_requests.post(target)
        if isinstance(found, Run):  # whichever began meanwhile is asked, too
            asked += [call_id for call_id in self._running_calls(target) if call_id not in asked]
        return asked

    def _running_calls(self, run_id: bytes) -> list[str]:
        return [call.id for call in self.index.run_calls(run_id) if call.outcome is None]

    def _look_for_cancellations(self) -> None:
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._watch_cancellations())

    async def _watch_cancellations(self) -> None:
        """While calls run, hear of requests that other processes posted."""
        while self._running:
            await asyncio.sleep(CANCEL_POLL_SECONDS)
            if not self._running:
                return
            pending = await asyncio.to_thread(self.journal.cancel_requests.pending)
            for call_id, (context, _, run) in list(self._running.items()):
                targets = {call_id} if run is None else {call_id, run.run_id}
                for target in targets & pending:
                    context.request_cancel()
                    await asyncio.to_thread(self.journal.cancel_requests.clear, target)

    # -- the end ------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End what still runs, seal the store. A second close does nothing."""
        if self._closed:
            return
        self._closed = True
        for context, _, _ in self._running.values():
            context.request_cancel()
        if self._running:
            await asyncio.wait({task for _, task, _ in self._running.values()}, timeout=CLOSE_SECONDS)
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        await self._launchers.close()
        self._deciding.close()
        await asyncio.to_thread(self._deciding.end)
        self.ledger.close()
        await asyncio.to_thread(self._close_store)
        await asyncio.to_thread(self.walled.close)

    def _close_store(self) -> None:
        self.recording.close()
        for call_id in list(self._machinery.unrecorded):
            with suppress(NotRecorded):  # then the next process that opens the store says so
                self.ledger.recorder.append(unknown_end(self.ledger.recorder, call_id), closes=True)
        if self.notices is not None:
            self.notices.close()
        for end in self.closing:
            end()
        if "index" in self.__dict__:
            self.index.close()
        try:
            self.journal.close()
        except NotRecorded as error:
            if self.recording.settings.on_error == "raise":
                raise
            log.warning("The store could not be closed in order: %s", cause_of(error))


async def _offer(run: RunRecord, tool: str | Callable[..., Any]) -> None:
    """A call to its run, whose start stands before it. Raises RunClosed, NotRecorded."""
    run.takes("call", tool if isinstance(tool, str) else getattr(tool, "__name__", ""), strict=True)
    await run.first.on_record()
    run.tally.call_offered()


def _observed_guards(
    breaker: Breaker,
    policy: Callable[[], Policy],
    deciding: Deciding,
    settings: CallSettings,
    sampler: Sampler,
) -> ObservedGuards:
    """Of calls that their callers run."""
    return ObservedGuards(guards_of_observed(breaker), policy, deciding, settings.scope, sampler.sample)


def _means(
    settings: CallSettings,
    launchers: Launchers,
    undo: "Callable[[], UndoStore]",
    held: "Callable[[], HeldStore]",
    index: "Callable[[], Index]",
) -> Means:
    """What each call is lent."""
    return Means(
        launchers=launchers,
        inherit=InheritedEnvironment(settings.environment, settings.environment_added, secret_name),
        no_new_privs=settings.no_new_privs,
        limits=settings.limits,
        undo=undo,
        held=held,
        index=index,
        watch=settings.watch,
    )
