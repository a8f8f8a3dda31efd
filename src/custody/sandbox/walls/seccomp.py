"""Which system calls a confined command may make, as the filter a kernel loads.

Owns the rules and their translation into classic BPF (seccomp(2), linux/filter.h). Pure: the architecture is
an argument, the filter is bytes; loading it is the launcher's. Used by `plan`.

The filter is the wall around what no path and no address describes: the kernel's own interfaces, and files
that would run as their owner. What else a command does to files and hosts is held by Landlock, mounts and the
network namespace.
"""

import struct
from collections.abc import Iterable
from functools import cache

from msgspec import Struct

from custody.errors import SandboxError

ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000

EPERM = 1
ENOSYS = 38
EPROTONOSUPPORT = 93
EAFNOSUPPORT = 97


class Architecture(Struct, frozen=True):
    """How an architecture's calls are told apart."""

    audit: int
    """AUDIT_ARCH_* of linux/audit.h."""
    column: int
    """Of the numbers below."""


ARCHITECTURES = {"x86_64": Architecture(0xC000003E, 0), "aarch64": Architecture(0xC00000B7, 1)}
"""By the machine's name in uname(2)."""

NEWEST = 469  # file_setattr of Linux 6.17
"""The newest call judged here, on both architectures. Those after it answer as they did before they existed;
so do those of x32, whose numbers have bit 30 set: 64-bit kernels run them under the same architecture."""

REFUSED: dict[str, tuple[int | None, int | None]] = {
    # what is mounted where, and other namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "setns": (308, 268), "unshare": (272, 97), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "open_tree_attr": (467, 467), "open_by_handle_at": (304, 265),
    "sethostname": (170, 161), "setdomainname": (171, 162),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kcmp": (312, 272), "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "migrate_pages": (256, 238), "move_pages": (279, 239),
    # interfaces with a history of holes that no command of an agent needs
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263), "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42), "modify_ldt": (154, None), "uselib": (134, None), "_sysctl": (156, None),
    # the machine itself
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "syslog": (103, 116), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "iopl": (172, None), "ioperm": (173, None), "vhangup": (153, 58),
}  # fmt: skip
"""Refused whatever their arguments, with EPERM: name -> number on x86_64 and on aarch64."""

JUDGED: dict[str, tuple[int | None, int | None]] = {
    "ioctl": (16, 29), "socket": (41, 198), "socketpair": (53, 199), "clone": (56, 220),
    "clone3": (435, 435), "prlimit64": (302, 261), "personality": (135, 92), "mknod": (133, None),
    "mknodat": (259, 33), "open": (2, None), "openat": (257, 56), "openat2": (437, 437),
    "creat": (85, None), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchmodat2": (452, 452), "renameat2": (316, 276),
}  # fmt: skip
"""Refused for some of their arguments: the same."""

_NAMESPACES = 0x7E020000  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET; NEWTIME is no flag of clone(2)
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: they type into the terminal they are called on

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_STREAM, _DGRAM, _RAW, _SEQPACKET = 1, 2, 3, 5
_TYPE = 0xF  # above it are SOCK_NONBLOCK and SOCK_CLOEXEC
_PROTOCOLS = (0, 1, 6, 17, 58)  # any, ICMP echo of an ordinary user, TCP, UDP, ICMPv6 echo
_NETLINK_ROUTE = 0  # what getifaddrs(3) and getaddrinfo(3) ask

_FILE_TYPE, _FIFO, _REGULAR = 0xF000, 0x1000, 0x8000  # S_IFMT, S_IFIFO, S_IFREG; none is regular too
_RUNS_AS_OWNER = 0o6000
"""S_ISUID, S_ISGID. What a command of root's makes in a workspace is root's on disk, by an idmapped mount:
with either it would run as root for whoever starts it outside. One that a file had before stays, as anywhere,
until the file is written or cut; what is changed through a mapping does not count as written."""
_LEAVES_A_DEVICE = 4
"""RENAME_WHITEOUT: a device stays behind where the file was."""
_MAKES_A_FILE = 0o20000100  # O_CREAT, and of O_TMPFILE the bit that is no O_DIRECTORY; of both architectures
_PERSONALITY_QUERY = 0xFFFFFFFF


