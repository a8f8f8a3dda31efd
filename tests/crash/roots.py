"""The tree recomputed from recovered leaves, straight from RFC 6962, against what commit frames say of it."""

import hashlib
import random
from collections.abc import Sequence

from custody.journal import Stored
from custody.journal.disk import Disk
from custody.journal.frames import SEGMENT_HEADER_BYTES, decode_commit
from custody.journal.segments import SegmentCache, SegmentReader, shard_numbers
from custody.records import Kind


def tree_root(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, as it is defined there."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + tree_root(leaves[:split]) + tree_root(leaves[split:])).digest()


def judge_roots(disk: Disk, records: list[Stored], chance: random.Random) -> list[str]:
    """The last commit frame of each shard and one other must be the tree over the records before them."""
    wrong: list[str] = []
    for shard in shard_numbers(disk):
        leaves = [stored.leaf for stored in records if stored.shard == shard]
        commits = [frame for frame in frames_that_count(disk, shard) if frame.kind == Kind.COMMIT]
        for frame in {chance.choice(commits), commits[-1]} if commits else ():
            commit = decode_commit(frame)
            if commit is None or commit.size != frame.sequence - 1:
                wrong.append(f"the commit frame of sequence {frame.sequence} is over other records: {commit}")
            elif commit.root != tree_root(leaves[: commit.size]):
                wrong.append(f"the root over {commit.size} records is not that of the records")
    return wrong


def frames_that_count(disk: Disk, shard: int) -> list[Stored]:
    """Of all segments in use, up to the first gap: what is behind one is a torn tail."""
    found: list[Stored] = []
    sequence = 1
    for segment in SegmentCache(disk).segments(shard):
        if segment.first is None or not segment.counts:
            continue
        if segment.first.sequence != sequence:
            break
        reader = SegmentReader(disk, segment)
        found += reader.frames(SEGMENT_HEADER_BYTES, sequence, segment.limit)
        sequence = reader.sequence
        reader.close()
    return found
