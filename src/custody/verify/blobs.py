"""Blobs: each is what its name says, and each that a record needs is there.

Owns the reading of `blobs/` without holding a blob in memory. Knows nothing of what a blob says. Used by
`verify`.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from custody.journal.disk import Disk
from custody.verify.findings import Findings
from custody.verify.gather import BlobUse, Gather

FOLDER = "blobs"
SUBFOLDER = re.compile(r"[0-9a-f]{2}")
NAME = re.compile(r"([0-9a-f]{64})(\.condemned)?")
"""A purge that is about to remove a blob takes its name away first, and gives it back when a record came."""
READ_BYTES = 256 * 1024

UNUSED_BIT = 0x10
"""Of a zstd frame's descriptor (RFC 8878, 3.1.1.1.1): decoders must not look at it."""


class BlobCheck:
    """The blobs of a store."""

    def __init__(self, disk: Disk, findings: Findings, gather: Gather) -> None:
        self._disk = disk
        self._findings = findings
        self._uses = gather.blobs
        self.checked = 0
        self.unreferenced = 0

    def check(self, progressed: Callable[[], None]) -> None:
        """All of them."""
        there: set[bytes] = set()
        for path, name in self._files():
            there.add(bytes.fromhex(name))
            self._check(path, name)
            progressed()
        for digest, use in self._uses.items():
            if digest not in there:
                self._findings.fault(f"the blob {digest.hex()} is missing", **_place(use))
        if self.unreferenced:
            what = f"{self.unreferenced} blobs that no record refers to"
            self._findings.note(what, file=FOLDER)

    def _files(self) -> Iterator[tuple[str, str]]:
        for folder in self._disk.names(FOLDER):
            for name in self._disk.names(f"{FOLDER}/{folder}"):
                path = f"{FOLDER}/{folder}/{name}"
                found = NAME.fullmatch(name)
                if found and name[:2] == folder:
                    if found[2]:
                        self._findings.note("a purge that is not through has condemned the blob", file=path)
                    yield path, found[1]
                else:
                    self._findings.note("a file that is no blob", file=path)

    def _check(self, path: str, name: str) -> None:
        use = self._uses.get(bytes.fromhex(name))
        place = _place(use) if use is not None else {}
        self.unreferenced += use is None
        try:
            size, wrong = self._content(path, name)
        except FileNotFoundError:
            return  # purged meanwhile
        except OSError as error:
            self._findings.problem(f"cannot be read: {error.strerror or error}", file=path)
            return
        self.checked += 1
        if not wrong and use is not None and use.bytes != size:
            wrong = f"the blob has {size} bytes, and the record says {use.bytes}"
        if wrong:
            self._findings.fault(wrong, **{**place, "file": path, "offset": 0})

    def _content(self, path: str, name: str) -> tuple[int, str]:
        """How many bytes it holds, and what is wrong with it."""
        import zstandard

        digest, size, offset = hashlib.sha256(), 0, 0
        decompress: Any = zstandard.ZstdDecompressor().decompressobj()
        file = self._disk.open(path, write=False)
        try:
            head = file.read(5, 0)
            if len(head) == 5 and head[4] & UNUSED_BIT:
                return 0, "the blob's frame has a bit set that means nothing"
            while data := file.read(READ_BYTES, offset):
                offset += len(data)
                if decompress.eof:
                    return size, "bytes behind the blob's end"
                plain: bytes = decompress.decompress(data)
                digest.update(plain)
                size += len(plain)
        except zstandard.ZstdError:
            return size, "the blob cannot be decompressed"
        finally:
            file.close()
        if not decompress.eof or decompress.unused_data:
            return size, "the blob ends too early, or bytes stand behind its end"
        return size, "" if digest.hexdigest() == name else "the blob is not what its name says"


def _place(use: BlobUse) -> dict[str, Any]:
    return {
        "shard": use.shard, "sequence": use.sequence, "offset": use.offset,
        "file": f"journal/{use.shard:04d}/{use.segment:08d}.seg", **use.ids,
    }  # fmt: skip
