"""The runtime of a daemon, as a program at the other end of a wire uses it.

Owns what lives as long as a URL is open: the link, the queue of what is told, the program's own tools and
runs. `RemoteRuntime` is the face of coroutines, `blocking` has the other. Made by `compose`.
"""

import atexit
import getpass
import os
import socket
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

from msgspec import Struct, structs

from custody.calls.asked import current_call
from custody.calls.beginning import RunOptions
from custody.calls.recording import check_on_error
from custody.calls.run import current_run
from custody.client.address import Address
from custody.client.asking import Asked, make_call
from custody.client.home import NewRun
from custody.client.index import RemoteIndex
from custody.client.link import Link, Who
from custody.client.outbox import Outbox
from custody.client.part import Part
from custody.client.run import RemoteRun
from custody.client.told import Told
from custody.client.tools import OwnTools
from custody.client.wire import Wire
from custody.records import Call
from custody.rpc.spoken import spoken

if TYPE_CHECKING:
    import asyncio

OnError = Literal["warn", "raise"]

EXIT_SECONDS = 1.0
"""What is queued when a program just ends gets so long, as in a store of its own."""


class Speaker(Struct, frozen=True, kw_only=True):
    """On whose behalf the program works, where it does not say otherwise."""

    token: str | None = None
    agent: str | None = None
    caller: str | None = None
    session: str | None = None
    cwd: str | None = None
    """Where calls work; None: where the daemon does."""


class Remote:
    """What both faces share."""

    notices = None
    """Who is told of each call is the daemon's affair."""

    def __init__(
        self,
        address: Address,
        speaker: Speaker,
        *,
        tools: Iterable[Any] = (),
        on_error: OnError = "warn",
        home_loop: "asyncio.AbstractEventLoop | None" = None,
    ) -> None:
        """`home_loop` is the event loop that coroutines of the program's tools run on."""
        check_on_error(on_error)
        self.on_error: OnError = on_error
        self._speaker = speaker
        self._runs: weakref.WeakSet[Told] = weakref.WeakSet()
        self.link = Link(address, Who(token=speaker.token, agent=speaker.agent))
        self.outbox = Outbox(self.link)
        self.own_tools = OwnTools(self.link, tools, home_loop)
        self.own_tools.runs = self._run_of
        self.link.on_request = self.own_tools.serve
        self.link.on_told = self.own_tools.told
        self.link.on_connected += [self.own_tools.offer_all, self._rejoin]
        self.index = RemoteIndex(self.link, self.outbox.flushed)
        """Questions about what is recorded, as far as whoever asks may see it."""

    async def opening(self) -> None:
        """In the link's thread. Raises StoreUnusable, Denied."""
        await self.link.connect_first()
        self.outbox.start()
        atexit.register(_flush, weakref.ref(self))

    def flush_at_exit(self) -> None:
        """A program just ends: what is queued gets a moment."""
        if not self.link.closed:
            with suppress(TimeoutError):
                self.link.work(self.outbox.flushed(EXIT_SECONDS)).wait_for(2 * EXIT_SECONDS)

    async def closing(self) -> None:
        """In the link's thread: what is queued is sent, within its bound."""
        await self.outbox.close()
        await self.own_tools.close()

    async def _rejoin(self, wire: Wire) -> None:
        for run in list(self._runs):
            if run.outcome is None or self.outbox.last(run.part) is not None:
                await run.part.again(wire)

    def _run_of(self, run_id: str) -> Told | None:
        return next((run for run in list(self._runs) if run.id == run_id), None)

    # -- calls --------------------------------------------------------------------------------------

    def asked(self, *, run: Told | None, agent: str | None = None, **options: Any) -> Asked:
        """A call with what is not said taken from its surroundings."""
        speaker, run = self._speaker, run or self._surrounding_run()
        if run is None:
            options["caller"] = options.get("caller") or speaker.caller
            options["session"] = options.get("session") or speaker.session
            agent = agent or speaker.agent
        options["cwd"] = options.get("cwd") or speaker.cwd
        return Asked(run=run, agent=agent, parent_id=current_call.get(), **options)

    async def make(
        self, tool: str | Callable[..., Any], arguments: Mapping[str, Any] | None, asked: Asked
    ) -> Call:
        """In the link's thread."""
        name = tool if isinstance(tool, str) else self.own_tools.know(tool).name
        own = await self.own_tools.offer(name)
        if own is not None and asked.timeout is None and own.timeout_seconds is not None:
            asked = structs.replace(asked, timeout=own.timeout_seconds)
        return await make_call(self.link, name, arguments, asked)

    async def cancelling(self, target: str) -> list[str]:
        """In the link's thread."""
        return (await self.link.act("calls.cancel", {"target": target}))["ids"]

    # -- runs ---------------------------------------------------------------------------------------

    def new_run(
        self, intent: str | None, name: str | None, shared: bool, options: Mapping[str, Any]
    ) -> NewRun:
        """What a run of either face is made of."""
        surrounding = self._surrounding_run()
        said: dict[str, Any] = {"intent": intent, "name": name, "shared": shared, **self._said(options)}
        if surrounding is not None and said.get("parent") is None:
            said["parent"] = surrounding.id or None
        return self, Part(self.link, "runs.begin", said), options.get("on_error"), False, said

    def child_of(
        self, parent: Told, intent: str | None, name: str | None, options: Mapping[str, Any]
    ) -> NewRun:
        """For `child` of either face: it speaks for the same caller in the same channel."""
        parent.takes("child", name or intent, strict=True)
        names = ("agent", "caller", "session", "workspace", "channel")
        inherited = {name: parent.said.get(name) for name in names}
        said = {
            "intent": intent, "name": name, "shared": False, **self._said(inherited | {**options}),
            "parent": parent.id, "child": True,
        }  # fmt: skip
        on_error = options.get("on_error") or parent.on_error
        return self, Part(self.link, "runs.begin", said), on_error, False, said

    def joined(self, run_id: str) -> NewRun:
        """For `join` of either face."""
        return self, Part(self.link, "runs.join", {"run_id": run_id}), None, True, {}

    def named(self, name: str, intent: str | None, options: Mapping[str, Any]) -> NewRun:
        """For `named_run` of either face."""
        said = {"intent": intent, "name": name, "shared": True, **self._said(options)}
        return self, Part(self.link, "runs.named", said), options.get("on_error"), True, said

    def keep(self, run: Told) -> None:
        """So that it is gone on with over another connection."""
        self._runs.add(run)

    def _said(self, options: Mapping[str, Any]) -> dict[str, Any]:
        said = {name: value for name, value in options.items() if value is not None}
        for left_out in ("on_error", "owner_pid"):  # the first is ours, the second the daemon's
            said.pop(left_out, None)
        speaker = self._speaker
        around = {
            "agent": speaker.agent, "caller": speaker.caller, "session": speaker.session, "user": _user(),
            "host": socket.gethostname(),
        }  # fmt: skip
        said = {name: value for name, value in around.items() if value is not None} | said
        inputs = spoken(said.get("inputs"))
        return said | {"inputs": inputs.value, "marked": inputs.marked}

    def _surrounding_run(self) -> Told | None:
        run: Any = current_run.get()
        return run if isinstance(run, Told) and run.belongs_to(self) else None


