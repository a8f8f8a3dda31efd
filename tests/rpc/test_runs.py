"""Runs over the wire: started once, told of in order, ended once, and nobody else's business."""

import asyncio
import hashlib
import json
from typing import Any

import pytest
from tests.rpc.clients import WAIT_SECONDS, Client, Connect, put_forward
from tests.rpc.running import (
    MEMORY,
    assert_intact,
    failure,
    live_of,
    play,
    start,
    status,
    trace,
    turn,
    turns,
    until_left,
    until_status,
    whole,
)

from custody.calls.runtime import Runtime
from custody.rpc.run_cancel import digest_of
from custody.rpc.service import service_of

# -- start --------------------------------------------------------------------------------------------


def test_a_run_has_an_id_an_agent_and_a_start_in_its_trace(transport):
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            said = {"intent": "to mend it", "agent_id": "ada", "outcome_description": "it is mended"}
            answer = await client.call("runs.start", said)
            assert answer.keys() == {"run_id", "agent_id"}
            assert (len(answer["run_id"]), answer["agent_id"]) == (32, "ada")
            read = await client.call("runs.get_trace", {"run_id": answer["run_id"]})
            (started,) = read["records"]
            assert started["client_id"] in service_of(runtime).peers
            assert read | {"records": []} == {**answer, "records": [], "cursor": 1}
            assert started | {"started_at": "", "client_id": ""} == {
                "record": "started",
                **answer,
                "client_id": "",
                "intent": "to mend it",
                "outcome_description": "it is mended",
                "started_at": "",
            }

    play(transport, scenario)


@pytest.mark.parametrize(
    ("auth", "said", "agent"),
    [
        ({}, {"agent_id": "ada"}, "ada"),
        ({}, {"agent_name": " Ada's  Helper №1! "}, "name:ada-s-helper-№1".replace("№", "")),
        ({}, {"agent_id": "ada", "agent_name": "Bob"}, "ada"),
        ({"agent_id": "eve"}, {"agent_id": "ada"}, "eve"),
        ({"agent_id": "eve"}, {}, "eve"),
    ],
)
def test_whose_run_it_is_says_the_connection_then_the_id_then_the_name(auth, said, agent):
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            await client.call("session.auth", auth)
            answer = await client.call("runs.start", {"intent": "x", **said})
            assert answer["agent_id"] == agent

    play(MEMORY, scenario)


@pytest.mark.parametrize("said", [{}, {"agent_id": ""}, {"agent_name": "!?"}, {"agent_id": "a" * 257}])
def test_a_run_of_nobody_is_refused_with_the_field_named(said):
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            error = await failure(client.call("runs.start", {"intent": "x", **said}))
            assert error.code == -32602
            assert error.data["field"] == ("agent_name" if "agent_name" in said else "agent_id")

    play(MEMORY, scenario)


def test_a_key_is_the_run_s_id_and_starts_it_once_however_many_ask():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as first, connect() as second:
            starting = [
                start(client, idempotency_key="job-7") for client in (first, second) for _ in range(8)
            ]
            assert set(await asyncio.gather(*starting)) == {"job-7"}
            listed = await second.call("runs.list", {"agent_id": "ada"})
            assert [run["run_id"] for run in listed["runs"]] == ["job-7"]
            recorded = await second.call("runs.record_turns", {"run_id": "job-7", "turns": [turn()]})
            assert recorded["ok"]
            run = runtime.index.runs(agent="ada").items[0]
            assert run.external_id == "job-7"
            assert await trace(first, run.id) == await trace(first, "job-7")

    play(MEMORY, scenario)


def test_the_same_key_is_another_run_for_another_agent():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as ada, connect() as bob:
            await start(ada, idempotency_key="job")
            await ada.call("runs.record_turns", {"run_id": "job", "turns": [turn()]})
            assert await start(bob, agent_id="bob", idempotency_key="job") == "job"
            assert len(await turns(ada, "job")) == 1
            assert await turns(bob, "job") == []
            assert len({run.id for run in runtime.index.runs().items}) == 2

    play(MEMORY, scenario)


