"""A call can be ended from anywhere, and its record says so."""

import os
import subprocess
import sys
import threading

import custody
from custody.index import CallFilter
from custody.sandbox import find_survivors
from custody.tools import ProcessIO


class Running:
    """A command that says when it runs, and the call it belongs to."""

    def __init__(self, runtime, call_of):
        started = threading.Event()
        self.ended = []
        io = ProcessIO(on_output=lambda stream, data: started.set())
        command = {"command": "echo go; sleep 4321 & sleep 4321"}
        self.waiting = threading.Thread(target=lambda: self.ended.append(call_of(command, io)))
        self.waiting.start()
        assert started.wait(30), "the command never ran"
        (self.call,) = runtime.index.calls(CallFilter(outcome="running")).items

    def end(self):
        self.waiting.join(30)
        (call,) = self.ended
        return call


def test_a_call_is_cancelled_from_another_process_and_its_tree_is_gone(tmp_path):
    store = os.fspath(tmp_path / "store")
    with custody.open(store) as runtime:
        running = Running(runtime, lambda command, io: runtime.call("shell", command, timeout=0, io=io))
        call_id = running.call.id
        other = f"import custody\nwith custody.open({store!r}) as runtime: print(runtime.cancel({call_id!r}))"
        said = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, timeout=30)
        ended = running.end()

        assert said.stdout.strip() == repr([call_id]), said.stderr
        assert (ended.outcome, ended.limit_hit) == ("cancelled", "cancelled")
        assert find_survivors(call_id) == []
        assert runtime.cancel(call_id) == []


def test_cancelling_a_run_ends_its_calls(tmp_path):
    with custody.open(os.fspath(tmp_path / "store")) as runtime:

        def work(command, io):
            with runtime.run("long work"):
                return runtime.call("shell", command, timeout=0, io=io)

        running = Running(runtime, work)
        asked = runtime.cancel(running.call.run_id)

        assert asked == [running.call.id]
        assert running.end().outcome == "cancelled"


def test_a_call_that_ends_before_it_is_looked_for_again_was_asked_too(tmp_path, monkeypatch):
    with custody.open(os.fspath(tmp_path / "store")) as runtime:

        def work(command, io):
            with runtime.run("long work"):
                return runtime.call("shell", command, timeout=0, io=io)

        running = Running(runtime, work)
        requests = runtime._runtime.journal.cancel_requests
        post = requests.post

        def post_and_be_slow(target):
            post(target)
            running.waiting.join(30)

        monkeypatch.setattr(requests, "post", post_and_be_slow)
        assert runtime.cancel(running.call.run_id) == [running.call.id]
        assert running.end().outcome == "cancelled"


def test_closing_the_runtime_ends_what_still_runs_and_records_it(tmp_path):
    store = os.fspath(tmp_path / "store")
    with custody.open(store) as runtime:
        running = Running(runtime, lambda command, io: runtime.call("shell", command, timeout=0, io=io))

    assert running.end().outcome == "cancelled"
    with custody.open(store) as runtime:
        assert runtime.index.call(running.call.id).outcome == "cancelled"
