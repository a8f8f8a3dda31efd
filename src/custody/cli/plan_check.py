"""`custody plan check`: all that is wrong with a plan, and how it stands, before anybody acts on it.

Owns how that is laid out for a person, and which plans do not pass. What is found is
`plans.steps.analysis`'s.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from custody.cli.invocation import message
from custody.cli.lines import one_line
from custody.cli.options import json_option
from custody.cli.plan_file import file_argument, read_data, tools_option, tools_there

if TYPE_CHECKING:
    from custody.plans.steps.analysis import PlanReport

LISTED_MAX = 20  # ids in one line for a person: --json has all of them
LINES_MAX = 50  # faults, and whatever else has a line each

CANNOT_FINISH = ("blocked", "deadlocked")
"""States in which a plan without faults does not pass either."""


@click.command(
    "check",
    short_help="Say what is wrong with a plan and how it stands.",
    epilog="Example:  custody plan check release.plan.yaml --tools exec,file_write",
)
@file_argument
@tools_option
@json_option
def check_command(file: str, tools: str | None, as_json: bool) -> int:
    """Say all that is wrong with a plan, what of it can begin, and how it stands (`-`: standard input).

    This is an analysis: nothing is begun, nothing is recorded, and no store is needed. Exits with 0 for a
    sound plan, 1 where something is wrong with it or it cannot be finished (invalid, blocked, deadlocked), 2
    where it cannot be read.
    """
    from custody.plans.steps.analysis import check_data

    report = check_data(read_data(file), tools_there(tools))
    show_report(report, as_json=as_json)
    return 0 if report.valid and report.state not in CANNOT_FINISH else 1


def show_report(report: "PlanReport", *, as_json: bool) -> None:
    """What was found, as a document or for a person."""
    if as_json:
        from custody.cli.document import print_document

        print_document(report)
    else:
        _print_report(report)


def _print_report(report: "PlanReport") -> None:
    from custody.cli.render import fields, heading

    heading("Plan" if report.plan_id is None else f"Plan {one_line(report.plan_id)}")
    _print_some([f"{fault.kind.replace('_', ' ')}: {fault.message}" for fault in report.faults])
    _print_some([f"warning: {warning.message}" for warning in report.warnings])
    counts = msgspec.structs.asdict(report.counts)
    fields(
        [
            ("state", report.state),
            ("why", report.why),
            (
                "actions",
                ", ".join(f"{count:,} {word.replace('_', ' ')}" for word, count in counts.items() if count),
            ),
            ("ready", _listed(report.ready)),
            ("groups", _listed([_listed(group) for group in report.groups], " | ")),
            ("longest way", _listed(report.critical_path, " → ")),
        ]
    )
    _print_some([f"blocked: {' → '.join(one.chain)}" for one in report.blocked if one.chain])
    _print_some([f"to be skipped: {one.action_id}. {one.reason}" for one in report.skipped_next])
    message("this is an analysis: nothing was started.")


def _print_some(lines: Sequence[str]) -> None:
    for line in lines[:LINES_MAX]:
        print(one_line(line))
    if len(lines) > LINES_MAX:
        print(f"… and {len(lines) - LINES_MAX:,} more; --json has all of them")


def _listed(ids: Sequence[str], between: str = ", ") -> str:
    said = between.join(ids[:LISTED_MAX])
    return said if len(ids) <= LISTED_MAX else f"{said} and {len(ids) - LISTED_MAX:,} more"
