"""What one connection has for itself and loses with it: policies, state, a log, and what its tools are.

Knows nothing of peers, of runs or of the wire. A `Peer` has one; the methods of policies, state and events
and the work on proposals use it.
"""

from typing import Any

from custody.calls.guards import Guard
from custody.errors import InvalidInput
from custody.plans.state import State
from custody.rpc.definitions import ToolDefinition
from custody.rpc.event_log import EventLog
from custody.rpc.policies import Policies
from custody.rpc.rates import Rates
from custody.rpc.remembered import Remembered

TENANTS_MAX = 16
"""Of one connection, the one without a name included: a daemon has a thousand connections."""

STATE_BYTES_MAX = 1024 * 1024  # of each tenant, for the same reason

TENANT_CHARACTERS_MAX = 128  # it is a name, and stands in records


class Session:
    """What one connection has for itself."""

    def __init__(self) -> None:
        self.policies = Policies()
        self.events = EventLog()
        self.definitions: dict[str, ToolDefinition] = {}
        """What the peer said of each tool that it runs itself."""
        self.remembered = Remembered()
        self._rates = Rates()
        self.halted = False
        """Set by a tool that said its failure is final: no proposal is worked on until that is cleared."""
        self._states: dict[str | None, State] = {}

    def log(
        self, kind: str, *, action_id: str | None = None, proposal_id: str | None = None, **data: Any
    ) -> None:
        """Note in the connection's own log what happened, in the kinds of the reference."""
        self.events.add(kind, action_id, proposal_id, data)

    def guards(self, policy_session: str | None = None, tenant: str | None = None) -> tuple[Guard, ...]:
        """What the peer's policies say of a call, for `Origin.guards`. Raises NotFound, InvalidInput."""
        return (*self.policies.guards(policy_session, self.state(tenant)), self._rates.guard)

    def define(self, definition: ToolDefinition) -> None:
        """A tool is offered from now on; what was known of one of its name is forgotten."""
        self.undefine(definition.name)
        self.definitions[definition.name] = definition
        self._rates.set(definition.name, definition.rate_limit)

    def undefine(self, tool: str) -> None:
        """A tool is offered no longer."""
        self.definitions.pop(tool, None)
        self._rates.set(tool, None)
        self.remembered.forget(tool)

    def state(self, tenant: str | None = None) -> State:
        """The state of a tenant; None is nobody's, and never mixed with anybody's. Raises InvalidInput."""
        state = self._states.get(tenant)
        if state is None:
            if len(self._states) >= TENANTS_MAX or len(tenant or "") > TENANT_CHARACTERS_MAX:
                raise InvalidInput(
                    f"A connection may have state of {TENANTS_MAX} tenants, named with "
                    f"{TENANT_CHARACTERS_MAX} characters at most.",
                    field="tenant_id",
                )
            state = self._states[tenant] = State(bytes_max=STATE_BYTES_MAX)
        return state
