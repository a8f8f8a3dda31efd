"""Behind which walls the command of a call runs: what it asks for, never less than settings and policy say.

Owns the join of a call's wish with the settings and with what rules demand, and what the record says of
walls. Refuses to know how a wall is put up: that is `sandbox`'s. Used by `runtime` and `execute`.
"""

import asyncio
import functools
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from custody.calls.call_settings import CallSettings
from custody.calls.private_folders import PrivateFolders
from custody.errors import SandboxError, UsageError
from custody.policy import Walls
from custody.policy.model import Afterwards, WallLevel
from custody.policy.walls import AFTERWARDS, LEVELS, who_demands
from custody.records import Decision
from custody.sandbox import Launchers
from custody.sandbox.walls import NAMED, Sandbox, narrowed
from custody.tools import Asker, Origin, Tool
from custody.tools.confinement import Confinement

if TYPE_CHECKING:
    from custody.sandbox.egress.rules import Allowed

HELD_BY_DEFAULT = frozenset({"exec", "shell", "git", "check_outcome"})
"""Tools that run what an agent writes: behind the strongest walls there are, where nothing else is said."""


class _Said(NamedTuple):
    """What a call says of its walls, and who says it."""

    level: str | None
    sandbox: str | None
    afterwards: str | None
    typed: bool


class Walled:
    """The walls of one runtime's calls, and what of them is left when a run is over."""

    def __init__(
        self, launchers: Launchers, settings: CallSettings, private: PrivateFolders | None = None
    ) -> None:
        """Without `private` each launcher has private folders of its own."""
        self._launchers = launchers
        self._private = private
        self._settings = settings
        self._loop: asyncio.AbstractEventLoop | None = None
        """Where commands run behind walls; None while none has."""
        self._sandboxes: dict[str, Sandbox] = {}
        """Those asked for so far, with the hosts that are listed here."""

    async def wished(
        self,
        level: str | None,
        sandbox: str | None,
        afterwards: str | None,
        tool: Tool | None,
        asker: Asker,
        origin: Origin,
    ) -> tuple[Confinement | None, Origin]:
        """What holds the command of a call that says so much; None where its tool starts no process. With its
        origin, which refuses what its tool cannot have. On the loop of the runtime.

        What a person types has the walls it asks for; what an agent asks for is narrowed by what the settings
        say. Raises UsageError.
        """
        _check(level, sandbox, afterwards)
        if tool is None:
            return None, origin
        stated = level is not None or sandbox is not None
        if tool.level == "none":
            refusal = f"{tool.name} starts no process, so there is no level to choose."
            return None, _refusing(origin, refusal) if stated else origin
        said = _Said(level, sandbox, afterwards, asker.typed)
        wish = await self._wish(said, tool)
        if wish.level == "transaction" and (why := _cannot_hold(tool, wish)) is not None:
            return wish, _refusing(origin, why)
        return wish, origin

    async def demanded(
        self, wish: Confinement | None, demands: Sequence[Walls], tool: Tool | None
    ) -> Confinement | Decision | None:
        """The same behind the walls that rules demand of it; a refusal where they cannot be had."""
        if not demands or wish is None or tool is None:
            return wish
        walls = demands[0]
        level = _higher(wish.level, walls.level or "process")
        if walls.sandboxes:
            level = _higher(level, "confined")
        said_by = who_demands(walls, "level" if walls.level is not None else "sandbox")
        if level != "process" and (lacking := await self._lacking()):
            reason = f"The policy demands the level {level} ({said_by}), and this machine lacks {lacking}."
            return Decision("deny", "resources", f"{reason} `custody doctor` says what would change it.")
        held = self._joined(wish, walls, level)
        if held.level == "transaction" and (why := _cannot_hold(tool, held)) is not None:
            return Decision("deny", "rule", f"The policy demands a transaction ({said_by}). {why}")
        return held

    def egress(self, asker: Asker) -> "Allowed":
        """What a tool of this process may reach for a call: what a command of its would."""
        from custody.sandbox.egress.rules import Allowed

        network = NAMED[self._settings.sandbox].network
        if asker.typed or self._settings.level == "process" or network == "open":
            return Allowed(self._settings.hosts, anywhere=True)
        return Allowed(self._hosts if network == "listed" else ())

    def entered(self, held: Confinement | None, run_id: str | None) -> str:
        """A command is about to run so. Where the private folders of its run are; empty where it needs none,
        or they cannot be had. On the loop of the runtime."""
        if held is None or held.sandbox is None:
            return ""
        self._loop = asyncio.get_running_loop()
        # Of a call without a run, and of a transaction, nothing is found by another command.
        if self._private is None or run_id is None or held.level == "transaction":
            return ""
        with suppress(OSError):
            return self._private.use(run_id)
        return ""

    def end_run(self, run_id: str) -> None:
        """Nothing stays of what its commands left behind walls. From any thread; raises nothing."""

        def forget() -> None:
            if self._private is not None:
                self._private.end(run_id)

        def end() -> None:
            try:
                self._launchers.end_run(run_id, forget)
            except SandboxError:  # closed meanwhile: everything has ended
                forget()

        try:
            if self._loop is None:
                forget()
            else:
                self._loop.call_soon_threadsafe(end)
        except RuntimeError:  # the loop is closed, and so are the launchers
            forget()

    def close(self) -> None:
        """The launchers have ended, and runs that nobody else goes on with."""
        if self._private is not None:
            self._private.close()

    # -- joining --------------------------------------------------------------------------------------------

    async def _wish(self, said: "_Said", tool: Tool) -> Confinement:
        wanted = _level_of(said)
        least = "process" if said.typed else await self._least(tool)
        level = _higher(wanted, least)
        usual = self._named(self._settings.sandbox)
        sandbox = None
        if level != "process":
            sandbox = usual if said.sandbox is None else self._named(said.sandbox)
            if least != "process" and sandbox is not usual:
                sandbox = narrowed(sandbox, usual)
        after = self._said_afterwards(said)
        return Confinement(level=level, sandbox=sandbox, afterwards=after or "hold", said=after)

    def _said_afterwards(self, said: "_Said") -> Afterwards | None:
        """None where nobody says; to hold them is what happens then anyway."""
        settings = None if self._settings.afterwards == "hold" else self._settings.afterwards
        wanted = _afterwards(said.afterwards)
        if said.typed or wanted is None:
            return wanted or settings
        careful = _more_careful(wanted, settings or "hold")  # an agent only adds to the care
        return careful if settings is not None or careful == wanted else None

    async def _least(self, tool: Tool) -> WallLevel:
        """What the command of an agent runs at, unless it is asked for behind more."""
        said = self._settings.level
        if said != "strongest":
            return "confined" if said == "transaction" and not _holds_changes(tool) else said
        if tool.name not in HELD_BY_DEFAULT or await self._lacking():
            return "process"
        return "confined"

    async def _lacking(self) -> str | None:
        """Walls that this machine does not give, in words; None where it gives what `confined` needs."""
        machine = await self._launchers.machine()
        return ", ".join(finding.name for finding in machine.missing) or None

    def _joined(self, wish: Confinement, walls: Walls, level: WallLevel) -> Confinement:
        sandbox = None
        if level != "process":
            sandbox = wish.sandbox or self._named(self._settings.sandbox)
            for by in map(self._named, walls.sandboxes):
                sandbox = sandbox if sandbox is by else narrowed(sandbox, by)
        afterwards = walls.afterwards or wish.afterwards
        if wish.said is not None:
            afterwards = _more_careful(wish.said, afterwards)
        return Confinement(level=level, sandbox=sandbox, afterwards=afterwards, said=wish.said)

    def _named(self, name: str) -> Sandbox:
        """With the hosts that are listed here: those of the settings, and of this repository's remotes."""
        if name not in self._sandboxes:
            sandbox = NAMED[name]
            if sandbox.network == "listed":
                sandbox = msgspec.structs.replace(sandbox, hosts=self._hosts)
            self._sandboxes[name] = sandbox
        return self._sandboxes[name]

    @functools.cached_property
    def _hosts(self) -> tuple[str, ...]:
        """The user's, package registries, and the remotes of the repository this runtime was opened in: read
        once, before a command could have written them."""
        from custody.sandbox.egress.remotes import hosts_listed  # what is not walled in needs none of it

        return hosts_listed(self._settings.hosts, self._settings.workspace or self._settings.scope.cwd)


