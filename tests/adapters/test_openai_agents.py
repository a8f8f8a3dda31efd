"""The adapter for the OpenAI Agents SDK, against the real package with a scripted model and no network."""

import asyncio
import errno
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import agents
import mcp
import pytest
from agents.mcp import MCPServer
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from agents.tracing import response_span
from msgspec import Struct
from openai.types.responses import (
    Response,
    ResponseApplyPatchToolCall,
    ResponseCustomToolCall,
    ResponseFunctionShellToolCall,
    ResponseFunctionWebSearch,
    ResponseReasoningItem,
)
from openai.types.responses.response_apply_patch_tool_call import OperationCreateFile
from openai.types.responses.response_function_shell_tool_call import Action as ShellAction
from openai.types.responses.response_function_web_search import ActionSearch
from pydantic import BaseModel

import custody
from custody.adapters.openai_agents import CustodyHooks, CustodyRunner
from custody.calls.run import RunRecord
from custody.compose import open_runtime
from custody.index import EventView, StepView
from custody.journal import MemoryDisk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.records import Call, Run, Tokens
from custody.settings import load_settings

SERVED = "gpt-4o-mini-2024-07-18"
USAGE = agents.Usage(
    requests=1,
    input_tokens=100,
    output_tokens=20,
    total_tokens=120,
    input_tokens_details={"cached_tokens": 40, "cache_write_tokens": 0},
    output_tokens_details={"reasoning_tokens": 7},
)
KNOWN = Tokens(input=100, output=20, reasoning=7, cache_read=40, cache_write=None)

HOW = pytest.mark.parametrize("how", ["run", "run_sync", "run_streamed"])


agents.set_trace_processors([])  # nothing leaves the machine; the SDK's tracing itself is on


@pytest.fixture(autouse=True)
def _tracing_as_it_was() -> Iterator[None]:
    yield
    agents.set_tracing_disabled(False)


# -- a model that says what it is told to ---------------------------------------------------------------


class Scripted(ScriptedModel):
    """A model with a name, whose turns have ids: `resp-1`, `resp-2`."""

    model = "gpt-4o-mini"

    def __init__(self, *turns: Any) -> None:
        super().__init__(
            turn
            if isinstance(turn, Exception)
            else ModelStep(output=turn, usage=USAGE, response_id=f"resp-{number}")
            for number, turn in enumerate(turns, 1)
        )


class Traced(Scripted):
    """Tells the SDK's tracing which model answered, as the SDK's own models do."""

    async def get_response(self, *arguments: Any, **named: Any) -> agents.ModelResponse:
        with response_span() as span:
            answer = await super().get_response(*arguments, **named)
            span.span_data.response = Response.model_construct(
                id=answer.response_id, model=SERVED, status="incomplete", incomplete_details=Cut()
            )
            return answer

    async def stream_response(self, *arguments: Any, **named: Any) -> AsyncIterator[Any]:
        with response_span() as span:
            async for event in super().stream_response(*arguments, **named):
                if event.type == "response.completed":
                    event.response.model = SERVED
                    span.span_data.response = event.response
                yield event


class Cut(BaseModel):
    reason: str = "max_output_tokens"


def says(text: str) -> list[Any]:
    return [assistant_message(text)]


def asks(*calls: tuple[str, str, Any]) -> list[Any]:
    return [function_call(name, arguments, call_id=call_id) for call_id, name, arguments in calls]


# -- what it was asked, done ----------------------------------------------------------------------------


class Recorded(Struct, frozen=True):
    """What the store says of a run, and what the SDK said to its caller."""

    run: Run
    steps: list[StepView]
    calls: list[Call]
    events: list[EventView]
    result: Any
    error: BaseException | None

    def event(self, name: str) -> dict[str, Any]:
        (found,) = [event for event in self.events if event.name == name]
        return found.data


def read(runtime: Any, run: RunRecord, result: Any = None, error: BaseException | None = None) -> Recorded:
    index = runtime.index
    events = [event for event in index.events().items if event.run_id == run.id]
    return Recorded(
        index.run(run.id),
        index.run_steps(run.run_id),
        index.run_calls(run.run_id, details=True),
        events,
        result,
        error,
    )


def drive(runner: CustodyRunner, how: str, agent: Any, input: Any = "go", **options: Any) -> Any:
    """One of the SDK's three ways in, to its end."""
    if how == "run_sync":
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            return runner.run_sync(agent, input, **options)
        finally:
            asyncio.set_event_loop(None)
            loop.close()
    return asyncio.run(go(runner, how, agent, input, **options))


async def go(runner: CustodyRunner, how: str, agent: Any, input: Any = "go", **options: Any) -> Any:
    if how == "run":
        return await runner.run(agent, input, **options)
    result = runner.run_streamed(agent, input, **options)
    async for _ in result.stream_events():
        pass
    return result


def play(
    store: str, how: str, agent: Any, *, runner: dict[str, Any] | None = None, **options: Any
) -> Recorded:
    """One run of the SDK as one run of Custody's."""
    result, error = None, None
    with custody.open(store) as runtime:
        try:
            with runtime.run("a task", agent="tests") as run:
                result = drive(CustodyRunner(run, **(runner or {})), how, agent, **options)
        except Exception as raised:
            error = raised
        return read(runtime, run, result, error)


@agents.function_tool
def add(a: int, b: int) -> int:
    return a + b


@agents.function_tool
def boom(a: int) -> int:
    raise KeyError("k")


def together() -> Any:
    """A tool that ends only once two of its calls run at the same time."""
    inside: list[int] = []
    both: list[asyncio.Event] = []

    @agents.function_tool
    async def meet(place: int) -> str:
        inside.append(place)
        both.append(asyncio.Event())
        if len(inside) == 2:
            for event in both:
                event.set()
        await asyncio.wait_for(both[len(both) - 1 if len(inside) == 2 else 0].wait(), 20)
        return f"met at {place}"

    return meet


