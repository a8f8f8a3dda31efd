"""A client of the official SDK for the conformance suite, which appends the address of its server: it lists
the tools and calls each. With THROUGH_PROXY set it goes through `custody proxy`.
"""

import asyncio
import json
import os
import sys
from typing import Any

import mcp_types as types
from mcp import StdioServerParameters
from mcp.client import Client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

VALUES: dict[str, Any] = {
    "number": 5,
    "integer": 5,
    "string": "text",
    "boolean": True,
    "array": [],
    "object": {},
}


def made_up(schema: dict[str, Any]) -> dict[str, Any]:
    """Arguments that fit a schema."""
    properties: dict[str, Any] = schema.get("properties", {})
    return {name: VALUES.get(about.get("type"), "text") for name, about in properties.items()}


async def elicited(context: Any, params: Any) -> types.ElicitResult:
    del context
    properties: dict[str, Any] = dict(params.requested_schema)["properties"]
    content = {name: about["default"] for name, about in properties.items() if "default" in about}
    return types.ElicitResult(action="accept", content=content)


async def sampled(context: Any, params: Any) -> types.CreateMessageResult:
    del context, params
    return types.CreateMessageResult(
        role="assistant", content=types.TextContent(type="text", text="hello"), model="none"
    )


def transport_to(url: str) -> Any:
    if not os.environ.get("THROUGH_PROXY"):
        return streamable_http_client(url)
    return stdio_client(
        StdioServerParameters(
            command=sys.executable,
            args=["-m", "custody", "proxy", "--name", "suite", "--url", url],
            env=dict(os.environ),
        )
    )


async def main(url: str) -> None:
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
    modern = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION") == "2026-07-28"
    async with Client(
        transport_to(url),
        mode="2026-07-28" if modern else "legacy",
        client_info=types.Implementation(name="conformance", version="1"),
        elicitation_callback=elicited,
        sampling_callback=sampled,
    ) as client:
        tools = (await client.list_tools()).tools
        wanted = [(one["name"], one.get("arguments", {})) for one in context.get("toolCalls", [])]
        for name, arguments in wanted or [(tool.name, made_up(tool.input_schema)) for tool in tools]:
            result = await client.call_tool(name, arguments)
            sys.stdout.write(result.model_dump_json() + "\n")
        with_prompts = client.server_capabilities is not None and client.server_capabilities.prompts
        for prompt in (await client.list_prompts()).prompts if with_prompts else ():
            await client.get_prompt(prompt.name)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[-1]))
