"""One change of a root: the files of a skill and the root's lock file, both or neither.

Owns the order of the renames, the note by which a change that was cut short is known, and what becomes of it.
Knows nothing of what a skill is. `install` makes changes with it; `root` and `verify` ask it whether one is
going on or was cut.

Two names cannot be changed in one rename, so the change is written down first (`.custody-skill-intent`):

    1  the new tree and the new lock are written beside the old ones, synced
    2  the intent is renamed in, synced                           from here on a cut change is known as one
    3  the old tree gets a name of its own, the new tree its place, synced
    4  the new lock is renamed in, synced                                        this is the moment it counts
    5  the old tree goes, the intent goes

Whether 4 has happened is seen from whether the new lock still has its first name. If it has, everything is
taken back; if not, what is left of 5 is done. Both can be cut again at any point and are only done further.
Readers in between see a skill that is missing or that is not what its lock says, and offer neither.
"""

import os
import re
import secrets
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

import msgspec
from msgspec import Struct

from custody.errors import InvalidInput, InvalidSkill, PathRefused, ToolError
from custody.files.small import read_small_file
from custody.journal import RealDisk
from custody.journal.disk import Lock as WriterLock
from custody.skills.file_operations import FileOperations, remove_all, stands
from custody.skills.lock import LOCK_FILE
from custody.skills.signing import FILE_SIGNATURE_SUFFIX
from custody.skills.tree import TreeBounds, read_tree

PREFIX = ".custody-skill-"
INTENT = f"{PREFIX}intent"
WRITER_LOCK = ".custody-skills.lock"
KEPT_PREFIX = ".custody-kept-"
"""What was put aside because somebody had worked in it stays until a person has looked at it."""

LOCK_WAIT_SECONDS = 15.0
"""For another install into the same root, which takes a second where the disk is slow."""

LOCK_LOOK_SECONDS = 0.02

INTENT_BYTES_MAX = 16 * 1024  # three names and a digest

FILE_MODE = 0o644