def acting() -> tuple[Any, list[str]]:
    """A tool with an effect, and what it did."""
    deleted: list[str] = []

    @agents.function_tool
    def delete_file(path: str) -> str:
        deleted.append(path)
        return "gone"

    return delete_file, deleted


@pytest.fixture
def deny(settings_file: Path) -> Callable[[str], None]:
    """Add a rule to the policy."""

    def add_rule(rule: str) -> None:
        with settings_file.open("a", encoding="utf-8") as file:
            file.write(f"\n[[policy.rules]]\n{rule}\n")

    return add_rule


# -- plain, structured, continued -----------------------------------------------------------------------


@HOW
def test_every_step_and_parallel_call_is_recorded(store, how):
    model = Scripted(asks(("c1", "meet", {"place": 1}), ("c2", "meet", {"place": 2})), says("done"))
    recorded = play(store, how, agents.Agent(name="Ada", model=model, tools=[together()]))

    assert recorded.result.final_output == "done"
    assert recorded.run.outcome == "succeeded"
    first, last = recorded.steps
    assert (first.position, first.requested, first.text) == (0, ("meet", "meet"), None)
    assert first.calls == [
        {"id": "c1", "name": "meet", "arguments": {"place": 1}},
        {"id": "c2", "name": "meet", "arguments": {"place": 2}},
    ]
    assert (first.agent, first.requested_model, first.external_id) == ("Ada", "gpt-4o-mini", "resp-1")
    assert (first.tokens, last.tokens) == (KNOWN, KNOWN)
    assert first.model_us is not None
    assert (last.position, last.text, last.finish_reason) == (3, "done", "completed")
    assert [(call.position, call.external_id, call.arguments, call.result) for call in recorded.calls] == [
        (1, "c1", {"place": 1}, "met at 1"),
        (2, "c2", {"place": 2}, "met at 2"),
    ]
    for call in recorded.calls:
        assert (call.tool, call.outcome, call.source, call.agent) == ("meet", "succeeded", "observed", "Ada")
        assert call.step_id == first.id
        assert call.latency_us is not None


@pytest.mark.parametrize("how", ["run", "run_streamed"])
def test_a_run_of_a_coroutine_is_recorded_as_well(store, how):
    agent = agents.Agent(
        name="Ada", model=Scripted(asks(("c1", "add", {"a": 1, "b": 2})), says("3")), tools=[add]
    )

    async def main() -> Recorded:
        async with custody.open(store) as runtime:
            async with runtime.run("a task") as run:
                result = await go(CustodyRunner(run), how, agent)
            return read(runtime, run, result)

    recorded = asyncio.run(main())
    assert recorded.result.final_output == "3"
    assert [step.text for step in recorded.steps] == [None, "3"]
    assert [(call.result, call.step_id) for call in recorded.calls] == [(3, recorded.steps[0].id)]


class Weather(BaseModel):
    city: str
    celsius: int


@HOW
def test_structured_output_is_a_step_with_its_text(store, how):
    model = Scripted(says('{"city":"Oslo","celsius":3}'))
    recorded = play(store, how, agents.Agent(name="Ada", model=model, output_type=Weather))
    assert recorded.result.final_output == Weather(city="Oslo", celsius=3)
    assert [step.text for step in recorded.steps] == ['{"city":"Oslo","celsius":3}']


@HOW
def test_output_that_does_not_have_its_structure_is_recorded_before_it_ends_the_run(store, how):
    recorded = play(store, how, agents.Agent(name="Ada", model=Scripted(says("warm")), output_type=Weather))
    assert isinstance(recorded.error, agents.ModelBehaviorError)
    assert [(step.text, step.responded) for step in recorded.steps] == [("warm", True)]
    assert recorded.event("run.error")["type"] == "ModelBehaviorError"
    assert recorded.run.outcome == "failed"


@HOW
def test_a_conversation_goes_on_in_the_same_run_and_in_a_new_run_of_the_session(store, how):
    model = Scripted(
        asks(("c1", "add", {"a": 1, "b": 2})), says("3"), says("as I said, 3"), says("and still 3")
    )
    agent = agents.Agent(name="Ada", model=model, tools=[add])
    memory = agents.SQLiteSession("talk")
    with custody.open(store) as runtime:
        with runtime.run("a talk", session="talk") as run:
            first = drive(CustodyRunner(run), how, agent, session=memory)
            items = [*first.to_input_list(), {"role": "user", "content": "again?"}]
            drive(CustodyRunner(run), how, agent, items)
        with runtime.run("the talk goes on", session="talk") as later:
            drive(CustodyRunner(later), how, agent, session=memory)
        one, two = read(runtime, run), read(runtime, later)
    memory.close()
    assert [step.text for step in one.steps] == [None, "3", "as I said, 3"]
    assert [step.position for step in one.steps] == [0, 2, 3]
    assert [step.text for step in two.steps] == ["and still 3"]
    assert one.run.session_id == two.run.session_id == "talk"
    assert len(model.calls[-1].input) > 3  # the SDK's own memory was in use


# -- what goes wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize("traced", [True, False])
@HOW
def test_a_tool_that_raises_is_a_failed_call_and_the_run_goes_on(store, how, traced):
    agents.set_tracing_disabled(not traced)
    model = Scripted(asks(("c1", "boom", {"a": 1})), says("sorry"))
    recorded = play(store, how, agents.Agent(name="Ada", model=model, tools=[boom]))
    (call,) = recorded.calls
    assert (call.outcome, call.reason) == ("failed", "KeyError")
    assert call.error == {"type": "KeyError", "message": "'k'"}
    assert "An error occurred" in call.result  # what the model was told
    assert recorded.result.final_output == "sorry"


