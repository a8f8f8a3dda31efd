"""What is going on inside an invocation of LangChain: its runnables as a tree, from their start to their end.

Owns which turn of a model asked for which tool call, which handler records what where several of them watch
one invocation, and how the guard's call and the callbacks of its tool find each other. Used by
`adapters.langchain`.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextvars import ContextVar, Token
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from custody.adapters.langchain_messages import (
    failure_of,
    handed_over,
    is_control_flow,
    result_of,
)
from custody.calls.disabled import DisabledCall, DisabledRun, DisabledStep
from custody.calls.lifecycle import describe
from custody.calls.observe import ObservedCall
from custody.calls.run import RunRecord
from custody.calls.steps import RecordedStep

AnyRun = RunRecord | DisabledRun
AnyStep = RecordedStep | DisabledStep
AnyCall = ObservedCall | DisabledCall

REQUESTS_MAX = 1_000
"""Requested tool calls remembered for each run after the turn's own invocation has ended: tools that run in
a later one (after a person's approval, or called by hand) still find their step."""


class Node:
    """A runnable of LangChain's from its start to its end; its parents lead to what was invoked."""

    def __init__(self, parent: "Node | None", run: AnyRun | None) -> None:
        self.parent = parent
        self.root: Node = self if parent is None else parent.root
        self.run = run
        self.surrounding: RunRecord | None = None
        """Of a root: the run around the code that invoked it."""
        self.live: dict[UUID, Node] = {}
        """Of a root: everything in it that has not ended."""
        self.claim: tuple[UUID, bytes] | None = None
        """Held while this is the one handler that records it."""
        self.is_tool = False
        self.call: AnyCall | None = None
        """Ours to close."""
        self.call_id = ""
        """Of a tool: its call, whoever recorded it."""
        self.guarded: Guarded | None = None
        """Of a tool that a guard has let run: what the guard has of it."""
        self.began_ns: int | None = None
        """Of a model: when it was asked."""
        self.requested_model: str | None = None
        self.agent: str | None = None
        self.step: AnyStep | None = None
        """The latest turn below it."""
        self.asked_in: dict[str, AnyStep] = {}
        """Id of a tool call -> the turn below it that asked for it."""

    def upwards(self) -> "Iterator[Node]":
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def call_around(self) -> str | None:
        """Id of the nearest call that this is part of."""
        return next((node.call_id for node in self.upwards() if node.call_id), None)


claimed: set[tuple[UUID, bytes]] = set()
"""What is being recorded, by whichever handler, so that two of them in one invocation record it once."""

requested: "WeakKeyDictionary[AnyRun, dict[str, AnyStep]]" = WeakKeyDictionary()
"""Run -> id of a tool call -> the turn that asked for it, the newest last."""


def remember(run: AnyRun, asked: Mapping[str, AnyStep]) -> None:
    if not asked or not isinstance(run, RunRecord):
        return
    known = requested.setdefault(run, {})
    for name, step in asked.items():
        known.pop(name, None)
        known[name] = step
    while len(known) > REQUESTS_MAX:
        known.pop(next(iter(known)), None)


def step_asking(node: Node | None, run: AnyRun, tool_call_id: str | None) -> AnyStep | None:
    """The turn that asked for a tool call; for a call nobody asked for, the latest of its invocation."""
    above = [] if node is None else [one for one in node.upwards() if one.run is run]
    found: AnyStep | None = None
    if tool_call_id is not None:
        found = next((one.asked_in[tool_call_id] for one in above if tool_call_id in one.asked_in), None)
        if found is None and isinstance(run, RunRecord):
            found = requested.get(run, {}).get(tool_call_id)
    if found is None:
        found = next((one.step for one in above if one.step is not None), None)
    return found if found is not None and found.step_id else None


def same_store(one: AnyRun, other: AnyRun) -> bool:
    """Whether both are runs of one runtime."""
    return isinstance(one, RunRecord) and isinstance(other, RunRecord) and one.recording is other.recording


# -- a guarded call -----------------------------------------------------------------------------------

guarded_here: ContextVar["Guarded | None"] = ContextVar("custody_langchain_guarded", default=None)
"""The guarded call in which a tool is about to be run."""


class Interrupted(asyncio.CancelledError):
    """A tool stopped to wait for a person. It will be called again; this call did not fail."""

    def __init__(self) -> None:
        super().__init__("The graph waits to be resumed.")


def keep_result(call: AnyCall, output: Any, error: BaseException | None = None) -> None:
    """`error` is what the tool had raised where the framework made a message of it."""
    failure = failure_of(output)
    if failure is None:
        call.result = result_of(output)
    elif error is None:
        call.fail(failure)
    else:
        said = describe(error)
        call.fail(said["message"], type=said["type"])


class Guarded:
    """A tool call from its proposal to its answer. As `with`, inside its call: the tool is run there."""

    def __init__(self, call: AnyCall, name: str, arguments: Mapping[str, Any], tool_call_id: str) -> None:
        self.call = call
        self.name = name
        self.arguments = arguments
        self.tool_call_id = tool_call_id
        self.may_run = False
        self.answer: Any = None
        self.error: BaseException | None = None
        """What the tool raised, as callbacks heard it: the guard may only see what was made of it."""
        self._control_flow: BaseException | None = None
        self._claimed = False
        self._token: Token[Guarded | None] | None = None

    def claims(self, name: str, arguments: Mapping[str, Any], tool_call_id: str | None) -> bool:
        """Whether a tool that starts is the one that was decided on. A second try of it, or one with other
        arguments, is recorded as a call of its own."""
        if self._claimed or (self.name, self.tool_call_id) != (name, tool_call_id):
            return False
        self._claimed = all(arguments.get(key) == value for key, value in self.arguments.items())
        return self._claimed

    def keep(self, answer: Any) -> None:
        self.answer = answer
        keep_result(self.call, answer, self.error)

    def after(self) -> Any:
        """What the framework goes on with. Raises what the tool raised to control its graph."""
        if self._control_flow is not None:
            raise self._control_flow
        return self.answer

    def __enter__(self) -> None:
        self.may_run = True
        self._token = guarded_here.set(self)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if self._token is not None:
            guarded_here.reset(self._token)
        if error is None or not is_control_flow(error):
            return False
        self._control_flow = error
        self.call.result = self.answer = handed_over(error)
        if self.answer is None:
            raise Interrupted from error
        return True
