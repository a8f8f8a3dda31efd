"""A server of the official SDK: over stdio, or over HTTP at a port that it prints."""

import asyncio
import socket
import sys
from typing import Any

import mcp_types as types
from mcp.server.lowlevel.server import Server

SCHEMA = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "region": {"type": "string", "x-mcp-header": "Region"}},
}


async def list_tools(request: Any, params: Any) -> types.ListToolsResult:
    del request, params
    tools = [types.Tool(name=name, description=f"{name} it", input_schema=SCHEMA) for name in ("say", "ask")]
    return types.ListToolsResult(tools=tools)


async def call_tool(request: Any, params: types.CallToolRequestParams) -> Any:
    arguments = params.arguments or {}
    if params.name == "ask":
        return await ask(request, params)
    if arguments.get("text") == "progress":
        await request.session.report_progress(1, total=2, message="half")
    return types.CallToolResult(content=[types.TextContent(type="text", text=arguments.get("text", ""))])


async def ask(request: Any, params: types.CallToolRequestParams) -> Any:
    form: Any = {"type": "object", "properties": {"which": {"type": "string"}}}
    if request.session.can_send_request:
        said = await request.session.elicit_form("Which?", form, related_request_id=request.request_id)
    elif params.input_responses is None:
        asked = types.ElicitRequest(
            params=types.ElicitRequestFormParams(message="Which?", requested_schema=form)
        )
        return types.InputRequiredResult(input_requests={"q": asked}, request_state="state")
    else:
        said = params.input_responses["q"]
    return types.CallToolResult(content=[types.TextContent(type="text", text=f"{said.action}")])


async def list_prompts(request: Any, params: Any) -> types.ListPromptsResult:
    del request, params
    return types.ListPromptsResult(prompts=[types.Prompt(name="greet")])


async def get_prompt(request: Any, params: types.GetPromptRequestParams) -> types.GetPromptResult:
    del request
    text = types.TextContent(type="text", text=f"hello {params.name}")
    return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=text)])


def build() -> Server[Any]:
    return Server(
        "sdk", version="1", on_list_tools=list_tools, on_call_tool=call_tool, on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
    )  # fmt: skip


async def over_stdio() -> None:
    from mcp.server.stdio import stdio_server

    server = build()
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


def over_http() -> None:
    import uvicorn

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(16)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    app = build().streamable_http_app(json_response="--json" in sys.argv)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run([listener])


if __name__ == "__main__":
    if "--http" in sys.argv:
        over_http()
    else:
        asyncio.run(over_stdio())