def test_a_failure_that_the_tool_turns_into_a_text_is_known_where_tracing_is_on():
    @agents.function_tool(failure_error_function=lambda context, error: "it did not work")
    def fragile() -> None:
        raise OSError("no route")

    model = Scripted(asks(("c1", "fragile", {})), says("sorry"))
    recorded = play(":memory:", "run", agents.Agent(name="Ada", model=model, tools=[fragile]))
    assert [(call.outcome, call.result) for call in recorded.calls] == [("failed", "it did not work")]


@pytest.mark.parametrize("traced", [True, False])
@HOW
def test_a_tool_whose_exception_ends_the_run_is_told_from_the_one_that_is_cancelled(store, how, traced):
    agents.set_tracing_disabled(not traced)

    @agents.function_tool
    async def wait_for_ever() -> None:
        await asyncio.Event().wait()

    @agents.function_tool(failure_error_function=None)
    async def explode() -> None:
        raise LookupError("gone")

    model = Scripted(asks(("c1", "wait_for_ever", {}), ("c2", "explode", {})))
    agent = agents.Agent(name="Ada", model=model, tools=[wait_for_ever, explode])
    recorded = play(store, how, agent)
    assert isinstance(recorded.error, agents.UserError)
    outcomes = {call.external_id: (call.outcome, (call.error or {}).get("type")) for call in recorded.calls}
    assert outcomes == {"c1": ("cancelled", "CancelledError"), "c2": ("failed", "LookupError")}
    assert recorded.event("run.error")["type"] == "UserError"


@HOW
def test_a_tool_that_the_sdk_gives_up_on_has_timed_out(store, how):
    @agents.function_tool(timeout=0.01)
    async def slow() -> None:
        await asyncio.Event().wait()

    model = Scripted(asks(("c1", "slow", {})), says("too slow"))
    recorded = play(store, how, agents.Agent(name="Ada", model=model, tools=[slow]))
    assert [call.outcome for call in recorded.calls] == ["timed_out"]


@HOW
def test_a_model_that_raises_is_a_step_without_an_answer(store, how):
    model = Scripted(asks(("c1", "add", {"a": 1, "b": 2})), ConnectionError("no line"))
    recorded = play(store, how, agents.Agent(name="Ada", model=model, tools=[add]))
    assert isinstance(recorded.error, ConnectionError)
    assert [step.responded for step in recorded.steps] == [True, False]
    silent = recorded.steps[1]
    assert silent.data == {"error": {"type": "ConnectionError", "message": "no line"}}
    assert (silent.agent, silent.requested_model, silent.tokens) == ("Ada", "gpt-4o-mini", None)
    assert silent.model_us is not None
    assert (recorded.run.outcome, recorded.run.reason) == ("failed", "ConnectionError")
    assert recorded.event("run.error") == {"message": "no line", "type": "ConnectionError"}


@HOW
def test_too_many_turns_are_an_error_of_the_run(store, how):
    model = Scripted(*(asks((f"c{turn}", "add", {"a": turn, "b": 1})) for turn in range(3)))
    recorded = play(store, how, agents.Agent(name="Ada", model=model, tools=[add]), max_turns=2)
    assert isinstance(recorded.error, agents.MaxTurnsExceeded)
    assert [call.result for call in recorded.calls] == [1, 2]
    assert recorded.event("run.error")["type"] == "MaxTurnsExceeded"


def test_a_stream_that_is_cancelled_leaves_nothing_open(store):
    started = asyncio.Event()

    @agents.function_tool
    async def wait_for_ever() -> None:
        started.set()
        await asyncio.Event().wait()

    agent = agents.Agent(name="Ada", model=Scripted(asks(("c1", "wait_for_ever", {}))), tools=[wait_for_ever])

    async def main() -> Recorded:
        async with custody.open(store) as runtime:
            async with runtime.run("a task") as run:
                result = CustodyRunner(run).run_streamed(agent, "go")
                await started.wait()
                result.cancel()
                async for _ in result.stream_events():
                    pass
            return read(runtime, run)

    assert [call.outcome for call in asyncio.run(main()).calls] == ["cancelled"]


# -- several agents -------------------------------------------------------------------------------------


@HOW
def test_a_handoff_goes_on_in_the_same_run_under_the_other_agents_name(store, how):
    other = agents.Agent(name="Billing", model=Scripted(says("paid")))
    model = Scripted(asks(("c1", "transfer_to_billing", {})))
    recorded = play(store, how, agents.Agent(name="Front", model=model, handoffs=[other]))
    assert [(step.agent, step.text) for step in recorded.steps] == [("Front", None), ("Billing", "paid")]
    assert recorded.event("app.openai_agents.handoff") == {"from_agent": "Front", "to_agent": "Billing"}
    assert recorded.calls == []


@HOW
def test_an_agent_that_is_a_tool_is_recorded_below_its_call(store, how):
    inner = agents.Agent(
        name="Counter", model=Scripted(asks(("c1", "add", {"a": 1, "b": 2})), says("three")), tools=[add]
    )
    with custody.open(store) as runtime:
        with runtime.run("a task") as run:
            runner = CustodyRunner(run)
            outer = agents.Agent(
                name="Boss",
                model=Scripted(asks(("c1", "count", {"input": "1 and 2"})), says("it is three")),
                tools=[inner.as_tool("count", "counts", hooks=runner.hooks)],
            )
            drive(runner, how, outer)
        recorded = read(runtime, run)
    count, added = recorded.calls
    assert (count.tool, count.agent, count.parent_id, count.result) == ("count", "Boss", None, "three")
    assert (added.tool, added.agent, added.parent_id, added.result) == ("add", "Counter", count.id, 3)
    assert [(step.agent, step.parent_id, step.text) for step in recorded.steps] == [
        ("Boss", None, None),
        ("Counter", count.id, None),
        ("Counter", count.id, "three"),
        ("Boss", None, "it is three"),
    ]
    assert added.step_id == recorded.steps[1].id


