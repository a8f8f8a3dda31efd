"""What a runtime brings to what is recorded without being run by it: observed calls, steps, events.

Owns the settings of observing, and the guards of a call that somebody else runs. Used by `run`, `observe`
and `steps`.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, Literal, Protocol

from msgspec import Struct

from custody.calls.backlog import DELAY_SECONDS, Backlog, Dropped, Offer
from custody.calls.guards import Guard, Proposal, decide
from custody.calls.tally import Tally
from custody.errors import CustodyError
from custody.host import HostSample
from custody.journal import Receipt
from custody.prices import Prices
from custody.recorder import Draft, Keep, Recorder
from custody.records import Decision, Effect, Leaf
from custody.redaction import SecretTools
from custody.tools import Scope

OnError = Literal["warn", "raise"]

CHILD_DEPTH_MAX = 8
"""Runs below one another. Agents that hand a task on and on find out nothing at the ninth."""


OPEN_RESERVED_MAX = 256
"""Observed calls for whose end room is set aside: more are open at once only where somebody forgets to close
them, and those must not use up the store."""


class ObserveSettings(Struct, frozen=True, kw_only=True):
    """How what somebody else runs is recorded."""

    on_error: OnError = "warn"
    delay_seconds: float = DELAY_SECONDS
    child_depth_max: int = CHILD_DEPTH_MAX
    keep: Mapping[str, Keep] = {}
    """What the record holds of a tool's arguments and results, by tool name; else everything."""
    secret_tools: SecretTools = SecretTools()
    secret_tools_keep: Keep = "full"


class OpenRun(Protocol):
    """What an observed call needs of the run it is made in; `run.RunRecord` is it."""

    recording: "Recording"
    run_id: bytes
    on_error: OnError
    tally: Tally

    def takes(self, offered: str, name: object, *, strict: bool) -> bool: ...

    def step_id(self) -> bytes | None: ...

    def keep(
        self,
        draft: Draft,
        *,
        strict: bool,
        opens: bool = False,
        closes: bool = False,
        dropped: Dropped | None = None,
    ) -> Receipt | Offer | None: ...

    def keep_numbered(
        self,
        draft_at: Callable[[int | None], Draft],
        leaf_type: type[Leaf],
        *,
        strict: bool,
        opens: bool = False,
        dropped: Dropped | None = None,
    ) -> Receipt | Offer | None: ...

    def dropped(self) -> bool: ...

    def failed(self, error: Exception) -> None: ...


class Recording:
    """Joins recorder, backlog, settings and guards for the runs of one runtime."""

    def __init__(
        self,
        recorder: Recorder,
        settings: ObserveSettings,
        *,
        guards: tuple[Guard, ...],
        scope: Scope,
        sample: Callable[[], HostSample | None],
        durable_before: frozenset[Effect],
        door: str,
        load_prices: Callable[[], Prices],
        unfinished: list[Draft],
        unrecorded: set[bytes],
    ) -> None:
        self.recorder = recorder
        self.settings = settings
        self.backlog = Backlog(recorder, delay_seconds=settings.delay_seconds)
        self.durable_before = durable_before
        self.door = door
        self.unfinished = unfinished
        """Ends of runs that could not be recorded; tried again when the store is closed and opened."""
        self.unrecorded = unrecorded
        """Calls whose end could not be recorded."""
        self._open_calls = 0
        self._refused_again: dict[bytes, int] = {}
        self._load_prices = load_prices
        self._guards = guards
        self._scope = scope
        self._sample = sample

    @cached_property
    def prices(self) -> Prices:
        return self._load_prices()

    def keep(self, tool: str) -> Keep:
        """What the record holds of this tool's arguments and results."""
        settings = self.settings
        stated = settings.keep.get(tool)
        if stated is not None:
            return stated
        if settings.secret_tools_keep != "full" and settings.secret_tools.matches(tool):
            return settings.secret_tools_keep
        return "full"

    def set_aside(self) -> bool:
        """Whether room may be set aside for the end of one more call."""
        if self._open_calls >= OPEN_RESERVED_MAX:
            return False
        self._open_calls += 1
        return True

    def give_back(self) -> None:
        self._open_calls -= 1

    def decide(self, tool: str, arguments: Mapping[str, Any]) -> Decision:
        """Whether a call that somebody else runs may happen: policy and the machine's resources."""
        proposal = Proposal(name=tool, tool=None, arguments=arguments, scope=self._scope, host=self._sample())
        return decide(proposal, self._guards)

    # -- what is settled at the end -------------------------------------------------------------------

    def refused_again(self, run_id: bytes) -> None:
        """The first refusal of a run has a record of its own; how many followed is recorded at the close."""
        self._refused_again[run_id] = self._refused_again.get(run_id, 0) + 1

    def retry_unfinished(self) -> None:
        """Record the ends of runs that could not be recorded when they came. Raises nothing."""
        while self.unfinished:
            try:
                self.recorder.append(self.unfinished[0], closes=True)
            except CustodyError:
                return
            del self.unfinished[0]

    def close(self) -> None:
        """Record what is left to say; wait for the queue, within its bound. Raises nothing."""
        for run_id, count in self._refused_again.items():
            with suppress(CustodyError):
                self.recorder.event("run.refused", {"count": count}, run_id=run_id)
        self._refused_again.clear()
        self.backlog.close()
        self.retry_unfinished()
