"""An agent written for the official client, unmodified: what it did and saw goes to standard output as JSON.

Started by `test_official_client` in a process of its own, as the client keeps its own connection and threads.
"""

import json
import sys
from typing import Any

import car_runtime  # pyright: ignore[reportMissingImports]

AGENT = "official"


class Agent:
    def __init__(self) -> None:
        self.runtime: Any = car_runtime.CarRuntime()
        self.called: list[Any] = []

    def tool(self, call_json: str) -> str:
        call = json.loads(call_json)
        self.called.append({name: call[name] for name in ("tool", "params", "action_id", "attempt")})
        if call["tool"] == "breaks":
            raise ValueError("it broke")
        if call["tool"] == "fatal":
            raise car_runtime.TerminalToolError("it is over")
        return json.dumps({"echoed": call["params"]})

    def submit(self, *actions: dict[str, Any], **more: Any) -> Any:
        proposal = {"source": "test", "actions": [_action(**action) for action in actions]}
        return json.loads(self.runtime.execute_proposal(json.dumps(proposal), self.tool, **more))

    def call(self, method: str, params: Any) -> Any:
        return json.loads(self.runtime.daemon_call(method, json.dumps(params)))


def _action(tool: str, name: str, **parameters: Any) -> dict[str, Any]:
    action = {"id": name, "type": "tool_call", "tool": tool}
    return {**action, "parameters": parameters, "dependencies": []}


def work(agent: Agent) -> dict[str, Any]:
    runtime = agent.runtime
    said: dict[str, Any] = {}
    runtime.register_tool("echo")
    for name in ("breaks", "fatal"):
        schema = {"name": name, "description": "Fails.", "parameters": {"type": "object"}}
        runtime.register_tool_schema(json.dumps(schema))
    runtime.register_tool("forgotten")
    said["unregistered"] = runtime.unregister_tool("forgotten")
    said["tools"] = [tool["name"] for tool in json.loads(runtime.list_tools())]
    runtime.register_policy("no-secrets", "deny_tool_param", "echo", "text", "secret")
    runtime.register_policy("not-yet", "require_state", None, "ready", None, "true")
    said["policies"] = [policy["name"] for policy in json.loads(runtime.list_policies())]
    started = json.loads(runtime.runs_start(json.dumps({"intent": "try it out", "agent_id": AGENT})))
    said["started"] = started
    said["not_ready"] = agent.submit({"tool": "echo", "name": "early", "text": "hello"})
    runtime.state_set("ready", "true")
    said["state"] = [runtime.state_get("ready"), runtime.state_exists("ready"), runtime.state_keys()]
    said["verified"] = json.loads(
        runtime.verify_proposal(json.dumps({"actions": [_action("echo", "v", text="x")]}))
    )
    said["succeeded"] = agent.submit(
        {"tool": "echo", "name": "one", "text": "hello"}, {"tool": "echo", "name": "two", "text": "again"}
    )
    said["denied"] = agent.submit({"tool": "echo", "name": "three", "text": "a secret word"})
    said["broke"] = agent.submit({"tool": "breaks", "name": "four"})
    said["events"] = runtime.event_count()
    said["trace"] = agent.call("runs.get_trace", {"run_id": started["run_id"]})
    said["listed"] = json.loads(runtime.runs_list(json.dumps({"agent_id": AGENT})))
    outcome: dict[str, Any] = {"status": "success", "summary": "tried", "evidence": [], "metrics": {}}
    completing: dict[str, Any] = {"run_id": started["run_id"], "outcome": outcome}
    said["completed"] = json.loads(runtime.runs_complete(json.dumps(completing)))
    said["refused"] = refused(lambda: agent.call("runs.complete", completing))
    said["unknown"] = refused(lambda: agent.call("voice.start", {}))
    said["fatal"] = agent.submit({"tool": "fatal", "name": "five"})
    said["halted"] = agent.submit({"tool": "echo", "name": "six", "text": "hello"})
    said["called"] = agent.called
    epoch = runtime.connection_epoch()
    runtime.close()
    said["another_connection"] = runtime.connection_epoch() != epoch
    said["tools_of_another"] = [tool["name"] for tool in json.loads(runtime.list_tools())]
    return said


def refused(ask: Any) -> Any:
    try:
        return ask()
    except car_runtime.DaemonRpcError as error:
        return {"code": error.code, "message": error.message}


if __name__ == "__main__":
    json.dump(work(Agent()), sys.stdout)
