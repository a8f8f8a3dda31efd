"""The questions of `custody stats`."""

import re

import pytest
from tests.cli.conftest import Program, eventually

from custody.cli.stats import QUESTIONS

HOSTILE = "fetch\x1b[2J\u202e\nnow"


def record(program: Program) -> dict[str, str]:
    with program.recording() as runtime:
        with runtime.run("collect", agent="builder", name="nightly") as first:
            first.step("Go on.", model="gpt-5", tokens={"input": 1_000, "output": 20})
            for number in range(3):
                with pytest.raises(TimeoutError), first.observe(HOSTILE, {"url": f"https://x/{number}"}):
                    raise TimeoutError(f"no answer after {number} s from /srv/{number}\x1b[31m")
            first.step("Again.", model="no-such-model")
            for _ in range(4):
                with first.observe("poll", {"id": 7}) as call:
                    call.result = "pending"
            with first.observe("poll", {"id": 8}) as call:
                call.fail("gone")
        with runtime.run("tidy up", agent="sweeper") as second, second.observe("sweep") as call:
            call.result = None
    return {"first": first.id, "second": second.id}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    program = Program(tmp_path_factory.mktemp("stats"))
    yield program, record(program)
    program.close()


def cells(line: str) -> list[str]:
    return re.split(r"  +", line.strip())


def table(out: str) -> list[list[str]]:
    return [cells(line) for line in out.splitlines()]


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_has_a_line_an_example_json_and_this_workspace_as_default(recorded, question):
    program, _ = recorded
    ran = program("stats", question, "--help")
    for text in (f"Example:  custody stats {question}", "--json", "--all", "--since", "--store"):
        assert text in ran.out, text
    assert re.search(rf"^  {question}  +\S.*\.?$", program("stats", "--help").out, re.MULTILINE)


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_store_without_an_answer_says_so_and_json_is_one_document(custody, question):
    with custody.recording():
        pass
    ran = custody("stats", question)
    assert (ran.code, ran.out) == (0, "")
    assert re.fullmatch(r"custody: no .+\.\n", ran.err)
    ran = custody("stats", question, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert isinstance(ran.json, dict)


def test_without_a_name_it_is_asked_of_the_tools(recorded):
    program, _ = recorded
    assert program("stats", "--json").json == program("stats", "tools", "--json").json
    assert program("stats", "--tool", "poll").out == program("stats", "tools", "--tool", "poll").out
    worst = table(program("stats", "tools", "--worst", "--min-calls", "2").out)
    at = worst[0].index("success")
    assert [(row[0], row[at]) for row in worst[1:]] == [("fetch\\x1b[2J\\u202e now", "0 %"), ("poll", "80 %")]
    assert len(table(program("stats", "--min-calls", "4").out)) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stats", "--since", "7d", "usage"], "stands before its options: custody stats usage"),
        (["stats", "--since", "7d", "more"], "'more' is more than this question takes"),
        (["stats", "failurs"], "Did you mean 'failures'?"),
        (["stats", "nonsense"], "There are tools, usage, failures"),
        (["stats", "usage", "--by", "moon"], "'agent', 'tool', 'model'"),
        (["stats", "loops", "--min-repeats", "1"], "--min-repeats"),
        (["stats", "slowest", "--limit", "0"], "--limit"),
        (["stats", "silent", "--for", "soon"], "'soon' is not a duration"),
        (["stats", "failures", "--outcome", "great"], "'great' is no outcome"),
        (["stats", "usage", "--run", "ffff"], "has an id that begins with 'ffff'"),
        (["stats", "slowest", "--run", "ffff"], "has an id that begins with 'ffff'"),
    ],
)
def test_what_cannot_be_understood_exits_2_and_says_what_can(recorded, arguments, said):
    program, _ = recorded
    ran = program(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert set(program(*arguments, "--json").json) == {"error"}


def test_usage_is_added_up_by_model_with_dashes_for_what_nobody_knows(recorded):
    program, _ = recorded
    ran = program("stats", "usage", "--by", "model")
    rows = table(ran.out)
    assert rows[0] == ["model", "calls", "steps", "in", "cached", "out", "reasoning", "cost"]
    by_model = {row[0]: row[1:] for row in rows[1:]}
    assert by_model["gpt-5"][:6] == ["3", "1", "1,000", "–", "20", "–"]
    assert re.fullmatch(r"\$0\.\d+", by_model["gpt-5"][6])
    assert by_model["no-such-model"] == ["5", "1", "–", "–", "–", "–", "–"]
    assert by_model["–"] == ["1", "0", "–", "–", "–", "–", "–"]
    assert by_model["total"][:5] == ["9", "2", "≥ 1,000", "–", "≥ 20"]
    assert by_model["total"][6].startswith("≥ $0.")
    assert "1 of 2 steps said nothing of tokens" in ran.err
    assert "1 of 2 steps could not be priced" in ran.err


def test_usage_in_json_has_null_for_unknown_and_dollars(recorded):
    program, _ = recorded
    report = program("stats", "usage", "--by", "model", "--json").json
    assert (report["by"], report["complete"]) == ("model", True)
    groups = {group["key"]: group for group in report["groups"]}
    assert groups["no-such-model"]["input_tokens"] is None
    assert groups["no-such-model"]["cost_usd"] is None
    assert groups["gpt-5"]["cost_usd"] == report["total"]["cost_usd"] > 0


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        (["--by", "agent"], ["builder", "sweeper", "total"]),
        (["--by", "agent", "--agent", "sweeper"], ["sweeper"]),
        (["--by", "session"], ["–"]),
        (["--since", "1h", "--by", "caller"], ["–"]),
        (["--until", "1h"], []),
        (["--run", "nightly"], ["builder"]),
        (["--by", "agent", "--limit", "1"], ["builder", "total"]),
    ],
)
def test_usage_is_narrowed_down(recorded, options, keys):
    program, _ = recorded
    ran = program("stats", "usage", *options)
    assert [row[0] for row in table(ran.out)[1:]] == keys
    assert ("--limit shows more" in ran.err) == ("--limit" in options)


