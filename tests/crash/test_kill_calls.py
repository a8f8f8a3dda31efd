"""Programs that make calls are killed at random moments; what they were told is there, the rest is unknown.

What should be there is not asked of the index or of recovery: it is told by the programs themselves, and
read from the journal after each kill, before anybody has opened the store again.
"""

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.crash import calling
from tests.crash.calling import Told

import custody
from custody.index import CallFilter, EventFilter, Index, RunFilter
from custody.index.query import LIMIT_MAX
from custody.journal import Journal, Stored
from custody.journal.disk import RealDisk
from custody.records import (
    OUTCOMES,
    RUN_OUTCOMES,
    CallFinished,
    CallStarted,
    Event,
    Request,
    RunFinished,
    RunStarted,
    decode_leaf,
)

SOURCE = Path(custody.__path__[0]).parent
MESSAGES_MAX = 350
"""A program is killed after fewer messages than this; two make a call that returned."""
SPIN_MAX = 20_000
"""Loops between that message and the kill, so that it does not always follow one at the same distance."""
OPENING_SPIN_MAX = 3_000_000
"""The same for a kill while a program opens the store: about as long as that takes."""
NOBODY = -1
"""Stands for the number of a program where the test itself opened the store."""
HANGING = tuple(tool.name for tool in calling.HANGING)


@dataclass
class Line:
    """One call or run as its records tell it, and which programs wrote them."""

    id: str
    started_by: int
    request: Request | None
    """None for a run."""
    outcome: str | None = None
    finished_by: int | None = None

    @property
    def left_open(self) -> bool:
        """Whether the program that began it did not end it."""
        return self.finished_by != self.started_by

    @property
    def hangs(self) -> bool:
        return self.request is not None and self.request.tool in HANGING

    @property
    def what_came_of_it(self) -> tuple[str | None, str | None, int | None]:
        """Outcome, run and position of a call."""
        assert self.request is not None
        run_id = self.request.run_id
        return self.outcome, None if run_id is None else run_id.hex(), self.request.position


@dataclass
class Book:
    """The calls and runs of a journal, folded by the test's own hand as records appear."""

    journal: Journal
    cursor: Any = None
    records: dict[int, tuple[int, bytes, bytes]] = field(default_factory=dict)
    calls: dict[str, Line] = field(default_factory=dict)
    runs: dict[str, Line] = field(default_factory=dict)
    next_position: Counter[bytes] = field(default_factory=Counter)

    def read(self, program: int) -> tuple[list[Line], list[Line]]:
        """Take what has been written since, all of it by that program: what it began, what it finished."""
        assert len(self.journal.shards()) <= 1
        self.begun: list[Line] = []
        self.finished: list[Line] = []
        following = self.journal.follow(self.cursor)
        for stored in following:
            record = (stored.kind, stored.leaf, stored.payload)
            if stored.sequence in self.records:  # written again: a torn frame was behind it
                assert self.records[stored.sequence] == record
            else:
                assert stored.sequence == len(self.records) + 1
                self.records[stored.sequence] = record
                self.fold(stored, program)
        self.cursor = following.cursor
        return self.begun, self.finished

    def has_more(self, records: int) -> bool:
        """Whether so many have been written since."""
        return sum(1 for _ in self.journal.follow(self.cursor)) >= records

    def fold(self, stored: Stored, program: int) -> None:
        match decode_leaf(stored.kind, stored.leaf):
            case RunStarted(run_id=run_id):
                self.begin(self.runs, Line(run_id.hex(), program, None))
            case RunFinished(run_id=run_id, outcome=outcome):
                self.finish(self.runs[run_id.hex()], outcome, program)
            case CallStarted(call_id=call_id, request=Request() as request):
                self.number(request, program)
                self.begin(self.calls, Line(call_id.hex(), program, request))
            case CallFinished(call_id=call_id, request=request, outcome=outcome):
                if request is not None:
                    assert outcome == "rejected"
                    self.number(request, program)
                    self.begin(self.calls, Line(call_id.hex(), program, request))
                self.finish(self.calls[call_id.hex()], outcome, program)
            case leaf:
                own = ("journal.", "writer.", "host.", "key.")
                assert isinstance(leaf, Event) and leaf.name.startswith(own)

    def number(self, request: Request, program: int) -> None:
        """Positions of a run follow one another on the record."""
        if request.run_id is None:
            assert request.position is None
        else:
            assert self.runs[request.run_id.hex()].started_by == program
            assert request.position == self.next_position[request.run_id]
            self.next_position[request.run_id] += 1

    def begin(self, lines: dict[str, Line], line: Line) -> None:
        assert line.id not in lines, "it begins twice"
        lines[line.id] = line
        self.begun.append(line)

    def finish(self, line: Line, outcome: str, program: int) -> None:
        assert line.outcome is None, "it has a second terminal record"
        line.outcome, line.finished_by = outcome, program
        self.finished.append(line)

    def open(self) -> set[str]:
        """Ids of the calls and runs that have no terminal record."""
        return {line.id for line in (*self.calls.values(), *self.runs.values()) if line.outcome is None}


