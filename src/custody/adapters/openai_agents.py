"""The OpenAI Agents SDK on the record of a run.

Owns which of the SDK's callbacks becomes which record, and how a denied tool is refused in the SDK's own
way. Uses public names of `agents` only. Recording never disturbs the agent; guarding does: there an error
is a no. Used by applications:

    runner = CustodyRunner(run)
    result = await runner.run(agent, "…")     # in place of Runner.run; run_sync and run_streamed as well

An agent used as a tool has hooks of its own, and is handed ours: `agent.as_tool(…, hooks=runner.hooks)`.
"""

import asyncio
import copy
import dataclasses
import logging
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

from custody.calls.asked import inside
from custody.calls.disabled import DisabledRun
from custody.calls.lifecycle import describe
from custody.calls.observe import ObservedCall
from custody.calls.run import RunRecord
from custody.calls.steps import RecordedStep
from custody.errors import CustodyError, Denied, NotRecorded, UsageError
from custody.records import Effect, Kind

try:
    import agents
except ImportError as error:
    raise UsageError("This adapter needs the OpenAI Agents SDK.", hint="pip install openai-agents") from error

from custody.adapters import openai_agents_items as items
from custody.adapters.openai_agents_items import Asked, Key
from custody.adapters.openai_agents_watch import (
    Open,
    Requested,
    Waiting,
    Watch,
    blamed_for,
    current_watch,
    remember,
    see_responses,
)

log = logging.getLogger("custody")

OnDenied = Literal["refuse", "raise"]

NO_ARGUMENTS: Mapping[str, Any] = {}

SOFTLY_REFUSED = frozenset({"function_call", "custom_tool_call", "apply_patch_call", "shell_call"})
"""Items whose tool the SDK can refuse to run, telling the model why. A refused one of another kind ends the
run."""


