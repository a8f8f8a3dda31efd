"""What agents written for the reference say and expect to hear: over a real socket, to a real daemon, with
nothing but a WebSocket library."""

import asyncio
from typing import Any

from tests.doors.daemons import Daemon
from tests.doors.published import BATCH, drive, drives, register, start, statuses, with_peer
from tests.doors.wire import Fault, Wire, action, submit, trace, turns

# -- turns ----------------------------------------------------------------------------------------------


def test_an_exit_code_is_the_outcome_of_a_turn(open_daemon: Daemon):
    async def body(wire: Wire) -> None:
        await register(wire, drive_cli=drives(0))
        run_id = await start(wire)
        result = await submit(wire, drive("fix the parser\n\n  exactly so — ünïcode"))
        assert statuses(result) == ["succeeded"]
        assert result["results"][0]["output"] == drives(0)({})

        records = await trace(wire, run_id)
        assert [record["record"] for record in records] == ["started", "turn"]
        assert records[1] == {
            "record": "turn",
            "index": 0,
            "prompt": "fix the parser\n\n  exactly so — ünïcode",
            "tool": "drive_cli",
            "parameters": {"cli": "claude", "prompt": "fix the parser\n\n  exactly so — ünïcode"},
            "output": drives(0)({}),
            "cli_outcome": {"kind": "exited", "code": 0},
            "verifier_verdict": "not_run",
            "policy_rejected": None,
        }
        said = await wire.request("runs.complete", {"run_id": run_id, "outcome": {"status": "success"}})
        assert said == {"run_id": run_id, "ok": True}
        assert [record["record"] for record in await trace(wire, run_id)] == ["started", "turn", "ended"]

    with_peer(open_daemon.url, body)


def test_an_exit_code_that_is_not_0_is_an_answer_all_the_same(open_daemon: Daemon):
    async def body(wire: Wire) -> None:
        await register(wire, drive_cli=drives(101))
        run_id = await start(wire)
        assert statuses(await submit(wire, drive("go"))) == ["succeeded"]
        (turn,) = turns(await trace(wire, run_id))
        assert turn["cli_outcome"] == {"kind": "exited", "code": 101}

    with_peer(open_daemon.url, body)


def test_a_timeout_outranks_the_exit_code_that_is_not_there(open_daemon: Daemon):
    async def body(wire: Wire) -> None:
        await register(wire, drive_cli=drives(None, timed_out=True, tail="still at it"))
        run_id = await start(wire)
        assert statuses(await submit(wire, drive("take your time"))) == ["succeeded"]
        wire.tools["drive_cli"] = drives(0, timed_out=True)
        await submit(wire, drive("again"))
        outcomes = [turn["cli_outcome"] for turn in turns(await trace(wire, run_id))]
        assert outcomes == [{"kind": "timeout"}, {"kind": "timeout"}]

    with_peer(open_daemon.url, body)


def test_a_verdict_of_no_then_yes_with_positions_over_two_proposals(open_daemon: Daemon):
    async def body(wire: Wire) -> None:
        verdicts = iter((True, False))
        await register(
            wire,
            drive_cli=drives(0),
            check_outcome=lambda call: {"passed": next(verdicts), "output_tail": "…"},
        )
        run_id = await start(wire)
        for prompt in ("first", "and now"):
            result = await submit(wire, drive(prompt), action("check_outcome", {"command": "pytest -q"}))
            assert statuses(result) == ["succeeded", "succeeded"]
        recorded = turns(await trace(wire, run_id))
        assert [
            (turn["index"], turn["tool"], turn["prompt"], turn["cli_outcome"], turn["verifier_verdict"])
            for turn in recorded
        ] == [
            (0, "drive_cli", "first", {"kind": "exited", "code": 0}, "not_run"),
            (1, "check_outcome", None, None, "pass"),
            (2, "drive_cli", "and now", {"kind": "exited", "code": 0}, "not_run"),
            (3, "check_outcome", None, None, "fail"),
        ]

    with_peer(open_daemon.url, body)


