"""Records folded into what was spent: each call once, whatever the order its records are read in.

Owns which record counts for what. A call counts from the record of its start on, what it used from the record
of its end; one that was rejected never counts. A call that was reserved counts already, and its start only
takes the reservation's place. Knows nothing of where records come from. Used by `spending`.
"""

from collections.abc import Callable, Iterable

from custody.index.spending_rows import (
    AGENT,
    ASKED,
    COUNTED,
    ENDED,
    RUN,
    SESSION,
    STARTED,
    THE_STORE,
    CallSaid,
    KnownRun,
    Named,
    Scope,
    SpendingRows,
    clamped,
)
from custody.journal import Stored
from custody.records import (
    CallAsked,
    CallFinished,
    CallStarted,
    Leaf,
    Request,
    RunFinished,
    RunStarted,
    Step,
)

CHAIN_MAX = 1_000
"""Runs above a run that are looked at: the deepest nesting a setting allows."""

TELLING = frozenset({"import", "otel"})
"""Doors at which others tell of what they did: nobody spends anything here."""

WENT_WRONG = ("failed", "timed_out")

Names = Callable[[bytes, Request, Stored], Named]
"""What a call named that was not reserved: its id, what was asked, and its first record."""


def no_names(call_id: bytes, request: Request, stored: Stored) -> Named:
    """For whoever counts neither hosts nor what is the same."""
    return Named()


def fold_runs(rows: SpendingRows, leaves: Iterable[Leaf]) -> None:
    """What their starts say: who is above them. Doing it twice changes nothing."""
    rows.do_all(
        "put_run",
        [
            (leaf.run_id, _above(leaf), leaf.session_id, leaf.agent)
            for leaf in leaves
            if isinstance(leaf, RunStarted)
        ],
    )


def _above(leaf: RunStarted) -> bytes | None:
    """A run that others told of stands above itself, which no run does otherwise: that marks it."""
    return leaf.run_id if leaf.door in TELLING else leaf.parent_run_id


def fold(rows: SpendingRows, records: list[tuple[Leaf, Stored]], names: Names) -> None:
    """One batch, whose runs have been folded. Each record once: only the order may be any."""
    folding = _Folding(rows, names)
    for leaf, stored in records:
        if isinstance(leaf, CallAsked):
            folding.asked(leaf, stored)
    for leaf, stored in records:
        if isinstance(leaf, CallStarted):
            folding.started(leaf, stored)
    for leaf, stored in records:
        if isinstance(leaf, CallFinished):
            folding.finished(leaf, stored)
        elif isinstance(leaf, Step):
            folding.step(leaf)
        elif isinstance(leaf, RunFinished):
            rows.do("end_run", leaf.run_id, leaf.at_us)
    rows.flush()


def scopes_of(runs: Iterable[bytes], session: str | None, agent: str | None) -> tuple[Scope, ...]:
    """Everything that a call counts for. Those that name no agent share one, so that none gets away."""
    named = () if session is None else ((SESSION, session),)
    return (*((RUN, run) for run in runs), *named, (AGENT, agent or ""), THE_STORE)


