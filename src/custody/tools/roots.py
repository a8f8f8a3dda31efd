"""Roots: the folders a call may work in.

Owns the comparison of a working directory with the allowed roots, after symlinks are resolved. What a call
reaches as files is `files.Reach`'s to say. Used by tools that take a directory or a path.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from custody.records import Decision

if TYPE_CHECKING:
    from custody.changes import HeldStore
    from custody.files import Opening, Protected, Reach


class Scope(Struct, frozen=True):
    """Where a call may work: its working directory and the allowed roots, whose links are resolved."""

    cwd: str
    roots: tuple[str, ...]
    protected: "Callable[[], Protected]"
    """What no tool may touch, loaded where a path is first asked for."""
    opens: "Callable[[Opening], bool] | None" = None
    """Whether a path that could not be written otherwise may be; None: none may."""
    held: "Callable[[], HeldStore] | None" = None
    """Where changes are held, opened where a call is about them; None: nowhere."""

    @property
    def reach(self) -> "Reach":
        """Where this call's file work may go."""
        from custody.files import Reach  # most commands of a person run a program and touch no file

        return Reach(self.cwd, self.roots, self.protected(), self.opens)

    def at(self, folder: str | None) -> "Scope":
        """The same roots, with another working directory (relative ones are taken from this one)."""
        if folder is None:
            return self
        return msgspec.structs.replace(self, cwd=os.path.join(self.cwd, os.path.expanduser(folder)))

    def check(self) -> Decision | None:
        """A refusal when the working directory is gone or outside every root."""
        folder = os.path.realpath(self.cwd)
        if not os.path.isdir(folder):
            what = "is not a directory" if os.path.exists(folder) else "does not exist"
            return Decision(
                "deny", "schema", f"The working directory {self.cwd} {what}; name one that does with --cwd."
            )
        for root in self.roots:
            if folder == root or folder.startswith(root.rstrip("/") + "/"):
                return None
        return Decision(
            "deny",
            "path",
            f"The working directory {folder} is outside the allowed roots ({', '.join(self.roots)}); "
            f"--root {folder} would allow it.",
        )
