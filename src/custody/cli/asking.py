"""What lists and the questions of `custody stats` have in common: their filters, and what is said of answers.

Owns the options by which a question is narrowed down and the sentences for nothing found and for more than
was looked at. Used by `lists`, `stats`, `usage` and `questions`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from custody.cli.options import PAGE_ITEMS_MAX, Decorated, Moment, json_option, store_option

if TYPE_CHECKING:
    from custody.stores import View

ELSEWHERE = "Shown is this workspace; --all shows every one."
LATELY_ELSEWHERE = """
SELECT 1 FROM (SELECT workspace FROM runs ORDER BY started_at_us DESC LIMIT 50) WHERE workspace IS NOT ?
"""
"""Whether one of the last runs was in another workspace than the one given."""

OPTIONS: dict[str, Callable[[Any], Any]] = {
    "run": click.option("--run", metavar="ID|NAME", help="Of this run."),
    "session": click.option("--session", metavar="NAME", help="Of this session."),
    "agent": click.option("--agent", metavar="NAME", help="Of this agent."),
    "caller": click.option("--caller", metavar="NAME", help="On whose behalf."),
    "channel": click.option("--channel", metavar="NAME", help="That came in here."),
    "tool": click.option("--tool", metavar="NAME", help="Of this tool."),
    "proposal": click.option("--proposal", "proposal_id", metavar="ID", help="Of this proposal."),
    "action": click.option("--action", "action_id", metavar="ID", help="Made for this action of one."),
    "attempt": click.option(
        "--attempt", type=click.IntRange(1), metavar="N", help="The action's first, second, … attempt."
    ),
    "connection": click.option("--connection", metavar="ID", help="Asked for over this connection."),
    "outcome": click.option("--outcome", metavar="WORD", help="Ended so: failed, timed_out, …"),
    "workspace": click.option("--workspace", metavar="FOLDER", help="Of another workspace."),
    "all": click.option("--all", "everywhere", is_flag=True, help="Not only of this workspace."),
    "since": click.option(
        "--since", "since_us", type=Moment(), metavar="TIME", help="2h (ago), 2026-05-01, RFC 3339."
    ),
    "until": click.option("--until", "until_us", type=Moment(), metavar="TIME", help="Before this time."),
}

OF_PROPOSALS = ("proposal", "action", "attempt", "connection")
"""Options for calls that came as actions of a proposal, or over a connection."""


def narrowed(*names: str) -> Callable[[Decorated], Decorated]:
    """The filters of a question, by name; those of place and time, `--store` and `--json` have all."""

    def decorate(decorated: Decorated) -> Decorated:
        for option in (json_option, store_option):
            decorated = option(decorated)
        for name in reversed([*names, "since", "until", "all", "workspace"]):
            decorated = OPTIONS[name](decorated)
        return decorated

    return decorate


def limited(most: int) -> Callable[[Decorated], Decorated]:
    """`--limit` of an answer that is not paged."""
    return click.option(
        "--limit", type=click.IntRange(1, PAGE_ITEMS_MAX), default=most, show_default=True,
        help="At most so many.",
    )  # fmt: skip


def answer_document(items: list[Any], complete: bool) -> None:
    """The JSON of an answer that has a bound."""
    from custody.cli.document import print_document

    print_document({"items": items, "complete": complete})


def say_nothing_found(what: str) -> None:
    from custody.cli.invocation import message

    message(f"no {what}.")


def say_where(view: "View", asked: Any, given: dict[str, Any]) -> None:
    """Say that only this workspace was asked of, where lately something was done in another.

    `given` are the options: nobody needs to hear of a workspace they named.
    """
    from custody.cli.render import remark

    if asked.workspace is None or given.get("workspace") is not None:
        return
    if view.index.sql(LATELY_ELSEWHERE, (asked.workspace,), limit=1, refresh=False).rows:
        remark(ELSEWHERE)
