"""`custody tail`: the records as they are written.

Owns the cursor file (where a reader stands, so that it goes on there) and how one record is shown in a
line. A cursor is kept only once what it covers has been written out: a reader that dies sees some
records twice and misses none.
"""

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from custody.cli.options import json_option, load, store_option
from custody.errors import InvalidInput

if TYPE_CHECKING:
    from custody.compose import View
    from custody.journal import Cursor

POLL_SECONDS = 0.2  # how late a follower may hear of a record
ID_FIELDS = ("call_id", "step_id", "run_id", "event_id")
"""What a record is about, the nearest first."""

FLUSH_RECORDS = 1_000  # what is written between two saves of the cursor file while catching up


@click.command(
    "tail", epilog="Example:  custody tail -f --json --cursor ~/.cache/custody.cursor | my-shipper"
)
@click.option("-f", "--follow", is_flag=True, help="Wait for more records.")
@click.option(
    "--cursor", "cursor_file", metavar="FILE", help="Go on after what this file says was seen; keep it there."
)
@store_option
@json_option
def tail_command(follow: bool, cursor_file: str | None, store: str | None, as_json: bool) -> int:
    """Print the records; with -f, as they are written."""
    from custody.compose import open_view

    with open_view(load(store)) as view:
        cursor = None if cursor_file is None else read_cursor(cursor_file)
        while True:
            cursor = _catch_up(view, cursor, cursor_file, as_json=as_json)
            if not follow:
                return 0
            time.sleep(POLL_SECONDS)


def _catch_up(
    view: "View", cursor: "Cursor | None", cursor_file: str | None, *, as_json: bool
) -> "Cursor | None":
    """Print every record after the cursor; returns where that ends."""
    following = view.journal.follow(cursor)
    count = 0
    for stored in following:
        record = view.index.describe(stored)
        sys.stdout.write((_json_line(record) if as_json else _text_line(record)) + "\n")
        count += 1
        if count % FLUSH_RECORDS == 0:
            _save(cursor_file, following.cursor)
    if count:
        _save(cursor_file, following.cursor)
    return following.cursor


def _save(cursor_file: str | None, cursor: "Cursor | None") -> None:
    sys.stdout.flush()
    if cursor_file is not None and cursor is not None:
        write_cursor(cursor_file, cursor)


def read_cursor(path: str) -> "Cursor | None":
    """The cursor kept in a file; None when there is no such file yet. Raises InvalidInput."""
    import msgspec

    from custody.journal import Cursor

    try:
        with open(path, "rb") as file:
            return Cursor.from_json(file.read())
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise InvalidInput(
            f"{path} does not hold a cursor: {error}.", hint="Remove it to start from the beginning."
        ) from None


def write_cursor(path: str, cursor: "Cursor") -> None:
    """Replace the file as a whole, so that a reader killed here finds the old cursor or the new one."""
    beside = f"{path}.{os.getpid()}.new"
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(cursor.to_json())
        os.replace(beside, path)
    except OSError as error:
        raise InvalidInput(f"The cursor cannot be kept in {path}: {error.strerror}.") from None


def _json_line(record: dict[str, Any]) -> str:
    from custody.cli.document import encode

    return encode(record).decode()


def _text_line(record: dict[str, Any]) -> str:
    """Local time, kind, id, and what the record says in a few words."""
    from custody.cli.invocation import fold_lines, printable
    from custody.cli.render import moment, paint

    request: dict[str, Any] = record.get("request") or {}
    at = moment(record.get("at") or request.get("asked_at"))
    clock = paint("--:--:--.---" if at is None else at.strftime("%H:%M:%S.%f")[:-3], "dim")
    identifier = next((record[name] for name in ID_FIELDS if record.get(name)), "")
    words = fold_lines(printable(_words(record, request)))
    return f"{clock}  {record['kind']:<13}  {identifier[:8]}  {words}".rstrip()


def _words(record: dict[str, Any], request: dict[str, Any]) -> str:
    from custody.cli.render import summary

    payload: dict[str, Any] = record.get("payload") or {}
    said: list[str] = []
    if request:
        said += [request["tool"], summary(request["tool"], payload.get("arguments"))]
    said += [str(record[name]) for name in ("name", "outcome", "reason", "model") if record.get(name)]
    said += [str(payload[name]) for name in ("intent",) if payload.get(name)]
    return "  ".join(text for text in said if text)
