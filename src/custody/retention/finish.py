"""Purges that a crash cut short are finished by whoever opens the store next.

Owns what is still to be done, which the intent and the statement on the record say: all steps are taken
again, those that were through change nothing. A purge whose statement never became whole has touched
nothing, and is forgotten. Used by `compose` and before each new purge.
"""

from bisect import bisect_right

from custody.journal.purging import Intent, Spot
from custody.records import decode_leaf
from custody.retention.drop import finish_drop
from custody.retention.means import Means
from custody.retention.purge import Purged, zero
from custody.retention.selection import key_of, says_something
from custody.retention.statement import Statement, read_statement
from custody.retention.survey import Survey
from custody.retention.sweep import sweep_all


def finish_purges(means: Means, *, locked: bool = False) -> int:
    """Returns how many were finished. `locked`: the caller holds the right to purge; else nothing is done
    while another process has it. Raises OSError, CorruptJournal, NotRecorded."""
    purging = means.journal.purging
    if not purging.begun():
        return 0
    lock = None if locked else purging.lock()
    if lock is None and not locked:
        return 0
    try:
        return sum(_finish(means, intent) for intent in purging.begun())
    finally:
        if lock is not None:
            lock.release()


def _finish(means: Means, intent: Intent) -> bool:
    statement = read_statement(means.journal, intent)
    if not statement.whole:
        means.journal.purging.end(intent)
        return False
    if intent.what == "drop":
        over = finish_drop(means, statement)
    else:
        over = _finish_purge(means, statement)
    if over:
        means.journal.purging.end(intent)
    return over


def _finish_purge(means: Means, statement: Statement) -> bool:
    """Whether nothing is left to be done."""
    journal = means.journal
    durable = Survey(journal).durable
    spots: dict[int, list[Spot]] = {}
    calls: set[bytes] = set()
    over = True
    for shard, ranges in statement.ranges().items():
        ranges = sorted(ranges)
        for stored in journal.follow(only_shard=shard):
            if not _within(stored.sequence, ranges):
                continue
            leaf = decode_leaf(stored.kind, stored.leaf)
            if not stored.purged and not says_something(stored, leaf):
                continue
            if stored.sequence > durable.get(shard, 0):
                over = False  # a power loss took the claim with it; the shard's next writer makes it again
                continue
            spots.setdefault(shard, []).append(Spot(stored.segment, stored.offset, stored.sequence))
            if (key := key_of(leaf))[:1] == b"c":
                calls.add(key[1:])
    zero(means, spots, Purged(purge_id=None), durable)
    means.forget_undo(calls)
    sweep_all(journal)
    return means.index.forget() and over


def _within(sequence: int, ranges: list[tuple[int, int]]) -> bool:
    """`ranges` are in order and apart."""
    position = bisect_right(ranges, sequence, key=lambda one: one[0])
    return position > 0 and sequence <= ranges[position - 1][1]
