"""skills.lock.json: what the skills of a root are supposed to be.

Owns the file's form, its strict reading and its one spelling. Knows nothing of what is in the root (`verify`,
`catalog`) and of how it and the skills come there (`transaction`). Used by those.

    {"schema_version": 1,
     "skills": {"pdf": {"digest": "sha256:…",
                        "files": {"SKILL.md": {"executable": false, "sha256": "…", "size_bytes": 812}, …},
                        "name": "pdf",
                        "signature": null,
                        "source": {"commit": null, "kind": "local", "location": "…", …}}}}

Entries are keyed by the skill's path below the root, so any number of skills may each have a SKILL.md. Keys
are sorted, there are no times and nothing of where the root lies: equal skills make equal bytes. Where there
is doubt nothing is believed: a member that stands there twice, an unknown one, a newer schema or a digest
that is not that of its files make the whole lock unusable.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from custody.errors import InvalidInput, LockUnusable
from custody.files.small import read_small_file
from custody.skills.names import check_name
from custody.skills.skill import SkillKind, Source
from custody.skills.tree import FileState, TreeBounds, path_fault, tree_of

LOCK_FILE = "skills.lock.json"
SCHEMA_VERSION = 1

LOCK_BYTES_MAX = 64 * 1024 * 1024
"""Some 300,000 files: more than a root of skills ever has, and read within a second."""

SKILL_SUFFIX = ".md"
"""What the path of a skill that is a single file has behind its name; no folder's ends so (`names`)."""

_ANY_TREE = TreeBounds(depth_max=4_096, path_characters_max=4_096)
"""How large a skill may be is the reader's to say. Here a path has only to be one (PATH_MAX)."""

_SIZE_MAX = 2**63 - 1
"""Of a file (off_t)."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MEND = "Restore it from a copy, or move it away and install the skills again."


class SignatureData(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The signature a skill came with."""

    key_id: str
    """The name of the key it was valid by, else of the first that signed."""
    key_hash: str
    note: str
    """SKILL.sig as it came."""


class LockEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one skill is supposed to be."""

    name: str
    digest: str
    """Over `files`: `sha256:` and 64 hexadecimal digits."""
    files: dict[str, FileState]
    source: Source
    signature: SignatureData | None = None


class Lock(Struct, frozen=True, kw_only=True):
    """The entries by the path of the skill below the root. `having` and `without` make another lock."""

    entries: dict[str, LockEntry] = {}

    def having(self, path: str, entry: LockEntry) -> "Lock":
        return Lock(entries={**self.entries, path: entry})

    def without(self, path: str) -> "Lock":
        return Lock(entries={key: entry for key, entry in self.entries.items() if key != path})


class Mismatch(Struct, frozen=True, kw_only=True):
    """Two statements about one skill that cannot both be true."""

    skill: str
    """Path below the root."""
    message: str


class _File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema_version: int
    skills: dict[str, LockEntry]


class _Version(Struct, frozen=True, kw_only=True):
    schema_version: int


def lock_path(root: str) -> str:
    return os.path.join(root, LOCK_FILE)


def path_of(name: str, kind: SkillKind) -> str:
    """Where the skill of that name lies below its root; the key of its entry."""
    return name if kind == "folder" else name + SKILL_SUFFIX


# -- reading --------------------------------------------------------------------------------------------


def read_lock(root: str) -> Lock | None:
    """The lock of a root; None where there is none. Raises LockUnusable, with what to do."""
    data = read_lock_bytes(root)
    if data is None:
        return None
    lock = parse_lock(data, lock_path(root))
    for mismatch in mismatches(lock):
        raise LockUnusable(f"{lock_path(root)}: {mismatch.skill}: {mismatch.message}", hint=_MEND)
    return lock


def read_lock_bytes(root: str) -> bytes | None:
    """The lock file as it stands; None where there is none. Raises LockUnusable."""
    try:
        return read_small_file(lock_path(root), LOCK_BYTES_MAX)
    except InvalidInput as error:
        raise LockUnusable(error.message, hint=_MEND) from error


def parse_lock(data: bytes, where: str) -> Lock:
    """A lock whose statements may still contradict each other (`mismatches`). `where` names it in messages.

    Raises LockUnusable.
    """
    try:
        version = msgspec.json.decode(data, type=_Version).schema_version
        if version > SCHEMA_VERSION:
            raise LockUnusable(
                f"{where} was made by a newer Custody (schema {version}; this one knows {SCHEMA_VERSION}).",
                hint="Use that Custody for these skills.",
            )
        if version != SCHEMA_VERSION:
            raise LockUnusable(f"{where} has schema {version}, which there never was.", hint=_MEND)
        lock = Lock(entries=msgspec.json.decode(data, type=_File).skills)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LockUnusable(f"{where} is not a lock of skills: {error}.", hint=_MEND) from error
    for fault in _faults(lock.entries):
        raise LockUnusable(f"{where}: {fault}", hint=_MEND)
    # What is in the one spelling of a lock has every member once; anything else is looked at again.
    if lock_bytes(lock) != data and (twice := _twice(data)) is not None:
        raise LockUnusable(f"{where} has {twice!r} twice in one place.", hint=_MEND)
    return lock


def mismatches(lock: Lock) -> Iterator[Mismatch]:
    """Where an entry contradicts itself: its name and its path, its digest and its files."""
    for path, entry in lock.entries.items():
        if path.removesuffix(SKILL_SUFFIX) != entry.name:
            yield Mismatch(skill=path, message=f"Its name is given as {entry.name!r}, which is another's.")
        if tree_of(entry.files).digest != entry.digest:
            yield Mismatch(skill=path, message="Its digest is not that of the files that are listed.")


def _faults(entries: Mapping[str, LockEntry]) -> Iterator[str]:
    """What keeps an entry from meaning anything."""
    for path, entry in entries.items():
        try:
            check_name(path.removesuffix(SKILL_SUFFIX))
        except InvalidInput as error:
            yield f"{path!r} cannot be the path of a skill: {error.message}"
        if not entry.files:
            yield f"{path} has no files."
        for file, state in entry.files.items():
            if fault := path_fault(file, _ANY_TREE):
                yield f"{path}: {fault}"
            if not _SHA256.fullmatch(state.sha256) or not 0 <= state.size_bytes <= _SIZE_MAX:
                yield f"{path}: the digest or the size of {file} is none."


class _Twice(Exception):
    """A JSON object has a member twice."""


def _twice(data: bytes) -> str | None:
    """A member that stands twice in one object of what is known to be JSON."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise _Twice(next(name for name in names if names.count(name) > 1))
        return found

    try:
        json.loads(data, object_pairs_hook=members)
    except _Twice as twice:
        return str(twice)
    return None


def lock_bytes(lock: Lock) -> bytes:
    """The one spelling of a lock: keys sorted, two spaces a level, a newline at the end."""
    file = _File(schema_version=SCHEMA_VERSION, skills=lock.entries)
    return msgspec.json.format(msgspec.json.encode(file, order="sorted"), indent=2) + b"\n"
