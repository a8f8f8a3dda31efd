"""The launchers that wait for a command: by key, and no more than are of use.

Owns the bounds of how many are kept and for how long. Ends none itself: what is too many is handed back to
`process`, which uses it.
"""

from typing import Generic, Protocol, TypeVar

from custody.sandbox.confined import Key, Walls

LAUNCHERS_MAX = 4  # kept for the next command of a key: 10 MB each, and a few are what an agent uses at once
WALLED_MAX = 8
"""Kept behind walls, of all keys together: each run has its own, and nobody may say when it is over."""


class Waiting(Protocol):
    """What is kept of a launcher."""

    key: Key
    idle_since: float


L = TypeVar("L", bound=Waiting)


class Idle(Generic[L]):
    """Those of one runtime. Times are the event loop's."""

    def __init__(self) -> None:
        self._by_key: dict[Key, list[L]] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._by_key

    def all(self) -> list[L]:
        return [launcher for launchers in self._by_key.values() for launcher in launchers]

    def put(self, launcher: L) -> None:
        self._by_key.setdefault(launcher.key, []).append(launcher)

    def take(self, key: Key) -> L | None:
        """The last one put there, which is idle no more: what it needs is in the processor's caches."""
        launchers = self._by_key.get(key)
        if launchers is None:
            return None
        launcher = launchers.pop()
        if not launchers:
            del self._by_key[key]
        return launcher

    def discard(self, launcher: L) -> bool:
        """Whether it was idle, which it is no more."""
        launchers = self._by_key.get(launcher.key, [])
        if launcher not in launchers:
            return False
        launchers.remove(launcher)
        if not launchers:
            del self._by_key[launcher.key]
        return True

    def surplus(self, before: float) -> tuple[list[L], bool]:
        """Those that are too many, idle no more; and whether others are that were idle `before` and not
        earlier."""
        walled = [launcher for launcher in self.all() if isinstance(launcher.key, Walls)]
        walled.sort(key=lambda launcher: launcher.idle_since)
        ended = walled[: max(0, len(walled) - WALLED_MAX)]
        will_be = False
        for launchers in self._by_key.values():
            more = launchers[: max(0, len(launchers) - LAUNCHERS_MAX)]
            old = [launcher for launcher in more if launcher.idle_since <= before]
            ended += [launcher for launcher in old if launcher not in ended]
            will_be = will_be or len(old) < len(more)
        for launcher in ended:
            self.discard(launcher)
        return ended, will_be
