"""A server of MCP that tests speak to through the proxy: the protocol by hand, so that it can break it.

Each tool does one thing. What it was sent is in the file that CALLS names, a line each, as it came.
"""

import json
import os
import sys
from typing import Any

MODERN = "2026-07-28"
TOOLS = {
    "echo": "Says what it is told.",
    "fail": "Fails.",
    "error": "Answers with an error of the protocol.",
    "die": "Ends the server.",
    "hang": "Never answers.",
    "twice": "Answers twice.",
    "junk": "Prints between messages, then answers.",
    "large": "Gives as many bytes as it is told.",
    "rounds": "Asks first (2026-07-28).",
    "progress": "Tells of its progress, then answers.",
    "elicit": "Asks the client for a form, and gives what it says.",
}


def write(message: Any) -> None:
    text = message if isinstance(message, str) else json.dumps(message, separators=(", ", ": "))
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def answer(identity: Any, said: dict[str, Any]) -> None:
    write({"jsonrpc": "2.0", "id": identity, "result": {"x-extra": [1.0, None], **said}})


def text(identity: Any, said: str, **more: Any) -> None:
    answer(identity, {"content": [{"type": "text", "text": said}], **more})


def described() -> list[Any]:
    told = dict(TOOLS)
    changed = os.environ.get("DESCRIBES")
    if changed and os.path.exists(changed):
        with open(changed, encoding="utf-8") as file:
            told["echo"] = file.read()
    schema = {"type": "object", "$defs": {"a": {"$anchor": "here"}}}
    return [
        {"name": name, "description": about, "inputSchema": schema, "_meta": {"z": 1, "a": 2}}
        for name, about in told.items()
    ]


def call(identity: Any, params: dict[str, Any]) -> None:
    name, arguments = params["name"], params.get("arguments", {})
    if name == "echo":
        said = arguments.get("text", "")
        text(identity, str(os.getpid()) if said == "pid" else said, isError=False)
    elif name == "fail":
        text(identity, "it went wrong", isError=True)
    elif name == "error":
        write({"jsonrpc": "2.0", "id": identity, "error": {"code": -32099, "message": "no", "data": [1]}})
    elif name == "die":
        os._exit(3)
    elif name == "twice":
        text(identity, "once")
        text(identity, "again")
    elif name == "junk":
        write("Listening on stdio...")
        write("")
        write('{"half": ')
        text(identity, "after junk")
    elif name == "large":
        text(identity, "x" * arguments["bytes"])
    elif name == "progress":
        token = params["_meta"]["progressToken"]
        for done in (1, 2):
            said = {"progressToken": token, "progress": done, "total": 2}
            write({"jsonrpc": "2.0", "method": "notifications/progress", "params": said})
        text(identity, "done")
    elif name == "elicit":
        waiting["asked-1"] = identity
        form: dict[str, Any] = {"message": "Which?", "requestedSchema": {"type": "object", "properties": {}}}
        write({"jsonrpc": "2.0", "id": "asked-1", "method": "elicitation/create", "params": form})
    elif name == "rounds":
        responses = params.get("inputResponses")
        if responses is None:
            asked: dict[str, Any] = {
                "which": {
                    "method": "elicitation/create",
                    "params": {
                        "mode": "form",
                        "message": "Which?",
                        "requestedSchema": {"type": "object", "properties": {}},
                    },
                }
            }
            answer(identity, {"resultType": "input_required", "inputRequests": asked, "requestState": "s-1"})
        else:
            said = json.dumps([params["requestState"], responses["which"]["action"]])
            text(identity, said, resultType="complete")


waiting: dict[str, Any] = {}


def greet(identity: Any, params: dict[str, Any]) -> None:
    info = {"name": "echo", "version": "1"}
    capabilities = {"tools": {"listChanged": True}, "prompts": {}, "resources": {}}
    version = params.get("protocolVersion", MODERN)
    answer(identity, {"protocolVersion": version, "capabilities": capabilities, "serverInfo": info})


def handle(message: dict[str, Any]) -> None:
    method, identity, params = message.get("method"), message.get("id"), message.get("params", {})
    if method is None and identity in waiting:
        text(waiting.pop(identity), json.dumps(message.get("result", message.get("error"))))
    elif method == "initialize":
        greet(identity, params)
    elif method == "ping":
        answer(identity, {})
    elif method == "tools/list":
        answer(identity, {"tools": described(), "cacheScope": "public", "ttlMs": 1000})
    elif method == "tools/call":
        call(identity, params)
    elif method == "prompts/get":
        answer(identity, {"messages": []})
    elif method == "resources/read":
        answer(identity, {"contents": [{"uri": params["uri"], "text": "hello"}]})
    elif identity is not None:
        write({"jsonrpc": "2.0", "id": identity, "error": {"code": -32601, "message": "unknown"}})


def main() -> None:
    sys.stderr.write("the server says hello\n")
    sys.stderr.flush()
    calls = os.environ.get("CALLS")
    for line in sys.stdin.buffer:
        if calls:
            with open(calls, "ab") as file:
                file.write(line)
        handle(json.loads(line))


if __name__ == "__main__":
    main()