@HOW
def test_a_model_that_raises_in_an_agent_that_is_a_tool_fails_that_call(store, how):
    agents.set_tracing_disabled(True)
    inner = agents.Agent(name="Counter", model=Scripted(ConnectionError("no line")))
    with custody.open(store) as runtime:
        with runtime.run("a task") as run:
            runner = CustodyRunner(run)
            tool = inner.as_tool("count", "counts", hooks=runner.hooks)
            model = Scripted(asks(("c1", "count", {"input": "1"})), says("sorry"))
            drive(runner, how, agents.Agent(name="Boss", model=model, tools=[tool]))
        recorded = read(runtime, run)
    (call,) = recorded.calls
    assert call.outcome == "failed"
    steps = [(step.agent, step.responded, step.parent_id) for step in recorded.steps]
    assert steps == [("Boss", True, None), ("Counter", False, call.id), ("Boss", True, None)]


# -- guarding -------------------------------------------------------------------------------------------


@HOW
def test_a_denied_tool_does_not_run_and_the_model_is_told_why(store, how, deny):
    deny('name = "keep files"\nreason = "Files stay."\ndeny_tool = "delete_file"')
    tool, deleted = acting()
    model = Scripted(
        asks(("c1", "delete_file", {"path": "a"}), ("c2", "add", {"a": 1, "b": 2})), says("left alone")
    )
    agent = agents.Agent(name="Ada", model=model, tools=[tool, add])
    recorded = play(store, how, agent, runner={"guard": True, "effects": {"delete_file": "irreversible"}})

    assert deleted == []
    assert recorded.result.final_output == "left alone"
    refused, allowed = recorded.calls
    assert (refused.tool, refused.outcome, refused.external_id) == ("delete_file", "rejected", "c1")
    assert (refused.effect, refused.arguments) == ("irreversible", {"path": "a"})
    assert (refused.decision.verdict, refused.decision.rule) == ("deny", "keep files")
    assert (allowed.tool, allowed.outcome, allowed.result) == ("add", "succeeded", 3)
    assert allowed.decision.verdict == "allow"
    assert refused.step_id == allowed.step_id == recorded.steps[0].id
    told = {item["call_id"]: item["output"] for item in model.calls[-1].input if "output" in item}
    assert "Files stay." in told["c1"]
    assert told["c2"] == "3"


@HOW
def test_a_rule_about_an_argument_refuses_that_call_alone(store, how, deny):
    deny('deny_tool_param = { tool = "delete_file", param = "path", matches = "^/etc/" }')
    tool, deleted = acting()
    model = Scripted(
        asks(("c1", "delete_file", {"path": "/etc/hosts"}), ("c2", "delete_file", {"path": "draft"})),
        says("done"),
    )
    recorded = play(store, how, agents.Agent(name="Ada", model=model, tools=[tool]), runner={"guard": True})
    assert deleted == ["draft"]
    assert {call.external_id: call.outcome for call in recorded.calls} == {
        "c1": "rejected",
        "c2": "succeeded",
    }


@HOW
def test_a_denied_tool_raises_where_that_was_asked_for(store, how, deny):
    deny('deny_tool = "delete_file"')
    tool, deleted = acting()
    agent = agents.Agent(name="Ada", model=Scripted(asks(("c1", "delete_file", {"path": "a"}))), tools=[tool])
    recorded = play(store, how, agent, runner={"guard": True, "on_denied": "raise"})
    assert isinstance(recorded.error, custody.Denied)
    assert recorded.error.details["decision"].verdict == "deny"
    assert (deleted, [call.outcome for call in recorded.calls]) == ([], ["rejected"])


@HOW
def test_a_denied_handoff_ends_the_run(store, how, deny):
    deny('deny_tool = "transfer_to_billing"')
    other = agents.Agent(name="Billing", model=Scripted(says("paid")))
    agent = agents.Agent(
        name="Front", model=Scripted(asks(("c1", "transfer_to_billing", {}))), handoffs=[other]
    )
    recorded = play(store, how, agent, runner={"guard": True})
    assert isinstance(recorded.error, custody.Denied)
    assert [step.agent for step in recorded.steps] == ["Front"]


@HOW
def test_tools_of_an_agent_that_is_a_tool_are_guarded_too(store, how, deny):
    deny('deny_tool = "delete_file"')
    tool, deleted = acting()
    inner_model = Scripted(asks(("c1", "delete_file", {"path": "a"})), says("could not"))
    inner = agents.Agent(name="Cleaner", model=inner_model, tools=[tool])
    with custody.open(store) as runtime:
        with runtime.run("a task") as run:
            runner = CustodyRunner(run, guard=True)
            model = Scripted(asks(("c1", "clean", {"input": "up"})), says("not done"))
            tools = [inner.as_tool("clean", "cleans", hooks=runner.hooks)]
            drive(runner, how, agents.Agent(name="Boss", model=model, tools=tools))
        recorded = read(runtime, run)
    assert deleted == []
    assert [(call.tool, call.outcome) for call in recorded.calls] == [
        ("clean", "succeeded"),
        ("delete_file", "rejected"),
    ]
    assert recorded.calls[1].parent_id == recorded.calls[0].id


@HOW
def test_an_agent_that_is_a_tool_and_was_given_no_hooks_is_not_run_while_guarding(store, how, caplog):
    tool, deleted = acting()
    inner_model = Scripted(asks(("c1", "delete_file", {"path": "a"})), says("gone"))
    inner = agents.Agent(name="Cleaner", model=inner_model, tools=[tool])
    model = Scripted(asks(("c1", "clean", {"input": "up"})), says("not done"))
    agent = agents.Agent(name="Boss", model=model, tools=[inner.as_tool("clean", "cleans")])
    recorded = play(store, how, agent, runner={"guard": True})
    assert deleted == []
    assert inner_model.calls == ()
    assert [(call.tool, call.outcome) for call in recorded.calls] == [("clean", "failed")]
    assert "without Custody's hooks" in recorded.event("run.error")["message"]
    assert "hooks=runner.hooks" in caplog.text


