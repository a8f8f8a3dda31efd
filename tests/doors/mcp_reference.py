"""The page docs/reference/mcp.md, from the table of the door's own tools.

`python -m tests.doors.mcp_reference` writes it, `test_mcp_described` checks it.
"""

import json
import re
from pathlib import Path
from typing import Any

from custody.doors.mcp.resources import RUNS, TEMPLATES
from custody.doors.mcp.table import DOOR_TOOLS
from custody.doors.mcp.tool import DoorTool

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "mcp.md"
MARKED = re.compile(r"(<!-- tools -->\n).*(<!-- /tools -->)", re.DOTALL)


def _parts(schema: dict[str, Any]) -> dict[str, Any]:
    """Of `anyOf [..., null]` what is not null, with the description wherever it stands."""
    kinds = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    return {**kinds[0], **schema} if len(kinds) == 1 else schema


def _kind(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    return str(schema.get("type", "any"))


def _argument(name: str, schema: dict[str, Any], *, needed: bool) -> str:
    schema = _parts(schema)
    default = schema.get("default")
    ending = " **(needed)**" if needed else "" if default is None else f" (`{json.dumps(default)}`)"
    return f"| `{name}` | {_kind(schema)} | {schema['description']}{ending} |".replace(" | {", " \\| {")


def section(tool: DoorTool) -> str:
    """What the page says of one tool."""
    lines = [f"## `{tool.name}`", "", tool.description, "", f"Effect `{tool.effect}`."]
    properties: dict[str, Any] = tool.schema["properties"]
    if properties:
        lines += ["", "| argument | | |", "|---|---|---|"]
        required = tool.schema.get("required", ())
        lines += [_argument(name, one, needed=name in required) for name, one in properties.items()]
    return "\n".join(lines)


def made(page: str) -> str:
    """The page with every tool and resource as it is."""
    resources = ["## Resources", "", "| | |", "|---|---|", f"| `{RUNS}` | the latest runs |"]
    resources += [f"| `{one.uri_template}` | {one.description} |" for one in TEMPLATES]
    text = "\n\n".join([*map(section, DOOR_TOOLS), "\n".join(resources)])
    return MARKED.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page)


if __name__ == "__main__":
    PAGE.write_text(made(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
