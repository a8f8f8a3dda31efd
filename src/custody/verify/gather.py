"""What the records say that other checks need: tombstones, keys, claims of writers, blobs, cuts.

Owns which events matter to a verification and how their data is read. A record that says such a thing in a
way that makes no sense is a fault. Knows nothing of frames. Filled by `shard`, used by the rest.
"""

import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec
from msgspec import Struct

from custody.records import Event, Kind, Leaf, decode_payload
from custody.verify.findings import Findings
from custody.verify.segments import Dropped

BLOB_MARK = b"$blob"
EVENT = int(Kind.EVENT)
DIGEST = re.compile(r"[0-9a-f]{64}")


class KeyCreated(Struct, frozen=True):
    """A key that the record names."""

    key: str
    key_id: str
    replaces: str | None = None


class Opening(Struct, frozen=True):
    """What a writer saw of the checkpoint log when it began."""

    shard: int
    sequence: int
    checkpoints: int
    root: str | None


class Repair(Struct, frozen=True):
    """A shard went on in another segment than where its last bytes stand."""

    name: str
    shard: int
    at_segment: int
    """Of the event."""
    at_sequence: int
    segment: int
    offset: int | None
    bytes: int | None
    sequence: int | None
    """The first record that was put again."""

    def ended_at(self, sequence: int) -> bool:
        """Whether that is the first record that never stood where the others were left."""
        return self.name == "journal.poisoned" and sequence >= self.at_sequence


class _Tombstone(Struct, frozen=True):
    purge_id: str
    shards: dict[str, list[tuple[int, int]]]


class _Cut(Struct, frozen=True):
    segment: int | None = None
    offset: int | None = None
    bytes: int | None = None
    sequence: int | None = None


class _Claim(Struct, frozen=True):
    checkpoints: int | None = None
    root: str | None = None


class BlobUse(Struct, frozen=True):
    """The first record that needs a blob."""

    shard: int
    segment: int
    offset: int
    sequence: int
    bytes: int
    ids: dict[str, str]


class Purged(Struct):
    """The records of one shard whose payloads are gone. Arrays: a purge may take millions."""

    sequences: "array[int]"
    segments: "array[int]"
    offsets: "array[int]"

    @classmethod
    def none(cls) -> "Purged":
        return cls(array("Q"), array("L"), array("Q"))


