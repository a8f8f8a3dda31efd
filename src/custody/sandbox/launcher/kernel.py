"""The system calls of the walls that `os` does not have.

Owns their numbers, flags and structures; an error is a `CallFailed`, which names the call and never a path.
It refuses to know what a wall is made of: `confine` calls it in the order that works. Mounts are made by the
calls that take descriptors, so that no path is looked up twice.
"""

from __future__ import annotations  # importing `typing` would cost a sixth of the launcher's start

import ctypes
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MOUNT_READ_ONLY = 0x1
MOUNT_NO_SETUID = 0x2
MOUNT_NO_DEVICES = 0x4
MOUNT_NO_EXECUTE = 0x8
_MOUNT_IDMAP = 0x100000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2

# All newer than the table that is the same on every architecture.
_NUMBERS = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "clone3": 435,
    "openat2": 437,
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_RESOLVE_NO_SYMLINKS = 0x04
_OPEN_TREE_CLONE = 1
_MOVE_FROM_DESCRIPTOR_TO_DESCRIPTOR = 0x04 | 0x40
_CLOSE_ON_EXEC = 1  # of fsopen and fsmount
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6  # commands of fsconfig
_DETACH = 2  # of umount2: also what is busy, which stays with those who have it
_MS_PRIVATE = 1 << 18
_CAPABILITY_VERSION = 0x20080522
_CAPABILITIES_MAX = 64
_FILTER_INSTRUCTION_BYTES = 8
_LANDLOCK_VERSION = 1  # a flag: no ruleset is made

_CLONE_INTO_CGROUP = 0x200000000
_CLONE = struct.Struct("=11Q")  # flags first, cgroup last, nothing in between
_OPEN_HOW = struct.Struct("=QQQ")  # flags, mode, resolve
_MOUNT_ATTRIBUTES = struct.Struct("=QQQQ")  # set, clear, propagation, user namespace
_RULESET = struct.Struct("=QQQ")  # file system, network, scope; an older kernel wants the rest to be zero
_PATH_RULE = struct.Struct("=Qi")
_PORT_RULE = struct.Struct("=QQ")

_library = ctypes.CDLL(None, use_errno=True)
_library.syscall.restype = ctypes.c_long
_holding = ctypes.PyDLL(None, use_errno=True)  # whose calls do not let go of the interpreter's lock
_holding.syscall.restype = ctypes.c_long
_before_fork = ctypes.pythonapi.PyOS_BeforeFork
_after_fork_in_parent = ctypes.pythonapi.PyOS_AfterFork_Parent
_after_fork_in_child = ctypes.pythonapi.PyOS_AfterFork_Child


class CallFailed(OSError):
    """A system call's error."""

    def __init__(self, errno: int, call: str) -> None:
        super().__init__(errno, os.strerror(errno))
        self.call = call


def _checked(result: int, call: str) -> int:
    if result < 0:
        raise CallFailed(ctypes.get_errno(), call)
    return result


def _call(name: str, *arguments: int | bytes | None) -> int:
    passed = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    return _checked(_library.syscall(ctypes.c_long(_NUMBERS[name]), *passed), name)


def prctl(option: int, *arguments: int) -> int:
    """Unused arguments are zero, which some options insist on."""
    passed = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    return _checked(_library.prctl(option, *passed), f"prctl({option})")


def call_this_process(name: str) -> None:
    """As it is listed. Its arguments stay what they are."""
    text = ctypes.create_string_buffer(name.encode())
    prctl(_PR_SET_NAME, ctypes.addressof(text))


def clone_sibling(cgroup: int | None = None) -> int:
    """A fork that is a child of this process's parent: its pid, or 0 in it. `cgroup`, a folder, is where it
    is born. For a process of one thread."""
    flags = CLONE_PARENT | (0 if cgroup is None else _CLONE_INTO_CGROUP)
    arguments = ctypes.c_char_p(_CLONE.pack(flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, cgroup or 0))
    number, size = ctypes.c_long(_NUMBERS["clone3"]), ctypes.c_size_t(_CLONE.size)
    _before_fork()  # Python is to be told of whatever is like a fork
    pid = _holding.syscall(number, arguments, size)
    error = ctypes.get_errno()
    (_after_fork_in_parent if pid else _after_fork_in_child)()
    if pid < 0:
        raise CallFailed(error, "clone3")
    return pid


def unshare(flags: int) -> None:
    _checked(_library.unshare(ctypes.c_int(flags)), "unshare")


