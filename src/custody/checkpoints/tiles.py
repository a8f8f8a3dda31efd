"""The inner nodes of a shard's tree, kept so that a proof reads a few of them and not the whole shard.

Owns `checkpoints/tiles/<shard>/`: for every eighth level of the tree one file of hashes, `0` those of the
leaves, `1` the roots of 256 of them, and so on (the hashes of C2SP tlog-tiles, without its cutting into
files). A view: it is caught up when a proof is asked for, held to the root that was signed before anything is
said with it, and built again when it does not have that root. Where a store cannot be written it is built in
memory.
"""

import contextlib
import errno
import time
from collections.abc import Callable

import msgspec
from msgspec import Struct

from custody.errors import CheckpointRefused
from custody.journal import Cursor, Disk, Journal, MemoryDisk
from custody.journal.checkpoint import HASH_BYTES, Head
from custody.journal.disk import File, Lock
from custody.journal.frames import extend
from custody.journal.proofs import consistency_path, inclusion_path, split
from custody.journal.tree import EMPTY_ROOT, Frontier, leaf_hash, node_hash

FOLDER = "checkpoints/tiles"
LOCK = "checkpoints/tiles/lock"
LOCK_SECONDS = 60.0
"""Another process may be building them: a million leaves take some seconds."""
LOCK_POLL_SECONDS = 0.05

TILE_LEVELS = 8
TILE_LEAVES = 1 << TILE_LEVELS
CATCH_UP_LEAVES = 64 * TILE_LEAVES
"""Put in one go: half a megabyte of hashes."""

TOLD_EVERY = 4096
"""Leaves between two words on how far it is."""

READ_ONLY_ERRORS = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT)

Progress = Callable[[int], None]
"""Told of the leaves read so far."""


class _Reached(Struct, frozen=True):
    """How many leaves are in the files, and where the next one stands."""

    size: int
    place: tuple[int, int, int]


