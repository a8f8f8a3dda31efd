"""The arguments of the `git` tool: one schema, and what belongs to which operation.

Owns the words for arguments that cannot be meant. Pure: looks at no repository. Used by `git`.
"""

from collections.abc import Mapping
from typing import Any, Literal

from custody.tools.git.names import address_of, branch_problem, revision_problem

FILES_MAX = 1000
"""Paths named in one call; a folder is one of them. They have to fit on a command line."""

MESSAGE_CHARACTERS_MAX = 64 * 1024  # a commit's message is read by people, and is an argument of a process
COMMITS_MAX = 1000  # of one log: the record holds them
LOG_COMMITS = 50  # what fits on a few screens
STASHES_MAX = 10_000  # a number, not a count anybody reaches
PARENTS_MAX = 16  # of a merge; two is usual

READING = frozenset({"status", "diff", "log", "show"})
"""Operations that change nothing."""

NETWORK = frozenset({"pull", "clone"})

StashAction = Literal["push", "pop", "apply", "drop", "list"]

OPERATIONS: dict[str, frozenset[str]] = {
    "status": frozenset({"files"}),
    "diff": frozenset({"files", "revision", "staged", "stat"}),
    "log": frozenset({"files", "revision", "limit"}),
    "show": frozenset({"files", "revision", "stat"}),
    "add": frozenset({"files", "all"}),
    "commit": frozenset({"message", "files", "all", "amend"}),
    "branch": frozenset({"name", "revision", "delete", "force"}),
    "checkout": frozenset({"name", "create", "revision", "files", "force"}),
    "stash": frozenset({"action", "message", "untracked", "entry", "files"}),
    "pull": frozenset({"remote", "name", "rebase"}),
    "clone": frozenset({"url", "name", "depth"}),
    "revert": frozenset({"revision", "mainline"}),
}
"""Operation -> its arguments beside `operation` and `path`."""


def _text(description: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "description": description, **more}


def _flag(description: str) -> dict[str, Any]:
    return {"type": "boolean", "description": f"{description} (false)"}


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "operation": {"enum": [*OPERATIONS]},
        "path": _text("A folder of the repository; for clone the new folder. (working directory)"),
        "files": {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "maxItems": FILES_MAX,
            "description": "Files and folders, relative to `path`. checkout: put them back as the index or "
            "`revision` has them.",
        },
        "all": _flag("add: all changes, new files too. commit: all changes to files git knows."),
        "message": _text("commit, stash: what was done.", maxLength=MESSAGE_CHARACTERS_MAX),
        "amend": _flag("commit: replace the last commit."),
        "revision": _text("A commit, tag or branch; diff and log also a..b; show also revision:file. (HEAD)"),
        "staged": _flag("diff: what is staged, instead of what is not."),
        "stat": _flag("diff, show: names and numbers of lines, no text."),
        "limit": {
            "type": "integer",
            "minimum": 1,
            "maximum": COMMITS_MAX,
            "description": f"log: how many commits. ({LOG_COMMITS})",
        },
        "name": _text("A branch. branch: to make (without it they are listed). checkout: to go to. pull, "
                      "clone: to take."),
        "create": _flag("checkout: make the branch `name` at `revision` first."),
        "delete": _flag("branch: delete it."),
        "force": _flag("checkout: throw local changes away. branch: move one that is there, or delete one "
                       "not merged."),
        "action": {
            "enum": ["push", "pop", "apply", "drop", "list"],
            "description": "stash: what to do. (push)",
        },
        "untracked": _flag("stash push: new files too."),
        "entry": {
            "type": "integer",
            "minimum": 0,
            "maximum": STASHES_MAX,
            "description": "stash: which one, 0 the newest. (0)",
        },
        "remote": _text("pull: a configured remote. (that of the current branch)"),
        "rebase": _flag("pull: put own commits on top; otherwise only a fast-forward is made."),
        "url": _text("clone: https://, ssh:// or host:path, or a path inside the allowed roots."),
        "depth": {"type": "integer", "minimum": 1, "description": "clone: only so many commits. (all)"},
        "mainline": {
            "type": "integer",
            "minimum": 1,
            "maximum": PARENTS_MAX,
            "description": "revert of a merge: which parent's side is kept.",
        },
    },
    "required": ["operation"],
    "additionalProperties": False,
}  # fmt: skip


def problem(arguments: Mapping[str, Any]) -> str | None:
    """What these arguments say that cannot be meant; None when they make sense. They fit the schema."""
    operation = arguments["operation"]
    takes = OPERATIONS[operation]
    for name in arguments:
        if name not in takes and name not in ("operation", "path"):
            return f"`{name}` is not for {operation}, which takes {', '.join(sorted(takes))}."
    if "\0" in arguments.get("message", ""):
        return "`message` holds a NUL character."
    if "revision" in arguments and (words := revision_problem(arguments["revision"])) is not None:
        return words
    if "name" in arguments and (words := branch_problem(arguments["name"])) is not None:
        return words
    if "remote" in arguments and (words := branch_problem(arguments["remote"])) is not None:
        return words.replace("branch", "remote")
    check = _CHECKS.get(operation)
    return None if check is None else check(arguments)


def _add(arguments: Mapping[str, Any]) -> str | None:
    if ("files" in arguments) == bool(arguments.get("all")):
        return "add takes either `files` or `all`."
    return None


def _commit(arguments: Mapping[str, Any]) -> str | None:
    if "files" in arguments and arguments.get("all"):
        return "commit takes `files` or `all`, not both."
    if not arguments.get("message", "").strip() and not (
        arguments.get("amend") and "message" not in arguments
    ):
        return "commit needs a `message` (with `amend` it may be left out)."
    return None


def _branch(arguments: Mapping[str, Any]) -> str | None:
    if "name" not in arguments and len(arguments.keys() - {"operation", "path"}):
        return "branch needs a `name`; without one, and alone, it lists."
    if arguments.get("delete") and "revision" in arguments:
        return "A branch is deleted by its `name` alone."
    return None


def _checkout(arguments: Mapping[str, Any]) -> str | None:
    if "files" in arguments:
        if arguments.keys() & {"name", "create", "force"}:
            return "checkout of `files` takes only a `revision` beside them."
        return None
    if arguments.get("create") and "name" not in arguments:
        return "checkout with `create` needs the `name` of the new branch."
    if "name" in arguments and "revision" in arguments and not arguments.get("create"):
        return "checkout takes `name` or `revision`; both only with `create`."
    if "name" not in arguments and "revision" not in arguments:
        return "checkout needs a `name`, a `revision` or `files`."
    return None


def _stash(arguments: Mapping[str, Any]) -> str | None:
    action: StashAction = arguments.get("action", "push")
    fits = {"push": {"message", "untracked", "files"}, "list": set[str]()}.get(action, {"entry"})
    for name in arguments:
        if name not in fits and name not in ("operation", "path", "action"):
            return f"`{name}` is not for stash {action}."
    return None


def _clone(arguments: Mapping[str, Any]) -> str | None:
    if "url" not in arguments:
        return "clone needs a `url`."
    try:
        address_of(arguments["url"])
    except ValueError as error:
        return str(error)
    return None


def _revert(arguments: Mapping[str, Any]) -> str | None:
    return None if "revision" in arguments else "revert needs the `revision` to take back."


_CHECKS = {
    "add": _add,
    "branch": _branch,
    "checkout": _checkout,
    "clone": _clone,
    "commit": _commit,
    "revert": _revert,
    "stash": _stash,
}
