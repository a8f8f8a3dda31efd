"""The private folders of runs: what their commands find behind walls in place of the machine's temporary
folders and of the home folder.

Owns where they lie, who uses one, and that it goes when its run is over and nobody uses it any more: commands
of one run may be those of several processes. What is in one belongs to commands, and nothing there is read or
followed; how a command comes to see it is `sandbox`'s. Used by `walled`, and by who recovers a store.

    <run id>/using-<random>   held by a process that uses it
            /over             its run has ended
            /places/          what commands see
    gone-<random>/            on its way out
    lock                      held for the moment in which somebody comes or goes
"""

import atexit
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from custody.journal.disk import Lock, RealDisk
from custody.locks import held_here

_PRIVATE_MODE = 0o700
_LOCK, _OVER, _PLACES = "lock", "over", "places"
_USING_PREFIX, _GONE_PREFIX = "using-", "gone-"
_RUN = re.compile(r"[0-9a-f]{32}")

_LOCK_WAIT_SECONDS = 1.0
"""For another process to come or go: a few system calls. Who waits longer does without."""


class _Use(NamedTuple):
    path: str
    lock: Lock


class PrivateFolders:
    """Those of one store. Safe for threads; several processes may share the store."""

    def __init__(self, folder: str | None) -> None:
        """Where they lie, made (0700) with the first; None: in a temporary folder, for a store in memory."""
        self._folder = folder
        self._temporary = folder is None
        self._opened: RealDisk | None = None
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._used: dict[str, _Use] = {}
        self._removing: list[threading.Thread] = []
        self._mutex = threading.RLock()

    def use(self, run_id: str) -> str:
        """The folder of a run, there until `end` or `close`. Raises OSError."""
        with self._own():
            disk = self._disk()
            if run_id not in self._used:
                with _only_one(disk):
                    self._used[run_id] = _enter(disk, run_id)
            return f"{disk.description}/{run_id}/{_PLACES}"

    def end(self, run_id: str) -> None:
        """The run is over, and nothing of it runs here any more. It goes now, or with the last process that
        uses it; what cannot be removed goes when the store is recovered. Raises nothing."""
        if held_here(self._mutex):
            return  # a finalizer ends it in the middle of what is done with another
        with self._own(), suppress(OSError):
            disk = self._if_there()
            if disk is None or not os.path.isdir(f"{disk.description}/{run_id}"):
                return  # most runs have none
            with _only_one(disk):
                _leave(disk, self._used.pop(run_id, None))
                disk.open(f"{run_id}/{_OVER}", create=not _is_over(disk, run_id)).close()
                self._remove_unused(disk, run_id)

    def close(self) -> None:
        """Nothing runs here any more. What belongs to a run that goes on elsewhere stays; what is to go has
        gone. Raises nothing."""
        with self._own():
            with suppress(OSError):
                self._leave_all()
            for thread in self._removing:
                thread.join()
            self._removing.clear()

    def sweep(self, still_open: Callable[[], Collection[str]]) -> None:
        """Remove what dead processes left. `still_open` names runs that go on. Raises nothing."""
        with self._own(), suppress(OSError):
            disk = self._if_there()
            names = [] if disk is None else disk.names("")
            runs = [name for name in names if _RUN.fullmatch(name)]
            if disk is None or not (runs or any(name.startswith(_GONE_PREFIX) for name in names)):
                return
            over = set(runs) - set(still_open())  # asked after the names were read: none has begun since
            with _only_one(disk):
                for run_id in over:
                    self._remove_unused(disk, run_id)
            for name in names:
                if name.startswith(_GONE_PREFIX):
                    self._remove(f"{disk.description}/{name}")

    def _leave_all(self) -> None:
        disk = self._if_there()
        if disk is None or not self._used:
            return
        with _only_one(disk):
            for run_id, use in self._used.items():
                _leave(disk, use)
                if self._temporary or _is_over(disk, run_id):
                    self._remove_unused(disk, run_id)
        self._used.clear()

    @contextmanager
    def _own(self) -> Generator[None]:
        """One thread at a time. What a process had that this one was forked of stays that one's."""
        if self._pid != os.getpid():
            self._begin()
        with self._mutex:
            yield

    def _disk(self) -> RealDisk:
        if self._opened is None:
            if self._folder is None:
                self._folder = tempfile.mkdtemp(prefix="custody-private-")
                atexit.register(_forget, self._folder, os.getpid())
            path = os.path.realpath(self._folder)
            RealDisk(os.path.dirname(path))  # made as private as this one, where it is missing as well
            self._opened = RealDisk(path)
        return self._opened

    def _if_there(self) -> RealDisk | None:
        if self._opened is None and (self._folder is None or not os.path.isdir(self._folder)):
            return None
        return self._disk()

    def _remove_unused(self, disk: RealDisk, run_id: str) -> None:
        """Raises OSError."""
        using = [name for name in disk.names(run_id) if name.startswith(_USING_PREFIX)]
        if any(disk.locked(f"{run_id}/{name}") for name in using):
            return
        gone = f"{_GONE_PREFIX}{secrets.token_hex(8)}"
        os.rename(f"{disk.description}/{run_id}", f"{disk.description}/{gone}")
        # A command may have left a million files.
        path = f"{disk.description}/{gone}"
        thread = threading.Thread(target=self._remove, args=(path,), name="custody-private-folders")
        thread.start()
        self._removing = [other for other in self._removing if other.is_alive()] + [thread]

    def _remove(self, path: str) -> None:
        from custody.changes.held.removal import remove_tree  # few processes come here

        with suppress(OSError):
            remove_tree(path)


def _forget(folder: str, maker: int) -> None:
    if os.getpid() == maker:
        shutil.rmtree(folder, ignore_errors=True)


def _enter(disk: RealDisk, run_id: str) -> _Use:
    for folder in (run_id, f"{run_id}/{_PLACES}"):
        with suppress(FileExistsError):
            os.mkdir(f"{disk.description}/{folder}", _PRIVATE_MODE)
    path = f"{run_id}/{_USING_PREFIX}{secrets.token_hex(8)}"
    lock = disk.lock(path)
    if lock is None:
        raise BlockingIOError(f"{path} is somebody else's.")
    return _Use(path, lock)


def _leave(disk: RealDisk, use: _Use | None) -> None:
    if use is not None:
        use.lock.release()
        disk.remove(use.path)


def _is_over(disk: RealDisk, run_id: str) -> bool:
    return _OVER in disk.names(run_id)


@contextmanager
def _only_one(disk: RealDisk) -> Generator[None]:
    """Nobody else comes or goes meanwhile. Raises TimeoutError."""
    until = time.monotonic() + _LOCK_WAIT_SECONDS
    while (lock := disk.lock(_LOCK)) is None:
        if time.monotonic() > until:
            raise TimeoutError("Another process is at work on private folders.")
        time.sleep(0.001)
    try:
        yield
    finally:
        lock.release()