def said_of_walls(sandbox: Sandbox, roots: Iterable[str]) -> dict[str, Any]:
    """What the record says of the walls of a call that starts."""
    said: dict[str, Any] = {"name": sandbox.name, "network": sandbox.network, "roots": list(roots)}
    if sandbox.network == "listed":
        said["hosts"] = list(sandbox.hosts)
    return said


def _higher(one: WallLevel, other: WallLevel) -> WallLevel:
    return one if LEVELS.index(one) >= LEVELS.index(other) else other


def _more_careful(one: Afterwards, other: Afterwards) -> Afterwards:
    return one if AFTERWARDS.index(one) <= AFTERWARDS.index(other) else other


def _level_of(said: _Said) -> WallLevel:
    if said.level is None and said.afterwards is not None:
        return "transaction"
    for known in LEVELS:
        if known == said.level:
            return known
    return "process" if said.sandbox is None else "confined"


def _afterwards(said: str | None) -> Afterwards | None:
    return next((known for known in AFTERWARDS if known == said), None)


def _holds_changes(tool: Tool) -> bool:
    return getattr(tool, "holds_changes", False)


def _cannot_hold(tool: Tool, held: Confinement) -> str | None:
    """Why the changes of this command cannot be held."""
    if not _holds_changes(tool):
        return f"Changes are held for exec and shell alone, not for {tool.name}."
    assert held.sandbox is not None, "only `process` has none"
    if held.sandbox.roots != "write" or held.sandbox.write:
        return f"In the sandbox {held.sandbox.name} there is nothing to hold: changes are held beneath roots."
    return None


def _refusing(origin: Origin, reason: str) -> Origin:
    """With a guard that refuses what the tool cannot have."""

    def level_of(_proposal: Any) -> Decision:
        return Decision("deny", "schema", reason)

    return msgspec.structs.replace(origin, guards=(*origin.guards, level_of))


def _check(level: str | None, name: str | None, afterwards: str | None) -> None:
    if level is not None and level not in LEVELS:
        raise UsageError("There is no such level to choose.", hint=f"A call may ask for {', '.join(LEVELS)}.")
    if name is not None and name not in NAMED:
        raise UsageError("There is no such sandbox.", hint=f"There are {', '.join(NAMED)}.")
    if name is not None and level == "process":
        raise UsageError(
            "At level process there is no sandbox to choose.", hint="Leave one out: a sandbox means confined."
        )
    if afterwards is not None and afterwards not in AFTERWARDS:
        raise UsageError(
            "Nothing of that name becomes of changes.", hint=f"There are {', '.join(AFTERWARDS)}."
        )
    if afterwards is not None and level not in (None, "transaction"):
        raise UsageError(
            "Only changes of a transaction are held.", hint="Leave the level out: this means transaction."
        )
