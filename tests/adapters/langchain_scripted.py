"""A scripted model of LangChain, and what its script leaves on the record, for the adapter's tests."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode

SERVED = "gpt-4o-mini-2024-07-18"

USAGE: dict[str, Any] = {
    "input_tokens": 100,
    "output_tokens": 20,
    "total_tokens": 120,
    "input_token_details": {"cache_read": 40, "cache_creation": 5},
    "output_token_details": {"reasoning": 7},
}
KNOWN = {"input": 100, "output": 20, "reasoning": 7, "cache_read": 40, "cache_write": 5}


# -- a model that says what it is told to ---------------------------------------------------------------


class Scripted(BaseChatModel):
    """Answers with its script, one item a turn; an exception in it is raised."""

    script: list[Any]
    model: str = "gpt-4o-mini"

    @property
    def _llm_type(self) -> str:
        return "scripted"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model}

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self

    def _next(self) -> AIMessage:
        item = self.script.pop(0)
        if isinstance(item, BaseException):
            raise item
        return item

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._next())])

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any
    ) -> Iterator[ChatGenerationChunk]:
        message = self._next()
        for part in re.split(r"(?<= )", str(message.content)):
            if part == "BREAK ":
                raise ConnectionError("the line went dead")
            yield ChatGenerationChunk(message=AIMessageChunk(content=part, id=message.id))
        for index, call in enumerate(message.tool_calls):
            chunk = tool_call_chunk(
                name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index
            )
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[chunk]))
        yield ChatGenerationChunk(
            message=AIMessageChunk(
                content="",
                usage_metadata=message.usage_metadata,
                response_metadata=message.response_metadata,
            )
        )


def says(text: str, *calls: tuple[str, str, dict[str, Any]], finish: str | None = None) -> AIMessage:
    """A turn: its text, and `(id, tool, arguments)` of each call it asks for."""
    return AIMessage(
        text,
        id=f"chatcmpl-{uuid4().hex[:8]}",
        tool_calls=[{"id": call, "name": name, "args": args} for call, name, args in calls],
        usage_metadata=USAGE,
        response_metadata={
            "model_name": SERVED,
            "finish_reason": finish or ("tool_calls" if calls else "stop"),
        },
    )


def two_searches() -> Scripted:
    return Scripted(
        script=[
            says("Two things.", ("call_a", "search", {"query": "a"}), ("call_b", "search", {"query": "b"})),
            says("Done with both."),
        ]
    )


@tool
def search(query: str) -> dict[str, Any]:
    """Search."""
    return {"found": query}


@tool
def explode(how: str) -> str:
    """Fail."""
    raise ValueError(f"no {how}")


ran: list[str] = []


@tool
def delete(path: str) -> str:
    """Delete a file."""
    ran.append(path)
    return "deleted"


ASK = {"messages": [("user", "go")]}


def steps(runtime: Any, run: Any) -> list[Any]:
    return runtime.index.run_steps(bytes.fromhex(run.id))


def calls(runtime: Any, run: Any) -> list[Any]:
    return runtime.index.run_calls(bytes.fromhex(run.id))


def errors(runtime: Any, run: Any) -> list[Any]:
    """What was recorded as gone wrong in a run."""
    return [
        event.data for event in runtime.index.events().items
        if event.name == "run.error" and event.run_id == run.id
    ]  # fmt: skip


def told(messages: list[Any]) -> list[tuple[str, str]]:
    """Status and text of the tool messages a model was shown."""
    return [(one.status, one.text) for one in messages if isinstance(one, ToolMessage)]


def assert_two_searches(runtime: Any, run: Any) -> None:
    """The record of `two_searches`, however it was invoked."""
    first, second = steps(runtime, run)
    assert (first.position, second.position, first.iteration, second.iteration) == (0, 3, 1, 2)
    assert (first.model, first.requested_model, first.responded) == (SERVED, "gpt-4o-mini", True)
    assert (first.text, second.text) == ("Two things.", "Done with both.")
    assert (first.finish_reason, second.finish_reason) == ("tool_calls", "stop")
    assert first.requested == ("search", "search")
    assert first.calls == [
        {"id": "call_a", "name": "search", "arguments": {"query": "a"}},
        {"id": "call_b", "name": "search", "arguments": {"query": "b"}},
    ]
    assert custody_document(first.tokens) == custody_document(second.tokens) == KNOWN
    assert first.external_id.startswith("chatcmpl-")
    assert first.model_us is not None
    found = sorted(calls(runtime, run), key=lambda call: call.external_id)
    assert [call.external_id for call in found] == ["call_a", "call_b"]
    assert sorted(call.position for call in found) == [1, 2]
    assert [call.arguments for call in found] == [{"query": "a"}, {"query": "b"}]
    assert [call.result for call in found] == [{"found": "a"}, {"found": "b"}]
    assert {(call.tool, call.outcome, call.source) for call in found} == {("search", "succeeded", "observed")}
    assert {call.step_id for call in found} == {first.id}
    assert all(call.latency_us is not None for call in found)


def custody_document(value: Any) -> Any:
    from custody.records import document

    return document(value)


# -- every way in ---------------------------------------------------------------------------------------


def invoke(agent: Any, config: Any) -> None:
    agent.invoke(ASK, config)


def stream_updates(agent: Any, config: Any) -> None:
    list(agent.stream(ASK, config, stream_mode="updates"))


def stream_messages(agent: Any, config: Any) -> None:
    list(agent.stream(ASK, config, stream_mode="messages"))


def batch(agent: Any, config: Any) -> None:
    agent.batch([ASK], config)


def ainvoke(agent: Any, config: Any) -> None:
    asyncio.run(agent.ainvoke(ASK, config))


def astream_messages(agent: Any, config: Any) -> None:
    async def consume() -> None:
        async for _ in agent.astream(ASK, config, stream_mode="messages"):
            pass

    asyncio.run(consume())


def astream_events(agent: Any, config: Any) -> None:
    async def consume() -> None:
        async for _ in agent.astream_events(ASK, config, version="v2"):
            pass

    asyncio.run(consume())


def abatch(agent: Any, config: Any) -> None:
    asyncio.run(agent.abatch([ASK], config))


WAYS_IN = [
    invoke,
    stream_updates,
    stream_messages,
    batch,
    ainvoke,
    astream_messages,
    astream_events,
    abatch,
]
every_way_in = pytest.mark.parametrize("way_in", WAYS_IN, ids=lambda way: way.__name__)


class State(TypedDict):
    messages: Annotated[list[Any], add_messages]


def graph_by_hand(model: BaseChatModel, tools: ToolNode) -> Any:
    def think(state: State) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    def next_node(state: State) -> str:
        return "tools" if state["messages"][-1].tool_calls else END

    graph = StateGraph(State)
    graph.add_node("think", think)
    graph.add_node("tools", tools)
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", next_node)
    graph.add_edge("tools", "think")
    return graph
