"""What every peer can rely on, whatever it asks: one answer to each request, bounds, and an orderly end."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from tests.calls.faces import events, of_kind
from tests.rpc.clients import (
    WAIT_SECONDS,
    Client,
    ClientTool,
    Failure,
    connected,
    door,
    opened_runtime,
    proposal,
)

from custody.errors import Denied, NotRecorded, UsageError
from custody.records import CallFinished
from custody.rpc.description import Table
from custody.rpc.live import LiveRuns
from custody.rpc.method import NoParams, method
from custody.rpc.peer import Peer
from custody.rpc.serve import paired, serve_peer
from custody.rpc.service import Limits, Service, service_of
from custody.rpc.table import TABLE

PING = "server.info"

PLANTED = "correct-horse-battery-staple"
"""A value that its name in the environment says is a secret."""


def play(transport: str, scenario: Callable[[Client], Awaitable[Any]], **options: Any) -> Any:
    """Run a scenario with one client; gives what it returns."""

    async def main() -> Any:
        async with opened_runtime() as runtime, connected(transport, runtime, **options) as client:
            return await scenario(client)

    return asyncio.run(main())


def among_two(transport: str, scenario: Callable[[Client, Client], Awaitable[Any]], **options: Any) -> Any:
    """The same with two clients of one service."""

    async def main() -> Any:
        async with (
            opened_runtime() as runtime,
            door(transport, runtime, **options) as connect,
            connect() as one,
            connect() as other,
        ):
            return await scenario(one, other)

    return asyncio.run(main())


def gate() -> tuple[asyncio.Event, ClientTool]:
    """A tool that answers when its gate is opened."""
    opened = asyncio.Event()

    async def wait(parameters: Any, request: Any) -> Any:
        await opened.wait()
        return parameters

    return opened, wait


# -- answers ----------------------------------------------------------------------------------------------


def test_each_kind_of_mistake_is_told_by_its_code_and_the_connection_goes_on(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        found: dict[Any, Any] = {}
        for method_name, params in [
            ("no.such.method", None),
            ("runs.get", {}),
            ("server.handshake", {}),
            ("server.handshake", {"protocol_version": "3"}),
            ("server.handshake", [3]),
            ("server.handshake", {"protocol_version": 4}),
            ("server.handshake", {"protocol_version": 3, "required_capabilities": ["infer.cancel.v1"]}),
            ("policy.register", {"name": "p", "rule": "deny_everything"}),
            ("tools.register", [{"name": "x", "parameters": 5}]),
        ]:
            error = (await client.ask(method_name, params))["error"]
            found[method_name, json.dumps(params)] = error["code"], error.get("data", {}).get("field")
        assert (await client.call(PING))["role"] == "agent"
        return found

    assert play(transport, scenario) == {
        ("no.such.method", "null"): (-32601, None),
        ("runs.get", "{}"): (-32601, None),
        ("server.handshake", "{}"): (-32602, "protocol_version"),
        ("server.handshake", '{"protocol_version": "3"}'): (-32602, "protocol_version"),
        ("server.handshake", "[3]"): (-32602, None),
        ("server.handshake", '{"protocol_version": 4}'): (-32006, None),
        ("server.handshake", '{"protocol_version": 3, "required_capabilities": ["infer.cancel.v1"]}'): (
            -32008,
            None,
        ),
        ("policy.register", '{"name": "p", "rule": "deny_everything"}'): (-32602, "rule"),
        ("tools.register", '[{"name": "x", "parameters": 5}]'): (-32602, "[0].parameters"),
    }


def test_the_message_names_the_field_and_what_is_wrong_with_it(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        with pytest.raises(Failure) as missing:
            await client.call("server.handshake", {})
        with pytest.raises(Failure) as wrong:
            await client.call("server.handshake", {"protocol_version": "3"})
        return missing.value.message, wrong.value.message

    assert play(transport, scenario) == (
        "invalid params: protocol_version is missing",
        "invalid params: protocol_version: Expected `int`, got `str`",
    )


@pytest.mark.parametrize(
    ("text", "identity", "code"),
    [
        ("{", None, -32700),
        ("[]", None, -32600),
        ('[{"jsonrpc":"2.0","id":1,"method":"server.info"}]', None, -32600),
        ('{"jsonrpc":"2.0","id":9,"method":7}', 9, -32600),
        ('{"jsonrpc":"2.0","id":null,"method":"server.info"}', None, -32600),
        ('{"jsonrpc":"2.0","id":"x","method":"server.info","params":"p"}', "x", -32600),
        ('{"jsonrpc":"2.0","id":3,"method":"server.info","params":{"a":"\\ud83d"}}', 3, -32700),
    ],
)
def test_what_is_no_request_has_one_error_and_the_connection_goes_on(
    transport: str, text: str, identity: Any, code: int
) -> None:
    async def scenario(client: Client) -> Any:
        await client.send_text(text)
        await client.call(PING)
        return client.strays

    answers = play(transport, scenario)
    assert [(answer["id"], answer["error"]["code"]) for answer in answers] == [(identity, code)]
    assert "result" not in answers[0]


def test_ids_that_look_alike_are_different_ids(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        opened, wait = gate()
        await client.offer(wait=wait)
        for identity, n in [(1000, 1), ("1000", 2)]:
            await client.begin("proposal.submit", proposal("wait", {"n": n}), identity=identity)
        await client.until(lambda: len(client.executed) == 2)
        opened.set()
        answers = [await client.answer_to(identity) for identity in (1000, "1000")]
        return [(answer["id"], answer["result"]["results"][0]["output"]) for answer in answers]

    assert play(transport, scenario) == [(1000, {"n": 1}), ("1000", {"n": 2})]


def test_an_id_that_is_under_way_is_refused_and_may_be_used_again_afterwards(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        opened, wait = gate()
        await client.offer(wait=wait)
        await client.begin("proposal.submit", proposal("wait"), identity="same")
        await client.until(lambda: client.executed)
        await client.send({"jsonrpc": "2.0", "id": "same", "method": PING})
        refused = await client.answer_to("same")
        await client.begin(PING, identity="other")
        await client.answer_to("other")
        opened.set()
        await client.until(lambda: client.strays)
        await client.begin(PING, identity="same")
        again = await client.answer_to("same")
        return refused["error"]["code"], "result" in client.strays[0], "result" in again

    assert play(transport, scenario) == (-32600, True, True)


def test_a_notification_is_worked_on_and_never_answered(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        for name, params in [
            ("no.such.method", None),
            ("state.set", {"key": "k", "value": 1}),
            ("state.set", {"key": 5}),
            ("session.clear_halt", {}),
        ]:
            await client.send({"jsonrpc": "2.0", "method": name, "params": params})
        await client.until_call("state.get", {"key": "k"}, 1)
        return client.strays, client.told

    assert play(transport, scenario) == ([], [])


def test_requests_are_worked_on_side_by_side(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        opened, wait = gate()
        await client.offer(wait=wait)
        first = await client.begin("proposal.submit", proposal("wait"))
        await client.until(lambda: client.executed)
        await client.call(PING)
        opened.set()
        return (await client.answer_to(first))["result"]["results"][0]["status"]

    assert play(transport, scenario) == "succeeded"


def test_the_agents_of_one_connection_are_not_those_of_another(transport: str) -> None:
    async def scenario(one: Client, other: Client) -> Any:
        await one.call("session.auth", {"token": "any", "agent_id": "first"})
        await one.call("state.set", {"key": "k", "value": 1})
        return (
            (await one.call(PING))["agents"],
            (await other.call(PING))["agents"],
            await other.call("state.get", {"key": "k"}),
        )

    assert among_two(transport, scenario) == (["first"], [], None)


# -- errors of methods --------------------------------------------------------------------------------------


class Which(NoParams, frozen=True):
    error: str


@method("test.fail")
async def fail(peer: Peer, params: Which) -> None:
    """Fail in some way."""
    del peer
    raise {
        "usage": UsageError("That makes no sense.", hint="Try this.", field="what"),
        "denied": Denied("A guard says no."),
        "not recorded": NotRecorded(),
        "timeout": TimeoutError("of its own"),
        "anything": ValueError(os.environ.get("PLANTED_TOKEN", "")),
        "cancelled": asyncio.CancelledError(),
    }[params.error]


@method("test.for_ever", seconds=lambda params: 0.01)
async def for_ever(peer: Peer, params: NoParams) -> None:
    """Wait for ever, with a deadline."""
    del peer, params
    await asyncio.Event().wait()


@method("test.wait")
async def wait(peer: Peer, params: NoParams) -> None:
    """Wait for ever, and say when it was cancelled."""
    del params
    try:
        await asyncio.Event().wait()
    finally:
        peer.session.log("run_started", cancelled=True)


around: ContextVar[str] = ContextVar("around", default="nothing")


@method("test.around")
async def surroundings(peer: Peer, params: NoParams) -> str:
    """What the request sees of what was set before it."""
    del peer, params
    before = around.get()
    around.set("another request")
    return before


@method("test.slow_beginning", before_auth=True)
async def slow_beginning(peer: Peer, params: NoParams) -> None:
    """What an introduction is, a few turns of the loop long."""
    del params
    for _ in range(20):
        await asyncio.sleep(0)
    peer.session.log("run_started")


@method("test.begun")
async def begun(peer: Peer, params: NoParams) -> int:
    """How many introductions are over."""
    del params
    return len(peer.session.events)


OWN = Table([*TABLE, fail, for_ever, wait, surroundings, slow_beginning, begun])


def failing(error: str) -> dict[str, Any]:
    async def scenario(client: Client) -> Any:
        answer = await client.ask("test.fail", {"error": error})
        await client.call(PING)
        return answer["error"]

    return play("memory", scenario, table=OWN)


def test_an_error_of_custody_keeps_its_name_hint_and_field() -> None:
    assert failing("usage") == {
        "code": -32602,
        "message": "invalid params: That makes no sense.",
        "data": {"error": "UsageError", "exit_code": 2, "hint": "Try this.", "field": "what"},
    }
    assert failing("denied")["code"] == -32003
    assert failing("not recorded") == {
        "code": -32603,
        "message": "The record cannot be kept, so nothing was run.",
        "data": {"error": "NotRecorded", "exit_code": 5},
    }


@pytest.mark.parametrize("error", ["anything", "timeout", "cancelled"])
def test_an_error_nobody_expected_says_nothing_but_where_to_look(
    error: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PLANTED_TOKEN", PLANTED)
    told = failing(error)
    incident = told["data"]["incident"]
    assert told == {
        "code": -32603,
        "message": f"internal error (incident {incident})",
        "data": {"incident": incident},
    }
    assert incident in caplog.text
    assert PLANTED not in caplog.text


def test_a_method_that_does_not_end_is_given_up_at_its_deadline() -> None:
    async def scenario(client: Client) -> Any:
        answer = await client.ask("test.for_ever")
        await client.call(PING)
        return answer["error"]["code"]

    assert play("memory", scenario, table=OWN) == -32004


def test_a_request_sees_nothing_of_another_nor_of_the_door() -> None:
    async def scenario(client: Client) -> Any:
        return [await client.call("test.around") for _ in range(2)]

    around.set("the door")
    assert play("memory", scenario, table=OWN) == ["nothing", "nothing"]


def test_what_follows_an_introduction_waits_for_it_and_keeps_its_order() -> None:
    async def scenario(client: Client) -> Any:
        before = await client.call("test.begun")
        names = ("test.slow_beginning", "test.begun", "test.slow_beginning")
        asked = [await client.begin(name) for name in names]
        answers = [await client.answer_to(identity) for identity in asked[:2]]
        asked.append(await client.begin("test.begun"))  # while the second introduction is under way
        answers += [await client.answer_to(identity) for identity in asked[2:]]
        return before, [answer["result"] for answer in answers]

    assert play("memory", scenario, table=OWN) == (0, [None, 1, None, 2])


# -- bounds -------------------------------------------------------------------------------------------------


def test_more_requests_than_may_be_under_way_are_refused_and_answers_are_still_read(
    transport: str,
) -> None:
    async def scenario(client: Client) -> Any:
        opened, wait = gate()
        await client.offer(wait=wait)
        under_way = [await client.begin("proposal.submit", proposal("wait", {"n": n})) for n in range(3)]
        await client.until(lambda: len(client.executed) == 3)
        refused = (await client.ask(PING))["error"]["code"]
        opened.set()
        statuses = [(await client.answer_to(one))["result"]["results"][0]["status"] for one in under_way]
        await client.call(PING)
        return refused, statuses

    limits = Limits(in_flight_max=3)
    assert play(transport, scenario, limits=limits) == (-32010, ["succeeded"] * 3)


def test_a_flood_is_refused_request_by_request_and_nobody_else_notices(transport: str) -> None:
    async def scenario(one: Client, other: Client) -> Any:
        flood = [await one.begin(PING) for _ in range(200)]
        answers = [await one.answer_to(identity) for identity in flood]
        await other.call(PING)
        return {answer.get("error", {}).get("code") for answer in answers}, "result" in answers[0]

    limits = Limits(requests_per_second=1)
    assert among_two(transport, scenario, limits=limits) == ({None, -32010}, True)


@pytest.mark.parametrize(
    "text", ["{", '{"jsonrpc":"2.0","id":"cb-7","result":1}', '{"jsonrpc":"2.0","method":"m"}']
)
def test_a_flood_of_what_is_no_work_is_read_slowly(text: str) -> None:
    async def scenario(one: Client, other: Client) -> Any:
        await other.call(PING)  # the first is on the record, which takes a thread and whatever time that has
        for _ in range(300):
            await one.send_text(text)
        for _ in range(20):  # each is answered before the flood has been read
            await other.call(PING)
        read = one.peer.frames_in
        await one.close()
        return read

    assert among_two("memory", scenario, limits=Limits(requests_per_second=30)) < 300


def test_an_answer_longer_than_a_frame_is_an_error_that_says_so(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        answer = await client.ask("server.schema")
        await client.call(PING)
        return answer["error"]

    told = play(transport, scenario, limits=Limits(frame_bytes_max=4_096))
    assert told == {"code": -32603, "message": "the answer is longer than a frame may be (4096 bytes)"}


def test_a_frame_that_is_too_long_is_refused_or_ends_the_connection(transport: str) -> None:
    async def scenario(one: Client, other: Client) -> Any:
        text = json.dumps({"jsonrpc": "2.0", "id": 1, "method": PING, "params": {"more": "x" * 5_000}})
        await one.send_text(text)
        await one.until(lambda: one.strays or one.closed.is_set())
        await other.call(PING)
        return [answer["error"]["code"] for answer in one.strays]

    assert among_two(transport, scenario, limits=Limits(frame_bytes_max=4_096)) in ([-32600], [])


def test_a_service_that_drains_finishes_what_is_under_way_and_takes_nothing_new(transport: str) -> None:
    async def main() -> Any:
        async with opened_runtime() as runtime, connected(transport, runtime) as client:
            opened, wait = gate()
            await client.offer(wait=wait)
            first = await client.begin("proposal.submit", proposal("wait"))
            await client.until(lambda: client.executed)
            service = service_of(runtime)
            assert not await service.drain(0.01)
            refused = (await client.ask(PING))["error"]["code"]
            opened.set()
            assert await service.drain(WAIT_SECONDS)
            status = (await client.answer_to(first))["result"]["results"][0]["status"]
            service.close_peers("the daemon stops")
            await client.until(client.closed.is_set)
            return refused, status

    assert asyncio.run(main()) == (-32010, "succeeded")


def test_a_runtime_is_served_by_one_service() -> None:
    async def main() -> Any:
        async with opened_runtime() as runtime:
            Service(runtime)
            with pytest.raises(UsageError):
                Service(runtime)

    asyncio.run(main())


def test_a_service_has_the_runs_it_is_given_though_none_is_open_yet() -> None:
    async def main() -> Any:
        async with opened_runtime() as runtime:
            live = LiveRuns(runtime)
            return Service(runtime, live=live).live is live

    assert asyncio.run(main())


# -- the end ------------------------------------------------------------------------------------------------


def test_a_call_whose_peer_goes_is_on_the_record_as_unknown(transport: str) -> None:
    async def main() -> Any:
        async with opened_runtime() as runtime:
            async with connected(transport, runtime) as client:
                _, wait = gate()
                await client.offer(wait=wait)
                await client.begin("proposal.submit", proposal("wait"))
                await client.until(lambda: client.executed)
            (finished, _), *more = of_kind(runtime, CallFinished)
            assert not more
            return finished.outcome

    assert asyncio.run(main()) == "unknown"


def test_what_is_worked_on_for_a_peer_that_goes_is_cancelled_before_serving_it_ends() -> None:
    async def main() -> Any:
        async with opened_runtime() as runtime:
            async with connected("memory", runtime, table=OWN) as client:
                for _ in range(3):
                    await client.begin("test.wait")
                await client.call(PING)
                peer = client.peer
            return len(peer.tasks), len(peer.session.events)

    assert asyncio.run(main()) == (0, 3)


def test_frames_are_never_mixed_on_a_stream_that_takes_them_in_pieces() -> None:
    async def main() -> Any:
        ours, theirs = paired()
        pieces: list[str] = []
        complete = asyncio.Event()

        async def send(text: str) -> None:
            for piece in (text[:10], text[10:]):
                pieces.append(piece)
                await asyncio.sleep(0)
            if len(pieces) == 40:
                complete.set()

        async with opened_runtime() as runtime:
            peer = Peer(door="test")
            serving = asyncio.create_task(serve_peer(theirs.receive, send, peer, runtime))
            for n in range(20):
                await ours.send(json.dumps({"jsonrpc": "2.0", "id": n, "method": PING}))
            async with asyncio.timeout(WAIT_SECONDS):
                await complete.wait()
            ours.close()
            await serving
        return [json.loads(first + second)["id"] for first, second in batched_by_two(pieces)]

    assert sorted(asyncio.run(main())) == list(range(20))


def batched_by_two(pieces: list[str]) -> Iterator[tuple[str, str]]:
    return zip(pieces[::2], pieces[1::2], strict=True)


def test_who_came_and_went_is_on_the_record(transport: str) -> None:
    async def main() -> Any:
        async with opened_runtime() as runtime:
            async with connected(transport, runtime) as client:
                await client.call("session.auth", {"token": "any", "agent_id": "coder"})
                await client.call("server.handshake", {"protocol_version": 3})
                await client.call(PING)
            (came,), (went,) = events(runtime, "peer.connected"), events(runtime, "peer.disconnected")
            return came, went

    came, went = asyncio.run(main())
    assert came["agents"] == ["coder"] and came["role"] == "agent" and len(came["connection"]) == 16
    assert {name: went[name] for name in ("connection", "agents", "wire", "frames", "requests")} == {
        "connection": came["connection"],
        "agents": ["coder"],
        "wire": 3,
        "frames": 3,
        "requests": 3,
    }


def test_who_only_knocks_is_not(transport: str) -> None:
    async def main() -> Any:
        async with opened_runtime() as runtime:
            async with connected(transport, runtime) as client:
                await client.send_text("GET / HTTP/1.1")
                await client.until(lambda: client.strays)
            return events(runtime, "peer.connected") + events(runtime, "peer.disconnected")

    assert asyncio.run(main()) == []


def test_a_peer_that_takes_nothing_is_given_up_and_nobody_else_notices() -> None:
    async def main() -> Any:
        limits = Limits(send_seconds_max=0.2)
        async with (
            opened_runtime() as runtime,
            door("memory", runtime, limits=limits) as connect,
            connect() as deaf,
            connect() as other,
        ):
            deaf.stop_reading()
            for n in range(40):  # the answers are longer than what fits between the two ends
                await deaf.send({"jsonrpc": "2.0", "id": n, "method": "server.schema"})
            await other.call(PING)
            async with asyncio.timeout(WAIT_SECONDS):
                await deaf.peer.gone.wait()
            await other.call(PING)
            return deaf.peer.why

    assert asyncio.run(main()) == "it took nothing for 0.2 s"


def test_what_waits_for_a_slow_peer_is_bounded_and_comes_whole_and_in_order() -> None:
    async def main() -> Any:
        limits = Limits(outgoing_bytes_max=50_000, in_flight_max=20)
        async with opened_runtime() as runtime, connected("memory", runtime, limits=limits) as client:
            peer = client.peer
            client.stop_reading()
            sent = [asyncio.create_task(peer.notify("n", [n, "x" * 20_000])) for n in range(30)]
            most = 0
            for _ in range(100):
                await asyncio.sleep(0)
                most = max(most, peer.outgoing.waiting_bytes)
            client.go_on_reading()
            await asyncio.gather(*sent)
            await client.until(lambda: len(client.told) == 30)
            return most <= 70_000, [told["params"][0] for told in client.told]

    assert asyncio.run(main()) == (True, list(range(30)))
