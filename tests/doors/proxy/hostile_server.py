"""A server of MCP that writes what a call tells it to, byte for byte: each attack stands in the test that
makes it. What it was sent is in the file that CALLS names, a line each.

What it writes comes in hexadecimal digits; `$ID` in it is the id of the call. LISTS names a file with
what it says of its tools.
"""

import json
import os
import signal
import sys
from typing import Any


def write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def answer(identity: Any, said: Any) -> None:
    write(json.dumps({"jsonrpc": "2.0", "id": identity, "result": said}).encode() + b"\n")


def listed() -> str:
    path = os.environ.get("LISTS", "")
    if not os.path.exists(path):
        return '{"tools":[{"name":"do","inputSchema":{"type":"object"}}]}'
    with open(path, encoding="utf-8") as file:
        return file.read()


def call(identity: Any, params: dict[str, Any]) -> None:
    arguments: dict[str, Any] = params.get("arguments") or {}
    steps: list[dict[str, Any]] = arguments.get("steps", [])
    for step in steps:
        if "exit" in step:
            os._exit(step["exit"])
        if "errors" in step:
            os.write(2, b"e" * step["errors"])
        written = bytes.fromhex(step.get("write", "")).replace(b"$ID", json.dumps(identity).encode())
        write(written * step.get("times", 1))
    if not arguments.get("silent"):
        answer(identity, {"content": [{"type": "text", "text": "done"}]})


def handle(message: dict[str, Any]) -> None:
    method, identity = message.get("method"), message.get("id")
    if method == os.environ.get("DIES_AT", ""):
        os._exit(7)
    if method == "initialize":
        version = message["params"]["protocolVersion"]
        info = {"name": "hostile", "version": "1"}
        answer(identity, {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info})
    elif method == "tools/list":
        write(f'{{"jsonrpc":"2.0","id":{json.dumps(identity)},"result":{listed()}}}\n'.encode())
    elif method == "tools/call":
        call(identity, message["params"])
    elif method is not None and identity is not None:
        answer(identity, {})


def main() -> None:
    if "--stays" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(os.environ["CALLS"], "ab", buffering=0) as calls:
        for line in sys.stdin.buffer:
            calls.write(line)
            try:
                handle(json.loads(line))
            except ValueError:
                sys.stderr.write("a line that is none\n")
    while "--stays" in sys.argv:
        signal.pause()


if __name__ == "__main__":
    main()
