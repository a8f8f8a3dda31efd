"""Whether a file that has several names has one by which it is protected.

Owns the search among those places where such a name can be: the folders above the file, the home folder, and
where Custody's own files are. Bounded: a name in none of them, or behind the bounds, is not found. Knows
nothing of patterns. Used by `protected`.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from time import time_ns

ENTRIES_MAX = 10_000
"""Looked at in one folder; a folder of keys has a few."""

FOLDERS_MAX = 500
"""Looked at below one place, the shallow ones first: keys lie at the top, what browsers keep lies deep."""

DEPTH_MAX = 64
"""Folders above the file that are looked at."""

FOLDERS_REMEMBERED_MAX = 8_192
"""What was found in a folder is remembered for as long as the folder stays as it is."""

TICK_NS = 2 * 10**9
"""The coarsest clock of a file system: a folder that changed as lately could change again and show the same
time."""

_Stamp = tuple[int, int, int]
_Found = tuple[dict[int, tuple[str, ...]], tuple[str, ...]]


class OtherNames:
    """The search, by the questions of one list."""

    def __init__(self, protects: Callable[[str], bool], leads_on: Callable[[str], bool]) -> None:
        """`protects`: whether the path itself is protected; `leads_on`: whether a folder's content may be."""
        self._protects = protects
        self._leads_on = leads_on
        self._remembered: dict[str, tuple[_Stamp, _Found]] = {}

    def of(self, path: str, inode: tuple[int, int], places: Iterable[str]) -> Iterator[str]:
        """Protected names of the file with this device and inode. `path` is the name that is known."""
        device, number = inode
        for place in dict.fromkeys((*_above(path), *places)):
            for names in islice(self._below(place, device), FOLDERS_MAX):
                yield from (found for found in names.get(number, ()) if found != path and _is(found, inode))

    def _below(self, folder: str, device: int) -> Iterator[dict[int, tuple[str, ...]]]:
        """Protected names in the folder, by inode, and in the folders below it that may hold some."""
        ahead = deque([folder])
        while ahead:
            folder = ahead.popleft()
            try:
                status = os.stat(folder)
            except OSError:
                continue
            if status.st_dev != device:
                continue
            stamp = (status.st_dev, status.st_ino, status.st_ctime_ns)  # nobody can put this time back
            kept = self._remembered.get(folder)
            if kept is None or kept[0] != stamp:
                settled = time_ns() - status.st_ctime_ns > TICK_NS
                kept = stamp, self._look_into(folder)
                if settled:
                    self._remember(folder, kept)
            names, below = kept[1]
            yield names
            ahead.extend(below)

    def _remember(self, folder: str, kept: tuple[_Stamp, _Found]) -> None:
        if len(self._remembered) >= FOLDERS_REMEMBERED_MAX:
            self._remembered.clear()
        self._remembered[folder] = kept

    def _look_into(self, folder: str) -> _Found:
        names: dict[int, tuple[str, ...]] = {}
        below: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for count, entry in enumerate(entries):
                    if count == ENTRIES_MAX:
                        break
                    path = os.path.join(folder, entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        if self._leads_on(path):
                            below.append(path)
                    elif self._protects(path):
                        names[entry.inode()] = (*names.get(entry.inode(), ()), path)
        except OSError:  # it may not be read, or it is gone
            pass
        return names, tuple(below)


def _above(path: str) -> Iterator[str]:
    """The folders above, the nearest first."""
    for _ in range(DEPTH_MAX):
        folder = os.path.dirname(path)
        if folder == path:
            return
        yield folder
        path = folder


def _is(path: str, inode: tuple[int, int]) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == inode
