"""How a plan of the `git` tool is carried out: keep what may change, run git, look what did.

Owns the order of these, and what a call comes to that failed or was cut off on the way. Knows nothing of
single operations. Used by `tool`, and for its way of ending by `clone`.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from msgspec import Struct

from custody.errors import CustodyError
from custody.records import Change
from custody.sandbox import Finished, LimitHit
from custody.tools.git.command import CutOff, Git, GitFailed, failure, in_thread, names, said
from custody.tools.git.kept import Kept, check_writable
from custody.tools.git.plans import Plan
from custody.tools.git.repository import Position, Repository, moved, position
from custody.tools.tool import Context, Ended


class Done(Struct, frozen=True, kw_only=True):
    """How an operation came out."""

    result: Any = None
    changes: tuple[Change, ...] | None = None
    finished: Finished | None = None
    """The git that did the work."""
    error: BaseException | None = None
    limit_hit: LimitHit | None = None

    def ended(self, began_ns: int) -> Ended:
        finished = self.finished
        return Ended(
            started_ns=began_ns,
            ended_ns=time.monotonic_ns(),
            result=self.result,
            error=self.error,
            limit_hit=self.limit_hit,
            changes=self.changes,
            exit_code=None if finished is None else finished.exit_code,
            signal=None if finished is None else finished.signal,
            usage=None if finished is None else finished.usage,
            child_pid=None if finished is None else finished.child_pid,
            child_start_ticks=None if finished is None else finished.child_start_ticks,
        )


_Settled = TypeVar("_Settled")


async def settled(settle: Callable[[], _Settled]) -> tuple[_Settled | None, Exception | None]:
    """What changed, also where the call is being abandoned; or why that cannot be said. (Whoever opens the
    store next finds out.)"""
    try:
        return await asyncio.shield(in_thread(settle)), None
    except (CustodyError, OSError) as error:
        return None, error


class Changing:
    """Runs a plan in a repository."""

    def __init__(self, context: Context, git: Git, repository: Repository, before: Position) -> None:
        self._context = context
        self._git = git
        self._repository = repository
        self._before = before
        self._finished: list[Finished] = []
        self._conflicts: list[str] = []

    async def run(self, plan: Plan, result: dict[str, Any]) -> Done:
        """`result` is what is known already. Raises CustodyError, OSError before anything was changed."""
        if not plan.steps:
            return Done(
                result={**result, **self._result(plan), **moved(self._before, self._before)}, changes=()
            )
        kept = Kept(self._context, self._repository)
        try:
            await in_thread(lambda: self._keep(kept, plan))
            known = await self._known() if plan.merges else set[str]()
        except BaseException:
            kept.abandon()
            raise
        error: BaseException | None = None
        limit_hit: LimitHit | None = None
        try:
            error = await self._carry_out(plan, kept)
            if error is not None and plan.merges:
                strays = await self._known() - known - set(plan.names)
                await in_thread(lambda: kept.note_new(sorted(strays)))
        except CutOff as cut:
            self._finished.append(cut.finished)
            limit_hit = cut.finished.limit_hit
        except (CustodyError, OSError) as refused:
            error = refused
        finally:
            changes, unsettled = await settled(kept.settle)
        return Done(
            result={**result, **self._result(plan), **(await self._moved() if limit_hit is None else {})},
            changes=changes,
            finished=self._finished[-1] if self._finished else None,
            error=error or unsettled,
            limit_hit=limit_hit,
        )

    def _keep(self, kept: Kept, plan: Plan) -> None:
        kept.keep_metadata()
        kept.keep_files(plan.names, plan.folders)
        kept.ready()

    async def _carry_out(self, plan: Plan, kept: Kept) -> GitFailed | None:
        """Run the steps, and those of the plan that follows. The failure that ended it, if one did."""
        for step in plan.steps:
            finished = await self._git.run(*step.arguments, stdin=step.stdin)
            self._finished.append(finished)
            if finished.exit_code != 0:
                return await self._failed(plan, finished)
        if plan.then is None:
            return None
        following = await plan.then(self._git)

        def keep() -> None:
            check_writable(self._context, self._repository, following.names)
            kept.keep_files(following.names)
            kept.ready()

        await in_thread(keep)
        return await self._carry_out(following, kept)

    async def _failed(self, plan: Plan, finished: Finished) -> GitFailed:
        """git's words, and what to do about a state in between."""
        error = failure(finished)
        listed = await self._git.ask("diff", "--name-only", "--diff-filter=U", "-z", "--")
        self._conflicts = sorted(set(names(listed or b"")))
        if plan.if_failed is not None:
            await self._git.run(*plan.if_failed.arguments)
            error.hint = "It was given up, and the branch is where it was before."
        elif self._conflicts:
            error.hint = "Settle the conflicts in the files, add and commit; or undo this call."
        return error

    async def _known(self) -> set[str]:
        """All files that are not ignored: a conflict may leave further ones, under names of git's own."""
        return set(
            names(await self._git.answer("ls-files", "--cached", "--others", "--exclude-standard", "-z"))
        )

    def _result(self, plan: Plan) -> dict[str, Any]:
        result = {**said(self._finished), **plan.said}
        if plan.left_out:
            result["left_out"] = list(plan.left_out)
        if self._conflicts:
            result["conflicts"] = self._conflicts
        return result

    async def _moved(self) -> dict[str, Any]:
        """Where everything stands now."""
        try:
            after = await position(self._git)
        except CutOff:
            return {"note": "The call was over before it could be seen where the branches stand now."}
        commit = {} if after.head in (None, self._before.head) else {"commit": after.head}
        return {**moved(self._before, after), **commit}
