"""A store verified: the list of steps, and the verdict.

Owns the order in which things are read, so that it holds beside writers at work: the checkpoint log first,
then the shards, which hold at least what it signs, then what writers and tombstones say. Knows nothing of how
anything is shown. Used by the command line.
"""

from collections.abc import Callable, Iterable, Mapping

import msgspec
from msgspec import Struct

from custody.errors import InvalidInput
from custody.journal.checkpoint import Verifier
from custody.journal.disk import Disk
from custody.records import decode_leaf
from custody.verify.blobs import BlobCheck
from custody.verify.findings import Findings, Report, ShardVerdict
from custody.verify.frames import COMMIT
from custody.verify.gather import Gather
from custody.verify.index import IndexCheck
from custody.verify.keys import KeyCheck
from custody.verify.log import LOG, Anchor, LogCheck, read_anchors
from custody.verify.segments import ENDLESS, shard_folder
from custody.verify.shard import ShardEnd, ShardReader
from custody.verify.surroundings import check_files, check_kinds, noted_size
from custody.verify.tails import open_reader
from custody.verify.tree import Head

Progress = Callable[[int], None]
"""Told the number of records read so far."""


class Wanted(Struct, frozen=True):
    """What a reader brings along."""

    anchors: Mapping[str, bytes] = {}
    """Name of a file -> its content: notes that were kept elsewhere."""
    public_keys: list[Verifier] | None = None
    """Only these keys count, instead of those the store's own record names."""


def verify_store(
    disk: Disk, *, root: str | None, wanted: Wanted, boot_id: str, progress: Progress | None = None
) -> Report:
    """Verify a store. `root` is its folder, None for one in memory.

    Raises InvalidInput for an anchor that is none, or of another store; StoreTooNew, StoreUnusable.
    """
    if root is not None:
        check_kinds(root)
    return _Verification(disk, root, wanted, boot_id, progress or (lambda _: None)).run()


