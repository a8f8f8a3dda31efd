"""`custody tail`: the records as they are written.

Owns how one record is shown in a line, and where records come from: the store's folder, or a daemon. A cursor
is kept only once what it covers has been written out: a reader that dies sees some records twice and misses
none.
"""

import sys
import time
from typing import TYPE_CHECKING, Any, cast

import click

from custody.cli.cursor import read_cursor, write_cursor
from custody.cli.options import json_lines_option, look, store_option
from custody.errors import Denied, UsageError

if TYPE_CHECKING:
    from custody.journal import Cursor
    from custody.stores import View

POLL_SECONDS = 0.2  # how late a follower may hear of a record
WAIT_SECONDS = 25.0  # for which a daemon is asked to wait for the next one; then it is asked again
ID_FIELDS = ("call_id", "step_id", "run_id", "event_id")
"""What a record is about, the nearest first."""

TEXT_CHARACTERS_MAX = 200  # of what a model said: `show` has more
LONG_EVENTS = ("host.sampled",)  # forty readings: `--json` has them
MARGIN = 12 + 13 + 8 + 3 * 2  # columns before the words: time, kind, id
FLUSH_RECORDS = 1_000  # what is written between two saves of the cursor file while catching up


@click.command(
    "tail", epilog="Example:  custody tail -f --json --cursor ~/.cache/custody.cursor | my-shipper"
)
@click.option("-f", "--follow", is_flag=True, help="Wait for more records.")
@click.option(
    "--cursor", "cursor_file", metavar="FILE", help="Go on after what this file says was seen; keep it there."
)
@click.option("--url", metavar="URL", help="Of a daemon elsewhere: wss://host:port.")
@click.option(
    "--token", metavar="TOKEN", help="An auditor's or operator's [env: CUSTODY_TOKEN, CAR_AUTH_TOKEN]."
)
@store_option
@json_lines_option
def tail_command(
    follow: bool,
    cursor_file: str | None,
    url: str | None,
    token: str | None,
    store: str | None,
    as_json: bool,
) -> int:
    """Print the records; with -f, as they are written."""
    if url is not None:
        return _tail_daemon(url, token, store, cursor_file, follow=follow, as_json=as_json)
    if token is not None:
        raise UsageError("A token is for a daemon.", hint="Name it with --url.")
    from custody.stores import open_view

    with open_view(look(store)) as view:
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


def _tail_daemon(
    url: str, token: str | None, store: str | None, cursor_file: str | None, *, follow: bool, as_json: bool
) -> int:
    """The same of a daemon's records; when the connection breaks, from where it stood."""
    from custody.client import Address, BlockingRemoteRuntime, Speaker
    from custody.compose import daemon_token
    from custody.journal import Cursor
    from custody.rpc.tokens import HOST_TOKEN

    address = Address.of(url)
    cursor = (None if cursor_file is None else read_cursor(cursor_file)) or Cursor()
    # On its own machine whoever may read the store may read it through its daemon.
    speaker = Speaker(token=token or daemon_token(address, store, HOST_TOKEN))
    with BlockingRemoteRuntime(address, speaker).open() as runtime:
        while True:
            try:
                records, places = runtime.index.records(
                    dict(cursor.places), FLUSH_RECORDS, wait_seconds=WAIT_SECONDS if follow else 0.0
                )
            except Denied as error:
                raise Denied(
                    f"That token does not see what others do ({error.message}).",
                    hint="`custody token create NAME --role auditor` makes one that does.",
                ) from None
            for record in records:
                sys.stdout.write((_json_line(record) if as_json else _text_line(record)) + "\n")
            cursor = Cursor(places)
            if records:
                _save(cursor_file, cursor)
            elif not follow:
                return 0


def _save(cursor_file: str | None, cursor: "Cursor | None") -> None:
    sys.stdout.flush()
    if cursor_file is not None and cursor is not None:
        write_cursor(cursor_file, cursor)


def _json_line(record: dict[str, Any]) -> str:
    from custody.cli.document import encode

    return encode(record).decode()


def _text_line(record: dict[str, Any]) -> str:
    """Local time, kind, id, and what the record says in a few words; on a terminal one line of it."""
    from custody.cli.lines import begun, one_line
    from custody.cli.render import moment, paint, width

    request: dict[str, Any] = record.get("request") or {}
    at = moment(record.get("at") or request.get("asked_at"))
    clock = paint("--:--:--.---" if at is None else at.strftime("%H:%M:%S.%f")[:-3], "dim")
    identifier = next((record[name] for name in ID_FIELDS if record.get(name)), "")
    words = "  ".join(filter(None, map(one_line, _words(record, request))))
    columns = width()
    room = None if columns is None else columns - MARGIN
    return f"{clock}  {record['kind']:<13}  {identifier[:8]}  {begun(words, 0, room)}".rstrip()


def _words(record: dict[str, Any], request: dict[str, Any]) -> list[str]:
    from custody.cli.render import duration, summary
    from custody.cli.timeline import event_words

    payload: dict[str, Any] = record.get("payload") or {}
    if record["kind"] == "step":
        return _step_words(record, payload)
    if record["kind"] == "event":
        data = payload.get("data") if record.get("data") is None else record["data"]
        return [record["name"], "" if record["name"] in LONG_EVENTS else event_words(record["name"], data)]
    said: list[str] = []
    if request:
        said += [request["tool"], summary(request["tool"], payload.get("arguments"))]
    said += [str(record[name]) for name in ("name", "outcome", "reason") if record.get(name)]
    said += [duration(record.get("latency_us")) or "", payload.get("intent") or ""]
    said += [f"{record['changes']:,} changed" if record.get("changes") else ""]
    error: Any = payload.get("error")
    if isinstance(error, dict):
        error = cast("dict[str, Any]", error).get("message")
    return [*said, str(error or "")]


def _step_words(record: dict[str, Any], payload: dict[str, Any]) -> list[str]:
    """As `show` says them: which turn, the model, its tokens and cost, the beginning of its text."""
    from custody.cli.render import UNKNOWN, cost
    from custody.cli.step import tokens
    from custody.records import Tokens

    counted = None if record["tokens"] is None else Tokens(**record["tokens"])
    price, turn = cost(record["cost_nano_usd"]), record["iteration"]
    figures = [
        record["model"] or record["requested_model"] or f"model {UNKNOWN}",
        *tokens(counted),
        price or f"cost {UNKNOWN}",
        record["finish_reason"] if record["responded"] else "no response",
        f"asked for {', '.join(record['requested'])}" if record["requested"] else None,
        "text withheld" if record["text_withheld"] else None,
    ]
    text = str(payload.get("text") or "")
    begun = text if len(text) <= TEXT_CHARACTERS_MAX else f"{text[:TEXT_CHARACTERS_MAX]}…"
    return [
        f"step {UNKNOWN if turn is None else turn}",
        " · ".join(figure for figure in figures if figure),
        f"“{begun}”" if begun else "",
    ]
