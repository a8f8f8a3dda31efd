"""Small files that decide something: locks, signatures, trusted keys.

Owns how such a file is opened: as itself and not through a link, only where it is a regular file, and never
more of it than a bound. Knows nothing of what it says. Used by `trust`, and by
`skills` for the small files of a root.
"""

import os
import stat

from custody.errors import InvalidInput

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def read_small_file(path: str, bytes_max: int, *, forbidden_mode: int = 0, own: bool = False) -> bytes | None:
    """The file's bytes; None where nothing is at that path.

    `forbidden_mode`: permission bits it must not have. `own`: it has to belong to this user or to root.
    Raises InvalidInput with a sentence that names the file.
    """
    try:
        fd = os.open(path, _FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        what = "it is a link" if os.path.islink(path) else error.strerror
        raise InvalidInput(f"{path} cannot be read: {what}.") from error
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput(f"{path} is not a file.")
        _check_access(path, status, forbidden_mode, own=own)
        try:
            data = file.read(bytes_max + 1)
        except OSError as error:
            raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > bytes_max:
        raise InvalidInput(f"{path} has more than {bytes_max} bytes.")
    return data


def _check_access(path: str, status: os.stat_result, forbidden_mode: int, *, own: bool) -> None:
    if own and status.st_uid not in (os.geteuid(), 0):
        raise InvalidInput(
            f"{path} belongs to another user (id {status.st_uid}), who could change it unseen.",
            hint=f"Look at what is in it, then `chown {os.geteuid()} {path}`.",
        )
    if too_much := stat.S_IMODE(status.st_mode) & forbidden_mode:
        may = "change" if too_much & 0o022 else "read"
        raise InvalidInput(
            f"Others may {may} {path} (mode {stat.S_IMODE(status.st_mode):04o}).",
            hint=f"Look at what is in it, then `chmod 600 {path}`.",
        )
