"""What is written down of one call's changes before they happen, as it is read again.

Owns the order of the entries in an undo file:

    begun, (folder | staging | content* before | content* addition | intent)*, ready, tick*, left*, done

Everything up to `ready` is durable before the first path is changed; what stands behind it helps, and is not
needed. Knows nothing of how files change, and of sealing only that a frame comes out as it went in. Written
by `writing`; used by `undo`, `putback` and `recover`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import Struct

from custody.changes import entries
from custody.changes.sealing import (
    FRAME_HEADER_BYTES,
    HEADER_BYTES,
    Damaged,
    FrameHeader,
    Header,
    Seal,
    unpack_frame_header,
)
from custody.errors import UndoGone
from custody.files.reach import Target
from custody.files.state import State
from custody.journal.disk import File


class Entry(Struct, frozen=True, kw_only=True):
    """One path of a call: what stood there, and what the call put there."""

    number: int
    """Of the path in its call."""
    target: Target
    before: State
    after: State | None
    """None: not known yet; something else changes it and has not been looked at again."""
    kept: bool
    """Whether `before` can be made again: not a file whose content was not kept, nor a device or such."""
    keep_bytes: int | None = None
    """The first so many bytes stayed in place and only the rest was changed."""
    keep_sha256: bytes | None = None
    """Of those bytes."""
    exact: bool = False
    """Whether `after` says attributes and times that it is given in the end."""
    twin: Target | None = None
    """Another name of the file that stood there, if it had one."""
    staging: Target | None = None
    """The temporary file it came from."""


class FolderTimes(Struct, frozen=True, kw_only=True):
    """When a folder that holds a changed entry, and is not one itself, had been changed. Nanoseconds."""

    folder: Target
    before_ns: int
    after_ns: int | None
    wanted_ns: int | None = None
    """What the call gives it in the end; None: it takes its course."""


class Piece(Struct, frozen=True):
    """Where one frame lies in its file."""

    offset: int
    number: int
    header: FrameHeader


class SealedFile:
    """One undo file: where its frames are got from."""

    def __init__(self, call_id: bytes, header: Header, seal: Seal, open_file: Callable[[], File]) -> None:
        self.call_id = call_id
        self.header = header
        self.open_file = open_file
        self._seal = seal

    def pieces(self, pieces: list[Piece]) -> Iterator[bytes]:
        """What is in these frames. Raises UndoGone where it is damaged, or removed by now."""
        if not pieces:
            return
        try:
            file = self.open_file()
        except FileNotFoundError:
            raise UndoGone("What was kept of this call has just been removed.") from None
        try:
            for piece in pieces:
                try:
                    yield self.frame(file, piece)
                except Damaged as error:
                    raise damaged(self.call_id, str(error)) from error
        finally:
            file.close()

    def frame(self, file: File, piece: Piece) -> bytes:
        """Raises Damaged."""
        sealed = file.read(piece.header.sealed_bytes, piece.offset + FRAME_HEADER_BYTES)
        return self._seal.open(piece.number, piece.header, sealed)


class UndoSet:
    """One undo file as read. Content stays in the file until it is asked for."""

    def __init__(self, source: SealedFile, part: int, found: "_Found") -> None:
        self.call_id = source.call_id
        self.part = part
        """0 for the first of a call's undo files."""
        self.observed = source.header.observed
        """Something else did the changing."""
        self.pid = source.header.pid
        self.start_ticks = source.header.start_ticks
        self.at_us = source.header.at_us
        self.roots = found.roots
        self.ready = found.ready
        """Whether it came as far as to change something."""
        self.done = found.done
        """Whether it came to its end."""
        self.entries: tuple[Entry, ...] = found.entries_found()
        self.folders = tuple(found.folders)
        self.staging = tuple(found.staging.values())
        """Every temporary file it may have made."""
        self.last_word_ns = found.last_word_ns or source.header.at_us * 1000
        """When its process was last known to be at it."""
        self.damage = found.damage
        """Why reading ended before the end of the file."""
        self.end_offset = found.end_offset
        self.end_number = found.end_number
        self._source = source
        self._content = found.content
        self._additions = found.additions

    def content(self, entry: Entry) -> Iterator[bytes]:
        """The old content of a file (what stood behind `keep_bytes`), in chunks. Raises UndoGone."""
        return self._source.pieces(self._content.get(entry.number, []))

    def addition(self, entry: Entry) -> Iterator[bytes]:
        """What was to be written behind `keep_bytes`, in chunks. Raises UndoGone."""
        return self._source.pieces(self._additions.get(entry.number, []))

    def content_of(self, path: str, bytes_max: int) -> bytes | None:
        """The old content of the file at an absolute path; None where it was not kept whole, or is larger."""
        for entry in self.entries:
            if entry.target.path == path and entry.before.kind == "file":
                if not entry.kept or entry.keep_bytes or entry.before.size > bytes_max:
                    return None
                return b"".join(self.content(entry))
        return None


