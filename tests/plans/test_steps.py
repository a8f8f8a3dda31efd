"""Step plans as they are written: what is read, what is refused and how, and when two are the same."""

import json
from typing import Any

import pytest
from tests.plans.step_plans import plan_of, step

from custody.errors import InvalidInput
from custody.plans import StepPlan, check_plan, parse_plan, read_plan
from custody.plans.steps.model import FAULTS_MAX, STEPS_MAX, StepAction, StepCondition, StepStatus

WHOLE: dict[str, Any] = {
    "id": "release",
    "goal": "A release that works.",
    "actions": [
        {"id": "build", "description": "Build it.", "status": "completed"},
        {
            "id": "test",
            "depends_on": ["build", "build"],
            "tools_required": ["exec"],
            "condition": {"if_succeeded": "build"},
            "status": {"in_progress": {"waiting_for": "answer"}},
            "tool": "exec",
            "arguments": {"argv": ["pytest", "$build.output.folder"], "deep": {"list": [1, 2.5, None, True]}},
            "timeout_s": 60,
            "on_failure": "skip",
            "retries": 2,
        },
        {"id": "undo", "condition": {"if_failed": "test"}, "status": {"skipped": "Not needed."}},
    ],
}
AS_YAML = """
id: release
goal: A release that works.
actions:
  - {id: build, description: Build it., status: completed}
  - id: test
    depends_on: [build, build]
    tools_required: [exec]
    condition: {if_succeeded: build}
    status: {in_progress: {waiting_for: answer}}
    tool: exec
    arguments:
      argv: [pytest, $build.output.folder]
      deep: {list: [1, 2.5, null, true]}
    timeout_s: 60
    on_failure: skip
    retries: 2
  - id: undo
    condition: {if_failed: test}
    status: {skipped: Not needed.}
"""
AS_TOML = """
id = "release"
goal = "A release that works."

[[actions]]
id = "build"
description = "Build it."
status = "completed"

[[actions]]
id = "test"
depends_on = ["build"]
tools_required = ["exec"]
condition = {if_succeeded = "build"}
tool = "exec"
arguments = {argv = ["pytest"], timeout = 1.5}

[[actions]]
id = "undo"
condition = {if_failed = "test"}
"""


def only_fault(action: Any) -> str:
    """The words of the one fault of a plan with this action beside a good one."""
    _, faults = parse_plan({"id": "p", "actions": [{"id": "good"}, action]})
    (fault,) = faults
    assert fault.kind == "malformed"
    return fault.message


# -- reading ------------------------------------------------------------------------------------------


def test_a_plan_has_what_its_file_says_and_what_is_usual() -> None:
    plan, faults = parse_plan(WHOLE)
    assert faults == ()
    assert plan == StepPlan(
        id="release",
        goal="A release that works.",
        actions=(
            StepAction(id="build", description="Build it.", status=StepStatus("completed")),
            StepAction(
                id="test",
                depends_on=("build",),
                tools_required=("exec",),
                condition=StepCondition("if_succeeded", "build"),
                status=StepStatus("in_progress", waiting_for="answer"),
                tool="exec",
                arguments=WHOLE["actions"][1]["arguments"],
                timeout_s=60.0,
                on_failure="skip",
                retries=2,
            ),
            StepAction(
                id="undo",
                condition=StepCondition("if_failed", "test"),
                status=StepStatus("skipped", reason="Not needed."),
            ),
        ),
    )


def test_json_yaml_and_toml_spell_the_same_plan() -> None:
    whole, _ = parse_plan(WHOLE)
    assert whole is not None
    text = json.dumps(WHOLE, indent=1)
    assert read_plan(text, ".json") == read_plan(text, "") == read_plan(AS_YAML, ".yml") == (whole, ())
    assert read_plan(AS_YAML.encode(), "") == read_plan("\ufeff" + AS_YAML, ".YAML") == (whole, ())
    toml, faults = read_plan(AS_TOML, ".toml")
    assert faults == ()
    assert toml is not None
    assert [action.condition for action in toml.actions] == [action.condition for action in whole.actions]


