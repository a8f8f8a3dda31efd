"""`custody runs`, `custody calls`, `custody sessions`: pages of what was recorded.

Owns the filters as options, the rule that a list shows this workspace unless told otherwise, and the
columns. Used by the program alone.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from custody.cli.asking import ELSEWHERE, OF_PROPOSALS, OPTIONS
from custody.cli.invocation import message
from custody.cli.options import Decorated, json_option, look, page_options, store_option
from custody.cli.room import warn_of_room
from custody.records import Call, Run

if TYPE_CHECKING:
    from custody.index import CallFilter, Index, Page, RunFilter, Session
    from custody.settings import Settings

PLACED = (
    "run", "session", "external_id", "proposal_id", "action_id", "connection", "parent", "workspace",
)  # fmt: skip
"""Filters that already say where to look: with one of them the workspace is not asked."""


def filter_options(decorated: Decorated) -> Decorated:
    """What `runs` and `calls` can both be filtered by."""
    options = [
        OPTIONS["all"],
        click.option("--running", is_flag=True, help="Only those that have not ended."),
        click.option(
            "--outcome", metavar="WORD", help="succeeded failed timed_out cancelled rejected unknown …"
        ),
        *(OPTIONS[name] for name in ("session", "agent", "caller", "workspace", "since", "until")),
        click.option("--parent", metavar="ID", help="Only those made in this one."),
        click.option("--top-level", is_flag=True, help="Only those made in no other."),
        click.option("--text", metavar="WORDS", help='All these words occur; "a phrase" as such.'),
        click.option("--oldest", "order", flag_value="oldest", default=None, help="Oldest first."),
        page_options,
        store_option,
        json_option,
    ]
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def of_proposals(decorated: Decorated) -> Decorated:
    """What calls alone can be filtered by, as actions of a proposal."""
    for name in reversed(OF_PROPOSALS):
        decorated = OPTIONS[name](decorated)
    return decorated


@click.command("runs", epilog="Example:  custody runs --running --all")
@click.option("--name", metavar="NAME", help="Runs of this name.")
@click.option("--external-id", metavar="ID", help="The id another system gave the run.")
@OPTIONS["channel"]
@filter_options
def runs_command(
    everywhere: bool, limit: int, cursor: str | None, store: str | None, as_json: bool, **given: Any
) -> int:
    """List runs, newest first."""
    from custody.cli.view import opened
    from custody.index import RunFilter

    settings = look(store)
    given["running"] = given["running"] or None
    asked = filter_of(RunFilter, given, settings, everywhere)
    with opened(settings) as view:
        page = view.index.runs(asked, limit=limit, cursor=cursor)
        if as_json:
            _print_page(page)
        else:
            print_runs(view.index, page.items)
            _footer(page, _hides(view.index.runs, asked, page, given))
    warn_of_room(settings)
    return 0


@click.command("calls", epilog="Example:  custody calls --outcome failed --since 2h --tool exec")
@OPTIONS["run"]
@OPTIONS["tool"]
@click.option("--effect", metavar="WORD", help="read write irreversible unknown")
@click.option("--external-id", metavar="ID", help="The id another system gave the call.")
@of_proposals
@click.option("--door", metavar="WORD", help="Calls that came in this way: cli, python, …")
@click.option("--dry-run", is_flag=True, default=None, help="Only those that only looked.")
@click.option("--held", is_flag=True, default=None, help="Only those whose changes are held.")
@filter_options
def calls_command(
    everywhere: bool, limit: int, cursor: str | None, store: str | None, as_json: bool, **given: Any
) -> int:
    """List calls, newest first."""
    from custody.cli.view import opened
    from custody.index import CallFilter

    settings = look(store)
    if given.pop("running"):
        given["outcome"] = "running"
    asked = filter_of(CallFilter, given, settings, everywhere)
    with opened(settings) as view:
        page = view.index.calls(asked, limit=limit, cursor=cursor)
        if as_json:
            _print_page(page)
        else:
            print_calls(page.items)
            _footer(page, _hides(view.index.calls, asked, page, given))
    return 0


@click.command("sessions", epilog="Example:  custody sessions")
@page_options
@store_option
@json_option
def sessions_command(limit: int, cursor: str | None, store: str | None, as_json: bool) -> int:
    """List sessions, the last used first."""
    from custody.cli.view import opened

    with opened(look(store)) as view:
        page = view.index.sessions(limit=limit, cursor=cursor)
        if as_json:
            _print_page(page)
        else:
            _print_sessions(page.items)
            _footer(page, hides=False)
    return 0


def filter_of(kind: Any, given: dict[str, Any], settings: "Settings", everywhere: bool) -> Any:
    """The filter the options ask for; the workspace of this folder where they do not say where."""
    import os

    asked = {name: value for name, value in given.items() if value is not None}
    if "workspace" in asked:
        asked["workspace"] = os.path.realpath(asked["workspace"])
    elif not everywhere and not any(name in asked for name in PLACED):
        asked["workspace"] = settings.workspace
    return kind(**asked)


def _hides(lister: Any, asked: "RunFilter | CallFilter", page: "Page[Any]", given: dict[str, Any]) -> bool:
    """Whether the default workspace left out something that would have been on this page."""
    if asked.workspace is None or given.get("workspace") is not None:
        return False
    wider = lister(replace(asked, workspace=None), limit=min(len(page.items) + 1, 1000))
    return any(item.workspace != asked.workspace for item in wider.items)


def _footer(page: "Page[Any]", hides: bool) -> None:
    """What the list does not show."""
    from custody.cli.render import remark

    if page.next is not None:
        remark(f"There are more; go on with --cursor {page.next}")
    if hides:
        remark(ELSEWHERE)


def _print_page(page: "Page[Any]") -> None:
    from custody.cli.document import print_list

    print_list(page.items, page.next)


def print_runs(index: "Index", runs: Sequence[Run]) -> None:
    """A table of runs; with what the model used where one of them has steps."""
    from custody.cli.render import ago, duration, flexible, number, outcome, short, table

    if not runs:
        message("no runs.")
        return
    used = any(run.steps for run in runs)
    table(
        ["run", "started", "agent", flexible("what"), "outcome", number("calls"),
         *([number("cost", optional=True), number("tokens", optional=True)] if used else []),
         number("took", optional=used)],
        [
            [short(run.id), ago(run.started_at), run.agent, what_for(index, run), outcome(run.outcome),
             str(run.calls), *([cost_of(run), _tokens_of(run)] if used else []), duration(run.duration_us)]
            for run in runs
        ],
    )  # fmt: skip


def cost_of(run: Run) -> str | None:
    """What is known of a run's cost; None for a run without steps."""
    from custody.cli.render import at_least, cost

    return at_least(cost(run.totals.cost_nano_usd), run.totals.steps_without_cost > 0) if run.steps else None


