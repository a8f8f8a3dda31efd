"""Tries each wall in a child of its own and says what came of it: `python -I -S trial.py`.

Owns the trials. Each puts up one wall, with what that takes, and looks whether it holds; nothing of it
outlives its child. Knows nothing of Custody but the launcher's system calls: it is a program. Started by
`machine`, which has the words.

Standard input and output are one marshalled mapping each. A trial's answer is what it found, or the step that
failed and its errno; errno 0 is a wall that was put up and did not hold.
"""

from __future__ import annotations  # importing `typing` would cost a sixth of its start

import fcntl
import marshal
import os
import stat
import struct
import sys
from _socket import AF_INET, SOCK_STREAM, socket
from errno import EPERM

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import Any

    from custody.sandbox.launcher import kernel, overlay, user_namespace
elif __name__ == "__main__":
    import _signal as signal  # `signal` itself brings `enum`: an eighth of its start

    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from launcher import kernel, overlay, user_namespace
else:
    import signal

    from custody.sandbox.launcher import kernel, overlay, user_namespace

TRIAL_SECONDS = 5
"""One takes milliseconds; a file system that hangs ends its own trial only."""

HOLDS_NOT = "hold"
_LANDLOCK_VERSION = 1  # a flag: what is asked for is the ABI
_READ_DIR = 1 << 3
_SIOCSIFFLAGS, _INTERFACE_UP = 0x8914, 0x1
_NAMESPACES = kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET
_SAFE = kernel.MOUNT_NO_SETUID | kernel.MOUNT_NO_DEVICES


class Failed(Exception):
    """A step did not succeed, or what it put up does not hold."""

    def __init__(self, step: str, errno: int = 0) -> None:
        self.step, self.errno = step, errno


def _unshare(way: str, flags: int) -> None:
    """New namespaces; for an ordinary user inside a user namespace, in which he stays who he is."""
    if way == "user":
        user_namespace.enter_own()
    kernel.unshare(flags)
    if flags & kernel.CLONE_NEWNS:
        kernel.make_mounts_private()


# -- the trials -----------------------------------------------------------------------------------------


def landlock(told: dict[str, Any]) -> int:
    """The ABI, after a folder could not be opened any more."""
    abi = kernel.landlock_abi()
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.landlock_restrict(kernel.landlock_ruleset(_READ_DIR, 0, 0))
    try:
        os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY))
    except PermissionError:
        return abi
    raise Failed(HOLDS_NOT)


def seccomp(told: dict[str, Any]) -> int:
    """The filter that commands get, after it refused a call that changes nothing and anybody may make."""
    kernel.unshare(0)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.load_filter(told["seccomp"])
    try:
        kernel.unshare(0)
    except OSError as error:
        return _held(error.errno == EPERM)
    raise Failed(HOLDS_NOT)


def namespaces(told: dict[str, Any]) -> int:
    """All of them at once, and a child that is the first process of its own."""
    _unshare(told["way"], _NAMESPACES)
    return _held(in_child(os.getpid) == 1)


def folders(told: dict[str, Any]) -> int:
    """An empty folder in memory over the temporary one, and the working directory shown in it."""
    _unshare(told["way"], kernel.CLONE_NEWNS)
    kept = kernel.clone_mount(kernel.open_path(told["folder"]))
    fresh = kernel.new_mount("tmpfs", _SAFE, [("size", "1m"), ("mode", "0700")])
    kernel.attach_mount(fresh, kernel.open_path(told["temporary"]))
    os.chdir(told["temporary"])
    empty = not os.listdir()
    os.mkdir("kept")
    kernel.attach_mount(kept, kernel.open_path(os.path.join(told["temporary"], "kept")))
    return _held(empty)


def processes(told: dict[str, Any]) -> int:
    """A /proc that shows its own processes alone."""
    _unshare(told["way"], _NAMESPACES)

    def look() -> int:
        proc = kernel.new_mount("proc", _SAFE | kernel.MOUNT_NO_EXECUTE, [])
        kernel.attach_mount(proc, kernel.open_path("/proc"))
        return len([name for name in os.listdir("/proc") if name.isdigit()])

    return _held(in_child(look) == 1)


def read_only(told: dict[str, Any]) -> int:
    """A folder of the system, shown so that nothing in it can be changed."""
    _unshare(told["way"], kernel.CLONE_NEWNS)
    place = kernel.open_path("/usr")
    mount = kernel.clone_mount(place)
    kernel.restrict_mount(mount, kernel.MOUNT_READ_ONLY)
    kernel.attach_mount(mount, place)
    return _held(bool(os.statvfs("/usr").f_flag & os.ST_RDONLY))


def network(told: dict[str, Any]) -> int:
    """A loopback of its own, over which it can talk to itself, and no way to anywhere else."""
    _unshare(told["way"], kernel.CLONE_NEWNET)
    listener, speaker = socket(AF_INET, SOCK_STREAM), socket(AF_INET, SOCK_STREAM)
    fcntl.ioctl(listener.fileno(), _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _INTERFACE_UP))
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    speaker.connect(listener.getsockname())
    with open("/proc/self/net/route") as file:
        return _held(len(file.readlines()) <= 1)  # the heading


