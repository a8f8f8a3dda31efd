"""Checking a bundle with the very code that lies in each of them.

Owns what `verify.py` leaves out: bundles packed with zstd. Used by `making`, on each bundle before it is
handed out, and by `custody verify --bundle`.
"""

from collections.abc import Sequence
from typing import IO, Any

from custody.bridges.bundle import verify
from custody.errors import InvalidInput
from custody.journal.checkpoint import Verifier

ZSTD_WINDOW_BYTES_MAX = 128 * 1024 * 1024
"""As zstd's own program: what asks for more memory than that is no bundle."""

PACKED_READ_BYTES = 1024
"""As much as is unpacked at once: no more than 32 MiB can come of it, whoever packed it."""


def check_bundle(file: IO[bytes], trusted: Sequence[Verifier] | None = None) -> dict[str, Any]:
    """What a bundle holds, and under `faults` a sentence for everything found wrong; none: it holds.

    `key` is `given` where signatures were checked with `trusted`, else `enclosed`: with keys that came with
    the bundle, which shows only that they belong together. Raises InvalidInput for what cannot be opened, and
    OSError. `file` can be sought in and stands at its beginning; what it holds is held in memory, at most
    `verify.BYTES_MAX`.
    """
    keys = None if trusted is None else [key.line for key in trusted]
    is_zstd = file.read(4) == verify.ZSTD_START[:4]
    file.seek(0)
    if is_zstd and not verify.is_whole(file, verify.ZSTD_START):
        return {"faults": ["the file is cut short, or was changed after it was written"]}
    try:
        return verify.check(file, keys, _Unzstd(file) if is_zstd else None)
    except verify.Unreadable as error:
        raise InvalidInput(f"The bundle cannot be opened: {error}.") from error


class _Unzstd:
    """The one frame of zstd in a file, as a stream that knows whether it ended as it should."""

    def __init__(self, file: IO[bytes]) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._file = file
        file.seek(len(verify.ZSTD_START) + 32)  # some readers of zstd do not skip what there is to skip
        self._frame: Any = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX).decompressobj()
        self._ready = b""

    def read(self, count: int) -> bytes:
        """All of so many bytes unless the end comes before. Raises EOFError for a frame that is damaged."""
        pieces = [self._ready]
        ready = len(self._ready)
        while ready < count and not self._frame.eof:
            piece = self._next_piece()
            pieces.append(piece)
            ready += len(piece)
        whole = b"".join(pieces)
        self._ready = whole[count:]
        return whole[:count]

    def _next_piece(self) -> bytes:
        packed = self._file.read(PACKED_READ_BYTES)
        if not packed:
            raise EOFError("zstd: the frame has no end")
        try:
            piece: bytes = self._frame.decompress(packed)
        except self._error as error:
            raise EOFError(str(error)) from error
        if self._frame.eof and (self._frame.unused_data or self._file.read(1)):
            raise EOFError("zstd: something follows the frame")
        return piece
