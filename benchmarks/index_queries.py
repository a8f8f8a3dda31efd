"""Row 7: questions to the index over a million calls, and how fast it is filled.

The calls are those of agents at work: a few tools make most of them, nine in ten succeed, words occur by
Zipf's law. Each question asks for a page of 50 calls, arguments and results included, which are read from
the journal; the values asked for are drawn at random, rare and frequent ones alike.
"""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from custody.index import CallFilter, Index, RunFilter
from custody.journal import Journal
from custody.journal.disk import RealDisk
from custody.records import (
    KINDS,
    CallFinished,
    CallStarted,
    Decision,
    Leaf,
    Redacted,
    Request,
    RunFinished,
    RunStarted,
    encode_leaf,
)
from harness import Measurement, arguments, report, scratch

FILTER_MS_MAX = 20.0
TEXT_MS_MAX = 100.0
RECORDS_PER_SECOND_MIN = 50_000.0

SEED = 7
CALLS_PER_RUN = 200
RUNS_PER_SESSION = 5
PAGE = 50
ASKED_EACH = 60
BEGIN_US = 1_790_000_000_000_000
GAP_US_MAX = 2_000_000
WORDS = 50_000
TOOLS = {"exec": 40, "shell": 20, "file_read": 15, "file_write": 8, "git": 5, "http_fetch": 2} | {
    f"tool_{number}": 0.7 for number in range(14)
}
OUTCOMES = {
    "succeeded": 90.0,
    "failed": 7.0,
    "timed_out": 1.0,
    "cancelled": 0.5,
    "rejected": 1.0,
    "unknown": 0.5,
}
ALLOW = Decision("allow", "nobody", "no rule is against it")
DIGEST = bytes(range(32))
SALT = b"\x01" * 16


