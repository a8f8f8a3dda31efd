"""What a call may still use up is taken before it starts, and given back where it does not start.

Owns what is counted of a call that Custody runs, and what becomes of what it took. Counting waits for other
processes, so none of it is done on the event loop; how it is joined with deciding is `taking`'s. Used by
`execute`.
"""

import asyncio
import functools
import logging
from collections.abc import Sequence

from custody.calls.admission import Limits
from custody.calls.guards import Guard, Proposal
from custody.calls.machinery import Machinery
from custody.calls.progress import Progress
from custody.calls.taking import admission_of, decide_and_count, said_of_soft
from custody.errors import StoreError
from custody.records import Decision

log = logging.getLogger("custody")


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
    asked = progress.asked
    admission = functools.partial(
        admission_of,
        proposal,
        machinery.deciding.key,
        limits,
        call_id=asked.call_id,
        who=asked.who,
        run_chain=asked.run_chain,
        dry_run=asked.dry_run,
        answered=answered,
    )
    found = decide_and_count(proposal, guards, machinery.deciding.spending, admission, limits)
    progress.taken = progress.taken or found.taken
    progress.soft += found.soft
    return found.decision


async def give_back(progress: Progress, machinery: Machinery) -> None:
    """The call was admitted and will not start. What cannot be given back now is when this process ends."""
    progress.taken = False
    try:
        await asyncio.to_thread(machinery.deciding.spending.release, progress.asked.call_id)
    except StoreError as error:
        log.warning("What a call took that did not start is not given back: %s", error)


async def tell_soft(progress: Progress, machinery: Machinery) -> None:
    """Put on the record that soft bounds were passed. Raises NotRecorded."""
    crossed, progress.soft = progress.soft, ()
    numbering, recorder = progress.asked.numbering, machinery.ledger.recorder
    for one in crossed:
        draft = recorder.draft_event(
            "budget.soft",
            said_of_soft(one),
            leaf_data=True,
            call_id=progress.asked.call_id,
            run_id=None if numbering is None else numbering.run_id,
        )
        await machinery.ledger.append(draft)
