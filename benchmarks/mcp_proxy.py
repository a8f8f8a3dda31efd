"""Rows 21 to 23: what `custody proxy` adds to a call of a tool that only echoes, over standard input and
output and over HTTP, and the memory that a result of a megabyte takes.

Beside it the same client speaks to the same server directly, and, where it is installed, through the proxy of
FastMCP. A call of a tool that nobody says only reads waits for the disk before the server has it; that figure
stands in the details, with a raw durable put of the same run.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness import Measurement, RawDisk, Timing, Way, arguments, interleave, never_refused, report, scratch
from mcp_server import HELLO, Client

ADDED_MS_MAX = 0.6
ADDED_HTTP_MS_MAX = 1.0
MEGABYTES_MAX = 3.0

ECHO_SERVER = """
import json, sys
for line in sys.stdin.buffer:
    said = json.loads(line)
    if "id" not in said:
        continue
    if said["method"] == "tools/call":
        given = said["params"]["arguments"]
        text = "x" * given["bytes"] if "bytes" in given else given["text"]
        result = {"content": [{"type": "text", "text": text}]}
    else:
        tools = [{"name": "echo", "inputSchema": {"type": "object"}}]
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "tools": tools,
                  "serverInfo": {"name": "echo", "version": "1"}}
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": said["id"], "result": result}) + "\\n")
    sys.stdout.flush()
"""
HTTP_SERVER = """
import json, socket, sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

async def answer(request):
    said = json.loads(await request.body())
    if "id" not in said:
        return Response(status_code=202)
    if said["method"] == "tools/call":
        result = {"content": [{"type": "text", "text": said["params"]["arguments"]["text"]}]}
    else:
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "tools": [],
                  "serverInfo": {"name": "echo", "version": "1"}}
    body = json.dumps({"jsonrpc": "2.0", "id": said["id"], "result": result})
    return Response(body, media_type="application/json")

listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
listener.bind(("127.0.0.1", 0))
listener.listen(16)
print(listener.getsockname()[1], flush=True)
app = Starlette(routes=[Route("/mcp", answer, methods=["POST"])])
uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_keep_alive=600)).run([listener])
"""
FASTMCP_PROXY = """
import sys
from fastmcp.server import create_proxy
server = {"command": sys.executable, "args": ["-c", sys.argv[1]]}
create_proxy({"mcpServers": {"echo": server}}).run(show_banner=False)
"""
PROXY = [sys.executable, "-m", "custody", "proxy", "--name", "echo"]


class Posting:
    """A client of HTTP that speaks to the server itself."""

    def __init__(self, port: int) -> None:
        import http.client

        self._connection = http.client.HTTPConnection("127.0.0.1", port)
        self._connection.connect()
        # Else the body waits for the acknowledgement of the headers, 40 ms.
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._id = 0

    def call(self, name: str, given: dict[str, Any]) -> None:
        self._id += 1
        said = {"jsonrpc": "2.0", "id": self._id, "method": "tools/call",
                "params": {"name": name, "arguments": given}}  # fmt: skip
        self._connection.request("POST", "/mcp", json.dumps(said), {"content-type": "application/json"})
        assert json.loads(self._connection.getresponse().read())["id"] == self._id


def memory_kib(client: Client) -> int:
    """The most memory its process ever had."""
    status = Path(f"/proc/{client._process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def begun(command: list[str], cwd: Path) -> Client:
    client = Client(command, cwd)
    client.ask("initialize", HELLO)
    return client


@contextmanager
def http_server() -> Iterator[int]:
    """Its port."""
    served = subprocess.Popen([sys.executable, "-c", HTTP_SERVER], stdout=subprocess.PIPE, text=True)
    try:
        assert served.stdout is not None
        yield int(served.stdout.readline())
        served.stdout.close()
    finally:
        served.terminate()
        served.wait(30)


def measured(folder: Path, port: int, rounds: int) -> tuple[dict[str, Timing], float]:
    """Each way's calls, and the megabytes that the proxy's memory has grown by."""
    echo = [sys.executable, "-c", ECHO_SERVER]
    at = ["--url", f"http://127.0.0.1:{port}/mcp"]
    clients = {
        "direct": begun(echo, folder),
        "custody proxy": begun([*PROXY, "--reads", "echo", "--", *echo], folder),
        "custody proxy, durable first": begun([*PROXY, "--", *echo], folder),
        "custody proxy over HTTP": begun([*PROXY, "--reads", "echo", *at], folder),
    }
    if find_spec("fastmcp") is not None:
        clients["FastMCP"] = begun([sys.executable, "-c", FASTMCP_PROXY, ECHO_SERVER], folder)
    posting, disk = Posting(port), RawDisk(folder, 600)
    ways: dict[str, Way] = {
        name: lambda one=one: one.call("echo", {"text": "hello"}) for name, one in clients.items()
    }
    ways |= {"direct over HTTP": lambda: posting.call("echo", {"text": "hello"})}
    ways |= {"a raw durable put": disk.durable_put}
    found = interleave(ways, rounds=rounds, calls=20, warm_up=2)
    proxy = clients["custody proxy"]
    proxy.call("echo", {"bytes": 1_000})
    Path(f"/proc/{proxy._process.pid}/clear_refs").write_text("5")
    before = memory_kib(proxy)
    for _ in range(5):
        proxy.call("echo", {"bytes": 1_000_000})
    grown = (memory_kib(proxy) - before) / 1024
    for client in clients.values():
        client.close()
    disk.close()
    return found, grown


def main() -> None:
    options = arguments(__doc__)
    with scratch() as folder, http_server() as port:
        never_refused(folder)
        os.environ["CUSTODY_STORE"] = str(folder / "store")
        found, grown = measured(folder, port, 3 if options.quick else 30)

    def added(name: str, to: str) -> float:
        return (found[name].p50_us - found[to].p50_us) / 1e3

    peers = {"FastMCP": added("FastMCP", "direct")} if "FastMCP" in found else {}
    measurements = [
        Measurement(
            row=21, what="`custody proxy`: added to an echo over stdio, p50",
            value=added("custody proxy", "direct"), unit="ms", target=f"≤ {ADDED_MS_MAX} ms",
            limit=ADDED_MS_MAX, peers=peers,
        ),
        Measurement(
            row=22, what="`custody proxy`: added to an echo over HTTP, p50",
            value=added("custody proxy over HTTP", "direct over HTTP"), unit="ms",
            target=f"≤ {ADDED_HTTP_MS_MAX} ms", limit=ADDED_HTTP_MS_MAX,
        ),
        Measurement(
            row=23, what="`custody proxy`: memory for a relayed result of 1 MB",
            value=grown, unit="MB", target=f"≤ {MEGABYTES_MAX:g} MB", limit=MEGABYTES_MAX,
        ),
    ]  # fmt: skip
    print(", ".join(f"{name} {timing.p50_us / 1e3:.2f} ms" for name, timing in found.items()))
    report("mcp_proxy", measurements, {"calls": found}, quick=options.quick)


if __name__ == "__main__":
    main()
