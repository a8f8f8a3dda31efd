"""For which agents a peer speaks, where it uses Custody's own words.

Used by `methods.calls` and by `sight`.
"""

from custody.errors import InvalidInput
from custody.rpc.peer import Peer

NAME_CHARACTERS_MAX = 256
"""Of an agent's name: it goes into every record."""

AGENTS_MAX = 256
"""Agents one connection may speak for: it may read what is of each."""


def is_mine(peer: Peer, agent: str | None) -> bool:
    """Whether the peer speaks for the agent. What names no agent is everybody's who names none."""
    if agent is None:
        return peer.agent is None
    as_recorded = peer.service.live.as_recorded
    return any(as_recorded(one) == agent for one in peer.agents)


def agent_of(peer: Peer, said: str | None) -> str | None:
    """The agent a run is of: what a token binds beats what is said with the run, and when it came.

    Raises InvalidInput.
    """
    if said is not None and not 0 < len(said) <= NAME_CHARACTERS_MAX:
        raise InvalidInput(f"agent has 1 to {NAME_CHARACTERS_MAX} characters.", field="agent")
    agent = peer.access.agent or said or peer.claimed
    if agent is not None and agent not in peer.agents:
        if len(peer.agents) >= AGENTS_MAX:
            raise InvalidInput(f"One connection speaks for {AGENTS_MAX} agents at most.", field="agent")
        peer.agents.add(agent)
    return agent