class _Verification:
    def __init__(
        self, disk: Disk, root: str | None, wanted: Wanted, boot_id: str, progress: Progress
    ) -> None:
        self._disk = disk
        self._root = root
        self._boot_id = boot_id
        self._progress = progress
        self._findings = Findings()
        self._anchors = read_anchors(dict(wanted.anchors))
        self._index = IndexCheck(disk, root, self._findings)
        self._gather = Gather(self._findings)
        self._log = LogCheck(disk, self._findings)
        self._keys = KeyCheck(disk, self._findings, wanted.public_keys)
        self._good_anchors: list[Anchor] = []
        self._ends: list[ShardEnd] = []
        self._unread: list[int] = []
        """Shards that cannot be read: what their records explain is then not known."""

    def run(self) -> Report:
        self._noted = noted_size(self._disk)
        self._log.read()
        heads = self._heads()
        for shard in self._shards(heads):
            self._read(shard, heads.get(shard, []))
        live = self._any_live()
        if live:
            self._gather_late()
        self._check_claims()
        if not self._unread:
            self._check_tombstones()
            self._check_dropped()
        self._check_anchor_origin()
        self._keys.check(self._gather, self._log, quiet=live, incomplete=bool(self._unread))
        self._good_anchors = self._keys.check_anchors(self._anchors, self._log)
        blobs = BlobCheck(self._disk, self._findings, self._gather)
        blobs.check(lambda: self._progress(self._gather.records))
        if self._unread:
            self._findings.faulty_shards.update(dict.fromkeys(self._unread, 1))
        self._index.compare(self._ends, self._gather, lambda: self._progress(self._gather.records))
        check_files(self._disk, self._root, self._findings)
        return self._report(blobs.checked)

    # -- shards -------------------------------------------------------------------------------------------

    def _heads(self) -> dict[int, list[Head]]:
        heads = {shard: list(by_size.values()) for shard, by_size in self._log.heads.items()}
        for anchor in self._anchors:
            for shard, head in anchor.heads():
                heads.setdefault(shard, []).append(head)
        return heads

    def _shards(self, heads: Iterable[int]) -> list[int]:
        names = self._disk.names("journal")
        there = {int(name) for name in names if name.isdigit() and len(name) >= len("0001")}
        for shard in sorted(set(heads) - there):
            self._findings.fault(
                "the whole shard is missing", file=shard_folder(shard), shard=shard, sequence=1
            )
        return sorted(there)

    def _read(self, shard: int, heads: list[Head]) -> None:
        try:
            reader = ShardReader(
                self._disk, shard, self._findings, self._gather, heads, self._boot_id,
                self._index.taker(shard), self._progress,
            )  # fmt: skip
            self._ends.append(reader.run())
        except OSError as error:
            self._unread.append(shard)
            path = _below_store(error.filename, self._root) or shard_folder(shard)
            what = f"the shard cannot be read to its end: {error.strerror or error}"
            self._findings.problem(what, file=path, shard=shard)

    def _gather_late(self) -> None:
        """Beside writers: what was recorded while the shards were read may explain what was found in them."""
        late = Gather(Findings())
        for end in self._ends:
            if end.live and end.here is not None:
                follow_events(self._disk, end, late)
        for shard, ranges in late.tombstones.items():
            self._gather.tombstones.setdefault(shard, []).extend(ranges)
        self._gather.dropped.extend(late.dropped)
        self._gather.keys.extend(late.keys)

    # -- what records claim -------------------------------------------------------------------------------

    def _check_claims(self) -> None:
        """A log that is shorter than a writer saw has lost checkpoints."""
        log = self._read_log_again() if self._any_live() else self._log
        lost = [claim for claim in self._gather.openings if claim.checkpoints > log.size]
        if lost:
            most = max(lost, key=lambda claim: claim.checkpoints)
            self._findings.fault(
                f"a writer saw {most.checkpoints} checkpoints, and only {log.size} are there",
                file=LOG, shard=most.shard, sequence=most.sequence,
            )  # fmt: skip
        elif self._noted > log.size:
            what = f"{self._noted} checkpoints had been made, and only {log.size} are there"
            self._findings.fault(what, file=LOG)
        for claim in self._gather.openings:
            stated = log.roots.get(claim.checkpoints)
            if claim.root is not None and stated is not None and stated.hex() != claim.root:
                what = f"checkpoint {claim.checkpoints} is not the one that a writer saw"
                self._findings.fault(what, file=LOG, shard=claim.shard, sequence=claim.sequence)

    def _read_log_again(self) -> LogCheck:
        """Beside a writer, who may have seen what was not there at the beginning."""
        again = LogCheck(self._disk, Findings())
        again.read()
        known = len(self._log.notes)
        if again.notes[:known] != self._log.notes:
            self._findings.fault("the log was changed while it was read", file=LOG, offset=0)
            return self._log
        return again

    def _check_tombstones(self) -> None:
        for shard, segment, offset, sequence in self._gather.without_tombstone():
            self._findings.fault(
                "the payload is gone, and no tombstone says that it was purged",
                file=f"{shard_folder(shard)}/{segment:08d}.seg", offset=offset,
                shard=shard, sequence=sequence,
            )  # fmt: skip

    def _check_dropped(self) -> None:
        for end in self._ends:
            if end.dropped is not None and end.dropped not in self._gather.dropped:
                self._findings.fault(
                    "segments were dropped, and no tombstone says so",
                    file=f"{shard_folder(end.shard)}/dropped", offset=0, shard=end.shard, sequence=end.first,
                )  # fmt: skip

    def _check_anchor_origin(self) -> None:
        """Raises InvalidInput for an anchor of another store."""
        names = {key.key.partition("+")[0] for key, _, _ in self._gather.keys}
        if self._log.origin is not None:
            names.add(self._log.origin)
        for anchor in self._anchors:
            origin = anchor.note.checkpoint.origin
            if names and origin not in names:
                raise InvalidInput(
                    f"{anchor.name} is an anchor of another store: {origin}, and this is {min(names)}.",
                    hint="Or everything in this store was replaced: ask whoever kept the anchor.",
                )

    # -- the answer ---------------------------------------------------------------------------------------

    def _report(self, blobs: int) -> Report:
        findings, keys = self._findings, self._keys
        shards = [self._verdict_of(end) for end in self._ends]
        if self._gather.records and not keys.signed_to and not self._unread and not self._any_live():
            findings.fault("no checkpoint covers any record", file=LOG)
        counts = findings.counts
        return Report(
            store=self._disk.description,
            verdict=_verdict(shards, counts["fault"], counts["problem"], self._gather.records),
            ok=not counts["fault"] and not counts["problem"],
            shards=shards,
            records=self._gather.records,
            checkpoints=len(self._log.notes),
            keys=[key.key_id for key in keys.accepted],
            anchors=len(self._good_anchors),
            blobs=blobs,
            index=self._index.answer,
            faults=findings.listed["fault"],
            fault_count=counts["fault"],
            problems=findings.listed["problem"],
            problem_count=counts["problem"],
            notes=findings.listed["note"],
            note_count=counts["note"],
            not_checked=self._not_checked(shards),
        )

    def _any_live(self) -> bool:
        return any(end.live for end in self._ends)

    def _verdict_of(self, end: ShardEnd) -> ShardVerdict:
        complete = end.next - 1
        faulty = self._findings.faulty_shards.get(end.shard)
        if faulty is not None:
            complete = min(complete, faulty - 1)
        anchors = {(anchor.name, anchor.offset) for anchor in self._good_anchors}
        signed = [
            head
            for head in end.matched
            if not head.anchor and head.number <= self._keys.signed_to and head.size <= complete
        ]
        anchored = [
            head
            for head in end.matched
            if head.anchor and (head.file, head.offset) in anchors and head.size <= complete
        ]
        last = max(signed, key=lambda head: head.size, default=None)
        kept = max(anchored, key=lambda head: head.size, default=None)
        gone = self._gather.purged.get(end.shard)
        return ShardVerdict(
            shard=end.shard,
            first=end.first,
            records=complete,
            signed=last.size if last else 0,
            signed_at=last.time if last else None,
            signed_by=self._keys.signer_at(last.number) if last else None,
            anchored=kept.size if kept else 0,
            anchored_at=kept.time if kept else None,
            purged=len(gone.sequences) if gone else 0,
            live=end.live,
        )

    def _not_checked(self, shards: list[ShardVerdict]) -> list[str]:
        said = [
            "undo/ (originals, encrypted: not evidence)",
            "keys of redaction and undo (nothing to compare)",
        ]
        purged = sum(shard.purged for shard in shards)
        if purged:
            said.append(f"{purged:,} purged payloads (their leaves were)")
        unsigned = sum(max(0, shard.records - max(shard.signed, shard.first - 1)) for shard in shards)
        if unsigned:
            said.append(f"{unsigned:,} records after the last signature (for consistency only)")
        if any(shard.live for shard in shards):
            said.append("what writers were writing meanwhile")
        dropped = sum(shard.first - 1 for shard in shards)
        if dropped:
            said.append(f"{dropped:,} records that were dropped whole (their roots are in tombstones)")
        before = sum(end.heads_before for end in self._ends)
        if before:
            said.append(f"{before:,} signed heads about records that were dropped")
        if self._keys.accepted and not self._keys.is_given and not self._anchors:
            said.append("whose key it is: the store itself names it (--public-key, --anchor)")
        if self._unread:
            said.append("what the records of shards that cannot be read would explain")
        said += self._index.not_checked
        return said


