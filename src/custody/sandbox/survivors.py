"""Processes that outlived both the process that ran them and its launcher.

Owns the proof that a process belongs to a call and the way it is ended. A process is proven to be the call's
by the token in its environment, by a proven process being its parent, or by sharing the session of one: a
session is only ever inherited, and the one a command is started in begins with it. What is not proven is
reported and let be. Used by recovery, and by `process` when a launcher is lost.
"""

import contextlib
import os
import select
import signal
import time

from msgspec import Struct

from custody.sandbox.launcher.tree import Stat, stat_of

TOKEN_NAME = "CUSTODY_CALL"

KILL_SECONDS = 2.0  # for one process to go after SIGKILL; longer means uninterruptible sleep
ROUNDS_MAX = 20  # of looking and ending: each finds what was forked during the one before


class Survivor(Struct, frozen=True):
    """A process that may be left over from a call."""

    pid: int
    start_ticks: int
    proven: bool


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when there is none of that pid."""
    found = stat_of(pid)
    return None if found is None else found.start_ticks


def ticks_now() -> int:
    """Now, as a process that starts now would have it."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def find_survivors(
    token: str, after_start_ticks: int = 0, *, session_id: int | None = None
) -> list[Survivor]:
    """Living processes of the call `token`, by pid; none that started before `after_start_ticks`.

    `session_id` is the pid of the command, where it is known: members of that session are reported even if
    nothing proves that it is not another session which came by the same number.
    """
    assert token, "an empty token would be in no environment, or in all"
    entry = f"{TOKEN_NAME}={token}".encode()
    processes = {
        pid: found
        for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
        if pid != os.getpid()
        and (found := stat_of(pid)) is not None
        and found.start_ticks >= after_start_ticks
        and not found.dead
    }
    proven = _with_relatives({pid for pid in processes if _has_entry(pid, entry)}, processes)
    suspected = proven | {pid for pid, found in processes.items() if found.session_id == session_id}
    proven -= _surroundings()
    return [
        Survivor(pid, processes[pid].start_ticks, pid in proven)
        for pid in sorted(suspected)
        if start_ticks(pid) == processes[pid].start_ticks  # what was read was all of one process
    ]


def _with_relatives(proven: set[int], processes: dict[int, Stat]) -> set[int]:
    sessions = {processes[pid].session_id for pid in proven}
    while True:
        more = {
            pid
            for pid, found in processes.items()
            if pid not in proven and (found.parent_pid in proven or found.session_id in sessions)
        }
        if not more:
            return proven
        proven |= more
        sessions |= {processes[pid].session_id for pid in more}


def _surroundings() -> set[int]:
    """The processes this one was started by: someone looking from inside a survivor is not to end himself."""
    found, around = stat_of(os.getpid()), set[int]()
    while found is not None and found.parent_pid > 0:
        around.add(found.parent_pid)
        found = stat_of(found.parent_pid)
    return around


def _has_entry(pid: int, entry: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return entry in file.read().split(b"\0")
    except OSError:  # gone, or another user's
        return False


def end_survivor(survivor: Survivor, grace_seconds: float = 0.0) -> bool:
    """End it (SIGTERM first where there is a grace); whether it is gone. Only what is proven."""
    assert survivor.proven, "what is not provably ours is reported, not killed"
    try:
        descriptor = os.pidfd_open(survivor.pid)
    except OSError:
        return True
    try:
        if start_ticks(survivor.pid) != survivor.start_ticks:  # it is gone, and the number another's
            return True
        if grace_seconds > 0 and _signal_and_wait(descriptor, signal.SIGTERM, grace_seconds):
            return True
        return _signal_and_wait(descriptor, signal.SIGKILL, KILL_SECONDS)
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):  # where this process is init or a subreaper, it was left to us
            os.waitpid(survivor.pid, os.WNOHANG)


def end_survivors(
    token: str, after_start_ticks: int = 0, grace_seconds: float = 0.0
) -> tuple[list[Survivor], list[Survivor]]:
    """End all that is proven, and what it forks meanwhile: those ended, and those left."""
    ended: dict[int, Survivor] = {}
    for _ in range(ROUNDS_MAX):
        found = find_survivors(token, after_start_ticks)
        gone = [survivor for survivor in found if survivor.proven and end_survivor(survivor, grace_seconds)]
        ended.update((survivor.pid, survivor) for survivor in gone)
        if not gone:
            break
    return list(ended.values()), find_survivors(token, after_start_ticks)


def _signal_and_wait(descriptor: int, signum: int, seconds: float) -> bool:
    try:
        signal.pidfd_send_signal(descriptor, signum)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
