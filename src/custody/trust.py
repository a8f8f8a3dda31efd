"""A small file of this user's that says whose word counts.

Owns that it is read as itself and not through a link, only where nobody else may write it, and that it is
changed by one process at a time and as a whole. Knows nothing of what it says. Used by `skills.trust` for the
keys whose signatures count, and by `policy_files` for the projects whose policies may widen.
"""

import os
import time
from collections.abc import Callable

from custody.errors import InvalidInput, StoreError, TrustUnusable
from custody.files.small import read_small_file
from custody.journal import RealDisk
from custody.journal.disk import Lock

LOCK_WAIT_SECONDS = 5.0
"""For another change of the same file to end: it takes one small write and two syncs, on a busy disk."""
_LOCK_LOOK_SECONDS = 0.02

_OTHERS_MAY_WRITE = 0o022


class TrustFile:
    """One such file. `hint` tells its user what to do about one that cannot be used."""

    def __init__(self, path: str, *, bytes_max: int, hint: str) -> None:
        self.path = path
        self._bytes_max = bytes_max
        self._hint = hint

    def read(self) -> bytes | None:
        """What it says; None where there is none. Raises TrustUnusable."""
        try:
            return read_small_file(self.path, self._bytes_max, forbidden_mode=_OTHERS_MAY_WRITE, own=True)
        except InvalidInput as error:
            raise self.unusable(error.message, hint=error.hint) from error

    def change(self, make: Callable[[], bytes | None]) -> None:
        """Replace the file by what `make` gives, and leave it where that is None, with nobody else changing
        it meanwhile. `make` reads the file itself. Raises TrustUnusable, and what `make` raises."""
        name = os.path.basename(self.path)
        disk = self._folder()
        try:
            lock = self._locked(disk, name)
            try:
                data = make()
                if data is not None:
                    disk.replace(name, data)
            finally:
                lock.release()
        except OSError as error:
            raise self.unusable(f"{self.path} cannot be written: {error.strerror}.") from error

    def unusable(self, message: str, *, hint: str | None = None) -> TrustUnusable:
        """The error to raise about it."""
        return TrustUnusable(message, hint=hint or self._hint)

    def _folder(self) -> RealDisk:
        folder = os.path.dirname(self.path)
        try:
            return RealDisk(folder)
        except StoreError as error:
            name = os.path.basename(self.path)
            raise self.unusable(f"{folder} is not a folder that {name} can be kept in.") from error

    def _locked(self, disk: RealDisk, name: str) -> Lock:
        until = time.monotonic() + LOCK_WAIT_SECONDS
        while (lock := disk.lock(f".{name}.lock")) is None:
            if time.monotonic() > until:
                raise self.unusable(f"{self.path} is being changed by another process.", hint="Try again.")
            time.sleep(_LOCK_LOOK_SECONDS)
        return lock
