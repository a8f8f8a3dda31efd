"""What lies in one root, each thing judged by itself: a skill that may be offered, or why not.

Owns what counts as a skill, and the order in which it is judged: that it can be read, its name, that it is
what the lock says, its front matter, its signature. Knows nothing of other roots. Used by the catalog.

The lock and the files are read one after the other, and an install puts them in place one after the other:
a reader in between sees them disagree. Where they do and somebody installs, or the lock is another by now,
the root is read again, so that nobody is told of a change that is none.
"""

import os
import shlex
import stat
import time
from typing import Literal, NamedTuple

from msgspec import Struct

from custody.errors import InvalidSkill, LockUnusable, StoreError
from custody.journal import RealDisk
from custody.skills.content import Content, read_content
from custody.skills.front_matter import DESCRIPTION_CHARACTERS_MAX, FrontMatter
from custody.skills.lock import LOCK_FILE, SKILL_SUFFIX, Lock, LockEntry, read_lock
from custody.skills.names import NAME_CHARACTERS_MAX, name_fault
from custody.skills.signing import Reason, check_signature
from custody.skills.skill import Problem, ProblemKind, Root, Skill
from custody.skills.transaction import WRITER_LOCK, needs_recovery
from custody.skills.tree import SIGNATURE_FILE, SKILL_FILE, TreeBounds, differences
from custody.skills.trust import Trust

ENTRIES_MAX = 10_000
"""Of one root, whatever they are: ten times as many skills as anybody was seen to have."""

CHANGE_WAIT_SECONDS = 2.0
"""For an install that is going on: to rename and sync takes longer on a slow disk only."""

_CHANGE_LOOK_SECONDS = 0.01

DIFFERENCES_SHOWN = 3

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC

_TOLD: frozenset[Reason] = frozenset(["revoked", "expired", "bad_signature", "other_digest"])
"""Signatures that are worth a word where none is demanded. Not those of unknown keys: most people know the
keys of few publishers."""


class Demands(Struct, frozen=True, kw_only=True):
    """What is demanded of every skill."""

    bounds: TreeBounds
    require_signed: bool
    trust: Trust
    now_us: int


class Candidate(Struct, frozen=True, kw_only=True):
    """What has a name in a root, whether it may be offered or not."""

    name: str
    root: str
    path: str
    skill: Skill | None
    """None where it is kept back; a problem says why."""


class Contents(Struct, frozen=True, kw_only=True):
    """What was found in a root."""

    identity: tuple[int, int] | None = None
    """Device and number of the folder, by which two paths to one are known; None where there is none."""
    candidates: tuple[Candidate, ...] = ()
    problems: tuple[Problem, ...] = ()


class _Entry(NamedTuple):
    """What stands in a root and may be a skill. Sorts by name, a folder before a file."""

    name: str
    suffix: Literal["", ".md"]
    kind: Literal["folder", "file", "link", "other"]

    @property
    def path(self) -> str:
        return self.name + self.suffix


def read_root(root: Root, demands: Demands) -> Contents:
    """Everything in the root. A root that is not there is empty. Raises nothing for what it finds."""
    try:
        folder_fd = os.open(root.path, _FOLDER)
    except FileNotFoundError:
        return Contents()
    except NotADirectoryError:
        return Contents(problems=(_of_root(root, "unreadable", f"{root.path} is not a folder."),))
    except OSError as error:
        return Contents(problems=(_of_root(root, "unreadable", _unreadable(root, error)),))
    try:
        status = os.fstat(folder_fd)
        reading = _read_calmly(root, folder_fd, demands)
    finally:
        os.close(folder_fd)
    return Contents(
        identity=(status.st_dev, status.st_ino),
        candidates=tuple(reading.candidates),
        problems=tuple(reading.problems),
    )


def _read_calmly(root: Root, folder_fd: int, demands: Demands) -> "_Reading":
    """As it is when nobody is installing, as far as that can be waited for."""
    until = time.monotonic() + CHANGE_WAIT_SECONDS
    while True:
        before = _lock_stamp(folder_fd)
        reading = _Reading(root, folder_fd, demands)
        reading.all()
        if not reading.disagrees:
            return reading
        waited, changing = False, _changing(folder_fd)
        while changing and time.monotonic() < until:
            time.sleep(_CHANGE_LOOK_SECONDS)
            waited, changing = True, _changing(folder_fd)
        another = waited or _lock_stamp(folder_fd) != before
        if not another or time.monotonic() >= until:
            reading.tell_of_change(changing=changing)
            return reading


def _changing(folder_fd: int) -> bool:
    """Whether somebody is installing into the root, or removing, at this moment."""
    try:
        if not stat.S_ISREG(os.stat(WRITER_LOCK, dir_fd=folder_fd, follow_symlinks=False).st_mode):
            return False
        return RealDisk(f"/proc/self/fd/{folder_fd}", create=False).locked(WRITER_LOCK)
    except (OSError, StoreError):
        return False


