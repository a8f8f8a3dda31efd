"""A run with steps, and a step, as `custody show`, `runs` and `tail` show them."""

import json
import re

import pytest
from tests.cli.conftest import Program

HOSTILE = "red\x1b[31m \u202egnp.exe\nsecond \x9b2J line"
"""Text that would steer a terminal, show itself backwards and break a line in two."""

STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def record(program: Program) -> dict[str, str]:
    """One run with all there can be in it; the ids of its parts."""
    made: dict[str, str] = {}
    with program.recording() as runtime:
        with runtime.run("make the tests green", agent="builder") as run:
            made["run"] = run.id
            asked = [{"id": "c1", "name": "read_file", "arguments": {"path": "a.py"}}]
            step = run.step(
                "I look at the tests first.",
                model="gpt-5",
                tokens={"input": 1200, "output": 90, "reasoning": 20, "cache_read": 800},
                model_us=1_900_000,
                finish_reason="tool_calls",
                calls=asked,
            )
            made["step"] = step.id
            with run.observe("read_file", {"path": "a.py"}, external_id="c1") as call:
                made["call"] = call.id
                call.result = "x" * 5_000
                with run.observe("open") as inner:
                    inner.result = [1, 2]
            run.event("app.note", topic="half way")
            made["unpriced"] = run.step(HOSTILE, model="no-such-model", finish_reason="stop").id
            with (
                pytest.raises(ValueError, match="full"),
                run.observe(f"save{HOSTILE}", {"text": HOSTILE}) as call,
            ):
                raise ValueError(f"the disk is full {HOSTILE}")
            made["silent"] = run.step(requested_model="gpt-5", responded=False).id
            run.error("the model did not answer", attempt=2)
            made["late"] = run.step("y" * 5_000, model="gpt-5", calls=[{"id": "c2", "name": "never_made"}]).id
            with run.observe("straggler", step=step) as call:
                call.result = "done"
            with run.child("look closer", agent="searcher") as child:
                made["child"] = child.id
                child.step("Short.", model="gpt-5", tokens={"input": 10, "output": 2})
        run.observe("too late").open()
    return made


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    program = Program(tmp_path_factory.mktemp("steps"))
    yield program, record(program)
    program.close()


@pytest.fixture(scope="module")
def shown(recorded) -> list[str]:
    """The run's lines, as a pipe gets them."""
    program, made = recorded
    ran = program("show", made["run"])
    assert (ran.code, ran.err) == (0, "")
    return ran.out.splitlines()


def line_of(lines: list[str], text: str) -> int:
    (found,) = [at for at, line in enumerate(lines) if text in line]
    return found


def test_a_run_says_what_its_models_used_and_what_nobody_knows(shown):
    head = dict(line.split(maxsplit=1) for line in shown[2 : shown.index("", 1)])
    assert head["steps"] == "4"
    assert head["tokens"] == (
        "≥ 1,200 in (800 cached), ≥ 90 out (20 reasoning); 3 steps said nothing of them"
    )
    assert re.fullmatch(r"≥ \$0\.\d+; 3 steps could not be priced", head["cost"])
    assert head["refused"] == "1 offered after its end"


def test_the_steps_stand_in_order_with_the_calls_they_asked_for_below_them(recorded, shown):
    _, made = recorded
    steps = [line for line in shown if re.search(r"  step \d  ", line)]
    assert [re.findall(r"#\d+  (\w{8})  step (\d)", line) for line in steps] == [
        [(made[name][:8], str(turn))] for turn, name in enumerate(("step", "unpriced", "silent", "late"), 1)
    ]
    first = line_of(shown, "step 1")
    assert re.search(
        r"gpt-5 · 1,200 in \(800 cached\) · 90 out \(20 reasoning\) · \$0\.\d+ · \+[\d.]+ \w+"
        r" · model took 1\.9 s · tool_calls$",
        shown[first],
    )
    assert shown[first + 1].strip() == "I look at the tests first."
    call = line_of(shown, "  read_file  ")
    assert made["call"][:8] in shown[call]
    assert re.search(r'    read_file  succeeded \S+ \S+  \{"path":"a\.py"\}$', shown[call])
    assert shown[call + 1].strip() == f"→ {'x' * 4_000} … (1,000 more characters)"
    assert shown[call + 2].index("open  succeeded") == shown[call].index("read_file") + 2
    assert call < line_of(shown, "straggler") < line_of(shown, "step 2")


