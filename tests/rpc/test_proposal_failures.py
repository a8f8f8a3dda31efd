"""What a proposal does when something fails: attempts, aborts, taking back, final failures, lost peers."""

import asyncio
import errno
from typing import Any

import pytest
from tests.rpc.clients import Client, Failure, connected, door, opened_runtime
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
from custody.journal import MemoryDisk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.rpc.access import Access, KnownToken, OpenDoor, TokenDoor, digest_of


class Flaky:
    """A tool that fails so many times."""

    def __init__(self, failures: int) -> None:
        self._failures = failures

    async def __call__(self, parameters: Any, said: Any) -> Any:
        del parameters
        if said["attempt"] <= self._failures:
            raise Failure(-32000, f"attempt {said['attempt']} failed")
        return "at last"


def test_a_retried_action_is_a_call_each_time_and_the_peer_hears_which_attempt_it_is(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, flaky=Flaky(1))
        answer = await submit(client, tool("flaky", "f", failure_behavior="retry", max_retries=2))

        (result,) = answer["results"]
        assert (result["status"], result["output"], result["attempts"]) == ("succeeded", "at last", 2)
        assert answer["cost"]["retries"] == 1
        assert answer["cost"]["tool_calls"] == 2
        assert [asked["attempt"] for asked in client.executed] == [1, 2]
        assert len({asked["request_id"] for asked in client.executed}) == 2
        calls = await calls_of(runtime)
        assert [(call.attempt, call.outcome) for call in calls] == [(1, "failed"), (2, "succeeded")]
        assert result["call_ids"] == [call.id for call in calls]

    scenario(transport, work)


def test_a_policys_no_is_never_tried_again(transport):
    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, t=1)
        await client.call("policy.register", {"name": "no", "rule": "deny_tool", "target": "t"})
        answer = await submit(client, tool("t", failure_behavior="retry"), tool("t", failure_behavior="skip"))

        assert statuses(answer) == ["rejected", "rejected"]
        assert answer["cost"]["retries"] == 0
        assert len(await calls_of(runtime)) <= 2

    scenario(transport, work)


def test_an_abort_takes_back_what_the_proposal_wrote_to_the_state_and_says_so(transport):
    async def breaks(parameters: Any, said: Any) -> Any:
        raise Failure(-32000, "broken")

    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, breaks=breaks, fine=1)
        await client.call("state.set", {"key": "n", "value": "before"})
        answer = await submit(
            client,
            write("n", "after", "w"),
            tool("fine", "f", expected_effects={"fine": True}),
            tool("breaks", "b"),
            tool("fine", "never"),
        )

        assert statuses(answer) == ["succeeded", "succeeded", "failed", "skipped"]
        written, fine, _, never = answer["results"]
        assert written["rolled_back"] is fine["rolled_back"] is True
        assert written["state_changes"] == fine["state_changes"] == {}
        assert "'b'" in never["error"]
        assert answer["aborted_by"] == "b"
        assert answer["rollback"] == {"keys_left": [], "undone": [], "error": None}
        assert await client.call("state.snapshot") == {"n": "before"}
        (said,) = await events_of(runtime, "proposal.finished")
        assert said["aborted_by"] == "b"
        assert said["rolled_back"] == ["w", "f"]
        kinds = [event["kind"] for event in (await client.call("events.query", {}))["events"]]
        assert "state_rollback" in kinds

    scenario(transport, work)


def test_files_are_given_back_too_where_that_was_asked_for_the_newest_change_first(transport, work):
    path = work / "note.txt"
    path.write_text("before")

    async def breaks(parameters: Any, said: Any) -> Any:
        raise Failure(-32000, "broken")

    async def undoing(client: Client, runtime: Runtime) -> None:
        await offer(client, breaks=breaks, undo="not the one that is meant")
        answer = await submit(
            client,
            tool("file_write", "one", with_={"path": "note.txt", "content": "first"}),
            tool("file_write", "two", with_={"path": "note.txt", "content": "second"}),
            tool("breaks"),
            undo_on_abort=True,
        )

        assert statuses(answer) == ["succeeded", "succeeded", "failed"]
        undone = answer["rollback"]["undone"]
        made = [result["call_ids"][0] for result in answer["results"]]
        assert [one["call"] for one in undone] == [made[1], made[0]]
        assert [one["outcome"] for one in undone] == ["succeeded", "succeeded"]
        assert answer["rollback"]["error"] is None
        assert path.read_text() == "before"
        assert [asked["tool"] for asked in client.executed] == ["breaks"]
        tools = [(call.tool, call.proposal_id) for call in await calls_of(runtime)]
        assert tools[3:] == [("undo", answer["proposal_id"])] * 2

    scenario(transport, undoing)


