"""The index is a view; one that says something else than the journal is a fault that names the record."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.verify.stores import Writer

from custody.index import Index
from custody.journal import RealDisk, boot_id
from custody.records import Step, Tokens
from custody.verify import Report, Wanted, verify_store

Edit = Callable[[str], None]


def report_of(folder: Path) -> Report:
    return verify_store(RealDisk(folder), root=str(folder), wanted=Wanted(), boot_id=boot_id())


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("indexed") / "store"
    disk = RealDisk(folder)
    first, second = Writer(disk), Writer(disk)
    first.run(6)
    second.run(3, result="x" * 40_000)
    ids = first.recorder.ids
    first.recorder.append(
        first.recorder.draft(
            Step, {"text": "thinking"}, step_id=ids.take(8), run_id=ids.take(16), at_us=5, position=0,
            model="m-1", tokens=Tokens(input=7), cost_nano_usd=12,
        )
    )  # fmt: skip
    first.run_proposed()
    first.run(2)
    first.sync()
    second.sync()
    first.seal()
    index = Index(str(folder / "index.db"), first.journal)
    index.refresh()
    index.close()
    first.run(1)
    first.close()
    second.close()
    again = Writer(disk)
    again.seal()
    again.close()
    return folder


@pytest.fixture
def store(indexed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(indexed, tmp_path / "store"))


def edit(folder: Path, sql: str, *values: Any) -> None:
    connection: Any = apsw.Connection(str(folder / "index.db"))
    connection.execute(sql, values)
    connection.close()


def test_an_index_that_is_behind_agrees_as_far_as_it_goes(store: Path) -> None:
    before = sorted(path.name for path in store.iterdir())
    report = report_of(store)
    assert (report.faults, report.index) == ([], "agrees")
    assert sorted(path.name for path in store.iterdir()) == before


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE calls SET outcome = (SELECT id FROM words WHERE word = 'failed') WHERE row = 3",
        "UPDATE calls SET latency_us = 1 WHERE row = 3",
        "UPDATE calls SET at_us = at_us + 1 WHERE row = 3",
        "UPDATE calls SET elapsed_us = NULL WHERE row = 3",
        "UPDATE calls SET position = 77 WHERE row = 3",
        "UPDATE calls SET tool = effect WHERE row = 3",
        "UPDATE calls SET agent = tool WHERE row = 3",
        "UPDATE calls SET run = NULL WHERE row = 3",
        "UPDATE calls SET finished_offset = finished_offset + 8 WHERE row = 3",
        "UPDATE calls SET first_offset = 64 WHERE row = 3",
        "UPDATE calls SET dry_run = 1 WHERE row = 3",
        "UPDATE calls SET external_id = 'made up' WHERE row = 3",
        "UPDATE calls SET proposal_id = 'made up' WHERE row = 3",
        "UPDATE calls SET action_id = 'made up' WHERE row = 3",
        "UPDATE calls SET attempt = 2 WHERE row = 3",
        "UPDATE calls SET connection = tool WHERE row = 3",
        "DELETE FROM calls WHERE row = 3",
    ],
)
def test_an_edited_row_names_the_call(store: Path, sql: str) -> None:
    connection: Any = apsw.Connection(str(store / "index.db"))
    ((call_id,),) = connection.execute("SELECT id FROM calls WHERE row = 3").fetchall()
    connection.close()
    edit(store, sql)
    report = report_of(store)
    assert report.exit_code == 1
    assert report.index == "differs"
    (fault,) = report.faults
    assert (fault.file, fault.call_id, fault.shard) == ("index.db", call_id.hex(), 1)
    assert "of segment" in fault.what


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE runs SET outcome = 0 WHERE row = 1",
        "UPDATE runs SET name = 'another'",
        "UPDATE runs SET external_id = 'another'",
        "DELETE FROM runs WHERE row = 1",
        "UPDATE steps SET cost_nano_usd = 0",
        "UPDATE steps SET input_tokens = NULL",
        "DELETE FROM steps",
        "UPDATE events SET at_us = 0 WHERE row = 1",
        "DELETE FROM events WHERE row = 2",
        "INSERT INTO calls (id, inherits, outcome) VALUES (x'0102030405060708', 0, 1)",
        "UPDATE words SET word = 'denied' WHERE word = 'succeeded'",
        "UPDATE calls SET id = 'text' WHERE row = 3",
        "UPDATE calls SET first_shard = 'text', latency_us = 1.5 WHERE row = 3",
        "UPDATE words SET word = CAST(x'ff' AS TEXT) WHERE word = 'succeeded'",
        "ALTER TABLE calls RENAME TO c; CREATE VIEW calls AS SELECT * FROM c",
        "DROP TABLE events",
        "UPDATE watermarks SET last_check = 0",
        "UPDATE watermarks SET sequence = sequence + 3, last_offset = 64",
        "UPDATE watermarks SET sequence = sequence - 3",
    ],
)
def test_any_other_edit_is_found(store: Path, sql: str) -> None:
    edit(store, sql)
    report = report_of(store)
    assert (report.exit_code, report.index) == (1, "differs")
    assert all(fault.file == "index.db" for fault in report.faults)


def test_two_calls_exchanged_are_both_named(store: Path) -> None:
    edit(store, "UPDATE calls SET latency_us = row WHERE row IN (2, 5)")
    assert len(report_of(store).faults) == 2


def test_an_index_that_differs_everywhere_is_bounded(store: Path) -> None:
    edit(store, "UPDATE calls SET latency_us = 12345")
    report = report_of(store)
    assert report.fault_count == 14


def test_a_file_that_is_no_index_is_a_fault(store: Path) -> None:
    (store / "index.db").write_bytes(b"not a database" * 1000)
    report = report_of(store)
    assert (report.exit_code, report.index) == (1, "differs")


def test_without_an_index_there_is_nothing_to_compare(store: Path) -> None:
    (store / "index.db").unlink()
    report = report_of(store)
    assert (report.exit_code, report.index) == (0, "absent")


def test_an_index_in_use_is_read_beside_its_user(store: Path) -> None:
    writer = Writer(RealDisk(store))
    index = Index(str(store / "index.db"), writer.journal)
    index.refresh()
    writer.run(3)
    index.refresh()
    assert (store / "index.db-wal").exists()
    report = report_of(store)
    index.close()
    writer.close()
    assert (report.fault_count, report.index) == (0, "agrees")


def test_wider_permissions_are_a_note(store: Path) -> None:
    (store / "journal").chmod(0o755)
    report = report_of(store)
    assert report.ok
    assert any(note.file == "journal" and "others than their owner" in note.what for note in report.notes)


def test_a_file_that_cannot_be_read_is_something_missing(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root everything can be read, so the disk says no."""
    from custody.journal.disk_faulty import Fault, FaultyDisk

    disk = FaultyDisk(RealDisk(store))
    disk.inject(Fault(operation="read", within="0002/", times=None))
    report = verify_store(disk, root=str(store), wanted=Wanted(), boot_id=boot_id())
    assert report.exit_code == 2
    assert any(problem.shard == 2 for problem in report.problems)
    assert next(shard.records for shard in report.shards if shard.shard == 1) > 10


def test_a_pipe_in_the_place_of_a_file_is_refused(store: Path) -> None:
    """Reading it would wait for ever."""
    import os

    from custody.errors import StoreUnusable

    os.mkfifo(store / "journal" / "0001" / "00000099.seg")
    with pytest.raises(StoreUnusable, match="neither a file nor a folder"):
        report_of(store)


def test_a_link_in_the_place_of_a_segment_is_not_followed(store: Path) -> None:
    segment = store / "journal" / "0001" / "00000001.seg"
    segment.rename(store.parent / "elsewhere")
    segment.symlink_to(store.parent / "elsewhere")
    report = report_of(store)
    assert report.exit_code == 2
    assert [problem.shard for problem in report.problems] == [1]
