"""What a call may still use up is taken before it starts, and given back where it does not start.

Owns how counting and deciding are joined: the guard asks what was counted, and what it was told is taken in
the same breath. Counting waits for other processes, so none of it is done on the event loop.
Used by `execute`.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from custody.calls.admission import Admission, Admitted, Limits, Moved, Refusal, SoftCrossed
from custody.calls.budgets import Counted, Spending
from custody.calls.guards import Guard, Proposal, decide
from custody.calls.machinery import Machinery
from custody.calls.progress import Progress
from custody.calls.question_digest import question_digest
from custody.policy.facts import facts_of
from custody.recorder import Draft
from custody.records import Decision, now_us

TRIES_MAX = 8
"""A rate that others use up between asking and taking is asked for again; so many at once are a storm."""


async def decide_and_take(
    progress: Progress,
    proposal: Proposal,
    guards: Sequence[Guard],
    machinery: Machinery,
    limits: Limits,
    *,
    answered: bool,
) -> Decision:
    """What the guards say of it, and where that is an allow or, once answered, an ask: what the budgets say.

    Waits, in a thread. What was taken is noted in the progress.
    """
    return await asyncio.to_thread(_decide_and_take, progress, proposal, guards, machinery, limits, answered)


def _decide_and_take(
    progress: Progress,
    proposal: Proposal,
    guards: Sequence[Guard],
    machinery: Machinery,
    limits: Limits,
    answered: bool,
) -> Decision:
    spending = machinery.deciding.spending
    admission = _admission(progress, proposal, machinery, limits, answered)
    for _ in range(TRIES_MAX):
        counted = spending.counted(admission)
        decision = decide(msgspec.structs.replace(proposal, counting=counted), guards)
        if decision.verdict == "deny" or (decision.verdict == "ask" and not answered) or not limits.admits:
            return decision
        refused = _take(progress, spending, admission, limits, counted)
        if isinstance(refused, Decision):
            return refused
        if refused is None:
            return decision
        proposal.noted.clear()
    return Decision("deny", "budget", "Too many calls at once ask for the same rate; repeat it in a moment.")


def _take(
    progress: Progress, spending: Spending, admission: Admission, limits: Limits, counted: Counted
) -> Decision | Moved | None:
    found = spending.admit(admission, limits, counted.rates)
    if isinstance(found, Refusal):
        return Decision(found.verdict, found.by, found.reason, param=found.amount)
    if isinstance(found, Admitted):
        progress.taken = True
        progress.soft += found.soft
        return None
    return found


def _admission(
    progress: Progress, proposal: Proposal, machinery: Machinery, limits: Limits, answered: bool
) -> Admission:
    asked = progress.asked
    return Admission(
        call_id=asked.call_id,
        tool=asked.name,
        effect=proposal.effect,
        at_us=now_us(),
        run_chain=asked.run_chain,
        session_id=asked.who.session_id,
        agent=asked.who.agent,
        dry_run=asked.dry_run,
        digest=_digest_of_same(progress, machinery),
        hosts=_hosts(proposal) if limits.hosts else (),
        answered=answered,
    )


def _digest_of_same(progress: Progress, machinery: Machinery) -> bytes:
    """Calls of the same tool with the same arguments are the same, whoever makes them."""
    asked = progress.asked
    digest = question_digest(
        machinery.deciding.key,
        tool=asked.name,
        arguments=asked.arguments,
        cwd=None,
        agent=None,
        policy_digest=None,
    )
    return bytes.fromhex(digest)


def _hosts(proposal: Proposal) -> tuple[str, ...]:
    facts = facts_of(
        proposal.name,
        proposal.effect,
        proposal.arguments,
        cwd=proposal.scope.cwd,
        roots=proposal.scope.roots,
    )
    # A text that is only handed on may name any number of hosts, and reaches none of them.
    return tuple(dict.fromkeys(host["host"] for host in facts["hosts"] if not host["content"]))


async def give_back(progress: Progress, machinery: Machinery) -> None:
    """The call was admitted and will not start."""
    progress.taken = False
    await asyncio.to_thread(machinery.deciding.spending.release, progress.asked.call_id)


async def tell_soft(progress: Progress, machinery: Machinery) -> None:
    """Put on the record that soft bounds were passed. Raises NotRecorded."""
    crossed, progress.soft = progress.soft, ()
    for one in crossed:
        await machinery.ledger.append(_event(progress, one, machinery))


def _event(progress: Progress, one: SoftCrossed, machinery: Machinery) -> Draft:
    numbering = progress.asked.numbering
    return machinery.ledger.recorder.draft_event(
        "budget.soft",
        {"per": one.per, "key": one.key, "amount": one.amount, "used": one.used, "limit": one.limit},
        leaf_data=True,
        call_id=progress.asked.call_id,
        run_id=None if numbering is None else numbering.run_id,
    )
