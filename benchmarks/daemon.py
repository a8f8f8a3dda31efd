"""Row 15: what the daemon adds to a message, how many agents it serves, and what one that is idle costs.

A proposal of one action that the client runs itself, beside a bare JSON-RPC echo on the same WebSocket stack,
with the same callback and without; then many connections at once, idle connections, and a subscriber.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import daemon_echo
from daemon_echo import Client
from harness import Measurement, Timing, arguments, interleave, report, scratch, settle

RATIO_MAX = 1.6
IDLE_BYTES_MAX = 200_000
CONNECTIONS, TURNS = 200, 50
IDLE_CONNECTIONS = 500
WATCHED_TURNS = 10_000

PARAMETERS = {"path": "src/shop/basket.py", "needle": "total", "limit": 20}
RESULT = {"matches": ["src/shop/basket.py:41", "src/shop/basket.py:97"], "truncated": False}

SETTINGS = """\
[breaker]
cpu_pressure_percent_max = 100
[serve]
requests_per_second = 1000000
[calls]
durable_before = [{durable_before}]
"""


@contextmanager
def process(command: list[str], environment: dict[str, str]) -> Generator[tuple[int, str]]:
    """A server's pid and the line it prints when it is ready."""
    server = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    assert server.stdout is not None
    try:
        yield server.pid, server.stdout.readline().decode()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
        server.stdout.close()


@contextmanager
def serving(folder: Path, name: str, durable_before: str) -> Generator[tuple[int, str]]:
    """The daemon's pid and URL."""
    settings = folder / f"{name}.toml"
    settings.write_text(SETTINGS.format(durable_before=durable_before), encoding="utf-8")
    options = ["--no-auth", "--no-socket", "--json", "--listen", "127.0.0.1:0"]
    command = [sys.executable, "-m", "custody", "serve", "--store", str(folder / name), *options]
    with process(command, {**os.environ, "CUSTODY_CONFIG": str(settings)}) as (pid, line):
        yield pid, next(address for address in json.loads(line)["addresses"] if address.startswith("ws"))


@contextmanager
def echoing() -> Generator[str]:
    with process([sys.executable, daemon_echo.__file__], dict(os.environ)) as (_, line):
        yield f"ws://127.0.0.1:{line.strip()}"


def run_tool(params: Any) -> Any:
    return RESULT


async def agent(url: str, name: str) -> tuple[Client, str]:
    """A connection with a tool and a run."""
    client = await Client.connect(url, run_tool)
    await client.request("tools.register", [{"name": "search"}])
    started = await client.request("runs.start", {"intent": "benchmark", "agent_id": name})
    return client, started["run_id"]


PROPOSAL = {"proposal": {"actions": [{"type": "tool_call", "tool": "search", "parameters": PARAMETERS}]}}


async def one_turn(client: Client) -> None:
    said = await client.request("proposal.submit", PROPOSAL)
    assert said["results"][0]["status"] == "succeeded", said


# -- a message --------------------------------------------------------------------------------------------


def beside_an_echo(folder: Path, rounds: int, calls: int) -> dict[str, Timing]:
    loop = asyncio.new_event_loop()

    def way(work: Callable[[], Coroutine[Any, Any, Any]]) -> Callable[[], Any]:
        return lambda: loop.run_until_complete(work())

    with (
        serving(folder, "written", "") as (_, written_url),
        serving(folder, "durable", '"write", "irreversible", "unknown"') as (_, durable_url),
        echoing() as echo_url,
    ):
        written, _ = loop.run_until_complete(agent(written_url, "written"))
        durable, _ = loop.run_until_complete(agent(durable_url, "durable"))
        plain = loop.run_until_complete(Client.connect(echo_url, run_tool))
        settle()
        timings = interleave(
            {
                "written": way(lambda: one_turn(written)),
                "durable": way(lambda: one_turn(durable)),
                "echo with the same callback": way(lambda: plain.request("callback", PROPOSAL)),
                "echo": way(lambda: plain.request("echo", PROPOSAL)),
            },
            rounds=rounds,
            calls=calls,
        )
        for client in (written, durable, plain):
            loop.run_until_complete(client.close())
    loop.close()
    return timings


# -- many -------------------------------------------------------------------------------------------------


async def many_agents(url: str, connections: int, turns: int) -> tuple[Timing, float, int]:
    """Times of single turns, turns a second, and turns that are missing from the traces."""
    agents = [await agent(url, f"agent{number}") for number in range(connections)]
    taken: list[int] = []

    async def work(client: Client) -> None:
        for _ in range(turns):
            start = time.perf_counter_ns()
            await one_turn(client)
            taken.append(time.perf_counter_ns() - start)

    began = time.perf_counter()
    await asyncio.gather(*(work(client) for client, _ in agents))
    seconds = time.perf_counter() - began
    missing = 0
    for client, run_id in agents:
        said = await client.request("runs.get_trace", {"run_id": run_id})
        indexes = [record["index"] for record in said["records"] if record["record"] == "turn"]
        missing += turns - len(set(indexes) & set(range(turns)))
        await client.close()
    return Timing.of(taken), connections * turns / seconds, missing


