"""`server.*` and `capabilities.list`: what this daemon speaks and offers, and how it stands."""

from msgspec import UNSET, Raw, Struct, UnsetType

from custody import __version__
from custody.rpc import jsonrpc
from custody.rpc.description import Capability
from custody.rpc.errors import RpcError
from custody.rpc.method import NoParams, method
from custody.rpc.peer import Peer

WIRE_VERSIONS = (2, 3)

FEATURES = frozenset({"runs.cancel.v1", "runs.pagination.v1", "runs.resume.v1"})


class HandshakeParams(Struct, frozen=True):
    protocol_version: int
    client_version: str | None = None
    required_capabilities: list[str] | None = None
    optional_capabilities: list[str] | None = None


class HandshakeResult(Struct, frozen=True):
    protocol_version: int
    server_version: str
    client_protocol_version: int
    negotiated_capabilities: list[str]


@method("server.handshake", before_auth=True)
async def server_handshake(peer: Peer, params: HandshakeParams) -> HandshakeResult:
    """Agree on the version of the protocol and on what is used beside it."""
    version = params.protocol_version
    if version not in WIRE_VERSIONS:
        problem = f"protocol version mismatch: {version} is not spoken here"
        raise RpcError(jsonrpc.VERSION, problem, {"supported": list(WIRE_VERSIONS)})
    required = set(params.required_capabilities or ())
    if missing := sorted(required - FEATURES):
        problem = f"capability mismatch: {', '.join(missing)}"
        raise RpcError(jsonrpc.CAPABILITY, problem, {"missing": missing})
    peer.wire = version
    peer.features = FEATURES & (required | set(params.optional_capabilities or ()))
    return HandshakeResult(version, __version__, version, sorted(peer.features))


class SchemaResult(Struct, frozen=True):
    schema: Raw
    """JSON Schema of the params and result of every method."""
    digest: str
    """Of the bytes of `schema` as they stand in the answer."""
    digest_algorithm: str
    version: str
    """Of Custody; outside the digest, so that the same wire has the same digest."""


@method("server.schema", before_auth=True)
async def server_schema(peer: Peer, params: NoParams) -> SchemaResult:
    """The JSON Schema of every method, and its digest."""
    del params
    table = peer.table
    return SchemaResult(Raw(table.schema), table.schema_digest, "sha256", __version__)


class CapabilitiesResult(Struct, frozen=True):
    caller_role: str
    count: int
    methods: list[Capability]


@method("capabilities.list")
async def capabilities_list(peer: Peer, params: NoParams) -> CapabilitiesResult:
    """The methods that the caller may ask, and who else may."""
    del params
    methods = peer.table.open_to(peer.access)
    return CapabilitiesResult(peer.access.role or "nobody", len(methods), methods)


class Standing(Struct, frozen=True):
    """How the daemon stands."""

    connections: int
    connections_total: int
    in_flight: int
    requests_total: int
    frames_in_total: int
    frames_out_total: int
    callbacks_total: int
    callbacks_answered_total: int
    answers_ignored_total: int
    notifications_dropped_total: int
    peers_given_up_total: int


class InfoResult(Struct, frozen=True, omit_defaults=True):
    version: str
    wire_versions: tuple[int, ...]
    features: list[str]
    connection: str
    door: str
    role: str
    agents: list[str]
    wire: int
    standing: Standing | UnsetType = UNSET
    """For operators and hosts."""


@method("server.info")
async def server_info(peer: Peer, params: NoParams) -> InfoResult:
    """Version, what was negotiated, who the caller is, and for operators how the daemon stands."""
    del params
    role = peer.access.role or "nobody"
    return InfoResult(
        version=__version__,
        wire_versions=WIRE_VERSIONS,
        features=sorted(peer.features),
        connection=peer.connection,
        door=peer.door,
        role=role,
        agents=sorted(peer.agents),
        wire=peer.wire,
        standing=_standing(peer) if role in ("operator", "host") else UNSET,
    )


def _standing(peer: Peer) -> Standing:
    service = peer.service
    counters = service.counters
    return Standing(
        connections=len(service.peers),
        connections_total=counters.connections,
        in_flight=sum(len(other.tasks) for other in service.peers.values()),
        requests_total=counters.requests.total(),
        frames_in_total=counters.frames_in,
        frames_out_total=counters.frames_out,
        callbacks_total=counters.callbacks,
        callbacks_answered_total=counters.callbacks_answered,
        answers_ignored_total=counters.answers_ignored,
        notifications_dropped_total=counters.notifications_dropped,
        peers_given_up_total=counters.peers_given_up,
    )


METHODS = (server_handshake, server_schema, capabilities_list, server_info)
