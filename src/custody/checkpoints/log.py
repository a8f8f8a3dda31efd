"""The checkpoint log of a store: all its notes, one after another, only ever appended to.

Owns `checkpoints/log`, and `checkpoints/place` beside it: where the newest note stands that is known to be
durable, and the tree over the log before and with it. That file is a view (it may be deleted) whose word is
taken only where the note bears it out, with one exception: a log with fewer notes than it says has lost some.
Knows nothing of keys or of when a checkpoint is due. Used by `sealer` and by proofs.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from custody.checkpoints.keys import PUBLIC
from custody.errors import CheckpointRefused, MalformedNote
from custody.journal import Disk
from custody.journal.checkpoint import HASH_BYTES, Log, Note, parse_log, parse_note
from custody.journal.frames import extend
from custody.journal.tree import Frontier

FOLDER = "checkpoints"
PATH = "checkpoints/log"
PLACE = "checkpoints/place"
LOCK = "checkpoints/lock"

TAIL_READ_BYTES = 16 * 1024
"""Holds the newest note of a store with some hundred shards; else all is read."""


REACHED_MAX = 64
"""Shards of which it is remembered how far they are signed, those signed last: a kilobyte each, written with
every checkpoint. Of the others a segment is read again."""


class Reached(Struct, frozen=True):
    """The tree of a shard as it was signed, and a place at or before which its next record stands."""

    place: tuple[int, int, int]
    """Segment, offset, sequence."""
    frontier: tuple[bytes, ...]


class _Place(Struct, frozen=True):
    """Where a durable note stands, and the frontier of the log's tree with it."""

    offset: int
    size: int
    frontier: tuple[bytes, ...]
    shards: dict[int, Reached] = {}
    """Of the shards whose newest head is this note's or an earlier one's: saves reading them again."""

    def makes_sense(self) -> bool:
        whole = len(self.frontier) == self.size.bit_count() and {*map(len, self.frontier)} == {HASH_BYTES}
        return self.offset >= 0 and self.size > 0 and whole

    def tree(self) -> Frontier:
        return Frontier(self.size, self.frontier)


class CheckpointLog:
    """Reads the log and appends to it. One thread at a time; to append, its caller holds the lock."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.newest: Note | None = None
        self.tree = Frontier()
        """Over the statements of all notes."""
        self._place: _Place | None = None
        """Of the newest note that is known to be durable."""
        self._start = 0
        """Where that one stands, or 0."""
        self._since = b""
        """What stands from there to the end of the last note."""
        self._torn = False

    def read(self) -> None:
        """Catch up with what is there. Raises CheckpointRefused, MalformedNote or OSError."""
        place = self._place or self._read_place()
        known = max(self.tree.size, place.size if place else 0)
        if place is None or not self._read_on(place):
            data = self._read_from(0)
            self._take(0, parse_log(data), None, data, place)
        if self.tree.size < known:
            raise _lost(self._disk, known - self.tree.size)

    def _read_on(self, place: _Place) -> bool:
        """Take the notes from a durable one on; False when what is said of it is not borne out."""
        data = self._read_from(place.offset)
        log = parse_log(data, all_durable=False)
        if not log.notes:
            return False
        first, tree = log.notes[0].checkpoint, place.tree()
        if (first.size, first.root) != (place.size, tree.root()):
            return False
        self._take(place.offset, log, tree, data, place)
        return True

    def _take(self, offset: int, log: Log, tree: Frontier | None, data: bytes, place: _Place | None) -> None:
        """Check that each note goes on from the one before. `tree` holds the first of them already."""
        notes = log.notes if tree is None else log.notes[1:]
        newest = log.notes[0] if log.notes else None
        tree = tree or Frontier()
        for note in notes:
            newest, checkpoint = note, note.checkpoint
            tree.add_leaf(checkpoint.statement)
            other = place is not None and tree.size == place.size and tree.hashes != list(place.frontier)
            if other or (checkpoint.size, checkpoint.root) != (tree.size, tree.root()):
                raise CheckpointRefused(
                    f"Checkpoint {tree.size} of {self._disk.description} does not go on from those before "
                    "it; nothing is signed.",
                    hint="Something has changed the log. Restore it from a copy; `custody verify` says more.",
                )
        self.newest, self.tree = newest, tree
        self._place = place
        self._start, self._since, self._torn = offset, data[: log.end], bool(log.torn)

    def reached(self, shard: int) -> Reached | None:
        """What is remembered of a shard's signed tree; to be believed if it has the root that was signed."""
        return self._place.shards.get(shard) if self._place else None

    def append(self, note: Note, tree: Frontier, reached: Mapping[int, Reached]) -> None:
        """Put `note` behind all others, durably; `tree` is the log's with it. Raises OSError.

        What is not known to be durable is put once more: a failed sync leaves pages that look written.
        """
        between = b"\n" if self._since else b""
        data = self._since + between + note.data
        start = self._start + len(self._since) + len(between)
        self._write(data)
        self.newest, self.tree = note, tree
        self._start, self._since = start, note.data
        self._remember(reached)

    def make_durable(self) -> None:
        """See to it that the newest note is durable, whoever wrote it. Raises OSError."""
        newest = self.newest
        if newest is not None and (self._place is None or self._place.size != newest.checkpoint.size):
            self._write(self._since)
            self._start += len(self._since) - len(newest.data)
            self._since = newest.data
            self._remember({})

    def _write(self, data: bytes) -> None:
        if self._torn:
            self._disk.replace(PATH, self._read_from(0)[: self._start] + data)
            self._torn = False
        else:
            self._put(data)

    def _remember(self, reached: Mapping[int, Reached]) -> None:
        """The newest note is durable."""
        known = {} if self._place is None else self._place.shards
        shards = {**{shard: place for shard, place in known.items() if shard not in reached}, **reached}
        kept = dict([*shards.items()][-REACHED_MAX:])
        self._place = _Place(self._start, self.tree.size, tuple(self.tree.hashes), kept)
        with contextlib.suppress(OSError):
            self._write_place(self._place)

    def _put(self, data: bytes) -> None:
        try:
            file = self._disk.open(PATH)
        except FileNotFoundError:
            self._disk.make_folder(FOLDER)
            file = self._disk.open(PATH, create=True)
        try:
            file.put(data, self._start)
            file.sync()
        finally:
            file.close()
        if self._start == 0:
            self._disk.sync_folder(FOLDER)

    # -- the files --------------------------------------------------------------------------------------

    def _read_from(self, offset: int) -> bytes:
        try:
            file = self._disk.open(PATH, write=False)
        except FileNotFoundError:
            return b""
        try:
            return file.read(max(0, file.size_bytes() - offset), offset)
        finally:
            file.close()

    def _read_place(self) -> _Place | None:
        crc, _, text = (self._disk.read_all(PLACE) or b"").rstrip().partition(b" ")
        try:
            place = _place_decoder.decode(text) if int(crc, 16) == extend(0, text) else None
        except (ValueError, msgspec.DecodeError):
            return None
        return place if place is not None and place.makes_sense() else None

    def _write_place(self, place: _Place) -> None:
        text = msgspec.json.encode(place)
        data = b"%08x %s\n" % (extend(0, text), text)
        try:
            file = self._disk.open(PLACE)
        except FileNotFoundError:
            file = self._disk.open(PLACE, create=True)
        try:
            file.put(data.ljust(max(file.size_bytes(), len(data))), 0)
        finally:
            file.close()