@HOW
def test_an_agent_that_is_a_tool_and_was_given_no_hooks_is_said_not_to_be_recorded(store, how):
    inner = agents.Agent(name="Counter", model=Scripted(says("three")))
    model = Scripted(asks(("c1", "count", {"input": "1"})), says("it is three"))
    agent = agents.Agent(name="Boss", model=model, tools=[inner.as_tool("count", "counts")])
    recorded = play(store, how, agent)
    assert [step.agent for step in recorded.steps] == ["Boss", "Boss"]
    said = recorded.event("app.openai_agents.not_recorded")
    assert said == {"agent": "Counter", "reason": "as_tool without hooks"}


class Machine(agents.AsyncComputer):
    """A computer on which nothing may be pressed."""

    environment = "browser"
    dimensions = (1, 1)

    def __init__(self) -> None:
        self.did: list[str] = []

    async def screenshot(self) -> str:
        self.did.append("screenshot")
        return "data"

    async def click(self, *_: Any, **__: Any) -> None: ...
    async def double_click(self, *_: Any, **__: Any) -> None: ...
    async def scroll(self, *_: Any, **__: Any) -> None: ...
    async def type(self, *_: Any, **__: Any) -> None: ...
    async def wait(self, *_: Any, **__: Any) -> None: ...
    async def move(self, *_: Any, **__: Any) -> None: ...
    async def keypress(self, *_: Any, **__: Any) -> None: ...
    async def drag(self, *_: Any, **__: Any) -> None: ...


def screenshot_asked_for() -> list[Any]:
    from openai.types.responses import ResponseComputerToolCall
    from openai.types.responses.response_computer_tool_call import ActionScreenshot

    return [
        ResponseComputerToolCall(
            id="i1",
            call_id="c1",
            type="computer_call",
            status="completed",
            pending_safety_checks=[],
            action=ActionScreenshot(type="screenshot"),
        )
    ]


def test_a_computer_is_recorded(store):
    machine = Machine()
    agent = agents.Agent(
        name="Ada", model=Scripted(screenshot_asked_for(), says("seen")), tools=[agents.ComputerTool(machine)]
    )
    recorded = play(store, "run", agent)
    (call,) = recorded.calls
    assert (call.outcome, call.external_id, call.result) == ("succeeded", "c1", "data")
    assert call.arguments["action"] == {"type": "screenshot"}
    assert call.step_id == recorded.steps[0].id


def test_a_denied_tool_that_the_sdk_cannot_refuse_ends_the_run_before_it_acts(store, deny):
    deny('deny_tool_glob = "computer*"')
    machine = Machine()
    agent = agents.Agent(
        name="Ada", model=Scripted(screenshot_asked_for(), says("seen")), tools=[agents.ComputerTool(machine)]
    )
    recorded = play(store, "run", agent, runner={"guard": True})
    assert isinstance(recorded.error, custody.Denied)
    assert machine.did == []
    assert [call.outcome for call in recorded.calls] == ["rejected"]


def shell_asked_for() -> list[Any]:
    action = ShellAction(commands=["rm -r /"], max_output_length=None, timeout_ms=None)
    return [
        ResponseFunctionShellToolCall(
            id="i1", call_id="c1", type="shell_call", status="completed", action=action
        )
    ]


@pytest.mark.parametrize(("guarded", "outcome"), [(False, "succeeded"), (True, "rejected")])
def test_a_shell_of_this_machine_is_recorded_and_refused_like_a_function(store, deny, guarded, outcome):
    deny('deny_tool = "shell"')
    ran: list[str] = []

    def execute(request: agents.ShellCommandRequest) -> str:
        ran.extend(request.data.action.commands)
        return "done"

    model = Scripted(shell_asked_for(), says("well"))
    agent = agents.Agent(name="Ada", model=model, tools=[agents.ShellTool(executor=execute)])
    recorded = play(store, "run", agent, runner={"guard": guarded})
    (call,) = recorded.calls
    assert (call.tool, call.outcome, call.external_id) == ("shell", outcome, "c1")
    assert call.arguments["action"]["commands"] == ["rm -r /"]
    assert call.step_id == recorded.steps[0].id
    assert ran == ([] if guarded else ["rm -r /"])
    assert recorded.result.final_output == "well"


class Notes:
    """An editor that only counts."""

    def __init__(self) -> None:
        self.did: list[str] = []

    def create_file(self, operation: Any) -> str:
        self.did.append(operation.path)
        return "created"

    update_file = delete_file = create_file


def other_tools() -> dict[str, Callable[[], tuple[Any, Any, list[str]]]]:
    """Kinds of tools beside functions: the tool, what the model says to call it, and what it did."""

    def patch() -> tuple[Any, Any, list[str]]:
        editor = Notes()
        operation = OperationCreateFile(type="create_file", path="notes.md", diff="+hello")
        call = ResponseApplyPatchToolCall(
            id="i1", call_id="c1", type="apply_patch_call", status="completed", operation=operation
        )
        return agents.ApplyPatchTool(editor=editor), call, editor.did

    def custom() -> tuple[Any, Any, list[str]]:
        did: list[str] = []

        async def invoke(context: Any, said: str) -> str:
            did.append(said)
            return "done"

        tool = agents.CustomTool(name="sql", description="asks", on_invoke_tool=invoke)
        call = ResponseCustomToolCall(call_id="c1", name="sql", input="drop table x", type="custom_tool_call")
        return tool, call, did

    return {"apply_patch": patch, "sql": custom}


