"""Whatever a peer sends, in whatever order: each request has one answer, others are not disturbed, nothing is
left of the peer when it goes, and the record verifies."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rpc.clients import WAIT_SECONDS, Client, door, opened_runtime, proposal

from custody.calls.runtime import Runtime
from custody.journal import RealDisk, boot_id
from custody.rpc import jsonrpc
from custody.rpc.peer import Peer
from custody.rpc.serve import End, paired, serve_peer
from custody.rpc.service import Limits, service_of
from custody.verify import Wanted, verify_store

IDS = st.sampled_from([1, 2, "1", "x", 1.5, -7])

Said = tuple[str, Any]
"""Method and params."""

METHODS: list[Said] = [
    ("server.info", None),
    ("server.handshake", {"protocol_version": 3}),
    ("server.handshake", {"protocol_version": "3"}),
    ("session.auth", {"agent_id": "somebody"}),
    ("state.set", {"key": "k", "value": [1, {"deep": None}]}),
    ("state.get", {"key": 5}),
    ("tools.register", [{"name": "slow"}]),
    ("tools.register", [{"name": ""}]),
    ("tools.unregister", {"name": "slow"}),
    ("policy.register", {"name": "p", "rule": "deny_tool", "target": "never"}),
    ("proposal.submit", proposal("slow", {"n": 1})),
    ("proposal.submit", proposal("slow", {"n": 2}, timeout_ms=1)),
    ("proposal.submit", proposal("never")),
    ("proposal.submit", {"proposal": {}}),
    ("runs.start", {"intent": "some work", "agent_id": "somebody"}),
    ("runs.get_trace", {"run_id": "0" * 32}),
    ("runs.complete", {"run_id": "no such run", "outcome": "success"}),
    ("no.such.method", {"a": 1}),
]
REQUESTS = st.sampled_from(METHODS)


def frame(members: dict[str, Any]) -> str:
    return json.dumps({"jsonrpc": "2.0", **members})


def asking(identity: Any, said: Said) -> str:
    return frame({"id": identity, "method": said[0], "params": said[1]})


def telling(said: Said) -> str:
    return frame({"method": said[0], "params": said[1]})


ASKING = st.builds(asking, IDS, REQUESTS)
TELLING = st.builds(telling, REQUESTS)
ANSWERING = st.tuples(
    st.sampled_from(["cb-1", "cb-2", "cb-9", "other", 1, None]),
    st.sampled_from([{"result": "forged"}, {"error": {"code": -1, "message": "no"}}, {"error": 5}]),
).map(lambda said: frame({"id": said[0], **said[1]}))
MALFORMED = st.sampled_from(
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 5_000,
        '{"jsonrpc":"2.0","id":2}',
        '{"id":1,"method":"server.info"}',
        '{"jsonrpc":"2.0","id":null,"method":"server.info"}',
        '{"jsonrpc":"2.0","id":"x","method":"server.info","params":1}',
    ]
) | st.text(max_size=20)
FLOOD = st.tuples(IDS, st.integers(5, 40)).map(lambda said: [frame({"id": said[0], "method": "m"})] * said[1])

SEQUENCES = st.lists(ASKING | TELLING | ANSWERING | MALFORMED | FLOOD, max_size=25).map(
    lambda steps: [text for step in steps for text in ([step] if isinstance(step, str) else step)]
)

LIMITS = Limits(in_flight_max=4, requests_per_second=1_000_000, outgoing_bytes_max=100_000)


def answers_due(texts: list[str]) -> Counter[str]:
    """How many answers each id has coming. What a frame is, is `parse`'s to say."""
    due: Counter[str] = Counter()
    for text in texts:
        found = jsonrpc.parse(text)
        if isinstance(found, (jsonrpc.Request, jsonrpc.Malformed)):
            due[json.dumps(json.loads(found.id))] += 1
    return due


async def converse(end: End, texts: list[str]) -> Counter[str]:
    """Send all of it, run the tools that are asked for, and count the answers by id until all are there."""
    given: Counter[str] = Counter()
    due = answers_due(texts)

    async def read() -> None:
        while given != due:
            said = json.loads(await end.receive() or "null")
            assert said is not None, "the connection was closed"
            if "method" not in said:
                assert ("result" in said) != ("error" in said)
                given[json.dumps(said["id"])] += 1
            elif "id" in said:
                await end.send(frame({"id": said["id"], "result": "done"}))

    async with asyncio.timeout(WAIT_SECONDS):
        reading = asyncio.create_task(read())
        for text in texts:
            await end.send(text)
        await reading
    return given


async def play(runtime: Runtime, bystander: Client, texts: list[str], leaves: bool, queues: bool) -> None:
    """`leaves`: without waiting for an answer; `queues`: each frame waits for the reader."""
    ours, theirs = paired()
    peer = Peer(door="memory")
    at_once = None if queues else theirs.offer_to
    serving = asyncio.create_task(serve_peer(theirs.receive, theirs.send, peer, runtime, at_once=at_once))
    await bystander.call("state.set", {"key": "mine", "value": len(texts)})
    if leaves:
        for text in texts:
            await ours.send(text)
    else:
        assert await converse(ours, texts) == answers_due(texts)
    assert await bystander.call("state.get", {"key": "mine"}) == len(texts)
    assert len(peer.tasks) <= LIMITS.in_flight_max
    ours.close()
    await serving
    assert (peer.tasks, peer.owed, peer.outgoing.waiting_bytes) == (set(), 0, 0)
    assert len(service_of(runtime).peers) == 1


@contextmanager
def many_connections(store: str) -> Generator[Callable[[list[str], bool, bool], None]]:
    """Gives what plays one sequence over a connection of its own, beside one that is always there."""
    with asyncio.Runner() as runner:
        opened = opened_runtime(store)
        runtime = runner.run(opened.__aenter__())
        served = door("memory", runtime, limits=LIMITS)
        connected = runner.run(served.__aenter__())()
        bystander = runner.run(connected.__aenter__())
        try:
            yield lambda texts, leaves, queues: runner.run(play(runtime, bystander, texts, leaves, queues))
        finally:
            for context in (connected, served, opened):
                runner.run(context.__aexit__(None, None, None))
    report = verify_store(RealDisk(store), root=store, wanted=Wanted(), boot_id=boot_id())
    assert report.ok, report


@pytest.mark.parametrize("examples", [30, pytest.param(1_000, marks=pytest.mark.long)])
def test_any_sequence_of_frames_is_answered_frame_by_frame(tmp_path: Path, examples: int) -> None:
    with many_connections(str(tmp_path / "store")) as play_one:

        @settings(max_examples=examples)
        @given(SEQUENCES, st.booleans(), st.booleans())
        def each(texts: list[str], leaves: bool, queues: bool) -> None:
            play_one(texts, leaves, queues)

        each()
