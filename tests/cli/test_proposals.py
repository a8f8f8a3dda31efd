"""Calls that came as actions of a proposal, and runs another system has an id for, at the command line."""

import os

import pytest
from tests.cli.conftest import Program

import custody
from custody.journal import Journal, RealDisk
from custody.records import CallFinished, Decision, Request, now_us
from custody.stores import make_recorder
from custody.tools import Origin

NO = Decision("deny", "rule", "not in production", rule="no_production", param="host")
CONNECTION = "0123456789abcdef"


@custody.tool(effect="read")
def deploy(host: str) -> dict[str, bool]:
    """Pretend to."""
    return {"success": host != "slow"}


@pytest.fixture(scope="module")
def proposed(tmp_path_factory):
    """A store, and the calls in it: an action tried twice, one that was denied, one of another proposal."""
    program = Program(tmp_path_factory.mktemp("proposed"))
    with program.recording() as runtime:

        def call(host, proposal, action, attempt, connection=CONNECTION, guards=()):
            origin = Origin(
                proposal_id=proposal, action_id=action, attempt=attempt, connection=connection, guards=guards
            )
            return runtime.call(deploy, {"host": host}, origin=origin).id

        with runtime.run("deploy", external_id="key-1"):
            made = {
                "first": call("slow", "p1", "a1", 1),
                "again": call("fast", "p1", "a1", 2),
                "denied": call("prod", "p1", "a2", 1, guards=(lambda _: NO,)),
                "other": call("fast", "p2", "a1", 1, connection="fedcba9876543210"),
            }
        with runtime.run("something else"):
            pass
    yield program, made
    program.close()


def tell(program: Program) -> str:
    """Put a call on the record that was over before anybody spoke of it; returns its id."""
    disk = RealDisk(os.fspath(program.store))
    journal = Journal(disk)
    recorder = make_recorder(disk, journal, {})
    call_id = recorder.ids.take(8)
    request = Request(
        run_id=None, position=None, tool="drive_cli", effect="unknown", level="none",
        decision=Decision("allow", "nobody", "run by its caller"), asked_at_us=now_us(),
    )  # fmt: skip
    said = {"prompt": "paint the shed", "arguments": {"cli": "x"}, "result": {"timed_out": True}}
    recorder.append(
        recorder.draft(
            CallFinished, said, call_id=call_id, request=request, at_us=now_us(), outcome="timed_out",
            source="observed",
        )
    )  # fmt: skip
    journal.close()
    return call_id.hex()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--proposal", "p1"], ["first", "again", "denied"]),
        (["--action", "a1"], ["first", "again", "other"]),
        (["--action", "a1", "--proposal", "p1", "--attempt", "2"], ["again"]),
        (["--attempt", "2", "--all"], ["again"]),
        (["--connection", CONNECTION, "--outcome", "failed"], ["first"]),
        (["--connection", "nobody's"], []),
    ],
)
def test_calls_are_filtered_by_the_action_they_were_made_for(proposed, options, expected):
    custody, made = proposed
    found = custody("calls", "--json", "--oldest", *options).json["items"]
    assert [call["id"] for call in found] == [made[name] for name in expected]


def test_questions_over_calls_take_the_same_filters(proposed):
    custody, made = proposed
    assert custody("stats", "--json", "--proposal", "p1").json["calls"] == 3
    assert custody("stats", "--json", "--connection", "nobody's").json["calls"] == 0
    slowest = custody("stats", "slowest", "--json", "--action", "a1", "--attempt", "2").json["items"]
    assert [call["id"] for call in slowest] == [made["again"]]
    (pattern,) = custody("stats", "failures", "--json", "--min-count", "1", "--proposal", "p1").json["items"]
    assert pattern["example_id"] == made["first"]


def test_an_attempt_is_counted_from_one(proposed):
    custody, _ = proposed
    assert custody("calls", "--attempt", "0").code == 2


def test_a_run_is_found_by_the_id_another_system_gave_it(proposed):
    custody, _ = proposed
    (run,) = custody("runs", "--json", "--external-id", "key-1").json["items"]
    assert (run["intent"], run["external_id"]) == ("deploy", "key-1")
    assert custody("runs", "--json", "--external-id", "key-2").json["items"] == []


def test_a_call_is_shown_with_what_it_was_made_for_and_what_the_rule_was_about(proposed):
    custody, made = proposed
    shown = {line.strip() for line in custody("show", made["denied"]).out.splitlines()}
    for title, said in (
        ("rule", "no_production, about host"),
        ("proposal", "p1"),
        ("action", "a2, attempt 1"),
        ("connection", CONNECTION),
    ):
        assert any(line.split(maxsplit=1) == [title, said] for line in shown), title
    assert not {"proposal", "action", "connection"} & {
        line.split()[0] for line in custody("show", "latest").out.splitlines() if line.strip()
    }


def test_a_call_told_of_afterwards_is_shown_as_one_that_ended_with_its_prompt(proposed):
    custody, _ = proposed
    told = tell(custody)
    shown = custody("show", told).out
    assert "timed out" in shown and "paint the shed" in shown
    assert "took" not in [line.split()[0] for line in shown.splitlines() if line.strip()]
    assert told not in [call["id"] for call in custody("calls", "--all", "--running", "--json").json["items"]]
    (tool,) = custody("stats", "--all", "--tool", "drive_cli", "--json").json["tools"]
    assert (tool["by_outcome"], tool["latency_p50_us"]) == ({"timed_out": 1}, None)
