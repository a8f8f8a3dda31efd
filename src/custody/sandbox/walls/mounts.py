"""Which places are the same files seen from two sides: a file system may be mounted more than once.

Owns the reading of /proc/self/mountinfo. Used by `plan`, for a root that must not be changed by another way.
"""

import os
import re
from collections.abc import Iterable

from custody.sandbox.walls.model import is_beneath

Place = tuple[str, str]
"""A file system, and a path within it."""

_ESCAPED = re.compile(r"\\([0-7]{3})")  # blanks, tabs, line ends and backslashes


def same_storage(root: str, places: Iterable[str]) -> str | None:
    """The first of the places that shows something of the root, or in which something of it is shown. The
    paths have no links."""
    places = tuple(places)
    if not places:
        return None
    mounts = _mounts()
    behind = _shown(root, mounts)
    for path in places:
        for device, place in _shown(path, mounts):
            if any(device == d and (is_beneath(place, p) or is_beneath(p, place)) for d, p in behind):
                return path
    return None


def _mounts() -> list[tuple[str, Place]]:
    """Mount point and what is mounted there, the later over the earlier."""
    found: list[tuple[str, Place]] = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            device, inner, point = line.split(" ")[2:5]
            found.append((_unescaped(point), (device, _unescaped(inner))))
    return found


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)


def _shown(path: str, mounts: list[tuple[str, Place]]) -> list[Place]:
    """The place itself, and what is mounted beneath."""
    around = [(point, place) for point, place in mounts if is_beneath(path, point)]
    if not around:
        return []
    longest = max(len(point) for point, _ in around)
    point, (device, inner) = [mount for mount in around if len(mount[0]) == longest][-1]
    own = os.path.normpath(os.path.join(inner, os.path.relpath(path, point)))
    return [(device, own), *(place for point, place in mounts if point != path and is_beneath(point, path))]
