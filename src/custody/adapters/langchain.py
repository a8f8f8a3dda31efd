"""LangChain and LangGraph: every model turn and tool call of an agent, on the record of a run.

Owns how their callbacks become steps and calls (`CustodyCallbacks`), and how a tool call that may not happen
is refused in their way (`CustodyGuard`). Knows nothing of how an agent is built: callbacks reach whatever is
invoked with them. Used by applications; needs `langchain-core`, and for the guard `langchain` or `langgraph`.
"""

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast
from uuid import UUID

from custody.adapters.langchain_invocations import (
    AnyRun,
    Guarded,
    Interrupted,
    Node,
    claimed,
    guarded_here,
    keep_result,
    remember,
    same_store,
    step_asking,
)
from custody.adapters.langchain_messages import (
    MODEL_KEYS,
    broken_turn,
    first_text,
    handed_over,
    is_control_flow,
    turn_of,
)
from custody.calls.asked import inside
from custody.calls.lifecycle import outcome_of
from custody.calls.run import RunRecord, current_run
from custody.errors import CustodyError, Denied, OutcomeUnknown, UsageError
from custody.records import Effect, Kind

try:
    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.messages import ToolMessage
except ImportError as error:
    raise UsageError("LangChain is not installed.", hint="pip install langchain-core") from error

if TYPE_CHECKING:
    from langchain.agents.middleware import AgentMiddleware, ToolCallRequest
    from langchain_core.outputs import LLMResult

    Middleware = AgentMiddleware[Any, Any, Any]
else:
    try:
        from langchain.agents.middleware import AgentMiddleware as Middleware
    except ImportError:  # a graph built by hand takes the guard's two functions without it
        Middleware = object

log = logging.getLogger("custody")

F = TypeVar("F", bound=Callable[..., None])

OPEN_MAX = 10_000
"""Runnables that have begun and not ended, of one handler. The oldest are forgotten beyond it: a framework
that does not say how something ended must not fill the memory."""


def _undisturbed(kind: Kind) -> Callable[[F], F]:
    """A callback that makes a record of this kind. Its errors are logged and counted, not raised into the
    framework."""

    def decorate(method: F) -> F:
        @functools.wraps(method)
        def callback(self: "CustodyCallbacks", *arguments: Any, **named: Any) -> None:
            try:
                method(self, *arguments, **named)
            except Exception as error:
                if self.raise_error and isinstance(error, CustodyError):
                    raise
                self.note_failure(kind, error)

        return cast("F", callback)

    return decorate


