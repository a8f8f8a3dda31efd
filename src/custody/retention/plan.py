"""What exactly a purge will take, before anything is touched.

Owns the choice of records, what is left out and why, and the ranges in which the statement on the record
names them. A dry run is this and nothing else. Used by `purge`.
"""

from msgspec import Struct

from custody.journal import Cursor, Journal, Stored
from custody.journal.purging import Spot
from custody.records import Leaf, RunFinished, RunStarted, decode_leaf
from custody.retention.selection import (
    EMPTY_PAYLOAD_BYTES,
    Key,
    Search,
    Selection,
    blobs_of,
    key_of,
    says_something,
)
from custody.retention.survey import PROGRESS_RECORDS, Progress, Survey


class Range(Struct):
    """Records of one shard that have nothing more to say: purged now, or without words already."""

    first: int
    last: int
    records: int
    payload_bytes: int


class Left(Struct):
    """Records that were asked for and stay, by why they do."""

    held: int = 0
    open: int = 0
    """Of calls and runs that have not ended."""
    undurable: int = 0
    """Written a moment ago by a process that still runs: the same purge takes them a little later."""


class PurgePlan(Struct, kw_only=True):
    """What a purge takes."""

    selection: Selection
    ranges: dict[int, list[Range]]
    """By shard."""
    spots: dict[int, list[Spot]]
    calls: set[bytes]
    runs: set[bytes]
    records: int
    payload_bytes: int
    blobs: list[bytes]
    """That no remaining record names."""
    left: Left
    leaves_hit: int
    """Leaves in which the text stands: names, reasons, ids. They are kept for ever."""
    unread: int
    rules: dict[str, int]
    durable: dict[int, int]
    cursor: Cursor

    @property
    def empty(self) -> bool:
        return not self.records and not self.blobs


def plan_purge(journal: Journal, selection: Selection, progress: Progress | None = None) -> PurgePlan:
    """Look through the journal twice. Changes nothing. Raises CorruptJournal."""
    search = Search(selection, journal.get_blob) if selection.searches else None
    survey = Survey(journal, search, progress)
    plan = PurgePlan(
        selection=selection,
        ranges={},
        spots={},
        calls=set(),
        runs=set(),
        records=0,
        payload_bytes=0,
        blobs=[],
        left=Left(),
        leaves_hit=survey.leaves_hit,
        unread=0 if search is None else search.unread,
        rules={} if search is None else search.rules,
        durable=survey.durable,
        cursor=survey.cursor,
    )
    choice = _Choice(plan, survey)
    for count, stored in enumerate(journal.follow(), 1):
        if stored.sequence <= survey.last.get(stored.shard, 0):
            choice.take(stored)
        if progress is not None and count % PROGRESS_RECORDS == 0:
            progress(count)
    plan.blobs = [digest for digest, _ in journal.purging.blobs() if digest not in choice.needed]
    return plan


class _Choice:
    """Judges record by record."""

    def __init__(self, plan: PurgePlan, survey: Survey) -> None:
        self._plan = plan
        self._survey = survey
        self._selection = plan.selection
        self.needed: set[bytes] = set()
        """Blobs that what remains names."""
        self._open: dict[int, Range | None] = {}
        """By shard, the range that the next record may belong to."""

    def take(self, stored: Stored) -> None:
        leaf = decode_leaf(stored.kind, stored.leaf)
        if not says_something(stored, leaf):
            if not stored.purged and len(stored.payload) > EMPTY_PAYLOAD_BYTES:
                self._keep(stored)  # one of those that always stay
            return
        if not self._wanted(leaf, key_of(leaf)) or not self._free(stored, leaf):
            self._keep(stored)
            return
        self._choose(stored, leaf)

    def _wanted(self, leaf: Leaf, key: Key) -> bool:
        selection, survey = self._selection, self._survey
        if selection.run_id is not None and survey.run_of(leaf) != selection.run_id:
            return False
        if selection.searches and key not in survey.hits:
            return False
        if selection.before_us is None:
            return True
        ended = survey.ended_us(leaf)
        return ended is not None and ended < selection.before_us

    def _free(self, stored: Stored, leaf: Leaf) -> bool:
        """Whether nothing stands in the way; counts what does."""
        survey, left = self._survey, self._plan.left
        if survey.run_of(leaf) in survey.held:
            left.held += 1
        elif survey.ended_us(leaf) is None and not self._selection.takes_open:
            left.open += 1
        elif stored.sequence > survey.durable.get(stored.shard, 0):
            left.undurable += 1
        else:
            return True
        return False

    def _keep(self, stored: Stored) -> None:
        self._open[stored.shard] = None
        self.needed.update(blobs_of(stored.payload))

    def _choose(self, stored: Stored, leaf: Leaf) -> None:
        plan, shard, size = self._plan, stored.shard, len(stored.payload)
        plan.spots.setdefault(shard, []).append(Spot(stored.segment, stored.offset, stored.sequence))
        plan.records += 1
        plan.payload_bytes += size
        if isinstance(leaf, RunStarted | RunFinished):
            plan.runs.add(leaf.run_id)
        elif (key := key_of(leaf))[:1] == b"c":
            plan.calls.add(key[1:])
        current = self._open.get(shard)
        if current is None:
            current = self._open[shard] = Range(stored.sequence, stored.sequence, 0, 0)
            plan.ranges.setdefault(shard, []).append(current)
        current.last = stored.sequence
        current.records += 1
        current.payload_bytes += size
