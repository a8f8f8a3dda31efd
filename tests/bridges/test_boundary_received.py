"""Notices of other programs become events, and nothing else that is sent does."""

import json
import os
import threading
from typing import Any

import pytest
from tests.bridges.boundary_listener import be_patient, listening

import custody
from custody.bridges.boundary import Boundaries
from custody.bridges.boundary.received import BODY_BYTES_MAX, OPEN_MAX
from custody.errors import NotRecorded
from custody.index import EventFilter
from custody.settings import load_settings
from custody.stores import open_view

START = {"pid": 4711, "sig": "shop:lookup:1", "event": "start"}
END = {**START, "event": "end", "elapsed_ms": 12.5, "success": True}


class Recorded:
    """What was put on the record, and a disk that can be full."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.full = False
        self.boundaries = Boundaries(self.record)

    def record(self, name: str, data: Any) -> None:
        assert name == "boundary.received"
        if self.full:
            raise NotRecorded("The disk is full.")
        self.events.append(dict(data))

    def send(self, notice: Any) -> tuple[int, dict[str, Any]]:
        body = notice if isinstance(notice, bytes) else json.dumps(notice).encode()
        answer = self.boundaries.receive(body)
        json.dumps(answer.body)
        return answer.status, answer.body


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


def test_a_start_and_its_end_become_two_events_and_the_time_between_is_measured(recorded):
    status, started = recorded.send(START)
    assert (status, started["sig"]) == (200, START["sig"])
    assert started["start_ns"] > 0
    status, ended = recorded.send(END)
    assert status == 200
    start, end = recorded.events
    assert (start["event"], end["event"]) == ("start", "end")
    assert ended["elapsed_ms"] == end["elapsed_ms"] < 10_000
    assert end["said_elapsed_ms"] == 12.5
    assert end["success"] is True


def test_an_end_without_a_start_is_not_known(recorded):
    assert recorded.send(END)[0] == 404
    recorded.send(START)
    assert recorded.send({**END, "pid": 4712})[0] == 404
    assert recorded.send({**END, "sig": "shop:lookup:2"})[0] == 404
    assert recorded.send(END)[0] == 200
    assert recorded.send(END)[0] == 404
    assert [event["event"] for event in recorded.events] == ["start", "end"]


def test_a_second_start_takes_the_place_of_the_first_and_says_so(recorded):
    recorded.send(START)
    recorded.send(START)
    recorded.send(END)
    assert [event.get("replaces") for event in recorded.events] == [False, True, None]
    assert recorded.send(END)[0] == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"start"',
        b"{",
        b'{"pid": 1, "sig": "a", "event": "start"} {}',
        b"\xff\xfe{}",
        b'\xef\xbb\xbf{"pid": 1, "sig": "a", "event": "start"}',
        b'{"pid": 1, "pid": 2, "sig": "a", "event": "start"}',
        b'{"sig": "a", "event": "start", "params": {"pid": 1}}',
        b'{"params": {"pid": 1, "sig": "a", "event": "start"}}',
        b'{"pid": 1, "sig": "a", "event": "start", "params": {"a": 1, "a": 2}}',
        b'{"pid": 1, "sig": "a", "event": "start", "elapsed_ms": NaN}',
        b'{"pid": 1, "sig": "a", "event": "start", "other": Infinity}',
        b'{"pid": 1, "sig": "a", "event": "start", "elapsed_ms": 1e999}',
        b'{"pid": 1, "sig": "a", "event": "start", "elapsed_ms": -1}',
        b'{"pid": 1, "sig": "a", "event": "start", "elapsed_ms": "1"}',
        b'{"pid": 1, "sig": "a", "event": "start", "success": 1}',
        b'{"pid": 1, "sig": "a", "event": "start", "child_pid": 0}',
        b'{"pid": 1, "sig": "a", "event": "start", "tool": {"pid": 2}}',
        b'{"pid": "1", "sig": "a", "event": "start"}',
        b'{"pid": true, "sig": "a", "event": "start"}',
        b'{"pid": 1.0, "sig": "a", "event": "start"}',
        b'{"pid": -1, "sig": "a", "event": "start"}',
        b'{"pid": 99999999999999999999, "sig": "a", "event": "start"}',
        b'{"pid": ' + b"9" * 5000 + b', "sig": "a", "event": "start"}',
        b'{"pid": 1, "sig": "", "event": "start"}',
        b'{"pid": 1, "sig": "a\\nb", "event": "start"}',
        b'{"pid": 1, "sig": "\\ud800", "event": "start"}',
        b'{"pid": 1, "sig": 7, "event": "start"}',
        b'{"pid": 1, "sig": "' + b"a" * 300 + b'", "event": "start"}',
        b'{"pid": 1, "sig": "a", "event": "middle"}',
        b'{"pid": 1, "sig": "a"}',
        b"[" * 60_000,
        b'{"a":' * 10_000,
    ],
    ids=repr,
)
def test_what_is_no_notice_is_refused_and_not_recorded(recorded, body):
    status, answer = recorded.send(body)
    assert (status, list(answer)) == (400, ["error"])
    assert recorded.events == []


def test_a_body_that_is_too_large_is_not_even_read(recorded):
    assert recorded.send(b" " * BODY_BYTES_MAX + json.dumps(START).encode())[0] == 413
    assert recorded.events == []


def test_fields_inside_parameters_are_not_the_notices_own(recorded):
    hostile = {"params": {"pid": 1, "sig": "other", "event": "end"}, "result": '"pid": 2', **START}
    assert recorded.send(hostile)[0] == 200
    (event,) = recorded.events
    assert (event["pid"], event["sig"], event["event"]) == (4711, START["sig"], "start")
    assert event["ignored"] == 2
    assert "other" not in json.dumps(event)


def test_what_cannot_be_recorded_is_not_acknowledged_and_opens_nothing(recorded):
    recorded.full = True
    assert recorded.send(START)[0] == 503
    recorded.full = False
    assert recorded.send(END)[0] == 404
    recorded.send(START)
    recorded.full = True
    assert recorded.send(END)[0] == 503
    recorded.full = False
    assert recorded.send(END)[0] == 200  # the end was not lost: it can be told again


def test_starts_that_never_end_are_forgotten_from_the_oldest_on_and_counted(recorded):
    for number in range(OPEN_MAX + 2):
        recorded.send({**START, "sig": str(number)})
    assert recorded.send({**END, "sig": "0"})[0] == 404
    assert recorded.send({**END, "sig": "2"})[0] == 200
    recorded.send({**START, "sig": "last"})
    assert recorded.events[-1]["forgotten"] == 2


def test_several_threads_may_tell_at_once(recorded):
    def tell(pid: int) -> None:
        for number in range(100):
            recorded.send({**START, "pid": pid, "sig": str(number)})
            recorded.send({**END, "pid": pid, "sig": str(number)})

    threads = [threading.Thread(target=tell, args=(pid,)) for pid in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(recorded.events) == 800


def test_what_one_store_tells_another_takes(tmp_path, monkeypatch):
    """Both sides of the same grammar; and secrets in a foreign notice are not kept either."""
    be_patient(monkeypatch)
    here, there = os.fspath(tmp_path / "here"), os.fspath(tmp_path / "there")
    monkeypatch.setenv("SHOP_API_TOKEN", "s3cr3t-of-the-shop-4711")
    with listening() as listener:
        monkeypatch.setenv("CUSTODY_BOUNDARY_URL", listener.url)
        with custody.open(here) as runtime, runtime.run("shop") as run:
            with run.observe("lookup", {"pid": 1}):
                pass
            listener.wait_for(2)
    monkeypatch.delenv("CUSTODY_BOUNDARY_URL")
    with custody.open(there) as runtime:
        boundaries = Boundaries(runtime._runtime.ledger.recorder.event)
        assert [boundaries.receive(body).status for body in listener.bodies] == [200, 200]
        hostile = {**START, "tool": "s3cr3t-of-the-shop-4711"}
        assert boundaries.receive(json.dumps(hostile).encode()).status == 200
    with open_view(load_settings(store=there)) as view:
        events = view.index.events(EventFilter(name="boundary.received", order="oldest")).items
    start, end, foreign = [event.data for event in events]
    assert start["sig"] == end["sig"]
    assert (end["tool"], end["success"], end["outcome"]) == ("lookup", True, "succeeded")
    assert "s3cr3t" not in json.dumps(foreign)
