"""Who is told that a call starts and how it ended, beside the record.

Owns the shape alone. `execute` and `observe` tell, where somebody listens; `bridges/boundary` listens. What
is told is the call's frame and never its arguments or its result.
"""

from typing import Protocol

from msgspec import Struct

from custody.records import Outcome


class Ending(Struct, frozen=True, gc=False):
    """How a call ended."""

    call_id: bytes
    tool: str
    at_us: int
    outcome: Outcome
    latency_us: int | None = None
    """Of its execution; None for a call that never ran, or whose end nobody knows."""
    error_class: str | None = None
    child_pid: int | None = None


class Notices(Protocol):
    """Takes what it is told without waiting, and raises nothing."""

    @property
    def delivered(self) -> int:
        """How many notices arrived."""
        ...

    @property
    def undelivered(self) -> int:
        """How many did not, so far; after the close of all."""
        ...

    def started(self, call_id: bytes, tool: str, at_us: int) -> None: ...

    def ended(self, ending: Ending) -> None: ...

    def close(self) -> None:
        """Say what is left to say. A second close does nothing."""
        ...


def tell_rejected(notices: Notices | None, call_id: bytes, tool: str, asked_at_us: int, at_us: int) -> None:
    """A call that never ran has a start and an end as well: nobody is left waiting for either."""
    if notices is not None:
        notices.started(call_id, tool, asked_at_us)
        notices.ended(Ending(call_id, tool, at_us, "rejected"))
