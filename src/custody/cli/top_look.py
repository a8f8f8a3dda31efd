"""How a store stands at one moment: what `custody top` shows, and gives as JSON.

Owns what is looked at and how much of it. Reads the index and /proc alone, so it holds up nobody who records.
Knows nothing of terminals. Used by `top`.
"""

import time
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from custody.records import Call, Run, now_us, rfc3339

if TYPE_CHECKING:
    from custody.calls.questions import OpenQuestion
    from custody.cli.daemon import Serving
    from custody.host.breaker import Reading
    from custody.index import Index
    from custody.settings import Settings
    from custody.stores import View

RUNS_MAX = 50
CALLS_MAX = 50
"""More than a screen shows; how many there are in all is counted."""

COUNT = "SELECT count(*) FROM runs WHERE outcome = 'running'"
"""Of more runs than are shown: ten thousand take milliseconds, and a second if each were read."""

WINDOW_SECONDS = 60
DAY_SECONDS = 24 * 3600
GAPS_MAX = 100  # a store that could not be written has few of them, each with a count


class RunsNow(Struct, frozen=True, kw_only=True):
    running: int
    items: list[Run]
    """Those that have not ended, the newest first."""


class CallsNow(Struct, frozen=True, kw_only=True):
    running: int
    last_minute: dict[str, int]
    """Outcome -> calls of the last 60 s."""
    items: list[Call]
    """The newest."""


class Pressure(Struct, frozen=True, kw_only=True):
    """What the breaker looks at."""

    refuses: str | None
    """Why calls would be refused now."""
    readings: "tuple[Reading, ...]"


class ShardNow(Struct, frozen=True, kw_only=True):
    shard: int
    records: int
    holder: str
    """`held` by a process that writes, or `free`."""


class RecorderNow(Struct, frozen=True, kw_only=True):
    """The record itself."""

    records: int
    records_per_second: float | None
    """Since the look before."""
    shards: list[ShardNow]
    lost_last_day: int
    """Records that could not be kept, as gap events say."""
    index_kept: bool
    damage: str | None
    """What of the journal cannot be read."""


class Look(Struct, frozen=True, kw_only=True):
    """One look."""

    at: str
    store: str
    daemon: "Serving | None"
    questions: "list[OpenQuestion]"
    runs: RunsNow
    calls: CallsNow
    pressure: Pressure
    recorder: RecorderNow


class Looker:
    """Looks at one open store, again and again."""

    def __init__(self, settings: "Settings", view: "View") -> None:
        from custody.host import Breaker, Sampler
        from custody.stores import open_disk

        self._settings = settings
        self._view = view
        self._disk = open_disk(settings.store, create=False)
        self._sampler = Sampler(settings.store)
        self._breaker = Breaker(settings.file.breaker)
        self._before: tuple[float, int] | None = None
        """When the records were counted last, and how many there were."""

    @property
    def index(self) -> "Index":
        return self._view.index

    def look(self) -> Look:
        """Raises StoreError."""
        from custody.calls.questions import open_questions

        at_us = now_us()
        self.index.caught_up_to()  # the questions below are of one state, as nearly as that can be
        return Look(
            at=rfc3339(at_us),
            store=self._settings.store,
            daemon=self._daemon(),
            questions=open_questions(self.index, at_us),
            runs=self._runs(),
            calls=self._calls(at_us),
            pressure=self._pressure(),
            recorder=self._recorder(at_us),
        )

    def _daemon(self) -> "Serving | None":
        from custody.cli.daemon import LOCK_FILE, serving_of

        return serving_of(self._disk) if self._disk.locked(LOCK_FILE) else None

    def _runs(self) -> RunsNow:
        from custody.index import RunFilter

        page = self.index.runs(RunFilter(running=True), limit=RUNS_MAX, refresh=False)
        running = len(page.items) if page.next is None else self.index.sql(COUNT, refresh=False).rows[0][0]
        return RunsNow(running=running, items=page.items)

    def _calls(self, at_us: int) -> CallsNow:
        from custody.index import CallFilter

        since_us = at_us - WINDOW_SECONDS * 1_000_000
        stats = self.index.stats(CallFilter(since_us=since_us), refresh=False)
        page = self.index.calls(CallFilter(), limit=CALLS_MAX, refresh=False)
        return CallsNow(
            running=len(self.index.open_calls(refresh=False)),
            last_minute={name: count for name, count in stats.by_outcome.items() if count},
            items=page.items,
        )

    def _pressure(self) -> Pressure:
        sample = self._sampler.sample()
        refusal = self._breaker.check(sample)
        return Pressure(
            refuses=None if refusal is None else refusal.message, readings=self._breaker.readings(sample)
        )

    def _recorder(self, at_us: int) -> RecorderNow:
        index, now = self.index, time.monotonic()
        places = index.caught_up_to(refresh=False).places
        states = {state.shard: state.holder for state in self._view.journal.shards()}
        shards = [
            ShardNow(shard=shard, records=place[2] - 1, holder=states.get(shard, "free"))
            for shard, place in sorted(places.items())
        ]
        records = sum(shard.records for shard in shards)
        before, self._before = self._before, (now, records)
        rate = None
        if before is not None and now > before[0]:
            rate = round(max(0, records - before[1]) / (now - before[0]), 1)
        return RecorderNow(
            records=records,
            records_per_second=rate,
            shards=shards,
            lost_last_day=self._lost(at_us),
            index_kept=index.kept,
            damage=None if index.damage is None else index.damage.message,
        )

    def _lost(self, at_us: int) -> int:
        from custody.index import EventFilter

        since_us = at_us - DAY_SECONDS * 1_000_000
        asked = EventFilter(name="journal.gap", since_us=since_us)
        found = self.index.events(asked, limit=GAPS_MAX, refresh=False)
        return sum(_count(event.data) for event in found.items)


def _count(data: Any) -> int:
    count: Any = data.get("count") if isinstance(data, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return count if isinstance(count, int) else 0
