"""What boundary notices cost the calls they tell of: nothing, whatever the listener does.

An observed call with nobody told, beside the same with a listener that answers and with one that accepts
and never reads; then a thousand guarded calls beside the last, and how many notices a second a listener that
answers at once is told.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import custody
from harness import Measurement, Way, arguments, interleave, never_refused, report, scratch, settle

CALLS = 1_000
CALL_US_MAX = 1_000.0
CALLS_SECONDS_MAX = 1.0
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
NOTICE_BYTES = 4096


@custody.tool(effect="read")
def nothing() -> None:
    """A call with no work of its own."""


class Listener:
    """Takes connections, and answers or not."""

    def __init__(self, *, answers: bool) -> None:
        self._answers = answers
        self._kept: list[socket.socket] = []
        self.taken = 0
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            if not self._answers:
                self._kept.append(connection)
                continue
            with connection:
                connection.recv(NOTICE_BYTES)
                connection.sendall(ANSWER)
            self.taken += 1

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self._kept:
            connection.close()


@contextmanager
def telling(store: str, url: str | None) -> Iterator[Any]:
    os.environ.pop("CUSTODY_BOUNDARY_URL", None)
    if url is not None:
        os.environ["CUSTODY_BOUNDARY_URL"] = url
    with custody.open(store, tools=[nothing]) as runtime:
        yield runtime


def observing(run: Any) -> Way:
    def call() -> None:
        with run.observe("nothing", {"left": 1, "right": 2}) as observed:
            observed.result = 3

    return call


def seconds_of(store: str, url: str | None, calls: int) -> float:
    """Of so many guarded calls and the close after them."""
    began = time.perf_counter()
    with telling(store, url) as runtime:
        for _ in range(calls):
            runtime.call("nothing")
    return time.perf_counter() - began


def notices_a_second(store: str, listener: Listener, calls: int) -> float:
    before, began = listener.taken, time.perf_counter()
    with telling(store, listener.url) as runtime, runtime.run("benchmark") as run:
        call = observing(run)
        for _ in range(calls):
            call()
        while listener.taken < before + 2 * calls and time.perf_counter() - began < 60:
            time.sleep(0.001)
    return (listener.taken - before) / (time.perf_counter() - began)


def main() -> None:
    options = arguments(__doc__)
    calls = CALLS // 10 if options.quick else CALLS
    answering, silent = Listener(answers=True), Listener(answers=False)
    with scratch() as folder:
        never_refused(folder)
        stores = iter(str(folder / f"store{number}") for number in range(10))
        with (
            telling(next(stores), None) as alone,
            telling(next(stores), answering.url) as told,
            telling(next(stores), silent.url) as stuck,
            alone.run("alone") as first,
            told.run("told") as second,
            stuck.run("stuck") as third,
        ):
            settle()
            ways = {
                "nobody is told": observing(first),
                "a listener that answers": observing(second),
                "a listener that accepts and never reads": observing(third),
            }
            timings = interleave(ways, rounds=20, calls=max(1, calls // 20))
        settle()
        plain, beside = seconds_of(next(stores), None, calls), seconds_of(next(stores), silent.url, calls)
        rate = notices_a_second(next(stores), answering, calls)
    silent.close()
    answering.close()
    nobody, answered, stalled = timings.values()
    measurements = [
        Measurement(
            9, "an observed call told to a listener that never reads, p50 more",
            stalled.p50_us - nobody.p50_us, "µs", f"≤ {CALL_US_MAX:.0f} µs", CALL_US_MAX,
        ),
        Measurement(
            9, f"{calls:,} calls told to a listener that never reads, close included, more",
            beside - plain, "s", f"≤ {CALLS_SECONDS_MAX:.0f} s", CALLS_SECONDS_MAX,
        ),
        Measurement(9, "notices a listener takes", rate, "/s", "≥ 1,000/s", 1_000.0, "more"),
    ]  # fmt: skip
    details = {"timings": timings, "answered_p99_us": answered.p99_us}
    report("boundary", measurements, details, quick=options.quick)


if __name__ == "__main__":
    main()
