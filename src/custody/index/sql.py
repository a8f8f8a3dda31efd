"""A person's own SQL over four views of the index, which it can only read.

Owns the walls around it: a connection of its own that cannot write, an authorizer that lets nothing be
reached but the views of `views.sql`, one statement, and bounds on time, rows and bytes. Knows nothing of
when the index is up to date. Used by `index`.
"""

import difflib
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import apsw
import msgspec
from msgspec import Struct

from custody.errors import InvalidInput, StoreError
from custody.index.database import BUSY_MS, DAMAGE, SCHEMA_VERSION, Database, Row, statements
from custody.index.reading import Reader
from custody.records import CALL_ID_BYTES, RUN_ID_BYTES
from custody.redaction import plain

SECONDS_DEFAULT = 10.0
SECONDS_MAX = 600.0
"""A snapshot held open keeps the write-ahead log from being copied back."""

ROWS_MAX = 10_000
ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""Of one answer, which is held in memory. One value may take all of it."""

SQL_BYTES_MAX = 100_000
PATTERN_BYTES_MAX = 1_000
"""Of LIKE and GLOB: a long pattern of wildcards takes longer than the clock can be looked at."""

STEPS_BETWEEN_LOOKS = 10_000
"""Steps of SQLite's machine between two looks at the clock: a tenth of a millisecond."""

LIMITS = {
    apsw.SQLITE_LIMIT_LENGTH: ANSWER_BYTES_MAX,
    apsw.SQLITE_LIMIT_SQL_LENGTH: SQL_BYTES_MAX,
    apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: PATTERN_BYTES_MAX,
    apsw.SQLITE_LIMIT_ATTACHED: 0,
    apsw.SQLITE_LIMIT_WORKER_THREADS: 0,
}

TIME = "strftime('%Y-%m-%dT%H:%M:%S', ({0}) / 1000000, 'unixepoch') || printf('.%06dZ', ({0}) % 1000000)"
"""RFC 3339 of microseconds, as `records.rfc3339`."""

VIEWS = {
    name: re.sub(r"\{(.+?)\}", lambda found: TIME.format(found[1]), text)
    for name, text in statements("views.sql").items()
}
"""Name of a view -> what it selects."""

TABLE_FUNCTIONS = frozenset({"json_each", "json_tree"})
"""What else may stand behind FROM."""

FORBIDDEN_FUNCTIONS = frozenset({"load_extension"})

PLACES = "first_shard, first_segment, first_offset, finished_shard, finished_segment, finished_offset"
PAYLOADS = {
    RUN_ID_BYTES: (f"SELECT {PLACES} FROM main.runs WHERE id = ?",),
    CALL_ID_BYTES: (
        f"SELECT {PLACES} FROM main.calls WHERE id = ?",
        "SELECT shard, segment, offset FROM main.steps WHERE id = ?",
        "SELECT shard, segment, offset FROM main.events WHERE id = ?",
    ),
}
"""Length of an id -> where the records of what it names are."""

Parameters = Sequence[Any] | Mapping[str, Any]


class SqlAnswer(Struct, frozen=True, kw_only=True):
    """Rows of a statement, as JSON can hold them."""

    columns: list[str]
    rows: list[list[Any]]
    complete: bool
    """False: there are more rows than were asked for."""


class _Refused(Exception):
    """The statement is not one that is run here."""