def test_what_a_policy_rejects_never_runs(open_daemon: Daemon):
    async def body(wire: Wire) -> None:
        await register(wire, drive_cli=drives(0))
        said = {"name": "no-force", "rule": "deny_tool_param", "target": "drive_cli"}
        await wire.request("policy.register", {**said, "key": "prompt", "pattern": "push --force"})
        run_id = await start(wire)
        result = await submit(wire, drive("then git push --force"), drive("and on"))
        assert statuses(result) == ["rejected", "skipped"]
        assert result["results"][0]["output"] is None
        assert "--force" not in result["results"][0]["error"]
        assert (result["cost"]["actions_rejected"], result["cost"]["actions_executed"]) == (1, 0)
        assert wire.asked == []

        (turn,) = turns(await trace(wire, run_id))
        assert turn == {
            "record": "turn",
            "index": 0,
            "prompt": "then git push --force",
            "tool": "drive_cli",
            "parameters": {"cli": "claude", "prompt": "then git push --force"},
            "output": None,
            "cli_outcome": None,
            "verifier_verdict": "not_run",
            "policy_rejected": {"rule": "no-force", "param": "prompt"},
        }
        assert statuses(await submit(wire, drive("something else"))) == ["succeeded"]

    with_peer(open_daemon.url, body)


def test_an_unknown_tool_is_rejected_and_by_no_policy(open_daemon: Daemon):
    async def body(wire: Wire) -> None:
        run_id = await start(wire)
        assert statuses(await submit(wire, action("nobody_has_this"))) == ["rejected"]
        (turn,) = turns(await trace(wire, run_id))
        assert (turn["output"], turn["policy_rejected"]) == (None, None)

    with_peer(open_daemon.url, body)


def test_any_other_tool_makes_a_plain_turn(open_daemon: Daemon):
    async def body(wire: Wire) -> None:
        output = {"error": "this is only content", "exit_code": 7, "passed": True, "n": [1, 2.5, None]}
        await register(wire, search=lambda call: output)
        run_id = await start(wire)
        result = await submit(wire, action("search", {"query": "x", "prompt": "not a CLI's"}))
        assert statuses(result) == ["succeeded"]
        assert result["results"][0]["output"] == output
        (turn,) = turns(await trace(wire, run_id))
        assert turn == {
            "record": "turn",
            "index": 0,
            "prompt": None,
            "tool": "search",
            "parameters": {"query": "x", "prompt": "not a CLI's"},
            "output": output,
            "cli_outcome": None,
            "verifier_verdict": "not_run",
            "policy_rejected": None,
        }

    with_peer(open_daemon.url, body)


def test_an_answer_that_is_an_error_has_failed(open_daemon: Daemon):
    async def body(wire: Wire) -> None:
        def breaks(call: dict[str, Any]) -> Any:
            raise Fault("the tool fell over")

        await register(wire, search=breaks)
        run_id = await start(wire)
        result = await submit(wire, action("search"))
        assert statuses(result) == ["failed"]
        assert "the tool fell over" in result["results"][0]["error"]
        (turn,) = turns(await trace(wire, run_id))
        assert (turn["output"], turn["policy_rejected"], turn["cli_outcome"]) == (None, None, None)

    with_peer(open_daemon.url, body)


def test_each_attempt_is_a_turn_and_says_which(open_daemon: Daemon):
    async def body(wire: Wire) -> None:
        def breaks_at_first(call: dict[str, Any]) -> Any:
            if call["attempt"] == 1:
                raise Fault("not yet")
            return {"ok": True}

        await register(wire, search=breaks_at_first)
        run_id = await start(wire)
        result = await submit(wire, action("search", failure_behavior="retry", max_retries=2))
        assert statuses(result) == ["succeeded"]
        assert result["cost"]["retries"] == 1
        assert [call["attempt"] for call in wire.asked] == [1, 2]
        assert len({call["request_id"] for call in wire.asked}) == 2
        assert [turn["output"] for turn in turns(await trace(wire, run_id))] == [None, {"ok": True}]

    with_peer(open_daemon.url, body)


# -- Custody's own tools ---------------------------------------------------------------------------------


