"""What a purge works with: the store's parts, and those it must not know, as functions.

Owns nothing. Made by `compose` and the command line, used by all of `retention` that changes something.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from msgspec import Struct

from custody.index import Index
from custody.journal import Journal
from custody.recorder import Recorder


class UndoData(Protocol):
    """What is kept to take changes back."""

    def remove(self, call_id: bytes) -> None: ...


class Means(Struct, frozen=True, kw_only=True):
    journal: Journal
    index: Index
    make_recorder: Callable[[], Recorder]
    """Called once something has to be recorded, not before."""
    forget_undo: Callable[[Iterable[bytes]], None]
    """Forget what would be needed to take the changes of these calls back. Raises OSError."""
    seal: Callable[[], Mapping[int, int]] | None = None
    """Sign a checkpoint over everything that is durable; gives up to where each shard is signed. Raises when
    that cannot be done."""


def forgetting(open_undo: Callable[[], UndoData]) -> Callable[[Iterable[bytes]], None]:
    """`Means.forget_undo` of a store, whose undo data is opened when there is something to forget."""

    def forget(calls: Iterable[bytes]) -> None:
        for call_id in calls:
            open_undo().remove(call_id)

    return forget
