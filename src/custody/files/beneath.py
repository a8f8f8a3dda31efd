"""Opening a path so that it cannot lead out of a folder.

Owns the two ways to do it: `by_kernel` asks openat2(2) to resolve the whole path beneath a folder, `by_walk`
goes component by component over folders it holds open, for kernels without that call. Both refuse the same
things with the same error numbers, and neither leaves a moment in which a path that was checked is another
than the one that is opened. Knows nothing of roots or of what is protected. Used by `reach`.

An OSError says why not: EXDEV the path leads out (by `..`, by an absolute path or an absolute link), ELOOP a
link where none may be, a loop of links or a magic link of /proc, else what open(2) says.
"""

import ctypes
import errno
import os
import stat
import struct
from collections import deque
from functools import lru_cache

OPENAT2 = 437
"""The number of the system call, on every architecture Linux gave it to."""

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_CACHED = 0x20

LINKS_MAX = 40
"""Links followed on one way; the kernel's own limit (MAXSYMLINKS)."""

RETRIES_MAX = 64
"""EAGAIN: something was renamed while `..` was resolved. Whoever renames without end gets the walk."""

SWAP_RETRIES_MAX = 1000
"""A last component that is a link, then none, then a link again: somebody swaps it while it is opened."""

PROC_SUPER_MAGIC = 0x9FA0
_HOW_BYTES = 24
_CREATES = os.O_CREAT | (os.O_TMPFILE & ~os.O_DIRECTORY)
_AT_FDCWD = -100
_EXACTLY = RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
_syscall.restype = ctypes.c_long


def open_beneath(
    root_fd: int, relative: str, flags: int, mode: int = 0, *, links: bool, cached: bool = False
) -> int:
    """A descriptor of what `relative` names beneath the folder `root_fd`; "" and "." are the folder itself.

    `links`: symbolic links on the way (and at its end, without O_NOFOLLOW) are followed as long as they stay
    beneath. `cached`: only if no disk has to be waited for, else BlockingIOError. Raises OSError.
    """
    way = by_kernel if _kernel_can() else by_walk
    return way(root_fd, relative, flags, mode, links=links, cached=cached)


def open_exactly(path: str, flags: int, *, cached: bool = False) -> int:
    """A descriptor of what stands at an absolute path on whose way, and at whose end, there is no link.

    Without `..` in it (ValueError) such a path leads where its spelling says and nowhere else: this is how a
    root is opened, and the short way to what lies beneath one. `cached` and errors as in `open_beneath`.
    """
    if "/.." in path and ".." in path.split("/"):
        raise ValueError("a path with `..` leads elsewhere than its spelling says")
    if _kernel_can():
        return _by_kernel(_AT_FDCWD, path, flags, 0, _EXACTLY | RESOLVE_CACHED if cached else _EXACTLY)
    top = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return by_walk(top, path.lstrip("/"), flags, links=False, cached=cached)
    finally:
        os.close(top)


# -- by the kernel ------------------------------------------------------------------------------------


def by_kernel(
    root_fd: int, relative: str, flags: int, mode: int = 0, *, links: bool, cached: bool = False
) -> int:
    """See `open_beneath`; needs Linux 5.6 (5.12 for `cached`)."""
    resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
    if not links:
        resolve |= RESOLVE_NO_SYMLINKS
    if cached:
        resolve |= RESOLVE_CACHED
    try:
        return _by_kernel(root_fd, relative or ".", flags, mode if flags & _CREATES else 0, resolve)
    except BlockingIOError:
        if cached:
            raise
    return by_walk(root_fd, relative, flags, mode, links=links)


def _by_kernel(folder_fd: int, path: str, flags: int, mode: int, resolve: int) -> int:
    """openat2(2), again where something was renamed on the way or a signal came."""
    how = _how(flags, mode, resolve)
    if "\0" in path:
        raise ValueError("embedded null byte")
    data = path.encode() if path.isascii() else os.fsencode(path)
    number = 0
    for _ in range(RETRIES_MAX):
        fd: int = _syscall(OPENAT2, folder_fd, data, how, _HOW_BYTES)
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if resolve & RESOLVE_CACHED:
            if number == errno.EINVAL:  # a kernel that does not know it
                number = errno.EAGAIN
            break
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number), path)


@lru_cache(maxsize=256)
def _how(flags: int, mode: int, resolve: int) -> bytes:
    """The kernel's `struct open_how`, which it only reads."""
    return struct.pack("=QQQ", flags | os.O_CLOEXEC, mode & 0o7777, resolve)