class Work:
    """Writes the records of agents at work, the same every time."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._random = random.Random(SEED)
        words = [f"word{number}" for number in range(WORDS)]
        self._said = self._random.choices(words, [1 / rank for rank in range(1, WORDS + 1)], k=500_000)
        self._spoken = 0
        self.at_us = BEGIN_US
        self.runs: list[bytes] = []

    def text(self, count: int) -> str:
        start = self._spoken % (len(self._said) - count)
        self._spoken += count
        return " ".join(self._said[start : start + count])

    def record(self, calls: int) -> None:
        outcomes = self._random.choices(list(OUTCOMES), list(OUTCOMES.values()), k=calls)
        tools = self._random.choices(list(TOOLS), list(TOOLS.values()), k=calls)
        for number in range(calls):
            position = number % CALLS_PER_RUN
            if position == 0:
                self._start_run()
            self._call(position, tools[number], outcomes[number])
            if position == CALLS_PER_RUN - 1:
                leaf = RunFinished(self.runs[-1], self.at_us, DIGEST, "succeeded")
                self._put(leaf, {"output": self.text(5)})
        self._journal.sync()

    def _start_run(self) -> None:
        self.runs.append(self._random.randbytes(16))
        leaf = RunStarted(
            self.runs[-1],
            self.at_us,
            DIGEST,
            agent=f"agent_{self._random.randrange(5)}",
            caller="someone",
            session_id=f"session_{len(self.runs) // RUNS_PER_SESSION}",
            workspace=f"/home/someone/project_{self._random.randrange(10)}",
        )
        self._put(leaf, {"intent": self.text(8)})

    def _call(self, position: int, tool: str, outcome: Any) -> None:
        self.at_us += self._random.randrange(1_000, GAP_US_MAX)
        call_id, latency_us = self._random.randbytes(8), int(self._random.lognormvariate(10, 1))
        request = Request(
            self.runs[-1], position, tool, "write", "process", ALLOW, self.at_us, pid=77, thread_id=78
        )
        asked = {"argv": [f"/usr/bin/{tool}", *self.text(5).split()], "cwd": "/home/someone/project"}
        if outcome == "rejected":
            leaf = CallFinished(call_id, self.at_us, outcome, DIGEST, request, "denied")
            self._put(leaf, {"arguments": asked})
            return
        self._put(CallStarted(call_id, self.at_us, self.at_us * 1000, DIGEST, request), {"arguments": asked})
        result = {"stdout": self.text(15), "stderr": "", "exit_code": 0}
        finished = CallFinished(
            call_id, self.at_us + latency_us, outcome, DIGEST, latency_us=latency_us, exit_code=0
        )
        self._put(finished, {"result": result})

    def _put(self, leaf: Leaf, payload: dict[str, Any]) -> None:
        data = Redacted(SALT + msgspec.msgpack.encode(payload))
        self._journal.append(KINDS[type(leaf)], encode_leaf(leaf), data)


def filters(chance: random.Random, work: Work) -> Iterator[tuple[str, Callable[[], CallFilter]]]:
    """Name of a kind of question -> one of that kind."""

    def tool() -> str:
        return chance.choice(list(TOOLS))

    def outcome() -> str:
        return chance.choice([*OUTCOMES, "running"])

    def times() -> dict[str, int]:
        since_us = chance.randrange(BEGIN_US, work.at_us)
        return {"since_us": since_us, "until_us": since_us + chance.choice([10**8, 10**10, 10**12])}

    yield "run", lambda: CallFilter(run=chance.choice(work.runs).hex())
    yield "tool", lambda: CallFilter(tool=tool())
    yield "outcome", lambda: CallFilter(outcome=outcome())
    yield "time", lambda: CallFilter(**times())
    yield "tool and outcome", lambda: CallFilter(tool=tool(), outcome=outcome())
    yield "tool, outcome and time", lambda: CallFilter(tool=tool(), outcome=outcome(), **times())
    yield (
        "run and outcome",
        lambda: CallFilter(run=chance.choice(work.runs).hex(), outcome=outcome()),
    )
    yield (
        "workspace and outcome",
        lambda: CallFilter(
            workspace=f"/home/someone/project_{chance.randrange(10)}", outcome=outcome(), order="oldest"
        ),
    )
    yield (
        "session and tool",
        lambda: CallFilter(
            session=f"session_{chance.randrange(len(work.runs) // RUNS_PER_SESSION)}", tool=tool()
        ),
    )


def searches(chance: random.Random, work: Work) -> Iterator[tuple[str, Callable[[], CallFilter]]]:
    def word() -> str:
        return work.text(chance.randrange(1, 50)).split()[-1]

    yield "one word", lambda: CallFilter(text=word())
    yield "two words", lambda: CallFilter(text=f"{word()} {word()}")
    yield "phrase", lambda: CallFilter(text=f'"{work.text(2)}"')
    yield "word and tool", lambda: CallFilter(text=word(), tool=chance.choice(list(TOOLS)))
    yield "word and outcome", lambda: CallFilter(text=word(), outcome=chance.choice(list(OUTCOMES)))
    yield "word, oldest first", lambda: CallFilter(text=word(), order="oldest")


def ask(index: Index, kinds: Iterator[tuple[str, Callable[[], CallFilter]]]) -> dict[str, list[float]]:
    """Milliseconds of each question, by kind."""
    taken: dict[str, list[float]] = {}
    for name, make in kinds:
        questions = [make() for _ in range(ASKED_EACH)]
        index.calls(questions[0], PAGE)
        for question in questions:
            start = time.perf_counter()
            index.calls(question, PAGE)
            taken.setdefault(name, []).append((time.perf_counter() - start) * 1e3)
    return taken


def p95(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.95)]


def fill(journal: Journal, path: Path) -> tuple[Index, float, float, int]:
    """The index, records a second while it was filled and of a bare scan, and their number."""
    start = time.perf_counter()
    records = sum(1 for _ in journal.follow())
    scanned = records / (time.perf_counter() - start)
    index = Index(str(path), journal)
    start = time.perf_counter()
    index.refresh()
    return index, records / (time.perf_counter() - start), scanned, records


def main() -> None:
    options = arguments(__doc__, calls=(1_000_000, "calls in the store"))
    calls = options.calls // (10 if options.quick else 1)
    with scratch() as folder:
        journal = Journal(RealDisk(str(folder / "store")))
        work = Work(journal)
        work.record(calls)
        index, filled, scanned, records = fill(journal, folder / "store" / "index.db")
        chance = random.Random(SEED)
        by_filter = ask(index, filters(chance, work))
        by_text = ask(index, searches(chance, work))
        start = time.perf_counter()
        index.runs(RunFilter(), PAGE)
        runs_ms = (time.perf_counter() - start) * 1e3
        index.close()
        journal.close()
        index_bytes = (folder / "store" / "index.db").stat().st_size / calls
    scale = f"{calls:,} calls"
    measurements = [
        Measurement(
            row=7,
            what=f"{scale}: filter by run, tool, outcome, time, p95 of a page of {PAGE}",
            value=p95([ms for taken in by_filter.values() for ms in taken]),
            unit="ms",
            target=f"≤ {FILTER_MS_MAX:.0f} ms",
            limit=FILTER_MS_MAX,
        ),
        Measurement(
            row=7,
            what=f"{scale}: full text, p95 of a page of {PAGE}",
            value=p95([ms for taken in by_text.values() for ms in taken]),
            unit="ms",
            target=f"≤ {TEXT_MS_MAX:.0f} ms",
            limit=TEXT_MS_MAX,
        ),
        Measurement(
            row=7,
            what=f"{scale}: rebuild",
            value=filled,
            unit="records/s",
            target=f"≥ {RECORDS_PER_SECOND_MIN:,.0f} records/s",
            limit=RECORDS_PER_SECOND_MIN,
            better="more",
            peers={"a bare scan of the journal": scanned},
        ),
    ]
    details = {
        "calls": calls,
        "records": records,
        "index bytes a call": index_bytes,
        "page of runs, ms": runs_ms,
        "filters, p95 ms": {name: p95(taken) for name, taken in by_filter.items()},
        "searches, p95 ms": {name: p95(taken) for name, taken in by_text.items()},
    }
    for group in ("filters, p95 ms", "searches, p95 ms"):
        print(group, {name: round(value, 2) for name, value in details[group].items()})
    report("index_queries", measurements, details, quick=options.quick)


if __name__ == "__main__":
    main()
