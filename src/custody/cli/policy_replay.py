"""`custody policy replay`: recorded calls decided again under another file, and what would change.

Owns the options and the tables; what is decided is `calls.replay`'s. Also shows what a policy in shadow has
said so far. Used by the group `policy`.
"""

from typing import TYPE_CHECKING, Any

import click

from custody.cli.asking import OPTIONS
from custody.cli.options import json_option, load, store_option
from custody.errors import UsageError

if TYPE_CHECKING:
    from custody.calls.replay import Replay
    from custody.calls.replayed import Change, Replayed
    from custody.calls.shadowed import Shadowed
    from custody.policy import Layer
    from custody.settings import Settings

LINES_SHOWN = 20  # a screen; `--limit` and `--json` have more
LINES_SHOWN_MAX = 10_000


@click.command("replay", epilog="Example:  custody policy replay stricter.toml --since 7d")
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@OPTIONS["since"]
@OPTIONS["until"]
@click.option("--run", "run", metavar="ID|NAME", help="Only the calls of this run.")
@OPTIONS["agent"]
@click.option(
    "--shadow", is_flag=True,
    help="Without FILE: what a policy in shadow would have refused so far, as it was recorded.",
)  # fmt: skip
@click.option(
    "--limit", type=click.IntRange(1, LINES_SHOWN_MAX), default=LINES_SHOWN, show_default=True,
    help="Lines of the table.",
)  # fmt: skip
@store_option
@json_option
def replay_command(
    file: str | None, shadow: bool, limit: int, store: str | None, as_json: bool, **given: Any
) -> int:
    """Decide recorded calls again under FILE, and say what would change. Runs nothing.

    A call is undecidable where a rule reads what the record does not have: arguments that were purged or
    redacted, the state of then. FILE is taken as enforced, also where it says mode = "shadow".
    """
    if (file is None) is not shadow:
        raise UsageError(
            "Name a policy file to replay, or --shadow without one.",
            hint="Example: custody policy replay stricter.toml --since 7d",
        )
    if shadow and given["agent"] is not None:
        raise UsageError("What was said in shadow is not kept by agent.", hint="--run, --since, --until are.")
    settings = load(store)
    if file is None:
        return _show_shadow(settings, given, limit, as_json=as_json)
    from custody.cli.policy_places import named_policy

    layer = named_policy(file, "user")
    return _replay(settings, layer, given, limit, as_json=as_json)


def _replay(settings: "Settings", layer: "Layer", given: dict[str, Any], limit: int, *, as_json: bool) -> int:
    from custody.calls.replay import Replay, Wanted
    from custody.cli.progress import Progress
    from custody.cli.view import opened

    with opened(settings) as view:
        run = given["run"]
        wanted = Wanted(
            since_us=given["since_us"],
            until_us=given["until_us"],
            run_id=None if run is None else bytes.fromhex(view.index.run(run).id),
            agent=given["agent"],
        )
        replay = Replay(view.journal, layer, roots=tuple(settings.roots))
        with Progress("{} calls decided again") as line:
            report = _with_walls(replay.report(wanted, line), layer)
        if as_json:
            from custody.cli.document import print_document

            print_document(report)
        else:
            _print(report, limit)
        _raise_damage(replay)
    return 0


def _with_walls(report: "Replayed", layer: "Layer") -> "Replayed":
    """Says so where walls are no part of the answer."""
    import msgspec

    from custody.policy.walls import has_walls

    if not has_walls(layer):
        return report
    note = (
        "It demands walls as well. They change no verdict; what they would keep from a command is not told."
    )
    return msgspec.structs.replace(report, notes=(*report.notes, note))


def _raise_damage(replay: "Replay") -> None:
    """After what could be shown, so that nobody takes it for all there is."""
    if replay.damage is not None:
        raise replay.damage


def _print(report: "Replayed", limit: int) -> None:
    from custody.cli.render import remark

    if not report.calls:
        from custody.cli.asking import say_nothing_found

        say_nothing_found("calls")
        return
    if report.changes:
        _print_changes(report.changes[:limit])
        print()
    print(_totals(report))
    if len(report.changes) > limit:
        remark(f"{len(report.changes) - limit:,} more lines; --limit shows them.")
    for note in report.notes:
        remark(note)


def _print_changes(changes: "tuple[Change, ...]") -> None:
    from custody.cli.render import Cell, count, flexible, number, optional, short, table

    styles = {"refused": "red", "asked": "yellow", "allowed": "green", "undecidable": "magenta"}
    table(
        [number("calls"), "was", "would be", "tool", flexible("rule"), optional("why"), "example"],
        [
            [
                count(change.calls),
                change.was,
                Cell(change.now, styles[change.now]),
                change.tool or "(others)",
                change.rule or "default",
                change.why or "",
                short(change.examples[0]),
            ]
            for change in changes
        ],
    )


def _totals(report: "Replayed") -> str:
    said = [
        f"{report.by_verdict[name]:,} {name}"
        for name in ("allowed", "asked", "refused", "undecidable")
        if report.by_verdict.get(name)
    ]
    changed = f"{report.changed:,} would change" if report.changed else "none would change"
    undecidable = f", {report.undecidable:,} cannot be told" if report.undecidable else ""
    calls = "call" if report.calls == 1 else "calls"
    return f"{report.calls:,} {calls}: {changed}{undecidable} (under this file {', '.join(said)})."


# -- what a policy in shadow has said ---------------------------------------------------------------------


def _show_shadow(settings: "Settings", given: dict[str, Any], limit: int, *, as_json: bool) -> int:
    from custody.calls.shadowed import shadowed
    from custody.cli.view import opened

    with opened(settings) as view:
        lines = shadowed(view.index, since_us=given["since_us"], until_us=given["until_us"], run=given["run"])
        if as_json:
            from custody.cli.document import print_list

            print_list(lines, None)
        else:
            _print_shadow(lines, limit)
    return 0


def _print_shadow(lines: "tuple[Shadowed, ...]", limit: int) -> None:
    from custody.cli.asking import say_nothing_found
    from custody.cli.render import ago, count, flexible, number, remark, short, table

    if not lines:
        say_nothing_found("calls that a policy in shadow would have refused")
        return
    table(
        [number("calls"), "would be", "tool", flexible("rule"), "latest", "example"],
        [
            [
                count(line.calls),
                "refused" if line.verdict == "deny" else "asked",
                line.tool,
                line.rule or "default",
                ago(line.last_at),
                short(line.example_id),
            ]
            for line in lines[:limit]
        ],
    )
    if len(lines) > limit:
        remark(f"{len(lines) - limit:,} more lines; --limit shows them.")
