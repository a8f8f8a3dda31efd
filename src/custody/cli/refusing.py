"""What a person is told of a refused call: who said no, and the line of policy that would allow it.

Owns the words. Only people at the command line are told how a policy is loosened: a command that a recorded
call has started is not. What would allow a call is `policy.layers`' to say. Used by `acting` and `show`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from custody.cli.options import load
from custody.cli.render import SHORT_ID
from custody.errors import CustodyError
from custody.records import Call, Decision

if TYPE_CHECKING:
    from custody.policy import Layer
    from custody.policy.model import Matched

OF_RULES = ("rule", "nobody", "error")
"""Who says no where a rule stands behind it: it itself, nobody where it asked, or it could not be decided."""
SAME_CALL = "same_call"
"""What loops count, as a decision names it."""
INDENT = "  "


def refusal(call: Call) -> str:
    """Why it was refused, and below that what would allow it."""
    decision = call.decision
    lines = lines_that_allow(call)
    said = _words(decision)
    if not lines and decision.by == "rule" and decision.rule is not None:
        return f"{said} custody policy explain {call.id[:SHORT_ID]} says what would allow it."
    return "\n".join([said, *(f"{INDENT}{line}" for line in lines)])


def _words(decision: Decision) -> str:
    named = "" if decision.rule is None else f" {decision.rule!r}"
    if decision.by == "nobody":  # a rule asked, and a person would have had to answer
        return f"asked by the rule{named}: {decision.reason}"
    if decision.by == "person":
        return f"refused by a person: {decision.reason}"
    return f"refused by {decision.by}{named}: {decision.reason}"


def lines_that_allow(call: Call) -> list[str]:
    """What of the policy in force here would have to be changed for a refused call; nothing where that is not
    known, or another policy refused it."""
    from custody.calls.descent import descent
    from custody.policy.builtin import with_built_in

    if call.outcome != "rejected" or descent() is not None:
        return []
    try:
        layers = with_built_in(load(None).policy_layers)
    except CustodyError:
        return []  # as of now there is none that could be changed so
    decision = call.decision
    if decision.rule is None and decision.param is not None and decision.by in ("budget", "nobody"):
        return list(_of_amounts(decision.param, layers))
    return _of_rules(call, layers) if decision.by in OF_RULES else []


def _of_rules(call: Call, layers: "tuple[Layer, ...]") -> list[str]:
    from custody.policy import Policy
    from custody.policy.layers import what_would_allow

    digest = call.decision.policy
    if digest is None or not Policy(layers).digest.rpartition(":")[2].startswith(digest):
        return []
    found = what_would_allow(call.tool, _matched(call.decision, layers), layers)
    if found is None:
        return []
    text = [] if found.text is None else [f"{INDENT}{line}" for line in found.text.splitlines()]
    return [found.words, *text]


def _matched(decision: Decision, layers: "tuple[Layer, ...]") -> "Iterator[Matched]":
    """The rules that the record names, which has names alone."""
    from custody.policy.model import Matched

    for layer in layers:
        for rule in layer.rules:
            if rule.name in decision.matched:
                failed = decision.by == "error" and rule.name == decision.rule
                yield Matched(
                    rule=rule.name,
                    decision="deny" if failed else rule.decision,
                    layer=layer.kind,
                    source=layer.source,
                    reason="",
                )


def _of_amounts(amount: str, layers: "tuple[Layer, ...]") -> Iterator[str]:
    """Which files bound it; the smallest counts."""
    for layer in layers:
        if layer.mode == "enforce" and amount in _bounded(layer):
            yield f"The bound on {amount} is set in {layer.source}; it holds until it is changed there."


def _bounded(layer: "Layer") -> set[str]:
    loops = layer.loops is not None and (layer.loops.ask or layer.loops.deny)
    return {name for budget in layer.budgets for name in budget.amounts} | ({SAME_CALL} if loops else set())