def damaged(call_id: bytes, how: str) -> UndoGone:
    """The error for undo data that is not what was written."""
    return UndoGone(f"What was kept of call {call_id.hex()} is damaged: {how}.", call_id=call_id.hex())


def read_set(source: SealedFile, part: int, file: File) -> UndoSet:
    """What an open undo file says. Damage ends the reading, and is told; content is not looked at."""
    found = _Found()
    offset, number, size = HEADER_BYTES, 0, file.size_bytes()
    try:
        while not found.done and offset < size:
            header = unpack_frame_header(file.read(FRAME_HEADER_BYTES, offset))
            if header is None or offset + FRAME_HEADER_BYTES + header.sealed_bytes > size:
                found.damage = f"it is cut at byte {offset}"
                break
            piece = Piece(offset, number, header)
            if header.is_content:
                found.pending.append(piece)
            else:
                found.take(entries.decode(source.frame(file, piece)))
            offset += FRAME_HEADER_BYTES + header.sealed_bytes
            number += 1
    except (Damaged, msgspec.DecodeError) as error:
        found.damage = f"{error}, at byte {offset}"
    found.end_offset, found.end_number = offset, number
    return UndoSet(source, part, found)


class _Found:
    """What the entries read so far come to."""

    def __init__(self) -> None:
        self.roots: tuple[str, ...] = ()
        self.folders: list[FolderTimes] = []
        self.staging: dict[int, Target] = {}
        self.entries: dict[int, Entry] = {}
        self.pending: list[Piece] = []
        """Content whose entry is still to come."""
        self.content: dict[int, list[Piece]] = {}
        self.additions: dict[int, list[Piece]] = {}
        self.ready = False
        self.done = False
        self.last_word_ns = 0
        self.damage: str | None = None
        self.end_offset = 0
        self.end_number = 0

    def take(self, entry: entries.AnyEntry) -> None:
        match entry:
            case entries.Begun():
                self.roots = entries.unpack_paths(entry.roots)
            case entries.FolderBefore():
                folder = entries.unpack_target(entry.place)
                self.folders.append(
                    FolderTimes(
                        folder=folder, before_ns=entry.mtime_ns, after_ns=None, wanted_ns=entry.wanted_ns
                    )
                )
            case entries.Staging():
                self.staging[entry.number] = entries.unpack_target(entry.place)
            case entries.Again():
                self.pending = []
            case entries.Before():
                self._take_before(entry)
            case entries.Addition():
                self.additions[entry.number], self.pending = self.pending, []
            case entries.Intent():
                self._update(
                    entry.number,
                    entry.after,
                    keep_bytes=entry.keep_bytes,
                    keep_sha256=entry.keep_sha256,
                    exact=entry.exact,
                )
            case entries.Ready():
                self.ready, self.last_word_ns = True, entry.at_ns
            case entries.Tick():
                self.last_word_ns = entry.at_ns
            case entries.Left():
                self._update(entry.number, entry.after)
            case entries.Done():
                self._take_done(entry)

    def _take_before(self, entry: entries.Before) -> None:
        self.content[entry.number], self.pending = self.pending, []
        self.entries[entry.number] = Entry(
            number=entry.number,
            target=entries.unpack_target(entry.place),
            before=entries.unpack_state(entry.state),
            after=None,
            kept=entry.kept,
            twin=None if entry.twin is None else entries.unpack_target(entry.twin),
            staging=self.staging.get(entry.number),
        )

    def _take_done(self, entry: entries.Done) -> None:
        self.done = True
        for at, after_ns in enumerate(entry.folders):
            self.folders[at] = msgspec.structs.replace(self.folders[at], after_ns=after_ns)

    def _update(self, number: int, after: entries.PackedState, **said: Any) -> None:
        known = self.entries[number]
        self.entries[number] = msgspec.structs.replace(known, after=entries.unpack_state(after), **said)

    def entries_found(self) -> tuple[Entry, ...]:
        found = self.entries.values()
        if self.done:  # of what was observed, only what changed has an end
            return tuple(entry for entry in found if entry.after is not None)
        return tuple(found)
