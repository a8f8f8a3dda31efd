"""Which calls go into a bundle: the newest first, of one tool or several, of one run, of one session.

Owns the meaning of what is asked for: a tool's name is exact, a pattern only behind `glob:`. Knows nothing of
records. Used by `making`.
"""

import contextlib
import fnmatch
import heapq
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from custody.errors import Ambiguous, CorruptJournal, InvalidInput, NotFound
from custody.index import CallFilter, Index
from custody.records import Call

GLOB = "glob:"
"""What a pattern of tool names begins with."""

PAGE_CALLS = 50
"""Calls read from the index at once, each with its result."""


class Selection(Struct, frozen=True, kw_only=True):
    """What is asked for."""

    last: int | None = None
    """At most so many, the newest; None: all."""
    tool: str | None = None
    """A tool's name, or `glob:` and a pattern of names."""
    run: str | None = None
    """An id, its beginning, or a name."""
    only_session: str | None = None
    """Nothing of runs and calls outside this session."""
    only_run: str | None = None
    """Nothing outside the run with this id."""
    not_call: str | None = None
    """The call that asks: it is in no bundle it makes."""

    @property
    def bounded(self) -> bool:
        """Whether whoever asks may not see all there is."""
        return self.only_session is not None or self.only_run is not None


def check_selection(selection: Selection) -> None:
    """Raises InvalidInput for what nobody can have meant."""
    if selection.last is not None and selection.last < 1:
        raise InvalidInput(f"The last {selection.last} calls make no bundle.", hint="Ask for 1 or more.")
    if selection.tool in ("", GLOB):
        raise InvalidInput("The tool's name is empty.", hint="Leave it out to have calls of every tool.")


def selected(index: Index, selection: Selection) -> Iterator[Call]:
    """The calls, newest first, without samples of the machine. Brings the index up to date when it begins.

    What lies behind damage to the journal is not among them. Raises NotFound or Ambiguous for the run; to
    somebody bounded a run of others is one that is not there.
    """
    check_selection(selection)
    with contextlib.suppress(CorruptJournal):  # what can be read is proven record by record
        index.refresh()
    run = selection.run
    if run is not None:
        try:
            run = index.run(run, refresh=False).id
        except (NotFound, Ambiguous):
            if selection.bounded:
                return
            raise
    if selection.only_run is not None:
        if run not in (None, selection.only_run):
            return
        run = selection.only_run
    asked = CallFilter(run=run, session=selection.only_session)
    allowed: dict[str, bool] = {}
    count = 0
    for call in _newest_first(index, _filters(index, asked, selection.tool)):
        if call.id == selection.not_call or not _may_see(index, selection, call, allowed):
            continue
        if count == selection.last:
            return
        count += 1
        yield call


def _may_see(index: Index, selection: Selection, call: Call, allowed: dict[str, bool]) -> bool:
    """A call may name another session than the run it was made in: both have to be the asker's."""
    if selection.only_session is None or call.run_id is None:
        return True
    if call.run_id not in allowed:
        try:
            session = index.run(call.run_id, refresh=False).session_id
        except NotFound:  # its start was lost, and with it whose it was
            session = None
        allowed[call.run_id] = session == selection.only_session
    return allowed[call.run_id]


def _filters(index: Index, asked: CallFilter, tool: str | None) -> list[CallFilter]:
    if tool is None or not tool.startswith(GLOB):
        return [msgspec.structs.replace(asked, tool=tool)]
    pattern = tool.removeprefix(GLOB)
    names = (known.tool for known in index.stats(asked, refresh=False).tools)
    return [msgspec.structs.replace(asked, tool=name) for name in names if fnmatch.fnmatchcase(name, pattern)]


def _newest_first(index: Index, filters: list[CallFilter]) -> Iterator[Call]:
    lists = [_calls(index, one) for one in filters]
    return lists[0] if len(lists) == 1 else heapq.merge(*lists, key=_age, reverse=True)


def _age(call: Call) -> Any:
    return call.asked_at, call.id


def _calls(index: Index, asked: CallFilter) -> Iterator[Call]:
    cursor: str | None = None
    while True:
        page = index.calls(asked, limit=PAGE_CALLS, cursor=cursor, refresh=False)
        yield from page.items
        cursor = page.next
        if cursor is None:
            return
