"""The tree of a shard as its frames on the disk have it: at any size, and how it goes on.

Owns where such a reading may begin: at a segment's first frame, which holds the frontier of the tree before
it. Judges nothing: whoever asks compares roots. Used by `journal`.
"""

from custody.journal.follow import START, Cursor, Following, Place
from custody.journal.frames import SEGMENT_HEADER_BYTES, decode_commit
from custody.journal.segments import Segment, SegmentCache, corrupt
from custody.journal.tree import Frontier


def tree_at(cache: SegmentCache, shard: int, size: int) -> Frontier:
    """The tree over a shard's first `size` records. Raises CorruptJournal when they are not all there."""
    tree, place = Frontier(), START
    for segment in cache.segments(shard):
        known = _tree_before(segment)
        if known is not None and known.size <= size:
            tree, place = known, _first_place(segment)
    extend_tree(cache, shard, tree, size, place)
    return tree


def extend_tree(
    cache: SegmentCache, shard: int, tree: Frontier, size: int, place: Place | None = None
) -> None:
    """Let `tree` grow to the shard's first `size` records. Raises CorruptJournal when they are not there.

    Reads from `place`, else from the segment that holds the first of them.
    """
    if tree.size >= size:
        return
    if place is None:
        before = (segment for segment in cache.segments(shard) if _begins_before(segment, tree.size + 1))
        place = max(map(_first_place, before), default=START)
    for stored in Following(cache, Cursor({shard: place}), shard):
        if stored.sequence == tree.size + 1:
            tree.add_leaf(stored.leaf)
        if tree.size == size:
            return
    raise corrupt("records that were durable are missing", shard, 0, 0, tree.size + 1)


def last_sequence(cache: SegmentCache, shard: int) -> int:
    """Of the records there are; 0 for none. Raises CorruptJournal."""
    places = [_first_place(segment) for segment in cache.segments(shard) if segment.counts]
    place = max(places, default=START)
    last = place[2] - 1
    for stored in Following(cache, Cursor({shard: place}), shard):
        last = stored.sequence
    return last


def _first_place(segment: Segment) -> Place:
    assert segment.first is not None, "only segments in use are asked"
    return segment.index, SEGMENT_HEADER_BYTES, segment.first.sequence


def _begins_before(segment: Segment, sequence: int) -> bool:
    return segment.counts and segment.first is not None and segment.first.sequence <= sequence


def _tree_before(segment: Segment) -> Frontier | None:
    """What the segment's first frame says of the tree before it."""
    if not segment.counts or segment.first is None:
        return None
    commit = decode_commit(segment.first)
    if commit is None or commit.frontier is None or len(commit.frontier) != commit.size.bit_count():
        return None
    return Frontier(commit.size, commit.frontier)
