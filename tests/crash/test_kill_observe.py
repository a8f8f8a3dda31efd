"""A program that records its own calls is killed at random moments: what was recorded is there, what had
begun is unknown, and the runs are ended.

The program tells through a pipe what it has just done, after the record of it is written.
"""

import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import custody
from custody.index import CallFilter, RunFilter
from custody.index.query import LIMIT_MAX

THREADS = 3
SOURCE = Path(custody.__path__[0]).parent

AGENT = textwrap.dedent(
    """
    import os, random, sys, threading
    import custody

    chance = random.Random(sys.argv[2])

    def tell(*words):
        # A disk that is behind has the record queued in this process: told of is only what is written.
        assert runtime._runtime.recording.backlog.drain(120)
        os.write(1, " ".join(map(str, words)).encode() + b"\\n")

    def work(run, number):
        step = run.step("x" * chance.randrange(3000), model="m", tokens={"input": 1})
        tell("step", step.id, step.position)
        call = run.observe("search", {"n": number, "q": "x" * chance.choice((1, 2000, 30000))}).open()
        tell("open", call.id, call.position)
        if chance.random() < 0.1:
            return  # left open
        call.result = {"n": number, "r": "y" * chance.choice((1, 2000, 30000))}
        call.close(ValueError("no") if chance.random() < 0.1 else None)
        tell("closed", call.id, call.outcome)

    def some(run):
        for number in range(chance.randrange(8)):
            work(run, number)

    with custody.open(sys.argv[1]) as runtime:
        tell("opened")
        while True:
            run = runtime.run("a job", agent="a")
            with run:
                tell("run", run.id)
                threads = [threading.Thread(target=some, args=(run,)) for _ in range(3)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                with run.child("below") as child:
                    tell("run", child.id)
                    work(child, 0)
                tell("ended", child.id)
            tell("ended", run.id)
    """
)


def told_until_killed(folder: Path, seed: str, messages: int, spin: int) -> list[list[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", AGENT, os.fspath(folder / "store"), seed],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.fspath(SOURCE)},
        cwd=folder,
        bufsize=0,
    ) as process:
        assert process.stdout is not None
        stream = b""
        try:
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
    return [line.split() for line in stream.decode().splitlines()]


def everything(ask, condition) -> Iterator:
    cursor = None
    while True:
        page = ask(condition, LIMIT_MAX, cursor)
        yield from page.items
        cursor = page.next
        if cursor is None:
            return


def judge(folder: Path, told: list[list[str]]) -> tuple[int, int]:
    """Against what the program said it had done; how many calls were closed and how many in flight."""
    closed = {words[1]: words[2] for words in told if words[0] == "closed"}
    opened = {words[1]: int(words[2]) for words in told if words[0] == "open"}
    steps = {words[1] for words in told if words[0] == "step"}
    runs = {words[1] for words in told if words[0] == "run"}
    ended = {words[1] for words in told if words[0] == "ended"}
    with custody.open(os.fspath(folder / "store"), cwd=os.fspath(folder)) as runtime:
        index = runtime.index
        calls = {call.id: call for call in everything(index.calls, CallFilter())}
        found_runs = {run.id: run for run in everything(index.runs, RunFilter())}
        found_steps = {step.id for run in runs for step in index.run_steps(bytes.fromhex(run))}
        assert runs <= found_runs.keys()
        assert steps <= found_steps
        for call_id, position in opened.items():
            call = calls[call_id]
            assert call.position == position
            if call_id in closed:
                assert call.outcome == closed[call_id]
            else:  # its end may have been written, and not been told of any more
                assert call.outcome in ("unknown", "succeeded", "failed")
        for run_id, run in found_runs.items():
            assert run.outcome is not None
            if run_id in ended:
                assert run.outcome == "succeeded"
            numbered = [call.position for call in index.run_calls(bytes.fromhex(run_id))]
            numbered += [step.position for step in index.run_steps(bytes.fromhex(run_id))]
            assert len(set(numbered)) == len(numbered)
            # Each thread may have taken a position, and been killed before it wrote the record.
            holes = 0 if run.outcome == "succeeded" else THREADS
            assert max(numbered, default=-1) < len(numbered) + holes
        if closed:
            whole = index.call(next(iter(closed)))
            assert whole.arguments["n"] >= 0 and (
                whole.result is None or whole.result["n"] == whole.arguments["n"]
            )
    return len(closed), sum(call.outcome == "unknown" for call in calls.values())


def run_lane(folder: Path, kills: int, kills_max: int) -> tuple[int, int]:
    """At least so many kills, and more of them until one has hit a call and one came after a call's end."""
    receipts = in_flight = kill = 0
    while kill < kills or (kill < kills_max and not (receipts and in_flight)):
        chance = random.Random(f"observe {kill}")
        place = folder / f"{kill}"
        place.mkdir()
        told = told_until_killed(place, f"{kill}", chance.randrange(1, 400), chance.randrange(20_000))
        closed, unknown = judge(place, told)
        receipts, in_flight = receipts + closed, in_flight + unknown
        kill += 1
    return receipts, in_flight


def test_a_few_killed_agents_lose_nothing_that_was_recorded_and_the_rest_is_unknown(tmp_path: Path) -> None:
    receipts, in_flight = run_lane(tmp_path, 2, kills_max=20)
    assert receipts and in_flight


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_hundred_killed_agents_lose_nothing_that_was_recorded_and_the_rest_is_unknown(
    tmp_path: Path,
) -> None:
    receipts, in_flight = run_lane(tmp_path, 100, kills_max=100)
    sys.stdout.write(f"\n100 kills, {receipts} ended calls told of, {in_flight} in flight, 0 lost\n")
    assert receipts >= 2_000 and in_flight >= 50


MID_CALL = textwrap.dedent(
    """
    import os, sys
    import custody

    with custody.open(sys.argv[1]) as runtime, runtime.run("work", agent="a") as run:
        run.step("let me look")
        with run.observe("search", {"q": 1}) as call:
            call.result = "found"
        with run.observe("pay", {"amount": 3}, external_id="toolu_9"):
            print("in the middle", flush=True)
            os.kill(os.getpid(), 9)
    """
)


def test_a_kill_in_the_middle_of_an_observed_call_leaves_it_unknown_and_everything_before_it(
    tmp_path: Path,
) -> None:
    store = os.fspath(tmp_path / "store")
    environment = {**os.environ, "PYTHONPATH": os.fspath(SOURCE)}
    said = subprocess.run(
        [sys.executable, "-c", MID_CALL, store], env=environment, capture_output=True, timeout=60
    )
    assert (said.returncode, said.stdout) == (-9, b"in the middle\n")
    with custody.open(store) as runtime:
        (run,) = runtime.index.runs(RunFilter(agent="a")).items
        search, pay = runtime.index.run_calls(bytes.fromhex(run.id), details=True)
        (step,) = runtime.index.run_steps(bytes.fromhex(run.id))
    assert (run.outcome, run.reason) == ("incomplete", "killed")
    assert (search.outcome, search.result) == ("succeeded", "found")
    assert (pay.outcome, pay.arguments, pay.external_id) == ("unknown", {"amount": 3}, "toolu_9")
    assert step.text == "let me look"
