"""Who may ask what: tokens, roles, and lists of what a token allows."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.calls.faces import of_kind
from tests.rpc.clients import Client, Failure, connected, door, opened_runtime, put_forward

from custody.records import CallFinished
from custody.rpc import jsonrpc
from custody.rpc.access import Access, Doorkeeper, KnownToken, OpenDoor, TokenDoor, digest_of
from custody.rpc.peer import Peer
from custody.rpc.serve import paired, serve_peer
from custody.rpc.service import Limits, Service
from custody.rpc.table import TABLE

PING = "server.info"

AGENT = Access(role="agent", name="plain")
CODER = Access(role="agent", name="coder", agent="coder", tools=frozenset({"echo"}))
NARROW = Access(role="agent", name="narrow", methods=frozenset({"server.info", "state.get"}))
NOTHING = Access(role="agent", name="nothing", methods=frozenset())
OPERATOR = Access(role="operator", name="operator")
HOST = Access(role="host", name="host")
AUDITOR = Access(role="auditor", name="auditor")

TOKENS = {
    "agent's": AGENT,
    "coder's": CODER,
    "narrow": NARROW,
    "nothing": NOTHING,
    "operator's": OPERATOR,
    "host's": HOST,
    "auditor's": AUDITOR,
}
GUARDED = TokenDoor(
    lambda: [KnownToken(digest=digest_of(token), access=access) for token, access in TOKENS.items()]
)


LONG_ENOUGH = Limits(auth_seconds=60)
"""Longer than any test waits: what ends a connection is then something else."""


def play(
    transport: str,
    scenario: Callable[[Client], Awaitable[Any]],
    *,
    doorkeeper: Doorkeeper = GUARDED,
    limits: Limits = LONG_ENOUGH,
) -> Any:
    async def main() -> Any:
        async with (
            opened_runtime() as runtime,
            connected(transport, runtime, doorkeeper=doorkeeper, limits=limits) as client,
        ):
            return await scenario(client)

    return asyncio.run(main())


async def codes(client: Client, *requests: Any) -> list[int | None]:
    """The code of each answer; None: a result."""
    answers = [await client.ask(*request) for request in requests]
    return [answer.get("error", {}).get("code") for answer in answers]


def test_whoever_says_nothing_of_themselves_is_told_to_and_let_go(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        answer = await client.ask(PING)
        await client.until(client.closed.is_set)
        return answer["error"]["code"]

    assert play(transport, scenario) == -32001


def test_a_notification_before_the_token_ends_the_connection_too(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        await client.send({"jsonrpc": "2.0", "method": "state.set", "params": {"key": "k", "value": 1}})
        await client.until(client.closed.is_set)

    play(transport, scenario)


def test_the_version_may_be_agreed_on_and_the_schema_read_before_the_token(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        before = await codes(client, ("server.handshake", {"protocol_version": 3}), ("server.schema",))
        admitted = await client.call("session.auth", {"token": "agent's"})
        return before, admitted, (await client.call(PING))["wire"]

    assert play(transport, scenario) == ([None, None], {"ok": True, "auth_enabled": True, "role": "agent"}, 3)


def test_a_wrong_token_admits_nobody_and_may_be_followed_by_the_right_one(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        with pytest.raises(Failure) as refused:
            await client.call("session.auth", {"token": "nobody's"})
        await client.call("session.auth", {"token": "agent's"})
        return refused.value.code, refused.value.message, (await client.call(PING))["role"]

    assert play(transport, scenario) == (-32603, "auth failed: token mismatch", "agent")


@pytest.mark.parametrize(
    "params", [None, {}, {"token": ""}, {"token": None}, {"host_token": "agent's"}, {"host_token": ""}]
)
def test_no_token_is_no_token(transport: str, params: Any) -> None:
    async def scenario(client: Client) -> Any:
        return await codes(client, ("session.auth", params), (PING,))

    assert play(transport, scenario) == [-32603, -32001]


def test_requests_sent_behind_the_token_without_waiting_are_admitted(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        first = await client.begin("session.auth", {"token": "agent's"})
        second = await client.begin(PING)
        return [(await client.answer_to(identity)).keys() >= {"result"} for identity in (first, second)]

    assert play(transport, scenario) == [True, True]


def test_who_does_not_say_who_they_are_in_time_is_let_go(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        await client.until(client.closed.is_set)

    play(transport, scenario, limits=Limits(auth_seconds=0.05))


def test_who_did_is_not(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> Any:
        async with (
            opened_runtime() as runtime,
            door(transport, runtime, doorkeeper=GUARDED, limits=LONG_ENOUGH) as connect,
            connect() as client,
            connect() as silent,
        ):
            await client.call("session.auth", {"token": "agent's"})
            await silent.call("server.handshake", {"protocol_version": 3})  # who it is, it never says
            put_forward(LONG_ENOUGH.auth_seconds, monkeypatch)
            await silent.until(silent.closed.is_set)
            return (await client.call(PING))["role"]

    assert asyncio.run(main()) == "agent"


def test_without_tokens_anybody_is_an_agent_and_whatever_token_will_do(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        first = (await client.call(PING))["role"]
        admitted = await client.call("session.auth", {"token": "whatever", "agent_id": "me"})
        return first, admitted

    assert play(transport, scenario, doorkeeper=OpenDoor()) == (
        "agent",
        {"ok": True, "auth_enabled": False, "role": "agent", "agent_id": "me"},
    )


def test_a_hosts_token_makes_a_host_with_and_without_tokens_for_others(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        admitted = await client.call("session.auth", {"host_token": "host's"})
        return admitted["role"], (await client.call(PING))["standing"]["connections"]

    assert play(transport, scenario) == ("host", 1)
    assert play(transport, scenario, doorkeeper=OpenDoor(GUARDED)) == ("host", 1)


def test_the_token_says_which_agent_it_is(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        with pytest.raises(Failure) as another:
            await client.call("session.auth", {"token": "coder's", "agent_id": "somebody else"})
        admitted = await client.call("session.auth", {"token": "coder's"})
        return another.value.message, admitted["agent_id"], (await client.call(PING))["agents"]

    assert play(transport, scenario) == ("auth failed: the token is another agent's", "coder", ["coder"])


def test_a_door_may_have_admitted_the_peer_already() -> None:
    async def main() -> Any:
        ours, theirs = paired()
        async with opened_runtime() as runtime:
            Service(runtime, doorkeeper=GUARDED)
            peer = Peer(door="test", access=CODER)
            serving = asyncio.create_task(serve_peer(theirs.receive, theirs.send, peer, runtime))
            await ours.send(jsonrpc.request("1", PING, {}))
            answer = json.loads(await ours.receive() or "")
            ours.close()
            await serving
        return answer["result"]["agents"], answer["result"]["role"]

    assert asyncio.run(main()) == (["coder"], "agent")


def test_a_plain_token_lets_the_agent_name_itself(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        return (await client.call("session.auth", {"token": "agent's", "agent_id": "me"}))["agent_id"]

    assert play(transport, scenario) == "me"


def test_one_connection_speaks_for_so_many_agents_and_no_more(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        found: list[int | None] = []
        for n in range(257):
            found += await codes(client, ("session.auth", {"token": "agent's", "agent_id": f"agent {n}"}))
        return found[:256] == [None] * 256, found[256], len((await client.call(PING))["agents"])

    assert play(transport, scenario) == (True, -32602, 256)


def test_a_method_of_another_role_is_denied_and_not_told_from_none_outside_a_list(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        await client.call("session.auth", {"token": "agent's"})
        denied = await codes(client, ("session.clear_halt",))
        await client.call("session.auth", {"token": "narrow"})
        with pytest.raises(Failure) as outside:
            await client.call("tools.list")
        allowed = await codes(
            client, (PING,), ("state.get", {"key": "k"}), ("session.auth", {"token": "narrow"})
        )
        return denied, outside.value.code, outside.value.message, allowed

    assert play(transport, scenario) == (
        [-32003],
        -32601,
        "agent_method_not_allowed: tools.list",
        [None, None, None],
    )


def test_an_empty_list_leaves_only_the_token_and_the_handshake(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        admitted = await client.call("session.auth", {"token": "nothing"})
        found = await codes(client, ("server.handshake", {"protocol_version": 2}), (PING,))
        return admitted["method_allowlist"], found

    assert play(transport, scenario) == ([], [None, -32601])


def test_an_auditor_does_nothing_but_look(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        await client.call("session.auth", {"token": "auditor's"})
        acting = [one.name for one in TABLE if "auditor" not in one.roles and not one.before_auth]
        denied = await codes(client, *((name, {}) for name in acting))
        return set(denied), set(acting)

    codes_found, acting = play(transport, scenario)
    assert codes_found == {-32003}
    assert acting >= {
        "calls.make",
        "policy.register",
        "proposal.submit",
        "runs.record_turns",
        "runs.start",
        "session.init",
        "state.set",
        "tools.register",
    }


def test_only_a_host_or_an_operator_clears_a_halt(transport: str) -> None:
    async def main() -> Any:
        async with opened_runtime() as runtime, door(transport, runtime, doorkeeper=GUARDED) as connect:
            found: list[int | None] = []
            for token in ("agent's", "operator's", "host's"):
                async with connect() as client:
                    await client.call("session.auth", {"token": token})
                    found += await codes(client, ("session.clear_halt",))
            return found

    assert asyncio.run(main()) == [-32003, None, None]


def test_a_token_may_allow_some_tools_and_no_others(transport: str) -> None:
    async def main() -> Any:
        async with opened_runtime() as runtime:
            async with connected(transport, runtime, doorkeeper=GUARDED) as client:
                await client.call("session.auth", {"token": "coder's"})

                async def never(parameters: Any, request: Any) -> Any:
                    raise AssertionError("its body never runs")

                async def echo(parameters: Any, request: Any) -> Any:
                    return parameters

                await client.offer(echo=echo, other=never)
                statuses = [(await client.submit(name))["status"] for name in ("echo", "other", "file_list")]
            decided = [call.request.decision for call, _ in of_kind(runtime, CallFinished) if call.request]
            return statuses, [(decision.verdict, decision.rule) for decision in decided]

    assert asyncio.run(main()) == (
        ["succeeded", "rejected", "rejected"],
        [("deny", "token"), ("deny", "token")],
    )


def test_what_a_caller_may_ask_is_listed(transport: str) -> None:
    async def main() -> Any:
        async with opened_runtime() as runtime, door(transport, runtime, doorkeeper=GUARDED) as connect:
            found: dict[str, Any] = {}
            for token in ("narrow", "agent's", "operator's"):
                async with connect() as client:
                    await client.call("session.auth", {"token": token})
                    answer = await client.ask("capabilities.list")
                    found[token] = answer.get("result")
            return found

    found = asyncio.run(main())
    assert found["narrow"] is None
    names = {token: {one["method"] for one in found[token]["methods"]} for token in ("agent's", "operator's")}
    assert found["agent's"]["caller_role"] == "agent"
    assert found["agent's"]["count"] == len(found["agent's"]["methods"])
    assert {"proposal.submit", "session.auth"} <= names["agent's"] < names["operator's"]
    assert {"method": "session.clear_halt", "role": "host,operator"} in found["operator's"]["methods"]
