"""`custody undo`: take back what a call or a run changed in files.

Owns which call is meant where none is named, the question before it, and how conflicts and losses are shown.
What is taken back, and in which order, is the tool `undo`'s: this makes a call of it, on the record like any
other.
"""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click
import msgspec
from msgspec import Struct

from custody.cli.acting import Asked, act_interruptibly, exit_code, explanation
from custody.cli.changed import (
    UNDO_TOOL,
    Standing,
    call_in_words,
    inverse,
    is_here,
    print_changes,
    relative,
    standing,
)
from custody.cli.conflicts import Conflict, print_conflicts
from custody.cli.consent import DECLINED_EXIT_CODE, says_yes, somebody_is_there
from custody.cli.invocation import Interrupted, message
from custody.cli.options import act_options, complete_id, load
from custody.cli.progress import Waiting
from custody.errors import NotFound, UndoConflict, UndoGone, UsageError
from custody.records import Call, Change, Run

if TYPE_CHECKING:
    from custody.settings import Settings
    from custody.stores import View

PAGE_CALLS = 20  # read at a time while the newest change is looked for: it is one of the first, as a rule
CALLS_SEARCHED_MAX = 2_000
"""Calls looked at for one that can be undone: who has made as many since names what they mean."""

LOST_NAMED_MAX = 20  # sentences on what cannot be brought back; `--json` has all of them
CHANGES_SHOWN_MAX = 200  # a person reads a screen or two; `custody changes` has all of them
NOTHING_UNDONE = "nothing was undone."


