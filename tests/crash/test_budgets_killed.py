"""A budget of a hundred calls, asked for by 64 callers in four processes, some of which are killed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from custody.journal import Journal
from custody.journal.disk import RealDisk
from custody.records import Kind

pytestmark = pytest.mark.long

CALLS = 100
THREADS = 16
SECONDS_MAX = 60

WORKER = """
import os, sys, threading
from custody.calls.budgets import Admission, Admitted, Limits, open_spending
from custody.journal import Journal
from custody.journal.disk import RealDisk
from custody.policy.model import Budget
from custody.records import (
    KINDS, CallFinished, CallStarted, Decision, Redacted, Request, encode_leaf, now_us
)

folder, doing, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
journal = Journal(RealDisk(folder))
spending = open_spending(os.path.join(folder, "index.db"), journal, b"k" * 32)
limits = Limits(budgets=(Budget(per="store", amounts={"calls": int(sys.argv[4])}),))
go = threading.Barrier(threads)

def put(leaf):
    journal.append(KINDS[type(leaf)], encode_leaf(leaf), Redacted(b""))

def say(word):
    os.write(1, word.encode() + b"\\n")

def start(call):
    request = Request(None, None, call.tool, "read", "none", Decision("allow", "rule", ""), call.at_us)
    put(CallStarted(call.call_id, call.at_us, 0, b"", request=request))

def work(number):
    go.wait(30)
    while True:
        call = Admission(call_id=os.urandom(8), tool="bash", effect="read", at_us=now_us())
        if not isinstance(spending.admit(call, limits), Admitted):
            return
        if doing == "hold":
            if number % 2:
                start(call)
            say("held")
            threading.Event().wait()
        say("admitted")
        start(call)
        put(CallFinished(call.call_id, now_us(), "succeeded", b""))

every = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
for thread in every: thread.start()
for thread in every: thread.join()
journal.close()
"""


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[object]:
    begun: list[subprocess.Popen[bytes]] = []

    def make(doing: str = "work") -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", WORKER, str(tmp_path), doing, str(THREADS), str(CALLS)]
        begun.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        return begun[-1]

    yield make
    for process in begun:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[bytes]) -> int:
    """How many calls it says it was let."""
    out, _ = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 0
    return out.count(b"admitted")


def wait_for(process: subprocess.Popen[bytes], lines: int) -> None:
    assert process.stdout is not None
    for _ in range(lines):
        assert process.stdout.readline()


def starts(folder: Path) -> int:
    return sum(stored.kind == Kind.CALL_STARTED for stored in Journal(RealDisk(str(folder))).follow())


def delete_index(folder: Path) -> None:
    for path in folder.glob("index.db*"):
        path.unlink()


def test_four_processes_get_exactly_what_there_is_and_nothing_after_a_restart(begin, tmp_path: Path):
    assert sum(said(process) for process in [begin() for _ in range(4)]) == CALLS
    assert said(begin()) == 0
    delete_index(tmp_path)
    assert said(begin()) == 0
    assert starts(tmp_path) == CALLS


def test_what_a_killed_process_had_reserved_comes_back_and_never_more(begin, tmp_path: Path):
    doomed = begin("hold")
    wait_for(doomed, THREADS)  # half of its calls are on the record
    first = begin()
    wait_for(first, 5)
    others = [begin() for _ in range(2)]
    first.kill()  # wherever it is
    first.wait()
    for process in others:
        said(process)
    assert starts(tmp_path) <= CALLS - THREADS // 2
    doomed.kill()
    doomed.wait()
    said(begin())
    assert starts(tmp_path) == CALLS
    assert os.path.exists(tmp_path / "index.db")
