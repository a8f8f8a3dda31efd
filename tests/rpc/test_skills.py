"""`skills.*` over the wire: the same answers as everywhere, for whoever may have them."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.rpc.clients import Client, Failure, connected, opened_runtime

from custody.rpc import jsonrpc
from custody.rpc.access import Access, KnownToken, TokenDoor, digest_of
from custody.skills import Root, Shelf, answers

LOOKER = TokenDoor(
    lambda: [KnownToken(digest=digest_of("auditor's"), access=Access(role="auditor", name="auditor"))]
)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    root = tmp_path / "skills"
    folder = root / "pdf"
    folder.mkdir(parents=True)
    (folder / "SKILL.md").write_text(
        "---\ndescription: Fill in forms.\nwhen: 2026-01-02\nhow: 12345678901234567890123\n---\nEach one.\n"
    )
    (root / "half").mkdir()
    return Shelf(
        roots=(Root(path=str(root), kind="given"),),
        install_root=str(root),
        trust_file=str(tmp_path / "skills.trust.json"),
    )


def play(
    transport: str, shelf: Shelf | None, scenario: Callable[[Client], Awaitable[Any]], **options: Any
) -> Any:
    async def main() -> Any:
        async with (
            opened_runtime() as runtime,
            connected(transport, runtime, shelf=shelf, **options) as client,
        ):
            return await scenario(client)

    return asyncio.run(main())


def as_json(answer: Any) -> Any:
    return json.loads(msgspec.json.encode(answer))


def test_the_answers_are_those_of_every_other_door(transport: str, shelf: Shelf) -> None:
    async def scenario(client: Client) -> Any:
        return [
            await client.call("skills.list"),
            await client.call("skills.search", {"query": "forms"}),
            await client.call("skills.info", {"name": "pdf"}),
            await client.call("skills.verify"),
        ]

    listed, found, info, verified = play(transport, shelf, scenario)
    assert listed == as_json(answers.list_skills(shelf))
    assert [item["name"] for item in listed["items"]] == ["pdf"] and listed["problems"]
    assert found == as_json(answers.search_skills(shelf, "forms"))
    assert info == as_json(answers.skill_info(shelf, "pdf"))
    assert info["metadata"]["how"] == 12345678901234567890123
    assert verified == as_json(answers.verify_skills(shelf)) and verified["ok"]


def test_a_text_is_given_once_it_is_on_the_record_of_the_run(transport: str, shelf: Shelf) -> None:
    async def scenario(client: Client) -> Any:
        run = await client.call("runs.start", {"agent_id": "ada", "intent": "forms"})
        text = await client.call("skills.read", {"name": "pdf"})
        events = client.service.runtime.index.events().items
        return run, text, [event for event in events if event.name == "skill.read"]

    run, text, (event,) = play(transport, shelf, scenario)
    assert text["text"].endswith("Each one.\n")
    assert (event.run_id, event.data["agent"], event.data["digest"]) == (run["run_id"], "ada", text["digest"])


def test_an_auditor_looks_and_is_given_no_text(transport: str, shelf: Shelf) -> None:
    async def scenario(client: Client) -> Any:
        await client.call("session.auth", {"token": "auditor's"})
        listed = await client.call("skills.list")
        with pytest.raises(Failure) as refused:
            await client.call("skills.read", {"name": "pdf"})
        return listed, refused.value.code

    listed, code = play(transport, shelf, scenario, doorkeeper=LOOKER)
    assert (len(listed["items"]), code) == (1, jsonrpc.DENIED)


def test_a_skill_that_is_kept_back_is_said_to_be(transport: str, shelf: Shelf) -> None:
    async def scenario(client: Client) -> list[str]:
        said: list[str] = []
        for method in ("skills.info", "skills.read"):
            for name in ("half", "pfd", "../pdf"):
                with pytest.raises(Failure) as refused:
                    await client.call(method, {"name": name})
                said.append(refused.value.message)
        return said

    half, near, outside, *again = play(transport, shelf, scenario)
    assert "kept back" in half and "pdf" in near and "There is no skill '../pdf'" in outside
    assert again == [half, near, outside]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("skills.search", {"query": ""}),
        ("skills.search", {"query": "x" * 10_000}),
        ("skills.search", {"query": "forms", "limit": 0}),
        ("skills.search", {}),
        ("skills.info", {"name": ""}),
        ("skills.read", {"name": 7}),
    ],
    ids=["empty", "long", "none", "nothing", "nameless", "number"],
)
def test_params_that_nobody_can_mean_are_refused(shelf: Shelf, method: str, params: Any) -> None:
    async def scenario(client: Client) -> Any:
        return (await client.ask(method, params))["error"]["code"]

    assert play("memory", shelf, scenario) == jsonrpc.INVALID_PARAMS


def test_a_daemon_without_skills_says_so(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        return [
            (await client.ask(method, {"name": "pdf"}))["error"] for method in ("skills.list", "skills.read")
        ]

    for error in play(transport, None, scenario):
        assert (error["code"], error["data"]) == (jsonrpc.CAPABILITY, {"missing": ["skills"]})
