"""Where a call's file work may go: from what an agent wrote to a descriptor or a target beneath a root.

Owns the reading of a path (what is no path at all, which root it belongs to), the refusals and their words.
Opens and resolves through `beneath` alone, so that what was checked is what is used. Knows nothing of calls
and changes nothing. Used by every tool that takes a path.
"""

import errno
import os
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Literal, NoReturn, Self

import msgspec
from msgspec import Struct

from custody.errors import PathInvalid, PathRefused
from custody.files.beneath import open_beneath, open_exactly
from custody.files.protected import Protected
from custody.files.spelling import absolute_path, below, shown
from custody.records import Decision

_DELETED = " (deleted)"
_FOLDER = os.O_PATH | os.O_DIRECTORY


class Target(Struct, frozen=True):
    """A path whose folder was resolved beneath a root: no links are left in it. It need not exist."""

    root: str
    """Absolute, links resolved."""
    relative: str
    """Below the root, without `.` and `..`; "" is the root itself."""

    @property
    def path(self) -> str:
        """Absolute."""
        return os.path.join(self.root, self.relative) if self.relative else self.root


class Opening(Struct, frozen=True):
    """A path that no tool may write, and that a person may open for one call."""

    path: str
    """Absolute, links resolved."""
    why: Literal["outside", "protected"]
    refusal: str
    """Why it may not be written, as a sentence."""


