"""Serving a peer: read its frames, work on each request in a task of its own, answer, and end it in order.

Owns who is let through to a method, the bounds on what a peer may have under way, and what becomes of that
when the peer goes. Knows no socket: a door gives two coroutines, `paired` makes the same in memory. Used by
the doors, and by whoever embeds Custody behind a transport of their own.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any

import msgspec

from custody.calls.runtime import Runtime
from custody.errors import CustodyError, PeerLost
from custody.rpc import jsonrpc
from custody.rpc.access import ANYBODY
from custody.rpc.description import Table
from custody.rpc.errors import RpcError, invalid_params, wire_error
from custody.rpc.method import Method
from custody.rpc.outgoing import Send
from custody.rpc.peer import Peer
from custody.rpc.service import Service, service_of
from custody.rpc.table import TABLE

Receive = Callable[[], Awaitable[str | None]]

Take = Callable[[str], bool]
"""Takes a frame now, or says that it has to come through `receive`."""

Rest = Callable[[], Awaitable[None]]
"""What is left to do of a frame before the next one is taken."""

log = logging.getLogger("custody")

END_SECONDS = 30.0
"""How long what is worked on for a peer that is gone may take to end, its records included; each call has
bounds of its own, so this only says when to stop waiting for one that has none."""

FLOOD_SECONDS = 0.001
"""How long nothing more is read from a peer that asks too much, for each frame that was refused."""

WORDS_CHARACTERS_MAX = 200
"""Of what a peer sent, where an error repeats it."""


async def serve_peer(
    receive: Receive,
    send: Send,
    peer: Peer,
    runtime: Runtime,
    *,
    table: Table = TABLE,
    at_once: Callable[[Take], None] | None = None,
) -> None:
    """Serve one connection; returns when the peer is gone and all its work has been ended and recorded.

    `receive` gives one text frame, and None at the end; `send` takes one and waits while the peer is slow. A
    `send` whose wait is cancelled has handed its frame over whole, or not at all. Whatever either raises ends
    the connection. Afterwards `peer.why` says why. `table` is what the peer may ask.

    `at_once` is for a door that hears of each frame in a callback of the loop: it is told a function to which
    a frame with none before it can be offered there, which saves the turns of the loop to the reader.
    """
    service = service_of(runtime)
    peer.join(service, table, send)
    if not service.doorkeeper.auth_enabled and peer.access.role is None:
        peer.access = ANYBODY
    serving = _Serving(receive, peer, service)
    if at_once is not None:
        at_once(serving.take)
    await serving.until_gone()


class _Serving:
    """One peer being served."""

    def __init__(self, receive: Receive, peer: Peer, service: Service) -> None:
        self._receive = receive
        self._peer = peer
        self._service = service
        self._limits = service.limits
        self._in_flight: set[bytes] = set()
        """Ids of requests without an answer."""
        self._tokens = max(service.limits.requests_per_second, 1.0)
        self._refilled = time.monotonic()
        self._introduced = False
        self._listening = False
        """Whether the reader waits for a frame."""
        self._rest: asyncio.Task[None] | None = None
        """Of the last frame that was taken without the reader."""

    # -- from beginning to end ------------------------------------------------------------------------

    async def until_gone(self) -> None:
        peer, service = self._peer, self._service
        service.counters.connections += 1
        service.peers[peer.connection] = peer
        reading = asyncio.create_task(self._read())
        too_late = self._waits_for_auth()
        try:
            await peer.closing.wait()
        finally:
            peer.close("whoever served it was stopped")
            if too_late is not None:
                too_late.cancel()
            peer.end()
            reading.cancel()
            await self._end_work(reading)
            peer.deadlines.close()
            service.live.departed(peer.connection)
            del service.peers[peer.connection]
            await self._take_leave()

    async def _end_work(self, reading: asyncio.Task[None]) -> None:
        """Each call under way is ended and recorded before its handler hears of it."""
        for task in self._peer.tasks:
            task.cancel()
        _, left = await asyncio.wait({reading, *self._peer.tasks}, timeout=END_SECONDS)
        if left:
            log.error("%d requests of a peer that is gone have not ended; they are left behind.", len(left))

    def _waits_for_auth(self) -> asyncio.TimerHandle | None:
        peer, seconds = self._peer, self._limits.auth_seconds
        if peer.access.role is not None:
            return None

        def look() -> None:
            if peer.access.role is None:
                peer.close(f"it did not say who it is within {seconds:g} s")

        return asyncio.get_running_loop().call_later(seconds, look)

    # -- frames ---------------------------------------------------------------------------------------

    async def _read(self) -> None:
        peer = self._peer
        while not peer.closing.is_set():
            self._listening = True
            try:
                text = await self._receive()
            except Exception as error:  # each kind of stream has errors of its own
                peer.close(f"nothing could be read: {type(error).__name__}")
                return
            finally:
                self._listening = False
            if text is None:
                peer.close("the peer closed the connection")
                return
            if self._rest is not None:
                await asyncio.wait({self._rest})
            rest = self._take(text)
            if rest is not None:
                await self._finish(rest)

    def take(self, text: str) -> bool:
        """Take a frame for the reader, while it waits and nothing is left to do of the one before."""
        if not self._listening or self._peer.closing.is_set():
            return False
        if self._rest is not None and not self._rest.done():
            return False
        rest = self._take(text)
        self._rest = None if rest is None else self._begin(self._finish(rest))
        return True

    def _take(self, text: str) -> Rest | None:
        """Begin what a frame asks for. Never raises."""
        self._peer.frames_in += 1
        self._service.counters.frames_in += 1
        try:
            frame = self._parse(text)
            if isinstance(frame, jsonrpc.Response):
                return None if self._peer.answered(frame) else self._pace
            if isinstance(frame, jsonrpc.Request):
                return self._take_request(frame)
            if isinstance(frame, jsonrpc.Notification):
                return self._take_notification(frame)
            return partial(self._refuse_malformed, frame)
        except Exception as error:
            self._peer.close(wire_error(error, self._clean)[1])
            return None

    async def _finish(self, rest: Rest) -> None:
        try:
            await rest()
        except PeerLost:
            self._peer.close("the peer is gone")
        except Exception as error:
            self._peer.close(wire_error(error, self._clean)[1])

    def _parse(self, text: str) -> jsonrpc.Frame:
        most = self._limits.frame_bytes_max
        if len(text) <= most:
            return jsonrpc.parse(text)
        return jsonrpc.Malformed(
            b"null", jsonrpc.INVALID_REQUEST, f"invalid request: a frame of more than {most} bytes"
        )

    async def _pace(self) -> None:
        """A frame that is no work counts as a request; beyond its rate, a peer's frames are read slowly, so
        that a flood of them costs the others nothing."""
        if not self._has_token():
            await asyncio.sleep(FLOOD_SECONDS)

    def _take_request(self, request: jsonrpc.Request) -> Rest | None:
        method = self._peer.table.get(request.method)
        try:
            method = self._let_through(method, request.method, request.id)
            params = _params(method, request.params)
        except RpcError as error:
            self._count(method, error.code)
            return partial(self._refuse_request, request.id, error)
        self._in_flight.add(request.id)
        self._peer.requests_taken += 1
        if method.before_auth:
            return partial(self._work_first, request.id, method, params)
        if not self._introduced:
            return partial(self._introduce_and_begin, request.id, method, params)
        self._begin(self._work(request.id, method, params))
        return None

    def _take_notification(self, told: jsonrpc.Notification) -> Rest | None:
        """Nobody waits for an answer, so one that is not let through is only counted."""
        method = self._peer.table.get(told.method)
        try:
            method = self._let_through(method, told.method, None)
            params = _params(method, told.params)
        except RpcError as error:
            self._service.counters.notifications_dropped += 1
            return partial(self._after_refusal, error)
        if not self._introduced:
            return partial(self._introduce_and_begin, None, method, params)
        self._begin(self._work(None, method, params))
        return None

    async def _work_first(self, identity: bytes, method: Method, params: Any) -> None:
        """What follows it may depend on it."""
        await self._work(identity, method, params)
        await self._introduce()

    async def _introduce_and_begin(self, identity: bytes | None, method: Method, params: Any) -> None:
        await self._introduce()
        self._begin(self._work(identity, method, params))

    async def _refuse_malformed(self, frame: jsonrpc.Malformed) -> None:
        await self._refuse(frame.id, frame.code, frame.message)
        await self._pace()

    async def _refuse_request(self, identity: bytes, error: RpcError) -> None:
        await self._refuse(identity, error.code, error.message, error.data)
        await self._after_refusal(error)

    async def _after_refusal(self, error: RpcError) -> None:
        if error.code == jsonrpc.AUTH_REQUIRED:
            self._peer.close("it has not said who it is")
        elif error.code == jsonrpc.BUSY:
            await asyncio.sleep(FLOOD_SECONDS)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """In a context of its own: the run that one request enters is not the next one's."""
        tasks = self._peer.tasks
        task = asyncio.get_running_loop().create_task(work, context=Context())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    # -- who is let through -----------------------------------------------------------------------------

    def _let_through(self, method: Method | None, name: str, identity: bytes | None) -> Method:
        """The method, if this peer may ask it now. Raises RpcError."""
        access = self._peer.access
        if access.role is None and not (method is not None and method.before_auth):
            raise RpcError(jsonrpc.AUTH_REQUIRED, "auth required: the first frame is `session.auth`")
        if not self._has_token():
            most = self._limits.requests_per_second
            raise RpcError(jsonrpc.BUSY, f"busy: more than {most:g} requests a second")
        if identity in self._in_flight:
            raise RpcError(jsonrpc.INVALID_REQUEST, "invalid request: a request with this id is under way")
        if self._service.draining:
            raise RpcError(jsonrpc.BUSY, "busy: the server is stopping")
        if len(self._peer.tasks) >= self._limits.in_flight_max:
            raise RpcError(jsonrpc.BUSY, f"busy: {self._limits.in_flight_max} requests are under way")
        if method is None:
            raise RpcError(jsonrpc.METHOD_NOT_FOUND, f"unknown method: {name[:WORDS_CHARACTERS_MAX]}")
        if method.before_auth:
            return method
        if access.methods is not None and name not in access.methods:
            raise RpcError(jsonrpc.METHOD_NOT_FOUND, f"agent_method_not_allowed: {name}")
        if access.role not in method.roles:
            raise RpcError(jsonrpc.DENIED, f"denied: {name} is for {' and '.join(method.roles)}")
        return method

    def _has_token(self) -> bool:
        rate, now = self._limits.requests_per_second, time.monotonic()
        self._tokens = min(max(rate, 1.0), self._tokens + (now - self._refilled) * rate)
        self._refilled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    # -- work and answers -------------------------------------------------------------------------------

    async def _work(self, identity: bytes | None, method: Method, params: Any) -> None:
        code, answer = await self._answer(identity or b"null", method, params)
        self._count(method, code)
        if identity is None:
            return
        self._in_flight.discard(identity)  # first: whoever has the answer may use the id again
        with suppress(PeerLost):
            await self._peer.send(answer)

    async def _answer(self, identity: bytes, method: Method, params: Any) -> tuple[int, str]:
        """The code, 0 for a result, and the frame. Raises only where the work itself is to end."""
        limit = self._peer.deadlines.within(method.deadline_seconds(params))
        failed: BaseException
        try:
            with limit:
                result = await method.handle(self._peer, params)
            return 0, self._whole(jsonrpc.success(identity, result))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            failed = error  # of something it waited for
        except TimeoutError as error:
            failed = _given_up(method) if limit.expired else error
        except Exception as error:
            failed = error
        code, message, data = wire_error(failed, self._clean)
        return code, jsonrpc.failure(identity, code, message, data)

    def _whole(self, answer: str) -> str:
        if len(answer) > self._limits.frame_bytes_max:
            most = self._limits.frame_bytes_max
            raise RpcError(jsonrpc.INTERNAL, f"the answer is longer than a frame may be ({most} bytes)")
        return answer

    async def _refuse(self, identity: bytes, code: int, message: str, data: Any = None) -> None:
        """The reader itself waits until the refusal is sent, so a flood of frames waits too."""
        await self._peer.send(jsonrpc.failure(identity, code, self._clean(message), data))

    def _clean(self, text: str) -> str:
        return self._service.runtime.ledger.recorder.clean_text(text, "error")[0]

    def _count(self, method: Method | None, code: int) -> None:
        self._service.counters.requests["unknown" if method is None else method.name, code] += 1

    # -- on the record ----------------------------------------------------------------------------------

    async def _introduce(self) -> None:
        """On the record once it has been let through: what knocks and goes is nobody's business."""
        if self._introduced or self._peer.access.role is None:
            return
        self._introduced = True
        access = self._peer.access
        await self._record("peer.connected", {"role": access.role, "token_name": access.name})

    async def _take_leave(self) -> None:
        peer = self._peer
        if self._introduced:
            said = {"why": peer.why, "frames": peer.frames_in, "requests": peer.requests_taken}
            await self._record("peer.disconnected", said)

    async def _record(self, name: str, data: dict[str, Any]) -> None:
        """A store that is full keeps nobody from reading it: each act has a record of its own. A peer may
        outlast its runtime."""
        peer, ledger = self._peer, self._service.runtime.ledger
        said = {
            "connection": peer.connection,
            "door": peer.door,
            "address": peer.address,
            "agents": sorted({*peer.agents, *filter(None, [peer.agent])}),
            "wire": peer.wire,
            **data,
        }
        try:
            await ledger.append(ledger.recorder.draft_event(name, said))
        except (CustodyError, RuntimeError) as error:
            log.warning("%s could not be recorded: %s", name, error)


