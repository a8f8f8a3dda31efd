"""Rules a peer sets upon itself: what they refuse, where they hold, and what is told of them."""

from typing import Any

import pytest
from tests.rpc.clients import Client
from tests.rpc.proposing import calls_of, echo, events_of, offer, scenario, statuses, submit, tool

from custody.calls.runtime import Runtime
from custody.records import Event, Kind, decode_leaf


@pytest.fixture
def transport() -> str:
    """What lies above the transports does not depend on them: `test_proposals` goes over each."""
    return "memory"


async def register(client: Client, name: str, rule: str, **more: Any) -> Any:
    return await client.call("policy.register", {"name": name, "rule": rule, **more})


async def rejection(client: Client, action: dict[str, Any], **more: Any) -> Any:
    """Who rejected an action; None where it was done."""
    (result,) = (await submit(client, action, **more))["results"]
    return result.get("rejection") if result["status"] == "rejected" else None


def test_a_denied_tool_never_runs_and_its_turn_names_the_rule(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, drive_cli={"exit_code": 0})
        run = (await client.call("runs.start", {"intent": "x", "agent_id": "ada"}))["run_id"]
        answer = await register(client, "no_cli", "deny_tool", target="drive_cli")
        assert answer == {"registered": "no_cli", "name": "no_cli", "scope": "global"}
        await submit(client, tool("drive_cli", with_={"cli": "claude", "prompt": "do it"}))

        assert client.executed == []
        trace = await client.call("runs.get_trace", {"run_id": run})
        (turn,) = [record for record in trace["records"] if record["record"] == "turn"]
        assert turn["policy_rejected"] == {"rule": "no_cli", "param": None}
        assert turn["output"] is None
        assert turn["cli_outcome"] is None
        assert turn["prompt"] == "do it"
        (violation,) = (await client.call("events.query", {"kinds": ["policy_violation"]}))["events"]
        assert violation["data"] == {"policy_name": "no_cli"}

    scenario(transport, work)


SEARCHED = (
    ("rm -rf", "rm -rf /", True),
    ("rm -rf", "RM -RF /", False),
    ("rm -rf", ["ls", "rm -rf x"], True),
    ("rm -rf", {"deep": {"er": "rm -rf"}}, True),
    ("rm -rf", 17, False),
    ("rm -rf", None, False),
    (".*", "x", False),
    ("1", 31, True),
    ("true", True, True),
)
"""A pattern, what the parameter holds, and whether it is denied: plain text is looked for."""


def test_a_parameter_is_searched_for_plain_text_and_what_it_holds_is_never_told(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, sh=echo, other=echo)
        for pattern, value, denied in SEARCHED:
            await register(client, "p", "deny_tool_param", target="sh", key="command", pattern=pattern)
            found = await rejection(client, tool("sh", with_={"command": value}))
            assert found == ({"by": "rule", "rule": "p", "param": "command"} if denied else None)
            assert await rejection(client, tool("sh", with_={"else": value})) is None, (
                "absent is no violation"
            )
            assert await rejection(client, tool("other", with_={"command": value})) is None
            await client.call("policy.unregister", {"name": "p"})
        for call in await calls_of(runtime, outcome="rejected"):
            assert (call.decision.rule, call.decision.param) == ("p", "command")
            assert "rm -rf" not in call.decision.reason

    scenario(transport, work)


def test_a_required_state_holds_back_every_tool_until_it_is_there(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, deploy=1)
        await register(client, "tested", "require_state", key="tests", value=True)
        assert (await rejection(client, tool("deploy")))["rule"] == "tested"
        assert (await rejection(client, tool("exec", with_={"argv": ["true"]})))["rule"] == "tested"
        await client.call("state.set", {"key": "tests", "value": 1})
        assert await rejection(client, tool("deploy")), "1 is not true"
        await client.call("state.set", {"key": "tests", "value": True})
        assert await rejection(client, tool("deploy")) is None

    scenario(transport, work)


def test_rules_of_a_policy_session_hold_under_it_only_and_together_with_a_tenants_state(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, t=echo)
        session = (await client.call("session.policy.open"))["session_id"]
        answer = await register(
            client, "here", "deny_tool_param", target="t", key="k", pattern="x", session_id=session
        )
        assert answer["scope"] == {"session_id": session}
        await register(client, "everywhere", "deny_tool_param", target="t", key="k", pattern="y")
        await register(client, "ready", "require_state", key="ready", value=1, session_id=session)
        scope = {"callerId": "carol", "tenantId": "acme", "claims": {"role": "dev"}}

        assert await rejection(client, tool("t", with_={"k": "x"})) is None
        assert (await rejection(client, tool("t", with_={"k": "y"})))["rule"] == "everywhere"
        under = {"session_id": session, "scope": scope}
        assert (await rejection(client, tool("t"), **under))["rule"] == "ready"
        await client.call("state.set", {"key": "ready", "value": 1})
        assert await rejection(client, tool("t"), **under), "that was nobody's state, not the tenant's"
        await client.call("state.set", {"key": "ready", "value": 1, "tenant_id": "acme"})
        assert await rejection(client, tool("t"), **under) is None
        assert (await rejection(client, tool("t", with_={"k": "x"}), **under))["rule"] == "here"
        assert (await rejection(client, tool("t", with_={"k": "y"}), **under))["rule"] == "everywhere"
        assert client.executed[-1]["session_id"] == session
        assert {call.caller for call in await calls_of(runtime, caller="carol")} == {"carol"}
        said = (await events_of(runtime, "proposal.finished"))[-1]
        assert (said["policy_session"], said["tenant_id"], said["claims"]) == (
            session,
            "acme",
            {"role": "dev"},
        )

        assert await client.call("session.policy.close", {"session_id": session}) == {"closed": True}
        assert await client.call("session.policy.close", {"session_id": session}) == {"closed": False}
        gone = await client.ask(
            "proposal.submit", {"proposal": {"actions": [tool("t")]}, "session_id": session}
        )
        assert "policy session" in gone["error"]["message"]

    scenario(transport, work)


