"""Row 18: an MCP client waits for `custody mcp` to start, and then for each call.

Beside it runs a server of the same SDK with one tool that does nothing: what neither guards nor records. Both
are processes on standard input and output, asked by the same lines of JSON.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import Measurement, Timing, arguments, interleave, never_refused, report, scratch

FIRST_MS_MAX = 1_200.0
BARE = "a server of the SDK alone"
BARE_SERVER = """
import asyncio
import mcp_types as types
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server

async def tools(request, params):
    return types.ListToolsResult(tools=[types.Tool(name="nothing", input_schema={"type": "object"})])

async def call(request, params):
    return types.CallToolResult(content=[types.TextContent(type="text", text="done")])

async def main():
    server = Server("bare", on_list_tools=tools, on_call_tool=call)
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())

asyncio.run(main())
"""
HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "benchmark", "version": "1"},
}


class Client:
    """One server, asked line by line."""

    def __init__(self, command: list[str], cwd: Path) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=cwd
        )
        self._id = 0

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._id += 1
        self._send({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params})
        answer = json.loads(self._process.stdout.readline())
        assert answer["id"] == self._id and "result" in answer, answer
        return answer["result"]

    def begin(self) -> None:
        self.ask("initialize", HELLO)
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def call(self, name: str, given: dict[str, Any]) -> None:
        answer = self.ask("tools/call", {"name": name, "arguments": given})
        assert not answer.get("isError"), answer

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        if self._process.stdout is not None:
            self._process.stdout.close()


@contextmanager
def client(command: list[str], cwd: Path) -> Iterator[Client]:
    made = Client(command, cwd)
    try:
        made.begin()
        yield made
    finally:
        made.close()


def first_answers(commands: dict[str, list[str]], cwd: Path, rounds: int) -> dict[str, Timing]:
    """From the start of the process to its greeting and its list of tools, for which the store is open."""
    taken: dict[str, list[int]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            began = time.perf_counter_ns()
            made = Client(command, cwd)
            made.begin()
            made.ask("tools/list", {})
            taken[name].append(time.perf_counter_ns() - began)
            made.close()
    return {name: Timing.of(found) for name, found in taken.items()}


def main() -> None:
    options = arguments(__doc__)
    rounds = 2 if options.quick else 15
    with scratch() as folder:
        never_refused(folder)
        os.environ["CUSTODY_STORE"] = str(folder / "store")
        cwd = folder / "work"
        cwd.mkdir()
        (cwd / "note.txt").write_text("four words of text\n")
        ours = [sys.executable, "-m", "custody", "mcp"]
        bare = [sys.executable, "-c", BARE_SERVER]
        starts = first_answers({"custody mcp": ours, BARE: bare}, cwd, rounds)
        with client(ours, cwd) as custody, client(bare, cwd) as other:
            ways = {
                "file_read": lambda: custody.call("file_read", {"path": "note.txt"}),
                "stats": lambda: custody.call("stats", {}),
                BARE: lambda: other.call("nothing", {}),
            }
            calls = interleave(ways, rounds=rounds, calls=20)
    measurements = [
        Measurement(
            row=18, what="`custody mcp`: from its start to its list of tools, p50",
            value=starts["custody mcp"].p50_us / 1e3, unit="ms", target=f"≤ {FIRST_MS_MAX:,.0f} ms",
            limit=FIRST_MS_MAX, peers={BARE: starts[BARE].p50_us / 1e3},
        ),
    ]  # fmt: skip
    print(
        "one call, p50: "
        + ", ".join(f"{name} {timing.p50_us / 1e3:.2f} ms" for name, timing in calls.items())
    )
    report("mcp_server", measurements, {"starts": starts, "calls": calls}, quick=options.quick)


if __name__ == "__main__":
    main()
