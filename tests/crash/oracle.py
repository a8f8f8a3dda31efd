"""What was issued and what was acknowledged, kept outside the disk, and how a recovered journal is judged."""

import random
from collections import deque
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from custody.journal import Journal, Receipt, Stored
from custody.records import SALT_BYTES, Event, Kind, Redacted, decode_leaf

Record = tuple[int, bytes, bytes]
"""Kind, leaf and payload."""

TAG = b"\xa6crash-"  # begins the leaves of the tests; a leaf of the journal's own is a msgpack array


@dataclass(frozen=True)
class Issue:
    """One record handed to the journal."""

    leaf: bytes
    payload: bytes


def make_issue(number: int, chance: random.Random, payload_bytes: int | None = None) -> Issue:
    """Sizes around sector bounds, and now and then a large one."""
    leaf = TAG + b"%08d-" % number + chance.randbytes(chance.choice((8, 40, 465, 200)))
    if payload_bytes is None:
        payload_bytes = chance.choice((0, 1, 60, 300, 480, 700, 1500))
    payload = chance.randbytes(SALT_BYTES + payload_bytes)
    return Issue(leaf, payload)


@dataclass
class Oracle:
    """Everything the journal was told, in order, and everything it promised."""

    issued: list[Issue] = field(default_factory=list)
    by_leaf: dict[bytes, Issue] = field(default_factory=dict)
    place_of: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    """leaf -> shard and sequence, as the receipt said."""
    durable: list[tuple[tuple[int, int], bytes]] = field(default_factory=list)

    def issue(
        self, journal: Journal, chance: random.Random, *, payload_bytes: int | None = None
    ) -> tuple[Issue, Receipt]:
        record = make_issue(len(self.issued), chance, payload_bytes)
        self.issued.append(record)
        self.by_leaf[record.leaf] = record
        receipt = journal.append(Kind.EVENT, record.leaf, Redacted(record.payload))
        self.place_of[record.leaf] = (receipt.shard, receipt.sequence)
        return record, receipt

    def acknowledge(self, record: Issue, receipt: Receipt) -> None:
        self.durable.append(((receipt.shard, receipt.sequence), record.leaf))

    # -- judgement ------------------------------------------------------------------------------------

    def judge(
        self, found: list[Stored], durable_count: int | None = None, others: Container[bytes] = ()
    ) -> list[str]:
        """What is wrong with these records, given the first `durable_count` acknowledgements.

        Records whose leaves are in `others` are somebody else's to judge.
        """
        wrong: list[str] = []
        by_place = {(stored.shard, stored.sequence): stored for stored in found}
        for place, leaf in self.durable[:durable_count]:
            stored = by_place.get(place)
            if stored is None or stored.leaf != leaf:
                wrong.append(f"acknowledged record {place} is lost")
        for shard in sorted({stored.shard for stored in found}):
            records = [stored for stored in found if stored.shard == shard]
            sequences = [stored.sequence for stored in records]
            if sequences != list(range(1, len(records) + 1)):
                wrong.append(f"shard {shard}: sequences are {sequences}")
            wrong += self._judge_shard(shard, [stored for stored in records if stored.leaf not in others])
        return wrong

    def _judge_shard(self, shard: int, records: list[Stored]) -> Iterable[str]:
        theirs = [stored for stored in records if stored.leaf.startswith(TAG)]
        for stored in records:
            if not stored.leaf.startswith(TAG) and not is_own_event(stored):
                yield f"shard {shard} sequence {stored.sequence}: a record nobody issued"
        for stored in theirs:
            record = self.by_leaf.get(stored.leaf)
            if record is None or record.payload != stored.payload or stored.kind != Kind.EVENT:
                yield f"shard {shard} sequence {stored.sequence}: other bytes than were issued"
            place = self.place_of.get(stored.leaf)
            if place is not None and place != (stored.shard, stored.sequence):
                yield f"receipt said {place}, found at {(stored.shard, stored.sequence)}"
        yield from self._judge_order(shard, [stored.leaf for stored in theirs])

    def _judge_order(self, shard: int, found: list[bytes]) -> Iterable[str]:
        """The records found are the first that were issued; one whose append raised may be among them."""
        rest = iter(found)
        wanted = next(rest, None)
        for record in self.issued:
            if wanted is None:
                return
            place = self.place_of.get(record.leaf)
            if record.leaf == wanted:
                wanted = next(rest, None)
            elif place is not None and place[0] == shard:
                yield f"record {place} is missing before later ones"
                return
        if wanted is not None:
            yield f"shard {shard}: records stand in another order than they were issued in"


@dataclass
class Followed:
    """What a reader that keeps its cursor has of one shard whose writers are killed while no sync fails.

    A put that a kill cut short leaves a torn tail. The next writer repeats the records before it that are
    not known to be durable, in a new segment: the reader is given those once more, byte for byte the same,
    and the event that says so behind them.
    """

    records: list[Record] = field(default_factory=list)
    """The n-th has sequence n."""
    segment: int = 0
    steps_back: int = 0
    expected: deque[Record | None] = field(default_factory=deque)
    """What must come next; None is the event."""

    def take(self, stored: Stored) -> None:
        if stored.sequence <= len(self.records):
            assert not self.expected, "a repetition is repeated before it ends"
            assert stored.segment > self.segment
            self.expected.extend([*self.records[stored.sequence - 1 :], None])
            del self.records[stored.sequence - 1 :]
            self.steps_back += 1
        assert stored.sequence == len(self.records) + 1
        record = (stored.kind, stored.leaf, stored.payload)
        if self.expected:
            wanted = self.expected.popleft()
            assert own_event(stored) == "journal.repaired" if wanted is None else record == wanted
        self.records.append(record)
        self.segment = stored.segment


def own_event(stored: Stored) -> str | None:
    """The name of an event the journal wrote of its own accord; None for any other record."""
    try:
        leaf = decode_leaf(stored.kind, stored.leaf)
    except Exception:
        return None
    own = isinstance(leaf, Event) and leaf.name.startswith(("journal.", "writer."))
    return leaf.name if own else None


def is_own_event(stored: Stored) -> bool:
    return own_event(stored) is not None
