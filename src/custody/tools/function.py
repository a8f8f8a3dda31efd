"""Python functions as tools.

Owns how a function is called: an `async def` on the event loop, a plain one in a thread of its own.
"""

import asyncio
import functools
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from custody.errors import ToolError
from custody.records import Decision, Effect, Level
from custody.tools.roots import Scope
from custody.tools.schema import parameters_of, schema_of
from custody.tools.threads import Execution, run_in_thread, settled
from custody.tools.tool import Context, Ended, Keep

CONTEXT_PARAMETER = "context"

TASK_END_SECONDS = 2.0  # a task that swallows its cancellation is left behind after so long


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
        return await run_in_thread(call, context, self.name)

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


async def _run_as_task(call: Callable[[], Awaitable[Any]], context: Context) -> Ended:
    execution = Execution()

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
        if await settled(task, context):
            return execution.ended()
    except asyncio.CancelledError:
        task.cancel()
        raise
    task.cancel()
    await asyncio.wait({task}, timeout=TASK_END_SECONDS)
    return execution.cut_off(
        context, None if task.done() else "the coroutine ignored its cancellation and goes on"
    )
