"""Whether this process was started by a recorded call, or by an agent whose run is on the record.

Owns the walk up through the parents, and what counts as proof: the token that each command of a call has in
its environment, a launcher among the parents (it stays one of whoever frees itself of its parent or of the
token), and the owner of an open run. Refuses to know what follows from it. Used by the commands that only a
person may give, and by doors that ask one.

Below the level `confined` this is a fence, no wall: a process that has another program start something (a
scheduler, a service manager, a terminal multiplexer that runs already) is none of its parents.
"""

import functools
import os
from collections.abc import Generator
from typing import TYPE_CHECKING

from msgspec import Struct

from custody.sandbox.launcher.tree import stat_of
from custody.sandbox.survivors import TOKEN_NAME

if TYPE_CHECKING:
    from custody.index import Index

ANCESTORS_MAX = 1_000
"""A shell in a shell in a shell is ten; whoever hides behind so many is not told apart from an agent."""

ENVIRONMENT_BYTES_MAX = 8 * 1024**2
"""The kernel gives a new process less for its arguments and its environment together (execve(2): 6 MiB)."""

COMMAND_LINE_BYTES_MAX = 64 * 1024  # the launcher's has some hundred
LAUNCHER_PROGRAM = b"/sandbox/launcher/program.py"
LAUNCHER_OPTIONS = [b"-I", b"-S"]

CALLS_MAX = 1_000  # under way at once; the index gives no larger page

TYPED_DOOR = "cli"
"""Where a person types: a run that began there lives with the shell in which it was typed."""

FENCE = (
    "who answers is told apart from an agent by its parent processes: a fence, no wall, as a command at the "
    "level process can have another program start one"
)
"""What `custody doctor` says of it where calls run below `confined`."""


class Descent(Struct, frozen=True, kw_only=True):
    """Why a person cannot be told from an agent here."""

    why: str
    """Who started this process, in words that follow `it was started by`."""
    certain: bool = True
    """False: the parents cannot be told, so that an agent among them cannot be ruled out."""
    call_id: str | None = None
    """Of the recorded call, where that is known; in hex."""
    run_id: str | None = None
    """Of the run whose agent started it, where that is known."""


class Ancestor(Struct, frozen=True):
    """This process or one of its parents."""

    pid: int
    start_ticks: int


class ParentsUnclear(Exception):
    """The parents of a process cannot be read up to the first."""


def descent(index: "Index | None" = None, *, own_record: bool = True) -> Descent | None:
    """What this process descends from that no person is; None: nothing of the kind.

    Without an index the runs on the record are not asked. Without `own_record` what this process itself has
    there proves nothing: a server's record is of whom it serves.
    """
    found: list[Ancestor] = []
    try:
        for ancestor in ancestors():
            found.append(ancestor)
            told = _of_a_call(ancestor.pid)
            if told is not None:
                return told
    except ParentsUnclear:
        return Descent(why="processes that cannot be told", certain=False)
    return None if index is None else _of_an_agent(found if own_record else found[1:], index)


@functools.cache
def typed_here() -> bool:
    """Whether a person typed what this process is told to do at the command line, as far as that can be told:
    a command of a recorded call types too."""
    return descent() is None


def ancestors(pid: int | None = None) -> Generator[Ancestor]:
    """A process (this one) and its parents, the nearest first. Raises ParentsUnclear."""
    pid = os.getpid() if pid is None else pid
    found = stat_of(pid)
    for _ in range(ANCESTORS_MAX):
        if found is None:
            raise ParentsUnclear
        yield Ancestor(pid, found.start_ticks)
        if found.parent_pid == 0:  # the first of this machine, container or namespace
            return
        parent = stat_of(found.parent_pid)
        again = stat_of(pid)
        if again is not None and again.parent_pid != found.parent_pid:
            found = again  # the parent ended meanwhile, and another has taken its place: the same one again
            continue
        pid, found = found.parent_pid, parent
    raise ParentsUnclear


def _of_a_call(pid: int) -> Descent | None:
    """Whether a process is a command of a recorded call, or what starts such commands."""
    token = _token_of(pid)
    if token is not None:
        return Descent(why="a recorded call", call_id=token or None)
    return Descent(why="a recorded call") if _is_launcher(pid) else None


def _token_of(pid: int) -> str | None:
    """The call in a process's environment; None where there is none, or where it is another user's."""
    if pid == os.getpid() and TOKEN_NAME in os.environ:
        return os.environ[TOKEN_NAME]
    name = TOKEN_NAME.encode() + b"="
    for entry in _read(f"/proc/{pid}/environ", ENVIRONMENT_BYTES_MAX).split(b"\0"):
        if entry.startswith(name):
            return entry[len(name) :].decode("ascii", "replace")
    return None


def _is_launcher(pid: int) -> bool:
    words = _read(f"/proc/{pid}/cmdline", COMMAND_LINE_BYTES_MAX).split(b"\0")
    return words[1:3] == LAUNCHER_OPTIONS and len(words) > 3 and words[3].endswith(LAUNCHER_PROGRAM)


def _read(path: str, bytes_max: int) -> bytes:
    """What may be read of a file of /proc; nothing of a process that is gone or another user's."""
    try:
        with open(path, "rb") as file:
            return file.read(bytes_max)
    except OSError:
        return b""


def _of_an_agent(found: list[Ancestor], index: "Index") -> Descent | None:
    """Whether one of these processes makes a call that is under way, or owns an open run nobody typed."""
    from custody.index import CallFilter

    around = {(one.pid, one.start_ticks) for one in found}
    for run in index.open_runs():
        if (run.owner_pid, run.owner_start_ticks) not in around:
            continue
        if index.run(run.run_id.hex(), by_name=False, refresh=False).door != TYPED_DOOR:
            return Descent(why="an agent whose run is on the record", run_id=run.run_id.hex())
    pids = {one.pid for one in found}
    for call in index.calls(CallFilter(outcome="running"), limit=CALLS_MAX, refresh=False).items:
        if call.pid in pids and call.door != TYPED_DOOR:  # whose commands their launcher gives away
            return Descent(why="a program that makes a recorded call", call_id=call.id)
    return None
