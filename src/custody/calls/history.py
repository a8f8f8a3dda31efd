"""The calls a journal holds, in the order they were made, over all of its shards at once.

Owns that order, what a call inherits from its run, and whether its arguments are there to be looked at. Knows
nothing of rules. Reads the journal straight through and keeps no more than the runs that are under way. Used
by `replay`.
"""

import heapq
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

import msgspec
from msgspec import Struct

from custody.errors import CorruptJournal, StoreError
from custody.index.spending_fold import TELLING
from custody.journal import Journal, Stored
from custody.records import (
    LEAF_TYPES,
    CallAsked,
    CallFinished,
    CallStarted,
    Kind,
    Leaf,
    Redaction,
    Request,
    RunStarted,
    Step,
    decode_payload,
)
from custody.redaction import MARK_KEYS

Was = Literal["allowed", "asked", "refused", "unreached"]
"""What became of a call when it was made: it ran unasked, somebody was asked, a rule or a budget refused it,
or something refused it that no rule is asked about."""

Missing = Literal["purged", "redacted", "not_kept"]
"""Why the arguments of a call cannot be looked at."""

RUNS_MAX = 20_000
"""Runs remembered for what their calls inherit: a store has far fewer under way at once. Of a run that is
forgotten nothing is known, and nothing is guessed."""

KINDS = (Kind.RUN_STARTED, Kind.CALL_ASKED, Kind.CALL_STARTED, Kind.CALL_FINISHED)

UNREACHED = frozenset({"schema", "path", "resources", "error"})

_TELLTALE = re.compile(rb"\[redacted:|\$(?:type|blob|digest|omitted)")
"""Without any of these bytes a payload has neither tokens nor marks in it."""

_TOKEN = "[redacted:"


class RunSeen(Struct, kw_only=True):
    """What is known of a run whose calls are being read."""

    run_id: bytes
    agent: str | None = None
    caller: str | None = None
    session_id: str | None = None
    workspace: str | None = None
    parent: "RunSeen | None" = None
    told: bool = False
    """By others, of what they did elsewhere: that was nothing of ours to spend."""


class RecordedCall(Struct, frozen=True, kw_only=True, eq=False, gc=False):
    """The first record of a call: what was asked for, by whom, and what became of that."""

    call_id: bytes
    at_us: int
    request: Request
    was: Was
    run: RunSeen | None
    """None outside a run, and where the run's beginning is not there to be read."""
    redactions: tuple[Redaction, ...]
    stored: Stored

    @property
    def agent(self) -> str | None:
        return self.request.agent or (None if self.run is None else self.run.agent)

    @property
    def caller(self) -> str | None:
        return self.request.caller or (None if self.run is None else self.run.caller)

    @property
    def session_id(self) -> str | None:
        return self.request.session_id or (None if self.run is None else self.run.session_id)

    @property
    def workspace(self) -> str | None:
        return self.request.workspace or (None if self.run is None else self.run.workspace)

    @property
    def run_lost(self) -> bool:
        """It was made in a run of which nothing can be read."""
        return self.run is None and self.request.run_id is not None

    @property
    def names_redacted(self) -> bool:
        """Something is replaced in the leaf itself: its tool, agent or session may read otherwise."""
        return any(redaction.path == "leaf" for redaction in self.redactions)


class Said(Struct, frozen=True, gc=False):
    """What the payload of a call's first record has to say."""

    arguments: Mapping[str, Any] | None = None
    missing: Missing | None = None
    """Why the arguments are not there, or not as they were."""
    cwd: str | None = None
    left: Mapping[str, Any] | None = None
    """Arguments in which something was replaced, as they stand there."""


Entry = tuple[int, int, int, Leaf, Stored]
"""When it was recorded, its shard and sequence, the leaf and the whole frame."""


class History:
    """Everything that bears on calls, in the order it happened. Iterate once.

    `damage` is what cannot be read of the journal, once all that can be has been given.
    """

    def __init__(self, journal: Journal, *, steps: bool = False) -> None:
        """With `steps`, those are given too: only whoever counts tokens or cost wants them."""
        self._journal = journal
        kinds = (*KINDS, Kind.STEP) if steps else KINDS
        self._decoders = {kind.value: msgspec.msgpack.Decoder(LEAF_TYPES[kind]) for kind in kinds}
        """By plain number: to make a `Kind` of it, for each record, costs as much as decoding."""
        self._runs: OrderedDict[bytes, RunSeen] = OrderedDict()
        self.records = 0
        self.damage: CorruptJournal | None = None

    def __iter__(self) -> Iterator[RecordedCall | tuple[int, CallFinished | Step]]:
        """Calls as they were made; the ends of calls and the steps with the time they were recorded at.

        Raises StoreError for a record of a newer Custody.
        """
        shards = [self._shard(state.shard) for state in self._journal.shards()]
        for at_us, _, _, leaf, stored in heapq.merge(*shards):
            self.records += 1
            if type(leaf) is RunStarted:
                self._began(leaf)
            elif (type(leaf) is CallFinished and leaf.request is None) or type(leaf) is Step:
                yield at_us, leaf
            elif isinstance(leaf, CallAsked | CallStarted | CallFinished):
                call = self._call(at_us, leaf, stored)
                if call is not None:
                    yield call
                if type(leaf) is CallFinished and leaf.outcome != "rejected":
                    yield at_us, leaf  # told of afterwards: its only record is its end as well

    def run_of(self, run_id: bytes | None) -> RunSeen | None:
        return None if run_id is None else self._runs.get(run_id)

    def said(self, call: RecordedCall) -> Said:
        """What the call was given. Raises nothing: what cannot be read is missing."""
        return self.said_in(call.stored)

    def said_in(self, stored: Stored) -> Said:
        """The same of its first record."""
        if stored.purged:
            return Said(missing="purged")
        try:
            payload = decode_payload(stored.payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Said(missing="not_kept")
        if payload is None:
            return Said(missing="not_kept")
        cwd = payload.get("cwd")
        cwd = cwd if isinstance(cwd, str) else None
        arguments, missing = payload.get("arguments"), None
        if _TELLTALE.search(stored.payload) is not None:
            arguments, missing = self._looked_through(arguments)
        if missing is not None or not isinstance(arguments, dict):
            left = cast("dict[str, Any]", arguments) if missing == "redacted" else None
            return Said(missing=missing or "not_kept", cwd=cwd, left=left)
        return Said(arguments=cast("dict[str, Any]", arguments), cwd=cwd)

    # -- the order ------------------------------------------------------------------------------------

    def _shard(self, number: int) -> Iterator[Entry]:
        """One shard's records. A clock that was put back does not change their order."""
        latest, last = 0, 0
        decoder_of = self._decoders.get
        try:
            for stored in self._journal.follow(only_shard=number):
                decoder = decoder_of(stored.kind)
                if decoder is None or stored.sequence <= last:
                    continue
                last = stored.sequence
                try:
                    leaf = decoder.decode(stored.leaf)
                except (msgspec.DecodeError, ValueError) as error:
                    raise _unreadable(number, last) from error
                at_us = leaf.request.asked_at_us if type(leaf) is CallAsked else cast("Any", leaf).at_us
                if at_us > latest:
                    latest = at_us
                yield latest, number, last, leaf, stored
        except CorruptJournal as damage:
            self.damage = self.damage or damage

    # -- runs and calls -------------------------------------------------------------------------------

    def _began(self, leaf: RunStarted) -> None:
        self._runs[leaf.run_id] = RunSeen(
            run_id=leaf.run_id,
            agent=leaf.agent,
            caller=leaf.caller,
            session_id=leaf.session_id,
            workspace=leaf.workspace,
            parent=self.run_of(leaf.parent_run_id),
            told=leaf.door in TELLING,
        )
        if len(self._runs) > RUNS_MAX:
            self._runs.popitem(last=False)

    def _call(
        self, at_us: int, leaf: CallAsked | CallStarted | CallFinished, stored: Stored
    ) -> RecordedCall | None:
        request = leaf.request
        if request is None:
            return None  # asked before: that was its first record
        run = self.run_of(request.run_id)
        if run is not None:
            self._runs.move_to_end(run.run_id)
        return RecordedCall(
            call_id=leaf.call_id,
            at_us=at_us,
            request=request,
            was=_was(leaf, request),
            run=run,
            redactions=leaf.redactions,
            stored=stored,
        )

    # -- arguments ------------------------------------------------------------------------------------

    def _looked_through(self, arguments: Any) -> tuple[Any, Missing | None]:
        """The arguments, from their blob where they lie in one, and what keeps them from being looked at."""
        named = cast("dict[str, Any]", arguments) if isinstance(arguments, dict) else {}
        if "$blob" not in named:
            return cast("Any", arguments), _missing_in(arguments)
        try:
            data = self._journal.get_blob(bytes.fromhex(named["$blob"]))
            arguments = None if data is None else msgspec.msgpack.decode(data)
        except (CorruptJournal, msgspec.DecodeError, ValueError, TypeError):
            return None, "not_kept"
        return arguments, "purged" if data is None else _missing_in(arguments)


def _unreadable(shard: int, sequence: int) -> StoreError:
    return StoreError(
        f"Record {sequence} of shard {shard} cannot be read by this Custody.",
        hint="It was probably written by a newer one: upgrade, or read the store with that one.",
    )


def _was(leaf: CallAsked | CallStarted | CallFinished, request: Request) -> Was:
    by, verdict = request.decision.by, request.decision.verdict
    if isinstance(leaf, CallAsked) or by == "person" or (by == "nobody" and verdict != "allow"):
        return "asked"
    if isinstance(leaf, CallStarted) or leaf.outcome != "rejected":
        return "allowed"
    if by == "error" and request.decision.rule is not None:
        return "refused"  # a rule that failed is a rule all the same
    return "unreached" if by in UNREACHED else "refused"


def _missing_in(value: Any) -> Missing | None:
    """Whether a token or a mark stands anywhere in it. Payloads are bounded, and so is their depth."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            if _TOKEN in item:
                return "redacted"
        elif isinstance(item, dict):
            named = cast("dict[str, Any]", item)
            if not MARK_KEYS.isdisjoint(named):
                return "not_kept"
            waiting += named
            waiting += named.values()
        elif isinstance(item, list):
            waiting += cast("list[Any]", item)
    return None