class CustodyHooks(agents.RunHooks[Any]):
    """Hooks that record every step and call of a run of the SDK, and, with `guard`, refuse denied calls.

    For whoever calls `Runner.run` for you: `CustodyRunner` gives the SDK the same hooks and sees in addition
    how a run of the SDK ends.
    """

    def __init__(
        self,
        run: RunRecord | DisabledRun,
        *,
        guard: bool = False,
        on_denied: OnDenied = "refuse",
        effects: Mapping[str, Effect] | None = None,
    ) -> None:
        if guard and isinstance(run, DisabledRun):
            raise NotRecorded("Custody is disabled, so a guarded agent does not run.")
        if on_denied not in ("refuse", "raise"):
            raise UsageError(f"on_denied is 'refuse' or 'raise', not {on_denied!r}.")
        self._run: Any = run
        self._guard = guard
        self._on_denied = on_denied
        self._effects = dict(effects or {})
        self._then: agents.RunHooks[Any] = agents.RunHooks()
        self._watch = Watch()
        see_responses()

    def then(self, hooks: agents.RunHooks[Any] | None) -> "CustodyHooks":
        """The same hooks, with the user's own called after them."""
        if hooks is None or hooks is self:
            return self
        both = copy.copy(self)
        both._then = hooks
        return both

    # -- the SDK's callbacks --------------------------------------------------------------------------

    async def on_llm_start(
        self, context: Any, agent: Any, system_prompt: str | None, input_items: list[Any]
    ) -> None:
        self._now().waiting[id(context)] = Waiting(context, agent, time.monotonic_ns())
        await self._then.on_llm_start(context, agent, system_prompt, input_items)

    async def on_llm_end(self, context: Any, agent: Any, response: agents.ModelResponse) -> None:
        watch = self._now()
        with self._quietly(Kind.STEP):
            await self._answered(watch, context, agent, response)
        await self._then.on_llm_end(context, agent, response)

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        watch = self._now()
        with self._quietly(Kind.CALL_STARTED):
            await self._starts(watch, context, agent, tool)
        await self._then.on_tool_start(context, agent, tool)

    async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: object) -> None:
        watch = self._now()
        with self._quietly(Kind.CALL_FINISHED):
            await self._ends(watch, context, agent, tool, result)
        await self._then.on_tool_end(context, agent, tool, result)

    async def on_handoff(self, context: Any, from_agent: Any, to_agent: Any) -> None:
        with self._quietly(Kind.EVENT):
            self._run.event("openai_agents.handoff", from_agent=from_agent.name, to_agent=to_agent.name)
        await self._then.on_handoff(context, from_agent, to_agent)

    async def on_agent_start(self, context: Any, agent: Any) -> None:
        remember(self._now().started, id(agent), agent)
        await self._then.on_agent_start(context, agent)

    async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
        await self._then.on_agent_end(context, agent, output)

    # -- a step ---------------------------------------------------------------------------------------

    async def _answered(self, watch: Watch, context: Any, agent: Any, response: agents.ModelResponse) -> None:
        waiting = watch.waiting.pop(id(context), None)
        asked = items.asked_for(response.output)
        parent = items.outer_call(context)
        served = watch.served.pop(response.response_id or "", None)
        requests = response.usage.requests
        step, failure = await self._record_step(
            self._call_id(watch, parent),
            {
                "text": items.text_of(response.output),
                "model": None if served is None else served.model,
                "requested_model": items.requested_model(agent, watch.run_config),
                "tokens": items.tokens_of(response.usage),
                "model_us": None if waiting is None else waiting.elapsed_us(),
                "finish_reason": items.finish_reason_of(response.output, served),
                "calls": [{"id": one.id, "name": one.name, "arguments": one.arguments} for one in asked],
                "external_id": response.response_id,
                "agent": agent.name,
                "data": {"requests": requests} if requests > 1 else None,
            },
        )
        here = [one for one in asked if items.runs_here(one, agent)]
        for one in here:
            remember(watch.requested, (id(agent), one.id), Requested(one, step, parent))
        if self._guard:
            await self._refuse_denied(watch, context, agent, here, failure)

    async def _record_step(
        self, call_id: bytes | None, said: dict[str, Any]
    ) -> tuple[RecordedStep, CustodyError | None]:
        """The step, and while guarding why it could not be kept: then none of its calls may run."""
        with inside(call_id):
            if not self._guard:
                return self._run.step(**said), None
            try:
                return await asyncio.to_thread(self._run.step, **said, on_error="raise"), None
            except CustodyError as failure:
                return self._run.step(**said, on_error="warn"), failure

    # -- refusing -------------------------------------------------------------------------------------

    async def _refuse_denied(
        self,
        watch: Watch,
        context: Any,
        agent: Any,
        asked: Sequence[Asked],
        failure: CustodyError | None,
    ) -> None:
        """Tell the SDK which of the calls may not run, before it runs any.

        Raises the refusal if that was asked for, and of a handoff, which the SDK has no way to refuse.
        """
        handoffs = items.handoff_names(agent)
        for one in asked:
            key = (id(agent), one.id)
            refusal = failure or await asyncio.to_thread(self._refusal, watch, key, agent)
            if refusal is None:
                continue
            remember(watch.refused, key, refusal)
            if self._on_denied == "raise" or one.name in handoffs:
                raise refusal
            if one.kind in SOFTLY_REFUSED:
                context.reject_tool(
                    agents.ToolApprovalItem(agent=agent, raw_item=one.item, tool_name=one.name),
                    rejection_message=f"Not run: {refusal}",
                )

    def _refusal(self, watch: Watch, key: Key, agent: Any) -> CustodyError | None:
        """Why this call may not run, put on the record; None if it may, which is recorded when it starts."""
        asked = watch.requested[key].asked
        decision = self._run.recording.decide(
            asked.name,
            asked.arguments,
            run=self._run,
            effect=self._effects.get(asked.name, "unknown"),
            agent=agent.name,
        )
        if decision.verdict == "allow":
            return None
        try:
            call = self._observe(watch, key, agent, asked.name, asked.arguments).open()
        except CustodyError as refusal:
            return refusal
        call.close(asyncio.CancelledError("denied at first"))
        return Denied("The call was denied at first.")

    # -- a call ---------------------------------------------------------------------------------------

    async def _starts(self, watch: Watch, context: Any, agent: Any, tool: Any) -> None:
        key = self._key(watch, context, agent, tool, opened=False)
        if key in watch.refused:  # a tool of a kind that the SDK does not refuse
            raise watch.refused[key]
        requested = watch.requested.get(key)
        if items.has_own_context(tool):
            arguments = items.arguments_of(context.tool_arguments)
        else:
            arguments = NO_ARGUMENTS if requested is None else requested.asked.arguments
        call = self._observe(watch, key, agent, tool.name, arguments)
        await call.open_on_loop()
        parent = None if requested is None else requested.parent
        watch.open[key] = Open(call, tool.name, parent, agents.get_current_span())

    async def _ends(self, watch: Watch, context: Any, agent: Any, tool: Any, result: object) -> None:
        key = self._key(watch, context, agent, tool, opened=True)
        opened = watch.open.get(key)
        if opened is None:
            return
        unfinished = self._settle(watch, None, str(result), below=key)
        del watch.open[key]
        watch.requested.pop(key, None)
        call, error = opened.call, watch.errors.pop(key, None)
        call.result = items.plain(result)
        if error is None and items.timed_out(tool, result):
            error = TimeoutError(result)
        said = items.span_error(opened.span)
        if error is None and (said is not None or unfinished):
            call.fail(said or str(result))
        await call.close_on_loop(error)

    def _observe(
        self, watch: Watch, key: Key, agent: Any, tool: str, arguments: Mapping[str, Any]
    ) -> ObservedCall:
        requested = watch.requested.get(key)
        outer = None if requested is None else self._call_id(watch, requested.parent)
        return self._run.observe(
            tool,
            arguments,
            effect=self._effects.get(tool, "unknown"),
            external_id=key[1] or None,
            step=None if requested is None else requested.step,
            parent=None if outer is None else outer.hex(),
            agent=agent.name,
            guard=self._guard,
        )

    def _key(self, watch: Watch, context: Any, agent: Any, tool: Any, *, opened: bool) -> Key:
        """Which call this is. Hooks of shell, patch and computer tools are not told; those run in turn."""
        if items.has_own_context(tool):
            return id(agent), context.tool_call_id
        for key, one in watch.requested.items():
            of_tool = key[0] == id(agent) and tool.name.startswith(one.asked.name)
            if of_tool and (key in watch.open) == opened:
                return key
        return id(agent), ""

    def _call_id(self, watch: Watch, key: Key | None) -> bytes | None:
        opened = None if key is None else watch.open.get(key)
        return None if opened is None else opened.call.call_id or None

    # -- the end --------------------------------------------------------------------------------------

    def ended(self, watch: Watch, result: Any, error: BaseException | None) -> None:
        """A run of the SDK has ended: close what it left open, and say what stopped it. Raises nothing."""
        with self._quietly(Kind.EVENT, always=True):
            run = self._run
            message = "its run ended before" if error is None else describe(error)["message"]
            self._settle(watch, error, message)
            stated = getattr(error, "run_data", None) if result is None else result
            for kind, guardrail, info in items.tripped(stated, error):
                run.event("openai_agents.guardrail", kind=kind, guardrail=guardrail, info=info)
            for one in getattr(result, "interruptions", ()):
                run.event("openai_agents.approval_needed", tool=one.name, external_id=one.call_id)
            if error is not None and not items.is_cancelled(error):
                run.error(error)

    def _settle(
        self, watch: Watch, error: BaseException | None, message: str, *, below: Key | None = None
    ) -> bool:
        """Close what is under way, in all or in one agent that is a tool. Whether there was anything."""
        unanswered = [
            one for one in watch.waiting.values() if below is None or items.outer_call(one.context) == below
        ]
        for one in unanswered:
            del watch.waiting[id(one.context)]
            with inside(self._call_id(watch, items.outer_call(one.context))):
                self._run.step(
                    agent=one.agent.name,
                    requested_model=items.requested_model(one.agent, watch.run_config),
                    model_us=one.elapsed_us(),
                    responded=False,
                    data={"error": describe(error) if error else {"type": None, "message": message}},
                )
        left = {key: one for key, one in watch.open.items() if below is None or one.parent == below}
        blamed = blamed_for(left, error)
        for key, one in reversed(left.items()):  # inner calls end before those they are in
            del watch.open[key]
            because: BaseException = asyncio.CancelledError(message)
            if error is not None and key in blamed:
                because = items.cause_of(error)
            with self._quietly(Kind.CALL_FINISHED, always=True):
                one.call.close(watch.errors.pop(key, because))
        return bool(unanswered or left)

    # -- within ---------------------------------------------------------------------------------------

    def _now(self) -> Watch:
        return current_watch.get() or self._watch

    @contextmanager
    def _quietly(self, kind: Kind, *, always: bool = False) -> Generator[None]:
        """An error in here is not the agent's, unless the user asked for it or a guard says no."""
        try:
            yield
        except Exception as error:
            strict = self._guard or getattr(self._run, "on_error", "warn") == "raise"
            if strict and not always:
                raise
            log.warning("A %s record of the agent's work could not be made: %r", kind.name, error)
            if isinstance(self._run, RunRecord):
                self._run.failed(kind, error)  # counted, and marked as a gap

    def note_tool_error(self, said: agents.ToolErrorFormatterArgs[Any]) -> None:
        """Keep the exception that the SDK turns into a text for the model."""
        key = items.outer_call(said.run_context)
        if said.error is not None and key is not None:
            remember(self._now().errors, key, said.error)

    def check_watched(self, agent: Any) -> None:
        """An agent is about to ask its model: has its run been given these hooks?

        While guarding, raises UsageError if not: nothing would refuse its tools.
        """
        watch = self._now()
        if id(agent) in watch.started:
            return
        if self._guard:
            error = UsageError(
                f"The agent {agent.name!r} is a tool without Custody's hooks, so it is not run.",
                hint="Make the tool with agent.as_tool(…, hooks=runner.hooks).",
            )
            log.warning("%s", error)  # the SDK tells the model that a tool failed, and nobody else
            self._run.error(error)
            raise error
        watch.started[id(agent)] = agent
        with self._quietly(Kind.EVENT, always=True):
            self._run.event("openai_agents.not_recorded", agent=agent.name, reason="as_tool without hooks")


