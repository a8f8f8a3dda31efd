"""Proposals over the wire: what each action comes to, and what is on the record of it."""

import asyncio
from typing import Any

from tests.rpc.clients import Client, Failure
from tests.rpc.proposing import (
    Gate,
    bounded,
    calls_of,
    echo,
    events_of,
    offer,
    scenario,
    statuses,
    submit,
    tool,
    write,
)

from custody.calls.runtime import Runtime


def test_a_tool_of_the_client_is_run_there_and_its_result_is_the_output_verbatim(transport):
    given = {"text": "é", "n": 1.5, "error": None, "list": [1, None, {"a": True}]}

    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, look=given)
        answer = await submit(
            client, tool("look", "a1", with_={"q": "x"}, timeout_ms=90_000), proposal={"id": "p1"}
        )

        assert answer["proposal_id"] == "p1"
        (result,) = answer["results"]
        assert (result["action_id"], result["status"], result["output"]) == ("a1", "succeeded", given)
        assert result["error"] is None
        assert result["state_changes"] == {}
        assert result["duration_ms"] >= 0
        assert result["timestamp"].endswith("Z")
        assert not result.keys() & {"rolled_back", "terminal", "rejection", "source", "attempts"}
        assert answer["cost"] | {"total_duration_ms": 0} == {
            "tool_calls": 1,
            "actions_executed": 1,
            "actions_rejected": 0,
            "actions_skipped": 0,
            "total_duration_ms": 0,
            "retries": 0,
        }
        (asked,) = client.executed
        assert asked["request_id"].startswith("cb-")
        assert asked | {"request_id": ""} == {
            "action_id": "a1",
            "tool": "look",
            "parameters": {"q": "x"},
            "attempt": 1,
            "request_id": "",
            "timeout_ms": 90_000,
        }

    scenario(transport, work)


def test_each_call_of_a_proposal_keeps_where_it_came_from_and_without_a_run_it_has_none(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, echo=echo)
        answer = await submit(client, tool("echo", "one"), tool("echo", "two"), proposal={"id": "p"})
        calls = await calls_of(runtime)

        assert [(call.proposal_id, call.action_id, call.attempt, call.run_id) for call in calls] == [
            ("p", "one", 1, None),
            ("p", "two", 1, None),
        ]
        assert len({call.connection for call in calls}) == 1
        assert calls[0].connection
        assert [result["call_ids"] for result in answer["results"]] == [[call.id] for call in calls]
        assert (await asyncio.to_thread(lambda: runtime.index.runs(limit=10))).items == []
        assert [call.id for call in await calls_of(runtime, action_id="two")] == [calls[1].id]

    scenario(transport, work)


RESULTS = (
    ({"passed": False}, "succeeded", False),
    ({"passed": True}, "succeeded", True),
    ({"error": "broken"}, "failed", None),
    ({"success": False}, "failed", None),
    ({"timed_out": True, "exit_code": None}, "timed_out", None),
    ("text", "succeeded", None),
    (None, "succeeded", None),
)
"""What a tool gives, and what the record makes of it."""


def test_any_result_is_a_success_on_the_wire_and_the_record_says_what_it_says(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        given = iter([result for result, _, _ in RESULTS])

        async def check(parameters: Any, said: Any) -> Any:
            return next(given)

        await offer(client, check=check)
        answer = await submit(client, *[tool("check")] * len(RESULTS))

        assert statuses(answer) == ["succeeded"] * len(RESULTS)
        assert [one["output"] for one in answer["results"]] == [result for result, _, _ in RESULTS]
        calls = [(call.result, call.outcome, call.passed) for call in await calls_of(runtime)]
        assert calls == list(RESULTS)

    scenario(transport, work)


def test_an_error_of_the_tool_fails_its_action_with_the_tools_words(transport):
    async def breaks(parameters: Any, said: Any) -> Any:
        raise Failure(-32000, "no such branch")

    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, push=breaks)
        answer = await submit(client, tool("push"))

        (result,) = answer["results"]
        assert (result["status"], result["output"], result["error"]) == ("failed", None, "no such branch")
        assert answer["cost"]["actions_executed"] == 1
        (call,) = await calls_of(runtime)
        assert call.outcome == "failed"

    scenario(transport, work)


def test_a_tool_that_takes_too_long_is_told_to_stop_and_its_action_fails_naming_the_limit(transport):
    gate = Gate()

    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, slow=gate)
        answer = await submit(client, tool("slow", "s", timeout_ms=50))

        (result,) = answer["results"]
        assert result["status"] == "failed"
        assert "limit 0.05 s" in result["error"]
        await client.until(lambda: client.told)
        (cancel,) = client.told
        assert cancel["method"] == "tools.cancel"
        assert cancel["params"]["request_id"] == client.executed[0]["request_id"]
        (failed,) = (await client.call("events.query", {"kinds": ["action_failed"]}))["events"]
        assert failed["data"]["error_class"] == "timeout"

    scenario(transport, work)


