"""Putting a skill in place, and removing one: the files and the lock together, or nothing.

Owns what is demanded of a skill before it may be put in place, and what may be replaced by what. How a root
is changed is `transaction`'s, where the files come from `sources`'. Used by `acts`.

What stands at the place of a skill already:

    exactly these files           the lock is given its entry; a folder made by hand is adopted so
    other files, `replace`        they are replaced
    other files                   refused
    the same name as a file or folder of the other kind, a look-alike, a link: refused
"""

import hashlib
import os
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress

import msgspec
from msgspec import Struct

from custody.errors import CustodyError, InvalidInput, InvalidSkill, NotFound, ToolError
from custody.skills.content import read_content
from custody.skills.file_operations import FileOperations, opened_folder, stands
from custody.skills.first_lock import standing_there
from custody.skills.lock import (
    LOCK_FILE,
    SKILL_SUFFIX,
    Lock,
    LockEntry,
    SignatureData,
    lock_bytes,
    path_of,
    read_lock,
)
from custody.skills.names import check_name, look_alike, name_fault
from custody.skills.signing import FILE_SIGNATURE_SUFFIX, check_signature
from custody.skills.skill import Shelf
from custody.skills.staging import CHUNK_BYTES, Fetched, Staged
from custody.skills.transaction import Intent, Move, Recovered, Writing, needs_recovery, temporary, writing
from custody.skills.tree import SIGNATURE_FILE, SKILL_FILE, FileState, TreeBounds
from custody.skills.trust import Trust

FILE_MODE, PROGRAM_MODE = 0o644, 0o755

REAL = FileOperations()

UNKNOWN = "unknown"
"""The digest of what was replaced, where it could not be read."""

_REFUSED_SIGNATURES = ("bad_signature", "other_digest")
"""With these the files are not what somebody published; what else a signature is worth a person decides."""


class Placed(Struct, frozen=True, kw_only=True):
    """What was done, or would be."""

    path: str
    """Below the root."""
    replaced: str | None
    """The digest of what stood there; None: nothing, or the same."""
    adopted: bool
    """Whether the files stood there already and only the lock was changed."""
    unchanged: bool
    """Whether the lock said all of it before."""
    locked_too: tuple[str, ...] = ()
    """Names of the skills that stood in the root before it had a lock: they have their entries in it now."""
    left: tuple[str, ...] = ()
    """Names in the root that could not be cleared away; the next install does it."""


class Removed(Struct, frozen=True, kw_only=True):
    """What was removed, or would be."""

    path: str
    digest: str
    """As the lock had it."""
    left: tuple[str, ...] = ()


def never() -> bool:
    return False


# -- what is demanded -----------------------------------------------------------------------------------


def judge(
    fetched: Fetched,
    shelf: Shelf,
    now_us: int,
    *,
    name: str | None = None,
    require_signed: bool = False,
    digest: str | None = None,
) -> Staged:
    """A skill that may be put in place, as far as it itself is concerned.

    `digest`: what its tree has to be. Raises InvalidSkill, InvalidInput for a name, TrustUnusable, ToolError.
    """
    content = read_content(fetched.path, shelf.bounds)
    front_matter = content.front_matter()
    name = name or fetched.natural_name or _own_name(front_matter.name) or fetched.other_name
    if name is None:
        raise InvalidInput("The source gives the skill no name.", hint="Say what it is to be called: `name`.")
    check_name(name)
    tree = content.tree
    if digest is not None and digest != tree.digest:
        raise ToolError(
            f"{name} is not what was expected: its digest is {tree.digest}, `digest` is {digest}. "
            "Nothing was installed.",
            hint="It changed since it was looked at, or is something else; look at it again.",
        )
    verdict = check_signature(content.signature, tree.digest, Trust.load(shelf.trust_file), now_us)
    wanted = require_signed or shelf.require_signed
    if verdict.reason in _REFUSED_SIGNATURES or (wanted and not verdict.valid):
        raise ToolError(f"{name} is not installed ({verdict.reason}): {verdict.message}")
    signature = None
    if content.signature is not None:
        signature = SignatureData(
            key_id=verdict.key_id or "", key_hash=verdict.key_hash or "", note=content.signature.decode()
        )
    return Staged(
        name=name,
        description=front_matter.description,
        kind=fetched.kind,
        path=fetched.path,
        tree=tree,
        source=fetched.source,
        verdict=verdict,
        signature=signature,
    )


