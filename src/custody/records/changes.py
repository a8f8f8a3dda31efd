"""What a call did to the files it could reach, path by path.

Owns the words of a change. Knows nothing of how one is made, kept or taken back (`changes`). Used by tools
that change files, by the record of a call and by every door that shows it.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal, cast

import msgspec
from msgspec import Struct

ChangeKind = Literal["created", "modified", "deleted", "mode", "link", "renamed"]
EntryKind = Literal["file", "directory", "link", "other"]

CHANGES_KEPT_MAX = 10_000
"""Changes of one call that its record lists; all are counted. More is a tree, and its root says as much."""


class Version(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What stands at a path."""

    bytes: int | None = None
    """Of a file."""
    sha256: str | None = None
    """Of a file's content, in hex; None where it was not read."""
    mode: str | None = None
    """Permission bits, octal: `0644`."""
    target: str | None = None
    """Of a symbolic link."""


class Change(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a call did to one path."""

    path: str
    """Absolute, links resolved; bytes that are not UTF-8 as lone surrogates (PEP 383)."""
    change: ChangeKind
    """`mode`: permissions, owner or extended attributes alone. `link`: a symbolic link points elsewhere."""
    kind: EntryKind
    before: Version | None = None
    """None: there was nothing."""
    after: Version | None = None
    """None: there is nothing any more."""
    renamed_from: str | None = None
    inferred: bool = False
    """Nobody saw the file move: one went, and one with the same content came."""
    undoable: bool = True
    """Whether what is needed to take it back was kept."""


def changes_said(changes: Sequence[Change]) -> list[dict[str, Any]]:
    """As they stand in a record's payload: what is not known is left out."""
    return msgspec.to_builtins(changes[:CHANGES_KEPT_MAX])


def changes_read(said: Any) -> tuple[Change, ...]:
    """The other way. Raises msgspec.ValidationError for what `changes_said` never wrote."""
    try:
        return msgspec.convert(said, tuple[Change, ...])
    except msgspec.ValidationError:
        return msgspec.convert(_unmarked(said), tuple[Change, ...])


def _unmarked(said: Any) -> Any:
    """With names that are not UTF-8 as they were: a payload has them escaped, under a mark."""
    if isinstance(said, list):
        return [_unmarked(item) for item in cast("list[Any]", said)]
    if not isinstance(said, dict):
        return said
    named = cast("dict[str, Any]", said)
    if named.get("$type") == "str" and isinstance(named.get("escaped"), str):
        return _ESCAPED.sub(lambda found: chr(int(found[1], 16)) if found[1] else "\\", named["escaped"])
    return {name: _unmarked(item) for name, item in named.items()}


_ESCAPED = re.compile(r"\\(?:\\|u([0-9a-f]{4}))")
