"""Times and ids: the wall clock as records have it, and random bytes without a system call."""

import functools
import hashlib
import itertools
import os
import time
import weakref
from datetime import datetime, timedelta


def now_us() -> int:
    """Wall clock in microseconds since 1970 UTC."""
    return time.time_ns() // 1000


_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - all times here are UTC

SECONDS_KEPT = 128
"""Records are of one time mostly, and a call has three times: a date is then made once a second."""


def rfc3339(at_us: int) -> str:
    """RFC 3339 UTC with microseconds, as all JSON shows times."""
    seconds, microseconds = divmod(at_us, 1_000_000)
    return f"{_second(seconds)}.{microseconds:06d}Z"


@functools.lru_cache(SECONDS_KEPT)
def _second(at_seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=at_seconds)).isoformat()


RUN_ID_BYTES = 16  # an OpenTelemetry trace id
CALL_ID_BYTES = 8  # an OpenTelemetry span id

IDS_AT_ONCE = 32
"""Made together: the hash is then a small part of what an id costs, and no caller waits for a long one."""

_id_sources: "weakref.WeakSet[IdSource]" = weakref.WeakSet()


class IdSource:
    """Random bytes for ids and salts without a system call. Safe for threads.

    SHAKE-256 over a random key and a counter, enough for several ids at a time: `os.urandom` gives up the
    GIL, which beside a busy thread costs 5 ms a call. A forked child takes a key of its own.
    """

    def __init__(self) -> None:
        self.renew()
        _id_sources.add(self)

    def renew(self) -> None:
        self._key = os.urandom(32)
        self._counter = itertools.count()
        self._made: dict[int, list[bytes]] = {}

    def take(self, count: int) -> bytes:
        """`count` random bytes, at most 32."""
        try:
            return self._made[count].pop()
        except (KeyError, IndexError):
            return self._make(count)

    def _make(self, count: int) -> bytes:
        assert 0 < count <= 32, "an id or a salt, not a file of random bytes"
        made = self._made  # taken first: a fork while these are made leaves them to the parent
        block = self._key + next(self._counter).to_bytes(8, "little")
        data = hashlib.shake_256(block).digest(count * IDS_AT_ONCE)
        ids = [data[start : start + count] for start in range(0, len(data), count)]
        last = ids.pop()
        made[count] = ids
        return last


def _renew_after_fork() -> None:
    for source in _id_sources:
        source.renew()


os.register_at_fork(after_in_child=_renew_after_fork)
