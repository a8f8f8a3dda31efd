"""A skill on this machine: a folder or a single file, copied from where an agent or a person may read.

Owns the way from a path to files: no link is followed, at the end or within, and nothing but regular files is
opened. Used by `acts`; `archive` opens its file through here.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator

from custody.errors import InvalidSkill, PathRefused
from custody.files import Opened, Reach, TooMany, open_beneath, walk
from custody.files.spelling import shown
from custody.skills.skill import Source
from custody.skills.sources.wanted import FILE_SUFFIX, Wanted
from custody.skills.staging import CHUNK_BYTES, Fetched, Intake, Staging
from custody.skills.tree import SKILL_FILE, TreeBounds

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

GIT_FOLDER = ".git"
"""What git keeps of a repository is no part of a skill that lies in it, and larger than all of it."""

Adopting = Callable[[str], bool]
"""Whether a folder stands in its place already: then it is taken as it is, or not at all."""


def fetch_folder(
    wanted: Wanted, reach: Reach, staging: Staging, bounds: TreeBounds, adopting: Adopting
) -> Fetched:
    """Copy a folder. Raises InvalidSkill, PathRefused, PathInvalid, ToolError."""
    path = real_path(wanted, reach)
    source = Source(kind="local", location=shown(path))
    folder = staging.folder("skill")
    intake = Intake(folder, bounds)
    try:
        with reach.open_folder(path) as opened:
            if opened.path != path:
                raise _moved(path)
            _copy(opened, reach, intake, bounds, whole=adopting(path))
    except OSError as error:
        raise _unreadable(path, error) from error
    return Fetched(path=folder, kind="folder", natural_name=os.path.basename(path), source=source)


def _copy(top: Opened, reach: Reach, intake: Intake, bounds: TreeBounds, *, whole: bool) -> None:
    def skip(relative: str) -> bool:
        return not whole and relative.rstrip("/").rpartition("/")[2] == GIT_FOLDER

    try:
        for entry in walk(top.fd, entries_max=bounds.files_max, depth_max=bounds.depth_max, skip=skip):
            if entry.kind == "directory":
                intake.add_folder(entry.relative)
            elif entry.kind == "file":
                executable = bool(entry.stat.st_mode & 0o111)
                intake.add_file(entry.relative, _chunks(top, entry.relative, reach), executable=executable)
            else:
                what = "a link" if entry.kind == "link" else "neither a file nor a folder"
                raise InvalidSkill(
                    f"{shown(entry.relative)} is {what}; a skill holds files and folders only."
                )
    except TooMany as error:
        raise InvalidSkill(error.message) from error


def _chunks(top: Opened, relative: str, reach: Reach) -> Iterator[bytes]:
    """Raises PathRefused for what no tool may read: in a skill anybody could."""
    try:
        fd = open_beneath(top.fd, relative, _READ, links=False)
    except OSError as error:
        raise _unreadable(relative, error) from error
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        inode = (status.st_dev, status.st_ino) if status.st_nlink > 1 else None
        refusal = reach.protected.refusal(os.path.join(top.path, relative), write=False, inode=inode)
        if refusal is not None:
            raise PathRefused(refusal)
        yield from read_chunks(file.fileno(), relative)


def fetch_file(wanted: Wanted, reach: Reach, staging: Staging, bounds: TreeBounds) -> Fetched:
    """Copy a single `.md` file, with the signature beside it. Raises as `fetch_folder`."""
    path = real_path(wanted, reach)
    folder = staging.folder("skill")
    intake = Intake(folder, bounds)
    intake.add_file(SKILL_FILE, opened_chunks(reach, path), executable=False)
    if os.path.lexists(f"{path}.sig"):
        beside = real_path(Wanted(kind="local", form="file", location=f"{path}.sig", said=""), reach)
        intake.add_file(f"{SKILL_FILE}.sig", opened_chunks(reach, beside), executable=False)
    return Fetched(
        path=os.path.join(folder, SKILL_FILE),
        kind="file",
        natural_name=os.path.basename(path)[: -len(FILE_SUFFIX)],
        source=Source(kind="local", location=shown(path)),
    )


def real_path(wanted: Wanted, reach: Reach) -> str:
    """Where a path of the call leads, without links; at its end there is none. Raises InvalidSkill,
    PathRefused, PathInvalid."""
    try:
        path = reach.target(wanted.location, write=False, follow=False).path
        mode = os.lstat(path).st_mode
    except OSError as error:
        raise _unreadable(wanted.location, error) from error
    if stat.S_ISLNK(mode):
        raise InvalidSkill(f"{shown(path)} is a link, which is not followed.", hint="Name what it leads to.")
    if wanted.form == "folder" and not stat.S_ISDIR(mode):
        raise InvalidSkill(
            f"{shown(path)} is neither a folder nor a file that ends as a skill or an archive does."
        )
    if wanted.form != "folder" and not stat.S_ISREG(mode):
        raise InvalidSkill(f"{shown(path)} is not a file.")
    return path


def opened_chunks(reach: Reach, path: str) -> Iterator[bytes]:
    """The bytes of the file at a path that `real_path` gave. Raises InvalidSkill."""
    try:
        opened = reach.open(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    with opened:
        if opened.path != path:
            raise _moved(path)
        yield from read_chunks(opened.fd, path)


def read_chunks(fd: int, path: str) -> Iterator[bytes]:
    """Raises InvalidSkill where the file cannot be read, or is none by now."""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _moved(path)
        while chunk := os.read(fd, CHUNK_BYTES):
            yield chunk
    except OSError as error:
        raise _unreadable(path, error) from error


def _moved(path: str) -> InvalidSkill:
    return InvalidSkill(f"{shown(path)} was changed to be something else while it was read.")


def _unreadable(path: str, error: OSError) -> InvalidSkill:
    what = "there is nothing there" if error.errno == errno.ENOENT else error.strerror
    return InvalidSkill(f"{shown(path)} cannot be read: {what}.")


def repository_path(wanted: Wanted, reach: Reach) -> str:
    """Where a local repository lies, which has all of its objects. Raises as `real_path`."""
    path = real_path(wanted, reach)
    inner = os.path.join(path, GIT_FOLDER)
    objects = os.path.join(inner if os.path.isdir(inner) else path, "objects")
    if os.path.isfile(inner) or os.path.islink(inner) or os.path.islink(objects):
        raise InvalidSkill(f"{shown(path)} only points to a repository.", hint="Name the one it points to.")
    if os.path.lexists(os.path.join(objects, "info", "alternates")):
        raise InvalidSkill(
            f"{shown(path)} has its objects elsewhere.", hint="Name the repository that has them."
        )
    return path
