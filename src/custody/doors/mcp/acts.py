"""The runtime's own tools over MCP: each call is checked, recorded and run as through every other door.

Owns how a client's call is made, and what this door forbids beside policy. Used by `server`, and by what else
makes calls.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from msgspec import structs

from custody.calls.answers import Prompt
from custody.calls.guards import Proposal
from custody.calls.handle import RunHandle
from custody.doors.mcp.caller import Caller
from custody.doors.mcp.progress import Progress
from custody.records import Call, Decision
from custody.tools import ProcessIO

ONLY_READS = Decision("deny", "rule", "An auditor reads, and does nothing.", rule="role")
NOT_OFFERED = Decision(
    "deny", "rule", "This server was started with --tools, and without this one.", rule="tools"
)
NOT_BY_TOKEN = Decision("deny", "rule", "Its token does not allow this tool.", rule="token")


def refusal(caller: Caller, name: str, *, acts: bool, drives: str | None = None) -> Decision | None:
    """Why a client may not call a tool; None where nothing of this door forbids it.

    `drives` is the tool that it is another way to, which a token has to allow as well.
    """
    only, access = caller.backing.only, caller.peer.access
    if only is not None and name not in only:
        return NOT_OFFERED
    if not acts:
        return None
    if access.role == "auditor":
        return ONLY_READS
    allowed = access.tools is None or ({name, drives} - {None}) <= access.tools
    return None if allowed else NOT_BY_TOKEN


async def make_call(
    caller: Caller,
    name: str,
    arguments: Mapping[str, Any],
    progress: Progress,
    *,
    run: RunHandle | None = None,
    timeout: float | None = None,
    called: str | None = None,
    prompt: Prompt | None = None,
) -> Call:
    """Make one call, in the client's run or in `run`; the finished call for every outcome.

    `called` is the tool by whose name the client asked for it, where that is another; `prompt` asks the
    person behind it. Raises NotRecorded, OutcomeUnknown.
    """
    run = run or await caller.run()
    origin = caller.peer.origin()

    def allowed_here(proposal: Proposal) -> Decision | None:
        return refusal(caller, called or proposal.name, acts=True)

    guards = (allowed_here, *(origin.guards if called is None else ()))
    return await caller.runtime.call(
        name,
        arguments,
        run=run,
        timeout=timeout,
        agent=caller.peer.agent if run is None else None,
        io=ProcessIO(on_output=_counting(progress)) if progress.wanted else None,
        origin=structs.replace(origin, guards=guards),
        prompt=prompt,
    )


def _counting(progress: Progress) -> Callable[[Literal["stdout", "stderr"], bytes], None]:
    """Bytes of output, as progress: nobody knows of how many."""
    seen = 0

    def on_output(stream: Literal["stdout", "stderr"], data: bytes) -> None:
        nonlocal seen
        del stream
        seen += len(data)
        progress.note(seen, message=f"{seen:,} bytes of output")

    return on_output
