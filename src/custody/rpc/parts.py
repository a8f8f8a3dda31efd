"""The part that a client of Custody's own has in a run, whatever becomes of its connection.

Owns the keys by which such a client shows that a run is its own, and which connection speaks for a part. A
run itself is begun and ended by `live`, what is told in it is recorded by `telling`. Used by `methods.calls`.
"""

import asyncio
import secrets
import weakref
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from custody.calls.handle import RunHandle
from custody.calls.told import ToldCall
from custody.errors import InvalidInput, NotFound, NotRecorded, RunClosed
from custody.rpc.live import LEASE_SECONDS
from custody.rpc.live_run import LiveRun
from custody.rpc.part_ids import KEY_BYTES
from custody.rpc.peer import Peer
from custody.rpc.service import Service

PARTS_PER_CONNECTION_MAX = 1_024  # as many runs as a connection may have open

OPEN_CALLS_MAX = 4_096
"""Told calls of one part that have not ended: more are open only where somebody forgets to end them."""

AHEAD_MAX = 1_000_000
"""How far the number of what is told may be ahead of the one before. Numbers are left out only where a client
had to drop something; without a bound a client could look for a number whose id it likes."""

_FORGET_SECONDS = LEASE_SECONDS + 5.0
"""A part without a connection is kept for as long as its run may be."""


class Part:
    """One client's part in one run."""

    def __init__(self, key: str, agent: str | None, handle: RunHandle, live: LiveRun | None) -> None:
        self.id = secrets.token_hex(KEY_BYTES)
        self.key = key
        self.agent = agent
        self.handle = handle
        self.live = live
        """None: it takes part in a run that others begin and end, too."""
        self.connection: str | None = None
        self.newest = 0
        """Number of the last that was told; what comes again has one that is not higher."""
        self.finished = False
        """By its own client, who may ask again how that went."""
        self.open: dict[int, ToldCall] = {}
        self.telling = asyncio.Lock()

    @property
    def over(self) -> bool:
        return self.handle.outcome is not None if self.live is None else self.live.over

    def is_new(self, number: int) -> bool:
        """Whether what bears this number was not told before. Raises InvalidInput."""
        if number > self.newest + AHEAD_MAX:
            raise InvalidInput("The number is too far ahead.", field="n")
        if number <= self.newest:
            return False
        self.newest = number
        return True


class Parts:
    """All parts in the runs of one service."""

    def __init__(self, service: Service) -> None:
        self._live = service.live
        self._by_id: dict[str, Part] = {}
        self._by_key: dict[str, Part] = {}
        self._by_connection: dict[str, dict[str, Part]] = {}
        self.under_way: dict[tuple[str, str], asyncio.Task[Any]] = {}
        """Guarded calls by connection and the client's own key, to be cancelled by that."""
        service.live.departing.append(self._departed)

    async def take(
        self, peer: Peer, key: str, begin: Callable[[], Awaitable[tuple[RunHandle, LiveRun | None]]]
    ) -> Part:
        """The part under that key, made once however often it is asked for. Raises InvalidInput."""
        if len(key) != 2 * KEY_BYTES or not _is_hex(key):
            raise InvalidInput(f"key is {2 * KEY_BYTES} hexadecimal digits.", field="key")
        if len(self._by_connection.get(peer.connection, ())) >= PARTS_PER_CONNECTION_MAX:
            raise InvalidInput(
                f"The connection has part in {PARTS_PER_CONNECTION_MAX} runs; finish one first."
            )
        async with self._live.alone(("part", key)):
            known = self._by_key.get(key)
            if known is None:
                handle, live = await begin()
                known = Part(key, peer.agent, handle, live)
                self._by_id[known.id] = self._by_key[key] = known
            elif known.agent != peer.agent:
                raise no_part()
            self._attach(known, peer)
        return known

    def again(self, peer: Peer, key: str) -> Part:
        """The part that the client had over another connection. Raises NotFound, RunClosed."""
        part = self._by_key.get(key)
        if part is None or part.agent != peer.agent:
            raise no_part()
        if part.over and not part.finished:
            self.drop(part)
            raise RunClosed("The run has ended.", run_id=part.handle.id)
        self._attach(part, peer)
        return part

    def of(self, peer: Peer, part_id: str) -> Part:
        """Raises NotFound for what is not this connection's."""
        part = self._by_id.get(part_id)
        if part is None or part.connection != peer.connection:
            raise no_part()
        return part

    def in_run(self, peer: Peer, run_id: str) -> Part | None:
        """The connection's own part in a run that is open, by the run's id."""
        mine = self._by_connection.get(peer.connection, {}).values()
        return next((part for part in mine if part.handle.id == run_id and not part.over), None)

    def _attach(self, part: Part, peer: Peer) -> None:
        before, part.connection = part.connection, peer.connection
        if before == peer.connection:
            return
        self._by_connection.setdefault(peer.connection, {})[part.id] = part
        if before is not None:
            self._by_connection.get(before, {}).pop(part.id, None)
        if part.live is not None and not part.live.over:
            resumable = "runs.resume.v1" in peer.features
            self._live.attach(part.live, peer.connection, resumable)
            if before is not None:
                self._live.departed_from(part.live, before)

    def finish(self, part: Part) -> None:
        """Its client has ended the run; it is kept for as long as that may be asked again."""
        part.finished = True
        self._leave(part)
        asyncio.get_running_loop().call_later(_FORGET_SECONDS, self.drop, part)

    def _leave(self, part: Part) -> None:
        """It counts for its connection no more."""
        if part.connection is not None:
            self._by_connection.get(part.connection, {}).pop(part.id, None)

    def drop(self, part: Part) -> None:
        """Nothing more is told in it."""
        self._by_id.pop(part.id, None)
        self._by_key.pop(part.key, None)
        self._leave(part)
        if part.open:
            self._live.spawn(_abandon(part))

    def _departed(self, connection: str) -> None:
        left: Sequence[Part] = tuple(self._by_connection.pop(connection, {}).values())
        for part in left:
            part.connection = None
        if left:
            asyncio.get_running_loop().call_later(_FORGET_SECONDS, self._forget, left)

    def _forget(self, parts: Sequence[Part]) -> None:
        for part in parts:
            if part.connection is None:
                self.drop(part)


async def _abandon(part: Part) -> None:
    """What its client began and cannot end any more."""

    def abandon(calls: Sequence[ToldCall]) -> None:
        for call in calls:
            with suppress(NotRecorded):
                call.abandon()

    async with part.telling:
        calls = list(part.open.values())
        part.open.clear()
        await asyncio.to_thread(abandon, calls)


_parts: "weakref.WeakKeyDictionary[Service, Parts]" = weakref.WeakKeyDictionary()


def parts_of(service: Service) -> Parts:
    """Those of a service, made when they are first asked for."""
    parts = _parts.get(service)
    if parts is None:
        parts = _parts[service] = Parts(service)
    return parts


def no_part() -> NotFound:
    """The same words for one that is not there and for one of somebody else."""
    return NotFound("This run is not open here: it has ended, or the daemon was started again.")


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdef" for character in text)
