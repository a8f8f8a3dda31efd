"""What `custody install`, `uninstall` and `status` print: differences, results, how each program stands.

Owns the words, and that no secret of a settings file is shown. Used by `install` alone.
"""

import difflib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from custody.cli.invocation import printable
from custody.cli.render import Cell, Column, flexible, paint, table
from custody.errors import InvalidInput

if TYPE_CHECKING:
    from custody.installing.plans import Look, Planned
    from custody.installing.servers import Server
    from custody.redaction import Redactor

SECRET_CHARACTERS_MIN = 6
"""A shorter value under a secret's name would take half of every word with it."""

SIGNING = ("headers", "http_headers")
STYLES = {"installed": "green", "partly": "yellow", "outdated": "yellow", "absent": "", "broken": "red"}


def diff_of(planned: "Planned") -> str:
    """The difference as `diff -u` has it, secrets replaced."""
    before, after = planned.file.text, planned.text
    path = planned.file.path
    lines = difflib.unified_diff(
        (before or "").splitlines(keepends=True),
        (after or "").splitlines(keepends=True),
        "/dev/null" if before is None else path,
        "/dev/null" if after is None else path,
    )
    shown = "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )
    return _redactor(before or after or "").text(shown, "settings")[0]


def print_plan(planned: "Sequence[Planned]") -> None:
    for one in planned:
        if not one.changes:
            continue
        styles = {"+": "green", "-": "red", "@": "cyan"}
        for line in diff_of(one).splitlines():
            print(paint(printable(line), styles.get(line[:1], "")))
        print()


def print_result(act: str, planned: "Sequence[Planned]", *, dry_run: bool) -> None:
    from custody.installing.programs import CODING

    if not planned or not any(one.changes for one in planned):
        print(
            "Nothing to do: " + ("it is in already." if act == "install" else "nothing of Custody's is in.")
        )
    for one in planned:
        for server in one.servers if act == "install" else ():
            if server.left is not None:
                print(f"Left as it is: server {_shown(server.name)} in {_place(one)}: {server.left}.")
        if not one.changes:
            continue
        print(f"{_done(act, one, dry_run)}  {_place(one)}  ({_what(one)})")
        if act == "install" and not dry_run and os.path.exists(one.file.backup):
            print(f"  as it was before: {one.file.backup}")
    if act == "install" and not dry_run:
        for target in dict.fromkeys(place.target for one in planned if one.changes for place in one.places):
            if target in CODING:
                print(f"\n{CODING[target].title}: {CODING[target].can}")


def result_document(act: str, planned: "Sequence[Planned]", *, dry_run: bool) -> dict[str, Any]:
    return {
        "act": act,
        "dry_run": dry_run,
        "changed": 0 if dry_run else sum(one.changes for one in planned),
        "files": [
            {
                "path": one.file.path,
                "programs": list(dict.fromkeys(place.title for place in one.places)),
                "targets": list(dict.fromkeys(place.target for place in one.places)),
                "changes": one.changes,
                "made": one.file.text is None and one.changes,
                "removed": one.text is None and one.changes,
                "diff": diff_of(one) if one.changes else "",
                "backup": one.file.backup if os.path.exists(one.file.backup) else None,
                "servers": [_server_document(server) for server in one.servers],
            }
            for one in planned
        ],
    }


def print_looks(looks: "Sequence[Look]") -> None:
    if not looks:
        print("No coding CLI and no MCP client was found here.")
        return
    columns: list[Column | str] = ["program", "state", "what", flexible("where")]
    table(
        columns,
        [
            (one.place.title, Cell(one.state, STYLES[one.state]), _kind(one), printable(one.place.path))
            for one in looks
        ],
    )
    for one in looks:
        for line in _remarks(one):
            print(f"{one.place.title}: {line}.")


def look_documents(looks: "Sequence[Look]") -> list[dict[str, Any]]:
    from custody.installing.programs import CODING

    return [
        {
            "program": one.place.title,
            "target": one.place.target,
            "scope": one.place.scope,
            "path": one.place.path,
            "kind": "servers" if one.place.form is None else "hooks",
            "state": one.state,
            "notes": list(one.notes),
            "can": None if one.place.form is None else CODING[one.place.target].can,
            "backup": one.backup,
            "servers": [_server_document(server) for server in one.servers],
        }
        for one in looks
    ]


def _remarks(one: "Look") -> Iterator[str]:
    from custody.installing.programs import CODING

    yield from (printable(note).rstrip(".") for note in one.notes)
    if one.state in ("partly", "outdated") and one.place.form is not None:
        yield f"not what would be put in now; custody install {one.place.target} does it again"
    for server in one.servers:
        if server.left is not None:
            yield f"server {_shown(server.name)} does not go through Custody: {server.left}"
    if one.place.form is not None and one.state == "installed":
        yield CODING[one.place.target].can.rstrip(".")


def _kind(one: "Look") -> str:
    if one.place.form is not None:
        return "hooks"
    through = sum(server.through for server in one.servers)
    return f"{through} of {len(one.servers)} servers"


def _done(act: str, one: "Planned", dry_run: bool) -> str:
    if dry_run:
        return "Would change" if one.text is not None else "Would remove"
    if one.text is None:
        return "Removed"
    return "Wrote" if one.file.text is None else "Changed"


def _what(one: "Planned") -> str:
    parts = [f"hooks of {place.title}" for place in one.places if place.form is not None]
    parts += [f"servers of {place.title}" for place in one.places if place.form is None]
    return ", ".join(parts)


def _place(one: "Planned") -> str:
    return printable(one.file.path)


def _shown(name: str) -> str:
    return printable(name, keep="")


def _server_document(server: "Server") -> dict[str, Any]:
    return {"name": server.name, "through": server.through, "left": server.left}


# -- secrets ----------------------------------------------------------------------------------------------


def _redactor(text: str) -> "Redactor":
    """What replaces the secrets of settings: values under a secret's name, and what looks like one."""
    from custody.installing.jsonc import parse
    from custody.installing.toml_servers import meaning
    from custody.redaction import Redactor, secrets_of

    try:
        said = meaning(text)
    except InvalidInput:
        said = parse(text).value
    return Redactor(os.urandom(32), {**secrets_of(os.environ), **dict(_secrets(said, "", False))})


def _secrets(value: Any, name: str, signing: bool) -> Iterator[tuple[str, str]]:
    from custody.redaction import secret_name

    if isinstance(value, dict):
        for key, inner in cast("dict[str, Any]", value).items():
            yield from _secrets(inner, f"{name}.{key}", signing or key in SIGNING or secret_name(key))
    elif isinstance(value, list):
        for number, inner in enumerate(cast("list[Any]", value)):
            yield from _secrets(inner, f"{name}.{number}", signing)
    elif isinstance(value, str) and signing and len(value) >= SECRET_CHARACTERS_MIN:
        yield name, value
