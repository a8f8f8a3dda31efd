"""What a call may still use up is weighed where the guards are asked, and taken in the same breath.

Owns how deciding and counting are joined: guards ask what was counted, and where that moves meanwhile they
are asked again. What cannot be counted is a no. Waits for other processes unless it is told not to. Used by
`admitting`, and by `observed_guards` for calls that their caller runs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from custody.calls.admission import Admission, Admitted, Limits, Moved, Refusal, SoftCrossed
from custody.calls.asked import Who
from custody.calls.budgets import Counted, Spending
from custody.calls.guards import Guard, Proposal, decide, facts_for
from custody.calls.named import digest_of_same, hosts_reached
from custody.errors import CustodyError
from custody.records import Decision, now_us

TRIES_MAX = 8
"""A rate that others use up between asking and taking is asked for again; so many at once are a storm."""

How = Literal["wait", "at_once", "look"]
"""`at_once`: on an event loop, which waits for nobody. `look`: nothing is taken."""

STORM = Decision("deny", "budget", "Too many calls at once ask for the same rate; repeat it in a moment.")

NOT_AT_ONCE = Decision(
    "deny",
    "budget",
    "What the policy limits cannot be counted without waiting for others, and an event loop does not wait; "
    "repeat it in a moment, or use `async with`.",
)


class Taken(Struct, frozen=True, kw_only=True):
    """What was said of a call, and whether it counts from now on."""

    decision: Decision
    taken: bool = False
    soft: tuple[SoftCrossed, ...] = ()
    """Soft bounds it was the first to pass."""
    unsure: bool = False
    """A no that might be another after a wait, which an event loop does not do."""


def decide_and_count(
    proposal: Proposal,
    guards: Sequence[Guard],
    spending: Spending,
    admission: Callable[[], Admission],
    limits: Limits,
    how: How = "wait",
) -> Taken:
    """What the guards say; where that is an allow or, once answered, an ask, also what the budgets say."""
    try:
        return _decide_and_count(proposal, guards, spending, admission(), limits, how)
    except Exception as error:  # what errs says no
        return _refused_by_error(error)


def _refused_by_error(error: Exception) -> Taken:
    """A no for what could not be asked, in words of ours alone."""
    why = error.message if isinstance(error, CustodyError) else type(error).__name__
    return Taken(decision=Decision("deny", "error", f"What the policy limits cannot be counted: {why}"))


def _decide_and_count(
    proposal: Proposal,
    guards: Sequence[Guard],
    spending: Spending,
    admission: Admission,
    limits: Limits,
    how: How,
) -> Taken:
    for _ in range(TRIES_MAX):
        proposal.noted.clear()
        counted = spending.counted(admission, limits, at_once=how == "at_once")
        decision = decide(msgspec.structs.replace(proposal, counting=counted), guards)
        if counted.gave_up:
            return Taken(decision=NOT_AT_ONCE, unsure=True)
        passes = decision.verdict == "allow" or (decision.verdict == "ask" and admission.answered)
        if not passes or not limits.admits:
            return Taken(decision=decision)
        match _weighed(spending, admission, limits, counted, how):
            case Refusal() as refusal:
                no = Decision(refusal.verdict, refusal.by, refusal.reason, param=refusal.amount)
                return Taken(decision=no, unsure=how == "at_once")
            case Admitted() as admitted:
                return Taken(decision=decision, taken=how != "look", soft=admitted.soft)
            case Moved():
                pass
            case None:
                return Taken(decision=NOT_AT_ONCE, unsure=True)
    return Taken(decision=STORM)


def _weighed(
    spending: Spending, admission: Admission, limits: Limits, counted: Counted, how: How
) -> Admitted | Refusal | Moved | None:
    match how:
        case "wait":
            return spending.admit(admission, limits, counted.rates)
        case "at_once":
            return spending.admit_at_once(admission, limits, counted.rates)
        case "look":
            return spending.foresee(admission, limits, counted.rates)


def admission_of(
    proposal: Proposal,
    key: bytes,
    limits: Limits,
    *,
    call_id: bytes,
    who: Who,
    run_chain: tuple[bytes, ...],
    dry_run: bool,
    answered: bool = False,
) -> Admission:
    """The proposal as counting sees it. `key` is the store's, for the digest of what is the same."""
    return Admission(
        call_id=call_id,
        tool=proposal.name,
        effect=proposal.effect,
        at_us=now_us(),
        run_chain=run_chain,
        session_id=who.session_id,
        agent=who.agent,
        dry_run=dry_run,
        digest=digest_of_same(key, proposal.name, proposal.arguments),
        hosts=_hosts_of(proposal) if limits.hosts else (),
        answered=answered,
    )


def _hosts_of(proposal: Proposal) -> tuple[str, ...]:
    """Those it would reach, for budgets that count them."""
    arguments: Any = proposal.arguments
    if not isinstance(arguments, Mapping):
        return ()  # the schema's guard says so
    return hosts_reached(facts_for(proposal))


def said_of_soft(crossed: SoftCrossed) -> dict[str, Any]:
    """What the record says of a soft bound that was passed."""
    return {
        "per": crossed.per,
        "key": crossed.key,
        "amount": crossed.amount,
        "used": crossed.used,
        "limit": crossed.limit,
    }
