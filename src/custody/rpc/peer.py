"""A peer: one connection, whom it speaks for, and what it is asked and told.

Owns its identity, the requests it has been sent and not answered, and the tools it runs itself. What one
connection keeps for itself is `session`; reading its frames and working on its requests is `serve`. Used by
every method.
"""

import asyncio
from typing import Any

import msgspec
from msgspec import Struct

from custody.calls.guards import Guard, Proposal
from custody.errors import PeerLost
from custody.records import Decision
from custody.rpc import jsonrpc
from custody.rpc.access import NOT_YET, Access
from custody.rpc.deadlines import Deadlines
from custody.rpc.description import Table
from custody.rpc.errors import remote_error
from custody.rpc.live import LiveRun
from custody.rpc.outgoing import Outgoing, Send
from custody.rpc.service import Service
from custody.rpc.session import Session
from custody.tools import Origin, Registry

CONNECTION_ID_BYTES = 8


class Expected(Struct, frozen=True):
    """An answer the peer owes."""

    id: str
    answer: asyncio.Future[Any]
    """Its result as it came; fails with RemoteError or PeerLost."""


class Peer:
    """One connection. A door makes it and hands it to `serve_peer`."""

    service: Service
    connection: str
    """16 hex digits."""
    table: Table
    """What it may ask."""
    tools: Registry
    """Those it runs itself, over the runtime's."""

    def __init__(self, *, door: str, address: str = "", access: Access = NOT_YET) -> None:
        self.door = door
        self.address = address
        self.access = access
        self.wire = 2
        """Version of the protocol; 2 until another is negotiated."""
        self.features: frozenset[str] = frozenset()
        """What was negotiated beside it."""
        self.session = Session()
        self.run: LiveRun | None = None
        """The run its calls belong to."""
        self.claimed: str | None = None
        """The agent it said to be when it came, where its token binds none."""
        self.agents: set[str] = set()
        """Ids of the agents it speaks for."""
        self.closing = asyncio.Event()
        """Set once it is to end."""
        self.gone = asyncio.Event()
        """Set once it is over."""
        self.why: str | None = None
        """Why it is over, or about to be."""
        self.tasks: set[asyncio.Task[None]] = set()
        """What is worked on for it."""
        self.deadlines = Deadlines()
        """Of what is worked on for it, and of what it is asked."""
        self.frames_in = 0
        self.requests_taken = 0
        self._expected: dict[str, asyncio.Future[Any]] = {}
        self._minted = 0

    def join(self, service: Service, table: Table, send: Send) -> None:
        """From here on it can be talked to. `serve_peer` does this."""
        limits = service.limits
        self.service = service
        self.table = table
        self.connection = service.runtime.ledger.recorder.ids.take(CONNECTION_ID_BYTES).hex()
        self.tools = Registry(over=service.runtime.tools)
        self.agents.update(filter(None, [self.access.agent]))
        self.outgoing = Outgoing(
            send,
            self._given_up,
            bytes_max=limits.outgoing_bytes_max,
            seconds_max=limits.send_seconds_max,
        )

    @property
    def agent(self) -> str | None:
        """The agent it is bound to: by its token, else by what it said when it came."""
        return self.access.agent or self.claimed

    @property
    def owed(self) -> int:
        """How many answers it owes."""
        return len(self._expected)

    # -- to the peer ----------------------------------------------------------------------------------

    async def send(self, text: str) -> None:
        """One frame; waits while the peer is slow. Raises PeerLost."""
        await self.outgoing.send(text)
        self.service.counters.frames_out += 1

    async def notify(self, method: str, params: Any) -> None:
        """Tell the peer something; waits while it is slow. Raises PeerLost."""
        await self.send(jsonrpc.notification(method, params))

    async def request(self, method: str, params: Any, *, timeout_seconds: float | None = None) -> Any:
        """Ask the peer; returns its result as it came. Raises RemoteError, PeerLost, TimeoutError."""
        expected = self.expect()
        try:
            with self.deadlines.within(timeout_seconds):
                await self.send(jsonrpc.request(expected.id, method, params))
                return await expected.answer
        finally:
            self.forget(expected)

    def expect(self) -> Expected:
        """Mint the id of a request that is about to be sent. Raises PeerLost."""
        if self.gone.is_set():
            raise PeerLost()
        self._minted += 1
        identity = f"cb-{self._minted}"
        answer = self._expected[identity] = asyncio.get_running_loop().create_future()
        self.service.counters.callbacks += 1
        return Expected(identity, answer)

    def forget(self, expected: Expected) -> None:
        """Nobody waits for the answer any more; one that comes is ignored."""
        self._expected.pop(expected.id, None)
        if expected.answer.done() and not expected.answer.cancelled():
            expected.answer.exception()  # so that nobody is told that nobody looked

    def answered(self, response: jsonrpc.Response) -> bool:
        """An answer came. One that nobody waits for, or that comes twice, is counted and ignored: False."""
        identity: Any = response.id
        answer = self._expected.pop(identity, None) if isinstance(identity, str) else None
        if answer is None or answer.done():
            self.service.counters.answers_ignored += 1
            return False
        self.service.counters.callbacks_answered += 1
        if response.error is not None:
            answer.set_exception(remote_error(response.error))
            return True
        try:
            answer.set_result(msgspec.json.decode(response.result))
        except (msgspec.DecodeError, RecursionError) as error:  # JSON, but a number that nothing can hold
            said = {"code": jsonrpc.PARSE_ERROR, "message": f"its answer cannot be read: {error}"}
            answer.set_exception(remote_error(said))
        return True

    # -- its calls --------------------------------------------------------------------------------------

    def origin(
        self,
        *,
        proposal_id: str | None = None,
        action_id: str | None = None,
        attempt: int | None = None,
        policy_session: str | None = None,
        tenant: str | None = None,
    ) -> Origin:
        """Where a call of this peer comes from, with its tools and what narrows what it may do.

        Raises NotFound for an unknown policy session, InvalidInput for one tenant too many.
        """
        guards = self.session.guards(policy_session, tenant)
        if self.access.tools is not None:
            guards = (_only(self.access.tools), *guards)
        return Origin(
            door=self.door,
            connection=self.connection,
            proposal_id=proposal_id,
            action_id=action_id,
            attempt=attempt,
            tools=self.tools,
            guards=guards,
            state=self.session.state(tenant).contents,
            policy_session=policy_session,
            told={},
        )

    # -- the end ------------------------------------------------------------------------------------------

    def close(self, why: str) -> None:
        """End the connection; `serve_peer` returns once what is worked on for it has been ended."""
        if not self.closing.is_set():
            self.why = why
            self.closing.set()

    def end(self) -> None:
        """It is over: whoever waits for the peer hears so."""
        self.gone.set()
        self.outgoing.end()
        expected, self._expected = self._expected, {}
        for answer in expected.values():
            if not answer.done():
                answer.set_exception(PeerLost())

    def _given_up(self, why: str) -> None:
        self.service.counters.peers_given_up += 1
        self.close(why)


def _only(tools: frozenset[str]) -> Guard:
    def allowed_by_token(proposal: Proposal) -> Decision | None:
        if proposal.name in tools:
            return None
        return Decision("deny", "rule", "Its token does not allow this tool.", rule="token")

    return allowed_by_token