class CustodyCallbacks(BaseCallbackHandler):
    """Records every model turn and tool call of what is invoked with it:
    `agent.invoke(…, config={"callbacks": [CustodyCallbacks(run)]})`.

    Without a run it is the one around the code that invokes, and inside a tool or a node that works in
    `with run.child(…)` it is that child. `effects` says what tools do to the world, by name. It never stops
    an agent, except that with a run of `on_error="raise"` what cannot be recorded is raised.
    """

    run_inline = True  # it takes microseconds; in another thread order and context would be lost

    def __init__(self, run: AnyRun | None = None, *, effects: Mapping[str, Effect] | None = None) -> None:
        super().__init__()
        self._run = run
        self._effects: dict[str, Effect] = dict(effects or {})
        self._nodes: dict[UUID, Node] = {}
        self._warned = False
        self.raise_error = isinstance(run, RunRecord) and run.on_error == "raise"
        self.failures = 0
        """Errors in here that were logged and not raised."""

    def note_failure(self, kind: Kind, error: Exception) -> None:
        self.failures += 1
        log.warning("A callback of LangChain could not be recorded: %r", error, exc_info=error)
        run = self._run or current_run.get()
        if isinstance(run, RunRecord):
            run.failed(kind, error)

    # -- models -----------------------------------------------------------------------------------------

    @_undisturbed(Kind.STEP)
    def on_chat_model_start(self, serialized: Any, messages: Any, **said: Any) -> None:
        self._model_starts(**said)

    @_undisturbed(Kind.STEP)
    def on_llm_start(self, serialized: Any, prompts: Any, **said: Any) -> None:
        self._model_starts(**said)

    def _model_starts(
        self,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        invocation_params: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        node = self._begin(run_id, parent_run_id, metadata)
        node.requested_model = first_text(invocation_params, ("model", *MODEL_KEYS))
        if node.requested_model is None:
            node.requested_model = first_text(metadata, ("ls_model_name",))
        node.began_ns = time.monotonic_ns()

    @_undisturbed(Kind.STEP)
    def on_llm_end(self, response: "LLMResult", *, run_id: UUID, **_: Any) -> None:
        node = self._end(run_id)
        if node is not None:
            self._record_turn(node, turn_of(response))

    @_undisturbed(Kind.STEP)
    def on_llm_error(
        self, error: BaseException, *, run_id: UUID, response: "LLMResult | None" = None, **_: Any
    ) -> None:
        node = self._end(run_id)
        if node is not None:
            self._record_turn(node, broken_turn(error, response))

    def _record_turn(self, node: Node, turn: dict[str, Any]) -> None:
        if node.run is None or node.claim is None or node.began_ns is None:
            return
        around = node.call_around()
        measured: dict[str, Any] = {"model_us": (time.monotonic_ns() - node.began_ns) // 1000}
        with inside(None if around is None else bytes.fromhex(around)):
            step = node.run.step(requested_model=node.requested_model, agent=node.agent, **(measured | turn))
        asked = {call["id"]: step for call in turn.get("calls", ()) if call["id"]}
        for above in node.upwards():
            above.step = step
            above.asked_in |= asked
            if above.is_tool:  # the turns of an agent inside a tool are none of the agent's that called it
                break
        remember(node.run, asked)

    # -- tools and retrievers ---------------------------------------------------------------------------

    @_undisturbed(Kind.CALL_STARTED)
    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        tool_call_id: str | None = None,
        **said: Any,
    ) -> None:
        node = self._begin(run_id, parent_run_id, metadata)
        node.is_tool = True
        name = first_text(serialized, ("name",)) or first_text(said, ("name",)) or "tool"
        arguments = {"input": input_str} if inputs is None else inputs
        guarded = guarded_here.get()
        if guarded is not None and guarded.claims(name, arguments, tool_call_id):
            node.call_id, node.guarded = guarded.call.id, guarded
        else:
            self._open(node, name, arguments, self._effects.get(name, "unknown"), tool_call_id)

    @_undisturbed(Kind.CALL_FINISHED)
    def on_tool_end(self, output: Any, *, run_id: UUID, **_: Any) -> None:
        node = self._end(run_id)
        if node is not None and node.call is not None:
            keep_result(node.call, output)
            node.call.close()

    @_undisturbed(Kind.CALL_FINISHED)
    def on_tool_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        node = self._end(run_id)
        if node is None:
            return
        if node.guarded is not None:
            node.guarded.error = error
        if node.call is not None and is_control_flow(error):
            node.call.result = handed_over(error)
            node.call.close(Interrupted() if node.call.result is None else None)
        elif node.call is not None:
            node.call.close(error)

    @_undisturbed(Kind.CALL_STARTED)
    def on_retriever_start(
        self,
        serialized: dict[str, Any] | None,
        query: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **said: Any,
    ) -> None:
        node = self._begin(run_id, parent_run_id, metadata)
        name = first_text(said, ("name",)) or first_text(serialized, ("name",)) or "retriever"
        self._open(node, name, {"query": query}, self._effects.get(name, "read"), None)

    @_undisturbed(Kind.CALL_FINISHED)
    def on_retriever_end(self, documents: Any, *, run_id: UUID, **_: Any) -> None:
        node = self._end(run_id)
        if node is not None and node.call is not None:
            node.call.result = documents
            node.call.close()

    on_retriever_error = on_tool_error

    def _open(
        self, node: Node, name: str, arguments: Mapping[str, Any], effect: Effect, external_id: str | None
    ) -> None:
        if node.run is None or node.claim is None:
            return
        node.call = node.run.observe(
            name,
            arguments,
            effect=effect,
            external_id=external_id,
            step=cast("Any", step_asking(node.parent, node.run, external_id)),
            parent=node.call_around(),
            agent=node.agent,
        ).open()
        node.call_id = node.call.id

    # -- everything around them -------------------------------------------------------------------------

    @_undisturbed(Kind.EVENT)
    def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **_: Any
    ) -> None:
        self._begin(run_id, parent_run_id, None)

    @_undisturbed(Kind.EVENT)
    def on_chain_end(self, outputs: Any, *, run_id: UUID, **_: Any) -> None:
        self._end(run_id)

    @_undisturbed(Kind.EVENT)
    def on_chain_error(
        self, error: BaseException, *, run_id: UUID, parent_run_id: UUID | None = None, **_: Any
    ) -> None:
        node = self._end(run_id)
        if node is None or node.run is None or node.claim is None or parent_run_id is not None:
            return  # what ends inside an invocation may be dealt with there
        if not is_control_flow(error) and outcome_of(error) != "cancelled":
            node.run.error(error)

    def _begin(self, run_id: UUID, parent_run_id: UUID | None, metadata: dict[str, Any] | None) -> Node:
        parent = None if parent_run_id is None else self._nodes.get(parent_run_id)
        node = Node(parent, self.run_at(parent))
        node.agent = first_text(metadata, ("lc_agent_name",))
        if parent is None:
            node.surrounding = current_run.get()
        if node.run is None:
            self._warn_once()
        elif (run_id, node.run.run_id) not in claimed:
            node.claim = (run_id, node.run.run_id)
            claimed.add(node.claim)
        self._nodes[run_id] = node.root.live[run_id] = node
        if len(self._nodes) > OPEN_MAX:
            self._abandon(next(iter(self._nodes)))
        return node

    def _end(self, run_id: UUID) -> Node | None:
        node = self._nodes.pop(run_id, None)
        if node is None:
            return None
        node.root.live.pop(run_id, None)
        if node.claim is not None:
            claimed.discard(node.claim)
        if node.root is node:
            for left in list(node.live):
                self._abandon(left)
        return node

    def _abandon(self, run_id: UUID) -> None:
        """End what LangChain says nothing more about: a cancelled coroutine has no last callback."""
        node = self._end(run_id)
        if node is None:
            return
        if node.call is not None:
            node.call.close(asyncio.CancelledError("The invocation ended while it ran."))
        elif node.began_ns is not None:
            self._record_turn(node, broken_turn(asyncio.CancelledError("The invocation ended.")))

    def run_at(self, parent: Node | None) -> AnyRun | None:
        """The run that what begins here belongs to: of what it is part of, or one entered since."""
        now = current_run.get()
        if parent is None:
            return self._run or now
        above = parent.run
        if now is None or now is parent.root.surrounding:
            return above
        return now if above is None or same_store(above, now) else above

    def node(self, run_id: UUID | None) -> Node | None:
        return None if run_id is None else self._nodes.get(run_id)

    def _warn_once(self) -> None:
        if not self._warned:
            self._warned = True
            log.warning("CustodyCallbacks has no run and there is none around it: nothing is recorded.")


