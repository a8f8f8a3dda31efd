"""The state of a connection, by tenant, and the log of what the connection did."""

import asyncio
import errno
from typing import Any

import pytest
from tests.rpc.clients import Client, Failure, connected, door, opened_runtime
from tests.rpc.proposing import echo, events_of, offer, scenario, submit, tool, write

from custody.calls.runtime import Runtime
from custody.journal import MemoryDisk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.rpc.event_log import ENTRY_BYTES_MAX, EventLog


@pytest.fixture
def transport() -> str:
    """What lies above the transports does not depend on them: `test_proposals` goes over each."""
    return "memory"


def test_a_value_is_set_read_listed_and_told_from_null_and_from_nothing(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        assert await client.call("state.get", {"key": "k"}) is None
        assert await client.call("state.exists", {"key": "k"}) is False
        assert await client.call("state.set", {"key": "k", "value": None}) == "ok"
        assert await client.call("state.exists", {"key": "k"}) is True
        value = {"deep": [1, 2.5, True, None, "é"]}
        await client.call("state.set", {"key": "b", "value": value})
        await client.call("state.set", {"key": "a", "value": 1})
        assert await client.call("state.get", {"key": "b"}) == value
        assert await client.call("state.keys") == ["a", "b", "k"]
        assert await client.call("state.snapshot") == {"a": 1, "b": value, "k": None}

    scenario(transport, work)


def test_states_of_tenants_and_the_one_of_nobody_never_see_each_other(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await client.call("state.set", {"key": "k", "value": "nobody's"})
        await client.call("state.set", {"key": "k", "value": "acme's", "tenant_id": "acme"})
        await submit(client, write("k", "other's"), scope={"tenantId": "other"})

        found = [
            await client.call("state.get", {"key": "k", "tenant_id": tenant})
            for tenant in (None, "acme", "other", "third", "")
        ]
        assert found == ["nobody's", "acme's", "other's", None, None]
        assert await client.call("state.keys", {"tenant_id": "third"}) == []

    scenario(transport, work)


def test_connections_never_see_each_others_state_policies_tools_or_log(transport):
    async def work() -> None:
        async with (
            opened_runtime() as runtime,
            door(transport, runtime) as connect,
            connect() as mine,
            connect() as other,
        ):
            await mine.call("state.set", {"key": "k", "value": 1})
            await mine.call("policy.register", {"name": "n", "rule": "deny_tool", "target": "exec"})
            assert await other.call("state.snapshot") == {}
            assert (await other.call("policy.list"))["policies"] == []
            assert await other.call("events.count") == 0

    asyncio.run(work())


def test_state_is_bounded_and_what_does_not_fit_changes_nothing(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await client.call("state.set", {"key": "k", "value": "small"})
        large = await client.ask("state.set", {"key": "k", "value": "x" * 1_100_000})
        assert large["error"]["code"] == -32602
        assert await client.call("state.get", {"key": "k"}) == "small"
        for params in (
            {"key": "", "value": 1},
            {"key": "k" * 600, "value": 1},
            {"key": 1, "value": 1},
            {"key": "k"},
        ):
            assert (await client.ask("state.set", params))["error"]["code"] == -32602
        for number in range(15):
            await client.call("state.set", {"key": "k", "value": 1, "tenant_id": f"t{number}"})
        refused = await client.ask("state.set", {"key": "k", "value": 1, "tenant_id": "one too many"})
        assert refused["error"]["data"]["field"] == "tenant_id"

    scenario(transport, work)


def test_each_write_is_on_the_record_with_who_made_it_and_secrets_replaced(transport):
    secret = "AKIA" + "Z7Q3M5X2W4B4N6K2"

    async def work(client: Client, runtime: Runtime) -> None:
        await client.call("state.set", {"key": "mine", "value": secret})
        await submit(client, write("a", 1, "w"), proposal={"id": "p"}, scope={"tenantId": "acme"})
        assert await client.call("state.get", {"key": "mine"}) == secret

        by_hand, by_action = await events_of(runtime, "state.changed")
        assert by_hand["by"] == "set"
        assert by_hand["changes"].keys() == {"mine"}
        assert secret not in str(by_hand)
        assert "[redacted:" in by_hand["changes"]["mine"]
        wanted = {
            "by": "action",
            "proposal_id": "p",
            "action_id": "w",
            "tenant_id": "acme",
            "changes": {"a": 1},
        }
        assert by_action.items() >= wanted.items()

    scenario(transport, work)


def test_a_write_that_cannot_be_recorded_is_none(transport):
    disk = FaultyDisk(MemoryDisk())

    async def work() -> None:
        async with opened_runtime(disk=disk) as runtime, connected(transport, runtime) as client:
            await client.call("state.set", {"key": "k", "value": "before"})
            for operation in ("put", "create"):
                disk.inject(Fault(operation=operation, error=errno.ENOSPC, times=None))
            refused = await client.ask("state.set", {"key": "k", "value": "after"})
            assert refused["error"]["code"] == -32603
            assert await client.call("state.get", {"key": "k"}) == "before"
            disk.heal()

    asyncio.run(work())


def test_a_value_written_by_somebody_else_meanwhile_is_left_as_it_is_when_a_proposal_is_taken_back(transport):
    async def breaks(parameters: Any, said: Any) -> Any:
        raise Failure(-32000, "broken")

    async def work(client: Client, runtime: Runtime) -> None:
        async def meanwhile(parameters: Any, said: Any) -> Any:
            await client.call("state.set", {"key": "k", "value": "theirs"})

        await offer(client, meanwhile=meanwhile, breaks=breaks)
        answer = await submit(
            client, write("k", "mine"), write("l", "mine"), tool("meanwhile"), tool("breaks")
        )
        assert answer["rollback"]["keys_left"] == ["k"]
        assert await client.call("state.snapshot") == {"k": "theirs"}

    scenario(transport, work)


def test_the_log_tells_a_proposal_from_its_beginning_to_its_end_newest_first(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, echo=echo)
        await submit(
            client,
            tool("echo", "a", with_={"secret": "parameter"}, expected_effects={"k": 1}),
            tool("nope", "b"),
            tool("echo", "c"),
            proposal={"id": "p", "source": "me"},
        )

        found = await client.call("events.query", {"proposal_id": "p"})
        assert found["count"] == len(found["events"])
        oldest_first = found["events"][::-1]
        assert [(one["kind"], one["action_id"]) for one in oldest_first] == [
            ("proposal_received", None),
            ("action_executing", "a"),
            ("action_succeeded", "a"),
            ("action_executing", "b"),
            ("action_rejected", "b"),
            ("action_skipped", "c"),
            ("state_rollback", None),
            ("proposal_completed", None),
        ]
        assert oldest_first[0]["data"] == {"source": "me", "actions": 3}
        succeeded = oldest_first[2]["data"]
        assert succeeded["tool"] == "echo"
        assert succeeded["expected_effects"] == {"k": 1}
        assert len(succeeded["params_digest"]) == 64
        assert oldest_first[4]["data"]["error_class"] == "validation"
        assert "parameter" not in str(found)
        assert [one["timestamp"] for one in oldest_first] == sorted(one["timestamp"] for one in oldest_first)

    scenario(transport, work)


def test_a_query_admits_what_fits_all_that_is_asked(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, echo=echo)
        await submit(client, tool("echo", "a"), proposal={"id": "p"})
        await submit(client, tool("echo", "a"), tool("echo", "b"), proposal={"id": "q"})

        async def query(**params: Any) -> list[tuple[str, str]]:
            found = await client.call("events.query", params)
            return [(one["proposal_id"], one["kind"]) for one in found["events"]]

        assert await query(kinds=["action_succeeded"], proposal_id="q") == [("q", "action_succeeded")] * 2
        assert await query(action_id="b", kinds=["action_succeeded"]) == [("q", "action_succeeded")]
        assert await query(data_matches={"attempt": "1", "tool": "echo"}, action_id="b") == [
            ("q", "action_succeeded"),
            ("q", "action_executing"),
        ]
        assert await query(data_matches={"tool": "ech"}) == []
        assert await query(kinds=[]) == []
        assert await query(limit=0) == []
        assert await query(limit=1) == [("q", "proposal_completed")]
        newest = (await client.call("events.query", {"limit": 1}))["events"][0]["timestamp"]
        assert await query(since=newest) == [("q", "proposal_completed")]
        assert len(await query(until=newest)) == await client.call("events.count") - 1
        assert (await client.ask("events.query", {"since": "yesterday"}))["error"]["data"]["field"] == "since"
        assert (await client.ask("events.query", {"limit": -1}))["error"]["data"]["field"] == "limit"

    scenario(transport, work)


def test_the_count_is_a_bare_number_and_the_stats_are_spelled_as_the_reference_spells_them(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await client.call("state.set", {"key": "k", "value": 1})
        assert await client.call("events.count", None) == 1
        stats = await client.call("events.stats")
        assert stats.keys() == {"events", "approxEventBytes", "droppedEvents", "spans", "approxSpanBytes"}
        assert stats["events"] == 1
        assert stats["droppedEvents"] == 0

    scenario(transport, work)


def test_the_log_keeps_the_newest_and_counts_what_it_dropped():
    log = EventLog(entries_max=3)
    for number in range(10):
        log.add("kind", str(number), None, {"n": number})
    assert len(log) == 3
    assert [entry.action_id for entry in log.query(limit=10)] == ["9", "8", "7"]
    stats = log.stats()
    assert (stats.events, stats.dropped_events) == (3, 7)
    fresh = EventLog()
    for number in range(7, 10):
        fresh.add("kind", str(number), None, {"n": number})
    assert stats.approx_event_bytes == fresh.stats().approx_event_bytes


def test_the_log_is_bounded_in_bytes_whatever_actions_are_called():
    log = EventLog(bytes_max=100_000)
    for _ in range(1_000):
        log.add_small("kind", "x" * 1_000, "y" * 1_000, {})
    assert 30 < len(log) < 100_000 / 2_000
    assert log.stats().approx_event_bytes <= 100_000
    assert log.stats().dropped_events == 1_000 - len(log)


def test_an_entry_is_small_whatever_is_noted():
    log = EventLog()
    log.add("large", None, None, {"changes": "x" * 1_000_000})
    log.add("odd", None, None, {"no json": object()})
    odd, large = log.query(limit=10)
    assert large.data["omitted_bytes"] > 1_000_000
    assert odd.data == {}
    assert log.stats().approx_event_bytes < 2 * ENTRY_BYTES_MAX