def test_without_being_asked_files_stay_as_the_proposal_left_them(transport, work):
    path = work / "note.txt"

    async def keeping(client: Client, runtime: Runtime) -> None:
        answer = await submit(
            client, tool("file_write", with_={"path": "note.txt", "content": "kept"}), tool("nope")
        )
        assert answer["rollback"]["undone"] == []
        assert path.read_text() == "kept"

    scenario(transport, keeping)


def test_a_rule_against_undo_holds_here_as_well_and_what_was_not_taken_back_is_told(transport, work):
    path = work / "note.txt"

    async def undoing(client: Client, runtime: Runtime) -> None:
        await client.call("policy.register", {"name": "keep", "rule": "deny_tool", "target": "undo"})
        answer = await submit(
            client,
            tool("file_write", with_={"path": "note.txt", "content": "written"}),
            tool("nope"),
            undo_on_abort=True,
        )

        (undone,) = answer["rollback"]["undone"]
        assert undone["outcome"] == "rejected"
        assert "keep" in undone["error"]
        assert answer["rollback"]["error"] == "1 of 1 calls could not be taken back."
        assert path.read_text() == "written"

    scenario(transport, undoing)


def test_attempts_that_changed_files_are_tried_the_last_one_first_and_what_is_not_kept_is_told(
    transport, work
):
    path = work / "note.txt"
    path.write_text("before\n")

    async def undoing(client: Client, runtime: Runtime) -> None:
        command = {"command": "echo more >> note.txt; exit 1"}
        answer = await submit(
            client, tool("shell", with_=command, failure_behavior="retry", max_retries=1), undo_on_abort=True
        )

        first, last = answer["results"][0]["call_ids"]
        assert [one["call"] for one in answer["rollback"]["undone"]] == [last, first]
        assert {one["outcome"] for one in answer["rollback"]["undone"]} == {"failed"}
        assert answer["rollback"]["error"] == "2 of 2 calls could not be taken back."
        assert path.read_text() == "before\nmore\nmore\n", "of what a command changes nothing is kept"

    scenario(transport, undoing)


HOST = KnownToken(digest=digest_of("the host's"), access=Access(role="host"))


def test_a_final_failure_ends_the_proposal_and_halts_the_connection_until_a_host_clears_it(transport):
    async def fatal(parameters: Any, said: Any) -> Any:
        raise Failure(-32000, "credentials revoked", {"terminal": True})

    async def work() -> None:
        doorkeeper = OpenDoor(TokenDoor(lambda: [HOST]))
        async with (
            opened_runtime() as runtime,
            connected(transport, runtime, doorkeeper=doorkeeper) as client,
        ):
            await offer(client, fatal=fatal, fine=1)
            answer = await submit(client, tool("fatal", failure_behavior="retry"), tool("fine"))

            first, second = answer["results"]
            assert (first["status"], first["terminal"]) == ("failed", True)
            assert first["error"] == "credentials revoked"
            assert second["status"] == "skipped"
            assert answer["cost"]["retries"] == 0
            assert len(client.executed) == 1

            halted = await submit(client, tool("fine", "a"), write("k", 1, "b"))
            assert statuses(halted) == ["rejected", "rejected"]
            assert "halted" in halted["results"][0]["error"]
            assert len(client.executed) == 1
            assert await client.call("state.get", {"key": "k"}) is None

            assert (await client.ask("session.clear_halt"))["error"]["code"] == -32003
            await client.call("session.auth", {"host_token": "the host's"})
            assert await client.call("session.clear_halt") == {"cleared": True, "halted": False}
            assert statuses(await submit(client, tool("fine"))) == ["succeeded"]

    asyncio.run(work())


def test_the_message_alone_never_halts_a_connection(transport):
    async def breaks(parameters: Any, said: Any) -> Any:
        raise Failure(-32000, "terminal: true", {"terminal": "true"})

    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, breaks=breaks, fine=1)
        await submit(client, tool("breaks"))
        assert statuses(await submit(client, tool("fine"))) == ["succeeded"]

    scenario(transport, work)


def test_a_peer_that_goes_while_its_tool_runs_leaves_a_call_whose_outcome_is_unknown(transport):
    gate = Gate()

    async def work() -> None:
        async with opened_runtime() as runtime:
            async with door(transport, runtime) as connect, connect() as client:
                await offer(client, slow=gate)
                await client.begin(
                    "proposal.submit", {"proposal": {"id": "p", "actions": [tool("slow", "s"), tool("slow")]}}
                )
                await bounded(gate.begun.wait())
            (call,) = await calls_of(runtime)
            assert call.outcome in ("unknown", "cancelled")
            (said,) = await events_of(runtime, "proposal.finished")
            first, second = said["actions"]
            assert (first["action_id"], first["status"]) == ("s", "failed")
            assert second["status"] == "skipped"

    asyncio.run(work())