def test_a_tool_counts_for_its_steps_and_the_total_counts_each_once(custody):
    with custody.recording() as runtime, runtime.run("both") as run:
        run.step("Two.", model="gpt-5", tokens={"input": 5, "output": 1})
        for tool in ("one", "other"):
            with run.observe(tool):
                pass
    ran = custody("stats", "usage", "--by", "tool")
    assert [row[2] for row in table(ran.out)[1:]] == ["1", "1", "1"]
    assert "in the total it counts once" in ran.err


def test_failures_that_are_alike_are_one_line(recorded):
    program, _ = recorded
    ran = program("stats", "failures")
    head, row = table(ran.out)
    assert head == ["times", "tool", "what it says", "latest", "example"]
    assert row[:2] == ["3", "fetch\\x1b[2J\\u202e now"]
    assert row[2].startswith("TimeoutError: no answer after <n> s from <path>")
    assert "\x1b" not in ran.out
    call = program("show", row[4], "--json").json
    assert call["outcome"] == "timed_out"
    assert program("stats", "failures", "--min-count", "4").err == (
        "custody: no failures that are alike, 4 times or more.\n"
    )
    assert len(table(program("stats", "failures", "--min-count", "1").out)) == 3
    limited = program("stats", "failures", "--min-count", "1", "--limit", "1")
    assert "The 1 most frequent; --limit shows more." in limited.err
    answer = program("stats", "failures", "--min-count", "1", "--limit", "1", "--json").json
    assert (len(answer["items"]), answer["complete"]) == (1, False)


def test_a_call_repeated_with_equal_arguments_is_a_loop(recorded):
    program, made = recorded
    head, row = table(program("stats", "loops").out)
    assert head == ["times", "run", "calls", "tool", "what", "outcome", "latest"]
    assert row[:6] == ["4", made["first"][:8], "#5–#8", "poll", '{"id":7}', "4 succeeded"]
    assert program("stats", "loops", "--min-repeats", "5").err == "custody: no loops.\n"
    answer = program("stats", "loops", "--json").json
    assert (answer["complete"], answer["items"][0]["repeats"]) == (True, 4)


