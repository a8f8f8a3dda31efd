"""The operation `pull` of the `git` tool: fetch, then a fast-forward or a rebase.

Owns which remote and branch are taken, and what the second half may change, which is known only when the
first is done. Used by `git`.
"""

import os
from collections.abc import Mapping
from typing import Any

from custody.errors import PathRefused, ToolError
from custody.files import Reach
from custody.tools.git.command import Git, text
from custody.tools.git.names import address_of
from custody.tools.git.plans import Plan, Step, changed_between, names_in, renamed_between
from custody.tools.git.repository import Position, commit_of, find_commit

_FETCH = ("fetch", "--no-recurse-submodules")


async def plan_pull(git: Git, reach: Reach, position: Position, arguments: Mapping[str, Any]) -> Plan:
    """Raises GitFailed, ToolError, PathRefused, CutOff."""
    if position.branch is None:
        raise ToolError("HEAD is on no branch; check one out before you pull.")
    remote, ref = await _upstream(git, position.branch, arguments)
    await _check_local(git, reach, remote)
    rebase = bool(arguments.get("rebase"))

    async def merge(git: Git) -> Plan:
        theirs = await commit_of(git, "FETCH_HEAD")
        return await (_rebase if rebase else _fast_forward)(git, theirs)

    return Plan(
        steps=(Step((*_FETCH, "--", remote, ref)),),
        said={"remote": remote, "remote_ref": ref, "rebase": rebase},
        then=merge,
    )


async def plan_dry_pull(git: Git, plan: Plan) -> Plan:
    """What the pull would do, as far as that can be said without fetching: the remote is only asked."""
    remote, ref = plan.said["remote"], plan.said["remote_ref"]
    listed = text(await git.answer("ls-remote", "--exit-code", "--", remote, ref)).partition("\t")[0]
    said = {**plan.said, "remote_commit": listed}
    if await find_commit(git, listed) is None:
        return Plan(steps=plan.steps, said={**said, "note": "What it changes is known once it is fetched."})
    merge = await (_rebase if plan.said["rebase"] else _fast_forward)(git, listed)
    return Plan(steps=(*plan.steps, *merge.steps), names=merge.names, said=said)


async def _upstream(git: Git, branch: str, arguments: Mapping[str, Any]) -> tuple[str, str]:
    """The remote's configured name, and the full name of its branch."""
    remotes = [line for line in text(await git.answer("remote")).split("\n") if line]
    wanted: str | None = arguments.get("remote")
    if wanted is not None and wanted not in remotes:
        raise ToolError(f"There is no remote {wanted}; this repository has {', '.join(remotes) or 'none'}.")
    listed = await git.answer(
        "for-each-ref", "--format=%(upstream:remotename)%00%(upstream:remoteref)", f"refs/heads/{branch}"
    )
    configured, _, ref = text(listed).partition("\0")
    remote = wanted or configured or (remotes[0] if len(remotes) == 1 and "name" in arguments else "")
    if "name" in arguments:
        ref = f"refs/heads/{arguments['name']}"
    elif wanted is not None and wanted != configured:
        ref = f"refs/heads/{branch}"
    if not remote or not ref:
        raise ToolError(
            f"The branch {branch} follows no other; give the `remote` and the `name` of its branch."
        )
    return remote, ref


async def _check_local(git: Git, reach: Reach, remote: str) -> None:
    """A remote that is a folder of this machine has to lie beneath the roots. Raises PathRefused."""
    if remote == ".":
        return
    url = text(await git.answer("remote", "get-url", "--", remote))
    try:
        address = address_of(url)
    except ValueError:  # http://, git:// and what has been configured otherwise: for git to judge
        return
    if address.kind == "local":
        path = address.text if os.path.isabs(address.text) else os.path.join(git.cwd, address.text)
        try:
            reach.target(path, write=False)
        except PathRefused as error:
            raise PathRefused(f"The remote {remote} is a folder. {error}") from error


async def _fast_forward(git: Git, theirs: str) -> Plan:
    ours = await find_commit(git, "HEAD")
    changing = await changed_between(git, ours, theirs) if ours is not None else await names_in(git, theirs)
    return Plan(steps=(Step(("merge", "--ff-only", "--no-edit", theirs)),), names=tuple(sorted(changing)))


async def _rebase(git: Git, theirs: str) -> Plan:
    """Own commits are put on theirs. Where that meets a conflict, all is put back."""
    ours = await commit_of(git, "HEAD")
    base = await git.ask("merge-base", ours, theirs)
    changing = await changed_between(git, ours, theirs)
    if base is not None:
        start = text(base)
        changing |= await changed_between(git, start, ours) | await renamed_between(git, start, theirs)
    return Plan(
        steps=(Step(("rebase", theirs)),),
        names=tuple(sorted(changing)),
        if_failed=Step(("rebase", "--abort")),
    )