def test_what_is_written_is_read_again() -> None:
    plan, _ = parse_plan(WHOLE)
    assert plan is not None
    assert parse_plan(plan.wire) == (plan, ())
    assert parse_plan(json.loads(json.dumps(plan.wire))) == (plan, ())


@pytest.mark.parametrize(
    ("text", "suffix", "said", "place"),
    [
        ('{"id": "p",\n "actions" []}', ".json", "Expecting ':'", (2, 12)),
        ('{"id": "p", "id": "q", "actions": []}', ".json", "'id' twice", None),
        ('{"id": NaN}', ".json", "NaN", None),
        ('{"id": 1e999}', ".json", "too large", None),
        ('{"id": ' + "9" * 5000 + "}", ".json", "too long", None),
        ("[" * 100_000, ".json", "deeper", None),
        ("id: p\nid: q", ".yaml", "'id' twice", (2, 1)),
        ("id: &p x\ngoal: *p", ".yml", "anchor", (1, 5)),
        ("id = 'p'\nactions = [}", ".toml", "Invalid value", (2, 12)),
        ("id = 'p'\nid = 'q'", ".toml", "Cannot overwrite", None),
        (b"\xff", ".json", "UTF-8 at byte 0", None),
        (b"\xff", ".yaml", "UTF-8 at byte 0", None),
        ("id: p", ".txt", "ends in .json, .yaml", None),
    ],
    ids=lambda value: value[:12].strip() if isinstance(value, str) else "",
)
def test_a_file_that_is_not_what_its_name_says_is_refused_with_the_place(
    text: str | bytes, suffix: str, said: str, place: tuple[int, int] | None
) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_plan(text, suffix)
    assert said in str(refused.value)
    if place is not None:
        assert (refused.value.details["line"], refused.value.details["column"]) == place


# -- what is malformed --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (5, "Action 2 is a number"),
        ({}, "Action 2 has no `id`"),
        ({"id": ""}, "Action 2 has '' as `id`"),
        ({"id": " a"}, "as `id`"),
        ({"id": "a\nb"}, "as `id`"),
        ({"id": "x" * 129}, "as `id`"),
        ({"id": "a", "dependson": []}, "a field 'dependson', which means nothing; `depends_on` is meant"),
        ({"id": "a", "xyzzy": []}, "there are id, description, depends_on"),
        ({"id": "a", "depends_on": "b"}, "'b' as `depends_on`; it is a list of the ids"),
        ({"id": "a", "depends_on": [1]}, "[1] as `depends_on`"),
        ({"id": "a", "tools_required": {"exec": 1}}, "as `tools_required`"),
        ({"id": "a", "condition": "never"}, '{"if_failed": ID}'),
        ({"id": "a", "condition": {"if_failed": "b", "if_succeeded": "c"}}, "as `condition`"),
        ({"id": "a", "condition": {"if_failed": ["b"]}}, "as `condition`"),
        ({"id": "a", "condition": None}, "as `condition`"),
        ({"id": "a", "status": "failed"}, '{"failed": REASON}'),
        ({"id": "a", "status": {"failed": None}}, "as `status`"),
        ({"id": "a", "status": {"in_progress": {"waiting_for": "godot"}}}, "as `status`"),
        ({"id": "a", "status": ["pending"]}, "as `status`"),
        ({"id": "a", "tool": 5}, "5 as `tool`"),
        ({"id": "a", "arguments": []}, "as `arguments`"),
        ({"id": "a", "arguments": {"x": float("nan")}}, "as `arguments`"),
        ({"id": "a", "arguments": {"x": "\ud800"}}, "as `arguments`"),
        ({"id": "a", "arguments": {5: "x"}}, "as `arguments`"),
        ({"id": "a", "arguments": {"x": object}}, "as `arguments`"),
        ({"id": "a", "timeout_s": 0}, "0 as `timeout_s`"),
        ({"id": "a", "timeout_s": True}, "as `timeout_s`"),
        ({"id": "a", "timeout_s": 10**400}, "as `timeout_s`"),
        ({"id": 10**5000}, "a number of very many digits as `id`"),
        ({"id": "a", "on_failure": "abort"}, '"stop", "skip" or "continue"'),
        ({"id": "a", "retries": -1}, "-1 as `retries`; it is a whole number from 0 to 100"),
        ({"id": "a", "retries": 1.0}, "as `retries`"),
        ({"id": "a", "description": "x" * 10_001}, "as `description`"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_cannot_be_read_is_told_with_the_form_it_should_have(action: Any, said: str) -> None:
    assert said in only_fault(action)


def test_arguments_may_be_so_deep_and_no_deeper() -> None:
    deep: Any = 1
    for _ in range(99):
        deep = [deep]
    plan_of(step("a", arguments={"x": deep}))
    for _ in range(100_000):
        deep = [deep]
    assert "`arguments`" in only_fault({"id": "a", "arguments": {"x": deep}})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "The plan is nothing"),
        ([], "The plan is a list"),
        ({"id": "p"}, "has no `actions`"),
        ({"id": "p", "actions": {}}, "an object as `actions`"),
        ({"id": "p", "actions": [{"id": "a"}] * (STEPS_MAX + 1)}, "is the most"),
    ],
    ids=["nothing", "a list", "no actions", "actions no list", "too many"],
)
def test_of_what_is_no_plan_at_all_there_is_no_plan(data: Any, said: str) -> None:
    plan, faults = parse_plan(data)
    assert plan is None
    assert said in faults[-1].message


