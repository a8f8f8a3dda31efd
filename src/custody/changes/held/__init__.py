"""What a command changed, held until somebody says what becomes of it.

`HeldStore.begin` gives a command other folders to write to in place of its roots; `Holding.settle` reads what
it did there; the `HeldSet` that comes of it is shown, and then committed or discarded. How a command comes to
see those folders is the sandbox's. Read `store` first.
"""

from custody.changes.held.holding import Holding
from custody.changes.held.manifest import FolderTime, HeldEntry, HeldSet
from custody.changes.held.store import HeldRecovered, HeldStore, another_set

__all__ = ["FolderTime", "HeldEntry", "HeldRecovered", "HeldSet", "HeldStore", "Holding", "another_set"]
