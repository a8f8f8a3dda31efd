"""Who may say what, what becomes of a run whose connection is lost, and who watches it: over a real socket,
to a real daemon, with nothing but a WebSocket library."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from tests.doors.daemons import Daemon, daemon
from tests.doors.published import AGENT, BATCH, drive, drives, negotiate, register, start, with_peer
from tests.doors.wire import ANSWER_SECONDS, Refused, Wire, action, connected, submit, trace, turns

MANY = 200


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One that asks for a token."""
    with daemon(tmp_path_factory.mktemp("guarded")) as made:
        yield made


# -- who may, and what they hear ------------------------------------------------------------------------


def test_any_first_frame_is_taken_and_nothing_comes_unasked(open_daemon: Daemon):
    async def body(wire: Wire) -> None:
        await register(wire, drive_cli=drives(0))
        run_id = await start(wire)
        await submit(wire, drive("x"))
        await wire.request("runs.complete", {"run_id": run_id, "outcome": {"status": "success"}})
        assert len(wire.asked) == 1
        assert wire.unasked == []

    with_peer(open_daemon.url, body)


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_are_spoken(version: int, open_daemon: Daemon):
    async def body(wire: Wire) -> None:
        asked = {"protocol_version": version, "optional_capabilities": ["runs.resume.v1", "infer.cancel.v1"]}
        said = await wire.request("server.handshake", asked)
        assert (said["protocol_version"], said["client_protocol_version"]) == (version, version)
        assert said["negotiated_capabilities"] == ["runs.resume.v1"]

    with_peer(open_daemon.url, body)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"protocol_version": 4}, -32006),
        ({"protocol_version": 3, "required_capabilities": ["infer.cancel.v1"]}, -32008),
        ({}, -32602),
    ],
)
def test_what_is_not_spoken_is_refused_by_its_code(asked: dict[str, Any], code: int, open_daemon: Daemon):
    async def body(wire: Wire) -> None:
        with pytest.raises(Refused) as refused:
            await wire.request("server.handshake", asked)
        assert refused.value.code == code

    with_peer(open_daemon.url, body)


def test_what_belongs_to_others_does_not_exist(open_daemon: Daemon):
    async def body(wire: Wire) -> None:
        run_id = await start(wire, "owner")
        async with connected(open_daemon.url) as stranger:
            await start(stranger, "stranger")
            never = "0" * 32
            for method in ("runs.get_trace", "runs.subscribe", "runs.resume", "runs.complete"):
                answers: list[str] = []
                for asked in (run_id, never):
                    params = {"run_id": asked, "outcome": {"status": "success"}}
                    try:
                        said = await stranger.request(method, params)
                    except Refused as refused:
                        said = [refused.code, refused.message]
                    answers.append(json.dumps(said).replace(asked, "ID"))
                assert answers[0] == answers[1], method
            listed = await stranger.request("runs.list", {"agent_id": "owner"})
            assert listed["runs"] == []

    with_peer(open_daemon.url, body)


def test_where_a_token_is_asked_for_nothing_else_comes_first(guarded: Daemon):
    async def body(wire: Wire) -> None:
        await wire.request("server.handshake", {"protocol_version": 3})
        with pytest.raises(Refused) as refused:
            await wire.request("session.auth", {"token": "x" * 43})
        assert (refused.value.code, refused.value.message) == (-32603, "auth failed: token mismatch")
        with pytest.raises(Refused) as refused:
            await wire.request("tools.list")
        assert refused.value.code == -32001
        await asyncio.wait_for(wire.socket.wait_closed(), ANSWER_SECONDS)

    with_peer(guarded.url, body)


def test_with_the_token_everything_is_as_without_one(guarded: Daemon):
    token = Path(guarded.said["token_file"]).read_text(encoding="utf-8").strip()

    async def body(wire: Wire) -> None:
        said = await wire.request("session.auth", {"token": token, "agent_id": AGENT})
        assert (said["ok"], said["auth_enabled"], said["agent_id"]) == (True, True, AGENT)
        await register(wire, drive_cli=drives(0))
        started = await wire.request("runs.start", {"intent": "x"})
        assert started["agent_id"] == AGENT
        await submit(wire, drive("go"))
        assert len(turns(await trace(wire, started["run_id"]))) == 1

    with_peer(guarded.url, body)


