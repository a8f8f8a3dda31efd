"""Agents of Pydantic AI on the record: `Agent(…, capabilities=[Custody()])`.

Owns where it looks: the model through a wrapper around each request, tools through a wrapper around the
assembled toolset, outputs through their hooks. So it sees the same on every entry point, next to what really
runs. Knows nothing of what becomes which record: that is `pydantic_ai_run`. Used by applications.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Literal

from custody.blocking import BlockingRun
from custody.calls.disabled import DisabledRun
from custody.calls.handle import RunHandle
from custody.calls.run import RunRecord, current_run
from custody.errors import NotRecorded, UsageError
from custody.records import Effect

try:
    from pydantic_ai import ModelRetry, RunContext
    from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
    from pydantic_ai.exceptions import SkipToolExecution
    from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
    from pydantic_ai.models import Model, ModelRequestContext, ModelRequestParameters, StreamedResponse
    from pydantic_ai.models.wrapper import WrapperModel
    from pydantic_ai.output import OutputContext
    from pydantic_ai.run import AgentRunResult
    from pydantic_ai.settings import ModelSettings
    from pydantic_ai.tools import ToolDefinition
    from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset

    from custody.adapters.pydantic_ai_messages import Took
    from custody.adapters.pydantic_ai_run import AgentRun, Settings, harmless
except ImportError as error:
    raise UsageError(
        "Pydantic AI is not installed, or too old.", hint="pip install -U pydantic-ai-slim"
    ) from error

log = logging.getLogger("custody")

Arguments = str | dict[str, Any]


class Custody(AbstractCapability[Any]):
    """Records every step and call of an agent in the surrounding run, or in the one given as `run`.

    `guard` has Custody decide each call, and put it on the record, before it runs. A call that is denied, or
    cannot be recorded, does not run: the model is told so (`on_denied="refuse"`), or the agent run ends with
    `custody.Denied` or `custody.NotRecorded` (`"raise"`). `effects` says what tools do, by their name.
    `agent` names the agent where several work in one run.
    """

    id: str | None = "custody"
    """One of them records an agent run: one that is given to a single run replaces the agent's."""

    def __init__(
        self,
        run: RunHandle | BlockingRun | DisabledRun | None = None,
        *,
        guard: bool = False,
        on_denied: Literal["refuse", "raise"] = "refuse",
        effects: Mapping[str, Effect] | None = None,
        agent: str | None = None,
    ) -> None:
        if not isinstance(run, RunHandle | BlockingRun | DisabledRun | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError("Custody() takes a run.", hint="with runtime.run(…) as run: Custody(run)")
        if on_denied not in ("refuse", "raise"):
            raise UsageError(f"on_denied is 'refuse' or 'raise', not {on_denied!r}.")
        stated: dict[str, Effect] = {} if effects is None else dict(effects)
        self._run: RunRecord | DisabledRun | None = run
        self._settings = Settings(guard=guard, on_denied=on_denied, effects=stated, agent=agent)
        self._recorded: AgentRun | None = None
        self._said: list[bool] = []  # shared by the copies for single runs: the log says it once

    @classmethod
    def get_serialization_name(cls) -> str | None:
        return None  # a run is no part of a specification

    @classmethod
    def combine(cls, capabilities: Sequence[AbstractCapability[Any]]) -> AbstractCapability[Any]:
        return capabilities[-1]

    def get_ordering(self) -> CapabilityOrdering:
        """Next to model and tools: what other capabilities change on the way is recorded as it arrives."""
        return CapabilityOrdering(position="innermost")

    async def for_run(self, ctx: RunContext[Any]) -> AbstractCapability[Any]:
        bound, bound._recorded = copy(self), None
        bound._run = current_run.get() if self._run is None else self._run
        if isinstance(bound._run, RunHandle | BlockingRun):
            name = None if ctx.agent is None else ctx.agent.name
            bound._recorded = AgentRun(bound._run, self._settings, name, ctx.run_id)
        return bound

    # -- the agent run --------------------------------------------------------------------------------

    async def wrap_run(
        self, ctx: RunContext[Any], *, handler: Callable[[], Awaitable[AgentRunResult[Any]]]
    ) -> AgentRunResult[Any]:
        """Raises UsageError or NotRecorded where guarded work has no run to be recorded in."""
        recorded = self._recorded
        if recorded is None:
            self._unrecorded()
            return await handler()
        async with recorded.delegated(ctx):
            try:
                result = await handler()
            except BaseException as error:
                recorded.ended(ctx.messages, error)
                raise
            recorded.ended(result.all_messages(), None, result.output)
            return result

    def _unrecorded(self) -> None:
        if self._settings.guard:
            if isinstance(self._run, DisabledRun):
                raise NotRecorded("Custody is disabled, so a guarded agent does not run.")
            raise UsageError("A guarded agent works in a run.", hint="with runtime.run(…): agent.run_sync(…)")
        if self._run is None and not self._said:
            self._said.append(True)
            log.warning("An agent of Pydantic AI works outside a run, so nothing of it is recorded.")

    async def before_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        if self._recorded is not None:
            self._recorded.settle(ctx.messages)
        return request_context

    def get_wrapper_model(self, model: Model) -> Model | None:
        return None if self._recorded is None else _ObservedModel(model, self._recorded)

    # -- tools and outputs ----------------------------------------------------------------------------

    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any] | None:
        return None if self._recorded is None else _ObservedToolset(toolset, recorded=self._recorded)

    async def wrap_tool_validate(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: Arguments,
        handler: Callable[[Arguments], Awaitable[dict[str, Any]]],
    ) -> dict[str, Any]:
        if self._recorded is None:
            return await handler(args)
        with self._recorded.refusing_arguments(call):
            return await handler(args)

    async def wrap_tool_execute(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: dict[str, Any],
        handler: Callable[[dict[str, Any]], Awaitable[Any]],
    ) -> Any:
        try:
            return await handler(args)
        except SkipToolExecution as skipped:
            if self._recorded is not None:
                self._recorded.replaced(call, skipped.result)
            raise

    async def wrap_output_validate(
        self,
        ctx: RunContext[Any],
        *,
        output_context: OutputContext,
        output: Arguments,
        handler: Callable[[Arguments], Awaitable[Any]],
    ) -> Any:
        if self._recorded is None or ctx.partial_output:
            return await handler(output)
        with self._recorded.refusing_output(output_context.tool_call):
            return await handler(output)

    async def wrap_output_process(
        self,
        ctx: RunContext[Any],
        *,
        output_context: OutputContext,
        output: Any,
        handler: Callable[[Any], Awaitable[Any]],
    ) -> Any:
        if self._recorded is None:
            return await handler(output)
        if not ctx.partial_output:
            return await self._recorded.output(output_context, output, handler)
        if self._settings.guard and output_context.has_function:
            # A part of a call cannot be decided; where an output streams, this leaves the partial value out.
            raise ModelRetry("Guarded output functions are called with the whole output.")
        return await handler(output)