def _lock_stamp(folder_fd: int) -> tuple[int, int, int] | None:
    try:
        status = os.stat(LOCK_FILE, dir_fd=folder_fd, follow_symlinks=False)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def too_many_entries(root: str) -> str:
    return f"{root} has more than {ENTRIES_MAX:,} entries, so nothing in it is offered."


def _of_root(root: Root, kind: ProblemKind, message: str) -> Problem:
    return Problem(kind=kind, root=root.path, path=None, name=None, message=message, offered=False)


def _unreadable(root: Root, error: OSError) -> str:
    return f"{root.path} cannot be read: {error.strerror}."


class _Reading:
    """One way through one root."""

    def __init__(self, root: Root, folder_fd: int, demands: Demands) -> None:
        self.candidates: list[Candidate] = []
        self.problems: list[Problem] = []
        self.disagrees = False
        """Whether the lock and the files do not say the same."""
        self._root = root
        self._folder_fd = folder_fd
        self._demands = demands
        self._lock: Lock | None = None
        self._lock_unusable = False

    def all(self) -> None:
        try:
            self._lock = read_lock(self._root.path)
        except LockUnusable as error:
            self._lock_unusable = True
            self._tell_of_root("lock", f"Nothing in {self._root.path} is offered: {error}")
        try:
            entries = self._entries()
        except OSError as error:
            self._tell_of_root("unreadable", _unreadable(self._root, error))
            return
        if entries is None:
            self._tell_of_root(
                "unreadable",
                too_many_entries(self._root.path),
            )
            return
        for entry in entries:
            self._judge(entry)
        self._tell_missing({entry.path for entry in entries})

    def tell_of_change(self, *, changing: bool) -> None:
        """That some of what disagrees may be an install's doing, where there are signs of one."""
        root = self._root.path
        if changing:
            message = f"Somebody is installing into {root}; ask again when that is done."
        elif needs_recovery(root):
            message = (
                f"An install into {root} was cut short. The next install or removal there first finishes it "
                "or takes it back."
            )
        else:
            return
        problem = Problem(kind="lock", root=root, path=None, name=None, message=message, offered=True)
        self.problems.append(problem)

    def _entries(self) -> list[_Entry] | None:
        """What may be a skill, in order; None where there is more than anybody looks through."""
        entries: list[_Entry] = []
        with os.scandir(self._folder_fd) as found:
            for count, each in enumerate(found, 1):
                if count > ENTRIES_MAX:
                    return None
                if entry := _entry_of(each):
                    entries.append(entry)
        return sorted(entries)

    def _judge(self, entry: _Entry) -> None:
        skill = None
        try:
            skill = self._skill(entry)
        except InvalidSkill as error:
            kind: ProblemKind = error.details.get("kind", "unreadable")
            self._tell(kind, entry, error.message)
            if kind == "not_a_skill":
                return
            self.disagrees |= kind in ("changed", "extra", "unreadable")
        candidate = Candidate(name=entry.name, root=self._root.path, path=entry.path, skill=skill)
        self.candidates.append(candidate)

    def _skill(self, entry: _Entry) -> Skill | None:
        """None where only the root's lock, of which a problem tells, keeps it back. Raises InvalidSkill, with
        the kind of the problem."""
        expected = None if self._lock is None else self._lock.entries.get(entry.path)
        self._check_kind(entry, expected)
        if fault := name_fault(entry.name):
            raise InvalidSkill(f"It cannot be offered by this name: {fault}", kind="not_a_skill")
        if self._lock_unusable:
            return None
        content = read_content(entry.path, self._demands.bounds, folder_fd=self._folder_fd)
        if expected is not None:
            _check_unchanged(content, expected)
        said = content.front_matter()
        if self._lock is not None and expected is None:
            raise InvalidSkill(
                "It is not in the lock file; "
                f"`custody skills install {shlex.quote(self._path(entry))}` puts it there.",
                kind="extra",
            )
        signed_by = self._signed_by(entry, content)
        self._tell_what_is_odd(entry, said)
        return Skill(
            name=entry.name,
            description=said.description,
            kind="file" if entry.suffix else "folder",
            root=self._root.path,
            path=entry.path,
            file=self._path(entry) if entry.suffix else os.path.join(self._path(entry), SKILL_FILE),
            digest=content.tree.digest,
            files=tuple(content.tree.files),
            metadata=said.metadata,
            locked=expected is not None,
            source=None if expected is None else expected.source,
            signed_by=signed_by,
        )

    def _check_kind(self, entry: _Entry, expected: LockEntry | None) -> None:
        if entry.kind == "link":
            raise InvalidSkill(
                "It is a link, and links are not followed. Install the skill it leads to, or name the folder "
                "that skill lies in as a root.",
                kind="unreadable",
            )
        if entry.kind == "other":
            raise InvalidSkill("It is neither a file nor a folder.", kind="unreadable")
        if entry.path == SKILL_FILE:
            raise InvalidSkill(
                f"{SKILL_FILE} lies in the root itself. A root holds folders with one each: name the folder "
                f"above {self._root.path} as the root.",
                kind="not_a_skill",
            )
        if entry.kind == "folder" and expected is None and not self._has_skill_file(entry):
            raise InvalidSkill(f"There is no {SKILL_FILE} in it.", kind="not_a_skill")

    def _has_skill_file(self, entry: _Entry) -> bool:
        """Spares reading a folder that may be anything; whether it is a skill is seen when it is read."""
        try:
            os.stat(f"{entry.path}/{SKILL_FILE}", dir_fd=self._folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def _signed_by(self, entry: _Entry, content: Content) -> str | None:
        """The trusted key that signed it. Raises InvalidSkill where there is none and one is demanded."""
        demands = self._demands
        verdict = check_signature(content.signature, content.tree.digest, demands.trust, demands.now_us)
        if verdict.valid:
            return verdict.key_id
        if demands.require_signed:
            raise InvalidSkill(f"No trusted key has signed it. {verdict.message}", kind="unsigned")
        if verdict.reason in _TOLD:
            self._tell("unsigned", entry, verdict.message, offered=True)
        return None

    def _tell_what_is_odd(self, entry: _Entry, said: FrontMatter) -> None:
        if said.name is not None and said.name != entry.name:
            itself = as_text(said.name[:NAME_CHARACTERS_MAX])
            message = f"It calls itself {itself!r} and is offered as {entry.name!r}."
            self._tell("name_differs", entry, message, offered=True)
        if said.description_cut:
            message = (
                f"Its description has more than {DESCRIPTION_CHARACTERS_MAX:,} characters, the most that the "
                "format allows; the rest is cut."
            )
            self._tell("front_matter", entry, message, offered=True)

    def _tell_missing(self, found: set[str]) -> None:
        for path, expected in () if self._lock is None else sorted(self._lock.entries.items()):
            if path not in found:
                self.disagrees = True
                message = (
                    "It is in the lock file and not in the folder. Install it again, or "
                    f"`custody skills remove {expected.name}`."
                )
                suffix = SKILL_SUFFIX if path.endswith(SKILL_SUFFIX) else ""
                self._tell("missing", _Entry(expected.name, suffix, "other"), message)
                self.candidates.append(
                    Candidate(name=expected.name, root=self._root.path, path=path, skill=None)
                )

    def _tell(self, kind: ProblemKind, entry: _Entry, message: str, *, offered: bool = False) -> None:
        problem = Problem(
            kind=kind,
            root=self._root.path,
            path=as_text(entry.path),
            name=as_text(entry.name),
            message=message,
            offered=offered,
        )
        self.problems.append(problem)

    def _tell_of_root(self, kind: ProblemKind, message: str) -> None:
        self.problems.append(_of_root(self._root, kind, message))

    def _path(self, entry: _Entry) -> str:
        return os.path.join(self._root.path, entry.path)


def _entry_of(found: "os.DirEntry[str]") -> _Entry | None:
    """None for what nobody would take for a skill."""
    if found.name.startswith("."):
        return None
    suffix: Literal["", ".md"] = ".md" if found.name.endswith(SKILL_SUFFIX) else ""
    name = found.name.removesuffix(SKILL_SUFFIX)
    if found.is_dir(follow_symlinks=False):
        return _Entry(found.name, "", "folder")
    if found.is_symlink():
        return _Entry(name, suffix, "link") if suffix or found.is_dir() else None
    if not suffix:
        return None
    return _Entry(name, suffix, "file" if found.is_file(follow_symlinks=False) else "other")


def _check_unchanged(content: Content, expected: LockEntry) -> None:
    """Raises InvalidSkill where the skill, or its signature, is not the one that was installed."""
    note = None if expected.signature is None else expected.signature.note.encode()
    if content.tree.digest != expected.digest or content.tree.files != expected.files:
        found = differences(expected.files, content.tree.files)
        which = ", ".join(f"{each.file} ({_HOW[each.what]})" for each in found[:DIFFERENCES_SHOWN])
        if len(found) > DIFFERENCES_SHOWN:
            which += f" and {len(found) - DIFFERENCES_SHOWN} more"
    elif content.signature != note:
        how = "added" if note is None else "removed" if content.signature is None else "changed"
        which = f"{SIGNATURE_FILE} ({how})"
    else:
        return
    raise InvalidSkill(
        f"It is not what the lock file says: {which}. Install it again if the change is yours; "
        "`custody skills verify` says what differs.",
        kind="changed",
    )


_HOW = {"content": "changed", "mode": "executable or not", "added": "added", "removed": "removed"}


def as_text(text: str) -> str:
    """As valid text, whatever bytes a name has."""
    return text.encode(errors="backslashreplace").decode()
