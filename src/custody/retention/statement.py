"""What the record says of a purge: written before it begins, read again where a crash cut it short.

Owns the form of the events `store.purged` and `store.dropped` and how a long list becomes several events.
Used by `purge`, `drop` and `finish`.
"""

import os
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from custody.journal import Cursor, Journal, Receipt
from custody.journal.purging import Intent
from custody.recorder import Recorder
from custody.records import Event, Kind, decode_leaf
from custody.retention.plan import PurgePlan, Range

PURGED, DROPPED = "store.purged", "store.dropped"

RANGES_MAX = 400
"""In one event: some 5 KiB of leaf, which the room that is kept on a full disk holds."""

PURGE_ID_BYTES = 8


class Statement(Struct, frozen=True):
    """What was said, in one or more events."""

    parts: list[dict[str, Any]]

    @property
    def whole(self) -> bool:
        """Whether all of it was said before the crash: only then has anything been zeroed."""
        return bool(self.parts) and len(self.parts) == self.parts[0].get("parts", 1)

    def ranges(self) -> dict[int, list[tuple[int, int]]]:
        """Shard -> first and last sequence of what was purged."""
        found: dict[int, list[tuple[int, int]]] = {}
        for part in self.parts:
            for shard, ranges in part["shards"].items():
                found.setdefault(int(shard), []).extend((first, last) for first, last in ranges)
        return found


def new_purge_id() -> str:
    return os.urandom(PURGE_ID_BYTES).hex()


def intent_of(journal: Journal, purge_id: str, what: str) -> Intent:
    """Of a statement that is about to be made by this process."""
    shard, place = journal.here()
    return Intent(purge_id, what, shard, place)


def state_purge(recorder: Recorder, plan: PurgePlan, purge_id: str, reason: str | None) -> None:
    """Durably. Raises NotRecorded."""
    wanted = list(_parts(plan))
    receipt: Receipt | None = None
    for number, (shards, records, payload_bytes) in enumerate(wanted, 1):
        data: dict[str, Any] = {
            "purge_id": purge_id,
            "by": plan.selection.stated(),
            "reason": reason,
            "shards": shards,
            "records": records,
            "payload_bytes": payload_bytes,
            "blobs": len(plan.blobs) if number == 1 else 0,
            "part": number,
            "parts": len(wanted),
        }
        if plan.rules:
            data["rules"] = plan.rules
        receipt = recorder.event(PURGED, data, leaf_data=True, essential=True)
    assert receipt is not None, "there is at least one part"
    receipt.wait_durable()


def read_statement(journal: Journal, intent: Intent) -> Statement:
    """What was said of it; nothing where its process died before. Raises CorruptJournal."""
    name = PURGED if intent.what == "purge" else DROPPED
    parts: list[dict[str, Any]] = []
    following = journal.follow(Cursor({intent.shard: intent.place}), only_shard=intent.shard)
    for stored in following:
        if stored.kind != Kind.EVENT:
            continue
        leaf = decode_leaf(stored.kind, stored.leaf)
        if isinstance(leaf, Event) and leaf.name == name and leaf.data is not None:
            if leaf.data.get("purge_id") != intent.purge_id:
                continue
            parts.append(leaf.data)
            if len(parts) == leaf.data.get("parts", 1):
                break
    return Statement(parts)


def _parts(plan: PurgePlan) -> Iterator[tuple[dict[str, list[list[int]]], int, int]]:
    """Ranges by shard, with their records and bytes; one without any where only blobs go."""
    every = [(shard, one) for shard, ranges in sorted(plan.ranges.items()) for one in ranges]
    for start in range(0, max(len(every), 1), RANGES_MAX):
        some: list[tuple[int, Range]] = every[start : start + RANGES_MAX]
        shards: dict[str, list[list[int]]] = {}
        for shard, one in some:
            shards.setdefault(str(shard), []).append([one.first, one.last])
        yield shards, sum(one.records for _, one in some), sum(one.payload_bytes for _, one in some)