def test_an_answer_cut_by_its_limit_says_so(custody):
    with custody.recording() as runtime, runtime.run("twice") as run:
        for tool in ("a", "a", "a", "b", "b", "b"):
            with run.observe(tool):
                pass
    ran = custody("stats", "loops", "--limit", "1")
    assert len(ran.out.splitlines()) == 2
    assert "--limit shows more" in ran.err
    assert custody("stats", "loops", "--limit", "1", "--json").json["complete"] is False


def test_the_slowest_calls_come_first(recorded):
    program, _ = recorded
    found = program("stats", "slowest", "--limit", "3", "--json").json
    assert set(found) == {"items", "next"}
    taken = [call["latency_us"] for call in found["items"]]
    assert taken == sorted(taken, reverse=True)
    assert len(taken) == 3
    rows = table(program("stats", "slowest", "--tool", "poll").out)
    assert rows[0] == ["took", "call", "run", "asked", "agent", "tool", "what", "outcome"]
    assert len(rows) == 6
    assert len(program("stats", "slowest", "--outcome", "failed", "--json").json["items"]) == 1


def test_the_last_run_of_each_agent_is_shown(recorded):
    program, made = recorded
    rows = table(program("stats", "agents").out)
    assert rows[0] == ["agent", "run", "started", "what", "outcome", "calls", "cost", "took"]
    assert [row[:2] for row in rows[1:]] == [
        ["sweeper", made["second"][:8]],
        ["builder", made["first"][:8]],
    ]
    assert rows[1][6] == "–"
    named = program("stats", "agents", "--by", "name", "--json").json
    assert made["first"] in [run["id"] for run in named["items"]]


def test_a_run_that_says_nothing_is_silent_until_it_ends(custody):
    with custody.recording() as runtime, runtime.run("think", agent="thinker") as run:
        run.observe("ponder").open()
        silent = eventually(lambda: custody("stats", "silent", "--for", "1us", "--json").json["items"])
        assert [(one["run"]["id"], one["running_calls"]) for one in silent] == [(run.id, 1)]
        head, row = table(custody("stats", "silent", "--for", "1us").out)
        assert head == ["silent for", "run", "agent", "what", "started", "calls", "running"]
        assert (row[1:4], row[5:]) == ([run.id[:8], "thinker", "think"], ["1", "1"])
        assert custody("stats", "silent").err == "custody: no runs that are silent.\n"


@pytest.mark.parametrize("question", [name for name in QUESTIONS if name != "silent"])
def test_another_workspace_is_left_out_unless_asked_for(custody, question):
    folders = [custody.work / "one", custody.work / "two"]
    for folder in folders:
        (folder / ".git").mkdir(parents=True)
        with custody.recording(folder) as runtime, runtime.run("work", agent=folder.name) as run:
            for _ in range(3):
                with run.observe(f"tool-{folder.name}") as call:
                    call.fail("always")
    ran = custody("stats", question, cwd=folders[0])
    assert "one" in ran.out
    assert "two" not in ran.out
    assert "--all shows every one" in ran.err
    ran = custody("stats", question, "--all", cwd=folders[0])
    assert "two" in ran.out
    assert "--all" not in ran.err
    ran = custody("stats", question, "--workspace", str(folders[1]), cwd=folders[0])
    assert "one" not in ran.out
    assert "two" in ran.out


@pytest.mark.parametrize("question", [name for name in QUESTIONS if name != "silent"])
def test_on_a_terminal_every_answer_fits_its_width(recorded, question):
    program, _ = recorded
    out = program.at_terminal("stats", question, columns=80, NO_COLOR="1")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines()
    assert len(lines) > 1
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert "\x1b[2J" not in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("custody stats ", list(QUESTIONS)),
        ("custody stats us", ["usage"]),
        ("custody stats --si", ["--since"]),
        ("custody stats --since 7d --un", ["--until"]),
        ("custody stats usage --by mo", ["model"]),
        ("custody stats failures --min", ["--min-count"]),
    ],
)
def test_the_shell_completes_questions_and_their_options(custody, words, expected):
    at = len(words.split(" ")) - 1
    ran = custody(_CUSTODY_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(at))
    assert ran.out.split() == [f"plain,{word}" for word in expected]