class Opened:
    """A descriptor and the real path of what it stands for. Leaving the `with` block closes it."""

    __slots__ = ("fd", "path", "status")

    def __init__(self, fd: int, path: str, status: os.stat_result) -> None:
        self.fd = fd
        self.path = path
        self.status = status
        """As it was when it was opened."""

    def close(self) -> None:
        """Close it; a second time does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Reach(Struct, frozen=True):
    """Where file work may go."""

    cwd: str
    """What relative paths are taken from."""
    roots: tuple[str, ...]
    """Folders below which it may go, absolute, links resolved."""
    protected: Protected
    opens: Callable[[Opening], bool] | None = None
    """Whether a path that could not be written otherwise may be; None: none may."""

    def target(self, path: str, *, write: bool, follow: bool = True) -> Target:
        """What `path` names, to be written, deleted or listed. It, and folders on its way, may be missing.

        `path` is relative to `cwd`, absolute, or begins with `~/`. `follow`: a symbolic link at its end is
        followed, and one that leads nowhere refused; otherwise the link is what is named. Raises PathInvalid,
        PathRefused (outside the roots, protected, a root itself if `write`), OSError.
        """
        target, status = self._resolve_opened(path, follow) if write else self._resolve(path, follow)
        if write and not target.relative:
            raise PathRefused(
                f"{shown(target.root)} is an allowed root itself, which is not changed as a whole."
            )
        self._check(path, target.path, status, write=write)
        return target

    def open(self, path: str, *, cached: bool = False) -> Opened:
        """A regular file, for reading.

        `cached`: only if no disk has to be waited for, else BlockingIOError, also for whatever else is in the
        way. Raises PathInvalid (also for what is neither file nor folder), PathRefused, FileNotFoundError,
        IsADirectoryError, OSError.
        """
        handle, _, real = self._handle(path, os.O_PATH, cached=cached)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                _refuse_kind(real, status.st_mode)
            if cached and status.st_nlink > 1:
                raise _not_cached(path)
            self._check(path, real, status, write=False)
            return Opened(_opened_again(handle, path), real, status)
        finally:
            os.close(handle)

    def open_folder(self, path: str) -> Opened:
        """A folder, to be listed.

        Raises PathInvalid, PathRefused, FileNotFoundError, NotADirectoryError, OSError.
        """
        fd, _, real = self._handle(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            status = os.fstat(fd)
            self._check(path, real, status, write=False)
            return Opened(fd, real, status)
        except BaseException:
            os.close(fd)
            raise

    def decision(self, path: str, *, write: bool, follow: bool = True) -> Decision | None:
        """A refusal of the path before anything is done with it; None where it may be tried."""
        try:
            self.target(path, write=write, follow=follow)
        except PathRefused as error:
            return Decision("deny", "path", str(error))
        except PathInvalid as error:
            return Decision("deny", "schema", str(error))
        except OSError:
            return None
        return None

    def _lexical(self, absolute: str) -> tuple[str, str] | None:
        """The outermost root that the path is in by its spelling, and the rest of the path."""
        found: tuple[str, str] | None = None
        for root in self.roots:
            if (found is None or len(root) < len(found[0])) and (rest := below(root, absolute)) is not None:
                found = root, rest
        return found

    # -- opening ----------------------------------------------------------------------------------------

    def _handle(
        self, path: str, flags: int, *, cached: bool = False, follow: bool = True
    ) -> tuple[int, Target, str]:
        """A descriptor of what `path` names, where that is, and its absolute path."""
        absolute = absolute_path(path, self.cwd)
        found = self._lexical(absolute)
        if found is not None and "/.." not in absolute and absolute[-1] != "/":
            target = Target(*found)
            real = absolute if absolute.startswith(found[0]) else target.path
            try:
                return open_exactly(real, flags, cached=cached), target, real
            except OSError as error:
                if cached:
                    raise _not_cached(path) from None
                if error.errno != errno.ELOOP:
                    raise _named(error, path) from None
        if cached:
            raise _not_cached(path)
        root, fd = self._follow(path, absolute, found, flags, follow)
        try:
            real = _real_path(fd)
            return fd, _target_of(path, root, real), real
        except BaseException:
            os.close(fd)
            raise

    def _follow(
        self, path: str, absolute: str, found: tuple[str, str] | None, flags: int, follow: bool
    ) -> tuple[str, int]:
        """A root and a descriptor of what lies beneath it, where links and `..` have to be followed."""
        if found is not None:
            try:
                return found[0], _open_in(*found, flags, links=True)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise PathRefused(
                        f"{shown(path)} leads through links that are not followed: without end, of /proc, or "
                        f"above the root {shown(found[0])}."
                    ) from error
                if error.errno != errno.EXDEV:
                    raise _named(error, path) from None
        root, rest = self._by_real_path(path, absolute, follow)
        try:
            return root, _open_in(root, rest, flags, links=False)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EXDEV):
                raise PathRefused(
                    f"{shown(path)} was changed to lead elsewhere while it was opened."
                ) from error
            raise _named(error, path) from None

    def _by_real_path(self, path: str, absolute: str, follow: bool) -> tuple[str, str]:
        """Root and rest of a path that only its links or its `..` lead into a root. Raises PathRefused."""
        if follow:
            real = os.path.realpath(absolute)
        else:
            folder, name = os.path.split(absolute.rstrip("/"))
            real = os.path.join(os.path.realpath(folder), name)
        found = self._lexical(real)
        if found is None:
            self._refuse(path, real)
        return found

    def _refuse(self, path: str, real: str) -> NoReturn:
        folder = real
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        way = "" if path == real else f" leads to {shown(real)}, which"
        if "//" in path[1:]:  # perhaps a URL: without one of its slashes nobody knows the password in it
            plain = path[0] == "/" and ".." not in path and os.path.normpath(path) == real
            way = "" if plain else f" leads into {shown(folder)}, which"
        raise PathRefused(
            f"{shown(path)}{way} is outside the allowed roots ({', '.join(map(shown, self.roots))}); "
            f"--root {shown(folder)} would allow it.",
            outside=real,
        )

    def _check(self, path: str, real: str, status: os.stat_result | None, *, write: bool) -> None:
        """Raises PathRefused for what is protected by where it is, as it was spelled or by another name."""
        inode = None
        if status is not None and status.st_nlink > 1 and stat.S_ISREG(status.st_mode):
            inode = (status.st_dev, status.st_ino)
        refused = self.protected.refused(real, write=write, inode=inode)
        if (refused is None or not refused.own) and real not in (path, f"{self.cwd}/{path}"):
            spelled = os.path.normpath(absolute_path(path, self.cwd))
            by_spelling = self.protected.refused(spelled, write=write)
            if by_spelling is not None and (refused is None or by_spelling.own):
                words = f"{by_spelling.words} It leads to {shown(real)}."
                refused = msgspec.structs.replace(by_spelling, words=words)
        if refused is None:
            return
        if refused.own or not write or not self._opens(real, "protected", refused.words):
            raise PathRefused(refused.words)

    def _opens(self, path: str, why: Literal["outside", "protected"], refusal: str) -> bool:
        return self.opens is not None and self.opens(Opening(path, why, refusal))

    # -- resolving --------------------------------------------------------------------------------------

    def _resolve_opened(self, path: str, follow: bool) -> tuple[Target, os.stat_result | None]:
        """As `_resolve`, also for a path outside the roots that may be written all the same."""
        try:
            return self._resolve(path, follow)
        except PathRefused as error:
            outside = error.details.get("outside")
            if outside is None or not self._opens(outside, "outside", str(error)):
                raise
        target, status = msgspec.structs.replace(self, roots=("/",))._resolve(outside, follow=False)
        if target.path != outside:
            raise PathRefused(f"{shown(path)} was changed to lead elsewhere while it was opened.")
        return target, status

    def _resolve(self, path: str, follow: bool) -> tuple[Target, os.stat_result | None]:
        """The target, and what stands there (None: nothing)."""
        flags = os.O_PATH if follow else os.O_PATH | os.O_NOFOLLOW
        if not follow:
            path = path.rstrip("/") or path  # with the slash the kernel would follow
        try:
            fd, target, _ = self._handle(path, flags, follow=follow)
        except FileNotFoundError:
            return self._resolve_missing(path), None
        try:
            return target, os.fstat(fd)
        finally:
            os.close(fd)

    def _resolve_missing(self, path: str) -> Target:
        """Where nothing stands yet: the nearest folder that is there, and the names that are missing."""
        missing: list[str] = []
        folder = absolute_path(path, self.cwd).rstrip("/")
        while True:
            found = self._lexical(folder)
            if found is not None and not found[1]:
                raise FileNotFoundError(errno.ENOENT, "the root does not exist", folder)
            folder, name = os.path.split(folder)
            if name == "..":
                raise PathInvalid(f"{shown(path)} goes up from a folder that does not exist.")
            missing.insert(0, name)
            try:
                fd, nearest, real = self._handle(folder, _FOLDER)
                break
            except FileNotFoundError:
                continue
        try:
            if _is_link(fd, missing[0]):
                link = shown(os.path.join(real, missing[0]))
                raise PathRefused(f"{link} is a symbolic link that leads nowhere.")
        finally:
            os.close(fd)
        return Target(nearest.root, os.path.join(nearest.relative, *missing))


@contextmanager
def parent_of(target: Target) -> Generator[tuple[int, str]]:
    """A descriptor of the folder the target is in, and its name there. No link is followed from its root on.

    Raises OSError: ELOOP where a link stands by now, ENOENT, EBUSY for a root itself.
    """
    folder, name = os.path.split(target.relative)
    if not name:
        raise OSError(errno.EBUSY, "a root itself has no folder to work in", target.path)
    flags = os.O_RDONLY | os.O_DIRECTORY
    try:
        fd = _open_in(target.root, folder, flags, links=False)
    except PermissionError:  # a folder that may be used and not listed
        fd = _open_in(target.root, folder, _FOLDER, links=False)
    except OSError as error:
        raise _named(error, target.path) from None
    try:
        yield fd, name
    finally:
        os.close(fd)


def _open_in(root: str, rest: str, flags: int, *, links: bool) -> int:
    root_fd = open_exactly(root, _FOLDER)
    try:
        return open_beneath(root_fd, rest, flags, links=links)
    finally:
        os.close(root_fd)


def _opened_again(handle: int, path: str) -> int:
    """For reading, and the very file that an O_PATH descriptor stands for."""
    try:
        return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise _named(error, path) from None


def _real_path(fd: int) -> str:
    """Where the kernel says that it is; a file that was replaced since is where it was."""
    path = os.readlink(f"/proc/self/fd/{fd}")
    if path.endswith(_DELETED) and not _stands_at(fd, path):
        return path.removesuffix(_DELETED)
    return path


def _stands_at(fd: int, path: str) -> bool:
    try:
        found, status = os.lstat(path), os.fstat(fd)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino)


def _target_of(path: str, root: str, real: str) -> Target:
    rest = below(root, real)
    if rest is None:
        raise PathRefused(f"{shown(path)} was moved out of {shown(root)} while it was resolved.")
    return Target(root, rest)


def _is_link(folder_fd: int, name: str) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(name, dir_fd=folder_fd).st_mode)
    except OSError:
        return False


def _not_cached(path: str) -> BlockingIOError:
    return BlockingIOError(errno.EAGAIN, "it cannot be told without waiting for a disk", path)


def _named(error: OSError, path: str) -> OSError:
    """The same error, naming the path as it was asked for."""
    return OSError(error.errno, error.strerror, path)


def _refuse_kind(path: str, mode: int) -> NoReturn:
    kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    kinds |= {stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise PathInvalid(f"{shown(path)} is {kinds.get(stat.S_IFMT(mode), 'no file')}, not a file.")
