"""Tables of which nothing may be cut: paths, conditions, the names of rules.

Owns what becomes of a table that is wider than its terminal: each row is folded into lines of its own. A pipe
gets the table as every other. Used by `policy_show`.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from custody.cli.invocation import fold_lines, printable
from custody.cli.render import GAP, Cell, Column, Row, console, fields, table, width

if TYPE_CHECKING:
    from rich.text import Text


def whole_table(titles: Sequence[Column | str], rows: Sequence[Row], named: Collection[str] = ()) -> None:
    """Print a table where the terminal is as wide as that, else each row on lines that are folded, those with
    a title of `named` behind it."""
    names = [title.title if isinstance(title, Column) else title for title in titles]
    if _fits(names, rows):
        return table(titles, rows)
    labels = [name if name in named else "" for name in names[1:]]
    return _print_folded([(row[0], list(zip(labels, row[1:], strict=True))) for row in rows])


def whole_fields(pairs: Sequence[tuple[str, str]]) -> None:
    """Print named values, one a line, longer ones folded beside their name."""
    if _fits(["", ""], pairs):
        return fields(pairs)
    return _print_folded([(name, [("", value)]) for name, value in pairs])


def _fits(names: Sequence[str], rows: Sequence[Row]) -> bool:
    room = width()
    if room is None:
        return True
    lines = [names, *([_shown(cell).cell_len for cell in row] for row in rows)]
    natural = [
        max(len(cell) if isinstance(cell, str) else cell for cell in column)
        for column in zip(*lines, strict=True)
    ]
    return sum(natural) + GAP * (len(natural) - 1) <= room


def _print_folded(rows: Iterable[tuple["Cell | str | None", list[tuple[str, "Cell | str | None"]]]]) -> None:
    """Of each row its first cell, and beside it the others that say something, each behind its name."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, GAP, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for first, others in rows:
        said = [(name, text) for name, cell in others if (text := _shown(cell))]
        lines = (Text.assemble((f"{name}: ", "dim"), text) if name else text for name, text in said)
        grid.add_row(_shown(first), Text("\n").join(lines))
    shown_on = console()
    shown_on.width = width() or shown_on.width
    shown_on.print(grid)


def _shown(cell: "Cell | str | None") -> "Text":
    from rich.text import Text

    known = cell if isinstance(cell, Cell) else Cell(cell or "")
    return Text(printable(fold_lines(known.text), keep=""), style=known.style)
