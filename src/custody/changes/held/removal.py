"""Removing a tree that somebody else filled: however deep, and whatever its folders' modes.

Owns that way and nothing else. Knows nothing of what was held in the tree. Used by `store` and `holding`.
"""

import os
import stat
from contextlib import suppress

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OURS = stat.S_IRWXU


def remove_tree(path: str) -> None:
    """Remove a folder with all that is beneath it; fine when it is not there. May be cut off and done again.

    Every folder found beneath is first moved up into the topmost one: no path grows long, and two descriptors
    are enough for any depth. So nobody else may use the folder. Raises OSError.
    """
    try:
        top = _open(os.path.dirname(path), os.path.basename(path), None)
    except FileNotFoundError:
        return
    try:
        for name in _emptied(top, top):
            _remove_beneath(top, name)
    finally:
        os.close(top)
    os.rmdir(path)


def _remove_beneath(top: int, name: str) -> None:
    ahead = [name]
    while ahead:
        name = ahead.pop()
        fd = _open("", name, top)
        try:
            ahead += _emptied(fd, top)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=top)


def _emptied(fd: int, top: int) -> list[str]:
    """Remove what is no folder; the folders stand in `top` afterwards, under these names."""
    folders: list[str] = []
    with os.scandir(fd) as names:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in names]
    for name, is_folder in found:
        if not is_folder:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=fd)
            continue
        if fd != top:
            os.close(_open("", name, fd))  # to move a folder it has to be writable itself
            moved = os.urandom(8).hex()
            os.rename(name, moved, src_dir_fd=fd, dst_dir_fd=top)
            name = moved
        folders.append(name)
    return folders


def _open(folder: str, name: str, folder_fd: int | None) -> int:
    """A folder, made ours to read and to empty where it was not."""
    path = os.path.join(folder, name)
    status = os.stat(path, dir_fd=folder_fd, follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode) and status.st_mode & _OURS != _OURS:
        os.chmod(path, _OURS, dir_fd=folder_fd)  # a folder and no link: nobody else comes here
    return os.open(path, _FLAGS, dir_fd=folder_fd)
