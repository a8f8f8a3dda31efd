"""What a runtime brings to each call, and the first record of one.

Owns that a call's first record, whichever it is, takes the next position of its run and tells what redaction
made of the request. Decides nothing. Used by `execute` and `asking`; made by `runtime`.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
from msgspec import Struct

from custody.calls.deciding import Deciding
from custody.calls.guards import Guard, said_of
from custody.calls.ledger import Ledger
from custody.calls.notices import Notices
from custody.calls.progress import Progress
from custody.calls.samples import Samples
from custody.calls.walled import Walled
from custody.errors import NotRecorded
from custody.policy import Policy
from custody.recorder import Draft
from custody.records import Effect
from custody.tools import Ended


class Machinery(Struct, frozen=True, kw_only=True):
    """What a runtime brings to each call."""

    ledger: Ledger
    samples: Samples
    guards: tuple[Guard, ...]
    slots: AbstractAsyncContextManager[Any]
    """Bounds how many calls run at once."""
    durable_before: frozenset[Effect]
    """Effects whose *started* must be durable before anything runs."""
    unrecorded: set[bytes]
    """Calls that ran and whose end could not be recorded; the runtime tries again when it closes."""
    unfinished: list[Draft]
    """Ends that are known and could not be recorded; tried again at the close, and at the next open."""
    notices: Notices | None
    """Who is told of each call beside the record."""
    policy: Callable[[], Policy]
    """The one in force."""
    deciding: Deciding
    walled: Walled


async def append_first(
    progress: Progress,
    draft_at: Callable[[int | None], Draft],
    machinery: Machinery,
    *,
    opens: bool,
) -> Draft:
    """Append the first record of a call, and give it. Raises NotRecorded."""
    drafts: list[Draft] = []

    def numbered(position: int | None) -> Draft:
        drafts.append(draft_at(position))
        return drafts[-1]

    asked = progress.asked
    progress.position, progress.receipt = await machinery.ledger.append_first(
        asked.numbering, numbered, opens=opens
    )
    progress.redactions = drafts[-1].redactions
    if asked.as_recorded:
        progress.asked_for = drafts[-1].said().get("arguments")
    return drafts[-1]


async def append_end(draft: Draft, machinery: Machinery) -> None:
    """Append the end of a call that is on the record and did not start; what fails is tried again later.
    Raises NotRecorded."""
    try:
        await machinery.ledger.append(draft, closes=True)
    except NotRecorded:
        machinery.unfinished.append(draft)
        raise


async def tell_connections(progress: Progress, ended: Ended, machinery: Machinery) -> None:
    """Put on the record what its command reached, and what it was refused. Raises NotRecorded."""
    numbering = progress.asked.numbering
    told: list[tuple[str, dict[str, Any]]] = []
    for one in ended.connections:
        said = {name: value for name, value in msgspec.structs.asdict(one).items() if value is not None}
        told.append(("network.connected" if said.pop("verdict") == "allowed" else "network.refused", said))
    if ended.connections_untold:
        told.append(("network.untold", {"count": ended.connections_untold}))
    for name, said in told:
        draft = machinery.ledger.recorder.draft_event(
            name,
            said,
            call_id=progress.asked.call_id,
            run_id=None if numbering is None else numbering.run_id,
        )
        await machinery.ledger.append(draft)


async def tell_noted(progress: Progress, machinery: Machinery) -> None:
    """Put on the record what rules would have done, were they enforced. Raises NotRecorded."""
    numbering = progress.asked.numbering
    for noted in progress.noted:
        draft = machinery.ledger.recorder.draft_event(
            "shadow.denied",
            said_of(noted) | {"tool": progress.asked.name},
            leaf_data=True,
            call_id=progress.asked.call_id,
            run_id=None if numbering is None else numbering.run_id,
        )
        await machinery.ledger.append(draft)
    progress.noted = []
