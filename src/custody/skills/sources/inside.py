"""Finding the one skill in what an archive or a repository holds.

Owns which folder is meant where none, or one, is named. Knows nothing of where the files came from. Used by
`archive` and `git`.
"""

import posixpath
from collections.abc import Collection

from custody.errors import InvalidSkill
from custody.skills.tree import SKILL_FILE

NAMED_MAX = 10  # folders with a skill that a message names; a person finds the others in the same place


def skill_folder(files: Collection[str], path: str | None) -> str:
    """The folder of the skill, relative; "" is the top itself.

    `files` are all paths, relative. A single folder at the top that holds everything, as archives of
    repositories have it, may be left out of `path`. Raises InvalidSkill, naming the folders with a skill.
    """
    top = _only_folder(files)
    candidates = [path or ""] if top is None else [path or "", posixpath.join(top, path or "")]
    for candidate in candidates:
        if posixpath.join(candidate, SKILL_FILE) in files:
            return candidate.rstrip("/")
    raise InvalidSkill(_not_there(files, path))


def _only_folder(files: Collection[str]) -> str | None:
    tops = {file.partition("/")[0] if "/" in file else "" for file in files}
    return tops.pop() or None if len(tops) == 1 else None


def _not_there(files: Collection[str], path: str | None) -> str:
    where = "in it" if path is None else f"in its folder {path}"
    folders = sorted(
        posixpath.dirname(file) or "." for file in files if posixpath.basename(file) == SKILL_FILE
    )
    if not folders:
        return f"There is no {SKILL_FILE} {where}, so it is not a skill."
    more = "" if len(folders) <= NAMED_MAX else f" and {len(folders) - NAMED_MAX} more"
    named = ", ".join(folders[:NAMED_MAX])
    return f"There is no {SKILL_FILE} {where}; `path` may name one of: {named}{more}."
