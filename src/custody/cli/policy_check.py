"""`custody policy check`: whether a file can be a policy, and what is odd about it.

Owns how its faults and findings are shown. What they are is said by `policy`. Used by the group `policy`.
"""

import os
from typing import TYPE_CHECKING, Any, Literal

import click
from msgspec import Struct

from custody.cli.options import json_option, load, store_option
from custody.errors import InvalidPolicy

if TYPE_CHECKING:
    from custody.cli.policy_places import Kind, Policies
    from custody.policy import Layer
    from custody.policy.checking import Finding

FOUND_EXIT_CODE = 1

ABOVE = {"organisation": (), "user": ("organisation",), "project": ("organisation", "user")}
"""Which standings are above a file's own."""


class Checked(Struct, frozen=True, kw_only=True):
    """One thing somebody should look at."""

    kind: str
    """`fault`: the file cannot be read so; else the kind of a finding."""
    severity: Literal["error", "warning"]
    line: int | None
    column: int | None
    rule: str | None
    message: str


@click.command("check", epilog="Example:  custody policy check .custody/policy/git.toml")
@click.argument("file", type=click.Path())
@click.option(
    "--as", "kind", type=click.Choice(["organisation", "user", "project"]),
    help="Whose file it will be [default: as where it lies, else the user's].",
)  # fmt: skip
@store_option
@json_option
def check_command(file: str, kind: "Kind | None", store: str | None, as_json: bool) -> int:
    """Check a policy file: its spelling, and rules that cannot do what they say.

    Every fault is told with line and column. Exits with 1 where there are errors; warnings alone are no
    failure.
    """
    from custody.cli.policy_places import named_policy

    found: list[Checked] = []
    rules = 0
    try:
        layer = named_policy(file, kind)
    except InvalidPolicy as error:
        found = _faults(error)
    else:
        rules = len(layer.rules)
        found = [_checked(finding) for finding in _findings(layer, store)]
    bad = any(one.severity == "error" for one in found)
    if as_json:
        from custody.cli.document import print_document
        from custody.records import document

        print_document({"file": file, "valid": not bad, "rules": rules, "findings": document(found)})
    else:
        _print(file, rules, found)
    return FOUND_EXIT_CODE if bad else 0


def _faults(error: InvalidPolicy) -> list[Checked]:
    faults: list[dict[str, Any]] = error.details.get("faults") or []
    if not faults:
        faults = [{"line": None, "column": None, "message": error.message}]
    return [
        Checked(
            kind="fault",
            severity="error",
            line=fault["line"],
            column=fault["column"],
            rule=None,
            message=fault["message"],
        )
        for fault in faults
    ]


def _findings(layer: "Layer", store: str | None) -> "tuple[Finding, ...]":
    from custody.cli.policy_places import policies_here
    from custody.offering import tool_arguments, tool_names
    from custody.policy.checking import check_document

    settings = load(store)
    others = _above(layer, policies_here(settings))
    return check_document(
        layer, tools=tool_names(settings), others=others, arguments=tool_arguments(settings)
    )


def _above(layer: "Layer", policies: "Policies") -> "list[Layer]":
    own = os.path.realpath(layer.source)
    return [
        other
        for other in policies.layers
        if other.kind in ABOVE[layer.kind] and os.path.realpath(other.source) != own
    ]


def _checked(finding: "Finding") -> Checked:
    return Checked(
        kind=finding.kind,
        severity=finding.severity,
        line=finding.line,
        column=None,
        rule=finding.rule,
        message=finding.message,
    )


def _print(file: str, rules: int, found: list[Checked]) -> None:
    from custody.cli.lines import one_line
    from custody.cli.render import paint

    styles = {"error": "red", "warning": "yellow"}
    for one in found:
        place = ":".join(str(part) for part in (file, one.line, one.column) if part is not None)
        print(f"{one_line(place)}: {paint(one.severity, styles[one.severity])}: {one_line(one.message)}")
    counts = {kind: sum(one.severity == kind for one in found) for kind in styles}
    said = [f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts.items() if count]
    if not counts["error"]:
        what = "1 rule" if rules == 1 else f"{rules} rules"
        print(f"{one_line(file)}: {what}, {', '.join(said) or 'nothing to say'}")
