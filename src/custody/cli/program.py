"""The `custody` command itself: which commands there are, and what an error looks like.

Owns the groups of the help text, the way from an exception to a message and an exit code, and the
promise that with `--json` standard output holds one document and nothing else. Knows nothing of what a
command does. Used by `custody.cli.main` and by tests.
"""

import errno
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click

from custody import __version__
from custody.cli.invocation import Interrupted, Invocation, fold_lines, message, turn_away
from custody.errors import CustodyError

SECTIONS: dict[str, dict[str, str]] = {
    "Act": {
        "exec": "custody.cli.exec:exec_command",
        "call": "custody.cli.call:call_command",
        "cancel": "custody.cli.call:cancel_command",
        "undo": "custody.cli.undo:undo_command",
        "commit": "custody.cli.held_changes:commit_command",
        "discard": "custody.cli.held_changes:discard_command",
    },
    "Look": {
        "runs": "custody.cli.lists:runs_command",
        "calls": "custody.cli.lists:calls_command",
        "show": "custody.cli.show:show_command",
        "changes": "custody.cli.changes:changes_command",
        "sessions": "custody.cli.lists:sessions_command",
        "tail": "custody.cli.tail:tail_command",
        "top": "custody.cli.top:top_command",
        "stats": "custody.cli.stats:stats_command",
        "sql": "custody.cli.sql:sql_command",
    },
    "Decide": {
        "approvals": "custody.cli.approvals:approvals_command",
        "approve": "custody.cli.approvals:approve_command",
        "deny": "custody.cli.approvals:deny_command",
        "policy": "custody.cli.policy:policy_command",
        "pause": "custody.cli.pause:pause_command",
    },
    "Prove": {
        "verify": "custody.cli.verify:verify_command",
        "prove": "custody.cli.prove:prove_command",
        "checkpoint": "custody.cli.checkpoint:checkpoint_command",
        "export": "custody.cli.export:export_command",
        "import": "custody.cli.import_:import_command",
        "purge": "custody.cli.purge:purge_command",
        "hold": "custody.cli.hold:hold_command",
        "redact": "custody.cli.redact:redact_command",
    },
    "Connect": {
        "init": "custody.cli.init:init_command",
        "install": "custody.cli.install:install_command",
        "uninstall": "custody.cli.install:uninstall_command",
        "status": "custody.cli.install:status_command",
        "serve": "custody.cli.serve:serve_command",
        "token": "custody.cli.token:token_command",
        "mcp": "custody.cli.mcp:mcp_command",
        "proxy": "custody.cli.proxy:proxy_command",
        "skills": "custody.cli.skills:skills_command",
        "plan": "custody.cli.plan:plan_command",
        "doctor": "custody.cli.doctor:doctor_command",
        "demo": "custody.cli.demo:demo_command",
    },
}
"""Section of the help text -> command -> where it is defined. A section without commands is not shown."""

PLUMBING = {"hook": "custody.cli.hook:hook_command"}
"""What other programs call; no part of the help."""

HOMES = {name: home for commands in SECTIONS.values() for name, home in commands.items()}

COMPLETE_VARIABLE = "_CUSTODY_COMPLETE"
SIGNALLED_EXIT_CODE = 128  # plus the signal's number, as shells have it
REFUSED_EXIT_CODE = 125  # timeout(1): the wrapper itself failed
NO_COMMAND: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())  # a group alone; new in click 8.2
OUTPUT_ERRORS = (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT)  # where our output goes, not in Custody


