"""Tools that the conformance suite of MCP asks for by name, offered by a daemon as anybody's own tools are
(`[tools] modules`)."""

from collections.abc import Mapping
from typing import Any

import custody


@custody.tool(effect="read")
def test_simple_text() -> str:
    """Give a text."""
    return "This is a simple text response for testing."


@custody.tool(effect="read")
def test_error_handling() -> str:
    """Fail, always."""
    raise ValueError("This tool intentionally returns an error for testing")


class JsonSchema:
    """Its schema has what a server that writes schemas anew would lose."""

    name = "json_schema_2020_12_tool"
    description = "Take what fits a schema that uses much of JSON Schema 2020-12."
    effect = "read"
    schema: Mapping[str, Any] = {
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

    def run(self, **arguments: Any) -> str:
        return "ok"


tools = [test_simple_text, test_error_handling, JsonSchema()]
