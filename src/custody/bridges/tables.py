"""The record as tables: JSON lines of calls or records, and Parquet with a row a record.

Owns the columns (docs/reference/parquet.md) and the size of what is written at once. What is exported is what
the record holds: secrets were replaced before it was recorded. Knows nothing of files' names. Used by
`custody export`.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from msgspec import Struct

from custody import __version__
from custody.bridges.objects import call_object, json_line
from custody.errors import CorruptJournal, UsageError
from custody.index import CallFilter, Index
from custody.journal import Journal, Stored
from custody.records import Kind

PAGE_CALLS = 100
"""Calls read from the index at once, each with its result."""

GROUP_ROWS_MAX = 10_000
GROUP_BYTES_MAX = 32 * 1024 * 1024
"""A row group is held in memory while it is filled. Few large ones are read quickest."""

PAYLOAD_JSON_BYTES_MAX = 64 * 1024 * 1024
"""Of one row's JSON; a larger text stands in the column as null and in the store as a blob."""

SCHEMA_VERSION = "2"

Progressed = Callable[[int], None]


class Wanted(Struct, frozen=True):
    """Ids of calls and runs: the records to be exported are theirs."""

    calls: frozenset[str]
    runs: frozenset[str]


def call_lines(index: Index, asked: CallFilter) -> Iterator[bytes]:
    """Each call that fulfils the filter as one object a line, as every door shows it."""
    for call in _calls(index, asked):
        yield json_line(call_object(call))


def record_lines(journal: Journal, index: Index, asked: CallFilter | None) -> Iterator[bytes]:
    """Each record as one object a line, shard by shard, as `tail` shows it; with a filter those of the calls
    that fulfil it and of their runs. Raises CorruptJournal behind all that can be read."""
    for stored, described in _records(journal, index, asked):
        described["purged"] = stored.purged
        yield json_line(described)


def _calls(index: Index, asked: CallFilter) -> Iterator[Any]:
    """Those that can be read; `Index.damage` says whether there is more."""
    with contextlib.suppress(CorruptJournal):
        index.refresh()
    cursor: str | None = None
    while True:
        page = index.calls(asked, limit=PAGE_CALLS, cursor=cursor, refresh=False)
        yield from page.items
        cursor = page.next
        if cursor is None:
            return


def _records(
    journal: Journal, index: Index, asked: CallFilter | None
) -> Iterator[tuple[Stored, dict[str, Any]]]:
    wanted = None if asked is None else _wanted(index, asked)
    for stored in journal.follow():
        described = index.describe(stored)
        if wanted is None or _is_wanted(described, wanted):
            yield stored, described


def _wanted(index: Index, asked: CallFilter) -> Wanted:
    calls, runs = set[str](), set[str]()
    for call in _calls(index, asked):
        calls.add(call.id)
        if call.run_id is not None:
            runs.add(call.run_id)
    return Wanted(frozenset(calls), frozenset(runs))


def _is_wanted(described: dict[str, Any], wanted: Wanted) -> bool:
    call_id = described.get("call_id")
    return call_id in wanted.calls if call_id is not None else described.get("run_id") in wanted.runs


# -- Parquet ------------------------------------------------------------------------------------------


def require_pyarrow() -> Any:
    """pyarrow, with its part for Parquet. Raises UsageError, naming the extra."""
    import importlib

    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError:
        raise UsageError(
            "Exporting to Parquet needs a package that is not installed.",
            hint="pip install 'custody-runtime[parquet]'",
        ) from None


