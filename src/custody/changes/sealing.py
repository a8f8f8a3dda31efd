"""How an undo file is sealed: frames that cannot be read, moved, swapped or taken from another file.

Owns the bytes of a file: a header in the clear, then frames of AES-256-GCM (pyca) under a key of the file's
own, made with HKDF-SHA256 from the store's key, the salt in the header and the call. Knows nothing of what a
frame says. Used by `log`.

    header  64 bytes: magic, version, flags, pid, start_ticks, at_us, salt
    frame    9 bytes: length of what follows, content or not, writer; then sealed bytes and their tag

A frame's number is its place in the file; nonce and authenticated data hold it. `cryptography` is loaded when
the first file is written or read, not with this module: it takes longer than most commands.
"""

import os
import struct

from msgspec import Struct

MAGIC = b"CUSTUNDO"
VERSION = 1
_HEADER = struct.Struct(">8sHHIQQ32s")
_FRAME = struct.Struct(">I?I")
HEADER_BYTES = _HEADER.size
FRAME_HEADER_BYTES = _FRAME.size
TAG_BYTES = 16
KEY_BYTES = 32
SALT_BYTES = 32
FRAME_BYTES_MAX = 64 * 1024 * 1024
"""Of what is sealed at once. Content comes in chunks of 1 MiB; the end of 100,000 paths is below this."""

_OBSERVED = 1


class Damaged(Exception):
    """These bytes are not what was sealed."""


class Header(Struct, frozen=True, kw_only=True):
    """What an undo file says in the clear: enough to tell its age and whether its process lives."""

    observed: bool
    pid: int
    start_ticks: int
    at_us: int
    salt: bytes


class FrameHeader(Struct, frozen=True):
    """What stands before the sealed bytes of a frame."""

    sealed_bytes: int
    is_content: bool
    """A piece of an old file: skipped until it is asked for."""
    writer: int
    """0: who began the file. Else random: who ended it after a crash, and must use no nonce again."""


def new_header(*, observed: bool, pid: int, start_ticks: int, at_us: int) -> Header:
    """A header with a salt of its own."""
    return Header(
        observed=observed, pid=pid, start_ticks=start_ticks, at_us=at_us, salt=os.urandom(SALT_BYTES)
    )


def pack_header(header: Header) -> bytes:
    flags = _OBSERVED if header.observed else 0
    return _HEADER.pack(MAGIC, VERSION, flags, header.pid, header.start_ticks, header.at_us, header.salt)


def unpack_header(data: bytes) -> Header:
    """Raises Damaged for what is none, or one of a version this is not."""
    if len(data) < HEADER_BYTES:
        raise Damaged("it is shorter than its header")
    magic, version, flags, pid, start_ticks, at_us, salt = _HEADER.unpack(data[:HEADER_BYTES])
    if magic != MAGIC or version != VERSION:
        raise Damaged("it does not begin as undo data of this version")
    return Header(observed=bool(flags & _OBSERVED), pid=pid, start_ticks=start_ticks, at_us=at_us, salt=salt)


def unpack_frame_header(data: bytes) -> FrameHeader | None:
    """None: there is no frame here (fewer bytes than one begins with, or zeros)."""
    if len(data) < FRAME_HEADER_BYTES:
        return None
    sealed_bytes, is_content, writer = _FRAME.unpack(data[:FRAME_HEADER_BYTES])
    return FrameHeader(sealed_bytes, is_content, writer) if sealed_bytes else None


class Seal:
    """Seals and opens the frames of one file."""

    def __init__(self, store_key: bytes, header: Header, name: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        said = b"custody undo\0" + pack_header(header) + name
        self._cipher = AESGCM(HKDF(SHA256(), KEY_BYTES, header.salt, said).derive(store_key))

    def seal(self, number: int, data: bytes, *, is_content: bool, writer: int = 0) -> bytes:
        """The frame `number` of the file, ready to be put."""
        assert len(data) <= FRAME_BYTES_MAX, "content is handed on in chunks"
        head = _FRAME.pack(len(data) + TAG_BYTES, is_content, writer)
        return head + self._cipher.encrypt(_nonce(number, writer), data, head)

    def open(self, number: int, header: FrameHeader, sealed: bytes) -> bytes:
        """What was sealed as frame `number`. Raises Damaged."""
        from cryptography.exceptions import InvalidTag

        head = _FRAME.pack(header.sealed_bytes, header.is_content, header.writer)
        try:
            return self._cipher.decrypt(_nonce(number, header.writer), sealed, head)
        except InvalidTag:
            raise Damaged(f"frame {number} is not what was written") from None


def _nonce(number: int, writer: int) -> bytes:
    return writer.to_bytes(4, "big") + number.to_bytes(8, "big")
