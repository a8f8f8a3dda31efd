"""`custody stats`: questions over many calls and runs. Without the name of one it counts calls by tool.

Owns which questions there are, and the first of them. Used by the program alone.
"""

import difflib
import importlib
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from custody.cli.asking import OF_PROPOSALS, narrowed, say_nothing_found, say_where
from custody.cli.options import look

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from custody.index import Stats

FIRST = "tools"
"""What is asked where no name is given."""

QUESTIONS = {
    FIRST: "custody.cli.stats:tools_command",
    "usage": "custody.cli.usage:usage_command",
    "failures": "custody.cli.questions:failures_command",
    "loops": "custody.cli.questions:loops_command",
    "slowest": "custody.cli.questions:slowest_command",
    "agents": "custody.cli.questions:agents_command",
    "silent": "custody.cli.questions:silent_command",
}
"""Name of a question -> where it is defined."""


class Questions(click.Group):
    """A group whose first command is meant where none is named: `custody stats --since 7d`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        begun = args and args[0].startswith("-") and args[0] not in ctx.help_option_names
        if begun or (not args and not ctx.resilient_parsing):  # completing, any name may still follow
            args = [FIRST, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(QUESTIONS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module, _, attribute = QUESTIONS.get(cmd_name, "").partition(":")
        return getattr(importlib.import_module(module), attribute) if module else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in QUESTIONS:
            near = difflib.get_close_matches(args[0], QUESTIONS, n=1, cutoff=0.5)
            hint = f"Did you mean '{near[0]}'?" if near else f"There are {', '.join(QUESTIONS)}."
            raise click.UsageError(f"There is no question '{args[0]}'. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        found = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            of_first = tools_command.shell_complete(ctx, incomplete)
            known = {item.value for item in found}
            found += [item for item in of_first if item.value not in known]
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, self._help_line(ctx, name)) for name in QUESTIONS]
        with formatter.section("Questions"):
            formatter.write_dl(rows)

    def _help_line(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        assert command is not None, "every name in QUESTIONS has a home"
        return command.get_short_help_str(limit=78)


@click.group(
    "stats",
    cls=Questions,
    subcommand_metavar="[QUESTION] [OPTIONS]",
    options_metavar="",
    epilog="Example:  custody stats usage --by model --since 7d",
)
def stats_command() -> None:
    """Count calls by tool; usage, failures, loops and more by name.

    Every question takes --all, --since, --until, --agent, --store, --json and others; custody stats
    QUESTION --help has them. Without a name it is `tools`.
    """


@click.command(
    "tools",
    context_settings={"allow_extra_args": True},
    epilog="Example:  custody stats tools --worst --min-calls 10 --since 7d",
)
@click.pass_context
@click.option("--worst", is_flag=True, help="Those that succeed least first.")
@click.option(
    "--min-calls", "calls_min", type=click.IntRange(1), default=1, metavar="N",
    help="Only tools with so many calls.",
)  # fmt: skip
@narrowed("run", "session", "agent", "caller", "tool", *OF_PROPOSALS)
def tools_command(
    context: click.Context,
    worst: bool,
    calls_min: int,
    everywhere: bool,
    store: str | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Count calls by tool and outcome, with their latencies."""
    if context.args:
        raise click.UsageError(_misplaced(context.args[0]), context.parent)
    from custody.cli.lists import filter_of
    from custody.cli.view import opened
    from custody.index import CallFilter

    settings = look(store)
    asked = filter_of(CallFilter, given, settings, everywhere)
    with opened(settings) as view:
        stats = view.index.stats(asked)
        tools = [tool for tool in stats.tools if tool.calls >= calls_min]
        if worst:
            tools = view.index.tool_rates(asked, calls_min, refresh=False)
        stats = replace(stats, tools=tools)
        if as_json:
            from custody.cli.document import print_document

            print_document(stats)
        else:
            _print(stats)
            say_where(view, asked, given)
    return 0


def _misplaced(word: str) -> str:
    if word in QUESTIONS:
        return f"The name of a question stands before its options: custody stats {word} …"
    return f"'{word}' is more than this question takes."


def _print(stats: "Stats") -> None:
    from custody.cli.render import count, duration, flexible, number, outcome, percent, table
    from custody.records import OUTCOMES

    if not stats.tools:
        say_nothing_found("calls")
        return
    seen = [name for name in (*OUTCOMES, "running") if stats.by_outcome.get(name)]
    table(
        [flexible("tool"), number("calls"), *(number(outcome(name).text) for name in seen),
         number("success"), number("p50"), number("p95", optional=True), number("p99")],
        [
            [tool.tool, count(tool.calls), *(count(tool.by_outcome.get(name, 0)) for name in seen),
             percent(tool.success_rate),
             duration(tool.latency_p50_us), duration(tool.latency_p95_us), duration(tool.latency_p99_us)]
            for tool in stats.tools
        ],
    )  # fmt: skip
