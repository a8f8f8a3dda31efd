"""What is to become of actions of a plan that began and nobody knows how they ended, asked at our terminal.

Owns the words, and that whatever is no clear answer leaves the plan stopped. Who may be asked is
`prompting`'s to say, what a decision does `plans.steps.running`'s. Used by `plan_run`.
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from custody.cli.answering import argument_lines
from custody.cli.lines import one_line
from custody.cli.render import SHORT_ID, local_time
from custody.errors import CustodyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from custody.cli.prompting import Aside
    from custody.index import Index
    from custody.plans.steps.results import StepResult, StepsResult
    from custody.records import Call

ASK = "[r]un it again  [d]one: go on without it  [s]top:"
RETRY, DONE, STOP = "retry", "done", "stop"
WORDS: Mapping[str, str] = {
    **dict.fromkeys(("r", "run", "retry", "again"), RETRY),
    **dict.fromkeys(("d", "done"), DONE),
    **dict.fromkeys(("s", "stop"), STOP),
}


class Decided(Struct, frozen=True, kw_only=True):
    """What a person said, as `--retry` and `--done` say it."""

    retry: tuple[str, ...] = ()
    done: tuple[str, ...] = ()


async def decided(result: "StepsResult", aside: "Aside", open_index: "Callable[[], Index]") -> Decided | None:
    """What is decided about every action on which the plan stopped; None where it is to stay stopped, where
    nobody is here to be asked, and where there is nothing to decide about."""
    left = [one for one in result.actions if one.outcome == "unknown" and one.source == "earlier run"]
    if not left:
        return None
    from custody.cli.prompting import terminal_choice

    choice = terminal_choice(aside, open_index)
    if choice is None:
        return None
    said: dict[str, str] = {}
    for one in left:
        try:
            call = await asyncio.to_thread(_call_of, one, open_index)
            word = await choice(question_about(one.id, call), ASK, WORDS)
        except (CustodyError, OSError):
            return None
        if word not in (RETRY, DONE):
            return None
        said[one.id] = word
    return Decided(**{kind: tuple(one for one in said if said[one] == kind) for kind in (RETRY, DONE)})


def _call_of(one: "StepResult", open_index: "Callable[[], Index]") -> "Call":
    return open_index().call(one.call_ids[-1])


def question_about(action_id: str, call: "Call") -> list[str]:
    """What the action was going to do, as the record has it; nothing in it steers the terminal."""
    return list(_lines(action_id, call))


def _lines(action_id: str, call: "Call") -> Iterator[str]:
    short = call.id[:SHORT_ID]
    what = f"{one_line(call.tool)}, call {short}"
    yield f"Action {one_line(action_id)} began, and nobody knows how it ended: {what}"
    for line in argument_lines(call.tool, call.arguments):
        yield f"  {line}"
    if call.cwd is not None:
        yield f"  in: {one_line(call.cwd)}"
    yield f"  began: {local_time(call.started_at or call.asked_at)}"
    yield f"  custody show {short} has all that is known of it"
