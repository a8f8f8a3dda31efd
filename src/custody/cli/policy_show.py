"""`custody policy show`: which rules hold for calls made here, and where each comes from.

Owns how they are shown. What holds is said by `policy.layers`. Used by the group `policy`.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from custody.cli.invocation import message
from custody.cli.options import json_option, store_option

if TYPE_CHECKING:
    from custody.calls.pause import Pause
    from custody.cli.policy_places import Policies
    from custody.cli.render import Cell
    from custody.errors import CustodyError
    from custody.policy.layers import Effective, EffectiveLayer, EffectiveRule
    from custody.policy.model import Budget
    from custody.settings import Settings

VERDICT_STYLES = {"allow": "green", "ask": "yellow", "deny": "red"}

NO_FILE = (
    "There is no policy file, so the built-in default holds: a person is asked before an agent's call does "
    "what cannot be taken back, or writes outside the roots or to a protected file."
)


@click.command("show", epilog="Example:  custody policy show --json")
@store_option
@json_option
def show_command(store: str | None, as_json: bool) -> int:
    """Show the rules that hold for calls made in this folder, and where each comes from.

    The organisation's file stands above the user's, and that above the project's: each narrows what is above
    it. The strictest of them decides. Of files that cannot be used it says why, shows the others, and exits
    with 2: no call is made here then.
    """
    from custody.cli.looking import load_to_look, warn
    from custody.cli.pause import pause_here
    from custody.policy.layers import effective

    settings, unusable = load_to_look(store)
    policies = _policies(settings)
    shown = effective(policies.layers)
    pause = pause_here(settings)
    warn(unusable)
    if as_json:
        from custody.cli.document import print_document
        from custody.records import document

        said = {**document(shown), "files": _files(policies), "pause": pause and pause.shown()}
        print_document({**said, **_wrong(unusable)})
    else:
        if not unusable and all(layer.kind == "builtin" for layer in shown.layers):
            message(NO_FILE)
        if shown.layers:
            _print_files(shown.layers)
        if shown.rules:
            _print_rules(shown.rules)
        _print_rest(shown, pause)
    return unusable[0].exit_code if unusable else 0


def _policies(settings: "Settings") -> "Policies":
    from custody.cli.policy_places import Policies, policies_here
    from custody.errors import InvalidPolicy

    try:
        return policies_here(settings)
    except InvalidPolicy:  # which files a project has cannot be told, and that has been said
        return Policies(files=(), layers=settings.policy_layers)


def _wrong(unusable: "Sequence[CustodyError]") -> dict[str, Any]:
    """The first of what is wrong, as every command tells it."""
    if not unusable:
        return {}
    first = unusable[0]
    return {"error": {"type": type(first).__name__, "message": first.message, "hint": first.hint}}


def _files(policies: "Policies") -> list[dict[str, Any]]:
    """Every place that is looked at, and whether there is a policy."""
    there = {layer.source for layer in policies.layers}
    return [
        {"kind": file.kind, "path": file.path, "section": file.section, "found": file.path in there}
        for file in policies.files
    ]


def _print_files(layers: "Sequence[EffectiveLayer]") -> None:
    from custody.cli.folding import whole_table
    from custody.cli.render import Cell, number

    whole_table(
        ["standing", "file", "mode", "when no rule matches", number("rules"), "trust"],
        [
            [
                layer.kind,
                _place(layer.source),
                Cell(layer.mode, "yellow" if layer.mode == "shadow" else ""),
                _verdict(layer.default),
                str(layer.rules),
                Cell("not trusted", "yellow") if not layer.trusted else None,
            ]
            for layer in layers
        ],
        named=("mode", "when no rule matches", "rules"),
    )
    if any(not layer.trusted for layer in layers):
        message("what is not trusted narrows all the same; custody policy trust lets it widen.")


def _verdict(verdict: str | None) -> "Cell | None":
    from custody.cli.render import Cell

    return None if verdict is None else Cell(verdict, VERDICT_STYLES[verdict])


def _print_rules(rules: "tuple[EffectiveRule, ...]") -> None:
    from custody.cli.folding import whole_table
    from custody.cli.render import Cell, heading

    heading("Rules")
    whole_table(
        ["decision", "rule", "of", "where", "note"],
        [
            [
                Cell(rule.decision, VERDICT_STYLES[rule.decision]),
                rule.name,
                _what(rule),
                _place(rule.source) if rule.line is None else f"{_place(rule.source)}:{rule.line}",
                rule.note,
            ]
            for rule in rules
        ],
    )


def _place(path: str) -> str:
    """A file as a terminal has room for it: seen from this folder, or from the home."""
    from custody.cli.render import width

    if width() is None:
        return path
    home = os.path.expanduser("~")
    for folder, short in ((os.path.realpath(os.curdir), ""), (home, "~/"), (os.path.realpath(home), "~/")):
        if folder != os.sep and path.startswith(folder + os.sep):
            return short + path[len(folder) + 1 :]
    return path


def _what(rule: "EffectiveRule") -> str:
    from custody.policy.walls import demand_words

    when = None if rule.when is None else f"when {rule.when}"
    parts = (rule.match, when, rule.rate, rule.sequence)
    said = ", ".join(part for part in parts if part)
    return said if rule.walls is None else f"{said}; {demand_words(rule.walls)}"


def _print_rest(shown: "Effective", pause: "Pause | None") -> None:
    from custody.cli.folding import whole_fields
    from custody.cli.render import heading

    walls = _wall_fields(shown)
    if walls:
        heading("Around every command, where no rule of the same file says otherwise")
        whole_fields(walls)
    said = [*_budget_fields(shown), *_loop_fields(shown), *_approval_fields(shown)]
    if said:
        heading("Bounds")
        whole_fields(said)
    if not shown.may_pause:
        print("\nIt may not be paused.")
    if pause is not None:
        from custody.cli.pause import pause_words

        print(f"\nPaused {pause_words(pause)}.")


def _wall_fields(shown: "Effective") -> "list[tuple[str, str]]":
    from custody.policy.walls import demand_words

    return [
        (_place(layer.source), demand_words(layer.walls) + (", in shadow" if layer.mode == "shadow" else ""))
        for layer in shown.layers
        if layer.walls is not None
    ]


def _budget_fields(shown: "Effective") -> "list[tuple[str, str]]":
    return [(f"budget of a {budget.per}", _amounts(budget)) for budget in shown.budgets]


def _amounts(budget: "Budget") -> str:
    hard = [f"{name} {amount:,.12g}" for name, amount in budget.amounts.items()]
    soft = [f"{name} {amount:,.12g} is told" for name, amount in budget.soft.items()]
    hours = [] if budget.hours is None else [f"over {budget.hours:g} h"]
    return ", ".join([*hard, *soft, *hours])


def _loop_fields(shown: "Effective") -> "list[tuple[str, str]]":
    loops = shown.loops
    if loops is None:
        return []
    counts = (("asks", loops.ask), ("is denied", loops.deny))
    said = [f"{word} at number {count}" for word, count in counts if count is not None]
    return [("the same call again", ", ".join(said))]


def _approval_fields(shown: "Effective") -> "list[tuple[str, str]]":
    approvals = shown.approvals
    if approvals is None:
        return []
    import shlex

    said: list[tuple[str, str]] = []
    if approvals.wait_seconds is not None:
        said.append(("a question waits", f"{approvals.wait_seconds:g} s"))
    if approvals.open_hours is not None:
        said.append(("and stays open", f"{approvals.open_hours:g} h"))
    told = [notice if isinstance(notice, str) else shlex.join(notice) for notice in approvals.notify]
    return [*said, *(("is told", notice) for notice in told)]