def test_a_key_is_known_after_a_restart_and_its_ended_run_takes_nothing_more(tmp_path):
    store = str(tmp_path / "store")

    async def before(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            await start(client, idempotency_key="job")
            await client.call("runs.complete", {"run_id": "job", "outcome": "success"})

    async def after(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            assert await start(client, idempotency_key="job") == "job"
            dropped = await client.call("runs.record_turns", {"run_id": "job", "turns": [turn()]})
            assert dropped["dropped"] == "run_terminal"
            assert len(runtime.index.runs().items) == 1

    play(MEMORY, before, store)
    play(MEMORY, after, store)


def test_a_run_may_have_a_parent_of_its_own_agent_and_no_other():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as ada, connect() as bob:
            above = await start(ada)
            below = await start(ada, parent=above)
            assert runtime.index.run(below).parent_run_id == above
            for parent in (above, "f" * 32):
                error = await failure(start(bob, agent_id="bob", parent=parent))
                assert (error.code, error.data["field"]) == (-32602, "parent")

    play(MEMORY, scenario)


AWS_KEY = "AKIA" + "Z3QW5RTY7UPLKJH2"  # made up


# -- turns --------------------------------------------------------------------------------------------

TOLD: dict[str, dict[str, Any]] = {
    "an exit code": turn("drive_cli", prompt="go", cli_outcome={"kind": "exited", "code": 3}),
    "an exit code of zero": turn("drive_cli", cli_outcome={"kind": "exited", "code": 0}),
    "a timeout": turn("drive_cli", cli_outcome={"kind": "timeout"}),
    "a pass": turn("check_outcome", verifier_verdict="pass", output={"passed": True}),
    "a fail": turn("check_outcome", verifier_verdict="fail", output={"passed": False}),
    "a verdict of a tool of its own": turn("my_check", verifier_verdict="pass"),
    "a refusal": {"tool": "rm", "parameters": {}, "policy_rejected": {"rule": "no_rm", "param": "path"}},
    "a refusal without a parameter": {"tool": "rm", "policy_rejected": {"rule": "no_rm", "param": None}},
    "nothing": {},
    "no tool": {"prompt": "what now?", "output": {"text": "é\u0000"}},
    "an error inside": turn(output={"error": "no", "success": False, "timed_out": True, "passed": True}),
    "parameters that are no mapping": turn(parameters=[1, None, "x"], output=0.5),
    "what looks like a mark": turn(
        parameters={"p": {"$type": "int", "value": "5"}, "q": [{"$digest": {"$blob": None}}]},
        output={"$type": "mapping", "items": [["a", 1], [2, 3]]},
    ),
}


def test_what_was_told_is_given_back_as_it_was_told(transport):
    told = list(TOLD.values())
    sent = [{**one, "index": index} for one, index in zip(told, [-1, "x", 2.5, None, []] * 4, strict=False)]

    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            run_id = await start(client)
            answer = await client.call("runs.record_turns", {"run_id": run_id, "turns": sent})
            assert answer == {"run_id": run_id, "base_index": 0, "count": len(told), "ok": True}
            expected = [whole(one, index) for index, one in enumerate(told)]
            assert await turns(client, run_id) == expected

    play(transport, scenario)


def test_what_was_told_is_judged_in_the_words_of_calls(tmp_path):
    store = str(tmp_path / "store")

    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            run_id = await start(client)
            await client.call("runs.record_turns", {"run_id": run_id, "turns": list(TOLD.values())})
            calls = dict(zip(TOLD, runtime.index.run_calls(bytes.fromhex(run_id)), strict=True))
            assert {name: (call.outcome, call.passed) for name, call in calls.items()} == {
                "an exit code": ("failed", None),
                "an exit code of zero": ("succeeded", None),
                "a timeout": ("timed_out", None),
                "a pass": ("succeeded", True),
                "a fail": ("succeeded", False),
                "a verdict of a tool of its own": ("succeeded", True),
                "a refusal": ("rejected", None),
                "a refusal without a parameter": ("rejected", None),
                "nothing": ("succeeded", None),
                "no tool": ("succeeded", None),
                "an error inside": ("timed_out", None),
                "parameters that are no mapping": ("succeeded", None),
                "what looks like a mark": ("succeeded", None),
            }
            assert {(call.source, call.effect, call.latency_us) for call in calls.values()} == {
                ("observed", "unknown", None)
            }
            assert runtime.index.run(run_id).calls == len(TOLD)

    play(MEMORY, scenario, store)
    assert_intact(store)


def test_two_batches_at_once_are_numbered_0_to_49_in_order_and_the_journal_verifies(transport, tmp_path):
    store = str(tmp_path / "store")

    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as one, connect() as two:
            run_id = await start(one)
            await start(two)  # so that it speaks for the same agent
            batches = {name: [turn(output=f"{name}{index}") for index in range(25)] for name in "ab"}
            answers = await asyncio.gather(
                one.call("runs.record_turns", {"run_id": run_id, "turns": batches["a"]}),
                two.call("runs.record_turns", {"run_id": run_id, "turns": batches["b"]}),
            )
            assert sorted(answer["base_index"] for answer in answers) == [0, 25]
            recorded = await turns(one, run_id)
            assert [record["index"] for record in recorded] == list(range(50))
            for name, answer in zip("ab", answers, strict=True):
                mine = recorded[answer["base_index"] :][:25]
                assert [record["output"] for record in mine] == [f"{name}{index}" for index in range(25)]

    play(transport, scenario, store)
    assert_intact(store)


MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({"run_id": "", "turns": [{}]}, "run_id"),
    ({"run_id": 7, "turns": [{}]}, "run_id"),
    ({"turns": []}, "turns"),
    ({"turns": None}, "turns"),
    ({"turns": {"tool": "x"}}, "turns"),
    ({"turns": [{}] * 257}, "turns"),
    ({"turns": [{}, "x"]}, "turns[1]"),
    ({"turns": [{"tool": 7}]}, "turns[0].tool"),
    ({"turns": [{"verifier_verdict": "maybe"}]}, "turns[0].verifier_verdict"),
    ({"turns": [{"cli_outcome": {"kind": "exited"}}]}, "turns[0].cli_outcome"),
    ({"turns": [{"cli_outcome": {"kind": "exited", "code": 2**40}}]}, "turns[0].cli_outcome.code"),
    ({"turns": [{"policy_rejected": {"param": "x"}}]}, "turns[0].policy_rejected"),
]


def test_a_batch_that_is_not_well_formed_is_refused_with_the_field_named():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            run_id = await start(client)
            for params, field in MALFORMED:
                error = await failure(client.call("runs.record_turns", {"run_id": run_id, **params}))
                assert (error.code, error.data["field"]) == (-32602, field)
            assert await turns(client, run_id) == []

    play(MEMORY, scenario)


def test_a_batch_is_dropped_softly_for_a_run_that_is_not_there_has_ended_or_is_full():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        live_of(runtime).narrated_max = 3
        async with connect() as client, connect() as stranger:
            run_id = await start(client)
            await start(stranger, agent_id="bob")

            async def dropped(one: Client, name: str, count: int = 1) -> str | None:
                answer = await one.call("runs.record_turns", {"run_id": name, "turns": [turn()] * count})
                assert answer["run_id"] == name
                assert answer["ok"] or (answer["base_index"], answer["count"]) == (0, 0)
                return answer.get("dropped")

            assert await dropped(client, "f" * 32) == "run_not_found"
            assert await dropped(stranger, run_id) == "run_not_found"
            assert await dropped(client, run_id, 4) == "run_turn_limit"
            assert await dropped(client, run_id, 3) is None
            assert await dropped(client, run_id) == "run_turn_limit"
            await client.call("runs.complete", {"run_id": run_id})
            assert await dropped(client, run_id) == "run_terminal"
            assert await dropped(stranger, run_id) == "run_not_found"

    play(MEMORY, scenario)


def test_a_long_text_is_cut_between_characters_and_what_is_left_out_is_counted():
    long = "é" * 10_000 + "\N{SNOWMAN}"

    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            run_id = await start(client)
            told = turn(prompt=long, parameters={"deep": [long, "short"]}, output="x" * 16_384)
            assert (await client.call("runs.record_turns", {"run_id": run_id, "turns": [told]}))["ok"]
            (record,) = await turns(client, run_id)
            kept = "é" * 8_192 + "…[truncated]"
            assert (record["prompt"], record["parameters"]) == (kept, {"deep": [kept, "short"]})
            assert record["output"] == "x" * 16_384
            (call,) = runtime.index.run_calls(bytes.fromhex(run_id))
            stored = runtime.journal.read(*runtime.index.call_records(call.id)[0])
            cut = runtime.index.describe(stored)["payload"]["cut"]
            assert cut == {"texts": 2, "bytes": 2 * (20_003 - 16_384)}

    play(MEMORY, scenario)


def test_no_half_of_a_secret_is_left_where_a_text_is_cut():
    secret = AWS_KEY
    told = "x" * (16_384 - 10) + " " + secret + " " + "y" * 40_000

    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            run_id = await start(client)
            await client.call("runs.record_turns", {"run_id": run_id, "turns": [turn(output=told)]})
            (record,) = await turns(client, run_id)
            assert "AKIA" not in record["output"]
            assert record["output"].endswith("…[truncated]")

    play(MEMORY, scenario)


def test_a_turn_that_is_still_too_large_loses_its_fields_and_one_that_cannot_drops_the_batch():
    wide = {f"k{index}": "x" * 4_000 for index in range(100)}
    whole_marker = "…[truncated: turn exceeded 256 KiB]"

    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            run_id = await start(client)
            told = [turn(parameters=wide, output=["kept"]), turn()]
            assert (await client.call("runs.record_turns", {"run_id": run_id, "turns": told}))["count"] == 2
            recorded = await turns(client, run_id)
            assert (recorded[0]["parameters"], recorded[0]["output"]) == (whole_marker, whole_marker)
            assert (recorded[0]["prompt"], recorded[1]["output"]) == (None, "seen")

    play(MEMORY, scenario)


def test_a_name_that_is_too_long_is_cut_and_one_beyond_measure_drops_the_batch():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            run_id = await start(client)
            told = [turn(), turn("a tool " * 50_000)]
            answer = await client.call("runs.record_turns", {"run_id": run_id, "turns": told})
            assert (answer["ok"], answer["dropped"]) == (False, "turn_too_large")
            assert await turns(client, run_id) == []
            told = [turn("a tool " * 1_000), {"policy_rejected": {"rule": "r" * 2_000, "param": "p"}}]
            assert (await client.call("runs.record_turns", {"run_id": run_id, "turns": told}))["ok"]
            recorded = await turns(client, run_id)
            assert recorded[0]["tool"].endswith(" a…")
            assert (len(recorded[0]["tool"]) <= 1_024, recorded[0]["output"]) == (True, "seen")
            assert recorded[1]["policy_rejected"] == {"rule": "…", "param": "p"}

    play(MEMORY, scenario)


def test_what_is_told_is_redacted_like_everything_else():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            run_id = await start(client)
            told = turn(prompt=f"use {AWS_KEY}", parameters={"api_key": "hunter2hunter2"})
            await client.call("runs.record_turns", {"run_id": run_id, "turns": [told]})
            (record,) = await turns(client, run_id)
            assert record["parameters"]["api_key"].startswith("[redacted:sensitive_key:")
            assert AWS_KEY not in json.dumps(record)

    play(MEMORY, scenario)


def test_a_model_turn_is_in_the_trace_with_its_whole_text_between_the_turns():
    said = {
        "turn_index": 1,
        "assistant_text": "I will look. " * 500,
        "requested_tool_calls": [{"id": "c1", "name": "look", "arguments": {"q": 1}}],
        "model_id": "some-model",
        "token_usage": {"prompt_tokens": 11, "completion_tokens": 7, "other": "x"},
        "duration_ms": 12.5,
    }

    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            run_id = await start(client)
            await client.call("runs.record_turns", {"run_id": run_id, "turns": [turn()]})
            answer = await client.call("runs.record_model_turn", {"run_id": run_id, **said})
            assert answer == {"run_id": run_id, "index": 1, "ok": True}
            await client.call("runs.record_turns", {"run_id": run_id, "turns": [turn()]})
            records = (await trace(client, run_id))[1:]
            assert [(record["record"], record["index"]) for record in records] == [
                ("turn", 0),
                ("model_turn", 1),
                ("turn", 2),
            ]
            assert records[1] | {"recorded_at": ""} == {
                "record": "model_turn", "index": 1, "recorded_at": "", **said
            }  # fmt: skip
            totals = runtime.index.run(run_id).totals
            assert (totals.input_tokens, totals.output_tokens) == (11, 7)

    play(MEMORY, scenario)


# -- the end ------------------------------------------------------------------------------------------


OUTCOMES: list[tuple[Any, str, str]] = [
    ("success", "succeeded", "completed"),
    ({"status": "Succeeded", "summary": "all well", "evidence": []}, "succeeded", "completed"),
    ({"status": "done"}, "succeeded", "completed"),
    (None, "succeeded", "completed"),
    ({"summary": "says nothing"}, "succeeded", "completed"),
    ({"status": "failure", "reason": "no luck"}, "failed", "failed"),
    ({"Failure": {"message": "no"}}, "failed", "failed"),
    ({"ok": False}, "failed", "failed"),
    ({"status": {"kind": "timed_out"}}, "timed_out", "failed"),
    ("Canceled", "cancelled", "cancelled"),
    ({"status": "partial"}, "incomplete", "incomplete"),
    ({"status": "splendid"}, "unknown", "completed"),
    (7, "unknown", "completed"),
]


def test_a_run_ends_in_our_words_and_keeps_what_its_agent_said():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            for outcome, word, shown in OUTCOMES:
                run_id = await start(client)
                said = {"run_id": run_id, "outcome": outcome}
                assert await client.call("runs.complete", said) == {"run_id": run_id, "ok": True}
                run = runtime.index.run(run_id)
                assert (run.outcome, run.output) == (word, outcome)
                assert await status(client, run_id) == shown
                ended = (await trace(client, run_id))[-1]
                assert (ended["record"], ended["outcome"]) == ("ended", word)
                assert outcome is None or ended["termination"] == {"kind": "outcome", "outcome": outcome}

    play(MEMORY, scenario)


def test_a_second_end_is_an_error_and_so_is_one_of_a_run_nobody_knows():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            run_id = await start(client)
            both = [
                client.ask("runs.complete", {"run_id": run_id, "outcome": word}) for word in ("ok", "error")
            ]
            answers = await asyncio.gather(*both)
            assert ["result" in answer for answer in answers].count(True) == 1
            assert (await failure(client.call("runs.complete", {"run_id": run_id}))).code == -32603
            assert (await failure(client.call("runs.complete", {"run_id": "f" * 32}))).code == -32603
            ends = [record for record in await trace(client, run_id) if record["record"] == "ended"]
            assert len(ends) == 1

    play(MEMORY, scenario)


def test_nobody_learns_whether_another_s_run_exists(transport):
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as ada, connect() as bob:
            theirs = await start(ada, idempotency_key="secret-job")
            own = runtime.index.runs().items[0].id
            await start(bob, agent_id="bob")
            cancel = {"idempotency_key": "k", "reason": "r"}
            asked: list[tuple[str, dict[str, Any]]] = [
                ("runs.get_trace", {}),
                ("runs.subscribe", {}),
                ("runs.unsubscribe", {}),
                ("runs.complete", {"outcome": "ok"}),
                ("runs.resume", {}),
                ("runs.cancel", cancel),
                ("runs.record_turns", {"turns": [{}]}),
                ("runs.record_model_turn", {}),
            ]
            for method, params in asked:
                answers = []
                for run_id in (theirs, own, "0" * 32, "another-job"):
                    answer = await bob.ask(method, {"run_id": run_id, **params})
                    answers.append(json.dumps({**answer, "id": 0}).replace(run_id, "RUN"))
                assert len(set(answers)) == 1, method
            assert await bob.call("runs.list", {"agent_id": "ada"}) == {
                "agent_id": "ada", "runs": [], "cursor": None
            }  # fmt: skip
            assert await status(ada, theirs) == "in_progress"

    play(transport, scenario)


def test_completing_ends_what_is_in_flight_and_records_it_first():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        begun = asyncio.Event()

        async def hang(parameters: Any, said: Any) -> Any:
            begun.set()
            await asyncio.Event().wait()

        async with connect() as client:
            await client.offer(hang=hang)
            run_id = await start(client)
            submitting = asyncio.create_task(client.submit("hang"))
            await begun.wait()
            await client.call("runs.complete", {"run_id": run_id, "outcome": "success"})
            records = await trace(client, run_id)
            assert [record["record"] for record in records] == ["started", "turn", "ended"]
            (call,) = runtime.index.run_calls(bytes.fromhex(run_id))
            assert call.outcome == "cancelled"
            assert (await submitting)["status"] != "succeeded"

    play(MEMORY, scenario)


# -- the peer is gone ---------------------------------------------------------------------------------

LONG_GRACE_SECONDS = 20.0
"""Longer than it takes to come back, however busy the machine is; a third of what a scenario may take."""


def test_a_run_whose_peer_is_gone_ends_incomplete_after_its_grace(transport, monkeypatch):
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as watcher:
            await start(watcher)
            async with connect() as client:
                run_id = await start(client)
            await until_left(runtime, run_id)
            assert await status(watcher, run_id) == "in_progress"
            put_forward(LONG_GRACE_SECONDS, monkeypatch)
            await until_status(watcher, run_id, "incomplete")
            ended = (await trace(watcher, run_id))[-1]
            assert ended | {"ended_at": ""} == {
                "record": "ended",
                "termination": {"kind": "incomplete"},
                "outcome": "incomplete",
                "ended_at": "",
                "reason": "its peer is gone",
            }

    play(transport, scenario, grace_seconds=LONG_GRACE_SECONDS)


def test_a_key_brings_a_run_back_to_life_within_the_grace():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            await start(client, idempotency_key="job")
        async with connect() as client:
            await start(client, idempotency_key="job")
            assert live_of(runtime).find_live("job", None) is not None
            await asyncio.get_running_loop().run_in_executor(None, runtime.index.refresh)
            assert (await client.call("runs.complete", {"run_id": "job"}))["ok"]

    play(MEMORY, scenario, grace_seconds=LONG_GRACE_SECONDS)


HANDSHAKE = {"protocol_version": 3, "required_capabilities": ["runs.resume.v1"]}


def test_one_of_several_goes_on_with_a_run_whose_connection_is_gone(transport):
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            await client.call("server.handshake", HANDSHAKE)
            run_id = await start(client)
            error = await failure(client.call("runs.resume", {"run_id": "f" * 32}))
            assert error.code == -32603
            before = live_of(runtime).find_live(run_id, None)
            assert before is not None
            first = before.owner
        async with connect() as one, connect() as two:
            for client in (one, two):
                await client.call("session.auth", {"agent_id": "ada"})
            asked = [client.ask("runs.resume", {"run_id": run_id}) for client in (one, two)]
            answers = await asyncio.gather(*asked)
            results = [answer["result"] for answer in answers if "result" in answer]
            assert len(results) == 1
            assert results[0] | {"client_id": ""} == {
                "run_id": run_id, "agent_id": "ada", "client_id": "", "resumed_from_client_id": first
            }  # fmt: skip
            winner = one if "result" in answers[0] else two
            await winner.offer(look=_seen)
            assert (await winner.submit("look"))["status"] == "succeeded"
            assert len(await turns(winner, run_id)) == 1
            (event,) = runtime.index.events(name="run.resumed").items
            assert event.run_id == run_id
            assert (await winner.call("runs.complete", {"run_id": run_id}))["ok"]

    play(transport, scenario, lease_seconds=WAIT_SECONDS)


async def _seen(parameters: Any, said: Any) -> Any:
    del parameters, said
    return "seen"


def test_a_run_that_has_ended_or_is_worked_on_is_not_gone_on_with():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as one, connect() as two:
            run_id = await start(one)
            await two.call("session.auth", {"agent_id": "ada"})
            error = await failure(two.call("runs.resume", {"run_id": run_id}))
            assert "still works on" in error.message
            await one.call("runs.complete", {"run_id": run_id})
            error = await failure(two.call("runs.resume", {"run_id": run_id}))
            assert "has ended" in error.message

    play(MEMORY, scenario)


# -- cancel -------------------------------------------------------------------------------------------


def test_a_cancelled_run_gives_the_same_receipt_again_also_after_a_restart(tmp_path):
    store = str(tmp_path / "store")
    receipts: list[dict[str, Any]] = []
    said = {"run_id": "job", "idempotency_key": "k1", "reason": "the words of the reason"}

    async def before(connect: Connect, runtime: Runtime) -> None:
        begun = asyncio.Event()

        async def hang(parameters: Any, said: Any) -> Any:
            begun.set()
            await asyncio.Event().wait()

        async with connect() as client:
            await client.offer(hang=hang)
            await start(client, idempotency_key="job")
            submitting = asyncio.create_task(client.submit("hang"))
            await begun.wait()
            both = await asyncio.gather(*[client.call("runs.cancel", said) for _ in range(2)])
            assert both[0] == both[1]
            receipts.append(both[0])
            await submitting
            assert await status(client, "job") == "cancelled"
            error = await failure(client.call("runs.cancel", {**said, "reason": "another"}))
            assert (error.code, error.data["field"]) == (-32602, "idempotency_key")
            (call,) = runtime.index.calls().items
            assert call.outcome == "cancelled"
            asked = runtime.index.events(name="run.cancel_requested").items
            assert [event.data["reason_digest"] for event in asked] == [receipts[0]["reason_digest"]]

    async def after(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            await client.call("session.auth", {"agent_id": "ada"})
            assert await client.call("runs.cancel", said) == receipts[0]
            other = await client.call("runs.cancel", {**said, "idempotency_key": "k2"})
            assert other["status"] == "already_terminal"
            assert await client.call("runs.cancel", {**said, "idempotency_key": "k2"}) == other
            ended = (await trace(client, "job"))[-1]
            assert ended["termination"] == {"kind": "cancelled"}
            assert digest_of(ended) == receipts[0]["terminal_digest"] == other["terminal_digest"]

    play(MEMORY, before, store)
    play(MEMORY, after, store)
    (receipt,) = receipts
    body = {name: value for name, value in receipt.items() if name != "receipt_digest"}
    assert body.pop("terminal_digest") is not None
    assert body == {
        "receipt_version": 1,
        "run_id": "job",
        "idempotency_key": "k1",
        "reason_digest": hashlib.sha256(b"the words of the reason").hexdigest(),
        "principal": "agent:ada",
        "status": "cancelled_confirmed",
        "action_id": "a",
        "request_id": "cb-1",
    }
    for path in (tmp_path / "store").rglob("*"):
        assert not path.is_file() or b"words of the reason" not in path.read_bytes()


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"idempotency_key": "", "reason": "r"}, "idempotency_key"),
        ({"idempotency_key": "k" * 129, "reason": "r"}, "idempotency_key"),
        ({"idempotency_key": "k", "reason": "é" * 513}, "reason"),
        ({"idempotency_key": "k"}, "reason"),
    ],
)
def test_a_cancellation_that_is_not_well_formed_ends_nothing(said, field):
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            run_id = await start(client)
            error = await failure(client.call("runs.cancel", {"run_id": run_id, **said}))
            assert (error.code, error.data["field"]) == (-32602, field)
            assert await status(client, run_id) == "in_progress"

    play(MEMORY, scenario)


