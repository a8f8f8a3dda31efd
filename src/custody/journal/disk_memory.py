"""A store in memory: what `:memory:` runs on.

Owns the same promises as the real disk, for as long as the process lives; everything is durable at once.
Safe for threads. A forked child has its own copy and holds none of its parent's locks.
"""

import errno
import os
import threading
import weakref

FREE_BYTES = 1 << 40
"""There is no file system here to run full; the machine's memory is watched by the resource breaker."""


class MemoryFile:
    """A `File` on a bytearray shared by everybody who has it open."""

    def __init__(self, disk: "MemoryDisk", content: bytearray, path: str, write: bool) -> None:
        self._disk = disk
        self._content: bytearray | None = content
        self._path = path
        self._write = write

    def put(self, data: bytes, offset: int) -> None:
        with self._disk.mutex:
            content = self._open_content()
            if not self._write:
                raise OSError(errno.EBADF, "opened for reading only", self._path)
            end = offset + len(data)
            if len(content) < offset:
                content.extend(bytes(offset - len(content)))
            content[offset:end] = data

    def read(self, count: int, offset: int) -> bytes:
        with self._disk.mutex:
            # Not of a view: while there is one, a put that a finalizer brings in between cannot grow it.
            return bytes(self._open_content()[offset : offset + count])

    def sync(self) -> None:
        self._open_content()

    def punch(self, offset: int, count: int) -> None:
        pass

    def size_bytes(self) -> int:
        return len(self._open_content())

    def close(self) -> None:
        self._content = None

    def _open_content(self) -> bytearray:
        if self._content is None:
            raise OSError(errno.EBADF, "the file is closed", self._path)
        return self._content


class MemoryLock:
    """Held by one process: a forked child's copy does not hold it."""

    def __init__(self, disk: "MemoryDisk", path: str) -> None:
        self._disk = disk
        self._path = path
        self.owner_pid = os.getpid()

    def release(self) -> None:
        with self._disk.mutex:
            if self._disk.locks.get(self._path) is self:
                del self._disk.locks[self._path]


class MemoryDisk:
    """A store's folder in memory."""

    description = ":memory:"

    def __init__(self) -> None:
        self.mutex = threading.RLock()  # whoever holds it may be interrupted by a finalizer that records
        self.locks: dict[str, MemoryLock] = {}
        self._folders = {""}
        self._files: dict[str, bytearray] = {}
        _disks.add(self)

    def make_folder(self, path: str) -> None:
        with self.mutex:
            parts = path.split("/")
            above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
            for folder in above:
                if folder in self._files:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), folder)
            self._folders.update(above)

    def names(self, path: str) -> list[str]:
        prefix = f"{path}/" if path else ""
        with self.mutex:
            paths = (*self._files, *self._folders)
        below = (path[len(prefix) :] for path in paths if path.startswith(prefix))
        return sorted(name for name in below if name and "/" not in name)

    def open(self, path: str, *, create: bool = False, write: bool = True) -> MemoryFile:
        with self.mutex:
            if create:
                self._make_file(path)
            elif path not in self._files:
                raise self._missing(path)
            content = self._files[path]
        return MemoryFile(self, content, path, write or create)

    def replace(self, path: str, data: bytes) -> None:
        with self.mutex:
            self._check_parent(path)
            # A new file, as a rename makes one: who has the old one open keeps it.
            self._files[path] = bytearray(data)

    def read_all(self, path: str) -> bytes | None:
        with self.mutex:
            content = self._files.get(path)
            return None if content is None else bytes(content)

    def remove(self, path: str) -> None:
        with self.mutex:
            if path not in self._files:
                raise self._missing(path)
            del self._files[path]

    def rename(self, path: str, new_path: str) -> None:
        with self.mutex:
            if path not in self._files:
                raise self._missing(path)
            self._check_parent(new_path)
            self._files[new_path] = self._files.pop(path)

    def sync_folder(self, path: str) -> None:
        with self.mutex:
            if path not in self._folders:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def lock(self, path: str) -> MemoryLock | None:
        with self.mutex:
            if self._holder(path) is not None:
                return None
            if path not in self._files:
                self._make_file(path)
            lock = self.locks[path] = MemoryLock(self, path)
            return lock

    def locked(self, path: str) -> bool:
        with self.mutex:
            return self._holder(path) is not None

    def free_bytes(self) -> tuple[int, int]:
        return FREE_BYTES, FREE_BYTES

    def _holder(self, path: str) -> MemoryLock | None:
        lock = self.locks.get(path)
        return lock if lock is not None and lock.owner_pid == os.getpid() else None

    def _make_file(self, path: str) -> None:
        self._check_parent(path)
        if path in self._files or path in self._folders:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self._files[path] = bytearray()

    def _check_parent(self, path: str) -> None:
        if path.rpartition("/")[0] not in self._folders:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def _missing(self, path: str) -> OSError:
        code = errno.EISDIR if path in self._folders else errno.ENOENT
        return OSError(code, os.strerror(code), path)


_disks: "weakref.WeakSet[MemoryDisk]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # Another thread may have been inside at the fork: its mutex would never be released.
    for disk in list(_disks):
        disk.mutex = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)
