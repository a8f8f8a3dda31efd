"""Each call is counted once, whatever happens between its reservation and the fold of its end."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from custody.index import Index, spending
from custody.index.spending import SpendingTables, this_process
from custody.index.spending_fold import scopes_of
from custody.index.spending_rows import RUN, SESSION, THE_STORE, CallSaid, Spent
from custody.journal import Disk, Journal, JournalSettings, MemoryDisk
from custody.journal.disk import RealDisk
from custody.records import (
    KINDS,
    CallFinished,
    CallStarted,
    Decision,
    Leaf,
    Redacted,
    Request,
    RunStarted,
    Step,
    Tokens,
    Usage,
    encode_leaf,
)

BEGIN_US = 1_790_000_000_000_000
SMALL = JournalSettings(first_segment_bytes=64 * 1024)
PID, TICKS, PLACE = this_process()
DEAD = PID, (TICKS or 0) + 1, PLACE
"""Another process that had our number before us."""
REBOOTED = PID, TICKS, "another-boot " + PLACE.partition(" ")[2]
ELSEWHERE = PID, TICKS, PLACE.partition(" ")[0] + " another-namespace"
"""A process of a container next door."""


class Counter:
    """One process: its way to the journal and to the counts."""

    def __init__(self, folder: str, holder: Any = None, disk: Disk | None = None) -> None:
        self.journal = Journal(disk or RealDisk(folder), settings=SMALL)
        self.now_us = BEGIN_US
        path = os.path.join(folder, "index.db")
        self.tables = SpendingTables(path, self.journal, lambda: self.now_us, holder)

    def close(self) -> None:
        self.tables.close()
        self.journal.close()

    def put(self, leaf: Leaf) -> None:
        self.journal.append(KINDS[type(leaf)], encode_leaf(leaf), Redacted(b""))

    def reserve(self, call: bytes, run: bytes = b"run") -> None:
        said = CallSaid(scopes=scopes_of([run], None, None), tool="bash", effect="write")
        self.tables.write(lambda rows: rows.reserve(call, BEGIN_US, said))

    def start(self, call: bytes, run: bytes = b"run", **fields: Any) -> None:
        request = Request(
            run_id=run, position=None, tool="bash", effect="write", level="none",
            decision=Decision("allow", "rule", ""), asked_at_us=BEGIN_US, **fields,
        )  # fmt: skip
        self.put(CallStarted(call, BEGIN_US, 0, b"", request=request))

    def finish(self, call: bytes, outcome: Any = "succeeded", wall_us: int = 1) -> None:
        self.put(CallFinished(call, BEGIN_US, outcome, b"", usage=Usage(wall_us=wall_us)))

    def spent(self, run: bytes = b"run") -> Spent:
        return self.tables.write(lambda rows: rows.spent((RUN, run), None), "all")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def counter(folder: str) -> Iterator[Counter]:
    made = Counter(folder)
    yield made
    made.close()


def delete_index(folder: str) -> None:
    for name in os.listdir(folder):
        if name.startswith("index.db"):
            os.unlink(os.path.join(folder, name))


def test_what_others_tell_of_their_own_calls_uses_nothing_up(counter: Counter):
    told = Request(
        run_id=b"run", position=None, tool="bash", effect="write", level="none",
        decision=Decision("allow", "nobody", ""), asked_at_us=BEGIN_US,
    )  # fmt: skip
    for source, call in (("imported", b"told"), ("observed", b"seen")):
        leaf = CallFinished(call, BEGIN_US, "succeeded", b"", request=told, source=source, latency_us=5)
        counter.put(leaf)
    counter.reserve(b"ours")
    counter.start(b"ours")
    assert counter.spent() == Spent(calls=2, writes=2, wall_us=5)


def test_what_others_tell_of_their_steps_uses_nothing_up(counter: Counter):
    for number, door in enumerate(("import", "otel", "hook", "python")):
        run = b"run%d" % number
        counter.put(RunStarted(run, BEGIN_US, b"", session_id="s", parent_run_id=b"above", door=door))
        tokens = Tokens(input=10, output=5)
        counter.put(Step(b"s%d" % number, run, BEGIN_US, b"", tokens=tokens, cost_nano_usd=7))
    spent = [counter.spent(b"run%d" % number).tokens for number in range(4)]
    assert (spent, counter.spent(b"above").tokens) == ([0, 0, 15, 15], 30)
    for scope in ((SESSION, "s"), THE_STORE):
        whole = counter.tables.write(lambda rows, scope=scope: rows.spent(scope, BEGIN_US - 1), "all")
        assert (whole.tokens, whole.cost_nano_usd) == (30, 14)


# -- reservations of the dead ---------------------------------------------------------------------------


@pytest.mark.parametrize("holder", [DEAD, REBOOTED], ids=["dead", "of-another-boot"])
def test_what_a_dead_process_reserved_comes_back_unless_its_start_is_on_the_record(
    folder: str, counter: Counter, holder: Any
):
    dead = Counter(folder, holder)
    counter.reserve(b"ours")
    for call in (b"begun", b"never"):
        dead.reserve(call)
    assert counter.spent().calls == 3
    dead.start(b"begun")
    assert counter.tables.give_back_of_the_dead() == 1
    assert counter.spent() == Spent(calls=2, writes=2)
    dead.close()


def test_a_process_that_cannot_be_seen_keeps_what_it_reserved_for_an_hour(folder: str, counter: Counter):
    next_door = Counter(folder, ELSEWHERE)
    next_door.reserve(b"one")
    assert counter.tables.give_back_of_the_dead() == 0
    counter.now_us += 3_600_000_000
    assert counter.tables.give_back_of_the_dead() == 1
    assert counter.spent() == Spent()
    next_door.close()


def test_nothing_comes_back_while_the_journal_cannot_be_read(folder: str, counter: Counter):
    dead = Counter(folder, DEAD)
    dead.reserve(b"one")
    dead.start(b"one")
    dead.close()
    (segment,) = [path for path in Path(folder, "journal").rglob("*") if path.stat().st_size >= 64 * 1024]
    data = bytearray(segment.read_bytes())
    at = data.index(b"one")
    data[at : at + 3] = b"two"
    segment.write_bytes(data)
    assert counter.tables.give_back_of_the_dead() == 0
    assert counter.spent().calls == 1


@pytest.mark.long
def test_a_forked_child_counts_in_the_same_tables(folder: str):
    """In a process of its own: a fork of one with threads is not to be had."""
    script = (
        "import os, sys\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from test_spending import Counter\n"
        "counter = Counter(sys.argv[1])\n"
        "counter.reserve(b'parent')\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    counter.reserve(b'child')\n"
        "    os._exit(counter.spent().calls)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2\n"
        "assert counter.tables.give_back_of_the_dead() == 1\n"
        "assert counter.spent().calls == 1\n"
    )
    here = os.path.dirname(__file__)
    subprocess.run([sys.executable, "-c", script, folder, here], check=True, timeout=60)


# -- the fold -------------------------------------------------------------------------------------------


def test_many_batches_give_what_one_gives(folder: str, counter: Counter, monkeypatch: pytest.MonkeyPatch):
    """Calls of the first shard belong to runs that stand at the end of the second."""
    second = Counter(folder)
    counter.journal.lease()
    for number in range(10):
        counter.start(b"%d" % number, b"child")
        counter.finish(b"%d" % number)
        second.start(b"s%d" % number, b"other")
    second.put(RunStarted(b"child", BEGIN_US, b"", parent_run_id=b"top", session_id="s"))
    second.put(RunStarted(b"top", BEGIN_US, b""))

    def sums(some: Counter) -> list[Spent]:
        scopes = ((RUN, b"child"), (RUN, b"top"), (RUN, b"other"), (SESSION, "s"), THE_STORE)
        return some.tables.write(lambda rows: [rows.spent(scope, BEGIN_US) for scope in scopes], "all")

    at_once = sums(counter)
    assert [spent.calls for spent in at_once] == [10, 10, 10, 10, 20]
    delete_index(folder)
    monkeypatch.setattr(spending, "BATCH_RECORDS", 3)
    assert sums(second) == at_once
    second.close()


def test_tables_of_a_journal_that_lost_records_are_made_anew(folder: str, tmp_path: Path):
    """A power loss takes records that were not durable, and leaves the counts of them."""
    counter = Counter(folder)
    counter.start(b"kept")
    counter.finish(b"kept")
    counter.close()
    shutil.copytree(tmp_path / "journal", tmp_path / "before")
    counter = Counter(folder)
    counter.start(b"lost")
    counter.reserve(b"reserved")
    assert counter.spent().calls == 3
    counter.close()
    shutil.rmtree(tmp_path / "journal")
    (tmp_path / "before").rename(tmp_path / "journal")
    counter = Counter(folder)
    assert counter.spent() == Spent(calls=2, writes=2, wall_us=1)
    counter.close()


def test_whoever_has_a_deleted_file_open_goes_on_in_the_new_one(folder: str, counter: Counter):
    other = Counter(folder)
    counter.reserve(b"one")
    assert other.spent().calls == 1
    delete_index(folder)
    counter.reserve(b"two")
    assert other.spent().calls == 1
    counter.start(b"one")
    assert other.spent().calls == 2
    other.close()


def test_what_is_older_than_any_window_is_forgotten(counter: Counter):
    counter.start(b"old")
    counter.finish(b"old")
    month_us = 32 * 24 * 3_600_000_000
    assert counter.tables.write(lambda rows: rows.spent(THE_STORE, 0).calls, "all") == 1
    counter.now_us += month_us
    counter.tables.write(lambda rows: None)
    assert counter.tables.write(lambda rows: rows.spent(THE_STORE, 0).calls, "all") == 0
    assert counter.spent().calls == 1


# -- any order of things ----------------------------------------------------------------------------------


class Counts(RuleBasedStateMachine):
    """Two living processes and one that is dead as soon as it has done something, on one store."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.disk = MemoryDisk()
        self.living = [Counter(self.folder, None, self.disk) for _ in range(2)]
        self.number = 0
        self.reserved: dict[bytes, Counter] = {}
        self.running: dict[bytes, Counter] = {}
        self.ended = 0
        self.dead: set[bytes] = set()

    def teardown(self) -> None:
        for counter in self.living:
            counter.close()
        shutil.rmtree(self.folder)

    def _new(self) -> bytes:
        self.number += 1
        return b"call-%03d" % self.number

    @rule(who=st.integers(0, 1))
    def reserve(self, who: int) -> None:
        call = self._new()
        self.living[who].reserve(call)
        self.reserved[call] = self.living[who]

    @rule()
    def reserve_and_die(self) -> None:
        call = self._new()
        dead = Counter(self.folder, DEAD, self.disk)
        dead.reserve(call)
        dead.close()
        self.dead.add(call)

    @rule()
    def reserve_start_and_die(self) -> None:
        call = self._new()
        dead = Counter(self.folder, DEAD, self.disk)
        dead.reserve(call)
        dead.start(call)
        dead.close()
        self.running[call] = self.living[0]

    @rule(who=st.integers(0, 1))
    def start_what_nobody_reserved(self, who: int) -> None:
        call = self._new()
        self.living[who].start(call)
        self.running[call] = self.living[who]

    @rule()
    def start(self) -> None:
        for call, counter in [*self.reserved.items()][:1]:
            counter.start(call)
            self.running[call] = self.reserved.pop(call)

    @rule(outcome=st.sampled_from(["succeeded", "failed", "unknown"]))
    def finish(self, outcome: str) -> None:
        for call, counter in [*self.running.items()][:1]:
            counter.finish(call, outcome)
            del self.running[call]
            self.ended += 1

    @rule()
    def reject(self) -> None:
        for call, counter in [*self.reserved.items()][:1]:
            counter.finish(call, "rejected")
            del self.reserved[call]

    @rule(who=st.integers(0, 1))
    def release(self, who: int) -> None:
        """By whoever; a call that has started stays."""
        for call in [*self.reserved][:1]:
            self.living[who].tables.release(call)
            del self.reserved[call]
        for call in [*self.running][:1]:
            self.living[who].tables.release(call)

    @rule(who=st.integers(0, 1))
    def give_back(self, who: int) -> None:
        assert self.living[who].tables.give_back_of_the_dead() == len(self.dead)
        self.dead.clear()

    @rule()
    def delete_the_file(self) -> None:
        """Reservations without a record are lost with it; those calls count from their start."""
        if not self.reserved:
            delete_index(self.folder)
            self.dead.clear()

    @rule()
    def make_the_index_anew(self) -> None:
        index = Index(os.path.join(self.folder, "index.db"), self.living[0].journal)
        index.rebuild()
        index.close()

    @rule(who=st.integers(0, 1))
    def open_again(self, who: int) -> None:
        self.living[who].tables.close()

    @invariant()
    def every_call_is_counted_once(self) -> None:
        calls = len(self.reserved) + len(self.dead) + len(self.running) + self.ended
        for counter in self.living:
            spent = counter.spent()
            assert (spent.calls, spent.writes, spent.wall_us) == (calls, calls, self.ended)


TestAnyOrder = Counts.TestCase
TestAnyOrder.settings = settings(max_examples=3, stateful_step_count=12, deadline=None)


@pytest.mark.long
def test_any_order_of_many_things():
    from hypothesis.stateful import run_state_machine_as_test

    many = settings(max_examples=25, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(Counts, settings=many)
