"""Guards: each looks at a proposal and says no, asks a person, or says nothing.

Owns the order in which they are asked. The first no wins, an exception in a guard is a no, and an ask stands
only where no later guard says no. A guard does no I/O but what its proposal brings along.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from msgspec import Struct

from custody.host import Breaker, HostSample
from custody.policy import Case, Matched, Policy, Rule, Ruling, Walls
from custody.records import Decision, Effect
from custody.tools import Asker, Offered, Registry, Scope, Tool

if TYPE_CHECKING:
    from custody.files import Opening
    from custody.policy.facts import Facts


class Counting(Protocol):
    """What has been counted of earlier calls, for rules that ask."""

    def rate_used(self, rule: Rule) -> bool: ...

    def happened(self, rule: Rule) -> bool: ...

    def counters(self) -> Mapping[str, Any]: ...


NO_POLICY = Policy()


class Proposal(Struct, frozen=True, kw_only=True):
    """A call somebody wants."""

    name: str
    tool: Tool | None
    """None: there is no tool of that name, or the caller runs it."""
    arguments: Mapping[str, Any]
    scope: Scope
    host: HostSample | None
    """The machine as it stands; None where it cannot be told."""
    policy: Policy = NO_POLICY
    """The one in force when the call was asked for: what it limits is counted by the same one."""
    effect: Effect = "unknown"
    agent: str | None = None
    run: Mapping[str, Any] = {}
    """What rules may know of the run: its id."""
    asker: Asker = Asker()
    tools: Offered | None = None
    """Where the tool was looked up; None: in the runtime's own registry."""
    state: Callable[[], Mapping[str, Any]] = dict
    """What has been set on the connection it comes by, for rules that ask."""
    counting: Counting | None = None
    dry_run: bool = False
    paused: bool = False
    """A person has paused the policy: what rules say is noted, and counts for nothing."""
    noted: list[Matched] = msgspec.field(default_factory=list[Matched])
    """What rules would have refused or asked, were they enforced: a guard adds to it."""
    openings: "list[Opening]" = msgspec.field(default_factory=list[Any])
    """What a person would have to open for the call to write there: a guard adds to it."""
    walls: list[Walls] = msgspec.field(default_factory=list[Walls])
    """What rules demand around its command: a guard adds to it."""


Guard = Callable[[Proposal], Decision | None]

ALLOWED = Decision("allow", "rule", "")
"""No guard objects; nothing more is said, as it would be said of almost every call."""

OPENINGS_MAX = 100
"""Paths of one call that a person can be asked about; beyond it nobody looks at them all."""

POLICY_DIGITS = 16
"""Of the policy's digest, kept with each decision of a rule: enough to tell policies apart."""


def decide(proposal: Proposal, guards: Sequence[Guard]) -> Decision:
    """Ask every guard in order."""
    asked: Decision | None = None
    allowed = ALLOWED
    for guard in guards:
        try:
            decision = guard(proposal)
        except Exception as error:  # a guard that errs says no
            name = getattr(guard, "__name__", type(guard).__name__)
            return Decision("deny", "error", f"The guard {name!r} failed: {type(error).__name__}: {error}")
        if decision is None:
            continue
        if decision.verdict == "deny":
            return decision
        if decision.verdict == "ask":
            asked = decision if asked is None else _both(asked, decision)
        else:
            allowed = decision
    return asked or allowed


def _both(asked: Decision, more: Decision) -> Decision:
    """One question for two reasons."""
    return msgspec.structs.replace(more, reason=f"{asked.reason} {more.reason}")


def said_of(noted: Matched) -> dict[str, Any]:
    """What the record says of a rule that would have refused or asked."""
    return {"rule": noted.rule, "verdict": noted.decision, "layer": noted.layer, "reason": noted.reason}


def guards_of(registry: Registry, breaker: Breaker) -> tuple[Guard, ...]:
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
        refusal, proposal.openings[:] = openings_of(proposal.tool, proposal.arguments, proposal.scope)
        return refusal

    def permit(proposal: Proposal) -> Decision | None:
        """The built-in rule of a tool that is not everybody's."""
        rule: Callable[..., Decision | None] | None = getattr(proposal.tool, "permit", None)
        return None if rule is None else rule(proposal.arguments, proposal.asker)

    def rules(proposal: Proposal) -> Decision | None:
        said = _of_rules(proposal, policy := _concerned(proposal))
        return _of_openings(proposal, policy, said) if proposal.openings else said

    return schema, validate, permit, rules, _resources_of(breaker)


def guards_of_observed(breaker: Breaker) -> tuple[Guard, ...]:
    """The guards of a call that its caller runs: whether its tool is known, and what it takes, is theirs."""

    def rules(proposal: Proposal) -> Decision | None:
        return _of_rules(proposal, proposal.policy)

    return rules, _resources_of(breaker)


