"""Roots: the folders a call may work in.

Owns the comparison of a working directory with the allowed roots, after symlinks are resolved. Used by
tools that take a directory.
"""

import os

from msgspec import Struct

from custody.records import Decision


class Scope(Struct, frozen=True):
    """Where a call may work: its working directory and the allowed roots, whose links are resolved."""

    cwd: str
    roots: tuple[str, ...]

    def at(self, folder: str | None) -> "Scope":
        """The same roots, with another working directory (relative ones are taken from this one)."""
        return (
            self if folder is None else Scope(os.path.join(self.cwd, os.path.expanduser(folder)), self.roots)
        )

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