class Program(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        home = HOMES.get(cmd_name) or PLUMBING.get(cmd_name)
        if home is None:
            return None
        import importlib

        module, _, attribute = home.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in HOMES | PLUMBING and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], HOMES, n=2, cutoff=0.5)
            hint = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
            raise click.UsageError(f"There is no command '{args[0]}'.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, names in SECTIONS.items():
            rows = [(name, self._help_line(ctx, name)) for name in names]
            if rows:
                with formatter.section(section):
                    formatter.write_dl(rows)

    def _help_line(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        assert command is not None, "every name in SECTIONS has a home"
        return command.get_short_help_str(limit=78)


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with:  custody exec -- pytest -q   then:  custody runs",
)
@click.version_option(__version__, prog_name="custody", message="%(prog)s %(version)s")
def custody() -> None:
    """Guards and records every act of an agent: checked, put on the record before it runs, measured."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code. Errors have been shown."""
    invocation = Invocation(json="--json" in _own_part(arguments))
    _print_anything()
    warnings.showwarning = _say_warning
    try:
        code = _invoke(list(arguments) or ["--help"], invocation)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return SIGNALLED_EXIT_CODE + signal.SIGINT
    except Interrupted as error:
        code = SIGNALLED_EXIT_CODE + error.number
        if invocation.json:
            name = signal.Signals(error.number).name
            _fail(invocation, "Interrupted", f"{name} ended the call; its end is on the record.", None, code)
        return code
    except BrokenPipeError:
        return _pipe_closed()
    except NO_COMMAND as error:
        if invocation.json:
            return _fail(invocation, "UsageError", "A command is missing.", _help_hint(error), 2)
        print(error.format_message(), file=sys.stderr)
        return 2
    except click.ClickException as error:
        return _fail(invocation, "UsageError", error.format_message(), _help_hint(error), 2)
    except CustodyError as error:
        return _fail(invocation, type(error).__name__, error.message, error.hint, error.exit_code)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in OUTPUT_ERRORS and error.filename is None:
            return _output_lost(error)
        return _bug(invocation, error)


def _invoke(arguments: list[str], invocation: Invocation) -> int:
    """What click's `main` does, without its own answers to an interrupt and a closed pipe."""
    instruction = os.environ.get(COMPLETE_VARIABLE)
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(custody, {}, "custody", COMPLETE_VARIABLE, instruction)
    try:
        with custody.make_context("custody", arguments, obj=invocation) as context:
            return custody.invoke(context) or 0
    except click.exceptions.Exit as done:
        return done.exit_code


def _own_part(arguments: Sequence[str]) -> Sequence[str]:
    """The arguments before `--`: what follows belongs to the command that is to be run."""
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _help_hint(error: click.ClickException) -> str | None:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"See '{context.command_path} --help'." if context is not None else None


def _fail(invocation: Invocation, kind: str, text: str, hint: str | None, code: int) -> int:
    try:
        if invocation.json:
            from custody.cli.document import print_document

            print_document({"error": {"type": kind, "message": text, "hint": hint}})
        else:
            message(text if hint is None else f"{text} {hint}")
    except BrokenPipeError:
        _pipe_closed()
    return REFUSED_EXIT_CODE if invocation.transparent and not invocation.json else code


def _bug(invocation: Invocation, error: Exception) -> int:
    if os.environ.get("CUSTODY_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    text = f"Unexpected {type(error).__name__}: {fold_lines(str(error))} This is a bug in Custody."
    return _fail(invocation, type(error).__name__, text, "CUSTODY_DEBUG=1 shows where it happened.", 1)


def _output_lost(error: OSError) -> int:
    """Say that standard output takes nothing, and let nothing more be flushed into it."""
    turn_away(sys.stdout)
    message(f"The output cannot be written: {error.strerror}.")
    return 1


def _pipe_closed() -> int:
    """Whoever read our output has gone: end quietly, and let nothing be flushed into the closed pipe."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            turn_away(stream)
    return 0


def _say_warning(warning: Warning | str, *_: object) -> None:
    """What Custody warns of is said in its own line; a library's deprecations are not the user's concern."""
    if not isinstance(warning, DeprecationWarning | ResourceWarning):
        message(str(warning))


def _print_anything() -> None:
    """A character the terminal's encoding lacks is shown escaped: no message fails for its own text."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
