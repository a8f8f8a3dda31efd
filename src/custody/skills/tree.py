"""The files of a skill, and the one digest over all of them.

Owns which files count, how they are read (within bounds, following no link, opening nothing but regular files
and folders) and how the digest is made. Knows nothing of front matter, locks or signatures. Used by whoever
reads, installs, checks or signs a skill.

The digest is SHA-256 over the line `custody-skill-tree/v1` and then one line for each file, in the order of
the bytes of their paths: `<sha256 in hexadecimal> <x or -> <path>`, each line ended by a line feed. It says
nothing of where the skill lies, of times, owners or empty folders. A skill that is a single `.md` file has a
tree of one file, which is always called `SKILL.md`: renaming the file renames the skill and changes nothing
of what it says. Signatures (`SKILL.sig` at the top, `NAME.md.sig` beside a file) are not part of the tree.
"""

import hashlib
import os
import re
import stat
from collections.abc import Collection, Mapping
from typing import Literal

from msgspec import Struct

from custody.errors import InvalidSkill

SKILL_FILE = "SKILL.md"
"""The file that makes a folder a skill, and the only path in the tree of a single file."""

SIGNATURE_FILE = "SKILL.sig"
SIGNATURE_BYTES_MAX = 64 * 1024  # a signed note of some lines; more is no signature

FILES_MAX = 2_000  # folders count as well; published skills have some dozens of files
BYTES_MAX = 64 * 1024 * 1024  # instructions, scripts and templates; data sets and models do not belong here
DEPTH_MAX = 16
PATH_CHARACTERS_MAX = 1_024

PIECE_BYTES = 1024 * 1024
"""Read at a time, so that memory does not grow with a file."""

DIGEST_HEADER = b"custody-skill-tree/v1\n"

_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""In a path: what ends a line (and would make one line of the digest look like two), what shows a path as
another than it is, and bytes that are not UTF-8."""

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = _OPEN | os.O_DIRECTORY

What = Literal["content", "mode", "added", "removed"]


class TreeBounds(Struct, frozen=True, kw_only=True):
    """How large a skill may be."""

    files_max: int = FILES_MAX
    """Files and folders together."""
    bytes_max: int = BYTES_MAX
    depth_max: int = DEPTH_MAX
    """Folders one in another; the files of the skill's own folder have depth 1."""
    path_characters_max: int = PATH_CHARACTERS_MAX


