"""Where the changes of commands lie until somebody says what becomes of them: a store's `undo/held/`.

Owns the folders there, who is at work in one, and the order in which a set comes, is put in place and goes.
Knows nothing of what was changed (`manifest`), nor how a command sees it. Made by whoever opens the store.

    <call id>/begun        the roots and the process, while it is not known what the command changed
             /0, /1 …      one for each root: `upper` and `work` of an overlay, or `copy`
             /manifest     what it changed; from here on it is held
             /committing   the call that was putting it in place
             /lock         held by whoever is at work on it
    gone-<random>/         on its way out
    lock                   held for the moment in which somebody begins or takes a set
"""

import os
import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress

import msgspec
from msgspec import Struct

from custody.changes.apply import never
from custody.changes.entries import pack_paths, unpack_paths
from custody.changes.held import places
from custody.changes.held.committing import put_in_place
from custody.changes.held.holding import MANIFEST, Holding
from custody.changes.held.manifest import HeldSet, Kind, held_set, unpack
from custody.changes.held.removal import remove_tree
from custody.changes.store import UndoStore, own_start_ticks
from custody.errors import CannotHold, CustodyError, HeldBusy, NothingHeld
from custody.journal.disk import Lock, RealDisk
from custody.records import Change

ENTRIES_MAX = 100_000
"""Files and folders one command may change, or have copied: more is a tree to be made elsewhere."""
BYTES_MAX = 512 * 1024**2
"""Of content, as much as one call's undo data may have: what is held is to be taken back, too."""

LOCK_WAIT_SECONDS = 10.0
"""For another process to begin or take a set: a few system calls, on a disk that may be busy."""

BEGUN, COMMITTING, LOCK = "begun", "committing", "lock"
GONE_PREFIX = "gone-"
_CALL = re.compile(r"[0-9a-f]{16}")


class _Begun(Struct, frozen=True, array_like=True):
    """Whose a set is that is not settled yet, or is being committed."""

    pid: int
    start_ticks: int
    roots: tuple[bytes, ...]


class HeldRecovered(Struct, frozen=True, kw_only=True):
    """What became of one set whose process is gone."""

    call_id: bytes
    committed: bool
    """It had been put in place. False: its command had not ended, and nothing of it is held."""


def _nothing_first() -> None:
    pass