def test_outputs_go_into_later_actions_and_dependencies_make_the_order(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, echo=echo)
        answer = await submit(
            client,
            tool("echo", "last", with_={"said": "it is ${first.output.n}"}, dependencies=["middle"]),
            tool("echo", "middle", with_={"whole": "$first.output", "n": "$first.output.n"}),
            tool("echo", "first", with_={"n": 7}),
        )

        assert [asked["action_id"] for asked in client.executed] == ["first", "middle", "last"]
        last, middle, first = answer["results"]
        assert middle["output"] == {"whole": {"n": 7}, "n": 7}
        assert last["output"] == {"said": "it is 7"}
        assert first["output"] == {"n": 7}

    scenario(transport, work)


def test_what_needs_no_order_runs_at_once_where_a_failure_would_not_abort(transport):
    gates = [Gate(number) for number in range(3)]

    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, g0=gates[0], g1=gates[1], g2=gates[2])
        submitted = await client.begin(
            "proposal.submit",
            {"proposal": {"actions": [tool(f"g{n}", failure_behavior="skip") for n in range(3)]}},
        )
        for gate in gates:
            await bounded(gate.begun.wait())
        for gate in gates:
            gate.through.set()
        answer = await client.answer_to(submitted)

        assert [result["output"] for result in answer["result"]["results"]] == [0, 1, 2]

    scenario(transport, work)


def test_two_proposals_of_one_connection_are_worked_on_at_once(transport):
    first, second = Gate("first"), Gate("second")

    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, first=first, second=second)
        ids = [
            await client.begin("proposal.submit", {"proposal": {"actions": [tool(name)]}})
            for name in ("first", "second")
        ]
        await bounded(first.begun.wait())
        await bounded(second.begun.wait())
        second.through.set()
        assert (await client.answer_to(ids[1]))["result"]["results"][0]["output"] == "second"
        first.through.set()
        assert (await client.answer_to(ids[0]))["result"]["results"][0]["output"] == "first"

    scenario(transport, work)


def test_an_unknown_tool_is_rejected_and_told_from_a_policys_no(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, known=1)
        await client.call("policy.register", {"name": "not_that", "rule": "deny_tool", "target": "known"})
        unknown = await submit(client, tool("unknown"))
        denied = await submit(client, tool("known"))

        assert statuses(unknown) == statuses(denied) == ["rejected"]
        assert unknown["results"][0]["rejection"] == {"by": "schema", "rule": None, "param": None}
        assert denied["results"][0]["rejection"] == {"by": "rule", "rule": "not_that", "param": None}
        assert denied["cost"]["actions_rejected"] == 1
        assert denied["cost"]["actions_executed"] == denied["cost"]["tool_calls"] == 0
        assert client.executed == []
        assert [call.outcome for call in await calls_of(runtime)] == ["rejected", "rejected"]

    scenario(transport, work)


def test_a_proposal_that_is_no_plan_is_rejected_whole_and_each_action_says_why(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, echo=echo)
        answer = await submit(
            client,
            tool("echo", "a", dependencies=["b"]),
            tool("echo", "b", dependencies=["a"]),
            tool("echo", "c"),
        )

        assert statuses(answer) == ["rejected"] * 3
        assert "'a' -> 'b' -> 'a'" in answer["results"][0]["error"]
        assert "no plan" in answer["results"][2]["error"]
        assert client.executed == []

        missing = await submit(client, tool("echo", "a", dependencies=["gone"]))
        assert "'gone'" in missing["results"][0]["error"]
        twice = await submit(client, tool("echo", "a"), tool("echo", "a"))
        assert statuses(twice) == ["rejected", "rejected"]

    scenario(transport, work)


MALFORMED = (
    ({"actions": [{"tool": "echo"}]}, "proposal.actions[0].type"),
    ({"actions": [{"type": "dance"}]}, "proposal.actions[0].type"),
    ({"actions": [tool("echo"), {"type": "tool_call"}]}, "proposal.actions[1].tool"),
    ({"actions": [tool("echo", timeout_ms="soon")]}, "proposal.actions[0].timeout_ms"),
    ({"actions": [tool("echo", failure_behavior="ignore")]}, "proposal.actions[0].failure_behavior"),
    ({"actions": [tool("echo", invocation_mode="streaming")]}, "proposal.actions[0].invocation_mode"),
    ({"actions": [tool("echo")] * 1_001}, "proposal.actions"),
    ({"actions": [tool("echo", "x" * 257)]}, "proposal.actions[0].id"),
    ({"actions": {}}, "proposal.actions"),
    ({}, "proposal.actions"),
    ("text", "proposal"),
)
"""Proposals, and the field that is wrong."""