def _own_name(name: str | None) -> str | None:
    return name if name is not None and name_fault(name) is None else None


def check_look_alikes(name: str, shelf: Shelf) -> None:
    """Raises InvalidInput where one of the roots has a skill that this one would be taken for."""
    for root in shelf.roots:
        other = look_alike(name, names_in(root.path))
        if other is not None:
            raise InvalidInput(
                f"{name!r} would be taken for {other!r}, which is in {root.path}.",
                hint="Give it a `name` that looks like no other.",
            )


def names_in(root: str) -> list[str]:
    """What skills in a root are called, or would be; also of those that cannot be read. Sorted."""
    found: set[str] = set()
    with suppress(OSError):
        found.update(_name_of(entry) for entry in os.listdir(root) if entry != LOCK_FILE)
    with suppress(CustodyError):
        found.update(entry.name for entry in (read_lock(root) or Lock()).entries.values())
    return sorted(name for name in found if name_fault(name) is None)


def _name_of(entry: str) -> str:
    return entry.removesuffix(FILE_SIGNATURE_SUFFIX).removesuffix(SKILL_SUFFIX)


# -- what would be done ---------------------------------------------------------------------------------


class _Plan(Struct, frozen=True, kw_only=True):
    placed: Placed
    lock: Lock
    """As it is to be."""
    places: tuple[tuple[str, bool], ...]
    """Names in the root that something new comes to or goes from, and whether something stands there."""


def foresee(staged: Staged, root: str, *, replace: bool, bounds: TreeBounds) -> Placed:
    """What `place` would do; changes nothing. Raises as `place` does."""
    try:
        folder_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return Placed(path=path_of(staged.name, staged.kind), replaced=None, adopted=False, unchanged=False)
    except OSError as error:
        raise _unusable(root, error) from error
    try:
        return _plan(folder_fd, root, staged, replace, bounds).placed
    finally:
        os.close(folder_fd)


def _plan(folder_fd: int, root: str, staged: Staged, replace: bool, bounds: TreeBounds) -> _Plan:
    """Raises InvalidInput, ToolError, LockUnusable."""
    old = read_lock(root)
    lock = old or Lock()
    path = path_of(staged.name, staged.kind)
    _check_names(folder_fd, root, lock, staged)
    entry = LockEntry(
        name=staged.name,
        digest=staged.tree.digest,
        files=staged.tree.files,
        source=staged.source,
        signature=staged.signature,
    )
    found = _standing(folder_fd, root, path, bounds)
    same = found == (staged.tree.digest, _note(staged))
    if found is not None and found[0] != staged.tree.digest and not replace:
        raise ToolError(
            f"{os.path.join(root, path)} is there already and differs. Nothing was changed.",
            hint="Say `replace` to have this in its place, or give another `name`.",
        )
    replaced = None if found is None or found[0] == staged.tree.digest else found[0]
    known = lock.entries.get(path)
    if replaced is not None and known is None and not _is_skill(folder_fd, path):
        raise ToolError(
            f"{os.path.join(root, path)} has no {SKILL_FILE}, so it is no skill; it is left alone.",
            hint="Move it away first, or give another `name`.",
        )
    there = {} if old is not None else standing_there(folder_fd, path, bounds)
    placed = Placed(
        path=path,
        replaced=replaced,
        adopted=same and known is None,
        unchanged=same and known == entry,
        locked_too=tuple(one.name for one in there.values()),
    )
    for other, its_entry in there.items():
        lock = lock.having(other, its_entry)
    places = () if same else tuple((name, stands(folder_fd, name)) for name in _places(path))
    return _Plan(placed=placed, lock=lock.having(path, entry), places=places)


def _check_names(folder_fd: int, root: str, lock: Lock, staged: Staged) -> None:
    other_kind = path_of(staged.name, "file" if staged.kind == "folder" else "folder")
    if other_kind in lock.entries or stands(folder_fd, other_kind):
        raise ToolError(
            f"{os.path.join(root, other_kind)} has that name already.",
            hint="Remove it, or give another `name`.",
        )
    other = look_alike(staged.name, names_in(root))
    if other is not None:
        raise InvalidInput(f"{staged.name!r} would be taken for {other!r}, which is in {root} already.")


