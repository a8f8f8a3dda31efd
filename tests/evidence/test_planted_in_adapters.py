"""Secrets in what agents of the three frameworks say, ask for, get back and fail with."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import agents
import msgspec
import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool as langchain_tool
from pydantic_ai import Agent
from tests.adapters.conftest import no_loop_left_open  # noqa: F401 - a fixture
from tests.adapters.langchain_scripted import Scripted as LangchainScripted
from tests.adapters.langchain_scripted import ainvoke, invoke, says, stream_messages
from tests.adapters.test_openai_agents import Scripted as OpenAiScripted
from tests.adapters.test_openai_agents import asks, drive
from tests.adapters.test_openai_agents import says as openai_says
from tests.adapters.test_pydantic_ai import call, scripted, text
from tests.evidence.planting import Secret, files_of, no_trace

import custody
from custody.adapters.langchain import CustodyCallbacks, CustodyGuard
from custody.adapters.openai_agents import CustodyRunner
from custody.adapters.pydantic_ai import Custody

SOME = 6
"""Every so many'th secret: a framework takes its time, and what differs is the way, not the secret."""


@langchain_tool
def lookup(query: str) -> dict[str, Any]:
    """Look something up."""
    return {"found": f"for {query}", "raw": [query]}


@langchain_tool
def explode(query: str) -> str:
    """Fail."""
    raise ValueError(f"no {query}")


@agents.function_tool(name_override="lookup")
def openai_lookup(query: str) -> str:
    return f"found {query}"


@agents.function_tool(name_override="explode", failure_error_function=None)
def openai_explode(query: str) -> str:
    raise ValueError(f"no {query}")


def pydantic_lookup(query: str) -> dict[str, Any]:
    return {"found": f"for {query}", "raw": [query]}


def pydantic_explode(query: str) -> str:
    raise ValueError(f"no {query}")


@pytest.fixture
def runtime(store: Path) -> Iterator[custody.Runtime]:
    with custody.open(store) as runtime:
        yield runtime


def nothing_left(runtime: Any, store: Path, secrets: tuple[Secret, ...], steps_min: int) -> None:
    """Closes the store, which must have all of it and no secret."""
    __tracebackhide__ = True
    runs = [bytes.fromhex(run.id) for run in runtime.index.runs().items]
    steps = [step for run in runs for step in runtime.index.run_steps(run)]
    runtime.close()
    assert len(steps) >= steps_min
    assert any(name == "index.db" for name, _ in files_of(store))
    no_trace(secrets, store)


@pytest.mark.parametrize("way_in", [invoke, ainvoke, stream_messages], ids=lambda way: way.__name__)
def test_an_agent_of_langchain(runtime: Any, store: Path, secrets: tuple[Secret, ...], way_in: Any):
    some = secrets[::SOME]
    for secret in some:
        words = secret.text
        turns = [
            says(f"I use {words} now.", (words, "lookup", {"query": words}), ("2", words, {"a": words})),
            says(words, ("3", "explode", {"query": f"x {words}"})),
            ConnectionError(f"no answer for {words}"),
        ]
        with suppress(Exception), runtime.run("work") as run:
            agent = create_agent(
                LangchainScripted(script=turns), [lookup, explode], middleware=[CustodyGuard(run)]
            )
            way_in(agent, {"callbacks": [CustodyCallbacks(run)], "tags": [words], "metadata": {"m": words}})
    nothing_left(runtime, store, secrets, 2 * len(some))


@pytest.mark.parametrize("how", ["run", "run_streamed"])
def test_an_agent_of_the_openai_sdk(runtime: Any, store: Path, secrets: tuple[Secret, ...], how: str):
    some = secrets[::SOME]
    for secret in some:
        words = secret.text
        json = msgspec.json.encode({"query": f"x {words}"}).decode()
        turns = [
            [*openai_says(f"I use {words} now."), *asks((words, "lookup", {"query": words}))],
            asks(("2", "lookup", json), ("3", "lookup", f"no JSON {words}")),
            asks(("4", "explode", {"query": f"x {words}"})),
        ]
        failing = [openai_says(words), ConnectionError(f"no answer for {words}")]
        for script in (turns, failing, failing[1:]):
            with suppress(Exception), runtime.run("work") as run:
                agent = agents.Agent(
                    name=words, model=OpenAiScripted(*script), tools=[openai_lookup, openai_explode]
                )
                drive(CustodyRunner(run), how, agent)
    nothing_left(runtime, store, secrets, 2 * len(some))


@pytest.mark.parametrize("how", ["run", "stream"])
def test_an_agent_of_pydantic(runtime: Any, store: Path, secrets: tuple[Secret, ...], how: str):
    async def go(agent: Any) -> None:
        if how == "run":
            await agent.run("go")
            return
        async with agent.iter("go") as nodes:
            async for node in nodes:
                if Agent.is_model_request_node(node):
                    async with node.stream(nodes.ctx) as stream:
                        async for _ in stream:
                            pass

    some = secrets[::SOME]
    for secret in some:
        words = secret.text
        turns = [
            [text(f"I use {words} now."), call("lookup", words, query=words)],
            [
                call("lookup", "2", query=f"x {words}"),
                call(words, "4", query=words),
                call("lookup", "5", wrong=words),
            ],
            [call("explode", "3", query=words)],
        ]
        failing: list[Any] = [[ConnectionError(f"no answer for {words}")]]
        for script in (turns, failing):
            with suppress(Exception), runtime.run("work") as run:
                agent = Agent(scripted(*script), capabilities=[Custody(run)], name=words)
                agent.tool_plain(pydantic_lookup, name="lookup")
                agent.tool_plain(pydantic_explode, name="explode")
                asyncio.run(go(agent))
    nothing_left(runtime, store, secrets, 2 * len(some))
