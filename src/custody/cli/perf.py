"""The `perf` lines that cut one call out of a profile.

`perf record -k CLOCK_MONOTONIC` stamps its samples with the clock whose readings a call's records hold,
so `perf script --time` with those readings shows the call and nothing else. Used by `show --perf`.
"""

from typing import Any

from custody.errors import UsageError
from custody.records import Call


def perf_lines(call: Call) -> dict[str, Any]:
    """`record`: to be started before such a call; `script`: cuts this call out of what was recorded.

    Raises UsageError for a call without a beginning or an end.
    """
    if call.monotonic_start_ns is None or call.monotonic_end_ns is None:
        raise UsageError("This call has no recorded beginning and end, so no profile can be cut to it.")
    start, end = _seconds(call.monotonic_start_ns), _seconds(call.monotonic_end_ns)
    return {
        "record": f"perf record -k CLOCK_MONOTONIC -p {call.pid}",
        "script": f"perf script --time {start},{end}",
    }


def _seconds(nanoseconds: int) -> str:
    """`seconds.nanoseconds`, without the rounding of a float."""
    return f"{nanoseconds // 1_000_000_000}.{nanoseconds % 1_000_000_000:09d}"