def _standing(folder_fd: int, root: str, path: str, bounds: TreeBounds) -> tuple[str, bytes | None] | None:
    """Digest and signature of what has the path now; None: nothing has. Raises ToolError for no skill."""
    try:
        mode = os.lstat(path, dir_fd=folder_fd).st_mode
    except FileNotFoundError:
        return None
    wanted = stat.S_ISREG if path.endswith(SKILL_SUFFIX) else stat.S_ISDIR
    if not wanted(mode):
        what = "a link" if stat.S_ISLNK(mode) else "something else than a skill"
        raise ToolError(
            f"{os.path.join(root, path)} is {what}; it is left alone.", hint="Move it away first."
        )
    try:
        content = read_content(path, bounds, folder_fd=folder_fd)
    except InvalidSkill:
        return UNKNOWN, None
    return content.tree.digest, content.signature


def _is_skill(folder_fd: int, path: str) -> bool:
    """Whether what stands there was meant as a skill, whatever else is wrong with it."""
    return path.endswith(SKILL_SUFFIX) or stands(folder_fd, os.path.join(path, SKILL_FILE))


def _note(staged: Staged) -> bytes | None:
    return None if staged.signature is None else staged.signature.note.encode()


def _places(path: str) -> Iterator[str]:
    """The names in the root that belong to a skill: of a single file its signature, too."""
    yield path
    if path.endswith(SKILL_SUFFIX):
        yield path + FILE_SIGNATURE_SUFFIX


# -- doing it ---------------------------------------------------------------------------------------------


def place(
    staged: Staged,
    root: str,
    *,
    real: str | None = None,
    replace: bool = False,
    bounds: TreeBounds = TreeBounds(),  # noqa: B008 - frozen
    operations: FileOperations = REAL,
    stop: Callable[[], bool] = never,
) -> Placed:
    """Put the skill in the root, with its entry in the lock; a root that is missing is made.

    `real`: the root's path without links; PathRefused is raised where it leads elsewhere by now. Raises
    InvalidInput, LockUnusable, ToolError, Stopped where `stop` says so in time; then nothing changed.
    """
    with _reporting(root), _made(root, operations), writing(root, operations, real) as change:
        plan = _plan(change.folder_fd, root, staged, replace, bounds)
        if plan.placed.unchanged:
            return plan.placed
        if not plan.places:
            change.replace_lock(lock_bytes(plan.lock))
            return plan.placed
        return msgspec.structs.replace(plan.placed, left=_changed(change, staged, plan, stop))


def _changed(change: Writing, staged: Staged, plan: _Plan, stop: Callable[[], bool]) -> tuple[str, ...]:
    moves: list[Move] = []
    contents: list[Callable[[str], None]] = []
    for name, there in plan.places:
        is_signature = name.endswith(FILE_SIGNATURE_SUFFIX)
        comes = not is_signature or staged.signature is not None
        if not comes and not there:
            continue
        new = temporary("new") if comes else None
        moves.append(Move(place=name, new=new, old=temporary("old") if there else None))
        contents.append(_writer(change, staged, is_signature))

    def build() -> None:
        for move, write in zip(moves, contents, strict=True):
            if move.new is not None:
                write(move.new)

    intent = Intent(skill=staged.name, lock=temporary("lock"), moves=tuple(moves), digest=staged.tree.digest)
    return change.change(intent, lock_bytes(plan.lock), build, stop)


def _writer(change: Writing, staged: Staged, is_signature: bool) -> Callable[[str], None]:
    """Gives what writes a skill, or its signature, under a name in the root."""
    operations, folder_fd = change.operations, change.folder_fd

    def write_signature(name: str) -> None:
        operations.write_file(folder_fd, name, (_note(staged) or b"",), mode=FILE_MODE)

    def write_file(name: str) -> None:
        state = staged.tree.files[SKILL_FILE]
        operations.write_file(folder_fd, name, _checked(staged.path, state), mode=_mode(state))

    def write_folder(name: str) -> None:
        operations.make_folder(folder_fd, name)
        with opened_folder(folder_fd, name) as fd:
            _write_tree(operations, fd, staged.path, staged.tree.files)
            if staged.signature is not None:
                operations.write_file(fd, SIGNATURE_FILE, (_note(staged) or b"",), mode=FILE_MODE)
            operations.sync_folder(fd)

    if is_signature:
        return write_signature
    return write_folder if staged.kind == "folder" else write_file


