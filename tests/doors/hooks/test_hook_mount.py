"""The daemon's way in for hooks: who may tell."""

import asyncio
from typing import Any

import httpx
import pytest

from custody.compose import open_runtime
from custody.doors.hooks.mount import PATH, HooksMount
from custody.rpc.access import ANYBODY, Access
from custody.rpc.service import Service
from custody.settings import load_settings


def status_for(access: Access) -> int:
    """Of a hook that cannot be understood: one that is let in is answered all the same."""

    async def main() -> int:
        async with await open_runtime(load_settings(store=":memory:"), door="server") as runtime:
            mount = HooksMount(Service(runtime), lambda folder: None)

            async def app(scope: Any, receive: Any, send: Any) -> None:
                await mount(scope, receive, send, access)

            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as client:
                return (await client.post(PATH, content=b"{}")).status_code

    return asyncio.run(main())


@pytest.mark.parametrize(
    "access",
    [
        Access(role="agent", agent="ada"),
        Access(role="agent", tools=frozenset({"shell"})),
        Access(role="agent", methods=frozenset({"calls.make"})),
        Access(role="auditor"),
    ],
    ids=["of one agent", "for some tools", "for some methods", "of an auditor"],
)
def test_a_token_that_is_bound_tells_of_no_hook(access: Access):
    assert status_for(access) == 403


@pytest.mark.parametrize("access", [ANYBODY, Access(role="operator")], ids=["anybody", "operator"])
def test_whoever_may_act_as_any_agent_tells_of_hooks(access: Access):
    assert status_for(access) == 200