@pytest.mark.parametrize(("guarded", "outcome"), [(False, "succeeded"), (True, "rejected")])
@pytest.mark.parametrize("name", ["apply_patch", "sql"])
def test_patches_and_custom_tools_are_recorded_and_refused_like_a_function(deny, name, guarded, outcome):
    deny(f'deny_tool = "{name}"')
    tool, asked, did = other_tools()[name]()
    agent = agents.Agent(name="Ada", model=Scripted([asked], says("well")), tools=[tool])
    recorded = play(":memory:", "run", agent, runner={"guard": guarded})
    (call,) = recorded.calls
    assert (call.tool, call.outcome, call.external_id) == (name, outcome, "c1")
    assert call.step_id == recorded.steps[0].id
    assert call.arguments
    assert len(did) == (0 if guarded else 1)
    assert recorded.result.final_output == "well"


class Library(MCPServer):
    """A server of tools in this process."""

    def __init__(self) -> None:
        super().__init__()
        self.did: list[Any] = []

    name = "library"

    async def connect(self) -> None: ...
    async def cleanup(self) -> None: ...
    async def list_prompts(self) -> Any: ...
    async def get_prompt(self, name: str, arguments: Any = None) -> Any: ...

    async def list_tools(self, *_: Any) -> list[Any]:
        schema = {"type": "object", "properties": {"title": {"type": "string"}}}
        return [mcp.types.Tool(name="lend", description="lends", inputSchema=schema)]

    async def call_tool(self, tool_name: str, arguments: Any, meta: Any = None) -> Any:
        self.did.append(arguments)
        return mcp.types.CallToolResult(content=[mcp.types.TextContent(type="text", text="lent")])


@pytest.mark.parametrize(("guarded", "outcome"), [(False, "succeeded"), (True, "rejected")])
def test_tools_of_an_mcp_server_are_recorded_and_refused_like_a_function(deny, guarded, outcome):
    deny('deny_tool = "lend"')
    server = Library()
    model = Scripted(asks(("c1", "lend", {"title": "Emma"})), says("well"))
    agent = agents.Agent(name="Ada", model=model, mcp_servers=[server])
    recorded = play(":memory:", "run", agent, runner={"guard": guarded})
    (call,) = recorded.calls
    assert (call.tool, call.outcome, call.arguments) == ("lend", outcome, {"title": "Emma"})
    assert server.did == ([] if guarded else [{"title": "Emma"}])
    assert guarded or call.result == {"type": "text", "text": "lent"}


def test_what_a_shell_of_the_provider_has_done_is_not_said_to_be_refused(store, deny):
    deny('deny_tool = "shell"')
    hosted = agents.ShellTool(environment={"type": "container_auto"})
    model = Scripted([*shell_asked_for(), *says("well")])
    recorded = play(
        store, "run", agents.Agent(name="Ada", model=model, tools=[hosted]), runner={"guard": True}
    )
    assert recorded.error is None
    assert recorded.calls == []
    assert recorded.steps[0].requested == ("shell",)


def test_a_call_that_a_person_approves_is_decided_before_and_recorded_when_it_runs(store, deny):
    deny('deny_tool_param = { tool = "pay", param = "euros", equals = 100 }')
    paid: list[int] = []

    @agents.function_tool(needs_approval=True)
    def pay(euros: int) -> str:
        paid.append(euros)
        return "paid"

    model = Scripted(asks(("c1", "pay", {"euros": 100}), ("c2", "pay", {"euros": 5})), says("done"))
    agent = agents.Agent(name="Ada", model=model, tools=[pay])

    async def main() -> tuple[Recorded, list[Any]]:
        async with custody.open(store) as runtime:
            async with runtime.run("a task") as run:
                runner = CustodyRunner(run, guard=True)
                first = await runner.run(agent, "go")
                pending = [item.call_id for item in first.interruptions]
                state = first.to_state()
                state.approve(first.interruptions[0])
                await runner.run(agent, state)
            return read(runtime, run), pending

    recorded, pending = asyncio.run(main())
    assert pending == ["c2"]
    assert paid == [5]
    assert recorded.event("app.openai_agents.approval_needed") == {"tool": "pay", "external_id": "c2"}
    assert [(call.external_id, call.outcome) for call in recorded.calls] == [
        ("c1", "rejected"),
        ("c2", "succeeded"),
    ]


@pytest.mark.parametrize("how", ["run", "run_streamed"])
def test_nothing_runs_while_it_cannot_be_recorded(how):
    tool, deleted = acting()
    model = Scripted(asks(("c1", "delete_file", {"path": "a"})), says("not now"))
    agent = agents.Agent(name="Ada", model=model, tools=[tool])
    disk = FaultyDisk(MemoryDisk())

    async def main() -> Any:
        settings = load_settings(store=":memory:")
        async with await open_runtime(settings, disk=disk) as runtime:
            try:
                async with runtime.run("a task") as run:
                    disk.inject(
                        Fault(operation="put", error=errno.ENOSPC, times=None),
                        Fault(operation="create", error=errno.ENOSPC, times=None),
                    )
                    return await go(CustodyRunner(run, guard=True), how, agent)
            finally:
                disk.heal()

    assert asyncio.run(main()).final_output == "not now"
    assert deleted == []
    (told,) = [item["output"] for item in model.calls[-1].input if "output" in item]
    assert told.startswith("Not run: ")


# -- guardrails, hooks and what else is seen ------------------------------------------------------------


@agents.input_guardrail
async def no_homework(context: Any, agent: Any, said: Any) -> agents.GuardrailFunctionOutput:
    return agents.GuardrailFunctionOutput(output_info={"topic": "homework"}, tripwire_triggered=True)


@agents.output_guardrail
async def no_numbers(context: Any, agent: Any, said: Any) -> agents.GuardrailFunctionOutput:
    return agents.GuardrailFunctionOutput(output_info={"digits": 2}, tripwire_triggered=True)