class FileState(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is demanded of one file."""

    sha256: str
    """In hexadecimal, 64 digits."""
    size_bytes: int
    executable: bool
    """Whether anybody may execute it."""


class Tree(Struct, frozen=True, kw_only=True):
    """Every file of a skill, by its path below the skill's folder, sorted by the bytes of the paths."""

    files: dict[str, FileState]
    digest: str
    """`sha256:` and 64 hexadecimal digits."""

    @property
    def size_bytes(self) -> int:
        return sum(state.size_bytes for state in self.files.values())

    @property
    def executables(self) -> tuple[str, ...]:
        return tuple(path for path, state in self.files.items() if state.executable)


class Difference(Struct, frozen=True, kw_only=True):
    """How one file is not what it was said to be."""

    file: str
    what: What


def tree_of(files: Mapping[str, FileState]) -> Tree:
    """The tree of these files, whatever order they come in."""
    ordered = {path: files[path] for path in sorted(files, key=os.fsencode)}
    lines = "".join(
        f"{state.sha256} {'x' if state.executable else '-'} {path}\n" for path, state in ordered.items()
    )
    digest = hashlib.sha256(DIGEST_HEADER + lines.encode()).hexdigest()
    return Tree(files=ordered, digest=f"sha256:{digest}")


def differences(expected: Mapping[str, FileState], found: Mapping[str, FileState]) -> tuple[Difference, ...]:
    """Every file that is not as expected, once, by path."""
    told: list[Difference] = []
    for path in sorted({*expected, *found}, key=os.fsencode):
        before, after = expected.get(path), found.get(path)
        if before is None:
            told.append(Difference(file=path, what="added"))
        elif after is None:
            told.append(Difference(file=path, what="removed"))
        elif (before.sha256, before.size_bytes) != (after.sha256, after.size_bytes):
            told.append(Difference(file=path, what="content"))
        elif before.executable != after.executable:
            told.append(Difference(file=path, what="mode"))
    return tuple(told)


def path_fault(path: str, bounds: TreeBounds) -> str | None:
    """Why a path cannot be one of a tree, as a sentence, or None. Asks no file system."""
    if len(path) > bounds.path_characters_max:
        return f"A path has {len(path)} characters; at most {bounds.path_characters_max} are allowed."
    if _UNFIT.search(path):
        return f"The path {path!a} has a control character, or bytes that are not UTF-8."
    parts = path.split("/")
    if len(parts) > bounds.depth_max:
        return f"{path} lies {len(parts)} levels deep; at most {bounds.depth_max} are allowed."
    if any(part in ("", ".", "..") for part in parts):
        return f"{path!a} is not a path below the skill's folder."
    return None


def read_tree(path: str, bounds: TreeBounds) -> Tree:
    """Every file of the folder, or of the one `.md` file, at `path`.

    Raises InvalidSkill: a link (also at `path` itself), a device, socket or pipe, a file that cannot be read
    or that changes while it is read, and whatever exceeds the bounds.
    """
    return read_tree_keeping(path, bounds, ())[0]


def read_tree_keeping(
    path: str, bounds: TreeBounds, keep: Collection[str], *, folder_fd: int | None = None
) -> tuple[Tree, dict[str, bytes]]:
    """The tree, and the bytes of some of its files as they were when they were hashed.

    `keep` names paths in the tree, and the signature, which is not part of it (that of a single file lies
    beside it as `NAME.md.sig` and is kept as `SKILL.sig` all the same); what is not there is left out.
    `folder_fd`: the folder that `path` starts from.
    """
    reading = _Reading(bounds, keep)
    try:
        status = os.stat(path, dir_fd=folder_fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            reading.folder(path, folder_fd, "")
        elif stat.S_ISREG(status.st_mode):
            reading.file(path, folder_fd, SKILL_FILE)
            reading.signature(f"{path}.sig", folder_fd)
        else:
            raise InvalidSkill(_other_kind(os.path.basename(path), status.st_mode))
    except OSError as error:
        raise InvalidSkill(
            f"{os.path.basename(path)} cannot be read: {error.strerror}.", errno=error.errno
        ) from error
    return tree_of(reading.files), reading.kept


def _other_kind(path: str, mode: int) -> str:
    if stat.S_ISLNK(mode):
        return f"{path} is a link; a skill holds files and folders only, and none of its links is followed."
    return f"{path} is neither a file nor a folder; a skill holds nothing else."


class _Reading:
    """One way through one tree."""

    def __init__(self, bounds: TreeBounds, keep: Collection[str]) -> None:
        self.files: dict[str, FileState] = {}
        self.kept: dict[str, bytes] = {}
        self._bounds = bounds
        self._keep = keep
        self._entries = 0
        self._size_bytes = 0

    def folder(self, name: str, above_fd: int | None, prefix: str) -> None:
        """`name` in the folder `above_fd`. How deep it goes is bounded by what is asked of every path."""
        folder_fd = os.open(name, _FOLDER, dir_fd=above_fd)
        try:
            with os.scandir(folder_fd) as entries:
                for entry in entries:
                    self._entry(entry, folder_fd, prefix)
        finally:
            os.close(folder_fd)

    def _entry(self, entry: "os.DirEntry[str]", folder_fd: int, prefix: str) -> None:
        path = prefix + entry.name
        if path == SIGNATURE_FILE:
            self._check_signature_file(entry)
            self.signature(entry.name, folder_fd)
            return
        self._entries += 1
        if self._entries > self._bounds.files_max:
            raise InvalidSkill(f"There are more than {self._bounds.files_max} files and folders in it.")
        if fault := path_fault(path, self._bounds):
            raise InvalidSkill(fault)
        try:
            if entry.is_file(follow_symlinks=False):
                self.file(entry.name, folder_fd, path)
            elif entry.is_dir(follow_symlinks=False):
                self.folder(entry.name, folder_fd, f"{path}/")
            else:
                raise InvalidSkill(_other_kind(path, entry.stat(follow_symlinks=False).st_mode))
        except OSError as error:
            raise InvalidSkill(
                f"{path} cannot be read: {error.strerror}.", errno=error.errno, file=path
            ) from error

    def _check_signature_file(self, entry: "os.DirEntry[str]") -> None:
        """What the digest does not cover is a small file: nothing else can hide under its name."""
        if not entry.is_file(follow_symlinks=False):
            raise InvalidSkill(f"{SIGNATURE_FILE} is not a file.", file=SIGNATURE_FILE)
        if entry.stat(follow_symlinks=False).st_size > SIGNATURE_BYTES_MAX:
            raise InvalidSkill(
                f"{SIGNATURE_FILE} has more than {SIGNATURE_BYTES_MAX:,} bytes, which no signature has.",
                file=SIGNATURE_FILE,
            )

    def file(self, name: str, folder_fd: int | None, path: str) -> None:
        fd = os.open(name, _OPEN, dir_fd=folder_fd)
        try:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                raise InvalidSkill(_other_kind(path, before.st_mode))
            self._size_bytes += before.st_size
            if self._size_bytes > self._bounds.bytes_max:
                raise InvalidSkill(f"Its files have more than {self._bounds.bytes_max:,} bytes together.")
            digest, kept = _read(fd, before.st_size, keep=path in self._keep)
            if digest is None or _moved_on(before, os.fstat(fd)):
                raise InvalidSkill(f"{path} changed while it was read; try again.", file=path)
        finally:
            os.close(fd)
        self.files[path] = FileState(
            sha256=digest, size_bytes=before.st_size, executable=bool(before.st_mode & 0o111)
        )
        if kept is not None:
            self.kept[path] = kept

    def signature(self, name: str, folder_fd: int | None) -> None:
        """What there is of a signature. One that cannot be read is kept as no bytes, which are not valid."""
        if SIGNATURE_FILE not in self._keep:
            return
        try:
            mode = os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_mode
            self.kept[SIGNATURE_FILE] = _signature(name, folder_fd) if stat.S_ISREG(mode) else b""
        except FileNotFoundError:
            return
        except OSError:
            self.kept[SIGNATURE_FILE] = b""


def _signature(name: str, folder_fd: int | None) -> bytes:
    fd = os.open(name, _OPEN, dir_fd=folder_fd)
    try:
        found = os.read(fd, SIGNATURE_BYTES_MAX + 1)
    finally:
        os.close(fd)
    return found if len(found) <= SIGNATURE_BYTES_MAX else b""


def _read(fd: int, size_bytes: int, *, keep: bool) -> tuple[str | None, bytes | None]:
    """SHA-256 of exactly so many bytes (None where there are more or fewer), and the bytes to be kept."""
    digest = hashlib.sha256()
    pieces: list[bytes] = []
    left = size_bytes
    while piece := os.read(fd, min(PIECE_BYTES, left + 1)):
        left -= len(piece)
        if left < 0:
            return None, None
        digest.update(piece)
        if keep:
            pieces.append(piece)
    if left:
        return None, None
    return digest.hexdigest(), b"".join(pieces) if keep else None


def _moved_on(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_mtime_ns, before.st_ctime_ns, before.st_size) != (
        after.st_mtime_ns,
        after.st_ctime_ns,
        after.st_size,
    )
