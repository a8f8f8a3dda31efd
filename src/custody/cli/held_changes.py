"""`custody commit` and `custody discard`: say what becomes of changes that are held.

Owns which call is meant where none is named, the list and the question before it, and how what stands in the
way is shown. Putting in place and dropping are the tools `commit` and `discard`: this makes a call of them,
on the record like any other.
"""

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import click
from msgspec import Struct

from custody.cli.acting import Asked, act_interruptibly, exit_code, explanation
from custody.cli.changed import call_in_words, is_here, paths_in_words, print_changes
from custody.cli.conflicts import Conflict, print_conflicts
from custody.cli.consent import DECLINED_EXIT_CODE, says_yes, somebody_is_there
from custody.cli.invocation import Interrupted, message
from custody.cli.options import act_options, load, look
from custody.cli.progress import Waiting
from custody.errors import NotFound, NothingHeld, UsageError
from custody.records import Call, Change, Run

if TYPE_CHECKING:
    from custody.settings import Settings
    from custody.stores import View

Act = Literal["commit", "discard"]

CHANGES_SHOWN_MAX = 200  # a person reads a screen or two; `custody changes` has all of them
WARNINGS_SHOWN_MAX = 20  # `--json` has all of them


class Words(Struct, frozen=True, kw_only=True):
    """What is said of one of the two."""

    doing: str
    done: str
    question: str
    nothing: str


WORDS: dict[Act, Words] = {
    "commit": Words(
        doing="committing",
        done="Committed",
        question="Put it in place?",
        nothing="nothing was committed; it is held still.",
    ),
    "discard": Words(
        doing="discarding",
        done="Discarded",
        question="Drop it? It cannot be brought back.",
        nothing="nothing was discarded; it is held still.",
    ),
}


