"""Recording alone, without a runtime: a store, a recorder, and the two records of one call.

Used by the scripts that measure recording. The records are those a call in a run has, with every field
that a real one fills in; what is left out is deciding and running.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from custody.calls.guards import ALLOWED
from custody.journal import Journal
from custody.journal.disk import RealDisk
from custody.recorder import Recorder
from custody.records import (
    CallFinished,
    CallStarted,
    IdSource,
    Request,
    RunStarted,
    Usage,
    now_us,
)
from custody.redaction import Redactor

_LINE = "src/shop/basket.py:%03d: AssertionError: expected the total of 3 items to be 41.97, got 39.97\n"

ARGUMENTS: dict[str, Any] = {
    "argv": ["python3", "-m", "pytest", "-q", "--maxfail=1", "tests/test_basket.py", "tests/test_orders.py"],
    "stdin": "".join(_LINE % number for number in range(8)),
    "cwd": "/home/ada/shop",
    "env": {"CI": "true", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
}
RESULT: dict[str, Any] = {
    "exit_code": 1,
    "stdout": "".join(_LINE % number for number in range(100, 110)),
    "stderr": "1 failed, 41 passed in 2.31s\n",
}
"""About 1 KB each: with their keys 2 KB for one call."""

SMALL_ARGUMENTS: dict[str, Any] = {"argv": ["git", "status", "--short"]}
SMALL_RESULT: dict[str, Any] = {"exit_code": 0, "stdout": " M src/shop/basket.py\n", "stderr": ""}


class Store:
    """A journal on the disk and the recorder that writes to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "store"
        self.journal = Journal(RealDisk(self.folder))
        self.journal.lease()
        self._ids = IdSource()
        redactor = Redactor(self._ids.take(32), {"SHOP_API_TOKEN": "5up3r-s3cret-value-of-some-length"})
        self.recorder = Recorder(self.journal, redactor, self._ids)
        self._run_id = self._ids.take(16)
        self._position = 0

    def start_run(self, agent: str) -> None:
        """What its calls inherit."""
        draft = self.recorder.draft(
            RunStarted, {"intent": "measure"}, run_id=self._run_id, at_us=now_us(), agent=agent
        )
        self.recorder.append(draft)

    def record_call(
        self,
        arguments: Mapping[str, Any] = ARGUMENTS,
        result: Mapping[str, Any] = RESULT,
        tool: str = "exec",
    ) -> None:
        """*Started* and *finished* of one call: redacted, hashed and written."""
        recorder = self.recorder
        call_id = self._ids.take(8)
        request = Request(
            run_id=self._run_id,
            position=self._position,
            tool=tool,
            effect="unknown",
            level="process",
            decision=ALLOWED,
            asked_at_us=now_us(),
            pid=4711,
            thread_id=4711,
            decide_us=40,
        )
        self._position += 1
        said = recorder.redact({"arguments": arguments})
        recorder.append(
            recorder.draft_of(
                said,
                CallStarted,
                call_id=call_id,
                at_us=now_us(),
                monotonic_ns=time.monotonic_ns(),
                request=request,
                queue_us=3,
            ),
            opens=True,
        )
        recorder.append(
            recorder.draft(
                CallFinished,
                {"result": result},
                call_id=call_id,
                at_us=now_us(),
                outcome="succeeded",
                monotonic_ns=time.monotonic_ns(),
                latency_us=2_310_000,
                record_us=95,
                exit_code=0,
                usage=_USAGE,
                child_pid=4712,
                child_start_ticks=123_456,
            ),
            closes=True,
        )

    def close(self) -> None:
        self.journal.close()


_USAGE = Usage(
    wall_us=2_310_000,
    user_us=1_900_000,
    system_us=240_000,
    memory_peak_bytes=91_000_000,
    descendants=3,
    stdout_bytes=900,
    stderr_bytes=29,
)
