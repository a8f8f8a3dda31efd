"""The page docs/reference/tools.md, from the built-in tools themselves.

`python -m tests.tools.tools_reference` writes it, `test_registry` checks it.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from custody.bridges.bundle import Limits, WitnessDownload
from custody.skills import Root, Shelf, SkillRun, SkillsInstall, SkillsRemove
from custody.tools import Registry, Tool

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "tools.md"
MARKED = re.compile(r"(<!-- tools -->\n).*(<!-- /tools -->)", re.DOTALL)


def _kind(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    kinds = schema.get("type") or " or ".join(one.get("type", "") for one in schema.get("anyOf", ()))
    if isinstance(kinds, list):
        kinds = " or ".join(kinds)
    items = schema.get("items", {}).get("type")
    return f"{kinds} of {items}" if items else str(kinds)


def _section(tool: Tool) -> str:
    required = tool.schema.get("required", ())
    lines = [
        f"## `{tool.name}`",
        "",
        tool.description,
        "",
        f"Effect `{tool.effect}`, level `{tool.level}`.",
        "",
    ]
    lines += ["| argument | | |", "|---|---|---|"]
    for name, schema in tool.schema["properties"].items():
        needed = " **(needed)**" if name in required else ""
        said = schema.get("description", "").replace("|", "\\|")
        lines.append(f"| `{name}` | {_kind(schema)} | {said}{needed} |")
    return "\n".join(lines)


def _witness_download() -> Tool:
    """The one built-in tool that a runtime makes; here it is only looked at."""
    return WitnessDownload(lambda: None, (), Limits())  # type: ignore[arg-type, return-value]


def _of_skills() -> dict[str, Callable[[], Tool]]:
    """Those of a root of skills that nobody looks into here."""
    root = Root(path="/nowhere", kind="given")
    shelf = Shelf(roots=(root,), install_root=root.path, trust_file="/nowhere/else")
    kinds = {"skills_install": SkillsInstall, "skills_remove": SkillsRemove, "skill_run": SkillRun}
    return {name: partial(kind, shelf) for name, kind in kinds.items()}


def made(page: str) -> str:
    """The page with every tool as it is."""
    registry = Registry(built_in={"witness_download": _witness_download, **_of_skills()})
    tools = [registry.get(name) for name in registry.names()]
    sections = "\n\n".join(_section(tool) for tool in tools if tool is not None)
    return MARKED.sub(lambda found: f"{found[1]}\n{sections}\n\n{found[2]}", page)


if __name__ == "__main__":
    PAGE.write_text(made(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
