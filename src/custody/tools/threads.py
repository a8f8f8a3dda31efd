"""Work in a thread of its own, with the call's deadline and cancellation around the wait for it.

Owns what becomes of a thread whose call is over: it cannot be stopped, so it is left behind and counted, or,
where the work can stop by itself, waited for. Used by function tools and by the built-ins that work on files.
"""

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from custody.errors import ToolError
from custody.records import Change
from custody.tools.tool import Context, Ended

ABANDONED_THREADS_MAX = 64
"""Threads of overrun functions that still run; beyond this a further function is refused, because each
holds a stack and whatever it locked."""

_abandoned: set[threading.Thread] = set()


def abandoned_threads() -> int:
    """How many overrun functions still run in their threads."""
    _abandoned.difference_update([thread for thread in _abandoned if not thread.is_alive()])
    return len(_abandoned)


class Changed(Struct, frozen=True):
    """What work gives back that changed files."""

    result: Any
    changes: tuple[Change, ...]
    error: BaseException | None = None
    """Why it went no further."""


class Execution:
    """Start, end, result and error of one function; filled by whoever runs it."""

    def __init__(self) -> None:
        self.started_ns = self.ended_ns = time.monotonic_ns()
        self.result: Any = None
        self.error: BaseException | None = None

    def ended(self) -> Ended:
        result, error, changes = self.result, self.error, None
        if isinstance(result, Changed):
            result, error, changes = result.result, result.error, result.changes
        return Ended(
            started_ns=self.started_ns,
            ended_ns=self.ended_ns,
            result=result,
            error=error,
            changes=changes,
        )

    def cut_off(self, context: Context, note: str | None) -> Ended:
        """The wait is over before the function was."""
        limit_hit = "cancelled" if context.cancelled else "deadline"
        context.request_cancel()
        return Ended(started_ns=self.started_ns, ended_ns=time.monotonic_ns(), limit_hit=limit_hit, note=note)


async def run_in_thread(
    call: Callable[[], Any], context: Context, name: str, *, finish_seconds: float = 0.0
) -> Ended:
    """Call it in a thread of its own and wait, within the call's deadline and until it is cancelled.

    `finish_seconds` is for work that looks at `context.cancelled` and either stops or is past the point of
    stopping: it is given so long to say which. Raises ToolError where too many threads are left behind.
    """
    if abandoned_threads() >= ABANDONED_THREADS_MAX:
        raise ToolError(
            f"{ABANDONED_THREADS_MAX} functions that overran their deadline still run; restart this process."
        )
    loop = asyncio.get_running_loop()
    execution = Execution()
    finished = loop.create_future()
    variables = contextvars.copy_context()

    def settle() -> None:
        if not finished.done():
            finished.set_result(None)

    def work() -> None:
        execution.started_ns = time.monotonic_ns()
        try:
            execution.result = variables.run(call)
        except BaseException as error:  # SystemExit in a tool must not pass for success
            execution.error = error
        execution.ended_ns = time.monotonic_ns()
        try:
            loop.call_soon_threadsafe(settle)
        except RuntimeError:
            return  # the loop closed while an abandoned function went on

    thread = threading.Thread(target=work, name=f"custody-{name}-{context.call_id}", daemon=True)
    thread.start()
    try:
        if await settled(finished, context):
            return execution.ended()
        cut = execution.cut_off(context, "the function cannot be stopped and goes on in its thread")
        if finish_seconds:
            await asyncio.wait({finished}, timeout=finish_seconds)
    finally:
        if not finished.done():
            _abandoned.add(thread)
    if not finished.done():
        return cut
    ended = execution.ended()
    if ended.error is None:
        return ended
    return msgspec.structs.replace(ended, error=None, limit_hit=cut.limit_hit)


async def settled(work: asyncio.Future[None], context: Context) -> bool:
    """Wait for the work, the deadline or a cancellation; whether it was the work."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()

    def end(*_: object) -> None:
        if not over.done():
            over.set_result(None)

    left = context.remaining_seconds()
    timer = None if left is None else loop.call_later(left, end)
    work.add_done_callback(end)
    context.on_cancel(end)
    try:
        await over
    finally:
        work.remove_done_callback(end)
        if timer is not None:
            timer.cancel()
    return work.done()
