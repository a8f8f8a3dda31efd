"""The checkpoint log and anchors, read note by note.

Owns the splitting of a file into notes that goes on behind a damaged one, the log's own tree, the rule that
heads only grow, and the heads each shard is compared with. Whose signatures count is `keys`' affair. Used by
`verify`.
"""

import re
from collections.abc import Iterator

from msgspec import Struct

from custody.errors import InvalidInput, MalformedNote
from custody.journal.checkpoint import ORIGIN_PREFIX, Note, parse_note
from custody.journal.disk import Disk
from custody.journal.tree import Frontier
from custody.verify.findings import Findings
from custody.verify.summed import SECTOR_BYTES
from custody.verify.tree import Head

LOG = "checkpoints/log"
LOCK = "checkpoints/lock"

_START = re.compile(rb"(?:\A|(?<=\n\n))custody-store/")
_ROOT = re.compile(rb"[A-Za-z0-9+/]{43}=")
_TIME = re.compile(rb"time [0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
_SHARD = re.compile(rb"shard [1-9][0-9]* [0-9]+ [A-Za-z0-9+/]{43}=")
_CUT_ORIGIN = re.compile(rb"custody-store/[0-9a-f]{0,32}")
_CUT = re.compile(
    rb"[A-Za-z0-9+/]{0,43}=?|time [-0-9T:.Z]{0,27}|shard[0-9 ]*|shard [0-9]+ [0-9]+ [A-Za-z0-9+/]{0,43}=?"
    rb"|t|ti|tim|time|s|sh|sha|shar"
)
_SIGNED = re.compile(rb"\xe2\x80\x94 \S+ [A-Za-z0-9+/]{91}=")
_CUT_SIGNED = re.compile(
    rb"\xe2?|\xe2\x80|\xe2\x80\x94 ?|\xe2\x80\x94 \S+ ?|\xe2\x80\x94 \S+ [A-Za-z0-9+/]{0,91}=?"
)


class Piece(Struct, frozen=True):
    """One note of a file, or what stands where one should."""

    offset: int
    note: Note | None
    what: str = ""
    torn: bool = False
    """The beginning of a note, at the end of the file."""


def pieces(data: bytes, size: int | None = 1) -> Iterator[Piece]:
    """The notes of a file. `size` is that of the first note, which the ones behind it count on; None where
    they need not be contiguous."""
    starts = [found.start() for found in _START.finditer(data)]
    if data and (not starts or starts[0] != 0):
        starts.insert(0, 0)
    for number, start in enumerate(starts):
        last = number == len(starts) - 1
        chunk = data[start:] if last else data[start : starts[number + 1] - 1]
        wanted = None if size is None else size + number
        yield from _in_chunk(chunk, start, wanted, last=last)


def _in_chunk(chunk: bytes, start: int, size: int | None, *, last: bool) -> Iterator[Piece]:
    """One note; in the last chunk the beginning of another may follow it."""
    divide = chunk.find(b"\n\n")
    stop = chunk.find(b"\n\n", divide + 2) if last and divide >= 0 else -1
    zeros = chunk.find(b"\0") if last else -1
    if zeros >= 0 and (stop < 0 or zeros < stop) and _is_note(chunk[:zeros].removesuffix(b"\n") + b"\n"):
        stop = len(chunk[:zeros].removesuffix(b"\n"))
    whole, rest = (chunk, None) if stop < 0 else (chunk[: stop + 1], chunk[stop + 2 :])
    try:
        yield Piece(start, parse_note(whole))
    except MalformedNote as error:
        yield Piece(start, None, error.message, last and rest is None and is_torn(chunk, start, size))
    if rest is not None:
        following = None if size is None else size + 1
        what = "what follows is none"
        yield Piece(start + stop + 2, None, what, is_torn(rest, start + stop + 2, following))


def _is_note(data: bytes) -> bool:
    try:
        parse_note(data)
    except MalformedNote:
        return False
    return True


def is_torn(data: bytes, offset: int, size: int | None) -> bool:
    """Whether an interrupted write of a note at that offset can have left this: its beginning, and whole
    sectors of zeros where others had not reached the disk."""
    data = data.rstrip(b"\0")
    first = SECTOR_BYTES - offset % SECTOR_BYTES
    sectors = [data[:first], *(data[at : at + SECTOR_BYTES] for at in range(first, len(data), SECTOR_BYTES))]
    there = b""
    for number, sector in enumerate(sectors):
        if not any(sector):
            return all(b"\0" not in later or not any(later) for later in sectors[number:])
        there += sector
    return b"\0" not in there and is_beginning(there, size)


def is_beginning(data: bytes, size: int | None) -> bool:
    """Whether this is the beginning of a note."""
    *whole, cut = data.split(b"\n")
    if not whole:
        return _CUT_ORIGIN.fullmatch(cut) is not None or ORIGIN_PREFIX.encode().startswith(cut)
    if size is not None and len(whole) > 1 and whole[1] != b"%d" % size:
        return False
    text, signed = (
        (whole[: whole.index(b"")], whole[whole.index(b"") + 1 :]) if b"" in whole else (whole, None)
    )
    forms = (_ROOT, _TIME)
    if not all(form.fullmatch(line) for form, line in zip(forms, text[2:4], strict=False)):
        return False
    if not all(map(_SHARD.fullmatch, text[4:])):
        return False
    if signed is None:
        return _CUT.fullmatch(cut) is not None
    return (
        bool(cut or not signed)
        and all(map(_SIGNED.fullmatch, signed))
        and _CUT_SIGNED.fullmatch(cut) is not None
    )


class LogCheck:
    """The checkpoint log of a store, read once."""

    def __init__(self, disk: Disk, findings: Findings) -> None:
        self._disk = disk
        self._findings = findings
        self.present = False
        self.notes: list[tuple[int, Note]] = []
        """With their offsets."""
        self.roots: dict[int, bytes] = {}
        """Size of the log -> root its note states."""
        self.heads: dict[int, dict[int, Head]] = {}
        """Shard -> size -> who vouched for it first."""
        self._tree: Frontier | None = Frontier()
        self._newest: dict[int, tuple[int, bytes]] = {}
        self.size = 0

    def read(self) -> None:
        """Raises nothing: what cannot be read is a problem."""
        try:
            data = self._disk.read_all(LOG)
        except OSError as error:
            self._findings.problem(f"cannot be read: {error.strerror or error}", file=LOG)
            return
        self.present = data is not None
        for piece in pieces(data or b""):
            if piece.note is not None:
                self._add(piece.offset, piece.note)
            elif piece.torn:
                if not self._disk.locked(LOCK):
                    what = "an interrupted write of a checkpoint"
                    self._findings.note(what, file=LOG, offset=piece.offset)
            else:
                what = f"checkpoint {self.size + 1} is not readable: {piece.what}"
                self._findings.fault(what, file=LOG, offset=piece.offset)
                self._tree = None
                self.size += 1

    def _add(self, offset: int, note: Note) -> None:
        checkpoint = note.checkpoint
        number = checkpoint.size
        if number != self.size + 1:
            what = f"checkpoint {number} stands where {self.size + 1} should"
            self._findings.fault(what, file=LOG, offset=offset)
            self._tree = None
        self.size = number
        if self.notes and checkpoint.origin != self.notes[0][1].checkpoint.origin:
            self._findings.fault(f"checkpoint {number} is of another store", file=LOG, offset=offset)
        if self._tree is not None:
            self._tree.add_leaf(checkpoint.statement)
            if self._tree.root() != checkpoint.root:
                what = f"checkpoint {number} does not go on from those before it"
                self._findings.fault(what, file=LOG, offset=offset)
                self._tree = None
        self.notes.append((offset, note))
        self.roots[number] = checkpoint.root
        self._compare_heads(offset, note)

    def _compare_heads(self, offset: int, note: Note) -> None:
        heads = note.checkpoint.heads
        number = note.checkpoint.size
        for shard in self._newest.keys() - heads.keys():
            what = f"checkpoint {number} no longer names shard {shard}"
            self._findings.fault(what, file=LOG, offset=offset, shard=shard)
        for shard, head in heads.items():
            size, root = self._newest.get(shard, (0, b""))
            if head.size < size or (head.size == size and root and head.root != root):
                what = f"checkpoint {number} has other records of the shard than the one before"
                self._findings.fault(what, file=LOG, offset=offset, shard=shard, sequence=head.size)
            self._newest[shard] = (head.size, head.root)
            vouched = Head(
                head.size, head.root, LOG, offset, note.checkpoint.time, f"checkpoint {number}", number
            )
            self.heads.setdefault(shard, {}).setdefault(head.size, vouched)

    @property
    def origin(self) -> str | None:
        return self.notes[0][1].checkpoint.origin if self.notes else None


class Anchor(Struct, frozen=True):
    """A note that was kept elsewhere."""

    name: str
    offset: int
    note: Note

    def heads(self) -> Iterator[tuple[int, Head]]:
        checkpoint = self.note.checkpoint
        for shard, head in checkpoint.heads.items():
            said_by = f"the anchor of {checkpoint.time}"
            yield (
                shard,
                Head(head.size, head.root, self.name, self.offset, checkpoint.time, said_by, 0, anchor=True),
            )


def read_anchors(files: dict[str, bytes]) -> list[Anchor]:
    """Notes out of files, one or many in each. Raises InvalidInput for a file that is none."""
    anchors: list[Anchor] = []
    for name, data in files.items():
        data = data.replace(b"\r\n", b"\n").strip(b"\n")
        found = list(pieces(data + b"\n" if data else b"", None))
        if not found:
            raise InvalidInput(f"{name} is empty: it holds no checkpoint.")
        for piece in found:
            if piece.note is None:
                raise InvalidInput(
                    f"{name} holds something that is no checkpoint: {piece.what}",
                    hint="Keep what `custody checkpoint` prints as it is.",
                    offset=piece.offset,
                )
            anchors.append(Anchor(name, piece.offset, piece.note))
    return anchors
