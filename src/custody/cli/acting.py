"""What commands that act share: open a runtime, find or make the run, make the call, read its end.

Owns the exit table of a call and the sentence that says why it did not succeed.
"""

import os
import string
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from custody.cli.invocation import Interrupted, message
from custody.cli.options import load
from custody.errors import NotFound, PathRefused, UsageError
from custody.records import Call

if TYPE_CHECKING:
    from custody.calls.handle import RunHandle
    from custody.calls.runtime import Runtime
    from custody.cli.prompting import Aside
    from custody.recorder import Recorder
    from custody.tools.tool import ProcessIO

T = TypeVar("T")

OUTCOME_EXIT_CODES = {
    "succeeded": 0,
    "failed": 1,
    "cancelled": 1,
    "rejected": 3,
    "timed_out": 4,
    "unknown": 6,
}
INPUT_EXIT_CODE = 2

SESSION_CHARACTERS_MAX = 256  # a name to read and to type, kept in every run of the session

ID_DIGITS_MIN = 8  # as tables show ids; anything shorter is a name


class Asked(Struct, frozen=True, kw_only=True):
    """What the options of such a command say."""

    run_name: str | None = None
    session: str | None = None
    agent: str | None = None
    caller: str | None = None
    intent: str | None = None
    timeout: float | None = None
    """Seconds; 0 is no deadline, None the usual one."""
    level: Literal["process", "confined", "transaction"] | None = None
    sandbox: str | None = None
    """Named alone it means confined."""
    afterwards: Literal["discard", "hold", "ask", "commit_if_passed", "commit"] | None = None
    """Named alone it means a transaction."""
    cwd: str | None = None
    roots: tuple[str, ...] = ()
    skills: tuple[str, ...] = ()
    """Folders with skills; none: as elsewhere said."""
    boundary: str | None = None
    dry_run: bool = False
    store: str | None = None


async def act(
    asked: Asked,
    tool: str,
    arguments: Any,
    *,
    own_run: bool,
    io: "ProcessIO | None" = None,
    variables: Mapping[str, str] | None = None,
    as_recorded: bool = False,
    aside: "Aside | None" = None,
    adopts: str | None = None,
) -> Call:
    """Make one call, in the run that was named, or in one of its own, or in none; or, as the call `adopts`
    allows, in that call and as an agent's.

    Where a rule asks, whoever sits at our terminal is asked; `aside` takes its keys from the command's front.

    Raises NotRecorded, OutcomeUnknown, UsageError.
    """
    from custody.sandbox import Launchers

    stated = asked != Asked(timeout=asked.timeout, roots=asked.roots, store=asked.store) or variables
    if adopts is not None and stated:
        raise UsageError(
            "What a hook has decided on has no other options.", hint="Run it as the hook has written it."
        )
    launchers = Launchers()
    if asked.level in (None, "process") and asked.sandbox is None and asked.afterwards is None:
        launchers.prepare()  # it starts while the rest is loaded and the store is opened
    try:
        from custody.compose import open_runtime

        settings = load(asked.store, roots=asked.roots, skills=asked.skills)
        runtime = await open_runtime(
            settings,
            door="cli" if adopts is None else "hook",
            agent=asked.agent,
            caller=asked.caller,
            session=session_of(asked.session),
            environment_added=variables,
            boundary=asked.boundary,
            launchers=launchers,
        )
    except BaseException:
        await launchers.close()
        raise
    if adopts is not None:
        from custody.cli.adopting import adopt

        try:
            return await adopt(
                runtime, adopts, arguments, roots=asked.roots, timeout=asked.timeout, io=io,
                as_recorded=as_recorded,
            )  # fmt: skip
        finally:
            await runtime.close()
    asks = "ask" in (asked.afterwards, settings.file.calls.afterwards)
    if settings.policy_layers or asks:  # else nothing asks
        from custody.cli.prompting import terminal_prompt

        runtime.prompt = terminal_prompt(aside, lambda: runtime.index)
    try:
        return await _call(runtime, asked, tool, arguments, own_run=own_run, io=io, as_recorded=as_recorded)
    finally:
        await runtime.close()


