"""What a verification found, as it finds it: faults, what stood in its way, and what a reader should know.

Owns the bound on what is listed (the rest is counted) and the shape of the report. Knows nothing of how
anything is checked. Used by every module of this package; the command line shows the report.
"""

from typing import Any, Literal

from msgspec import Struct

LISTED_MAX = 100
"""Of each sort: who sees a hundred faults needs no further one to know what to do. The rest is counted."""

Sort = Literal["fault", "problem", "note"]


class Finding(Struct, frozen=True, kw_only=True):
    """One thing found, with the place it was found at as far as there is one."""

    what: str
    file: str | None = None
    """Below the store's folder; for an anchor or a key given by name, that name."""
    offset: int | None = None
    shard: int | None = None
    sequence: int | None = None
    """The record; where records are missing, the first of them."""
    call_id: str | None = None
    run_id: str | None = None


class ShardVerdict(Struct, frozen=True, kw_only=True):
    """How far one shard holds."""

    shard: int
    first: int
    """The first record that could be checked: 1 unless earlier ones were dropped whole."""
    records: int
    """Complete up to and including this record: its sequence. 0 when there is none."""
    signed: int
    """The same, of what a good signature covers."""
    signed_at: str | None
    signed_by: str | None
    """Id of the key."""
    anchored: int
    """The same, of what an anchor that was kept elsewhere covers."""
    anchored_at: str | None
    purged: int
    """Payloads that a tombstone says were purged: their leaves were checked."""
    live: bool
    """A writer had it: what it was writing was not checked."""


class Report(Struct, frozen=True, kw_only=True):
    """The whole answer."""

    store: str
    verdict: str
    """In one sentence."""
    ok: bool
    shards: list[ShardVerdict]
    records: int
    """Read and checked."""
    checkpoints: int
    keys: list[str]
    """Ids of the keys under which signatures were accepted."""
    anchors: int
    blobs: int
    index: str
    """`agrees`, `differs`, `absent`, or why it was not compared."""
    faults: list[Finding]
    fault_count: int
    problems: list[Finding]
    """What could not be read, so that nothing is said of it."""
    problem_count: int
    notes: list[Finding]
    note_count: int
    not_checked: list[str]
    """What the answer says nothing of."""

    @property
    def exit_code(self) -> int:
        return 1 if self.fault_count else 2 if self.problem_count else 0


class Findings:
    """Collects what is found, up to the bound."""

    def __init__(self) -> None:
        self.listed: dict[Sort, list[Finding]] = {"fault": [], "problem": [], "note": []}
        self.counts: dict[Sort, int] = {"fault": 0, "problem": 0, "note": 0}
        self.faulty_shards: dict[int, int] = {}
        """Shard -> the lowest record a fault was found at."""

    def fault(self, what: str, **place: Any) -> None:
        """Something is not as it was written."""
        self._add("fault", what, place)
        shard, sequence = place.get("shard"), place.get("sequence")
        if shard is not None and sequence is not None:
            self.faulty_shards[shard] = min(sequence, self.faulty_shards.get(shard, sequence))

    def problem(self, what: str, **place: Any) -> None:
        """Something cannot be read, so that it cannot be judged."""
        self._add("problem", what, place)

    def note(self, what: str, **place: Any) -> None:
        """Something is as it may be, and worth knowing."""
        self._add("note", what, place)

    def _add(self, sort: Sort, what: str, place: dict[str, Any]) -> None:
        self.counts[sort] += 1
        if len(self.listed[sort]) < LISTED_MAX:
            self.listed[sort].append(Finding(what=what, **place))
