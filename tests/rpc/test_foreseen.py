"""What a peer is told of a proposal before anything of it is done."""

from typing import Any

import pytest
from tests.rpc.clients import Client
from tests.rpc.proposing import calls_of, echo, events_of, offer, scenario, tool, write

from custody.calls.runtime import Runtime


@pytest.fixture
def transport() -> str:
    """What lies above the transports does not depend on them: `test_proposals` goes over each."""
    return "memory"


async def verify(client: Client, *actions: dict[str, Any], **more: Any) -> Any:
    return await client.call("verify", {"proposal": {"actions": list(actions)}, **more})


async def simulate(client: Client, *actions: dict[str, Any], **more: Any) -> Any:
    return await client.call("simulate", {"proposal": {"actions": list(actions)}, **more})


def test_a_sound_proposal_is_valid_and_its_levels_and_state_are_told(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, echo=echo)
        answer = await verify(
            client,
            tool("echo", "a", expected_effects={"built": True}),
            tool("echo", "b", state_dependencies=["built"]),
            tool("echo", "c", with_={"n": 1}),
        )
        assert answer == {
            "valid": True,
            "issues": [],
            "simulated_state": {"built": True},
            "execution_levels": [["a", "c"], ["b"]],
            "conflicts": [],
        }

    scenario(transport, work)


def test_all_that_is_wrong_is_told_at_once_and_nothing_is_done_or_recorded(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, echo=echo)
        await client.call("policy.register", {"name": "no", "rule": "deny_tool", "target": "echo"})
        before = await client.call("events.count")
        answer = await verify(
            client,
            tool("nope", "unknown"),
            tool("echo", "denied"),
            tool("exec", "unfit", with_={"argv": "no list"}),
            tool("exec", "referring", with_={"argv": "$denied.output"}),
            tool(
                "exec", "gated", with_={"argv": ["true"]}, preconditions=[{"key": "k", "operator": "exists"}]
            ),
            write("s", 1, "w1"),
            write("s", 2, "w2"),
        )

        assert answer["valid"] is False
        errors = {one["action_id"]: one for one in answer["issues"] if one["severity"] == "error"}
        assert errors.keys() == {"unknown", "denied", "unfit", "gated"}
        assert errors["denied"]["message"].startswith("The policy no says no")
        assert {one["tier"] for one in errors.values()} == {"decision_procedure"}
        assert answer["conflicts"] == [["w1", "w2", "s"]]
        assert await client.call("events.count") == before
        assert await calls_of(runtime) == []
        assert await events_of(runtime, "proposal.finished") == []
        assert await client.call("state.snapshot") == {}

    scenario(transport, work)


def test_a_rule_about_the_state_that_an_earlier_action_meets_is_a_warning(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, deploy=1)
        await client.call(
            "policy.register", {"name": "tested", "rule": "require_state", "key": "tests", "value": True}
        )
        never = await verify(client, tool("deploy", "d"))
        assert [(one["severity"], one["action_id"]) for one in never["issues"]] == [("error", "d")]
        sets = await verify(client, write("tests", True), tool("deploy", "d"))
        assert [(one["severity"], one["tier"]) for one in sets["issues"]] == [("warning", "heuristic")]
        given = await verify(client, tool("deploy", "d"), initial_state={"tests": True})
        assert given["issues"] == []

    scenario(transport, work)


def test_the_state_it_begins_from_is_the_connections_the_tenants_or_the_one_given(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await client.call("state.set", {"key": "k", "value": "nobody's"})
        await client.call("state.set", {"key": "k", "value": "acme's", "tenant_id": "acme"})
        assert (await verify(client))["simulated_state"] == {"k": "nobody's"}
        assert (await verify(client, scope={"tenantId": "acme"}))["simulated_state"] == {"k": "acme's"}
        assert (await verify(client, initial_state={}))["simulated_state"] == {}
        assert (await simulate(client, initial_state={"x": 1}))["simulated_state"] == {"x": 1}

    scenario(transport, work)


def test_what_is_no_plan_is_told_by_verify_and_refused_by_simulate(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, echo=echo)
        cycle = [tool("echo", "a", dependencies=["b"]), tool("echo", "b", dependencies=["a"])]
        told = await verify(client, *cycle)
        assert told["valid"] is False
        assert told["execution_levels"] == []
        refused = await client.ask("simulate", {"proposal": {"actions": cycle}})
        assert refused["error"]["code"] == -32602

    scenario(transport, work)


def test_a_simulation_rejects_what_a_rule_would_refuse_in_the_state_it_would_meet(transport):
    actions = (
        tool("echo", "early", failure_behavior="skip"),
        write("ready", True, "get-ready"),
        tool("echo", "late", dependencies=["get-ready"]),
        tool("rm", "gone", dependencies=["late"]),
        tool("echo", "never", dependencies=["gone"]),
    )

    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, echo=echo, rm=echo)
        ready = {"name": "ready", "rule": "require_state", "key": "ready", "value": True}
        await client.call("policy.register", ready)
        await client.call("policy.register", {"name": "no-rm", "rule": "deny_tool", "target": "rm"})
        simulated = await simulate(client, *actions)
        assert simulated["statuses"] == {
            "early": "rejected", "get-ready": "succeeded", "late": "succeeded", "gone": "rejected",
            "never": "skipped",
        }  # fmt: skip
        assert (simulated["aborted_by"], client.executed) == ("gone", [])
        assert ("ready" in simulated["reasons"]["early"], "no-rm" in simulated["reasons"]["gone"]) == (
            True,
            True,
        )

    scenario(transport, work)


def test_a_simulation_passes_over_what_would_be_rejected_where_verify_does_not(transport):
    actions = (
        tool("echo", "deploy", expected_effects={"deployed": True}, failure_behavior="skip",
             preconditions=[{"key": "tested", "value": True}]),
        tool("echo", "tell", state_dependencies=["deployed"], failure_behavior="skip"),
    )  # fmt: skip

    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, echo=echo)
        assert (await verify(client, *actions))["simulated_state"] == {"deployed": True}
        simulated = await simulate(client, *actions)
        assert simulated["simulated_state"] == {}
        assert simulated["statuses"] == {"deploy": "rejected", "tell": "skipped"}
        assert simulated["reasons"].keys() == {"deploy", "tell"}
        assert simulated["aborted_by"] is None
        assert client.executed == []

    scenario(transport, work)