@cache
def program(machine: str) -> bytes:
    """The filter for a machine, by its name in uname(2): an array of struct sock_filter, in its byte order.

    Raises SandboxError for an architecture whose calls are not known here.
    """
    architecture = ARCHITECTURES.get(machine)
    if architecture is None:
        raise SandboxError(
            "There is no system call filter for this machine's processor.",
            hint=f"`confined` is offered on {' and '.join(ARCHITECTURES)}; use the level `process`.",
        )
    instructions = [
        _load(_ARCHITECTURE_OFFSET),
        _jump(_EQUAL, architecture.audit, 1, 0),
        _return(KILL_PROCESS),
        _load(_NUMBER_OFFSET),
        _jump(_GREATER, NEWEST, 0, 1),
        _return(_ERRNO | ENOSYS),
    ]
    rules = _rules()
    assert rules.keys() == JUDGED.keys(), "each call that is judged has its rule"
    for name, rule in rules.items():
        number = JUDGED[name][architecture.column]
        if number is not None:
            instructions += [_jump(_EQUAL, number, 0, len(rule)), *rule]
    numbers = [both[architecture.column] for both in REFUSED.values()]
    instructions += _one_of((number for number in numbers if number is not None), [_return(_ERRNO | EPERM)])
    instructions.append(_return(ALLOW))
    return b"".join(instructions)


# -- the rules: each is entered with its call, and ends in an answer whatever the arguments ---------------


def _rules() -> dict[str, list[bytes]]:
    allow, refuse = [_return(ALLOW)], [_return(_ERRNO | EPERM)]
    return {
        "open": _opening(1),  # these come first, as they come most often
        "openat": _opening(2),
        # Its mode, like clone3's flags, lies in memory.
        "openat2": [_return(_ERRNO | ENOSYS)],
        "creat": _without_bits(1),
        "chmod": _without_bits(1),
        "fchmod": _without_bits(1),
        "fchmodat": _without_bits(2),
        "fchmodat2": _without_bits(2),
        "renameat2": [_load(_low(4)), _jump(_ANY_OF, _LEAVES_A_DEVICE, 0, 1), *refuse, *allow],
        # Commands are 32 bits to the kernel: what stands above them must not hide one.
        "ioctl": [_load(_low(1)), *_one_of(_TERMINAL_INPUT, refuse), *allow],
        "socket": _socket(),
        # A datagram pair could send to any path by sendto(2), past all that is asked of socket(2).
        "socketpair": [
            *_unless(0, [_AF_UNIX], EAFNOSUPPORT),
            *_unless(1, [_STREAM, _SEQPACKET], EPERM, mask=_TYPE),
            *allow,
        ],
        "clone": [_load(_low(0)), _jump(_ANY_OF, _NAMESPACES, 0, 1), *refuse, *allow],
        # Its flags lie in memory, where no filter sees them; told there is no such call, libraries use clone.
        "clone3": [_return(_ERRNO | ENOSYS)],
        "prlimit64": _prlimit(),
        "personality": [*_unless(0, [0, _PERSONALITY_QUERY], EPERM), *allow],
        "mknod": [*_unless(1, [0, _FIFO, _REGULAR], EPERM, mask=_FILE_TYPE), *_without_bits(1)],
        "mknodat": [*_unless(2, [0, _FIFO, _REGULAR], EPERM, mask=_FILE_TYPE), *_without_bits(2)],
    }


def _without_bits(mode: int) -> list[bytes]:
    """Allowed unless that argument, a mode, says to run as the owner or group."""
    refuse, allow = [_return(_ERRNO | EPERM)], [_return(ALLOW)]
    return [_load(_low(mode)), _jump(_ANY_OF, _RUNS_AS_OWNER, 0, 1), *refuse, *allow]


