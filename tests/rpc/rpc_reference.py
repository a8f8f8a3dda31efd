"""The page docs/reference/rpc.md, from the table of methods itself.

`python -m tests.rpc.rpc_reference` writes it, with `--check` it only says whether it is as it should be;
`test_table` checks it.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from custody.rpc.table import TABLE

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "rpc.md"
MARKED = re.compile(r"(<!-- methods -->\n).*(<!-- /methods -->)", re.DOTALL)


def _name(reference: str) -> str:
    return reference.removeprefix("#/$defs/").rpartition("custody.rpc.methods.")[2]


def _kind(schema: dict[str, Any]) -> str:
    """A schema in a few characters: what a reader needs to write a value of it."""
    if "$ref" in schema:
        name = _name(schema["$ref"])
        return f"[{name}](#{name.lower().replace('.', '')})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(one) for one in schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if schema.get("type") == "array":
        several: list[dict[str, Any]] = schema.get("prefixItems", [{}])
        inner: dict[str, Any] = schema.get("items") or several[0]
        return f"array of {_kind(inner)}" if inner else "array"
    if schema.get("type") == "object":
        values: dict[str, Any] | bool | None = schema.get("additionalProperties")
        return "object" if not values or values is True else f"object of {_kind(values)}"
    return str(schema.get("type", "any"))


def _members(schema: dict[str, Any]) -> list[str]:
    required = schema.get("required", ())
    lines = ["| member | | |", "|---|---|---|"]
    for name, one in schema["properties"].items():
        default = one.get("default")
        said = "needed" if name in required else "" if default is None else f"else `{json.dumps(default)}`"
        lines.append(f"| `{name}` | {_kind(one)} | {said} |")
    return lines


def _shape(reference: str, schema: dict[str, Any]) -> str:
    lines = [f"### {_name(reference)}", ""]
    if said := schema.get("description"):
        lines += [" ".join(said.split()), ""]
    if schema.get("properties"):
        lines += _members(schema)
    elif "enum" in schema:
        lines.append(_kind(schema))
    else:
        lines.append("No members.")
    return "\n".join(lines)


def _method(name: str, said: dict[str, Any]) -> str:
    who = "Anybody" if said["role"] == "any" else said["role"].replace(",", ", ")
    return "\n".join(
        [
            f"### `{name}`",
            "",
            said["description"],
            "",
            f"Who: {who}. Params: {_kind(said['params'])}. Result: {_kind(said['result'])}.",
        ]
    )


def _push(name: str, said: dict[str, Any]) -> str:
    kind = "Request, answered by the peer" if said["kind"] == "request" else "Notification"
    return f"### `{name}`\n\n{said['description']}\n\n{kind}. Params: {_kind(said['params'])}."


def _generated() -> str:
    schema: dict[str, Any] = json.loads(TABLE.schema)
    methods, pushes, shapes = schema["methods"], schema["pushes"], schema["$defs"]
    index = ["| method | who | |", "|---|---|---|"]
    for name, said in methods.items():
        anchor = name.replace(".", "")
        index.append(f"| [`{name}`](#{anchor}) | {said['role'].replace(',', ', ')} | {said['description']} |")
    parts = ["\n".join(index), "## Methods", *(_method(name, said) for name, said in methods.items())]
    parts += ["## What the daemon sends", *(_push(name, said) for name, said in pushes.items())]
    parts += ["## Shapes", *(_shape(name, said) for name, said in sorted(shapes.items(), key=_by_name))]
    return "\n\n".join(parts)


def _by_name(item: tuple[str, Any]) -> str:
    return _name(item[0]).lower()


def made(page: str) -> str:
    """The page with every method as it is."""
    return MARKED.sub(lambda found: f"{found[1]}\n{_generated()}\n\n{found[2]}", page)


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        sys.exit(0 if made(page) == page else f"{PAGE} is not made from the methods as they are")
    PAGE.write_text(made(page), encoding="utf-8")