def test_every_rule_of_a_name_goes_at_once_and_the_rest_stay_in_their_order(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        for name, target in (("b", "x"), ("a", "y"), ("b", "z")):
            await register(client, name, "deny_tool", target=target)
        listed = await client.call("policy.list")
        assert [policy["name"] for policy in listed["policies"]] == ["b", "a", "b"]
        assert listed["scope"] == "global"
        assert await client.call("policy.unregister", {"name": "b"}) == {
            "unregistered": "b",
            "removed": 2,
            "scope": "global",
        }
        assert (await client.call("policy.unregister", {"name": "b"}))["removed"] == 0
        assert [policy["name"] for policy in (await client.call("policy.list", {}))["policies"]] == ["a"]

    scenario(transport, work)


WRONG = (
    ({"name": "n", "rule": "deny_tool_callback", "target": "t"}, "rule"),
    ({"name": "n", "rule": "deny_tool"}, "target"),
    ({"name": "n", "rule": "deny_tool_param", "target": "t", "key": "k"}, "pattern"),
    ({"name": "n", "rule": "deny_tool_param", "target": "t", "key": "k", "pattern": ""}, "pattern"),
    ({"name": "n", "rule": "require_state", "key": "k"}, "value"),
    ({"name": "", "rule": "deny_tool", "target": "t"}, "name"),
    ({"rule": "deny_tool", "target": "t"}, "name"),
    ({"name": "n", "rule": "deny_tool", "target": "t" * 5_000}, "target"),
    ({"name": "n", "rule": "require_state", "key": "k", "value": "v" * 5_000}, "value"),
)
"""Rules, and the field that is wrong."""


def test_a_rule_that_would_refuse_nothing_or_that_nobody_knows_is_an_error(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        for params, field in WRONG:
            answer = await client.ask("policy.register", params)
            assert answer["error"]["code"] == -32602
            assert answer["error"]["data"]["field"] == field
        assert (await client.call("policy.list"))["policies"] == []
        assert await events_of(runtime, "policy.registered") == []

    scenario(transport, work)


def test_a_required_state_may_be_null_which_is_not_the_same_as_absent(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, t=echo)
        await register(client, "null", "require_state", key="k", value=None)
        assert await rejection(client, tool("t"))
        await client.call("state.set", {"key": "k", "value": None})
        assert await rejection(client, tool("t")) is None

    scenario(transport, work)


def test_rules_that_come_and_go_are_on_the_record_with_their_whole_text(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await register(client, "n", "deny_tool_param", target="t", key="k", pattern="p")
        await client.call("policy.unregister", {"name": "n"})
        (came,) = await events_of(runtime, "policy.registered")
        (went,) = await events_of(runtime, "policy.unregistered")
        wanted = {"name": "n", "rule": "deny_tool_param", "target": "t", "key": "k", "pattern": "p"}
        assert came.items() >= wanted.items()
        assert came["connection"] == went["connection"]
        assert (went["name"], went["removed"]) == ("n", 1)
        leaves = [
            decode_leaf(stored.kind, stored.leaf)
            for stored in runtime.journal.follow()
            if stored.kind == Kind.EVENT
        ]
        kept = [leaf.data for leaf in leaves if isinstance(leaf, Event) and leaf.name.startswith("policy.")]
        assert kept == [came, went], "in the leaf, which no purge takes away"

    scenario(transport, work)


def test_rules_and_policy_sessions_are_bounded(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        for _ in range(100):
            await client.call("session.policy.open")
        assert "policy sessions" in (await client.ask("session.policy.open"))["error"]["message"]

    scenario(transport, work)


def test_a_rule_that_comes_while_a_proposal_is_worked_on_counts_for_what_is_not_begun(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        async def first(parameters: Any, said: Any) -> Any:
            await register(client, "late", "deny_tool", target="second")

        await offer(client, first=first, second=1)
        answer = await submit(client, tool("first"), tool("second"))
        assert statuses(answer) == ["succeeded", "rejected"]
        assert answer["results"][1]["rejection"]["rule"] == "late"

    scenario(transport, work)


def test_a_policy_file_may_require_what_is_set_on_the_connection(transport, work):
    path = work / ".custody" / "policy" / "state.toml"
    path.parent.mkdir(parents=True)
    path.write_text('[[require_state]]\nkey = "reviewed"\nvalue = true\n')

    async def make(client: Client, runtime: Runtime) -> None:
        await offer(client, sh=echo)
        before = await rejection(client, tool("sh"))
        await client.call("state.set", {"key": "reviewed", "value": True})
        after = await rejection(client, tool("sh"))
        assert (before["rule"], after) == ("require_state:reviewed", None)

    scenario(transport, make)