# -- the guard ------------------------------------------------------------------------------------------


class CustodyGuard(Middleware):
    """Lets no tool run that Custody says no to, or that cannot be recorded first:
    `create_agent(…, middleware=[CustodyGuard(run)])`.

    In a graph built by hand: `ToolNode(tools, wrap_tool_call=guard.wrap_tool_call,
    awrap_tool_call=guard.awrap_tool_call)`. As the last middleware, so that what it decides on is what runs.
    The model is answered with a tool message that says why, or with `on_denied="raise"` the error ends the
    invocation. Without a run it is that of the callbacks, or the one around the code that invokes.
    """

    def __init__(
        self,
        run: AnyRun | None = None,
        *,
        effects: Mapping[str, Effect] | None = None,
        on_denied: Literal["refuse", "raise"] = "refuse",
    ) -> None:
        super().__init__()
        if on_denied not in ("refuse", "raise"):
            raise UsageError(f"on_denied is 'refuse' or 'raise', not {on_denied!r}.")
        self._run = run
        self._effects: dict[str, Effect] = dict(effects or {})
        self._raises = on_denied == "raise"

    def wrap_tool_call(self, request: "ToolCallRequest", handler: "Callable[[ToolCallRequest], Any]") -> Any:
        guarded = self._propose(request)
        try:
            with guarded.call, guarded:
                guarded.keep(handler(request))
        except (Interrupted, CustodyError) as error:
            return self._no(guarded, error)
        return guarded.after()

    async def awrap_tool_call(
        self, request: "ToolCallRequest", handler: "Callable[[ToolCallRequest], Awaitable[Any]]"
    ) -> Any:
        guarded = self._propose(request)
        try:
            async with guarded.call:
                with guarded:
                    guarded.keep(await handler(request))
        except (Interrupted, CustodyError) as error:
            return self._no(guarded, error)
        return guarded.after()

    def _propose(self, request: "ToolCallRequest") -> Guarded:
        """The call before it is decided on. Raises UsageError without a run: nothing runs unguarded."""
        anything: Any = request  # its type has parameters that nobody states
        asked = anything.tool_call
        config: Mapping[str, Any] = getattr(anything.runtime, "config", None) or {}
        callbacks, node = _callbacks_in(config)
        run = self._run or current_run.get()
        if callbacks is not None:
            below = callbacks.run_at(node)
            if run is None or (below is not None and same_store(run, below)):
                run = below
        if run is None:
            raise UsageError(
                "CustodyGuard has no run and there is none around it, so the tool does not run.",
                hint="Give it one, CustodyGuard(run), or invoke the agent inside `with runtime.run(…)`.",
            )
        name, arguments, tool_call_id = asked["name"], asked["args"], asked["id"]
        call = run.observe(
            name,
            arguments,
            effect=self._effects.get(name, "unknown"),
            external_id=tool_call_id,
            step=cast("Any", step_asking(node, run, tool_call_id)),
            parent=None if node is None else node.call_around(),
            agent=first_text(config.get("metadata"), ("lc_agent_name",)),
            guard=True,
        )
        return Guarded(call, name, arguments, tool_call_id)

    def _no(self, guarded: Guarded, error: BaseException) -> ToolMessage:
        """The framework's own kind of refusal, for what ended a guarded call."""
        if isinstance(error, Interrupted):
            return guarded.after()
        if guarded.may_run and guarded.answer is None:
            raise error  # the tool's own
        if guarded.may_run:
            error = OutcomeUnknown(call_id=guarded.call.id)
        if self._raises:
            raise error
        return ToolMessage(
            f"Refused: {error}" if isinstance(error, Denied) else str(error),
            name=guarded.name,
            tool_call_id=guarded.tool_call_id,
            status="error",
        )


def _callbacks_in(config: Mapping[str, Any]) -> tuple[CustodyCallbacks | None, Node | None]:
    """The callbacks that an invocation was given, and where in it a tool is about to start."""
    manager: Any = config.get("callbacks")
    for handler in getattr(manager, "handlers", ()):
        if isinstance(handler, CustodyCallbacks):
            return handler, handler.node(getattr(manager, "parent_run_id", None))
    return None, None
