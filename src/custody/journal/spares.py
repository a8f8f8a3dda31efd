"""Making segments: zero-filled, synced and named before anybody uses them, ahead of need where that pays.

Owns the order of steps in which a new segment becomes believable (fill, sync, header, sync, folder sync)
and the helper thread that takes them ahead. Knows nothing of what is put into a segment. Used by `shard`.
"""

import contextlib
import errno
import os
import threading
import time
from collections import deque

from msgspec import Struct

from custody.journal.disk import Disk, File
from custody.journal.frames import (
    NO_SEGMENT_ID,
    SEGMENT_HEADER_BYTES,
    SEGMENT_ID_BYTES,
    SegmentHeader,
    encode_segment_header,
)
from custody.journal.segments import segment_path, shard_folder
from custody.journal.settings import JournalSettings

FILL_BYTES = 16 * 1024
"""Larger writes build large folios in the page cache, in which small puts and their syncs are slower."""

FILL_RUN = 4
"""Writes between two pauses of the helper."""

DOUBLINGS_MAX = 16
"""More would only make a number too large to be used."""

SHARE_OF_TOTAL = 4
"""A new segment is at least a quarter of what the shard has: many short writers leave little unused, and
the number of segments grows with the logarithm of the shard."""

PAGE_BYTES = 4096

_ZEROS = bytes(FILL_BYTES)


class Fresh(Struct):
    """A segment that is ready and not yet in use."""

    header: SegmentHeader
    file: File


class WouldWait(Exception):
    """This cannot be done before the disk has done something."""

    def __init__(self, spare_bytes: int) -> None:
        super().__init__()
        self.spare_bytes = spare_bytes
        """What is missing is a spare of so many bytes; 0: something else."""


class Spares:
    """Segments of one shard, made when asked or ahead.

    `provide` waits for the disk and may be called by any thread, as may `make_ahead`; everything else by one
    at a time, the one that holds the shard's put lock.
    """

    def __init__(
        self,
        disk: Disk,
        shard: int,
        settings: JournalSettings,
        top: SegmentHeader | None,
        ready: list[Fresh],
        total_bytes: int,
    ) -> None:
        """`top` is the header of the highest segment there is; `ready` are unused ones, lowest first."""
        self.total_bytes = total_bytes
        """Of all segments in use."""
        self._disk = disk
        self._shard = shard
        self._settings = settings
        self._handed_out = 0
        self._previous_id = top.id if top else NO_SEGMENT_ID
        self._next_index = top.index + 1 if top else 1
        self._ready = deque(ready)
        self._making = threading.Lock()
        self._helper: threading.Thread | None = None
        self._hurry = threading.Event()
        self._closed = False

    def take(self, bytes_min: int) -> Fresh:
        """A spare of at least so many bytes. Raises WouldWait where there is none."""
        while self._ready:
            fresh = self._ready.popleft()
            if fresh.header.size_bytes >= bytes_min:
                self._handed_out += 1
                self.total_bytes += fresh.header.size_bytes
                return fresh
            fresh.file.close()
        raise WouldWait(bytes_min)

    def another(self, bytes_min: int) -> Fresh:
        """A spare, or a segment made now, which waits. Raises OSError."""
        while True:
            try:
                return self.take(bytes_min)
            except WouldWait:
                self.provide(bytes_min)

    def provide(self, bytes_min: int) -> None:
        """Have a spare of at least so many bytes, made now unless somebody is about to have made it.

        Waits. Raises OSError.
        """
        self._hurry.set()
        with self._making:
            if self._closed:
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            if not any(fresh.header.size_bytes >= bytes_min for fresh in tuple(self._ready)):
                self._ready.append(self._make_now(max(self._wished_size(), bytes_min), bytes_min))

    def _make_now(self, size_bytes: int, bytes_min: int) -> Fresh:
        """`size_bytes` is wished for; `bytes_min` will do when the disk has no more."""
        if self._disk.free_bytes()[0] < size_bytes:
            size_bytes = bytes_min
        try:
            return self._make(size_bytes)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or size_bytes <= bytes_min:
                raise
            return self._make(bytes_min)

    def _wished_size(self) -> int:
        settings = self._settings
        doubled = settings.first_segment_bytes << min(self._handed_out, DOUBLINGS_MAX)
        return min(max(doubled, self.total_bytes // SHARE_OF_TOTAL), settings.segment_bytes_max)

    def make_ahead(self, bytes_min: int) -> None:
        """Have a spare before long, and a second one for a busy writer, made by a helper thread."""
        count = min(self._settings.spares_max, 1 + (self._handed_out > 1))
        if self._closed or len(self._ready) >= count or (self._helper and self._helper.is_alive()):
            return
        self._hurry.clear()
        helper = threading.Thread(
            target=self._help,
            args=(max(self._wished_size(), bytes_min), count),
            name="custody-segments",
            daemon=True,
        )
        try:
            helper.start()
        except RuntimeError:
            return  # the interpreter is ending: whoever needs a segment makes it
        self._helper = helper

    def _help(self, size_bytes: int, count: int) -> None:
        with contextlib.suppress(OSError):  # the current segment goes on; the next roll-over tries again
            while len(self._ready) < count:
                with self._making:
                    if self._closed:
                        return
                    self._ready.append(self._make(size_bytes, paused=True))

    def _make(self, size_bytes: int, *, paused: bool = False) -> Fresh:
        if self._disk.free_bytes()[0] < size_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._disk.description)
        assert self._making.locked(), "each new segment names the one before it"
        index, self._next_index = self._next_index, self._next_index + 1
        id_ = os.urandom(SEGMENT_ID_BYTES)
        header = SegmentHeader(self._shard, index, size_bytes, id_, self._previous_id)
        path = segment_path(self._shard, index)
        file = self._disk.open(path, create=True)
        try:
            self._fill(file, size_bytes, paused)
            # The header comes when the rest is durable: a segment that has one is whole for ever.
            file.sync()
            file.put(encode_segment_header(header), 0)
            file.sync()
            self._disk.sync_folder(shard_folder(self._shard))
        except BaseException:
            file.close()
            with contextlib.suppress(OSError):
                self._disk.remove(path)
            raise
        self._previous_id = header.id
        return Fresh(header, file)

    def _fill(self, file: File, size_bytes: int, paused: bool) -> None:
        for count, offset in enumerate(range(0, size_bytes, FILL_BYTES)):
            file.put(_ZEROS[: size_bytes - offset], offset)
            if paused and not self._hurry.is_set() and count % FILL_RUN == FILL_RUN - 1:
                time.sleep(self._settings.fill_pause_seconds)
            if paused and self._closed:
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))

    def close(self) -> None:
        """Remove what was never used, the highest first: a reader may be looking."""
        self._closed = True
        if self._helper is not None:
            self._helper.join()
        with self._making:
            while self._ready:
                fresh = self._ready.pop()
                fresh.file.close()
                with contextlib.suppress(OSError):
                    self._disk.remove(segment_path(self._shard, fresh.header.index))

    def lose(self) -> None:
        """In a forked child: the segments are the parent's."""
        for fresh in self._ready:
            fresh.file.close()


def smallest_segment(content_bytes: int) -> int:
    """The size of a segment that holds so many bytes of frames, in whole pages."""
    return -(-(SEGMENT_HEADER_BYTES + content_bytes) // PAGE_BYTES) * PAGE_BYTES