class HeldStore:
    """The held changes of one store. Safe for threads; several processes may share the store.

    `folder` says where; it is asked, and made (0700), when something is to be held for the first time.
    """

    def __init__(
        self, folder: Callable[[], str], *, entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX
    ) -> None:
        self._folder = folder
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._opened: RealDisk | None = None

    # -- holding ------------------------------------------------------------------------------------------

    def begin(
        self,
        call_id: bytes,
        roots: Sequence[str],
        *,
        kind: Kind = "overlay",
        stop: Callable[[], bool] = never,
    ) -> Holding:
        """The folders a command writes to in place of its roots (absolute, links resolved).

        Of roots that lie in each other the outer one counts. Until it is settled or abandoned no other
        transaction begins or is committed in them. Raises HeldBusy, CannotHold, ToolError if asked to stop.
        """
        roots = places.outermost(roots)
        name = call_id.hex()
        try:
            disk = self._disk()
            places.check_roots(roots, disk.description)
            with self._only_one(disk):
                places.check_free(roots, self._in_use(disk))
                os.mkdir(f"{disk.description}/{name}", places.PRIVATE_MODE)
                lock = disk.lock(f"{name}/{LOCK}")
                assert lock is not None, "nobody else knows the folder yet"
                begun_ns = _write_begun(f"{disk.description}/{name}/{BEGUN}", roots)
        except FileExistsError:
            raise HeldBusy(f"Something is held of call {name} already.", call_id=name) from None
        except OSError as error:
            raise _unusable(error) from error
        holding = Holding(
            disk, call_id, roots,
            lock=lock, begun_ns=begun_ns, entries_max=self._entries_max, bytes_max=self._bytes_max,
        )  # fmt: skip
        holding.make(kind, stop)
        return holding

    # -- what is held -------------------------------------------------------------------------------------

    def read(self, call_id: bytes) -> HeldSet | None:
        """What is held of a call; None when nothing is. Raises NothingHeld where it is damaged, OSError."""
        disk = self._if_there()
        return None if disk is None else _read(disk, call_id)

    def calls(self) -> list[bytes]:
        """Every call something is held of, sorted."""
        disk = self._if_there()
        if disk is None:
            return []
        return [bytes.fromhex(name) for name in _sets(disk) if _is_settled(disk, name)]

    def older_than(self, before_ns: int) -> list[bytes]:
        """Every call something has been held of since before a time, in nanoseconds of the Unix epoch."""
        disk = self._if_there()
        return [] if disk is None else [one for one in self.calls() if _held_since(disk, one) < before_ns]

    # -- what becomes of it -------------------------------------------------------------------------------

    def remove(self, call_id: bytes) -> None:
        """Forget what is held of a call, if anything is. Raises HeldBusy, OSError."""
        with suppress(NothingHeld):
            self.discard(call_id)

    def discard(self, call_id: bytes, *, first: Callable[[], None] = _nothing_first) -> HeldSet:
        """Forget what is held of a call; says what that was. `first` is called when it is sure that it goes.

        Raises NothingHeld, HeldBusy while somebody commits it, OSError, and what `first` raises.
        """
        disk, name = self._there(call_id), call_id.hex()
        with self._only_one(disk):
            lock = self._take(disk, call_id)
            try:
                held = _read_or_empty(disk, call_id)
                earlier = disk.read_all(f"{name}/{COMMITTING}")
                if earlier is not None:
                    raise _cut_off(call_id, earlier)
                first()
                gone = _set_aside(disk, name)
            finally:
                lock.release()
        _remove(gone)
        return held

    def commit(
        self,
        undo: UndoStore,
        commit_id: bytes,
        call_id: bytes,
        *,
        digest: bytes | None = None,
        stop: Callable[[], bool] = never,
    ) -> tuple[Change, ...]:
        """Put everything held of a call in place, all or none, as the call `commit_id`; then nothing is held.

        `digest`: of the manifest that is meant, and no other is put in place. Undo data is kept under
        `commit_id`. Raises NothingHeld, HeldBusy (the set, or a root, is in use), UndoConflict (names the
        paths), what `carry_out` raises; then nothing has changed and all is held.
        """
        disk, name = self._there(call_id), call_id.hex()
        with self._only_one(disk):
            lock = self._take(disk, call_id)
            try:
                self._end_earlier(disk, undo, call_id)
                held = _read(disk, call_id)
                if held is None:
                    raise _nothing(call_id)
                if digest not in (None, held.manifest_digest):
                    raise another_set(call_id)
                places.check_free(held.roots, self._in_use(disk, but=name))
            except BaseException:
                lock.release()
                raise
        try:
            disk.replace(f"{name}/{COMMITTING}", commit_id)
            try:
                changes = put_in_place(undo, commit_id, held, stop)
            except BaseException:
                _unmark(disk, undo, name, commit_id)
                raise
            gone = _set_aside(disk, name)
        finally:
            lock.release()
        _remove(gone)
        return changes

    # -- after a crash ------------------------------------------------------------------------------------

    def recover(
        self, alive: Callable[[int, int], bool], committed: Callable[[bytes], bool]
    ) -> list[HeldRecovered]:
        """End what dead processes left, once `recover_changes` has: says which sets have gone by that.

        `alive(pid, start_ticks)`: whether that process is still there. `committed(call id)`: whether the
        changes of that call are in place, which its undo data says (`done`). A set that was not in place, or
        that nobody was putting there, is still held. Raises OSError where the store cannot be used.
        """
        disk = self._if_there()
        if disk is None:
            return []
        recovered: list[HeldRecovered] = []
        gone = [f"{disk.description}/{name}" for name in disk.names("") if name.startswith(GONE_PREFIX)]
        with self._only_one(disk):
            for name in _sets(disk):
                lock = disk.lock(f"{name}/{LOCK}")
                if lock is None:
                    continue
                try:
                    became = _judge(disk, name, alive, committed)
                    if became is not None:
                        gone.append(_set_aside(disk, name))
                        recovered.append(became)
                finally:
                    lock.release()
        for path in gone:
            _remove(path)
        return recovered

    # -- within -------------------------------------------------------------------------------------------

    def _disk(self) -> RealDisk:
        """The folder, made where it is missing."""
        if self._opened is None:  # two threads at once come to the same one
            path = os.path.realpath(self._folder())
            RealDisk(os.path.dirname(path))  # made as private as this one, where it is missing as well
            self._opened = RealDisk(path)
        return self._opened

    def _if_there(self) -> RealDisk | None:
        if self._opened is not None:
            return self._opened
        path = os.path.realpath(self._folder())
        return RealDisk(path, create=False) if os.path.isdir(path) else None

    def _there(self, call_id: bytes) -> RealDisk:
        disk = self._if_there()
        if disk is None:
            raise _nothing(call_id)
        return disk

    @contextmanager
    def _only_one(self, disk: RealDisk) -> Generator[None]:
        """Nobody else begins or takes a set meanwhile."""
        until = time.monotonic() + LOCK_WAIT_SECONDS
        while (lock := disk.lock(LOCK)) is None:
            if time.monotonic() > until:
                raise HeldBusy("Another process is at work on what is held.", hint="Try again.")
            time.sleep(0.002)
        try:
            yield
        finally:
            lock.release()

    def _in_use(self, disk: RealDisk, but: str | None = None) -> Iterator[tuple[bytes, Sequence[str]]]:
        """Calls at work, and in which roots."""
        for name in _sets(disk):
            if name != but and disk.locked(f"{name}/{LOCK}"):
                begun = _begun(disk, name)
                yield bytes.fromhex(name), ("/",) if begun is None else unpack_paths(begun.roots)

    def _take(self, disk: RealDisk, call_id: bytes) -> Lock:
        """The lock on a set. Raises NothingHeld, HeldBusy."""
        name = call_id.hex()
        try:
            lock = disk.lock(f"{name}/{LOCK}")
        except FileNotFoundError:
            raise _nothing(call_id) from None
        if lock is None:
            raise HeldBusy(
                f"What is held of call {name} is in use: its command has not ended, or it is just committed.",
                hint="Try again when that is done.",
                call_id=name,
            )
        return lock

    def _end_earlier(self, disk: RealDisk, undo: UndoStore, call_id: bytes) -> None:
        """A commit whose process died: what it put in place is not put there again."""
        earlier = disk.read_all(f"{call_id.hex()}/{COMMITTING}")
        undo_set = None if earlier is None else undo.read(earlier)
        if earlier is None or undo_set is None:
            return
        if not undo_set.done:
            raise _cut_off(call_id, earlier)
        _remove(_set_aside(disk, call_id.hex()))
        raise NothingHeld(
            f"What was held of call {call_id.hex()} was committed by call {earlier.hex()}.",
            call_id=call_id.hex(),
        )


