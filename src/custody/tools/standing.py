"""What stands where a tool is about to write: looked at beneath its root, without links.

Owns the words for what cannot be written, and the check for room on the disk. Changes nothing. Used by
`file_write`, `file_edit` and `file_delete`.
"""

import os
import stat
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from custody.changes import UndoStore
from custody.errors import ToolError
from custody.files import ABSENT, State, Target, look, parent_of

RESERVE_BYTES_MAX = 16 * 1024 * 1024
"""Left free by a write: the store's records, and what else runs on the machine, need room to go on."""

RESERVE_SHARE = 50
"""On a small disk the reserve is a fiftieth of it, or nothing could be written there at all."""

_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFREG: "a file",
}


def standing(target: Target, *, digest: bool) -> State:
    """What stands at `target`; ABSENT also where its folder is missing. Raises OSError, ToolError."""
    try:
        with naming(target.path), parent_of(target) as (folder, name):
            return look(folder, name, digest=digest)
    except FileNotFoundError:
        return ABSENT
    except NotADirectoryError:
        raise ToolError(f"{target.path} cannot be there: one of the folders above it is a file.") from None


def read_whole(target: Target) -> tuple[State, bytes]:
    """What stands there and its content, which belong together. Raises OSError, ToolError."""
    content = bytearray()

    def take(chunk: bytes) -> None:
        if chunk:
            content.extend(chunk)
        else:  # the file changed meanwhile and is read again
            content.clear()

    with naming(target.path), parent_of(target) as (folder, name):
        state = look(folder, name, digest=True, sink=take)
    return state, bytes(content)


@contextmanager
def naming(path: str) -> Generator[None]:
    """Have an OSError name the path it is about, and not a temporary file or a descriptor."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def kind_in_words(target: Target) -> str:
    """What stands there: `a named pipe`, `a folder`. Raises OSError."""
    with parent_of(target) as (folder, name):
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    return _SPECIAL.get(stat.S_IFMT(mode), "something unknown")


def check_room(writes: Iterable[tuple[Target, int]]) -> None:
    """Raises ToolError where a file system has no room for what is to be written, and the reserve.

    `writes`: where, and how many bytes.
    """
    needed: dict[int, int] = {}
    status: dict[int, tuple[str, os.statvfs_result]] = {}
    for target, size in writes:
        folder = _existing_folder(target)
        device = os.stat(folder).st_dev
        needed[device] = needed.get(device, 0) + size
        status[device] = folder, os.statvfs(folder)
    for device, (folder, found) in status.items():
        free = found.f_bavail * found.f_frsize
        reserve = min(RESERVE_BYTES_MAX, found.f_blocks * found.f_frsize // RESERVE_SHARE)
        if free < needed[device] + reserve:
            raise ToolError(
                f"There is no room: {free} bytes are free on the disk of {folder}; the write takes "
                f"{needed[device]}, and {reserve} are to stay free. Nothing was changed.",
                free_bytes=free,
                needed_bytes=needed[device] + reserve,
            )


def check_keepable(undo: UndoStore, old_bytes: int) -> None:
    """Raises ToolError where so much old content is more than is kept of one call."""
    if old_bytes > undo.call_bytes_max:
        raise ToolError(
            f"The old content has {old_bytes} bytes; {undo.call_bytes_max} at most are kept of one call, "
            "so that it can be undone. Nothing was changed.",
            hint="Change less at a time, or raise call_bytes_max in the [undo] settings.",
        )


def _existing_folder(target: Target) -> str:
    """The nearest folder above `target` that is there. Its disk alone is asked about, so a path will do."""
    folder = os.path.dirname(target.path)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder
