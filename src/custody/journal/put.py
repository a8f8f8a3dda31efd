"""A frame on its way into a file.

Owns the joining of the format and the disk, so that C, where it was built, encodes a frame and writes it
in one go. Knows nothing of which frame is due or where. Used by `shard` for every record it appends.
"""

import errno
from typing import Any

from custody import native
from custody.journal.disk import File, RealFile
from custody.journal.frames import encode_frame


def put_frame_in_python(file: File, offset: int, *frame: Any) -> None:
    """`put_frame`, in Python."""
    file.put(encode_frame(*frame), offset)


put_frame = native.put_frame or put_frame_in_python
"""`put_frame(file, offset, ...)`: as `file.put(encode_frame(...), offset)`. C writes to a `RealFile` itself;
another file, and whatever a first write leaves undone, it leaves to the file's `put`."""

if native.put_directly_into is not None:
    native.put_directly_into(RealFile)


class NoFile:
    """Stands for the segment of a shard that has none yet."""

    def put(self, data: bytes, offset: int) -> None:
        raise OSError(errno.EBADF, "the shard has no segment")

    def read(self, count: int, offset: int) -> bytes:
        raise OSError(errno.EBADF, "the shard has no segment")

    def sync(self) -> None:
        raise OSError(errno.EBADF, "the shard has no segment")

    def punch(self, offset: int, count: int) -> None:
        raise OSError(errno.EBADF, "the shard has no segment")

    def size_bytes(self) -> int:
        return 0

    def close(self) -> None:
        pass
