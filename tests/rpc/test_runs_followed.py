"""A run that is followed live gives what its trace gives later: in order, whole, at the reader's own pace."""

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rpc.clients import WAIT_SECONDS, Client, Connect, opened_runtime
from tests.rpc.running import MEMORY, failure, live_of, play, start, trace, turn, until_status

import custody
from custody.calls.runtime import Runtime
from custody.rpc.following import SUBSCRIPTIONS_MAX, TraceEvent, read_trace, subscriptions_of
from custody.rpc.live import LiveRuns
from custody.rpc.narration import ModelTurn, record_model_turn, record_turns
from custody.rpc.peer import Peer
from custody.rpc.serve import paired, serve_peer
from custody.rpc.trace_records import TraceRecord


def pushed(client: Client, run_id: str) -> list[dict[str, Any]]:
    """Params of the events of a run, in order."""
    said = [frame["params"] for frame in client.told if frame["method"] == "runs.trace.event"]
    return [event for event in said if event["run_id"] == run_id]


def has_end(client: Client, run_id: str) -> bool:
    events = pushed(client, run_id)
    return bool(events) and events[-1]["record"]["record"] == "ended"


async def tell(client: Client, run_id: str, *outputs: Any) -> None:
    told = {"run_id": run_id, "turns": [turn(output=output) for output in outputs]}
    assert (await client.call("runs.record_turns", told))["ok"]


def test_what_was_so_far_and_what_is_pushed_are_the_trace(transport):
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as agent, connect() as viewer:
            run_id = await start(agent)
            await viewer.call("session.auth", {"agent_id": "ada"})
            await tell(agent, run_id, "a", "b")
            subscribed = await viewer.call("runs.subscribe", {"run_id": run_id})
            so_far = subscribed.pop("turns_so_far")
            assert subscribed == {"run_id": run_id, "agent_id": "ada", "cursor": 2, "status": "in_progress"}
            await tell(agent, run_id, "c")
            await tell(agent, run_id, "d")
            await agent.call("runs.complete", {"run_id": run_id, "outcome": "success"})
            await viewer.until(lambda: has_end(viewer, run_id))
            events = pushed(viewer, run_id)
            assert [event["cursor"] for event in events] == [3, 4, 4]
            assert [event["status"] for event in events] == ["in_progress", "in_progress", "completed"]
            records = await trace(viewer, run_id)
            assert [*so_far, *(event["record"] for event in events)] == records[1:]
            assert pushed(agent, run_id) == []

    play(transport, scenario)


def test_no_event_comes_before_the_answer_to_the_subscription():
    async def scenario() -> None:
        async with opened_runtime() as runtime:
            ours, theirs = paired()
            peer = Peer(door="memory")
            serving = asyncio.create_task(serve_peer(theirs.receive, theirs.send, peer, runtime))

            async def ask(method: str, params: dict[str, Any]) -> None:
                frame = {"jsonrpc": "2.0", "id": method, "method": method, "params": params}
                await ours.send(json.dumps(frame))

            async def next_frame() -> dict[str, Any]:
                text = await ours.receive()
                assert text is not None
                return json.loads(text)

            await ask("runs.start", {"intent": "x", "agent_id": "ada"})
            run = {"run_id": (await next_frame())["result"]["run_id"]}
            await ask("runs.complete", run)
            await next_frame()
            await ask("runs.subscribe", run)  # of a run that has ended, so there is something to tell at once
            assert (await next_frame())["id"] == "runs.subscribe"
            assert (await next_frame())["method"] == "runs.trace.event"
            ours.close()
            await serving

    asyncio.run(asyncio.wait_for(scenario(), WAIT_SECONDS))


