"""The operations of the `git` tool that change nothing: status, diff, log, show, and the two lists.

Owns what is asked of git for each and how the answer becomes a result. Used by `git`.

What a diff says of secret files is left out and named: reading them is refused elsewhere too.
"""

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from custody.errors import PathRefused
from custody.files import Reach
from custody.tools.git.arguments import LOG_COMMITS
from custody.tools.git.command import Git, failure, names
from custody.tools.git.names import range_of
from custody.tools.git.repository import (
    Repository,
    commit_of,
    entry_shown,
    find_commit,
    pathspecs,
    read_status,
    relative_names,
)
from custody.tools.process import result_of

ENTRIES_MAX = 10_000
"""Paths or references that one result lists; the rest is counted."""

SHOWN_BYTES = 256 * 1024
"""Kept of the beginning, and as much of the end, of a diff or a file."""

_COMMIT_FORMAT = "%H%x00%P%x00%an%x00%ae%x00%aI%x00%cn%x00%cI%x00%s%x00%b"
_COMMIT_FIELDS = (
    "id",
    "parents",
    "author",
    "email",
    "authored_at",
    "committer",
    "committed_at",
    "subject",
    "body",
)
_REF_FORMAT = "%(refname)%00%(objectname)%00%(upstream:short)%00%(HEAD)%00%(contents:subject)"
_DIFF = (
    "--ignore-submodules=dirty",
    "--no-ext-diff",
    "--no-textconv",
    "--no-color",
    "--src-prefix=a/",
    "--dst-prefix=b/",
)

Result = dict[str, Any]


class Reading:
    """One reading operation in one repository."""

    def __init__(self, git: Git, repository: Repository, reach: Reach, arguments: Mapping[str, Any]) -> None:
        self._git = git
        self._reach = reach
        self._arguments = arguments
        self._names = relative_names(repository, reach, arguments.get("files", ()))
        self._revision: str = arguments.get("revision", "HEAD")

    async def result(self) -> Result:
        """Raises GitFailed, ToolError, PathRefused, CutOff."""
        operation: str = self._arguments["operation"]
        return await getattr(self, f"_{operation}")()

    async def _status(self) -> Result:
        status = await read_status(self._git, self._names)
        return {
            "exit_code": 0,
            "branch": status.branch.get("name"),
            "tracking": status.branch,
            "clean": not status.entries,
            **_bounded("entries", [entry_shown(entry) for entry in status.entries]),
        }

    async def _log(self) -> Result:
        limit: int = self._arguments.get("limit", LOG_COMMITS)
        ends = await self._ends()
        if not ends:
            return {"exit_code": 0, "commits": [], "more": False}
        found = await commits(self._git, limit + 1, ends, self._names)
        return {"exit_code": 0, "commits": found[:limit], "more": len(found) > limit}

    async def _ends(self) -> list[str]:
        """What `log` is asked for: ids only. Nothing in a repository without a commit."""
        left, right, dots = range_of(self._revision)
        if not dots:
            if self._revision == "HEAD" and await find_commit(self._git, "HEAD") is None:
                return []
            return [await commit_of(self._git, left)]
        return [f"{await commit_of(self._git, left)}{dots}{await commit_of(self._git, right)}"]

    async def _diff(self) -> Result:
        against: list[str] = ["--cached"] if self._arguments.get("staged") else []
        if "revision" in self._arguments:
            left, right, dots = range_of(self._revision)
            against.append(
                f"{await commit_of(self._git, left)}{dots}{await commit_of(self._git, right)}"
                if dots
                else await commit_of(self._git, left)
            )
        return await self._patch(("diff", *_DIFF, *against))

    async def _show(self) -> Result:
        revision, colon, path = self._revision.partition(":")
        if colon and revision:
            return await self._show_file(revision, path)
        commit = await commit_of(self._git, self._revision)
        patch = await self._patch(("show", *_DIFF, "--format=", commit))
        return {**patch, "commit": (await commits(self._git, 1, [commit], ()))[0]}

    async def _show_file(self, revision: str, path: str) -> Result:
        """A file or folder as a revision has it; its path is taken from the top."""
        name = posixpath.normpath(f"/{path}").strip("/")  # git takes `./x/../y` for y
        if self._secret(name):
            raise PathRefused(f"{name} is kept from agents, in every revision.")
        commit = await commit_of(self._git, revision)
        finished = await self._git.run(
            "show", *_DIFF, f"{commit}:{name}", head_bytes=SHOWN_BYTES, tail_bytes=SHOWN_BYTES
        )
        if finished.exit_code != 0:
            raise failure(finished)
        return {**result_of(finished), "revision": commit}

    async def _patch(self, command: Sequence[str]) -> Result:
        """A diff without the secret files; `stat`: numbers of lines."""
        listed = await self._git.answer(
            *command, "--name-only", "--no-renames", "-z", "--", *pathspecs(self._names)
        )
        left_out = sorted({name for name in names(listed) if self._secret(name)})
        where = ("--", *pathspecs(self._names, left_out))
        if self._arguments.get("stat"):
            numbers = await self._git.answer(*command, "--numstat", "--no-renames", "-z", *where)
            return {"exit_code": 0, **_bounded("files", _numbers(numbers)), "left_out": left_out}
        finished = await self._git.run(*command, *where, head_bytes=SHOWN_BYTES, tail_bytes=SHOWN_BYTES)
        if finished.exit_code != 0:
            raise failure(finished)
        return {**result_of(finished), "left_out": left_out}

    def _secret(self, name: str) -> bool:
        return self._reach.protected.secret_name(name)


