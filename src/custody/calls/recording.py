"""What a runtime brings to what is recorded without being run by it: observed calls, steps, events.

Owns the settings of observing, and what is recorded at the close. Used by `run`, `observe`
and `steps`.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, Literal, Protocol

from msgspec import Struct
from msgspec.structs import replace

from custody.calls.asked import Who
from custody.calls.backlog import DELAY_SECONDS, Backlog, Dropped, Offer
from custody.calls.notices import Notices
from custody.calls.observed_guards import ObservedGuards, Wanted
from custody.calls.tally import Tally
from custody.errors import CustodyError, UsageError
from custody.journal import Receipt
from custody.prices import Prices
from custody.recorder import Draft, Keep, Recorder
from custody.records import Decision, Effect, Kind, Leaf
from custody.redaction import SecretTools
from custody.tools import Scope

log = logging.getLogger("custody")

OnError = Literal["warn", "raise"]


CHILD_DEPTH_MAX = 8
"""Runs below one another. Agents that hand a task on and on find out nothing at the ninth."""

OPEN_RESERVED_MAX = 256
"""Observed calls for whose end room is set aside: more are open at once only where somebody forgets to close
them, and those must not use up the store."""


def check_on_error(value: object) -> None:
    """Raises UsageError for a word that would quietly mean something else."""
    if value is not None and (type(value) is not str or value not in ("warn", "raise")):
        raise UsageError(f"on_error cannot be {value!r:.80}.", hint='It is "warn" or "raise".')


class ObserveSettings(Struct, frozen=True, kw_only=True):
    """How what somebody else runs is recorded."""

    on_error: OnError = "warn"
    delay_seconds: float = DELAY_SECONDS
    child_depth_max: int = CHILD_DEPTH_MAX
    keep: Mapping[str, Keep] = {}
    """What the record holds of a tool's arguments and results, by tool name; else everything."""
    secret_tools: SecretTools = SecretTools()
    secret_tools_keep: Keep = "full"


class Ending(Protocol):
    """An open run, to whoever closes its store."""

    def end_at_close(self) -> None: ...


class OpenRun(Protocol):
    """What an observed call needs of the run it is made in; `run.RunRecord` is it."""

    recording: "Recording"
    run_id: bytes
    who: Who
    on_error: OnError
    tally: Tally
    chain: tuple[bytes, ...]

    def takes(self, offered: str, name: object, *, strict: bool) -> bool: ...

    def step_id(self) -> bytes | None: ...

    def keep(
        self,
        draft: Draft,
        *,
        strict: bool,
        opens: bool = False,
        closes: Callable[[], bool] | None = None,
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

    def failed(self, kind: Kind, error: Exception) -> None: ...


class Recording:
    """Joins recorder, backlog, settings and guards for the runs of one runtime."""

    def __init__(
        self,
        recorder: Recorder,
        settings: ObserveSettings,
        *,
        guards: ObservedGuards,
        durable_before: frozenset[Effect],
        door: str,
        load_prices: Callable[[], Prices],
        unfinished: list[Draft],
        unrecorded: set[bytes],
        notices: Notices | None = None,
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
        self.notices = notices
        self.open_runs: dict[bytes, Ending] = {}
        """Runs started here and not finished; those left at the close are ended by it."""
        self.open_calls: set[bytes] = set()
        """Observed calls that have not ended."""
        self._rooms = deque(range(OPEN_RESERVED_MAX))
        self._refused_again: dict[bytes, int] = {}
        self._load_prices = load_prices
        self.guards = guards
        """Say whether what somebody else runs may happen."""

    @cached_property
    def prices(self) -> Prices | None:
        """None where the table cannot be read: then no cost is known, and the log has said why."""
        try:
            return self._load_prices()
        except Exception as error:
            log.warning("No step is priced: %s", error)
            return None

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
        try:
            self._rooms.pop()
        except IndexError:
            return False
        return True

    def give_back(self) -> None:
        self._rooms.append(0)

    def decide(
        self,
        tool: str,
        arguments: Any,
        *,
        run: OpenRun | None = None,
        call_id: bytes | None = None,
        effect: Effect = "unknown",
        agent: str | None = None,
        door: str | None = None,
        dry_run: bool = False,
        asks: bool = False,
        scope: Scope | None = None,
    ) -> Decision:
        """Whether a call that somebody else runs may happen. Without a `call_id` nothing is recorded, and
        nothing used up: somebody only wants to know. With one, its start follows, or `guards.release`.
        `asks`: whoever runs it asks a person itself where this says so, else an ask is a no.
        """
        who = Who() if run is None else run.who
        wanted = Wanted(
            tool=tool,
            arguments=arguments,
            effect=effect,
            who=who if agent is None else replace(who, agent=agent),
            door=door or self.door,
            run_chain=() if run is None else run.chain,
            call_id=call_id,
            dry_run=dry_run,
            asks=asks,
            scope=scope,
        )

        def tell(name: str, said: Mapping[str, Any]) -> None:
            run_id = None if run is None else run.run_id
            draft = self.recorder.draft_event(name, said, leaf_data=True, call_id=call_id, run_id=run_id)
            self.backlog.submit(draft, run_id=run_id, dropped=lambda: False)

        return self.guards.decide(wanted, tell)

    # -- what is settled at the end -------------------------------------------------------------------

    def refused_again(self, run_id: bytes) -> None:
        """The first refusal of a run has a record of its own; how many followed is recorded at the close."""
        self._refused_again[run_id] = self._refused_again.get(run_id, 0) + 1

    def _say_refused(self, run_id: bytes, count: int) -> None:
        draft = self.recorder.draft_event("run.refused", {"count": count}, run_id=run_id)
        self.backlog.submit(draft, run_id=run_id, dropped=lambda: False, essential=True)

    def close(self) -> None:
        """End what is open, say what is left to say; wait for the queue, within its bound. Raises nothing."""
        for run in list(self.open_runs.values()):
            with suppress(CustodyError):  # then the next process that opens the store says so
                run.end_at_close()
        for run_id, count in list(self._refused_again.items()):
            self._say_refused(run_id, count)
        self._refused_again.clear()
        self.guards.close()
        gap = self.backlog.close()
        if gap is not None:
            self.unfinished.append(gap)
        self.unrecorded.update(self.open_calls)
        retry_unfinished(self.recorder, self.unfinished)


def retry_unfinished(recorder: Recorder, unfinished: list[Draft]) -> None:
    """Record the ends of runs that could not be recorded when they came. Raises nothing."""
    while unfinished:
        draft = unfinished[0]
        try:
            recorder.append(draft, closes=draft.kind == Kind.RUN_FINISHED)
        except (CustodyError, OSError):
            return
        except Exception as error:  # one that can never be kept must not keep the others out
            log.warning("The end of a run cannot be recorded: %s", type(error).__name__)
        del unfinished[0]
