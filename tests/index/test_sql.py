"""A person's own SQL: what it sees, and what it cannot do."""

import contextlib
import json
import re
import threading
from pathlib import Path

import apsw
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.how_many import as_many
from tests.index.conftest import Store, call_id, run_id, us

from custody.errors import InvalidInput
from custody.index import sql as walls
from custody.records import Tokens, rfc3339

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "sql-views.md"


@pytest.fixture
def told(store):
    store.start_run(
        1, 0.0, name="one", agent="ada", caller="kim", channel="chat", session_id="s", workspace="/w",
        external_id="r-1", intent="paint",
    )  # fmt: skip
    store.start_run(2, 1.0, parent_run_id=run_id(1))
    store.step(
        50, 1, 0, 1.0, "thinking", model="large", requested_model="largest", iteration=1, external_id="resp",
        finish_reason="tool_calls", tokens=Tokens(10, 5, 1, 2, 3), cost_nano_usd=1_500_000_000, model_us=8,
        since_previous_us=9, parent_id=call_id(7),
    )  # fmt: skip
    store.step(51, 1, 3, 4.0, "")
    store.call(
        1, 2.0, run=1, position=1, arguments={"argv": ["ls"]}, result={"stdout": b"\xff"}, latency_us=7,
        step_id=call_id(50), parent_id=call_id(7), external_id="toolu", dry_run=True,
        proposal_id="p", action_id="a1", attempt=1, connection="c0ffee",
    )  # fmt: skip
    store.call(2, 3.0, "failed", run=1, position=2, tool="net", error={"type": "E", "message": "no 12"})
    store.start_call(3, 4.0)
    store.start_call(4, 4.0)
    store.finish_call(4, 5.0, "succeeded", passed=True)
    store.event(90, "app.note", 5.0, {"n": 1}, run_id=run_id(1), call_id=call_id(1))
    store.finish_run(1, 9.0, "failed", reason="killed", passed=False)
    return store


def rows(store, query, *parameters, **options):
    return store.index().sql(query, parameters, **options).rows


def refused(store, query, *parameters, **options):
    with pytest.raises(InvalidInput) as caught:
        store.index().sql(query, parameters, **options)
    assert caught.value.hint
    return caught.value


def test_the_views_show_words_ids_and_times_spelled_out(told):
    answer = told.index().sql("SELECT * FROM calls WHERE tool = 'net'")
    (call,) = (dict(zip(answer.columns, row, strict=True)) for row in answer.rows)
    shown = told.index().call("0002")
    for name in ("id", "run_id", "position", "agent", "caller", "session_id", "workspace", "outcome"):
        assert call[name] == getattr(shown, name)
    assert (call["asked_at"], call["finished_at"]) == (shown.asked_at, shown.finished_at)
    assert (call["asked_at_us"], rfc3339(call["finished_at_us"])) == (us(3), shown.finished_at)
    assert call["error_pattern"] == "E: no <n>"


def test_what_is_not_over_or_not_known_is_null_and_running_is_a_word(told):
    running = (
        "SELECT outcome, finished_at, finished_at_us, latency_us, run_id FROM calls WHERE id LIKE '0003%'"
    )
    assert rows(told, running) == [["running", None, None, None, None]]
    assert rows(told, "SELECT outcome, passed, finished_at FROM runs ORDER BY started_at") == [
        ["failed", 0, rfc3339(us(9))],
        ["running", None, None],
    ]


def test_runs_and_steps_add_up_with_unknown_apart_from_zero(told):
    assert rows(
        told, "SELECT calls, steps, input_tokens, cost_usd, cost_nano_usd FROM runs ORDER BY started_at_us"
    ) == [[2, 2, 10, 1.5, 1_500_000_000], [0, 0, None, None, None]]
    assert rows(
        told, "SELECT agent, model, input_tokens, cost_usd FROM steps WHERE input_tokens IS NULL"
    ) == [["ada", None, None, None]]