def test_what_a_peer_that_goes_began_is_taken_back_where_it_asked_for_that(transport, work):
    path = work / "note.txt"
    path.write_text("before")
    gate = Gate()

    async def leaving() -> None:
        async with opened_runtime() as runtime:
            async with door(transport, runtime) as connect, connect() as client:
                await offer(client, slow=gate)
                actions = [tool("file_write", with_={"path": "note.txt", "content": "written"}), tool("slow")]
                await client.begin(
                    "proposal.submit", {"proposal": {"actions": actions}, "undo_on_abort": True}
                )
                await bounded(gate.begun.wait())
                assert path.read_text() == "written"
            # The door is closed only when its connections have been ended.
            assert path.read_text() == "before"
            assert [call.tool for call in await calls_of(runtime)] == ["file_write", "slow", "undo"]

    asyncio.run(leaving())


@pytest.mark.parametrize("ends", ["runs.complete", "runs.cancel"])
def test_ending_the_run_ends_its_proposal_and_the_peer_still_hears_what_became_of_it(transport, ends):
    gate = Gate()

    async def work(client: Client, runtime: Runtime) -> None:
        await offer(client, slow=gate)
        run = (await client.call("runs.start", {"intent": "x", "agent_id": "ada"}))["run_id"]
        submitted = await client.begin(
            "proposal.submit", {"proposal": {"actions": [write("k", 1), tool("slow", "s"), tool("slow")]}}
        )
        await bounded(gate.begun.wait())
        more = (
            {"outcome": "cancelled"} if ends == "runs.complete" else {"idempotency_key": "k", "reason": "no"}
        )
        ended = await client.call(ends, {"run_id": run, **more})
        answer = (await client.answer_to(submitted))["result"]

        assert statuses(answer) == ["succeeded", "failed", "skipped"]
        assert answer["results"][0]["rolled_back"] is True
        assert await client.call("state.get", {"key": "k"}) is None
        await client.until(lambda: client.told)
        assert client.told[0]["method"] == "tools.cancel"
        if ends == "runs.cancel":
            assert ended["action_id"] == "s"
            assert ended["request_id"] == client.executed[0]["request_id"]
        (call,) = await calls_of(runtime)
        assert call.outcome == "cancelled"
        (said,) = await events_of(runtime, "proposal.finished")
        assert said["cancelled"] is True

        after = await submit(client, tool("slow", "t", timeout_ms=50))
        assert statuses(after) == ["failed"], "the connection is as good as before, without a run"
        assert (await calls_of(runtime))[-1].run_id is None

    scenario(transport, work)


def broken(disk: FaultyDisk) -> None:
    for operation in ("put", "create"):
        disk.inject(Fault(operation=operation, error=errno.ENOSPC, times=None))


def test_a_call_that_cannot_be_recorded_does_not_run_and_its_action_says_so(transport):
    disk = FaultyDisk(MemoryDisk())

    async def work() -> None:
        async with opened_runtime(disk=disk) as runtime, connected(transport, runtime) as client:
            await offer(client, echo=echo)
            broken(disk)
            answer = await submit(client, *[tool("echo", failure_behavior="skip")] * 2, tool("echo"))
            disk.heal()

            assert statuses(answer) == ["rejected", "skipped", "skipped"]
            assert "record" in answer["results"][0]["error"]
            assert "terminal" not in answer["results"][0]
            assert client.executed == []
            assert statuses(await submit(client, tool("echo"))) == ["succeeded"]

    asyncio.run(work())


def test_a_result_whose_end_cannot_be_recorded_is_withheld_and_the_action_is_not_tried_again(transport):
    disk = FaultyDisk(MemoryDisk())

    async def act(parameters: Any, said: Any) -> Any:
        broken(disk)
        return "precious"

    async def work() -> None:
        async with opened_runtime(disk=disk) as runtime, connected(transport, runtime) as client:
            await offer(client, act=act)
            answer = await submit(client, tool("act", failure_behavior="retry"), tool("act"))
            disk.heal()

            assert statuses(answer) == ["failed", "skipped"]
            assert answer["results"][0]["output"] is None
            assert "withheld" in answer["results"][0]["error"]
            assert "precious" not in str(answer)
            assert len(client.executed) == 1

    asyncio.run(work())


def test_what_is_in_flight_for_one_connection_does_not_hold_up_another(transport):
    gate = Gate()

    async def work() -> None:
        async with (
            opened_runtime() as runtime,
            door(transport, runtime) as connect,
            connect() as slow,
            connect() as quick,
        ):
            await offer(slow, wait=gate)
            await offer(quick, wait="mine")
            submitted = await slow.begin("proposal.submit", {"proposal": {"actions": [tool("wait")]}})
            await bounded(gate.begun.wait())
            answer = await submit(quick, tool("wait"))
            assert answer["results"][0]["output"] == "mine"
            gate.through.set()
            assert statuses((await slow.answer_to(submitted))["result"]) == ["succeeded"]

    asyncio.run(work())