# -- lists and pages ----------------------------------------------------------------------------------


def test_a_list_has_the_newest_first_and_pages_where_they_were_negotiated():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            assert await client.call("runs.list", {"agent_id": "ada"}) == {
                "agent_id": "ada", "runs": [], "cursor": None
            }  # fmt: skip
            started = [await start(client) for _ in range(5)]
            await client.call("runs.record_turns", {"run_id": started[0], "turns": [turn(), turn()]})
            await client.call("runs.complete", {"run_id": started[0]})
            listed = (await client.call("runs.list", {"agent_id": "ada"}))["runs"]
            assert [run["run_id"] for run in listed] == started[::-1]
            assert [run["turn_count"] for run in listed] == [0, 0, 0, 0, 2]
            assert ["ended_at" in run for run in listed] == [False] * 4 + [True]
            await client.call(
                "server.handshake", {"protocol_version": 3, "required_capabilities": ["runs.pagination.v1"]}
            )
            for params in ({}, {"cursor": None}, {"limit": 2}, {"cursor": None, "limit": 501}):
                for method, of in (
                    ("runs.list", {"agent_id": "ada"}),
                    ("runs.get_trace", {"run_id": started[0]}),
                ):
                    assert (await failure(client.call(method, {**of, **params}))).code == -32602
            paged: list[str] = []
            cursor = None
            while True:
                said = {"agent_id": "ada", "cursor": cursor, "limit": 2}
                page = await client.call("runs.list", said)
                paged += [run["run_id"] for run in page["runs"]]
                cursor = page["cursor"]
                if cursor is None:
                    break
            assert paged == started[::-1]

    play(MEMORY, scenario)


