"""`agents.*`: coding CLIs that the daemon starts, tells of and ends.

Owns their shapes and who may ask. What they do is `rpc.agents`.
"""

from msgspec import Struct

from custody.rpc.agents import Agents, AgentState
from custody.rpc.identity import agent_of, is_mine
from custody.rpc.method import ACTING, method
from custody.rpc.peer import Peer
from custody.rpc.service import Service
from custody.rpc.sight import nothing_here, own_run


class SpawnParams(Struct, frozen=True, kw_only=True):
    """What `drive_cli` takes."""

    cli: str
    prompt: str
    cwd: str | None = None
    timeout_s: float | None = None
    """Of the whole agent; none: as long as `drive_cli` gives it."""
    agent: str | None = None
    """Whose run it is."""
    parent: str | None = None
    """Id of the run it is started from."""


class AgentParams(Struct, frozen=True, kw_only=True):
    """Which one: the id of its run."""

    id: str


@method("agents.spawn", roles=ACTING)
async def agents_spawn(peer: Peer, params: SpawnParams) -> AgentState:
    """Have a coding CLI do what a prompt says, as a run of its own; answers while it works."""
    agent = agent_of(peer, params.agent)
    parent = None if params.parent is None else (await own_run(peer, params.parent)).id
    return await agents_of(peer.service).spawn(
        params.cli, params.prompt, cwd=params.cwd, timeout_s=params.timeout_s, agent=agent, parent=parent,
        origin=peer.origin(),
    )  # fmt: skip


@method("agents.status")
async def agents_status(peer: Peer, params: AgentParams) -> AgentState:
    """How an agent stands; it is on the record for as long as its run is."""
    return await agents_of(peer.service).status((await own_run(peer, params.id)).id)


@method("agents.cancel", roles=ACTING)
async def agents_cancel(peer: Peer, params: AgentParams) -> AgentState:
    """End an agent with everything it started."""
    run = await own_run(peer, params.id)
    if not (is_mine(peer, run.agent) or peer.access.role in ("host", "operator")):
        raise nothing_here()
    return await agents_of(peer.service).cancel(run.id)


def agents_of(service: Service) -> Agents:
    """Those of the service's runtime."""
    if service.agents is None:
        service.agents = Agents(service.runtime)
    return service.agents


METHODS = (agents_spawn, agents_status, agents_cancel)