class Views:
    """A connection that can read the views and nothing else, on one unchanging view of the index."""

    def __init__(self, database: Database, reader: Reader) -> None:
        """Inside a transaction that found the tables of `database` made. Raises apsw.Error."""
        self._reader = reader
        self._trusted = True
        """While Custody's own statements are prepared."""
        self._deadline = 0.0
        self._columns: list[str] = []
        self._tables: set[str] = set()
        self._sql = ""
        # The authorizer can only tell by the name of the view through which a table is read, and a name that
        # is known can be given to a subquery. So each view stands before one whose name is drawn here.
        self._hidden = {f"{name} {time.monotonic_ns():x}{id(self):x}" for name in VIEWS}
        self._connection: Any = _opened(database)
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        connection = self._connection
        connection.execute("BEGIN")
        if connection.pragma("user_version") != SCHEMA_VERSION:
            raise apsw.SQLError("another process makes the index anew")
        self._tables = {row[0] for row in connection.execute("SELECT lower(name) FROM main.sqlite_schema")}
        for hidden in sorted(self._hidden):
            name = hidden.partition(" ")[0]
            connection.execute(f'CREATE TEMP VIEW "{hidden}" AS {VIEWS[name]}')
            connection.execute(f'CREATE TEMP VIEW {name} AS SELECT * FROM "{hidden}"')
        connection.create_scalar_function("payload", self._payload, 1)
        for limit, value in LIMITS.items():
            connection.limit(limit, value)
        for setting, value in ((apsw.SQLITE_DBCONFIG_DEFENSIVE, 1), (apsw.SQLITE_DBCONFIG_DQS_DML, 0)):
            connection.config(setting, value)
        connection.authorizer = self._authorize
        connection.exec_trace = self._before
        connection.set_progress_handler(self._is_late, STEPS_BETWEEN_LOOKS)
        self._trusted = False

    def close(self) -> None:
        self._connection.close()

    def answer(self, sql: str, parameters: Parameters, limit: int, seconds: float) -> SqlAnswer:
        """Run one statement. Raises InvalidInput, and StoreError for an index that cannot be read."""
        self._sql, self._deadline = sql, time.monotonic() + seconds
        try:
            rows, complete = self._rows(sql, parameters, limit)
        except apsw.InterruptError as error:
            raise InvalidInput(
                f"The statement took longer than {seconds:g} s and was ended.",
                hint="Narrow it down, by time for example: `WHERE asked_at_us >= …`.",
            ) from error
        except (*DAMAGE, apsw.IOError, apsw.BusyError) as error:
            raise StoreError(f"The index cannot be read: {error}.", hint="Ask again.") from error
        except (apsw.Error, _Refused) as error:
            raise InvalidInput(f"{str(error).removesuffix('.')}.", hint=self._hint(str(error))) from error
        except (TypeError, ValueError, OverflowError, KeyError) as error:
            raise InvalidInput(
                f"A parameter or the text cannot be given to SQLite: {error}.",
                hint="Parameters are texts, numbers or null.",
            ) from error
        return SqlAnswer(columns=self._columns, rows=rows, complete=complete)

    def _rows(self, sql: str, parameters: Parameters, limit: int) -> tuple[list[list[Any]], bool]:
        rows: list[list[Any]] = []
        left = ANSWER_BYTES_MAX
        self._columns = []
        for row in self._connection.execute(sql, parameters):
            if len(rows) == limit:
                return rows, False
            left -= sum(len(value) if isinstance(value, str | bytes) else 8 for value in row)
            if left < 0:
                raise _Refused(f"The answer is larger than {ANSWER_BYTES_MAX:,} bytes")
            rows.append([plain(value) for value in row])
        if not self._columns:
            raise _Refused("There is no statement in it")
        return rows, True

    # -- the walls ------------------------------------------------------------------------------------

    def _before(self, cursor: Any, statement: str, _: Any) -> bool:
        """Called with each statement before it runs."""
        if self._trusted or _is_blank(statement):
            return True
        described = cursor.get_description()
        if not described or not cursor.is_readonly:
            raise _Refused("Only a statement that answers with rows is run, as SELECT does")
        if cursor.is_explain:
            raise _Refused("EXPLAIN is not possible here")
        if self._columns or not _is_last(self._sql, statement):
            raise _Refused("Only one statement is run")
        self._columns = [column[0] for column in described]
        return True

    def _authorize(
        self, action: int, first: str | None, second: str | None, schema: str | None, view: str | None
    ) -> int:
        if self._trusted or action in (apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE):
            return apsw.SQLITE_OK
        if action == apsw.SQLITE_FUNCTION:
            return apsw.SQLITE_DENY if second in FORBIDDEN_FUNCTIONS else apsw.SQLITE_OK
        if action != apsw.SQLITE_READ:
            return apsw.SQLITE_DENY
        if schema == "temp":
            allowed = first in VIEWS or first in self._hidden
        else:
            # Where only the number of rows is wanted, no column is named: of a view's table, or a subquery.
            counted = second == "" and (first in VIEWS or not self._is_table(first or ""))
            allowed = view in self._hidden or counted or first in TABLE_FUNCTIONS
        return apsw.SQLITE_OK if allowed else apsw.SQLITE_DENY

    def _is_table(self, name: str) -> bool:
        return name.lower() in self._tables or name.lower().startswith("sqlite_")

    def _is_late(self) -> bool:
        return time.monotonic() >= self._deadline

    def _hint(self, message: str) -> str:
        near: list[str] = []
        unknown = re.search(r'no such (?:column|table): "?(?:\w+\.)?(\w+)', message)
        if unknown:
            names = {*VIEWS, *(column for text in VIEWS.values() for column in _columns_of(text))}
            near = difflib.get_close_matches(unknown[1], sorted(names), n=2)
        said = f"Did you mean {' or '.join(near)}? " if near else ""
        return f"{said}There are {', '.join(VIEWS)}; docs/reference/sql-views.md has their columns."

    # -- payloads -------------------------------------------------------------------------------------

    def _payload(self, text: Any) -> str | None:
        """JSON of what was said of a run, call, step or event; None where nothing is kept of such an id."""
        if self._is_late():
            raise apsw.InterruptError("interrupted")
        try:
            wanted = bytes.fromhex(text)
        except (TypeError, ValueError):
            return None
        said: dict[str, Any] = {}
        for place in self._places(wanted):
            said |= self._reader.said(place)
        return msgspec.json.encode(said).decode() if said else None

    def _places(self, wanted: bytes) -> list[tuple[int, int, int]]:
        for statement in PAYLOADS.get(len(wanted), ()):
            found = self._one(statement, wanted)
            if found is not None:
                places = [found[at : at + 3] for at in range(0, len(found), 3)]
                return [place for place in dict.fromkeys(places) if place[0] is not None]
        return []

    def _one(self, statement: str, wanted: bytes) -> Row | None:
        self._trusted = True
        try:
            return self._connection.execute(statement, (wanted,)).fetchone()
        finally:
            self._trusted = False


