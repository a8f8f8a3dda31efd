"""What is to be run, and how it ended.

Owns the two frozen types that pass between whoever runs a command and the launcher processes, with the
bounds a command has when nobody says otherwise. Knows nothing of how a process is started.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from custody.records import Usage
from custody.sandbox.output import KEEP_HEAD_BYTES, KEEP_TAIL_BYTES, Output, nothing

if TYPE_CHECKING:
    from custody.sandbox.egress.proxy import Connection
    from custody.sandbox.walls.model import Sandbox, View  # loaded by who makes one: most commands have none

DEADLINE_SECONDS = 30.0  # long enough for most commands, short enough that a hung one is noticed
GRACE_SECONDS = 2.0  # what a well-behaved program needs to clean up after SIGTERM

LimitHit = Literal[
    "deadline", "cancelled", "memory", "processes", "cpu_time", "file_size", "disk", "files", "output"
]
"""`output` ends nothing and fails nothing: more was written than is kept."""
"""What ended a command, or made it fail: its time, whoever cancelled it, memory and processes of its whole
tree, processor time and size of a file of one process; a folder private to it is full of bytes, or files."""


class TerminalSize(Struct, frozen=True):
    """Size of a terminal in characters."""

    rows: int = 24
    columns: int = 80


class Command(Struct, frozen=True, kw_only=True):
    """One command, complete: nothing is added to it but the token."""

    argv: tuple[str, ...]
    cwd: str
    environment: dict[str, str]
    """The whole environment; the command has no other."""
    stdin: bytes | None = None
    """None: /dev/null, unless `stdin_fd` says otherwise."""
    stdin_fd: int | None = None
    """The caller's own descriptor, handed through; it stays the caller's."""
    deadline_seconds: float | None = DEADLINE_SECONDS
    """From its start until SIGTERM goes to the whole tree. None: no deadline."""
    grace_seconds: float = GRACE_SECONDS
    """From SIGTERM until SIGKILL."""
    keep_head_bytes: int = KEEP_HEAD_BYTES
    """How much of the beginning of each stream is kept."""
    keep_tail_bytes: int = KEEP_TAIL_BYTES
    """How much of the end of each stream is kept."""
    whole: Callable[[], Iterable[bytes]] = nothing
    """Gives values of which no part is kept without the rest, where something between the two is dropped."""
    no_new_privs: bool = False
    """Programs that would gain privileges (setuid, file capabilities) do not."""
    limits: dict[str, int] = {}
    """Resource limits by the name of setrlimit(2) in lower case, `nofile` or `fsize`; soft and hard alike,
    but for `cpu`, whose hard one is a second later; lowered to the hard limit in force. -1 is unlimited."""
    token: str = ""
    """Put into the environment as CUSTODY_CALL, by which survivors of a crash are found."""
    terminal: TerminalSize | None = None
    """Run under a pseudo-terminal of this size; what it writes is the one stream `stdout`."""
    joined: bool = False
    """What it writes to either stream is the one stream `stdout`, in the order it was written."""
    sandbox: "Sandbox | None" = None
    """The walls it runs behind; None: those of its user. Behind walls it has the variables the sandbox lets
    through and a TMPDIR of its own."""
    roots: tuple[str, ...] = ()
    """The roots of its call; what the sandbox allows of roots, it allows beneath these. Absolute."""
    run_id: str = ""
    """Only commands of one run, one sandbox and the same roots may come to see what another left behind in
    the folders that are private to them."""
    private: str = ""
    """A folder of this user's alone in which the private folders of its run are kept, so that they are the
    same on every launcher of every process. Without it, and for what sees views, they lie in memory and are
    one launcher's."""
    views: "tuple[View, ...]" = ()
    """What it sees in place of roots. Its launcher serves it alone then, and has ended before it is finished:
    nothing sees them any more."""
    on_connection: "Callable[[Connection], None] | None" = None
    """Told of every connection at its end, where its sandbox lists hosts."""


class Finished(Struct, frozen=True, kw_only=True):
    """How a command ended. Nothing of its tree is left running unless `tree_left` says so."""

    exit_code: int | None
    """None when a signal ended it."""
    signal: int | None
    limit_hit: LimitHit | None
    stdout: Output
    stderr: Output
    usage: Usage
    child_pid: int | None
    """None behind walls: it is known by another number there, which would name a stranger here."""
    child_start_ticks: int | None
    started_monotonic_ns: int
    ended_monotonic_ns: int
    """When the last process of its tree had ended."""
    tree_killed: int
    """Processes of its tree, itself included, that were told to end: past the deadline, when it was
    cancelled, or because they were still there after it had ended."""
    tree_left: int = 0
    """Children that SIGKILL has not ended: in uninterruptible sleep, or another user's."""
    connections: "tuple[Connection, ...]" = ()
    """The first of those it made, or was refused, where its sandbox lists hosts."""
    connections_dropped: int = 0
    """Further ones, told to `on_connection` alone."""

    @property
    def is_cut(self) -> bool:
        """Whether it was ended before its own end, so that its exit code says nothing."""
        return self.limit_hit in ("deadline", "cancelled")
