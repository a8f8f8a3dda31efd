"""The archive of a bundle: its files in one order, with nothing in it that depends on who packs it or when.

Owns the form of the archive: plain files sorted by name, BUNDLE first; `SHA256SUMS` over all of them, BUNDLE
signed over that; gzip or zstd around it, behind the digest of it, for which both have a place. What is added
waits in a scratch file, so that a large bundle needs little memory. Knows nothing of records. Used
by `making`.
"""

import hashlib
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

import msgspec
from msgspec import Struct

from custody.bridges.bundle import verify

TITLE = "custody-bundle/1"
BLOCK_BYTES = tarfile.BLOCKSIZE
COPY_BYTES = 1024 * 1024
GZIP_LEVEL = 6
ZSTD_LEVEL = 3
ENDING = bytes(2 * BLOCK_BYTES)

Sign = Callable[[bytes], bytes]
"""Gives the signature lines for a note's text."""


class _File(Struct, frozen=True):
    offset: int
    size: int
    sha256: str
    time: int | None


class Packing:
    """The files of one bundle."""

    def __init__(self, scratch: IO[bytes]) -> None:
        self._scratch = scratch
        self._files: dict[str, _File] = {}
        self._end = self._time = 0
        self.bytes = 0
        """Of the tar so far."""

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def add(self, name: str, content: bytes | Iterable[bytes], time: int | None = None) -> None:
        """`time` is in seconds since 1970; by default that of the whole. Raises OSError."""
        assert name not in self._files, f"{name} is added once"
        offset, digest = self._end, hashlib.sha256()
        for piece in (content,) if isinstance(content, bytes) else content:
            self._scratch.write(piece)
            digest.update(piece)
            self._end += len(piece)
        size = self._end - offset
        self._files[name] = _File(offset, size, digest.hexdigest(), time)
        self.bytes += BLOCK_BYTES + size + -size % BLOCK_BYTES

    def seal(self, facts: dict[str, Any], sign: Sign, time: int) -> None:
        """Add the list of files and the signed note over it; `time` is the whole's. Raises OSError."""
        self._time = time
        sums = "".join(f"{file.sha256}  {name}\n" for name, file in sorted(self._files.items())).encode()
        self.add("SHA256SUMS", sums)
        said = msgspec.json.encode({**facts, "sha256sums": hashlib.sha256(sums).hexdigest()}, order="sorted")
        text = f"{TITLE}\n".encode() + said + b"\n"
        self.add("BUNDLE", text + b"\n" + sign(text))

    def write(self, out: IO[bytes], *, zstd: bool) -> None:
        """Write the archive to an empty file. Raises OSError."""
        start = verify.ZSTD_START if zstd else verify.GZIP_START
        out.write(start + bytes(hashlib.sha256().digest_size))
        digest = hashlib.sha256()
        for piece in (_zstd if zstd else _gzip)(self._pieces()):
            out.write(piece)
            digest.update(piece)
        out.seek(len(start))
        out.write(digest.digest())
        out.seek(0, os.SEEK_END)

    def _pieces(self) -> Iterator[bytes]:
        for name, file in sorted(self._files.items()):
            header = tarfile.TarInfo(name)
            header.size, header.mtime = file.size, self._time if file.time is None else file.time
            yield header.tobuf(tarfile.USTAR_FORMAT)
            self._scratch.seek(file.offset)
            left = file.size
            while left:
                piece = self._scratch.read(min(left, COPY_BYTES))
                assert piece, "the scratch file holds what was added"
                left -= len(piece)
                yield piece
            yield bytes(-file.size % BLOCK_BYTES)
        yield ENDING


def _gzip(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """What follows the header, which says nothing of when or where it was made (RFC 1952)."""
    packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    crc = size = 0
    for piece in pieces:
        yield packer.compress(piece)
        crc, size = zlib.crc32(piece, crc), size + len(piece)
    yield packer.flush() + struct.pack("<II", crc, size & 0xFFFFFFFF)


def _zstd(pieces: Iterable[bytes]) -> Iterator[bytes]:
    import zstandard

    packer = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).compressobj()
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()
