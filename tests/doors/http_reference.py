"""The page docs/reference/http.md, from the description the daemon gives of itself.

`python -m tests.doors.http_reference` writes it, `test_http_described` checks it.
"""

import re
from pathlib import Path
from typing import Any

from custody.doors.server.openapi import openapi_document

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "http.md"
MARKED = re.compile(r"(<!-- paths -->\n).*(<!-- /paths -->)", re.DOTALL)


def _kind(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    bounds = [f"{schema[name]}" for name in ("minimum", "maximum") if name in schema]
    return f"{schema['type']} {' to '.join(bounds)}".strip()


def _shape(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_shape(each) for each in schema["anyOf"]))
    if "enum" in schema:
        return _kind(schema)
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {_shape(schema['items'])}"
    return schema.get("type", "anything")


def _path(path: str, method: str, operation: dict[str, Any]) -> str:
    lines = [f"### `{method.upper()} {path}`", "", operation["summary"], ""]
    parameters = [each for each in operation.get("parameters", ()) if each["in"] == "query"]
    if parameters:
        lines += ["| parameter | | |", "|---|---|---|"]
        lines += [
            f"| `{each['name']}` | {_kind(each['schema'])} | {each.get('description', '')} |"
            for each in parameters
        ]
        lines.append("")
    for kind, content in operation["responses"]["200"]["content"].items():
        shape = _shape(content["schema"]) if kind == "application/json" else f"`{kind}`"
        lines.append(f"Answers {shape}.")
    others = ", ".join(status for status in operation["responses"] if status != "200")
    lines.append(
        f"May refuse with {others}." + (" Needs no token." if operation.get("security") == [] else "")
    )
    return "\n".join(lines)


def _object(name: str, schema: dict[str, Any]) -> str:
    lines = [f"### `{name}`", ""]
    if schema.get("description"):
        lines += [schema["description"], ""]
    lines += ["| field | |", "|---|---|"]
    required = schema.get("required", ())
    for field, of in schema.get("properties", {}).items():
        lines.append(f"| `{field}` | {_shape(of)}{'' if field in required else ', may be missing'} |")
    return "\n".join(lines)


def made(page: str) -> str:
    """The page with every path and object as it is."""
    document = openapi_document()
    paths = [
        _path(path, method, operation)
        for path, of in document["paths"].items()
        for method, operation in of.items()
    ]
    objects = [_object(name, schema) for name, schema in document["components"]["schemas"].items()]
    text = "\n\n".join(["## Paths", *paths, "## Objects", *objects])
    return MARKED.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page)


if __name__ == "__main__":
    PAGE.write_text(made(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
