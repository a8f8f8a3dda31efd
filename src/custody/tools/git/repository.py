"""The repository a `git` call works in: where it lies, where its branches stand, what is changed in it.

Owns the check that all of it lies beneath the roots, and the reading of git's status. Changes nothing. Used
by every operation of the `git` tool but clone.

A `.git` file, a linked worktree or `objects/info/alternates` may point anywhere; whoever could write one
would read another repository through it. So each of these places must lie beneath the roots, for reading too.
"""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from custody.errors import PathRefused, ToolError
from custody.files import Reach, Target
from custody.tools.git.command import Git, in_thread, lock_hint, text

GIT_FILE_BYTES_MAX = 8192  # a path behind a word
ALTERNATES_BYTES_MAX = 64 * 1024  # a list of a few folders

_ENTRY_FIELDS = {b"1": 8, b"2": 9, b"u": 10}
"""How many fields stand in front of the path in a line of `status --porcelain=v2`, by the line's kind."""


class Repository(Struct, frozen=True):
    """Where it lies. Absolute paths, links resolved."""

    top: str
    """Of the working tree."""
    git_dir: str
    common_dir: str
    """Where the branches are; another than `git_dir` in a linked worktree."""
    target: Target
    """`top` beneath its root."""

    def target_of(self, name: str) -> Target:
        """A path below the top."""
        return below(self.target, name)


class Position(Struct, frozen=True):
    """Where HEAD and every reference stand."""

    head: str | None
    """None: there is no commit yet."""
    branch: str | None
    """None: HEAD is on no branch."""
    refs: dict[str, str]


class Changed(Struct, frozen=True):
    """One path that is not as HEAD or the index has it."""

    path: str
    """Below the top."""
    index: str
    """What is staged, by git's letter (M A D R C T U), `.` for nothing, `?` for a file git does not know."""
    worktree: str
    renamed_from: str | None = None

    @property
    def untracked(self) -> bool:
        return self.index == "?"


class Status(Struct, frozen=True):
    """What git says of the whole working tree."""

    branch: dict[str, Any]
    entries: tuple[Changed, ...]


def below(target: Target, name: str) -> Target:
    """A path below a target."""
    return Target(target.root, os.path.join(target.relative, name) if target.relative else name)


async def find_repository(git: Git, reach: Reach) -> Repository:
    """The repository around git's folder. Raises GitFailed where there is none, PathRefused."""
    lines = text(
        await git.answer("rev-parse", "--show-toplevel", "--absolute-git-dir", "--git-common-dir")
    ).split("\n")
    if len(lines) != 3:
        raise ToolError("The path of this repository holds a line break; git cannot be used here.")
    return await in_thread(lambda: _checked(reach, *(os.path.join(git.cwd, line) for line in lines)))


def _checked(reach: Reach, *places: str) -> Repository:
    """Of top, git folder and common git folder, all beneath the roots. Raises PathRefused, ToolError."""
    top, git_dir, common_dir = map(os.path.realpath, places)
    target = reach.target(top, write=False)
    for place, what in ((git_dir, "Its git folder"), (common_dir, "Its common git folder")):
        _check_beneath(reach, place, f"{what} {place}")
    _check_named(top, git_dir)
    for place in _alternates(common_dir):
        _check_beneath(reach, place, f"Its objects are partly those of {place}, which")
    return Repository(top, git_dir, common_dir, target)


def _check_beneath(reach: Reach, place: str, what: str) -> None:
    for root in reach.roots:
        if place == root or place.startswith(root.rstrip("/") + "/"):
            return
    raise PathRefused(
        f"{what} is outside the allowed roots ({', '.join(reach.roots)}); --root {place} would allow it."
    )


def _check_named(top: str, git_dir: str) -> None:
    """A folder with a repository's insides is one only where `.git` says so: anybody may write such a folder,
    settings included. git itself is told the same, and knows it from 2.38 on. Raises ToolError."""
    named = os.path.join(top, ".git")
    if os.path.isfile(named):
        with open(named, "rb") as file:
            line = os.fsdecode(file.read(GIT_FILE_BYTES_MAX)).partition("\n")[0]
        named = os.path.join(top, line.removeprefix("gitdir:").strip())
    if os.path.realpath(named) != git_dir:
        raise ToolError(
            f"{git_dir} is a bare repository, or one that {top}/.git does not name; neither is used."
        )


def _alternates(common_dir: str) -> list[str]:
    """The object folders that are borrowed from."""
    objects = os.path.join(common_dir, "objects")
    try:
        with open(os.path.join(objects, "info", "alternates"), "rb") as file:
            data = file.read(ALTERNATES_BYTES_MAX + 1)
    except OSError:
        return []
    if len(data) > ALTERNATES_BYTES_MAX:
        raise ToolError(f"{objects}/info/alternates has more than {ALTERNATES_BYTES_MAX} bytes.")
    lines = [os.fsdecode(line) for line in data.split(b"\n") if line and not line.startswith(b"#")]
    return [os.path.realpath(os.path.join(objects, line)) for line in lines]


def check_unlocked(repository: Repository) -> None:
    """Raises ToolError where another git is at work, or a killed one has left its lock."""
    lock = os.path.join(repository.git_dir, "index.lock")
    try:
        age_seconds = time.time() - os.stat(lock).st_mtime
    except OSError:
        return
    raise ToolError(
        f"The repository is locked: {lock} is there, for {max(0, age_seconds):.0f} s. Nothing was changed.",
        hint=lock_hint(lock),
    )


