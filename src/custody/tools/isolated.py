"""Python functions run in a child process that can be killed: `@custody.tool(isolated=True)`.

Owns the child's side as well (`python -m custody.tools.isolated`): it reads a request from its standard
input, imports the function by name, and writes one msgpack answer to what was its standard output; prints
of the function go to standard error. Objects that are not plain data do not cross.
"""

import os
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

import msgspec

from custody.errors import SandboxError, ToolError, UsageError
from custody.records import Level
from custody.sandbox import Command, Finished
from custody.tools.function import FunctionTool
from custody.tools.process import ended
from custody.tools.tool import Context, Ended

ANSWER_BYTES_MAX = 64 * 1024 * 1024  # a result is data for a record, not a file transfer


class IsolatedTool(FunctionTool):
    """A function tool whose function runs in a process of its own, at level `process`."""

    level: Level = "process"

    def __init__(self, function: Any, **options: Any) -> None:
        super().__init__(function, **options)
        if "<locals>" in function.__qualname__ or self._wants_context:
            raise UsageError(
                f"Tool {self.name!r} cannot be isolated: "
                "its function must be importable by name and take no context.",
                hint="Move it to the top level of a module, or leave isolated=True out.",
            )

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        began = time.monotonic_ns()
        if context.dry_run and self.effect != "read":
            return Ended(started_ns=began, ended_ns=began, result={"dry_run": True, "would_call": self.name})
        module = sys.modules[self.function.__module__]
        request = {
            "module": self.function.__module__,
            "file": getattr(module, "__file__", None),
            "function": self.function.__qualname__,
            "path": sys.path,
            "arguments": dict(arguments),
        }
        command = Command(
            argv=(sys.executable, "-m", "custody.tools.isolated"),
            cwd=context.cwd,
            environment=context.environment({"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}),
            stdin=msgspec.msgpack.encode(request),
            deadline_seconds=context.remaining_seconds(),
            keep_head_bytes=ANSWER_BYTES_MAX,
        )
        try:
            finished = await context.run_process(command)
        except SandboxError as error:
            return Ended(started_ns=began, ended_ns=time.monotonic_ns(), error=error)
        return _judge(finished)


def _judge(finished: Finished) -> Ended:
    """The answer of the child, or what stands for one that gave none."""
    if finished.limit_hit is not None:
        return ended(finished, None)
    try:
        answer = msgspec.msgpack.decode(finished.stdout.data)
    except msgspec.DecodeError:
        stderr = finished.stderr.data.decode(errors="replace").strip()
        how = f"signal {finished.signal}" if finished.signal else f"exit code {finished.exit_code}"
        error = ToolError(f"The isolated function ended without an answer ({how}). {stderr[-500:]}".strip())
        return msgspec.structs.replace(ended(finished, None), error=error)
    if answer["error"] is not None:
        error = ToolError(answer["error"]["message"])
        error.details["type"] = answer["error"]["type"]
        return msgspec.structs.replace(ended(finished, None), error=error)
    return ended(finished, answer["result"])


def _load(request: Mapping[str, Any]) -> Any:
    """Import the function the request names; one from a script is taken from the script's file."""
    import importlib
    import importlib.util

    if request["module"] == "__main__":
        spec = importlib.util.spec_from_file_location("__custody_main__", request["file"])
        assert spec is not None and spec.loader is not None, "the parent ran it from this file"
        module = importlib.util.module_from_spec(spec)
        sys.modules["__custody_main__"] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(request["module"])
    found: Any = module
    for part in request["function"].split("."):
        found = getattr(found, part)
    return found


def main() -> None:
    """The child's side."""
    answers = os.dup(1)
    os.dup2(2, 1)
    request = msgspec.msgpack.decode(sys.stdin.buffer.read())
    sys.path[:] = request["path"]
    try:
        tool = _load(request)
        named = (
            tool.named(request["arguments"], None) if isinstance(tool, FunctionTool) else request["arguments"]
        )
        function = tool.function if isinstance(tool, FunctionTool) else tool
        result = function(**named)
        if hasattr(result, "__await__"):
            import asyncio

            async def wait() -> Any:
                return await result

            result = asyncio.run(wait())
        data = msgspec.msgpack.encode({"result": result, "error": None})
    except BaseException as error:  # whatever it raised is the answer, SystemExit included
        traceback.print_exc()
        data = msgspec.msgpack.encode(
            {"result": None, "error": {"type": type(error).__name__, "message": str(error)}}
        )
    sys.stdout.flush()
    with os.fdopen(answers, "wb") as pipe:
        pipe.write(data)


if __name__ == "__main__":
    main()
