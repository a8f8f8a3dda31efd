"""A step plan while it is worked on: what each end makes ready, and what it makes skipped or held back."""

from tests.plans.step_plans import failed, if_failed, if_succeeded, plan_of, step

from custody.plans import check_plan
from custody.plans.steps.standing import Standing


def taken(standing: Standing) -> list[str]:
    """Everything that is ready, begun."""
    found: list[str] = []
    while (action := standing.take()) is not None:
        found.append(action.id)
    return found


def test_what_is_ready_is_taken_once_as_the_plan_lists_it() -> None:
    standing = Standing(plan_of(step("c", "a"), step("b"), step("a"), step("d", "b")).actions)
    assert (len(standing), standing.ready) == (2, ("b", "a"))
    assert taken(standing) == ["b", "a"]
    standing.ended("a", "completed")
    assert taken(standing) == ["c"]
    standing.ended("b", "completed")
    assert taken(standing) == ["d"]


def test_after_a_failure_that_stops_the_plan_what_was_ready_is_ready_no_more() -> None:
    standing = Standing(plan_of(step("a"), step("b"), step("undo", condition=if_failed("a"))).actions)
    assert standing.take() is not None
    assert standing.ready == ("b",)
    standing.ended("a", "failed")
    assert standing.ready == ("undo",)
    assert standing.held_back("b") == "The plan was stopped when 'a' failed."


def test_what_follows_the_success_of_an_answer_begins_in_a_plan_that_was_stopped() -> None:
    plan = plan_of(
        step("deploy"),
        step("roll_back", condition=if_failed("deploy")),
        step("note"),
        step("tell", "note", condition=if_succeeded("roll_back")),
        step("tell_more", condition=if_succeeded("tell")),
        step("other", "roll_back"),
    )
    standing = Standing(plan.actions)
    assert standing.take() is not None
    standing.ended("deploy", "failed")
    assert taken(standing) == ["roll_back"]
    standing.ended("roll_back", "completed")
    assert taken(standing) == ["note"]
    standing.ended("note", "completed")
    assert taken(standing) == ["tell"]
    standing.ended("tell", "completed")
    assert taken(standing) == ["tell_more"]
    assert standing.held_back("other") == "The plan was stopped when 'deploy' failed."


def test_an_answer_that_fails_is_answered_in_its_turn() -> None:
    plan = plan_of(
        step("a"), step("b", condition=if_failed("a")), step("c", condition=if_failed("b")), step("d", "c")
    )
    standing = Standing(plan.actions)
    for name in ("a", "b"):
        assert taken(standing) == [name]
        standing.ended(name, "failed")
    assert taken(standing) == ["c"]
    standing.ended("c", "completed")
    assert (standing.ready, standing.take_skipped()) == ((), [])
    assert [(one.action_id, one.by) for one in standing.blocked()] == [("d", "a")]


def test_what_was_skipped_for_a_failure_before_takes_along_what_needs_it() -> None:
    skipped = {"skipped": "It needs 'a', which failed."}
    report = check_plan(
        plan_of(
            failed("a", on_failure="skip"),
            step("b", "a", status=skipped),
            step("c", "b", status=skipped),
            step("d", "c"),
            step("x", status={"skipped": "Nobody wants it."}),
            step("y", "x"),
        )
    )
    assert [(one.action_id, one.reason) for one in report.skipped_next] == [
        ("d", "It needs 'c', which was skipped because 'a' failed.")
    ]
    assert report.ready == ("y",)


def test_why_something_is_held_back_names_the_failure_and_what_is_between() -> None:
    standing = Standing(plan_of(failed("a"), step("b", "a"), step("c", "b")).actions, {"a": "failed"})
    assert [standing.held_back(one) for one in "abc"] == [
        None,
        "It needs 'a', which failed.",
        "It comes after 'b', which is held back because 'a' failed.",
    ]
