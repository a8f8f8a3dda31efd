"""What a peer may see of the record: its own, and nothing that would tell of anybody else's."""

import json
import secrets
from typing import Any

from tests.rpc.clients import Client, Connect
from tests.rpc.running import MEMORY, failure, play, start, turn

from custody.calls.runtime import Runtime


def part_key() -> str:
    return secrets.token_hex(16)


async def answers(client: Client, asked: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Every answer, without the id of its request."""
    said = [await client.ask(method, params) for method, params in asked]
    return [json.dumps({**answer, "id": 0}) for answer in said]


async def named(client: Client, agent: str, name: str) -> dict[str, Any]:
    return await client.call("runs.begin", {"key": part_key(), "agent": agent, "name": name, "intent": name})


def test_what_others_do_changes_no_answer_about_what_is_ones_own():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as ada, connect() as bob:
            own = (await named(bob, "bob", "nightly"))["run_id"]
            asked = [
                (method, {param: text})
                for method, param in (("audit.run", "id"), ("audit.find", "id"), ("audit.timeline", "run"))
                for text in ("latest", "-", "nightly", own, own[:12], own[:1])
            ]
            before = await answers(bob, asked)
            assert sum('"result"' in answer for answer in before) == 15  # an id's beginning is not so short
            for _ in range(20):  # of which some id begins as bob's does
                await named(ada, "ada", "nightly")
            assert await answers(bob, asked) == before

    play(MEMORY, scenario)


def test_a_name_that_anothers_run_has_is_free_for_ones_own():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as ada, connect() as bob:
            said = {"name": "nightly", "intent": "work"}
            theirs = await ada.call("runs.named", {"key": part_key(), "agent": "ada", **said})
            own = await bob.call("runs.named", {"key": part_key(), "agent": "bob", **said})
            again = await bob.call("runs.named", {"key": part_key(), "agent": "bob", **said})
            assert (own["run_id"] == again["run_id"], own["run_id"] == theirs["run_id"]) == (True, False)
            assert (theirs["name"], own["name"]) == ("nightly", "nightly")

    play(MEMORY, scenario)


def test_a_run_that_this_connection_may_not_take_part_in_gives_no_part():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        theirs = await runtime.named_run("nightly", "work", agent="ada")  # by a process of this machine
        async with connect() as bob:
            key = part_key()
            own = await bob.call("runs.named", {"key": key, "agent": "bob", "name": "nightly"})
            assert own["run_id"] != theirs.id
            assert (await bob.call("runs.rejoin", {"key": key}))["run_id"] == own["run_id"]

    play(MEMORY, scenario)


def test_a_name_that_spells_the_id_of_anothers_run_hides_it_from_nobody():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as ada, connect() as bob:
            theirs = await start(ada)
            beginning = theirs[:12]
            for name in (theirs, beginning):
                await named(bob, "bob", name)
            assert (await ada.call("runs.get_trace", {"run_id": theirs}))["records"][0]["agent_id"] == "ada"
            for text in (theirs, beginning):
                assert (await ada.call("audit.run", {"id": text}))["id"] == theirs
            await ada.call("runs.complete", {"run_id": theirs, "outcome": "success"})
            assert (await ada.call("runs.get_trace", {"run_id": theirs}))["records"][0]["agent_id"] == "ada"

    play(MEMORY, scenario)


def test_a_key_that_spells_the_id_of_anothers_run_hides_it_from_nobody():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as ada, connect() as bob:
            theirs = await start(ada)
            spelled = await start(bob, agent_id="bob", idempotency_key=theirs)
            assert spelled == theirs
            for ended in (False, True):
                if ended:
                    await ada.call("runs.complete", {"run_id": theirs, "outcome": "success"})
                found = await live_of_all(bob, theirs)
                assert found == "ada"
                assert (await bob.call("runs.get_trace", {"run_id": theirs}))["agent_id"] == "bob"

    async def live_of_all(client: Client, run_id: str) -> str | None:
        known = await client.service.live.find(run_id, None)
        return None if known is None else known.agent

    play(MEMORY, scenario)


def test_who_asks_much_at_once_holds_up_nobody_else():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as ada, connect() as bob:
            run_id, its = await start(ada), await start(bob, agent_id="bob")
            told = {"run_id": run_id, "turns": [turn(output="seen" * 200)] * 256}
            assert (await ada.call("runs.record_turns", told))["ok"]
            for method, params in (
                ("audit.run_calls", {"run": run_id}),
                ("audit.timeline", {"run": run_id}),
                ("runs.get_trace", {"run_id": run_id}),
            ):
                asked = [await ada.begin(method, params) for _ in range(30)]
                assert (await bob.call("runs.record_turns", {"run_id": its, "turns": [turn()]}))["ok"]
                assert len((await bob.call("runs.get_trace", {"run_id": its}))["records"]) > 1
                assert await bob.call("audit.run", {"id": its})
                assert sum(ada.is_answered(one) for one in asked) < 15, method
            await ada.close()

    play(MEMORY, scenario)


WITHOUT_SENSE: list[tuple[str, dict[str, Any], str]] = [
    ("audit.calls", {"outcome": "fine"}, "outcome"),
    ("audit.runs", {"outcome": "fine"}, "outcome"),
    ("audit.calls", {"effect": "fine"}, "effect"),
    ("audit.calls", {"attempt": 0}, "attempt"),
    ("audit.calls", {"limit": 0}, "limit"),
    ("audit.calls", {"cursor": "?"}, "cursor"),
    ("audit.calls", {"text": "x" * 100_000}, "text"),
    ("audit.usage", {"by": "colour"}, "by"),
    ("audit.last_runs", {"by": "colour"}, "by"),
    ("audit.last_runs", {"text": "word"}, "text"),
    ("audit.silent_runs", {"silent_us": -1}, "silent_us"),
    ("audit.loops", {"repeats_min": 1}, "repeats_min"),
    ("audit.loops", {"repeats_min": 10**30}, "repeats_min"),
    ("audit.failure_patterns", {"count_min": 0}, "count_min"),
    ("audit.failure_patterns", {"count_min": 10**30}, "count_min"),
    ("calls.make", {"tool": "exec", "timeout": -1}, "timeout"),
    ("state.set", {"key": "", "value": 1}, "key"),
    ("state.set", {"key": "k", "value": "x" * 2**21}, "value"),
    ("verify", {"proposal": {"actions": []}, "initial_state": {"": 1}}, "initial_state"),
    ("simulate", {"proposal": {"actions": [{"type": "state_read"}]}}, "proposal"),
    ("policy.register", {"name": "p", "rule": "require_state", "key": "k", "value": 10**30}, "value"),
]


def test_params_that_make_no_sense_are_refused_with_the_field_named():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as ada:
            await start(ada)
            for method, params, field in WITHOUT_SENSE:
                error = await failure(ada.call(method, params))
                assert (error.code, error.data and error.data["field"]) == (-32602, field), (method, params)
            assert (await ada.call("policy.list"))["policies"] == []

    play(MEMORY, scenario)
