"""Blobs: large values kept once each, by what they contain.

Owns the folder `blobs/`: zstd-compressed files named after the SHA-256 of the plain bytes. Knows nothing
of which records name them. Every method may wait for the disk. Used through `Journal`.
"""

import hashlib

import zstandard

from custody.errors import CorruptJournal
from custody.journal.disk import Disk

BLOBS_FOLDER = "blobs"

COMPRESSION_LEVEL = 3
"""zstd's default: beyond it the time doubles for a few percent."""


class Blobs:
    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def put(self, data: bytes) -> bytes:
        """Keep `data` durably; returns its SHA-256. Raises OSError."""
        digest = hashlib.sha256(data).digest()
        folder, path = _place(digest)
        if self.has(digest):
            # Whoever wrote it may not have come to this sync yet.
            self._disk.sync_folder(folder)
            return digest
        self._disk.make_folder(folder)
        self._disk.replace(path, zstandard.ZstdCompressor(COMPRESSION_LEVEL).compress(data))
        return digest

    def get(self, digest: bytes) -> bytes | None:
        """None when it was never kept or has been purged. Raises CorruptJournal."""
        stored = self._disk.read_all(_place(digest)[1])
        if stored is None:
            return None
        try:
            data = zstandard.ZstdDecompressor().decompress(stored)
        except zstandard.ZstdError as error:
            raise _damaged(digest) from error
        if hashlib.sha256(data).digest() != digest:
            raise _damaged(digest)
        return data

    def has(self, digest: bytes) -> bool:
        try:
            self._disk.open(_place(digest)[1], write=False).close()
        except FileNotFoundError:
            return False
        return True


def _place(digest: bytes) -> tuple[str, str]:
    name = digest.hex()
    folder = f"{BLOBS_FOLDER}/{name[:2]}"
    return folder, f"{folder}/{name}"


def _damaged(digest: bytes) -> CorruptJournal:
    return CorruptJournal(
        f"The blob {digest.hex()} is damaged.", hint="Restore it from a copy.", blob=digest.hex()
    )
