"""One call's undo file while it is being written.

Owns when an entry reaches the page cache and when the disk, and the words for a store that cannot take it.
What the entries say is `entries`, their order `log`. Used by `apply`, `observed` and `recover`; made by
`store`.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from custody.changes import entries
from custody.changes.sealing import Header, Seal, pack_header
from custody.errors import ToolError
from custody.files.state import State
from custody.journal.disk import File

PUT_BYTES = 256 * 1024
"""Frames gathered before they are put: small entries would each be a system call."""

TICK_NS = 500_000_000
"""How often a long change says that it is still at it. Recovery takes what is much younger than the last word
of a dead process for somebody else's work."""


class UndoWriter:
    """One call's undo file while it is being written. A full or failing disk raises ToolError."""

    def __init__(
        self,
        file: File,
        seal: Seal,
        *,
        call_id: bytes,
        part: int,
        content_bytes_max: int,
        mark: Callable[[], None],
        sync_name: Callable[[], None],
        leave: Callable[[int | None], None],
        number: int = 0,
        offset: int = 0,
        writer: int = 0,
    ) -> None:
        self.call_id = call_id
        self.part = part
        self._file = file
        self._seal = seal
        self._content_bytes_max = content_bytes_max
        self._mark: Callable[[], None] | None = mark
        self._sync_name = sync_name
        self._leave = leave
        self._number, self._offset, self._writer = number, offset, writer
        self._gathered = bytearray()
        self._content_bytes = 0
        self._word_ns = time.time_ns()

    def header(self, header: Header) -> None:
        self._gathered += pack_header(header)

    def write(self, entry: entries.AnyEntry) -> None:
        """Gather an entry; see `flush`."""
        self._frame(entries.encode(entry), is_content=False)

    def content(self, chunk: bytes) -> None:
        """A piece of old content; an empty one says that the file is read again from its start."""
        if not chunk:
            return self.write(entries.Again())
        self._content_bytes += len(chunk)
        if self._content_bytes > self._content_bytes_max:
            raise too_much(self._content_bytes, self._content_bytes_max)
        self._frame(chunk, is_content=True)

    def flush(self) -> None:
        """What was written outlives this process from here on."""
        if not self._gathered:
            return
        data, self._gathered = bytes(self._gathered), bytearray()
        try:
            self._file.put(data, self._offset)
            self._offset += len(data)
            if self._mark is not None:  # only now: whoever finds the mark can read whose it is
                self._mark()
                self._mark = None
        except OSError as error:
            raise not_kept(error) from error

    def ready(self) -> None:
        """What was written outlives the machine's power from here on."""
        self._word_ns = time.time_ns()
        self.write(entries.Ready(self._word_ns))
        self.flush()
        try:
            self._file.sync()
            self._sync_name()
        except OSError as error:
            raise not_kept(error) from error

    def tick(self) -> None:
        """Say now and then that it is still at it."""
        now_ns = time.time_ns()
        if now_ns - self._word_ns > TICK_NS:
            self._word_ns = now_ns
            self.write(entries.Tick(now_ns))
            self.flush()

    def done(self, after: Sequence[tuple[int, State]], folders: Sequence[int | None]) -> None:
        """All is in place."""
        for number, state in after:
            self.write(entries.Left(number, entries.pack_state(state)))
        self.write(entries.Done(tuple(folders)))
        self.flush()
        self._end(keep=True)

    def abandon(self) -> None:
        """Nothing was changed, or all of it was put back: forget the file, if the store lets us."""
        with suppress(OSError):
            self._end(keep=False)

    def keep(self) -> None:
        """It did not come to its end, and nobody needs to look at it again; what was kept stays."""
        with suppress(OSError):
            self._end(keep=True)

    def leave_unfinished(self) -> None:
        """Neither: what stands there is for recovery to judge, when this process is gone."""
        self._file.close()

    def _end(self, *, keep: bool) -> None:
        self._file.close()
        self._leave(self._offset if keep else None)

    def _frame(self, data: bytes, *, is_content: bool) -> None:
        self._gathered += self._seal.seal(self._number, data, is_content=is_content, writer=self._writer)
        self._number += 1
        if len(self._gathered) >= PUT_BYTES:
            self.flush()


def too_much(content_bytes: int, content_bytes_max: int) -> ToolError:
    """The refusal of a call whose old content would not be kept."""
    return ToolError(
        f"Taking this back would need {_mebibytes(content_bytes)} of old content to be kept; "
        f"one call may have {_mebibytes(content_bytes_max)}. Nothing was changed.",
        hint="[undo] call_bytes_max in the settings allows more.",
        bytes=content_bytes,
        bytes_max=content_bytes_max,
    )


def _mebibytes(count: int) -> str:
    return f"{count / 1024**2:,.1f} MiB"


def not_kept(error: OSError) -> ToolError:
    """The refusal of a change whose old state cannot be written down."""
    return ToolError(
        f"The old state could not be kept in the store: {error.strerror or error}. Nothing was changed.",
        hint="Free some space where the store is.",
        errno=error.errno,
    )