async def position(git: Git) -> Position:
    """Where everything stands now."""
    listed = text(await git.answer("for-each-ref", "--format=%(HEAD)%(objectname) %(refname)"))
    refs: dict[str, str] = {}
    branch: str | None = None
    for line in listed.split("\n") if listed else ():
        value, _, name = line[1:].partition(" ")
        refs[name] = value
        if line[0] == "*":
            branch = name
    if branch is not None:
        return Position(refs[branch], branch.removeprefix("refs/heads/"), refs)
    unborn = await git.ask("symbolic-ref", "--quiet", "--short", "HEAD")
    return Position(await find_commit(git, "HEAD"), None if unborn is None else text(unborn), refs)


def moved(before: Position, after: Position) -> dict[str, Any]:
    """HEAD, branch and references before and after, of the references those that changed."""
    names = sorted(
        name
        for name in before.refs.keys() | after.refs.keys()
        if before.refs.get(name) != after.refs.get(name)
    )
    return {
        "head_before": before.head,
        "head_after": after.head,
        "branch_before": before.branch,
        "branch": after.branch,
        "refs_before": {name: before.refs.get(name) for name in names},
        "refs_after": {name: after.refs.get(name) for name in names},
    }


# -- revisions ------------------------------------------------------------------------------------------


async def commit_of(git: Git, revision: str) -> str:
    """The id of the commit that a checked revision names. Raises GitFailed."""
    found = await git.answer("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    return text(found)


async def find_commit(git: Git, revision: str) -> str | None:
    """The same, None where there is none."""
    found = await git.ask("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    return None if found is None else text(found)


# -- paths ----------------------------------------------------------------------------------------------


def relative_names(repository: Repository, reach: Reach, files: Iterable[str]) -> list[str]:
    """The named files below the top; "" is the whole tree. Raises PathRefused, PathInvalid, ToolError."""
    found: list[str] = []
    for file in files:
        path = reach.target(file, write=False, follow=False).path
        if path == repository.top:
            found.append("")
        elif path.startswith(repository.top.rstrip("/") + "/"):
            found.append(path[len(repository.top.rstrip("/")) + 1 :])
        else:
            raise ToolError(f"{file} is not in the repository {repository.top}.")
    return found


def pathspecs(names: Sequence[str], left_out: Iterable[str] = ()) -> list[str]:
    """The names as git takes them: none of their characters means anything else."""
    return [
        *(f":(literal){name}" if name else "." for name in names or [""]),
        *(f":(exclude,literal){name}" for name in left_out),
    ]


def pathspec_lines(names: Iterable[str]) -> bytes:
    """The same for `--pathspec-from-file=- --pathspec-file-nul`."""
    return b"".join((b":(literal)" + os.fsencode(name) if name else b".") + b"\0" for name in names)


FROM_STDIN = ("--pathspec-from-file=-", "--pathspec-file-nul")


# -- status ---------------------------------------------------------------------------------------------


async def read_status(git: Git, names: Sequence[str] = (), *, files: bool = True) -> Status:
    """What is changed, new files one by one. `files` False: the branch alone."""
    untracked = "all" if files else "no"
    data = await git.answer(
        "status",
        "--porcelain=v2",
        "--branch",
        "-z",
        f"--untracked-files={untracked}",
        "--ignore-submodules=dirty",
        "--",
        *(pathspecs(names) if names else ()),
    )
    return parse_status(data)


def parse_status(data: bytes) -> Status:
    """`git status --porcelain=v2 --branch -z`, as git-status(1) describes it."""
    branch: dict[str, Any] = {}
    entries: list[Changed] = []
    lines = iter(data.split(b"\0"))
    for line in lines:
        kind = line[:1]
        if kind == b"#":
            _take_header(line, branch)
        elif kind in (b"?", b"!"):
            entries.append(Changed(os.fsdecode(line[2:]), "?" if kind == b"?" else "!", "."))
        elif kind in _ENTRY_FIELDS:
            fields = line.split(b" ", _ENTRY_FIELDS[kind])
            states = fields[1].decode()
            renamed_from = os.fsdecode(next(lines)) if kind == b"2" else None
            entries.append(Changed(os.fsdecode(fields[-1]), states[0], states[1], renamed_from))
    return Status(branch, tuple(entries))


def _take_header(line: bytes, branch: dict[str, Any]) -> None:
    _, name, value = (line.decode("utf-8", "surrogateescape") + " ").split(" ", 2)
    value = value.rstrip()
    if name == "branch.oid":
        branch["commit"] = None if value == "(initial)" else value
    elif name == "branch.head":
        branch["name"] = None if value == "(detached)" else value
    elif name == "branch.upstream":
        branch["upstream"] = value
    elif name == "branch.ab":
        ahead, behind = value.split(" ")
        branch["ahead"], branch["behind"] = int(ahead), -int(behind)


def entry_shown(entry: Changed) -> Mapping[str, Any]:
    """One entry for a result."""
    shown: dict[str, Any] = {"path": entry.path, "index": entry.index, "worktree": entry.worktree}
    if entry.renamed_from is not None:
        shown["renamed_from"] = entry.renamed_from
    return shown
