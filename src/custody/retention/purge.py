"""A purge carried out: said first, then done, in steps that can all be repeated.

Owns their order. The statement is durable before the first byte is zeroed, and an intent stands in the
folder of purges until the last step is through: who opens the store after a crash goes on from there
(`finish`). Used by the command line and the keeper.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from custody.errors import PurgeRefused
from custody.journal import Cursor
from custody.journal.purging import Spot
from custody.retention.means import Means
from custody.retention.plan import PurgePlan
from custody.retention.statement import intent_of, new_purge_id, state_purge
from custody.retention.sweep import sweep


class Purged(Struct, kw_only=True):
    """What a purge did."""

    purge_id: str | None
    """As the event `store.purged` names it; None where there was nothing to do."""
    records: int = 0
    payload_bytes: int = 0
    leftover_bytes: int = 0
    """Zeroed where no reader comes: what crashes and failed syncs had left behind."""
    blobs: int = 0
    blob_bytes: int = 0
    index_clean: bool = True
    """False: another process kept the index from being emptied; whoever opens the store next tries again."""


def carry_out(means: Means, plan: PurgePlan, *, reason: str | None = None) -> Purged:
    """Do what the plan says. The caller holds the right to purge since before the plan was made.

    Raises NotRecorded (then nothing was touched), OSError, CorruptJournal.
    """
    if plan.empty:
        return Purged(purge_id=None)
    check_reason(plan.selection.text, reason)
    recorder = means.make_recorder()
    purge_id = new_purge_id()
    journal = means.journal
    intent = intent_of(journal, purge_id, "purge")
    journal.purging.begin(intent)
    try:
        state_purge(recorder, plan, purge_id, reason)
    except BaseException:
        journal.purging.end(intent)
        raise
    done = Purged(purge_id=purge_id, records=plan.records, payload_bytes=plan.payload_bytes)
    zero(means, plan.spots, done, plan.durable)
    forget(means, plan.calls, plan.blobs, plan.cursor, done)
    if done.index_clean:
        journal.purging.end(intent)
    return done


def zero(means: Means, spots: Mapping[int, Iterable[Spot]], done: Purged, durable: Mapping[int, int]) -> None:
    """The payloads, and what lies where no reader comes."""
    purging = means.journal.purging
    for shard, wanted in spots.items():
        purging.purge(shard, wanted)
    for shard in purging.shards():
        done.leftover_bytes += purging.clear_dead(shard, durable.get(shard, 0))


def forget(
    means: Means, calls: Iterable[bytes], blobs: Iterable[bytes], cursor: Cursor, done: Purged
) -> None:
    """What was made of the payloads elsewhere."""
    done.blobs, done.blob_bytes = sweep(means.journal, blobs, cursor)
    means.forget_undo(calls)
    done.index_clean = means.index.forget()


def check_reason(text: str | None, reason: str | None) -> None:
    """Raises PurgeRefused for a reason that says what is to be forgotten."""
    if text and reason and text in reason:
        raise PurgeRefused(
            "The reason has the text in it, and it is kept for ever.", hint="Say it in other words."
        )
