"""The first lock of a root that holds skills already: they are locked as they stand, and so stay offered.

Owns which of them can be. Used by `install`, as an install is what makes the lock.
"""

import os

from custody.errors import InvalidSkill
from custody.records import now_us
from custody.skills.content import read_content
from custody.skills.lock import SKILL_SUFFIX, LockEntry, SignatureData
from custody.skills.names import name_fault
from custody.skills.signing import check_signature
from custody.skills.skill import Source
from custody.skills.tree import TreeBounds
from custody.skills.trust import Trust

NOBODY = Trust(path="")
"""Whose signatures count is asked when a skill is offered; here it is only told whose there is."""


def standing_there(folder_fd: int, path: str, bounds: TreeBounds) -> dict[str, LockEntry]:
    """Entries, by path, of the skills in a root beside the one at `path`. Of a folder and a file of one name
    the folder has it, as in the catalog."""
    entries: dict[str, LockEntry] = {}
    names: set[str] = set()
    for found in sorted(os.listdir(folder_fd), key=lambda one: (one.endswith(SKILL_SUFFIX), one)):
        name = found.removesuffix(SKILL_SUFFIX)
        if found == path or name in names or name_fault(name) is not None:
            continue
        entry = _entry(folder_fd, found, name, bounds)
        if entry is not None:
            entries[found] = entry
            names.add(name)
    return entries


def _entry(folder_fd: int, path: str, name: str, bounds: TreeBounds) -> LockEntry | None:
    """None for what was not offered either: it is no skill, or cannot be read."""
    try:
        content = read_content(path, bounds, folder_fd=folder_fd)
        content.front_matter()
    except InvalidSkill:
        return None
    signature = None
    if content.signature is not None:
        verdict = check_signature(content.signature, content.tree.digest, NOBODY, now_us())
        try:
            note = content.signature.decode()
        except UnicodeDecodeError:
            return None
        signature = SignatureData(key_id=verdict.key_id or "", key_hash=verdict.key_hash or "", note=note)
    return LockEntry(
        name=name,
        digest=content.tree.digest,
        files=content.tree.files,
        source=Source(kind="local", location=path),
        signature=signature,
    )
