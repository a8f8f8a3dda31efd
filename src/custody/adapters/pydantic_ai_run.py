"""One agent run of Pydantic AI on the record.

Owns which part of it becomes which record: steps from model responses, calls from what ran and from what
was asked for and never ran, a child run where a tool hands its task to another agent. Knows nothing of
where these are seen. Used by `pydantic_ai` alone, which says what to install where the package is missing.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from msgspec import Struct
from pydantic_ai import (
    ApprovalRequired,
    CallDeferred,
    DeferredToolRequests,
    ModelRetry,
    RunContext,
    ToolDenied,
)
from pydantic_ai.exceptions import FallbackExceptionGroup, SkipToolExecution, ToolFailed
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequestAttempt,
    ModelResponse,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models import Model
from pydantic_ai.output import OutputContext
from pydantic_core import ValidationError

from custody.adapters.pydantic_ai_messages import (
    TOLD,
    Asked,
    Took,
    asked_before,
    plain,
    prompt_text,
    provider_tools,
    refusal_of,
    returned,
    tokens_of,
)
from custody.blocking import BlockingRun
from custody.calls.handle import RunHandle
from custody.calls.lifecycle import describe, left_with, outcome_of
from custody.calls.observe import ObservedCall
from custody.calls.run import current_run
from custody.calls.steps import RecordedStep
from custody.cuts import beginning
from custody.errors import CustodyError, DelegationRefused, Denied
from custody.records import Effect, RunOutcome

log = logging.getLogger("custody")

OpenRun = RunHandle | BlockingRun

INTENT_CHARACTERS_MAX = 300
"""Of a prompt that becomes the intent of a child run: an intent is read in a table. A longer prompt stands
whole among the run's inputs."""

_tool_of: ContextVar[OpenRun | None] = ContextVar("custody_pydantic_ai_tool_of", default=None)
"""The run whose tool this code works for: an agent started here was handed a task."""


class Settings(Struct, frozen=True, kw_only=True):
    """What the application asked for; see `pydantic_ai.Custody`."""

    guard: bool
    on_denied: Literal["refuse", "raise"]
    effects: Mapping[str, Effect]
    agent: str | None