async def branches(git: Git) -> Result:
    """Every local branch."""
    data = await git.answer("for-each-ref", f"--format={_REF_FORMAT}%00", "refs/heads")
    fields = data.decode("utf-8", "surrogateescape").split("\0")
    found = [
        {
            "name": fields[at].strip("\n").removeprefix("refs/heads/"),
            "commit": fields[at + 1],
            "upstream": fields[at + 2] or None,
            "current": fields[at + 3] == "*",
            "subject": fields[at + 4],
        }
        for at in range(0, len(fields) - 5, 5)
    ]
    return {"exit_code": 0, **_bounded("branches", found)}


async def stashes(git: Git) -> Result:
    """Every stash, the newest first."""
    if await find_commit(git, "refs/stash") is None:
        return {"exit_code": 0, "stashes": []}
    data = await git.answer("log", "-z", "--walk-reflogs", "--format=%H%x00%gs%x00%cI", "refs/stash", "--")
    fields = data.decode("utf-8", "surrogateescape").split("\0")
    found = [
        {"entry": at // 3, "commit": fields[at], "message": fields[at + 1], "at": fields[at + 2]}
        for at in range(0, len(fields) - 2, 3)
    ]
    return {"exit_code": 0, **_bounded("stashes", found)}


async def commits(git: Git, limit: int, ends: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """Commits from the ends backwards, newest first. `ends` are ids, or ranges of them."""
    data = await git.answer(
        "log", "-z", f"--max-count={limit}", f"--format={_COMMIT_FORMAT}", "--no-color", *ends, "--",
        *(pathspecs(names) if names else ()),
    )  # fmt: skip
    fields = data.decode("utf-8", "surrogateescape").split("\0")
    found: list[dict[str, Any]] = []
    for at in range(0, len(fields) - len(_COMMIT_FIELDS) + 1, len(_COMMIT_FIELDS)):
        commit: dict[str, Any] = dict(zip(_COMMIT_FIELDS, fields[at:], strict=False))
        found.append({**commit, "parents": commit["parents"].split(), "body": commit["body"].rstrip("\n")})
    return found


def _numbers(data: bytes) -> list[dict[str, Any]]:
    """`--numstat -z`: added and deleted lines of each path, None for a binary file."""
    found: list[dict[str, Any]] = []
    for line in names(data):
        added, deleted, path = line.lstrip("\n").split("\t", 2)
        found.append({"path": path, "added": _count(added), "deleted": _count(deleted)})
    return found


def _count(written: str) -> int | None:
    return None if written == "-" else int(written)


def _bounded(name: str, found: list[Any]) -> Result:
    left = len(found) - ENTRIES_MAX
    return {name: found[:ENTRIES_MAX], **({f"{name}_dropped": left} if left > 0 else {})}