def test_views_join_group_and_take_parameters(told):
    query = """
        WITH busy AS (SELECT run_id, count(*) AS n FROM calls GROUP BY run_id)
        SELECT r.name, b.n, s.model FROM runs r JOIN busy b ON b.run_id = r.id
        JOIN steps s ON s.run_id = r.id AND s.position = :position
    """
    answer = told.index().sql(query, {"position": 0})
    assert (answer.columns, answer.rows) == (["name", "n", "model"], [["one", 2, "large"]])
    assert rows(told, "SELECT count(*) FROM calls WHERE tool = ?", "net") == [[1]]
    assert rows(told, "SELECT count(*) FROM events") == [[1]]
    assert rows(told, "SELECT value FROM json_each('[1, 2]')") == [[1], [2]]


def test_payload_gives_what_was_said_as_json(told):
    ((call,),) = rows(told, "SELECT payload(id) FROM calls WHERE id LIKE '0001%'")
    assert json.loads(call)["arguments"] == {"argv": ["ls"]}
    assert json.loads(call)["result"] == {"stdout": {"$type": "bytes", "base64": "/w=="}}
    ((run, step, event),) = rows(
        told, "SELECT payload((SELECT id FROM runs WHERE name = 'one')), payload(s.id), payload(e.id)"
        " FROM steps s, events e WHERE s.position = 0",
    )  # fmt: skip
    assert json.loads(run) == {"intent": "paint", "output": None}
    assert json.loads(step) == {"text": "thinking"}
    assert json.loads(event) == {"data": {"n": 1}}
    assert rows(told, "SELECT payload('ff'), payload('nothing'), payload(NULL), payload(7), payload('')") == [
        [None] * 5
    ]
    assert rows(told, "SELECT payload(id) ->> '$.arguments.argv[0]' FROM calls WHERE id < '0002'") == [["ls"]]


def test_an_empty_store_has_views_without_rows(store):
    for view in walls.VIEWS:
        answer = store.index().sql(f"SELECT * FROM {view}")
        assert answer.rows == [] and answer.columns and answer.complete


def test_the_rows_of_an_answer_are_bounded_and_it_says_so(told):
    index = told.index()
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    answer = index.sql(endless, limit=3)
    assert (answer.rows, answer.complete) == ([[1], [2], [3]], False)
    assert index.sql("SELECT 1 UNION SELECT 2", limit=2).complete
    for limit in (0, 10_001):
        with pytest.raises(InvalidInput):
            index.sql("SELECT 1", limit=limit)


def test_a_statement_that_never_ends_is_ended(told):
    error = refused(
        told,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
        seconds=0.05,
    )
    assert "0.05 s" in error.message
    assert rows(told, "SELECT 1") == [[1]]


def test_an_answer_larger_than_memory_is_refused(told):
    assert "too big" in refused(told, "SELECT hex(zeroblob(1000000000))").message
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT zeroblob(9000000) FROM n"
    assert "larger than" in refused(told, many, seconds=60).message


