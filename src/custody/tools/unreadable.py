"""Why a path cannot be read, in words that say what to do next.

Owns the sentences for what the operating system answers. Refusals by root or protection have their own, from
`files`. Used by the tools that read.
"""

import errno
import os

from custody.errors import ToolError


def unreadable(error: OSError, path: str) -> ToolError:
    """The error to end a call with. `details` has `type`, the name of the exception, and `errno`."""
    found = ToolError(_sentence(error, path), type=type(error).__name__, errno=error.errno)
    found.__cause__ = error
    return found


def _sentence(error: OSError, path: str) -> str:
    match error.errno:
        case errno.ENOENT:
            return f"{path} does not exist; file_list shows what is there."
        case errno.EISDIR:
            return f"{path} is a folder; file_list shows what is in it."
        case errno.ENOTDIR:
            return f"{path} is no folder, or leads through a file; file_list of what is above it shows more."
        case errno.EACCES | errno.EPERM:
            return f"{path} may not be read by the user this runs as; ask that user for the permission."
        case errno.EMFILE | errno.ENFILE:
            return f"{path} cannot be opened: too many files are open; try again when fewer calls run."
        case errno.EIO:
            return f"{path} cannot be read: the disk reports an error (EIO)."
        case _:
            return f"{path} cannot be read: {os.strerror(error.errno) if error.errno else error}."
