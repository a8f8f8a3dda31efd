"""`approvals.*`: who sits at a daemon sees what people are asked, and answers it."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.calls.desk import Desk
from tests.cli.conftest import eventually
from tests.rpc.clients import Client, Failure, connected, opened_runtime

from custody.rpc import jsonrpc
from custody.rpc.access import Access, KnownToken, Role, TokenDoor, digest_of

ROLES: tuple[Role, ...] = ("agent", "operator", "auditor", "host")
KEEPER = TokenDoor(
    lambda: [KnownToken(digest=digest_of(role), access=Access(role=role, name=f"{role}-1")) for role in ROLES]
)


def play(
    transport: str, tmp_path: Path, scenario: Callable[[Client, Desk], Awaitable[Any]], role: str = "operator"
) -> Any:
    """Beside another process of the store, which asks."""

    async def main() -> Any:
        store = os.fspath(tmp_path / "store")
        desk = Desk(store)
        try:
            async with (
                opened_runtime(store) as runtime,
                connected(transport, runtime, doorkeeper=KEEPER) as client,
            ):
                await client.call("session.auth", {"token": role})
                return await scenario(client, desk)
        finally:
            desk.close()

    return asyncio.run(main())


def test_a_question_is_listed_answered_and_listed_no_more(transport: str, tmp_path: Path) -> None:
    async def scenario(client: Client, desk: Desk) -> None:
        question = desk.question()
        call = question.call_id.hex()
        (asked,) = (await client.call("approvals.list"))["items"]
        assert (asked["call_id"], asked["arguments"], asked["cwd"]) == (call, {"line": "rm x"}, "/w")

        said = await client.call("approvals.answer", {"id": call[:6].upper(), "verdict": "allow"})
        assert (said["call_id"], said["verdict"], said["waiting"]) == (call, "allow", True)
        assert (await client.call("approvals.list"))["items"] == []
        answer = desk.index.questions.one(call).answer
        assert answer is not None and answer.person == "operator operator-1"
        with pytest.raises(Failure) as refused:
            await client.call("approvals.answer", {"id": call, "verdict": "deny"})
        assert refused.value.code == jsonrpc.DENIED and "before" in refused.value.message

    play(transport, tmp_path, scenario)


@pytest.mark.long
def test_a_grant_is_given_listed_and_revoked(tmp_path: Path) -> None:
    async def scenario(client: Client, desk: Desk) -> None:
        call = desk.question().call_id.hex()
        more = {"standing": {"hours": 1, "calls_max": 2}}
        assert (await client.call("approvals.answer", {"id": call, "verdict": "allow", **more}))["grant"]
        (grant,) = (await client.call("approvals.grants"))["items"]
        assert (grant["call_id"], grant["calls_max"]) == (call, 2)
        assert (await client.call("approvals.revoke", {"id": call}))["revoked_by"] == "host host-1"
        assert (await client.call("approvals.grants"))["items"] == []
        assert len((await client.call("approvals.grants", {"all": True}))["items"]) == 1

    play("memory", tmp_path, scenario, "host")


@pytest.mark.long
def test_whoever_waits_is_somebody_who_listens_and_hears_of_a_new_question(tmp_path: Path) -> None:
    async def scenario(client: Client, desk: Desk) -> None:
        known = desk.question()
        assert not desk.journal.approver_listens()
        params = {"wait_s": 20, "known": [known.call_id.hex()]}
        waiting = asyncio.create_task(client.call("approvals.list", params))
        await asyncio.to_thread(eventually, desk.journal.approver_listens)
        new = desk.question("rm y")

        listed = [asked["call_id"] for asked in (await waiting)["items"]]
        assert listed == [known.call_id.hex(), new.call_id.hex()]
        assert desk.journal.approver_listens(), "they read it, and ask again"

    play("memory", tmp_path, scenario)


@pytest.mark.parametrize("role", ["agent", pytest.param("auditor", marks=pytest.mark.long)])
def test_an_agent_answers_nothing_and_neither_does_an_auditor(tmp_path: Path, role: str) -> None:
    async def scenario(client: Client, desk: Desk) -> None:
        call = desk.question().call_id.hex()
        for method, params in (
            ("approvals.list", {}),
            ("approvals.answer", {"id": call, "verdict": "allow"}),
            ("approvals.grants", {}),
            ("approvals.revoke", {"id": call}),
        ):
            with pytest.raises(Failure):
                await client.call(method, params)
        assert desk.index.questions.one(call).answer is None

    play("memory", tmp_path, scenario, role)


NO_ANSWERS: list[dict[str, Any]] = [
    {"id": "", "verdict": "allow"},
    {"id": "xyz", "verdict": "allow"},
    {"id": "00", "verdict": "ask"},
    {"id": "00", "verdict": "allow", "standing": {"hours": 0}},
    {"id": "00", "verdict": "allow", "standing": {"calls_max": 1_000_000}},
]


def test_what_is_no_answer_is_refused(tmp_path: Path) -> None:
    async def scenario(client: Client, _desk: Desk) -> Any:
        said = [await client.ask("approvals.answer", params) for params in NO_ANSWERS]
        unknown = await client.ask("approvals.answer", {"id": "00", "verdict": "allow"})
        return [answer["error"]["code"] for answer in said], unknown["error"]["data"]["error"]

    assert play("memory", tmp_path, scenario) == (5 * [jsonrpc.INVALID_PARAMS], "NotFound")