# -- runs that outlive a connection, and that are watched -----------------------------------------------


def test_a_run_whose_peer_is_gone_is_incomplete(open_daemon: Daemon):
    async def body(wire: Wire) -> None:
        agent = "leaves"
        async with connected(open_daemon.url) as leaving:
            run_id = await start(leaving, agent)
        await wire.request("session.auth", {"token": "any", "agent_id": agent})
        said = await wire.request("runs.subscribe", {"run_id": run_id})
        if said["status"] == "in_progress":
            event = await wire.heard("runs.trace.event")
            while event["record"]["record"] != "ended":
                event = await wire.heard("runs.trace.event")
        listed = await wire.request("runs.list", {"agent_id": agent})
        assert [run["status"] for run in listed["runs"]] == ["incomplete"]

    with_peer(open_daemon.url, body)


def test_nobody_knows_what_became_of_a_call_whose_peer_was_lost(open_daemon: Daemon):
    async def body(wire: Wire) -> None:
        agent = "dies"
        async with connected(open_daemon.url) as leaving:
            await register(leaving, half_done=lambda call: asyncio.Event().wait())
            run_id = await start(leaving, agent)
            proposal = {"actions": [action("half_done", id="lost")]}
            under_way = await leaving.begin("proposal.submit", {"proposal": proposal})
            await leaving.heard("tools.execute")
            leaving.socket.transport.abort()
            with pytest.raises(websockets.ConnectionClosed):
                await under_way
        await wire.request("session.auth", {"token": "any", "agent_id": agent})
        said = await wire.request("runs.subscribe", {"run_id": run_id})
        if said["status"] == "in_progress":
            while (await wire.heard("runs.trace.event"))["record"]["record"] != "ended":
                pass
        records = await trace(wire, run_id)
        assert [record["record"] for record in records] == ["started", "turn", "ended"]
        assert (records[1]["tool"], records[1]["output"]) == ("half_done", None)

    with_peer(open_daemon.url, body)
    _, calls = open_daemon.run("calls", "--all", "--tool", "half_done")
    assert [(call["action_id"], call["outcome"]) for call in calls["items"]] == [("lost", "unknown")]


def test_an_agent_that_lost_its_connection_goes_on_with_its_run(open_daemon: Daemon):
    async def body(wire: Wire) -> None:
        agent = "comes-back"
        async with connected(open_daemon.url) as first:
            await negotiate(first, "runs.resume.v1")
            run_id = await start(first, agent)
            await first.request("runs.record_turns", {"run_id": run_id, "turns": [{"tool": "before"}]})
            await first.socket.close()
        await wire.request("session.auth", {"token": "any", "agent_id": agent})
        await negotiate(wire, "runs.resume.v1")
        said = await resumed(wire, run_id)
        assert (said["run_id"], said["agent_id"]) == (run_id, agent)
        assert said["resumed_from_client_id"] != said["client_id"]
        await wire.request("runs.record_turns", {"run_id": run_id, "turns": [{"tool": "after"}]})
        await wire.request("runs.complete", {"run_id": run_id, "outcome": {"status": "success"}})
        recorded = await trace(wire, run_id)
        assert [(turn["index"], turn["tool"]) for turn in turns(recorded)] == [(0, "before"), (1, "after")]
        assert recorded[-1]["record"] == "ended"

    with_peer(open_daemon.url, body)


async def resumed(wire: Wire, run_id: str) -> Any:
    """Asked again while the connection before is still being taken leave of: the daemon closes the socket
    first."""
    async with asyncio.timeout(ANSWER_SECONDS):
        while True:
            try:
                return await wire.request("runs.resume", {"run_id": run_id})
            except Refused as refused:
                if "Somebody still works on this run" not in refused.message:
                    raise


