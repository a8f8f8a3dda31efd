"""A plan while it is worked on: a table that changes on a terminal, lines as they come in a pipe.

Owns how often and how much is drawn. Knows nothing of how actions are run: it is told what became of each.
Used by `plan_run`.
"""

import sys
import time
from collections import Counter, deque
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Self

from custody.cli.invocation import turn_away
from custody.cli.lines import one_line
from custody.cli.render import GAP, Column, duration, fit, flexible, number
from custody.plans.steps.drawing import SIGNS, WORDS, ActionWord
from custody.plans.steps.results import StepResult

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from custody.plans.steps.model import StepPlan

REDRAWN_PER_SECOND = 10  # what a person can follow; drawing more often would only take from the work
ROWS_MIN = 4  # of a terminal so low that it has no room for more
ROWS_BESIDE = 4  # heading, sum, and a line before and after them
LATELY_MAX = 200  # of what ended last: no terminal has more rows
TOOK_WIDTH = 8  # of what takes less than a thousand seconds: the table does not jump about with every digit
REASON_CHARACTERS_MAX = 300  # of a line: `custody show` has all of it

STYLES: dict[ActionWord, str] = {
    "pending": "dim",
    "ready": "dim",
    "in_progress": "cyan",
    "waiting": "yellow",
    "completed": "green",
    "failed": "bold red",
    "skipped": "dim",
}


COLUMNS: tuple[Column, ...] = (
    flexible("Action"), Column("Status"), number("Took", optional=True), flexible("Why"),
)  # fmt: skip
WIDTHS = (
    len("Action"),
    len(f"{SIGNS['in_progress']} {WORDS['in_progress']}"),
    TOOK_WIDTH,
    len("Why"),
)
"""Of each column at least: most actions are in progress at some time."""


class Silent:
    """Nothing is shown: standard output is for one document."""

    listed = True
    """Whether what came of each action has been shown, and stays."""

    lost: OSError | None = None
    """Why some of it could not be shown, unless whoever read it has left."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def changed(self, result: StepResult) -> None:
        """An action began or ended."""

    @contextmanager
    def aside(self) -> Generator[None]:
        """Leave the terminal to whoever asks there."""
        yield


class Lines(Silent):
    """A line for each action that begins or ends. The work goes on where nobody takes them any more."""

    def changed(self, result: StepResult) -> None:
        took = "" if result.duration_s is None else f" ({duration(result.duration_s * 1e6)})"
        again = " again" if result.status == "in_progress" and result.attempts else ""
        why = "" if result.reason is None else f": {_reason(result)}"
        if result.source == "earlier run":
            took = " (in an earlier run)"
        try:
            sys.stdout.write(f"{WORDS[result.status]}{again} {one_line(result.id)}{took}{why}\n")
            sys.stdout.flush()
        except BrokenPipeError:
            turn_away(sys.stdout)
        except OSError as error:
            self.lost = error
            turn_away(sys.stdout)


class LiveTable(Silent):
    """A table of what goes on, gone when it is over."""

    listed = False

    def __init__(self, plan: "StepPlan") -> None:
        from rich.live import Live

        from custody.cli.render import console

        self._console = console()
        self._results = {step.id: StepResult(id=step.id, status="pending") for step in plan.actions}
        self._places = {step.id: place for place, step in enumerate(plan.actions)}
        self._counts: Counter[str] = Counter(pending=len(self._results))
        self._in_progress: dict[str, float] = {}
        """Action -> when it began."""
        self._lately: deque[str] = deque(maxlen=LATELY_MAX)
        """What ended last."""
        self._began = time.monotonic()
        self._live = Live(
            console=self._console,
            get_renderable=self._table,
            refresh_per_second=REDRAWN_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    @contextmanager
    def aside(self) -> Generator[None]:
        """The table goes, and comes back when the question is answered."""
        self._live.stop()
        try:
            yield
        finally:
            self._live.start(refresh=True)

    def changed(self, result: StepResult) -> None:
        """Only noted: the table is drawn by a thread of its own, so many times a second."""
        self._counts[self._results[result.id].status] -= 1
        self._counts[result.status] += 1
        self._results[result.id] = result
        if result.status == "in_progress":
            self._in_progress[result.id] = time.monotonic()
        else:
            self._in_progress.pop(result.id, None)
            self._lately.append(result.id)

    def _table(self) -> "Table":
        from rich.table import Table
        from rich.text import Text

        height = max(self._console.height - ROWS_BESIDE, ROWS_MIN)
        rows = [self._row(self._results[action_id]) for action_id in self._most_urgent(height)]
        longest = [max(row[index].cell_len for row in rows) for index in range(len(COLUMNS))]
        natural = [max(pair) for pair in zip(longest, WIDTHS, strict=True)]
        widths = fit(COLUMNS, natural, self._console.width - GAP)
        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column, width in zip(COLUMNS, widths, strict=True):
            if width:
                justify = "right" if column.number else "left"
                grid.add_column(column.title, no_wrap=True, overflow="ellipsis", width=width, justify=justify)
        for row in rows:
            grid.add_row(*(text for text, width in zip(row, widths, strict=True) if width))
        whole = Table.grid()
        whole.add_row(grid)
        took = _seconds(time.monotonic() - self._began)
        whole.add_row(Text(f"{summed(self._counts)}, {took}"))
        return whole

    def _most_urgent(self, rows: int) -> list[str]:
        """As many as there is room for, in the order of the plan. What is asked of a large plan does not
        grow with it."""
        if len(self._results) <= rows:
            return list(self._results)
        known = [*list(self._in_progress), *reversed(list(self._lately)), *islice(self._results, rows)]
        chosen = list(dict.fromkeys(known))[:rows]
        return sorted(chosen, key=self._places.__getitem__)

    def _row(self, result: StepResult) -> "list[Text]":
        from rich.text import Text

        took = None
        if result.duration_s is not None:
            took = _seconds(result.duration_s)
        elif result.status == "in_progress":
            took = _seconds(time.monotonic() - self._in_progress.get(result.id, self._began))
        status = Text(f"{SIGNS[result.status]} {WORDS[result.status]}", style=STYLES[result.status])
        return [Text(one_line(result.id)), status, Text(took or ""), Text(_reason(result))]


def summed(counts: Mapping[str, int]) -> str:
    """`3 completed, 1 failed of 6`."""
    said = ", ".join(f"{counts[word]:,} {WORDS[word]}" for word in WORDS if counts.get(word))
    return f"{said or 'nothing'} of {sum(counts.values()):,}"


def _reason(result: StepResult) -> str:
    return one_line((result.reason or "")[:REASON_CHARACTERS_MAX])


def _seconds(seconds: float) -> str:
    return duration(seconds * 1e6) or ""


def display(plan: "StepPlan", *, as_json: bool) -> Silent:
    """What fits where standard output goes."""
    if as_json:
        return Silent()
    return LiveTable(plan) if sys.stdout.isatty() else Lines()
