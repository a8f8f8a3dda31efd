"""What stands in the way of a change, as a person sees it: both versions of each path, side by side.

Owns the words for a version. Used by `commit`, and by whatever takes back.
"""

from collections.abc import Iterable

from msgspec import Struct

from custody.cli.changed import relative
from custody.records import Version

DIGEST_DIGITS = 8  # enough to see that two versions of the same size are not the same


class Conflict(Struct, frozen=True):
    """A path that is no longer what it was taken to be."""

    path: str
    words: str
    expected: Version | None = None
    found: Version | None = None


def print_conflicts(conflicts: Iterable[Conflict], base: str, left: str = "what was left there") -> None:
    """A table; `left` is the title over the versions that were expected."""
    from custody.cli.render import Row, flexible, table

    rows: list[Row] = [
        [
            relative(one.path, base),
            *_versions(one),
            one.words.removeprefix(f"{one.path}: ") if _alike(one) else "",
        ]
        for one in conflicts
    ]
    titles = ["path", left, "what is there now"]
    if any(row[-1] for row in rows):
        table([*titles, flexible("why it matters")], rows)
    else:
        table(titles, [row[:-1] for row in rows])


def _alike(conflict: Conflict) -> bool:
    """Whether the two versions do not say what the matter is: something else in a folder, say."""
    left, found = _versions(conflict)
    return left == found


def _versions(conflict: Conflict) -> tuple[str, str]:
    """What was left and what was found, with modes where these differ."""
    left, found = conflict.expected, conflict.found
    with_modes = left is not None and found is not None and left.mode != found.mode
    return _version(left, with_mode=with_modes), _version(found, with_mode=with_modes)


def _version(version: Version | None, *, with_mode: bool) -> str:
    from custody.cli.render import size

    if version is None:
        return "nothing"
    if version.target is not None:
        said = f"link to {version.target}"
    elif version.bytes is not None:
        said = f"{size(version.bytes)}"
    else:
        return "something else" if version.mode is None else f"folder, mode {version.mode}"
    if version.sha256 is not None:
        said += f", sha256 {version.sha256[:DIGEST_DIGITS]}"
    return f"{said}, mode {version.mode}" if with_mode else said
