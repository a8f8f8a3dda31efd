"""`custody sql`: a question in SQL over the views of the index, and what those views are.

Owns how any table is shown to a person, also one that is wider than the terminal. What may be asked is the
index's to say. Used by the program alone.
"""

import sys
from typing import TYPE_CHECKING, Any

import click

from custody.cli.lines import one_line
from custody.cli.options import Duration, json_option, look, store_option
from custody.errors import InvalidInput

if TYPE_CHECKING:
    from custody.index import SqlAnswer

ROWS_SHOWN = 1_000
ROWS_MAX = 10_000  # the index gives no more

QUERY_BYTES_MAX = 1_000_000
"""Read of standard input: more than the index takes, so that it is the one to say so."""

COLUMN_WIDTH_MIN = 8  # of a table on a terminal: less says nothing, and rows are shown one below the other


@click.command(
    "sql",
    epilog="Example:  custody sql 'SELECT tool, count(*) AS calls FROM calls GROUP BY tool ORDER BY 2 DESC'",
)
@click.argument("query", metavar="[QUERY]", required=False)
@click.option(
    "--limit", type=click.IntRange(1, ROWS_MAX), default=ROWS_SHOWN, show_default=True,
    help="At most so many rows.",
)  # fmt: skip
@click.option(
    "--timeout", "seconds", type=Duration(), default=10.0, metavar="TIME",
    help="Give up after this time [default: 10s].",
)  # fmt: skip
@store_option
@json_option
def sql_command(query: str | None, limit: int, seconds: float, store: str | None, as_json: bool) -> int:
    """Ask in SQL; without a query list the views.

    `-` reads the query from standard input. It can only read: the views runs, calls, steps and events;
    docs/reference/sql-views.md explains them.
    """
    if query is None:
        _print_views(as_json=as_json)
        return 0
    from custody.cli.view import opened

    text = _from_stdin() if query == "-" else query
    with opened(look(store)) as view:
        answer = view.index.sql(text, limit=limit, seconds=seconds)
        if as_json:
            from custody.cli.document import print_document

            print_document(answer)
        else:
            _print(answer, limit)
    return 0


def _from_stdin() -> str:
    data = sys.stdin.buffer.read(QUERY_BYTES_MAX)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInput("The query on standard input is not UTF-8.") from None


def _print_views(*, as_json: bool) -> None:
    """The views as they are in this version; no store is needed to see them."""
    views = _views()
    if as_json:
        from custody.cli.document import print_document

        print_document({"views": [{"name": name, "columns": columns} for name, columns in views.items()]})
        return
    from custody.cli.render import paint

    for name, columns in views.items():
        click.echo(paint(name, "bold"))
        click.echo(click.wrap_text(", ".join(columns), initial_indent="  ", subsequent_indent="  "))
    click.echo("\npayload(id) is the JSON of what was said: arguments, result, text.")
    click.echo("docs/reference/sql-views.md explains every column.")
    click.echo("\nExample:  custody sql 'SELECT tool, outcome, latency_us FROM calls LIMIT 5'")


def _views() -> dict[str, list[str]]:
    """Name of a view -> its columns, asked of an index of nothing."""
    from custody.index.sql import VIEWS
    from custody.journal import Journal
    from custody.settings import MEMORY
    from custody.stores import open_disk, open_index

    journal = Journal(open_disk(MEMORY))
    index = open_index(MEMORY, journal)
    try:
        return {name: index.sql(f"SELECT * FROM {name} LIMIT 0").columns for name in VIEWS}
    finally:
        index.close()
        journal.close()


def _print(answer: "SqlAnswer", limit: int) -> None:
    from custody.cli.invocation import message
    from custody.cli.render import GAP, Column, remark, table, width

    titles = [one_line(name) for name in answer.columns]
    texts = [[_text(value) for value in row] for row in answer.rows]
    if not texts:
        message("no rows.")
        return
    numbers = [
        all(isinstance(row[at], int | float | None) for row in answer.rows)
        and any(row[at] is not None for row in answer.rows)
        for at in range(len(titles))
    ]
    total = width()
    least = sum(max(len(title), COLUMN_WIDTH_MIN) + GAP for title in titles) - GAP
    if total is not None and least > total:
        _print_one_below_the_other(titles, texts)
    else:
        columns = [
            Column(title, number=is_number, flexible=not is_number)
            for title, is_number in zip(titles, numbers, strict=True)
        ]
        table(columns, texts)
    if not answer.complete:
        remark(f"The first {limit:,} rows; --limit shows more, up to {ROWS_MAX:,}.")


def _print_one_below_the_other(titles: list[str], rows: list[list[str | None]]) -> None:
    from custody.cli.render import UNKNOWN, fields, heading

    for at, row in enumerate(rows, 1):
        heading(f"Row {at}")
        fields((title, text or UNKNOWN) for title, text in zip(titles, row, strict=True))


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    from custody.cli.document import encode

    return encode(value).decode()