class _ObservedModel(WrapperModel):
    """The model that serves a request; each request is a step."""

    def __init__(self, wrapped: Model, recorded: AgentRun) -> None:
        super().__init__(wrapped)
        self._recorded = recorded

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        took = Took()
        try:
            response = await self.wrapped.request(messages, model_settings, model_request_parameters)
        except BaseException as error:
            self._recorded.failed(self.wrapped, error, took.request())
            raise
        self._recorded.responded(self.wrapped, response, took.request())
        return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        took, opened = Took(), None
        try:
            async with self.wrapped.request_stream(
                messages, model_settings, model_request_parameters, run_context
            ) as stream:
                opened = stream
                yield stream
        except BaseException as error:
            self._note(opened, took, error)
            raise
        self._note(opened, took, None)

    def _note(self, stream: StreamedResponse | None, took: Took, error: BaseException | None) -> None:
        """Record a streamed turn as far as it came."""
        with harmless(self._recorded.run):
            if stream is not None:
                response = stream.get()
                if error is None or response.parts or response.usage.has_values():
                    self._recorded.responded(self.wrapped, response, took.stream(stream), error)
                    return
            if error is not None:
                self._recorded.failed(self.wrapped, error, took)


@dataclass
class _ObservedToolset(WrapperToolset[Any]):
    """The agent's tools; each call is on the record."""

    recorded: AgentRun = field(kw_only=True, repr=False)

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        return await self.recorded.tool(
            name, tool_args, ctx.tool_call_id, lambda: self.wrapped.call_tool(name, tool_args, ctx, tool)
        )
