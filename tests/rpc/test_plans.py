"""`plans.*`: what anybody may ask of a step plan, and what it takes to have one worked on."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.rpc.clients import WAIT_SECONDS, Client, Failure, connected, door, opened_runtime

from custody.calls.runtime import Runtime
from custody.index import CallFilter, RunFilter
from custody.plans.steps.analysis import check_plan
from custody.plans.steps.earlier import external_id_of
from custody.plans.steps.model import parse_plan
from custody.plans.steps.shown import show_plan
from custody.records import document
from custody.rpc.access import Access, KnownToken, TokenDoor, digest_of

Scenario = Callable[[Client, Runtime], Awaitable[Any]]

TOKENS = {
    "agent's": Access(role="agent", name="agent", agent="coder"),
    "other's": Access(role="agent", name="other", agent="other"),
    "narrow": Access(role="agent", name="narrow", agent="narrow", tools=frozenset({"echo"})),
    "auditor's": Access(role="auditor", name="auditor"),
    "operator's": Access(role="operator", name="operator"),
    "nobody's": Access(role="agent", name="nobody"),
}
DOOR = TokenDoor(
    lambda: [KnownToken(digest=digest_of(token), access=access) for token, access in TOKENS.items()]
)

BOTH: dict[str, Any] = {
    "id": "both",
    "goal": "say it twice",
    "actions": [
        {"id": "one", "tool": "echo", "arguments": {"text": "x"}},
        {"id": "two", "tool": "echo", "arguments": {"text": "$one.output"}, "depends_on": ["one"]},
        {"id": "sorry", "tool": "echo", "condition": {"if_failed": "two"}},
    ],
}


async def echo(parameters: Any, _request: Any) -> Any:
    return parameters.get("text")


def play(scenario: Scenario, token: str = "agent's", transport: str = "memory") -> Any:
    async def main() -> Any:
        async with opened_runtime() as runtime, connected(transport, runtime, doorkeeper=DOOR) as client:
            await client.call("session.auth", {"token": token})
            return await scenario(client, runtime)

    return asyncio.run(main())


def test_a_plan_is_worked_on_by_the_peers_own_tools_in_a_run_of_its_agent(transport: str) -> None:
    async def scenario(client: Client, runtime: Runtime) -> Any:
        await client.offer(echo=echo)
        said = await client.call("plans.run", {"plan": BOTH})
        run = runtime.index.run(said["run_id"])
        return said, run, runtime.index.calls(CallFilter(proposal_id="both", order="oldest")).items

    said, run, calls = play(scenario, transport=transport)
    assert (said["state"], said["counts"]) == ("complete", {"completed": 2, "skipped": 1})
    assert (run.agent, run.outcome, run.intent) == ("coder", "succeeded", "say it twice")
    assert [(call.action_id, call.result, call.run_id) for call in calls] == [
        ("one", "x", run.id),
        ("two", "x", run.id),
    ]


def test_check_and_show_give_what_python_gives_and_begin_nothing(transport: str) -> None:
    async def scenario(client: Client, runtime: Runtime) -> Any:
        plan, _ = parse_plan(BOTH)
        assert plan is not None
        report = check_plan(plan, [*runtime.tools.names(), "echo"])
        for form in ("tree", "mermaid", "json"):
            shown = await client.call("plans.show", {"plan": BOTH, "format": form})
            assert shown == document(show_plan(plan, report, form))
        assert await client.call("plans.check", {"plan": BOTH, "tools": ["echo"]}) == document(report)
        assert runtime.index.calls().items == []
        assert runtime.index.runs().items == []
        with pytest.raises(Failure) as refused:
            await client.call("plans.run", {"plan": BOTH})
        return refused.value

    refused = play(scenario, "auditor's", transport)
    assert refused.code == -32003 or "role" in refused.message


def test_every_fault_of_a_plan_is_in_the_refusal_and_nothing_is_begun() -> None:
    async def scenario(client: Client, runtime: Runtime) -> Any:
        wrong = {
            "id": "p",
            "actions": [{"id": "a", "depends_on": ["b"], "tool": "nope"}, {"id": "c"}],
        }
        with pytest.raises(Failure) as refused:
            await client.call("plans.run", {"plan": wrong})
        with pytest.raises(Failure) as unreadable:
            await client.call("plans.show", {"plan": {"id": "p"}})
        report = await client.call("plans.check", {"plan": {"id": "p"}})
        assert report["state"] == "invalid"
        assert runtime.index.runs().items == []
        return refused.value, unreadable.value

    refused, unreadable = play(scenario)
    assert refused.code == unreadable.code == -32602
    assert refused.data["field"] == "plan"
    assert {fault["kind"] for fault in refused.data["faults"]} == {
        "missing_dependency",
        "unknown_tool",
        "malformed",
    }
    assert "`actions`" in unreadable.message


def test_a_token_bounds_what_a_plan_may_name() -> None:
    async def scenario(client: Client, runtime: Runtime) -> Any:
        await client.offer(echo=echo)
        assert (await client.call("plans.run", {"plan": BOTH}))["state"] == "complete"
        other = {"id": "p", "actions": [{"id": "a", "tool": "exec", "arguments": {"argv": ["true"]}}]}
        assert [fault["kind"] for fault in (await client.call("plans.check", {"plan": other}))["faults"]] == [
            "unknown_tool"
        ]
        with pytest.raises(Failure) as refused:
            await client.call("plans.run", {"plan": other})
        assert runtime.index.calls(CallFilter(tool="exec")).items == []
        return refused.value

    assert play(scenario, "narrow").data["faults"][0]["kind"] == "unknown_tool"


def test_a_plan_is_shown_as_its_run_left_it_to_those_who_may_see_the_run() -> None:
    async def scenario(client: Client, runtime: Runtime) -> Any:
        async def fail_second(parameters: Any, request: Any) -> Any:
            if len(client.executed) > 1:
                raise ValueError("no more")
            return await echo(parameters, request)

        await client.offer(echo=fail_second)
        run_id = (await client.call("plans.run", {"plan": BOTH}))["run_id"]
        shown = await client.call("plans.show", {"plan": BOTH, "run": "latest"})
        assert shown == await client.call("plans.show", {"plan": BOTH, "run": run_id})
        return shown

    shown = play(scenario)
    assert [one["status"] for one in shown["actions"]] == ["completed", "failed", "failed"]
    assert shown["state"] == "blocked"
    assert "no more" in shown["actions"][1]["reason"]


def test_a_plan_ends_with_the_connection_it_was_asked_for_over() -> None:
    async def main() -> Any:
        begun = asyncio.Event()

        async def never(_parameters: Any, _request: Any) -> Any:
            begun.set()
            await asyncio.Event().wait()

        async with opened_runtime() as runtime:
            async with connected("memory", runtime, doorkeeper=DOOR) as client:
                await client.call("session.auth", {"token": "agent's"})
                await client.offer(echo=never)
                await client.begin("plans.run", {"plan": BOTH})
                async with asyncio.timeout(WAIT_SECONDS):
                    await begun.wait()
            return runtime.index.runs(RunFilter()).items, runtime.index.calls().items

    (run,), (call,) = asyncio.run(main())
    assert run.outcome == "cancelled"
    assert call.outcome is not None
    assert call.outcome != "succeeded"


@pytest.mark.parametrize("agent", ["other's", "nobody's"])
def test_a_run_of_another_agent_is_not_gone_on_with_nor_in_the_way_nor_told_of(agent: str) -> None:
    async def main() -> Any:
        async with opened_runtime() as runtime, door("memory", runtime, doorkeeper=DOOR) as connect:
            async with connect() as first, connect() as second:
                hangs = await hang_in_second(first)
                await hangs.wait()
                await second.call("session.auth", {"token": agent})
                await second.offer(echo=echo)
                beside = await second.call("plans.run", {"plan": BOTH})
                await first.close()
            async with connect() as third:
                await third.call("session.auth", {"token": agent})
                await third.offer(echo=echo)
                with pytest.raises(Failure) as undecided:
                    await third.call("plans.run", {"plan": BOTH, "done": ["two"]})
                return beside, await third.call("plans.run", {"plan": BOTH}), undecided.value

    beside, after, undecided = asyncio.run(main())
    assert (beside["state"], beside["resumed_from"]) == ("complete", None)
    assert beside["counts"] == after["counts"] == {"completed": 2, "skipped": 1}
    assert [one["source"] for one in beside["actions"]] == ["executed"] * 3
    assert (after["run_id"], after["resumed_from"]) == (None, beside["run_id"])
    assert "nothing to decide" in undecided.message


@pytest.mark.parametrize("token", ["agent's", "operator's"])
def test_a_run_that_was_cut_is_gone_on_with_by_its_agent_and_by_those_who_see_all(token: str) -> None:
    async def main() -> Any:
        async with opened_runtime() as runtime, door("memory", runtime, doorkeeper=DOOR) as connect:
            async with connect() as first, connect() as second:
                hangs = await hang_in_second(first)
                await hangs.wait()
                await second.call("session.auth", {"token": token})
                await second.offer(echo=echo)
                with pytest.raises(Failure) as busy:
                    await second.call("plans.run", {"plan": BOTH, "again": True})
                await first.close()
            (cut,) = runtime.index.runs(RunFilter()).items
            async with connect() as third:
                await third.call("session.auth", {"token": token})
                await third.offer(echo=echo)
                return busy.value, cut, await third.call("plans.run", {"plan": BOTH, "retry": ["two"]})

    busy, cut, said = asyncio.run(main())
    assert cut.id[:12] in busy.message
    assert (said["state"], said["resumed_from"]) == ("complete", cut.id)
    assert [one["source"] for one in said["actions"]] == ["earlier run", "executed", "executed"]


async def hang_in_second(client: Client) -> asyncio.Event:
    """Have an agent's plan begun; set once its second action runs, which it does until somebody ends it."""
    begun = asyncio.Event()

    async def once(parameters: Any, request: Any) -> Any:
        if len(client.executed) > 1:
            begun.set()
            await asyncio.Event().wait()
        return await echo(parameters, request)

    await client.call("session.auth", {"token": "agent's"})
    await client.offer(echo=once)
    await client.begin("plans.run", {"plan": BOTH})
    return begun


def test_no_peer_makes_a_run_that_a_plan_would_be_gone_on_from() -> None:
    plan, _ = parse_plan(BOTH)
    assert plan is not None
    called = external_id_of(plan.digest)

    async def scenario(client: Client, runtime: Runtime) -> Any:
        for method, params in (
            ("runs.start", {"idempotency_key": called}),
            ("runs.begin", {"key": "0" * 32, "external_id": called}),
            ("runs.named", {"key": "1" * 32, "name": "n", "external_id": called}),
        ):
            with pytest.raises(Failure) as refused:
                await client.call(method, params)
            assert "plan:" in refused.value.message
        assert runtime.index.runs().items == []

    play(scenario)