def _params(method: Method, params: bytes) -> Any:
    try:
        return method.read(params)
    except msgspec.ValidationError as error:
        raise _named(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_params(str(error)) from None


def _named(error: msgspec.ValidationError) -> RpcError:
    """`Expected `str`, got `int` - at `$.agent_id`` with the field told apart."""
    problem, _, place = str(error).partition(" - at ")
    field = place.strip("`").removeprefix("$").lstrip(".")
    if "missing required field" in problem:
        missing = problem.split("`")[1]
        field = f"{field}.{missing}" if field else missing
        return invalid_params(f"{field} is missing", field)
    return invalid_params(f"{field}: {problem}" if field else problem, field or None)


def _given_up(method: Method) -> RpcError:
    return RpcError(
        jsonrpc.DEADLINE,
        f"{method.name} was given up at its deadline; what it did so far stands",
        {"method": method.name},
    )


# -- in memory ----------------------------------------------------------------------------------------

BUFFER_CHARACTERS = 64 * 1024
"""What one end may send before the other reads: as much as a socket's buffers hold."""


class End:
    """One end of a connection in memory."""

    def __init__(self) -> None:
        self._frames: deque[str] = deque()
        self._characters = 0
        self._changed = asyncio.Event()
        self._closed = False
        self._take: Take | None = None
        self.other: End = self

    def offer_to(self, take: Take) -> None:
        """From here on a frame that none waits before is offered to `take` first."""
        self._take = take

    async def receive(self) -> str | None:
        """The next frame; None once the other end is closed and all is read, or this one is."""
        while not self._frames:
            if self._closed:
                return None
            await self._wait()
        text = self._frames.popleft()
        self._characters -= len(text)
        self._wake()
        return text

    async def send(self, text: str) -> None:
        """Waits while the other end does not read. Raises ConnectionResetError once either is closed."""
        there = self.other
        while there._characters >= BUFFER_CHARACTERS and not there._closed:
            await there._wait()
        if there._closed:
            raise ConnectionResetError("the other end is closed")
        if there._frames or there._take is None or not there._take(text):
            there._frames.append(text)
            there._characters += len(text)
            there._wake()

    def close(self) -> None:
        """Both ends are over; what was sent can still be read."""
        for end in (self, self.other):
            end._closed = True
            end._wake()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()


def paired() -> tuple[End, End]:
    """Two ends of a connection in memory: what one sends, the other receives."""
    ours, theirs = End(), End()
    ours.other, theirs.other = theirs, ours
    return ours, theirs
