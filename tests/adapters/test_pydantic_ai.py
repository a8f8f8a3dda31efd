"""The adapter for Pydantic AI, with scripted models and a real store."""

import asyncio
import contextvars
import errno
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import (
    Agent,
    ApprovalRequired,
    CallDeferred,
    DeferredToolRequests,
    DeferredToolResults,
    ModelRetry,
    NativeOutput,
    PromptedOutput,
    RunContext,
    TextOutput,
    ToolDenied,
    ToolOutput,
    UsageLimits,
    models,
)
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import SkipToolExecution, UnexpectedModelBehavior, UsageLimitExceeded
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.toolsets import FunctionToolset, WrapperToolset
from pydantic_ai.usage import RequestUsage

import custody
from custody.adapters.pydantic_ai import Custody
from custody.blocking import BlockingRun, BlockingRuntime
from custody.compose import open_runtime
from custody.index.views import StepView
from custody.journal import MemoryDisk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.records import Call, Tokens
from custody.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
HOW_TO = ROOT / "docs" / "how-to" / "pydantic-ai.md"

DENY_ERASE = """
[[policy.rules]]
name = "no-erasing"
reason = "Nothing may be erased here."
deny_tool = "erase"
"""


@pytest.fixture(autouse=True)
def _no_real_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "ALLOW_MODEL_REQUESTS", False)


@pytest.fixture(autouse=True)
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The loop that the framework's blocking entry points find, closed at the end."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def guarded(settings_file: Path, store: str) -> Iterator[BlockingRuntime]:
    """Its policy denies the tool `erase`."""
    settings_file.write_text(settings_file.read_text() + DENY_ERASE)
    with custody.open(store) as runtime:
        yield runtime


# -- a scripted model -----------------------------------------------------------------------------------

Said = TextPart | ToolCallPart | Exception


def call(tool: str, call_id: str, /, **arguments: Any) -> ToolCallPart:
    return ToolCallPart(tool, arguments, tool_call_id=call_id)


def text(words: str) -> TextPart:
    return TextPart(words)


