"""What each changing operation of the `git` tool is going to do, found out before anything is changed.

Owns the git commands of an operation and the names of the working tree's paths they may change, so that these
can be kept first; and which secret files stay out. Asks git and changes nothing. Used by `git`; pull, which
has to fetch before it can know, is in `pull`.

The names may be too many, never too few: what a commit changed at one name is merged into another where it
was renamed since, so both are among them.
"""

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct

from custody.errors import PathRefused, ToolError
from custody.files import Reach
from custody.tools.git.command import Git, names, text
from custody.tools.git.repository import (
    FROM_STDIN,
    Changed,
    Repository,
    Status,
    commit_of,
    find_commit,
    pathspec_lines,
    pathspecs,
    read_status,
    relative_names,
)

SECRETS_NAMED_MAX = 20  # in one message; a person needs a few to see what is meant


class Step(Struct, frozen=True):
    """One git command."""

    arguments: tuple[str, ...]
    stdin: bytes | None = None


class Plan(Struct, frozen=True, kw_only=True):
    """What is going to be run, and what that may change."""

    steps: tuple[Step, ...]
    """One after another, as long as they succeed."""
    names: tuple[str, ...] = ()
    """Files of the working tree that may change, below its top."""
    folders: tuple[str, ...] = ()
    """Whole folders that may go."""
    left_out: tuple[str, ...] = ()
    """Secret files that stay out of it."""
    said: dict[str, Any] = {}
    """More for the result."""
    then: "Callable[[Git], Awaitable[Plan]] | None" = None
    """What comes after the steps, where that cannot be known before them."""
    merges: bool = False
    """A conflict may leave files under names of git's own."""
    if_failed: Step | None = None
    """Run when a step failed, so that nothing is left half done."""


async def changed_between(git: Git, *revisions: str, paths: Iterable[str] = ()) -> set[str]:
    """Names that differ between two commits, or between one and the working tree."""
    switches = ("--name-only", "--no-renames", "--no-ext-diff", "--ignore-submodules=dirty", "-z")
    where = pathspecs(list(paths)) if paths else []
    return set(names(await git.answer("diff", *switches, *revisions, "--", *where)))


async def renamed_between(git: Git, old: str, new: str) -> set[str]:
    """Both names of every file that git sees as renamed between two commits."""
    data = await git.answer(
        "diff", "--name-status", "--find-renames", "--diff-filter=R", "--no-ext-diff", "-z", old, new, "--"
    )
    return {name for name in names(data) if not (name[0] == "R" and name[1:].isdigit())}


async def names_in(git: Git, commit: str) -> set[str]:
    """Every file of a commit."""
    return set(names(await git.answer("ls-tree", "-r", "-z", "--name-only", "--full-tree", commit)))


def covers(names: Iterable[str], path: str) -> bool:
    """Whether one of the names is the path, or a folder above it."""
    return any(not name or path == name or path.startswith(f"{name}/") for name in names)


