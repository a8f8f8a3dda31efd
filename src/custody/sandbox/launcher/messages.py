"""What passes between `process` and a launcher.

Owns the format of requests and replies. Strings of a request are bytes that hold no NUL, as the kernel has
it; a reply is numbers only, so that whoever came to control a launcher can make its reader do nothing but
count.
"""

from __future__ import annotations  # importing `typing` would cost a sixth of the launcher's start

import struct

# The first byte of a message says what follows.
RUN = b"R"  # a request; descriptors: [group] [stdin] stdout stderr, or [group] terminal
RUN_LONG = b"L"  # the same, the request being in a memory file: one more descriptor, first
SIGNAL = b"S"  # one byte: a signal for the command's process group
CANCEL = b"C"
VIEWS = b"V"
"""To a launcher that waits for where its overlays' changes go, before its command. Marshalled, for each root:
the two folders, relative to the plan's; device and inode of the root; the same of the first folder."""
READY = b"Y"  # its answer: all walls are up, and it takes its command
LISTENER = b"N"  # from a launcher, before all else; one descriptor: where it lets the listed hosts be reached

MESSAGE_BYTES_MAX = 64 * 1024  # well under the socket's send buffer; anything longer goes by memory file
DESCRIPTORS_MAX = 5

HAS_STDIN = 1
HAS_TERMINAL = 2
HAS_GROUP = 4  # what lets a process into the command's own cgroup

REQUEST = struct.Struct("<ddIIIB")
"""Deadline and grace in seconds (negative: no deadline), numbers of limits, arguments and variables, flags.
Then the limits, then working directory, arguments and variables, with a NUL between them."""
LIMIT = struct.Struct("<iq")

FORK = struct.Struct("<BB")
"""What a template is asked: `no_new_privs` and whether there is a plan, 0 or 1 each; then the cgroup, or
nothing. Descriptors: the launcher's socket, its standard error, and the plan if there is one."""
FORKED = struct.Struct("<i")
"""The answer: from the launcher its pid, or from the template the negative errno; 0, before all others: it is
ready."""

REPLY = struct.Struct("<BBBiiQqq10q")
"""One number for each field of `Reply`."""

ENDED = 0
STAGES = {"cwd": 1, "find": 2, "exec": 3, "limits": 4, "terminal": 5, "fork": 6, "group": 7}
NO_LIMIT, DEADLINE, CANCELLED, DISK, FILES = range(5)


class Reply:
    """How a command ended. -1 is unknown."""

    kind: int
    """ENDED, or the stage at which the start failed."""
    limit: int
    worn: int
    """1: the launcher is good for no further command."""
    status: int
    """The wait status, or the errno of a start that failed."""
    pid: int
    start_ticks: int
    started_ns: int
    ended_ns: int
    user_us: int
    system_us: int
    memory_peak_bytes: int
    read_bytes: int
    write_bytes: int
    switches_voluntary: int
    switches_involuntary: int
    descendants_seen: int
    tree_killed: int
    tree_left: int

    def __init__(self, **values: int) -> None:
        self.__dict__.update(values)

    def pack(self) -> bytes:
        return REPLY.pack(*(self.__dict__.get(name, 0) for name in _REPLY_FIELDS))

    @classmethod
    def unpack(cls, message: bytes) -> Reply:
        return cls(**dict(zip(_REPLY_FIELDS, REPLY.unpack(message), strict=True)))


_REPLY_FIELDS = tuple(Reply.__annotations__)


def pack_request(
    deadline_seconds: float | None,
    grace_seconds: float,
    limits: list[tuple[int, int]],
    arguments: int,
    variables: int,
    flags: int,
    texts: bytes,
) -> bytes:
    """A request without its first byte; what a `Request` reads. `texts` has its strings, already joined."""
    deadline = -1.0 if deadline_seconds is None else deadline_seconds
    head = REQUEST.pack(deadline, grace_seconds, len(limits), arguments, variables, flags)
    return b"".join((head, *(LIMIT.pack(*limit) for limit in limits), texts))


class Request:
    """One command as it arrives at the launcher."""

    def __init__(self, body: bytes, descriptors: list[int]) -> None:
        deadline, grace, limits, arguments, variables, flags = REQUEST.unpack_from(body)
        self.deadline_seconds: float | None = deadline if deadline >= 0 else None
        self.grace_seconds: float = grace
        self.descriptors = descriptors
        self.has_stdin = bool(flags & HAS_STDIN)
        self.group = descriptors[0] if flags & HAS_GROUP else None
        self._streams = descriptors if self.group is None else descriptors[1:]
        self.terminal = self._streams[0] if flags & HAS_TERMINAL else None
        offset = REQUEST.size
        self.limits = [LIMIT.unpack_from(body, offset + LIMIT.size * index) for index in range(limits)]
        self.cwd, *texts = body[offset + LIMIT.size * limits :].split(b"\0")
        self.argv = texts[:arguments]
        self.environment = dict(text.split(b"=", 1) for text in texts[arguments : arguments + variables])

    def standard(self) -> list[tuple[int, int]]:
        """Pairs of descriptor here and descriptor there."""
        if self.terminal is not None:
            return [(self.terminal, number) for number in (0, 1, 2)]
        return list(zip(self._streams, (0, 1, 2) if self.has_stdin else (1, 2), strict=True))
