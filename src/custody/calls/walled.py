"""Behind which walls the command of a call runs: what is asked for it, and never less than the settings say.

Owns the join of a call's wish with the settings, and what the record says of walls. Refuses to know how a
wall is put up, and whether it can be: that is `sandbox`'s. Used by `runtime` and `execute`.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Literal

import msgspec

from custody.calls.call_settings import CallSettings
from custody.errors import SandboxError, UsageError
from custody.records import Decision
from custody.sandbox import Launchers
from custody.sandbox.walls import NAMED, Sandbox, narrowed
from custody.tools import Asker, Origin, Tool

ChosenLevel = Literal["process", "confined"]
"""What a call may ask for."""

LEVELS: tuple[ChosenLevel, ...] = ("process", "confined")


class Walled:
    """The walls of one runtime's calls, and what of them is left when a run is over."""

    def __init__(self, launchers: Launchers, settings: CallSettings) -> None:
        self._launchers = launchers
        self._settings = settings
        self._loop: asyncio.AbstractEventLoop | None = None
        """Where commands run behind walls; None while none has."""

    def chosen(
        self, level: str | None, name: str | None, tool: Tool | None, asker: Asker, origin: Origin
    ) -> tuple[Sandbox | None, Origin]:
        """The walls of a call that says so much of them; None where its tool starts no process, and at level
        `process`. With its origin, which refuses what its tool cannot have. On the loop of the runtime.

        What a person types has the walls it asks for; what an agent asks for is narrowed by what the settings
        say. Raises UsageError.
        """
        _check(level, name)
        if tool is None:
            return None, origin
        if tool.level == "none":
            stated = level is not None or name is not None
            return None, _refusing(origin, tool.name) if stated else origin
        sandbox = self._sandbox(level, name, typed=asker.typed)
        if sandbox is not None:
            self._loop = asyncio.get_running_loop()
        return sandbox, origin

    def _sandbox(self, level: str | None, name: str | None, *, typed: bool) -> Sandbox | None:
        said = NAMED[self._settings.sandbox]
        confined = level == "confined" or name is not None
        wanted = None if not confined else said if name is None else NAMED[name]
        least = said if self._settings.level == "confined" and not typed else None
        if wanted is None or least is None:
            return wanted or least
        return narrowed(wanted, least)

    def end_run(self, run_id: str) -> None:
        """Nothing stays of what its commands left behind walls. From any thread; raises nothing."""
        loop = self._loop
        if loop is None:
            return

        def end() -> None:
            with suppress(SandboxError):  # closed meanwhile: everything has ended
                self._launchers.end_run(run_id)

        with suppress(RuntimeError):  # the loop is closed, and so are the launchers
            loop.call_soon_threadsafe(end)


def said_of_walls(sandbox: Sandbox, roots: Iterable[str]) -> dict[str, Any]:
    """What the record says of the walls of a call that starts."""
    return {"name": sandbox.name, "network": sandbox.network, "roots": list(roots)}


def _refusing(origin: Origin, tool: str) -> Origin:
    """With a guard that refuses a level for a tool that has none to choose."""
    reason = f"{tool} starts no process, so there is no level to choose."

    def level_of(_proposal: Any) -> Decision:
        return Decision("deny", "schema", reason)

    return msgspec.structs.replace(origin, guards=(*origin.guards, level_of))


def _check(level: str | None, name: str | None) -> None:
    if level is not None and level not in LEVELS:
        raise UsageError(
            "There is no such level to choose.", hint=f"A call may ask for {' or '.join(LEVELS)}."
        )
    if name is not None and name not in NAMED:
        raise UsageError("There is no such sandbox.", hint=f"There are {', '.join(NAMED)}.")
    if name is not None and level == "process":
        raise UsageError(
            "At level process there is no sandbox to choose.", hint="Leave one out: a sandbox means confined."
        )
