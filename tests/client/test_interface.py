"""A client offers what a local runtime offers, under the same names."""

import inspect
import os
import subprocess
import sys

import pytest
from tests.client.daemon import WAIT_SECONDS, Daemon

import custody
from custody.blocking import BlockingRun, BlockingRuntime
from custody.calls.handle import RunHandle
from custody.calls.observe import ObservedCall
from custody.calls.runtime import Runtime
from custody.client.blocking import BlockingRemoteRuntime
from custody.client.index import RemoteIndex
from custody.client.observed import RemoteCall
from custody.client.run import BlockingRemoteRun, RemoteRun
from custody.client.runtime import RemoteRuntime
from custody.index import Index

OF_THE_STORE = {
    "closing", "new_run", "child_of", "joined_run", "run_of_name", "recording", "journal",
    "undo_store",  # of a runtime
    "belongs_to", "dropped", "failed", "keep", "keep_numbered", "record_step", "end_at_close",  # of a run
    "after_fork_in_child", "start", "kept", "damage",
}  # fmt: skip
"""What is public for the neighbours of a class, and no part of what a program uses."""


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (Runtime, RemoteRuntime),
        (BlockingRuntime, BlockingRemoteRuntime),
        (RunHandle, RemoteRun),
        (BlockingRun, BlockingRemoteRun),
        (ObservedCall, RemoteCall),
        (Index, RemoteIndex),
    ],
)
def test_every_name_is_there_and_takes_the_same(here, there):
    names = {name for name in dir(here) if not name.startswith("_")} - OF_THE_STORE
    assert names - set(dir(there)) <= {"call_id", "cached", "passed", "result", "outcome", "stored", "index"}
    for name in names & set(dir(there)):
        mine, its = getattr(here, name), getattr(there, name)
        if inspect.isfunction(mine) and inspect.isfunction(its) and its.__name__ == name:
            missing = set(inspect.signature(mine).parameters) - set(inspect.signature(its).parameters)
            ours = {"durable", "origin", "io", "now_us", "after_position", "limit", "by_name", "prompt"}
            assert missing <= ours, name
            assert inspect.iscoroutinefunction(mine) == inspect.iscoroutinefunction(its), name


def test_a_decorated_function_is_observed_in_the_run_around_it(daemon: Daemon, runtime):
    @custody.observed
    def look(query: str) -> int:
        return len(query)

    with runtime.run("decorated") as run:
        assert look("abc") == 3
    (call,) = daemon.runtime.index.run_calls(run.run_id)
    assert (call.tool, call.arguments, call.result) == ("look", {"query": "abc"}, 3)


def test_a_run_handed_on_in_a_circle_is_refused_by_the_daemon(daemon: Daemon, runtime):
    with runtime.run("task", agent="a") as run, run.child("part", agent="b") as child:
        with pytest.raises(custody.Denied, match="circle"), child.child("task", agent="a"):
            raise AssertionError("it began")
        assert daemon.runtime.index.run(child.id).parent_run_id == run.id


@pytest.mark.long
def test_a_forked_child_disturbs_nothing(runtime):
    with runtime.run("parent") as run:
        child = os.fork()
        if child == 0:
            try:
                with run.observe("in the child"):
                    pass
                runtime.call("exec", {"argv": ["true"]})
            except custody.UsageError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert run.call("exec", {"argv": ["true"]}).position == 0


@pytest.mark.long
def test_a_program_that_just_ends_has_told_what_it_did(daemon: Daemon):
    program = f"""
import custody
from custody.client import runtime, told
told.BEGIN_SECONDS = runtime.EXIT_SECONDS = {WAIT_SECONDS}  # the machine may be busy
runtime = custody.open({daemon.address!r}, agent="brief").__enter__()
run = runtime.run("brief").__enter__()
for number in range(100):
    with run.observe("search", {{"n": number}}) as call:
        call.result = number
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=2 * WAIT_SECONDS)
    assert len(daemon.runtime.index.calls(agent="brief", outcome="succeeded", limit=200).items) == 100


@pytest.mark.long
def test_without_the_library_it_says_what_to_install(daemon: Daemon):
    program = f"""
import sys
for name in ("websockets", "websockets.asyncio", "websockets.asyncio.client"):
    sys.modules[name] = None
import custody
try:
    custody.open({daemon.address!r}).__enter__()
except custody.UsageError as error:
    sys.exit(0 if "pip install 'custody-runtime[serve]'" in str(error) else 2)
sys.exit(1)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