def user(told: dict[str, Any]) -> int:
    """Another user, who cannot come back."""
    uid: int = told["uid"]
    kernel.drop_bounding_set()
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    try:
        os.setresuid(0, 0, 0)
    except PermissionError:
        return uid
    raise Failed(HOLDS_NOT)


def idmapped(told: dict[str, Any]) -> int:
    """The working directory shown as another user's; on disk its owner stays."""
    uid: int = told["uid"]
    owner = os.stat(told["folder"])
    users = user_namespace.mapping(f"{owner.st_uid} {uid} 1", f"{owner.st_gid} {uid} 1")
    _unshare("direct", kernel.CLONE_NEWNS)
    mount = kernel.clone_mount(kernel.open_path(told["folder"]))  # of the mounts as they are now
    kernel.restrict_mount(mount, _SAFE, users)
    kernel.attach_mount(mount, kernel.open_path(told["temporary"]))
    return _held(os.stat(told["temporary"]).st_uid == uid)


def overlaid(told: dict[str, Any]) -> int:
    """A folder in which files are changed by whom commands run as. It stays as it was, and what was changed
    lies in another one, as it has to and belonging to whom it has to."""
    root, upper, work = (os.path.join(told["held"], name) for name in ("root", "upper", "work"))
    for path in (root, upper, work, f"{root}/replaced", f"{root}/replaced/old"):
        os.mkdir(path)
    for name in ("changed", "removed"):
        os.close(os.open(f"{root}/{name}", os.O_CREAT | os.O_WRONLY))
    _unshare(told["way"], kernel.CLONE_NEWNS)
    own, uid = told["way"] == "user", told["uid"]
    user = (uid, uid) if uid and not own else None
    mount = overlay.new_overlay(root, upper, work, _SAFE, user, own=own)
    place = kernel.open_path(root)
    kernel.attach_mount(mount, place)
    in_child(lambda: _change(mount, user))
    untouched = os.path.exists(f"/proc/self/fd/{place}/replaced/old")
    changed, removed, replaced = (os.lstat(f"{upper}/{name}") for name in ("changed", "removed", "replaced"))
    ours = changed.st_uid == replaced.st_uid == os.geteuid()
    gone = stat.S_ISCHR(removed.st_mode) and not os.listdir(f"{root}/replaced")
    return _held(untouched and ours and gone and changed.st_size == 1)


def _change(mount: int, user: tuple[int, int] | None) -> int:
    """As a command would, from within: the way there may be closed to that user."""
    os.fchdir(mount)
    if user is not None:
        os.setgroups([])
        os.setresgid(user[1], user[1], user[1])
        os.setresuid(user[0], user[0], user[0])
    changed = os.open("changed", os.O_WRONLY)
    os.write(changed, b"x")
    os.unlink("removed")
    os.rmdir("replaced/old")
    os.rmdir("replaced")
    os.mkdir("replaced")
    return 1


def _held(holds: bool) -> int:
    if not holds:
        raise Failed(HOLDS_NOT)
    return 1


# -- one child each -------------------------------------------------------------------------------------


def in_child(work: Callable[[], int]) -> int:
    """What it says, or Failed as it was raised there. A child that dies or hangs has failed."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(TRIAL_SECONDS)
        try:
            said: tuple[str, int] = ("", work())
        except Failed as failed:
            said = (failed.step, failed.errno)
        except OSError as error:
            said = (str(getattr(error, "call", "")) or "step", error.errno or 0)
        except BaseException:
            said = ("error", 0)
        os.write(writing, marshal.dumps(said))
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    step, value = marshal.loads(data) if data else ("end", 0)
    if step:
        raise Failed(step, value)
    return value


def attempt(trial: Callable[[dict[str, Any]], int], told: dict[str, Any]) -> tuple[str, int]:
    """Nothing and what it found, or the step that failed and its errno."""
    try:
        return "", in_child(lambda: trial(told))
    except Failed as failed:
        return failed.step, failed.errno


def main() -> None:
    """Everything in turn; what takes namespaces only in the way in which they can be had."""
    told: dict[str, Any] = marshal.loads(sys.stdin.buffer.read())
    said: dict[str, Any] = {"landlock": attempt(landlock, told), "way": "none"}
    if told["seccomp"]:
        said["seccomp"] = attempt(seccomp, told)
    for way in ("direct", "user"):
        told["way"] = way
        said["namespaces"] = attempt(namespaces, told)
        if not said["namespaces"][0]:
            said["way"] = way
            for trial in (folders, processes, network, read_only, *([overlaid] if told["held"] else [])):
                said[trial.__name__] = attempt(trial, told)
            break
    if os.geteuid() == 0 and told["uid"]:
        said["user"] = attempt(user, told)
        said["idmapped"] = attempt(idmapped, told)
    sys.stdout.buffer.write(marshal.dumps(said))


if __name__ == "__main__":
    main()
