"""What must be wanted so that a path is again as it was before a call.

Owns the way from an entry of an undo file to a `Wanted`. Used by `undo`, which carries it out as a change,
and by `putback`, which ends one that was not finished.
"""

from custody.changes.folders import Folders
from custody.changes.log import Entry, UndoSet
from custody.changes.wanted import Wanted
from custody.files.reach import Target
from custody.files.state import State, look


def look_at(target: Target, folders: Folders, *likened: State | None) -> State:
    """What stands at a path now; read where one of the states it will be compared with was."""
    folder_fd, name = folders.of(target)
    digest = any(state is not None and state.sha256 is not None for state in likened)
    return look(folder_fd, name, digest=digest)


def wanted_back(undo_set: UndoSet, entry: Entry, twin: Target | None) -> Wanted:
    """The path as it was."""
    before = entry.before
    if before.kind != "file" or before.sha256 is None or _content_stayed(entry):
        return Wanted(target=entry.target, state=before, exact=True)
    return Wanted(
        target=entry.target,
        state=before,
        content=lambda: undo_set.content(entry),
        exact=True,
        keep_bytes=entry.keep_bytes,
        twin=twin if entry.keep_bytes is None else None,
    )


def _content_stayed(entry: Entry) -> bool:
    """Whether it is the same file with the same content: its attributes are all there is to give back."""
    before, after = entry.before, entry.after
    return after is not None and (after.inode, after.sha256) == (before.inode, before.sha256)
