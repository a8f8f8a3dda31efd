"""A disk with only the promises POSIX makes, whose crash states can be enumerated.

- What is put reaches the disk only by a sync of that file. Puts that were not synced land in any subset,
  each torn at 512-byte sectors.
- A name that was created, renamed or removed survives only after a sync of its folder.
- After a failed sync the kernel has marked the pages clean: they can still be read, and are never written.
- A process that is killed in the middle of a put has put it up to the end of some page of the file.
"""

import errno
import os
import random
import threading
from collections.abc import Callable
from typing import Literal

SECTOR_BYTES = 512
PAGE_BYTES = 4096

CrashMode = Literal["none", "subset", "all"]
CRASH_MODES: tuple[CrashMode, ...] = ("none", "subset", "all")


def _write(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


class Inode:
    """A file's content as readers see it, as the disk has it, and the puts in between."""

    def __init__(self, durable: bytes = b"") -> None:
        self.cached = bytearray(durable)
        self.durable = bytearray(durable)
        self.pending: list[tuple[int, bytes]] = []

    def put(self, offset: int, data: bytes) -> None:
        _write(self.cached, offset, data)
        self.pending.append((offset, data))

    def sync(self) -> None:
        for offset, data in self.pending:
            _write(self.durable, offset, data)
        self.pending.clear()

    def after_power_loss(self, mode: CrashMode, chance: random.Random) -> bytes:
        content = bytearray(self.durable)
        for offset, data in self.pending:
            if mode == "all":
                _write(content, offset, data)
            elif mode == "subset" and chance.random() < 0.5:
                self._write_torn(content, offset, data, chance)
        return bytes(content)

    @staticmethod
    def _write_torn(content: bytearray, offset: int, data: bytes, chance: random.Random) -> None:
        whole = chance.random() < 0.5
        start = 0
        while start < len(data):
            end = start + SECTOR_BYTES - (offset + start) % SECTOR_BYTES
            if whole or chance.random() < 0.7:
                _write(content, offset + start, data[start:end])
            start = end


class KilledInPut(OSError):
    """Raised by `on_operation` before a put: the process dies when about this share of it has been put."""

    def __init__(self, share: float, path: str) -> None:
        super().__init__(errno.EIO, "the process is killed", path)
        self.share = share

    def bytes_put(self, offset: int, count: int) -> int:
        page_end = (offset + int(count * self.share)) // PAGE_BYTES * PAGE_BYTES
        return max(0, page_end - offset)


class SimulatedFile:
    def __init__(self, disk: "SimulatedDisk", inode: Inode, path: str, write: bool) -> None:
        self._disk, self._inode, self._path, self._write = disk, inode, path, write
        self._open = True

    def put(self, data: bytes, offset: int) -> None:
        with self._disk.mutex:
            self._check_open()
            if not self._write:
                raise OSError(errno.EBADF, "opened for reading only", self._path)
            try:
                self._disk.enter("put", self._path)
            except KilledInPut as killed:
                self._inode.put(offset, bytes(data[: killed.bytes_put(offset, len(data))]))
                raise
            self._inode.put(offset, bytes(data))

    def read(self, count: int, offset: int) -> bytes:
        with self._disk.mutex:
            self._check_open()
            return bytes(self._inode.cached[offset : offset + count])

    def sync(self) -> None:
        with self._disk.mutex:
            self._check_open()
            try:
                self._disk.enter("sync", self._path)
            except OSError:
                self._inode.pending.clear()
                raise
            self._inode.sync()

    def punch(self, offset: int, count: int) -> None:
        with self._disk.mutex:
            self._check_open()

    def size_bytes(self) -> int:
        with self._disk.mutex:
            self._check_open()
            return len(self._inode.cached)

    def close(self) -> None:
        self._open = False

    def _check_open(self) -> None:
        if not self._open:
            raise OSError(errno.EBADF, "the file is closed", self._path)


class SimulatedLock:
    def __init__(self, disk: "SimulatedDisk", path: str) -> None:
        self._disk, self._path = disk, path

    def release(self) -> None:
        with self._disk.mutex:
            if self._disk.locks.get(self._path) is self:
                del self._disk.locks[self._path]


class SimulatedDisk:
    """`on_operation(operation, path)` is called before each change; what it raises, the caller gets."""

    description = "simulated"

    def __init__(self, on_operation: Callable[[str, str], None] | None = None) -> None:
        self.mutex = threading.RLock()
        self.on_operation = on_operation
        self.locks: dict[str, SimulatedLock] = {}
        self._folders = {""}
        self._cached: dict[str, Inode] = {}
        self._durable: dict[str, Inode] = {}
        self._renames: list[tuple[str, Inode | None]] = []
        """Names given (or taken away: None) whose folder was not synced since."""

    def enter(self, operation: str, path: str) -> None:
        if self.on_operation is not None:
            self.on_operation(operation, path)

    # -- crash states ---------------------------------------------------------------------------------

    def after_power_loss(self, mode: CrashMode, chance: random.Random) -> "SimulatedDisk":
        """A new disk with what may be on this one if the power fails now."""
        with self.mutex:
            named = dict(self._durable)
            for path, inode in self._renames:
                if mode == "all" or (mode == "subset" and chance.random() < 0.5):
                    _set_name(named, path, inode)
            disk = SimulatedDisk()
            disk._folders = set(self._folders)
            disk._durable = {
                path: Inode(inode.after_power_loss(mode, chance)) for path, inode in named.items()
            }
            disk._cached = dict(disk._durable)
            return disk

    def after_process_death(self) -> "SimulatedDisk":
        """A copy of this disk with its page cache, on which nobody holds a lock."""
        with self.mutex:
            disk = SimulatedDisk()
            copies: dict[int, Inode] = {}

            def copy(inode: Inode) -> Inode:
                if id(inode) not in copies:
                    twin = copies[id(inode)] = Inode()
                    twin.cached, twin.durable = bytearray(inode.cached), bytearray(inode.durable)
                    twin.pending = list(inode.pending)
                return copies[id(inode)]

            disk._folders = set(self._folders)
            disk._cached = {path: copy(inode) for path, inode in self._cached.items()}
            disk._durable = {path: copy(inode) for path, inode in self._durable.items()}
            disk._renames = [(path, inode and copy(inode)) for path, inode in self._renames]
            return disk

    def files(self) -> dict[str, bytearray]:
        """The content readers see, by path; changing it changes the disk itself, durably."""
        for inode in self._cached.values():
            inode.durable, inode.pending = inode.cached, []
        return {path: inode.cached for path, inode in self._cached.items()}

    # -- Disk -----------------------------------------------------------------------------------------

    def make_folder(self, path: str) -> None:
        with self.mutex:
            parts = path.split("/")
            above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
            if all(folder in self._folders for folder in above):
                return
            self.enter("make_folder", path)
            for folder in above:
                if folder in self._cached:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), folder)
            self._folders.update(above)

    def names(self, path: str) -> list[str]:
        prefix = f"{path}/" if path else ""
        with self.mutex:
            paths = (*self._cached, *self._folders)
        below = (path[len(prefix) :] for path in paths if path.startswith(prefix))
        return sorted(name for name in below if name and "/" not in name and not name.startswith(".new-"))

    def open(self, path: str, *, create: bool = False, write: bool = True) -> SimulatedFile:
        with self.mutex:
            if create:
                self._create(path)
            elif path not in self._cached:
                raise self._missing(path)
            return SimulatedFile(self, self._cached[path], path, write or create)

    def replace(self, path: str, data: bytes) -> None:
        """As the real disk does it, so that a crash can come between its steps."""
        folder, _, name = path.rpartition("/")
        temporary = f"{folder}/.new-{name}" if folder else f".new-{name}"
        with self.mutex:
            self._check_parent(path)
            if temporary in self._cached:  # a dead process's; the real disk's names are random
                self._name(temporary, None)
            try:
                file = self.open(temporary, create=True)
                file.put(data, 0)
                file.sync()
                self.enter("rename", path)
            except OSError:
                if temporary in self._cached:
                    self._name(temporary, None)
                raise
            inode = self._cached[temporary]
            self._name(path, inode)
            self._name(temporary, None)
            self.sync_folder(folder)

    def read_all(self, path: str) -> bytes | None:
        with self.mutex:
            inode = self._cached.get(path)
            return None if inode is None else bytes(inode.cached)

    def remove(self, path: str) -> None:
        with self.mutex:
            if path not in self._cached:
                raise self._missing(path)
            self.enter("remove", path)
            self._name(path, None)

    def rename(self, path: str, new_path: str) -> None:
        with self.mutex:
            if path not in self._cached:
                raise self._missing(path)
            self._check_parent(new_path)
            self.enter("rename", path)
            inode = self._cached[path]
            self._name(new_path, inode)
            self._name(path, None)

    def sync_folder(self, path: str) -> None:
        with self.mutex:
            if path not in self._folders:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            self.enter("sync_folder", path)
            waiting, self._renames = self._renames, []
            for name, inode in waiting:
                if name.rpartition("/")[0] == path:
                    _set_name(self._durable, name, inode)
                else:
                    self._renames.append((name, inode))

    def lock(self, path: str) -> SimulatedLock | None:
        with self.mutex:
            if path in self.locks:
                return None
            if path not in self._cached:
                self._create(path)
            lock = self.locks[path] = SimulatedLock(self, path)
            return lock

    def locked(self, path: str) -> bool:
        with self.mutex:
            return path in self.locks

    def free_bytes(self) -> tuple[int, int]:
        return 1 << 40, 1 << 40

    def _create(self, path: str) -> None:
        self._check_parent(path)
        if path in self._cached or path in self._folders:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self.enter("create", path)
        self._name(path, Inode())

    def _name(self, path: str, inode: Inode | None) -> None:
        _set_name(self._cached, path, inode)
        self._renames.append((path, inode))

    def _check_parent(self, path: str) -> None:
        if path.rpartition("/")[0] not in self._folders:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def _missing(self, path: str) -> OSError:
        code = errno.EISDIR if path in self._folders else errno.ENOENT
        return OSError(code, os.strerror(code), path)


def _set_name(names: dict[str, Inode], path: str, inode: Inode | None) -> None:
    if inode is None:
        names.pop(path, None)
    else:
        names[path] = inode