def _below_store(filename: str | None, root: str | None) -> str | None:
    if filename is None or root is None or not filename.startswith(f"{root}/"):
        return filename
    return filename[len(root) + 1 :]


def follow_events(disk: Disk, end: ShardEnd, gather: Gather) -> None:
    """What was recorded behind the place a live shard was read to, as far as it is in the same segment."""
    assert end.here is not None, "the caller asked"
    reader = open_reader(disk, end.here)
    try:
        for sequence, kind, leaf, payload, offset, _ in reader.frames(end.offset, end.next, ENDLESS):
            if kind == COMMIT:
                continue
            record = decode_leaf(kind, leaf)
            gather.take(record, payload, end.shard, end.here.index, offset, sequence)
    except (OSError, msgspec.DecodeError, ValueError):
        return
    finally:
        reader.close()


def _verdict(shards: list[ShardVerdict], faults: int, problems: int, records: int) -> str:
    if faults:
        where = "1 fault" if faults == 1 else f"{faults:,} faults"
        return f"Not intact: {where} found."
    if problems:
        return f"Not everything could be read: {problems:,} files; what could be is intact."
    if not records:
        return "Intact: there are no records."
    signed = sum(max(0, shard.signed - shard.first + 1) for shard in shards)
    anchored = sum(max(0, shard.anchored - shard.first + 1) for shard in shards)
    said = f"Intact: {records:,} records, {signed:,} of them signed"
    return f"{said} and {anchored:,} anchored." if anchored else f"{said}."