def test_a_turn_waits_for_those_before_it():
    gates = {"first": asyncio.Event(), "second": asyncio.Event()}
    begun = {"first": asyncio.Event(), "second": asyncio.Event()}

    @custody.tool(effect="read")
    async def gated(name: str) -> str:
        begun[name].set()
        await gates[name].wait()
        return name

    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            run_id = await start(client)
            live = live_of(runtime).find_live(run_id, None)
            assert live is not None
            await client.call("runs.subscribe", {"run_id": run_id})
            calls: list[asyncio.Task[Any]] = []
            for name in gates:
                calls.append(asyncio.create_task(runtime.call("gated", {"name": name}, run=live.handle)))
                await begun[name].wait()
            gates["second"].set()
            await calls[1]
            live_of(runtime).touched(live)
            assert [record["record"] for record in await trace(client, run_id)] == ["started"]
            gates["first"].set()
            await calls[0]
            live_of(runtime).touched(live)
            await client.until(lambda: len(pushed(client, run_id)) == 2)
            events = pushed(client, run_id)
            assert [event["record"]["output"] for event in events] == ["first", "second"]
            assert [event["record"] for event in events] == (await trace(client, run_id))[1:]

    play(MEMORY, scenario, tools=(gated,))


def test_who_stops_reading_disturbs_nobody_and_misses_nothing(transport):
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        live_of(runtime).narrated_max = 10_000
        async with connect() as agent, connect() as slow, connect() as quick:
            run_id = await start(agent)
            for viewer in (slow, quick):
                await viewer.call("session.auth", {"agent_id": "ada"})
                await viewer.call("runs.subscribe", {"run_id": run_id})
            slow.stop_reading()
            for batch in range(4):
                await tell(agent, run_id, *[f"{batch}.{index} {'x' * 2_000}" for index in range(200)])
            await agent.call("runs.complete", {"run_id": run_id})
            await quick.until(lambda: has_end(quick, run_id))
            assert not has_end(slow, run_id)
            slow.go_on_reading()
            await slow.until(lambda: has_end(slow, run_id))
            expected = (await trace(agent, run_id))[1:]
            for viewer in (slow, quick):
                assert [event["record"] for event in pushed(viewer, run_id)] == expected

    play(transport, scenario)


def test_a_run_that_has_ended_can_be_followed_too_and_ends_at_once():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            run_id = await start(client)
            await tell(client, run_id, "a")
            await client.call("runs.complete", {"run_id": run_id, "outcome": "failure"})
            subscribed = await client.call("runs.subscribe", {"run_id": run_id})
            assert (subscribed["cursor"], subscribed["status"]) == (1, "failed")
            await client.until(lambda: has_end(client, run_id))
            (event,) = pushed(client, run_id)
            assert (event["cursor"], event["status"]) == (1, "failed")
            gone = await client.call("runs.unsubscribe", {"run_id": run_id})
            assert gone == {"run_id": run_id, "removed": False}

    play(MEMORY, scenario)


def test_a_run_is_followed_once_by_a_connection_until_it_is_followed_no_longer():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            run_id = await start(client)
            for cursor in (0, 1):
                await tell(client, run_id, "x")
                subscribed = await client.call("runs.subscribe", {"run_id": run_id})
                assert subscribed["cursor"] == cursor + 1
            await tell(client, run_id, "y")
            await client.until(lambda: any(event["cursor"] == 3 for event in pushed(client, run_id)))
            removed = [await client.call("runs.unsubscribe", {"run_id": run_id}) for _ in range(2)]
            assert [one["removed"] for one in removed] == [True, False]
            await tell(client, run_id, "z")
            # The second turn was told of by the first subscription, where that was quick enough.
            assert [event["cursor"] for event in pushed(client, run_id)] in ([3], [2, 3])

    play(MEMORY, scenario)


def test_a_connection_follows_so_many_runs_and_no_more():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            for _ in range(SUBSCRIPTIONS_MAX):
                await client.call("runs.subscribe", {"run_id": await start(client)})
            run_id = await start(client)
            assert (await failure(client.call("runs.subscribe", {"run_id": run_id}))).code == -32602

    play(MEMORY, scenario)