def _judge(
    disk: RealDisk, name: str, alive: Callable[[int, int], bool], committed: Callable[[bytes], bool]
) -> HeldRecovered | None:
    """What became of a set nobody is at work on; None: it is still held."""
    if not _is_settled(disk, name):
        begun = _begun(disk, name)
        if begun is not None and alive(begun.pid, begun.start_ticks):
            return None
        return HeldRecovered(call_id=bytes.fromhex(name), committed=False)
    commit_id = disk.read_all(f"{name}/{COMMITTING}")
    if commit_id is None:
        return None
    if committed(commit_id):
        return HeldRecovered(call_id=bytes.fromhex(name), committed=True)
    disk.remove(f"{name}/{COMMITTING}")
    return None


def _sets(disk: RealDisk) -> list[str]:
    return [name for name in disk.names("") if _CALL.fullmatch(name)]


def _is_settled(disk: RealDisk, name: str) -> bool:
    return os.path.exists(f"{disk.description}/{name}/{MANIFEST}")


def _held_since(disk: RealDisk, call_id: bytes) -> int:
    """When it was written down; in the future where it has just gone."""
    try:
        return os.stat(f"{disk.description}/{call_id.hex()}/{MANIFEST}").st_mtime_ns
    except FileNotFoundError:
        return 1 << 63


