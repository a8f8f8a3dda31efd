"""Does a root hold what its lock says?

Owns the comparison of a root with its lock, file by file, and the report on it. Reads only: it mends nothing,
not even what a cut install left. Knows nothing of which root comes first or of what is offered (`catalog`).
Used by the questions behind `custody skills verify`.

A root without a lock promises nothing, so nothing of it is missing, extra or changed; its signatures are
looked at all the same. Where signatures are not demanded, a missing, untrusted or expired one is told and is
no fault: nobody has touched the files. A bad one, one over other files and one of a revoked key always are.
"""

import codecs
import os
import stat
from collections.abc import Iterator
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from custody.errors import InvalidSkill, LockUnusable, MalformedNote
from custody.files import TEMPORARY_PREFIX
from custody.journal.checkpoint import split_note
from custody.skills.content import Content, read_content
from custody.skills.lock import (
    SKILL_SUFFIX,
    Lock,
    LockEntry,
    Mismatch,
    SignatureData,
    lock_path,
    mismatches,
    parse_lock,
    read_lock_bytes,
)
from custody.skills.root import ENTRIES_MAX, as_text, too_many_entries
from custody.skills.signing import Reason, SignatureVerdict, check_signature
from custody.skills.skill import Root, Shelf
from custody.skills.transaction import WRITER_LOCK
from custody.skills.tree import SKILL_FILE, differences
from custody.skills.trust import Trust

TRIES_MAX = 3
"""A root that is changed by an install while it is looked at is looked at again."""

FRONT_MATTER_START = b"---"
"""How a single file begins that may be a skill; a README beside the skills does not."""

_START_BYTES = 16  # a byte order mark and that

_ALWAYS_WRONG: frozenset[Reason] = frozenset(["bad_signature", "other_digest", "revoked"])

What = Literal["content", "mode", "added", "removed", "unreadable"]


class Changed(Struct, frozen=True, kw_only=True):
    """One file that is not what was installed."""

    skill: str
    """Path below the root."""
    file: str
    """Path in the skill; of a single file always `SKILL.md`, and empty where it is the skill as a whole."""
    what: What
    message: str


class RootReport(Struct, frozen=True, kw_only=True):
    """What was found in one root."""

    root: str
    locked: bool
    """Whether there is a lock file."""
    problem: str | None
    """Why the root or its lock could not be used, with what to do; nothing was compared then."""
    checked: int
    """Skills that were read."""
    missing: tuple[str, ...] = ()
    """Paths of skills the lock names and the root does not hold."""
    extra: tuple[str, ...] = ()
    """Paths of skills the root holds and the lock does not name."""
    changed: tuple[Changed, ...] = ()
    metadata_mismatch: tuple[Mismatch, ...] = ()
    """Where the lock contradicts itself, or the signature that is there."""
    signatures: tuple[SignatureVerdict, ...] = ()
    """One for each skill that could be read."""
    leftovers: tuple[str, ...] = ()
    """Names of what an install uses at this moment, left when it was cut, or put aside because somebody had
    worked in it. The next install or removal clears away what nobody wants."""
    ok: bool


def verify_root(root: Root, shelf: Shelf, trust: Trust, now_us: int) -> RootReport:
    """Compare a root with its lock. What is wrong stands in the report; nothing of it is raised."""
    for _ in range(TRIES_MAX):
        try:
            before = read_lock_bytes(root.path)
            lock = None if before is None else parse_lock(before, lock_path(root.path))
            names = sorted(os.listdir(root.path))
            if len(names) > ENTRIES_MAX:
                return _unusable(root, too_many_entries(root.path), locked=lock is not None)
            report = _Look(root, shelf, trust, now_us).report(lock, names)
            if read_lock_bytes(root.path) == before:
                return report
        except FileNotFoundError:
            return RootReport(root=root.path, locked=False, problem=None, checked=0, ok=True)
        except OSError as error:
            return _unusable(root, f"{root.path} cannot be read: {error.strerror}.", locked=False)
        except LockUnusable as error:
            return _unusable(root, str(error), locked=True)
    return _unusable(
        root, f"{root.path} is being changed by an install; look again when it is done.", locked=True
    )


def about(report: RootReport, name: str, shelf: Shelf) -> RootReport | None:
    """What of a report concerns the skill of that name; None where nothing does in a root that was read."""
    paths = {name, name + SKILL_SUFFIX}
    part = replace(
        report,
        missing=tuple(path for path in report.missing if path in paths),
        extra=tuple(path for path in report.extra if path in paths),
        changed=tuple(one for one in report.changed if one.skill in paths),
        metadata_mismatch=tuple(one for one in report.metadata_mismatch if one.skill in paths),
        signatures=tuple(verdict for verdict in report.signatures if verdict.skill in paths),
    )
    findings = (*part.missing, *part.extra, *part.changed, *part.metadata_mismatch)
    if not findings and not part.signatures and report.problem is None:
        return None
    faults = findings or any(_is_fault(verdict, shelf) for verdict in part.signatures)
    read = {verdict.skill for verdict in part.signatures} | {one.skill for one in part.changed}
    return replace(part, checked=len(read), ok=report.problem is None and not faults)


def _is_fault(verdict: SignatureVerdict, shelf: Shelf) -> bool:
    return verdict.reason in _ALWAYS_WRONG or (shelf.require_signed and not verdict.valid)


