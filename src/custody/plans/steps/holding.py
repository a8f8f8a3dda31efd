"""The right to work on a step plan in a folder, for an agent or for all of them.

Owns what is held and how it is let go. Knows nothing of runs; whose runs a plan is gone on from is
`earlier`'s to say. Used by `running`.
"""

import asyncio
import hashlib

from custody.calls.uncut import to_the_end
from custody.journal import Journal
from custody.journal.disk import Lock

EVERYBODY = ("for everybody",)


def of_agent(agent: str | None) -> tuple[str, ...]:
    """What is to be held to work on an agent's runs; what names no agent is everybody's who names none."""
    return ("for an agent",) if agent is None else ("for an agent", agent)


class Holding:
    """What is held of one plan in one folder; it goes with the process."""

    def __init__(self, journal: Journal, digest: str, cwd: str) -> None:
        self._journal = journal
        self._plan = (digest, cwd)
        self._held: dict[tuple[str, ...], Lock] = {}

    def has(self, whom: tuple[str, ...]) -> bool:
        return whom in self._held

    async def take(self, whom: tuple[str, ...]) -> bool:
        """False where somebody, this process included, holds it already."""
        name = hashlib.sha256("\n".join((*self._plan, *whom)).encode()).hexdigest()[:32]

        async def take() -> bool:
            lock = await asyncio.to_thread(self._journal.plan_lock, name)
            if lock is not None:
                self._held[whom] = lock
            return lock is not None

        return await to_the_end(take())  # whoever is cancelled meanwhile lets go of it

    async def let_go(self) -> None:
        """Of all that is held."""

        def release() -> None:
            while self._held:
                self._held.popitem()[1].release()

        await to_the_end(asyncio.to_thread(release))