class _Folding:
    """The calls of one batch."""

    def __init__(self, rows: SpendingRows, names: Names) -> None:
        self._rows = rows
        self._names = names
        self._runs: dict[bytes, KnownRun | None] = {}

    def asked(self, leaf: CallAsked, stored: Stored) -> None:
        if self._rows.call(leaf.call_id) is None:
            said = self._said(leaf.call_id, leaf.request, stored)
            self._rows.put_call(leaf.call_id, ASKED, leaf.request.asked_at_us, said)

    def started(self, leaf: CallStarted, stored: Stored) -> None:
        rows = self._rows
        found = rows.call(leaf.call_id)
        if found is None:
            known = CallSaid() if leaf.request is None else self._said(leaf.call_id, leaf.request, stored)
            found = 0, leaf.at_us, known
        flags, at_us, said = found
        if flags & STARTED:
            return
        if flags & ENDED and leaf.request is not None:
            kept = said
            said, at_us = self._said(leaf.call_id, leaf.request, stored), leaf.at_us
            said.used, said.outcome, said.ended_us = kept.used, kept.outcome, kept.ended_us
        if not said.scopes:
            said.scopes = (THE_STORE,)  # its question is not to be found: it counts for what is sure
        if not flags & COUNTED:
            at_us = leaf.at_us
            rows.count(said, at_us)
            rows.count_named(said, at_us)
        if flags & ENDED:
            self._end(leaf.call_id, flags | COUNTED, at_us, said)
        else:
            rows.put_call(leaf.call_id, flags | COUNTED | STARTED, at_us, said)

    def finished(self, leaf: CallFinished, stored: Stored) -> None:
        rows = self._rows
        found = rows.call(leaf.call_id)
        if leaf.outcome == "rejected" and (found is None or not found[0] & COUNTED):
            # Before its start is read, if there is one: such a start is counted, as nobody can tell any more.
            rows.do("drop_call", leaf.call_id)
            return
        if found is None and leaf.source == "imported":
            return  # no act here: who tells of others' calls uses up nobody's budget and begins no sequence
        if found is None and leaf.request is not None:
            found = 0, leaf.at_us, self._said(leaf.call_id, leaf.request, stored)
            rows.count(found[2], leaf.at_us)
            rows.count_named(found[2], leaf.at_us)
            found = COUNTED | STARTED, *found[1:]
        flags, at_us, said = (0, leaf.at_us, CallSaid()) if found is None else found
        if flags & ENDED:
            return
        said.used, said.outcome, said.ended_us = _used(leaf), leaf.outcome, leaf.at_us
        if flags & STARTED or leaf.outcome == "rejected":
            self._end(leaf.call_id, flags, at_us, said)
        else:
            rows.put_call(leaf.call_id, flags | ENDED, at_us, said)

    def _end(self, call_id: bytes, flags: int, at_us: int, said: CallSaid) -> None:
        """Start and end are known: what it used counts, and nothing more will come of it."""
        rows = self._rows
        assert flags & COUNTED and said.used is not None, "it was counted when it started"
        rows.do("drop_call", call_id)
        if said.outcome == "rejected":
            rows.uncount(call_id, said, at_us)
            return
        rows.add(said.scopes, said.ended_us, said.used)
        if said.outcome == "succeeded" and not said.dry_run:
            rows.do_all(
                "used_tool", [(*scope, said.tool, said.effect, said.ended_us) for scope in said.scopes]
            )
        own = next((key for scope, key in said.scopes if scope == RUN), None)
        run = None if own is None else self._run(own)
        if own is not None and run is not None:
            streak = run.streak + 1 if said.outcome in WENT_WRONG else 0
            if streak != run.streak:
                run.streak = streak
                rows.do("set_streak", own, streak)

    def step(self, leaf: Step) -> None:
        tokens = leaf.tokens
        counted = 0 if tokens is None else clamped(tokens.input) + clamped(tokens.output)
        cost = clamped(leaf.cost_nano_usd)
        if counted or cost:
            run = self._run(leaf.run_id) or KnownRun()
            if run.parent == leaf.run_id:
                return  # told by others, as `finished` has it of their calls
            scopes = scopes_of(self._chain(leaf.run_id), run.session, leaf.agent or run.agent)
            self._rows.add(scopes, leaf.at_us, (0, 0, 0, 0, 0, 0, counted, cost, 0))

    # -- who it is of -----------------------------------------------------------------------------------

    def _said(self, call_id: bytes, request: Request, stored: Stored) -> CallSaid:
        run_id = request.run_id
        run = None if run_id is None else self._run(run_id)
        session, agent = request.session_id, request.agent
        if run is not None:
            session, agent = session or run.session, agent or run.agent
        named = self._names(call_id, request, stored)
        return CallSaid(
            scopes=scopes_of(() if run_id is None else self._chain(run_id), session, agent),
            tool=request.tool,
            effect=request.effect,
            dry_run=request.dry_run,
            loop_key=session if run_id is None else run_id,
            digest=named.digest,
            hosts=named.hosts,
        )

    def _chain(self, run_id: bytes) -> list[bytes]:
        """The run, the one above it, and so on."""
        chain = [run_id]
        while len(chain) < CHAIN_MAX:
            run = self._run(chain[-1])
            if run is None or run.parent is None or run.parent in chain:
                break
            chain.append(run.parent)
        return chain

    def _run(self, run_id: bytes) -> KnownRun | None:
        if run_id not in self._runs:
            self._runs[run_id] = self._rows.run(run_id)
        return self._runs[run_id]


def _used(leaf: CallFinished) -> tuple[int, ...]:
    """What the end of a call says it used, in the order of AMOUNTS."""
    usage = leaf.usage
    wall_us, cpu_us, output_bytes = leaf.latency_us, 0, 0
    if usage is not None:
        wall_us = usage.wall_us if usage.wall_us is not None else wall_us
        cpu_us = clamped(usage.user_us) + clamped(usage.system_us)
        output_bytes = clamped(usage.stdout_bytes) + clamped(usage.stderr_bytes)
    failures = int(leaf.outcome in WENT_WRONG)
    return (0, 0, failures, clamped(wall_us), cpu_us, output_bytes, 0, 0, clamped(leaf.changes))