async def act_interruptibly(
    asked: Asked, tool: str, arguments: Any, *, own_run: bool, as_recorded: bool
) -> Call:
    """`act`; a signal to us cancels the call, so that it ends on the record. Raises Interrupted as well."""
    return await interruptibly(act(asked, tool, arguments, own_run=own_run, as_recorded=as_recorded))


async def interruptibly(work: Coroutine[Any, Any, T]) -> T:
    """Work that a signal to us cancels: it ends on the record first. Raises Interrupted."""
    import asyncio
    import signal

    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    received: list[int] = []

    def interrupt(number: int) -> None:
        received.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, interrupt, number)
    try:
        return await task
    except asyncio.CancelledError:
        raise Interrupted(received[0]) from None


async def _call(
    runtime: "Runtime",
    asked: Asked,
    tool: str,
    arguments: Any,
    *,
    own_run: bool,
    io: "ProcessIO | None",
    as_recorded: bool,
) -> Call:
    async def call(run: "RunHandle | None") -> Call:
        made = await runtime.call(
            tool,
            arguments,
            run=run,
            timeout=asked.timeout,
            level=asked.level,
            sandbox=asked.sandbox,
            afterwards=asked.afterwards,
            dry_run=asked.dry_run,
            agent=asked.agent,
            caller=asked.caller,
            cwd=asked.cwd,
            io=io,
            as_recorded=as_recorded,
        )
        return made if as_recorded else _sayable(made, runtime.ledger.recorder)

    if asked.run_name is not None:
        return await call(await shared_run(runtime, asked.run_name, asked.intent))
    if not own_run:
        return await call(None)
    async with runtime.run(asked.intent) as run:
        made = await call(run)
        await run.finish(made.outcome, reason=made.reason)
        return made


def _sayable(call: Call, recorder: "Recorder") -> Call:
    """Its error becomes a line of ours on standard error: without secrets, whatever its result has."""
    if call.error is None or call.error.get("message") is None:
        return call
    words, _ = recorder.clean_text(str(call.error["message"]), "error.message")
    return msgspec.structs.replace(call, error={**call.error, "message": words})


async def shared_run(runtime: "Runtime", name_or_id: str, intent: str | None) -> "RunHandle":
    """The run of that id, if there is one; else the open run of that name, or a new one."""
    if len(name_or_id) >= ID_DIGITS_MIN and not name_or_id.strip(string.hexdigits):
        try:
            return await runtime.join(name_or_id)
        except NotFound:
            pass
    # It lives as long as whoever runs these commands: the shell or script we were started by.
    return await runtime.named_run(name_or_id, intent=intent, owner_pid=os.getppid())


def session_of(name: str | None) -> str | None:
    """The session's id; a name that cannot be one is said and left out, as it never fails the call."""
    if name is None:
        return None
    if name.strip() and name.isprintable() and len(name) <= SESSION_CHARACTERS_MAX:
        return name.strip()
    message(f"{name[:40]!r} cannot name a session; the call goes on without one.")
    return None


def exit_code(call: Call) -> int:
    """The exit table of the README."""
    if call.outcome == "rejected" and call.decision.by == "schema":
        return INPUT_EXIT_CODE
    if call.outcome == "failed" and call.error is not None and call.error.get("type") == PathRefused.__name__:
        return PathRefused.exit_code  # what a path leads to is known for certain only once it is opened
    return OUTCOME_EXIT_CODES[call.outcome or "unknown"]


def explanation(call: Call) -> str | None:
    """Why the call did not succeed, and what to do; None when it did."""
    if call.outcome == "rejected":
        from custody.cli.refusing import refusal

        return refusal(call)
    if call.outcome == "timed_out":
        return f"{call.reason}; what it had started was ended. --timeout sets another limit, 0 none."
    if call.outcome == "unknown":
        return f"the outcome is unknown: {call.reason}."
    if call.outcome == "failed" and call.error is not None:
        return str(call.error.get("message") or call.reason)
    return call.reason
