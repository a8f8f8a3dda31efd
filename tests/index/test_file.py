"""The file of the index: deleted, damaged, outdated, unwritable, shared; the asker never notices."""

import contextlib
import gc
import os
import shutil
import stat
import subprocess
import sys
import threading

import apsw
import pytest
from tests.index.conftest import Store, call_id, us
from tests.index.test_any_order import HISTORY, answers

from custody.errors import CorruptJournal, StoreError
from custody.index import CallFilter, Index, RunFilter, database
from custody.journal import Journal, JournalSettings
from custody.journal.disk import RealDisk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.journal.disk_memory import MemoryDisk


@pytest.fixture
def told(real_store):
    """A store with a history, and what is to be said of it."""
    for record in HISTORY:
        real_store.put(*record)
    index = real_store.index()
    expected = answers(index)
    index.close()
    return real_store, expected


def beside(path: str) -> list[str]:
    return [path + suffix for suffix in ("", "-wal", "-shm")]


def test_the_file_is_for_its_owner_alone_and_leaves_nothing_beside_it(told):
    store, _ = told
    assert stat.S_IMODE(os.stat(store.path).st_mode) == 0o600
    assert sorted(os.listdir(store.folder)) == ["index.db", "journal"]


def test_a_deleted_index_comes_back(told):
    store, expected = told
    os.remove(store.path)
    assert answers(store.index()) == expected


def test_an_index_deleted_without_its_log_comes_back(told, tmp_path):
    store, expected = told
    index = store.index()
    for number in range(100, 200):
        store.call(number, 20)
    index.refresh()
    shutil.copy(store.path + "-wal", tmp_path / "log")
    index.close()
    os.remove(store.path)
    shutil.copy(tmp_path / "log", store.path + "-wal")
    again = store.index()
    assert len(again.calls(limit=1_000).items) == len(expected["calls"]) + 100
    assert apsw.Connection(store.path).pragma("integrity_check") == "ok"


def test_an_index_deleted_while_it_is_open_goes_on(told):
    store, expected = told
    index = store.index()
    index.refresh()
    for path in beside(store.path):
        os.remove(path)
    assert answers(index) == expected
    assert answers(store.index()) == expected
    store.call(100, 20)
    assert len(index.calls().items) == len(store.index().calls().items) == len(expected["calls"]) + 1


