"""The record as JSON lines and as Parquet: each record, as stored and as said, and what was asked for."""

import io
import json
import re
import sys
from pathlib import Path

import pytest
from tests.bridges.bundles import Opened, record_some

import custody
from custody.bridges import tables
from custody.bridges.tables import call_lines, parquet_schema, record_lines, write_parquet
from custody.errors import CorruptJournal, UsageError
from custody.index import CallFilter
from custody.records import decode_leaf, decode_payload
from custody.tools import Origin

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as parquet  # noqa: E402

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "reference" / "parquet.md"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = tmp_path_factory.mktemp("tables") / "store"
    record_some(store, session="s1", name="nightly")
    record_some(store, session="s2", name="other")
    return store


@pytest.fixture(scope="module")
def opened(store):
    opened = Opened(store)
    opened.index.refresh()
    yield opened
    opened.close()


def rows(opened, asked=None):
    out = io.BytesIO()
    count = write_parquet(opened.journal, opened.index, asked, out)
    found = parquet.read_table(io.BytesIO(out.getvalue())).to_pylist()
    assert len(found) == count
    return found


# -- JSON lines ---------------------------------------------------------------------------------------


def test_each_call_is_a_line_as_every_door_shows_it(opened):
    lines = [json.loads(line) for line in call_lines(opened.index, CallFilter())]

    assert [line["id"] for line in lines] == [call.id for call in opened.index.calls().items]
    assert {"arguments", "decision", "outcome", "redactions", "sequence"} < lines[0].keys()


def test_a_filter_chooses_calls(opened):
    lines = [json.loads(line) for line in call_lines(opened.index, CallFilter(session="s1", tool="odd"))]

    assert {(line["session_id"], line["tool"]) for line in lines} == {("s1", "odd")}
    assert len(lines) == 4


def test_each_record_is_a_line(opened):
    lines = [json.loads(line) for line in record_lines(opened.journal, opened.index, None)]

    assert len(lines) == sum(1 for _ in opened.journal.follow())
    assert {line["kind"] for line in lines} == {
        "run_started", "run_finished", "call_started", "call_finished", "step", "event"
    }  # fmt: skip


def test_more_pages_than_one_are_all_there(opened, monkeypatch):
    monkeypatch.setattr(tables, "PAGE_CALLS", 3)

    assert len(list(call_lines(opened.index, CallFilter()))) == 12


def test_what_was_redacted_is_in_no_line(opened):
    lines = [*call_lines(opened.index, CallFilter()), *record_lines(opened.journal, opened.index, None)]

    assert all(b"geheim" not in line for line in lines)
    assert any(b"[redacted:" in line for line in lines)


# -- Parquet ------------------------------------------------------------------------------------------


def test_every_record_is_a_row_with_leaf_and_payload_as_stored(opened):
    stored = {(one.shard, one.sequence): one for one in opened.journal.follow()}

    found = rows(opened)

    assert {(row["shard"], row["sequence"]) for row in found} == stored.keys()
    for row in found:
        one = stored[row["shard"], row["sequence"]]
        assert (row["leaf"], row["payload"]) == (one.leaf, one.payload)
        assert decode_leaf(one.kind, row["leaf"]) is not None
        said = {name for name in decode_payload(row["payload"]) or {} if name != "sample"}
        assert said <= json.loads(row["said"] or "{}").keys()


def test_columns_say_what_the_record_says(opened):
    calls = {call.id: call for call in opened.index.calls().items}

    ended = [row for row in rows(opened) if row["kind"] == "call_finished"]

    assert {row["call_id"]: row["outcome"] for row in ended} == {
        call.id: call.outcome for call in calls.values()
    }  # fmt: skip
    for row in ended:
        assert row["latency_us"] == calls[row["call_id"]].latency_us
        assert row["at"].tzinfo is not None


def test_a_filter_chooses_records_of_calls_and_of_their_runs(opened):
    run = opened.index.run("nightly")
    found = rows(opened, CallFilter(run="nightly"))

    assert {row["run_id"] for row in found if row["run_id"]} == {run.id}
    assert [row["kind"] for row in found].count("call_finished") == 5
    assert [row["kind"] for row in found].count("run_started") == 1


def test_a_row_says_which_action_of_a_proposal_a_call_was_made_for(tmp_path):
    origin = {"proposal_id": "p", "action_id": "a", "attempt": 2, "connection": "c1"}
    with custody.open(tmp_path / "store") as runtime:
        runtime.call("no_such_tool", {}, origin=Origin(**origin))
    opened = Opened(tmp_path / "store")

    (row,) = [row for row in rows(opened) if row["tool"] == "no_such_tool"]

    assert {name: row[name] for name in origin} == origin
    opened.close()


def test_rows_are_written_in_groups(opened, monkeypatch):
    monkeypatch.setattr(tables, "GROUP_ROWS_MAX", 10)
    out = io.BytesIO()
    count = write_parquet(opened.journal, opened.index, None, out)

    assert parquet.ParquetFile(io.BytesIO(out.getvalue())).num_row_groups == -(-count // 10)


def test_nothing_is_a_table_without_rows(opened):
    assert rows(opened, CallFilter(tool="nobody")) == []


def test_behind_damage_there_is_what_could_be_read_and_the_damage_is_named(tmp_path):
    store = tmp_path / "store"
    record_some(store)
    whole = Opened(store)
    stored = [*whole.journal.follow()]
    whole.close()
    with next((store / "journal").rglob("*.seg")).open("r+b") as file:
        file.seek(stored[5].offset + 40)
        file.write(b"damage")
    opened = Opened(store)
    out = io.BytesIO()

    with pytest.raises(CorruptJournal):
        write_parquet(opened.journal, opened.index, None, out)

    assert parquet.read_table(io.BytesIO(out.getvalue())).num_rows == 5
    opened.close()


def test_without_pyarrow_its_pip_line_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)

    with pytest.raises(UsageError) as caught:
        parquet_schema()

    assert "pip install 'custody-runtime[parquet]'" in str(caught.value)


# -- the document -------------------------------------------------------------------------------------


def test_the_document_lists_the_columns_in_their_order():
    listed = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    schema = parquet_schema()

    assert [name for name, _ in listed] == schema.names
    for (name, words), field in zip(listed, schema, strict=True):
        kind = "string" if pa.types.is_dictionary(field.type) else str(field.type).partition("[")[0]
        assert words.split()[0].strip("`,") == kind, name
        assert ("null" in words) == field.nullable, name


def test_the_documents_questions_are_answered_by_duckdb(opened, tmp_path, monkeypatch):
    duckdb = pytest.importorskip("duckdb")
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "record.parquet").open("wb") as file:
        write_parquet(opened.journal, opened.index, None, file)

    questions = re.findall(r"```sql\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)

    assert len(questions) >= 3
    with duckdb.connect() as connection:
        answers = [connection.sql(question).to_arrow_table().to_pylist() for question in questions]
    assert all(answers)
    assert answers[-1][0]["records"] == answers[-1][0]["hold"] > 0