def _opening(flags: int) -> list[bytes]:
    """The mode behind the flags is one only where a file is made; else whatever stood there."""
    allow = [_return(ALLOW)]
    return [_load(_low(flags)), _jump(_ANY_OF, _MAKES_A_FILE, 1, 0), *allow, *_without_bits(flags + 1)]


def _socket() -> list[bytes]:
    allow = [_return(ALLOW)]
    unix = [*_unless(1, [_STREAM, _DGRAM, _SEQPACKET], EPERM, mask=_TYPE), *allow]
    internet = [
        *_unless(1, [_STREAM, _DGRAM], EPERM, mask=_TYPE),
        *_unless(2, _PROTOCOLS, EPROTONOSUPPORT),
        *allow,
    ]
    # A raw socket of netlink is not raw: libraries ask for it, the kernel makes no difference.
    netlink = [
        *_unless(1, [_RAW, _DGRAM], EPERM, mask=_TYPE),
        *_unless(2, [_NETLINK_ROUTE], EPROTONOSUPPORT),
        *allow,
    ]
    return [
        _load(_low(0)),
        *_one_of([_AF_UNIX], unix),
        *_one_of([_AF_INET, _AF_INET6], internet),
        *_one_of([_AF_NETLINK], netlink),
        _return(_ERRNO | EAFNOSUPPORT),
    ]


def _prlimit() -> list[bytes]:
    """Another process may be asked for its limits, not given new ones; the new ones are a 64-bit pointer."""
    allow, refuse = [_return(ALLOW)], [_return(_ERRNO | EPERM)]
    return [
        _load(_low(0)),
        *_one_of([0], allow),
        _load(_low(2)),
        _jump(_EQUAL, 0, 1, 0),
        *refuse,
        _load(_low(2) + 4),
        _jump(_EQUAL, 0, 1, 0),
        *refuse,
        *allow,
    ]


# -- classic BPF: struct sock_filter {code, jt, jf, k} over struct seccomp_data --------------------------

_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16
_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_EQUAL, _GREATER, _ANY_OF = 0x15, 0x25, 0x45
_JUMP_MAX = 255


def _low(argument: int) -> int:
    """Where the lower half of an argument stands; both architectures are little-endian."""
    return _ARGUMENTS_OFFSET + 8 * argument


def _instruction(code: int, true: int, false: int, k: int) -> bytes:
    assert 0 <= true <= _JUMP_MAX and 0 <= false <= _JUMP_MAX, "a rule is shorter than a jump"
    return struct.pack("<HBBI", code, true, false, k)


def _load(offset: int) -> bytes:
    return _instruction(_LOAD, 0, 0, offset)


def _return(answer: int) -> bytes:
    return _instruction(_RETURN, 0, 0, answer)


def _jump(condition: int, k: int, true: int, false: int) -> bytes:
    """Skip so many instructions."""
    return _instruction(condition, true, false, k)


def _one_of(values: Iterable[int], then: list[bytes]) -> list[bytes]:
    """`then` if what is loaded is one of the values, else on behind it."""
    values = list(values)
    jumps = [_jump(_EQUAL, value, len(values) - 1 - at, 0) for at, value in enumerate(values[:-1])]
    return [*jumps, _jump(_EQUAL, values[-1], 0, len(then)), *then]


def _unless(argument: int, allowed: Iterable[int], errno: int, *, mask: int | None = None) -> list[bytes]:
    """An error unless the argument, or what the mask leaves of it, is one of these; an int, so 32 bits."""
    allowed = list(allowed)
    masked = [] if mask is None else [_instruction(_AND, 0, 0, mask)]
    jumps = [_jump(_EQUAL, value, len(allowed) - at, 0) for at, value in enumerate(allowed)]
    return [_load(_low(argument)), *masked, *jumps, _return(_ERRNO | errno)]