def test_unknown_tokens_and_costs_are_dashes_and_never_nothing(shown):
    for turn in ("step 2", "step 3", "step 4"):
        assert "tokens – · cost –" in shown[line_of(shown, turn)]
    assert not any(re.search(r"\$0(\.0+)?\b(?!\.)", line) for line in shown)


def test_a_turn_without_an_answer_and_a_tool_that_was_never_called_are_said_so(shown):
    silent = line_of(shown, "step 3")
    assert shown[silent + 1].strip() == "no response"
    assert "asked for never_made" in shown[line_of(shown, "step 4")]
    assert "asked for read_file" not in shown[line_of(shown, "step 1")]


def test_text_that_was_cut_is_counted(shown):
    late = line_of(shown, "step 4")
    assert shown[late + 1].strip() == "y" * 2_000
    assert shown[late + 2].strip() == "… 3,000 bytes were not kept"


def test_events_stand_where_they_happened(shown):
    note, error = line_of(shown, "app.note  topic: half way"), line_of(shown, "run.error")
    assert line_of(shown, "open  succeeded") < note < line_of(shown, "step 2")
    assert shown[error].endswith("run.error  the model did not answer · attempt: 2")
    assert line_of(shown, "step 3") < error < line_of(shown, "step 4")
    assert any(line.endswith("run.model  gpt-5 → no-such-model") for line in shown)
    assert any("run.refused" in line for line in shown)


def test_children_and_parent_are_named(recorded, shown):
    program, made = recorded
    table = shown[shown.index("Children") + 1 :]
    assert table[0].split() == ["run", "agent", "what", "outcome", "took"]
    assert table[1].split()[:5] == [made["child"][:8], "searcher", "look", "closer", "succeeded"]
    assert f"parent   {made['run']}, builder" in program("show", made["child"]).out.splitlines()


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_nothing_recorded_steers_a_terminal_or_leaves_its_line(recorded, columns):
    program, made = recorded
    for arguments in (
        ["show", made["run"]],
        ["show", made["run"], "--timeline"],
        ["show", made["unpriced"]],
        ["tail"],
        ["runs"],
    ):
        out = program.at_terminal(*arguments, columns=columns, NO_COLOR="1")
        assert "\x1b[31m" not in out
        out = re.sub(r"\x1b\[1?m|\x1b\[[02]m", "", out)  # our own: bold and dim
        assert not STEERING.search(out), arguments
        if arguments[0] == "tail" or (arguments[0] == "show" and columns > 40):
            below = out.partition("#0")[2] if made["run"] in arguments else ""
            assert all(len(line) <= columns for line in below.splitlines())


def test_on_a_terminal_a_result_is_one_line_that_counts_what_it_leaves_out(recorded):
    program, made = recorded
    out = program.at_terminal("show", made["run"], columns=80, NO_COLOR="1").splitlines()
    (result,) = [line for line in out if "→ xxx" in line]
    assert len(result) <= 80
    kept, left = result.count("x"), int(re.search(r"\(([\d,]+) more", result)[1].replace(",", ""))
    assert kept + left == 5_000


def test_a_step_is_shown_in_full(recorded):
    program, made = recorded
    ran = program("show", made["step"][:10])
    assert ran.code == 0
    for text in (
        f"Step {made['step']}",
        "gpt-5",
        "1,200 in (800 cached), 90 out (20 reasoning)",
        "model took",
        "tool_calls",
        f"{made['run']}, position 0",
        "I look at the tests first.",
        '"path": "a.py"',
    ):
        assert text in ran.out, text
    assert "no response" in program("show", made["silent"]).out
    unpriced = program("show", made["unpriced"]).out
    assert re.search(r"^tokens +–$", unpriced, re.MULTILINE)
    assert re.search(r"^cost +–$", unpriced, re.MULTILINE)
    assert "… 3,000 bytes were not kept" in program("show", made["late"]).out


def test_the_text_of_a_turn_that_asks_for_secrets_is_withheld_and_counted(custody):
    with custody.recording() as runtime, runtime.run("ask") as run:
        step = run.step("the password is …", model="gpt-5", calls=[{"name": "email_send"}])
    assert step.id
    for arguments in (["show", run.id], ["show", step.id]):
        assert "text withheld (19 bytes)" in custody(*arguments).out
    assert "text withheld" in custody("tail").out


