"""Tools that run at the peer: asked once, answered once, given up in time, on the record whatever happens."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.calls.faces import of_kind
from tests.rpc.clients import SOCKETS, Client, Failure, connected, door, opened_runtime, proposal

from custody.records import CallFinished, CallStarted
from custody.rpc.service import service_of


def play(transport: str, scenario: Callable[[Client], Awaitable[Any]]) -> tuple[Any, list[tuple[str, Any]]]:
    """Run a scenario with one client; gives what it returns, and how each call ended."""

    async def main() -> Any:
        async with opened_runtime() as runtime:
            async with connected(transport, runtime) as client:
                found = await scenario(client)
            ends = [(leaf.outcome, said.get("result")) for leaf, said in of_kind(runtime, CallFinished)]
            return found, ends

    return asyncio.run(main())


@pytest.mark.parametrize(
    "result",
    [None, True, 0, -1.5, "text", "ä\U0001f600", [], {}, {"nested": [{"deep": [None, 1, "two"]}]}, 2**63],
    ids=repr,
)
def test_a_result_comes_back_as_it_was_given(result: Any) -> None:
    async def scenario(client: Client) -> Any:
        async def give(parameters: Any, request: Any) -> Any:
            return result

        await client.offer(give=give)
        return (await client.submit("give"))["output"]

    assert play("memory", scenario) == (result, [("succeeded", result)])


@pytest.mark.parametrize(
    ("result", "outcome"),
    [({"error": "it broke"}, "failed"), ({"success": False}, "failed"), ({"timed_out": True}, "timed_out")],
    ids=repr,
)
def test_any_result_is_an_action_that_succeeded_and_the_record_has_what_it_says(
    result: Any, outcome: str
) -> None:
    async def scenario(client: Client) -> Any:
        async def give(parameters: Any, request: Any) -> Any:
            return result

        await client.offer(give=give)
        answer = await client.submit("give")
        return answer["status"], answer["output"]

    assert play("memory", scenario) == (("succeeded", result), [(outcome, result)])


@pytest.mark.parametrize("transport", SOCKETS)
def test_the_same_over_a_socket(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        async def double(parameters: Any, request: Any) -> Any:
            return parameters["n"] * 2

        await client.offer(double=double)
        ran = await client.submit("double", {"n": 21})
        failed = await client.submit("double", {})
        return ran["output"], failed["status"], (await client.ask("no.such"))["error"]["code"]

    found, ends = play(transport, scenario)
    assert found == (42, "failed", -32601)
    assert ends == [("succeeded", 42), ("failed", None)]


def test_the_request_names_the_action_the_attempt_the_deadline_and_itself(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        async def echo(parameters: Any, request: Any) -> Any:
            return parameters

        await client.offer(echo=echo)
        await client.submit("echo", {"a": 1}, id="first", timeout_ms=90_000)
        await client.submit("echo", {"a": 2}, id="second")
        return client.executed

    (first, second), _ = play(transport, scenario)
    assert first == {
        "action_id": "first",
        "tool": "echo",
        "parameters": {"a": 1},
        "attempt": 1,
        "request_id": "cb-1",
        "timeout_ms": 90_000,
    }
    assert (second["request_id"], second["timeout_ms"]) == ("cb-2", 300_000)


def test_a_tool_that_fails_says_why(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        async def fail(parameters: Any, request: Any) -> Any:
            raise Failure(-32000, "the build is broken", {"of": 3})

        await client.offer(fail=fail)
        return await client.submit("fail")

    result, ends = play(transport, scenario)
    assert (result["status"], "the build is broken" in result["error"]) == ("failed", True)
    assert ends == [("failed", None)]


def test_a_call_past_its_deadline_is_given_up_and_its_late_answer_ignored(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        late = asyncio.Event()

        async def slow(parameters: Any, request: Any) -> Any:
            await late.wait()
            return "late"

        await client.offer(slow=slow)
        result = await client.submit("slow", timeout_ms=50)
        late.set()
        await client.until(lambda: client.told)
        await client.call("server.info")
        while not client.service.counters.answers_ignored:
            await client.call("server.info")
        return result["status"], client.told

    (status, (cancel,)), ends = play(transport, scenario)
    assert status == "failed"
    assert cancel == {
        "jsonrpc": "2.0",
        "method": "tools.cancel",
        "params": {"request_id": "cb-1", "action_id": "a", "reason": "deadline exceeded"},
    }
    assert ends == [("timed_out", None)]


def test_a_second_answer_changes_nothing(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        async def twice(parameters: Any, request: Any) -> Any:
            for answer in ("first", "second"):
                await client.send({"jsonrpc": "2.0", "id": request["request_id"], "result": answer})
            return "third"

        await client.offer(twice=twice)
        output = (await client.submit("twice"))["output"]
        while client.service.counters.answers_ignored < 2:
            await client.call("server.info")
        return output

    assert play(transport, scenario) == ("first", [("succeeded", "first")])


def test_another_connection_cannot_answer(transport: str) -> None:
    async def main() -> Any:
        async with (
            opened_runtime() as runtime,
            door(transport, runtime) as connect,
            connect() as one,
            connect() as other,
        ):
            asked, may_answer = asyncio.Event(), asyncio.Event()

            async def work(parameters: Any, request: Any) -> Any:
                asked.set()
                await may_answer.wait()
                return "its own"

            await one.offer(work=work)
            submitted = await one.begin("proposal.submit", proposal("work"))
            await asked.wait()
            await other.send({"jsonrpc": "2.0", "id": "cb-1", "result": "forged"})
            await other.call("server.info")
            may_answer.set()
            answer = await one.answer_to(submitted)
            return answer["result"]["results"][0]["output"]

    assert asyncio.run(main()) == "its own"


def test_an_answer_that_cannot_be_understood_fails_the_call_at_once(transport: str) -> None:
    async def scenario(client: Client) -> Any:
        async def odd(parameters: Any, request: Any) -> Any:
            text = f'{{"jsonrpc":"2.0","id":"{request["request_id"]}","result":"\\udcff"}}'
            await client.send_text(text)
            await asyncio.Event().wait()

        await client.offer(odd=odd)
        result = await client.submit("odd")
        return result["status"], "half a character" in result["error"]

    assert play(transport, scenario) == (("failed", True), [("failed", None)])


@pytest.mark.parametrize("number", ["1e999", "9" * 5_000], ids=["too large", "too long"])
def test_a_number_no_reader_can_hold_fails_its_call_and_the_connection_goes_on(number: str) -> None:
    async def scenario(client: Client) -> Any:
        async def odd(parameters: Any, request: Any) -> Any:
            await client.send_text(f'{{"jsonrpc":"2.0","id":"{request["request_id"]}","result":[{number}]}}')
            await asyncio.Event().wait()

        await client.offer(odd=odd)
        first = await client.submit("odd")
        return first["status"], (await client.submit("odd"))["status"]

    assert play("memory", scenario) == (("failed", "failed"), [("failed", None), ("failed", None)])


@pytest.mark.parametrize("error", ["text", None, [], {"code": "x"}, {"message": 5}, {}], ids=repr)
def test_an_error_that_is_oddly_made_still_ends_the_call(error: Any) -> None:
    async def scenario(client: Client) -> Any:
        async def odd(parameters: Any, request: Any) -> Any:
            await client.send({"id": request["request_id"], "error": error})
            await asyncio.Event().wait()

        await client.offer(odd=odd)
        return (await client.submit("odd"))["status"]

    found, _ = play("memory", scenario)
    assert found == ("succeeded" if error is None else "failed")


def test_what_a_peer_is_told_when_the_runtime_closes_and_the_record_of_it(transport: str) -> None:
    async def main() -> Any:
        async with opened_runtime() as runtime, connected(transport, runtime) as client:

            async def never(parameters: Any, request: Any) -> Any:
                await asyncio.Event().wait()

            await client.offer(never=never)
            await client.begin("proposal.submit", proposal("never"))
            await client.until(lambda: client.executed)
            await runtime.close()
            await client.until(lambda: client.told)
            ends = [leaf.outcome for leaf, _ in of_kind(runtime, CallFinished)]
            return client.told[0]["params"]["reason"], ends

    assert asyncio.run(main()) == ("cancelled", ["cancelled"])


def test_a_peer_may_go_while_it_is_asked_many_things(transport: str) -> None:
    async def main() -> Any:
        async with opened_runtime() as runtime:
            async with connected(transport, runtime) as client:

                async def never(parameters: Any, request: Any) -> Any:
                    await asyncio.Event().wait()

                await client.offer(never=never)
                for n in range(50):
                    await client.begin("proposal.submit", proposal("never", {"n": n}))
                await client.until(lambda: len(client.executed) == 50)
            started = {leaf.call_id for leaf, _ in of_kind(runtime, CallStarted)}
            finished = {leaf.call_id: leaf.outcome for leaf, _ in of_kind(runtime, CallFinished)}
            return finished.keys() == started, set(finished.values()), len(service_of(runtime).peers)

    assert asyncio.run(main()) == (True, {"unknown"}, 0)
