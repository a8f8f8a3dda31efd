"""What a peer did that is no call, on the record of its run.

Owns which run an event belongs to. Which events there are is the closed list of `records`. Used by methods.
"""

from collections.abc import Mapping
from typing import Any

from custody.rpc.live_run import LiveRun
from custody.rpc.peer import Peer


def current_run(peer: Peer) -> LiveRun | None:
    """The run that what the peer asks for belongs to; None where it has none, or that is over."""
    return None if peer.run is None or peer.run.over else peer.run


async def record_event(
    peer: Peer, name: str, data: Mapping[str, Any], *, run: LiveRun | None, leaf_data: bool = False
) -> None:
    """Put an event on the record. Raises NotRecorded."""
    ledger = peer.service.runtime.ledger
    said = {"connection": peer.connection, "agent": peer.agent, **data}
    run_id = None if run is None else run.handle.run_id
    await ledger.append(ledger.recorder.draft_event(name, said, leaf_data=leaf_data, run_id=run_id))