HOSTILE = [
    "DELETE FROM calls",
    "DELETE FROM main.calls",
    "INSERT INTO main.words VALUES (99, 'x')",
    "UPDATE main.runs SET name = 'x' RETURNING name",
    "DROP TABLE main.calls",
    "DROP VIEW calls",
    "CREATE TABLE mine (x)",
    "CREATE TEMP TABLE mine (x)",
    "CREATE TEMP VIEW mine AS SELECT 1",
    "CREATE VIRTUAL TABLE temp.v USING fts5vocab('main', 'call_text', 'row')",
    "ATTACH ':memory:' AS other",
    "DETACH main",
    "PRAGMA user_version",
    "PRAGMA user_version = 7",
    "PRAGMA query_only = 0",
    "PRAGMA writable_schema = 1",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT x",
    "VACUUM",
    "REINDEX",
    "ANALYZE",
    "SELECT load_extension('/tmp/x.so')",
    "SELECT * FROM pragma_table_info('calls')",
    "SELECT * FROM pragma_user_version",
    "SELECT * FROM sqlite_schema",
    "SELECT count(*) FROM sqlite_schema",
    "SELECT * FROM sqlite_temp_schema",
    "SELECT * FROM dbstat",
    "SELECT * FROM words",
    "SELECT count(*) FROM words",
    "SELECT count(*) FROM MAIN.Words",
    "SELECT count(*) FROM dbstat",
    "SELECT count(*) FROM Sqlite_Master",
    "SELECT count(*) FROM call_text",
    "SELECT 1 FROM watermarks",
    "SELECT * FROM main.calls",
    "SELECT rowid FROM main.calls",
    "SELECT max(row) FROM main.calls",
    "SELECT * FROM watermarks",
    "SELECT * FROM call_text",
    "SELECT rowid FROM call_text WHERE call_text MATCH 'ls'",
    "SELECT * FROM call_text_data",
    "WITH calls AS (SELECT * FROM main.words) SELECT * FROM calls",
    "WITH runs AS (SELECT word FROM words) SELECT word FROM runs",
    "SELECT * FROM (SELECT * FROM main.words) AS calls",
    "SELECT (SELECT word FROM words LIMIT 1) FROM calls",
    "SELECT 1; DELETE FROM main.calls",
    "SELECT 1; SELECT 2",
    "SELECT 1 FROM calls; SELECT 2",
    "EXPLAIN SELECT * FROM calls",
    "EXPLAIN QUERY PLAN SELECT * FROM calls",
    "",
    "  -- nothing",
    ";",
]


@pytest.mark.parametrize("query", HOSTILE)
def test_nothing_but_reading_the_views_is_possible(told, query):
    before = rows(told, "SELECT * FROM calls ORDER BY id")
    refused(told, query)
    assert rows(told, "SELECT * FROM calls ORDER BY id") == before


def test_no_file_is_written_by_vacuum_into(told, tmp_path):
    refused(told, f"VACUUM INTO '{tmp_path}/copy.db'")
    refused(told, f"ATTACH '{tmp_path}/other.db' AS other")
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".db"] == []


def test_a_statement_may_end_in_a_semicolon_and_comments(told):
    assert rows(told, " SELECT 1 ; -- that is all\n /* really */ ;") == [[1]]
    assert rows(told, "-- first\nSELECT ';' -- last") == [[";"]]


@pytest.mark.parametrize(
    ("query", "parameters", "said"),
    [
        ("SELEC 1", (), "syntax error"),
        ("SELECT * FROM call", (), "no such table: call"),
        ("SELECT toll FROM calls", (), "no such column: toll"),
        ('SELECT "toll" FROM calls', (), "no such column"),
        ("SELECT ?", (), "bindings"),
        ("SELECT :a", {"b": 1}, ""),
        ("SELECT ?", (object(),), ""),
        ("SELECT ?", (2**70,), ""),
        ("SELECT '\udcff'", (), ""),
        ("SELECT ?", ("\udcff",), ""),
        ("SELECT abs(-9223372036854775808)", (), "integer overflow"),
        ("SELECT json('{')", (), "malformed JSON"),
        ("SELECT payload(1, 2)", (), "wrong number of arguments"),
        ("SELECT '" + "x" * 200_000 + "'", (), "too big"),
    ],
)
def test_a_statement_that_cannot_run_is_answered_in_sqlites_words(told, query, parameters, said):
    with pytest.raises(InvalidInput) as caught:
        told.index().sql(query, parameters)
    assert said in caught.value.message
    assert "sql-views.md" in caught.value.hint or "Parameters" in caught.value.hint


def test_a_near_name_is_offered(told):
    assert "Did you mean tool" in refused(told, "SELECT toll FROM calls").hint
    assert "calls" in refused(told, "SELECT * FROM call").hint


def test_answers_are_json(told):
    answer = told.index().sql("SELECT x'ff', 9e999, NULL, 1.5, 'ä', 2")
    assert json.loads(msgspec.json.encode(answer.rows)) == [
        [{"$type": "bytes", "base64": "/w=="}, {"$type": "float", "value": "Infinity"}, None, 1.5, "ä", 2]
    ]


