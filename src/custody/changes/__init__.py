"""What a call changes in files: carried out as a whole, told path by path, and taken back.

`carry_out` changes files so that the old states are kept first; `Observed` keeps states of what something
else is about to change (`settle_left` looks again, in whichever process); `HeldStore` holds what a command
changed until it is committed or discarded; `undo_call` takes a call's changes back; `recover_changes` ends
what a dead process left half done. The kept states lie in an `UndoStore`, sealed. Knows nothing of tools or
calls, and of records only `Change`.
"""

from custody.changes.apply import carry_out
from custody.changes.diff import unified
from custody.changes.held import HeldRecovered, HeldSet, HeldStore, Holding
from custody.changes.log import Entry, UndoSet
from custody.changes.net import net_changes
from custody.changes.observed import Observed, settle_left
from custody.changes.recover import RolledBack, recover_changes
from custody.changes.store import UndoStore
from custody.changes.told import Conflict
from custody.changes.undo import Undone, UndoPlan, plan_call, plan_undo, undo_call
from custody.changes.wanted import (
    Wanted,
    appended_at,
    file_at,
    file_content,
    folder_at,
    link_at,
    missing_folders,
    mode_at,
    nothing_at,
    tree_removed,
)

__all__ = [
    "Conflict",
    "Entry",
    "HeldRecovered",
    "HeldSet",
    "HeldStore",
    "Holding",
    "Observed",
    "RolledBack",
    "UndoPlan",
    "UndoSet",
    "UndoStore",
    "Undone",
    "Wanted",
    "appended_at",
    "carry_out",
    "file_at",
    "file_content",
    "folder_at",
    "link_at",
    "missing_folders",
    "mode_at",
    "net_changes",
    "nothing_at",
    "plan_call",
    "plan_undo",
    "recover_changes",
    "settle_left",
    "tree_removed",
    "undo_call",
    "unified",
]
