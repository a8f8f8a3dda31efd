"""What walls this machine gives, found by really trying each in a child of its own.

Owns the list of walls, the words for how each stands, and the bounds of trying. Nothing here reads a kernel's
version or a setting to guess: what a child could do is what there is. Refuses to know what a sandbox is. Used
by `plan`, which builds on what is there, and by `custody doctor`.
"""

import marshal
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import EACCES, EINVAL, ENOSPC, ENOSYS, EOPNOTSUPP, EPERM, errorcode
from typing import Any, Literal

from msgspec import Struct

from custody.errors import SandboxError
from custody.sandbox.cgroup import bounding_folder, make_cgroup, parent_folder
from custody.sandbox.walls.landlock import ABI_MIN
from custody.sandbox.walls.seccomp import program as seccomp_program
from custody.sandbox.walls.users import UIDS, unusable

Has = Literal["yes", "partly", "no"]
Way = Literal["direct", "user", "none"]

TRIALS_SECONDS = 20.0
"""All together take 50 ms; beyond it something hangs, and what is not known is not there."""

_PROGRAM = os.path.join(os.path.dirname(__file__), "trial.py")
_ABI_TCP, _ABI_DEVICES, _ABI_SCOPES = 4, 5, 6
_CONTROLLERS = ("memory", "pids", "cpu")

_ALLOW_NAMESPACES = (
    "Allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone and "
    "kernel.apparmor_restrict_unprivileged_userns); in a container, start it with CAP_SYS_ADMIN or with a "
    "seccomp profile that allows unshare and mount."
)
_CHANGES: dict[str, str] = {
    "landlock": "Use a kernel from 6.2 on with `landlock` among its security modules (lsm= at boot).",
    "seccomp": "Use a kernel with seccomp filters; in a container, a runtime that allows them.",
    "namespaces": _ALLOW_NAMESPACES,
    "private folders": _ALLOW_NAMESPACES,
    "private /proc": "In a container, start it with an unmasked /proc (systempaths=unconfined).",
    "read-only system": _ALLOW_NAMESPACES,
    "network": _ALLOW_NAMESPACES,
    "overlay": "Keep the store on a file system that can hold an overlay's changes (ext4, xfs, btrfs), which "
    "a container's own folders cannot; root's has to map owners as well.",
    "user": "Start with CAP_SETUID and CAP_SETGID and a user namespace that has these numbers.",
    "idmapped mounts": "Keep the work on a file system that maps owners (ext4, xfs, btrfs, tmpfs), on Linux "
    "from 5.12; or run Custody as an ordinary user.",
}

_DELEGATE = (
    "Start Custody in a service that is handed its group: "
    "systemd-run --user -p Delegate=yes -p DelegateSubgroup=custody (systemd from 254 on)."
)

_WORDS = {
    EACCES: "it is not permitted",
    EPERM: "it is not permitted",
    EINVAL: "the kernel does not take it",
    ENOSPC: "as many as are allowed are there already",
    ENOSYS: "the kernel does not have it",
    EOPNOTSUPP: "it is built in but switched off",
}


class WallFinding(Struct, frozen=True, kw_only=True):
    """One wall: whether it is there, why it is so, and what would change it."""

    name: str
    has: Has
    why: str
    change: str | None = None
    """What somebody would have to do; None where there is nothing to do."""
    needed: bool = True
    """Without it `confined` is not offered."""


class Machine(Struct, frozen=True, kw_only=True):
    """What a plan is made for: who we are, where things lie, and which walls hold. Paths have no links."""

    architecture: str
    """As uname(2) says it: `x86_64` or `aarch64`."""
    uid: int
    homes: tuple[str, ...]
    """The home folder programs are told of, and the one the machine has on its list, if that is another."""
    temporary: str = "/tmp"
    """Where our own temporary files lie, which is no root of a run: each has its own."""
    prefixes: tuple[str, ...] = ()
    """Folders the Python that runs here is made of."""
    memory_bytes: int = 0
    landlock_abi: int = 0
    namespaces: Way = "none"
    """Made as we are, inside a user namespace, or not at all."""
    uids: tuple[int, int] | None = None
    """First and count of the users that commands may run as; None: they run as we do."""
    idmapped: bool = False
    """Whether a folder of ours can be shown to such a user as its own."""
    overlay: bool = False
    """Whether a root can be shown so that what is changed in it lies elsewhere; else a copy of it can be."""
    findings: tuple[WallFinding, ...] = ()

    @property
    def missing(self) -> tuple[WallFinding, ...]:
        """What `confined` needs and this machine does not give."""
        return tuple(finding for finding in self.findings if finding.needed and finding.has == "no")


