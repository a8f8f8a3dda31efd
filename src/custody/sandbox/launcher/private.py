"""Private folders that several launchers show: those of one run, kept in a folder of the machine's.

Owns how one is made and mounted although its content is commands', which may be at work in it at this very
moment: no link is followed, and where something is in the way the launcher has a folder in memory instead.
Which folders are private is said by a plan. Used by `confine`.
"""

from __future__ import annotations  # importing `typing` would cost a sixth of the launcher's start

import errno
import os
import stat

from . import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_OURS = stat.S_IRWXU
_ATTRIBUTES = kernel.MOUNT_NO_SETUID | kernel.MOUNT_NO_DEVICES


def shared_mount(
    kept: str,
    target: str,
    mode: int,
    wanted: Sequence[tuple[str, bytes | None]],
    mapped: Callable[[os.stat_result], int] | None,
) -> int | None:
    """What all launchers of a run show at a place, not attached yet. None where the file system maps no
    owners, or a command has put something in the way.

    It is kept beneath `kept` at its own path. `wanted` has to be in it: places for mounts, and files with
    their content; None: a folder. `mapped` gives the user namespace in which its owner is who works in it.
    """
    taken: list[int] = []
    try:
        taken.append(kernel.open_path(kept))
        taken.append(top := _made(taken[0], target, mode))
        for path, content in wanted:
            os.close(_made(top, path.removeprefix(target), 0o755 if content is None else 0o644, content))
        taken.append(mount := kernel.clone_mount(top))
        kernel.restrict_mount(mount, _ATTRIBUTES, None if mapped is None else mapped(os.fstat(top)))
        return os.dup(mount)
    except OSError:
        return None
    finally:
        for descriptor in taken:
            os.close(descriptor)


def _made(folder: int, path: str, mode: int, content: bytes | None = None) -> int:
    """What lies there in a folder that commands may write to, made where it is missing: a folder where there
    is no content. No link is followed. Raises OSError where something else is in the way."""
    place = os.dup(folder)
    names = path.strip("/").split("/")
    for position, name in enumerate(names):
        above = place
        try:
            is_last = position == len(names) - 1
            place = _made_in(above, name, mode if is_last else 0o755, content if is_last else None)
        finally:
            os.close(above)
    return place


def _made_in(folder: int, name: str, mode: int, content: bytes | None) -> int:
    try:
        if content is None:
            os.mkdir(name, mode, dir_fd=folder)
        else:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            file = os.open(name, flags, mode, dir_fd=folder)
            os.write(file, content)
            os.close(file)
    except FileExistsError:
        pass
    place = kernel.open_path(name, folder)
    mode = os.fstat(place).st_mode
    is_usable = stat.S_ISREG(mode) if content is not None else stat.S_ISDIR(mode) and mode & _OURS == _OURS
    if not is_usable:
        os.close(place)
        raise NotADirectoryError(errno.ENOTDIR, name)
    return place
