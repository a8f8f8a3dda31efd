"""The first look through a journal: what has ended and when, what is held, where something is found.

Owns the facts a plan is made of, and how much of each shard is durable. One pass over all records; keeps
a few words for each call and run. Knows nothing of what will be purged. Used by `plan` and `drop`.
"""

from collections.abc import Callable

from custody.journal import Cursor, Journal, Stored
from custody.records import (
    CallAsked,
    CallFinished,
    CallStarted,
    Event,
    Leaf,
    RunFinished,
    RunStarted,
    Step,
    decode_leaf,
)
from custody.retention.selection import Key, Search, key_of, says_something

Progress = Callable[[int], None]
"""Told the number of records read so far."""

PROGRESS_RECORDS = 10_000

HELD, RELEASED = "run.held", "run.released"


class Seen:
    """A call or run as its records tell it."""

    __slots__ = ("ended_us", "run_id")

    def __init__(self) -> None:
        self.run_id: bytes | None = None
        self.ended_us: int | None = None


class Survey:
    """What one pass over the journal found."""

    def __init__(
        self, journal: Journal, search: Search | None = None, progress: Progress | None = None
    ) -> None:
        """Reads all of it. Raises CorruptJournal."""
        self.calls: dict[bytes, Seen] = {}
        self.runs: dict[bytes, Seen] = {}
        self.held: set[bytes] = set()
        self.hits: set[Key] = set()
        self.leaves_hit = 0
        """Leaves in which the text stands, where it stays."""
        self.durable: dict[int, int] = {}
        """Shard -> the last record that is provably durable."""
        self.last: dict[int, int] = {}
        """Shard -> the last record that was seen."""
        self._holds: dict[bytes, tuple[int, bool]] = {}
        self._search = search
        following = journal.follow()
        for count, stored in enumerate(following, 1):
            self._take(stored)
            if progress is not None and count % PROGRESS_RECORDS == 0:
                progress(count)
        self.cursor: Cursor = following.cursor
        for shard in self.last:
            self.durable[shard] = max(self.durable.get(shard, 0), journal.purging.claimed(shard))
        own = journal.durable_tree()
        if own is not None:
            self.durable[own[0]] = max(self.durable.get(own[0], 0), own[1].size)
        self.held = {run_id for run_id, (_, held) in self._holds.items() if held}

    def run_of(self, leaf: Leaf) -> bytes | None:
        """The run a record belongs to."""
        if isinstance(leaf, RunStarted | RunFinished | Step):
            return leaf.run_id
        if isinstance(leaf, Event) and (leaf.run_id is not None or leaf.call_id is None):
            return leaf.run_id
        assert leaf.call_id is not None, "the rest are of calls"
        call = self.calls.get(leaf.call_id)
        return None if call is None else call.run_id

    def ended_us(self, leaf: Leaf) -> int | None:
        """When that which a record belongs to was over; None while it is not."""
        if isinstance(leaf, Step):
            return leaf.at_us
        if isinstance(leaf, Event):
            call = None if leaf.call_id is None else self.calls.get(leaf.call_id)
            return leaf.at_us if call is None else call.ended_us
        if isinstance(leaf, RunStarted | RunFinished):
            run = self.runs.get(leaf.run_id)
            return None if run is None else run.ended_us
        call = self.calls.get(leaf.call_id)
        return None if call is None else call.ended_us

    def _take(self, stored: Stored) -> None:
        leaf = decode_leaf(stored.kind, stored.leaf)
        self.last[stored.shard] = stored.sequence
        claim = stored.sequence - stored.unsynced
        if claim > self.durable.get(stored.shard, 0):
            self.durable[stored.shard] = claim
        if isinstance(leaf, RunStarted | RunFinished):
            run = self.runs.setdefault(leaf.run_id, Seen())
            run.run_id = leaf.run_id
            if isinstance(leaf, RunFinished):
                run.ended_us = _earlier(run.ended_us, leaf.at_us)
        elif isinstance(leaf, CallAsked | CallStarted | CallFinished):
            call = self.calls.setdefault(leaf.call_id, Seen())
            if leaf.request is not None:
                call.run_id = leaf.request.run_id
            if isinstance(leaf, CallFinished):
                call.ended_us = _earlier(call.ended_us, leaf.at_us)
        elif isinstance(leaf, Event) and leaf.name in (HELD, RELEASED):
            self._note_hold(leaf)
        search = self._search
        if search is None:
            return
        if search.in_leaf(stored.leaf):
            self.leaves_hit += 1
        if says_something(stored, leaf) and search.hits(stored.payload):
            self.hits.add(key_of(leaf))

    def _note_hold(self, leaf: Event) -> None:
        """The latest says; of two at once the hold."""
        if leaf.run_id is not None:
            said = (leaf.at_us, leaf.name == HELD)
            self._holds[leaf.run_id] = max(said, self._holds.get(leaf.run_id, (0, False)))


def _earlier(one: int | None, other: int) -> int:
    return other if one is None else min(one, other)