def look_at_machine(
    folder: str | None = None,
    *,
    store: str | None = None,
    uids: tuple[int, int] = UIDS,
    python: str = sys.executable,
    environ: Mapping[str, str] = os.environ,
) -> Machine:
    """Try every wall. The file systems of two places have a say: `folder` is where the work lies, None where
    we are; `store` is where the store lies or will, None in the home folder. A folder is made beside that."""
    folder = _folder(folder)
    architecture = os.uname().machine
    why_not = unusable(uids)
    told: dict[str, Any] = {
        "folder": folder,
        "temporary": os.path.realpath("/tmp"),
        "uid": 0 if why_not else uids[0],
        "seccomp": _filter(architecture),
    }
    homes = _homes(environ)
    with _folder_for_trials((store,) if store else (*homes, tempfile.gettempdir())) as told["held"]:
        said = _try_all(told, python) if sys.platform == "linux" else {}
    way: Way = said.get("way", "none")
    findings = (*_findings(said, way), *_user_findings(said, uids, why_not), _cgroup())
    having = {finding.name: finding.has for finding in findings}
    landlock = said.get("landlock", ("error", 0))
    return Machine(
        architecture=architecture,
        uid=os.geteuid(),
        homes=homes,
        temporary=os.path.realpath(tempfile.gettempdir()),
        prefixes=_prefixes(python),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        landlock_abi=0 if landlock[0] else landlock[1],
        namespaces=way,
        uids=uids if having["user"] == "yes" and os.geteuid() == 0 else None,
        idmapped=having["idmapped mounts"] == "yes" and os.geteuid() == 0,
        overlay=having["overlay"] == "yes",
        findings=findings,
    )


def probe() -> tuple[WallFinding, ...]:
    """Every wall, and how it stands here."""
    return look_at_machine().findings


# -- trying ---------------------------------------------------------------------------------------------


def _filter(architecture: str) -> bytes:
    try:
        return seccomp_program(architecture)
    except SandboxError:
        return b""


def _try_all(told: dict[str, Any], python: str) -> dict[str, Any]:
    """What came of each trial; nothing where they could not even be begun."""
    try:
        done = subprocess.run(
            [python, "-I", "-S", _PROGRAM],
            input=marshal.dumps(told),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"LC_ALL": "C.UTF-8"},
            cwd="/",
            timeout=TRIALS_SECONDS,
            check=True,
        )
        return marshal.loads(done.stdout)
    except (OSError, ValueError, EOFError, TypeError, subprocess.SubprocessError):
        return {}


def _folder(asked: str | None) -> str:
    """Where it is tried what a file system gives. What is mounted below it is tried as well: never all."""
    try:
        folder = os.path.realpath(asked or os.getcwd())
    except OSError:  # it has been removed
        folder = "/"
    return "/usr" if folder == "/" else folder


@contextmanager
def _folder_for_trials(beside: Iterable[str]) -> Generator[str]:
    """A folder of its own in the first of these in which one can be made, removed again; else nothing."""
    folder = ""
    for path in map(os.path.realpath, beside):
        while not os.path.isdir(path):
            path = os.path.dirname(path)
        with suppress(OSError):
            folder = tempfile.mkdtemp(prefix=".custody-trial-", dir=path)
            break
    try:
        yield folder
    finally:
        if folder:
            for above, inner, _ in os.walk(folder):
                for name in inner:  # what the kernel made for itself is closed to all
                    os.chmod(os.path.join(above, name), 0o700)
            shutil.rmtree(folder, ignore_errors=True)


