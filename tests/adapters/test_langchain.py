"""The adapter for LangChain and LangGraph, against the real packages with a scripted model and no network."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.documents import Document
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import ToolException, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphRecursionError
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt
from pydantic import BaseModel
from tests.adapters.langchain_scripted import (
    ASK,
    KNOWN,
    Scripted,
    ainvoke,
    assert_two_searches,
    calls,
    custody_document,
    delete,
    errors,
    every_way_in,
    explode,
    graph_by_hand,
    invoke,
    ran,
    says,
    search,
    steps,
    stream_updates,
    told,
    two_searches,
)

import custody
from custody.adapters.langchain import CustodyCallbacks, CustodyGuard
from custody.adapters.langchain_messages import result_of, tokens_of, turn_of


@every_way_in
def test_every_turn_and_parallel_call_of_an_agent_is_recorded_once(runtime: Any, way_in: Any):
    agent = create_agent(two_searches(), [search])
    with runtime.run("look") as run:
        way_in(agent, {"callbacks": [CustodyCallbacks(run)]})
    assert_two_searches(runtime, run)


@every_way_in
def test_a_graph_built_by_hand_is_recorded_alike(runtime: Any, way_in: Any):
    graph = graph_by_hand(two_searches(), ToolNode([search])).compile()
    with runtime.run("look") as run:
        way_in(graph, {"callbacks": [CustodyCallbacks(run)]})
    assert_two_searches(runtime, run)


def test_an_invocation_on_the_async_face_is_recorded_alike(store: str):
    async def scene() -> None:
        async with custody.open(store) as runtime, runtime.run("look") as run:
            agent = create_agent(two_searches(), [search], middleware=[CustodyGuard(run)])
            await agent.ainvoke(ASK, {"callbacks": [CustodyCallbacks(run)]})
            await run.finish()
            await asyncio.to_thread(assert_two_searches, runtime, run)

    asyncio.run(scene())


def test_what_a_coroutine_does_is_recorded_in_its_own_thread(runtime: Any):
    @tool
    async def look(where: str) -> str:
        """Look."""
        return where

    with runtime.run("look") as run:
        asyncio.run(look.ainvoke({"where": "x"}, {"callbacks": [CustodyCallbacks(run)]}))
    assert [call.thread_id for call in calls(runtime, run)] == [threading.get_native_id()]


def test_without_a_run_it_is_the_one_around_the_invocation(runtime: Any):
    agent = create_agent(two_searches(), [search], middleware=[CustodyGuard()])
    with runtime.run("look") as run:
        agent.invoke(ASK, {"callbacks": [CustodyCallbacks()]})
    assert_two_searches(runtime, run)


def test_without_any_run_callbacks_say_so_once_and_a_guard_lets_nothing_run(caplog: Any):
    agent = create_agent(two_searches(), [search])
    agent.invoke(ASK, {"callbacks": [CustodyCallbacks()]})
    assert [one.message for one in caplog.records if one.name == "custody"] == [
        "CustodyCallbacks has no run and there is none around it: nothing is recorded."
    ]
    model = Scripted(script=[says("", ("call_d", "delete", {"path": "/"}))])
    guarded = create_agent(model, [delete], middleware=[CustodyGuard()])
    with pytest.raises(custody.UsageError, match="no run"):
        guarded.invoke(ASK)
    assert ran == []


def test_with_custody_disabled_the_same_code_runs_and_nothing_is_recorded():
    with custody.disabled().run("look") as run:
        agent = create_agent(two_searches(), [search])
        answer = agent.invoke(ASK, {"callbacks": [CustodyCallbacks(run)]})
    assert answer["messages"][-1].text == "Done with both."


# -- plain runnables ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way_in", ["invoke", "stream", "ainvoke", "astream"])
def test_a_bound_model_and_tools_run_by_hand_are_joined_by_the_models_own_ids(runtime: Any, way_in: str):
    model = Scripted(script=[says("Looking.", ("call_a", "search", {"query": "a"})), says("Done.")])
    bound = model.bind_tools([search])

    async def gather(chunks: AsyncIterator[Any]) -> list[Any]:
        return [chunk async for chunk in chunks]

    def ask(config: Any) -> Any:
        if way_in == "invoke":
            return bound.invoke("go", config)
        if way_in == "ainvoke":
            return asyncio.run(bound.ainvoke("go", config))
        if way_in == "stream":
            chunks = list(bound.stream("go", config))
        else:
            chunks = asyncio.run(gather(bound.astream("go", config)))
        return sum(chunks[1:], chunks[0])

    with runtime.run("look") as run:
        config = {"callbacks": [CustodyCallbacks(run)]}
        message = ask(config)
        ask(config)
        search.invoke({**message.tool_calls[0], "type": "tool_call"}, config)
    first, second = steps(runtime, run)
    (call,) = calls(runtime, run)
    assert (first.text, second.text, first.finish_reason) == ("Looking.", "Done.", "tool_calls")
    assert custody_document(first.tokens) == KNOWN
    assert (call.external_id, call.step_id, call.result) == ("call_a", first.id, {"found": "a"})


def test_conversations_in_a_batch_keep_their_own_turns_though_their_call_ids_are_the_same(runtime: Any):
    def one_search(query: str) -> Scripted:
        return Scripted(script=[says(f"Ask {query}.", ("call_1", "search", {"query": query})), says("Done.")])

    agents = {query: create_agent(one_search(query), [search]) for query in "abcd"}
    fan = RunnableLambda(lambda query, config: agents[query].invoke(ASK, config))
    with runtime.run("look") as run:
        fan.batch(list("abcd"), {"callbacks": [CustodyCallbacks(run)]})
    asked = {step.id: step.text for step in steps(runtime, run)}
    found = calls(runtime, run)
    assert sorted(asked[call.step_id] for call in found) == ["Ask a.", "Ask b.", "Ask c.", "Ask d."]
    assert all(asked[call.step_id] == f"Ask {call.arguments['query']}." for call in found)
    assert sorted([call.position for call in found] + [step.position for step in steps(runtime, run)]) == [
        *range(12)
    ]


def test_a_text_completion_model_and_a_retriever_are_recorded(runtime: Any):
    class Shelf(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            return [Document("a page")]

    with runtime.run("look") as run:
        config = {"callbacks": [CustodyCallbacks(run)]}
        pages = Shelf().invoke("what", config)
        FakeListLLM(responses=["an answer"]).invoke(pages[0].page_content, config)
    (call,), (step,) = calls(runtime, run), steps(runtime, run)
    assert (call.tool, call.effect, call.arguments) == ("Shelf", "read", {"query": "what"})
    assert call.result[0]["fields"]["page_content"] == "a page"
    assert (step.text, step.tokens, step.model) == ("an answer", None, None)


# -- structured output, conversations -------------------------------------------------------------------


class Weather(BaseModel):
    """The weather."""

    degrees: int


def test_structured_output_through_a_tool_is_a_step_whose_request_never_runs(runtime: Any):
    model = Scripted(script=[says("", ("call_s", "Weather", {"degrees": 21}))])
    with runtime.run("look") as run:
        agent = create_agent(model, [search], response_format=ToolStrategy(Weather))
        answer = agent.invoke(ASK, {"callbacks": [CustodyCallbacks(run)]})
    assert answer["structured_response"] == Weather(degrees=21)
    (step,) = steps(runtime, run)
    assert (step.requested, step.calls[0]["arguments"]) == (("Weather",), {"degrees": 21})
    assert calls(runtime, run) == []


def test_structured_output_of_the_provider_is_the_text_of_a_step(runtime: Any):
    model = Scripted(script=[says('{"degrees": 21}')])
    with runtime.run("look") as run:
        agent = create_agent(model, [search], response_format=ProviderStrategy(Weather))
        answer = agent.invoke(ASK, {"callbacks": [CustodyCallbacks(run)]})
    assert answer["structured_response"] == Weather(degrees=21)
    assert [step.text for step in steps(runtime, run)] == ['{"degrees": 21}']


def test_a_model_with_structured_output_is_recorded_also_when_the_answer_does_not_parse(runtime: Any):
    model = Scripted(script=[says("", ("call_s", "Weather", {"degrees": "warm"}))])
    with runtime.run("look") as run, pytest.raises(ValueError, match="degrees"):
        model.with_structured_output(Weather).invoke("go", {"callbacks": [CustodyCallbacks(run)]})
    (step,) = steps(runtime, run)
    assert (step.requested, step.responded) == (("Weather",), True)
    assert [error["type"] for error in errors(runtime, run)] == ["ValidationError"]


def test_a_continued_conversation_records_only_what_is_new_in_each_run_of_its_session(runtime: Any):
    model = Scripted(
        script=[says("Look.", ("call_1", "search", {"query": "a"})), says("Found a."), says("As I said: a.")]
    )
    agent = create_agent(model, [search], checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "t1"}}
    with runtime.run("first", session="t1") as first:
        agent.invoke(ASK, {**thread, "callbacks": [CustodyCallbacks(first)]})
    with runtime.run("again", session="t1") as second:
        answer = agent.invoke(ASK, {**thread, "callbacks": [CustodyCallbacks(second)]})
    assert len(answer["messages"]) == 6
    assert [step.text for step in steps(runtime, first)] == ["Look.", "Found a."]
    assert [step.text for step in steps(runtime, second)] == ["As I said: a."]
    assert [call.external_id for call in calls(runtime, first)] == ["call_1"]
    assert calls(runtime, second) == []


@pytest.mark.parametrize("guarded", [False, True])
def test_a_tool_that_waits_for_a_person_is_cancelled_and_called_again_when_it_goes_on(
    runtime: Any, guarded: bool
):
    @tool
    def send(text: str) -> str:
        """Send after approval."""
        return f"sent {text}: {interrupt('may I?')}"

    model = Scripted(script=[says("", ("call_1", "send", {"text": "hi"})), says("Sent.")])
    middleware = [CustodyGuard()] if guarded else []
    agent = create_agent(model, [send], checkpointer=InMemorySaver(), middleware=middleware)
    thread = {"configurable": {"thread_id": "t1"}}
    with runtime.run("send") as run:
        agent.invoke(ASK, {**thread, "callbacks": [CustodyCallbacks(run)]})
        agent.invoke(Command(resume="yes"), {**thread, "callbacks": [CustodyCallbacks(run)]})
    waited, sent = calls(runtime, run)
    assert (waited.outcome, sent.outcome, sent.result) == ("cancelled", "succeeded", "sent hi: yes")
    assert {call.step_id for call in (waited, sent)} == {steps(runtime, run)[0].id}
    assert errors(runtime, run) == []


# -- when something goes wrong --------------------------------------------------------------------------


@every_way_in
@pytest.mark.parametrize("guarded", [False, True], ids=["recorded", "guarded"])
def test_a_tool_that_raises_ends_the_invocation_and_is_recorded_with_what_it_said(
    runtime: Any, way_in: Any, guarded: bool
):
    model = Scripted(script=[says("", ("call_x", "explode", {"how": "way"}))])
    agent = create_agent(model, [explode], middleware=[CustodyGuard()] if guarded else [])
    with runtime.run("look") as run, pytest.raises(ValueError, match="no way"):
        way_in(agent, {"callbacks": [CustodyCallbacks(run)]})
    (call,) = calls(runtime, run)
    assert (call.outcome, call.error) == ("failed", {"type": "ValueError", "message": "no way"})
    assert (call.external_id, call.step_id) == ("call_x", steps(runtime, run)[0].id)
    assert [(one["type"], one["message"]) for one in errors(runtime, run)] == [("ValueError", "no way")]


def test_an_error_the_framework_turns_into_a_message_is_a_failed_call_and_the_agent_goes_on(runtime: Any):
    @tool
    def look(where: str) -> str:
        """Look."""
        raise ToolException("nothing there")

    look.handle_tool_error = True
    model = Scripted(script=[says("", ("call_1", "look", {"where": "x"})), says("I see.")])
    for middleware in ([], [CustodyGuard()]):
        script = [one.model_copy() for one in model.script]
        agent = create_agent(Scripted(script=script), [look], middleware=middleware)
        with runtime.run("look") as run:
            answer = agent.invoke(ASK, {"callbacks": [CustodyCallbacks(run)]})
        assert told(answer["messages"]) == [("error", "nothing there")]
        (call,) = calls(runtime, run)
        assert (call.outcome, call.error) == ("failed", {"type": "ToolError", "message": "nothing there"})
        assert errors(runtime, run) == []


def test_a_result_that_says_it_failed_is_a_failure_though_the_framework_made_text_of_it(runtime: Any):
    @tool
    def pay(amount: int) -> dict[str, Any]:
        """Pay."""
        return {"success": False, "left": 3}

    model = Scripted(script=[says("", ("call_1", "pay", {"amount": 1})), says("Sorry.")])
    with runtime.run("pay") as run:
        create_agent(model, [pay]).invoke(ASK, {"callbacks": [CustodyCallbacks(run)]})
    (call,) = calls(runtime, run)
    assert (call.outcome, call.result) == ("failed", {"success": False, "left": 3})


@every_way_in
def test_a_model_that_raises_is_a_step_without_an_answer(runtime: Any, way_in: Any):
    agent = create_agent(Scripted(script=[TimeoutError("the provider is slow")]), [search])
    with runtime.run("look") as run, pytest.raises(TimeoutError):
        way_in(agent, {"callbacks": [CustodyCallbacks(run)]})
    (step,) = steps(runtime, run)
    assert (step.responded, step.text, step.requested_model) == (False, None, "gpt-4o-mini")
    assert step.data == {"error": {"type": "TimeoutError", "message": "the provider is slow"}}
    assert [one["type"] for one in errors(runtime, run)] == ["TimeoutError"]


def test_a_stream_that_breaks_off_keeps_what_had_come(runtime: Any):
    model = Scripted(script=[says("It begins BREAK off")])
    with runtime.run("look") as run, pytest.raises(ConnectionError):
        list(model.stream("go", {"callbacks": [CustodyCallbacks(run)]}))
    (step,) = steps(runtime, run)
    assert (step.responded, step.text, step.finish_reason) == (True, "It begins ", None)
    assert step.data["error"]["type"] == "ConnectionError"


def test_a_reader_that_stops_reading_is_no_error_of_the_run(runtime: Any):
    agent = create_agent(two_searches(), [search])
    with runtime.run("look") as run:
        chunks = agent.stream(ASK, {"callbacks": [CustodyCallbacks(run)]}, stream_mode="updates")
        next(chunks)
        chunks.close()
    assert [step.text for step in steps(runtime, run)] == ["Two things."]
    assert errors(runtime, run) == []


@pytest.mark.parametrize("way_in", [invoke, stream_updates, ainvoke], ids=lambda way: way.__name__)
def test_an_agent_that_goes_round_in_circles_is_recorded_up_to_its_limit(runtime: Any, way_in: Any):
    turns = [says("", (f"call_{turn}", "search", {"query": "again"})) for turn in range(9)]
    agent = create_agent(Scripted(script=turns), [search])
    with pytest.raises(GraphRecursionError), runtime.run("look") as run:
        way_in(agent, {"recursion_limit": 5, "callbacks": [CustodyCallbacks(run)]})
    assert len(steps(runtime, run)) == 3
    assert len(calls(runtime, run)) == 2
    assert [one["type"] for one in errors(runtime, run)] == ["GraphRecursionError"]


@pytest.mark.parametrize("guarded", [False, True])
def test_a_cancelled_invocation_leaves_no_call_open(runtime: Any, guarded: bool):
    begun = asyncio.Event()

    @tool
    async def wait(why: str) -> str:
        """Wait for ever."""
        begun.set()
        await asyncio.Event().wait()
        return why

    model = Scripted(script=[says("", ("call_w", "wait", {"why": "so"}))])
    agent = create_agent(model, [wait], middleware=[CustodyGuard()] if guarded else [])

    async def scene(config: Any) -> None:
        task = asyncio.create_task(agent.ainvoke(ASK, config))
        async with asyncio.timeout(30):
            await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with runtime.run("look") as run:
        asyncio.run(scene({"callbacks": [CustodyCallbacks(run)]}))
    (call,) = calls(runtime, run)
    assert call.outcome == "cancelled"
    assert runtime.index.open_calls() == []
    assert errors(runtime, run) == []


def test_an_error_in_the_adapter_is_counted_and_the_agent_goes_on(runtime: Any):
    class Odd(dict[str, Any]):
        def get(self, *_: Any) -> Any:
            raise RuntimeError("odd metadata")

    callbacks = CustodyCallbacks()
    with runtime.run("look") as run:
        callbacks.on_llm_start(None, ["go"], run_id=uuid4(), metadata=Odd(ls_model_name="x"))
        answer = create_agent(two_searches(), [search]).invoke(ASK, {"callbacks": [callbacks]})
    assert answer["messages"][-1].text == "Done with both."
    assert (callbacks.failures, run.totals.dropped) == (1, 1)
    assert len(steps(runtime, run)) == 2


def test_what_comes_after_the_run_has_finished_is_refused_and_the_agent_goes_on(runtime: Any):
    agent = create_agent(two_searches(), [search])
    with runtime.run("look") as run:
        pass
    answer = agent.invoke(ASK, {"callbacks": [CustodyCallbacks(run)]})
    assert answer["messages"][-1].text == "Done with both."
    assert run.totals.refused == 4
    assert steps(runtime, run) == calls(runtime, run) == []


def test_with_on_error_raise_what_cannot_be_recorded_stops_the_agent(runtime: Any):
    agent = create_agent(two_searches(), [search])
    with runtime.run("look", on_error="raise") as run:
        pass
    with pytest.raises(custody.UsageError, match="has finished"):
        agent.invoke(ASK, {"callbacks": [CustodyCallbacks(run)]})


# -- what messages say ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "made", "known"),
    [
        ({"flex_cache_read": 3, "flex": 90}, {"priority_reasoning": 4}, (3, None, 4)),
        (
            {"cache_creation": 0, "ephemeral_5m_input_tokens": 6, "ephemeral_1h_input_tokens": 1},
            {},
            (None, 7, None),
        ),
        ({"cache_read": None, "audio": 3}, {"audio": 1}, (None, None, None)),
    ],
)
def test_token_details_are_found_under_the_names_providers_packages_give_them(
    read: Any, made: Any, known: Any
):
    counted = tokens_of({"input_token_details": read, "output_token_details": made})
    assert (counted["cache_read"], counted["cache_write"], counted["reasoning"]) == known


@pytest.mark.parametrize("content", ["{not json", "[" * 60_000, "[1, 2"])
def test_a_tool_message_that_is_no_json_is_its_own_result(content: str):
    assert result_of(ToolMessage(content, tool_call_id="c")) == content


def test_arguments_that_are_no_json_are_kept_as_the_model_wrote_them():
    message = AIMessage(
        "",
        id="lc_run--made-up",
        invalid_tool_calls=[
            {"id": "c", "name": "search", "args": '{"query": ', "error": "cut", "type": "invalid_tool_call"}
        ],
        response_metadata={"model": "claude-x", "stop_reason": "max_tokens"},
    )
    from langchain_core.outputs import LLMResult

    turn = turn_of(LLMResult(generations=[[ChatGeneration(message=message)]]))
    assert turn["calls"] == [{"id": "c", "name": "search", "arguments": '{"query": '}]
    assert (turn["model"], turn["finish_reason"], turn["external_id"]) == ("claude-x", "max_tokens", None)


def test_an_answer_from_the_frameworks_own_cache_used_nothing(runtime: Any):
    from langchain_core.caches import InMemoryCache

    model = Scripted(script=[says("Once.")], cache=InMemoryCache())
    with runtime.run("look") as run:
        for _ in range(2):
            model.invoke([HumanMessage("same", id="1")], {"callbacks": [CustodyCallbacks(run)]})
    asked, cached = steps(runtime, run)
    assert (custody_document(asked.tokens), asked.data) == (KNOWN, None)
    assert (cached.tokens.input, cached.model_us, cached.data) == (0, None, {"cached": True})


# -- packages -------------------------------------------------------------------------------------------


def python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_custody_loads_no_framework():
    assert python("import custody, sys; custody.open; print('langchain_core' in sys.modules)") == "False"


def test_a_missing_package_is_answered_with_its_pip_line():
    program = (
        "import sys; sys.modules['langchain_core'] = None\n"
        "import custody\n"
        "try:\n    import custody.adapters.langchain\n"
        "except custody.UsageError as error:\n    print(error)"
    )
    assert python(program) == "LangChain is not installed. pip install langchain-core"


def test_a_graph_built_by_hand_is_guarded_without_the_package_of_agents():
    program = (
        "import sys; sys.modules['langchain'] = None\n"
        "from custody.adapters.langchain import CustodyGuard\n"
        "from langgraph.prebuilt import ToolNode\n"
        "print(ToolNode([], wrap_tool_call=CustodyGuard().wrap_tool_call).name)"
    )
    assert python(program) == "tools"
