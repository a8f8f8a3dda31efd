"""The official client through `custody proxy`, to a server of the official SDK over stdio and over HTTP, in
the newest version and in the last one with a greeting: it sees what it sees without the proxy.
"""

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
from mcp import StdioServerParameters
from mcp.client import Client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from tests.doors.mcp_clients import Home
from tests.doors.proxy.proxied import SOURCE

pytestmark = pytest.mark.long

SERVER = [sys.executable, str(Path(__file__).parent / "sdk_server.py")]
TESTER = types.Implementation(name="tester", version="1")
VERSIONS = ["2026-07-28", "legacy"]


@contextmanager
def over_http(*options: str) -> Generator[str]:
    """The address of a server."""
    process = subprocess.Popen([*SERVER, "--http", *options], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
    finally:
        process.terminate()
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


@asynccontextmanager
async def speaking(transport: Any, version: str) -> AsyncGenerator[tuple[Client, list[Any]]]:
    shown: list[Any] = []

    async def elicited(context: Any, params: Any) -> types.ElicitResult:
        del context
        shown.append(params.message)
        return types.ElicitResult(action="accept", content={"which": "this"})

    async with Client(transport, mode=version, client_info=TESTER, elicitation_callback=elicited) as client:
        yield client, shown


def through_the_proxy(home: Home, *server: str) -> Any:
    options = ["--name", "sdk", *server]
    return stdio_client(
        StdioServerParameters(
            command=sys.executable,
            args=["-m", "custody", "proxy", *options],
            env=home.environment | {"PYTHONPATH": SOURCE},
            cwd=home.work,
        )
    )


async def everything(transport: Any, version: str) -> list[Any]:
    """What a client sees of the server."""
    async with speaking(transport, version) as (client, shown):
        progress: list[Any] = []

        async def on_progress(done: float, total: float | None, message: str | None) -> None:
            progress.append((done, total, message))

        seen: list[Any] = [
            (await client.list_tools()).tools,
            await client.call_tool("say", {"text": "hé", "region": "north é"}),
            await client.call_tool("say", {"text": "progress"}, progress_callback=on_progress),
            await client.call_tool("ask", {}),
            (await client.list_prompts()).prompts,
            await client.get_prompt("greet"),
            client.server_info,
        ]
        with pytest.raises(MCPError) as missing:
            await client.read_resource("test://nothing")
        return [*seen, str(missing.value), progress, shown]


@pytest.mark.parametrize("version", VERSIONS)
def test_over_stdio_the_official_client_sees_no_difference(tmp_path: Path, version: str):
    home = Home(tmp_path)
    direct = stdio_client(StdioServerParameters(command=SERVER[0], args=SERVER[1:]))
    expected = asyncio.run(everything(direct, version))
    assert asyncio.run(everything(through_the_proxy(home, "--", *SERVER), version)) == expected
    assert expected[-1] == ["Which?"]
    made = home_calls(home)
    assert made == [("sdk__say", "succeeded")] * 2 + [("sdk__ask", "succeeded")]


@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize("version", VERSIONS)
def test_over_http_the_official_client_sees_no_difference(
    tmp_path: Path, version: str, options: tuple[str, ...]
):
    home = Home(tmp_path)
    with over_http(*options) as url:
        if not (options and version == "legacy"):  # then a server has no stream to ask on
            expected = asyncio.run(everything(streamable_http_client(url), version))
            through = through_the_proxy(home, "--url", url)
            assert asyncio.run(everything(through, version)) == expected
            assert home_calls(home)[-1] == ("sdk__ask", "succeeded")
        else:
            said = asyncio.run(one_call(through_the_proxy(home, "--url", url), version))
            assert said.content[0].text == "x"


async def one_call(transport: Any, version: str) -> Any:
    async with speaking(transport, version) as (client, _):
        return await client.call_tool("say", {"text": "x"})


def home_calls(home: Home) -> list[tuple[str, str]]:
    home.environment["PYTHONPATH"] = SOURCE
    return [(one["tool"], one["outcome"]) for one in reversed(home.run("calls", "--all")["items"])]