def test_a_trace_in_pages_is_the_trace():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            run_id = await start(client)
            await client.call(
                "runs.record_turns", {"run_id": run_id, "turns": [turn(output=n) for n in range(20)]}
            )
            half = await trace(client, run_id)
            await client.call("runs.complete", {"run_id": run_id})
            whole_trace = await trace(client, run_id)
            assert whole_trace[:-1] == half
            for cursor in range(25):
                assert await trace(client, run_id, cursor=cursor) == whole_trace[cursor:]
            await client.call(
                "server.handshake", {"protocol_version": 3, "required_capabilities": ["runs.pagination.v1"]}
            )
            paged: list[Any] = []
            more = True
            while more:
                said = {"run_id": run_id, "cursor": str(len(paged)), "limit": 7}
                page = await client.call("runs.get_trace", said)
                paged += page["records"]
                assert page["cursor"] == len(paged)
                more = page.get("more", False)
            assert paged == whole_trace

    play(MEMORY, scenario)


@pytest.mark.parametrize("number", [2**64, -(2**70), 10**4000], ids=["65 bits", "below zero", "long"])
def test_a_number_of_any_size_comes_back_as_the_number_it_was(number: int):
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            run_id = await start(client)
            told = turn(output={"n": [number]}, parameters={"n": number})
            await client.call("runs.record_turns", {"run_id": run_id, "turns": [told]})
            _, recorded = await trace(client, run_id)
            assert (recorded["output"], recorded["parameters"]) == ({"n": [number]}, {"n": number})

    play(MEMORY, scenario)
