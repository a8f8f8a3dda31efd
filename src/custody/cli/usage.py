"""`custody stats usage`: what models and tools used, added up.

Owns how a sum with unknown parts is shown. Used by `stats`.
"""

from typing import TYPE_CHECKING, Any

import click

from custody.cli.asking import limited, narrowed, say_nothing_found, say_where
from custody.cli.options import look
from custody.cli.render import Cell, at_least, cost, count, number, remark, short, table

if TYPE_CHECKING:
    from custody.index import UsageGroup, UsageReport

GROUPS_SHOWN = 100
BY = ("agent", "tool", "model", "day", "run", "caller", "session")


@click.command("usage", epilog="Example:  custody stats usage --by model --since 7d")
@click.option(
    "--by", type=click.Choice(BY), default="agent", show_default=True, help="What it is added up by."
)
@limited(GROUPS_SHOWN)
@narrowed("run", "session", "agent", "caller")
def usage_command(
    by: str, limit: int, everywhere: bool, store: str | None, as_json: bool, **given: Any
) -> int:
    """Add up tokens, cost, steps and calls by agent, model, day, …"""
    from custody.cli.lists import filter_of
    from custody.cli.view import opened
    from custody.index import Scope

    settings = look(store)
    asked = filter_of(Scope, given, settings, everywhere)
    with opened(settings) as view:
        report = view.index.usage(by, asked, limit)
        if as_json:
            from custody.cli.document import print_document

            print_document(report)
        else:
            _print(report)
            say_where(view, asked, given)
    return 0


def _print(report: "UsageReport") -> None:
    from custody.cli.render import flexible

    if not report.groups:
        say_nothing_found("steps or calls")
        return
    rows: list[list[Cell | str | None]] = [_row(group, _key(report.by, group)) for group in report.groups]
    if len(rows) > 1 or not report.complete:
        rows.append(
            [Cell(cell, "bold") if isinstance(cell, str) else cell for cell in _row(report.total, "total")]
        )
    table(
        [flexible(report.by), number("calls"), number("steps"), number("in"),
         number("cached", optional=True), number("out"), number("reasoning", optional=True), number("cost")],
        rows,
    )  # fmt: skip
    _say_what_is_missing(report)


def _key(by: str, group: "UsageGroup") -> str | None:
    return short(group.key) if by == "run" else group.key


def _row(group: "UsageGroup", name: str | None) -> list[Cell | str | None]:
    if not group.steps:  # calls alone have neither tokens nor cost
        return [name, count(group.calls), count(group.steps), None, None, None, None, None]
    partly = group.steps_without_tokens > 0
    return [
        name,
        count(group.calls),
        count(group.steps),
        at_least(count(group.input_tokens), partly),
        count(group.cache_read_tokens),
        at_least(count(group.output_tokens), partly),
        count(group.reasoning_tokens),
        at_least(cost(group.cost_nano_usd), group.steps_without_cost > 0),
    ]


def _say_what_is_missing(report: "UsageReport") -> None:
    total = report.total
    if total.steps_without_tokens:
        remark(f"{_of(total.steps_without_tokens, total.steps)} said nothing of tokens: sums are ≥ or –.")
    if total.steps_without_cost:
        remark(f"{_of(total.steps_without_cost, total.steps)} could not be priced: sums are ≥ or –.")
    if report.by == "tool" and sum(group.steps for group in report.groups) > total.steps:
        remark("A step that asked for several tools counts for each; in the total it counts once.")
    if not report.complete:
        remark(f"The dearest {len(report.groups)}; --limit shows more. The total is of all.")


def _of(some: int, steps: int) -> str:
    return f"{some:,} of {steps:,} steps" if steps != 1 else "The step"