def test_the_tools_are_offered_to_whoever_brings_none(open_daemon: Daemon):
    async def body(wire: Wire) -> None:
        run_id = await start(wire)
        result = await submit(
            wire,
            action("drive_cli", {"cli": "says", "prompt": "fix it; $(date)"}),
            action("check_outcome", {"command": "echo 2 failed; exit 1"}),
            action("check_outcome", {"command": ["true"]}),
        )
        assert statuses(result) == ["succeeded"] * 3
        assert result["results"][0]["output"] == {
            "cli": "says",
            "exit_code": 3,
            "timed_out": False,
            "output_tail": "it was told fix it; $(date)\n",
            "output_dropped_bytes": 0,
        }
        assert [
            (turn["prompt"], turn["cli_outcome"], turn["verifier_verdict"])
            for turn in turns(await trace(wire, run_id))
        ] == [
            ("fix it; $(date)", {"kind": "exited", "code": 3}, "not_run"),
            (None, None, "fail"),
            (None, None, "pass"),
        ]
        assert wire.asked == []

    with_peer(open_daemon.url, body)


def test_a_cli_past_the_deadline_of_its_action_has_timed_out(open_daemon: Daemon):
    async def body(wire: Wire) -> None:
        run_id = await start(wire)
        hanging = action("drive_cli", {"cli": "hangs", "prompt": "x"}, timeout_ms=300)
        result = await submit(wire, hanging)
        assert statuses(result) == ["failed"]
        (turn,) = turns(await trace(wire, run_id))
        assert turn["cli_outcome"] == {"kind": "timeout"}
        assert turn["output"]["timed_out"] is True

    with_peer(open_daemon.url, body)


# -- without a run, and many at once --------------------------------------------------------------------


def test_without_a_run_there_is_no_turn(open_daemon: Daemon):
    async def body(wire: Wire) -> None:
        await register(wire, drive_cli=drives(0))
        result = await submit(wire, drive("quietly"))
        assert statuses(result) == ["succeeded"]
        run_id = await start(wire, "afterwards")
        assert turns(await trace(wire, run_id)) == []
        listed = await wire.request("runs.list", {"agent_id": "afterwards"})
        assert [run["run_id"] for run in listed["runs"]] == [run_id]

    with_peer(open_daemon.url, body)
    _, calls = open_daemon.run("calls", "--all", "--tool", "drive_cli", "--limit", "500")
    alone = [call for call in calls["items"] if call["arguments"]["prompt"] == "quietly"]
    assert [(call["run_id"], call["position"]) for call in alone] == [(None, None)]


def test_two_batches_of_turns_at_once_are_numbered_without_a_gap(open_daemon: Daemon):
    async def body(wire: Wire) -> None:
        run_id = await start(wire)

        def batch(name: str) -> dict[str, Any]:
            said = [{"index": -1, "tool": name, "parameters": {"n": number}} for number in range(BATCH)]
            return {"run_id": run_id, "turns": said}

        begun = [await wire.begin("runs.record_turns", batch(name)) for name in ("left", "right")]
        said = await asyncio.gather(*begun)
        assert sorted((one["base_index"], one["count"], one["ok"]) for one in said) == [
            (0, BATCH, True),
            (BATCH, BATCH, True),
        ]
        recorded = turns(await trace(wire, run_id))
        assert [turn["index"] for turn in recorded] == list(range(2 * BATCH))
        for name in ("left", "right"):
            numbers = [turn["parameters"]["n"] for turn in recorded if turn["tool"] == name]
            assert numbers == list(range(BATCH))

    with_peer(open_daemon.url, body)
    open_daemon.is_intact()


def test_two_proposals_at_once_are_numbered_without_a_gap(open_daemon: Daemon):
    async def body(wire: Wire) -> None:
        async def works(call: dict[str, Any]) -> Any:
            await asyncio.sleep(0)
            return call["parameters"]

        await register(wire, work=works)
        run_id = await start(wire)
        both = [
            submit(
                wire,
                *(action("work", {"of": of, "n": n}, failure_behavior="skip") for n in range(BATCH)),
            )
            for of in ("left", "right")
        ]
        for result in await asyncio.gather(*both):
            assert statuses(result) == ["succeeded"] * BATCH
        recorded = turns(await trace(wire, run_id))
        assert [turn["index"] for turn in recorded] == list(range(2 * BATCH))
        seen = {(turn["output"]["of"], turn["output"]["n"]) for turn in recorded}
        assert seen == {(of, n) for of in ("left", "right") for n in range(BATCH)}

    with_peer(open_daemon.url, body)
    open_daemon.is_intact()
