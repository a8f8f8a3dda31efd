"""Which ids are taken: for whoever brings records with ids that were made elsewhere.

Owns the look at whole ids, many at once, without the sentences that `lookup` has for people. Used by `index`.
"""

from collections.abc import Iterable
from typing import Any, Literal, Protocol

from msgspec import Struct

from custody.index.database import Database
from custody.index.fold import RUNNING
from custody.index.reading import Reader
from custody.records import RunStarted

What = Literal["call", "step"]


class Taken(Struct, frozen=True):
    """What an id stands for already."""

    what: What
    in_run: bool
    """It belongs to the run that was asked about."""


class KnownRun(Struct, frozen=True, kw_only=True):
    """A run that is on the record."""

    started: RunStarted
    outcome: str | None
    """None while it is running."""
    last_position: int
    """Taken in it; -1 for none."""


class _Answer(Protocol):
    def __call__(self, ask: Any, *, refresh: bool = False) -> Any: ...


class KnownIds:
    """The ids of one index. Its method waits."""

    def __init__(self, answer: _Answer, reader: Reader) -> None:
        self._answer = answer
        self._reader = reader

    def look(
        self, run_id: bytes, ids: Iterable[bytes], *, refresh: bool = True
    ) -> tuple[KnownRun | None, dict[bytes, Taken]]:
        """The run with this id, and those of `ids` that a call or a step has, of this run or another."""

        def ask(database: Database) -> Any:
            row: Any = database.row("load_run", run_id)
            run_row = None if row is None else row[0]
            taken = {one: found for one in ids if (found := _taken(database, one, run_row)) is not None}
            if row is None or row[10] is None:  # spoken of, and its start not seen
                return None, taken
            outcome, place = database.word(row[9]), row[15:18]
            return (place, outcome, database.one("max_position", run_id)), taken

        known, taken = self._answer(ask, refresh=refresh)
        if known is None:
            return None, taken
        place, outcome, last = known
        return KnownRun(
            started=self._reader.leaf(place, RunStarted)[0],
            outcome=None if outcome == RUNNING else outcome,
            last_position=-1 if last is None else last,
        ), taken


def _taken(database: Database, one: bytes, run_row: int | None) -> Taken | None:
    found: Any = database.row("load_call", one)
    if found is not None:
        return Taken("call", run_row is not None and found[2] == run_row)
    found = database.row("step_with_id", one)
    return None if found is None else Taken("step", run_row is not None and found[0] == run_row)