def openings_of(
    tool: Tool, arguments: Mapping[str, Any], scope: Scope
) -> "tuple[Decision | None, list[Opening]]":
    """What the tool's own check says, and which paths a person would have to open for it to say no more."""
    openings: dict[Opening, None] = {}

    def note(opening: "Opening") -> bool:
        openings[opening] = None
        return len(openings) <= OPENINGS_MAX

    return tool.validate(arguments, msgspec.structs.replace(scope, opens=note)), list(openings)


def _resources_of(breaker: Breaker) -> Guard:
    def resources(proposal: Proposal) -> Decision | None:
        refusal = None if proposal.host is None else breaker.check(proposal.host)
        return None if refusal is None else Decision("deny", "resources", refusal.message, refusal.reading)

    return resources


def _concerned(proposal: Proposal) -> Policy:
    """The policy, or where no file says anything the built-in one, if it has a say in this call at all."""
    policy = proposal.policy
    if policy.layers or not (proposal.openings or proposal.effect == "irreversible"):
        return policy
    return _built_in()


@functools.cache
def _built_in() -> Policy:
    from custody.policy.builtin import BUILT_IN  # few calls need it

    return Policy([BUILT_IN])


def _of_rules(proposal: Proposal, policy: Policy) -> Decision | None:
    ruling = policy.decide(_case(proposal)) if policy.layers else None
    if ruling is None:
        return None
    proposal.walls[:] = () if ruling.walls is None else (ruling.walls,)  # a pause takes no wall away
    if proposal.paused:
        proposal.noted[:] = [one for one in ruling.matched if one.decision != "allow"]
        return None
    proposal.noted[:] = ruling.shadow
    return _decision(ruling, policy)


def _of_openings(proposal: Proposal, policy: Policy, said: Decision | None) -> Decision | None:
    """No rule opens what the roots and the list of protected files close. A person does, for one call: where
    a rule asks, and where the built-in policy does; about protected files an agent's call always asks. Who
    types a commit has seen what it puts where."""
    if said is not None and said.verdict == "deny":
        return said
    if proposal.asker.typed and getattr(proposal.tool, "typed_opens", False):
        return said
    refusals = " ".join(dict.fromkeys(opening.refusal for opening in proposal.openings))
    asks = said is not None and said.verdict == "ask"
    if not asks and not _agent_may_ask(proposal, policy):
        return Decision("deny", "path", proposal.openings[0].refusal)
    reason = f"{refusals} A yes opens that for this one call."
    if said is None or not asks:
        digest = None if said is None else said.policy
        return Decision("ask", "path", reason, policy=digest)
    return msgspec.structs.replace(said, reason=f"{said.reason} {reason}")


def _agent_may_ask(proposal: Proposal, policy: Policy) -> bool:
    if proposal.asker.typed or proposal.paused:
        return False
    built_in = any(layer.kind == "builtin" for layer in policy.layers)
    return built_in or all(opening.why == "protected" for opening in proposal.openings)


def _case(proposal: Proposal) -> Case:
    """The proposal as rules see it. What costs is worked out only where a rule asks."""
    counting, asker = proposal.counting, proposal.asker
    return Case(
        tool=proposal.name,
        effect=proposal.effect,
        params=proposal.arguments,
        door=asker.door,
        agent=proposal.agent,
        caller=asker.caller,
        session_id=asker.session_id,
        run=proposal.run,
        facts=lambda: facts_for(proposal),
        state=proposal.state,
        counters=dict if counting is None else counting.counters,
        rate_used=None if counting is None else counting.rate_used,
        happened=None if counting is None else counting.happened,
        dry_run=proposal.dry_run,
        typed=asker.typed,
        starts_process=proposal.tool is not None and proposal.tool.level != "none",
        writes_outside=any(opening.why == "outside" for opening in proposal.openings),
        writes_protected=any(opening.why == "protected" for opening in proposal.openings),
    )


def facts_for(proposal: Proposal) -> "Facts":
    """What can be told of a call without running it."""
    from custody.policy.facts import Facts  # a reader of shell lines and more; few rules ask for it

    return Facts(
        proposal.name,
        proposal.effect,
        proposal.arguments,
        cwd=proposal.scope.cwd,
        roots=proposal.scope.roots,
        resolve=os.path.realpath,
        home=os.path.expanduser("~"),
    )


def _decision(ruling: Ruling, policy: Policy) -> Decision:
    return Decision(
        ruling.verdict,
        ruling.by,
        ruling.reason,
        ruling.rule,
        ruling.param,
        tuple(matched.rule for matched in ruling.matched if matched.rule is not None),
        policy.digest.rpartition(":")[2][:POLICY_DIGITS],
    )
