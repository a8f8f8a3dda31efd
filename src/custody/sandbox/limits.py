"""Which limit ended a command, or made it fail, read from how it ended.

Owns that judgement, and which limits are the command's own; they are set elsewhere, and the words are
`command`'s. What cannot be told from a failure of the command's own is not said, and a refusal it lived with
is none. Pure. Used by `running`.
"""

import os
import signal

from custody.sandbox.cgroup import Used
from custody.sandbox.command import Command, LimitHit
from custody.sandbox.launcher import messages
from custody.sandbox.launcher.messages import Reply

_SHELLS = 128
"""A shell says so, and the number of the signal, of what it ran."""
_ROUGHLY_US = 200_000
"""The kernel ends a process by a clock that counts ticks, and measures it by a finer one."""
_TICKS_TO_TIME_MAX = 2
"""So many times what it measures it may have counted: on a busy machine others run between the ticks."""

_SAID: dict[int, LimitHit] = {
    messages.DEADLINE: "deadline",
    messages.CANCELLED: "cancelled",
    messages.DISK: "disk",
    messages.FILES: "files",
}


def limit_hit(command: Command, reply: Reply, used: Used) -> LimitHit | None:
    """What was surely met goes before what may have been the reason."""
    said = _SAID.get(reply.limit)
    if said in ("deadline", "cancelled"):
        return said
    if used.memory_kills:
        return "memory"
    code = os.waitstatus_to_exitcode(reply.status)
    if code == 0:
        return None
    return _of_one_process(command, reply, code) or ("processes" if used.process_refusals else said)


def _of_one_process(command: Command, reply: Reply, code: int) -> LimitHit | None:
    """A signal speaks for itself; a shell's number only where there is such a limit."""
    file_size, cpu_seconds = _limit(command, "fsize"), _limit(command, "cpu")
    by_shell = code - _SHELLS
    if -code == signal.SIGXFSZ or (file_size is not None and by_shell == signal.SIGXFSZ):
        return "file_size"
    if -code == signal.SIGXCPU:
        return "cpu_time"
    if cpu_seconds is None:
        return None
    used_us, limit_us = reply.user_us + reply.system_us, cpu_seconds * 1_000_000
    if by_shell == signal.SIGXCPU:
        return "cpu_time" if used_us >= limit_us / _TICKS_TO_TIME_MAX else None
    # At its hard limit the kernel kills a process as anybody might.
    is_killed = signal.SIGKILL in (-code, by_shell)
    return "cpu_time" if is_killed and used_us >= limit_us - _ROUGHLY_US else None


def own_limits(command: Command) -> dict[str, int]:
    """Those set for the command itself. Those of its sandbox are set for its launcher, once for all; but for
    processor time, of which each command has its own."""
    cpu_seconds = _limit(command, "cpu")
    return command.limits if cpu_seconds is None else {**command.limits, "cpu": cpu_seconds}


def _limit(command: Command, name: str) -> int | None:
    """The lower of the two."""
    of_sandbox = -1 if command.sandbox is None else command.sandbox.limits.get(name, -1)
    return min((value for value in (command.limits.get(name, -1), of_sandbox) if value >= 0), default=None)