def test_pages_of_a_subscription_begin_where_they_are_asked_to():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            run_id = await start(client)
            await tell(client, run_id, *range(10))
            capabilities = ["runs.pagination.v1"]
            said = {"protocol_version": 3, "required_capabilities": capabilities}
            await client.call("server.handshake", said)
            assert (await failure(client.call("runs.subscribe", {"run_id": run_id}))).code == -32602
            subscribed = await client.call("runs.subscribe", {"run_id": run_id, "cursor": 4, "limit": 3})
            assert [record["output"] for record in subscribed["turns_so_far"]] == [4, 5, 6]
            assert subscribed["cursor"] == 7
            await client.until(lambda: len(pushed(client, run_id)) == 3)
            events = pushed(client, run_id)
            assert [(event["cursor"], event["record"]["output"]) for event in events] == [
                (8, 7),
                (9, 8),
                (10, 9),
            ]

    play(MEMORY, scenario)


# -- whatever happens in whichever order --------------------------------------------------------------


class Follower:
    """Somebody who follows a run, sometimes slowly."""

    def __init__(self) -> None:
        self.records: list[TraceRecord] = []
        self.cursors: list[int] = []
        self.reads = asyncio.Event()
        self.reads.set()

    async def listen(self, event: TraceEvent) -> None:
        await self.reads.wait()
        self.records.append(event.record)
        self.cursors.append(event.cursor)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("tell"), st.integers(1, 12)),
        st.tuples(st.just("think"), st.just(0)),
        st.tuples(st.just("begin"), st.integers(0, 3)),
        st.tuples(st.just("end"), st.integers(0, 3)),
        st.tuples(st.just("refused"), st.just(0)),
        st.tuples(st.just("follow"), st.just(0)),
        st.tuples(st.just("stall"), st.integers(0, 3)),
        st.tuples(st.just("read"), st.integers(0, 3)),
        st.tuples(st.just("page"), st.integers(0, 20)),
        st.tuples(st.just("yield"), st.integers(1, 5)),
    ),
    max_size=25,
)


