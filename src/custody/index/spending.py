"""What was spent, counted exactly once over all processes of a store: reservations, and a fold over records.

Owns the transactions in which that is counted, the connection they go over, and what becomes of reservations
whose process is gone. Knows nothing of limits: `calls.budgets` asks for sums and decides inside the
transaction it is handed. The tables stand in index.db, but are no part of the view: making that anew leaves
them alone, and should the file be deleted they are folded from the records again, all but the slots of rates.

A call is in the totals from its reservation on. The record of its start, once folded, takes the reservation's
place; so nothing is counted twice and nothing is left out, however late the fold is. What only the journal
says (what calls used, calls that nobody reserved) is as fresh as the last fold, which `Freshness` is about.
"""

import contextlib
import os
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Generator
from itertools import islice
from typing import Literal, TypeVar

import apsw
import msgspec

from custody.errors import CorruptJournal, StoreError
from custody.index.database import BUSY_MS, DAMAGE, Database
from custody.index.spending_fold import Names, fold, fold_runs, no_names
from custody.index.spending_rows import (
    COUNTED,
    HOUR_US,
    MINUTE_US,
    MINUTES_KEPT_HOURS,
    STARTED,
    WINDOW_HOURS_MAX,
    CallSaid,
    SpendingRows,
)
from custody.journal import Cursor, Journal, Place, Stored, boot_id
from custody.journal.lease import own_start_ticks
from custody.records import Kind, Leaf, decode_leaf, now_us

BATCH_RECORDS = 5_000
"""Folded in one transaction: a tenth of a second, for which nobody else can reserve; some tenths where the
calls among them were never reserved, and what they named is read in their arguments."""

FRESH_SECONDS = 0.1
"""So old may be what other processes' calls used. Their number is exact at any time: they reserve."""

RESERVED_SECONDS_MAX = 3_600
"""A reservation of a process that cannot be looked at from here (another container's) is held so long. The
record of the call's start comes milliseconds after its reservation."""

RUN_DAYS_KEPT = 7
"""What a finished run used: a child may outlive it, and spends from what is left."""

PRUNE_SECONDS = 3_600
"""Between two looks for what is too old to matter."""

FAULTS_MAX = 3
"""That one transaction outlives: each is a repair of the journal, or a file found damaged. Both are rare."""

Freshness = Literal["any", "own", "all"]
"""Which records are folded first: none unless that was some time ago, which is enough where only what was
reserved matters; this process's own in any case; or every one there is."""

Holder = tuple[int, int | None, str]
"""A process: its pid, when it started in ticks since boot, and of which boot and numbering that is."""

A = TypeVar("A")


class _Behind(Exception):
    """More records than one transaction folds."""


class _SteppedBack(Exception):
    """The journal was repaired, or is another: what was folded of it is void."""


class Writing(SpendingRows):
    """The tables inside a transaction that no other process writes beside."""

    def __init__(self, database: Database, holder: Holder) -> None:
        super().__init__(database)
        self._holder = holder

    def reserve(self, call_id: bytes, at_us: int, said: CallSaid) -> None:
        """The call counts from now on. Its start, its release or its process's death end that."""
        found = self.call(call_id)
        flags = 0 if found is None else found[0]
        assert not flags & COUNTED, "a call is reserved once, before its start"
        self.put_reservation(call_id, flags | COUNTED, at_us, said, self._holder)
        self.count(said, at_us)
        self.count_named(said, at_us)
        self.flush()

    def give_back(self, call_id: bytes) -> bool:
        """What a call that was reserved and did not start took is there again; False for any other."""
        found = self.call(call_id)
        if found is None or found[0] & (COUNTED | STARTED) != COUNTED:
            return False
        self.do("drop_call", call_id)
        self.uncount(call_id, found[2], found[1])
        self.flush()
        return True


