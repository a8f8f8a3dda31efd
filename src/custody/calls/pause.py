"""A pause of the policy: for a while its rules are noted and not enforced.

Owns the two events, what they add up to, and how long a pause may be. Refuses to know who may pause, which is
the command line's, and what a pause leaves in force, which is the guards'. Used by both.

The record is the truth, and the index is asked for it, which every process of a store shares: whoever pauses
or ends a pause has the index catch up with that, so that the others need not. While no pause is known they
look at the index as it stands; while one is, they catch up themselves, so that its end is never missed.
"""

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from custody.errors import CustodyError, Denied, InvalidInput
from custody.index import Index
from custody.recorder import Recorder
from custody.records import now_us, rfc3339

PAUSED, UNPAUSED = "policy.paused", "policy.unpaused"

PAUSE_SECONDS_MAX = 8 * 3600.0
"""A working day: what is to last longer is a change of the policy, and is written there."""

REASON_CHARACTERS_MAX = 500  # a sentence or two, kept for ever

LOOK_SECONDS = 0.2
"""For so long an answer of the index holds: a pause that is ended counts for no longer."""

EVENTS_MAX = 50
"""Of each kind that are looked at: nobody begins so many pauses in one working day."""


class Pause(Struct, frozen=True, kw_only=True):
    """One that was begun."""

    since_us: int
    until_us: int
    reason: str
    person: str | None

    def shown(self) -> dict[str, Any]:
        """As the doors show it, times in RFC 3339."""
        return {
            "since": rfc3339(self.since_us),
            "until": rfc3339(self.until_us),
            "reason": self.reason,
            "person": self.person,
        }


class Pauses:
    """Whether the policy is paused, for whoever asks before each call. Safe for threads.

    Its answer may wait for the index, so it has no place on an event loop.
    """

    def __init__(
        self,
        open_index: Callable[[], Index],
        *,
        may_pause: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`may_pause`: whether the policies let themselves be paused; asked as often as a pause is
        found. `clock` gives seconds."""
        self._open_index = open_index
        self._may_pause = may_pause
        self._clock = clock
        self._lock = threading.Lock()
        self._index: Index | None = None
        self._pause: Pause | None = None
        self._look_at = float("-inf")
        _all.add(self)

    def active(self, at_us: int | None = None) -> Pause | None:
        """The pause that holds at that moment (now). Where nobody can tell, none does."""
        moment = now_us() if at_us is None else at_us
        with self._lock:
            if self._clock() >= self._look_at:
                self._pause = self._looked(moment)
                self._look_at = self._clock() + LOOK_SECONDS
            pause = self._pause
        if pause is None or not pause.since_us <= moment < pause.until_us or not self._may_pause():
            return None
        return pause

    def _looked(self, at_us: int) -> Pause | None:
        try:
            if self._index is None:
                self._index = self._open_index()
            refresh = self._pause is not None or not self._index.kept
            found = pause_at(self._index, at_us, refresh=refresh)
            if found is not None and not refresh:
                found = pause_at(self._index, at_us)
        except (CustodyError, OSError):
            return None
        return found

    def after_fork_in_child(self) -> None:
        """Another thread may have been looking, which is gone."""
        self._lock = threading.Lock()
        self._look_at = float("-inf")


_all: "weakref.WeakSet[Pauses]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pauses in list(_all):
        pauses.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)


def pause_at(index: Index, at_us: int, *, refresh: bool = True) -> Pause | None:
    """The pause that holds at that moment: the last that was begun, unless it is over or was ended.

    A record of a clock that was wrong pauses nothing: one of the future does not yet, and none lasts longer
    than it may.
    """
    begun = (
        _read(event.data) for event in index.events(name=PAUSED, limit=EVENTS_MAX, refresh=refresh).items
    )
    known = [pause for pause in begun if pause is not None and pause.since_us <= at_us]
    pause = max(known, key=lambda pause: pause.since_us, default=None)
    if pause is None or at_us >= pause.until_us:
        return None
    ended = index.events(name=UNPAUSED, limit=EVENTS_MAX, refresh=False).items
    return None if pause.since_us in [_ended(event.data) for event in ended] else pause


def check_pause(seconds: float, reason: str, *, may_pause: bool) -> None:
    """Raises InvalidInput, and Denied where the policy does not allow a pause."""
    if not may_pause:
        raise Denied(
            "This policy may not be paused.",
            hint="It says so itself: `custody policy show` names the file with may_pause = false.",
        )
    if not 0 < seconds <= PAUSE_SECONDS_MAX:
        raise InvalidInput(
            f"A pause lasts up to {PAUSE_SECONDS_MAX / 3600:g} hours, and ends by itself.",
            hint="For longer, change the policy: `custody policy show` says where it stands.",
        )
    if not 0 < len(reason.strip()) <= REASON_CHARACTERS_MAX:
        raise InvalidInput(f"A pause has a reason, in up to {REASON_CHARACTERS_MAX} characters.")


def begin_pause(
    recorder: Recorder, index: Index, *, seconds: float, reason: str, person: str | None, may_pause: bool
) -> Pause:
    """Pause from now on; a pause that is under way is replaced. Durably, and seen by every process.

    Raises InvalidInput, Denied where the policy does not allow it, NotRecorded, StoreError.
    """
    check_pause(seconds, reason, may_pause=may_pause)
    since_us = now_us()
    pause = Pause(
        since_us=since_us,
        until_us=since_us + round(seconds * 1e6),
        reason=recorder.clean_text(reason.strip(), "reason")[0],
        person=person,
    )
    recorder.event(PAUSED, asdict(pause), leaf_data=True, essential=True).wait_durable()
    index.refresh()
    return pause


def end_pause(recorder: Recorder, index: Index, *, person: str | None) -> Pause | None:
    """End the pause that is under way, durably, for every process; gives it, or None where there is none.

    Raises NotRecorded, StoreError, CorruptJournal.
    """
    pause = pause_at(index, now_us())
    if pause is not None:
        said = {"since_us": pause.since_us, "person": person}
        recorder.event(UNPAUSED, said, leaf_data=True, essential=True).wait_durable()
        index.refresh()
    return pause


def _ended(data: Any) -> int | None:
    """When the pause began that was ended."""
    match data:
        case {"since_us": int(since_us)}:
            return since_us
        case _:
            return None


def _read(data: Any) -> Pause | None:
    """None for what says nothing that pauses."""
    match data:
        case {"since_us": int(since_us), "until_us": int(until_us), "reason": str(reason), **rest}:
            person = rest.get("person")
            return Pause(
                since_us=since_us,
                until_us=min(until_us, since_us + round(PAUSE_SECONDS_MAX * 1e6)),
                reason=reason,
                person=person if isinstance(person, str) else None,
            )
        case _:
            return None