@HOW
@pytest.mark.parametrize(
    ("guardrails", "kind", "name", "info"),
    [
        ({"input_guardrails": [no_homework]}, "input", "no_homework", {"topic": "homework"}),
        ({"output_guardrails": [no_numbers]}, "output", "no_numbers", {"digits": 2}),
    ],
)
def test_a_guardrail_that_trips_is_an_event(how, guardrails, kind, name, info):
    recorded = play(":memory:", how, agents.Agent(name="Ada", model=Scripted(says("42")), **guardrails))
    assert isinstance(recorded.error, agents.AgentsException)
    said = recorded.event("app.openai_agents.guardrail")
    assert said == {"kind": kind, "guardrail": name, "info": info}


@HOW
def test_a_guardrail_of_a_tool_that_rejects_is_an_event_and_no_call(how):
    @agents.tool_input_guardrail
    def small_numbers(data: Any) -> agents.ToolGuardrailFunctionOutput:
        return agents.ToolGuardrailFunctionOutput.reject_content("too large", output_info={"most": 9})

    @agents.function_tool(tool_input_guardrails=[small_numbers])
    def double(a: int) -> int:
        return a * 2

    model = Scripted(asks(("c1", "double", {"a": 10})), says("no"))
    recorded = play(":memory:", how, agents.Agent(name="Ada", model=model, tools=[double]))
    assert recorded.calls == []
    said = recorded.event("app.openai_agents.guardrail")
    assert said == {"kind": "tool_input", "guardrail": "small_numbers", "info": {"most": 9}}


@pytest.mark.parametrize(
    ("how", "reason"),
    [("run", "max_output_tokens"), ("run_sync", "max_output_tokens"), ("run_streamed", "completed")],
)
def test_the_model_that_answered_is_known_where_the_sdk_traces_it(store, how, reason):
    recorded = play(store, how, agents.Agent(name="Ada", model=Traced(says("cut off"))))
    (step,) = recorded.steps
    assert (step.model, step.requested_model) == (SERVED, "gpt-4o-mini")
    assert step.finish_reason == reason
    assert step.cost_nano_usd is not None


def test_what_the_provider_runs_is_seen_in_the_step(store):
    search = ResponseFunctionWebSearch(
        id="ws1",
        type="web_search_call",
        status="completed",
        action=ActionSearch(type="search", query="fjords"),
    )
    thought = ResponseReasoningItem(id="r1", type="reasoning", summary=[])
    recorded = play(store, "run", agents.Agent(name="Ada", model=Scripted([thought, search, *says("deep")])))
    (step,) = recorded.steps
    assert (step.requested, step.text) == (("web_search",), "deep")
    assert step.calls[0]["id"] == "ws1"
    assert step.calls[0]["arguments"]["action"]["query"] == "fjords"
    assert recorded.calls == []


def test_hooks_and_settings_of_the_user_stay_in_use():
    class Theirs(agents.RunHooks):
        def __init__(self) -> None:
            self.heard: list[str] = []

        async def on_agent_start(self, context: Any, agent: Any) -> None:
            self.heard.append("agent_start")

        async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
            self.heard.append("agent_end")

        async def on_llm_start(self, *_: Any) -> None:
            self.heard.append("llm_start")

        async def on_llm_end(self, *_: Any) -> None:
            self.heard.append("llm_end")

        async def on_tool_start(self, *_: Any) -> None:
            self.heard.append("tool_start")

        async def on_tool_end(self, *_: Any) -> None:
            self.heard.append("tool_end")

        async def on_handoff(self, *_: Any) -> None:
            self.heard.append("handoff")

    hooks = Theirs()
    other = agents.Agent(name="Billing", model=Scripted(says("paid")))
    model = Scripted(asks(("c1", "boom", {"a": 1})), asks(("c2", "transfer_to_billing", {})))
    recorded = play(
        ":memory:",
        "run",
        agents.Agent(name="Ada", model=model, tools=[boom], handoffs=[other]),
        hooks=hooks,
        run_config={"tool_error_formatter": lambda said: f"{said.kind}: {said.tool_name}"},
    )
    assert [call.result for call in recorded.calls] == ["tool_exception: boom"]
    turn = ["llm_start", "llm_end"]
    agent_two = ["agent_start", *turn, "agent_end"]
    assert hooks.heard == ["agent_start", *turn, "tool_start", "tool_end", *turn, "handoff", *agent_two]


def test_the_hooks_alone_record_steps_and_calls(store):
    agent = agents.Agent(
        name="Ada", model=Scripted(asks(("c1", "add", {"a": 1, "b": 2})), says("3")), tools=[add]
    )
    with custody.open(store) as runtime:
        with runtime.run("a task") as run:
            asyncio.run(agents.Runner.run(agent, "go", hooks=CustodyHooks(run)))
        recorded = read(runtime, run)
    assert [step.text for step in recorded.steps] == [None, "3"]
    assert [call.result for call in recorded.calls] == [3]


def test_two_runs_of_the_sdk_at_once_do_not_mix(store):
    async def main() -> Recorded:
        meet = together()
        async with custody.open(store) as runtime:
            async with runtime.run("a task") as run:
                runner = CustodyRunner(run)
                models = [Scripted(asks(("c1", "meet", {"place": n})), says(str(n))) for n in (1, 2)]
                two = [agents.Agent(name=f"A{n}", model=m, tools=[meet]) for n, m in enumerate(models, 1)]
                await asyncio.gather(*(runner.run(agent, "go") for agent in two))
            return read(runtime, run)

    recorded = asyncio.run(main())
    agent_of = {step.id: step.agent for step in recorded.steps}
    assert sorted(
        (call.agent, agent_of[call.step_id], call.arguments["place"]) for call in recorded.calls
    ) == [("A1", "A1", 1), ("A2", "A2", 2)]


# -- never in the way -----------------------------------------------------------------------------------


class BrokenResponse(ScriptedModel):
    """Answers with something no response should be: its usage is missing."""

    async def get_response(self, *arguments: Any, **named: Any) -> agents.ModelResponse:
        answer = await super().get_response(*arguments, **named)
        answer.output[0].__dict__["status"] = ["unhashable"]
        return answer


