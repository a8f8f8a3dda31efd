"""Which calls have been taken back, where calls that take back can be taken back themselves.

Pure; knows no store and no files. Used by the `undo` tool.
"""

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from custody.records import Call


class Undoing(Struct, frozen=True):
    """A call of `undo`, and the calls it took back."""

    call_id: str
    targets: tuple[str, ...]


class Undone:
    """Which calls are undone, and by which call of `undo`."""

    def __init__(self, undoings: Iterable[Undoing]) -> None:
        """`undoings` in the order they happened in, the oldest first."""
        self._targets: dict[str, tuple[str, ...]] = {}
        self._by: dict[str, str] = {}
        for undoing in undoings:
            self._targets[undoing.call_id] = undoing.targets
            self._apply(undoing.call_id)

    def by(self, call_id: str) -> str | None:
        """The call that took it back; None where it stands."""
        return self._by.get(call_id)

    def take_back(self, call_id: str) -> None:
        """From here on it is as if this call were undone too: what it took back stands again."""
        if call_id in self._targets:
            self._apply(call_id, forward=False)

    def _apply(self, call_id: str, *, forward: bool = True) -> None:
        pending = [(call_id, forward)]
        while pending:
            undoing, doing = pending.pop()
            for target in self._targets[undoing]:
                if doing:
                    self._by[target] = undoing
                elif self._by.get(target) == undoing:
                    del self._by[target]
                if target in self._targets:  # an undo that is undone undoes nothing
                    pending.append((target, not doing))


class _One(Struct, frozen=True):
    call: str
    partly: bool = False


class _Said(Struct, frozen=True):
    """The part of an `undo`'s result that names the calls."""

    undone: tuple[_One, ...]


def undoing_of(call: Call) -> Undoing | None:
    """What a call of `undo` took back, by its result; also one that failed may have come some of the way.

    What was forced, and taken back in part only, still stands: what is left of it can be taken back later.
    """
    said = None if call.dry_run else _said(call)
    targets = () if said is None else tuple(one.call for one in said.undone if not one.partly)
    return Undoing(call.id, targets) if targets else None


def touched_by(call: Call) -> tuple[str, ...] | None:
    """Every call that a call of `undo` took back, some in part only; None where the record does not say."""
    said = _said(call)
    return None if said is None else tuple(one.call for one in said.undone)


def _said(call: Call) -> _Said | None:
    try:
        return msgspec.convert(call.result, _Said)
    except msgspec.ValidationError:  # it failed before it had a result, or the record does not keep one
        return None
