"""The built-in tools that run commands: `exec` (an argument vector) and `shell` (a line for `sh -c`).

Owns how arguments become a command and how an ended process becomes a result, and for every tool that runs
a command that what it changed is told. Starting, killing and measuring it is `sandbox`'s, what it changed
`watching`'s to find. Used by the registry, `drive_cli` and `check_outcome`.
"""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from custody.errors import LauncherLost, SandboxError
from custody.records import Decision, Effect, Level
from custody.redaction import secrets_of
from custody.sandbox import Command, Finished
from custody.tools.roots import Scope
from custody.tools.tool import Context, Ended, Keep
from custody.tools.watching.watch import Told, begin

REFUSED_HOSTS_MAX = 20
"""In a result; the events of the call tell each connection."""

_STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
_COMMON = {
    "stdin": {"type": "string", "description": "Text for its standard input."},
    "cwd": {"type": "string", "description": "Working directory, inside the allowed roots."},
    "env": {**_STRINGS, "description": "Environment variables to add."},
}


class _ProcessTool:
    """What `exec` and `shell` share."""

    effect: Effect = "unknown"
    level: Level = "process"
    timeout_seconds: float | None = None
    keep: Keep = "full"
    holds_changes = True
    """At level `transaction` its changes are held."""

    def argv(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        raise NotImplementedError

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        env: Mapping[str, str] = arguments.get("env", {})
        for name in env:
            if not name or "=" in name:
                return Decision("deny", "schema", f"{name!r} is no name for an environment variable.")
        return (
            without_nul(*self.argv(arguments), *env, *env.values()) or scope.at(arguments.get("cwd")).check()
        )

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        argv = self.argv(arguments)
        began = time.monotonic_ns()
        if context.dry_run and not context.holds:
            return Ended(started_ns=began, ended_ns=began, result={"dry_run": True, "would_run": list(argv)})
        stdin = arguments.get("stdin")
        environment = context.environment(arguments.get("env", {}))
        scope = context.scope.at(arguments.get("cwd"))
        command = Command(
            argv=argv,
            cwd=scope.cwd,
            environment=environment,
            whole=secrets_in(environment),
            stdin=None if stdin is None else stdin.encode("utf-8", "surrogateescape"),
            deadline_seconds=context.remaining_seconds(),  # all of it, however long the first look takes
        )
        return await run_command(
            command, scope, context, lambda finished: ended(finished, result_of(finished))
        )


def without_nul(*texts: str) -> Decision | None:
    """A refusal of what the kernel takes for the end of an argument."""
    if any("\0" in text for text in texts):
        return Decision("deny", "schema", "A command and its environment cannot contain a NUL character.")
    return None


async def run_command(
    command: Command, scope: Scope, context: Context, read: Callable[[Finished], Ended]
) -> Ended:
    """Run it and tell what it changed in `scope`, where that is told; `read` says what its end means.

    A start that failed is an end with an error.
    """
    if context.holds:
        from custody.tools.holding import run_held  # few commands have their changes held

        return await run_held(command, context, lambda viewing: _run(viewing, context, read))
    if not context.watch:
        return await _run(command, context, read)
    watch = await begin(scope, command.deadline_seconds)
    try:
        if context.cancelled:
            now = time.monotonic_ns()
            return Ended(started_ns=now, ended_ns=now, limit_hit="cancelled")
        done = await _run(command, context, read)
        if done.error is not None and not isinstance(done.error, LauncherLost):  # it never ran
            return done
        return _with_changes(done, await watch.finish(context))
    finally:
        watch.close()


def secrets_in(environment: Mapping[str, str]) -> Callable[[], list[bytes]]:
    """Gives the values that a command may print; a program that lists its environment does."""
    return lambda: [os.fsencode(value.strip()) for value in secrets_of(environment).values()]


async def _run(command: Command, context: Context, read: Callable[[Finished], Ended]) -> Ended:
    began = time.monotonic_ns()
    try:
        finished = await context.run_process(command)
    except SandboxError as error:
        return Ended(started_ns=began, ended_ns=time.monotonic_ns(), error=error)
    return read(finished)


def _with_changes(done: Ended, told: Told) -> Ended:
    """`unwatched` stands in the result only where something was not looked at."""
    result = done.result
    if told.unwatched is not None and result is not None:
        result = {**result, "unwatched": told.unwatched}
    return msgspec.structs.replace(done, result=result, changes=told.changes)


class ExecTool(_ProcessTool):
    """Run a program with arguments; no shell reads them."""

    name = "exec"
    description = "Run a program with arguments, without a shell."
    schema: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "argv": {
                "type": "array",
                "items": {"type": "string"},
                "minItems": 1,
                "description": "Program and arguments.",
            },
            **_COMMON,
        },
        "required": ["argv"],
        "additionalProperties": False,
    }

    def argv(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(arguments["argv"])


class ShellTool(_ProcessTool):
    """Run a line with `sh -c`."""

    name = "shell"
    description = "Run a command line with sh -c."
    schema: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "command": {"type": "string", "minLength": 1, "description": "The command line."},
            **_COMMON,
        },
        "required": ["command"],
        "additionalProperties": False,
    }

    def argv(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        return ("/bin/sh", "-c", arguments["command"])


def result_of(finished: Finished) -> dict[str, Any]:
    """What the caller and the record get of an ended process; bytes that are not UTF-8 stay bytes.

    `refused_hosts` stands in it only where something was refused.
    """
    refused = [one for one in finished.connections if one.verdict == "refused"]
    hosts = {
        f"{one.host}:{one.port}" if one.host else "unreadable": {"reason": one.reason, "allow": one.hint}
        for one in refused
    }
    return {
        "exit_code": finished.exit_code,
        "signal": finished.signal,
        "stdout": _text(finished.stdout.data),
        "stderr": _text(finished.stderr.data),
        "stdout_dropped_bytes": finished.stdout.dropped_bytes,
        "stderr_dropped_bytes": finished.stderr.dropped_bytes,
        **({"refused_hosts": dict(list(hosts.items())[:REFUSED_HOSTS_MAX])} if hosts else {}),
    }


def ended(finished: Finished, result: Any) -> Ended:
    """The measured end of a process that a tool ran."""
    dropped = finished.stdout.dropped_bytes + finished.stderr.dropped_bytes
    return Ended(
        started_ns=finished.started_monotonic_ns,
        ended_ns=finished.ended_monotonic_ns,
        result=result,
        limit_hit=finished.limit_hit or ("output" if dropped else None),
        exit_code=finished.exit_code,
        signal=finished.signal,
        usage=finished.usage,
        child_pid=finished.child_pid,
        child_start_ticks=finished.child_start_ticks,
        connections=finished.connections,
        connections_untold=finished.connections_dropped,
    )


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
