"""Python functions as tools.

Owns how a function is called: an `async def` on the event loop, a plain one in a thread of its own. A
thread cannot be stopped: past its deadline the call ends, the thread is left behind and counted.
"""

import asyncio
import contextvars
import functools
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from custody.errors import ToolError
from custody.records import Decision, Effect, Level
from custody.tools.roots import Scope
from custody.tools.schema import parameters_of, schema_of
from custody.tools.tool import Context, Ended, Keep

CONTEXT_PARAMETER = "context"

TASK_END_SECONDS = 2.0  # a task that swallows its cancellation is left behind after so long
ABANDONED_THREADS_MAX = 64
"""Threads of overrun functions that still run; beyond this a further function is refused, because each
holds a stack and whatever it locked."""

_abandoned: set[threading.Thread] = set()


def abandoned_threads() -> int:
    """How many overrun functions still run in their threads."""
    _abandoned.difference_update([thread for thread in _abandoned if not thread.is_alive()])
    return len(_abandoned)


class FunctionTool:
    """A typed Python function as a tool. Calling it calls the function, without a record."""

    level: Level = "none"

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        schema: Mapping[str, Any] | None = None,
        effect: Effect = "unknown",
        timeout_seconds: float | None = None,
        keep: Keep = "full",
        validate: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = name or function.__name__
        self.description = description or inspect.getdoc(function) or ""
        self.effect: Effect = effect
        self.timeout_seconds = timeout_seconds
        self.keep: Keep = keep
        self._validate = validate
        self._wants_context = CONTEXT_PARAMETER in inspect.signature(function).parameters
        self._parameters = parameters_of(function, leave_out=CONTEXT_PARAMETER) if schema is None else None
        self.schema = schema if schema is not None else schema_of(self._parameters, self.name)  # type: ignore[arg-type]

    def __call__(self, *positional: Any, **named: Any) -> Any:
        return self.function(*positional, **named)

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        """Ask the tool's own `validate`: True or None agrees, False or a text refuses."""
        if self._validate is None:
            return None
        answer = self._validate(dict(arguments))
        if answer is None or answer is True:
            return None
        reason = answer if isinstance(answer, str) else f"{self.name} refused these arguments."
        return Decision("deny", "schema", reason)

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        if context.dry_run and self.effect != "read" and not self._wants_context:
            now = time.monotonic_ns()
            return Ended(started_ns=now, ended_ns=now, result={"dry_run": True, "would_call": self.name})
        call = functools.partial(self.function, **self.named(arguments, context))
        if inspect.iscoroutinefunction(self.function):
            return await _run_as_task(call, context)
        return await _run_in_thread(call, context, self.name)

    def named(self, arguments: Mapping[str, Any], context: Context | None) -> dict[str, Any]:
        """The function's keyword arguments, converted to the annotated types."""
        if self._parameters is None:
            named = dict(arguments)
        else:
            typed = msgspec.convert(arguments, self._parameters)
            named = {name: getattr(typed, name) for name in self._parameters.__struct_fields__}
        if self._wants_context:
            named[CONTEXT_PARAMETER] = context
        return named


class _Execution:
    """Start, end, result and error of one function; filled by whoever runs it."""

    def __init__(self) -> None:
        self.started_ns = self.ended_ns = time.monotonic_ns()
        self.result: Any = None
        self.error: BaseException | None = None

    def ended(self, **more: Any) -> Ended:
        return Ended(
            started_ns=self.started_ns, ended_ns=self.ended_ns, result=self.result, error=self.error, **more
        )

    def cut_off(self, context: Context, note: str | None) -> Ended:
        """The wait is over before the function was."""
        limit_hit = "cancelled" if context.cancelled else "deadline"
        context.request_cancel()
        return Ended(started_ns=self.started_ns, ended_ns=time.monotonic_ns(), limit_hit=limit_hit, note=note)


async def _run_as_task(call: Callable[[], Awaitable[Any]], context: Context) -> Ended:
    execution = _Execution()

    async def work() -> None:
        try:
            execution.result = await call()
        except asyncio.CancelledError:
            execution.error = ToolError("The function was cancelled.")
        except Exception as error:
            execution.error = error
        execution.ended_ns = time.monotonic_ns()

    task = asyncio.create_task(work())
    try:
        if await _settled(task, context):
            return execution.ended()
    except asyncio.CancelledError:
        task.cancel()
        raise
    task.cancel()
    await asyncio.wait({task}, timeout=TASK_END_SECONDS)
    return execution.cut_off(
        context, None if task.done() else "the coroutine ignored its cancellation and goes on"
    )


async def _run_in_thread(call: Callable[[], Any], context: Context, name: str) -> Ended:
    if abandoned_threads() >= ABANDONED_THREADS_MAX:
        raise ToolError(
            f"{ABANDONED_THREADS_MAX} functions that overran their deadline still run; restart this process."
        )
    loop = asyncio.get_running_loop()
    execution = _Execution()
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
        if await _settled(finished, context):
            return execution.ended()
    finally:
        if not finished.done():
            _abandoned.add(thread)
    return execution.cut_off(context, "the function cannot be stopped and goes on in its thread")


async def _settled(work: asyncio.Future[None], context: Context) -> bool:
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
