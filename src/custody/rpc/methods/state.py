"""`state.*`: what a connection's actions know of each other, by tenant.

Owns the shapes on the wire. What a state is, and its bounds, is `plans.state`.
"""

from typing import Any, Literal

from msgspec import Struct

from custody.errors import NotRecorded
from custody.rpc.events import current_run, record_event
from custody.rpc.method import ACTING, method
from custody.rpc.peer import Peer


class StateKeyParams(Struct, frozen=True, kw_only=True):
    """One key, of a tenant's state or of nobody's."""

    key: str
    tenant_id: str | None = None


class StateSetParams(Struct, frozen=True, kw_only=True):
    """A value for one key."""

    key: str
    value: Any
    tenant_id: str | None = None


class StateTenantParams(Struct, frozen=True, kw_only=True):
    """Whose state."""

    tenant_id: str | None = None


@method("state.get")
async def state_get(peer: Peer, params: StateKeyParams) -> Any:
    """The value at a key; null where nothing stands there."""
    return peer.session.state(params.tenant_id).get(params.key)


@method("state.set", roles=ACTING)
async def state_set(peer: Peer, params: StateSetParams) -> Literal["ok"]:
    """Put a value at a key."""
    key, tenant = params.key, params.tenant_id
    state = peer.session.state(tenant)
    before, version = state.entry(key), state.set(key, params.value)
    said = {"by": "set", "tenant_id": tenant, "changes": {key: params.value}}
    try:
        await record_event(peer, "state.changed", said, run=current_run(peer))
    except NotRecorded:
        if state.version_of(key) == version:  # nobody has written there since
            state.put_back(key, before)
        raise
    peer.session.log("state_changed", by="set", tenant_id=tenant, changes={key: params.value})
    return "ok"


@method("state.exists")
async def state_exists(peer: Peer, params: StateKeyParams) -> bool:
    """Whether anything stands at a key, null included."""
    return params.key in peer.session.state(params.tenant_id)


@method("state.keys")
async def state_keys(peer: Peer, params: StateTenantParams) -> list[str]:
    """The keys at which something stands, in order."""
    return peer.session.state(params.tenant_id).keys()


@method("state.snapshot")
async def state_snapshot(peer: Peer, params: StateTenantParams) -> dict[str, Any]:
    """Every value by its key."""
    return peer.session.state(params.tenant_id).contents()


METHODS = (state_get, state_set, state_exists, state_keys, state_snapshot)
