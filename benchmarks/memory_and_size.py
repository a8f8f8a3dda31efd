"""Row 8: what the recording process grows by over a million calls, and what a small call takes on the disk.

Memory is the resident set after the first calls against the end. Size is counted up to the last byte that
is not zero in each segment, because segments are filled with zeros ahead of what is put into them; the
payload (arguments and result in msgpack) is taken off.
"""

import os
import time
from pathlib import Path

import msgspec

from harness import Measurement, arguments, report, scratch, settle
from recording import SMALL_ARGUMENTS, SMALL_RESULT, Store

GROWTH_MB_MAX = 20.0
OVERHEAD_BYTES_MAX = 400.0
WARM_UP_CALLS = 10_000
READ_BYTES = 1024 * 1024


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def used_bytes(folder: Path) -> int:
    """Bytes of all files below, each up to its last byte that is not zero."""
    return sum(_filled(path) for path in folder.rglob("*") if path.is_file())


def _filled(path: Path) -> int:
    end = path.stat().st_size
    with path.open("rb") as file:
        while end > 0:
            start = max(0, end - READ_BYTES)
            file.seek(start)
            rest = file.read(end - start).rstrip(b"\0")
            if rest:
                return start + len(rest)
            end = start
    return 0


def main() -> None:
    options = arguments(__doc__, calls=(1_000_000, "calls recorded"))
    calls = options.calls // (10 if options.quick else 1)
    payload_bytes = sum(
        len(msgspec.msgpack.encode(part))
        for part in ({"arguments": SMALL_ARGUMENTS}, {"result": SMALL_RESULT})
    )
    with scratch() as folder:
        store = Store(folder)
        for _ in range(WARM_UP_CALLS):
            store.record_call(SMALL_ARGUMENTS, SMALL_RESULT)
        settle()
        before = resident_bytes()
        start = time.perf_counter()
        for _ in range(calls):
            store.record_call(SMALL_ARGUMENTS, SMALL_RESULT)
        seconds = time.perf_counter() - start
        growth_mb = (resident_bytes() - before) / 1e6
        store.close()
        call_bytes = used_bytes(store.folder) / (calls + WARM_UP_CALLS)
    measurements = [
        Measurement(
            row=8,
            what=f"memory growth over {calls:,} recorded calls",
            value=growth_mb,
            unit="MB",
            target=f"≤ {GROWTH_MB_MAX:.0f} MB",
            limit=GROWTH_MB_MAX,
        ),
        Measurement(
            row=8,
            what="disk for a small call, without its payload",
            value=call_bytes - payload_bytes,
            unit="bytes",
            target=f"≤ {OVERHEAD_BYTES_MAX:.0f} bytes",
            limit=OVERHEAD_BYTES_MAX,
        ),
    ]
    details = {
        "calls": calls,
        "calls a second": calls / seconds,
        "bytes a call": call_bytes,
        "payload bytes": payload_bytes,
    }
    report("memory_and_size", measurements, details, quick=options.quick)


if __name__ == "__main__":
    main()
