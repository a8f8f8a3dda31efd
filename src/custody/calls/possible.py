"""Counts that are not certain: each with its least and its greatest possible value.

Owns how such counts are added to and what can be said of them for sure: None stands for what cannot be told.
Knows nothing of calls and rules. Used by `recount`.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

Certain = bool | None
"""None: it cannot be told."""

SCOPES_MAX = 50_000
"""Windows and sums kept at once, the longest unused dropped first: a run that is over needs none."""

HOSTS_MAX = 10_000
"""Distinct hosts remembered for one sum; a budget that allows more is none."""

ARGUMENTS_MAX = 10_000
"""Distinct calls of one run that are told apart; in a run of more, nothing is certain of further ones."""

BUCKET_US = 60_000_000
"""A rolling sum forgets in steps of a minute, as the one of live calls does."""

ENDLESS_US = 2**62

Kept = TypeVar("Kept")


class Remembered(Generic[Kept]):
    """A bounded table that forgets what was longest unused, and counts how often it did."""

    def __init__(self, make: Callable[[], Kept], most: int = SCOPES_MAX) -> None:
        self._make = make
        self._most = most
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()
        self.forgotten = 0

    def __getitem__(self, key: Hashable) -> Kept:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            return found
        found = self._kept[key] = self._make()
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
            self.forgotten += 1
        return found

    def get(self, key: Hashable) -> Kept | None:
        return self._kept.get(key)


class Window:
    """The newest admissions of one rate: as many as its limit, for an older one cannot matter."""

    __slots__ = ("_certain", "_possible")

    def __init__(self) -> None:
        self._certain: deque[int] = deque()
        self._possible: deque[int] = deque()

    def add(self, at_us: int, calls: int, *, certain: bool) -> None:
        for times in (self._certain, self._possible) if certain else (self._possible,):
            times.append(at_us)
            if len(times) > calls:
                times.popleft()

    def used(self, now_us: int, calls: int, seconds: float) -> Certain:
        since_us = now_us - int(seconds * 1_000_000)
        if len(self._certain) >= calls and self._certain[0] > since_us:
            return True
        return None if len(self._possible) >= calls and self._possible[0] > since_us else False


class Success:
    """When calls that a sequence waits for last succeeded."""

    __slots__ = ("_certain_us", "_possible_us")

    def __init__(self) -> None:
        self._certain_us = self._possible_us = -ENDLESS_US

    def add(self, at_us: int, *, certain: bool) -> None:
        self._possible_us = max(self._possible_us, at_us)
        if certain:
            self._certain_us = max(self._certain_us, at_us)

    def happened(self, now_us: int, seconds: float | None) -> Certain:
        since_us = 0 if seconds is None else now_us - int(seconds * 1_000_000)
        if self._certain_us >= since_us:
            return True
        return None if self._possible_us >= since_us else False


class Sum:
    """What was used of one amount; since a time, where it is counted over a rolling window."""

    __slots__ = ("_buckets", "greatest", "least")

    def __init__(self) -> None:
        self.least = 0.0
        self.greatest = 0.0
        self._buckets: deque[tuple[int, float, float]] = deque()

    def add(self, amount: float, at_us: int, *, certain: bool, rolls: bool) -> None:
        least = amount if certain else 0.0
        self.least += least
        self.greatest += amount
        if not rolls:
            return
        bucket = at_us // BUCKET_US
        if self._buckets and self._buckets[-1][0] == bucket:
            _, before, most_before = self._buckets.pop()
            self._buckets.append((bucket, before + least, most_before + amount))
        else:
            self._buckets.append((bucket, least, amount))

    def forget_before(self, at_us: int) -> None:
        while self._buckets and self._buckets[0][0] < at_us // BUCKET_US:
            _, least, greatest = self._buckets.popleft()
            self.least -= least
            self.greatest -= greatest


class Hosts:
    """When each host was last named."""

    __slots__ = ("_certain", "_possible")

    def __init__(self) -> None:
        self._certain: dict[str, int] = {}
        self._possible: dict[str, int] = {}

    def add(self, hosts: Iterable[str], at_us: int, *, certain: bool) -> None:
        for known in (self._certain, self._possible) if certain else (self._possible,):
            for host in hosts:
                if host in known or len(known) < HOSTS_MAX:
                    known[host] = at_us

    def beyond(self, limit: float, named: frozenset[str] | None, since_us: int) -> Certain:
        """Whether a call that names these would be one too many. None for `named`: they are not known."""
        certain = {host for host, at_us in self._certain.items() if at_us >= since_us}
        possible = {host for host, at_us in self._possible.items() if at_us >= since_us}
        if named is None:
            return None
        if named - possible and len(certain | named) > limit:
            return True
        return None if named - certain and len(possible | named) > limit else False


class Repeats:
    """The calls of one run: how often each was made, by tool and arguments."""

    __slots__ = ("_certain", "_possible", "_unknown")

    def __init__(self) -> None:
        self._certain: dict[str, int] = {}
        self._possible: dict[str, int] = {}
        self._unknown: dict[str, int] = {}
        """By tool: calls whose arguments are not known, each of which may have been the same."""

    def add(self, tool: str, same: str | None, *, certain: bool) -> None:
        if same is None or (same not in self._possible and len(self._possible) >= ARGUMENTS_MAX):
            self._unknown[tool] = self._unknown.get(tool, 0) + 1
            return
        for counts in (self._certain, self._possible) if certain else (self._possible,):
            counts[same] = counts.get(same, 0) + 1

    def before(self, tool: str, same: str | None) -> tuple[int, int]:
        """How often such a call was made, at least and at most."""
        unknown = self._unknown.get(tool, 0)
        if same is not None:
            return self._certain.get(same, 0), self._possible.get(same, 0) + unknown
        alike = (count for key, count in self._possible.items() if key.startswith(f"{tool}\0"))
        return 0, max(alike, default=0) + unknown


class Streak:
    """Failures of a run since the last call of it that did not fail."""

    __slots__ = ("certain", "count")

    def __init__(self) -> None:
        self.count = 0
        self.certain = True

    def ended(self, *, failed: bool, certain: bool) -> None:
        if certain and not failed:
            self.count, self.certain = 0, True
        elif certain:
            self.count += 1
        else:
            self.certain = False