def scripted(*turns: list[Said], name: str = "scripted-1") -> FunctionModel:
    """A model that says these turns, one a request, whole or streamed; exceptions among them are raised."""
    left = iter(turns)

    def whole(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        parts: list[Any] = []
        for part in next(left):
            if isinstance(part, Exception):
                raise part
            parts.append(part)
        usage = RequestUsage(
            input_tokens=90, output_tokens=7, cache_read_tokens=64, details={"reasoning_tokens": 5}
        )
        return ModelResponse(parts=parts, usage=usage, finish_reason="stop", provider_response_id="resp_1")

    async def streamed(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        for place, part in enumerate(next(left)):
            if isinstance(part, Exception):
                raise part
            if isinstance(part, TextPart):
                for word in part.content.split(" "):
                    yield word + " "
            else:
                yield {place: DeltaToolCall(name=part.tool_name, tool_call_id=part.tool_call_id)}
                said = part.args_as_json_str()
                for start in range(0, len(said), 6):
                    yield {place: DeltaToolCall(json_args=said[start : start + 6])}

    return FunctionModel(whole, stream_function=streamed, model_name=name)


class City(BaseModel):
    name: str
    people: int


LYON = {"name": "Lyon", "people": 520_000}


def add(a: int, b: int) -> int:
    return a + b


# -- what the record says -------------------------------------------------------------------------------


def steps_of(runtime: BlockingRuntime, run: Any) -> list[StepView]:
    return runtime.index.run_steps(bytes.fromhex(run.id))


def calls_of(runtime: BlockingRuntime, run: Any) -> list[Call]:
    return runtime.index.run_calls(bytes.fromhex(run.id))


def errors_of(runtime: BlockingRuntime, run: Any) -> list[Any]:
    return [
        event.data
        for event in runtime.index.events().items
        if event.name == "run.error" and event.run_id == run.id
    ]


def outline(runtime: BlockingRuntime, run: Any) -> list[tuple[Any, ...]]:
    """Steps and calls in order: a step with the tools it asked for, a call with its outcome and step."""
    steps = {step.id: step for step in steps_of(runtime, run)}
    rows: list[tuple[Any, ...]] = [(s.position, "step", s.requested) for s in steps.values()]
    for made in calls_of(runtime, run):
        of = steps[made.step_id].position if made.step_id in steps else None
        rows.append((made.position, made.tool, made.outcome, of))
    return sorted(rows)


# -- every entry point ----------------------------------------------------------------------------------


def test_a_plain_run_leaves_each_step_and_parallel_call_on_the_record(runtime: BlockingRuntime):
    model = scripted(
        [text("Adding."), call("add", "c1", a=1, b=2), call("add", "c2", a=3, b=4)], [text("3 and 7")]
    )
    agent = Agent(model, tools=[add], capabilities=[Custody()])
    with runtime.run("add up", agent="adder") as run:
        assert agent.run_sync("what is 1+2, and 3+4?").output == "3 and 7"

    assert outline(runtime, run) == [
        (0, "step", ("add", "add")),
        (1, "add", "succeeded", 0),
        (2, "add", "succeeded", 0),
        (3, "step", ()),
    ]
    first, last = steps_of(runtime, run)
    assert (first.model, first.requested_model, first.text, last.text) == (
        "scripted-1",
        "scripted-1",
        "Adding.",
        "3 and 7",
    )
    assert first.tokens == Tokens(input=90, output=7, reasoning=5, cache_read=64, cache_write=None)
    assert (first.finish_reason, first.external_id, first.responded) == ("stop", "resp_1", True)
    assert first.model_us is not None
    assert first.calls == [
        {"id": "c1", "name": "add", "arguments": {"a": 1, "b": 2}},
        {"id": "c2", "name": "add", "arguments": {"a": 3, "b": 4}},
    ]
    made = calls_of(runtime, run)
    assert [(c.external_id, c.arguments, c.result, c.agent) for c in made] == [
        ("c1", {"a": 1, "b": 2}, 3, "adder"),
        ("c2", {"a": 3, "b": 4}, 7, "adder"),
    ]
    assert all(c.latency_us is not None for c in made)
    assert (run.totals.steps, run.totals.input_tokens, run.totals.dropped) == (2, 180, 0)


@pytest.mark.parametrize(
    "entry", ["run", "run_sync", "run_stream", "run_stream_events", "iter", "run_stream_sync"]
)
def test_every_entry_point_leaves_the_same_record(
    runtime: BlockingRuntime, loop: asyncio.AbstractEventLoop, entry: str
):
    agent = Agent(
        scripted([call("add", "c1", a=1, b=2)], [text("three")]), tools=[add], capabilities=[Custody()]
    )

    async def drive() -> None:
        match entry:
            case "run":
                await agent.run("go")
            case "run_stream":
                async with agent.run_stream("go") as streamed:
                    assert [part async for part in streamed.stream_text(delta=True)]
            case "run_stream_events":
                async with agent.run_stream_events("go") as events:
                    async for _ in events:
                        pass
            case _:
                async with agent.iter("go") as nodes:
                    async for _ in nodes:
                        pass

    with runtime.run("any way", agent="adder") as run:
        if entry == "run_sync":
            agent.run_sync("go")
        elif entry == "run_stream_sync":
            with agent.run_stream_sync("go") as streamed:
                assert "".join(streamed.stream_text(delta=True)).strip() == "three"
        else:
            loop.run_until_complete(drive())

    assert outline(runtime, run) == [(0, "step", ("add",)), (1, "add", "succeeded", 0), (2, "step", ())]
    assert [step.text and step.text.strip() for step in steps_of(runtime, run)] == [None, "three"]
    assert errors_of(runtime, run) == []


def test_the_asynchronous_face_takes_the_same_records(store: str, loop: asyncio.AbstractEventLoop):
    agent = Agent(
        scripted([call("add", "c1", a=1, b=2)], [text("three")]), tools=[add], capabilities=[Custody()]
    )

    async def drive() -> None:
        async with custody.open(store) as runtime:
            async with runtime.run("add") as run:
                await agent.run("go")
            calls = await asyncio.to_thread(runtime.index.run_calls, bytes.fromhex(run.id))
            assert [(c.tool, c.result, c.agent) for c in calls] == [("add", 3, "agent")]

    loop.run_until_complete(drive())


def test_a_run_that_is_handed_over_needs_no_surrounding_one(runtime: BlockingRuntime):
    @custody.observed
    def fetch() -> str:
        return "page"

    agent = Agent(scripted([call("read", "c1")], [text("read")]))

    @agent.tool_plain
    def read() -> str:
        return fetch()

    with runtime.run("read") as run:
        nowhere = contextvars.Context()
        nowhere.run(lambda: agent.run_sync("go", capabilities=[Custody(run)]))
    assert [c.tool for c in calls_of(runtime, run)] == ["read", "fetch"]
    assert len(steps_of(runtime, run)) == 2


def test_a_capability_given_to_one_run_replaces_the_agents_own(runtime: BlockingRuntime):
    agent = Agent(
        scripted([call("add", "c1", a=1, b=2)], [text("three")]), tools=[add], capabilities=[Custody()]
    )
    with runtime.run("add") as run:
        agent.run_sync("go", capabilities=[Custody(effects={"add": "read"})])
    assert [(c.tool, c.effect) for c in calls_of(runtime, run)] == [("add", "read")]
    assert len(steps_of(runtime, run)) == 2


def test_of_two_capabilities_of_one_agent_the_last_records(runtime: BlockingRuntime):
    agent = Agent(
        scripted([call("add", "c1", a=1, b=2)], [text("three")]),
        tools=[add],
        capabilities=[Custody(), Custody(effects={"add": "read"})],
    )
    with runtime.run("add") as run:
        agent.run_sync("go")
    assert [(c.tool, c.effect) for c in calls_of(runtime, run)] == [("add", "read")]


def test_toolsets_are_seen_by_the_names_the_model_uses(runtime: BlockingRuntime):
    toolset = FunctionToolset([add]).prefixed("math")
    agent = Agent(
        scripted([call("math_add", "c1", a=1, b=2)], [text("3")]),
        toolsets=[toolset],
        capabilities=[Custody()],
    )
    with runtime.run("add") as run:
        agent.run_sync("go")
    assert [(c.tool, c.result) for c in calls_of(runtime, run)] == [("math_add", 3)]


# -- outputs --------------------------------------------------------------------------------------------


def test_an_output_tool_is_a_call_and_so_is_each_refused_attempt(runtime: BlockingRuntime):
    model = scripted([call("final_result", "f1", name="Lyon")], [call("final_result", "f2", **LYON)])
    agent = Agent(model, output_type=City, capabilities=[Custody()])
    with runtime.run("find a city") as run:
        assert agent.run_sync("go").output == City(**LYON)
    assert outline(runtime, run) == [
        (0, "step", ("final_result",)),
        (1, "final_result", "rejected", 0),
        (2, "step", ("final_result",)),
        (3, "final_result", "succeeded", 2),
    ]
    refused, accepted = calls_of(runtime, run)
    assert (refused.reason, refused.latency_us) == ("ValidationError: people missing", None)
    assert refused.arguments == {"name": "Lyon"}
    assert (accepted.external_id, accepted.arguments, accepted.result) == ("f2", LYON, LYON)


@pytest.mark.parametrize("mode", [NativeOutput, PromptedOutput], ids=["native", "prompted"])
def test_structured_output_in_text_stands_in_the_step_and_its_refusals_among_the_errors(
    runtime: BlockingRuntime, mode: Callable[[type[City]], Any]
):
    model = scripted([text('{"name": "Lyon"}')], [text('{"name": "Lyon", "people": 520000}')])
    agent = Agent(model, output_type=mode(City), capabilities=[Custody()])
    with runtime.run("find a city") as run:
        assert agent.run_sync("go").output == City(**LYON)
    assert outline(runtime, run) == [(0, "step", ()), (1, "step", ())]
    assert [(e["type"], e["stage"]) for e in errors_of(runtime, run)] == [("ValidationError", "output")]


def test_an_output_function_is_a_call_whatever_its_outputs_form(runtime: BlockingRuntime):
    def shout(words: str) -> str:
        return words.upper()

    agent = Agent(scripted([text("hello")]), output_type=TextOutput(shout), capabilities=[Custody()])
    with runtime.run("shout") as run:
        assert agent.run_sync("go").output == "HELLO"
    assert [(c.tool, c.arguments, c.result) for c in calls_of(runtime, run)] == [
        ("shout", {"output": "hello"}, "HELLO")
    ]


def test_an_output_validators_refusal_is_a_failed_call(runtime: BlockingRuntime):
    model = scripted([call("final_result", "f1", **LYON)], [call("final_result", "f2", **LYON)])
    agent = Agent(model, output_type=City, capabilities=[Custody()])
    tries: list[int] = []

    @agent.output_validator
    def check(city: City) -> City:
        tries.append(1)
        if len(tries) == 1:
            raise ModelRetry("not that one")
        return city

    with runtime.run("find a city") as run:
        agent.run_sync("go")
    assert [(c.external_id, c.outcome, c.reason) for c in calls_of(runtime, run)] == [
        ("f1", "failed", "ModelRetry"),
        ("f2", "succeeded", None),
    ]


# -- streaming ------------------------------------------------------------------------------------------


def test_a_streamed_output_tool_is_one_call_of_its_own_step(
    runtime: BlockingRuntime, loop: asyncio.AbstractEventLoop
):
    model = scripted([call("add", "c1", a=1, b=2)], [call("final_result", "f1", **LYON)])
    agent = Agent(model, tools=[add], output_type=City, capabilities=[Custody()])

    async def drive() -> None:
        async with agent.run_stream("go") as streamed:
            partial = [city async for city in streamed.stream_output(debounce_by=None)]
            assert len(partial) > 1
            assert await streamed.get_output() == City(**LYON)

    with runtime.run("find a city") as run:
        loop.run_until_complete(drive())
    assert outline(runtime, run) == [
        (0, "step", ("add",)),
        (1, "add", "succeeded", 0),
        (2, "step", ("final_result",)),
        (3, "final_result", "succeeded", 2),
    ]
    last = steps_of(runtime, run)[-1]
    assert last.tokens is not None and last.tokens.output is not None
    assert last.model_us is None  # the reader's pauses are part of a stream's time
    assert {"stream_us", "first_event_us"} <= last.data.keys()


def test_an_output_that_is_asked_for_again_is_one_call(
    runtime: BlockingRuntime, loop: asyncio.AbstractEventLoop
):
    agent = Agent(scripted([call("final_result", "f1", **LYON)]), output_type=City, capabilities=[Custody()])

    async def drive() -> None:
        async with agent.iter("go") as nodes:
            async for node in nodes:
                if Agent.is_model_request_node(node):
                    async with node.stream(nodes.ctx) as stream:
                        assert [city async for city in stream.stream_output(debounce_by=None)]

    with runtime.run("find a city") as run:
        loop.run_until_complete(drive())
    assert outline(runtime, run) == [
        (0, "step", ("final_result",)),
        (1, "final_result", "succeeded", 0),
    ]


def test_a_count_the_provider_did_not_make_is_unknown(runtime: BlockingRuntime):
    def say(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[TextPart("fine")], usage=RequestUsage(output_tokens=2))

    agent = Agent(FunctionModel(say), capabilities=[Custody()])
    with runtime.run("talk") as run:
        agent.run_sync("go")
    assert [step.tokens for step in steps_of(runtime, run)] == [Tokens(output=2)]


def test_a_stream_that_is_left_early_is_recorded_as_far_as_it_came(
    runtime: BlockingRuntime, loop: asyncio.AbstractEventLoop
):
    agent = Agent(scripted([text("one two three four")]), capabilities=[Custody()])

    async def drive() -> None:
        async with agent.run_stream("go") as streamed:
            async for _ in streamed.stream_text(debounce_by=None):
                break

    with runtime.run("count") as run:
        loop.run_until_complete(drive())
    (step,) = steps_of(runtime, run)
    assert step.text.startswith("one") and "four" not in step.text
    assert (step.responded, step.data["state"]) == (True, "incomplete")


def test_a_stream_that_breaks_keeps_its_beginning_and_its_error(
    runtime: BlockingRuntime, loop: asyncio.AbstractEventLoop
):
    agent = Agent(scripted([text("one two"), ValueError("cut off")]), capabilities=[Custody()])

    async def drive() -> None:
        async with agent.run_stream("go") as streamed:
            async for _ in streamed.stream_text(debounce_by=None):
                pass

    with runtime.run("count") as run, pytest.raises(ValueError, match="cut off"):
        loop.run_until_complete(drive())
    (step,) = steps_of(runtime, run)
    assert (step.text.split(), step.responded, step.data["error"]["message"]) == (
        ["one", "two"],
        True,
        "cut off",
    )
    assert [e["type"] for e in errors_of(runtime, run)] == ["ValueError"]


# -- continued conversation -----------------------------------------------------------------------------


def test_a_conversation_goes_on_in_one_run_and_in_the_next_of_its_session(runtime: BlockingRuntime):
    model = scripted(
        [call("add", "c1", a=1, b=2)],
        [text("three")],
        [call("add", "c2", a=3, b=4)],
        [text("seven")],
        [text("bye")],
    )
    agent = Agent(model, tools=[add], capabilities=[Custody()])
    with runtime.run("talk", session="ticket-7") as run:
        first = agent.run_sync("1+2?")
        second = agent.run_sync("3+4?", message_history=first.all_messages())
    with runtime.run("talk on", session="ticket-7") as later:
        agent.run_sync("thanks", message_history=second.all_messages())

    assert [row[:3] for row in outline(runtime, run)] == [
        (0, "step", ("add",)), (1, "add", "succeeded"), (2, "step", ()),
        (3, "step", ("add",)), (4, "add", "succeeded"), (5, "step", ()),
    ]  # fmt: skip
    assert outline(runtime, later) == [(0, "step", ())]
    agent_runs = [step.data["agent_run"] for step in steps_of(runtime, run)]
    assert len(set(agent_runs)) == 2 and agent_runs == sorted(agent_runs)
    assert {runtime.index.run(r.id).session_id for r in (run, later)} == {"ticket-7"}


def test_a_history_that_ends_in_an_output_tool_is_not_recorded_again(runtime: BlockingRuntime):
    model = scripted([call("final_result", "f1", **LYON)], [call("final_result", "f2", **LYON)])
    agent = Agent(model, output_type=City, capabilities=[Custody()])
    with runtime.run("first") as first:
        history = agent.run_sync("go").all_messages()
    with runtime.run("second") as second:
        agent.run_sync("again", message_history=history)
    assert [[c.external_id for c in calls_of(runtime, r)] for r in (first, second)] == [["f1"], ["f2"]]


# -- what goes wrong ------------------------------------------------------------------------------------


def test_a_tool_that_raises_is_a_failed_call_and_the_run_says_how_it_ended(runtime: BlockingRuntime):
    def divide(a: int) -> float:
        return a / 0

    agent = Agent(
        scripted([call("divide", "c1", a=1)]), tools=[divide], name="maths", capabilities=[Custody()]
    )
    with pytest.raises(ZeroDivisionError), runtime.run("divide") as run:
        agent.run_sync("go")
    (made,) = calls_of(runtime, run)
    assert (made.outcome, made.error) == (
        "failed",
        {"type": "ZeroDivisionError", "message": "division by zero"},
    )
    assert errors_of(runtime, run) == [
        {"message": "division by zero", "type": "ZeroDivisionError", "agent": "maths"}
    ]
    ended = runtime.index.run(run.id)
    assert (ended.outcome, ended.reason) == ("failed", "ZeroDivisionError")


def test_a_model_that_raises_is_a_step_without_an_answer(runtime: BlockingRuntime):
    agent = Agent(scripted([RuntimeError("overloaded")]), capabilities=[Custody()])
    with pytest.raises(RuntimeError), runtime.run("ask") as run:
        agent.run_sync("go")
    (step,) = steps_of(runtime, run)
    assert (step.responded, step.model, step.requested_model) == (False, None, "scripted-1")
    assert step.data["error"] == {"type": "RuntimeError", "message": "overloaded"}
    assert step.tokens is None


def test_each_model_of_a_fallback_is_a_step(runtime: BlockingRuntime):
    down = scripted([RuntimeError("overloaded")], name="first-choice")
    model = FallbackModel(down, scripted([text("hello")], name="second-choice"), fallback_on=(RuntimeError,))
    agent = Agent(model, capabilities=[Custody()])
    with runtime.run("ask") as run:
        agent.run_sync("go")
    assert [(s.requested_model, s.model, s.responded) for s in steps_of(runtime, run)] == [
        ("first-choice", None, False),
        ("fallback:first-choice,second-choice", "second-choice", True),
    ]


def test_a_retry_a_bad_argument_and_an_unknown_tool_each_have_a_call(runtime: BlockingRuntime):
    tries: list[str] = []

    def look(where: str) -> str:
        tries.append(where)
        raise ModelRetry("look elsewhere")

    model = scripted(
        [call("look", "c1", where="here")],
        [call("add", "c2", a=1, b="x")],
        [call("nothing_such", "c3")],
        [text("I give up")],
    )
    agent = Agent(model, tools=[look, add], capabilities=[Custody()], retries=3)
    with runtime.run("look") as run:
        agent.run_sync("go")
    retried, refused, unknown = calls_of(runtime, run)
    assert (retried.outcome, retried.error, retried.step_id) == (
        "failed", {"type": "ModelRetry", "message": "look elsewhere"}, steps_of(runtime, run)[0].id
    )  # fmt: skip
    assert (refused.outcome, refused.reason, refused.latency_us) == (
        "rejected",
        "ValidationError: b int_parsing",
        None,
    )
    assert refused.arguments == {"a": 1, "b": "x"}
    assert (unknown.tool, unknown.outcome, unknown.reason) == ("nothing_such", "rejected", "UnknownTool")
    assert tries == ["here"]


def test_the_refused_argument_that_ends_the_run_is_recorded_with_its_own_cause(runtime: BlockingRuntime):
    model = scripted([call("add", "c1", a=1, b="x"), call("add", "c2", a=1, b=2)])
    agent = Agent(model, tools=[add], capabilities=[Custody()], retries=0)
    with runtime.run("add") as run, pytest.raises(UnexpectedModelBehavior):
        agent.run_sync("go")
    refused, never_came = calls_of(runtime, run)
    assert (refused.outcome, refused.reason) == ("rejected", "ValidationError: b int_parsing")
    assert (never_came.external_id, never_came.outcome) == ("c2", "rejected")
    assert never_came.reason == "UnexpectedModelBehavior"


def test_calls_beyond_a_usage_limit_are_recorded_as_never_run(runtime: BlockingRuntime):
    ran: list[int] = []

    def count(n: int) -> int:
        ran.append(n)
        return n

    model = scripted([call("count", "c1", n=1)], [call("count", "c2", n=2)])
    agent = Agent(model, tools=[count], capabilities=[Custody()])
    with runtime.run("count") as run, pytest.raises(UsageLimitExceeded):
        agent.run_sync("go", usage_limits=UsageLimits(tool_calls_limit=1))
    first, second = calls_of(runtime, run)
    assert (first.outcome, second.outcome, second.reason) == ("succeeded", "rejected", "UsageLimitExceeded")
    assert second.latency_us is None and ran == [1]
    assert [e["type"] for e in errors_of(runtime, run)] == ["UsageLimitExceeded"]


def test_a_model_that_uses_its_ids_again_has_a_call_for_each(runtime: BlockingRuntime):
    model = scripted([call("add", "c1", a=1, b=2)], [call("add", "c1", a=1, b="x")], [text("done")])
    agent = Agent(model, tools=[add], capabilities=[Custody()])
    with runtime.run("add") as run:
        agent.run_sync("go")
    assert [row[:3] for row in outline(runtime, run)] == [
        (0, "step", ("add",)), (1, "add", "succeeded"),
        (2, "step", ("add",)), (3, "add", "rejected"), (4, "step", ()),
    ]  # fmt: skip


def test_a_call_that_a_final_result_overtakes_never_ran(runtime: BlockingRuntime):
    model = scripted([call("final_result", "f1", **LYON), call("add", "c1", a=1, b=2)])
    agent = Agent(model, tools=[add], output_type=City, end_strategy="early", capabilities=[Custody()])
    with runtime.run("find a city") as run:
        agent.run_sync("go")
    assert [(c.tool, c.outcome, c.reason) for c in calls_of(runtime, run)] == [
        ("final_result", "succeeded", None),
        ("add", "rejected", "NotRun"),
    ]


def test_an_agent_run_that_is_cancelled_ends_its_call_as_cancelled(
    runtime: BlockingRuntime, loop: asyncio.AbstractEventLoop
):
    started = asyncio.Event()

    async def wait() -> None:
        started.set()
        await asyncio.Event().wait()

    agent = Agent(scripted([call("wait", "c1")]), tools=[wait], capabilities=[Custody()])

    async def drive() -> None:
        task = asyncio.ensure_future(agent.run("go"))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with runtime.run("wait") as run:
        loop.run_until_complete(drive())
    assert outline(runtime, run) == [(0, "step", ("wait",)), (1, "wait", "cancelled", 0)]


# -- approvals and other capabilities -------------------------------------------------------------------


def test_approved_and_denied_calls_are_recorded_when_their_answer_comes(runtime: BlockingRuntime):
    model = scripted([call("pay", "c1", amount=5), call("pay", "c2", amount=9)], [text("paid one")])
    agent = Agent(model, output_type=[str, DeferredToolRequests], capabilities=[Custody()])
    paid: list[int] = []

    @agent.tool_plain(requires_approval=True)
    def pay(amount: int) -> str:
        paid.append(amount)
        return "ok"

    with runtime.run("pay") as run:
        asked = agent.run_sync("go")
        assert isinstance(asked.output, DeferredToolRequests)
        assert outline(runtime, run) == [(0, "step", ("pay", "pay"))]
        answers = DeferredToolResults(approvals={"c1": True, "c2": ToolDenied("too much")})
        agent.run_sync(message_history=asked.all_messages(), deferred_tool_results=answers)
    made = {c.external_id: c for c in calls_of(runtime, run)}
    assert (made["c1"].outcome, made["c1"].result) == ("succeeded", "ok")
    assert (made["c2"].outcome, made["c2"].reason) == ("rejected", "ToolDenied: too much")
    assert made["c2"].arguments == {"amount": 9} and made["c2"].latency_us is None
    assert paid == [5]


def test_a_tool_that_asks_for_approval_while_it_runs_says_so(runtime: BlockingRuntime):
    agent = Agent(
        scripted([call("pay", "c1", amount=5)], [text("paid")]),
        output_type=[str, DeferredToolRequests],
        capabilities=[Custody()],
    )

    @agent.tool
    def pay(ctx: RunContext[None], amount: int) -> str:
        if not ctx.tool_call_approved:
            raise ApprovalRequired
        return "ok"

    with runtime.run("pay") as run:
        asked = agent.run_sync("go")
        agent.run_sync(
            message_history=asked.all_messages(),
            deferred_tool_results=DeferredToolResults(approvals={"c1": True}),
        )
    assert [(c.outcome, c.reason) for c in calls_of(runtime, run)] == [
        ("rejected", "ApprovalRequired"),
        ("succeeded", None),
    ]


def test_a_call_that_is_made_elsewhere_is_recorded_with_the_result_it_brings(runtime: BlockingRuntime):
    agent = Agent(
        scripted([call("build", "c1", what="shed")], [text("built")]),
        output_type=[str, DeferredToolRequests],
        capabilities=[Custody()],
    )

    @agent.tool_plain
    def build(what: str) -> str:
        raise CallDeferred(metadata={"job": 7})

    with runtime.run("build") as run:
        asked = agent.run_sync("go")
        answers = DeferredToolResults(calls={"c1": "a shed"})
        agent.run_sync(message_history=asked.all_messages(), deferred_tool_results=answers)
    handed_over, built = calls_of(runtime, run)
    assert handed_over.result == {"deferred": "external", "metadata": {"job": 7}}
    assert (built.result, built.source, built.latency_us) == ("a shed", "cache", None)
    assert (handed_over.external_id, built.external_id) == ("c1", "c1")


def test_what_other_capabilities_change_is_recorded_as_it_reaches_the_tool(runtime: BlockingRuntime):
    class Doubled(WrapperToolset[Any]):
        async def call_tool(self, name: str, tool_args: dict[str, Any], ctx: Any, tool: Any) -> Any:
            if tool_args["a"] == 9:
                raise ModelRetry("no nines")  # before the tool is reached
            doubled = {key: value * 2 for key, value in tool_args.items()}
            return f"about {await super().call_tool(name, doubled, ctx, tool)}"

    class Doubling(AbstractCapability[Any]):
        def get_wrapper_toolset(self, toolset: Any) -> Any:
            return Doubled(toolset)

        async def before_tool_execute(
            self, ctx: Any, *, call: Any, tool_def: Any, args: dict[str, Any]
        ) -> dict[str, Any]:
            if args["a"] == 0:
                raise SkipToolExecution("nothing to add")
            return args

    calls = [call("add", "c1", a=1, b=2), call("add", "c2", a=0, b=2), call("add", "c3", a=9, b=2)]
    model = scripted(calls, [text("done")])
    agent = Agent(model, tools=[add], capabilities=[Custody(), Doubling()])
    with runtime.run("add") as run:
        agent.run_sync("go")
    ran, skipped, kept_back = sorted(calls_of(runtime, run), key=lambda c: str(c.external_id))
    assert (kept_back.outcome, kept_back.reason) == ("rejected", "ModelRetry")
    assert (ran.arguments, ran.result) == ({"a": 2, "b": 4}, 6)
    assert (skipped.result, skipped.source, skipped.latency_us) == ("nothing to add", "cache", None)


# -- delegation -----------------------------------------------------------------------------------------


def team(inner_model: FunctionModel, outer_model: FunctionModel, **options: Any) -> Agent[None, str]:
    inner = Agent(inner_model, name="helper", tools=[add], capabilities=[Custody(**options)])
    outer = Agent(outer_model, name="lead", capabilities=[Custody(**options)])

    @outer.tool_plain
    async def delegate(task: str) -> str:
        return (await inner.run(task)).output

    return outer


def test_an_agent_inside_a_tool_works_in_a_child_run_below_its_call(runtime: BlockingRuntime):
    lead = team(
        scripted([call("add", "c1", a=1, b=2)], [text("three")]),
        scripted([call("delegate", "d1", task="add 1 and 2")], [text("it is three")]),
    )
    with runtime.run("answer") as run:
        assert lead.run_sync("go").output == "it is three"
    (child,) = runtime.index.children(run.id).items
    assert (child.agent, child.intent, child.outcome, child.output) == (
        "helper",
        "add 1 and 2",
        "succeeded",
        "three",
    )
    assert outline(runtime, run) == [
        (0, "step", ("delegate",)),
        (1, "delegate", "succeeded", 0),
        (2, "step", ()),
    ]
    assert outline(runtime, child) == [(0, "step", ("add",)), (1, "add", "succeeded", 0), (2, "step", ())]
    (delegated,) = calls_of(runtime, run)
    assert {c.parent_id for c in calls_of(runtime, child)} == {delegated.id}
    assert {s.parent_id for s in steps_of(runtime, child)} == {delegated.id}


def test_agents_delegate_in_the_asynchronous_face_too(store: str, loop: asyncio.AbstractEventLoop):
    async def drive() -> None:
        lead = team(
            scripted([call("add", "c1", a=1, b=2)], [text("three")]),
            scripted([call("delegate", "d1", task="add 1 and 2")], [text("it is three")]),
        )
        async with custody.open(store) as runtime:
            async with runtime.run("answer") as run, lead.run_stream("go") as streamed:
                await streamed.get_output()
            (child,) = (await asyncio.to_thread(runtime.index.children, run.id)).items
            assert (child.agent, child.outcome, child.output) == ("helper", "succeeded", "three")
            assert [c.tool for c in await asyncio.to_thread(calls_of, runtime, child)] == ["add"]

    loop.run_until_complete(drive())


def test_agents_that_take_turns_in_one_run_are_told_apart_by_name(runtime: BlockingRuntime):
    first = Agent(scripted([text("a")]), capabilities=[Custody(agent="planner")])
    second = Agent(scripted([text("b")]), capabilities=[Custody(agent="writer")])
    with runtime.run("write", agent="team") as run:
        first.run_sync("go")
        second.run_sync("go")
    assert [step.agent for step in steps_of(runtime, run)] == ["planner", "writer"]


def test_a_child_run_whose_agent_fails_says_why(runtime: BlockingRuntime):
    lead = team(scripted([RuntimeError("overloaded")]), scripted([call("delegate", "d1", task="add")]))
    with runtime.run("answer") as run, pytest.raises(RuntimeError):
        lead.run_sync("go")
    (child,) = runtime.index.children(run.id).items
    assert (child.outcome, child.reason) == ("failed", "RuntimeError")
    assert [c.outcome for c in calls_of(runtime, run)] == ["failed"]


def test_agents_in_a_circle_are_refused_where_calls_are_guarded_and_recorded_flat_elsewhere(
    runtime: BlockingRuntime,
):
    def circle(guard: bool) -> Agent[None, str]:
        turns = [[call("again", f"c{n}", task="the same")] for n in range(2)]
        agent = Agent(scripted(*turns, [text("deep")], [text("less")], [text("top")]), name="loop",
                      capabilities=[Custody(guard=guard)])  # fmt: skip

        @agent.tool_plain
        async def again(task: str) -> str:
            return (await agent.run(task)).output

        return agent

    with runtime.run("round") as run, pytest.raises(custody.Denied):
        circle(guard=True).run_sync("go")
    assert len(runtime.index.children(run.id, recursive=True).items) == 1
    with runtime.run("round") as run:
        assert circle(guard=False).run_sync("go").output == "top"
    assert len(runtime.index.children(run.id, recursive=True).items) == 1


def test_functions_observed_inside_a_tool_find_their_run_and_parent(runtime: BlockingRuntime):
    @custody.observed(effect="read")
    def fetch(url: str) -> str:
        return "page"

    def read(url: str) -> str:  # runs in a thread
        return fetch(url)

    agent = Agent(
        scripted([call("read", "c1", url="u")], [text("ok")]), tools=[read], capabilities=[Custody()]
    )
    with runtime.run("read") as run:
        agent.run_sync("go")
    outer, inner = calls_of(runtime, run)
    assert (outer.tool, inner.tool, inner.parent_id) == ("read", "fetch", outer.id)


# -- guarded --------------------------------------------------------------------------------------------


def eraser(model: Any, **options: Any) -> tuple[Agent[None, str], list[str]]:
    erased: list[str] = []

    def erase(path: str) -> str:
        erased.append(path)
        return "gone"

    def read(path: str) -> str:
        return "text"

    return Agent(model, tools=[erase, read], capabilities=[Custody(guard=True, **options)]), erased


def assert_refused(guarded: BlockingRuntime, run: BlockingRun) -> None:
    made = {c.external_id: c for c in calls_of(guarded, run)}
    refused, allowed = made["c1"], made["c2"]
    assert (refused.outcome, refused.decision.by, refused.decision.rule) == ("rejected", "rule", "no-erasing")
    assert (refused.arguments, refused.latency_us, refused.step_id) == (
        {"path": "/x"},
        None,
        steps_of(guarded, run)[0].id,
    )
    assert (allowed.outcome, allowed.result, allowed.decision.verdict) == ("succeeded", "text", "allow")
    assert (len(made), len(steps_of(guarded, run))) == (2, 2)


TWO_CALLS = [call("erase", "c1", path="/x"), call("read", "c2", path="/y")]


def test_a_denied_tool_does_not_run_and_the_model_is_told(guarded: BlockingRuntime):
    agent, erased = eraser(scripted([*TWO_CALLS], [text("I may not")]))
    with guarded.run("tidy up") as run:
        result = agent.run_sync("go")
    assert erased == []
    told = [
        p
        for m in result.all_messages()
        for p in m.parts
        if isinstance(p, ToolReturnPart) and p.tool_name == "erase"
    ]
    assert [part.outcome for part in told] == ["denied"]
    assert told[0].content == "erase was refused and did not run: Nothing may be erased here."
    assert result.output == "I may not"
    assert_refused(guarded, run)


def test_a_denied_tool_does_not_run_in_a_stream_either(
    guarded: BlockingRuntime, loop: asyncio.AbstractEventLoop
):
    agent, erased = eraser(scripted([*TWO_CALLS], [text("I may not")]))

    async def drive() -> None:
        async with agent.run_stream("go") as streamed:
            assert (await streamed.get_output()).strip() == "I may not"

    with guarded.run("tidy up") as run:
        loop.run_until_complete(drive())
    assert erased == []
    assert_refused(guarded, run)


def test_a_denial_ends_the_agent_run_where_that_is_asked_for(guarded: BlockingRuntime):
    agent, erased = eraser(scripted([TWO_CALLS[0]]), on_denied="raise")
    with guarded.run("tidy up") as run, pytest.raises(custody.Denied) as denied:
        agent.run_sync("go")
    assert denied.value.details["decision"].rule == "no-erasing"
    assert erased == []
    assert [c.outcome for c in calls_of(guarded, run)] == ["rejected"]


def test_a_denied_output_function_does_not_run(guarded: BlockingRuntime, loop: asyncio.AbstractEventLoop):
    erased: list[str] = []

    def erase(path: str) -> str:
        erased.append(path)
        return "gone"

    def agent() -> Agent[None, Any]:
        model = scripted([call("erase", "c1", path="/some/long/path")], [text("I may not")])
        return Agent(
            model, output_type=[ToolOutput(erase, name="erase"), str], capabilities=[Custody(guard=True)]
        )

    async def drive() -> None:
        async with agent().iter("go") as nodes:
            async for node in nodes:
                if Agent.is_model_request_node(node):
                    async with node.stream(nodes.ctx) as stream:
                        async for _ in stream.stream_output(debounce_by=None):
                            pass

    with guarded.run("tidy up") as run:
        assert agent().run_sync("go").output == "I may not"
    assert [c.outcome for c in calls_of(guarded, run)] == ["rejected"]
    with guarded.run("tidy up") as run, pytest.raises(UnexpectedModelBehavior):
        loop.run_until_complete(drive())
    assert {c.outcome for c in calls_of(guarded, run)} == {"rejected"}
    assert erased == []


def test_a_guarded_call_that_cannot_be_recorded_does_not_run(settings_file: Path):
    agent, erased = eraser(scripted([call("erase", "c1", path="/x")], [text("no")]))
    with custody.open(":memory:") as runtime:
        run = runtime.run("tidy up")
        with run:
            pass
        result = agent.run_sync("go", capabilities=[Custody(run, guard=True)])
    assert erased == []
    assert "finished" in str(result.all_messages()[-2].parts[0])


@pytest.mark.parametrize("guard", [True, False], ids=["guarded", "recorded"])
def test_on_a_full_disk_a_guarded_tool_does_not_run_and_any_other_does(
    loop: asyncio.AbstractEventLoop, guard: bool
):
    disk = FaultyDisk(MemoryDisk())
    erased: list[str] = []

    async def erase(path: str) -> str:
        erased.append(path)
        return "gone"

    model = scripted([call("erase", "c1", path="/x")], [text("as far as I could")])
    agent = Agent(model, tools=[erase], capabilities=[Custody(guard=guard)])

    async def drive() -> str:
        settings = load_settings(store=":memory:")
        async with await open_runtime(settings, disk=disk) as runtime, runtime.run("tidy up"):
            await asyncio.to_thread(runtime.index.refresh)
            disk.inject(
                Fault(operation="put", error=errno.ENOSPC, times=None),
                Fault(operation="create", error=errno.ENOSPC, times=None),
            )
            try:
                return (await agent.run("go")).output
            finally:
                disk.heal()

    assert loop.run_until_complete(drive()) == "as far as I could"
    assert erased == ([] if guard else ["/x"])


def test_guarded_work_without_a_run_does_not_begin():
    agent, erased = eraser(scripted([call("erase", "c1", path="/x")]))
    with pytest.raises(custody.UsageError, match="in a run"):
        agent.run_sync("go")
    with custody.disabled().run("off") as run, pytest.raises(custody.NotRecorded):
        agent.run_sync("go", capabilities=[Custody(run, guard=True)])
    assert erased == []


# -- it disturbs nobody ---------------------------------------------------------------------------------


def test_without_a_run_and_with_custody_disabled_the_agent_works_unrecorded(caplog: pytest.LogCaptureFixture):
    def agent() -> Agent[None, str]:
        return Agent(
            scripted([call("add", "c1", a=1, b=2)], [text("3")]), tools=[add], capabilities=[Custody()]
        )

    assert agent().run_sync("go").output == "3"
    assert "outside a run" in caplog.text
    caplog.clear()
    with custody.disabled().run("off") as run:
        assert agent().run_sync("go", capabilities=[Custody(run)]).output == "3"
    assert [one.message for one in caplog.records if one.name == "custody"] == []


def test_a_fault_in_recording_is_counted_and_the_agent_goes_on(
    runtime: BlockingRuntime, caplog: pytest.LogCaptureFixture
):
    class Broken(dict[str, int]):
        def get(self, *_: Any) -> Any:
            raise RuntimeError("usage is broken")

    def say(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        usage = RequestUsage(input_tokens=1, details=Broken(tokens=1))
        return ModelResponse(parts=[TextPart("fine")], usage=usage)

    agent = Agent(FunctionModel(say), capabilities=[Custody()])
    with runtime.run("talk") as run:
        assert agent.run_sync("go").output == "fine"
    assert run.totals.dropped == 1
    assert "could not be made" in caplog.text


def test_importing_custody_loads_no_framework_and_a_missing_one_is_answered_with_its_pip_line():
    program = (
        "import sys, custody; custody.open; assert 'pydantic_ai' not in sys.modules\n"
        "sys.modules['pydantic_ai'] = None\n"
        "try:\n import custody.adapters.pydantic_ai\n"
        "except custody.UsageError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert "pip install -U pydantic-ai-slim" in done.stdout


def test_what_is_no_run_is_refused():
    with pytest.raises(custody.UsageError):
        Custody("a run")  # type: ignore[arg-type]
    with pytest.raises(custody.UsageError):
        Custody(on_denied="ignore")  # type: ignore[arg-type]


# -- the how-to -----------------------------------------------------------------------------------------


def test_the_examples_of_the_how_to_run(
    tmp_path: Path, settings_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    document = HOW_TO.read_text(encoding="utf-8")
    monkeypatch.setenv("XDG_DATA_HOME", os.fspath(tmp_path / "data"))
    (rule,) = re.findall(r"```toml\n(.*?)```", document, re.DOTALL)
    settings_file.write_text(settings_file.read_text() + rule)
    blocks = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(HOW_TO), "exec"), names)
    assert len(blocks) >= 2
    assert capsys.readouterr().out.splitlines() == ["lookup succeeded", "send rejected"]