class Play:
    """One run in which anything may happen."""

    def __init__(self, runtime: Runtime, gates: dict[str, asyncio.Event]) -> None:
        self.runs = LiveRuns(runtime)
        self.runtime = runtime
        self.gates = gates
        self.calls: dict[str, asyncio.Task[Any]] = {}
        self.followers: list[Follower] = []
        self.finished: list[Any] = []
        self.pages: list[tuple[int, list[TraceRecord]]] = []

    async def run(self, steps: list[tuple[str, int]]) -> None:
        self.live = await self.runs.start("anything", agent="ada")
        for step, number in steps:
            await getattr(self, step)(number)
        await self.end_all()
        await self.check()

    async def tell(self, count: int) -> None:
        turns = [turn(output=index) for index in range(count)]
        assert (await record_turns(self.runs, self.live.id, turns, whose={"ada"})).ok

    async def think(self, _: int) -> None:
        said = ModelTurn(turn_index=1, assistant_text="hm")
        assert (await record_model_turn(self.runs, self.live.id, said, whose={"ada"})).ok

    async def begin(self, number: int) -> None:
        name = str(number)
        if name not in self.calls:
            self.gates[name] = asyncio.Event()
            self.calls[name] = asyncio.create_task(self.call("gated", name))

    async def call(self, tool: str, name: str) -> None:
        with self.live.working():
            await self.runtime.call(tool, {"name": name}, run=self.live.handle)
        self.runs.touched(self.live)

    async def end(self, number: int) -> None:
        call = self.calls.pop(str(number), None)
        if call is not None:
            self.gates[str(number)].set()
            await call

    async def refused(self, _: int) -> None:
        await self.call("there_is_no_such_tool", "x")

    async def follow(self, _: int) -> None:
        if len(self.followers) < 4:
            follower = Follower()
            subscribed, subscription = await subscriptions_of(self.runs).subscribe(
                self.runs,
                self.live.id,
                whose={"ada"},
                connection=f"c{len(self.followers)}",
                listen=follower.listen,
            )
            follower.records += subscribed.turns_so_far
            follower.cursors += range(1, subscribed.cursor + 1)
            subscription.start()
            self.followers.append(follower)
            self.finished.append(subscription.finished)

    async def stall(self, number: int) -> None:
        for follower in self.followers[number : number + 1]:
            follower.reads.clear()

    async def read(self, number: int) -> None:
        for follower in self.followers[number : number + 1]:
            follower.reads.set()

    async def page(self, cursor: int) -> None:
        read = await read_trace(self.runs, self.live.id, whose={"ada"}, cursor=cursor, limit=5)
        self.pages.append((cursor, read.records))

    async def yield_(self, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    def __getattr__(self, name: str) -> Any:
        if name == "yield":
            return self.yield_
        raise AttributeError(name)

    async def end_all(self) -> None:
        for number in sorted(self.calls, reverse=True):
            await self.end(int(number))
        await self.runs.end(self.live, "succeeded")
        for follower in self.followers:
            follower.reads.set()
        async with asyncio.timeout(WAIT_SECONDS):
            for finished in self.finished:
                await finished()

    async def check(self) -> None:
        whole = await read_trace(self.runs, self.live.id, whose={"ada"})
        records = whole.records[1:]
        assert [record.index for record in records[:-1]] == list(range(len(records) - 1))
        for follower in self.followers:
            assert follower.records == records
            assert follower.cursors == [*range(1, len(records)), len(records) - 1]
        for cursor, read in self.pages:
            assert read == whole.records[cursor : cursor + len(read)]


@settings(max_examples=25)
@given(steps=STEPS)
def test_whatever_happens_every_follower_has_what_the_trace_has(steps):
    gates: dict[str, asyncio.Event] = {}

    @custody.tool(effect="read")
    async def gated(name: str) -> str:
        await gates[name].wait()
        return name

    async def scenario() -> None:
        async with opened_runtime(tools=(gated,)) as runtime:
            await Play(runtime, gates).run(steps)

    asyncio.run(scenario())


# -- across processes, and many -----------------------------------------------------------------------

ANOTHER_PROCESS = """
import sys, custody
with custody.open(sys.argv[1]) as runtime:
    with runtime.join(sys.argv[2]) as run:
        with run.observe("search", {"q": 1}, on_error="raise") as call:
            call.result = "found"
"""


@pytest.mark.long
def test_what_another_process_records_in_a_shared_run_is_pushed(tmp_path):
    store = str(tmp_path / "store")

    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            run_id = await start(client, shared=True)
            await client.call("runs.subscribe", {"run_id": run_id})
            program = [sys.executable, "-c", ANOTHER_PROCESS, store, run_id]
            await asyncio.to_thread(subprocess.run, program, check=True, timeout=60, env=dict(os.environ))
            await client.until(lambda: pushed(client, run_id))
            await tell(client, run_id, "b")
            await client.call("runs.complete", {"run_id": run_id})
            await client.until(lambda: has_end(client, run_id))
            events = pushed(client, run_id)
            assert [event["record"].get("output") for event in events] == ["found", "b", None]
            assert [event["record"] for event in events] == (await trace(client, run_id))[1:]

    play(MEMORY, scenario, store)


@pytest.mark.long
def test_ten_thousand_turns_reach_a_subscriber_without_a_gap(tmp_path):
    @custody.tool(effect="read")
    async def nothing() -> int:
        return 1

    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as agent, connect() as viewer:
            run_id = await start(agent)
            await viewer.call("session.auth", {"agent_id": "ada"})
            await viewer.call("runs.subscribe", {"run_id": run_id})
            live = live_of(runtime).find_live(run_id, None)
            assert live is not None
            for _ in range(200):
                calls = [runtime.call("nothing", {}, run=live.handle) for _ in range(50)]
                await asyncio.gather(*calls)
                live_of(runtime).touched(live)
            await agent.call("runs.complete", {"run_id": run_id})
            await until_status(viewer, run_id, "completed")
            await viewer.until(lambda: has_end(viewer, run_id))
            events = pushed(viewer, run_id)
            assert [event["cursor"] for event in events] == [*range(1, 10_001), 10_000]
            assert [event["record"]["index"] for event in events[:-1]] == list(range(10_000))
            assert [event["record"] for event in events] == (await trace(viewer, run_id))[1:]

    play("websocket", scenario, str(tmp_path / "store"), seconds_max=600.0, tools=(nothing,))
