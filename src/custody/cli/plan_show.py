"""`custody plan show`: a plan as a picture, as its file says it stands or as a run of it left it.

Owns how a drawn plan is fitted to a terminal. What is drawn is `plans.steps.drawing`'s, how far a run
came `plans.steps.earlier`'s.
"""

import os
import sys
from typing import TYPE_CHECKING

import click

from custody.cli.invocation import message
from custody.cli.lines import begun, cells, folded, one_line
from custody.cli.options import complete_id, json_option, load, store_option
from custody.cli.plan_file import file_argument, read_file, refusal

if TYPE_CHECKING:
    from custody.plans.steps.drawing import Line
    from custody.plans.steps.model import StepPlan
    from custody.plans.steps.shown import Format, ShownPlan

REASON_LINES_MAX = 3  # of one action's reason on a terminal
ROOM_MIN = 16  # columns for words, however deep the tree


@click.command(
    "show",
    short_help="Draw a plan, and how far it has come.",
    epilog="Example:  custody plan show release.plan.yaml --run latest",
)
@file_argument
@click.option(
    "--format",
    "form",
    type=click.Choice(["tree", "mermaid", "json"]),
    default="tree",
    show_default=True,
    help="A tree for people, the source of a Mermaid chart, or one JSON document.",
)
@click.option(
    "--run",
    "run",
    metavar="ID|latest",
    shell_complete=complete_id,
    help="As far as this run of the plan came, by its record [default: as the file says].",
)
@store_option
@json_option
def show_command(file: str, form: "Format", run: str | None, store: str | None, as_json: bool) -> int:
    """Draw a plan: what comes after what, on which condition, and how far each action has come.

    This is an analysis: nothing is begun and nothing is recorded. Only --run looks into a store.
    """
    from custody.plans.steps.analysis import check_plan
    from custody.plans.steps.shown import show_plan

    plan, faults = read_file(file)
    if plan is None:
        raise refusal(faults)
    run_id = None
    if run is not None:
        plan, run_id = _as_left(plan, run, store)
    report = check_plan(plan)
    form = "json" if as_json else form
    shown = show_plan(plan, report, form, run_id)
    if form == "json":
        from custody.cli.document import print_document

        print_document(shown)
    elif form == "mermaid":
        sys.stdout.write(shown.drawing or "")
    else:
        _print_tree(shown)
    if form != "json":
        for fault in report.faults:
            message(f"{fault.kind.replace('_', ' ')}: {one_line(fault.message)}")
    return 0


def _as_left(plan: "StepPlan", run: str, store: str | None) -> "tuple[StepPlan, str]":
    """The plan with the statuses of a run of it, and that run's id. Raises NotFound, UsageError."""
    from custody.cli.view import opened
    from custody.plans.steps.shown import as_left, run_of
    from custody.stores import make_redactor, open_disk

    settings = load(store)
    with opened(settings) as view:
        found = run_of(view.index, plan, run)
        redactor = make_redactor(open_disk(settings.store, create=False), os.environ, settings)
        return as_left(view.index, plan, found, lambda text: redactor.text(text, "text")[0]), found.id


def _print_tree(shown: "ShownPlan") -> None:
    from custody.cli.render import fields, heading, width
    from custody.plans.steps.drawing import tree

    heading(f"Plan {one_line(shown.plan_id)}")
    fields(
        [
            ("goal", shown.goal),
            ("state", shown.state),
            ("why", shown.why),
            ("run", shown.run_id),
        ]
    )
    sys.stdout.write("\n")
    room = width()
    for line in tree(shown.actions):
        _print_line(line, room)


def _print_line(line: "Line", width: int | None) -> None:
    from custody.cli.plan_live import STYLES
    from custody.cli.render import paint
    from custody.plans.steps.drawing import SIGNS, WORDS

    room = None if width is None else max(width - cells(line.branches), ROOM_MIN)
    if line.status is None:  # of the action above: worth more than one line where that is narrow
        for part in folded(line.text, 0, room, REASON_LINES_MAX):
            sys.stdout.write(f"{line.branches}{part}\n")
        return
    status = f"{SIGNS[line.status]} {WORDS[line.status]} "
    text = begun(line.text, 0, None if room is None else max(room - cells(status), ROOM_MIN))
    sys.stdout.write(f"{line.branches}{paint(status, STYLES[line.status])}{text}\n")
