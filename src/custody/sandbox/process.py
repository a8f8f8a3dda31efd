"""Runs every command: the launchers of one runtime, and one command at a time on each.

Owns which launcher serves a command, how many there are, and when one ends. Deadlines, signals to the tree,
reaping and measuring of commands are the launcher's; its process is `one_launcher`'s, pipes and output are
`running`'s. It touches nothing of the host application: no signal handler, no SIGCHLD, no child but the
launchers, each by its own pid.

Everything runs on the event loop that first calls `run`, in whatever thread that is. A process forked from
the host starts launchers of its own and leaves the host's alone.
"""

import asyncio
import contextlib
import os
import random
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from custody.errors import LauncherLost, SandboxError
from custody.sandbox.cgroup import Cgroup, make_cgroup, parent_folder, remove_abandoned
from custody.sandbox.command import Command, Finished
from custody.sandbox.confined import (
    REFUSED_EXIT_CODE,
    Key,
    Shared,
    Walls,
    bounded_group,
    egress_is_loaded,
    key_of,
    load_egress,
    look_at_this_machine,
    packed_plan,
    refusal,
)
from custody.sandbox.control import Control
from custody.sandbox.idle import Idle
from custody.sandbox.launcher.messages import Reply
from custody.sandbox.one_launcher import OneLauncher
from custody.sandbox.running import OnOutput, Running
from custody.sandbox.spare import SPARE_DELAY_SECONDS, Spares, elsewhere
from custody.sandbox.survivors import end_survivors, ticks_now
from custody.sandbox.template import Templates

if TYPE_CHECKING:
    from custody.sandbox.walls.machine import Machine
    from custody.sandbox.walls.model import Sandbox

IDLE_SECONDS = 10.0  # how long more than a few are kept, so that a second burst of commands finds them
LAUNCHER_NUMBERS = 1 << 30
"""Each launcher behind walls has the next user of those there are; where the count begins is left to chance,
as another program may have begun its own."""
LAUNCHER_SLACK_SECONDS = 10.0
"""On top of all a launcher's own bounds: then it hangs (a command may have stopped it), and is lost."""
LAUNCHER_KILL_SECONDS = 6.0  # a little more than its own bound for ending a tree, at most
LAUNCHER_EXIT_SECONDS = 5.0  # an idle one ends at once when its socket closes


class Plan(Protocol):
    """Makes what a launcher of a command is told; with another user of those there are, each time."""

    def __call__(self, command: Command, *, later: bool) -> bytes: ...