def test_a_plan_without_an_id_or_with_unknown_fields_keeps_its_faults_with_it() -> None:
    plan, faults = parse_plan(
        {"steps": [], "actions": [{"id": "a", "retries": "often", "depends_on": ["x"]}]}
    )
    assert plan is not None
    assert plan.faults == faults
    assert [fault.kind for fault in faults] == ["malformed"] * 3
    report = check_plan(plan)
    assert report.faults[:3] == faults
    assert [fault.kind for fault in report.faults[3:]] == ["missing_dependency"]
    assert (report.state, report.runnable, report.digest) == ("invalid", False, None)


def test_more_faults_than_anybody_reads_end_with_a_word_that_there_are_more() -> None:
    plan, faults = parse_plan({"id": "p", "actions": [{"id": str(n), "x": 1} for n in range(FAULTS_MAX + 5)]})
    assert plan is not None
    assert len(faults) == FAULTS_MAX + 1
    assert faults[-1].kind == "too_many"
    many = plan_of(*(step(str(n), "nobody") for n in range(FAULTS_MAX + 5)))
    report = check_plan(many)
    assert len(report.faults) == FAULTS_MAX + 1
    assert report.faults[-1].kind == "too_many"


def test_what_an_agent_hands_in_over_a_wire_may_have_what_json_can_say() -> None:
    assert parse_plan(json.loads('{"id": "p", "actions": [{"id": "a", "arguments": {"n": 1e300}}]}'))[1] == ()


# -- the same plan ------------------------------------------------------------------------------------


def test_the_digest_is_of_what_is_to_be_done_and_of_nothing_else() -> None:
    first = plan_of(step("a", tool="exec", arguments={"x": 1, "y": 2}), step("b", "a"))
    same = plan_of(
        step("a", arguments={"y": 2, "x": 1}, tool="exec", status="completed", description="Said otherwise."),
        step("b", "a", "a", condition="always", on_failure="stop", status={"failed": "It broke."}),
    )
    assert first.digest == same.digest
    assert first.digest.startswith("sha256:")
    others = [
        plan_of(step("a", tool="exec", arguments={"x": 1, "y": 3}), step("b", "a")),
        plan_of(step("a", tool="exec", arguments={"x": 1, "y": 2}), step("b")),
        plan_of(step("a", tool="exec", arguments={"x": 1, "y": 2}), step("b", "a", on_failure="skip")),
        plan_of(step("b", "a"), step("a", tool="exec", arguments={"x": 1, "y": 2})),
    ]
    assert len({first.digest, *(other.digest for other in others)}) == 5
