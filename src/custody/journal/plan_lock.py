"""Who works on a plan: one lock file for each plan that is being worked on, none for the others.

Owns the folder `journal/plans`. Knows nothing of plans but a name for each. Used through `Journal`; taking
and releasing may wait.
"""

from contextlib import suppress

from custody.journal.disk import Disk, Lock

FOLDER = "journal/plans"


class PlanLock:
    """The right to work on one plan, lost when the process dies."""

    def __init__(self, disk: Disk, path: str, lock: Lock) -> None:
        self._disk = disk
        self._path = path
        self._lock = lock

    def release(self) -> None:
        """Leaves no file behind: there may be a plan for every day of the year."""
        # While it is held: whoever opens the name from here on makes a file of its own. Where it cannot be
        # removed, the next one to work on this plan takes it.
        with suppress(OSError):
            self._disk.remove(self._path)
        self._lock.release()


def take_plan_lock(disk: Disk, name: str) -> PlanLock | None:
    """None while somebody, this process included, has it. Raises OSError."""
    disk.make_folder(FOLDER)
    path = f"{FOLDER}/{name}"
    lock = disk.lock(path)
    return None if lock is None else PlanLock(disk, path, lock)
