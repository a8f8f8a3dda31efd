"""A pause of the policy: on the record, short, seen by every process, and over when it was ended."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from custody.calls.pause import PAUSE_SECONDS_MAX, PAUSED, UNPAUSED, Pauses, begin_pause, end_pause, pause_at
from custody.errors import Denied, InvalidInput, StoreError
from custody.index import Index
from custody.journal import Journal, RealDisk
from custody.recorder import Recorder
from custody.records import now_us
from custody.stores import make_recorder

HOUR_US = 3_600_000_000


class Process:
    """What a process has of a store: its own journal, recorder and index over the same folder."""

    def __init__(self, store: Path) -> None:
        disk = RealDisk(str(store))
        self.journal = Journal(disk)
        self.recorder: Recorder = make_recorder(disk, self.journal, {"DEPLOY_TOKEN": "hunter2-hunter2"})
        self.index = Index(str(store / "index.db"), self.journal)

    def pause(self, seconds: float = 60.0, reason: str = "a drill", *, may_pause: bool = True):
        return begin_pause(
            self.recorder, self.index, seconds=seconds, reason=reason, person="ada", may_pause=may_pause
        )

    def end(self):
        return end_pause(self.recorder, self.index, person="ada")

    def say(self, name: str, data: dict[str, object]) -> None:
        """An event of another clock, or of somebody who keeps to no bound."""
        self.recorder.event(name, data, leaf_data=True)

    def close(self) -> None:
        self.index.close()
        self.journal.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[type[Process]]:
    started: list[Process] = []

    def begin() -> Process:
        started.append(Process(tmp_path / "store"))
        return started[-1]

    yield begin  # pyright: ignore[reportReturnType]
    for process in started:
        process.close()


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_pause_holds_in_every_process_until_it_is_ended(start):
    one, other = start(), start()
    clock = Clock()
    pauses = Pauses(lambda: other.index, clock=clock)
    assert pauses.active() is None
    begun = one.pause()
    clock.seconds += 0.2
    assert pauses.active() == begun
    assert one.end() == begun
    assert pauses.active() == begun, "an answer holds for a fifth of a second"
    clock.seconds += 0.2
    assert pauses.active() is None
    assert one.end() is None


def test_an_end_that_the_index_was_not_told_of_is_seen_all_the_same(start):
    one, other = start(), start()
    clock = Clock()
    pauses = Pauses(lambda: other.index, clock=clock)
    begun = one.pause()
    assert pauses.active() == begun
    one.say(UNPAUSED, {"since_us": begun.since_us, "person": None})
    clock.seconds += 0.2
    assert pauses.active() is None


def test_a_pause_ends_by_itself_between_two_looks(start):
    process = start()
    begun = process.pause(seconds=60)
    pauses = Pauses(lambda: process.index, clock=Clock())
    assert pauses.active(begun.since_us - 1) is None
    assert pauses.active(begun.since_us) is None, "the look before found none, and holds"
    pauses = Pauses(lambda: process.index, clock=Clock())
    assert pauses.active(begun.until_us - 1) == begun
    assert pauses.active(begun.until_us) is None


def test_a_pause_is_on_the_record_with_its_reason_and_without_secrets(start):
    process = start()
    begun = process.pause(reason=" moving hunter2-hunter2 ")
    (event,) = process.index.events(name=PAUSED).items
    assert event.data == {
        "since_us": begun.since_us,
        "until_us": begun.since_us + 60_000_000,
        "reason": begun.reason,
        "person": "ada",
    }
    assert begun.reason.startswith("moving [redacted:")
    process.end()
    (event,) = process.index.events(name=UNPAUSED).items
    assert event.data == {"since_us": begun.since_us, "person": "ada"}


def test_the_last_pause_replaces_the_one_before(start):
    process = start()
    process.pause(seconds=3600)
    short = process.pause(seconds=1)
    assert pause_at(process.index, short.until_us - 1) == short
    assert pause_at(process.index, short.until_us) is None


@pytest.mark.parametrize("seconds", [0, -1, PAUSE_SECONDS_MAX + 1, float("inf"), float("nan")])
def test_a_pause_is_of_some_hours_at_most(start, seconds):
    process = start()
    with pytest.raises(InvalidInput, match="up to 8 hours"):
        process.pause(seconds=seconds)
    assert process.index.events(name=PAUSED).items == []


@pytest.mark.parametrize("reason", ["", "  ", "x" * 501])
def test_a_pause_has_a_reason(start, reason):
    with pytest.raises(InvalidInput, match="reason"):
        start().pause(reason=reason)


def test_where_a_policy_says_no_nothing_pauses(start):
    process = start()
    with pytest.raises(Denied, match="may not be paused"):
        process.pause(may_pause=False)
    assert process.index.events(name=PAUSED).items == []
    process.pause()
    allowed = [False]
    pauses = Pauses(lambda: process.index, may_pause=lambda: allowed[0], clock=Clock())
    assert pauses.active() is None
    allowed[0] = True
    assert pauses.active() is not None


def test_records_of_a_wrong_clock_or_without_sense_pause_nothing_for_long(start):
    process = start()
    now = now_us()
    process.say(
        PAUSED, {"since_us": now + HOUR_US, "until_us": now + 2 * HOUR_US, "reason": "r", "person": None}
    )
    for data in ({}, {"since_us": "now", "until_us": 1, "reason": "r"}, {"since_us": now, "until_us": None}):
        process.say(PAUSED, data)
    assert pause_at(process.index, now_us()) is None
    process.say(PAUSED, {"since_us": now, "until_us": now + 999 * HOUR_US, "reason": "r", "person": None})
    assert pause_at(process.index, now + 8 * HOUR_US - 1) is None, "the later one had begun"
    assert pause_at(process.index, now + HOUR_US - 1) is not None
    process.say(UNPAUSED, {"since_us": now + HOUR_US})
    assert pause_at(process.index, now + HOUR_US) is None


def test_what_was_ended_stays_ended_when_the_clock_goes_back(start):
    process = start()
    begun = process.pause(seconds=3600)
    process.end()
    assert pause_at(process.index, begun.since_us) is None
    assert pause_at(process.index, begun.until_us - 1) is None


def test_where_the_index_cannot_be_asked_nothing_is_paused():
    def broken() -> Index:
        raise StoreError("The index is busy.")

    assert Pauses(broken).active() is None


def test_a_child_that_was_forked_during_a_look_looks_for_itself():
    parent, looking, go_on = os.getpid(), threading.Event(), threading.Event()

    def open_index() -> Index:
        if os.getpid() == parent:
            looking.set()
            go_on.wait(60)
        raise StoreError

    pauses = Pauses(open_index)
    thread = threading.Thread(target=pauses.active)
    thread.start()
    looking.wait(20)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(30)  # else one that hangs would be waited for without end
        os._exit(0 if pauses.active() is None else 1)
    status = os.waitpid(child, 0)[1]
    go_on.set()
    thread.join()
    assert status == 0
