"""The private folder in which a skill that comes from outside is looked at before it is put in place.

Owns what may come in: names, kinds, sizes, counts, each judged before a byte of it is written. Knows nothing
of archives or repositories (`sources`) and nothing of roots (`install`). Used by those two and by `acts`.

Every file in it is written by Custody itself, as an ordinary file or folder of this user: there is no link,
no device and no set-user-id bit to be found here, whatever an archive said.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable

import msgspec
from msgspec import Struct

from custody.errors import InvalidSkill, ToolError
from custody.files.spelling import NAME_BYTES_MAX, folded
from custody.skills.lock import SignatureData
from custody.skills.signing import SignatureVerdict
from custody.skills.skill import SkillKind, Source
from custody.skills.tree import Tree, TreeBounds, path_fault

PREFIX = "custody-skill-"
FOLDER_MODE = 0o700

WRAPPING_DEPTH_MAX = 8
"""An archive or a repository holds a skill some folders down; the skill itself is held to its own bound."""

CHUNK_BYTES = 256 * 1024


class Fetched(Struct, frozen=True, kw_only=True):
    """What a source gave: a folder or a single file in the staging folder, nothing of it judged yet but names
    and sizes."""

    path: str
    kind: SkillKind
    natural_name: str | None
    """What whoever named the source calls it: by the name of the folder or file; None: they did not."""
    other_name: str | None = None
    """What it may be called where neither they nor the skill itself says so."""
    source: Source


class Staged(Struct, frozen=True, kw_only=True):
    """A skill that was looked at and may be put in place."""

    name: str
    description: str
    kind: SkillKind
    path: str
    """Absolute, in the staging folder."""
    tree: Tree
    source: Source
    verdict: SignatureVerdict
    signature: SignatureData | None
    """None: it came with none."""


class Staging:
    """A private folder until it is closed. Made and closed in a thread: both work on files."""

    def __init__(self) -> None:
        try:
            self.path = os.path.realpath(tempfile.mkdtemp(prefix=PREFIX))
        except OSError as error:
            raise room_error(tempfile.gettempdir(), error) from error

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)  # a private temporary folder; the system clears the rest

    def folder(self, name: str) -> str:
        """A new folder in it."""
        path = os.path.join(self.path, name)
        try:
            os.mkdir(path, FOLDER_MODE)
        except OSError as error:
            raise room_error(self.path, error) from error
        return path


class Intake:
    """Files on their way into a folder of the staging folder."""

    def __init__(self, folder: str, bounds: TreeBounds, *, wrapped: bool = False) -> None:
        """`wrapped`: what comes in may hold the skill some folders down."""
        deeper = WRAPPING_DEPTH_MAX if wrapped else 0
        self._bounds = msgspec.structs.replace(bounds, depth_max=bounds.depth_max + deeper)
        self._folder = folder
        self._names: dict[str, str] = {}
        """Path of a file or folder, as a lenient file system compares it -> as it was spelled."""
        self.files: set[str] = set()
        """Paths of the files that are in."""
        self._entries = 0
        self.size_bytes = 0

    def add_folder(self, path: str) -> None:
        """Raises InvalidSkill, ToolError."""
        self._check_path(path)
        self._make_folders(path)

    def add_file(self, path: str, chunks: Iterable[bytes], *, executable: bool) -> None:
        """Raises InvalidSkill, also while `chunks` gives more than there may be; ToolError where it cannot be
        written."""
        self._check_path(path)
        parent = os.path.dirname(path)
        if parent:
            self._make_folders(parent)
        if folded(path) in self._names:
            raise self._clash(path)
        self._count(path)
        self.files.add(path)
        full = os.path.join(self._folder, path)
        try:
            with open(full, "xb", opener=_opener(executable)) as file:
                for chunk in chunks:
                    self._take(len(chunk))
                    file.write(chunk)
        except OSError as error:
            raise room_error(self._folder, error) from error

    def _take(self, count: int) -> None:
        self.size_bytes += count
        if self.size_bytes > self._bounds.bytes_max:
            raise InvalidSkill(f"Its files have more than {self._bounds.bytes_max:,} bytes together.")

    def _check_path(self, path: str) -> None:
        if fault := path_fault(path, self._bounds):
            raise InvalidSkill(fault)
        if "\\" in path:
            raise InvalidSkill(f"The path {path!a} has a backslash, which some systems take for a separator.")
        if any(len(os.fsencode(part)) > NAME_BYTES_MAX for part in path.split("/")):
            raise InvalidSkill(f"{path[:NAME_BYTES_MAX]!a} has a name of more than {NAME_BYTES_MAX} bytes.")

    def _make_folders(self, path: str) -> None:
        parts = path.split("/")
        for count in range(1, len(parts) + 1):
            part = "/".join(parts[:count])
            known = self._names.get(folded(part))
            if known is None:
                self._count(part)
                try:
                    os.mkdir(os.path.join(self._folder, part), FOLDER_MODE)
                except OSError as error:
                    raise room_error(self._folder, error) from error
            elif known != part or part in self.files:
                raise self._clash(part)

    def _count(self, path: str) -> None:
        self._names[folded(path)] = path
        self._entries += 1
        if self._entries > self._bounds.files_max:
            raise InvalidSkill(f"There are more than {self._bounds.files_max} files and folders in it.")

    def _clash(self, path: str) -> InvalidSkill:
        known = self._names[folded(path)]
        if known == path:
            return InvalidSkill(f"{path} is in it twice.")
        return InvalidSkill(
            f"{known} and {path} are in it, which are one path where upper and lower case are the same."
        )


def _opener(executable: bool) -> Callable[[str, int], int]:
    mode = 0o700 if executable else 0o600
    return lambda path, flags: os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def room_error(folder: str, error: OSError) -> ToolError:
    """Why nothing can be staged, and what to do."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return ToolError(
        f"The skill cannot be looked at in {folder}: {error.strerror}. Nothing was installed.",
        hint="Free some space there, or let TMPDIR name another folder." if full else None,
    )