def check_bounds(limit: int, seconds: float) -> None:
    """Raises InvalidInput."""
    if not 1 <= limit <= ROWS_MAX:
        raise InvalidInput(f"An answer has 1 to {ROWS_MAX} rows, not {limit}.")
    if not 0 < seconds <= SECONDS_MAX:
        raise InvalidInput(f"A statement may take up to {SECONDS_MAX:g} s, not {seconds:g}.")


def _opened(database: Database) -> Any:
    """A connection that cannot write to the index. One in memory is nobody else's to open: it is copied."""
    if database.path is None:
        connection: Any = apsw.Connection(":memory:")
        connection.deserialize("main", database.connection.serialize("main"))
    else:
        connection = apsw.Connection(database.path, flags=apsw.SQLITE_OPEN_READONLY)
        connection.set_busy_timeout(BUSY_MS)
    return connection


def _columns_of(view: str) -> list[str]:
    return re.findall(r" AS (\w+)(?:,|$)", view, re.MULTILINE)


def _is_last(sql: str, statement: str) -> bool:
    """Whether nothing but white space and comments follows the statement."""
    return _is_blank(sql.partition(statement.strip())[2])


def _is_blank(text: str) -> bool:
    return not re.sub(r"--[^\n]*|/\*.*?(?:\*/|\Z)|[\s;]+", "", text, flags=re.DOTALL)
