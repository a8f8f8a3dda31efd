"""The built-in tool `process_kill`: a signal to one process that a call of Custody started.

Owns the proof that a process may be signalled, and the signal. A process is held by a descriptor of its own
(pidfd) from the first look at it until the signal, so that no other which came by the same number can be
meant. What may be ended without being asked for is `sandbox`'s: the tree of a call that is over.
"""

import asyncio
import contextlib
import os
import pwd
import select
import shlex
import signal
import time
from collections.abc import Generator, Mapping
from typing import Any, Literal

from msgspec import Struct

from custody.errors import ToolError
from custody.records import Decision, Effect, Level, rfc3339
from custody.sandbox.launcher.tree import read, stat_of
from custody.sandbox.survivors import TOKEN_NAME
from custody.tools.roots import Scope
from custody.tools.tool import Context, Ended, Keep

SIGNALS = {
    name: signal.Signals[f"SIG{name}"]
    for name in ("TERM", "KILL", "INT", "HUP", "QUIT", "USR1", "USR2", "STOP", "CONT")
}
"""What asks a process for something. The rest tell it of faults it did not have."""

PID_MAX = 2**22  # the kernel's own limit
WAIT_SECONDS = 1.0  # for a process to clean up and go; the answer comes as soon as it has gone
WAIT_SECONDS_MAX = 60.0  # who waits longer asks again
ANCESTORS_MAX = 200  # steps upwards from a process; a tree of calls is some ten deep
COMMAND_CHARACTERS_MAX = 2_000  # of the command line in the result: enough to know it by

_ONLY_STATE = (signal.SIGSTOP, signal.SIGCONT)  # these end nothing, so there is nothing to wait for
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD of linux/sched.h
_LAUNCHER = ("-I", "-S", "/sandbox/launcher/program.py")


class _Refused(Exception):
    """The process is one that no call may signal."""


class _Process(Struct, frozen=True, kw_only=True):
    """A process that may be signalled, held by `descriptor`."""

    descriptor: int
    pid: int
    start_ticks: int
    command: str
    user_id: int

    def said(self) -> dict[str, Any]:
        return {
            "pid": self.pid,
            "command": self.command,
            "user": _user_name(self.user_id),
            "start_ticks": self.start_ticks,
            "started_at": rfc3339(_started_at_us(self.start_ticks)),
        }


class ProcessKill:
    """Send a signal to a process that a call started, and tell whether it has gone."""

    name = "process_kill"
    description = (
        "Send a signal to a process that a call of Custody started, or that this program did. "
        "Tells whether the process has ended."
    )
    effect: Effect = "irreversible"
    level: Level = "none"
    timeout_seconds: float | None = None
    keep: Keep = "full"
    schema: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "pid": {"type": "integer", "minimum": 1, "maximum": PID_MAX, "description": "The process."},
            "signal": {
                "enum": [*SIGNALS, *(f"SIG{name}" for name in SIGNALS), *map(int, SIGNALS.values())],
                "description": "Name or number of the signal. Default: TERM.",
            },
            "wait_seconds": {
                "type": "number",
                "minimum": 0,
                "maximum": WAIT_SECONDS_MAX,
                "description": "How long it may take to end. Default: 1, and 0 for STOP and CONT.",
            },
            "start_ticks": {
                "type": "integer",
                "minimum": 0,
                "description": "When it started, in clock ticks since boot; another of its number is let be.",
            },
        },
        "required": ["pid"],
        "additionalProperties": False,
    }

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        try:
            with _held(arguments):
                return None
        except _Refused as refusal:
            return Decision("deny", "rule", str(refusal))
        except ToolError:  # it has gone, which is no question of what may be: the call says so
            return None

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        signum = _signal_of(arguments.get("signal", "TERM"))
        began_ns = time.monotonic_ns()
        result: dict[str, Any] = {}
        limit_hit: Literal["deadline", "cancelled"] | None = None
        try:
            with _held(arguments) as process:
                result = {**process.said(), "signal": signum.name.removeprefix("SIG")}
                if context.dry_run:
                    result = {"dry_run": True, "would_signal": result}
                else:
                    default = 0.0 if signum in _ONLY_STATE else WAIT_SECONDS
                    wait_seconds = float(arguments.get("wait_seconds", default))
                    _send(process, signum)
                    limit_hit = await _wait(process.descriptor, wait_seconds, context)
                    result |= _end_of(process.descriptor)
                    result["waited_ms"] = (time.monotonic_ns() - began_ns) // 1_000_000
        except (_Refused, ToolError) as error:
            return Ended(started_ns=began_ns, ended_ns=time.monotonic_ns(), error=ToolError(str(error)))
        return Ended(started_ns=began_ns, ended_ns=time.monotonic_ns(), result=result, limit_hit=limit_hit)


# -- which process, and whether it may be signalled -----------------------------------------------------


@contextlib.contextmanager
def _held(arguments: Mapping[str, Any]) -> Generator[_Process]:
    """The process asked for, held. Raises _Refused where it may not be signalled, ToolError if it is gone."""
    pid = int(arguments["pid"])  # 5.0 is an integer to JSON Schema
    if pid == 1:
        raise _Refused("Process 1 is the system's first; nothing ends it from here.")
    if pid == os.getpid():
        raise _Refused(f"Process {pid} is this program itself.")
    gone = ToolError(f"There is no process {pid}.")
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        raise gone from None
    except OSError as error:
        raise ToolError(f"{pid} is no process; it may be the number of a thread.") from error
    try:
        found, wanted = stat_of(pid), arguments.get("start_ticks")
        if found is None or found.dead or not _holds(descriptor):
            raise gone
        if wanted is not None and found.start_ticks != wanted:
            raise ToolError(
                f"The process {pid} that started at tick {int(wanted)} has ended; "
                f"the one of that number now started at tick {found.start_ticks}."
            )
        process = _looked_at(pid, descriptor, found.start_ticks)
        if not _holds(descriptor):
            raise gone
        yield process
    finally:
        os.close(descriptor)


