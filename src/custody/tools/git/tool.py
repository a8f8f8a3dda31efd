"""The built-in tool `git`: twelve operations on repositories beneath the roots.

Owns the order of a call: find the repository, plan, keep what may change, run git, look what did. What the
operations are is in `plans`, `pull`, `clone` and `reading`; how git is run in `command`.

One tool, whose effect is that of its strongest operations: who allows `git` allows it to write. A read-only
twin would be a second name for the same four operations, and rules about one of the two would be taken for
rules about git.
"""

import os
import time
from collections.abc import Mapping
from typing import Any

from custody.errors import CustodyError
from custody.records import Decision, Effect, Level
from custody.tools.git import arguments as git_arguments
from custody.tools.git import clone as git_clone
from custody.tools.git.changing import Changing, Done
from custody.tools.git.command import CutOff, Git, in_thread
from custody.tools.git.kept import check_writable
from custody.tools.git.plans import Plan, Planner, secrets_refused
from custody.tools.git.pull import plan_dry_pull, plan_pull
from custody.tools.git.reading import Reading, branches, stashes
from custody.tools.git.repository import Repository, check_unlocked, find_repository, position
from custody.tools.roots import Scope
from custody.tools.tool import Context, Ended, Keep

TIMEOUT_SECONDS = 300.0
"""Of a call that names no other: a clone or pull of a large repository over an ordinary line. What works on
this machine alone takes a hundredth of it."""

FILES_SAID_MAX = 1000  # of a dry run; the rest is counted


class GitTool:
    """Use git."""

    name = "git"
    description = (
        "Use git: status, diff, log, show, add, commit, branch, checkout, stash, pull, clone, revert. Hooks "
        "do not run, secret files are never added, and what it changes (references, index, files) can be "
        "undone."
    )
    effect: Effect = "write"
    level: Level = "process"
    timeout_seconds: float | None = TIMEOUT_SECONDS
    keep: Keep = "full"
    schema: Mapping[str, Any] = git_arguments.SCHEMA

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        wrong = git_arguments.problem(arguments)
        if wrong is not None:
            return Decision("deny", "schema", wrong)
        if arguments["operation"] == "clone":
            return git_clone.refusal(arguments, scope)
        here = scope.at(arguments.get("path"))
        return here.check() or _refused_file(arguments, here)

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        began_ns = time.monotonic_ns()
        try:
            done = await _Call(arguments, context).run()
        except CutOff as cut:
            done = Done(finished=cut.finished, limit_hit=cut.finished.limit_hit)
        except (CustodyError, OSError) as error:
            done = Done(error=error)
        return done.ended(began_ns)


def _refused_file(arguments: Mapping[str, Any], here: Scope) -> Decision | None:
    """Why one of the named files is out of bounds."""
    reach = here.reach
    adds = arguments["operation"] in ("add", "commit", "stash")
    for file in arguments.get("files", ()):
        decision = reach.decision(file, write=False, follow=False)
        if decision is not None:
            return decision
        if adds and reach.protected.secret_name(os.path.join("/", file)):
            return Decision("deny", "path", secrets_refused([file]))
    return None


class _Call:
    """One call."""

    def __init__(self, arguments: Mapping[str, Any], context: Context) -> None:
        self._arguments = arguments
        self._context = context
        self._operation: str = arguments["operation"]

    async def run(self) -> Done:
        """Raises CutOff, CustodyError, OSError; then nothing was changed."""
        if self._operation == "clone":
            return await git_clone.clone(self._arguments, self._context)
        scope = self._context.scope.at(self._arguments.get("path"))
        git = Git(self._context, await in_thread(lambda: os.path.realpath(scope.cwd)))
        repository = await find_repository(git, self._context.scope.reach)
        git = git.at(repository.top)
        reach = scope.reach
        if self._operation in git_arguments.READING:
            return self._read(repository, await Reading(git, repository, reach, self._arguments).result())
        if self._operation == "branch" and "name" not in self._arguments:
            return self._read(repository, await branches(git))
        if self._operation == "stash" and self._arguments.get("action") == "list":
            return self._read(repository, await stashes(git))
        before = await position(git)
        if self._operation == "pull":
            plan = await plan_pull(git, reach, before, self._arguments)
            if self._context.dry_run:
                plan = await plan_dry_pull(git, plan)
        else:
            plan = await Planner(git, repository, reach, self._arguments).plan()
        check_unlocked(repository)
        await in_thread(lambda: check_writable(self._context, repository, (*plan.names, *plan.folders)))
        if self._context.dry_run:
            return Done(result=self._would(plan, repository))
        return await Changing(self._context, git, repository, before).run(plan, self._said(repository))

    def _said(self, repository: Repository) -> dict[str, Any]:
        return {"operation": self._operation, "repository": repository.top}

    def _read(self, repository: Repository, result: dict[str, Any]) -> Done:
        return Done(result={**self._said(repository), **result})

    def _would(self, plan: Plan, repository: Repository) -> dict[str, Any]:
        """The answer of a dry run."""
        return {
            "dry_run": True,
            **self._said(repository),
            "would_run": [["git", *step.arguments] for step in plan.steps],
            "files": list(plan.names[:FILES_SAID_MAX]),
            "files_count": len(plan.names),
            "folders": list(plan.folders),
            "left_out": list(plan.left_out),
            **plan.said,
        }
