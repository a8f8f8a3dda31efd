"""What a program says arrives as it would without a wire, whatever it says."""

import math
import threading
from datetime import UTC, datetime
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.client.daemon import Daemon

import custody
from custody.errors import InvalidInput
from custody.redaction import Mark, Redactor
from custody.rpc.spoken import heard, spoken

REDACTOR = Redactor(b"k" * 32)


@pytest.fixture(scope="module")
def odd() -> dict:
    cycle: list = []
    cycle.append(cycle)
    return {
        "nan": math.nan, "infinity": -math.inf, "bytes": b"\xff\x00", "surrogate": "a\ud800b", "big": 2**70,
        "set": {1}, "when": datetime(2026, 5, 1, tzinfo=UTC), "cycle": cycle,
        "names": {1: "one", "$type": "x"}, "lock": threading.Lock(), "tuple": (1, 2),
    }  # fmt: skip


def kept(value) -> object:
    """What a store keeps of a value."""
    return msgspec.msgpack.decode(REDACTOR.keep(value, "value").data)


def test_what_is_not_json_is_recorded_as_in_a_store_of_ones_own(odd, daemon: Daemon, runtime):
    with custody.open(":memory:") as local, local.run() as run:
        with run.observe("odd", odd) as call:
            call.result = odd
        run.event("odd", **odd)
        run.step(data=odd)
        here = local.index.call(call.id)
        event, step = local.index.events(name="app.odd").items[0], local.index.run_steps(run.run_id)[0]

    with runtime.run() as run:
        with run.observe("odd", odd) as call:
            call.result = odd
        run.event("odd", **odd)
        run.step(data=odd)
    there = daemon.runtime.index.call(call.id)

    def but_for_where_it_lies(value):
        """Where an object lies in memory is no part of what it says."""
        return {name: item for name, item in value.items() if name != "lock"}

    assert but_for_where_it_lies(there.arguments) == but_for_where_it_lies(here.arguments)
    assert but_for_where_it_lies(there.result) == but_for_where_it_lies(here.result)
    assert there.arguments["lock"]["class"] == here.arguments["lock"]["class"]
    told = daemon.runtime.index.events(name="app.odd").items[0]
    assert but_for_where_it_lies(told.data) == but_for_where_it_lies(event.data)
    steps = daemon.runtime.index.run_steps(run.run_id)
    assert but_for_where_it_lies(steps[0].data) == but_for_where_it_lies(step.data)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
)
names = st.text() | st.sampled_from(["$type", "$blob"])
json_values = st.deferred(
    lambda: scalars | st.lists(json_values, max_size=4) | st.dictionaries(names, json_values, max_size=4)
)


@settings(max_examples=50)
@given(json_values)
def test_what_is_heard_is_kept_as_what_was_said(value):
    said = spoken(value)
    assert kept(heard(said.value, marked=said.marked)) == kept(value)


def test_a_mapping_that_looks_like_a_mark_is_none():
    said = {"$type": "bytes", "base64": "AA=="}
    assert spoken(said).marked
    assert heard(spoken(said).value, marked=True) == said
    assert type(heard(spoken(said).value, marked=True)) is not Mark


@pytest.mark.long
def test_a_payload_larger_than_a_frame_is_left_out_and_counted(daemon: Daemon, runtime):
    with runtime.run("large") as run:
        with run.observe("read", {"path": "x"}) as call:
            call.result = "y" * (9 * 1024 * 1024)
        run.event("large", text="z" * (9 * 1024 * 1024))
    there = daemon.runtime.index.call(call.id)
    assert (there.arguments, there.outcome) == ({"path": "x"}, "succeeded")
    assert there.result == {"$type": "too_large", "bytes": 9 * 1024 * 1024 + 2}
    assert daemon.runtime.index.events(name="app.large").items[0].data["data"]["$type"] == "too_large"


@pytest.mark.long
def test_a_call_larger_than_a_frame_is_refused_and_the_connection_goes_on(runtime):
    with pytest.raises(InvalidInput, match="bytes"):
        runtime.call("exec", {"argv": ["true", "x" * (17 * 1024 * 1024)]})
    assert runtime.call("exec", {"argv": ["true"]}).outcome == "succeeded"


def test_a_secret_in_what_is_told_is_replaced_as_in_what_is_called(daemon: Daemon, runtime):
    secret = "AKIA" + "Q3EGRNHY7ZKXW5TP"
    with runtime.run("secret") as run:
        with run.observe("get", {"key": secret, "raw": secret.encode()}) as call:
            call.result = {"password": "hunter2hunter2"}
        called = run.call("exec", {"argv": ["echo", secret]})
    assert secret in called.result["stdout"]  # its own caller has what it asked for
    for there in daemon.runtime.index.run_calls(run.run_id):
        assert secret not in repr((there.arguments, there.result))
    assert "hunter2" not in repr(daemon.runtime.index.call(call.id).result)
    as_recorded = runtime.call("exec", {"argv": ["echo", secret]}, as_recorded=True)
    assert secret not in repr(as_recorded.result)


@pytest.mark.long
def test_over_a_unix_socket_it_is_the_same():
    with TemporaryDirectory(prefix="custody-") as folder:  # short: a socket's path has 107 bytes at most
        path = f"{folder}/s"
        with Daemon(path=path), custody.open(f"unix://{path}", agent="tester") as runtime:
            assert runtime.call("exec", {"argv": ["true"]}).outcome == "succeeded"
