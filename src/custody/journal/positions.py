"""Positions in a shared run: one small counter a run, taken under its lock by any number of processes.

Owns the folder `journal/shared`: a counter for each shared run, and for each named run the id it stands
for. A position is used once, none is skipped, and a process that dies between any two steps leaves
nothing behind that the next one cannot tell. Used through `Journal`; every method may wait.

The counter says what is about to be done before it is done: position n is to be taken in such a shard, no
earlier than such a place. Who finds that said and not concluded looks there for the record.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import msgspec
from msgspec import Struct

from custody.errors import NotRecorded
from custody.journal.commit import Receipt
from custody.journal.disk import Disk, Lock
from custody.journal.follow import Cursor, Following, Place
from custody.journal.frames import Stored, extend
from custody.locks import NESTED, held_here
from custody.records import CallAsked, CallFinished, CallStarted, Kind, Step, decode_leaf

SHARED_FOLDER = "journal/shared"

LOCK_STRIPES = 64
"""Lock files for all runs together: a run shares one with few others, and there are never more files."""

LOCK_WAIT_SECONDS = 30.0
"""A position is taken in microseconds, unless the holder waits for its disk to roll a segment over."""

LOCK_PAUSE_SECONDS_MAX = 0.002
"""POSIX locks wake nobody through `Disk.lock`, so who waits looks again after at most this long."""

NUMBERED_KINDS = frozenset({Kind.CALL_ASKED, Kind.CALL_STARTED, Kind.CALL_FINISHED, Kind.STEP})


class Counter(Struct, frozen=True):
    """The content of a counter file."""

    next: int
    """The next position; `taking` says whether it may be in use already."""
    boot_id: str
    taking: tuple[int, Place] | None = None
    """Shard and place, at or behind which the record with position `next` is, if it was written."""


_decoder = msgspec.json.Decoder(Counter)
COUNTER_BYTES = 256
_stripes = [threading.RLock() for _ in range(LOCK_STRIPES)]


def position_in(run_id: bytes, stored: Stored) -> int | None:
    """The position a record took in a run: None unless it is a numbered record of that run."""
    if stored.kind not in NUMBERED_KINDS or run_id not in stored.leaf:
        return None
    leaf = decode_leaf(stored.kind, stored.leaf)
    if isinstance(leaf, Step):
        return leaf.position if leaf.run_id == run_id else None
    assert isinstance(leaf, CallAsked | CallStarted | CallFinished), "the other numbered kinds"
    if leaf.request is None or leaf.request.run_id != run_id:
        return None
    return leaf.request.position


class Shared:
    """The shared runs of one store."""

    def __init__(
        self,
        disk: Disk,
        boot_id: str,
        here: Callable[[], tuple[int, Place]],
        follow: Callable[[Cursor | None, int | None], Following],
    ) -> None:
        """`here` gives the shard this process appends to and the place of its next record; `follow` takes
        a cursor and, to read one shard alone, its number."""
        self._disk = disk
        self._boot_id = boot_id
        self._here = here
        self._follow = follow

    def create(self, run_id: bytes) -> None:
        """Make the counter of a new shared run, durably."""
        self._disk.make_folder(SHARED_FOLDER)
        self._disk.replace(_counter_path(run_id), _encode(Counter(0, self._boot_id)))

    def exists(self, run_id: bytes) -> bool:
        return self._disk.read_all(_counter_path(run_id)) is not None

    def take(self, run_id: bytes, append: Callable[[int], Receipt], count: int = 1) -> Receipt:
        """Call `append` with the run's next position, the first of `count`, which are taken if it returns."""
        shard, place = self._here()
        with self._locked(run_id):
            position = self._next(run_id)
            file = self._disk.open(_counter_path(run_id))
            try:
                file.put(_encode(Counter(position, self._boot_id, (shard, place))), 0)
                receipt = append(position)
                file.put(_encode(Counter(position + count, self._boot_id)), 0)
            finally:
                file.close()
        return receipt

    def _next(self, run_id: bytes) -> int:
        counter = _decode(self._disk.read_all(_counter_path(run_id)))
        if counter is None or counter.boot_id != self._boot_id:
            # A power loss may have rolled the counter back, or a crash may have torn it.
            return self._count(run_id, None, 0)
        if counter.taking is None:
            return counter.next
        shard, place = counter.taking
        return self._count(run_id, (shard, place), counter.next)

    def _count(self, run_id: bytes, start: tuple[int, Place] | None, least: int) -> int:
        """One more than the highest position on the record, from a place of one shard or everywhere."""
        records = self._follow(None, None) if start is None else self._follow(Cursor(dict([start])), start[0])
        position = least
        for stored in records:
            if (found := position_in(run_id, stored)) is not None:
                position = max(position, found + 1)
        return position

    def named_run(
        self, name: str, create: Callable[[], bytes], is_open: Callable[[bytes], bool]
    ) -> tuple[bytes, bool]:
        """The id of the open run of that name, and whether `create` has just made it."""
        digest = hashlib.sha256(name.encode()).digest()
        path = f"{SHARED_FOLDER}/name-{digest.hex()[:32]}"
        self._disk.make_folder(SHARED_FOLDER)
        with self._locked(digest):
            known = self._disk.read_all(path)
            if known and is_open(known):
                return known, False
            run_id = create()
            self._disk.replace(path, run_id)
            return run_id, True

    @contextmanager
    def _locked(self, key: bytes) -> Generator[None]:
        stripe = key[0] % LOCK_STRIPES
        if held_here(_stripes[stripe]):
            raise NotRecorded(NESTED)
        with _stripes[stripe]:
            lock = self._wait_for_lock(f"{SHARED_FOLDER}/lock-{stripe:02d}")
            try:
                yield
            finally:
                lock.release()

    def _wait_for_lock(self, path: str) -> Lock:
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        pause = 0.00005
        while (lock := self._disk.lock(path)) is None:
            if time.monotonic() > deadline:
                raise NotRecorded(
                    f"Another process has held {path} for {LOCK_WAIT_SECONDS:.0f} s.",
                    hint="See which process has it open, and whether its disk hangs.",
                )
            time.sleep(pause)
            pause = min(pause * 2, LOCK_PAUSE_SECONDS_MAX)
        return lock


def _counter_path(run_id: bytes) -> str:
    return f"{SHARED_FOLDER}/{run_id.hex()}"


def _encode(counter: Counter) -> bytes:
    text = msgspec.json.encode(counter)
    data = b"%08x %s\n" % (extend(0, text), text)
    return data.ljust(COUNTER_BYTES)


def _decode(data: bytes | None) -> Counter | None:
    crc, _, text = (data or b"").rstrip().partition(b" ")
    try:
        return _decoder.decode(text) if int(crc, 16) == extend(0, text) else None
    except (ValueError, msgspec.DecodeError):
        return None


def after_fork_in_child() -> None:
    """A thread of the parent may have held one of them."""
    _stripes[:] = [threading.RLock() for _ in range(LOCK_STRIPES)]
