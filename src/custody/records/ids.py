"""Times and ids: the wall clock as records have it, and random bytes without a system call."""

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


def rfc3339(at_us: int) -> str:
    """RFC 3339 UTC with microseconds, as all JSON shows times."""
    moment = _EPOCH + timedelta(microseconds=at_us)
    return f"{moment.isoformat(timespec='microseconds')}Z"


RUN_ID_BYTES = 16  # an OpenTelemetry trace id
CALL_ID_BYTES = 8  # an OpenTelemetry span id


_id_sources: "weakref.WeakSet[IdSource]" = weakref.WeakSet()


class IdSource:
    """Random bytes for ids and salts without a system call.

    SHA-256 over a random key and a counter: `os.urandom` gives up the GIL, which beside a busy thread
    costs 5 ms a call. A forked child takes a key of its own.
    """

    def __init__(self) -> None:
        self.renew()
        _id_sources.add(self)

    def renew(self) -> None:
        self._key = os.urandom(32)
        self._counter = itertools.count()

    def take(self, count: int) -> bytes:
        """`count` random bytes, at most 32."""
        assert 0 < count <= 32, "one SHA-256 gives 32 bytes"
        return hashlib.sha256(self._key + next(self._counter).to_bytes(8, "little")).digest()[:count]


def _renew_after_fork() -> None:
    for source in _id_sources:
        source.renew()


os.register_at_fork(after_in_child=_renew_after_fork)