_TEMPORARY = re.compile(rf"{re.escape(PREFIX)}(new|old|lock|note)-[0-9a-f]{{16}}")
_PLACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Move(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What becomes of one name of the root."""

    place: str
    new: str | None
    """What is to stand there has this name until then; None: nothing is to."""
    old: str | None
    """What stands there has this name afterwards; None: nothing stands there."""


class Intent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change, as it is written down before it begins."""

    skill: str
    lock: str
    """The name the new lock has until it counts."""
    moves: tuple[Move, ...]
    digest: str | None
    """Of the tree that is put in place: what is not that any more is not ours to remove."""


class Recovered(Struct, frozen=True, kw_only=True):
    """What became of a change that was cut short."""

    skill: str
    finished: bool
    """Whether it counts, or was taken back."""
    kept: tuple[str, ...] = ()
    """Names in the root under which something was put aside that somebody has changed since."""


def temporary(kind: str) -> str:
    return f"{PREFIX}{kind}-{secrets.token_hex(8)}"


class Writing:
    """A root that nobody else changes meanwhile."""

    def __init__(self, root: str, folder_fd: int, operations: FileOperations) -> None:
        self.root = root
        self.folder_fd = folder_fd
        self.operations = operations
        self.recovered: Recovered | None = None
        """What was found cut short."""

    # -- a change ---------------------------------------------------------------------------------------

    def change(
        self, intent: Intent, lock: bytes, build: Callable[[], None], stop: Callable[[], bool]
    ) -> tuple[str, ...]:
        """Do it all, or nothing. `build` writes what the moves' `new` names stand for; `stop` is asked for
        the last time right before it counts.

        Returns the names of what could not be cleared away afterwards. Raises what `build` raises, ToolError,
        OSError, Stopped; then the root is as before, or the message says that it is not yet.
        """
        try:
            build()
            self.operations.write_file(self.folder_fd, intent.lock, (lock,), mode=FILE_MODE)
            self._write_intent(intent)
            self._put_in_place(intent)
            if stop():
                raise Stopped
            self.operations.rename(self.folder_fd, intent.lock, LOCK_FILE, over=True)
        except BaseException as error:
            self._take_back_for(error)
            raise
        return self._finish_said(intent)

    def replace_lock(self, lock: bytes) -> None:
        """Another lock and nothing else: one rename."""
        name = temporary("lock")
        try:
            self.operations.write_file(self.folder_fd, name, (lock,), mode=FILE_MODE)
            self.operations.rename(self.folder_fd, name, LOCK_FILE, over=True)
        except BaseException:
            with suppress(OSError):
                remove_all(self.operations, self.folder_fd, name)
            raise
        self._confirm("The lock")

    def _write_intent(self, intent: Intent) -> None:
        note = temporary("note")
        self.operations.write_file(self.folder_fd, note, (msgspec.json.encode(intent),), mode=FILE_MODE)
        self.operations.rename(self.folder_fd, note, INTENT)
        self.operations.sync_folder(self.folder_fd)

    def _put_in_place(self, intent: Intent) -> None:
        for move in intent.moves:
            if move.old is not None:
                self.operations.rename(self.folder_fd, move.place, move.old)
            if move.new is not None:
                self.operations.rename(self.folder_fd, move.new, move.place)
        self.operations.sync_folder(self.folder_fd)

    def _take_back_for(self, error: BaseException) -> None:
        try:
            self.recover()
        except OSError as further:
            raise ToolError(
                f"It failed ({error}), and what had been begun in {self.root} could not be taken back: "
                f"{further.strerror}. Until it is, the skill is not offered.",
                hint="When the disk is well again, the next install or removal there takes it back first.",
            ) from error

    def _finish_said(self, intent: Intent) -> tuple[str, ...]:
        self._confirm(intent.skill)
        try:
            self._finish(intent)
        except OSError:  # the next change of the root does it
            return tuple(name for name in (*_olds(intent), INTENT) if stands(self.folder_fd, name))
        return ()

    def _confirm(self, what: str) -> None:
        try:
            self.operations.sync_folder(self.folder_fd)
        except OSError as error:
            raise ToolError(
                f"{what} is in place in {self.root} and the lock says so, but the disk does not confirm that "
                f"it will be there after a loss of power: {error.strerror}.",
                hint="Look at the disk, then `custody skills verify`.",
            ) from error

    # -- a change that was cut short ----------------------------------------------------------------------

    def recover(self) -> Recovered | None:
        """Take back, or finish, what was cut short; clear away what is left over. None: nothing was.

        Raises ToolError for an intent that Custody did not write, OSError.
        """
        intent = self._intent()
        recovered = None
        if intent is not None:
            finished = not stands(self.folder_fd, intent.lock)
            kept = () if finished else self._take_back(intent)
            if finished:
                self.operations.sync_folder(self.folder_fd)
                self._finish(intent)
            recovered = Recovered(skill=intent.skill, finished=finished, kept=kept)
        for name in leftovers(self.folder_fd):
            with suppress(OSError):  # it is in nobody's way, and cleared away another time
                remove_all(self.operations, self.folder_fd, name)
        return recovered

    def _intent(self) -> Intent | None:
        path = os.path.join(f"/proc/self/fd/{self.folder_fd}", INTENT)
        try:
            data = read_small_file(path, INTENT_BYTES_MAX)
            intent = None if data is None else msgspec.json.decode(data, type=Intent)
        except (InvalidInput, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._not_ours() from error
        if intent is not None and not _is_ours(intent):
            raise self._not_ours()
        return intent

    def _not_ours(self) -> ToolError:
        return ToolError(
            f"{os.path.join(self.root, INTENT)} was not written by Custody, or was changed; nothing is done "
            "in that folder while it is there.",
            hint="Look at what is in the folder, then delete that file.",
        )

    def _take_back(self, intent: Intent) -> tuple[str, ...]:
        """Everything where it was; then the intent goes. Done twice, it finds nothing more to do: what is to
        be taken back is seen from what the new and the old have for names."""
        kept: list[str] = []
        for move in reversed(intent.moves):
            put = move.new is not None and not stands(self.folder_fd, move.new)
            if put and (move.old is None or stands(self.folder_fd, move.old)):
                kept += self._clear_place(move, intent.digest)
            if move.old is not None and stands(self.folder_fd, move.old):
                try:
                    self.operations.rename(self.folder_fd, move.old, move.place)
                except FileExistsError:  # made by somebody else since
                    kept.append(self._keep(move.old))
        self.operations.sync_folder(self.folder_fd)
        self.operations.remove(self.folder_fd, INTENT, "file")
        return tuple(kept)

    def _clear_place(self, move: Move, digest: str | None) -> list[str]:
        """Give what was put in place its first name again, unless somebody has worked in it since: that is
        kept, where it stands or, where something else belongs there, under a name of its own."""
        assert move.new is not None, "only what is new was put in place"
        if not stands(self.folder_fd, move.place):
            return []
        if move.place.endswith(FILE_SIGNATURE_SUFFIX) or self._digest(move.place) == digest:
            self.operations.rename(self.folder_fd, move.place, move.new)
            return []
        return [move.place if move.old is None else self._keep(move.place)]

    def _digest(self, name: str) -> str | None:
        try:
            return read_tree(os.path.join(f"/proc/self/fd/{self.folder_fd}", name), TreeBounds()).digest
        except InvalidSkill:
            return None

    def _keep(self, name: str) -> str:
        kept = f"{KEPT_PREFIX}{secrets.token_hex(8)}"
        self.operations.rename(self.folder_fd, name, kept)
        return kept

    def _finish(self, intent: Intent) -> None:
        for name in _olds(intent):
            remove_all(self.operations, self.folder_fd, name)
        self.operations.remove(self.folder_fd, INTENT, "file")


class Stopped(Exception):
    """The call is over before the change counted; it was taken back."""


def _olds(intent: Intent) -> tuple[str, ...]:
    return tuple(move.old for move in intent.moves if move.old is not None)


def _is_ours(intent: Intent) -> bool:
    """An intent moves and removes what it names, so it names nothing but what a change of ours would."""
    temporaries = [intent.lock, *_olds(intent), *(move.new for move in intent.moves if move.new is not None)]
    places = [move.place for move in intent.moves]
    return all(map(_TEMPORARY.fullmatch, temporaries)) and all(map(_PLACE.fullmatch, places))


def leftovers(folder_fd: int) -> list[str]:
    """Names of what a change left behind that was cut short."""
    return sorted(name for name in os.listdir(folder_fd) if _TEMPORARY.fullmatch(name))


def needs_recovery(root: str) -> bool:
    """Whether something in the root was cut short, or is being changed right now."""
    try:
        return any(name == INTENT or _TEMPORARY.fullmatch(name) for name in os.listdir(root))
    except OSError:
        return False


@contextmanager
def writing(root: str, operations: FileOperations, real: str | None = None) -> Generator[Writing]:
    """The root, which exists, with nobody else changing it, and nothing in it cut short.

    `real`: its path without links, if that has to be it. Raises ToolError, PathRefused, OSError.
    """
    folder_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if real is not None and os.readlink(f"/proc/self/fd/{folder_fd}") != real:
            raise PathRefused(f"{root} was changed to lead elsewhere while it was opened.")
        lock = _lock(root, folder_fd)
        try:
            change = Writing(root, folder_fd, operations)
            change.recovered = change.recover()
            yield change
        finally:
            # While it is held, so that who waits for it sees that this name is another file by now.
            with suppress(OSError):
                os.unlink(WRITER_LOCK, dir_fd=folder_fd)
            lock.release()
    finally:
        os.close(folder_fd)


def _lock(root: str, folder_fd: int) -> WriterLock:
    disk = RealDisk(f"/proc/self/fd/{folder_fd}", create=False)
    until = time.monotonic() + LOCK_WAIT_SECONDS
    while (lock := disk.lock(WRITER_LOCK)) is None:
        if time.monotonic() > until:
            raise ToolError(
                f"Somebody else has been installing into {root} for {LOCK_WAIT_SECONDS:.0f} s.",
                hint="Try again when that is done.",
            )
        time.sleep(LOCK_LOOK_SECONDS)
    return lock
