"""The file of the index kept fit to be asked: opened, caught up, healed, or done without.

Owns the connection over its whole life and puts questions to it: before each answer it is brought up to the
journal's end; a damaged, outdated or deleted file is filled again, and where none can be kept the index is
in memory. Knows nothing of what is asked. Used by `index`.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from typing import TypeVar

import apsw

from custody.errors import CorruptJournal, StoreError
from custody.index.catch_up import CatchUp, Progress
from custody.index.database import DAMAGE, UNWRITABLE, Database
from custody.journal import Journal

ATTEMPTS_MAX = 100
"""Times a question is put: again whenever another process has begun to fill the index anew meanwhile."""

FAULTS_MAX = 4
"""Errors of SQLite that one question outlives. Damage is healed after the first; while another process
heals, tables can be missing once more."""

A = TypeVar("A")


class Upkeep:
    """Safe for threads: one question at a time."""

    def __init__(self, path: str | None, journal: Journal) -> None:
        """`path` None keeps it in memory. Opens nothing yet."""
        self._path = path
        self._journal = journal
        self._mutex = threading.RLock()
        self._database: Database | None = None
        self._catch_up: CatchUp | None = None
        self._process = os.getpid()
        self._left_behind: list[Database] = []
        self.damage: CorruptJournal | None = None
        """What the last catching up found damaged in the journal."""
        self.kept = path is not None
        """False where the file cannot be written."""

    def close(self) -> None:
        with self._mutex:
            if self._database is not None and self._process == os.getpid():
                self._database.close()
            self._database = None

    def rebuild(self, progress: Progress | None) -> None:
        """Forget everything and fold the whole journal again."""
        with self._mutex:
            self.answer(lambda _: None)
            try:
                self._opened()[1].start_again()
            except apsw.Error as error:
                self._overcome(error, 0)
            self.answer(lambda _: None, refresh=True, progress=progress)

    def forget(self) -> bool:
        """Leave nothing in the file of what was folded so far: what was purged since must be nowhere.

        False where that cannot be done, or another process stands in the way for a minute.
        """
        with self._mutex:
            try:
                database, catch_up = self._opened()
                catch_up.start_again()
                return database.shrink() and self.kept == (self._path is not None)
            except apsw.BusyError:
                return False
            except apsw.Error as error:
                self._overcome(error, 0)
                return self._emptied()

    def _emptied(self) -> bool:
        """After a damaged file was healed, which empties it."""
        try:
            return self._opened()[0].shrink() and self.kept == (self._path is not None)
        except apsw.Error:
            return False

    def answer(
        self, ask: Callable[[Database], A], *, refresh: bool = False, progress: Progress | None = None
    ) -> A:
        """Put a question to an index that is up to date, whatever state its file is in."""
        with self._mutex:
            faults = 0
            for _ in range(ATTEMPTS_MAX):
                try:
                    database, catch_up = self._opened()
                    if refresh:
                        self.damage = catch_up.run(progress)
                    with database.reading() as made:
                        if made and (not refresh or catch_up.holds()):
                            return ask(database)
                    refresh = True
                except apsw.BusyError as error:
                    raise StoreError(
                        "The index is busy: another process has been filling it for a minute.",
                        hint="Try again when it is done.",
                    ) from error
                except apsw.Error as error:
                    self._overcome(error, faults)
                    faults += 1
            raise StoreError("Other processes make the index anew, again and again.")

    def _overcome(self, error: apsw.Error, faults: int) -> None:
        """Make the index usable again, or raise the error."""
        if isinstance(error, DAMAGE) and faults == 0 and self._database is not None:
            self._heal(self._database)
        elif isinstance(error, (*DAMAGE, *UNWRITABLE)):
            self._reopen(in_memory=faults > 0, because=error)
        elif faults == FAULTS_MAX:
            # Short of that: tables that another process is making anew.
            raise error

    def _opened(self) -> tuple[Database, CatchUp]:
        if self._process != os.getpid():
            # SQLite must not touch in a forked child what its parent opened, not even to close it.
            if self._database is not None:
                self._left_behind.append(self._database)
            self._process, self._database = os.getpid(), None
        if self._database is None or self._catch_up is None:
            self._database = Database(self._path if self.kept else None)
            self._catch_up = CatchUp(self._database, self._journal)
        return self._database, self._catch_up

    def _heal(self, database: Database) -> None:
        try:
            database.reset()
        except apsw.Error as error:
            self._reopen(in_memory=True, because=error)

    def _reopen(self, *, in_memory: bool, because: Exception | None) -> None:
        if in_memory and not self.kept:
            raise StoreError(f"The index cannot be kept in memory: {because}.") from because
        if self._database is not None:
            with contextlib.suppress(apsw.Error):
                self._database.close()
        self._database = None
        self.kept = self.kept and not in_memory
