"""`custody stats`: per tool, how calls ended and how long they took."""

from typing import TYPE_CHECKING, Any

import click

from custody.cli.options import Moment, json_option, load, store_option

if TYPE_CHECKING:
    from custody.index import Stats


@click.command("stats", epilog="Example:  custody stats --since 7d")
@click.option("--all", "everywhere", is_flag=True, help="Not only those of this workspace.")
@click.option("--run", metavar="ID|NAME")
@click.option("--session", metavar="NAME")
@click.option("--agent", metavar="NAME")
@click.option("--caller", metavar="NAME")
@click.option("--tool", metavar="NAME")
@click.option("--since", "since_us", type=Moment(), metavar="TIME", help="2h (ago), 2026-05-01, RFC 3339.")
@click.option("--until", "until_us", type=Moment(), metavar="TIME", help="Before this time.")
@store_option
@json_option
def stats_command(everywhere: bool, store: str | None, as_json: bool, **given: Any) -> int:
    """Count calls by tool and outcome, with their latencies."""
    from custody.cli.lists import filter_of
    from custody.cli.view import opened
    from custody.index import CallFilter

    settings = load(store)
    with opened(settings) as view:
        stats = view.index.stats(filter_of(CallFilter, given, settings, everywhere))
    if as_json:
        from custody.cli.document import print_document

        print_document(stats)
    else:
        _print(stats)
    return 0


def _print(stats: "Stats") -> None:
    from custody.cli.invocation import message
    from custody.cli.render import duration, number, outcome, table
    from custody.records import OUTCOMES

    if not stats.tools:
        message("no calls.")
        return
    seen = [name for name in (*OUTCOMES, "running") if stats.by_outcome.get(name)]
    table(
        ["tool", number("calls"), *(number(outcome(name).text) for name in seen),
         number("p50"), number("p95", optional=True), number("p99")],
        [
            [tool.tool, str(tool.calls), *(str(tool.by_outcome.get(name, 0)) for name in seen),
             duration(tool.latency_p50_us), duration(tool.latency_p95_us), duration(tool.latency_p99_us)]
            for tool in stats.tools
        ],
    )  # fmt: skip
