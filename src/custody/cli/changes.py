"""`custody changes`: what a run did to files in sum, or a call; and the block of `show` that lists a call's.

Owns the sum with all that is missing from it: calls that do not tell, changes a record does not list, those
that are held. What was held and then committed is in the sum, whoever committed it. The net of several
changes of one path is `changes.net`'s. Used by the program and `show`.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from custody.cli.changed import (
    Standing,
    call_standing,
    held_in_words,
    print_changes,
    standing,
    unwatched,
)
from custody.cli.diffs import Differ, change_documents, print_diffs
from custody.cli.invocation import message, printable
from custody.cli.options import complete_id, json_option, look, store_option
from custody.errors import NotFound, UsageError
from custody.records import Call, Change, Run

if TYPE_CHECKING:
    from custody.stores import View

PAGE_CALLS = 50  # read at a time: each brings what was said to it, and may list thousands of changes
CHANGES_SHOWN_MAX = 200  # with a call: a person reads a screen or two, and asks for all of them here
NAMED_MAX = 5  # calls named in a remark; `--json` has all of them


class Sum:
    """What calls did to files, and what is not known of it."""

    def __init__(self, stands: Standing, differ: Differ | None) -> None:
        self._stands = stands
        self._differ = differ
        self.calls = 0
        self.changed: list[str] = []
        """Ids of the calls that changed something."""
        self.untold: list[Call] = []
        """Calls that may have changed files and do not tell."""
        self.partly: dict[str, list[str]] = {}
        """Why not everything was looked at -> ids of the calls."""
        self.unlisted = 0
        """Changes that are counted and not listed."""
        self.gone: list[str] = []
        """Ids of calls whose undo data is not kept any more."""
        self.undone: list[str] = []
        """Ids of calls that were undone since."""
        self.held: list[Call] = []
        """Calls whose changes are held: no file has been touched."""
        self.discarded: list[str] = []
        """Ids of calls whose changes were held and then dropped."""

    def add(self, call: Call) -> Sequence[Change]:
        """A further call; its changes, as they stand now."""
        self.calls += 1
        if may_change_untold(call):
            self.untold.append(replace(call, arguments=None, result=None))
        elif (why := unwatched(call)) is not None:
            self.partly.setdefault(why, []).append(call.id)
        if self._differ is not None:
            self._differ.know(call)
        if call.held == "held":
            self.held.append(replace(call, arguments=None, result=None))
            return ()
        if call.held == "discarded":
            self.discarded.append(call.id)
            return ()
        if call.held == "committed" and call.settled_by is not None:
            return ()  # the call that did it tells them
        changes = () if call.dry_run else call.changes or ()
        if call.changes_count and not call.dry_run:
            self.unlisted += call.changes_count - len(changes)
            self.changed.append(call.id)
            if self._stands.undone.by(call.id) is not None:
                self.undone.append(call.id)
            elif call.id not in self._stands.kept:
                self.gone.append(call.id)
                changes = [replace(change, undoable=False) for change in changes]
        return changes


def may_change_untold(call: Call) -> bool:
    """Whether a call ran that may have changed files, and its record does not say which."""
    ran = call.started_at is not None and not call.dry_run
    return ran and call.effect != "read" and call.changes_count is None


@click.command("changes", epilog="Example:  custody changes latest --diff   (a run or call; first digits do)")
@click.argument("identifier", metavar="RUN|CALL", shell_complete=complete_id)
@click.option("--diff", "with_diff", is_flag=True, help="Show what changed inside each text file.")
@store_option
@json_option
def changes_command(identifier: str, with_diff: bool, store: str | None, as_json: bool) -> int:
    """Sum up what a run or call did to files."""
    from custody.changes import net_changes
    from custody.cli.view import opened

    settings = look(store)
    with opened(settings) as view:
        found = view.index.find(identifier)
        if not isinstance(found, Run | Call):
            raise UsageError(
                "A step changes no files; its calls do.", hint=f"See custody changes {found.run_id[:8]}."
            )
        differ = Differ(view, settings) if with_diff else None
        sum_ = Sum(standing(view, found.started_at if isinstance(found, Run) else found.asked_at), differ)
        changes = net_changes(map(sum_.add, calls_of(view, found)))
        base = found.workspace or settings.cwd
        if as_json:
            _print_json(found, sum_, changes, differ, base)
        else:
            _print(view, found, sum_, changes, differ, base)
    return 0


def calls_of(view: "View", found: "Run | Call") -> Iterator[Call]:
    """The call itself, or those of a run in the order in which they were asked for; and the calls elsewhere
    that committed what these had changed."""
    elsewhere: list[Call] = []
    for call in _own_calls(view, found):
        while elsewhere and elsewhere[0].asked_at <= call.asked_at:
            yield elsewhere.pop(0)
        yield call
        commit = _commit_of(view, call)
        if commit is not None and (isinstance(found, Call) or commit.run_id != found.id):
            elsewhere.append(commit)
            elsewhere.sort(key=lambda call: call.asked_at)
    yield from elsewhere


def _commit_of(view: "View", call: Call) -> Call | None:
    if call.held != "committed" or call.settled_by is None:
        return None
    try:
        return view.index.call(call.settled_by, details=False, refresh=False)
    except NotFound:  # the index knows of it and the journal has it no more
        return None


def _own_calls(view: "View", found: "Run | Call") -> Iterator[Call]:
    from custody.index import CallFilter

    if isinstance(found, Call):
        yield found
        return
    cursor: str | None = None
    while True:
        asked = CallFilter(run=found.id, order="oldest")
        page = view.index.calls(asked, limit=PAGE_CALLS, cursor=cursor, refresh=False)
        yield from page.items
        if page.next is None:
            return
        cursor = page.next


def _print_json(
    found: "Run | Call", sum_: Sum, changes: list[Change], differ: Differ | None, base: str
) -> None:
    from custody.cli.document import print_document

    print_document(
        {
            "of": "run" if isinstance(found, Run) else "call",
            "id": found.id,
            "changes": change_documents(differ, changes, base),
            "undoable": all(change.undoable for change in changes) if changes else None,
            "calls": sum_.calls,
            "calls_changed": sum_.changed,
            "calls_untold": [call.id for call in sum_.untold],
            "calls_partly_told": [call_id for ids in sum_.partly.values() for call_id in ids],
            "calls_undone": sum_.undone,
            "unlisted": sum_.unlisted,
            "held": [_held_document(call, differ, base) for call in sum_.held],
            "calls_discarded": sum_.discarded,
        }
    )


def _held_document(call: Call, differ: Differ | None, base: str) -> dict[str, Any]:
    differ = None if differ is None else differ.alone(call)
    return {
        "call": call.id,
        "changes_count": call.changes_count,
        "changes": change_documents(differ, call.changes or (), base),
    }


def _print(
    view: "View", found: "Run | Call", sum_: Sum, changes: list[Change], differ: Differ | None, base: str
) -> None:
    from custody.cli.render import remark

    if changes:
        print_changes(changes, base)
        if differ is not None:
            print_diffs(differ, changes, base)
    elif sum_.changed and not sum_.unlisted:
        message("nothing is left of what was changed.")
    elif not sum_.changed:
        message("no changes to files.")
    for sentence in _remarks(view, found, sum_, changes):
        remark(sentence)
    for call in sum_.held:
        _print_held(call, differ, base, most=None if call.id == found.id else CHANGES_SHOWN_MAX)


def _print_held(call: Call, differ: Differ | None, base: str, *, most: int | None) -> None:
    """Apart from the sum: the files are as they were."""
    from custody.cli.render import heading, remark

    heading(f"Held of call {call.id[:8]}")
    _print_first(call, base, most)
    if differ is not None:
        print_diffs(differ.alone(call), call.changes or (), base)
    remark(held_in_words(call))


def _remarks(view: "View", found: "Run | Call", sum_: Sum, changes: list[Change]) -> Iterator[str]:
    if changes:
        by = "" if isinstance(found, Call) else f" by {_count(sum_.changed, 'call')}"
        yield f"{_count(changes, 'path')} changed{by}.{_undo_words(found, sum_, changes)}"
    if sum_.unlisted:
        counted = _count(range(sum_.unlisted), "change")
        yield f"Not in this sum: {counted} counted on the record and not listed there."
    if sum_.untold:
        tools = ", ".join(dict.fromkeys(call.tool for call in sum_.untold))
        yield (
            f"Not in this sum, as their tools do not tell what they change: {_count(sum_.untold, 'call')} of "
            f"{tools} ({_named([call.id for call in sum_.untold])})."
        )
    if sum_.discarded:
        yield f"Not in this sum, as it was held and discarded: {_named(sum_.discarded)}."
    for why, ids in sum_.partly.items():
        yield f"{'Call' if len(ids) == 1 else 'Calls'} {_named(ids)}: {why}"
    if isinstance(found, Run):
        children = view.index.children(found.id, refresh=False).items
        if children:
            yield f"Not in this sum: {_count(children, 'run')} started from this one."


def _undo_words(found: "Run | Call", sum_: Sum, changes: list[Change]) -> str:
    """Whether it can be taken back, and how."""
    if sum_.undone:
        all_of_them = len(sum_.undone) == len(sum_.changed)
        return f" {'All' if all_of_them else 'Part'} of it was undone since."
    if all(change.undoable for change in changes):
        return f" It can be undone: custody undo {found.id[:8]}"
    if sum_.gone:
        return f" What calls {_named(sum_.gone)} replaced is not kept any more, so that cannot be undone."
    lost = sum(not change.undoable for change in changes)
    return f" {_count(range(lost), 'path')} of it cannot be undone."


def _count(things: "Sequence[Any]", name: str) -> str:
    return f"1 {name}" if len(things) == 1 else f"{len(things):,} {name}s"


def _named(ids: list[str]) -> str:
    more = len(ids) - NAMED_MAX
    named = ", ".join(one[:8] for one in ids[:NAMED_MAX])
    return f"{named} and {more:,} more" if more > 0 else named


# -- one call, as `show` shows it ------------------------------------------------------------------------


def print_changes_of(view: "View", call: Call, base: str, differ: "Differ | None") -> None:
    """What it did to files, and whether that can be taken back."""
    from custody.cli.render import heading, remark

    why = unwatched(call)
    if call.changes_count is not None or why is not None:
        heading("Changes held" if call.held == "held" else "Changes")
    if why is not None:
        print(printable(why))
    if not call.changes_count:
        if call.changes_count == 0 and why is None:
            print("none")
        return
    _print_first(call, base, CHANGES_SHOWN_MAX)
    if differ is not None:
        print_diffs(differ, call.changes or (), base)
    said = call_standing(call, standing(view, call.asked_at))
    if said is not None:
        remark(said)


def _print_first(call: Call, base: str, most: int | None) -> None:
    """So many of its changes, or all that the record lists."""
    from custody.cli.render import remark

    changes = call.changes or ()
    print_changes(changes[:most], base)
    if most is not None and len(changes) > most:
        remark(f"The first {most} of {call.changes_count:,}; all: custody changes {call.id[:8]}")
    elif call.changes_count is not None and call.changes_count > len(changes):
        remark(f"{call.changes_count:,} counted, of which the record lists {len(changes):,}.")