class Launchers:
    """The launcher processes of one runtime. A launcher runs one command at a time; as many as there are
    commands at once are started, and a few are kept. How many run at once is the caller's to bound.

    One that is walled in serves the commands of one sandbox, one set of roots and one run. Where a command
    says in which folder the private ones of its run are kept, each of these finds in them what the others
    left; else they are there as long as their launcher is."""

    def __init__(
        self,
        *,
        python: str = sys.executable,
        cgroups: bool = True,
        look_at_machine: "Callable[[], Machine] | None" = None,
    ) -> None:
        """`look_at_machine` is asked once, in a thread, before the first command behind walls; None: every
        wall is tried."""
        self._python = python
        self._cgroups = cgroups
        self.uids: tuple[int, int] | None = None
        """First and count of the users that root's commands behind walls run as; None: the usual ones. Set
        before the first of those, as the settings may be read after a launcher has been started."""
        self._look_at_machine = look_at_machine or (lambda: look_at_this_machine(self.uids))
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle = Idle[OneLauncher]()
        self._busy: dict[OneLauncher, Running] = {}
        self._ending: dict[asyncio.Task[None], OneLauncher] = {}
        self._trim_timer: asyncio.TimerHandle | None = None
        self._number = random.randrange(LAUNCHER_NUMBERS)
        self._cgroup_parent: str | None = None
        self._cgroup_known = False
        self._templates = Templates(self._python)
        self._spares = Spares(self._start, self._retire)
        self._closed = False
        self._after_runs: dict[str, Callable[[], None]] = {}
        """Runs that are over while some of their launchers are not."""
        self._machine: asyncio.Future[Machine] | None = None

    def prepare(self, *, no_new_privs: bool = False) -> None:
        """Start a launcher now, without waiting for it: the first command will not."""
        self._check()
        key = Shared(no_new_privs)
        if key not in self._idle:
            self._idle.put(self._start(key, None))

    async def run(
        self,
        command: Command,
        *,
        on_output: OnOutput | None = None,
        control: Control | None = None,
    ) -> Finished:
        """Run a command to its end, and the end of its whole tree.

        `on_output` gets every chunk as it comes. `control` may end the tree, and the result says so; when the
        task is cancelled it is ended too, before CancelledError goes on.

        Raises CommandNotFound, CommandNotExecutable, WorkingDirectoryGone, or SandboxError when it could not
        be started, LauncherLost when what became of it is not known, and what `on_output` raised, or the
        command's own `on_connection`.
        """
        self._check()
        loop = self._loop = asyncio.get_running_loop() if self._loop is None else self._loop
        assert loop is asyncio.get_running_loop(), "the launchers of one runtime belong to one event loop"
        plan = None
        if command.sandbox is not None:
            plan = await self._planner(command)
            self._check()
        group = None if command.sandbox is None or not self._cgroups else bounded_group(command.sandbox)
        try:
            return await self._run_in(group, command, plan, on_output, control)
        finally:
            if group is not None:
                await group.end()

    def end_run(self, run_id: str, then: Callable[[], None] | None = None) -> None:
        """The run is over: nothing of what its commands left behind walls stays. What runs still goes on, and
        its launcher ends after it. `then` is called once none of its launchers is left."""
        self._check()
        if then is not None:
            self._after_runs[run_id] = then
        for launcher in self._idle.all():
            if isinstance(launcher.key, Walls) and launcher.key.run_id == run_id:
                self._idle.discard(launcher)
                self._retire(launcher)
        for launcher in self._busy:
            if isinstance(launcher.key, Walls) and launcher.key.run_id == run_id:
                launcher.is_last = True
        self._forget_runs()

    async def close(self) -> None:
        """End what runs, as if it were cancelled, then the launchers."""
        if self._pid != os.getpid():
            self._leave_to_parent()
        self._closed = True
        if self._trim_timer is not None:
            self._trim_timer.cancel()
        loop = asyncio.get_running_loop()
        if self._busy:
            for running in self._busy.values():
                running.cancel()
            bound = max(running.grace_seconds for running in self._busy.values()) + LAUNCHER_KILL_SECONDS
            answers = [loop.create_task(running.answer()) for running in self._busy.values()]
            await asyncio.wait(answers, timeout=bound)
            for answer in answers:
                answer.cancel()
        self._spares.close()
        for launcher in (*self._idle.all(), *self._busy):
            self._retire(launcher)
        self._idle = Idle[OneLauncher]()
        if self._ending:
            await asyncio.wait(self._ending, timeout=LAUNCHER_EXIT_SECONDS)
        for launcher in self._ending.values():
            launcher.kill()
        if self._ending:
            await asyncio.wait(self._ending)
        await self._templates.close()

    # -- one command --------------------------------------------------------------------------------------

    async def _run_in(
        self,
        group: Cgroup | None,
        command: Command,
        plan: Plan | None,
        on_output: OnOutput | None,
        control: Control | None,
    ) -> Finished:
        assert self._loop is not None, "only `run` comes here"
        began_ticks = ticks_now()
        running = Running(self._loop, command, on_output, group)
        try:
            launcher = await self._begin(running, command, plan)
            was_fresh = launcher.is_fresh
            try:
                reply = await self._answer(launcher, running, command, control)
                if command.views and plan is not None and reply is not None:
                    self._loop.call_later(SPARE_DELAY_SECONDS, self._prepare_spare, command, plan)
            finally:
                running.close()
                await self._release(launcher, running)
            if reply is None and was_fresh and command.sandbox is not None:
                await self._check_walls(launcher, command.sandbox)
            if reply is None:
                raise await self._loss(launcher, command, began_ticks)
            return running.finished(reply)
        finally:
            running.close()

    async def _begin(self, running: Running, command: Command, plan: Plan | None) -> OneLauncher:
        assert self._loop is not None, "only `run` comes here"
        if command.views and plan is not None:
            spare, command = await self._spares.take(command)
            self._check()  # it may have been closed meanwhile, and a spare with it
            if spare is not None:
                if spare.run(running, self._loop):
                    self._busy[spare] = running
                    return spare
                self._retire(spare)
                command = elsewhere(command)
        key = key_of(command)
        while True:
            idle = self._idle.take(key)
            launcher = idle or self._start(key, None if plan is None else plan(command, later=False))
            if launcher.run(running, self._loop):
                self._busy[launcher] = running
                return launcher
            self._retire(launcher)
            if idle is None:  # one of those may have been killed by somebody
                break
        if command.sandbox is not None:  # it may have refused by now
            await self._check_walls(launcher, command.sandbox)
        raise LauncherLost("The launcher process ends as soon as it is started.")

    async def _answer(
        self, launcher: OneLauncher, running: Running, command: Command, control: Control | None
    ) -> Reply | None:
        assert self._loop is not None, "only `run` comes here"
        with contextlib.ExitStack() as stack:

            def bound(seconds: float) -> None:
                slack = 2 * LAUNCHER_KILL_SECONDS + LAUNCHER_SLACK_SECONDS
                stack.callback(loop.call_later(seconds + slack, launcher.kill).cancel)

            def cancel() -> None:
                running.cancel()
                bound(command.grace_seconds)

            loop = self._loop
            if command.deadline_seconds is not None:
                bound(command.deadline_seconds + command.grace_seconds)
            if control is not None:
                control.bind(running, cancel)
                stack.callback(control.unbind)
            try:
                return await running.answer()
            except asyncio.CancelledError:
                cancel()
                while not running.is_answered:  # whatever else is asked meanwhile; `bound` ends it
                    with contextlib.suppress(asyncio.CancelledError):
                        await running.answer()
                raise

    async def _release(self, launcher: OneLauncher, running: Running) -> None:
        """Keep the launcher for the next command, or not."""
        assert self._loop is not None, "only `run` comes here"
        is_reusable = False
        try:
            is_reusable = await launcher.release() and not launcher.is_last
        finally:
            reply = running.reply
            if reply is None or reply.worn or reply.tree_left or not is_reusable or self._closed:
                try:
                    if isinstance(launcher.key, Walls) and launcher.key.views:
                        await self._end_of(launcher)
                finally:
                    del self._busy[launcher]
                    self._retire(launcher)
            else:
                del self._busy[launcher]
                launcher.idle_since = self._loop.time()
                self._idle.put(launcher)
                self._trim(is_time=False)

    async def _end_of(self, launcher: OneLauncher) -> None:
        """Wait until nothing sees its views any more: who made them reads next what was changed there."""
        assert self._loop is not None, "only `run` comes here"
        ending = self._loop.create_task(launcher.left())
        bound = self._loop.call_later(LAUNCHER_EXIT_SECONDS, launcher.kill)
        is_cancelled = False
        while not ending.done():  # whatever else is asked meanwhile; `bound` ends it
            try:
                await asyncio.wait([ending])
            except asyncio.CancelledError:
                is_cancelled = True
        bound.cancel()
        if is_cancelled:
            raise asyncio.CancelledError

    async def _check_walls(self, launcher: OneLauncher, sandbox: "Sandbox") -> None:
        """Raises what a launcher said that could not be walled in, and began nothing."""
        ending = [task for task, one in self._ending.items() if one is launcher]
        if ending:
            await asyncio.wait(ending, timeout=LAUNCHER_EXIT_SECONDS)
        if launcher.process.returncode == REFUSED_EXIT_CODE and launcher.last_words:
            raise refusal(launcher.last_words, sandbox)

    async def _loss(self, launcher: OneLauncher, command: Command, began_ticks: int) -> LauncherLost:
        """End what the launcher left behind, as far as it is provably the command's."""
        ended: set[tuple[int, int]] = set()
        left: set[tuple[int, int]] = set()
        if launcher.cgroup is not None:
            ended.update(member for member in launcher.cgroup.kill() if member[0] != launcher.pid)
        if command.token:
            loop = asyncio.get_running_loop()
            both = await loop.run_in_executor(None, end_survivors, command.token, began_ticks)
            for into, survivors in zip((ended, left), both, strict=True):
                into.update((survivor.pid, survivor.start_ticks) for survivor in survivors)
        message = "The launcher process ended while it held a running child."
        if launcher.last_words:
            message += f" It said: {launcher.last_words}"
        return LauncherLost(message, ended=_identities(ended), left=_identities(left))

    # -- the pool -----------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._pid != os.getpid():
            self._leave_to_parent()
        if self._closed:
            raise SandboxError("No command can be started: the runtime has been closed.")

    def _leave_to_parent(self) -> None:
        for launcher in (*self._idle.all(), *self._busy, *self._ending.values(), *self._spares.all()):
            launcher.forget()
        self._templates.forget()
        self._forget()

    def _start(self, key: Key, plan: bytes | None) -> OneLauncher:
        if self._cgroups and not self._cgroup_known:
            self._cgroup_known = True
            self._cgroup_parent = parent_folder()
            if self._cgroup_parent is not None:
                remove_abandoned(self._cgroup_parent)
        cgroup = None
        if plan is None and self._cgroup_parent is not None:  # behind walls the pid namespace ends all
            cgroup = make_cgroup(self._cgroup_parent)
            if cgroup is None:
                self._cgroup_parent = None  # not allowed here: no use in trying again
        try:
            return OneLauncher(self._python, key, plan, cgroup, self._drop, self._templates.get())
        except SandboxError:
            if cgroup is not None:
                cgroup.remove()
            raise

    def _prepare_spare(self, command: Command, plan: Plan) -> None:
        """For the next transaction, where that takes no more than a fork: a process that runs a single one is
        not made to pay for what it has no use for."""
        assert self._loop is not None, "only `run` comes here"
        template = self._templates.ready()
        if template is not None and not self._closed:
            self._spares.prepare(command, lambda: plan(command, later=True), template.rights, self._loop)

    def _drop(self, launcher: OneLauncher) -> None:
        """Somebody killed an idle one."""
        if self._idle.discard(launcher) or self._spares.dropped(launcher):
            self._retire(launcher)

    def _retire(self, launcher: OneLauncher) -> None:
        assert self._loop is not None or self._closed, "launchers are ended on the loop"
        launcher.close()
        if launcher in self._ending.values():
            return
        task = (self._loop or asyncio.get_running_loop()).create_task(launcher.reap())
        self._ending[task] = launcher
        task.add_done_callback(self._reaped)

    def _reaped(self, task: asyncio.Task[None]) -> None:
        self._ending.pop(task, None)
        self._forget_runs()

    def _forget_runs(self) -> None:
        if not self._after_runs:
            return
        keys = [launcher.key for launcher in (*self._idle.all(), *self._busy, *self._ending.values())]
        left = {key.run_id for key in keys if isinstance(key, Walls)}
        for run_id in [run_id for run_id in self._after_runs if run_id not in left]:
            self._after_runs.pop(run_id)()

    def _trim(self, *, is_time: bool = True) -> None:
        """End those that are too many."""
        assert self._loop is not None, "only `run` comes here, and the timer is the loop's"
        if is_time:
            self._trim_timer = None
        ended, will_be = self._idle.surplus(self._loop.time() - IDLE_SECONDS)
        for launcher in ended:
            self._retire(launcher)
        if will_be and self._trim_timer is None:
            self._trim_timer = self._loop.call_later(IDLE_SECONDS, self._trim)

    async def machine(self) -> "Machine":
        """Which walls hold here. They are tried once, which takes a moment."""
        if self._machine is None:  # many may ask at once
            self._machine = asyncio.get_running_loop().run_in_executor(None, self._look_at_machine)
        looking = self._machine
        try:
            return await asyncio.shield(looking)
        except Exception:
            self._machine = None
            raise

    async def writable_roots(self, roots: Iterable[str], cwd: str) -> tuple[str, ...]:
        """The roots of a call in which a command behind walls works. Raises SandboxError."""
        machine = await self.machine()
        from custody.sandbox.walls.plan import writable_roots  # loaded with the machine

        return writable_roots(roots, cwd, machine)

    async def _planner(self, command: Command) -> Plan:
        """Makes the plan of a launcher that can serve it; what this machine is has to be known for that."""
        assert command.sandbox is not None, "it is behind walls"
        machine = await self.machine()
        if command.sandbox.network == "listed" and not egress_is_loaded():
            await asyncio.get_running_loop().run_in_executor(None, load_egress)

        def plan(command: Command, *, later: bool) -> bytes:
            self._number += 1
            return packed_plan(command, machine, self._number, later=later)

        return plan


def _identities(processes: set[tuple[int, int]]) -> list[dict[str, int]]:
    return [{"pid": pid, "start_ticks": ticks} for pid, ticks in sorted(processes)]
