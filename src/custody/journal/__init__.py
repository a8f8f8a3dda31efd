"""What happened: the append-only record of a store.

The names other packages use; each module says what it owns. `Journal` is the face of it all.
"""

from custody.journal.commit import Receipt
from custody.journal.disk import Disk, RealDisk
from custody.journal.disk_memory import MemoryDisk
from custody.journal.follow import Cursor, Following, Place
from custody.journal.frames import Stored, sha256
from custody.journal.journal import Journal, Positions, ShardState
from custody.journal.lease import boot_id
from custody.journal.settings import JournalSettings

__all__ = [
    "Cursor",
    "Disk",
    "Following",
    "Journal",
    "JournalSettings",
    "MemoryDisk",
    "Place",
    "Positions",
    "RealDisk",
    "Receipt",
    "ShardState",
    "Stored",
    "boot_id",
    "sha256",
]
