"""`policy.*` and `session.policy.*`: a peer narrows what it may do itself.

Owns their shapes on the wire. What a rule means is `policies`; here each that comes or goes is put on the
record, with its whole text, before it counts.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from custody.rpc.events import current_run, record_event
from custody.rpc.method import ACTING, method
from custody.rpc.peer import Peer
from custody.rpc.policies import Policy, RuleKind

Name = Annotated[str, Meta(min_length=1, max_length=4_096)]


class PolicyRegisterParams(Struct, frozen=True, kw_only=True):
    """One rule. `deny_tool` needs a target; `deny_tool_param` a target, a key and a pattern; `require_state`
    a key and a value."""

    name: Name
    rule: RuleKind
    target: str | None = None
    key: str | None = None
    pattern: str | None = None
    value: Any = msgspec.UNSET
    session_id: str | None = None


class PolicySession(Struct, frozen=True, kw_only=True):
    """The policy session a rule belongs to."""

    session_id: str


PolicyScope = Literal["global"] | PolicySession


class PolicyRegistered(Struct, frozen=True, kw_only=True):
    """A rule is in force."""

    registered: str
    name: str
    scope: PolicyScope


class PolicyUnregisterParams(Struct, frozen=True, kw_only=True):
    """Which rules to take away."""

    name: Name
    session_id: str | None = None


class PolicyUnregistered(Struct, frozen=True, kw_only=True):
    """How many rules of that name there were."""

    unregistered: str
    removed: int
    scope: PolicyScope


class PolicyListParams(Struct, frozen=True, kw_only=True):
    """Which scope to list."""

    session_id: str | None = None


class PolicyDescribed(Struct, frozen=True, kw_only=True):
    """A rule in words."""

    name: str
    description: str


class PolicyListed(Struct, frozen=True, kw_only=True):
    """The rules of one scope, in the order they came."""

    policies: list[PolicyDescribed]
    scope: PolicyScope


class PolicyOpenParams(Struct, frozen=True, kw_only=True):
    """Nothing."""


class PolicyOpened(Struct, frozen=True, kw_only=True):
    """A policy session: rules may be registered in it, and proposals submitted under it."""

    session_id: str


class PolicyCloseParams(Struct, frozen=True, kw_only=True):
    """Which policy session to close."""

    session_id: str


class PolicyClosed(Struct, frozen=True, kw_only=True):
    """Whether there was such a session."""

    closed: bool


def _scope(session_id: str | None) -> PolicyScope:
    return "global" if session_id is None else PolicySession(session_id=session_id)


async def register(peer: Peer, params: PolicyRegisterParams) -> PolicyRegistered:
    """Put a rule in force and on the record. Raises InvalidInput, NotFound, NotRecorded."""
    policy = Policy(
        name=params.name,
        rule=params.rule,
        target=params.target,
        key=params.key,
        pattern=params.pattern,
        value=params.value,
    )
    peer.session.policies.add(policy, params.session_id)  # a narrowing that is not recorded harms nobody
    said: dict[str, Any] = msgspec.to_builtins(params)
    await record_event(peer, "policy.registered", said, run=current_run(peer), leaf_data=True)
    return PolicyRegistered(registered=params.name, name=params.name, scope=_scope(params.session_id))


@method("policy.register", roles=ACTING)
async def policy_register(peer: Peer, params: PolicyRegisterParams) -> PolicyRegistered:
    """Narrow what this connection may do: deny a tool, deny a tool by a parameter, or require a state."""
    return await register(peer, params)


@method("policy.unregister", roles=ACTING)
async def policy_unregister(peer: Peer, params: PolicyUnregisterParams) -> PolicyUnregistered:
    """Take away every rule of a name that this connection registered."""
    policies = peer.session.policies
    known = [one for one in policies.registered(params.session_id) if one.name == params.name]
    removed = 0
    if known:
        said = {"name": params.name, "session_id": params.session_id, "removed": len(known)}
        await record_event(peer, "policy.unregistered", said, run=current_run(peer), leaf_data=True)
        removed = policies.remove(params.name, params.session_id)
    return PolicyUnregistered(unregistered=params.name, removed=removed, scope=_scope(params.session_id))


@method("policy.list")
async def policy_list(peer: Peer, params: PolicyListParams) -> PolicyListed:
    """The rules this connection registered, in the order they came."""
    found = peer.session.policies.registered(params.session_id)
    described = [PolicyDescribed(name=one.name, description=one.description()) for one in found]
    return PolicyListed(policies=described, scope=_scope(params.session_id))


@method("session.policy.open", roles=ACTING)
async def session_policy_open(peer: Peer, params: PolicyOpenParams) -> PolicyOpened:
    """Open a policy session: a scope for rules that hold for some proposals only."""
    del params
    return PolicyOpened(session_id=peer.session.policies.open())


@method("session.policy.close", roles=ACTING)
async def session_policy_close(peer: Peer, params: PolicyCloseParams) -> PolicyClosed:
    """Close a policy session and forget its rules."""
    policies = peer.session.policies
    known = policies.has(params.session_id)
    if known:
        said = {"session_id": params.session_id, "removed": len(policies.registered(params.session_id))}
        await record_event(peer, "policy.unregistered", said, run=current_run(peer), leaf_data=True)
    return PolicyClosed(closed=policies.close(params.session_id))


METHODS = (
    policy_register,
    policy_unregister,
    policy_list,
    session_policy_open,
    session_policy_close,
)
