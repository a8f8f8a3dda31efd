"""`custody skills run`: a script of a skill as a guarded call, its output shown as it comes.

Owns nothing of what may be run; that is the tool `skill_run`'s. Used by `skills` alone.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import click

from custody.cli.acting import Asked, act, exit_code, explanation
from custody.cli.invocation import message
from custody.cli.options import ACT_OPTIONS, act_options
from custody.cli.skills_shelf import complete_script, complete_skill, dir_option
from custody.records import Call

RUN_TOOL = "skill_run"


@click.command(
    "run",
    epilog="Example:  custody skills run pdf scripts/fill.py -- form.pdf values.json",
)
@dir_option
@act_options(*ACT_OPTIONS)
@click.argument("name", shell_complete=complete_skill)
@click.argument("script", shell_complete=complete_script)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENT...]")
def run_command(
    name: str,
    script: str,
    arguments: tuple[str, ...],
    folders: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> int:
    """Run a script of a skill.

    It runs as a guarded call, and only while every file of the skill is what was installed.

    Exit codes are those of `custody call`; the script's own is in the record and in --json.
    """
    asked = Asked(**options, skills=folders)
    call, lost = asyncio.run(_run(asked, name, script, arguments, live=not as_json))
    if as_json:
        from custody.cli.document import print_document

        print_document(call)
        return exit_code(call)
    if call.dry_run and call.outcome == "succeeded":
        message(f"would run {script} of {name}.")
    elif call.outcome != "succeeded":
        message(f"{name} {script}: {explanation(call)}")
    if lost is not None:
        message(
            f"some of the output could not be written: {lost.strerror}. It is on the record: {call.id[:8]}"
        )
        return exit_code(call) or 1
    return exit_code(call)


async def _run(
    asked: Asked, name: str, script: str, given: Sequence[str], *, live: bool
) -> tuple[Call, OSError | None]:
    """The call, and why some of its output could not be passed on."""
    from custody.cli.copying import Copier
    from custody.cli.exec import standard_input
    from custody.sandbox import Control
    from custody.tools.tool import ProcessIO

    control = Control()
    copier = Copier(control)
    copier.listen()
    io = ProcessIO(on_output=copier.write if live else None, stdin_fd=standard_input(), control=control)
    arguments = {"name": name, "script": script, "args": list(given)}
    call = await act(asked, RUN_TOOL, arguments, own_run=True, io=io, as_recorded=not live)
    return call, copier.lost