def _tokens_of(run: Run) -> str | None:
    """Input and output in one figure, as far as they are known."""
    from custody.cli.render import at_least, count

    known = [run.totals.input_tokens, run.totals.output_tokens]
    if not run.steps or known == [None, None]:
        return None
    partly = run.totals.steps_without_tokens > 0 or None in known
    return at_least(count(sum(value or 0 for value in known)), partly)


def what_for(index: "Index", run: Run) -> str | None:
    """What a run is for: its intent or name; for a run around one command, the command."""
    from custody.cli.render import summary
    from custody.index import CallFilter

    if run.intent or run.name:
        return run.intent or run.name
    first = index.calls(CallFilter(run=run.id, order="oldest"), limit=1).items
    return summary(first[0].tool, first[0].arguments) if first else None


def print_calls(calls: Sequence[Call]) -> None:
    """A table of calls of any run."""
    from custody.cli.render import ago, duration, flexible, number, optional, outcome, short, summary, table

    if not calls:
        message("no calls.")
        return
    table(
        ["call", optional("run"), "asked", optional("agent"), "tool", flexible("what"), "outcome",
         number("took")],
        [
            [short(call.id), short(call.run_id), ago(call.asked_at), call.agent, call.tool,
             summary(call.tool, call.arguments), outcome(call.outcome), duration(call.latency_us)]
            for call in calls
        ],
    )  # fmt: skip


def _print_sessions(sessions: "Sequence[Session]") -> None:
    from custody.cli.render import ago, flexible, number, table

    if not sessions:
        message("no sessions; name one with --session.")
        return
    table(
        ["session", "first", "latest", number("runs"), number("calls"), flexible("agents")],
        [
            [session.id, ago(session.first_at), ago(session.last_at), str(session.runs), str(session.calls),
             ", ".join(session.agents)]
            for session in sessions
        ],
    )  # fmt: skip
