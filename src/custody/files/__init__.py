"""Where it may reach: opening what a path names without ever leaving the roots, and putting files in place.

Owns how a path is resolved beneath a root, which files are protected, what stands at a path, and every
system call that changes a file for a tool. Knows nothing of calls, of records beyond the words of a change,
and nothing of undo. Used by `changes` and `tools`.
"""

from custody.files.beneath import open_beneath
from custody.files.protected import Protected, load_protected
from custody.files.putting import TEMPORARY_PREFIX
from custody.files.reach import Opened, Opening, Reach, Target, parent_of
from custody.files.state import ABSENT, State, look, same, version_of
from custody.files.walking import Entry, TooDeep, TooMany, walk

__all__ = [
    "ABSENT",
    "Entry",
    "Opened",
    "Opening",
    "Protected",
    "Reach",
    "State",
    "TEMPORARY_PREFIX",
    "Target",
    "TooDeep",
    "TooMany",
    "load_protected",
    "look",
    "open_beneath",
    "parent_of",
    "same",
    "version_of",
    "walk",
]