@dataclass
class CallLane:
    store: Path
    seed: int
    kills: int = 0
    returned: dict[str, Told] = field(default_factory=dict)
    """The receipts, by call."""
    unchecked: set[str] = field(default_factory=set)
    """Calls the index has not been asked for."""
    totals: Counter[str] = field(default_factory=Counter)

    def run(self, kills: int, kills_max: int) -> None:
        """At least so many kills, and more until one has hit a call and one came after a call's end."""

        def goes_on() -> bool:
            return self.kills < kills or (self.kills < kills_max and not (self.returned and self.in_flight))

        self.book = Book(Journal(RealDisk(self.store)))
        while goes_on():
            chance = random.Random(f"{self.seed} {self.kills}")
            self.kill_one(chance)
            if chance.random() < 0.7 or not goes_on():
                self.reopen()
            # Else the next program closes what this one left open, and may be killed while it does.
        assert self.book.read(NOBODY) == ([], [])  # what was written as it was closed is of no call
        self.book.journal.close()
        self.judge_in_the_end()

    # -- one kill -------------------------------------------------------------------------------------

    def kill_one(self, chance: random.Random) -> None:
        """Start a program, kill it, and judge its records before anybody else writes any."""
        program, self.kills = self.kills, self.kills + 1
        left_open = self.book.open()
        told = self.start_and_kill(program, chance)
        begun, finished = self.book.read(program)
        for line in finished:
            self.judge_outcome(line)
        closed = {line.id for line in finished if line.left_open}
        self.totals["killed while closing"] += 0 < len(closed) < len(left_open)
        for line in begun:
            if line.request is not None:
                self.unchecked.add(line.id)
                if line.left_open:
                    self.totals["hanging" if line.hangs else f"{line.request.effect}s in flight"] += 1
        self.judge_told(program, told)

    def start_and_kill(self, program: int, chance: random.Random) -> list[Told]:
        """What it told until it was killed: after so many messages, or after so many records while it closed
        what others had left open."""
        left_open = len(self.book.open())
        while_opening = chance.random() < (0.4 if left_open else 0.05)
        messages = 1 if while_opening else chance.randrange(2, MESSAGES_MAX)
        records = chance.randrange(left_open + 1) if while_opening else 0
        spin = chance.randrange(OPENING_SPIN_MAX if while_opening and not records else SPIN_MAX)
        self.totals["killed while opening"] += while_opening
        with subprocess.Popen(
            [sys.executable, calling.__file__, str(self.store), f"{program}"],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": f"{SOURCE}"},
            cwd=self.store.parent,
            bufsize=0,
        ) as process:
            assert process.stdout is not None
            stream = b""
            try:
                while stream.count(b"\n") < messages:
                    more = process.stdout.read(65536)
                    assert more, f"the program ended by itself with {process.wait()}"
                    stream += more
                while not self.book.has_more(records):
                    assert process.poll() is None
                for _ in range(spin):
                    pass
            finally:
                process.kill()
            while more := process.stdout.read(65536):
                stream += more
        assert stream.endswith(b"\n")
        return [msgspec.json.decode(line, type=Told) for line in stream.splitlines()]

    def judge_told(self, program: int, told: list[Told]) -> None:
        """Whatever it was told of is on the record, in records of its own."""
        lines = self.book.calls | self.book.runs
        assert {said.id for said in told if said.id} - lines.keys() == set(), "lost"
        for said in told:
            if said.what == "opening":
                continue
            line = lines[said.id]
            assert line.started_by == program
            match said.what:
                case "begun":
                    assert line.request is not None and line.request.tool == said.tool
                    assert line.outcome is None or not line.hangs
                case "run_finished":
                    assert (line.outcome, line.finished_by) == (said.outcome, program)
                case "returned":
                    assert said.id not in self.returned
                    assert line.finished_by == program
                    assert line.what_came_of_it == (said.outcome, said.run_id, said.position)
                    self.returned[said.id] = said
                    self.totals[f"receipts of {said.effect}s"] += 1

    def judge_outcome(self, line: Line) -> None:
        """Unknown and incomplete are what another program closed, and nothing else."""
        if line.left_open:
            assert line.outcome == ("incomplete" if line.request is None else "unknown")
            assert line.id not in self.returned
        else:
            assert line.outcome not in ("incomplete", "unknown")

    # -- the store opened again -----------------------------------------------------------------------

    def reopen(self) -> None:
        """A runtime closes what was left open, and nothing else; its index says the same."""
        left_open = self.book.open()
        with custody.open(self.store, cwd=str(self.store.parent)) as runtime:
            begun, finished = self.book.read(NOBODY)
            assert begun == []
            assert {line.id for line in finished} == left_open
            for line in finished:
                self.judge_outcome(line)
            for call_id in self.unchecked:
                self.judge_call(runtime.index.call(call_id))
            assert runtime.index.stats().by_outcome == Counter(
                line.outcome for line in self.book.calls.values()
            )
        self.unchecked.clear()

    def judge_call(self, call: custody.Call) -> None:
        """What the index says of a call is what the journal says, and what its caller was told."""
        line = self.book.calls[call.id]
        assert (call.outcome, call.run_id, call.position) == line.what_came_of_it
        assert (call.outcome == "unknown") == line.left_open
        if (said := self.returned.get(call.id)) is not None:
            assert calling.digest(call.result) == said.result

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
        of_each = (("calls", self.book.calls, OUTCOMES), ("runs", self.book.runs, RUN_OUTCOMES))
        for of, lines, outcomes in of_each:
            assert {one.id: one.outcome for one in answers[of]} == {
                line.id: line.outcome for line in lines.values()
            }
            assert answers[f"{of} by outcome"] == {
                outcome: {line.id for line in lines.values() if line.outcome == outcome}
                for outcome in outcomes
            }
        assert answers["positions taken"] == {
            run_id: self.book.next_position[bytes.fromhex(run_id)] for run_id in self.book.runs
        }
        for file in self.store.glob("index.db*"):
            file.unlink()
        assert self.ask(again.journal) == answers
        again.journal.close()

    def ask(self, journal: Journal) -> dict[str, Any]:
        """All an index has to say, asked in several ways."""
        index = Index(os.fspath(self.store / "index.db"), journal)
        runs = everything(index.runs, RunFilter(order="oldest"))
        answers = {
            "calls": everything(index.calls, CallFilter(order="oldest")),
            "runs": runs,
            "events": everything(index.events, EventFilter(order="oldest")),
            "stats": index.stats(),
            "open": (index.open_calls(), index.open_runs()),
            "calls by outcome": {
                outcome: {call.id for call in everything(index.calls, CallFilter(outcome=outcome))}
                for outcome in OUTCOMES
            },
            "runs by outcome": {
                outcome: {run.id for run in everything(index.runs, RunFilter(outcome=outcome))}
                for outcome in RUN_OUTCOMES
            },
            "positions taken": {run.id: index.max_position(bytes.fromhex(run.id)) + 1 for run in runs},
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
        parts = ", ".join(f"{what}: {count}" for what, count in sorted(self.totals.items()))
        return (
            f"\n{self.kills} kills, {len(self.returned)} receipts, {self.in_flight} calls in flight, 0 lost\n"
            f"({parts}; calls: {len(self.book.calls)}, records: {len(self.book.records)}, "
            f"runs: {len(runs)}, incomplete: {sum(line.left_open for line in runs)})\n"
        )


def everything(ask: Callable[[Any, int, str | None], Any], condition: Any) -> list[Any]:
    """All items of all pages of an answer."""
    page = ask(condition, LIMIT_MAX, None)
    items: list[Any] = [*page.items]
    while page.next is not None:
        page = ask(condition, LIMIT_MAX, page.next)
        items += page.items
    return items


def test_three_killed_callers_lose_no_call_that_returned_and_the_rest_is_unknown(tmp_path: Path) -> None:
    lane = CallLane(tmp_path / "store", seed=5)
    lane.run(kills=3, kills_max=20)
    sys.stdout.write(lane.summary())
    assert lane.returned and lane.in_flight


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_hundred_killed_callers_lose_no_call_that_returned_and_the_rest_is_unknown(
    tmp_path: Path,
) -> None:
    lane = CallLane(tmp_path / "store", seed=2)
    lane.run(kills=200, kills_max=200)
    sys.stdout.write(lane.summary())
    assert len(lane.returned) >= 10_000
    assert lane.in_flight >= 50
