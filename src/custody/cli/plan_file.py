"""A plan that was named on a command line: read, and refused in words where it is none.

Owns the way from a file's name to a plan. Used by the commands of `custody plan`.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from custody.cli.lines import one_line
from custody.cli.options import load
from custody.errors import InvalidInput

if TYPE_CHECKING:
    from custody.plans.steps.model import PlanFault, StepPlan

STANDARD_INPUT = "-"

ANY_TOOL = "*"
"""In place of names: whatever tools a plan asks for are taken to be there."""


file_argument: Callable[[Any], Any] = click.argument("file", type=click.Path())

tools_option: Callable[[Any], Any] = click.option(
    "--tools", metavar="NAMES",
    help="The tools there are, joined by commas; '*': any [default: what `custody call` has here].",
)  # fmt: skip


def complete_action(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """For the shell: actions of the plan whose ids begin so."""
    file = ctx.params.get("file") or next(
        iter(ctx.args), STANDARD_INPUT
    )  # so where an option has no value yet
    if file == STANDARD_INPUT:
        return []
    try:
        plan, _faults = read_file(file)
    except Exception:  # whatever is wrong, the shell has nobody to tell it to
        return []
    return [] if plan is None else [step.id for step in plan.actions if step.id.startswith(incomplete)]


def read_data(file: str) -> Any:
    """What stands in a file (`-`: standard input), whether it is a plan or not. Raises InvalidInput."""
    from custody.plans.steps.texts import TEXT_BYTES_MAX, read_text

    try:
        if file == STANDARD_INPUT:
            data = sys.stdin.buffer.read(TEXT_BYTES_MAX + 1)
        else:
            with open(file, "rb") as opened:
                data = opened.read(TEXT_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InvalidInput(
            f"{file} cannot be read: {why}.", hint="Name a file with a plan, or - for standard input."
        ) from None
    return read_text(data, "" if file == STANDARD_INPUT else os.path.splitext(file)[1])


def read_file(file: str) -> "tuple[StepPlan | None, tuple[PlanFault, ...]]":
    """The plan in a file, and what is wrong with its spelling. Raises InvalidInput."""
    from custody.plans.steps.model import parse_plan

    return parse_plan(read_data(file))


def tools_there(said: str | None) -> frozenset[str] | None:
    """The names of `--tools`, else of what `custody call` offers here; None: any will do."""
    if said == ANY_TOOL:
        return None
    if said is not None:
        return frozenset(filter(None, (name.strip() for name in said.split(","))))
    from custody.offering import tool_names

    return tool_names(load(None))


def refusal(faults: "Sequence[PlanFault]", what: str = "nothing was begun") -> InvalidInput:
    """All that is wrong with a plan, in one error."""
    many = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
    said = "".join(f"\n  {fault.kind.replace('_', ' ')}: {one_line(fault.message)}" for fault in faults)
    return InvalidInput(f"The plan has {many}, and {what}:{said}", faults=tuple(faults))