class CustodyRunner:
    """The SDK's `Runner`, with every step and call of it recorded in `run`, a run of Custody's.

    `guard` asks policy and resources before each tool runs; a refused tool does not run, and the model is
    told why (`on_denied="refuse"`), or the refusal is raised. `effects` says what tools do to the world.
    """

    def __init__(
        self,
        run: RunRecord | DisabledRun,
        *,
        guard: bool = False,
        on_denied: OnDenied = "refuse",
        effects: Mapping[str, Effect] | None = None,
    ) -> None:
        self.hooks = CustodyHooks(run, guard=guard, on_denied=on_denied, effects=effects)
        """For `agent.as_tool(…, hooks=runner.hooks)`."""

    async def run(self, starting_agent: agents.Agent[Any], input: Any, **options: Any) -> agents.RunResult:
        """As `Runner.run`."""
        with self._watched(options) as watch:
            result = await agents.Runner.run(starting_agent, input, **options)
            self.hooks.ended(watch, result, None)
            return result

    def run_sync(self, starting_agent: agents.Agent[Any], input: Any, **options: Any) -> agents.RunResult:
        """As `Runner.run_sync`."""
        with self._watched(options) as watch:
            result = agents.Runner.run_sync(starting_agent, input, **options)
            self.hooks.ended(watch, result, None)
            return result

    def run_streamed(
        self, starting_agent: agents.Agent[Any], input: Any, **options: Any
    ) -> agents.RunResultStreaming:
        """As `Runner.run_streamed`. Its end is recorded before the last event has been read."""
        with self._watched(options) as watch:
            result = agents.Runner.run_streamed(starting_agent, input, **options)
        if result.run_loop_task is not None:
            result.run_loop_task.add_done_callback(lambda task: self._streamed(watch, result, task))
        return result

    def _streamed(self, watch: Watch, result: agents.RunResultStreaming, task: "asyncio.Task[Any]") -> None:
        error: BaseException | None = asyncio.CancelledError() if task.cancelled() else task.exception()
        turns_max = result.max_turns
        exceeded = turns_max is not None and result.current_turn > turns_max
        if error is None and exceeded and result.final_output is None:  # an error handler may have given one
            error = agents.MaxTurnsExceeded(f"Max turns ({turns_max}) exceeded")
        self.hooks.ended(watch, result, error)

    @contextmanager
    def _watched(self, options: dict[str, Any]) -> Generator[Watch]:
        """Make the SDK's options ours as well; an exception that leaves is its end."""
        hooks = self.hooks.then(options.get("hooks"))
        options["hooks"] = hooks
        options["run_config"] = run_config = _listening(options.get("run_config"), hooks)
        watch = Watch(run_config)
        token = current_watch.set(watch)
        try:
            yield watch
        except BaseException as error:
            self.hooks.ended(watch, None, error)
            raise
        finally:
            current_watch.reset(token)


def _listening(run_config: Any, hooks: CustodyHooks) -> agents.RunConfig:
    """The user's settings, through which the SDK also tells what it tells no hook. Agents as tools inherit
    them."""
    if run_config is None or isinstance(run_config, Mapping):
        run_config = agents.RunConfig(**cast("dict[str, Any]", run_config or {}))
    their_formatter, their_filter = run_config.tool_error_formatter, run_config.call_model_input_filter

    def formatter(said: agents.ToolErrorFormatterArgs[Any]) -> Any:
        hooks.note_tool_error(said)
        return None if their_formatter is None else their_formatter(said)

    def input_filter(asking: Any) -> Any:
        hooks.check_watched(asking.agent)
        return asking.model_data if their_filter is None else their_filter(asking)

    return dataclasses.replace(
        run_config, tool_error_formatter=formatter, call_model_input_filter=input_filter
    )
