"""What the peers of one runtime share: the runs they work on, who may come in, the bounds, the counters.

Owns nothing of a single connection; that is `peer`. Knows no door. Used by `serve`, methods and doors.
"""

import asyncio
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from custody.calls.runtime import Runtime
from custody.errors import UsageError
from custody.rpc.access import Access, Doorkeeper, OpenDoor
from custody.rpc.live import LiveRuns

if TYPE_CHECKING:
    from custody.rpc.agents import Agents
    from custody.skills import Shelf


class Limits(Struct, frozen=True, kw_only=True):
    """The bounds of every peer."""

    in_flight_max: int = 256
    """Requests that are worked on at once; an agent has a few, and each may hold a frame."""
    frame_bytes_max: int = 16 * 1024**2
    """Of one frame, either way: it is held whole."""
    outgoing_bytes_max: int = 8 * 1024**2
    """Of frames that wait because the peer is slow; whoever sends more waits for room."""
    send_seconds_max: float = 30.0
    """A peer that takes no frame for so long is gone in all but name."""
    requests_per_second: float = 2_000.0
    """Over time; a burst may be one second's at once."""
    auth_seconds: float = 10.0
    """A peer that has not said who it is by then is closed."""


class Counters:
    """What happened since the service began; only ever more."""

    def __init__(self) -> None:
        self.connections = 0
        self.frames_in = 0
        self.frames_out = 0
        self.requests: Counter[tuple[str, int]] = Counter()
        """By method (`unknown` for those there are not) and the code of the error; 0: a result."""
        self.notifications_dropped = 0
        self.callbacks = 0
        self.callbacks_answered = 0
        self.answers_ignored = 0
        """Late, twice, or to nothing that was asked."""
        self.peers_given_up = 0
        """They took nothing for too long."""


class Connected(Protocol):
    """A peer, as far as it is anybody else's."""

    door: str
    address: str
    connection: str
    access: Access
    agents: set[str]
    tasks: set[asyncio.Task[None]]

    def close(self, why: str) -> None:
        """End the connection."""
        ...


class Service:
    """One per runtime."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        doorkeeper: Doorkeeper | None = None,
        limits: Limits | None = None,
        live: LiveRuns | None = None,
        shelf: "Shelf | None" = None,
    ) -> None:
        """Without a doorkeeper anybody is an agent, without a shelf there are no skills. Raises UsageError
        where the runtime has a service."""
        if runtime in _services:
            raise UsageError("This runtime is served already.")
        self.runtime = runtime
        self.doorkeeper: Doorkeeper = doorkeeper or OpenDoor()
        self.limits = limits or Limits()
        self.shelf = shelf
        self.agents: Agents | None = None
        """Made when the first is asked for."""
        self.live = LiveRuns(runtime) if live is None else live
        self.peers: dict[str, Connected] = {}
        """By the id of their connection."""
        self.counters = Counters()
        self.draining = False
        """Whether requests are refused because the service is to end."""
        _services[runtime] = self
        runtime.closing.insert(0, self._forget)

    @property
    def under_way(self) -> int:
        """Requests being worked on."""
        return sum(len(peer.tasks) for peer in list(self.peers.values()))

    async def drain(self, seconds: float) -> bool:
        """Take no further requests and let those under way end; False where some had not by then."""
        self.draining = True
        under_way = [task for peer in self.peers.values() for task in peer.tasks]
        if not under_way:
            return True
        _, left = await asyncio.wait(under_way, timeout=seconds)
        return not left

    def close_peers(self, why: str) -> None:
        """End every connection; `serve_peer` of each returns once its work has been ended."""
        for peer in list(self.peers.values()):
            peer.close(why)

    def _forget(self) -> None:
        _services.pop(self.runtime, None)


_services: "weakref.WeakKeyDictionary[Runtime, Service]" = weakref.WeakKeyDictionary()
"""A service holds its runtime, so an entry goes when the runtime is closed."""


def service_of(runtime: Runtime) -> Service:
    """The runtime's service, made for anybody where there is none."""
    return _services.get(runtime) or Service(runtime)
