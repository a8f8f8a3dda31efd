"""`custody exec --adopt CALL`: a coding CLI's command, run as its hook has decided.

Owns the check that it is that very command, once, and below that very CLI; and that a yes of the CLI's user
is a yes here. What is offered is `doors.hooks.adopting`'s. Used by `acting`.
"""

import asyncio
import os
from typing import TYPE_CHECKING, Any

from custody.calls.asked import inside
from custody.calls.descent import ParentsUnclear, ancestors
from custody.cli.invocation import message, printable
from custody.doors.hooks.adopting import fits, read_kept
from custody.doors.hooks.own_files import guarded, settings_among
from custody.errors import Denied, NotFound
from custody.records import Call

if TYPE_CHECKING:
    from custody.calls.answers import Prompt
    from custody.calls.questions import Answer, Question
    from custody.calls.runtime import Runtime
    from custody.tools.tool import ProcessIO

NAMED_MAX = 5  # of files, in one line

HINT = "Only what a hook has put in the place of a command can be run so."


async def adopt(
    runtime: "Runtime",
    adopts: str,
    arguments: Any,
    *,
    roots: tuple[str, ...],
    timeout: float | None,
    io: "ProcessIO | None",
    as_recorded: bool,
) -> Call:
    """Make the call inside the one that is adopted. Raises Denied, NotRecorded, OutcomeUnknown."""
    outer, cwd = await asyncio.to_thread(_taken, runtime, adopts, arguments["argv"], roots, timeout)
    assert outer.run_id is not None, "a hook's calls are in runs"
    joined = await runtime.join(outer.run_id)
    run = joined if joined.outcome is None else None  # in the background it may outlast its turn
    with inside(bytes.fromhex(outer.id)):
        made = await runtime.call(
            "exec",
            arguments,
            run=run,
            timeout=timeout,
            agent=outer.agent,
            session=outer.session_id,
            cwd=cwd,
            io=io,
            as_recorded=as_recorded,
            prompt=_consent(outer),
        )
    say_of_settings(made)
    return made


def say_of_settings(made: Call) -> None:
    """Whether settings of a CLI changed while it ran: walls keep a command in its project, and
    a CLI's settings lie in there too. Who changed them cannot be told, so nothing is put back unasked."""
    own = guarded(os.environ, made.cwd or os.getcwd())
    found = settings_among((one.path for one in made.changes or ()), own)
    if found:
        named = ", ".join(map(printable, found[:NAMED_MAX]))
        more = f" and {len(found) - NAMED_MAX} more" if len(found) > NAMED_MAX else ""
        message(
            f"{named}{more} changed while this ran, which agents are kept from. Look at it; "
            f"custody undo {made.id[:8]} takes back what this command changed"
        )


def _taken(
    runtime: "Runtime", adopts: str, argv: list[str], roots: tuple[str, ...], timeout: float | None
) -> tuple[Call, str]:
    """The call that is adopted, from here on by nobody else, and where it runs. Raises Denied."""
    try:
        call_id = bytes.fromhex(adopts)
        found = runtime.index.call(adopts)
    except (ValueError, NotFound):
        raise Denied("There is no such call to be adopted.", hint=HINT) from None
    kept = read_kept(runtime.journal.adoptions.offered(call_id) if found.id == adopts else None)
    if kept is None or (found.outcome is not None and not kept.background):
        raise Denied("That call is over, or its command has been run.", hint=HINT)
    if not fits(kept, argv, roots, timeout):
        raise Denied("This is not the command that was decided on.", hint=HINT)
    if not _below(kept.owner_pid, kept.owner_start_ticks):
        raise Denied("The CLI whose call that is has not started this.", hint=HINT)
    if not runtime.journal.adoptions.take(call_id):
        raise Denied("That command has just been run.", hint=HINT)
    return found, kept.cwd


def _below(pid: int, start_ticks: int) -> bool:
    """Whether that process is one of our parents."""
    try:
        return any((one.pid, one.start_ticks) == (pid, start_ticks) for one in ancestors())
    except ParentsUnclear:
        return False


def _consent(outer: Call) -> "Prompt | None":
    """Where the hook had the CLI ask, its user has said yes: the CLI would not have run the command else."""
    if outer.decision.verdict != "ask":
        return None

    async def prompt(question: "Question") -> "Answer":
        from custody.calls.questions import Answer

        return Answer(
            verdict="allow",
            by="person",
            reason=f"asked by the CLI, as of call {outer.id[:8]}",
            person="the user of the CLI",
            call_id=question.call_id,
            digest=question.digest,
            session_id=question.session_id,
            rule=question.rule,
        )

    return prompt
