"""`custody stats failures`, `loops`, `slowest`, `agents` and `silent`: what goes wrong, and who does what.

Owns the options and columns of each. Used by `stats`.
"""

from typing import TYPE_CHECKING, Any

import click

from custody.cli.asking import OF_PROPOSALS, answer_document, limited, narrowed, say_nothing_found, say_where
from custody.cli.options import Duration, look
from custody.cli.render import (
    Cell,
    ago,
    count,
    duration,
    flexible,
    number,
    optional,
    outcome,
    outcomes,
    remark,
    short,
    summary,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from custody.index import Bounded, FailurePattern, Index, Loop, Loops, SilentRun
    from custody.records import Call, Run

ITEMS_SHOWN = 20  # a screen
SILENT_SECONDS = 600.0  # longer than a model thinks and most tools work


@click.command("failures", epilog="Example:  custody stats failures --min-count 3 --since 7d")
@click.option(
    "--min-count", "count_min", type=click.IntRange(1), default=2, show_default=True, metavar="N",
    help="Only what happened so often.",
)  # fmt: skip
@limited(ITEMS_SHOWN)
@narrowed("run", "session", "agent", "caller", "tool", "outcome", *OF_PROPOSALS)
def failures_command(
    count_min: int, limit: int, everywhere: bool, store: str | None, as_json: bool, **given: Any
) -> int:
    """Group failures of a tool that are alike, the most frequent first."""
    from custody.cli.lists import filter_of
    from custody.cli.view import opened
    from custody.index import CallFilter

    settings = look(store)
    asked = filter_of(CallFilter, given, settings, everywhere)
    with opened(settings) as view:
        found = view.index.failure_patterns(asked, count_min, limit)
        if as_json:
            answer_document(found.items, found.complete)
        else:
            _print_failures(found, count_min)
            say_where(view, asked, given)
    return 0


def _print_failures(found: "Bounded[FailurePattern]", count_min: int) -> None:
    if not found.items:
        often = "failures" if count_min == 1 else f"failures that are alike, {count_min} times or more"
        say_nothing_found(often)
        return
    table(
        [number("times"), "tool", flexible("what it says"), "latest", "example"],
        [
            [count(one.count), one.tool, one.pattern, ago(one.last_at), short(one.example_id)]
            for one in found.items
        ],
    )  # fmt: skip
    if not found.complete:
        remark(f"The {len(found.items)} most frequent; --limit shows more.")


@click.command("loops", epilog="Example:  custody stats loops --min-repeats 5 --since 1d")
@click.option(
    "--min-repeats", "repeats_min", type=click.IntRange(2), default=3, show_default=True, metavar="N",
    help="Only what was repeated so often.",
)  # fmt: skip
@limited(ITEMS_SHOWN)
@narrowed("run", "session", "agent", "caller")
def loops_command(
    repeats_min: int, limit: int, everywhere: bool, store: str | None, as_json: bool, **given: Any
) -> int:
    """Find runs that repeat one call with equal arguments."""
    from custody.cli.lists import filter_of
    from custody.cli.view import opened
    from custody.index import Scope

    settings = look(store)
    asked = filter_of(Scope, given, settings, everywhere)
    with opened(settings) as view:
        found = view.index.loops(asked, repeats_min, limit)
        if as_json:
            from custody.cli.document import print_document

            print_document(found)
        else:
            _print_loops(found, limit)
            say_where(view, asked, given)
    return 0


def _print_loops(found: "Loops", limit: int) -> None:
    if not found.items:
        say_nothing_found("loops")
    else:
        table(
            [number("times"), "run", "calls", "tool", flexible("what"), optional("outcome"), "latest"],
            [
                [count(loop.repeats), short(loop.run_id), _positions(loop), loop.tool, loop.arguments,
                 outcomes(loop.by_outcome), ago(loop.last_at)]
                for loop in found.items
            ],
        )  # fmt: skip
    if not found.complete and len(found.items) == limit:
        remark(f"The longest {limit}; --limit shows more.")
    elif not found.complete:
        remark(
            f"Looked at {found.runs_searched:,} runs, the latest, and {found.calls_compared:,} calls; "
            "--since, --agent or --run narrow it down."
        )


def _positions(loop: "Loop") -> str | None:
    if loop.first_position is None or loop.last_position is None:
        return None
    return f"#{loop.first_position}–#{loop.last_position}"


@click.command("slowest", epilog="Example:  custody stats slowest --limit 5 --tool exec")
@limited(ITEMS_SHOWN)
@narrowed("run", "session", "agent", "caller", "tool", "outcome", *OF_PROPOSALS)
def slowest_command(limit: int, everywhere: bool, store: str | None, as_json: bool, **given: Any) -> int:
    """List the calls that took longest."""
    from custody.cli.lists import filter_of
    from custody.cli.view import opened
    from custody.index import CallFilter

    settings = look(store)
    asked = filter_of(CallFilter, given, settings, everywhere)
    with opened(settings) as view:
        found = view.index.slowest(asked, limit)
        if as_json:
            from custody.cli.document import print_list

            print_list(found, None)
        else:
            _print_slowest(found)
            say_where(view, asked, given)
    return 0


def _print_slowest(found: "Sequence[Call]") -> None:
    if not found:
        say_nothing_found("calls that have ended")
        return
    table(
        [number("took"), "call", optional("run"), "asked", optional("agent"), "tool", flexible("what"),
         "outcome"],
        [
            [duration(call.latency_us), short(call.id), short(call.run_id), ago(call.asked_at), call.agent,
             call.tool, summary(call.tool, call.arguments), outcome(call.outcome)]
            for call in found
        ],
    )  # fmt: skip


@click.command("agents", epilog="Example:  custody stats agents --since 7d")
@click.option(
    "--by", type=click.Choice(["agent", "name"]), default="agent", show_default=True,
    help="The last run of each agent, or of each run's name.",
)  # fmt: skip
@narrowed("session", "agent", "caller", "channel")
def agents_command(by: str, everywhere: bool, store: str | None, as_json: bool, **given: Any) -> int:
    """Show the last run of each agent, the latest first."""
    from custody.cli.lists import filter_of
    from custody.cli.view import opened
    from custody.index import RunFilter

    settings = look(store)
    asked = filter_of(RunFilter, given, settings, everywhere)
    with opened(settings) as view:
        found = view.index.last_runs(by, asked)
        if as_json:
            answer_document(found.items, found.complete)
        else:
            _print_agents(view.index, found, by)
            say_where(view, asked, given)
    return 0


def _print_agents(index: "Index", found: "Bounded[Run]", by: str) -> None:
    from custody.cli.lists import cost_of, what_for

    if not found.items:
        say_nothing_found("runs")
        return
    table(
        [by, "run", "started", flexible("what"), "outcome", number("calls"), number("cost", optional=True),
         number("took")],
        [
            [run.agent if by == "agent" else run.name, short(run.id), ago(run.started_at),
             what_for(index, run), outcome(run.outcome), count(run.calls), cost_of(run),
             duration(run.duration_us)]
            for run in found.items
        ],
    )  # fmt: skip
    _say_incomplete(found)


@click.command("silent", epilog="Example:  custody stats silent --for 30m")
@click.option(
    "--for", "silent_seconds", type=Duration(), default=SILENT_SECONDS, metavar="TIME",
    help="Nothing was recorded of them for so long: 90s, 10m, 1h [default: 10m].",
)  # fmt: skip
@narrowed("session", "agent", "caller", "channel")
def silent_command(
    silent_seconds: float, everywhere: bool, store: str | None, as_json: bool, **given: Any
) -> int:
    """Find open runs of which nothing was heard for a while."""
    from custody.cli.lists import filter_of
    from custody.cli.view import opened
    from custody.index import RunFilter

    settings = look(store)
    asked = filter_of(RunFilter, given, settings, everywhere)
    with opened(settings) as view:
        found = view.index.silent_runs(round(silent_seconds * 1e6), asked)
        if as_json:
            answer_document(found.items, found.complete)
        else:
            _print_silent(view.index, found)
            say_where(view, asked, given)
    return 0


def _print_silent(index: "Index", found: "Bounded[SilentRun]") -> None:
    from custody.cli.lists import what_for

    if not found.items:
        say_nothing_found("runs that are silent")
        return
    table(
        [number("silent for"), "run", "agent", flexible("what"), "started", number("calls"),
         number("running")],
        [
            [duration(one.silent_us), short(one.run.id), one.run.agent, what_for(index, one.run),
             ago(one.run.started_at), count(one.run.calls), Cell(f"{one.running_calls:,}", "")]
            for one in found.items
        ],
    )  # fmt: skip
    _say_incomplete(found)


def _say_incomplete(found: "Bounded[Any]") -> None:
    if not found.complete:
        remark(f"The first {len(found.items):,}; --since, --agent or --session narrow it down.")
