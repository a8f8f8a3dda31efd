"""How often a peer wants its own tools called: windows that slide.

Owns the windows. A refusal takes nothing of one, and it is asked last, so that what another guard refuses
takes nothing either. Used by `session`.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Annotated

from msgspec import Meta, Struct

from custody.calls.guards import Proposal
from custody.records import Decision

RATE_CALLS_MAX = 10_000
"""The time of each call within the window is kept."""


class Rate(Struct, frozen=True, kw_only=True):
    """So many calls within so many seconds."""

    max_calls: Annotated[int, Meta(ge=0, le=RATE_CALLS_MAX)]
    interval_secs: Annotated[float, Meta(gt=0)]


class Rates:
    """The rates of one connection's tools."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[str, tuple[Rate, deque[float]]] = {}

    def set(self, tool: str, rate: Rate | None) -> None:
        """Replace a tool's rate and forget its calls; None: none."""
        self._windows.pop(tool, None)
        if rate is not None:
            self._windows[tool] = rate, deque()

    def guard(self, proposal: Proposal) -> Decision | None:
        """A deny where the window is full; else the call is counted."""
        window = self._windows.get(proposal.name)
        if window is None:
            return None
        rate, times = window
        now = self._clock()
        while times and times[0] <= now - rate.interval_secs:
            times.popleft()
        if len(times) >= rate.max_calls:
            reason = f"The rate of {rate.max_calls} calls in {rate.interval_secs:g} s of its tool is used up."
            return Decision("deny", "budget", reason, f"rate_limit:{proposal.name}")
        times.append(now)
        return None
