"""Reading the kernel's small text files.

Owns what a missing, unreadable or garbled file means: None. Used by the readers of this package.
"""

import os

FILE_BYTES_MAX = 1024 * 1024
"""Of one file; /proc/stat of the largest machines is some 100 KiB."""


def text(path: str) -> str | None:
    """The file's text. Replaced where it is no UTF-8: a process may call itself anything."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    try:
        pieces: list[bytes] = []
        left = FILE_BYTES_MAX
        while left > 0 and (piece := os.read(descriptor, min(left, 64 * 1024))):
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces).decode("utf-8", "replace")
    except OSError:
        return None
    finally:
        os.close(descriptor)


def number(path: str) -> int | None:
    """The one whole number in the file."""
    content = text(path)
    return None if content is None else whole(content.strip())


def whole(word: str) -> int | None:
    """A count as the kernel prints it."""
    return int(word) if word.isascii() and word.isdigit() else None


def decimal(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None