def test_others_are_answered_while_a_statement_runs(real_store):
    """Its snapshot holds nobody up: neither a question to the same index, nor what is written meanwhile."""
    real_store.call(1)
    index = real_store.index()
    asked, answered = threading.Event(), threading.Event()
    counts: list[int] = []

    def ask_meanwhile() -> None:
        asked.wait(60)
        real_store.call(2, 5.0)
        counts.append(len(index.calls().items))
        answered.set()

    thread = threading.Thread(target=ask_meanwhile)
    thread.start()
    query = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    views = index._answer(lambda database: walls.Views(database, index._reader), refresh=True)
    asked.set()
    assert answered.wait(60)
    assert views.answer("SELECT count(*) FROM calls", (), 10, 60.0).rows == [[1]]
    with pytest.raises(InvalidInput):
        views.answer(query, (), 10, 0.01)
    views.close()
    thread.join(60)
    assert counts == [2]


def test_a_reader_of_sql_sees_its_own_writes(store):
    index = store.index()
    for number in range(1, 4):
        store.call(number, number)
        assert index.sql("SELECT count(*) FROM calls").rows == [[number]]


def test_an_index_that_is_deleted_or_damaged_meanwhile_answers_all_the_same(real_store):
    real_store.call(1)
    index = real_store.index()
    assert index.sql("SELECT count(*) FROM calls").rows == [[1]]
    Path(real_store.path).unlink()
    assert index.sql("SELECT count(*) FROM calls").rows == [[1]]
    connection = apsw.Connection(real_store.path)
    connection.pragma("user_version", 99)
    connection.close()
    assert index.sql("SELECT count(*) FROM calls").rows == [[1]]


WORDS = """SELECT * FROM calls main.words words ; ( ) WITH AS DELETE PRAGMA ATTACH x 'x' , = WHERE 1 -- /* */
runs UNION VALUES CREATE TEMP TABLE INSERT INTO RETURNING EXPLAIN payload(id) json_each('[1]')""".split()


@settings(max_examples=as_many(150))
@given(st.lists(st.sampled_from(WORDS), max_size=10))
def test_whatever_is_typed_is_rows_or_a_sentence_and_changes_nothing(words):
    store = Store(None)
    try:
        store.call(1)
        index = store.index()
        with contextlib.suppress(InvalidInput):
            assert "word" not in index.sql(" ".join(words), seconds=5).columns
        assert [one.id for one in index.calls().items] == [call_id(1).hex()]
    finally:
        store.close()


# -- the reference ----------------------------------------------------------------------------------------


def documented() -> dict[str, list[tuple[str, str]]]:
    """View -> its columns and their types, as the reference has them."""
    found: dict[str, list[tuple[str, str]]] = {}
    view = ""
    for line in REFERENCE.read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"## `(\w+)`.*", line):
            view = heading[1]
            found[view] = []
        elif column := re.match(r"\| `(\w+)` \| (\w+) \|", line):
            found[view].append((column[1], column[2]))
    return found


def test_the_reference_has_every_view_and_column_in_order(store):
    assert {view: [name for name, _ in columns] for view, columns in documented().items()} == {
        view: store.index().sql(f"SELECT * FROM {view}").columns for view in walls.VIEWS
    }


def test_the_columns_have_the_types_of_the_reference(told):
    types = {"text": "text", "integer": "integer", "real": "real"}
    for view, columns in documented().items():
        for name, said in columns:
            found = {kind for (kind,) in rows(told, f"SELECT DISTINCT typeof({name}) FROM {view}")} - {"null"}
            assert found == {types[said]}, f"{view}.{name}"


def test_the_examples_of_the_reference_run(told):
    examples = re.findall(r"```sql\n(.*?)```", REFERENCE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) >= 3
    for example in examples:
        told.index().sql(example)