@lru_cache(maxsize=1)
def _kernel_can() -> bool:
    """Whether there is openat2: not before Linux 5.6, nor where a filter of system calls refuses it."""
    top = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(_by_kernel(top, ".", os.O_PATH | os.O_DIRECTORY, 0, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS))
    except OSError:
        return False
    finally:
        os.close(top)
    return True


# -- component by component ---------------------------------------------------------------------------


def by_walk(
    root_fd: int, relative: str, flags: int, mode: int = 0, *, links: bool, cached: bool = False
) -> int:
    """See `open_beneath`; for kernels without openat2. It cannot promise not to wait, so `cached` fails."""
    if cached:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), relative)
    walk = _Walk(root_fd, relative, links=links)
    try:
        return walk.open(flags, mode)
    finally:
        walk.close()


class _Walk:
    """One way through folders that are held open, so that `..` leads back to where the way came from."""

    def __init__(self, root_fd: int, relative: str, *, links: bool) -> None:
        self._root_fd = root_fd
        self._relative = relative
        self._links = links
        self._held: list[int] = []
        self._followed = 0
        self._ahead: deque[str] = deque()
        self._folder_only = False
        self._splice(relative or ".")

    @property
    def _top(self) -> int:
        return self._held[-1] if self._held else self._root_fd

    def close(self) -> None:
        for fd in self._held:
            os.close(fd)
        self._held.clear()

    def open(self, flags: int, mode: int) -> int:
        for _ in range(SWAP_RETRIES_MAX):
            while len(self._ahead) > 1 or (self._ahead and self._ahead[0] == ".."):
                self._step(self._ahead.popleft())
            fd = self._last(self._ahead.popleft() if self._ahead else ".", flags, mode)
            if fd is not None:
                return fd
        raise self._error(errno.ELOOP)

    def _step(self, name: str) -> None:
        """Go on to the folder `name`, or to where the link `name` leads."""
        if name == "..":
            if not self._held:
                raise self._error(errno.EXDEV)
            os.close(self._held.pop())
            return
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._top)
        kind = stat.S_IFMT(os.fstat(fd).st_mode)
        if kind == stat.S_IFDIR:
            self._held.append(fd)
            return
        try:
            if kind != stat.S_IFLNK:
                raise self._error(errno.ENOTDIR)
            if not self._links:
                raise self._error(errno.ELOOP)
            self._follow(os.readlink("", dir_fd=fd))
        finally:
            os.close(fd)

    def _last(self, name: str, flags: int, mode: int) -> int | None:
        """Open the last component. None: it was a link, and the way goes on where that leads."""
        if self._folder_only:
            if flags & os.O_CREAT and not flags & os.O_DIRECTORY:
                raise self._error(errno.EISDIR)
            flags |= os.O_DIRECTORY
        stays = flags & os.O_NOFOLLOW and not self._folder_only
        try:
            fd = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=self._top)
        except OSError as error:
            if stays or error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            if not self._follow_named(name) and error.errno == errno.ENOTDIR:
                raise
            return None
        if stays or not flags & os.O_PATH or not stat.S_ISLNK(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        self._follow_named(name)
        return None

    def _follow_named(self, name: str) -> bool:
        """Follow the link `name`; False, and `name` is ahead again: it is a link no more."""
        try:
            target = os.readlink(name, dir_fd=self._top)
        except OSError:
            self._ahead.appendleft(name)
            return False
        if not self._links:
            raise self._error(errno.ELOOP)
        self._follow(target)
        return True

    def _follow(self, target: str) -> None:
        self._followed += 1
        if self._followed > LINKS_MAX:
            raise self._error(errno.ELOOP)
        if (target.startswith("/") or ":" in target) and _is_proc(self._top):
            raise self._error(errno.ELOOP)
        self._splice(target)

    def _splice(self, path: str) -> None:
        """Put the components of `path` before those that are still ahead."""
        if path.startswith("/"):
            raise self._error(errno.EXDEV)
        names = [name for name in path.split("/") if name not in ("", ".")]
        if not self._ahead and path.rsplit("/", 1)[-1] in ("", "."):
            self._folder_only = True
        self._ahead.extendleft(reversed(names))

    def _error(self, number: int) -> OSError:
        return OSError(number, os.strerror(number), self._relative)


def _is_proc(folder_fd: int) -> bool:
    """Whether the folder is one of /proc, whose links may lead anywhere without being absolute."""
    buffer = ctypes.create_string_buffer(256)  # struct statfs; its first word is the type
    if _libc.fstatfs(folder_fd, buffer) != 0:
        return True
    return int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], "little") == PROC_SUPER_MAGIC
