"""Two states of a path, compared and told as a change. Pure; used by whatever changes or watches paths."""

from msgspec import Struct

from custody.files.reach import Target
from custody.files.state import State, same, version_of
from custody.records import Change, ChangeKind, Version


class Conflict(Struct, frozen=True, kw_only=True):
    """A path that is not as the call left it."""

    path: str
    expected: Version | None
    found: Version | None
    words: str


def change_of(target: Target, before: State, after: State, *, undoable: bool) -> Change | None:
    """None where nothing that counts has changed: times and the inode do not."""
    kind = _kind_of_change(before, after)
    if kind is None:
        return None
    standing = before if after.kind == "absent" else after
    assert standing.kind != "absent", "there was something, or there is"
    return Change(
        path=target.path,
        change=kind,
        kind=standing.kind,
        before=version_of(before),
        after=version_of(after),
        undoable=undoable,
    )


def _kind_of_change(before: State, after: State) -> ChangeKind | None:
    if before.kind != after.kind:
        if before.kind == "absent":
            return "created"
        return "deleted" if after.kind == "absent" else "modified"
    if before.target != after.target:
        return "link"
    if (before.sha256, before.size) != (after.sha256, after.size):
        return "modified"
    return "mode" if attributes_of(before) != attributes_of(after) else None


def attributes_of(state: State) -> tuple[object, ...]:
    """What of a state is neither content nor time: mode, owner, extended attributes."""
    return state.mode, state.uid, state.gid, state.xattrs


def stands(state: State, now: State) -> bool:
    """Whether `now` is `state`. Content that was not read, because it stays, does not count."""
    if state.kind == "file" and state.sha256 is None:
        return now.kind == "file" and now.mode == state.mode
    return same(state, now)