class Planner:
    """Makes the plan of one call."""

    def __init__(self, git: Git, repository: Repository, reach: Reach, arguments: Mapping[str, Any]) -> None:
        self._git = git
        self._repository = repository
        self._reach = reach
        self._arguments = arguments

    async def plan(self) -> Plan:
        """Raises GitFailed, ToolError, PathRefused, CutOff."""
        operation: str = self._arguments["operation"]
        return await getattr(self, f"_{operation}")()

    def _files(self) -> list[str]:
        return relative_names(self._repository, self._reach, self._arguments.get("files", ()))

    def _secret(self, name: str) -> bool:
        return self._reach.protected.secret_name(name)

    # -- add and commit ---------------------------------------------------------------------------------

    async def _add(self) -> Plan:
        files = self._named_without_secrets()
        status = await read_status(self._git, files)
        changed = [entry for entry in status.entries if entry.worktree != "." or entry.untracked]
        take, left_out = self._apart(changed)
        take += self._for_git_to_judge(files, status)
        steps = (Step(("add", *FROM_STDIN), pathspec_lines(take)),) if take else ()
        return Plan(steps=steps, left_out=tuple(left_out), said={"added": take})

    async def _commit(self) -> Plan:
        message: str | None = self._arguments.get("message")
        command = ["commit", "--no-edit" if message is None else f"--message={message}"]
        if self._arguments.get("amend"):
            command.append("--amend")
        if "files" in self._arguments:
            return await self._commit_files(command)
        status = await read_status(self._git)
        self._refuse_staged_secrets(status)
        if not self._arguments.get("all"):
            return Plan(steps=(Step(tuple(command)),))
        changed = [entry for entry in status.entries if entry.worktree != "." and not entry.untracked]
        take, left_out = self._apart(changed)
        if take:
            step = Step((*command, "--include", *FROM_STDIN), pathspec_lines(take))
        else:
            step = Step(tuple(command))
        return Plan(steps=(step,), left_out=tuple(left_out))

    async def _commit_files(self, command: list[str]) -> Plan:
        """Only these files, new ones too, whatever else is staged."""
        files = self._named_without_secrets()
        status = await read_status(self._git, files)
        take, left_out = self._apart(status.entries)
        take += self._for_git_to_judge(files, status)
        if not take:
            raise ToolError("There is nothing to commit in these folders.")
        fresh = [entry.path for entry in status.entries if entry.untracked and not self._secret(entry.path)]
        steps = [Step(("add", *FROM_STDIN), pathspec_lines(fresh))] if fresh else []
        steps.append(Step((*command, "--only", *FROM_STDIN), pathspec_lines(take)))
        return Plan(steps=tuple(steps), left_out=tuple(left_out))

    def _named_without_secrets(self) -> list[str]:
        files = self._files()
        secret = [name for name in files if name and self._secret(name)]
        if secret:
            raise PathRefused(secrets_refused(secret))
        return files

    def _apart(self, entries: Iterable[Changed]) -> tuple[list[str], list[str]]:
        """The entries' paths, and those of them that are secret and stay out."""
        take: list[str] = []
        left_out: list[str] = []
        for entry in entries:
            for path in (entry.path, entry.renamed_from):
                if path is not None:
                    (left_out if self._secret(path) else take).append(path)
        return take, left_out

    def _for_git_to_judge(self, files: list[str], status: Status) -> list[str]:
        """Named files (no folders) without a change: git says if they are unchanged, ignored or missing."""
        seen = {entry.path for entry in status.entries}
        return [name for name in files if name and name not in seen and not self._is_folder(name)]

    def _is_folder(self, name: str) -> bool:
        path = os.path.join(self._repository.top, name)
        return os.path.isdir(path) and not os.path.islink(path)

    def _refuse_staged_secrets(self, status: Status) -> None:
        staged = [
            entry.path
            for entry in status.entries
            if entry.index not in (".", "D", "?", "!") and self._secret(entry.path)
        ]
        if staged:
            raise PathRefused(
                f"{secrets_refused(staged)} It is staged: name the `files` to commit, or unstage it first."
            )

    # -- branches ---------------------------------------------------------------------------------------

    async def _branch(self) -> Plan:
        name: str = self._arguments["name"]
        force = bool(self._arguments.get("force"))
        if self._arguments.get("delete"):
            return Plan(steps=(Step(("branch", "-D" if force else "-d", "--", name)),))
        start = await self._start(self._arguments.get("revision", "HEAD"))
        return Plan(steps=(Step(("branch", *(["--force"] if force else []), name, start)),))

    async def _start(self, revision: str) -> str:
        """Where a new branch begins: the id, or the full name of a remote's branch, which it will follow."""
        name = await self._git.ask(
            "rev-parse", "--symbolic-full-name", "--verify", "--quiet", "--end-of-options", revision
        )
        full = "" if name is None else text(name)
        return full if full.startswith("refs/remotes/") else await commit_of(self._git, revision)

    async def _checkout(self) -> Plan:
        if "files" in self._arguments:
            return await self._checkout_files()
        switches = ["--force"] if self._arguments.get("force") else []
        name: str | None = self._arguments.get("name")
        if name is None:
            target = await commit_of(self._git, self._arguments["revision"])
            command = ("checkout", *switches, "--detach", target, "--")
        elif self._arguments.get("create"):
            start = await self._start(self._arguments.get("revision", "HEAD"))
            if await find_commit(self._git, "HEAD") is None and "revision" not in self._arguments:
                return Plan(steps=(Step(("checkout", "-b", name)),))
            target = await commit_of(self._git, start)
            command = ("checkout", *switches, "-b", name, start, "--")
        else:
            target, command = await self._existing_branch(name, switches)
        return Plan(steps=(Step(command),), names=tuple(sorted(await self._differing(target))))

    async def _existing_branch(self, name: str, switches: list[str]) -> tuple[str, tuple[str, ...]]:
        target = await find_commit(self._git, f"refs/heads/{name}")
        if target is not None:
            return target, ("checkout", *switches, name, "--")
        listed = await self._git.answer("for-each-ref", "--format=%(refname)", f"refs/remotes/*/{name}")
        remote = [line for line in text(listed).split("\n") if line]
        if len(remote) != 1:
            others = (
                f" {len(remote)} remotes have one; say which with `create` and `revision`." if remote else ""
            )
            raise ToolError(f"There is no branch {name}; `create` makes one.{others}")
        target = await commit_of(self._git, remote[0])
        return target, ("checkout", *switches, "-b", name, "--track", remote[0], "--")

    async def _differing(self, target: str) -> set[str]:
        """What going to the commit may change."""
        head = await find_commit(self._git, "HEAD")
        found = (
            await names_in(self._git, target)
            if head is None
            else await changed_between(self._git, head, target)
        )
        if self._arguments.get("force"):
            status = await read_status(self._git)
            found |= {
                path
                for entry in status.entries
                for path in (entry.path, entry.renamed_from)
                if path and not entry.untracked
            }
        return found

    async def _checkout_files(self) -> Plan:
        files = self._files()
        revision: str | None = self._arguments.get("revision")
        source = [] if revision is None else [await commit_of(self._git, revision)]
        changing = await changed_between(self._git, *source, paths=files)
        return Plan(
            steps=(Step(("checkout", *source, *FROM_STDIN), pathspec_lines(files)),),
            names=tuple(sorted(changing)),
        )

    # -- revert -----------------------------------------------------------------------------------------

    async def _revert(self) -> Plan:
        commit = await commit_of(self._git, self._arguments["revision"])
        mainline: int | None = self._arguments.get("mainline")
        parent = await find_commit(self._git, f"{commit}^{mainline or 1}")
        changing = (
            await names_in(self._git, commit)
            if parent is None
            else await changed_between(self._git, parent, commit)
        )
        changing |= await renamed_between(self._git, commit, await commit_of(self._git, "HEAD"))
        switches = [] if mainline is None else ["--mainline", str(mainline)]
        return Plan(
            steps=(Step(("revert", "--no-edit", *switches, commit)),),
            names=tuple(sorted(changing)),
            merges=True,
        )

    # -- stash ------------------------------------------------------------------------------------------

    async def _stash(self) -> Plan:
        action: str = self._arguments.get("action", "push")
        if action == "push":
            return await self._stash_push()
        entry = f"stash@{{{self._arguments.get('entry', 0)}}}"
        stash = await commit_of(self._git, f"refs/{entry}")
        if action == "drop":
            return Plan(steps=(Step(("stash", "drop", entry)),))
        changing = await changed_between(self._git, f"{stash}^1", stash)
        changing |= await renamed_between(self._git, f"{stash}^1", await commit_of(self._git, "HEAD"))
        if await find_commit(self._git, f"{stash}^3") is not None:  # its new files
            changing |= await names_in(self._git, f"{stash}^3")
        return Plan(steps=(Step(("stash", action, entry)),), names=tuple(sorted(changing)), merges=True)

    async def _stash_push(self) -> Plan:
        """What is changed goes away; secret and protected files stay where they are."""
        files = self._named_without_secrets()
        untracked = bool(self._arguments.get("untracked"))
        status = await read_status(self._git, files)
        changed = [entry for entry in status.entries if untracked or not entry.untracked]
        paths = [path for entry in changed for path in (entry.path, entry.renamed_from) if path]
        take = [path for path in paths if not self._stays(path)]
        left_out = [path for path in paths if self._stays(path)]
        command = ["stash", "push", *(["--include-untracked"] if untracked else [])]
        if "message" in self._arguments:
            command.append(f"--message={self._arguments['message']}")
        folders = await self._untracked_folders(files) if untracked else ()
        if not files and not left_out:
            return Plan(steps=(Step(tuple(command)),), names=tuple(take), folders=folders)
        if not take:
            return Plan(steps=(), left_out=tuple(left_out))
        step = Step((*command, *FROM_STDIN), pathspec_lines(take))
        return Plan(steps=(step,), names=tuple(take), folders=folders, left_out=tuple(left_out))

    def _stays(self, name: str) -> bool:
        path = os.path.join(self._repository.top, name)
        return self._secret(name) or self._reach.protected.refusal(path, write=True) is not None

    async def _untracked_folders(self, files: list[str]) -> tuple[str, ...]:
        """Folders that hold nothing git knows, empty ones too: git takes them away with the files in them."""
        listed = await self._git.answer(
            "ls-files",
            "--others",
            "--exclude-standard",
            "--directory",
            "-z",
            "--",
            *(pathspecs(files) if files else ()),
        )
        folders = [name.rstrip("/") for name in names(listed) if name.endswith("/")]
        return tuple(name for name in folders if not self._is_repository(name))

    def _is_repository(self, name: str) -> bool:
        """Another repository, which git leaves where it is."""
        return os.path.lexists(os.path.join(self._repository.top, name, ".git"))


def secrets_refused(secret: list[str]) -> str:
    """Why these are not committed."""
    shown = ", ".join(secret[:SECRETS_NAMED_MAX])
    more = f" and {len(secret) - SECRETS_NAMED_MAX} more" if len(secret) > SECRETS_NAMED_MAX else ""
    return f"{shown}{more}: a name under which secrets are kept is never added to git."
