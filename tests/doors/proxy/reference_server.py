"""A server of the official SDK with much of what the conformance suite looks for, over stdio. What it lacks
fails through the proxy as it fails without it.
"""

import asyncio
import base64
from typing import Any

import mcp_types as types
from mcp.server.lowlevel.server import Server
from mcp.shared.exceptions import MCPError

PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
SCHEMA_2020 = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
TOOLS = {
    "test_simple_text": [types.TextContent(type="text", text="This is a simple text response for testing.")],
    "test_image_content": [types.ImageContent(type="image", data=PIXEL, mime_type="image/png")],
    "test_audio_content": [types.AudioContent(type="audio", data=PIXEL, mime_type="audio/wav")],
    "test_embedded_resource": [
        types.EmbeddedResource(
            type="resource",
            resource=types.TextResourceContents(
                uri="test://embedded-resource", mime_type="text/plain", text="embedded"
            ),
        )
    ],
    "test_multiple_content_types": [
        types.TextContent(type="text", text="Multiple content types test:"),
        types.ImageContent(type="image", data=PIXEL, mime_type="image/png"),
        types.EmbeddedResource(
            type="resource",
            resource=types.TextResourceContents(
                uri="test://mixed-content-resource", mime_type="application/json", text="{}"
            ),
        ),
    ],
    "test_error_handling": [],
    "test_tool_with_progress": [],
    "test_tool_with_logging": [],
    "json_schema_2020_12_tool": [],
}
PROMPTS = {
    "test_simple_prompt": (),
    "test_prompt_with_arguments": ("arg1", "arg2"),
    "test_prompt_with_embedded_resource": ("resourceUri",),
    "test_prompt_with_image": (),
}


async def list_tools(request: Any, params: Any) -> types.ListToolsResult:
    del request, params
    plain: dict[str, Any] = {"type": "object"}
    tools = [
        types.Tool(
            name=name, description=name, input_schema=SCHEMA_2020 if name.startswith("json_") else plain
        )
        for name in TOOLS
    ]
    return types.ListToolsResult(tools=tools)


async def call_tool(request: Any, params: types.CallToolRequestParams) -> Any:
    if params.name not in TOOLS:
        raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
    if params.name == "test_tool_with_progress":
        for done in (0, 50, 100):
            await request.session.report_progress(done, total=100, message=f"{done}")
    if params.name == "test_tool_with_logging":
        for number in range(3):
            await request.session.send_log_message("info", f"line {number}")
    failed = params.name == "test_error_handling"
    content = TOOLS[params.name] or [types.TextContent(type="text", text="done")]
    return types.CallToolResult(content=content, is_error=failed)


async def list_prompts(request: Any, params: Any) -> types.ListPromptsResult:
    del request, params
    return types.ListPromptsResult(
        prompts=[
            types.Prompt(
                name=name, arguments=[types.PromptArgument(name=one, required=True) for one in arguments]
            )
            for name, arguments in PROMPTS.items()
        ]
    )


async def get_prompt(request: Any, params: types.GetPromptRequestParams) -> types.GetPromptResult:
    del request
    content: Any = types.TextContent(type="text", text=f"{params.name} {params.arguments}")
    if params.name.endswith("image"):
        content = types.ImageContent(type="image", data=PIXEL, mime_type="image/png")
    return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=content)])


async def list_resources(request: Any, params: Any) -> types.ListResourcesResult:
    del request, params
    names = ("static-text", "static-binary", "watched-resource")
    return types.ListResourcesResult(
        resources=[types.Resource(uri=f"test://{name}", name=name, mime_type="text/plain") for name in names]
    )


async def list_templates(request: Any, params: Any) -> types.ListResourceTemplatesResult:
    del request, params
    template = types.ResourceTemplate(uri_template="test://template/{id}/data", name="template")
    return types.ListResourceTemplatesResult(resource_templates=[template])


async def read_resource(request: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    del request
    uri = str(params.uri)
    if "static-binary" in uri:
        found: Any = types.BlobResourceContents(uri=uri, mime_type="image/png", blob=PIXEL)
    elif "static-text" in uri or "template" in uri:
        found = types.TextResourceContents(uri=uri, mime_type="text/plain", text=f"This is {uri}: 123")
    else:
        raise MCPError(types.INVALID_PARAMS, "Resource not found", {"uri": uri})
    return types.ReadResourceResult(contents=[found])


async def complete(request: Any, params: Any) -> types.CompleteResult:
    del request, params
    return types.CompleteResult(completion=types.Completion(values=["paris", "park"], total=2))


def build() -> Server[Any]:
    return Server(
        "reference", version="1", on_list_tools=list_tools, on_call_tool=call_tool,
        on_list_prompts=list_prompts, on_get_prompt=get_prompt, on_list_resources=list_resources,
        on_list_resource_templates=list_templates, on_read_resource=read_resource, on_completion=complete,
    )  # fmt: skip


async def over_stdio() -> None:
    from mcp.server.stdio import stdio_server

    server = build()
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


if __name__ == "__main__":
    asyncio.run(over_stdio())
