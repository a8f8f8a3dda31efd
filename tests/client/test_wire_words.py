"""What a client of another make may say of its own work, and what becomes of what it should not say."""

import asyncio
import secrets

import pytest
from tests.calls.faces import wait_until
from tests.client.daemon import AGENT, Daemon

from custody.errors import InvalidInput, NotFound, RunClosed
from custody.rpc import parts
from custody.rpc.part_ids import id_of


@pytest.fixture
def ask(runtime):
    """A method, without the client's own care for it."""

    def ask(method, **params):
        return runtime.link.wait(runtime.link.ask(method, params))

    return ask


@pytest.fixture
def begun(ask):
    return ask("runs.begin", key=secrets.token_hex(16), intent="told", agent=AGENT)


def told(ask, begun, *entries, now=0):
    return ask("runs.record", part=begun["part"], entries=list(entries), now=now)


def started(n, **said):
    return {"kind": "call_started", "n": n, "tool": "search", "arguments": {"n": n}, **said}


def finished(n, call, **said):
    return {"kind": "call_finished", "n": n, "call": call, "result": call, **said}


def test_one_key_begins_one_run_however_often_and_however_much_at_once_it_is_asked(daemon: Daemon, runtime):
    key = secrets.token_hex(16)

    async def begin_often():
        asked = [runtime.link.ask("runs.begin", {"key": key, "intent": "once"}) for _ in range(16)]
        return await asyncio.gather(*asked)

    answers = runtime.link.wait(begin_often())
    assert len({(one["run_id"], one["part"]) for one in answers}) == 1
    assert len(daemon.runtime.index.runs().items) == 1


def test_what_is_told_twice_is_recorded_once_and_bears_the_id_both_ends_know(daemon: Daemon, ask, begun):
    batch = started(1), finished(2, 1)
    first, again = told(ask, begun, *batch), told(ask, begun, *batch)

    assert first[0] == {"id": id_of(begun["part"], 1).hex(), "position": 0}
    assert [one.get("again") for one in again] == [True, True]
    (call,) = daemon.runtime.index.run_calls(bytes.fromhex(begun["run_id"]))
    assert (call.id, call.outcome, call.result) == (first[0]["id"], "succeeded", 1)


@pytest.mark.long
def test_what_is_told_late_is_recorded_as_of_when_it_was(daemon: Daemon, ask, begun):
    minute = 60 * 1_000_000
    told(ask, begun, started(1, at=0), finished(2, 1, at=2 * minute, latency_us=2 * minute), now=10 * minute)
    (call,) = daemon.runtime.index.run_calls(bytes.fromhex(begun["run_id"]))
    run = daemon.runtime.index.run(begun["run_id"])
    assert call.asked_at < run.started_at
    assert 2 * minute <= call.latency_us < 2 * minute + 1_000_000
    assert call.asked_at < call.finished_at < run.started_at


@pytest.mark.long
@pytest.mark.parametrize(
    ("entry", "error"),
    [
        (finished(1, 77), "InvalidInput"),
        ({"kind": "event", "n": 1, "name": "policy.registered", "data": {}}, "InvalidInput"),
        ({"kind": "gap", "n": 0, "data": {"count": -1}}, "InvalidInput"),
        ({"kind": "gap", "n": 0, "data": {"count": 1, "causes": {"x" * 20_000: 1}}}, "InvalidInput"),
        (started(parts.AHEAD_MAX + 2), "InvalidInput"),
    ],
)
def test_an_entry_that_makes_no_sense_is_answered_and_the_others_are_recorded(
    daemon, ask, begun, entry, error
):
    answers = told(ask, begun, entry, {"kind": "event", "n": 5, "name": "app.fine", "data": {"a": 1}})
    assert answers[0]["error"]["error"] == error
    assert answers[1] == {}
    assert [event.data for event in daemon.runtime.index.events(name="app.fine").items] == [{"a": 1}]


@pytest.mark.long
@pytest.mark.parametrize(
    "entries", [[{"kind": "nonsense", "n": 1}], [{"n": 1}], "text", [started("x")], [started(1)] * 257]
)
def test_a_batch_that_makes_no_sense_is_refused_whole(daemon, ask, begun, entries):
    with pytest.raises(InvalidInput):
        ask("runs.record", part=begun["part"], entries=entries, now=0)
    assert daemon.runtime.index.run_calls(bytes.fromhex(begun["run_id"])) == []


@pytest.mark.long
@pytest.mark.parametrize("key", ["", "short", "Z" * 32, "0" * 33])
def test_a_key_that_is_none_is_refused(ask, key):
    with pytest.raises(InvalidInput, match="key"):
        ask("runs.begin", key=key)


@pytest.mark.long
def test_what_names_no_part_of_the_connection_is_not_found(ask):
    for part in ("", "0" * 32, "x"):
        with pytest.raises(NotFound):
            ask("runs.record", part=part, entries=[], now=0)
        with pytest.raises(NotFound):
            ask("calls.make", tool="exec", arguments={"argv": ["true"]}, part=part)


def test_a_call_may_end_after_its_run_and_nothing_else_is_taken_then(daemon: Daemon, ask, begun):
    told(ask, begun, started(1))
    first, again = (ask("runs.finish", part=begun["part"], outcome="succeeded") for _ in range(2))
    assert first == again == {"run_id": begun["run_id"], "outcome": "succeeded"}
    answers = told(ask, begun, finished(2, 1), started(3), {"kind": "event", "n": 4, "name": "app.late"})
    assert [one.get("error", {}).get("error") for one in answers] == [None, "RunClosed", "RunClosed"]
    assert [one.outcome for one in daemon.runtime.index.run_calls(bytes.fromhex(begun["run_id"]))] == [
        "succeeded"
    ]


@pytest.mark.long
def test_a_told_call_whose_client_is_gone_is_unknown(daemon: Daemon, monkeypatch):
    monkeypatch.setattr(parts, "_FORGET_SECONDS", 0.0)
    with daemon.open() as gone:
        with gone.run("gone", shared=True) as run:
            run_id = run.id
        joined = gone.run("left open")
        joined.__enter__()
        call = joined.observe("search", {"q": 1}).open()
        assert call.position == 0
        left = joined.id
        joined._outcome = "incomplete"  # it just stops
    wait_until(lambda: daemon.runtime.index.call(call.id).outcome is not None)
    found = daemon.runtime.index.call(call.id)
    assert (found.outcome, found.reason) == ("unknown", "its client went away before it ended")
    assert found.latency_us is None
    assert run_id != left


@pytest.mark.long
def test_a_run_that_was_cancelled_by_another_takes_nothing_more(daemon: Daemon, runtime):
    with daemon.open() as other, runtime.run("cancelled") as run:
        other.link.wait(
            other.link.ask("runs.cancel", {"run_id": run.id, "idempotency_key": "k", "reason": "enough"})
        )
        with pytest.raises(RunClosed):
            run.call("exec", {"argv": ["true"]})
    assert daemon.runtime.index.run(run.id).outcome == "cancelled"