def test_a_malformed_proposal_is_an_error_that_names_the_field(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, echo=echo)
        for proposal, field in MALFORMED:
            answer = await client.ask("proposal.submit", {"proposal": proposal})

            assert answer["error"]["code"] == -32602
            assert answer["error"]["message"].startswith("invalid params: ")
            assert answer["error"]["data"]["field"] == field
        assert client.executed == []

    scenario(transport, work)


def test_null_stands_for_what_is_left_out_and_what_is_unknown_is_passed_over(transport):
    action = dict.fromkeys(
        "id parameters preconditions expected_effects state_dependencies dependencies read_set write_set "
        "idempotent max_retries failure_behavior timeout_ms invocation_mode metadata".split()
    )

    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, echo=echo)
        answer = await submit(
            client,
            {**action, "type": "tool_call", "tool": "echo", "reversibility": "irreversible", "new": 1},
            session_id=None,
            scope=None,
        )
        assert statuses(answer) == ["succeeded"]
        assert len(answer["results"][0]["action_id"]) == 12
        assert len(answer["proposal_id"]) == 12
        assert statuses(await submit(client)) == []

    scenario(transport, work)


def test_state_actions_read_write_and_assert_without_being_calls(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        answer = await submit(
            client,
            write("n", 1, "w"),
            {"id": "r", "type": "state_read", "parameters": {"key": "n"}},
            {"id": "t", "type": "assertion", "parameters": {"key": "n", "operator": "gte", "value": 1}},
            {"id": "f", "type": "assertion", "parameters": {"key": "n", "operator": "gt", "value": 1}},
        )

        assert statuses(answer) == ["succeeded", "succeeded", "succeeded", "failed"]
        assert answer["results"][1]["output"] == 1
        assert "'n'" in answer["results"][3]["error"]
        assert answer["cost"]["tool_calls"] == 0
        assert answer["cost"]["actions_executed"] == 4
        assert await calls_of(runtime) == []
        assert await client.call("state.get", {"key": "n"}) is None, "the assertion aborted it"

    scenario(transport, work)


def test_an_action_whose_precondition_does_not_hold_is_rejected_and_its_tool_never_runs(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, deploy=1)
        condition = {"key": "tested", "operator": "eq", "value": True}
        gated = tool("deploy", preconditions=[condition], expected_effects={"deployed": True})
        refused = await submit(client, gated)
        await client.call("state.set", {"key": "tested", "value": True})
        done = await submit(client, gated)

        assert statuses(refused) == ["rejected"]
        assert "'tested'" in refused["results"][0]["error"]
        assert statuses(done) == ["succeeded"]
        assert done["results"][0]["state_changes"] == {"deployed": True}
        assert len(client.executed) == 1
        assert await client.call("state.get", {"key": "deployed"}) is True

    scenario(transport, work)


def test_custodys_own_tools_are_called_by_the_same_words_and_a_failure_keeps_what_they_gave(
    transport, tmp_path
):
    async def work(client: Client, runtime: Runtime) -> None:
        answer = await submit(
            client,
            tool("exec", "ok", with_={"argv": ["echo", "hello"]}),
            tool("exec", "bad", with_={"argv": ["sh", "-c", "echo said; exit 3"]}),
        )

        ok, bad = answer["results"]
        assert ok["status"] == "succeeded"
        assert ok["output"]["stdout"] == "hello\n"
        assert bad["status"] == "failed"
        assert bad["output"]["stdout"] == "said\n"
        assert "exit code 3" in bad["error"]

    scenario(transport, work)


def test_what_became_of_every_action_is_one_event_on_the_record(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, echo=echo)
        await submit(
            client,
            tool("echo", "call", failure_behavior="skip"),
            tool("nope", "rotate-token", failure_behavior="skip"),
            tool("echo", "after", dependencies=["rotate-token"], failure_behavior="skip"),
            proposal={"id": "whole", "source": "planner"},
        )

        (said,) = await events_of(runtime, "proposal.finished")
        assert said["proposal_id"] == "whole"
        assert said["source"] == "planner"
        assert [(one["action_id"], one["status"]) for one in said["actions"]] == [
            ("call", "succeeded"),
            ("rotate-token", "rejected"),
            ("after", "skipped"),
        ]
        assert [bool(one["reason"]) for one in said["actions"]] == [False, True, True]
        assert said["cost"]["actions_skipped"] == 1
        assert said["connection"]

    scenario(transport, work)
