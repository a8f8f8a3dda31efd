"""Where an install may write: which folder, and which files in it.

Owns three refusals: of a folder that is no root of the shelf, of a root that a link leads elsewhere which
whoever acts could have laid, and of files that no tool may write. Changes nothing. Used by `acts`.

A root is named by the settings, so it need not lie where a call may work: the user's own does not. But the
folders of a project are an agent's to change, and one that it makes a link leads an install to wherever it
likes.
"""

import os
from collections.abc import Iterable

from custody.errors import InvalidInput, InvalidSkill, PathRefused
from custody.files import Reach
from custody.files.spelling import below, shown
from custody.skills.skill import Shelf

LINKS_MAX = 40  # as the kernel follows


def root_of(shelf: Shelf, named: str | None) -> str:
    """Which root is meant. Raises InvalidInput for a folder that is none."""
    if named is None:
        return shelf.install_root
    path = os.path.abspath(os.path.expanduser(named))
    roots = [root.path for root in shelf.roots]
    if path not in roots:
        raise InvalidInput(
            f"{named!a} is not one of the folders of skills: {', '.join(roots)}.",
            hint="`[skills] roots`, CUSTODY_SKILLS and --dir name them.",
        )
    return path


def real_root(root: str, reach: Reach) -> str:
    """Where the root lies, without links. Raises PathRefused where whoever acts could have said so."""
    real = os.path.realpath(root)
    if not _within(real, reach) and (link := _link_within(root, reach)) is not None:
        raise PathRefused(
            f"The folder of skills {shown(root)} leads by the link {shown(link)} to {shown(real)}, outside "
            f"the allowed roots ({', '.join(map(shown, reach.roots))}): nothing is written there.",
            hint=f"Where that is meant, name the folder itself, as with --dir {shown(real)}.",
        )
    return real


def check_files(folder: str, files: Iterable[str], reach: Reach) -> None:
    """Raises PathRefused where one of the files, below the folder that they come to, is one that no tool may
    write."""
    for file in files:
        refusal = reach.protected.refusal(os.path.join(folder, file), write=True)
        if refusal is not None:
            raise PathRefused(refusal)


def check_apart(folder: str, root: str) -> None:
    """Raises InvalidSkill for a folder that would be installed into itself."""
    if below(folder, os.path.realpath(root)) is not None:
        raise InvalidSkill(
            f"{shown(folder)} holds the folder that it would be installed into, {shown(root)}.",
            hint="Put the skill into a folder of its own.",
        )


def _within(real: str, reach: Reach) -> bool:
    return any(below(root, real) is not None for root in reach.roots)


def _link_within(path: str, reach: Reach) -> str | None:
    """The first link within the allowed roots on the way that the path goes, links included."""
    folder, left, links = "/", _parts(path), 0
    while left:
        part = left.pop()
        step = os.path.join(folder, part)
        if part == "..":
            folder = os.path.dirname(folder)
        elif not os.path.islink(step) or links >= LINKS_MAX:
            folder = step
        elif _within(step, reach):
            return step
        else:
            links += 1
            target = os.readlink(step)
            folder = "/" if target.startswith("/") else folder
            left += _parts(target)
    return None


def _parts(path: str) -> list[str]:
    """Components, the last one first."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]
