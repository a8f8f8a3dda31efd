"""Every method there is.

Owns the list of the modules in `methods/` and of what is sent unasked. Used by `serve` and the reference.
"""

from custody.rpc.callbacks import PUSHES
from custody.rpc.description import Push, Table
from custody.rpc.following import TraceEvent
from custody.rpc.methods import (
    agents,
    approvals,
    audit,
    calls,
    events,
    plans,
    policy,
    proposals,
    runs,
    server,
    session,
    skills,
    state,
    tools,
)

_MODULES = (
    agents,
    approvals,
    audit,
    calls,
    events,
    plans,
    policy,
    proposals,
    runs,
    server,
    session,
    skills,
    state,
    tools,
)

TABLE = Table(
    [method for module in _MODULES for method in module.METHODS],
    [*PUSHES, Push("runs.trace.event", TraceEvent, "A record of a run that the peer follows.")],
)
