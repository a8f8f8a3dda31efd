"""Tables, times, sizes: how a person sees what was recorded.

Owns the words for a duration or a moment, the colour of an outcome, and the difference between a
terminal (rich tables, fitted to its width) and a pipe (plain columns, nothing cut). Unknown is a dash.
Used by the commands that print for a person.
"""

import math
import os
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from custody.cli.invocation import fold_lines, message, printable

if TYPE_CHECKING:
    from rich.console import Console

    from custody.records import Redaction

UNKNOWN = "–"
SHORT_ID = 8
"""Hex digits of an id in a table: 32 bits tell a store's calls apart for a person who then reads one."""

FLEXIBLE_WIDTH_MIN = 16  # characters of a command by which a person still knows it
GAP = 2  # between columns
LINE_WIDTH_MIN = 40  # a terminal that says it is narrower, or does not know, gets lines that wrap

OUTCOME_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "timed_out": "yellow",
    "cancelled": "yellow",
    "rejected": "magenta",
    "unknown": "bold red",
    "incomplete": "bold red",
    "running": "cyan",
}


class Column:
    """A column of a table: its title, and what may happen to it."""

    def __init__(
        self, title: str, *, number: bool = False, flexible: bool = False, optional: bool = False
    ) -> None:
        self.title = title
        self.number = number
        """Stands at the right."""
        self.flexible = flexible
        """Its cells are shortened where a terminal is narrow."""
        self.optional = optional
        """It is left out where a terminal is so narrow that nothing would be left of the flexible ones."""


def number(title: str, *, optional: bool = False) -> Column:
    return Column(title, number=True, optional=optional)


def flexible(title: str) -> Column:
    return Column(title, flexible=True)


def optional(title: str) -> Column:
    return Column(title, optional=True)


class Cell:
    """A text with a style (a rich style, used where there are colours)."""

    def __init__(self, text: str, style: str = "") -> None:
        self.text = text
        self.style = style


Row = Sequence["Cell | str | None"]


def console() -> "Console":
    from rich.console import Console

    return Console(highlight=False, emoji=False, markup=False)


def table(titles: Sequence[Column | str], rows: Iterable[Row]) -> None:
    """Print a table on standard output."""
    columns = [Column(title) if isinstance(title, str) else title for title in titles]
    cells = [[_cell(value) for value in row] for row in rows]
    if sys.stdout.isatty():
        _rich_table(columns, cells)
    else:
        _plain_table(columns, cells)


def _cell(value: "Cell | str | None") -> Cell:
    if value is None or value == "":
        return Cell(UNKNOWN, "dim")
    cell = value if isinstance(value, Cell) else Cell(value)
    return Cell(printable(fold_lines(cell.text), keep=""), cell.style)


