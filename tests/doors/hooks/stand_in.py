"""A coding CLI that stands in for the real ones: it calls its hooks as they do, and does what its tools do.

A program of its own, so that it is the process that its calls belong to. Reads one JSON step a line, answers
each with one line. As the real ones it goes on where a hook fails in any way but exit code 2, or takes too
long.
"""

import json
import os
import subprocess
import sys
from typing import Any

HOOKS: dict[str, list[dict[str, Any]]] = {}
SESSION: dict[str, Any] = {}
BESIDE: dict[int, subprocess.Popen[str]] = {}


def call_hooks(event: str, said: dict[str, Any], seconds: float = 20.0) -> dict[str, Any]:
    """What the hooks of an event come to: blocked or not, why, and the arguments as they are to be."""
    document = {"session_id": SESSION["id"], "cwd": os.getcwd(), "hook_event_name": event, **said}
    found: dict[str, Any] = {"blocked": False, "reason": "", "input": None, "asked": False, "failed": []}
    for hook in HOOKS.get(event, []):
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", hook["command"]],
                input=json.dumps(document),
                capture_output=True,
                text=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            found["failed"].append("it took too long")
            continue
        if done.returncode == 2:
            found |= {"blocked": True, "reason": done.stderr.strip()}
        elif done.returncode != 0:
            found["failed"].append(f"{done.returncode}: {done.stderr.strip()}")
        elif done.stdout.strip():
            read_answer(json.loads(done.stdout), found)
    return found


def read_answer(answer: dict[str, Any], found: dict[str, Any]) -> None:
    """Claude Code's form and Codex' (`hookSpecificOutput`), and Gemini CLI's (`decision`)."""
    said = answer.get("hookSpecificOutput", {})
    decision = said.get("permissionDecision") or answer.get("decision")
    if decision == "deny":
        found["reason"] = said.get("permissionDecisionReason") or answer.get("reason")
        found["blocked"] = True
    found["asked"] = decision == "ask"
    found["input"] = said.get("updatedInput") or said.get("tool_input") or found["input"]


def use_tool(step: dict[str, Any]) -> dict[str, Any]:
    """One use of a tool, from the hook before it to the one after."""
    names = SESSION["events"]
    more = {name: step[name] for name in ("agent_id", "agent_type") if name in step}
    said = {"tool_name": step["tool"], "tool_input": step["input"], **more}
    if "id" in step:
        said["tool_use_id"] = step["id"]
    before = call_hooks(names["before"], said, step.get("hook_seconds", 20.0))
    if before["blocked"] or (before["asked"] and not step.get("user_says_yes")):
        return {"ran": False, **before}
    arguments: dict[str, Any] = {**step["input"], **(before["input"] or {})}
    result, error = carry_out(step["tool"], arguments)
    after: dict[str, Any] = {**said, "tool_input": arguments if step.get("tells_changed") else step["input"]}
    if error is not None and names.get("failed"):
        told = call_hooks(names["failed"], {**after, "error": error})
    else:
        told = call_hooks(names["after"], {**after, "tool_response": result})
    return {
        "ran": True,
        "input": arguments,
        "result": result,
        "error": error,
        "after": told,
        **before_of(before),
    }


def before_of(before: dict[str, Any]) -> dict[str, Any]:
    return {"blocked": before["blocked"], "asked": before["asked"], "failed": before["failed"]}


def carry_out(tool: str, arguments: dict[str, Any]) -> tuple[Any, str | None]:
    if tool in ("Bash", "run_shell_command"):
        done = subprocess.run(
            ["/bin/sh", "-c", arguments["command"]], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        result = {"stdout": done.stdout, "stderr": done.stderr, "interrupted": False}
        return result, f"Exit code {done.returncode}\n{done.stderr}" if done.returncode else None
    if tool in ("Write", "write_file"):
        path = arguments["file_path"]
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(arguments["content"])
        return {"filePath": path, "success": True}, None
    if tool == "Edit":
        with open(arguments["file_path"], encoding="utf-8") as file:
            text = file.read()
        with open(arguments["file_path"], "w", encoding="utf-8") as file:
            file.write(text.replace(arguments["old_string"], arguments["new_string"]))
        return {"filePath": arguments["file_path"]}, None
    return {"done": tool}, None


def main() -> None:
    for line in sys.stdin:
        step = json.loads(line)
        if step["do"] == "begin":
            HOOKS.update(step["hooks"])
            SESSION.update(id=step["session"], events=step["events"])
            answer: Any = {"pid": os.getpid()}
        elif step["do"] == "tell":
            answer = call_hooks(step["event"], step["said"])
        elif step["do"] == "start":
            begun = subprocess.Popen(
                ["/bin/sh", "-c", step["line"]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
            )
            BESIDE[begun.pid] = begun
            answer = {"pid": begun.pid}
        elif step["do"] == "wait":
            begun = BESIDE.pop(step["pid"])
            output, _ = begun.communicate()
            answer = {"code": begun.returncode, "stdout": output}
        else:
            answer = use_tool(step)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
