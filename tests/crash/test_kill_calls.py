"""Programs that make calls are killed at random moments; what they were told is there, the rest is unknown.

What should be there is not asked of the index or of recovery: it is told by the programs themselves, and
read from the journal after each kill, before anybody has opened the store again.
"""

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.crash import calling
from tests.crash.calling import Told

import custody
from custody.index import CallFilter, EventFilter, Index, RunFilter
from custody.journal import Journal, Stored
from custody.journal.disk import RealDisk
from custody.records import CallFinished, CallStarted, Event, Request, RunFinished, RunStarted, decode_leaf

SOURCE = Path(custody.__path__[0]).parent
MESSAGES_MAX = 350
"""A program is killed after fewer messages than this; two make a call that returned."""
SPIN_MAX = 20_000
"""Loops between that message and the kill, so that it does not always follow one at the same distance."""
OPENING_SPIN_MAX = 5_000_000
"""Loops within which a program that is killed while it opens the store is about done with that."""
NOBODY = -1
"""Stands for the number of a program where the test itself opened the store."""
HANGING = tuple(tool.name for tool in calling.HANGING)


@dataclass
class Line:
    """One call or run as its records tell it, and which program wrote them."""

    first: CallStarted | CallFinished | RunStarted
    started_by: int
    last: CallFinished | RunFinished | None = None
    finished_by: int | None = None

    @property
    def request(self) -> Request:
        assert isinstance(self.first, CallStarted | CallFinished) and self.first.request is not None
        return self.first.request

    @property
    def run_id(self) -> str | None:
        return None if self.request.run_id is None else self.request.run_id.hex()

    @property
    def outcome(self) -> str | None:
        return None if self.last is None else self.last.outcome

    @property
    def left_open(self) -> bool:
        """Whether the program that began it did not end it."""
        return self.finished_by != self.started_by