class Tiles:
    """Proofs of one shard. Used by one thread, and closed."""

    def __init__(self, disk: Disk, journal: Journal, shard: int, dropped: Frontier | None = None) -> None:
        """`dropped` is the tree over the records that are not there any more, at the shard's beginning."""
        self._disk = disk
        self._journal = journal
        self._shard = shard
        self._dropped = dropped or Frontier()
        self._known = dict(_nodes_of(self._dropped))
        """What stands for the leaves that are gone, by level and index."""
        self._files: dict[int, File] = {}
        self._size = 0

    def close(self) -> None:
        files, self._files = self._files, {}
        for file in files.values():
            file.close()

    def __enter__(self) -> "Tiles":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prepare(self, head: Head, progress: Progress | None = None) -> None:
        """Have the tree up to a head that was signed. Raises CheckpointRefused when the shard does not have
        that root, CorruptJournal."""
        try:
            self._prepare(head, progress)
        except OSError as error:
            if error.errno not in READ_ONLY_ERRORS:
                raise
            self.close()
            self._disk = MemoryDisk()
            self._prepare(head, progress)

    def inclusion_path(self, index: int, size: int) -> list[bytes]:
        return inclusion_path(index, size, self.root_of)

    def consistency_path(self, old: int, new: int) -> list[bytes]:
        return consistency_path(old, new, self.root_of)

    def root_of(self, start: int, stop: int) -> bytes:
        """Root of the tree over a range of leaves. Raises KeyError where only dropped ones would tell."""
        count = stop - start
        if count == 0:
            return EMPTY_ROOT
        if count & (count - 1) == 0 and start % count == 0:
            level = count.bit_length() - 1
            return self._node(level, start >> level)
        middle = start + split(count)
        return node_hash(self.root_of(start, middle), self.root_of(middle, stop))

    # -- reading ----------------------------------------------------------------------------------------

    def _node(self, level: int, index: int) -> bytes:
        start, stop = index << level, (index + 1) << level
        if stop <= self._dropped.size:
            return self._known[level, index]
        if start < self._dropped.size:
            return node_hash(self._node(level - 1, 2 * index), self._node(level - 1, 2 * index + 1))
        tile_level, above = divmod(level, TILE_LEVELS)
        return _fold(self._hashes(tile_level, index << above, 1 << above))

    def _hashes(self, tile_level: int, start: int, count: int) -> list[bytes]:
        data = self._file(tile_level).read(count * HASH_BYTES, start * HASH_BYTES)
        data = data.ljust(count * HASH_BYTES, b"\0")  # one that lost its end has another root, and is rebuilt
        return [data[place : place + HASH_BYTES] for place in range(0, len(data), HASH_BYTES)]

    def _file(self, tile_level: int) -> File:
        file = self._files.get(tile_level)
        if file is None:
            path = self._path(str(tile_level))
            try:
                file = self._disk.open(path)
            except FileNotFoundError:
                file = self._disk.open(path, create=True)
            self._files[tile_level] = file
        return file

    def _path(self, name: str) -> str:
        return f"{FOLDER}/{self._shard:04d}/{name}"

    # -- catching up ------------------------------------------------------------------------------------

    def _prepare(self, head: Head, progress: Progress | None) -> None:
        self._disk.make_folder(self._path("")[:-1])
        lock = self._locked()
        try:
            for attempt in range(2):
                if attempt:
                    self._clear()
                self._catch_up(head.size, progress)
                if head.size <= self._dropped.size or self.root_of(0, head.size) == head.root:
                    return
        finally:
            lock.release()
        raise CheckpointRefused(
            f"The records of shard {self._shard} are not those that were signed, so nothing can be proved "
            "of them.",
            hint="`custody verify` says where they differ.",
            shard=self._shard,
        )

    def _locked(self) -> Lock:
        until = time.monotonic() + LOCK_SECONDS
        while (lock := self._disk.lock(LOCK)) is None:
            if time.monotonic() > until:
                raise CheckpointRefused("Another process is making proofs.", hint="Try again.")
            time.sleep(LOCK_POLL_SECONDS)
        return lock

    def _clear(self) -> None:
        self.close()
        for name in self._disk.names(self._path("")[:-1]):
            with contextlib.suppress(FileNotFoundError):
                self._disk.remove(self._path(name))

    def _catch_up(self, size: int, progress: Progress | None) -> None:
        reached = self._read_reached()
        if reached is None:
            reached = _Reached(self._dropped.size, (0, 0, self._dropped.size + 1))
        self._size, place = reached.size, reached.place
        if self._size >= size:
            return
        waiting: list[bytes] = []
        cursor = Cursor({self._shard: place}) if place[0] else None
        for stored in self._journal.follow(cursor, only_shard=self._shard):
            if stored.sequence == self._size + len(waiting) + 1:
                waiting.append(leaf_hash(stored.leaf))
                place = (stored.segment, stored.end, stored.sequence + 1)
            done = self._size + len(waiting)
            if done >= size or len(waiting) >= CATCH_UP_LEAVES:
                self._take(waiting)
                waiting = []
            if progress is not None and done % TOLD_EVERY == 0:
                progress(done)
            if done >= size:
                self._write_reached(_Reached(self._size, place))
                return
        self._take(waiting)

    def _take(self, hashes: list[bytes]) -> None:
        """Add leaves, and each node above that is complete with them."""
        start, level = self._size, 0
        self._size += len(hashes)
        self._file(0).put(b"".join(hashes), start * HASH_BYTES)
        before, after = start, self._size
        while True:
            level += 1
            before, after = before // TILE_LEAVES, after // TILE_LEAVES
            if before == after:
                return
            nodes = [self._node_above(level, index) for index in range(before, after)]
            self._file(level).put(b"".join(nodes), before * HASH_BYTES)

    def _node_above(self, tile_level: int, index: int) -> bytes:
        """A node that is not in its file yet, from those one tile below."""
        if (index << (tile_level * TILE_LEVELS)) >= self._dropped.size:
            return _fold(self._hashes(tile_level - 1, index * TILE_LEAVES, TILE_LEAVES))
        level, index = tile_level * TILE_LEVELS, index * 2
        return node_hash(self._node(level - 1, index), self._node(level - 1, index + 1))

    def _read_reached(self) -> _Reached | None:
        crc, _, text = (self._disk.read_all(self._path("place")) or b"").rstrip().partition(b" ")
        try:
            reached = _reached_decoder.decode(text) if int(crc, 16) == extend(0, text) else None
        except (ValueError, msgspec.DecodeError):
            return None
        return None if reached is None or reached.size < self._dropped.size else reached

    def _write_reached(self, reached: _Reached) -> None:
        text = msgspec.json.encode(reached)
        self._disk.replace(self._path("place"), b"%08x %s\n" % (extend(0, text), text))


_reached_decoder = msgspec.json.Decoder(_Reached)


def _fold(hashes: list[bytes]) -> bytes:
    """The root over a power of two of nodes."""
    while len(hashes) > 1:
        hashes = [node_hash(hashes[at], hashes[at + 1]) for at in range(0, len(hashes), 2)]
    return hashes[0]


def _nodes_of(tree: Frontier) -> list[tuple[tuple[int, int], bytes]]:
    """Level and index of each perfect subtree of a frontier."""
    nodes: list[tuple[tuple[int, int], bytes]] = []
    start = 0
    for node in tree.hashes:
        level = (tree.size - start).bit_length() - 1
        nodes.append(((level, start >> level), node))
        start += 1 << level
    return nodes