def test_a_defect_in_recording_is_counted_and_the_agent_goes_on(store, caplog):
    recorded = play(store, "run", agents.Agent(name="Ada", model=BrokenResponse([says("hello")])))
    assert recorded.result.final_output == "hello"
    assert recorded.run.outcome == "succeeded"
    assert recorded.run.totals.dropped == 1
    assert "could not be made" in caplog.text


@HOW
def test_recording_that_is_turned_off_changes_nothing(how):
    agent = agents.Agent(
        name="Ada", model=Scripted(asks(("c1", "add", {"a": 1, "b": 2})), says("3")), tools=[add]
    )
    with custody.disabled() as runtime, runtime.run("a task") as run:
        assert drive(CustodyRunner(run), how, agent).final_output == "3"


def test_a_guard_without_a_record_is_refused_before_the_agent_starts():
    refused = pytest.raises(custody.NotRecorded, match="Custody is disabled")
    with custody.disabled() as runtime, runtime.run("a task") as run, refused:
        CustodyRunner(run, guard=True)


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_importing_custody_does_not_import_the_sdk():
    assert python("import sys, custody, custody.calls.run; print('agents' in sys.modules)") == "False\n"


def test_a_missing_package_is_answered_with_its_pip_line():
    said = python(
        """
        import sys
        sys.modules["agents"] = None
        from custody.errors import UsageError
        try:
            import custody.adapters.openai_agents
        except UsageError as error:
            print(error)
        """
    )
    assert said == "This adapter needs the OpenAI Agents SDK. pip install openai-agents\n"


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "openai-agents.md"


def example(number: int, language: str = "python") -> str:
    """The block of this language on the page of the how-to."""
    return PAGE.read_text(encoding="utf-8").split(f"```{language}\n")[number].split("```")[0]


def run_example(number: int, model: Any, monkeypatch: pytest.MonkeyPatch, store: str) -> list[Call]:
    """Run the program as it stands, with a scripted model in place of the SDK's. Its calls."""
    real = agents.Agent
    monkeypatch.setattr(agents, "Agent", lambda **options: real(model=model, **options))
    monkeypatch.setenv("CUSTODY_STORE", store)
    exec(compile(example(number), str(PAGE), "exec"), {"__name__": "__main__"})
    with custody.open(store) as runtime:
        (run,) = runtime.index.runs().items
        return runtime.index.run_calls(bytes.fromhex(run.id), details=True)


def test_the_first_example_of_the_how_to_runs(monkeypatch, tmp_path, capsys):
    model = Scripted(asks(("c1", "weather", {"city": "Oslo"})), says("It is 21 degrees."))
    (call,) = run_example(1, model, monkeypatch, str(tmp_path / "store"))
    assert (call.tool, call.outcome, call.result) == ("weather", "succeeded", "Oslo: 21 degrees")
    assert capsys.readouterr().out == "It is 21 degrees.\n"


def test_the_guarded_example_of_the_how_to_refuses(monkeypatch, tmp_path, settings_file, capsys):
    with settings_file.open("a", encoding="utf-8") as file:
        file.write(example(1, "toml"))
    model = Scripted(
        asks(("c1", "delete_file", {"path": "/etc/hosts"}), ("c2", "delete_file", {"path": "draft"})),
        says("I may not."),
    )
    calls = run_example(2, model, monkeypatch, str(tmp_path / "store"))
    assert [(call.arguments["path"], call.outcome, call.effect) for call in calls] == [
        ("/etc/hosts", "rejected", "irreversible"),
        ("draft", "succeeded", "irreversible"),
    ]
    (told, _) = [item["output"] for item in model.calls[-1].input if "output" in item]
    assert told in PAGE.read_text(encoding="utf-8")
    assert capsys.readouterr().out == "I may not.\n"


def test_a_call_beyond_a_budget_or_refused_to_one_agent_is_told_to_the_model(store, settings_file, deny):
    deny('name = "not Ada"\ndecision = "deny"\nagent = "Ada"\ntool = "delete_file"\neffect = "irreversible"')
    with settings_file.open("a", encoding="utf-8") as file:
        file.write("[policy.budgets.run]\ncalls = 1\n")
    tool, deleted = acting()
    look = agents.function_tool(lambda: "seen", name_override="look")
    model = Scripted(
        asks(("c1", "delete_file", {"path": "a"})),
        asks(("c2", "look", {})),
        asks(("c3", "look", {})),
        says("ok"),
    )
    agent = agents.Agent(name="Ada", model=model, tools=[tool, look])
    guarded = {"guard": True, "effects": {"delete_file": "irreversible"}}
    recorded = play(store, "run", agent, runner=guarded)
    assert deleted == []
    assert [(call.external_id, call.outcome, call.decision.by) for call in recorded.calls] == [
        ("c1", "rejected", "rule"),
        ("c2", "succeeded", "rule"),
        ("c3", "rejected", "budget"),
    ]


def test_hooks_that_serve_run_after_run_do_not_grow_without_end(store, deny, monkeypatch):
    monkeypatch.setattr("custody.adapters.openai_agents_watch.REMEMBERED_MAX", 3)
    deny('deny_tool = "delete_file"')
    tool, deleted = acting()
    with custody.open(store) as runtime, runtime.run("a task") as run:
        hooks = CustodyHooks(run, guard=True)
        for number in range(5):
            model = Scripted(asks((f"c{number}", "delete_file", {"path": "a"})), says("left alone"))
            agent = agents.Agent(name="Ada", model=model, tools=[tool])
            asyncio.run(agents.Runner.run(agent, "go", hooks=hooks))
        watch = hooks._now()  # pyright: ignore[reportPrivateUsage]
        assert deleted == []
        assert max(map(len, (watch.refused, watch.requested, watch.started, watch.errors))) == 3
