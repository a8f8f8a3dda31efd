"""The SQLite file of the index: opened, made, found damaged, made again.

Owns the connection, its settings, the schema's version and the statements in the `.sql` files. Refuses to
know what the rows mean. Used by `index`.

A damaged or outdated file is emptied in place, under SQLite's own locks: another process that has it open
sees an empty index and fills it, where deleting the file would leave it with one that nobody else has.
"""

import contextlib
import os
import random
import re
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

import apsw

from custody.errors import StoreError
from custody.records import RUN_OUTCOMES

SCHEMA_VERSION = 5

SQLITE_VERSION_MIN = (3, 51, 3)
"""Older ones can lose a page when two processes reset the write-ahead log at once."""

BUSY_MS = 60_000
"""Wait for another process that catches up; it lets go after each batch, and making the secondary indexes
of some million rows takes it seconds."""

RESET_BUSY_MS = 1_000
"""The same to empty a damaged file. One whose header is gone is out of reach for as long as another process
has it open; that one empties it itself when it is next asked something."""

SWITCH_ATTEMPTS_MAX = 200
SWITCH_PAUSE_SECONDS_MAX = 0.02
"""Two seconds in all, of different lengths so that one of two goes first: a switch takes milliseconds."""

CACHE_BYTES = 64 * 1024 * 1024
"""Filled only as needed: catching up with a large journal touches the ids at random."""

LOG_PAGES = 4_000
LOG_BYTES_KEPT = 4 * 1024 * 1024
"""The write-ahead log is copied back after so many pages, and cut to so many bytes when that is done."""

WORDS_KEPT_MAX = 50_000
"""Numbers of words held in memory; looking one up again takes microseconds."""

Value = int | str | bytes | None
Row = tuple[Any, ...]
"""Its columns have the types of the schema; the statement says which."""

DAMAGE = (apsw.CorruptError, apsw.NotADBError, apsw.FormatError)
"""What SQLite raises for a file that cannot be used as it is."""

UNWRITABLE = (apsw.CantOpenError, apsw.ReadOnlyError, apsw.FullError, apsw.IOError, apsw.PermissionsError)
"""What it raises where no file can be kept."""


def check_library(version: str) -> None:
    """Raises StoreError for an SQLite that is too old to be trusted with the file."""
    if tuple(int(part) for part in version.split(".")[:3]) < SQLITE_VERSION_MIN:
        wanted = ".".join(str(part) for part in SQLITE_VERSION_MIN)
        raise StoreError(
            f"The index needs SQLite {wanted} or newer, and apsw brings {version}, "
            "which can damage its files.",
            hint="`pip install -U apsw` installs one that is new enough.",
        )


check_library(apsw.sqlite_lib_version())


def _script(name: str) -> str:
    # importlib.resources alone takes longer to load than everything else here.
    with open(os.path.join(os.path.dirname(__file__), name), encoding="utf-8") as file:
        return file.read()


def statements(name: str) -> dict[str, str]:
    """Name -> text, of the named statements in a `.sql` file."""
    parts = re.split(r"^-- name: (\w+)\n", _script(name), flags=re.MULTILINE)
    return {name: text.strip().rstrip(";") for name, text in zip(parts[1::2], parts[2::2], strict=True)}


SQL = statements("queries.sql")
"""Name of a statement in `queries.sql` -> its text."""


class Words(dict[str | None, int | None]):
    """The number of each word, found or given when it is first asked for. None has none."""

    def __init__(self, database: "Database") -> None:
        super().__init__({None: None})
        self._database = database

    def __missing__(self, word: str | None) -> int:
        if len(self) >= WORDS_KEPT_MAX:
            self.clear()
            self[None] = None
        number: int | None = self._database.one("word_id", word)
        if number is None:
            number = self._database.one("put_word", word)
        assert number is not None, "the statement returns it"
        self[word] = number
        return number


