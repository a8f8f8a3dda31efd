"""A disk that fails when told to: for tests of what happens then, and for showing it to somebody.

Owns the counting of operations and the faults put among them. Everything else it leaves to the disk it
wraps; without faults it behaves as that one.
"""

import errno
import os
import threading
from dataclasses import dataclass
from typing import Literal

from custody.journal.disk import Disk, File, Lock

Operation = Literal[
    "put", "read", "sync", "size", "open", "create", "replace", "read_all", "remove", "rename",
    "make_folder", "sync_folder", "punch", "names", "lock", "locked", "free_bytes",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong, and when."""

    operation: Operation | Literal["any"] = "any"
    at: int = 1
    """The n-th operation of that kind from the injection on; 1 is the next."""
    times: int | None = 1
    """How many from there on fail; None is all."""
    error: int | None = errno.EIO
    """The errno raised; None raises nothing (for a stall alone)."""
    put_bytes: int = 0
    """How much of a failing put reaches the file: a short write."""
    stall_seconds: float = 0.0
    """How long it waits before it goes on, unless `heal` comes first."""
    within: str = ""
    """Only paths that contain this are counted and hit."""


class _Armed:
    """A fault and how many of its operations have passed."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self._seen = 0

    def hits(self, operation: Operation, path: str) -> bool:
        fault = self.fault
        if fault.operation not in ("any", operation) or fault.within not in path:
            return False
        self._seen += 1
        return self._seen >= fault.at and (fault.times is None or self._seen < fault.at + fault.times)


class FaultyDisk:
    """Any disk, with faults."""

    def __init__(self, disk: Disk, *faults: Fault) -> None:
        self._disk = disk
        self.description = disk.description
        self.free: tuple[int, int] | None = None
        """What `free_bytes` answers instead of the disk."""
        self.operations: list[tuple[Operation, str]] = []
        """Everything asked of this disk so far, in order."""
        self.hit_count = 0
        """How often a fault was met."""
        self._faults = [_Armed(fault) for fault in faults]
        self._healed = threading.Event()
        self._changed = threading.Condition()

    def inject(self, *faults: Fault) -> None:
        with self._changed:
            self._faults += [_Armed(fault) for fault in faults]

    def heal(self) -> None:
        """Remove all faults and end all stalls."""
        with self._changed:
            self._faults = []
            self._healed.set()
            self._healed = threading.Event()

    def wait_for_hits(self, count: int, timeout_seconds: float) -> bool:
        """Wait until so many operations have met a fault; False when the time is over first."""
        with self._changed:
            return self._changed.wait_for(lambda: self.hit_count >= count, timeout_seconds)

    def meet(self, operation: Operation, path: str) -> Fault | None:
        """Count one operation; waits for its stall; the fault that then remains to be raised."""
        with self._changed:
            self.operations.append((operation, path))
            hits = [armed.fault for armed in self._faults if armed.hits(operation, path)]
            healed = self._healed
            if hits:
                self.hit_count += 1
                self._changed.notify_all()
        for fault in hits:
            if fault.stall_seconds:
                healed.wait(fault.stall_seconds)
        return next((fault for fault in hits if fault.error is not None), None)

    def check(self, operation: Operation, path: str) -> None:
        fault = self.meet(operation, path)
        if fault is not None:
            raise _error(fault, path)

    def make_folder(self, path: str) -> None:
        self.check("make_folder", path)
        self._disk.make_folder(path)

    def names(self, path: str) -> list[str]:
        self.check("names", path)
        return self._disk.names(path)

    def open(self, path: str, *, create: bool = False, write: bool = True) -> File:
        self.check("create" if create else "open", path)
        return FaultyFile(self, self._disk.open(path, create=create, write=write), path)

    def replace(self, path: str, data: bytes) -> None:
        self.check("replace", path)
        self._disk.replace(path, data)

    def read_all(self, path: str) -> bytes | None:
        self.check("read_all", path)
        return self._disk.read_all(path)

    def remove(self, path: str) -> None:
        self.check("remove", path)
        self._disk.remove(path)

    def rename(self, path: str, new_path: str) -> None:
        self.check("rename", path)
        self._disk.rename(path, new_path)

    def sync_folder(self, path: str) -> None:
        self.check("sync_folder", path)
        self._disk.sync_folder(path)

    def lock(self, path: str) -> Lock | None:
        self.check("lock", path)
        return self._disk.lock(path)

    def locked(self, path: str) -> bool:
        self.check("locked", path)
        return self._disk.locked(path)

    def free_bytes(self) -> tuple[int, int]:
        self.check("free_bytes", "")
        return self._disk.free_bytes() if self.free is None else self.free


class FaultyFile:
    """A file of a `FaultyDisk`."""

    def __init__(self, disk: FaultyDisk, file: File, path: str) -> None:
        self._disk = disk
        self._file = file
        self._path = path

    def put(self, data: bytes, offset: int) -> None:
        fault = self._disk.meet("put", self._path)
        if fault is None:
            return self._file.put(data, offset)
        if fault.put_bytes:
            self._file.put(data[: fault.put_bytes], offset)
        raise _error(fault, self._path)

    def read(self, count: int, offset: int) -> bytes:
        self._disk.check("read", self._path)
        return self._file.read(count, offset)

    def sync(self) -> None:
        self._disk.check("sync", self._path)
        self._file.sync()

    def punch(self, offset: int, count: int) -> None:
        self._disk.check("punch", self._path)
        self._file.punch(offset, count)

    def size_bytes(self) -> int:
        self._disk.check("size", self._path)
        return self._file.size_bytes()

    def close(self) -> None:
        # Closing loses nothing that was not lost before, so no fault is put there.
        self._file.close()


def _error(fault: Fault, path: str) -> OSError:
    assert fault.error is not None, "only faults with an error are raised"
    return OSError(fault.error, os.strerror(fault.error), path)