def _unusable(root: Root, problem: str, *, locked: bool) -> RootReport:
    return RootReport(root=root.path, locked=locked, problem=problem, checked=0, ok=False)


class _Look:
    """One look at one root."""

    def __init__(self, root: Root, shelf: Shelf, trust: Trust, now_us: int) -> None:
        self._root = root.path
        self._shelf = shelf
        self._trust = trust
        self._now_us = now_us
        self._checked = 0
        self._missing: list[str] = []
        self._changed: list[Changed] = []
        self._mismatches: list[Mismatch] = []
        self._signatures: list[SignatureVerdict] = []

    def report(self, lock: Lock | None, names: list[str]) -> RootReport:
        found = [name for name in names if self._may_be_skill(name)]
        if lock is None:
            extra = ()
            for path in found:
                self._read(path)
        else:
            extra = tuple(as_text(path) for path in found if path not in lock.entries)
            self._mismatches += mismatches(lock)
            for path, entry in sorted(lock.entries.items()):
                self._locked(path, entry)
        return RootReport(
            root=self._root,
            locked=lock is not None,
            problem=None,
            checked=self._checked,
            missing=tuple(self._missing),
            extra=extra,
            changed=tuple(self._changed),
            metadata_mismatch=tuple(self._mismatches),
            signatures=tuple(self._signatures),
            leftovers=tuple(as_text(name) for name in names if _is_leftover(name)),
            ok=not (self._missing or extra or self._changed or self._mismatches or self._badly_signed()),
        )

    def _badly_signed(self) -> bool:
        return any(_is_fault(verdict, self._shelf) for verdict in self._signatures)

    def _locked(self, path: str, entry: LockEntry) -> None:
        if not os.path.lexists(os.path.join(self._root, path)):
            self._missing.append(path)
            return
        content = self._read(path)
        if content is None:
            return
        self._changed += [
            Changed(skill=path, file=one.file, what=one.what, message=_SAID[one.what].format(file=one.file))
            for one in differences(entry.files, content.tree.files)
        ]
        self._mismatches += _signature_mismatches(path, entry, content)

    def _read(self, path: str) -> Content | None:
        """What stands there, its signature judged; None where it cannot be read, which is told."""
        full = os.path.join(self._root, path)
        self._checked += 1
        try:
            if os.path.isdir(full) == path.endswith(SKILL_SUFFIX):
                raise InvalidSkill(f"{path} is no longer what it was: a file for a folder, or the reverse.")
            content = read_content(full, self._shelf.bounds)
        except InvalidSkill as error:
            file = str(error.details.get("file", ""))
            said = as_text(str(error))
            self._changed.append(
                Changed(skill=as_text(path), file=as_text(file), what="unreadable", message=said)
            )
            return None
        verdict = check_signature(content.signature, content.tree.digest, self._trust, self._now_us)
        self._signatures.append(replace(verdict, skill=as_text(path)))
        return content

    def _may_be_skill(self, name: str) -> bool:
        """Whether a reader of the root might take it for a skill: a folder with a SKILL.md, a file with front
        matter, or a link, which may come to be either."""
        full = os.path.join(self._root, name)
        if name.startswith("."):
            return False
        try:
            mode = os.lstat(full).st_mode
            if stat.S_ISDIR(mode):
                return os.path.lexists(os.path.join(full, SKILL_FILE))
            if stat.S_ISLNK(mode):
                return name.endswith(SKILL_SUFFIX) or os.path.isdir(full)
            return stat.S_ISREG(mode) and name.endswith(SKILL_SUFFIX) and _has_front_matter(full)
        except OSError:
            return True  # it cannot be told what it is, so it is not passed over


_SAID: dict[str, str] = {
    "content": "{file} has other content than was installed.",
    "mode": "{file} has another executable bit than was installed.",
    "added": "{file} was added.",
    "removed": "{file} was removed.",
}


def _has_front_matter(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        return file.read(_START_BYTES).removeprefix(codecs.BOM_UTF8).startswith(FRONT_MATTER_START)


def _is_leftover(name: str) -> bool:
    return name.startswith(TEMPORARY_PREFIX) and name != WRITER_LOCK


def _signature_mismatches(path: str, entry: LockEntry, content: Content) -> Iterator[Mismatch]:
    """The signature data of the lock against the signature file that is there."""
    locked, there = entry.signature, content.signature
    if locked is None and there is not None:
        yield Mismatch(
            skill=path,
            message="It is signed and its entry knows of no signature: install it again to keep it.",
        )
    elif locked is not None and there is None:
        yield Mismatch(skill=path, message=f"Its signature by {locked.key_id} is gone.")
    elif locked is not None and there != locked.note.encode():
        yield Mismatch(skill=path, message="Its signature file is not the one that it was installed with.")
    elif locked is not None and not _is_in_note(locked):
        yield Mismatch(skill=path, message=f"Its signature is none of {locked.key_id}, as its entry says.")


def _is_in_note(data: SignatureData) -> bool:
    try:
        signatures = split_note(data.note.encode())[1]
    except MalformedNote:
        return False
    return (data.key_id, data.key_hash) in [(each.name, each.key_hash.hex()) for each in signatures]
