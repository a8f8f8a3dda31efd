"""The sum of changes over several calls: what is left of them, path by path. Pure; used by every door."""

from collections.abc import Container, Iterable, Sequence

from msgspec import Struct

from custody.records import Change, ChangeKind, EntryKind, Version


class _Standing(Struct, frozen=True):
    """What stands at a path after the calls so far."""

    version: Version
    origin: str | None
    """Where it stood before the first call; None: it was made since."""


class _Path(Struct):
    """One path, from before the first call to after the last so far."""

    first: Version | None
    """What stood there before the first call."""
    now: _Standing | None
    kind: EntryKind
    undoable: bool = True
    only: ChangeKind | None = None
    """The word of the only change there was; None: there were several."""


def net_changes(per_call: Iterable[Sequence[Change]]) -> list[Change]:
    """The net effect of calls, in their order, by path. What was created and deleted again is nothing.

    A file that moved is told once, as renamed, where nothing else stood at its new place before.
    """
    paths: dict[str, _Path] = {}
    for changes in per_call:
        for change in changes:
            _take(paths, change)
    moved = {
        one.now.origin
        for path, one in paths.items()
        if one.now is not None and one.now.origin not in (None, path) and one.first is None
    }
    told = (_told(paths, path, moved) for path in sorted(paths))
    return [change for change in told if change is not None]


def _take(paths: dict[str, _Path], change: Change) -> None:
    source = change.renamed_from
    before = change.before if source is None else None
    known = paths.get(change.path)
    if known is None:
        known = paths[change.path] = _Path(before, _standing(before, change.path), change.kind)
        known.only = change.change
    else:
        known.only = None
    known.kind = change.kind if change.after is not None or known.first is None else known.kind
    known.undoable = known.undoable and change.undoable
    origin = None if known.now is None else known.now.origin
    if source is not None:
        origin = _leave(paths, change, source)
    known.now = None if change.after is None else _Standing(change.after, origin)


def _leave(paths: dict[str, _Path], change: Change, source: str) -> str | None:
    """What stood at `source` is not there any more; where it stood first."""
    known = paths.get(source)
    if known is None:
        known = paths[source] = _Path(change.before, _standing(change.before, source), change.kind)
    origin = None if known.now is None else known.now.origin
    known.now, known.only = None, None
    known.undoable = known.undoable and change.undoable
    return origin


def _standing(version: Version | None, origin: str) -> _Standing | None:
    return None if version is None else _Standing(version, origin)


def _told(paths: dict[str, _Path], path: str, moved: Container[str | None]) -> Change | None:
    one = paths[path]
    first, now = one.first, one.now
    source: str | None = None
    if now is not None and first is None and now.origin not in (None, path):
        source = now.origin
    if path in moved:  # what stood here is told where it stands now
        first = None
    if source is not None:
        first = paths[source].first
    after = None if now is None else now.version
    word = "renamed" if source is not None else _word(first, after, one.only)
    if word is None:
        return None
    return Change(
        path=path,
        change=word,
        kind=one.kind,
        before=first,
        after=after,
        renamed_from=source,
        undoable=one.undoable and (source is None or paths[source].undoable),
    )


def _word(before: Version | None, after: Version | None, only: ChangeKind | None) -> ChangeKind | None:
    if before is None or after is None:
        if before is after:
            return None
        return "created" if before is None else "deleted"
    if only is not None:  # also of an owner alone, which no version tells
        return only
    if before == after:
        return None
    if before.target != after.target:
        return "link"
    return "modified" if (before.bytes, before.sha256) != (after.bytes, after.sha256) else "mode"