# -- files and mounts ---------------------------------------------------------------------------------


def open_path(path: str, folder: int = _AT_FDCWD) -> int:
    """A descriptor that names the file only. No symbolic link is followed: whoever may write to a folder
    above could have put one there since the path was decided on."""
    how = _OPEN_HOW.pack(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_NO_SYMLINKS)
    return _call("openat2", folder, os.fsencode(path), how, _OPEN_HOW.size)


def clone_mount(descriptor: int, *, below: bool = True) -> int:
    """A mount, not attached yet, that shows what is at `descriptor`; `below`, what is mounted there too."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH | (_AT_RECURSIVE if below else 0)
    return _call("open_tree", descriptor, b"", flags)


def new_mount(kind: str, attributes: int, options: Iterable[tuple[str, str | None]]) -> int:
    """A fresh file system of this kind, not attached yet. An option without a value is one that is set."""
    context = _call("fsopen", kind.encode(), _CLOSE_ON_EXEC)
    try:
        for name, value in options:
            if value is None:
                _call("fsconfig", context, _SET_FLAG, name.encode(), None, 0)
            else:
                _call("fsconfig", context, _SET_STRING, name.encode(), value.encode(), 0)
        _call("fsconfig", context, _CREATE, None, None, 0)
        return _call("fsmount", context, _CLOSE_ON_EXEC, attributes)
    finally:
        os.close(context)


def attach_mount(mount: int, place: int) -> None:
    _call("move_mount", mount, b"", place, b"", _MOVE_FROM_DESCRIPTOR_TO_DESCRIPTOR)


def detach_mount(mount: int) -> None:
    """No path leads to it any more; `mount` still does."""
    place = ctypes.c_char_p(f"/proc/self/fd/{mount}".encode())
    _checked(_library.umount2(place, ctypes.c_int(_DETACH)), "umount2")


def restrict_mount(mount: int, attributes: int, user_namespace: int | None = None) -> None:
    """Also of what is mounted below. With a user namespace, owners are mapped as it says."""
    if user_namespace is not None:
        attributes |= _MOUNT_IDMAP
    change = _MOUNT_ATTRIBUTES.pack(attributes, 0, 0, user_namespace or 0)
    _call("mount_setattr", mount, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, change, len(change))


def make_mounts_private() -> None:
    """From here on no mount is handed on from this mount namespace, nor taken over from another."""
    change = _MOUNT_ATTRIBUTES.pack(0, 0, _MS_PRIVATE, 0)
    _call("mount_setattr", _AT_FDCWD, b"/", _AT_RECURSIVE, change, len(change))


# -- what the process may do --------------------------------------------------------------------------


def landlock_abi() -> int:
    """Which version of Landlock the kernel has, and has switched on."""
    return _call("landlock_create_ruleset", None, 0, _LANDLOCK_VERSION)


def landlock_ruleset(file_system: int, network: int, scope: int) -> int:
    """A descriptor."""
    handled = _RULESET.pack(file_system, network, scope)
    return _call("landlock_create_ruleset", handled, len(handled), 0)


def landlock_allow_path(ruleset: int, rights: int, descriptor: int) -> None:
    _call("landlock_add_rule", ruleset, 1, _PATH_RULE.pack(rights, descriptor), 0)


def landlock_allow_port(ruleset: int, rights: int, port: int) -> None:
    _call("landlock_add_rule", ruleset, 2, _PORT_RULE.pack(rights, port), 0)


def landlock_restrict(ruleset: int) -> None:
    _call("landlock_restrict_self", ruleset, 0)


def drop_bounding_set() -> None:
    """No capability can be had any more by executing a file."""
    for capability in range(_CAPABILITIES_MAX):
        try:
            held = prctl(_PR_CAPBSET_READ, capability)
        except CallFailed:  # EINVAL: the kernel knows no further one
            return
        if held:
            prctl(_PR_CAPBSET_DROP, capability)


def drop_capabilities() -> None:
    """All that this process holds, and would hand on."""
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    none = bytes(24)  # effective, permitted and inheritable, twice
    _checked(_library.capset(ctypes.c_char_p(header), ctypes.c_char_p(none)), "capset")


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def load_filter(instructions: bytes) -> None:
    """A seccomp filter, for good, over this process and all it starts."""
    length = len(instructions) // _FILTER_INSTRUCTION_BYTES
    program = ctypes.pointer(_Filter(length, instructions))
    _checked(_library.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), program), "seccomp")