class AgentRun:
    """What is recorded of one agent run, and the refusals of one that is guarded."""

    def __init__(self, run: OpenRun, settings: Settings, name: str | None, agent_run_id: str | None) -> None:
        self.run = run
        self.settings = settings
        self._name = name
        self._agent = settings.agent or (name if run.who.agent is None else None)
        self._agent_run_id = agent_run_id
        self._asked: dict[str, Asked] = {}
        self._steps: dict[str, RecordedStep] = {}
        """By the id of a call that was asked for in it."""
        self._seen: set[str] = set()
        """Ids of calls that are on the record."""
        self._output: Any = None

    # -- the run --------------------------------------------------------------------------------------

    @asynccontextmanager
    async def delegated(self, ctx: RunContext[Any]) -> AsyncGenerator[None]:
        """In a child run, if a tool of an agent on the same record started this one."""
        child = self._child(ctx) if _tool_of.get() is self.run else None
        if child is None:
            yield
            return
        self.run, self._agent = child, None
        async with AsyncExitStack() as stack:
            if isinstance(child, RunHandle):
                await stack.enter_async_context(child)
            else:
                stack.enter_context(child)
            try:
                yield
            except BaseException as error:
                await _finish(child, *left_with(error))
                raise
            await _finish(child, None, None, self._output)

    def _child(self, ctx: RunContext[Any]) -> OpenRun | None:
        """None: it works in the same run. Raises DelegationRefused where calls are guarded."""
        text = prompt_text(ctx)
        intent = None if text is None else beginning(text, INTENT_CHARACTERS_MAX)
        inputs = None if intent == text else {"prompt": text}
        try:
            return self.run.child(intent, agent=self.settings.agent or self._name, inputs=inputs)
        except DelegationRefused as error:
            if self.settings.guard:
                raise
            log.warning("Run %s: %s It is recorded in this run all the same.", self.run.id[:8], error)
        except Exception as error:
            _tolerate(self.run, error)
        return None

    def ended(
        self, messages: Sequence[ModelMessage], error: BaseException | None, output: Any = None
    ) -> None:
        """Say what became of everything that was asked for, and what ended the run, if something did."""
        with harmless(self.run):
            self._output = plain(output)
            self.settle(messages)
            if isinstance(output, DeferredToolRequests):  # they wait for an answer from outside
                for call in (*output.calls, *output.approvals):
                    self._asked.pop(call.tool_call_id, None)
            for call_id in tuple(self._asked):
                self._never_ran(call_id, TOLD["success"] if error is None else type(error).__name__)
            if error is not None and outcome_of(error) != "cancelled":
                self.run.error(error, agent=self._name)

    # -- steps ----------------------------------------------------------------------------------------

    def responded(
        self, model: Model, response: ModelResponse, took: Took, error: BaseException | None = None
    ) -> None:
        """A model answered, in full or in part: `error` is what cut it short."""
        with harmless(self.run):
            for attempt in response.failed_attempts or ():
                self._attempted(attempt)
            asked = {
                call.tool_call_id: Asked(call.tool_name, call.args_as_dict()) for call in response.tool_calls
            }
            step = self.run.step(
                response.text,
                model=response.model_name,
                requested_model=model.model_name,
                tokens=tokens_of(response.usage),
                model_us=took.model_us,
                finish_reason=response.finish_reason,
                calls=[
                    {"id": call.tool_call_id, "name": call.tool_name, "arguments": call.args_as_dict()}
                    for call in response.tool_calls
                ],
                external_id=response.provider_response_id,
                agent=self._agent,
                data=self._about(response, took, error),
            )
            self._asked |= asked
            self._seen -= asked.keys()  # a model may use its ids again
            if step.step_id:
                self._steps |= dict.fromkeys(asked, step)

    def failed(self, model: Model, error: BaseException, took: Took) -> None:
        """A model was asked, and nothing came."""
        with harmless(self.run):
            attempts = error.attempts if isinstance(error, FallbackExceptionGroup) else ()
            for attempt in attempts:
                self._attempted(attempt)
            if not attempts:
                self.run.step(
                    requested_model=model.model_name,
                    model_us=took.model_us,
                    agent=self._agent,
                    responded=False,
                    data={"agent_run": self._agent_run_id, "error": describe(error)},
                )

    def _attempted(self, attempt: ModelRequestAttempt) -> None:
        """One model of a `FallbackModel`, which went on to the next."""
        self.run.step(
            requested_model=attempt.model_name,
            tokens=None if attempt.usage is None else tokens_of(attempt.usage),
            model_us=round(attempt.duration.total_seconds() * 1_000_000),
            agent=self._agent,
            responded=attempt.outcome == "rejected",
            data={"agent_run": self._agent_run_id, "attempt": attempt.outcome, "error": attempt.error},
        )

    def _about(self, response: ModelResponse, took: Took, error: BaseException | None) -> dict[str, Any]:
        """What a step has no field for."""
        data: dict[str, Any] = {
            "agent_run": self._agent_run_id,
            "provider": response.provider_name,
            "stream_us": took.stream_us,
            "first_event_us": took.first_event_us,
            "state": None if response.state == "complete" else response.state,
            "provider_tools": provider_tools(response) or None,
        }
        if error is not None and outcome_of(error) != "cancelled":
            data["error"] = describe(error)
        return {name: value for name, value in data.items() if value is not None}

    # -- calls ----------------------------------------------------------------------------------------

    async def tool(
        self,
        name: str,
        arguments: dict[str, Any],
        call_id: str | None,
        execute: Callable[[], Awaitable[Any]],
        *,
        acts: bool = True,
    ) -> Any:
        """Run a tool inside its record. Raises what the tool raises, and the refusal of a guarded call.

        One that does not act, an output tool without a function, is not guarded.
        """
        call = await self._begin(name, arguments, call_id, self.settings.guard and acts)
        inside, delegating = current_run.set(self.run), _tool_of.set(self.run)
        try:
            result = await execute()
        except BaseException as error:
            await self._end(call, error)
            raise
        finally:
            _tool_of.reset(delegating)
            current_run.reset(inside)
        await self._end(call, None, result)
        return result

    async def output(
        self, context: OutputContext, output: Any, handler: Callable[[Any], Awaitable[Any]]
    ) -> Any:
        """Make the run's output. An output tool is a call like any other, and so is an output function."""
        asked = context.tool_call
        if asked is None and not context.has_function:
            with self.refusing_output(None):
                return await handler(output)
        call_id = None if asked is None else asked.tool_call_id
        if call_id in self._seen and not context.has_function:
            return await handler(output)  # a stream's output is validated again each time it is asked for
        name = asked.tool_name if asked is not None else context.function_name or "output"
        arguments = asked.args_as_dict() if asked is not None else {"output": output}

        async def execute() -> Any:
            return await handler(output)

        try:
            return await self.tool(name, arguments, call_id, execute, acts=context.has_function)
        except SkipToolExecution as refused:
            if not isinstance(refused.result, ToolDenied):
                raise
            raise ModelRetry(refused.result.message) from refused  # the model finds another output

    async def _begin(
        self, name: str, arguments: dict[str, Any], call_id: str | None, guard: bool
    ) -> ObservedCall | None:
        try:
            return await self._observe(name, arguments, call_id, guard).__aenter__()
        except Exception as error:
            if not guard:
                _tolerate(self.run, error)
                return None
            if not isinstance(error, Denied):
                log.warning("Run %s: %s did not run: %r", self.run.id[:8], name, error)
            if self.settings.on_denied == "raise":
                raise
            reason = error.message if isinstance(error, CustodyError) else repr(error)
            raise SkipToolExecution(ToolDenied(f"{name} was refused and did not run: {reason}")) from error

    async def _end(self, call: ObservedCall | None, error: BaseException | None, result: Any = None) -> None:
        """The tool has run: what goes wrong from here on is no reason to withhold its result."""
        if call is None:
            return
        with harmless(self.run):
            if isinstance(error, ApprovalRequired):  # the tool will be called again, once it is approved
                call.reject(type(error).__name__)
            elif isinstance(error, CallDeferred):
                call.result = {"deferred": error.kind, "metadata": plain(error.metadata)}
                error = None
            elif isinstance(result, ToolDenied):  # by somebody else
                call.reject(f"ToolDenied: {result.message}")
            else:
                call.result = plain(returned(result))
        try:
            await call.__aexit__(None if error is None else type(error), error, None)
        except CustodyError as unrecorded:
            log.warning("Run %s: the end of a call is not recorded: %s", self.run.id[:8], unrecorded)

    def _observe(self, name: str, arguments: Any, call_id: str | None, guard: bool = False) -> ObservedCall:
        call = self.run.observe(
            name,
            plain(arguments),
            effect=self.settings.effects.get(name, "unknown"),
            external_id=call_id,
            step=None if call_id is None else self._steps.get(call_id),
            agent=self._agent,
            guard=guard,
        )
        if call_id is not None:
            self._seen.add(call_id)
            self._asked.pop(call_id, None)
        return call

    # -- calls that never ran -------------------------------------------------------------------------

    @contextmanager
    def refusing_arguments(self, call: ToolCallPart) -> Generator[None]:
        """A call whose arguments are not accepted never runs."""
        try:
            yield
        except (ValidationError, ModelRetry, ToolFailed) as error:
            with harmless(self.run):
                if call.tool_call_id not in self._seen:
                    self._asked[call.tool_call_id] = Asked(call.tool_name, call.args_as_dict())
                    self._never_ran(call.tool_call_id, refusal_of(error))
            raise

    @contextmanager
    def refusing_output(self, call: ToolCallPart | None) -> Generator[None]:
        """An output that is not accepted; where it is no call it is an error of the run."""
        if call is not None:
            with self.refusing_arguments(call):
                yield
            return
        try:
            yield
        except Exception as error:
            with harmless(self.run):
                self.run.error(error, agent=self._name, stage="output")
            raise

    def settle(self, messages: Sequence[ModelMessage]) -> None:
        """Record the calls that were answered without having run: answers follow the last response."""
        with harmless(self.run):
            for place in range(len(messages) - 1, -1, -1):
                message = messages[place]
                if isinstance(message, ModelResponse):
                    break
                ours = self._agent_run_id is not None and message.run_id == self._agent_run_id
                for part in message.parts:
                    if isinstance(part, ToolReturnPart) and part.tool_call_id not in self._seen:
                        self._answered(part, messages[:place] if ours else ())

    def _answered(self, part: ToolReturnPart, before: Sequence[ModelMessage]) -> None:
        call_id = part.tool_call_id
        here = call_id in self._asked
        if not here:
            asked = asked_before(call_id, before)
            if asked is None:
                return
            self._asked[call_id] = asked
        if part.outcome == "success" and not here:  # what ran it is outside, and gave this run the result
            self._has_result(call_id, part.content)
        else:
            told = part.outcome if part.retry is None else part.retry.cause
            reason = TOLD.get(told, told)
            if told == "denied":  # in the words of whoever denied it; other answers repeat what was asked
                reason = f"{reason}: {part.model_response_str(wrap_if_error=False)}"
            self._never_ran(call_id, reason)

    def replaced(self, call: ToolCallPart, result: Any) -> None:
        """Another capability gave a result in the tool's place."""
        with harmless(self.run):
            if call.tool_call_id not in self._seen:
                self._asked[call.tool_call_id] = Asked(call.tool_name, call.args_as_dict())
                self._has_result(call.tool_call_id, result)

    def _never_ran(self, call_id: str, reason: str) -> None:
        """The reason is kept for ever, so it says what kind it was and repeats no arguments."""
        asked = self._asked[call_id]
        self._observe(asked.name, asked.arguments, call_id).reject(reason)

    def _has_result(self, call_id: str, result: Any) -> None:
        asked = self._asked[call_id]
        call = self._observe(asked.name, asked.arguments, call_id).open()
        call.cached = True  # nothing was executed, so there is no latency
        call.result = plain(result)
        call.close()


# -- what it does not disturb -------------------------------------------------------------------------


@contextmanager
def harmless(run: OpenRun) -> Generator[None]:
    """What goes wrong in recording is counted and logged, and raised only where `on_error` is `raise`."""
    try:
        yield
    except Exception as error:
        _tolerate(run, error)


def _tolerate(run: OpenRun, error: Exception) -> None:
    if isinstance(error, CustodyError) and run.on_error == "raise":
        raise error
    run.dropped()
    log.warning("Run %s: a record could not be made: %r", run.id[:8], error, exc_info=error)


async def _finish(run: OpenRun, outcome: RunOutcome | None, reason: str | None, output: Any = None) -> None:
    if isinstance(run, RunHandle):
        await run.finish(outcome, reason=reason, output=output)
    else:  # may wait for a disk
        finish = asyncio.to_thread(run.finish, outcome, reason=reason, output=output)
        await asyncio.shield(finish)