def _looked_at(pid: int, descriptor: int, start_ticks: int) -> _Process:
    """What is known of a process that may be signalled. Raises _Refused for any other."""
    if pid in _ancestors():
        raise _Refused(f"Process {pid} is one that this program was started by.")
    try:
        flags = int(read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[6])
        argv = read(f"/proc/{pid}/cmdline").split(b"\0")[:-1]
        users = set(map(int, read(f"/proc/{pid}/status").partition(b"\nUid:")[2].split()[:3]))
    except (OSError, IndexError, ValueError):
        raise ToolError(f"There is no process {pid}.") from None
    if flags & _KERNEL_THREAD:
        raise _Refused(f"Process {pid} is a thread of the kernel.")
    words = [os.fsdecode(word) for word in argv]
    if tuple(words[1:3]) == _LAUNCHER[:2] and words[3:] and words[3].endswith(_LAUNCHER[2]):
        raise _Refused(f"Process {pid} is a launcher of Custody, which ends by itself.")
    if users != {os.geteuid()}:  # real, effective and saved: a setuid program is another user's as well
        raise _Refused(f"Process {pid} is another user's.")
    if not _is_ours(pid, descriptor):
        raise _Refused(f"No call of Custody started process {pid}, so no call may end it.")
    return _Process(
        descriptor=descriptor,
        pid=pid,
        start_ticks=start_ticks,
        command=shlex.join(words)[:COMMAND_CHARACTERS_MAX],
        user_id=os.geteuid(),
    )


def _is_ours(pid: int, descriptor: int) -> bool:
    """Whether it, or a process above it, carries the token of a call, or is this program.

    Each process on the way up is held while its parent is asked for, so the number read is its parent's.
    """
    with contextlib.ExitStack() as held:
        for _ in range(ANCESTORS_MAX):
            if pid == os.getpid() or (_has_token(pid) and _holds(descriptor)):
                return True
            found = stat_of(pid)
            if found is None or found.parent_pid == 0:
                return False
            try:
                above = os.pidfd_open(found.parent_pid)
            except OSError:  # it ended, and another became the parent
                continue
            held.callback(os.close, above)
            again = stat_of(pid)
            if again is None or not _holds(descriptor):
                return False
            if again.parent_pid == found.parent_pid:
                pid, descriptor = found.parent_pid, above
    return False


def _has_token(pid: int) -> bool:
    try:
        environment = _read_all(f"/proc/{pid}/environ")
    except OSError:  # gone, or another user's
        return False
    return any(entry.startswith(f"{TOKEN_NAME}=".encode()) for entry in environment.split(b"\0"))


def _read_all(path: str) -> bytes:
    """An environment can be larger than what one read of /proc gives."""
    with open(path, "rb", buffering=0) as file:
        return file.read()


def _ancestors() -> set[int]:
    above: set[int] = set()
    found = stat_of(os.getpid())
    while found is not None and found.parent_pid > 0:
        above.add(found.parent_pid)
        found = stat_of(found.parent_pid)
    return above


def _holds(descriptor: int) -> bool:
    """Whether the process has not been taken up by its parent, so that its number is still its own."""
    try:
        signal.pidfd_send_signal(descriptor, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


# -- the signal, and what came of it --------------------------------------------------------------------


def _send(process: _Process, signum: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(process.descriptor, signum)
    except ProcessLookupError:
        raise ToolError(f"There is no process {process.pid}.") from None
    except PermissionError as error:
        raise ToolError(f"Process {process.pid} may not be signalled: {error.strerror}.") from error


async def _wait(descriptor: int, seconds: float, context: Context) -> Literal["deadline", "cancelled"] | None:
    """Until it has ended, for so long at most; what else ended the wait."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    left = context.remaining_seconds()
    loop.add_reader(descriptor, over.set)
    context.on_cancel(over.set)
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), seconds if left is None else min(seconds, left))
    finally:
        loop.remove_reader(descriptor)
    if _has_ended(descriptor):
        return None
    if context.cancelled:
        return "cancelled"
    return "deadline" if left is not None and left < seconds else None


def _has_ended(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _end_of(descriptor: int) -> dict[str, Any]:
    """Whether it has ended, and how if it was our child; of another the record of its call says how."""
    code = signum = None
    ended = _has_ended(descriptor)
    if ended:
        with contextlib.suppress(ChildProcessError):
            status = os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if status is not None:
                by_itself = status.si_code == os.CLD_EXITED
                code, signum = (status.si_status, None) if by_itself else (None, status.si_status)
    return {"ended": ended, "exit_code": code, "exit_signal": signum}


# -- words ----------------------------------------------------------------------------------------------


def _signal_of(asked: str | float) -> signal.Signals:
    if isinstance(asked, str):
        return SIGNALS[asked.removeprefix("SIG")]
    return signal.Signals(int(asked))


def _user_name(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return str(user_id)


def _started_at_us(start_ticks: int) -> int:
    booted_us = (time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) // 1000
    return booted_us + start_ticks * 1_000_000 // os.sysconf("SC_CLK_TCK")
