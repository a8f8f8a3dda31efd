"""Files of which only the end changes: an append, and what takes one back.

Owns what is kept of such a file (a digest of the beginning that stays, the old end) and how one is recognised
whose new end was only half written. Used by `apply` and `putback`.
"""

import hashlib
from collections.abc import Callable, Iterator

import msgspec

from custody.changes.folders import Folders
from custody.changes.log import Entry, UndoSet
from custody.errors import CustodyError
from custody.files.state import State, look


class Beginning:
    """A sink for `look`: digests the part of a file that stays, and hands on what stands behind it."""

    def __init__(self, keep_bytes: int, hand_on: Callable[[bytes], None]) -> None:
        self._keep_bytes = keep_bytes
        self._hand_on = hand_on
        self._start()

    def _start(self) -> None:
        self._digest = hashlib.sha256()
        self._left_bytes = self._keep_bytes

    def take(self, chunk: bytes) -> None:
        if not chunk:  # the file is read again from its start
            self._start()
            return self._hand_on(chunk)
        stays, behind = chunk[: self._left_bytes], chunk[self._left_bytes :]
        self._left_bytes -= len(stays)
        self._digest.update(stays)
        if behind:
            self._hand_on(behind)

    @property
    def sha256(self) -> bytes:
        """Of the part that stays."""
        return self._digest.digest()

    def with_end(self, state: State, chunks: Iterator[bytes], hand_on: Callable[[bytes], None]) -> State:
        """The file with these chunks behind the part that stays; `hand_on` gets them too."""
        digest, size = self._digest.copy(), self._keep_bytes
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            hand_on(chunk)
        return msgspec.structs.replace(state, size=size, sha256=digest.digest())


def is_torn(undo_set: UndoSet, entry: Entry, folders: Folders) -> bool:
    """Whether a file has the beginning that stays, and behind it a part of the new end, or of the old one."""
    if entry.keep_bytes is None:
        return False
    new_end, old_end = _Compared(undo_set.addition(entry)), _Compared(undo_set.content(entry))

    def behind(chunk: bytes) -> None:
        if not chunk:
            raise CustodyError("It changes while it is looked at.")
        new_end.take(chunk)
        old_end.take(chunk)

    beginning = Beginning(entry.keep_bytes, behind)
    try:
        folder_fd, name = folders.of(entry.target)
        state = look(folder_fd, name, sink=beginning.take)
    except CustodyError:
        return False
    return (
        state.kind == "file"
        and state.inode == entry.before.inode
        and state.size >= entry.keep_bytes
        and beginning.sha256 == entry.keep_sha256
        and (new_end.equal or old_end.equal)
    )


class _Compared:
    """Whether what is handed in is the beginning of what is expected."""

    def __init__(self, expected: Iterator[bytes]) -> None:
        self.equal = True
        self._expected = expected
        self._ahead = b""

    def take(self, chunk: bytes) -> None:
        while chunk and self.equal:
            if not self._ahead:
                self._ahead = next(self._expected, b"")
            count = min(len(self._ahead), len(chunk))
            self.equal = count > 0 and self._ahead[:count] == chunk[:count]
            self._ahead, chunk = self._ahead[count:], chunk[count:]