class Book:
    """The calls and runs of a journal, folded by the test's own hand as they appear."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.cursor: Any = None
        self.records: dict[int, tuple[int, bytes, bytes]] = {}
        self.calls: dict[str, Line] = {}
        self.runs: dict[str, Line] = {}
        self.next_position: Counter[bytes] = Counter()

    def read(self, program: int) -> None:
        """Take what has been written since, all of it by that program."""
        assert len(self.journal.shards()) <= 1
        following = self.journal.follow(self.cursor)
        for stored in following:
            known = self.records.get(stored.sequence)
            record = (stored.kind, stored.leaf, stored.payload)
            if known is None:
                assert stored.sequence == len(self.records) + 1
                self.records[stored.sequence] = record
                self._fold(stored, program)
            assert known in (None, record), "a record was written again, and is another"
        self.cursor = following.cursor

    def _fold(self, stored: Stored, program: int) -> None:
        match decode_leaf(stored.kind, stored.leaf):
            case RunStarted() as leaf:
                assert leaf.run_id.hex() not in self.runs
                self.runs[leaf.run_id.hex()] = Line(leaf, program)
            case RunFinished() as leaf:
                self._finish(self.runs[leaf.run_id.hex()], leaf, program)
            case CallStarted() as leaf:
                self._begin(leaf, program)
            case CallFinished() as leaf:
                if leaf.request is not None:
                    self._begin(leaf, program)
                self._finish(self.calls[leaf.call_id.hex()], leaf, program)
            case Event() as leaf:
                assert leaf.name.startswith(("journal.", "writer.", "host.")), leaf
            case leaf:
                raise AssertionError(f"nobody writes {leaf}")

    def _begin(self, leaf: CallStarted | CallFinished, program: int) -> None:
        assert leaf.call_id.hex() not in self.calls
        line = self.calls[leaf.call_id.hex()] = Line(leaf, program)
        run_id = line.request.run_id
        if run_id is None:
            assert line.request.position is None
        else:
            assert self.runs[run_id.hex()].started_by == program
            assert line.request.position == self.next_position[run_id]
            self.next_position[run_id] += 1

    def _finish(self, line: Line, leaf: CallFinished | RunFinished, program: int) -> None:
        assert line.last is None, "a second terminal record"
        line.last, line.finished_by = leaf, program

    def open(self) -> list[Line]:
        return [line for line in (*self.calls.values(), *self.runs.values()) if line.last is None]


@dataclass
class CallLane:
    store: Path
    chance: random.Random
    kills: int = 0
    returned: dict[str, Told] = field(default_factory=dict)
    """The receipts, by call."""
    runs_told: int = 0
    unchecked: set[str] = field(default_factory=set)
    """Calls the index has not been asked for."""
    totals: Counter[str] = field(default_factory=Counter)

    def run(self, kills: int) -> None:
        journal = Journal(RealDisk(self.store))
        self.book = Book(journal)
        while self.kills < kills:
            self.kill_one()
            if self.chance.random() < 0.8 or self.kills == kills:
                self.reopen()
            # Else the next program closes what this one left open, and may be killed while it does.
        journal.close()
        self.judge_in_the_end()

    # -- one kill -------------------------------------------------------------------------------------

    def kill_one(self) -> None:
        program, self.kills = self.kills, self.kills + 1
        told = list(self.start_and_kill(program))
        open_before = self.book.open()
        self.book.read(program)
        self.judge_told(program, told)
        for line in open_before:
            if line.last is not None:
                judge_closed(line)
        of_this = [line for line in self.book.calls.values() if line.started_by == program]
        for line in of_this:
            if line.left_open:
                assert line.last is None
                hangs = line.request.tool in HANGING
                self.totals["hanging" if hangs else f"in flight, {line.request.effect}"] += 1
            else:
                assert line.outcome != "unknown"
        self.unchecked |= {line.first.call_id.hex() for line in of_this}

    def start_and_kill(self, program: int) -> Iterator[Told]:
        """What it told until it was killed: when it opens the store, or after some messages."""
        environment = {**os.environ, "PYTHONPATH": f"{SOURCE}"}
        arguments = [sys.executable, calling.__file__, str(self.store), f"{program}"]
        while_opening = self.chance.random() < 0.15
        messages = 1 if while_opening else self.chance.randrange(2, MESSAGES_MAX)
        spin = self.chance.randrange(OPENING_SPIN_MAX if while_opening else SPIN_MAX)
        with subprocess.Popen(
            arguments, stdout=subprocess.PIPE, env=environment, cwd=self.store.parent, bufsize=0
        ) as process:
            assert process.stdout is not None
            try:
                stream = b""
                while stream.count(b"\n") < messages:
                    more = process.stdout.read(65536)
                    assert more, f"the program ended by itself with {process.wait()}"
                    stream += more
                for _ in range(spin):
                    pass
            finally:
                process.kill()
            while more := process.stdout.read(65536):
                stream += more
        self.totals["killed while opening"] += while_opening
        assert stream.endswith(b"\n")
        return map(msgspec.json.Decoder(Told).decode, stream.splitlines())

    def judge_told(self, program: int, told: list[Told]) -> None:
        """All it was told is on the record, in its own records."""
        calls, runs = self.book.calls, self.book.runs
        for said in told:
            match said.what:
                case "opening":
                    pass
                case "run_started":
                    assert runs[said.id].started_by == program
                case "run_finished":
                    line = runs[said.id]
                    assert (line.finished_by, line.outcome) == (program, said.outcome)
                case "begun":
                    line = calls[said.id]
                    assert (line.started_by, line.request.tool, line.run_id) == (
                        program,
                        said.tool,
                        said.run_id,
                    )
                    assert said.tool not in HANGING or line.last is None
                case "returned":
                    line = calls[said.id]
                    assert (line.started_by, line.finished_by) == (program, program)
                    assert as_told(line) == (said.outcome, said.run_id, said.position)
                    assert said.id not in self.returned
                    self.returned[said.id] = said
                    self.totals[f"receipts, {said.effect}"] += 1
        begun = {said.id for said in told if said.what == "begun"}
        assert {key for key in begun - self.returned.keys() if not calls[key].left_open} == {
            key for key in begun - self.returned.keys() if calls[key].finished_by == program
        }

    # -- the store opened again -----------------------------------------------------------------------

    def reopen(self) -> None:
        """A runtime closes what was left open, and nothing else; its index says the same."""
        left_open = self.book.open()
        with custody.open(self.store, cwd=str(self.store.parent)) as runtime:
            self.book.read(NOBODY)
            assert self.book.open() == []
            lines = (*self.book.calls.values(), *self.book.runs.values())
            closed = [line for line in lines if line.finished_by == NOBODY]
            assert all(line.started_by != NOBODY for line in lines)
            assert {id(line) for line in left_open} <= {id(line) for line in closed}
            for line in left_open:
                judge_closed(line)
            for key in self.unchecked:
                self.judge_call(runtime.index.call(key))
        self.unchecked.clear()

    def judge_call(self, call: custody.Call) -> None:
        """What the index says of it is what the journal says, and what its caller was told."""
        line = self.book.calls[call.id]
        assert (call.outcome, call.run_id, call.position) == as_told(line)
        assert (call.outcome == "unknown") == line.left_open
        if call.id in self.returned:
            assert not line.left_open
            assert self.returned[call.id].result == calling.digest(call.result)

    # -- in the end -----------------------------------------------------------------------------------

    def judge_in_the_end(self) -> None:
        """Everything once more, by a reader that has seen nothing yet."""
        again = Book(Journal(RealDisk(self.store, create=False)))
        again.read(NOBODY)
        assert again.records == self.book.records
        answers = self.ask(again.journal)
        for call in answers["calls"]:
            self.judge_call(call)
        assert {call.id for call in answers["calls"]} == self.book.calls.keys() >= self.returned.keys()
        unknown = {call.id for call in answers["calls"] if call.outcome == "unknown"}
        assert unknown == {key for key, line in self.book.calls.items() if line.left_open}
        assert {run.id: run.outcome for run in answers["runs"]} == {
            key: "incomplete" if line.left_open else "succeeded" for key, line in self.book.runs.items()
        }
        for file in self.store.glob("index.db*"):
            file.unlink()
        assert self.ask(again.journal) == answers
        again.journal.close()

    def ask(self, journal: Journal) -> dict[str, Any]:
        index = Index(os.fspath(self.store / "index.db"), journal)
        answers = {
            "calls": pages(lambda cursor: index.calls(CallFilter(order="oldest"), 1000, cursor)),
            "runs": pages(lambda cursor: index.runs(RunFilter(order="oldest"), 1000, cursor)),
            "events": pages(lambda cursor: index.events(EventFilter(order="oldest"), 1000, cursor)),
            "sessions": pages(lambda cursor: index.sessions(1000, cursor)),
            "stats": index.stats(),
            "open": (index.open_calls(), index.open_runs()),
        }
        assert index.kept
        index.close()
        return answers

    # -- figures --------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        return sum(line.left_open for line in self.book.calls.values())

    def summary(self) -> str:
        runs = self.book.runs.values()
        parts = ", ".join(f"{count} {what}" for what, count in sorted(self.totals.items()))
        return (
            f"\n{self.kills} kills, {len(self.returned)} receipts, {self.in_flight} calls in flight, 0 lost; "
            f"{len(self.book.calls)} calls and {len(self.book.records)} records in all; {len(runs)} runs, "
            f"{sum(line.left_open for line in runs)} incomplete ({parts})\n"
        )


def as_told(line: Line) -> tuple[str | None, str | None, int | None]:
    return line.outcome, line.run_id, line.request.position


def judge_closed(line: Line) -> None:
    """Closed by another than the program that began it."""
    assert line.left_open
    assert line.outcome == ("incomplete" if isinstance(line.last, RunFinished) else "unknown")


def pages(ask: Callable[[str | None], Any]) -> list[Any]:
    items: list[Any] = []
    cursor: str | None = None
    while True:
        page = ask(cursor)
        items += page.items
        cursor = page.next
        if cursor is None:
            return items


def test_eight_killed_callers_lose_no_call_that_returned_and_the_rest_is_unknown(tmp_path: Path) -> None:
    lane = CallLane(tmp_path / "store", random.Random(1))
    lane.run(kills=8)
    sys.stdout.write(lane.summary())
    assert lane.returned and lane.in_flight


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_hundred_killed_callers_lose_no_call_that_returned_and_the_rest_is_unknown(
    tmp_path: Path,
) -> None:
    lane = CallLane(tmp_path / "store", random.Random(2))
    lane.run(kills=200)
    sys.stdout.write(lane.summary())
    assert len(lane.returned) >= 10_000
    assert lane.in_flight >= 50