def _read(disk: RealDisk, call_id: bytes) -> HeldSet | None:
    data = disk.read_all(f"{call_id.hex()}/{MANIFEST}")
    return None if data is None else unpack(data, call_id, f"{disk.description}/{call_id.hex()}")


def _read_or_empty(disk: RealDisk, call_id: bytes) -> HeldSet:
    """Also of one that is damaged, which can only be discarded. Raises NothingHeld where there is none."""
    try:
        held = _read(disk, call_id)
    except NothingHeld as error:
        return held_set(call_id, "overlay", (), (), entries=(), warnings=(error.message,))
    if held is None:
        raise _nothing(call_id)
    return held


def _begun(disk: RealDisk, name: str) -> _Begun | None:
    data = disk.read_all(f"{name}/{BEGUN}")
    try:
        return None if data is None else msgspec.msgpack.decode(data, type=_Begun)
    except msgspec.DecodeError:
        return None


def _write_begun(path: str, roots: Sequence[str]) -> int:
    """When that was, by the clock of files' times. Not synced: when the power goes, so does its process."""
    begun = _Begun(os.getpid(), own_start_ticks(), pack_paths(roots))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        data = memoryview(msgspec.msgpack.encode(begun))
        while data:
            data = data[os.write(fd, data) :]
        return os.fstat(fd).st_ctime_ns
    finally:
        os.close(fd)


def _unmark(disk: RealDisk, undo: UndoStore, name: str, commit_id: bytes) -> None:
    """After a failure, where it is sure that nothing is in place; else the next open finds out."""
    with suppress(OSError, CustodyError):
        if undo.read(commit_id) is None:
            disk.remove(f"{name}/{COMMITTING}")


def _set_aside(disk: RealDisk, name: str) -> str:
    """From here on it is not held; where it lies until it is removed."""
    gone = GONE_PREFIX + os.urandom(8).hex()
    disk.rename(name, gone)
    disk.sync_folder("")
    return f"{disk.description}/{gone}"


def _remove(gone: str) -> None:
    with suppress(OSError):  # tried again at the next open
        remove_tree(gone)


def another_set(call_id: bytes) -> NothingHeld:
    """The refusal of a manifest that is not the one somebody has seen, or the record speaks of."""
    return NothingHeld(
        f"What is held of call {call_id.hex()} is not what its record says: "
        "it was changed where it lies in the store. Nothing was done with it.",
        hint="See who can write to the store. A person drops what is there: `custody discard`.",
        call_id=call_id.hex(),
    )


def _nothing(call_id: bytes) -> NothingHeld:
    return NothingHeld(
        f"Nothing is held of call {call_id.hex()}: it changed nothing, or that was committed or discarded.",
        call_id=call_id.hex(),
    )


def _cut_off(call_id: bytes, commit_id: bytes) -> HeldBusy:
    return HeldBusy(
        f"A commit of what is held of call {call_id.hex()} was cut off (call {commit_id.hex()}).",
        hint="It is finished or put back when the store is next opened.",
        call_id=commit_id.hex(),
    )


def _unusable(error: OSError) -> CannotHold:
    return CannotHold(
        f"There is no place to hold changes in: {error.strerror or error}. Nothing was run.",
        errno=error.errno,
    )