def _write_tree(operations: FileOperations, folder_fd: int, source: str, files: dict[str, FileState]) -> None:
    below: dict[str, dict[str, FileState]] = {}
    for path, state in files.items():
        name, slash, rest = path.partition("/")
        if slash:
            below.setdefault(name, {})[rest] = state
        else:
            chunks = _checked(os.path.join(source, name), state)
            operations.write_file(folder_fd, name, chunks, mode=_mode(state))
    for name, inner in below.items():
        operations.make_folder(folder_fd, name)
        with opened_folder(folder_fd, name) as fd:
            _write_tree(operations, fd, os.path.join(source, name), inner)
            operations.sync_folder(fd)


def _mode(state: FileState) -> int:
    return PROGRAM_MODE if state.executable else FILE_MODE


def _checked(path: str, state: FileState) -> Iterator[bytes]:
    """The file's bytes, as they were when they were judged. Raises ToolError where they are others."""
    digest = hashlib.sha256()
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            yield chunk
    if digest.hexdigest() != state.sha256:
        raise ToolError(f"{path} changed after it was looked at. Nothing was installed.")


# -- removing -------------------------------------------------------------------------------------------


def foresee_removal(root: str, name: str) -> Removed:
    """What `remove` would do. Raises NotFound, LockUnusable."""
    lock = read_lock(root) or Lock()
    for path in (path_of(name, "folder"), path_of(name, "file")):
        if path in lock.entries:
            return Removed(path=path, digest=lock.entries[path].digest)
    if name_fault(name) is None and any(
        os.path.lexists(os.path.join(root, path_of(name, kind))) for kind in ("folder", "file")
    ):
        raise NotFound(
            f"{name!r} is in {root} and not in its lock: it was not installed by Custody.",
            hint="Delete it by hand, or adopt it first: `custody skills install` with its own path.",
            there=True,
        )
    raise NotFound(
        f"There is no skill {name!r} in {root}.", hint="`custody skills list` shows what there is."
    )


def remove(
    root: str,
    name: str,
    *,
    real: str | None = None,
    operations: FileOperations = REAL,
    stop: Callable[[], bool] = never,
) -> Removed:
    """Remove an installed skill and its entry. Raises as `place` does, and NotFound."""
    if not os.path.isdir(root):
        return foresee_removal(root, name)
    with _reporting(root), writing(root, operations, real) as change:
        removed = foresee_removal(root, name)
        lock = lock_bytes((read_lock(root) or Lock()).without(removed.path))
        moves = tuple(
            Move(place=place, new=None, old=temporary("old"))
            for place in _places(removed.path)
            if stands(change.folder_fd, place)
        )
        if not moves:
            change.replace_lock(lock)
            return removed
        intent = Intent(skill=name, lock=temporary("lock"), moves=moves, digest=None)
        left = change.change(intent, lock, _nothing, stop)
        return msgspec.structs.replace(removed, left=left)


def _nothing() -> None:
    """A removal puts nothing in place."""


def recover(root: str, *, operations: FileOperations = REAL) -> Recovered | None:
    """Finish or take back what a process that died left in a root. None: nothing was cut short there.

    Every install and removal does this first; to ask costs a look at the root's names. Raises ToolError.
    """
    if not needs_recovery(root):
        return None
    with _reporting(root), writing(root, operations) as change:
        return change.recovered


# -- the root itself --------------------------------------------------------------------------------------


@contextmanager
def _made(root: str, operations: FileOperations) -> Generator[None]:
    """Make the root where it is missing; it goes again where what follows fails."""
    missing: list[str] = []
    folder = root
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    made: list[str] = []
    try:
        for path in reversed(missing):
            parent, name = os.path.split(path)
            fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with suppress(FileExistsError):
                    operations.make_folder(fd, name)
                    made.append(path)
                    operations.sync_folder(fd)
            finally:
                os.close(fd)
        yield
    except BaseException:
        for path in reversed(made):
            with suppress(OSError):  # not empty: somebody uses it by now
                os.rmdir(path)
        raise


@contextmanager
def _reporting(root: str) -> Generator[None]:
    """Errors of the disk, in words."""
    try:
        yield
    except OSError as error:
        raise _unusable(root, error) from error


def _unusable(root: str, error: OSError) -> ToolError:
    return ToolError(
        f"{root} cannot be changed: {error.strerror or error}. Nothing in it was changed by this call.",
        hint="Mend that and try again.",
    )
