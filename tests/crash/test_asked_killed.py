"""A program is killed while a person is asked, or right behind the answer: a yes is used once at most."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.settings_for_tests import never_short_of_resources

import custody
from custody.calls.questions import Means, answer_question
from custody.compose import open_runtime
from custody.records import Kind
from custody.settings import load_settings
from custody.stores import open_view

pytestmark = pytest.mark.long

POLICY = """
[[rules]]
name = "look"
decision = "ask"
tool = "note"
[budgets.store]
calls = 3
"""

WORKER = """
import asyncio, os, sys, threading
import custody
from custody.calls import samples
from custody.calls.answers import yes
from custody.compose import open_runtime
from custody.journal import RealDisk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.records import Kind
from custody.settings import load_settings

store, killed = sys.argv[1:]
samples.SAMPLE_SECONDS = 3600.0  # a sample is a record, too, and records are counted below

@custody.tool(effect="read")
def note(text: str) -> str:
    print("RAN", flush=True)
    return text

def answered(journal):
    return any(stored.kind == Kind.CALL_ANSWERED for stored in journal.follow())

def tell(disk):
    disk.wait_for_hits(1, 60)
    print("now", flush=True)

async def main():
    held, go_on, asked, say = (asyncio.Event() for _ in range(4))

    @custody.tool(effect="read")
    async def hold() -> None:
        held.set()
        await go_on.wait()

    async def prompt(question):
        asked.set()
        await say.wait()
        return yes(question, "kim")

    settings = load_settings(store=store)
    disk = FaultyDisk(RealDisk(settings.store, create=True))
    async with await open_runtime(settings, disk=disk, tools=[note, hold]) as runtime:
        runtime.prompt = prompt
        calling = asyncio.ensure_future(runtime.call("note", {"text": "x"}))
        await asked.wait()
        if killed != "asked":
            holding = asyncio.ensure_future(runtime.call("hold", {}))  # the one place there is
            await held.wait()
            say.set()
            while not await asyncio.to_thread(answered, runtime.journal):
                await asyncio.sleep(0)
        if killed in ("asked", "answered"):
            print("now", flush=True)
            await asyncio.Event().wait()
        threading.Thread(target=tell, args=(disk,), daemon=True).start()
        # The first record from here on ends `hold`, the second uses the answer, the third is the start.
        at = {"reserved": 2, "used": 3}[killed]
        disk.inject(Fault(operation="put", at=at, times=None, error=None, stall_seconds=60, within=".seg"))
        go_on.set()
        await calling

asyncio.run(main())
"""


@custody.tool(effect="read")
def note(text: str) -> str:
    return text


@pytest.fixture
def store(tmp_path, monkeypatch) -> str:
    """Where one call runs at a time, under the policy."""
    config, work = tmp_path / "config", tmp_path / "work"
    monkeypatch.setenv("XDG_CONFIG_HOME", os.fspath(config))
    never_short_of_resources(config)
    settings = config / "custody" / "custody.toml"
    settings.write_text(settings.read_text() + "[calls]\nparallel = 1\n")
    work.mkdir()
    monkeypatch.chdir(work)
    (settings.parent / "policy.toml").write_text(POLICY)
    return os.fspath(tmp_path / "store")


def kill_when(killed: str, store: str) -> None:
    source = os.fspath(Path(custody.__path__[0]).parent)
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, store, killed],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    )
    assert worker.stdout is not None
    said = worker.stdout.readline()
    worker.kill()
    rest = worker.stdout.read()
    worker.wait(10)
    worker.stdout.close()
    assert (said, rest) == ("now\n", "")


def kinds_of(runtime, call_id: str) -> list[str]:
    return [
        Kind(stored.kind).name
        for stored in runtime.journal.follow()
        if stored.kind in (Kind.CALL_ASKED, Kind.CALL_ANSWERED, Kind.CALL_STARTED, Kind.CALL_FINISHED)
        and bytes.fromhex(call_id) in stored.leaf
    ]


@pytest.mark.parametrize("killed", ["asked", "answered", "reserved", "used"])
def test_what_was_asked_is_closed_and_a_yes_lets_one_call_pass_at_most(store, killed):
    kill_when(killed, store)

    async def main():
        async with await open_runtime(load_settings(store=store), tools=[note]) as runtime:
            (left,) = [call for call in runtime.index.calls().items if call.tool == "note"]
            if killed == "asked":
                means = Means(journal=runtime.journal, recorder=runtime.ledger.recorder, index=runtime.index)
                await asyncio.to_thread(answer_question, means, left.id, "allow", person="kim")
            again = [await runtime.call("note", {"text": "x"}) for _ in range(3)]
            return left, again, kinds_of(runtime, left.id)

    left, again, kinds = asyncio.run(main())
    assert left.outcome == "rejected"
    closed = (left.reason, left.decision.verdict, left.decision.by)
    if killed == "asked":
        assert closed == ("its process ended before anybody answered", "deny", "nobody")
    else:
        assert closed == ("its process ended before the call started", "allow", "person")
    assert sorted(kinds) == ["CALL_ANSWERED", "CALL_ASKED", "CALL_FINISHED"]
    outcomes = [call.outcome for call in again]
    assert outcomes == ["rejected" if killed == "used" else "succeeded", "rejected", "rejected"]
    checked = subprocess.run(
        [sys.executable, "-m", "custody", "verify", "--store", store], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    with open_view(load_settings(store=store)) as view:
        assert None not in [call.outcome for call in view.index.calls().items]


def test_what_a_killed_program_had_reserved_for_a_call_that_never_started_is_there_again(store):
    """The budget is three calls; `hold` was one."""
    kill_when("reserved", store)
    policy = Path(os.environ["XDG_CONFIG_HOME"]) / "custody" / "policy.toml"
    policy.write_text("[budgets.store]\ncalls = 3\n")
    with custody.open(store, tools=[note]) as runtime:
        outcomes = [runtime.call("note", {"text": text}).outcome for text in "abc"]
    assert outcomes == ["succeeded", "succeeded", "rejected"]