def test_a_cancelled_run_ends_what_is_under_way_and_gives_a_receipt(open_daemon: Daemon):
    async def body(wire: Wire) -> None:
        never: asyncio.Event = asyncio.Event()
        await register(wire, drive_cli=lambda call: never.wait())
        run_id = await start(wire)
        proposal = {"actions": [drive("on and on", id="long")]}
        under_way = await wire.begin("proposal.submit", {"proposal": proposal})
        call = await wire.heard("tools.execute")
        asked = {"run_id": run_id, "idempotency_key": "k1", "reason": "changed my mind"}
        receipt = await wire.request("runs.cancel", asked)
        assert (receipt["run_id"], receipt["idempotency_key"]) == (run_id, "k1")
        assert receipt["status"] == "cancelled_confirmed"
        assert receipt["action_id"] == "long"
        told = await wire.heard("tools.cancel")
        assert (told["request_id"], told["action_id"]) == (call["request_id"], "long")
        assert (await under_way)["results"][0]["status"] == "failed"
        assert await wire.request("runs.cancel", asked) == receipt
        with pytest.raises(Refused):
            await wire.request("runs.complete", {"run_id": run_id, "outcome": {"status": "success"}})

    with_peer(open_daemon.url, body)


def test_a_reader_that_pauses_misses_nothing(open_daemon: Daemon):
    text = "words that fill the buffers of a socket " * 100

    async def body(wire: Wire) -> None:
        agent = "watched"
        run_id = await start(wire, agent)
        async with connected(open_daemon.url, max_queue=1) as watcher:
            await watcher.request("session.auth", {"token": "any", "agent_id": agent})
            said = await watcher.request("runs.subscribe", {"run_id": run_id})
            assert (said["turns_so_far"], said["status"]) == ([], "in_progress")
            watcher.pause()
            for base in range(0, MANY, BATCH):
                batch = [{"tool": f"t{base + n}", "output": text} for n in range(BATCH)]
                await wire.request("runs.record_turns", {"run_id": run_id, "turns": batch})
            await wire.request("runs.complete", {"run_id": run_id, "outcome": {"status": "success"}})
            watcher.resume()
            live: list[dict[str, Any]] = []
            while not live or live[-1]["record"]["record"] != "ended":
                live.append(await watcher.heard("runs.trace.event"))
        assert [event["cursor"] for event in live[:-1]] == list(range(1, MANY + 1))
        assert [event["record"] for event in live] == (await trace(wire, run_id))[1:]

    with_peer(open_daemon.url, body)


# -- what makes no sense --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{", -32700),
        ("[]", -32600),
        ('{"jsonrpc": "2.0", "id": 1}', -32600),
        ('{"jsonrpc": "2.0", "id": 1, "method": "no.such"}', -32601),
        ('{"jsonrpc": "2.0", "id": 1, "method": "runs.start", "params": {"intent": 3}}', -32602),
        ('{"jsonrpc": "2.0", "id": "a", "method": "runs.record_turns", "params": {"turns": []}}', -32602),
    ],
)
def test_a_frame_that_makes_no_sense_gets_its_code_and_harms_nothing(
    frame: str, code: int, open_daemon: Daemon
):
    async def main() -> None:
        async with websockets.connect(open_daemon.url, proxy=None, open_timeout=ANSWER_SECONDS) as socket:
            await socket.send(frame)
            said = json.loads(await asyncio.wait_for(socket.recv(), ANSWER_SECONDS))
            assert said["error"]["code"] == code
            assert "result" not in said
            await socket.send('{"jsonrpc": "2.0", "id": "s", "method": "events.count", "params": null}')
            said = json.loads(await asyncio.wait_for(socket.recv(), ANSWER_SECONDS))
            assert said.keys() == {"jsonrpc", "id", "result"}
            assert type(said["result"]) is int

    asyncio.run(main())