def _plain_table(columns: Sequence[Column], rows: list[list[Cell]]) -> None:
    lines = [[column.title for column in columns], *([cell.text for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        padded = [
            text.rjust(width) if column.number else text.ljust(width)
            for column, width, text in zip(columns, widths, line, strict=True)
        ]
        sys.stdout.write((" " * GAP).join(padded).rstrip() + "\n")


def _rich_table(columns: Sequence[Column], rows: list[list[Cell]]) -> None:
    from rich.table import Table
    from rich.text import Text

    shown_on = console()
    texts = [[Text(cell.text, style=cell.style) for cell in row] for row in rows]
    natural = [
        max([len(column.title), *(row[index].cell_len for row in texts)])
        for index, column in enumerate(columns)
    ]
    widths = fit(columns, natural, shown_on.width)
    grid = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column, width in zip(columns, widths, strict=True):
        if width:
            grid.add_column(
                column.title,
                justify="right" if column.number else "left",
                no_wrap=True,
                overflow="ellipsis",
                width=width,
            )
    for row in texts:
        grid.add_row(*(text for text, width in zip(row, widths, strict=True) if width))
    shown_on.width = max(shown_on.width, sum(widths) + GAP * len(widths))  # else rich cuts what must stay
    shown_on.print(grid)


def fit(columns: Sequence[Column], natural: Sequence[int], total: int) -> list[int]:
    """The width of each column in a terminal `total` wide; 0 leaves a column out.

    Columns that are neither flexible nor optional always have their natural width, even if lines wrap.
    """
    widths = list(natural)
    flexible = [index for index, column in enumerate(columns) if column.flexible]
    least = sum(min(natural[index], FLEXIBLE_WIDTH_MIN) for index in flexible)

    def fixed() -> int:
        shown = [index for index, width in enumerate(widths) if width]
        return sum(widths[index] for index in shown if index not in flexible) + GAP * (len(shown) - 1)

    for index, column in reversed(list(enumerate(columns))):
        if column.optional and fixed() + least > total:
            widths[index] = 0
    room = max(total - fixed(), least)
    for done, index in enumerate(sorted(flexible, key=lambda index: natural[index])):
        # The narrowest first: what it does not need of its share is the others'.
        widths[index] = min(natural[index], max(room // (len(flexible) - done), 1))
        room -= widths[index]
    return widths


def fields(pairs: Iterable[tuple[str, "Cell | str | None"]]) -> None:
    """Print named values, one a line, leaving out what is unknown."""
    shown = [(name, _cell(value)) for name, value in pairs if value not in (None, "")]
    width = max((len(name) for name, _ in shown), default=0)
    for name, cell in shown:
        sys.stdout.write(f"{paint(name.ljust(width), 'dim')}  {paint(cell.text, cell.style)}\n")


ANSI = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "magenta": "35", "cyan": "36"}


def paint(text: str, style: str) -> str:
    """`text` in a style where standard output is a terminal with colours."""
    if not style or not _colours():
        return text
    codes = ";".join(ANSI[word] for word in style.split())
    return f"\x1b[{codes}m{text}\x1b[0m"


def _colours() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width() -> int | None:
    """Columns of the terminal; None where a pipe gets all of a line."""
    if not sys.stdout.isatty():
        return None
    import shutil

    return max(shutil.get_terminal_size().columns, LINE_WIDTH_MIN)


def heading(text: str) -> None:
    sys.stdout.write(f"\n{paint(text, 'bold')}\n")


def redacted(hits: "Iterable[Redaction]") -> None:
    """Print where something was replaced, if anywhere."""
    lines = [f"{hit.path}: {hit.rule}" + (f" × {hit.count}" if hit.count > 1 else "") for hit in hits]
    if lines:
        heading("Redacted")
        sys.stdout.write(printable("\n".join(lines)) + "\n")


def remark(text: str) -> None:
    """A remark about what was printed: below it, or on standard error where a pipe gets the table."""
    if sys.stdout.isatty():
        sys.stdout.write(paint(printable(text), "dim") + "\n")
    else:
        message(text)


def outcome(name: str | None, *, ran: bool = True) -> Cell:
    """The outcome of a call or a run; a call or run without one is running."""
    shown = name or ("running" if ran else UNKNOWN)
    return Cell(shown.replace("_", " "), OUTCOME_STYLES.get(shown, ""))


def short(identifier: str | None) -> str | None:
    return None if identifier is None else identifier[:SHORT_ID]


def duration(us: float | None) -> str | None:
    """Microseconds as a person says them, to three digits."""
    if us is None:
        return None
    for limit, divisor, unit in ((1e3, 1, "µs"), (1e6, 1e3, "ms"), (60e6, 1e6, "s")):
        shown = float(f"{us / divisor:.3g}")
        if shown * divisor < limit:
            return f"{shown:g} {unit}"
    minutes, rest = divmod(round(us / 1e6), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float | None) -> str | None:
    """Bytes as a person says them, to three digits or the last whole one."""
    if count is None:
        return None
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if count < 1024:
            break
        count, unit = count / 1024, larger
    return f"{count:.0f} {unit}" if count >= 999.5 else f"{count:.3g} {unit}"


def count(value: int | None) -> str | None:
    """A number of things, its thousands set apart."""
    return None if value is None else f"{value:,}"


def cost(nano_usd: int | None) -> str | None:
    """Dollars: cents from one dollar on, below it four places, two digits of what is smaller still."""
    if nano_usd is None:
        return None
    usd = nano_usd / 1e9
    if nano_usd == 0:
        return "$0"
    if usd >= 0.99995:  # what four places would show as 1.0000
        return f"${usd:,.2f}"
    if usd >= 0.001:
        return f"${usd:.4f}"
    places = 1 - math.floor(math.log10(usd))
    return f"${usd:.{places}f}".rstrip("0")


def at_least(text: str | None, partial: bool) -> str | None:
    """A sum of which some parts are unknown."""
    return f"≥ {text}" if partial and text is not None else text


def percent(rate: float | None) -> str | None:
    """A share to a tenth, rounded down: only all of them are 100 %."""
    return None if rate is None else f"{math.floor(rate * 1000 + 1e-9) / 10:g} %"


def outcomes(by_outcome: dict[str, int]) -> str:
    """`3 succeeded, 1 timed out`."""
    return ", ".join(f"{times:,} {name.replace('_', ' ')}" for name, times in by_outcome.items() if times)


def moment(text: str | None) -> datetime | None:
    """An RFC 3339 time of a read model, in the local zone."""
    return None if text is None else datetime.fromisoformat(text).astimezone()


def ago(text: str | None) -> str | None:
    """How long ago, within a day; the local date and time before that."""
    at = moment(text)
    if at is None:
        return None
    passed = time.time() - at.timestamp()
    if passed < 1:
        return "now"
    if passed < 60:
        return f"{passed:.0f} s ago"
    if passed < 3600:
        return f"{passed / 60:.0f} min ago"
    if passed < 86400:
        return f"{passed / 3600:.0f} h ago"
    return at.strftime("%Y-%m-%d %H:%M")


def local_time(text: str | None) -> str | None:
    """The full local time, and how long ago where that is within a day."""
    at = moment(text)
    if at is None:
        return None
    passed = ago(text)
    exact = at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + at.strftime(" %z")
    return f"{exact} ({passed})" if passed is not None and passed.endswith(("now", "ago")) else exact


def summary(tool: str, arguments: Any) -> str:
    """A call in one line: the command for a process, else the tool and its arguments."""
    if arguments is None:  # every call is recorded with some, if only with none: `{}`
        return "(purged)"
    if isinstance(arguments, dict):
        given = cast("dict[str, Any]", arguments)
        argv: Any = given.get("argv")
        if tool == "exec" and isinstance(argv, list):
            import shlex

            return shlex.join(str(word) for word in cast("list[Any]", argv))
        if tool == "shell" and isinstance(given.get("command"), str):
            return given["command"]
    from custody.cli.document import encode

    return "" if arguments == {} else encode(arguments).decode()
