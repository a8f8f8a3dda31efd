"""What is under way in one run of the OpenAI Agents SDK, between its callbacks.

Owns which open call an exception is blamed for. Records nothing. Used by `openai_agents`, which says it when
the SDK is missing.
"""

import dataclasses
import functools
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

from agents.tracing import ResponseSpanData, TracingProcessor, add_trace_processor

from custody.adapters import openai_agents_items as items
from custody.adapters.openai_agents_items import Asked, Key
from custody.calls.observe import ObservedCall
from custody.calls.steps import RecordedStep
from custody.errors import CustodyError

SERVED_MAX = 64  # responses of one run that wait for their hook: parallel agents, not turns

REMEMBERED_MAX = 10_000
"""Of what the SDK may never come back to: calls it does not run, agents of runs that ended. Hooks that serve
many runs of the SDK keep one `Watch` for all of them."""


@dataclasses.dataclass(frozen=True)
class Waiting:
    """A model was asked and has not answered. It keeps its context alive, so that the id stays its own."""

    context: Any
    agent: Any
    since_ns: int

    def elapsed_us(self) -> int:
        return (time.monotonic_ns() - self.since_ns) // 1000


@dataclasses.dataclass(frozen=True)
class Requested:
    """A call that the model asked for, and where."""

    asked: Asked
    step: RecordedStep
    parent: Key | None
    """The call in which the asking agent runs, for an agent that is a tool."""


@dataclasses.dataclass
class Open:
    """A call that runs."""

    call: ObservedCall
    name: str
    parent: Key | None
    span: Any
    """The SDK's own span of it: where tracing is on, it knows whether the tool failed."""


@dataclasses.dataclass
class Watch:
    """What is under way in one `run` of the SDK, its agents as tools included."""

    run_config: Any = None
    started: dict[int, Any] = dataclasses.field(default_factory=dict[int, Any])
    """Agents whose runs have been given our hooks."""
    waiting: dict[int, Waiting] = dataclasses.field(default_factory=dict[int, Waiting])
    requested: dict[Key, Requested] = dataclasses.field(default_factory=dict[Key, Requested])
    open: dict[Key, Open] = dataclasses.field(default_factory=dict[Key, Open])
    refused: dict[Key, CustodyError] = dataclasses.field(default_factory=dict[Key, CustodyError])
    """Kept from running, and why."""
    errors: dict[Key, BaseException] = dataclasses.field(default_factory=dict[Key, BaseException])
    """What tools raised, before the SDK made a text of it."""
    served: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    """Responses of the provider by their id."""


Name = TypeVar("Name")
Value = TypeVar("Value")


def remember(held: dict[Name, Value], name: Name, value: Value) -> None:
    """Hold it; beyond the bound the oldest is let go."""
    held[name] = value
    if len(held) > REMEMBERED_MAX:
        del held[next(iter(held))]


current_watch: ContextVar[Watch | None] = ContextVar("custody_openai_agents_watch", default=None)


def blamed_for(left: Mapping[Key, Open], error: BaseException | None) -> set[Key]:
    """Which of the calls that were under way made the run end; the SDK cancels the others."""
    if error is None or items.is_cancelled(error):
        return set()
    marked = {key for key, one in left.items() if items.span_error(one.span) is not None}
    named = {key for key, one in left.items() if f"tool {one.name}:" in str(error)}
    return marked or named or (set(left) if len(left) == 1 else set())


class _Responses(TracingProcessor):
    """Notes what a provider says of its response: the SDK tells that to its tracing alone."""

    def on_span_end(self, span: Any) -> None:
        watch, data = current_watch.get(), span.span_data
        if watch is None or not isinstance(data, ResponseSpanData) or data.response is None:
            return
        if len(watch.served) >= SERVED_MAX:  # somebody in a tool asks models that we are not told of
            del watch.served[next(iter(watch.served))]
        watch.served[data.response.id] = data.response

    def on_span_start(self, span: Any) -> None:
        pass

    def on_trace_start(self, trace: Any) -> None:
        pass

    def on_trace_end(self, trace: Any) -> None:
        pass

    def shutdown(self) -> None:
        pass

    def force_flush(self) -> None:
        pass


@functools.cache
def see_responses() -> None:
    """Once in a process: the SDK's processors are common to all runs, and cannot be taken away one by one."""
    add_trace_processor(_Responses())