class Database:
    """One connection. Not for use by two threads at once."""

    def __init__(self, path: str | None) -> None:
        """`path` None keeps everything in memory. Raises one of UNWRITABLE."""
        self.path = path
        if path is not None:
            _make_file(path)
        # Typed loosely: a value's type is the schema's affair, which apsw's stubs cannot know.
        self.connection: Any = apsw.Connection(path or ":memory:")
        self.cursor: Any = self.connection.cursor()
        self.connection.set_busy_timeout(BUSY_MS)
        self._made = 0
        self.words = Words(self)
        self._spelled: dict[int, str] = {}
        try:
            self._prepare()
        except BaseException:
            self.close()  # nobody else can: it and its words hold each other
            raise

    def _prepare(self) -> None:
        try:
            self._set_up()
        except DAMAGE:
            self.reset()
            self._set_up()

    def _set_up(self) -> None:
        self.connection.pragma("cache_size", -CACHE_BYTES // 1024)
        self.connection.pragma("synchronous", "NORMAL")
        if self.path is not None:
            self._use_log()
            self.connection.wal_autocheckpoint(LOG_PAGES)
            self.connection.pragma("journal_size_limit", LOG_BYTES_KEPT)
        self.connection.pragma("user_version")

    def _use_log(self) -> None:
        """Switch to WAL mode. SQLite does not wait where two processes want to switch a new file at once."""
        for _ in range(SWITCH_ATTEMPTS_MAX):
            try:
                self.connection.pragma("journal_mode", "WAL")
                return
            except apsw.BusyError:
                time.sleep(random.uniform(0.001, SWITCH_PAUSE_SECONDS_MAX))
        raise apsw.CantOpenError(f"{self.path} is in use by something that keeps it locked")

    def reset(self) -> None:
        """Empty the file, whatever is in it. Raises one of UNWRITABLE when another process is in the way."""
        self.forget_words()
        with contextlib.suppress(*DAMAGE):
            # Reading the schema first keeps the file in WAL mode over the reset.
            self.connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        self.connection.config(apsw.SQLITE_DBCONFIG_RESET_DATABASE, 1)
        self.connection.set_busy_timeout(RESET_BUSY_MS)
        try:
            self.connection.execute("VACUUM")
        except apsw.BusyError as error:
            raise apsw.CantOpenError(f"{self.path} is damaged, and in use") from error
        finally:
            self.connection.config(apsw.SQLITE_DBCONFIG_RESET_DATABASE, 0)
            self.connection.set_busy_timeout(BUSY_MS)
        if self.path is not None:
            self._use_log()

    def close(self) -> None:
        self.connection.close()

    @contextlib.contextmanager
    def reading(self) -> Generator[bool]:
        """One unchanging view of the file; says whether its tables are there."""
        self.cursor.execute("BEGIN")
        try:
            yield self._is_made()
        finally:
            if self.connection.in_transaction:
                self.cursor.execute("ROLLBACK")

    @contextlib.contextmanager
    def writing(self) -> Generator[None]:
        """A transaction that no other process writes beside. Its tables exist, though they may be empty."""
        self.cursor.execute("BEGIN IMMEDIATE")
        try:
            if not self._is_made():
                self._make()
            yield
            self.cursor.execute("COMMIT")
        except BaseException:
            self.forget_words()
            if self.connection.in_transaction:
                self.cursor.execute("ROLLBACK")
            raise

    def _is_made(self) -> bool:
        made = self.connection.pragma("application_id")
        if made != self._made:
            # Another process has made the file anew since; its words may have other numbers.
            self.forget_words()
            self._made = made
        return self.connection.pragma("user_version") == SCHEMA_VERSION

    def _make(self) -> None:
        self._drop_everything()
        self.cursor.execute(_script("schema.sql"))
        numbered = [(0, "running"), *enumerate(RUN_OUTCOMES, 1)]
        self.put_all("put_numbered_word", numbered)
        self.forget_words()
        self._made = random.getrandbits(31)
        self.connection.pragma("application_id", self._made)
        self.connection.pragma("user_version", SCHEMA_VERSION)

    def _drop_everything(self) -> None:
        """Of another schema; a virtual table takes the tables behind it along."""
        for virtual in (True, False):
            for kind, name in self.rows("made", virtual):
                quoted = name.replace('"', '""')
                self.cursor.execute(f'DROP {kind} IF EXISTS "{quoted}"')

    def empty(self) -> None:
        """Inside `writing`: start again from nothing."""
        self.forget_words()
        self._make()

    @property
    def made(self) -> int:
        """Another number each time the tables are made anew, as the last transaction found them."""
        return self._made

    def shrink(self) -> bool:
        """Leave no byte of deleted rows in the file and its log; False while another process reads them."""
        self.connection.execute("VACUUM")
        ((busy, *_),) = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return not busy

    def is_indexed(self) -> bool:
        return bool(self.one("is_indexed"))

    def make_indexes(self) -> None:
        self.cursor.execute(_script("indexes.sql"))

    def query(self, sql: str, values: Mapping[str, Any] | Sequence[Value] = ()) -> list[Row]:
        return self.cursor.execute(sql, values).fetchall()

    def put_all(self, name: str, rows: Iterable[Row]) -> None:
        """Run a statement of `queries.sql` once for each row."""
        self.cursor.executemany(SQL[name], rows)

    def rows(self, name: str, *values: Value) -> list[Row]:
        return self.query(SQL[name], values)

    def row(self, name: str, *values: Value) -> Row | None:
        return self.cursor.execute(SQL[name], values).fetchone()

    def one(self, name: str, *values: Value) -> Any:
        found = self.cursor.execute(SQL[name], values).fetchone()
        return None if found is None else found[0]

    # -- words ----------------------------------------------------------------------------------------

    def forget_words(self) -> None:
        """After a rollback or a reset a number may stand for something else, or nothing."""
        self.words = Words(self)
        self._spelled = {}

    def word_id(self, word: str) -> int:
        """The number of a word; -1 for one that no row has."""
        found = self.one("word_id", word)
        return -1 if found is None else found

    def word(self, number: int | None) -> str | None:
        if number is None:
            return None
        found = self._spelled.get(number)
        if found is None:
            known = self.one("word", number)
            found = self._spelled[number] = str(known)
        return found


def _make_file(path: str) -> None:
    """For its owner alone, unless there is one. SQLite drops a log left beside an empty file."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise apsw.CantOpenError(f"{path}: {error.strerror}") from error
