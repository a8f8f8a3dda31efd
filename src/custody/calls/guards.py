"""Guards: each looks at a proposal and says no, or nothing.

Owns the order in which they are asked. The first no wins; an exception in a guard is a no. A guard does
no I/O but what its proposal brings along.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from custody.host import Breaker, HostSample
from custody.policy import Policy
from custody.records import Decision
from custody.tools import Asker, Offered, Registry, Scope, Tool


class Proposal(Struct, frozen=True, kw_only=True):
    """A call somebody wants."""

    name: str
    tool: Tool | None
    """None: there is no tool of that name."""
    arguments: Mapping[str, Any]
    scope: Scope
    host: HostSample | None
    """The machine as it stands; None where it cannot be told."""
    asker: Asker = Asker()
    tools: Offered | None = None
    """Where the tool was looked up; None: in the runtime's own registry."""


Guard = Callable[[Proposal], Decision | None]

ALLOWED = Decision("allow", "rule", "")
"""No guard objects; nothing more is said, as it would be said of almost every call."""


def decide(proposal: Proposal, guards: Sequence[Guard]) -> Decision:
    """Ask every guard in order."""
    for guard in guards:
        try:
            decision = guard(proposal)
        except Exception as error:  # a guard that errs says no
            name = getattr(guard, "__name__", type(guard).__name__)
            return Decision("deny", "error", f"The guard {name!r} failed: {type(error).__name__}: {error}")
        if decision is not None and decision.verdict != "allow":
            return decision
    return ALLOWED


def guards_of(registry: Registry, policy: Policy, breaker: Breaker) -> tuple[Guard, ...]:
    """The guards of a runtime, in the order of the way of a call."""

    def schema(proposal: Proposal) -> Decision | None:
        tools = registry if proposal.tools is None else proposal.tools
        if proposal.tool is None:
            nearest = ", ".join(tools.nearest(proposal.name))
            return Decision(
                "deny", "schema", f"There is no tool named {proposal.name!r}; there is: {nearest}."
            )
        violation = tools.schema(proposal.name).violation(proposal.arguments)
        return None if violation is None else Decision("deny", "schema", violation)

    def validate(proposal: Proposal) -> Decision | None:
        assert proposal.tool is not None, "the schema guard has refused unknown tools"
        return proposal.tool.validate(proposal.arguments, proposal.scope)

    def permit(proposal: Proposal) -> Decision | None:
        """The built-in rule of a tool that is not everybody's."""
        rule: Callable[..., Decision | None] | None = getattr(proposal.tool, "permit", None)
        return None if rule is None else rule(proposal.arguments, proposal.asker)

    return schema, validate, permit, *guards_of_observed(policy, breaker)


def guards_of_observed(policy: Policy, breaker: Breaker) -> tuple[Guard, ...]:
    """The guards of a call that its caller runs: whether its tool is known, and what it takes, is theirs."""

    def rules(proposal: Proposal) -> Decision | None:
        return policy.decide(proposal.name, proposal.arguments)

    def resources(proposal: Proposal) -> Decision | None:
        refusal = None if proposal.host is None else breaker.check(proposal.host)
        return None if refusal is None else Decision("deny", "resources", refusal.message, refusal.reading)

    return rules, resources