_place_decoder = msgspec.json.Decoder(_Place)


def newest_note(disk: Disk, *, durable: bool = False) -> Note | None:
    """The last whole note of a store's log; None when there is none. Checks nothing of what it says.

    `durable` syncs the log first: what was seen must not be gone after a power loss. Raises MalformedNote or
    OSError.
    """
    try:
        file = disk.open(PATH, write=False)
    except FileNotFoundError:
        return None
    try:
        if durable:
            file.sync()
        return _last_note(file.read, file.size_bytes())
    finally:
        file.close()


def seen_by_writer(disk: Disk) -> dict[str, Any]:
    """What a writer finds when it comes: leaf data of `writer.opened`. Never raises; unknown is None.

    A store whose log is later shorter than any writer saw has lost checkpoints.
    """
    try:
        if disk.read_all(PUBLIC) is None:
            return {"checkpoints": None, "root": None}
        note = newest_note(disk, durable=True)
    except (OSError, MalformedNote):
        return {"checkpoints": None, "root": None}
    if note is None:
        return {"checkpoints": 0, "root": None}
    return {"checkpoints": note.checkpoint.size, "root": note.checkpoint.root.hex()}


def _last_note(read: Callable[[int, int], bytes], size: int) -> Note | None:
    start = max(0, size - TAIL_READ_BYTES)
    data = read(size - start, start)
    divide = data.rfind(b"\n\n")
    before = data.rfind(b"\n\n", 0, max(0, divide))
    if divide > 0 and data.endswith(b"\n") and (before >= 0 or start == 0):
        try:
            return parse_note(data[before + 2 if before >= 0 else 0 :])
        except MalformedNote:
            pass  # its torn tail: what is before it counts
    log = parse_log(read(size, 0))
    return log.notes[-1] if log.notes else None


def read_log(disk: Disk) -> Log:
    """All notes. Raises MalformedNote or OSError."""
    return parse_log(disk.read_all(PATH) or b"")


def _lost(disk: Disk, count: int) -> CheckpointRefused:
    what = "a checkpoint has" if count == 1 else f"{count} checkpoints have"
    return CheckpointRefused(
        f"At least {what} gone from {disk.description}/{PATH}; nothing is signed until they are back.",
        hint="Restore the file from a copy. `custody verify` says more.",
    )