class Gather:
    """Filled while the shards are read."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self.records = 0
        self.purged: dict[int, Purged] = {}
        self.tombstones: dict[int, list[tuple[int, int]]] = {}
        """Shard -> ranges of records whose payloads were purged."""
        self.keys: list[tuple[KeyCreated, int, int]] = []
        """With the shard and the sequence of the record that names it."""
        self.openings: list[Opening] = []
        self.repairs: list[Repair] = []
        self.dropped: list[Dropped] = []
        self.blobs: dict[bytes, BlobUse] = {}

    def take(
        self,
        leaf: Leaf,
        payload: bytes | None,
        shard: int,
        segment: int,
        offset: int,
        sequence: int,
    ) -> None:
        """One record that is as it was written: an event, one whose payload is gone or has a blob's mark."""
        if isinstance(leaf, Event) and leaf.data is not None:
            self._event(leaf, shard, segment, sequence)
        if payload is None:
            gone = self.purged.setdefault(shard, Purged.none())
            gone.sequences.append(sequence)
            gone.segments.append(segment)
            gone.offsets.append(offset)
        elif BLOB_MARK in payload:
            self._blobs(leaf, payload, shard, segment, offset, sequence)

    # -- blobs ------------------------------------------------------------------------------------------

    def _blobs(
        self, leaf: Leaf, payload: bytes, shard: int, segment: int, offset: int, sequence: int
    ) -> None:
        try:
            named = decode_payload(payload) or {}
        except (msgspec.DecodeError, ValueError, RecursionError):
            self._findings.fault(
                "the payload makes no sense", shard=shard, sequence=sequence, offset=offset, **ids_of(leaf)
            )
            return
        for value in named.values():
            if not isinstance(value, dict):
                continue
            mark = cast("dict[str, Any]", value)
            digest, size = mark.get("$blob"), mark.get("bytes")
            if isinstance(digest, str) and DIGEST.fullmatch(digest) and isinstance(size, int):
                use = BlobUse(shard, segment, offset, sequence, size, ids_of(leaf))
                self.blobs.setdefault(bytes.fromhex(digest), use)

    # -- events -----------------------------------------------------------------------------------------

    def _event(self, event: Event, shard: int, segment: int, sequence: int) -> None:
        read = _EVENTS.get(event.name)
        if read is None:
            return
        try:
            read(self, event.data, shard, segment, sequence)
        except (msgspec.ValidationError, ValueError, TypeError) as error:
            self._findings.fault(
                f"what the event {event.name} says makes no sense: {error}", shard=shard, sequence=sequence
            )

    def _purge(self, data: Any, _shard: int, _segment: int, _sequence: int) -> None:
        said = msgspec.convert(data, _Tombstone)
        for name, ranges in said.shards.items():
            self.tombstones.setdefault(int(name), []).extend(ranges)

    def _drop(self, data: Any, _shard: int, _segment: int, _sequence: int) -> None:
        self.dropped.append(msgspec.convert(data, Dropped))

    def _key(self, data: Any, shard: int, _segment: int, sequence: int) -> None:
        self.keys.append((msgspec.convert(data, KeyCreated), shard, sequence))

    def _opened(self, data: Any, shard: int, _segment: int, sequence: int) -> None:
        claim = msgspec.convert(data, _Claim)
        if claim.checkpoints is not None:
            self.openings.append(Opening(shard, sequence, claim.checkpoints, claim.root))

    def _repair(self, data: Any, shard: int, segment: int, at: int) -> None:
        name = "journal.repaired" if "frames" in data else "journal.poisoned"
        said = msgspec.convert(data, _Cut)
        if said.segment is not None:
            self.repairs.append(
                Repair(name, shard, segment, at, said.segment, said.offset, said.bytes, said.sequence)
            )

    # -- purged payloads --------------------------------------------------------------------------------

    def without_tombstone(self) -> Iterator[tuple[int, int, int, int]]:
        """Shard, segment, offset and sequence of each purged payload that no tombstone names."""
        for shard, gone in self.purged.items():
            ranges = merged(self.tombstones.get(shard, []))
            starts = [first for first, _ in ranges]
            for sequence, segment, offset in zip(gone.sequences, gone.segments, gone.offsets, strict=True):
                at = bisect_right(starts, sequence) - 1
                if at < 0 or ranges[at][1] < sequence:
                    yield shard, segment, offset, sequence


def merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same ranges, ascending, none touching another."""
    result: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(result[-1][1], last))
        else:
            result.append((first, last))
    return result


def ids_of(leaf: Leaf) -> dict[str, str]:
    """Call and run of a record, as far as it names them."""
    found: dict[str, str] = {}
    request: Any = getattr(leaf, "request", None)
    run_id: bytes | None = getattr(leaf, "run_id", None) or (request.run_id if request else None)
    call_id: bytes | None = getattr(leaf, "call_id", None)
    if call_id:
        found["call_id"] = call_id.hex()
    if run_id:
        found["run_id"] = run_id.hex()
    return found


_EVENTS: dict[str, Callable[[Gather, Any, int, int, int], None]] = {
    "store.purged": Gather._purge,  # pyright: ignore[reportPrivateUsage]
    "store.dropped": Gather._drop,  # pyright: ignore[reportPrivateUsage]
    "key.created": Gather._key,  # pyright: ignore[reportPrivateUsage]
    "writer.opened": Gather._opened,  # pyright: ignore[reportPrivateUsage]
    "journal.repaired": Gather._repair,  # pyright: ignore[reportPrivateUsage]
    "journal.poisoned": Gather._repair,  # pyright: ignore[reportPrivateUsage]
}
