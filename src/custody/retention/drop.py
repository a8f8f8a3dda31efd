"""Segments dropped as a whole: the way to forget that anything was ever recorded before a time.

Owns which segments may go (whole ones at a shard's beginning, all of it over before the time, nothing held,
nothing that has not ended) and the order of steps: what still matters of them is said again, the roots of
their subtrees are stated and signed, then readers begin behind them, then the files go. Used by the command
line.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from custody.errors import PurgeRefused
from custody.journal import Journal, Stored
from custody.journal.dropped import Dropped
from custody.journal.frames import decode_commit
from custody.journal.segments import Segment
from custody.records import Event, Leaf, RunStarted, decode_leaf, rfc3339
from custody.retention.means import Means
from custody.retention.purge import Purged
from custody.retention.selection import key_of
from custody.retention.statement import (
    DROPPED,
    PURGED,
    Statement,
    intent_of,
    new_purge_id,
)
from custody.retention.survey import PROGRESS_RECORDS, Progress, Survey
from custody.retention.sweep import sweep_all

SAID_AGAIN = frozenset(
    {
        "key.created", PURGED, DROPPED, "redaction.allowed", "redaction.disallowed", "policy.unpaused",
        "grant.revoked", "grant.used", "answer.used",
    }
)  # fmt: skip
"""Events that others are judged by for as long as those are there."""


class Going(Struct, kw_only=True):
    """The segments of one shard that go."""

    shard: int
    first: int
    last: int
    first_kept: int
    root: str
    frontier: tuple[str, ...]
    previous_id: str
    records: int = 0
    bytes: int = 0

    def dropped(self, purge_id: str) -> Dropped:
        return Dropped(
            purge_id=purge_id,
            shard=self.shard,
            segments=(self.first, self.last),
            first_kept=self.first_kept,
            size=self.first_kept - 1,
            root=self.root,
            frontier=self.frontier,
            previous_id=self.previous_id,
        )


class DropPlan(Struct, kw_only=True):
    """What goes."""

    before_us: int
    shards: list[Going]
    calls: set[bytes]
    runs: set[bytes]
    again: list[tuple[str, dict[str, Any]]]
    """Name and data of events that are recorded anew."""

    @property
    def records(self) -> int:
        return sum(going.records for going in self.shards)

    @property
    def bytes(self) -> int:
        return sum(going.bytes for going in self.shards)


def plan_drop(journal: Journal, before_us: int, progress: Progress | None = None) -> DropPlan:
    """Look through the journal twice. Changes nothing. Raises CorruptJournal."""
    survey = Survey(journal, None, progress)
    plan = DropPlan(before_us=before_us, shards=[], calls=set(), runs=set(), again=[])
    for shard in journal.purging.shards():
        segments = journal.purging.segments(shard)
        stays = _first_that_stays(journal, shard, survey, before_us, progress)
        going = [segment for segment in segments[:-1] if segment.index < stays]
        while going and not _over(segments[len(going)], survey.durable.get(shard, 0)):
            going.pop()
        if going:
            plan.shards.append(_going(shard, going, segments[len(going)]))
    _gather(journal, plan, survey)
    return plan


def _first_that_stays(
    journal: Journal, shard: int, survey: Survey, before_us: int, progress: Progress | None
) -> int:
    """Index of the first segment with a record that has to stay."""
    index = 0
    for count, stored in enumerate(journal.follow(only_shard=shard), 1):
        index = stored.segment
        if not _may_go(decode_leaf(stored.kind, stored.leaf), survey, before_us):
            return index
        if progress is not None and count % PROGRESS_RECORDS == 0:
            progress(count)
    return index


def _may_go(leaf: Leaf, survey: Survey, before_us: int) -> bool:
    ended = survey.ended_us(leaf)
    if ended is None or ended >= before_us:
        return False
    run_id = survey.run_of(leaf)
    if run_id is None:
        return True
    run = survey.runs.get(run_id)
    return run_id not in survey.held and (run is None or run.ended_us is not None)


def _over(following: Segment, durable: int) -> bool:
    """Whether a record of the segment that follows is durable: its writer has left those before for good."""
    return following.first is not None and following.first.sequence <= durable


def _going(shard: int, going: list[Segment], following: Segment) -> Going:
    assert following.first is not None, "it counts"
    commit = decode_commit(following.first)
    assert commit is not None and commit.frontier is not None, "a segment's first frame has the frontier"
    return Going(
        shard=shard,
        first=going[0].index,
        last=following.index - 1,
        first_kept=following.first.sequence,
        root=commit.root.hex(),
        frontier=tuple(node.hex() for node in commit.frontier),
        previous_id=following.header.previous_id.hex(),
        bytes=sum(segment.header.size_bytes for segment in going),
    )


def _gather(journal: Journal, plan: DropPlan, survey: Survey) -> None:
    """What is in those segments, and of it what has to be said again."""
    for going in plan.shards:
        for stored in journal.follow(only_shard=going.shard):
            if stored.sequence >= going.first_kept:
                break
            going.records += 1
            leaf = decode_leaf(stored.kind, stored.leaf)
            if (key := key_of(leaf))[:1] == b"c":
                plan.calls.add(key[1:])
            elif isinstance(leaf, RunStarted):
                plan.runs.add(leaf.run_id)
            elif isinstance(leaf, Event) and leaf.name in SAID_AGAIN and leaf.data is not None:
                _say_again(plan, stored, leaf)


def _say_again(plan: DropPlan, stored: Stored, leaf: Event) -> None:
    assert leaf.data is not None, "asked before"
    place = {"shard": stored.shard, "sequence": stored.sequence, "at_us": leaf.at_us}
    plan.again.append((leaf.name, {**leaf.data, "said_first": leaf.data.get("said_first", place)}))


# -- doing it -------------------------------------------------------------------------------------------


def drop_segments(means: Means, plan: DropPlan, *, reason: str | None = None) -> Purged:
    """Do what the plan says. The caller holds the right to purge since before the plan was made.

    Raises PurgeRefused where nothing can be signed, NotRecorded, OSError.
    """
    if not plan.shards:
        return Purged(purge_id=None)
    if means.seal is None:
        raise PurgeRefused("Nothing can be signed here, so nothing is dropped.")
    recorder = means.make_recorder()
    _check_signed(plan, means.seal())
    journal, purge_id = means.journal, new_purge_id()
    intent = intent_of(journal, purge_id, "drop")
    journal.purging.begin(intent)
    try:
        for name, data in plan.again:
            recorder.event(name, data, leaf_data=True, essential=True)
        for number, going in enumerate(plan.shards, 1):
            data = msgspec.to_builtins(going.dropped(purge_id)) | {
                "by": {"before": rfc3339(plan.before_us)},
                "reason": reason,
                "records": going.records,
                "part": number,
                "parts": len(plan.shards),
            }
            receipt = recorder.event(DROPPED, data, leaf_data=True, essential=True)
            receipt.wait_durable()
        means.seal()
    except BaseException:
        journal.purging.end(intent)
        raise
    done = Purged(purge_id=purge_id, records=plan.records)
    _drop(means, [going.dropped(purge_id) for going in plan.shards], plan.calls, done)
    if done.index_clean:
        journal.purging.end(intent)
    return done


def _check_signed(plan: DropPlan, signed: Mapping[int, int]) -> None:
    """Raises PurgeRefused: what is gone could never have been checked."""
    for going in plan.shards:
        if signed.get(going.shard, 0) < going.first_kept - 1:
            raise PurgeRefused(
                f"Shard {going.shard} is not signed up to record {going.first_kept - 1}; nothing is dropped.",
                hint="The process that writes to it signs it within seconds, or when it ends.",
            )


def finish_drop(means: Means, statement: Statement) -> bool:
    """After a crash: whether nothing is left to be done."""
    every = [msgspec.convert(part, Dropped, strict=False) for part in statement.parts]
    begun = [means.journal.purging.dropped(one.shard) for one in every]
    if not any(one is not None and one.purge_id == every[0].purge_id for one in begun):
        if means.seal is None:
            return False  # whoever can sign does it
        means.seal()
    done = Purged(purge_id=every[0].purge_id)
    _drop(means, every, (), done)
    return done.index_clean


def _drop(means: Means, every: list[Dropped], calls: Iterable[bytes], done: Purged) -> None:
    for one in every:
        done.payload_bytes += means.journal.purging.drop(one)
    done.blobs, done.blob_bytes = sweep_all(means.journal)
    means.forget_undo(calls)
    done.index_clean = means.index.forget()