DAMAGE = {
    "empty": lambda data: b"",
    "short": lambda data: data[:100],
    "cut": lambda data: data[: len(data) // 2],
    "one page": lambda data: data[:4096],
    "no header": lambda data: b"\xff" * 100 + data[100:],
    "text": lambda data: b"this is not a database\n" * 1_000,
    "all ones": lambda data: b"\xff" * len(data),
    "all zeros": lambda data: bytes(len(data)),
    "no content": lambda data: data[:100] + b"\xff" * (len(data) - 100),
    "pages of ones": lambda data: data[:4096] + b"\xff" * (len(data) - 4096),
    "last half of ones": lambda data: data[: len(data) // 2] + b"\xff" * (len(data) - len(data) // 2),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_index_is_filled_again(told, kind):
    store, expected = told
    with open(store.path, "rb") as file:
        data = file.read()
    with open(store.path, "wb") as file:
        file.write(DAMAGE[kind](data))
    index = store.index()
    assert answers(index) == expected
    assert index.kept
    index.close()
    assert apsw.Connection(store.path).pragma("integrity_check") == "ok"
    assert answers(store.index()) == expected


@pytest.mark.parametrize("kind", ["cut", "no header", "all ones", "pages of ones"])
def test_an_index_damaged_while_it_is_open_is_filled_again(told, kind):
    store, expected = told
    index = store.index()
    index.calls()
    other = store.index()
    other.calls()
    with open(store.path, "rb") as file:
        data = file.read()
    with open(store.path, "r+b") as file:
        file.write(DAMAGE[kind](data))
        file.truncate(len(DAMAGE[kind](data)))
    store.call(100, 20)
    fresh = store.index()
    for one in (fresh, index, other):
        one.rebuild()
        assert len(one.calls().items) == len(expected["calls"]) + 1


@pytest.mark.parametrize("version", [0, 1, 99])
def test_an_index_of_another_version_is_filled_again(told, version):
    store, expected = told
    connection = apsw.Connection(store.path)
    connection.pragma("user_version", version)
    connection.execute("CREATE TABLE other (x); DROP TABLE steps; UPDATE calls SET tool = 0")
    connection.close()
    assert answers(store.index()) == expected


def test_an_index_emptied_by_another_process_is_noticed(told):
    store, expected = told
    first, second = store.index(), store.index()
    assert answers(first) == expected
    second.rebuild()
    assert answers(first) == expected
    connection = apsw.Connection(store.path)
    connection.config(apsw.SQLITE_DBCONFIG_RESET_DATABASE, 1)
    connection.execute("VACUUM")
    connection.close()
    assert answers(first) == expected
    assert answers(second) == expected


@pytest.mark.parametrize("place", ["a folder", "nowhere"])
def test_where_no_file_can_be_kept_the_index_is_in_memory(told, tmp_path, place):
    store, expected = told
    path = tmp_path / "elsewhere" / "index.db"
    if place == "a folder":
        path.mkdir(parents=True)
    index = Index(str(path), store.writer)
    assert answers(index) == expected
    assert not index.kept
    index.close()
    assert answers(index) == expected


def test_a_full_disk_does_not_stop_answers(told, monkeypatch):
    store, expected = told
    set_up = database.Database._set_up

    def set_up_small(self):
        set_up(self)
        if self.path is not None:
            self.connection.pragma("max_page_count", 1)  # SQLite says "full", as on a full disk

    monkeypatch.setattr(database.Database, "_set_up", set_up_small)
    for number in range(100, 400):
        store.call(number, 20, arguments={"text": f"word{number} " * 100})
    index = store.index()
    assert len(index.calls(limit=1_000).items) == len(expected["calls"]) + 300
    assert not index.kept


def test_an_index_whose_file_cannot_be_set_up_leaves_it_closed(told, monkeypatch):
    store, expected = told

    def fails(self):
        raise apsw.FullError("as on a full disk")

    monkeypatch.setattr(database.Database, "_use_log", fails)
    index = store.index()
    gc.disable()  # which would close it some day
    try:
        assert answers(index) == expected
        assert set(open_files()) & set(beside(store.path)) == set()
    finally:
        gc.enable()


def open_files() -> list[str]:
    found: list[str] = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return found


@pytest.mark.parametrize("version", ["3.40.1", "3.51.2"])
def test_an_old_sqlite_is_refused_with_a_sentence(version):
    with pytest.raises(StoreError, match=r"needs SQLite 3\.51\.3 or newer.*pip install"):
        database.check_library(version)


@pytest.mark.parametrize("version", ["3.51.3", "3.60.0", "4.0"])
def test_a_new_sqlite_will_do(version):
    database.check_library(version)


# -- the journal beneath --------------------------------------------------------------------------------


def test_an_index_that_knows_more_than_the_journal_is_filled_again(tmp_path):
    """A power loss took records that were written, not durable; the index had been synced with them."""
    store = Store(str(tmp_path / "store"))
    store.call(1, 1.0)
    store.writer.close()
    shutil.copytree(tmp_path / "store" / "journal", tmp_path / "kept")
    writer = store.open_writer()
    for number in range(2, 6):
        store_call(store, number, writer)
    writer.close()
    index = store.index()
    assert len(index.calls().items) == 5
    index.close()
    shutil.rmtree(tmp_path / "store" / "journal")
    shutil.copytree(tmp_path / "kept", tmp_path / "store" / "journal")
    after = store.open_writer()
    store_call(store, 7, after)
    assert [call.id for call in store.index().calls().items] == [call_id(7).hex(), call_id(1).hex()]
    store.close()


def store_call(store, number, writer):
    store.start_call(number, number, writer=writer)
    store.finish_call(number, number + 0.5, writer=writer)


def test_records_written_again_after_a_failed_sync_take_the_place_of_the_first():
    disk = FaultyDisk(MemoryDisk())
    store = Store(None)
    writer = Journal(disk, settings=JournalSettings(first_segment_bytes=64 * 1024, flush_seconds=3600))
    index = Index(None, writer)
    try:
        store_call(store, 1, writer)
        writer.sync()
        for number in range(2, 6):
            store_call(store, number, writer)
        assert len(index.calls().items) == 5
        disk.inject(Fault(operation="sync", within=".seg"))
        writer.sync()
        store_call(store, 6, writer)
        fresh = answers(Index(None, writer))
        assert len(fresh["calls"]) == 6
        assert [event.name for event in fresh["events"]].count("journal.poisoned") == 1
        assert answers(index) == fresh
        every = {(stored.shard, stored.segment, stored.offset) for stored in writer.follow()}
        assert places(index) <= every
    finally:
        index.close()
        writer.close()
        store.close()


def places(index) -> set[tuple[int, int, int]]:
    """Where the index says that records are."""
    rows = index._answer(
        lambda database: database.query(
            "SELECT first_shard, first_segment, first_offset FROM calls UNION ALL "
            "SELECT finished_shard, finished_segment, finished_offset FROM calls UNION ALL "
            "SELECT shard, segment, offset FROM events"
        )
    )
    return {row for row in rows if row[0] is not None}


def test_what_comes_before_damage_in_the_journal_is_answered(tmp_path):
    store = Store(str(tmp_path / "store"))
    for number in range(1, 9):
        store.call(number, number)
    store.writer.close()
    (bad,) = [stored for stored in store.writer.follow() if stored.sequence == 9]
    (path,) = [
        os.path.join(folder, name)
        for folder, _, names in os.walk(tmp_path / "store" / "journal")
        for name in names
        if name.endswith(".seg") and os.path.getsize(os.path.join(folder, name)) > 0
    ][:1]
    with open(path, "r+b") as file:
        file.seek(bad.offset + 40)
        file.write(b"\xaa" * 8)
    index = Index(store.path, Journal(RealDisk(str(tmp_path / "store"))))
    assert [int(call.id[:4], 16) for call in index.calls().items] == [4, 3, 2, 1]
    assert index.damage is not None
    assert index.damage.details["sequence"] == 9
    with pytest.raises(CorruptJournal):
        index.refresh()
    index.close()


def test_what_was_folded_is_not_folded_again_by_the_next_who_opens_it(tmp_path):
    store = Store(str(tmp_path / "store"))
    for number in range(1, 9):
        store.call(number, number)
    folded: list[int] = []
    for _ in range(2):
        index = Index(store.path, store.writer)
        index.refresh(folded.append)
        index.close()
    assert len(folded) == 1
    store.call(9, 9)
    index = Index(store.path, store.writer)
    index.refresh(folded.append)
    assert folded[-1] == 2
    assert len(index.calls().items) == 9
    index.close()


# -- several at once ------------------------------------------------------------------------------------

READER = """
import sys
from custody.index import CallFilter, Index
from custody.journal import Journal, JournalSettings
from custody.journal.disk import RealDisk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.journal.disk_memory import MemoryDisk
folder, until = sys.argv[1], int(sys.argv[2])
index = Index(folder + "/index.db", Journal(RealDisk(folder)))
print("ready", flush=True)
sys.stdin.readline()
seen = 0
while seen < until:
    now = index.stats().calls
    assert now >= seen, (now, seen)
    seen = now
    if sys.argv[3] == "rebuild":
        index.rebuild()
index.close()
print(seen, flush=True)
"""


@pytest.mark.parametrize("also", ["refresh", "rebuild"])
def test_processes_that_catch_up_at_once_agree(real_store, also):
    store, calls = real_store, 400
    store.start_run(1)
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, store.folder, str(calls), also if number == 0 else "refresh"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    try:
        for reader in readers:
            assert reader.stdout.readline() == "ready\n"
        for reader in readers:
            reader.stdin.write("go\n")
            reader.stdin.flush()
        mine = store.index()
        for number in range(calls):
            store.call(number, number, run=1, position=number)
            if number % 50 == 0:
                mine.refresh()
        said = [reader.communicate(timeout=60)[0] for reader in readers]
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
    assert said == [f"{calls}\n"] * 3
    assert [reader.returncode for reader in readers] == [0, 0, 0]
    kept = answers(mine)
    assert len(mine.run_calls(b"\xa1" * 16)) == calls
    assert answers(Index(None, store.writer)) == kept


def test_threads_share_an_index(store):
    index = store.index()
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(20):
                index.calls(CallFilter(tool="exec"))
                index.runs(RunFilter(text="x"))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(50):
        store.call(number, number)
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert len(index.calls(limit=100).items) == 50


def test_a_forked_child_asks_on_its_own(told):
    store, expected = told
    index = store.index()
    index.refresh()
    child = os.fork()
    if child == 0:
        try:
            good = len(index.calls().items) == len(expected["calls"])
            os._exit(0 if good else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    store.call(100, 20)
    assert len(index.calls().items) == len(expected["calls"]) + 1


def test_a_reader_sees_its_own_writes(store):
    index = store.index()
    for number in range(1, 30):
        store.start_call(number, number)
        assert index.calls(limit=1).items[0].outcome is None
        store.finish_call(number, number + 0.5)
        assert index.calls(limit=1).items[0].outcome == "succeeded"
        assert len(index.calls(limit=100, refresh=False).items) == number


def test_progress_tells_how_many_records_there_were(store):
    for number in range(10):
        store.call(number, number)
    told: list[int] = []
    store.index().rebuild(told.append)
    assert told[-1] >= 20


def test_times_beyond_any_clock_are_no_error(store):
    store.call(1)
    for since in (-(2**70), 2**70, 0, -1, us(0)):
        store.index().calls(CallFilter(since_us=since, until_us=since))
