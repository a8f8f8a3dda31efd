"""Tools a peer runs itself: offering, listing and taking away, their rates, and results given again."""

import asyncio
from typing import Any

import pytest
from tests.rpc.clients import Client, door, opened_runtime
from tests.rpc.proposing import calls_of, echo, events_of, offer, scenario, statuses, submit, tool

from custody.calls.runtime import Runtime


@pytest.fixture
def transport() -> str:
    """What lies above the transports does not depend on them: `test_proposals` goes over each."""
    return "memory"


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


class Counting:
    """A tool that gives how often it ran."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self, parameters: Any, said: Any) -> Any:
        del parameters, said
        self.times += 1
        return self.times


def test_a_bare_name_suffices_and_the_answer_is_a_bare_number(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        assert await client.call("tools.register", [{"name": "echo"}]) == 1
        assert await client.call("tools.register", {"tools": [{"name": "a"}, {"name": "b"}]}) == 2
        assert await client.call("tools.register", []) == 0
        listed = await client.call("tools.list")
        own = [one["name"] for one in listed["tools"] if one["source"] == "user_defined"]
        assert own == ["a", "b", "echo"]
        assert listed["count"] == len(listed["tools"])
        assert [one["name"] for one in listed["tools"]] == sorted(one["name"] for one in listed["tools"])

    scenario(transport, work)


def test_a_list_shows_what_was_said_of_each_tool_and_custodys_own_beside_them(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        definition = {
            "name": "count",
            "description": "Counts.",
            "parameters": SCHEMA,
            "returns": {"type": "integer"},
            "idempotent": True,
            "cache_ttl_secs": 60,
            "rate_limit": {"max_calls": 5, "interval_secs": 60.0},
        }
        await client.call("tools.register", [definition])
        tools = {one["name"]: one for one in (await client.call("tools.list"))["tools"]}
        assert tools["count"] == {**definition, "source": "user_defined", "effect": "unknown"}
        assert tools["file_read"]["source"] == "builtin"
        assert tools["file_read"]["effect"] == "read"
        assert tools["file_read"]["parameters"]["properties"]["path"]

    scenario(transport, work)


def test_parameters_that_do_not_fit_the_schema_never_reach_the_peer(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        client.tools["count"] = echo
        await client.call("tools.register", [{"name": "count", "parameters": SCHEMA}])
        answer = await submit(client, tool("count", with_={"n": "secret text"}))
        assert statuses(answer) == ["rejected"]
        assert "arguments.n" in answer["results"][0]["error"]
        assert "secret text" not in answer["results"][0]["error"]
        assert client.executed == []
        assert statuses(await submit(client, tool("count", with_={"n": 1}))) == ["succeeded"]

    scenario(transport, work)


UNFIT = (
    ({"name": "t", "parameters": {"type": 5}}, "[1].parameters"),
    ({"name": "t", "parameters": {"$ref": "file:///etc/hostname"}}, "[1].parameters"),
    (
        {"name": "t", "parameters": {"properties": {"a": {"$ref": "http://127.0.0.1:9/a"}}}},
        "[1].parameters",
    ),
    ({"name": "t", "parameters": {"description": "x" * 70_000}}, "[1].parameters"),
    ({"name": "no spaces"}, "[1].name"),
    ({"name": ""}, "[1].name"),
    ({"name": "t", "description": "x" * 20_000}, "[1].description"),
    ({"name": 5}, "[1].name"),
    ({}, "[1].name"),
    ({"name": "t", "rate_limit": {"max_calls": -1, "interval_secs": 1}}, "[1].rate_limit.max_calls"),
)
"""Definitions, and the field that is wrong."""


def test_of_definitions_with_a_bad_one_among_them_none_is_taken(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        for definition, field in UNFIT:
            answer = await client.ask("tools.register", [{"name": "good"}, definition])
            assert answer["error"]["code"] == -32602
            assert answer["error"]["data"]["field"] == field
            assert "\n" not in answer["error"]["message"]
        assert "good" not in [one["name"] for one in (await client.call("tools.list"))["tools"]]
        assert await events_of(runtime, "tool.registered") == []

    scenario(transport, work)


def test_a_schema_is_whole_in_itself_no_file_of_the_daemons_machine_is_read_for_it(transport, work):
    (work / "integer.json").write_text('{"type": "integer"}')
    refers = {"properties": {"n": {"$ref": (work / "integer.json").as_uri()}}}

    async def offering(client: Client, runtime: Runtime) -> None:
        answer = await client.ask("tools.register", [{"name": "t", "parameters": refers}])
        assert answer["error"]["data"]["field"] == "[0].parameters"
        inside = {"properties": {"n": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}}
        assert await client.call("tools.register", [{"name": "t", "parameters": inside}]) == 1
        assert statuses(await submit(client, tool("t", with_={"n": "x"}))) == ["rejected"]

    scenario(transport, offering)


def test_a_peer_offers_a_thousand_tools_at_most(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        assert await client.call("tools.register", [{"name": f"t{n}"} for n in range(1_000)]) == 1_000
        assert "1000 tools" in (await client.ask("tools.register", [{"name": "more"}]))["error"]["message"]
        assert await client.call("tools.register", [{"name": "t7"}]) == 1, "one in place of another"

    scenario(transport, work)


def test_a_peers_tool_runs_in_place_of_custodys_of_its_name_for_that_peer_alone(transport, work):
    (work / "f.txt").write_text("the file")

    async def replacing() -> None:
        async with (
            opened_runtime() as runtime,
            door(transport, runtime) as connect,
            connect() as mine,
            connect() as other,
        ):
            await offer(mine, file_read="mine")
            read = tool("file_read", with_={"path": "f.txt"})
            assert (await submit(mine, read))["results"][0]["output"] == "mine"
            assert "the file" in str((await submit(other, read))["results"][0]["output"])
            assert mine.executed != []
            assert other.executed == []
            assert await mine.call("tools.unregister", {"name": "file_read"}) == {
                "unregistered": "file_read",
                "removed": 1,
            }
            assert "the file" in str((await submit(mine, read))["results"][0]["output"])
            assert (await mine.call("tools.unregister", {"name": "file_read"}))["removed"] == 0

    asyncio.run(replacing())


def test_no_peer_reaches_the_tools_of_another(transport):
    async def work() -> None:
        async with (
            opened_runtime() as runtime,
            door(transport, runtime) as connect,
            connect() as mine,
            connect() as other,
        ):
            await offer(mine, secret=1)
            assert statuses(await submit(other, tool("secret"))) == ["rejected"]
            assert "secret" not in [one["name"] for one in (await other.call("tools.list"))["tools"]]
            assert mine.executed == []

    asyncio.run(work())


def test_what_is_offered_and_taken_away_is_on_the_record(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await client.call("tools.register", [{"name": "t", "parameters": SCHEMA}, {"name": "u"}])
        await client.call("tools.unregister", {"name": "t"})
        (came,) = await events_of(runtime, "tool.registered")
        (went,) = await events_of(runtime, "tool.unregistered")
        assert [one["name"] for one in came["tools"]] == ["t", "u"]
        assert came["tools"][0]["parameters"] == SCHEMA
        assert went["name"] == "t"

    scenario(transport, work)


def test_beyond_its_rate_a_tool_is_refused_and_refusals_take_nothing_of_it(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        client.tools["t"] = echo
        rate = {"max_calls": 2, "interval_secs": 3_600}
        await client.call("tools.register", [{"name": "t", "rate_limit": rate}])
        await client.call(
            "policy.register",
            {"name": "p", "rule": "deny_tool_param", "target": "t", "key": "k", "pattern": "no"},
        )
        denied = await submit(client, tool("t", with_={"k": "no"}))
        assert denied["results"][0]["rejection"]["rule"] == "p"
        verified = await client.call("verify", {"proposal": {"actions": [tool("t")] * 2}})
        assert verified["valid"], "to ask takes nothing either"
        answer = await submit(client, *[tool("t", failure_behavior="skip")] * 4)
        assert statuses(answer) == ["succeeded", "succeeded", "rejected", "rejected"]
        assert answer["results"][3]["rejection"] == {"by": "budget", "rule": "rate_limit:t", "param": None}

    scenario(transport, work)


def test_an_idempotent_action_is_done_once_and_its_result_given_again_by_a_recorded_call(transport):
    counting = Counting()

    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, count=counting)
        first = await submit(client, tool("count", with_={"a": 1, "b": [2]}, idempotent=True))
        again = await submit(client, tool("count", with_={"b": [2], "a": 1}, idempotent=True))
        other = await submit(client, tool("count", with_={"a": 2}, idempotent=True))
        plain = await submit(client, tool("count", with_={"a": 1, "b": [2]}))

        outputs = [answer["results"][0]["output"] for answer in (first, again, other, plain)]
        assert outputs == [1, 1, 2, 3]
        assert "source" not in first["results"][0]
        assert again["results"][0]["source"] == "cache"
        assert again["cost"]["tool_calls"] == 0
        assert again["cost"]["actions_executed"] == 1
        calls = await calls_of(runtime)
        assert [call.source for call in calls] == ["executed", "cache", "executed", "executed"]
        assert calls[1].result == 1
        assert calls[1].proposal_id == again["proposal_id"]
        kinds = [one["kind"] for one in (await client.call("events.query", {}))["events"]]
        assert kinds.count("action_deduplicated") == 1

    scenario(transport, work)


def test_a_result_is_not_given_again_past_a_policy_nor_for_another_tool_nor_after_a_failure(transport):
    async def failing(parameters: Any, said: Any) -> Any:
        return {"error": "not this time"}

    async def work(client: Client, runtime: Runtime) -> None:
        counting = Counting()
        await offer(client, count=counting, fail=failing)
        action = tool("count", idempotent=True)
        await submit(client, action)
        await client.call("policy.register", {"name": "no", "rule": "deny_tool", "target": "count"})
        assert statuses(await submit(client, action)) == ["rejected"]
        await client.call("policy.unregister", {"name": "no"})
        await client.call("tools.register", [{"name": "count"}])
        assert (await submit(client, action))["results"][0]["output"] == 2, "it may be another tool now"

        for _ in range(2):
            assert "source" not in (await submit(client, tool("fail", idempotent=True)))["results"][0]
        assert len([asked for asked in client.executed if asked["tool"] == "fail"]) == 2

    scenario(transport, work)


def test_files_change_so_custodys_own_tools_are_never_answered_from_memory(transport, work):
    path = work / "f.txt"

    async def reading(client: Client, runtime: Runtime) -> None:
        read = tool("file_read", with_={"path": "f.txt"}, idempotent=True)
        path.write_text("first")
        assert "first" in str((await submit(client, read))["results"][0]["output"])
        path.write_text("second")
        assert "second" in str((await submit(client, read))["results"][0]["output"])

    scenario(transport, reading)


def test_a_tool_that_says_so_is_remembered_for_every_action(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        client.tools["t"] = counting = Counting()
        await client.call("tools.register", [{"name": "t", "idempotent": True, "cache_ttl_secs": 60}])
        assert [(await submit(client, tool("t")))["results"][0]["output"] for _ in range(3)] == [1, 1, 1]
        await client.call("tools.register", [{"name": "t", "idempotent": True, "cache_ttl_secs": 0}])
        assert [(await submit(client, tool("t")))["results"][0]["output"] for _ in range(2)] == [2, 3]
        assert counting.times == 3

    scenario(transport, work)
