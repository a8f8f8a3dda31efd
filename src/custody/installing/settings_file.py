"""A settings file of another program: read as it is, replaced as a whole, kept beside as it was before.

Owns the care for links, for a file that is changed meanwhile, and the copy beside it. Knows nothing of what
is in the file. Used by `plans`.
"""

import os
import stat
from collections.abc import Generator
from contextlib import contextmanager

from msgspec import Struct

from custody.errors import CustodyError, InvalidInput, PathRefused
from custody.files import ABSENT, State, look
from custody.files.putting import put_in_place, stage_file

FILE_BYTES_MAX = 32 * 1024 * 1024
"""Claude Code keeps the history of its prompts in such a file; a thousand prompts are a megabyte."""

BACKUP_SUFFIX = ".custody-backup"
BACKUP_MODE = 0o600  # settings hold tokens
NEW_MODE = 0o644


class SettingsUnusable(InvalidInput):
    """The settings file cannot be read or edited; it stays as it is."""


class SettingsNotWritten(CustodyError):
    """The settings file could not be written; it is as it was."""


class SettingsFile(Struct, frozen=True, kw_only=True):
    """What stands at a path."""

    path: str
    """As it is named."""
    real: str
    """Where it stands once links are followed."""
    text: str | None
    """None: there is none."""
    state: State

    @property
    def backup(self) -> str:
        return self.path + BACKUP_SUFFIX


def read(path: str, *, within: str | None = None) -> SettingsFile:
    """The file, links followed; a link that leads out of the folder `within` is refused. Raises
    SettingsUnusable, PathRefused."""
    real = os.path.realpath(path)
    if within is not None and not _is_within(real, os.path.realpath(within)):
        raise PathRefused(
            f"{path} is a link that leads out of the project, to {real}.",
            hint="Edit that file itself, if it is yours.",
        )
    try:
        data, state = _read(real)
    except FileNotFoundError:
        if os.path.lexists(path):
            raise SettingsUnusable(
                f"{path} is a link to {real}, where nothing is.",
                hint="Put the file there, or remove the link.",
            ) from None
        return SettingsFile(path=path, real=real, text=None, state=ABSENT)
    except OSError as error:
        raise SettingsUnusable(f"{path} cannot be read: {error.strerror}.") from None
    try:
        return SettingsFile(path=path, real=real, text=data.decode(), state=state)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsUnusable(f"{path} is not UTF-8: line {line}.", hint="Put that right first.") from None


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _read(real: str) -> tuple[bytes, State]:
    folder, name = os.path.split(real)
    parts: list[bytes] = []
    with _opened(folder) as folder_fd:
        status = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise SettingsUnusable(f"{real} is not a file.")
        if status.st_size > FILE_BYTES_MAX:
            raise SettingsUnusable(f"{real} is larger than {FILE_BYTES_MAX:,} bytes.")

        def sink(chunk: bytes) -> None:
            parts.append(chunk) if chunk else parts.clear()

        state = look(folder_fd, name, sink=sink)
    return b"".join(parts), state


@contextmanager
def _opened(folder: str) -> Generator[int]:
    folder_fd = os.open(folder or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield folder_fd
    finally:
        os.close(folder_fd)


def write(file: SettingsFile, text: str) -> None:
    """Replace the file at once, with the owner and permissions it had. Raises SettingsNotWritten, also where
    it is not what was read any more."""
    folder, name = os.path.split(file.real)
    try:
        os.makedirs(folder, exist_ok=True)
        with _opened(folder) as folder_fd:
            like = None if file.state is ABSENT else file.state
            staged = stage_file(
                folder_fd, [text.encode()], mode=NEW_MODE if like is None else like.mode, like=like
            )
            try:
                _must_be_as_read(file, folder_fd, name)
                put_in_place(folder_fd, staged, name, over=like is not None)
            except BaseException:
                os.unlink(staged, dir_fd=folder_fd)
                raise
    except OSError as error:
        raise SettingsNotWritten(f"{file.path} cannot be written: {error.strerror}.") from None


def _must_be_as_read(file: SettingsFile, folder_fd: int, name: str) -> None:
    now = look(folder_fd, name)
    if (now.kind, now.sha256) != (file.state.kind, file.state.sha256):
        raise SettingsNotWritten(
            f"{file.path} was changed meanwhile; it stays as it is.", hint="Run the command again."
        )


def keep_backup(file: SettingsFile) -> None:
    """Put a copy beside the file, for its user alone, over one that is there. Raises SettingsNotWritten."""
    assert file.text is not None, "what is not there needs no copy"
    folder, name = os.path.split(os.path.abspath(file.backup))
    try:
        with _opened(folder) as folder_fd:
            staged = stage_file(folder_fd, [file.text.encode()], mode=BACKUP_MODE, like=None)
            put_in_place(folder_fd, staged, name)
    except OSError as error:
        raise SettingsNotWritten(
            f"The copy {file.backup} cannot be written, so {file.path} stays as it is: {error.strerror}."
        ) from None


def backup_of(file: SettingsFile) -> str | None:
    """What the settings were before Custody came; None where no copy is kept, or it cannot be read."""
    try:
        if os.path.islink(file.backup):
            return None
        return read(file.backup).text
    except CustodyError:
        return None


def remove_backup(file: SettingsFile) -> None:
    try:
        os.unlink(file.backup)
    except OSError:
        pass  # it says what was, and harms nobody


def remove(file: SettingsFile) -> None:
    """Take a file away that holds nothing but what was put in. Raises SettingsNotWritten, also where it is
    not what was read any more."""
    folder, name = os.path.split(file.real)
    try:
        with _opened(folder) as folder_fd:
            _must_be_as_read(file, folder_fd, name)
            os.unlink(name, dir_fd=folder_fd)
    except OSError as error:
        raise SettingsNotWritten(f"{file.path} cannot be removed: {error.strerror}.") from None