def _homes(environ: Mapping[str, str]) -> tuple[str, ...]:
    listed: list[str] = []
    try:
        listed.append(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:  # a number without a name, as in many containers
        pass
    homes = [os.path.realpath(home) for home in (environ.get("HOME", ""), *listed) if home.startswith("/")]
    return tuple(dict.fromkeys(homes))


def _prefixes(python: str) -> tuple[str, ...]:
    folders = (sys.base_prefix, sys.base_exec_prefix, sys.prefix, os.path.dirname(os.path.realpath(python)))
    return tuple(dict.fromkeys(os.path.realpath(folder) for folder in folders))


# -- words ----------------------------------------------------------------------------------------------


def _findings(said: dict[str, Any], way: Way) -> Iterator[WallFinding]:
    """The walls that every command needs."""
    yield _landlock(said)
    yield _finding("seccomp", said, "seccomp", "calls that commands have no use for are refused")
    how = "made directly" if way == "direct" else "made inside a user namespace, as an ordinary user may"
    yield _finding("namespaces", said, "namespaces", f"processes, mounts, IPC and network, {how}")
    own = "/tmp, /run and the home folder are a run's own; below them a mount alone keeps a root read-only"
    yield _finding("private folders", said, "folders", own)
    yield _finding("private /proc", said, "processes", "a command sees its own processes alone")
    yield _finding("read-only system", said, "read_only", "settings of the kernel cannot be written")
    yield _finding("network", said, "network", "none but a loopback of a run's own")
    yield _overlay(said)


def _overlay(said: dict[str, Any]) -> WallFinding:
    found = _finding(
        "overlay",
        said,
        "overlaid",
        "what a transaction changes is held beside the root, which stays as it is",
    )
    why = f"{found.why}; a transaction has copies of its roots then, which are bounded"
    return WallFinding(
        name=found.name,
        has=found.has,
        why=found.why if found.has == "yes" else why,
        change=found.change,
        needed=False,
    )


def _finding(name: str, said: dict[str, Any], trial: str, good: str) -> WallFinding:
    answer = said.get(trial)
    if answer is None:
        why = (
            "it needs namespaces" if said.get("way") == "none" and trial != "seccomp" else "it was not tried"
        )
        return WallFinding(name=name, has="no", why=why, change=_CHANGES[name])
    if answer[0]:
        return WallFinding(name=name, has="no", why=_reason(*answer), change=_CHANGES[name])
    return WallFinding(name=name, has="yes", why=good)


def _reason(step: str, errno: int) -> str:
    """What went wrong, in words and as the kernel says it."""
    if step == "hold":
        return "it can be put up, and holds nothing back"
    if not errno:
        return "the trial ended without an answer"
    words = _WORDS.get(errno) or os.strerror(errno)
    return f"{words} ({errorcode.get(errno, str(errno))}{'' if step == 'step' else f' in {step}'})"


def _landlock(said: dict[str, Any]) -> WallFinding:
    finding = _finding("landlock", said, "landlock", "")
    if finding.has == "no":
        return finding
    abi = said["landlock"][1]
    if abi < ABI_MIN:
        why = f"ABI {abi} cannot refuse to truncate a file; `confined` needs ABI {ABI_MIN}"
        return WallFinding(name="landlock", has="no", why=why, change=_CHANGES["landlock"])
    lacks = [
        what
        for least, what in (
            (_ABI_TCP, "TCP"),
            (_ABI_DEVICES, "commands to devices"),
            (_ABI_SCOPES, "signals and abstract sockets"),
        )
        if abi < least
    ]
    if lacks:
        why = f"ABI {abi}: files are held; not {', '.join(lacks)}, which other walls hold in part"
        return WallFinding(name="landlock", has="partly", why=why, change="Use a kernel from 6.12 on.")
    return WallFinding(name="landlock", has="yes", why=f"ABI {abi}: files, TCP, devices and signals")


def _user_findings(said: dict[str, Any], uids: tuple[int, int], why_not: str | None) -> Iterator[WallFinding]:
    """Who commands run as. Without another user root's commands are refused, unless that is allowed."""
    if os.geteuid() != 0:
        own = "your own, without any other in reach"
        yield WallFinding(name="user", has="yes", why=own, needed=False)
        why = "not needed: files are your own"
        yield WallFinding(name="idmapped mounts", has="yes", why=why, needed=False)
        return
    first, count = uids
    if why_not is None and said.get("way") == "user":
        why_not = "inside a user namespace there is no user but root"
    if why_not is not None:
        change = "Name another range of users ([sandbox] uids), or run Custody as an ordinary user."
        yield WallFinding(name="user", has="no", why=why_not, change=change, needed=False)
    else:
        good = f"one of {first} to {first + count - 1}, with no way back to root"
        yield _optional(_finding("user", said, "user", good), "no")
    good = "root's folders can be worked in, and files keep their owner"
    yield _optional(_finding("idmapped mounts", said, "idmapped", good), "partly")


def _optional(finding: WallFinding, worst: Has) -> WallFinding:
    has = worst if finding.has == "no" else finding.has
    why = f"{finding.why}; root's commands that change files are refused" if has == "partly" else finding.why
    return WallFinding(name=finding.name, has=has, why=why, change=finding.change, needed=False)


def _cgroup() -> WallFinding:
    """Whether memory, processes and processor time of a whole tree can be bounded."""
    parent = parent_folder() if sys.platform == "linux" else None
    made = None if parent is None else make_cgroup(parent)
    if made is None:
        why = "no group can be made here; resource limits hold for each process by itself"
        return WallFinding(name="cgroup", has="no", why=why, change=_DELEGATE, needed=False)
    made.remove()
    if parent is None or bounding_folder(parent, _CONTROLLERS) is None:
        why = f"a tree is killed at once, but not bounded: no {', '.join(_CONTROLLERS)} to hand on"
        return WallFinding(name="cgroup", has="partly", why=why, change=_DELEGATE, needed=False)
    return WallFinding(
        name="cgroup", has="yes", why="memory, processes and processor time of a tree", needed=False
    )
