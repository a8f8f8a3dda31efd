"""`session.*`: who a peer is, and the state of its connection. Policy sessions are `policy`'s."""

from msgspec import UNSET, Struct, UnsetType

from custody.rpc import jsonrpc
from custody.rpc.access import Role
from custody.rpc.definitions import ToolDefinition
from custody.rpc.errors import RpcError, invalid_params
from custody.rpc.identity import AGENTS_MAX, NAME_CHARACTERS_MAX
from custody.rpc.method import ACTING, NoParams, method
from custody.rpc.methods.policy import PolicyRegisterParams
from custody.rpc.methods.policy import register as register_policy
from custody.rpc.methods.tools import register as register_tools
from custody.rpc.peer import Peer


class AuthParams(Struct, frozen=True):
    token: str | None = None
    host_token: str | None = None
    agent_id: str | None = None
    memory_namespace: str | None = None


class AuthResult(Struct, frozen=True, omit_defaults=True):
    ok: bool
    auth_enabled: bool
    role: Role
    agent_id: str | UnsetType = UNSET
    method_allowlist: list[str] | UnsetType = UNSET
    memory_namespace: str | UnsetType = UNSET


@method("session.auth", before_auth=True)
async def session_auth(peer: Peer, params: AuthParams) -> AuthResult:
    """Say who you are, by a token: the first frame wherever tokens are asked for."""
    doorkeeper = peer.service.doorkeeper
    if params.host_token is not None:
        access = doorkeeper.admit_host(params.host_token)
    else:
        access = doorkeeper.admit(params.token or "")
    if access is None:
        raise RpcError(jsonrpc.INTERNAL, "auth failed: token mismatch")
    agent = _agent(params.agent_id)
    bound = access.agent or peer.access.agent
    if agent is not None and bound is not None and agent != bound:
        raise RpcError(jsonrpc.INTERNAL, "auth failed: the token is another agent's")
    _speak_for(peer, agent or bound)
    peer.access = access
    peer.claimed = agent or bound or peer.claimed
    return AuthResult(
        ok=True,
        auth_enabled=doorkeeper.auth_enabled,
        role=access.role or "agent",
        agent_id=peer.agent or UNSET,
        method_allowlist=UNSET if access.methods is None else sorted(access.methods),
        memory_namespace=params.memory_namespace or UNSET,
    )


def _speak_for(peer: Peer, agent: str | None) -> None:
    if agent is None or agent in peer.agents:
        return
    if len(peer.agents) >= AGENTS_MAX:
        raise invalid_params(f"one connection speaks for at most {AGENTS_MAX} agents", "agent_id")
    peer.agents.add(agent)


def _agent(agent_id: str | None) -> str | None:
    if agent_id is not None and len(agent_id) > NAME_CHARACTERS_MAX:
        raise invalid_params(f"agent_id is longer than {NAME_CHARACTERS_MAX} characters", "agent_id")
    return agent_id or None


class InitParams(Struct, frozen=True):
    client_id: str
    tools: list[ToolDefinition] | None = None
    policies: list[PolicyRegisterParams] | None = None


class InitResult(Struct, frozen=True):
    session_id: str
    """Of the connection."""
    tools_registered: int
    policies_registered: int


@method("session.init", roles=ACTING)
async def session_init(peer: Peer, params: InitParams) -> InitResult:
    """Register tools and policies in one request; everything else works without it."""
    if not 0 < len(params.client_id) <= NAME_CHARACTERS_MAX:
        raise invalid_params(f"client_id has 1 to {NAME_CHARACTERS_MAX} characters", "client_id")
    policies, tools = params.policies or (), params.tools or ()
    for policy in policies:  # first: no tool may be called before what narrows it is in force
        await register_policy(peer, policy)
    registered = await register_tools(peer, tools) if tools else 0
    return InitResult(peer.connection, registered, len(policies))


class ClearHaltResult(Struct, frozen=True):
    cleared: bool
    halted: bool


@method("session.clear_halt", roles=("host", "operator"))
async def session_clear_halt(peer: Peer, params: NoParams) -> ClearHaltResult:
    """Take proposals again after a tool said that its failure is final."""
    del params
    was, peer.session.halted = peer.session.halted, False
    return ClearHaltResult(cleared=was, halted=False)


METHODS = (session_auth, session_init, session_clear_halt)