def resident_bytes(pid: int) -> int:
    """What is the process's own: pages that are shared with nobody."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel tells nothing of this process")


async def idle_bytes(pid: int, url: str, connections: int) -> float:
    """What one idle connection costs the daemon; the first ones pay for what all share."""
    clients = [await agent(url, f"first{number}") for number in range(20)]
    before = resident_bytes(pid)
    for number in range(connections):
        client = await Client.connect(url)
        await client.request("server.handshake", {"protocol_version": 3})
        await client.request("session.auth", {"token": "any", "agent_id": f"idle{number}"})
        clients.append((client, ""))
    grown = resident_bytes(pid) - before
    await asyncio.gather(*(client.close() for client, _ in clients))
    return grown / connections


async def watched(url: str, turns: int) -> tuple[float, int]:
    """Turns a second, from being made to a subscriber's hands, and how many it did not get in its place."""
    writer, run_id = await agent(url, "watched")
    reader = await Client.connect(url)
    await reader.request("session.auth", {"token": "any", "agent_id": "watched"})
    await reader.request("runs.subscribe", {"run_id": run_id})

    async def write() -> None:
        for _ in range(turns):
            await one_turn(writer)
        await writer.request("runs.complete", {"run_id": run_id, "outcome": {"status": "success"}})

    began = time.perf_counter()
    writing = asyncio.create_task(write())
    indexes: list[int] = []
    while (event := (await reader.heard())["params"])["record"]["record"] != "ended":
        indexes.append(event["record"]["index"])
    seconds = time.perf_counter() - began
    await writing
    await asyncio.gather(writer.close(), reader.close())
    lost = turns - len(indexes)
    return turns / seconds, lost + sum(index != place for place, index in enumerate(indexes))


def main() -> None:
    options = arguments(__doc__, only=("", "one of echo, idle, many, watched"))
    part = 10 if options.quick else 1
    measurements: list[Measurement] = []
    details: dict[str, Any] = {}
    wanted = [options.only] if options.only else ["echo", "idle", "many", "watched"]
    with scratch() as folder:
        if "echo" in wanted:
            details["timings"] = timings = beside_an_echo(folder, rounds=60 // part, calls=50)
            measurements.append(of_a_message(timings))
        with serving(folder, "many", "") as (pid, url):
            if "idle" in wanted:
                grown = asyncio.run(idle_bytes(pid, url, IDLE_CONNECTIONS // part))
                measurements.append(of_idle(grown))
            if "many" in wanted:
                agents = CONNECTIONS // part
                turn, rate, missing = asyncio.run(many_agents(url, agents, TURNS))
                what = f"turns missing of {agents} agents' {TURNS} each (p99 {turn.p99_us / 1e3:.0f} ms)"
                measurements.append(none_of(what, missing))
                details |= {"many agents": turn, "many agents' turns a second": rate}
            if "watched" in wanted:
                turns = WATCHED_TURNS // part
                rate, lost = asyncio.run(watched(url, turns))
                measurements.append(none_of(f"turns a subscriber missed of {turns:,}", lost))
                details["watched turns a second"] = rate
    report("daemon", measurements, details, quick=options.quick or bool(options.only))


def of_idle(grown_bytes: float) -> Measurement:
    return Measurement(
        row=15,
        what="memory of an idle connection",
        value=grown_bytes / 1e3,
        unit="kB",
        target=f"≤ {IDLE_BYTES_MAX / 1e3:.0f} kB",
        limit=IDLE_BYTES_MAX / 1e3,
    )


def none_of(what: str, count: int) -> Measurement:
    return Measurement(row=15, what=what, value=count, unit="", target="0", limit=0)


def of_a_message(timings: dict[str, Timing]) -> Measurement:
    called = timings["echo with the same callback"].p50_us
    return Measurement(
        row=15,
        what="a proposal of one action with a client's callback, written, p50",
        value=timings["written"].p50_us,
        unit="µs",
        target=f"≤ {RATIO_MAX:g} × the echo with the same callback",
        limit=RATIO_MAX * called,
        peers={
            "an echo with the same callback": called,
            "an echo without": timings["echo"].p50_us,
            "the same proposal, durable": timings["durable"].p50_us,
        },
    )


if __name__ == "__main__":
    main()