def complete_held(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """For the shell: ids of calls whose changes are held, that begin so."""
    from custody.stores import held_store

    try:
        known = [call_id.hex() for call_id in held_store(look(ctx.params.get("store"))).calls()]
    except Exception:  # whatever is wrong, the shell has nobody to tell it to
        return []
    return [word for word in known if word.startswith(incomplete)]


@click.command(
    "commit",
    epilog="Example:  custody commit 3fa9c1d2   (alone: what was held last in this workspace)",
)
@click.argument("identifier", metavar="[CALL]", required=False, shell_complete=complete_held)
@click.option("--yes", is_flag=True, help="Do not ask.")
@act_options("dry_run", "agent", "caller", "timeout", "cwd", "root", "store", "json")
def commit_command(identifier: str | None, yes: bool, as_json: bool, **options: Any) -> int:
    """Put in place what a command changed and is held.

    All of it or nothing: where a file changed meanwhile nothing is touched, and what stands in the way is
    shown. It is a call itself, and can be undone.
    """
    return _settle("commit", identifier, Asked(**options), yes=yes, as_json=as_json)


@click.command(
    "discard",
    epilog="Example:  custody discard 3fa9c1d2   (alone: what was held last in this workspace)",
)
@click.argument("identifier", metavar="[CALL]", required=False, shell_complete=complete_held)
@click.option("--yes", is_flag=True, help="Do not ask.")
@act_options("dry_run", "agent", "caller", "timeout", "cwd", "root", "store", "json")
def discard_command(identifier: str | None, yes: bool, as_json: bool, **options: Any) -> int:
    """Drop what a command changed and is held.

    The files are as they were and stay so. What is dropped cannot be brought back.
    """
    return _settle("discard", identifier, Asked(**options), yes=yes, as_json=as_json)


def _settle(act: Act, identifier: str | None, asked: Asked, *, yes: bool, as_json: bool) -> int:
    sure = yes or asked.dry_run
    asks = not sure and not as_json and somebody_is_there()
    meant = _meant(act, identifier, asked, sure=sure, asks=asks)
    if asks and meant.held == "held" and not _agreed(act, meant, asked):
        return DECLINED_EXIT_CODE
    call = _make(act, meant, asked, as_recorded=as_json)
    if as_json:
        from custody.cli.document import print_document

        print_document(call)
    else:
        _print(act, call, meant, asked, shown=asks)
    return exit_code(call)


def _make(act: Act, meant: Call, asked: Asked, *, as_recorded: bool) -> Call:
    import asyncio

    try:
        with Waiting("looking" if asked.dry_run else WORDS[act].doing):
            return asyncio.run(
                act_interruptibly(asked, act, {"call": meant.id}, own_run=False, as_recorded=as_recorded)
            )
    except Interrupted:
        message(f"interrupted; how far it came: custody calls --tool {act} --limit 1")
        raise


# -- what is meant --------------------------------------------------------------------------------------


def _meant(act: Act, identifier: str | None, asked: Asked, *, sure: bool, asks: bool) -> Call:
    """The call whose changes are meant. Raises UsageError, NothingHeld."""
    from custody.cli.view import opened

    settings = load(asked.store)
    with opened(settings) as view:
        if identifier is not None:
            return _named(view, identifier)
        newest = newest_held(view, settings)
        if newest is None:
            raise NothingHeld(
                "No changes are held in this workspace.",
                hint="custody calls --held --all lists the calls whose changes are.",
            )
        if sure or asks:
            return newest
        raise UsageError(
            f"What was held last here is of {call_in_words(newest)}.",
            hint=f"Name it with custody {act} {newest.id[:8]}, or say --yes.",
        )


def _named(view: "View", identifier: str) -> Call:
    found = view.index.find(identifier)
    if isinstance(found, Call):
        return found
    run_id = found.id if isinstance(found, Run) else found.run_id
    raise UsageError(
        f"Changes are held of a call, and this is a {'run' if isinstance(found, Run) else 'step'}.",
        hint=f"See which of its calls are held: custody changes {run_id[:8]}.",
    )


def newest_held(view: "View", settings: "Settings") -> Call | None:
    """The last call in this workspace whose changes are held."""
    from custody.stores import held_store

    newest: Call | None = None
    for call_id in held_store(settings).calls():
        try:
            call = view.index.call(call_id.hex(), details=False, refresh=False)
        except NotFound:  # its record was lost with the machine
            continue
        if (
            call.held == "held"
            and is_here(call, settings)
            and (not newest or call.asked_at > newest.asked_at)
        ):
            newest = call
    return newest


def held_fault(settings: "Settings", call: Call) -> str | None:
    """What is wrong with what is held of a call, in a sentence."""
    from custody.changes.held import another_set
    from custody.stores import held_store

    try:
        held = held_store(settings).read(bytes.fromhex(call.id))
    except NothingHeld as error:
        return error.message
    if held is None:
        return "It is not held any more, and the record does not say why."
    bound = call.held_digest in (None, held.manifest_digest.hex())
    return None if bound else another_set(held.call_id).message


def _agreed(act: Act, meant: Call, asked: Asked) -> bool:
    """Show what is held; whether a person wants that done with it."""
    print(f"Held is what was changed by {call_in_words(meant)}:")
    _print_some(meant.changes or (), meant.workspace or _base(meant, asked))
    _print_protected(act, meant, asked)
    return says_yes(WORDS[act].question, WORDS[act].nothing)


# -- what came of it ------------------------------------------------------------------------------------


class Said(Struct, frozen=True):
    """The tool's result, as far as it is shown."""

    warnings: tuple[str, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    conflicts_count: int = 0


def _said(call: Call) -> Said:
    """What the tool said; of a dry run what it would have said."""
    import msgspec

    result: Any = call.result
    for would in ("would_commit", "would_discard"):
        if isinstance(result, dict) and would in result:
            result = result[would]  # pyright: ignore[reportUnknownVariableType]
    return Said() if result is None else msgspec.convert(result, Said)


def _base(call: Call, asked: Asked) -> str:
    return call.workspace or os.path.realpath(asked.cwd or os.getcwd())


def _print(act: Act, call: Call, meant: Call, asked: Asked, *, shown: bool) -> None:
    """`shown`: the changes have been listed before the question."""
    from custody.cli.render import remark

    said, base = _said(call), _base(call, asked)
    if call.outcome == "succeeded":
        if not shown:
            _print_some(meant.changes or () if call.dry_run or act == "discard" else call.changes or (), base)
            _print_protected(act, meant, asked)
        for warning in said.warnings[:WARNINGS_SHOWN_MAX]:
            remark(warning)
        remark(_done_in_words(act, call, meant))
        return
    if said.conflicts:
        print_conflicts(said.conflicts, base, left="what was there then")
        message(_stopped_in_words(meant, said))
    else:
        message(f"{act}: {explanation(call)}")


def _done_in_words(act: Act, call: Call, meant: Call) -> str:
    changed = f"call {meant.id[:8]}, {paths_in_words(meant.changes_count or 0)}"
    if call.dry_run:
        return f"Would {act} what was changed by {changed}. Nothing was touched."
    if act == "discard":
        return f"Discarded: {changed}. The files are as they were."
    if not call.changes:
        return f"Committed: {changed}. Everything was so already."
    return f"Committed: {changed}. custody undo {call.id[:8]} takes it back."


def _stopped_in_words(meant: Call, said: Said) -> str:
    count = said.conflicts_count
    changed = "1 path has changed since" if count == 1 else f"{count:,} paths have changed since"
    return (
        f"call {meant.id[:8]} is not committed: {changed}. Nothing was touched, and it is held still. "
        f"To drop it: custody discard {meant.id[:8]}"
    )


def _print_some(changes: Iterable[Change], base: str) -> None:
    from custody.cli.render import remark

    listed: Sequence[Change] = list(changes)
    print_changes(listed[:CHANGES_SHOWN_MAX], base)
    if len(listed) > CHANGES_SHOWN_MAX:
        remark(f"And {len(listed) - CHANGES_SHOWN_MAX:,} more.")


def _print_protected(act: Act, meant: Call, asked: Asked) -> None:
    """Which of the changes are to files that no tool writes without a yes: a commit is that yes."""
    if act != "commit":
        return
    from custody.cli.options import load
    from custody.cli.render import remark
    from custody.compose import protected_by

    protected = protected_by(load(asked.store, roots=asked.roots))
    paths = [one.path for one in meant.changes or () if protected.refused(one.path, write=True) is not None]
    for path in paths[:WARNINGS_SHOWN_MAX]:
        remark(f"Look at it twice, it is protected: {path}")
    if len(paths) > WARNINGS_SHOWN_MAX:
        remark(f"And {len(paths) - WARNINGS_SHOWN_MAX} more that are protected.")
