"""Launchers that are walled in before their transaction is there, so that it finds all walls up but the last.

Owns which transaction may use one, how many wait and for how long. A spare makes a transaction sooner, and
that is all: where there is none, or it is not like what is asked, has died, refuses or does not answer, the
caller starts a launcher as ever. It is handed its command when it has said that all walls are up, so that one
that fails has begun nothing. No command has run behind its walls before, so it may serve any run.

Used by `process`, on its event loop.
"""

import asyncio
import marshal
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from custody.errors import SandboxError
from custody.sandbox.command import Command
from custody.sandbox.confined import Walls, key_of
from custody.sandbox.launcher import messages
from custody.sandbox.one_launcher import OneLauncher
from custody.sandbox.template import rights

if TYPE_CHECKING:
    from custody.sandbox.walls.model import View

SPARES_MAX = 4  # of one runtime, a process of a few MB each; as many as an agent has transactions at once
SPARE_SECONDS = 30.0
"""How long one waits: an agent's next command mostly comes sooner, and what its walls were made from (the
folders of programs there are, a person's git settings) is no older than that."""
SPARE_DELAY_SECONDS = 0.01
"""After a command's end: to make the next one beside it, or while its changes are read, takes longer than
both one after the other where there are few processors."""
READY_SECONDS = 1.0
"""For the last walls, which take a few milliseconds. Beyond it the spare hangs and is given up."""
FAILED_MAX = 3  # one after the other; then something here is against them, and no more are made

Identity = tuple[int, ...]


class Like(Struct, frozen=True):
    """What a transaction has in common with those that could use the same spare."""

    walls: Walls
    """Of no run, and its views without the folders that are another's each time."""
    cwd: str
    store: Identity
    roots: tuple[Identity, ...]
    """Device, inode, owner, group and mount flags: another folder there, or owner, has other walls."""
    top: Identity
    """Of `/`: a folder that has come there since would not be covered."""


def like(command: Command) -> Like | None:
    """None for a command that no spare can serve."""
    stores = {view.store for view in command.views}
    if len(stores) != 1 or "" in stores or any(view.kind != "overlay" for view in command.views):
        return None
    key = key_of(command)
    assert isinstance(key, Walls), "only behind walls there are views"
    views = tuple(structs.replace(view, upper="", work="") for view in command.views)
    try:
        return Like(
            walls=structs.replace(key, run_id="", views=views),
            cwd=os.path.realpath(command.cwd),
            store=_identity(stores.pop()),
            roots=tuple(_identity(view.root) for view in command.views),
            top=(*_identity("/"), os.stat("/").st_mtime_ns),
        )
    except OSError:
        return None


def _identity(path: str) -> Identity:
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_uid, found.st_gid, os.statvfs(path).f_flag


def _told(command: Command, wanted: Like) -> bytes:
    """What a spare is told of the views of its command. Raises OSError."""
    told: list[tuple[str | int, ...]] = []
    for view, root in zip(command.views, wanted.roots, strict=True):
        found = os.stat(view.upper)
        folders = (os.path.relpath(path, view.store) for path in (view.upper, view.work))
        told.append((*folders, *root[:2], found.st_dev, found.st_ino))
    return messages.VIEWS + marshal.dumps(told)


def elsewhere(command: Command) -> Command:
    """With other folders for the kernel: what was mounted with one and cannot be synced (`volatile`) is not
    mounted with it again. Nothing is in the first folder of a view yet, as no command has run. Raises
    SandboxError."""
    views: list[View] = []
    for view in command.views:
        work = f"{view.work}-again"
        try:
            os.mkdir(work, 0o700)
        except OSError as error:
            raise SandboxError(
                f"The views of a command cannot be put up: {error.strerror}. Nothing was run.", wall="overlay"
            ) from error
        views.append(structs.replace(view, work=work))
    return structs.replace(command, views=tuple(views))


class _Spare(Struct, eq=False):
    """One that waits."""

    launcher: OneLauncher
    like: Like
    rights: object
    """What we might do when it was made."""
    timer: asyncio.TimerHandle


class Spares:
    """Those of one runtime."""

    def __init__(
        self, start: Callable[[Walls, bytes], OneLauncher], retire: Callable[[OneLauncher], object]
    ) -> None:
        """`start` a launcher with a plan that says `later`; `retire` one that is of no use."""
        self._start = start
        self._retire = retire
        self._waiting: list[_Spare] = []
        self._told: set[OneLauncher] = set()
        self._failed = 0

    def all(self) -> list[OneLauncher]:
        return [*(spare.launcher for spare in self._waiting), *self._told]

    async def take(self, command: Command) -> tuple[OneLauncher | None, Command]:
        """One that is behind all walls around the views of this command, if there is one; and the command, as
        another launcher may have it where one that failed had its hands on them. Raises SandboxError."""
        spare = self._find(command)
        if spare is None:
            return None, command
        launcher = spare.launcher
        self._told.add(launcher)
        is_ready = is_told = False
        try:
            # Before it is told: it may do what we may not any more.
            if spare.rights == rights():
                launcher.show(_told(command, spare.like))
                is_told = True
                is_ready = await launcher.ready(READY_SECONDS)
        except OSError:  # a folder of it is gone: a launcher that is started now will say so
            pass
        finally:
            self._told.discard(launcher)
            if not is_ready:
                self._give_up(launcher)
        self._failed = 0 if is_ready else self._failed + 1
        if is_ready:
            launcher.key = key_of(command)
            return launcher, command
        return None, elsewhere(command) if is_told else command

    def _find(self, command: Command) -> _Spare | None:
        """One that waits for a command like this, which it does no more."""
        wanted = like(command) if self._waiting else None
        for spare in self._waiting:
            if spare.like == wanted:
                self.discard(spare.launcher)
                return spare
        return None

    def prepare(
        self, command: Command, plan: Callable[[], bytes], ours: object, loop: asyncio.AbstractEventLoop
    ) -> None:
        """Have one for the next transaction like this, if there is none yet. `ours` is what we may do. Takes
        a few milliseconds, when nobody waits for the command any more."""
        if self._failed >= FAILED_MAX or len(self._waiting) >= SPARES_MAX:
            return
        wanted = like(command)
        if wanted is None or any(spare.like == wanted for spare in self._waiting):
            return
        try:
            launcher = self._start(wanted.walls, plan())
        except (SandboxError, OSError):  # the next transaction will be told, if it is still so
            self._failed += 1
            return
        launcher.watch(loop)
        timer = loop.call_later(SPARE_SECONDS, self._end, launcher)
        self._waiting.append(_Spare(launcher, wanted, ours, timer))

    def discard(self, launcher: OneLauncher) -> bool:
        """Whether it waited, which it does no more."""
        for spare in self._waiting:
            if spare.launcher is launcher:
                spare.timer.cancel()
                self._waiting.remove(spare)
                return True
        return False

    def dropped(self, launcher: OneLauncher) -> bool:
        """The same, of one that ended while it waited: somebody killed it, or it cannot be walled in."""
        was_here = self.discard(launcher)
        self._failed += was_here
        return was_here

    def _end(self, launcher: OneLauncher) -> None:
        if self.discard(launcher):
            self._give_up(launcher)

    def _give_up(self, launcher: OneLauncher) -> None:
        """Nothing runs in it; and it may hang."""
        launcher.kill()
        self._retire(launcher)

    def close(self) -> None:
        """End all of them."""
        for launcher in self.all():
            self.discard(launcher)
            self._give_up(launcher)
