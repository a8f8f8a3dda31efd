"""`custody sql`: SQL at the command line."""

import re

import pytest
from tests.cli.conftest import Program

HOSTILE = "say\x1b[2J\u202e\nmore"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    program = Program(tmp_path_factory.mktemp("sql"))
    with program.recording() as runtime, runtime.run("ask", agent="builder") as run:
        run.step(HOSTILE, model="gpt-5", tokens={"input": 10})
        for number in range(3):
            with run.observe(HOSTILE, {"n": number}) as call:
                call.result = number
    yield program
    program.close()


def test_rows_are_a_table_for_people(recorded):
    ran = recorded("sql", "SELECT tool, count(*) AS calls, NULL AS nobody FROM calls GROUP BY tool")
    assert (ran.code, ran.err) == (0, "")
    assert [re.split("  +", line) for line in ran.out.splitlines()] == [
        ["tool", "calls", "nobody"],
        ["say\\x1b[2J\\u202e more", "3", "–"],
    ]


def test_rows_are_one_document_in_json(recorded):
    ran = recorded(
        "sql", "SELECT position, tool, NULL AS nobody FROM calls ORDER BY 1", "--limit", "2", "--json"
    )
    assert (ran.code, ran.err) == (0, "")
    assert ran.json == {
        "columns": ["position", "tool", "nobody"],
        "rows": [[1, HOSTILE, None], [2, HOSTILE, None]],
        "complete": False,
    }


def test_a_limit_that_was_hit_is_said_so(recorded):
    ran = recorded("sql", "SELECT id FROM calls", "--limit", "2")
    assert len(ran.out.splitlines()) == 3
    assert ran.err == "custody: The first 2 rows; --limit shows more, up to 10,000.\n"
    assert recorded("sql", "SELECT id FROM calls WHERE tool = 'none'").err == "custody: no rows.\n"


def test_a_dash_reads_the_query_from_standard_input(recorded):
    ran = recorded("sql", "-", "--json", stdin="-- a comment\nSELECT 1 AS one;\n")
    assert ran.json["rows"] == [[1]]
    assert recorded("sql", "-", stdin="").code == 2
    ran = recorded("sql", "-", stdin="SELECT '\udcff'")
    assert (ran.code, ran.out) == (2, "")
    assert "not UTF-8" in ran.err


def test_without_a_query_the_views_and_their_columns_are_listed_even_without_a_store(custody):
    ran = custody("sql")
    assert (ran.code, ran.err) == (0, "")
    names = [line for line in ran.out.splitlines()[:-5] if re.fullmatch("[a-z]+", line)]
    assert names == ["runs", "calls", "steps", "events"]
    for text in ("error_pattern", "cost_usd", "payload(id)", "docs/reference/sql-views.md"):
        assert text in ran.out
    views = custody("sql", "--json").json["views"]
    assert [view["name"] for view in views] == names
    assert "latency_us" in views[1]["columns"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT * FROM cals", "Did you mean calls"),
        ("SELECT toool FROM calls", "Did you mean tool?"),
        ("DELETE FROM calls", "docs/reference/sql-views.md"),
        ("SELECT 1; SELECT 2", "Only one statement"),
        ("SELEC", "syntax error"),
        ("", "no statement"),
    ],
)
def test_a_query_that_cannot_be_answered_says_what_there_is(recorded, query, said):
    ran = recorded("sql", query)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert "runs, calls, steps, events" in ran.err
    assert recorded("sql", query, "--json").json["error"]["type"] == "InvalidInput"


def test_a_query_that_takes_too_long_is_ended(recorded):
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    ran = recorded("sql", endless, "--timeout", "100ms")
    assert (ran.code, ran.out) == (2, "")
    assert "took longer than 0.1 s" in ran.err


@pytest.mark.parametrize(
    "options",
    [["--limit", "0"], ["--limit", "10001"], ["--timeout", "soon"], ["--timeout", "0"], ["--bogus"]],
)
def test_bad_options_exit_2(recorded, options):
    ran = recorded("sql", "SELECT 1", *options)
    assert (ran.code, ran.out) == (2, "")


def test_a_store_that_is_not_there_is_said_so(custody):
    ran = custody("sql", "SELECT 1")
    assert (ran.code, ran.out) == (2, "")
    assert "does not exist" in ran.err


@pytest.mark.parametrize("columns", [80, 200])
def test_a_table_wider_than_the_terminal_is_shown_row_by_row(recorded, columns):
    out = recorded.at_terminal("sql", "SELECT * FROM calls", columns=columns, NO_COLOR="1")
    assert [line for line in out.splitlines() if line.startswith("Row ")] == ["Row 1", "Row 2", "Row 3"]
    assert re.search(r"^tool +say\\x1b\[2J\\u202e more$", out, re.MULTILINE)
    assert re.search(r"^caller +–$", out, re.MULTILINE)
    narrow = recorded.at_terminal("sql", "SELECT tool, id FROM calls", columns=columns, NO_COLOR="1")
    assert "Row 1" not in narrow


def test_a_column_may_have_any_name(recorded):
    out = recorded("sql", 'SELECT 1 AS "a\x1b[2J\nb", 2 AS "漢字"').out
    assert out.splitlines()[0] == "a\\x1b[2J b  漢字"
