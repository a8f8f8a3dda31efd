"""Whatever is proposed: the answer, the record and the state say the same, and a no never reaches a tool."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rpc.clients import Client, Failure, connected, opened_runtime
from tests.rpc.proposing import calls_of, offer, submit, tool, write

from custody.calls.runtime import Runtime

TOOLS = ("gives", "fails", "denied", "unknown", "flaky")

EXAMPLES_IN_A_RUNTIME = 15


async def gives(parameters: Any, said: Any) -> Any:
    del said
    return parameters


async def fails(parameters: Any, said: Any) -> Any:
    raise Failure(-32000, "it does")


async def flaky(parameters: Any, said: Any) -> Any:
    del parameters
    if said["attempt"] == 1:
        raise Failure(-32000, "the first time")
    return said["attempt"]


@st.composite
def actions(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A few, some of which need earlier ones."""
    made: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 6))):
        common: dict[str, Any] = {
            "failure_behavior": draw(st.sampled_from(["abort", "skip", "skip"])),
            "dependencies": draw(
                st.lists(st.sampled_from([f"a{n}" for n in range(number)] or ["a0"]), max_size=1)
            )
            if number
            else [],
            "expected_effects": draw(st.dictionaries(st.sampled_from("xy"), st.integers(0, 3), max_size=1)),
            "idempotent": draw(st.booleans()),
        }
        if draw(st.integers(0, 3)) == 0:
            made.append(write(draw(st.sampled_from("xyz")), draw(st.integers(0, 3)), f"a{number}", **common))
            continue
        name = draw(st.sampled_from(TOOLS))
        if name == "flaky":
            common |= {"failure_behavior": "retry", "max_retries": 1}
        made.append(tool(name, f"a{number}", with_={"n": draw(st.integers(0, 1))}, **common))
    return made


async def check(client: Client, runtime: Runtime, proposed: list[dict[str, Any]]) -> None:
    asked_before = len(client.executed)
    state_before = await client.call("state.snapshot")
    answer = await submit(client, *proposed)
    results = {result["action_id"]: result for result in answer["results"]}
    statuses = [result["status"] for result in results.values()]
    calls = await calls_of(runtime, proposal_id=answer["proposal_id"])
    executed = [call for call in calls if call.outcome != "rejected" and call.source == "executed"]
    cost = answer["cost"]

    assert list(results) == [action["id"] for action in proposed]
    assert cost["actions_executed"] == statuses.count("succeeded") + statuses.count("failed")
    assert cost["actions_rejected"] == statuses.count("rejected")
    assert cost["actions_skipped"] == statuses.count("skipped")
    assert cost["tool_calls"] == len(executed) == len(client.executed) - asked_before
    assert {asked["tool"] for asked in client.executed} <= {"gives", "fails", "flaky"}
    for action_id, result in results.items():
        assert result.get("call_ids", []) == [call.id for call in calls if call.action_id == action_id]
        if result.get("rejection") is not None:
            assert result["status"] == "rejected"
    state = dict(state_before)
    for result in answer["results"]:
        state |= result["state_changes"]
    if "aborted_by" in answer:
        assert await client.call("state.snapshot") == state_before == state
        assert all(
            result.get("rolled_back") for result in results.values() if result["status"] == "succeeded"
        )
    else:
        assert (await client.call("state.snapshot")).keys() == state.keys()


@pytest.mark.long  # pauses between attempts are real
@settings(max_examples=20)
@given(st.lists(actions(), min_size=EXAMPLES_IN_A_RUNTIME, max_size=EXAMPLES_IN_A_RUNTIME))
def test_the_answer_the_record_and_the_state_agree(proposals):
    async def work() -> None:
        async with opened_runtime() as runtime, connected("memory", runtime) as client:
            await offer(client, gives=gives, fails=fails, flaky=flaky, denied=gives)
            await client.call("policy.register", {"name": "p", "rule": "deny_tool", "target": "denied"})
            for proposed in proposals:
                await check(client, runtime, proposed)

    asyncio.run(work())
