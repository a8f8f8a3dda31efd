"""What is needed of a run to tell something of it.

Used by what tells (`observed`, `asking`); `told.Told` is it.
"""

from typing import Protocol

from custody.calls.recording import OnError
from custody.calls.tally import Tally
from custody.client.outbox import Outbox
from custody.client.part import Part


class Working(Protocol):
    """An open run of the daemon's, as the program at this end has it."""

    part: Part
    outbox: Outbox
    on_error: OnError
    tally: Tally

    def takes(self, offered: str, name: object, *, strict: bool) -> bool: ...

    def step_id(self) -> bytes | None: ...

    def at(self) -> int: ...
