"""A command whose changes are held: it runs on views of its roots, which stay as they are.

Owns the order: views are made, the command runs on them, what it changed is read and kept, and the views go.
What a view is made of and how changes are kept is `changes.held`'s, putting one up the launcher's. Used by
the tools that run commands.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from custody.errors import CustodyError, SandboxError
from custody.sandbox import Command
from custody.tools.tool import Context, Ended

if TYPE_CHECKING:
    from custody.changes import HeldSet, Holding

OVERLAY_WALL = "overlay"
"""What a launcher calls the views it cannot put up."""

T = TypeVar("T")

Run = Callable[[Command], Awaitable[Ended]]


async def run_held(command: Command, context: Context, run: Run) -> Ended:
    """Run it by `run`, on views; its changes are held, or with a dry run only told.

    What keeps it from running is an end with an error.
    """
    began_ns = time.monotonic_ns()
    try:
        holding = await _begin(context)
    except (CustodyError, OSError) as error:
        return Ended(started_ns=began_ns, ended_ns=time.monotonic_ns(), error=error)
    settling = False
    try:
        done = await run(msgspec.structs.replace(command, views=holding.views))
        if _cannot_overlay(done.error):
            await _in_thread(lambda: holding.as_copies(lambda: context.cancelled))
            done = await run(msgspec.structs.replace(command, views=holding.views))
        if done.error is not None:  # it never ran, or nobody knows how far it came
            return done
        settling = True
        return await _settled(done, holding, context)
    except (CustodyError, OSError) as error:
        return Ended(started_ns=began_ns, ended_ns=time.monotonic_ns(), error=error)
    finally:
        if not settling:
            await _in_thread(holding.abandon)


async def _begin(context: Context) -> "Holding":
    roots = await context.viewed_roots()
    held, call_id = context.held, bytes.fromhex(context.call_id)
    return await _in_thread(lambda: held.begin(call_id, roots, stop=lambda: context.cancelled))


async def _settled(done: Ended, holding: "Holding", context: Context) -> Ended:
    """The end of a command that ran, with what it changed. Too much to hold is an error, and nothing is."""
    try:
        found = await _in_thread(holding.settle)
    except CustodyError as error:
        return msgspec.structs.replace(done, error=error)
    result: dict[str, Any] = {**(done.result or {}), **_said(found)}
    if found.entries and (context.dry_run or not found.changes):
        call_id = bytes.fromhex(context.call_id)
        await _in_thread(lambda: context.held.discard(call_id))
    if context.dry_run:
        told = msgspec.to_builtins(found.changes)
        return msgspec.structs.replace(done, result={**result, "dry_run": True, "would_change": told})
    count = len(found.changes)
    digest = found.manifest_digest if count else None
    return msgspec.structs.replace(
        done, result=result, changes=found.changes, held=count or None, held_digest=digest
    )


def _said(found: "HeldSet") -> dict[str, Any]:
    return {"warnings": list(found.warnings)} if found.warnings else {}


def _cannot_overlay(error: BaseException | None) -> bool:
    return isinstance(error, SandboxError) and error.details.get("wall") == OVERLAY_WALL


async def _in_thread(work: Callable[[], T]) -> T:
    """Not given up half-way: what it makes on disk is taken away again by whoever waits for it."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