class RemoteRuntime(Remote):
    """A runtime over a URL; see `Runtime`. Lives on one event loop; close it when you are done."""

    async def open(self) -> Self:
        """Raises StoreUnusable where nobody answers, Denied where the token is refused."""
        try:
            await self.link.work(self.opening()).over()
        except BaseException:
            self.link.end()
            raise
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def call(
        self,
        tool: str | Callable[..., Any],
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        level: str | None = None,
        sandbox: str | None = None,
        afterwards: str | None = None,
        dry_run: bool = False,
        run: Any = None,
        external_id: str | None = None,
        agent: str | None = None,
        caller: str | None = None,
        session: str | None = None,
        cwd: str | None = None,
        as_recorded: bool = False,
    ) -> Call:
        """Make a call; see `Runtime.call`. Raises NotRecorded also where the daemon cannot be reached, and
        OutcomeUnknown where the connection breaks before it answers."""
        asked = self.asked(
            run=run, timeout=timeout, level=level, sandbox=sandbox, afterwards=afterwards,
            dry_run=dry_run, external_id=external_id,
            agent=agent, caller=caller, session=session, cwd=cwd, as_recorded=as_recorded,
        )  # fmt: skip
        return await self.link.work(self.make(tool, arguments, asked)).over()

    def run(
        self,
        intent: str | None = None,
        *,
        name: str | None = None,
        shared: bool = False,
        **options: Unpack[RunOptions],
    ) -> RemoteRun:
        """A new run, begun by `async with`; see `Runtime.run`."""
        return RemoteRun(*self.new_run(intent, name, shared, options))

    async def join(self, run_id: str) -> RemoteRun:
        """Take part in a shared run; see `Runtime.join`."""
        run = RemoteRun(*self.joined(run_id))
        await self.link.work(run.part.begin()).over()
        return run

    async def named_run(
        self, name: str, intent: str | None = None, **options: Unpack[RunOptions]
    ) -> RemoteRun:
        """Join or begin the shared run of this name; see `Runtime.named_run`."""
        run = RemoteRun(*self.named(name, intent, options))
        await self.link.work(run.part.begin()).over()
        return run

    async def cancel(self, target: str) -> list[str]:
        """Ask a call or a run's calls to end; see `Runtime.cancel`."""
        return await self.link.work(self.cancelling(target)).over()

    async def close(self) -> None:
        """Tell what is queued, and end the connection. A second close does nothing."""
        if self.link.closed:
            return
        await self.link.work(self.closing()).over()
        await self.link.work(self.link.closing()).over()
        self.link.end()


def _flush(remote: "weakref.ref[Remote]") -> None:
    found = remote()
    if found is not None:
        found.flush_at_exit()


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name
        return str(os.getuid())
