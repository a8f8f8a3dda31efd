"""What a `git` call may change is kept before, so that `undo` gives back references, index and files.

Owns which files of a repository's git folder count, and the bounds of what is kept. How a state is kept and
given back is `changes`'. Works on files and waits for them: it runs in a thread. Used by `git`.

`objects/` is left out: git only adds to it. After an undo its new objects lie there unused, until git clears
them away.
"""

import os
from collections.abc import Iterable, Iterator

from custody.changes import Observed
from custody.errors import PathRefused, ToolError
from custody.files import ABSENT, Target, TooMany, look, parent_of
from custody.records import Change
from custody.tools.git.repository import Repository
from custody.tools.tool import Context

METADATA_ENTRIES_MAX = 50_000
"""References, their logs and what else the git folder holds but objects. A clone packs references."""

METADATA_DEPTH_MAX = 64  # of folders: branch names with so many slashes

NAMES_MAX = 10_000
"""Files of the working tree that one call may change: what its record lists."""

FOLDER_ENTRIES_MAX = 10_000
"""Entries of all untracked folders that a stash takes away."""

FOLDER_DEPTH_MAX = 128

_NOT_METADATA = frozenset({"objects", "hooks", "lfs", "modules", "annex", "svn"})
"""What git only adds to, runs (not for us) or other programs keep there."""


class Kept:
    """One call's watch over a repository."""

    def __init__(self, context: Context, repository: Repository) -> None:
        self._repository = repository
        self._observed = Observed(context.undo, bytes.fromhex(context.call_id), roots=context.scope.roots)
        self._known: set[str] = set()

    def keep_metadata(self) -> None:
        """Raises ToolError, OSError."""
        folders = [self._repository.common_dir]
        if not f"{self._repository.git_dir}/".startswith(f"{self._repository.common_dir}/"):
            folders.append(self._repository.git_dir)
        for folder in folders:
            try:
                self._observed.keep_tree(
                    _target_of(folder, self._repository),
                    entries_max=METADATA_ENTRIES_MAX,
                    depth_max=METADATA_DEPTH_MAX,
                    skip=_is_no_metadata,
                )
            except TooMany as error:
                raise ToolError(
                    f"{folder} holds more than {METADATA_ENTRIES_MAX} references and other small files, more "
                    "than are kept to undo a call. Nothing was changed.",
                    hint="`git pack-refs --all` puts the references into one file.",
                ) from error

    def keep_files(self, names: Iterable[str], folders: Iterable[str] = ()) -> None:
        """Files of the working tree, and whole folders of it. Raises ToolError, OSError."""
        folders = tuple(folders)
        fresh = sorted({*names, *folders} - self._known)
        if len(self._known) + len(fresh) > NAMES_MAX:
            raise ToolError(
                f"It may change {len(self._known) + len(fresh)} files; {NAMES_MAX} at most are kept to undo "
                "one call. None of them was changed.",
                hint="Name fewer `files`, or run git with exec, which keeps nothing.",
            )
        for name in (*fresh, *_folders_above(fresh, self._known)):
            self._known.add(name)
            self._observed.keep(self._repository.target_of(name))
        for folder in folders:
            try:
                self._observed.keep_tree(
                    self._repository.target_of(folder),
                    entries_max=FOLDER_ENTRIES_MAX,
                    depth_max=FOLDER_DEPTH_MAX,
                )
            except TooMany as error:
                raise ToolError(
                    f"{folder} holds more than {FOLDER_ENTRIES_MAX} entries, which are too many to be kept. "
                    "Nothing was changed.",
                    hint="Name the `files`.",
                ) from error

    def ready(self) -> None:
        """From here on git may change what was kept. Raises OSError."""
        self._observed.ready()

    def note_new(self, names: Iterable[str]) -> None:
        """Files that turned out to have been made. Raises OSError."""
        for name in names:
            target = self._repository.target_of(name)
            try:
                with parent_of(target) as (folder, last):
                    state = look(folder, last)
            except FileNotFoundError:
                continue
            if state.kind != "absent":
                self._observed.note(target, ABSENT, state)

    def settle(self) -> tuple[Change, ...]:
        """What did change."""
        return self._observed.settle()

    def abandon(self) -> None:
        """Nothing was changed."""
        self._observed.abandon()


def check_writable(context: Context, repository: Repository, names: Iterable[str]) -> None:
    """Raises PathRefused where one of the files is protected: git would write it like any other program."""
    protected = context.scope.reach.protected
    for name in names:
        refusal = protected.refusal(os.path.join(repository.top, name), write=True)
        if refusal is not None:
            raise PathRefused(f"{refusal} Nothing was changed.")


def _is_no_metadata(relative: str) -> bool:
    return relative.partition("/")[0] in _NOT_METADATA


def _target_of(path: str, repository: Repository) -> Target:
    """A folder of git's own beneath a root; where it may lie has been checked."""
    root = repository.target.root
    if path == root:
        return Target(root, "")
    if path.startswith(root.rstrip("/") + "/"):
        return Target(root, path[len(root.rstrip("/")) + 1 :])
    return Target(path, "")


def _folders_above(names: Iterable[str], known: set[str]) -> Iterator[str]:
    """The folders the files lie in, from the top: git makes and removes them with the files."""
    found: set[str] = set()
    for name in names:
        folder = os.path.dirname(name)
        while folder and folder not in found and folder not in known:
            found.add(folder)
            folder = os.path.dirname(folder)
    yield from sorted(found)