class SpendingTables:
    """The counts of one store. Safe for threads and over forks; its methods wait for other processes."""

    def __init__(
        self,
        path: str | None,
        journal: Journal,
        clock_us: Callable[[], int] = now_us,
        holder: Holder | None = None,
        names: Names = no_names,
    ) -> None:
        """`path` of index.db; None keeps them in memory, as for a store in memory. `holder` is the process
        whose death ends its reservations; None: this one. Opens nothing yet."""
        self._names = names
        self._path = path
        self._journal = journal
        self._clock_us = clock_us
        self._mutex = threading.Lock()
        self._database: Database | None = None
        self._file: tuple[int, int] | None = None
        self._left_behind: list[Database | None] = []
        self._holder = holder or this_process()
        self._runs_ahead = False
        """Whether every run behind the marks is known: calls of many batches may belong to any of them."""
        self._damaged = False
        """Whether the last fold of everything met what cannot be read."""
        self._forget()
        _every.add(self)

    def _forget(self) -> None:
        """What is known of the tables of this very file."""
        self._schema_seen = -1
        self._checked = False
        self._all_folded_at = float("-inf")
        self._pruned_us: int | None = None

    def after_fork_in_child(self) -> None:
        """SQLite must not touch in a forked child what its parent opened, not even to close it."""
        self._mutex = threading.Lock()
        self._left_behind.append(self._database)
        self._database, self._holder = None, this_process()

    def close(self) -> None:
        """May be used again afterwards."""
        with self._mutex:
            if self._database is not None:
                self._database.close()
            self._database = None

    def release(self, call_id: bytes) -> None:
        """The call will not start: what it took is there again. Nothing where its start is on the record."""

        self.write(lambda rows: rows.give_back(call_id))

    def write(self, ask: Callable[[Writing], A], fresh: Freshness = "own") -> A:
        """Let `ask` read and change the tables, with nobody else writing. What it raises undoes its changes.

        Raises StoreError where the tables cannot be kept, or are busy for a minute: then nothing is counted.
        """
        with self._mutex:
            faults = 0
            while True:
                try:
                    return self._attempt(ask, fresh)
                except _Behind:
                    self._fold_runs_behind()
                except _SteppedBack:
                    faults += 1
                    self._start_again()
                except apsw.BusyError as error:
                    raise StoreError(
                        "Nothing can be counted: another process has been writing the index for a minute.",
                        hint="Try again when it is done.",
                    ) from error
                except apsw.Error as error:
                    faults += 1
                    self._overcome(error, faults)
                if faults > FAULTS_MAX:
                    raise StoreError(
                        "The journal is being repaired again and again.", hint="Its disk may be failing."
                    )

    def read(self, ask: Callable[[Writing], A]) -> A:
        """Let `ask` read the tables as they are, without waiting for another process. Raises as `write`."""
        with self._mutex, contextlib.suppress(apsw.Error):
            database = self._opened()
            database.cursor.execute("BEGIN")
            try:
                if self._checked and database.connection.pragma("schema_version") == self._schema_seen:
                    return ask(Writing(database, self._holder))
            finally:
                if database.connection.in_transaction:
                    database.cursor.execute("ROLLBACK")
        return self.write(ask)

    def write_at_once(self, ask: Callable[[Writing], A], fresh: Freshness = "own") -> A | None:
        """The same for an event loop, which never waits for others: None, and nothing done, where that would.

        Raises as `write`.
        """
        if not self._mutex.acquire(blocking=False):
            return None
        try:
            if self._database is None:
                return None
            self._database.connection.set_busy_timeout(0)
            return self._attempt(ask, fresh)
        except (_Behind, _SteppedBack, apsw.BusyError, *DAMAGE):
            return None
        except apsw.Error as error:
            raise _uncountable(error) from error
        finally:
            if self._database is not None:
                self._database.connection.set_busy_timeout(BUSY_MS)
            self._mutex.release()

    def give_back_of_the_dead(self) -> int:
        """Release what processes reserved that are gone, of calls that never started; returns how many."""
        alive: dict[Holder, bool | None] = {}
        # In this order: what a process wrote before it was seen dead is read by the fold that follows.
        held = self.write(lambda rows: rows.rows("reservations"))
        gone: list[bytes] = []
        for call_id, at_us, *who in held:
            holder = who[0], who[1], who[2]
            if holder not in alive:
                alive[holder] = self._lives(*holder)
            lives = alive[holder]
            if lives is None:
                lives = self._clock_us() - at_us < RESERVED_SECONDS_MAX * 1_000_000
            if not lives:
                gone.append(call_id)
        return self.write(lambda rows: self._give_back(rows, gone), "all") if gone else 0

    def _give_back(self, rows: Writing, gone: list[bytes]) -> int:
        if self._damaged:
            return 0  # their start may be in what cannot be read
        return sum(rows.give_back(call_id) for call_id in gone)

    def _lives(self, pid: int, ticks: int | None, place: str) -> bool | None:
        """Whether that very process still runs; None where it cannot be seen from here."""
        boot, _, namespace = place.partition(" ")
        own_boot, _, own_namespace = self._holder[2].partition(" ")
        if boot != own_boot:
            return False
        if ticks is None or namespace != own_namespace:
            return None
        from custody.sandbox.launcher.tree import stat_of  # seldom asked, and it loads all of its package

        found = stat_of(pid)
        return found is not None and not found.dead and found.start_ticks == ticks

    # -- transactions -----------------------------------------------------------------------------------

    def _attempt(self, ask: Callable[[Writing], A], fresh: Freshness) -> A:
        behind = False
        with self._writing() as rows:
            if not self._checked and not self._belongs(rows):
                raise _SteppedBack
            self._checked = True
            behind = self._fold(rows, fresh)
            if not behind:
                self._prune(rows)
                return ask(rows)
        raise _Behind

    @contextlib.contextmanager
    def _writing(self) -> Generator[Writing]:
        database = self._opened()
        cursor = database.cursor
        cursor.execute("BEGIN IMMEDIATE")
        try:
            rows = Writing(database, self._holder)
            self._make(database, rows)
            yield rows
            cursor.execute("COMMIT")
        except BaseException:
            if database.connection.in_transaction:
                cursor.execute("ROLLBACK")
            self._schema_seen = -1
            raise

    def _opened(self) -> Database:
        if self._database is not None and self._path is not None and _identity(self._path) != self._file:
            # Deleted, or replaced: whoever opens it from now on must count in the same file as this process.
            self._database.close()
            self._database = None
        if self._database is None:
            self._database = Database(self._path)
            self._database.connection.set_busy_timeout(BUSY_MS)
            self._file = None if self._path is None else _identity(self._path)
            self._forget()
        return self._database

    def _make(self, database: Database, rows: Writing) -> None:
        """The tables exist afterwards; of another version, they are made anew from the records."""
        schema = database.connection.pragma("schema_version")
        if schema == self._schema_seen:
            return
        if not (rows.row("is_made") or (0,))[0]:
            for (name,) in rows.rows("old_tables"):
                database.cursor.execute(f'DROP TABLE "{name}"')
            rows.script("schema")
            self._checked = False
            self._all_folded_at = float("-inf")
        self._schema_seen = database.connection.pragma("schema_version")

    def _overcome(self, error: apsw.Error, faults: int) -> None:
        """Empty a damaged file, which is then folded anew, or raise StoreError."""
        if faults > 1 or not isinstance(error, DAMAGE) or self._database is None:
            raise _uncountable(error) from error
        try:
            self._database.reset()
        except apsw.Error as failed:
            raise _uncountable(failed) from error
        self._forget()

    # -- the fold ---------------------------------------------------------------------------------------

    def _fold(self, rows: Writing, fresh: Freshness) -> bool:
        """Fold what is new; True when there is more than goes into one transaction."""
        now = time.monotonic()
        own = self._journal.shard_number
        everything = fresh == "all" or now - self._all_folded_at >= FRESH_SECONDS
        if not everything and (fresh == "any" or own is None):
            return False
        marks: dict[int, Place] = {row[0]: (row[1], row[2], row[3]) for row in rows.rows("marks")}
        found: list[Stored] = []
        damaged = False
        follow = self._journal.follow(Cursor(marks), only_shard=None if everything else own)
        try:
            for stored in islice(follow, BATCH_RECORDS):
                found.append(stored)  # noqa: PERF402 - what came before the damage counts
        except CorruptJournal:
            damaged = True
        complete = len(found) < BATCH_RECORDS
        if not complete and not self._runs_ahead:
            return True
        self._fold_batch(rows, marks, found)
        if complete:
            self._runs_ahead = False
            if everything:
                self._damaged = damaged
                self._all_folded_at = now
        return not complete

    def _fold_batch(self, rows: Writing, marks: dict[int, Place], found: list[Stored]) -> None:
        last: dict[int, Stored] = {}
        records: list[tuple[Leaf, Stored]] = []
        for stored in found:
            seen = last.get(stored.shard)
            next_sequence = marks.get(stored.shard, (0, 0, 0))[2] if seen is None else seen.sequence + 1
            if stored.sequence < next_sequence:
                raise _SteppedBack
            records.append((_leaf(stored), stored))
            last[stored.shard] = stored
        fold_runs(rows, (leaf for leaf, _ in records))
        fold(rows, records, self._names)
        rows.do_all(
            "put_mark",
            [
                (shard, at.segment, at.end, at.sequence + 1, at.segment, at.offset, zlib.crc32(at.leaf))
                for shard, at in last.items()
            ],
        )

    def _fold_runs_behind(self) -> None:
        """Before the first of several batches: the runs of all of them, as shards are read one by one."""
        if self._runs_ahead:
            return
        with self._writing() as rows:
            marks: dict[int, Place] = {row[0]: (row[1], row[2], row[3]) for row in rows.rows("marks")}
        starts: list[Leaf] = []
        follow = iter(self._journal.follow(Cursor(marks)))
        with contextlib.suppress(CorruptJournal):
            for stored in follow:
                if stored.kind == Kind.RUN_STARTED:
                    starts.append(_leaf(stored))
                if len(starts) == BATCH_RECORDS:
                    self._put_runs(starts)
                    starts.clear()
        self._put_runs(starts)
        self._runs_ahead = True

    def _put_runs(self, starts: list[Leaf]) -> None:
        with self._writing() as rows:
            fold_runs(rows, starts)

    def _belongs(self, rows: Writing) -> bool:
        """Whether the last record folded of each shard is still there: after a power loss it may not be."""
        for shard, segment, offset, next_sequence, check in rows.rows("mark_checks"):
            try:
                stored = self._journal.read(shard, segment, offset)
            except (StoreError, OSError, LookupError):
                return False
            if (stored.sequence + 1, zlib.crc32(stored.leaf)) != (next_sequence, check):
                return False
        return True

    def _start_again(self) -> None:
        """Forget what was folded. What is reserved stays so, and counts at once."""
        with self._writing() as rows:
            rows.script("forget_folded")
            for call_id, reserved in rows.rows("all_calls"):
                found = rows.call(call_id)
                assert found is not None, "it is among the calls"
                if not reserved:
                    rows.do("drop_call", call_id)
                else:
                    rows.put_call(call_id, COUNTED, found[1], found[2])
                    rows.count(found[2], found[1])
                    rows.count_named(found[2], found[1])
            rows.flush()
        self._checked = True
        self._runs_ahead = False
        self._all_folded_at = float("-inf")

    def _prune(self, rows: Writing) -> None:
        """Forget what is older than any window."""
        now_us = self._clock_us()
        if self._pruned_us is None:
            self._pruned_us = int((rows.row("pruned") or (0,))[0])
        if 0 <= now_us - self._pruned_us < PRUNE_SECONDS * 1_000_000:
            return
        self._pruned_us = now_us
        rows.script(
            "prune",
            now=now_us,
            minute=MINUTE_US,
            hour=HOUR_US,
            minutes_from=now_us - (MINUTES_KEPT_HOURS + 1) * HOUR_US,
            hours_from=now_us - (WINDOW_HOURS_MAX + 1) * HOUR_US,
            runs_from=now_us - RUN_DAYS_KEPT * 24 * HOUR_US,
        )


def _uncountable(error: apsw.Error) -> StoreError:
    return StoreError(
        f"What was spent cannot be counted: index.db: {error}.",
        hint="Budgets, rates and sequences need it. Free space in the store; or close all that uses it, and "
        "delete index.db: it is made anew.",
    )


def _leaf(stored: Stored) -> Leaf:
    try:
        return decode_leaf(stored.kind, stored.leaf)
    except (msgspec.DecodeError, ValueError) as error:
        raise StoreError(
            f"Record {stored.sequence} of shard {stored.shard} cannot be read by this Custody.",
            hint="It was probably written by a newer one: upgrade, or read the store with that one.",
        ) from error


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def this_process() -> Holder:
    try:
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        namespace = ""
    return os.getpid(), own_start_ticks(), f"{boot_id()} {namespace}"


_every: "weakref.WeakSet[SpendingTables]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for tables in list(_every):
        tables.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
