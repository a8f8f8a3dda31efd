"""`custody exec`: run a command on the record, and be as the command is.

Owns the likeness: what the command writes is written on while it is captured, it has our standard input
(or a terminal like ours), gets the signals we get, and its exit code is ours. Custody's own refusals are
timeout(1)'s codes. Nothing is said on success.
"""

import os
from collections.abc import Sequence
from typing import Any

import click

from custody import errors
from custody.cli.acting import Asked, act, exit_code, explanation
from custody.cli.invocation import Invocation, message
from custody.cli.options import ACT_OPTIONS, Variable, act_options
from custody.records import Call

TIMED_OUT = 124
REFUSED = 125
WARNINGS_MAX = 10
SIGNALLED = 128  # plus the signal's number


class Transparent(click.Command):
    """A command that stands in for another: its own errors must not look like that one's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.ensure_object(Invocation).transparent = True
        return super().parse_args(ctx, args)


@click.command(
    "exec",
    cls=Transparent,
    context_settings={"allow_interspersed_args": False},
    epilog="Example:  custody exec --timeout 10m -- pytest -q",
)
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND [ARGUMENT]...")
@click.option(
    "--env", "variables", multiple=True, type=Variable(), metavar="NAME[=VALUE]",
    help="A variable the command gets, its name secret-looking or not (repeatable).",
)  # fmt: skip
@click.option("--adopt", metavar="CALL", hidden=True, help="As what a coding CLI's hook has decided on.")
@act_options(*ACT_OPTIONS)
def exec_command(
    argv: tuple[str, ...],
    variables: tuple[tuple[str, str], ...],
    adopt: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Run a command on the record; it looks and exits as always."""
    import asyncio

    asked = Asked(**options)
    call, lost = asyncio.run(_exec(asked, argv, dict(variables), live=not as_json, adopt=adopt))
    if as_json:
        from custody.cli.document import print_document

        print_document(call)
        return exit_code(call)
    say(call, argv, asked.afterwards)
    code = transparent_exit_code(call)
    if lost is not None:
        message(
            f"some of the output could not be written: {lost.strerror}. It is on the record: {call.id[:8]}"
        )
        return code or REFUSED
    return code


async def _exec(
    asked: Asked, argv: Sequence[str], variables: dict[str, str], *, live: bool, adopt: str | None
) -> tuple[Call, OSError | None]:
    """The call, and why some of its output could not be passed on."""
    from custody.cli.copying import Copier
    from custody.sandbox import Control
    from custody.tools.tool import ProcessIO

    control = Control()
    arguments = {"argv": list(argv)}
    if live and at_terminal() and adopt is None:
        from custody.sandbox.terminal import Terminal, terminal_size

        async with Terminal(control) as terminal:
            io = ProcessIO(on_output=terminal.show, terminal=terminal_size(1), control=control)
            call = await act(
                asked, "exec", arguments, own_run=True, io=io, variables=variables,
                aside=terminal.aside,
            )  # fmt: skip
            return call, None
    copier = Copier(control)
    copier.listen()
    io = ProcessIO(on_output=copier.write if live else None, stdin_fd=standard_input(), control=control)
    call = await act(
        asked, "exec", arguments, own_run=True, io=io, variables=variables, as_recorded=not live, adopts=adopt
    )
    return call, copier.lost


def at_terminal() -> bool:
    """Whether the command would find itself at a terminal without Custody."""
    return os.isatty(0) and os.isatty(1) and not _in_background()


def _in_background() -> bool:
    """Whether a shell runs us with `&`: the keys are not ours, and touching the terminal would stop us."""
    try:
        return os.tcgetpgrp(0) != os.getpgrp()
    except OSError:  # not our controlling terminal: nobody controls jobs on it
        return False


def standard_input() -> int | None:
    """Our standard input's descriptor; None where it is closed, or a terminal others have the keys of."""
    try:
        os.fstat(0)
    except OSError:
        return None
    return None if os.isatty(0) and _in_background() else 0


def transparent_exit_code(call: Call) -> int:
    """The exit code timeout(1) or a shell would have given."""
    if call.outcome == "timed_out":
        return TIMED_OUT
    if call.outcome in ("rejected", "unknown", None):
        return REFUSED
    if call.exit_code is not None and call.error is None:
        return call.exit_code
    if call.signal is not None:
        return SIGNALLED + call.signal
    if call.outcome == "succeeded":
        return 0
    kind = getattr(errors, str(call.error and call.error.get("type")), None)
    return getattr(kind, "shell_exit_code", REFUSED)


def say(call: Call, argv: Sequence[str], afterwards: str | None = None) -> None:
    """Custody's own line on standard error, where the command cannot speak for itself."""
    if call.dry_run and call.outcome == "succeeded" and call.level != "transaction":
        import shlex

        message(f"would run: {shlex.join(argv)}")
    elif call.outcome != "succeeded" and not _has_spoken_for_itself(call):
        message(f"{argv[0]}: {explanation(call)}")
    say_of_hosts(call)
    if call.level == "transaction" and call.started_at is not None:
        say_of_changes(call, afterwards)


def _has_spoken_for_itself(call: Call) -> bool:
    if call.error or call.limit_hit not in (None, "output"):
        return False
    return call.exit_code is not None or call.signal is not None


def say_of_hosts(call: Call) -> None:
    """Which hosts its command was refused, and what would allow them."""
    result: dict[str, Any] = call.result or {}
    said: dict[str, dict[str, Any]] = result.get("refused_hosts") or {}
    for why in said.values():
        message(f"refused: {why['reason']} {why['allow'] or ''}".rstrip())


def say_of_changes(call: Call, asked_for: str | None) -> None:
    """What the command of a transaction changed, and what has become of that."""
    id_ = call.id[:8]
    result: dict[str, Any] = call.result or {}
    warnings: list[str] = result.get("warnings") or []
    for warning in warnings[:WARNINGS_MAX]:
        message(warning)
    if call.dry_run:
        lines: list[dict[str, Any]] = result.get("would_change") or []
        for change in lines:
            source = f", from {change['renamed_from']}" if change.get("renamed_from") else ""
            message(f"would be {change['change']}: {change['path']}{source}")
        if not lines:
            message("would change nothing")
    elif call.held == "held":
        message(
            f"changes held: {call.changes_count}. custody show {id_} --diff shows them, "
            f"custody commit {id_} puts them in place, custody discard {id_} drops them"
        )
        if asked_for == "ask":
            message("nobody was there to be asked, or said yes, so they wait")
    elif call.held is not None:
        message(f"changes {call.held}: {call.changes_count}, by call {(call.settled_by or '')[:8]}")
