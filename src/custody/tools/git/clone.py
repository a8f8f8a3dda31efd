"""The operation `clone` of the `git` tool: a new folder that was not there before.

Owns where a clone may come from and go to. All of the new folder is watched, so that undo takes it away where
nothing in it has changed; the call tells of it as one change, the folder. Used by `git`.
"""

import os
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from custody.changes import Observed
from custody.errors import CustodyError, ToolError
from custody.files import ABSENT, Target, TooMany, look, parent_of, walk
from custody.records import Change, Decision
from custody.sandbox import Finished
from custody.tools.git.changing import Done, LimitHit, settled
from custody.tools.git.command import CutOff, Git, failure, in_thread, said
from custody.tools.git.names import Address, AddressKind, address_of
from custody.tools.git.repository import below, position
from custody.tools.roots import Scope
from custody.tools.standing import check_room
from custody.tools.tool import Context

FREE_BYTES_MIN = 256 * 1024 * 1024
"""Free before a clone begins. How large it will be nobody says beforehand; most are smaller."""

ENTRIES_MAX = 100_000
"""Of the new folder, to be taken away again by undo. Each is read once more when the clone is there."""

DEPTH_MAX = 128

PROTOCOLS: dict[AddressKind, tuple[str, ...]] = {"https": ("https",), "ssh": ("ssh",), "local": ("file",)}
"""What git may use for an address, also where settings or a server send it elsewhere."""


class Cloning(Struct, frozen=True):
    """What is cloned to where."""

    address: Address
    target: Target
    cwd: str
    command: tuple[str, ...]


def refusal(arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
    """Why this is not cloned, before anything is tried. The arguments make sense."""
    reach = scope.reach
    address = address_of(arguments["url"])
    if address.kind == "local" and (decision := reach.decision(address.text, write=False)) is not None:
        return decision
    try:
        folder = _folder(arguments, address)
    except ValueError as error:
        return Decision("deny", "schema", str(error))
    return scope.check() or reach.decision(folder, write=True, follow=False)


def plan_clone(arguments: Mapping[str, Any], scope: Scope) -> Cloning:
    """Raises ToolError, PathRefused, PathInvalid, OSError."""
    reach = scope.reach
    address = address_of(arguments["url"])
    if address.kind == "local":
        source = reach.target(address.text, write=False)
        address = Address("local", source.path)
        if not os.path.exists(source.path):
            raise ToolError(f"There is nothing at {source.path} to clone.")
    target = reach.target(_folder(arguments, address), write=True, follow=False)
    if os.path.lexists(target.path):
        raise ToolError(f"{target.path} is there already; a clone is a new folder. Give another `path`.")
    check_room([(target, FREE_BYTES_MIN)])
    switches: list[str] = []
    if "name" in arguments:
        switches.append(f"--branch={arguments['name']}")
    if "depth" in arguments:
        switches.append(f"--depth={arguments['depth']}")
    command = ("clone", "--no-local", "--no-recurse-submodules", "--template=", *switches)
    return Cloning(address, target, os.path.realpath(scope.cwd), (*command, "--", address.text, target.path))


def _folder(arguments: Mapping[str, Any], address: Address) -> str:
    """Where the clone goes: `path`, or what git would call it. Raises ValueError."""
    if "path" in arguments:
        return arguments["path"]
    last = address.text.rstrip("/").removesuffix("/.git").rstrip("/")
    name = last.replace(":", "/").rpartition("/")[2].removesuffix(".git")
    if name in ("", ".", ".."):
        raise ValueError("The address says no name for the new folder; give its `path`.")
    return name


class KeptClone:
    """One call's watch over the folder that is to come. Works on files: in a thread."""

    def __init__(self, context: Context, cloning: Cloning) -> None:
        self.entries = 0
        """What the new folder holds, once it is settled."""
        self._target = cloning.target
        self._observed = Observed(context.undo, bytes.fromhex(context.call_id), roots=context.scope.roots)

    def keep(self) -> None:
        """That there is nothing yet, also where folders above are missing. Raises ToolError, OSError."""
        parts = self._target.relative.split("/")
        for count in range(1, len(parts) + 1):
            place = Target(self._target.root, "/".join(parts[:count]))
            if not os.path.lexists(place.path):
                self._observed.keep(place)
        self._observed.ready()

    def settle(self) -> tuple[Change, ...]:
        """The new folder (and those above it) as changes."""
        whole = self._note_new()
        changes = self._observed.settle()
        inside = f"{self._target.path}/"
        told = [change for change in changes if not change.path.startswith(inside)]
        if not whole:
            told = [msgspec.structs.replace(change, undoable=False) for change in told]
        self.entries = len(changes) - len(told)
        return tuple(told)

    def _note_new(self) -> bool:
        """Whether all that is there now can be taken away again."""
        try:
            with parent_of(below(self._target, "-")) as (folder_fd, _):
                entries = [
                    entry.relative for entry in walk(folder_fd, entries_max=ENTRIES_MAX, depth_max=DEPTH_MAX)
                ]
        except FileNotFoundError:  # git has cleared it away itself
            return True
        except TooMany:
            return False
        for relative in entries:
            target = below(self._target, relative)
            with parent_of(target) as (folder_fd, name):
                self._observed.note(target, ABSENT, look(folder_fd, name))
        return True

    def abandon(self) -> None:
        """Nothing was changed."""
        self._observed.abandon()


async def clone(arguments: Mapping[str, Any], context: Context) -> Done:
    """Raises CustodyError, OSError before anything was changed."""
    cloning = await in_thread(lambda: plan_clone(arguments, context.scope))
    result: dict[str, Any] = {"operation": "clone", "repository": cloning.target.path}
    if context.dry_run:
        return Done(result={"dry_run": True, **result, "would_run": [["git", *cloning.command]]})
    git = Git(context, cloning.cwd, protocols=PROTOCOLS[cloning.address.kind])
    kept = KeptClone(context, cloning)
    try:
        await in_thread(kept.keep)
    except BaseException:
        kept.abandon()
        raise
    finished: Finished | None = None
    error: BaseException | None = None
    limit_hit: LimitHit | None = None
    try:
        finished = await git.run(*cloning.command)
        error = failure(finished) if finished.exit_code != 0 else None
    except CutOff as cut:
        finished, limit_hit = cut.finished, cut.finished.limit_hit
    except CustodyError as refused:
        error = refused
    finally:
        changes, unsettled = await settled(kept.settle)
    result |= said(() if finished is None else (finished,))
    if error is None and limit_hit is None:
        result |= {"entries": kept.entries, **await _found(git.at(cloning.target.path))}
    return Done(
        result=result, changes=changes, finished=finished, error=error or unsettled, limit_hit=limit_hit
    )


async def _found(git: Git) -> dict[str, Any]:
    """Where the new repository stands."""
    try:
        found = await position(git)
    except CutOff:
        return {"note": "The call was over before it could be seen what was cloned."}
    return {"commit": found.head, "branch": found.branch}
