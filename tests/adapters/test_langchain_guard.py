"""The guard of the adapter for LangChain and LangGraph, sub-agents, and the how-to."""

import asyncio
import errno
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ToolRetryMiddleware
from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.graph import START, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command
from tests.adapters.langchain_scripted import (
    ASK,
    Scripted,
    State,
    ainvoke,
    assert_two_searches,
    calls,
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
from custody.compose import open_runtime
from custody.journal import MemoryDisk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.settings import load_settings


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


@pytest.fixture
def no_delete(settings_file: Path) -> None:
    """A policy that denies one tool."""
    rule = '[[policy.rules]]\nname = "keep"\nreason = "Nothing is deleted here."\ndeny_tool = "delete"\n'
    settings_file.write_text(settings_file.read_text() + rule)


@every_way_in
def test_with_a_guard_nothing_is_recorded_twice(runtime: Any, way_in: Any):
    with runtime.run("look") as run:
        agent = create_agent(two_searches(), [search], middleware=[CustodyGuard(run)])
        way_in(agent, {"callbacks": [CustodyCallbacks(run)]})
    assert_two_searches(runtime, run)
    assert {call.decision.by for call in calls(runtime, run)} == {"rule"}


@every_way_in
def test_a_graph_built_by_hand_is_guarded_alike(runtime: Any, way_in: Any):
    with runtime.run("look") as run:
        guard = CustodyGuard(run)
        tools = ToolNode([search], wrap_tool_call=guard.wrap_tool_call, awrap_tool_call=guard.awrap_tool_call)
        way_in(graph_by_hand(two_searches(), tools).compile(), {"callbacks": [CustodyCallbacks(run)]})
    assert_two_searches(runtime, run)
    assert {call.decision.by for call in calls(runtime, run)} == {"rule"}


# -- agents below agents --------------------------------------------------------------------------------


def researcher() -> Any:
    """An agent with the same call ids as the one that calls it."""
    script = [says("Digging.", ("call_1", "search", {"query": "deep"})), says("Deep.")]
    return create_agent(Scripted(script=script), [search], name="researcher")


def boss(tool_for_research: Any, **options: Any) -> Any:
    script = [says("Delegate.", ("call_1", "research", {"topic": "x"})), says("Thanks.")]
    return create_agent(Scripted(script=script), [tool_for_research], name="boss", **options)


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("way_in", [invoke, ainvoke], ids=lambda way: way.__name__)
def test_a_sub_agent_in_a_tool_is_linked_by_the_call_that_ran_it(runtime: Any, way_in: Any, guarded: bool):
    below = researcher()

    @tool
    def research(topic: str) -> str:
        """Research."""
        return below.invoke(ASK)["messages"][-1].text

    agent = boss(research, middleware=[CustodyGuard()] if guarded else [])
    with runtime.run("look") as run:
        way_in(agent, {"callbacks": [CustodyCallbacks(run)]})
    by_text = {step.text: step for step in steps(runtime, run)}
    outer, inner = sorted(calls(runtime, run), key=lambda call: call.position)
    assert (outer.tool, outer.parent_id, outer.step_id) == ("research", None, by_text["Delegate."].id)
    assert (inner.tool, inner.parent_id, inner.step_id) == ("search", outer.id, by_text["Digging."].id)
    assert {text: step.parent_id for text, step in by_text.items()} == {
        "Delegate.": None, "Digging.": outer.id, "Deep.": outer.id, "Thanks.": None,
    }  # fmt: skip
    assert [(outer.agent, inner.agent)] == [("boss", "researcher")]
    assert {step.agent for step in by_text.values()} == {"boss", "researcher"}
    assert by_text["Deep."].agent == "researcher"


@pytest.mark.parametrize("own_callbacks", [False, True])
def test_a_sub_agent_in_a_child_run_is_recorded_there_and_nowhere_else(runtime: Any, own_callbacks: bool):
    below, children = researcher(), []

    @tool
    def research(topic: str) -> str:
        """Research."""
        with run.child("research", agent="researcher") as child:
            children.append(child)
            config: Any = {"callbacks": [CustodyCallbacks(child)]} if own_callbacks else None
            return below.invoke(ASK, config)["messages"][-1].text

    with runtime.run("look") as run:
        boss(research).invoke(ASK, {"callbacks": [CustodyCallbacks(run)]})
    (child,) = children
    (outer,), (inner,) = calls(runtime, run), calls(runtime, child)
    assert [step.text for step in steps(runtime, run)] == ["Delegate.", "Thanks."]
    assert [step.text for step in steps(runtime, child)] == ["Digging.", "Deep."]
    assert (inner.parent_id, inner.step_id) == (outer.id, steps(runtime, child)[0].id)


def test_a_call_in_a_child_run_is_not_laid_at_a_turn_of_the_run_above(runtime: Any):
    children: list[Any] = []

    @tool
    def research(topic: str) -> str:
        """Research."""
        with run.child("research", agent="researcher") as child:
            children.append(child)
            return str(search.invoke({"query": topic}))

    with runtime.run("look") as run:
        boss(research).invoke(ASK, {"callbacks": [CustodyCallbacks(run)]})
    (call,) = calls(runtime, children[0])
    assert (call.tool, call.step_id, call.parent_id) == ("search", None, calls(runtime, run)[0].id)


def test_a_sub_agents_call_ids_are_not_taken_for_those_of_the_agent_above(runtime: Any):
    below = researcher()

    @tool
    def research(topic: str) -> str:
        """Research."""
        return below.invoke(ASK)["messages"][-1].text

    both = says("Both.", ("call_0", "research", {"topic": "x"}), ("call_1", "search", {"query": "x"}))
    agent = create_agent(Scripted(script=[both, says("Done.")]), [research, search])
    with runtime.run("look") as run:
        agent.invoke(ASK, {"max_concurrency": 1, "callbacks": [CustodyCallbacks(run)]})
    asked = {step.id: step.text for step in steps(runtime, run)}
    assert [(call.tool, asked[call.step_id]) for call in calls(runtime, run)] == [
        ("research", "Both."), ("search", "Digging."), ("search", "Both."),
    ]  # fmt: skip


def test_what_a_guarded_tool_observes_itself_is_below_its_call(runtime: Any):
    @tool
    def fetch(url: str) -> str:
        """Fetch."""
        with run.observe("http", {"url": url}) as call:
            call.result = "page"
        return "page"

    model = Scripted(script=[says("", ("call_1", "fetch", {"url": "u"})), says("Done.")])
    with runtime.run("look") as run:
        create_agent(model, [fetch], middleware=[CustodyGuard(run)]).invoke(
            ASK, {"callbacks": [CustodyCallbacks(run)]}
        )
    outer, inner = calls(runtime, run)
    assert (outer.tool, inner.tool, inner.parent_id) == ("fetch", "http", outer.id)


def test_two_handlers_of_one_run_record_everything_once(runtime: Any):
    agent = create_agent(two_searches(), [search])
    with runtime.run("look") as run:
        agent.invoke(ASK, {"callbacks": [CustodyCallbacks(run), CustodyCallbacks(run)]})
    assert_two_searches(runtime, run)


# -- the guard ------------------------------------------------------------------------------------------


def one_delete() -> list[AIMessage]:
    return [says("Cleaning.", ("call_d", "delete", {"path": "/srv"})), says("I may not.")]


REFUSED = "Refused: Nothing is deleted here."


@every_way_in
def test_a_denied_tool_does_not_run_and_the_model_is_told_so(no_delete: Any, runtime: Any, way_in: Any):
    seen: list[Any] = []

    class Listening(Scripted):
        def _next(self) -> AIMessage:
            return super()._next()

        def _generate(self, messages: Any, *rest: Any, **named: Any) -> ChatResult:
            seen.append(messages)
            return super()._generate(messages, *rest, **named)

        def _stream(self, messages: Any, *rest: Any, **named: Any) -> Iterator[ChatGenerationChunk]:
            seen.append(messages)
            return super()._stream(messages, *rest, **named)

    with runtime.run("clean") as run:
        agent = create_agent(Listening(script=one_delete()), [delete], middleware=[CustodyGuard(run)])
        way_in(agent, {"callbacks": [CustodyCallbacks(run)]})
    assert ran == []
    assert told(seen[-1]) == [("error", REFUSED)]
    (call,) = calls(runtime, run)
    first, second = steps(runtime, run)
    assert (call.outcome, call.decision.by, call.decision.rule) == ("rejected", "rule", "keep")
    assert (call.external_id, call.step_id, call.position) == ("call_d", first.id, 1)
    assert second.text == "I may not."


@pytest.mark.parametrize("way_in", [invoke, stream_updates, ainvoke], ids=lambda way: way.__name__)
def test_a_denied_tool_of_a_graph_built_by_hand_does_not_run(no_delete: Any, runtime: Any, way_in: Any):
    with runtime.run("clean") as run:
        guard = CustodyGuard(run)
        tools = ToolNode([delete], wrap_tool_call=guard.wrap_tool_call, awrap_tool_call=guard.awrap_tool_call)
        graph = graph_by_hand(Scripted(script=one_delete()), tools).compile()
        way_in(graph, {"callbacks": [CustodyCallbacks(run)]})
    assert ran == []
    assert [call.outcome for call in calls(runtime, run)] == ["rejected"]


@pytest.mark.parametrize("way_in", [invoke, stream_updates, ainvoke], ids=lambda way: way.__name__)
def test_a_guard_may_raise_instead(no_delete: Any, runtime: Any, way_in: Any):
    agent = create_agent(
        Scripted(script=one_delete()), [delete], middleware=[CustodyGuard(on_denied="raise")]
    )
    with runtime.run("clean") as run, pytest.raises(custody.Denied, match="Nothing is deleted") as denied:
        way_in(agent, {"callbacks": [CustodyCallbacks(run)]})
    assert denied.value.details["decision"].rule == "keep"
    assert ran == []
    assert [call.outcome for call in calls(runtime, run)] == ["rejected"]


def test_a_guard_works_without_callbacks(no_delete: Any, runtime: Any):
    with runtime.run("clean") as run:
        agent = create_agent(Scripted(script=one_delete()), [delete], middleware=[CustodyGuard(run)])
        answer = agent.invoke(ASK)
    assert told(answer["messages"]) == [("error", REFUSED)]
    assert [call.outcome for call in calls(runtime, run)] == ["rejected"]
    assert steps(runtime, run) == []


def test_a_denied_tool_stops_no_other_of_the_same_turn(no_delete: Any, runtime: Any):
    script = [
        says("", ("call_d", "delete", {"path": "/"}), ("call_s", "search", {"query": "a"})),
        says("Well."),
    ]
    with runtime.run("clean") as run:
        agent = create_agent(Scripted(script=script), [delete, search], middleware=[CustodyGuard(run)])
        agent.invoke(ASK, {"callbacks": [CustodyCallbacks(run)]})
    assert {call.tool: call.outcome for call in calls(runtime, run)} == {
        "delete": "rejected", "search": "succeeded",
    }  # fmt: skip


def test_a_guarded_call_that_cannot_be_recorded_does_not_run(runtime: Any):
    with runtime.run("clean") as run:
        pass
    agent = create_agent(Scripted(script=one_delete()), [delete], middleware=[CustodyGuard(run)])
    answer = agent.invoke(ASK)
    assert ran == []
    ((status, text),) = told(answer["messages"])
    assert (status, "has finished" in text) == ("error", True)


@pytest.mark.parametrize("fails", ["before", "within"])
def test_a_disk_that_fails_keeps_a_guarded_tool_from_running_or_its_result_from_being_used(fails: str):
    disk = FaultyDisk(MemoryDisk())

    def fail() -> None:
        disk.inject(*(Fault(operation=name, error=errno.EIO, times=None) for name in ("put", "create")))

    @tool
    async def save(text: str) -> str:
        """Save."""
        ran.append(text)
        fail()
        return "saved"

    async def scene() -> list[Any]:
        opened = await open_runtime(load_settings(store=":memory:"), disk=disk)
        async with opened as runtime, runtime.run("save") as run:
            model = Scripted(script=[says("", ("call_1", "save", {"text": "t"})), says("Hm.")])
            agent = create_agent(model, [save], middleware=[CustodyGuard(run)])
            if fails == "before":
                fail()
            answer = await agent.ainvoke(ASK, {"callbacks": [CustodyCallbacks(run)]})
            disk.heal()
        return answer["messages"]

    ((status, text),) = told(asyncio.run(scene()))
    assert (status, ran) == ("error", [] if fails == "before" else ["t"])
    assert ("nothing was run" in text, "result is withheld" in text) == (fails == "before", fails == "within")


@pytest.mark.parametrize("guard_is_last", [True, False])
def test_every_try_of_a_tool_is_on_the_record(runtime: Any, guard_is_last: bool):
    tries: list[str] = []

    @tool
    def flaky(name: str) -> str:
        """Fail once."""
        tries.append(name)
        if len(tries) == 1:
            raise ConnectionError("try again")
        return "there"

    retry = ToolRetryMiddleware(max_retries=1, initial_delay=0, jitter=False)
    middleware = [retry, CustodyGuard()] if guard_is_last else [CustodyGuard(), retry]
    model = Scripted(script=[says("", ("call_1", "flaky", {"name": "n"})), says("Done.")])
    with runtime.run("look") as run:
        create_agent(model, [flaky], middleware=middleware).invoke(
            ASK, {"callbacks": [CustodyCallbacks(run)]}
        )
    found = calls(runtime, run)
    assert len(tries) == 2
    if guard_is_last:
        assert [(call.outcome, call.decision.by) for call in found] == [
            ("failed", "rule"), ("succeeded", "rule"),
        ]  # fmt: skip
    else:  # one decision for both: the second try is below the call it was made for
        assert [(call.outcome, call.decision.by, call.parent_id) for call in found] == [
            ("succeeded", "rule", None), ("succeeded", "nobody", found[0].id),
        ]  # fmt: skip


def test_a_tool_that_runs_with_other_arguments_than_were_decided_on_is_a_call_of_its_own(runtime: Any):
    class Rewriting(AgentMiddleware[Any, Any, Any]):
        def wrap_tool_call(self, request: Any, handler: Any) -> Any:
            call = {**request.tool_call, "args": {"query": "rewritten"}}
            return handler(request.override(tool_call=call))

    model = Scripted(script=[says("", ("call_1", "search", {"query": "a"})), says("Done.")])
    with runtime.run("look") as run:
        create_agent(model, [search], middleware=[CustodyGuard(run), Rewriting()]).invoke(
            ASK, {"callbacks": [CustodyCallbacks(run)]}
        )
    decided, made = calls(runtime, run)
    assert (decided.arguments, decided.decision.by) == ({"query": "a"}, "rule")
    assert (made.arguments, made.decision.by, made.parent_id) == (
        {"query": "rewritten"}, "nobody", decided.id,
    )  # fmt: skip


@pytest.mark.parametrize("guarded", [False, True])
def test_injected_arguments_are_not_recorded_and_a_command_is_a_result(runtime: Any, guarded: bool):
    @tool
    def note(text: str, runtime: ToolRuntime) -> Command[Any]:
        """Note."""
        message = ToolMessage("noted", tool_call_id=runtime.tool_call_id or "")
        return Command(update={"messages": [message]})

    model = Scripted(script=[says("", ("call_1", "note", {"text": "n"})), says("Done.")])
    with runtime.run("look") as run:
        create_agent(model, [note], middleware=[CustodyGuard()] if guarded else []).invoke(
            ASK, {"callbacks": [CustodyCallbacks(run)]}
        )
    (call,) = calls(runtime, run)
    assert (call.arguments, call.outcome) == ({"text": "n"}, "succeeded")
    assert "noted" in json.dumps(call.result)


@pytest.mark.parametrize("guarded", [False, True])
def test_effects_are_those_stated_by_name(runtime: Any, guarded: bool):
    effects: Any = {"search": "read"}
    middleware = [CustodyGuard(effects=effects)] if guarded else []
    with runtime.run("look") as run:
        create_agent(two_searches(), [search], middleware=middleware).invoke(
            ASK, {"callbacks": [CustodyCallbacks(run, effects=effects)]}
        )
    assert {call.effect for call in calls(runtime, run)} == {"read"}


def test_a_tool_nobody_has_is_a_request_without_a_call_and_with_a_guard_a_failed_one(runtime: Any):
    for middleware, outcomes in (([], []), ([CustodyGuard()], ["failed"])):
        model = Scripted(script=[says("", ("call_1", "teleport", {"to": "x"})), says("Oh.")])
        with runtime.run("look") as run:
            create_agent(model, [search], middleware=middleware).invoke(
                ASK, {"callbacks": [CustodyCallbacks(run)]}
            )
        assert steps(runtime, run)[0].requested == ("teleport",)
        assert [call.outcome for call in calls(runtime, run)] == outcomes


@pytest.mark.parametrize("guarded", [False, True])
def test_an_error_made_a_message_by_the_graph_keeps_its_type(runtime: Any, guarded: bool):
    model = Scripted(script=[says("", ("call_1", "explode", {"how": "way"})), says("Oh.")])
    wrap: Any = {"wrap_tool_call": CustodyGuard().wrap_tool_call} if guarded else {}
    graph = graph_by_hand(model, ToolNode([explode], handle_tool_errors=True, **wrap)).compile()
    with runtime.run("look") as run:
        answer = graph.invoke(ASK, {"callbacks": [CustodyCallbacks(run)]})
    ((status, text),) = told(answer["messages"])
    assert (status, "no way" in text) == ("error", True)
    (call,) = calls(runtime, run)
    assert (call.outcome, call.error) == ("failed", {"type": "ValueError", "message": "no way"})
    assert errors(runtime, run) == []


@pytest.mark.parametrize("guarded", [False, True])
def test_a_tool_whose_graph_hands_over_to_the_one_above_has_succeeded(runtime: Any, guarded: bool):
    def leave(state: Any) -> Command[Any]:
        return Command(graph=Command.PARENT, goto="desk", update={"messages": [handed]})

    handed = ToolMessage("handed over", tool_call_id="call_1")
    below = StateGraph(State).add_node("leave", leave).add_edge(START, "leave").compile()

    @tool
    def hand_over(to: str) -> str:
        """Hand over."""
        return str(below.invoke({"messages": []}))

    model = Scripted(script=[says("", ("call_1", "hand_over", {"to": "desk"})), says("End.")])
    wrap: Any = {"wrap_tool_call": CustodyGuard().wrap_tool_call} if guarded else {}
    graph = graph_by_hand(model, ToolNode([hand_over], **wrap))
    graph.add_node("desk", lambda state: {"messages": [AIMessage("At the desk.")]})
    with runtime.run("look") as run:
        answer = graph.compile().invoke(ASK, {"callbacks": [CustodyCallbacks(run)]})
    assert "At the desk." in [message.text for message in answer["messages"]]
    (call,) = calls(runtime, run)
    assert (call.outcome, call.result["fields"]["goto"]) == ("succeeded", "desk")


def test_a_guard_takes_no_other_word_for_how_it_refuses():
    with pytest.raises(custody.UsageError, match="'refuse' or 'raise'"):
        CustodyGuard(on_denied="Raise")  # pyright: ignore[reportArgumentType]


HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "langchain.md"


@pytest.fixture
def no_deletes_as_the_how_to_says(
    settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    rules = re.findall(r"```toml\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL)
    settings_file.write_text(settings_file.read_text() + "".join(rules))


@pytest.mark.usefixtures("no_deletes_as_the_how_to_says")
def test_the_blocks_of_the_how_to_run_as_they_stand_and_print_what_it_says(capsys: Any):
    printed: list[str] = []
    for block in re.findall(r"```python\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL):
        script = [says("Boats.")]
        if "delete" in block:
            asked = (("call_1", "search", {"query": "boats"}), ("call_2", "delete", {"path": "/srv"}))
            script.insert(0, says("", *asked))
        exec(compile(block, "langchain.md", "exec"), {"model": Scripted(script=script)})
        printed.append(capsys.readouterr().out)
    recorded, guarded, _, child = printed
    assert recorded.startswith("Boats.\nTotals(steps=2, calls=2, ")
    assert sorted(guarded.splitlines()) == [
        "delete rejected Nothing is deleted here.", "search succeeded ",
    ]  # fmt: skip
    assert child == ""
