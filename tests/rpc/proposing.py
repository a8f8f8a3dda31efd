"""What the tests of proposals share: actions in few words, and tools a client runs."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tests.rpc.clients import WAIT_SECONDS, Client, connected, opened_runtime

from custody.calls.runtime import Runtime


def scenario(
    transport: str, work: Callable[[Client, Runtime], Coroutine[Any, Any, None]], store: str = ":memory:"
) -> None:
    """Run one against a served runtime and one client."""

    async def run() -> None:
        async with opened_runtime(store) as runtime, connected(transport, runtime) as client:
            await work(client, runtime)

    asyncio.run(run())


def tool(name: str, action_id: str | None = None, /, **more: Any) -> dict[str, Any]:
    """An action that calls a tool; `with_` are its parameters."""
    action = {"type": "tool_call", "tool": name, "parameters": more.pop("with_", {}), **more}
    return action if action_id is None else {"id": action_id, **action}


def write(key: str, value: Any, action_id: str | None = None, /, **more: Any) -> dict[str, Any]:
    action = {"type": "state_write", "parameters": {"key": key, "value": value}, **more}
    return action if action_id is None else {"id": action_id, **action}


async def submit(client: Client, *actions: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The answer to a proposal of these actions."""
    proposal = {"actions": list(actions), **more.pop("proposal", {})}
    return await client.call("proposal.submit", {"proposal": proposal, **more})


def statuses(answer: dict[str, Any]) -> list[str]:
    return [result["status"] for result in answer["results"]]


async def offer(client: Client, **tools: Any) -> None:
    """Tools the client runs: a coroutine function, or what it gives."""
    for name, given in tools.items():
        client.tools[name] = given if callable(given) else _giving(given)
    await client.call("tools.register", [{"name": name} for name in tools])


def _giving(value: Any) -> Callable[[Any, Any], Coroutine[Any, Any, Any]]:
    async def give(parameters: Any, said: Any) -> Any:
        del parameters, said
        return value

    return give


async def echo(parameters: Any, said: Any) -> Any:
    """A tool that gives back what it got."""
    del said
    return parameters


class Gate:
    """A tool that says when it was begun and waits to be let through."""

    def __init__(self, result: Any = None) -> None:
        self.begun = asyncio.Event()
        self.through = asyncio.Event()
        self._result = result

    async def __call__(self, parameters: Any, said: Any) -> Any:
        del parameters, said
        self.begun.set()
        await self.through.wait()
        return self._result


async def bounded(waits: Coroutine[Any, Any, Any]) -> Any:
    async with asyncio.timeout(WAIT_SECONDS):
        return await waits


async def calls_of(runtime: Runtime, **wanted: Any) -> list[Any]:
    """The calls on the record, the oldest first."""
    page = await asyncio.to_thread(lambda: runtime.index.calls(order="oldest", limit=500, **wanted))
    return list(page.items)


async def events_of(runtime: Runtime, name: str) -> list[Any]:
    """The data of the events of a name on the record, the oldest first."""
    page = await asyncio.to_thread(lambda: runtime.index.events(name=name, order="oldest", limit=500))
    return [event.data for event in page.items]