def test_in_json_a_run_is_a_run_and_with_timeline_both(recorded):
    program, made = recorded
    run = program("show", made["run"], "--json").json
    assert run["id"] == made["run"]
    assert run["totals"]["steps"] == run["steps"] == 4
    assert run["totals"]["refused"] == 1
    both = program("show", made["run"], "--json", "--timeline").json
    assert set(both) == {"run", "timeline"}
    assert both["run"] == run
    kinds = [entry["kind"] for entry in both["timeline"]]
    assert (kinds.count("step"), kinds.count("call")) == (4, 4)
    assert [
        entry["step"] and entry["step"]["id"] for entry in both["timeline"] if entry["kind"] != "event"
    ] == [
        entry["id"] if entry["kind"] == "step" else None
        for entry in both["timeline"]
        if entry["kind"] != "event"
    ]
    step = program("show", made["step"], "--json").json
    assert (step["run_id"], step["iteration"], step["tokens"]["input"]) == (made["run"], 1, 1200)
    assert isinstance(step["cost_usd"], float)
    assert program("show", made["unpriced"], "--json").json["cost_usd"] is None


def test_what_only_a_run_or_only_a_call_has_is_refused_for_the_others(recorded):
    program, made = recorded
    ran = program("show", made["step"], "--timeline")
    assert (ran.code, ran.out) == (2, "")
    assert "Only a run has a timeline, and this is a step." in ran.err
    assert made["run"][:8] in ran.err
    assert program("show", made["call"], "--timeline", "--json").json["error"]["type"] == "UsageError"
    assert "this is a step" in program("show", made["step"], "--perf").err
    assert program("cancel", made["step"]).code == 2


def test_a_long_run_is_cut_and_says_how_to_see_all_of_it(custody):
    with custody.recording() as runtime, runtime.run("many") as run:
        for number in range(250):
            with run.observe("poll") as call:
                call.result = number
        run.step("at last")
    ran = custody("show", run.id)
    assert ran.out.count("  poll  ") == 200
    assert f"custody show {run.id[:8]} --timeline" in ran.err
    whole = custody("show", run.id, "--timeline")
    assert whole.out.count("  poll  ") == 250
    assert "at last" in whole.out
    assert whole.err == ""


def test_an_error_is_seen_in_a_run_without_steps(custody):
    with custody.recording() as runtime, runtime.run("alone") as run:
        run.error("nothing to do")
    assert custody("show", run.id).out.splitlines()[-1].endswith("run.error  nothing to do")


def test_runs_show_what_models_cost_where_one_had_steps(recorded, tmp_path):
    program, _ = recorded
    head, child, run = program("runs").out.splitlines()
    assert head.split() == ["run", "started", "agent", "what", "outcome", "calls", "cost", "tokens", "took"]
    assert re.search(r"succeeded +0  +\$0\.\d+ +12 ", child)
    assert re.search(r"succeeded +4 +≥ \$0\.\d+ +≥ 1,290 ", run)
    (tmp_path / "other").mkdir()
    other = Program(tmp_path / "other")
    with other.recording() as runtime, runtime.run("none"):
        pass
    assert "cost" not in other("runs").out
    other.close()


@pytest.mark.parametrize(
    ("options", "count"),
    [(["--top-level"], 1), (["--parent", "latest"], 0), (["--caller", "x"], 0), (["--channel", "ci"], 0)],
)
def test_runs_are_filtered(recorded, options, count):
    program, _ = recorded
    assert len(program("runs", "--json", *options).json["items"]) == count


def test_tail_says_what_a_step_and_an_event_are_about(recorded):
    program, _ = recorded
    lines = program("tail").out.splitlines()
    (first,) = [line for line in lines if "step 1  gpt-5 · 1,200 in" in line]
    assert first.endswith("tool_calls · asked for read_file  “I look at the tests first.”")
    (silent,) = [line for line in lines if "  step 3  " in line]
    assert silent.endswith("gpt-5 · tokens – · cost – · no response")
    assert any(line.endswith("run.error  the model did not answer · attempt: 2") for line in lines)
    assert len(lines) == len(program("tail", "--json").out.splitlines())
    assert all(json.loads(line)["kind"] for line in program("tail", "--json").out.splitlines())
