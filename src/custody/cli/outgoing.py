"""A file that a command writes for its user: all of it under its name, or nothing.

Owns the refusal to overwrite, the file beside it that is filled first, and `-` for standard output. Used by
`export`.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Generator
from typing import IO

from custody.errors import ExportFailed, UsageError

STANDARD_OUTPUT = "-"
COPY_BYTES = 1024 * 1024


@contextlib.contextmanager
def outgoing(path: str, *, force: bool) -> Generator[IO[bytes]]:
    """An empty file to be filled, which is `path` once the block is left; private to its user.

    Left by an exception, nothing is there that was not there before. Raises UsageError for a path that is
    taken or cannot be one, ExportFailed when the disk does not take it.
    """
    if path == STANDARD_OUTPUT:
        yield from _to_standard_output()
        return
    _check(path, force=force)
    folder, name = os.path.split(os.path.abspath(path))
    beside = None
    try:
        handle, beside = tempfile.mkstemp(prefix=f".{name[:200]}.", suffix=".part", dir=folder)
        with open(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _put_in_place(beside, path, force=force)
        beside = None
    except OSError as error:
        raise ExportFailed(f"{path} is not written: {error.strerror or error}.") from error
    finally:
        if beside is not None:
            with contextlib.suppress(OSError):
                os.unlink(beside)


def _check(path: str, *, force: bool) -> None:
    if os.path.isdir(path):
        raise UsageError(f"{path} is a folder.", hint="Name a file in it.")
    if os.path.lexists(path) and not force:
        raise _taken(path)
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise UsageError(f"There is no folder {folder}.", hint="Make it, or name another.")


def _put_in_place(beside: str, path: str, *, force: bool) -> None:
    """A link refuses a name that was taken meanwhile; where a file system has none, looking must do."""
    if not force:
        try:
            os.link(beside, path, follow_symlinks=False)
        except FileExistsError:
            raise _taken(path) from None
        except OSError:
            _check(path, force=False)
        else:
            os.unlink(beside)
            return
    os.replace(beside, path)


def _taken(path: str) -> UsageError:
    return UsageError(f"{path} is there already.", hint="Name another file, or overwrite it with --force.")


def _to_standard_output() -> Generator[IO[bytes]]:
    """Filled as a whole before the first byte is shown."""
    if sys.stdout.isatty():
        raise UsageError("A terminal cannot show this.", hint="Name a file, or a pipe to write into.")
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        sys.stdout.flush()
        shutil.copyfileobj(file, sys.stdout.buffer, COPY_BYTES)
        sys.stdout.buffer.flush()