@click.command(
    "undo",
    epilog="Example:  custody undo 3fa9c1d2   (alone: the newest change here)",
)
@click.argument("identifier", metavar="[CALL|RUN]", required=False, shell_complete=complete_id)
@click.option(
    "--force", is_flag=True, help="Also where files changed since: says what is lost, then does it."
)
@click.option("--children", is_flag=True, help="Of a run also the runs started from it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@act_options("dry_run", "agent", "caller", "timeout", "cwd", "root", "store", "json")
def undo_command(
    identifier: str | None, force: bool, children: bool, yes: bool, as_json: bool, **options: Any
) -> int:
    """Take back what a call or run changed in files.

    It is a call itself, and can be undone. Where a file is no longer what was left there, nothing is touched
    and what stands in the way is shown.
    """
    asked = Asked(**options)
    asks = not yes and not as_json and somebody_is_there()
    meant = _meant(identifier, asked, force=force, asks=asks, sure=yes or asked.dry_run)
    if meant is None:
        return DECLINED_EXIT_CODE
    if children and not isinstance(meant, Run):
        raise UsageError("Only a run has children, and this is a call.", hint="Leave --children out.")
    arguments: dict[str, Any] = {"run" if isinstance(meant, Run) else "call": meant.id}
    arguments |= {name: True for name, given in (("force", force), ("children", children)) if given}
    if force and not asked.dry_run and not as_json and not _loses(arguments, asked, asks=asks):
        return DECLINED_EXIT_CODE
    call = _make(arguments, asked, as_recorded=as_json)
    if as_json:
        from custody.cli.document import print_document

        print_document(call)
    else:
        _print(call, meant, asked)
    return exit_code(call)


def _make(arguments: dict[str, Any], asked: Asked, *, as_recorded: bool = False) -> Call:
    import asyncio

    try:
        with Waiting("looking" if asked.dry_run else "undoing"):
            return asyncio.run(
                act_interruptibly(asked, UNDO_TOOL, arguments, own_run=False, as_recorded=as_recorded)
            )
    except Interrupted:
        message(f"interrupted; how far it came: custody calls --tool {UNDO_TOOL} --limit 1")
        raise


# -- what is meant --------------------------------------------------------------------------------------


def _meant(identifier: str | None, asked: Asked, *, force: bool, asks: bool, sure: bool) -> Run | Call | None:
    """The run or call to be undone; None where a person says no. Raises UsageError, UndoGone."""
    from custody.cli.view import opened

    settings = load(asked.store)
    with opened(settings) as view:
        if identifier is not None:
            return _named(view, identifier)
        newest = newest_change(view, settings, standing(view))
        if newest is None:
            raise UndoGone(
                "There is nothing to undo in this workspace.",
                hint="custody calls --tool undo lists what was undone, which can be undone itself.",
            )
        if sure:
            return newest
        if not asks:
            raise UsageError(
                f"The newest change here is {call_in_words(newest)}.",
                hint=f"Undo it with custody undo {newest.id[:8]}, or say --yes.",
            )
        return newest if _offered(newest, newest.workspace or settings.cwd, force=force) else None


def _named(view: "View", identifier: str) -> Run | Call:
    found = view.index.find(identifier)
    if isinstance(found, Run | Call):
        return found
    raise UsageError(
        "A step changes no files; its calls do.", hint=f"See them with custody show {found.run_id[:8]}."
    )


def newest_change(view: "View", settings: "Settings", stands: Standing) -> Call | None:
    """The last call in this workspace that changed files and still can be undone.

    An undo is none: whoever undoes again and again goes further and further back.
    """
    from custody.index import CallFilter

    cursor: str | None = None
    for _ in range(CALLS_SEARCHED_MAX // PAGE_CALLS if stands.kept else 0):
        page = view.index.calls(
            CallFilter(workspace=settings.workspace, dry_run=False),
            limit=PAGE_CALLS, cursor=cursor, refresh=False,
        )  # fmt: skip
        for call in page.items:
            if _can_be_undone(call, stands) and is_here(call, settings) and _has_effect(view, call):
                return call
        if page.next is None:
            return None
        cursor = page.next
    return None


def _can_be_undone(call: Call, stands: Standing) -> bool:
    if call.id not in stands.kept or call.outcome is None or call.tool == UNDO_TOOL:
        return False
    if not call.changes_count or stands.undone.by(call.id) is not None:
        return False
    return call.changes is None or any(change.undoable for change in call.changes)


def _has_effect(view: "View", call: Call) -> bool:
    """Whether undoing it would do anything: what it changed may have been made what it was already."""
    from custody.changes import plan_call

    plan = plan_call(view.undo, bytes.fromhex(call.id))
    return bool(plan.wanted or plan.conflicts or plan.lost)


# -- asking ---------------------------------------------------------------------------------------------


def _offered(newest: Call, base: str, *, force: bool) -> bool:
    """Show what undoing it would change; whether a person wants that."""
    changes = newest.changes or ()
    print(f"The newest change here is {call_in_words(newest)}. To undo it:")
    _print_some(_taken_back(changes), base)
    lost = [change for change in changes if not change.undoable]
    for change in lost[:LOST_NAMED_MAX]:
        message(f"{relative(change.path, base)} cannot be brought back: what stood there was not kept.")
    if lost and not force:
        message(f"The rest can: custody undo {newest.id[:8]} --force")
        return False
    return says_yes("Undo it?", NOTHING_UNDONE)


def _taken_back(changes: Iterable[Change]) -> list[Change]:
    """What undoing them does, where they can be undone."""
    return [inverse(change) for change in changes if change.undoable]


def _loses(arguments: dict[str, Any], asked: Asked, *, asks: bool) -> bool:
    """Say what force will lose, found by a dry run; whether to go on."""
    look = _make(arguments, msgspec.structs.replace(asked, dry_run=True))
    said = _said(look)
    if look.outcome != "succeeded" or not (said.conflicts or said.lost):
        return True  # the call itself says why, or there is nothing to lose
    message("by force this is lost:")
    if said.conflicts:
        print_conflicts(said.conflicts, _base(look, asked))
    in_table = tuple(f"{one.path} " for one in said.conflicts)
    further = [sentence for sentence in said.lost if not sentence.startswith(in_table)]
    for sentence in further[:LOST_NAMED_MAX]:
        message(sentence)
    if len(further) > LOST_NAMED_MAX:
        message(f"And {len(further) - LOST_NAMED_MAX:,} more.")
    return says_yes("Undo it all the same?", NOTHING_UNDONE) if asks else True


# -- what came of it ------------------------------------------------------------------------------------


class Named(Struct, frozen=True):
    """A call the tool speaks of."""

    call: str
    tool: str | None = None
    words: str | None = None


class Said(Struct, frozen=True):
    """The tool's result, as far as it is shown."""

    undone: tuple[Named, ...] = ()
    stopped_at: str | None = None
    """The call that could not be taken back."""
    conflicts: tuple[Conflict, ...] = ()
    lost: tuple[str, ...] = ()
    not_kept: tuple[Named, ...] = ()
    already_undone: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    """Calls whose changes are held: no file has been touched."""
    committed_by: dict[str, str] = {}
    """Calls whose changes had been held -> those that committed them, taken back in their place."""
    children: tuple[str, ...] = ()


def _said(call: Call) -> Said:
    """What the tool said; of a dry run what it would have said."""
    result: Any = call.result
    if isinstance(result, dict) and "would_undo" in result:
        result = result["would_undo"]  # pyright: ignore[reportUnknownVariableType]
    return Said() if result is None else msgspec.convert(result, Said)


def _base(call: Call, asked: Asked) -> str:
    return call.workspace or os.path.realpath(asked.cwd or os.getcwd())


def _print(call: Call, meant: Run | Call, asked: Asked) -> None:
    from custody.cli.render import remark

    said, base = _said(call), _base(call, asked)
    if call.changes:
        _print_some(call.changes, base)
    if call.dry_run and call.outcome == "succeeded":
        _print_some(_would_change(said, asked), base)
        for sentence in said.lost[:LOST_NAMED_MAX]:
            remark(sentence)
    if call.outcome == "succeeded":
        remark(_done_in_words(call, meant, said))
    elif said.conflicts:
        print_conflicts(said.conflicts, base)
        message(_stopped_in_words(said))
    else:
        message(f"undo: {explanation(call)}")
    if call.outcome == "failed" and call.error and call.error.get("type") == UndoConflict.__name__:
        message(f"What can be brought back all the same: custody undo {meant.id[:8]} --force")
    for sentence in _left_out(said):
        remark(sentence)


def _done_in_words(call: Call, meant: Run | Call, said: Said) -> str:
    what = "run" if isinstance(meant, Run) else "call"
    calls = "1 call" if len(said.undone) == 1 else f"{len(said.undone):,} calls"
    commit = said.committed_by.get(meant.id)
    whole = f"{what} {meant.id[:8]}" + ("" if what == "call" else f", {calls}")
    whole += "" if commit is None else f", committed by call {commit[:8]}"
    if not said.undone:
        return f"There was nothing to undo in {what} {meant.id[:8]}."
    if call.dry_run:
        return f"Would undo {whole}. Nothing was touched."
    if not call.changes:
        return f"Undone: {whole}. Everything was as before already."
    return f"Undone: {whole}. custody undo {call.id[:8]} brings it back."


def _stopped_in_words(said: Said) -> str:
    call = "" if said.stopped_at is None else f" {said.stopped_at[:8]}"
    count = len(said.conflicts)
    paths = "1 path is not as it left it" if count == 1 else f"{count:,} paths are not as it left them"
    later = f"Later calls that were undone: {len(said.undone):,}." if said.undone else "Nothing was changed."
    return f"call{call} is not undone: {paths}. {later}"


def _left_out(said: Said) -> Iterable[str]:
    for one in said.not_kept:
        yield f"Not undone: call {one.call[:8]} ({one.tool}), {one.words}."
    if said.held:
        yield f"Held, so that no file was touched: {', '.join(one[:8] for one in said.held)}."
    if said.already_undone:
        yield f"Undone before: {', '.join(one[:8] for one in said.already_undone)}."
    if len(said.children) == 1:
        yield "Left as it is: 1 run started from it. --children undoes it too."
    elif said.children:
        yield f"Left as they are: {len(said.children):,} runs started from it. --children undoes them too."


def _would_change(said: Said, asked: Asked) -> list[Change]:
    """The net of what a dry run said it would take back, turned round."""
    from custody.changes import net_changes
    from custody.cli.view import opened

    with opened(load(asked.store)) as view:
        per_call: list[tuple[Change, ...]] = []
        for one in reversed(said.undone):
            try:
                per_call.append(view.index.call(one.call, details=False, refresh=False).changes or ())
            except NotFound:
                continue
        return _taken_back(net_changes(per_call))


def _print_some(changes: Iterable[Change], base: str) -> None:
    from custody.cli.render import remark

    listed = list(changes)
    print_changes(listed[:CHANGES_SHOWN_MAX], base)
    if len(listed) > CHANGES_SHOWN_MAX:
        remark(f"And {len(listed) - CHANGES_SHOWN_MAX:,} more.")
