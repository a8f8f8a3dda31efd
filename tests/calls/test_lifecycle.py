"""The life of a call as a state machine: exactly one terminal record on every path."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.calls.lifecycle import advance, judge
from custody.errors import LauncherLost, PeerLost, ToolError
from custody.records import OUTCOMES, Kind
from custody.tools import Ended

KINDS = st.sampled_from([Kind.CALL_ASKED, Kind.CALL_ANSWERED, Kind.CALL_STARTED, Kind.CALL_FINISHED])


@given(st.lists(KINDS, max_size=8))
def test_no_sequence_of_records_has_two_terminals_or_runs_a_call_that_has_ended(kinds):
    state, taken = "new", []
    for kind in kinds:
        try:
            state = advance(state, kind)
        except AssertionError:
            continue
        taken.append(kind)

    assert taken.count(Kind.CALL_FINISHED) <= 1
    assert (Kind.CALL_FINISHED in taken) == (state in ("finished", "unanswered"))
    after = taken[taken.index(Kind.CALL_FINISHED) + 1 :] if Kind.CALL_FINISHED in taken else []
    assert after in ([], [Kind.CALL_ANSWERED])  # to a question that its call did not live to see answered
    assert taken.count(Kind.CALL_ANSWERED) <= taken.count(Kind.CALL_ASKED)
    assert taken.count(Kind.CALL_STARTED) <= 1


def test_a_call_cannot_start_before_its_ask_is_answered():
    with pytest.raises(AssertionError):
        advance(advance("new", Kind.CALL_ASKED), Kind.CALL_STARTED)


def ended(**fields) -> Ended:
    return Ended(started_ns=0, ended_ns=1_500_000_000, **fields)


@pytest.mark.parametrize(
    ("end", "outcome", "reason"),
    [
        (ended(limit_hit="deadline", exit_code=0), "timed_out", "timed out after 1.5 s (limit 1 s)"),
        (ended(limit_hit="cancelled", signal=15), "cancelled", "cancelled after 1.5 s"),
        (ended(signal=9), "failed", "ended by SIGKILL"),
        (ended(signal=40), "failed", "ended by signal 40"),
        (ended(exit_code=2, result={"success": True}), "failed", "exit code 2"),
        (ended(exit_code=0, result={"success": False}), "failed", "the result says success is false"),
        (ended(exit_code=0), "succeeded", None),
        (ended(exit_code=0, limit_hit="output"), "succeeded", None),
        (ended(exit_code=2, limit_hit="output"), "failed", "exit code 2"),
        (ended(error=ToolError("no")), "failed", "ToolError"),
        (ended(error=LauncherLost()), "unknown", "its launcher was killed"),
        (ended(error=PeerLost("gone")), "unknown", "whoever ran it went away before it answered"),
        (ended(result={"timed_out": True, "exit_code": 3}), "timed_out", "the result says it timed out"),
        (ended(result={"timed_out": True, "error": "x"}), "timed_out", "the result says it timed out"),
        (ended(result={"timed_out": False, "error": "x"}), "failed", "the result reports an error"),
        (ended(result={"timed_out": "yes"}), "succeeded", None),
        (ended(exit_code=2, result={"timed_out": True}), "failed", "exit code 2"),
    ],
)
def test_a_limit_outranks_an_exit_code_which_outranks_what_the_result_says(end, outcome, reason):
    judgement = judge(end, 1.0)

    assert (judgement.outcome, judgement.reason) == (outcome, reason)


@pytest.mark.parametrize(
    ("end", "outcome", "passed"),
    [
        (ended(result={"passed": True}), "succeeded", True),
        (ended(result={"passed": False}), "succeeded", False),
        (ended(result={"passed": False, "error": "no such file"}), "failed", False),
        (ended(result={"passed": False, "success": False}), "failed", False),
        (ended(result={"passed": False, "timed_out": True}), "timed_out", False),
        (ended(exit_code=1, result={"passed": False}), "failed", False),
        (ended(signal=9, result={"passed": True}), "failed", True),
        (ended(result={"passed": "yes"}), "succeeded", None),
        (ended(result={"passed": 1}), "succeeded", None),
        (ended(result=["passed"]), "succeeded", None),
        (ended(limit_hit="deadline", result={"passed": False}), "timed_out", False),
        (ended(limit_hit="cancelled", result={"passed": False}), "cancelled", None),
    ],
)
def test_what_a_verifier_found_is_another_matter_than_how_it_ended(end, outcome, passed):
    judgement = judge(end, 1.0)

    assert (judgement.outcome, judgement.passed) == (outcome, passed)


@given(
    st.builds(
        ended,
        limit_hit=st.sampled_from([None, "deadline", "cancelled"]),
        exit_code=st.none() | st.integers(0, 255),
        signal=st.none() | st.integers(1, 64),
        error=st.none() | st.just(ValueError("x")),
        result=st.none()
        | st.dictionaries(
            st.sampled_from(["success", "error", "passed", "timed_out", "x"]), st.none() | st.booleans()
        ),
    )
)
def test_every_end_has_an_outcome(end):
    assert judge(end, None).outcome in OUTCOMES


def test_an_exception_whose_message_cannot_be_read_still_ends_its_call():
    class Unreadable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert judge(ended(error=Unreadable()), None).error["type"] == "Unreadable"
