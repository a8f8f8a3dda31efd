"""What a purge works with: the store's parts, and those it must not know, as functions.

Owns nothing. Made by `compose` and the command line, used by all of `retention` that changes something.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from msgspec import Struct

from custody.index import Index
from custody.journal import Journal
from custody.recorder import Recorder


class Kept(Protocol):
    """What is kept of calls beside the journal: to take changes back, or to commit them."""

    def remove(self, call_id: bytes) -> None: ...


class Means(Struct, frozen=True, kw_only=True):
    journal: Journal
    index: Index
    make_recorder: Callable[[], Recorder]
    """Called once something has to be recorded, not before."""
    forget_undo: Callable[[Iterable[bytes]], None]
    """Forget what would be needed to take the changes of these calls back, or to commit them. Raises OSError,
    HeldBusy."""
    seal: Callable[[], Mapping[int, int]] | None = None
    """Sign a checkpoint over everything that is durable; gives up to where each shard is signed. Raises when
    that cannot be done."""


def forgetting(*stores: Callable[[], Kept]) -> Callable[[Iterable[bytes]], None]:
    """`Means.forget_undo` of a store; what it keeps is opened when there is something to forget."""

    def forget(calls: Iterable[bytes]) -> None:
        for call_id in calls:
            for opened in stores:
                opened().remove(call_id)

    return forget