def parquet_schema() -> Any:
    """The columns, in their order."""
    pa = require_pyarrow()
    word, text = pa.dictionary(pa.int32(), pa.string()), pa.string()
    fields = [
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("sequence", pa.int64(), nullable=False),
        pa.field("kind", word, nullable=False),
        pa.field("at", pa.timestamp("us", tz="UTC")),
        pa.field("run_id", text),
        pa.field("call_id", text),
        pa.field("step_id", text),
        pa.field("event", word),
        pa.field("tool", word),
        pa.field("effect", word),
        pa.field("decision", word),
        pa.field("outcome", word),
        pa.field("session_id", word),
        pa.field("agent", word),
        pa.field("caller", word),
        pa.field("latency_us", pa.int64()),
        pa.field("said", text),
        pa.field("purged", pa.bool_(), nullable=False),
        pa.field("leaf", pa.binary(), nullable=False),
        pa.field("payload", pa.binary()),
        pa.field("proposal_id", text),
        pa.field("action_id", text),
        pa.field("attempt", pa.int64()),
        pa.field("connection", word),
    ]
    return pa.schema(fields, metadata={"custody": __version__, "custody_schema": SCHEMA_VERSION})


def write_parquet(
    journal: Journal,
    index: Index,
    asked: CallFilter | None,
    out: IO[bytes],
    progressed: Progressed = lambda _: None,
) -> int:
    """Write a row for each record, as `record_lines` chooses and orders them; gives their number.

    Raises UsageError without pyarrow, OSError, and CorruptJournal once all that can be read is written.
    """
    pa, schema = require_pyarrow(), parquet_schema()
    damage: CorruptJournal | None = None
    count = 0
    with pa.parquet.ParquetWriter(out, schema, compression="zstd") as writer:
        records = _records(journal, index, asked)
        while True:
            rows, damage = _group(records)
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema), row_group_size=len(rows))
                count += len(rows)
                progressed(count)
            if len(rows) == 0 or damage is not None:
                break
    if damage is not None:
        raise damage
    return count


def _group(
    records: Iterator[tuple[Stored, dict[str, Any]]],
) -> tuple[list[dict[str, Any]], CorruptJournal | None]:
    """The rows of one row group, and what ended them before their end."""
    rows: list[dict[str, Any]] = []
    size = 0
    try:
        for stored, described in records:
            row = _row(stored, described)
            rows.append(row)
            size += len(stored.leaf) + len(stored.payload) + len(row["said"] or "")
            if len(rows) >= GROUP_ROWS_MAX or size >= GROUP_BYTES_MAX:
                break
    except CorruptJournal as error:
        return rows, error
    return rows, None


def _row(stored: Stored, described: dict[str, Any]) -> dict[str, Any]:
    request: dict[str, Any] = described.get("request") or {}
    decision: dict[str, Any] = described.get("decision") or request.get("decision") or {}
    payload = described["payload"]
    said = None if payload is None else json_line(payload)[:-1].decode()
    return {
        "shard": stored.shard,
        "sequence": stored.sequence,
        "kind": described["kind"],
        "at": _timestamp(described.get("at") or request.get("asked_at")),
        "run_id": described.get("run_id") or request.get("run_id"),
        "call_id": described.get("call_id"),
        "step_id": described.get("step_id"),
        "event": described.get("name") if stored.kind == Kind.EVENT else None,
        "tool": request.get("tool"),
        "effect": request.get("effect"),
        "decision": decision.get("verdict"),
        "outcome": described.get("outcome"),
        "session_id": described.get("session_id") or request.get("session_id"),
        "agent": described.get("agent") or request.get("agent"),
        "caller": described.get("caller") or request.get("caller"),
        "latency_us": described.get("latency_us"),
        "said": said if said is None or len(said) <= PAYLOAD_JSON_BYTES_MAX else None,
        "purged": stored.purged,
        "leaf": stored.leaf,
        "payload": None if stored.purged else stored.payload,
        "proposal_id": request.get("proposal_id"),
        "action_id": request.get("action_id"),
        "attempt": request.get("attempt"),
        "connection": request.get("connection"),
    }


def _timestamp(text: str | None) -> Any:
    from datetime import datetime

    return None if text is None else datetime.fromisoformat(text)
