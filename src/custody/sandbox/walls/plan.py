"""What a launcher is told: the walls of one sandbox around the roots of one call, on this machine.

Owns the plan and everything in it that is a choice: which folders every program needs, which are a run's own,
what is found in the home folder, which user a command runs as. Refuses to know how a wall is put up, and
reads nothing but where links lead and what there is. What the machine cannot give is a refusal here, never a
plan with less in it. Used by whoever starts launchers.
"""

import marshal
import os
import resource
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from custody.errors import SandboxError
from custody.sandbox.walls.home import home_files
from custody.sandbox.walls.landlock import Ruleset, ruleset
from custody.sandbox.walls.machine import Machine
from custody.sandbox.walls.model import Sandbox, View, is_beneath
from custody.sandbox.walls.mounts import same_storage
from custody.sandbox.walls.seccomp import program as seccomp_program

Keep = tuple[str, str, Literal["rw", "ro", "idmap"]]
"""Where it is, where it is to be seen, and how: to be changed, to be read, or as if it were the command's."""

VERSION = 4

CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

SYSTEM_FOLDERS = (
    "/bin", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/opt", "/proc", "/sbin", "/sys",
    "/usr",
)  # fmt: skip
"""What every program may read. Who may read `/etc/shadow` is its mode's to say: Landlock only gives."""

KERNEL_FOLDERS = ("/dev", "/proc", "/sys")

SHARED_MEMORY = "/dev/shm"
TEMPORARY_FOLDERS = ("/tmp", "/var/tmp", SHARED_MEMORY)

RUN = "/run"
"""Sockets of the machine's services lie here; in a run's own there are none."""

READ_ONLY_BELOW_PROC = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

TOOLCHAINS = (
    ".asdf", ".bun/bin", ".bun/install", ".cabal/bin", ".cargo/bin", ".cargo/env", ".cargo/git",
    ".cargo/registry", ".deno/bin", ".dotnet", ".elan", ".fnm", ".ghcup", ".goenv", ".gradle/wrapper",
    ".jenv", ".juliaup", ".local/bin", ".local/lib", ".local/pipx", ".local/share/fnm", ".local/share/mise",
    ".local/share/pipx", ".local/share/pnpm", ".local/share/uv", ".local/share/virtualenvs", ".m2/repository",
    ".nodenv", ".nvm", ".pyenv", ".rbenv", ".rustup", ".rvm", ".sdkman", ".volta", "anaconda3", "go/bin",
    "go/pkg/mod", "mambaforge", "miniconda3", "miniforge3",
)  # fmt: skip
"""Programs and libraries people install below their home folder; never a folder that also holds a token, as
`.cargo`, `.gem` and `.m2` do."""

LINKED_FILES = ("/etc/localtime", "/etc/resolv.conf")
"""Links of the system that may lead to where a run has its own; without the second no name is found."""

GIT = ".git"
READ_ONLY_OF_GIT = ("config", "config.worktree", "hooks")
"""What names programs that git runs, and the servers this repository is exchanged with."""
READ_ONLY_OF_AGENTS = (".claude", ".codex", ".cursor", ".custody", ".gemini", ".mcp.json", "custody.toml")
"""What says how agents work here: which hooks, servers and rules there are. Folders whole, as a part of one
could be moved away with what is around it."""

MEMORY_SHARE = 8
PRIVATE_BYTES_MAX = 1024**3
"""Of each private folder, which lies in memory: what a build needs, at most a share of what there is."""
PRIVATE_BYTES_MIN = 16 * 1024**2  # less is no folder to work in
SMALL_BYTES = 16 * 1024**2  # locks, and the folders on the way to what is kept
BYTES_PER_FILE = 4096  # a file in memory costs the kernel about a page beside its content


class WallPlan(Struct, frozen=True, kw_only=True):
    """Everything a launcher is told of its walls. What it cannot carry out, it dies of."""

    user_namespace: bool
    """For an ordinary user, who may make the other namespaces inside one alone."""
    namespaces: int
    loopback: bool
    listener: bool
    """On this loopback, handed to who started the launcher: the only way to the hosts that are listed."""
    overlay: tuple[tuple[str, str, str], ...]
    """Folder, where what is changed in it goes, and the kernel's own folder for that."""
    later: str
    """The folder beneath which the last two will lie, when the launcher is told of them only once it has put
    up all the walls it can; else nothing."""
    keep: tuple[Keep, ...]
    """Taken before anything is covered, put in place after; the shallower first."""
    cover: tuple[tuple[str, str], ...]
    """Folders hidden by an empty one in memory, and its options; the shallower first."""
    private: tuple[str, ...]
    """Those of them that are the run's rather than one launcher's. Where that cannot be had they are in
    memory like the others."""
    kept: str
    """The folder in which they are kept, each at its own path."""
    files: tuple[tuple[str, bytes], ...]
    """Path and content of what stands in covered folders from the start."""
    proc: bool
    read_only: tuple[str, ...]
    """Made mounts that are read-only, with all that is mounted below."""
    landlock: Ruleset
    uid: int | None
    gid: int | None
    seccomp: bytes
    limits: tuple[tuple[int, int], ...]
    hostname: str | None = None
    version: int = VERSION

    def pack(self) -> bytes:
        """As the launcher reads it, which knows no package: plain values alone."""
        return marshal.dumps(msgspec.to_builtins(self, builtin_types=(bytes,)))


def plan_of(
    sandbox: Sandbox,
    roots: Sequence[str],
    cwd: str,
    machine: Machine,
    *,
    views: Sequence[View] = (),
    number: int = 0,
    stay_root: bool = False,
    later: bool = False,
    kept: str = "",
) -> WallPlan:
    """The walls of a sandbox around these roots, whose links are resolved.

    `views` take the place of roots: nothing behind one can be changed. `number` chooses among the users
    there are, so that what runs beside it is another's. `stay_root` allows a command of root's to stay root,
    without its capabilities, where no other user can work in its folders. `later` is for a launcher of views
    like these whose changes lie elsewhere in the same store. `kept` is where the run's private folders are;
    without it they lie in memory. Raises SandboxError for what cannot be had here.
    """
    _check_machine(machine)
    cwd = os.path.realpath(cwd)
    listed = _resolved((*sandbox.read, *sandbox.write))
    private = tuple(p for p in _private(machine) if not any(is_beneath(p, path) for path in listed))
    roots = _usable(_resolved(roots), cwd, private, machine)
    elsewhere = _resolved(sandbox.write)
    views = _views(views, roots, elsewhere) if sandbox.roots == "write" else ()  # else nothing is changed
    changed = _by_depth((*(roots if sandbox.roots == "write" else ()), *elsewhere))
    writable = tuple(path for path in changed if _seen_by(path, views) in (path, None))
    readable = tuple(path for path in (*roots, *listed) if path not in changed)
    system = _outermost(_resolved(filter(os.path.isdir, SYSTEM_FOLDERS)))
    cover = _by_depth((*private, *_hidden(system, (*writable, *readable))))
    _check_folder(cwd, (*writable, *readable), cover)
    needed = _outermost(_needed(machine, (*writable, *readable)))
    cover = _by_depth((*cover, *_beside(views, (*writable, *readable, *needed), cover)))
    uid = _user(machine, number, writable=bool(writable), stay_root=stay_root)
    # Another user reads root's folders as their owner, or not at all; that makes them his to change.
    shown = tuple(r for r in roots if r in readable and not any(is_beneath(p, r) for p in writable))
    shown = shown if uid is not None and machine.idmapped else ()
    viewed = {view.root for view in views}
    return WallPlan(
        user_namespace=machine.namespaces == "user",
        namespaces=CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC
        | (0 if sandbox.network == "open" else CLONE_NEWNET),
        loopback=sandbox.network in ("loopback", "listed"),
        listener=sandbox.network == "listed",
        overlay=tuple(_overlays(views, later=later)),
        later=_store(views) if later else "",
        keep=tuple(_through(views, _kept(writable, shown, readable, needed, cover, idmap=uid is not None))),
        cover=tuple((place, _in_memory(place, uid, machine)) for place in cover),
        private=tuple(place for place in cover if kept and _is_kept(place, machine)),
        kept=kept,
        files=tuple(home_files(home for home in machine.homes if home in cover)),
        proc=True,
        read_only=(
            *_read_only(system, shown, writable),
            *_names_programs(path for path in writable if path not in viewed),
        ),
        landlock=ruleset(
            machine.landlock_abi,
            read=dict.fromkeys((*system, *readable, *needed, RUN)),
            write=dict.fromkeys((*writable, *(place for place in private if place != RUN))),
            execute=sandbox.execute,
            network=sandbox.network,
        ),
        uid=uid,
        gid=uid,
        seccomp=seccomp_program(machine.architecture),
        limits=tuple(_limits(sandbox)),
    )  # fmt: skip


def writable_roots(roots: Iterable[str], cwd: str, machine: Machine) -> tuple[str, ...]:
    """Those of a call in which its command works, the outermost alone; the temporary folders are none.

    Raises SandboxError as `plan_of` does.
    """
    usable = _usable(_resolved(roots), os.path.realpath(cwd), tuple(_private(machine)), machine)
    return _outermost(usable)


def toolchains(home: str) -> Iterator[str]:
    """Folders of programs in a home folder. Links are passed over: one may lead to anything."""
    for name in TOOLCHAINS:
        path = os.path.join(home, name)
        if os.path.exists(path) and os.path.realpath(path) == path:
            yield path


# -- what is refused ------------------------------------------------------------------------------------


def _check_machine(machine: Machine) -> None:
    if machine.missing:
        names = ", ".join(finding.name for finding in machine.missing)
        first = machine.missing[0]
        raise SandboxError(
            f"This machine does not give what `confined` needs: {names}. The first: {first.why}",
            hint=first.change or "custody doctor says more; the level `process` can be had.",
        )
    if machine.namespaces == "none":
        raise SandboxError("No namespaces can be made here.", hint="custody doctor says why.")


def _usable(roots: Iterable[str], cwd: str, private: Sequence[str], machine: Machine) -> tuple[str, ...]:
    """The roots without the temporary folders, in whose place a run has its own."""
    found: list[str] = []
    for root in roots:
        temporary = root in (*TEMPORARY_FOLDERS, RUN) or (root == machine.temporary and root != cwd)
        if temporary or not os.path.exists(root):
            continue
        for place in private:
            if is_beneath(place, root):
                raise SandboxError(
                    f"A root contains {place}, of which every run has its own.",
                    hint="Work in a folder further down, or run commands without walls: "
                    'level = "process" under [calls] of the settings.',
                )
        if any(is_beneath(root, folder) for folder in KERNEL_FOLDERS) and not is_beneath(root, "/dev/shm"):
            raise SandboxError("A root lies in /dev, /proc or /sys, which are the kernel's.")
        found.append(root)
    return tuple(dict.fromkeys(found))


def _check_folder(cwd: str, places: Sequence[str], cover: Sequence[str]) -> None:
    """A working directory that is covered would not be there, for a reason nobody sees."""
    for place in cover:
        if cwd != place and is_beneath(cwd, place) and not any(is_beneath(cwd, path) for path in places):
            raise SandboxError(
                f"The working directory lies in {place}, of which a command sees its roots alone.",
                hint="Name it as a root: --root.",
            )


def _views(views: Sequence[View], roots: Sequence[str], elsewhere: Sequence[str]) -> tuple[View, ...]:
    """Those of usable roots, once it is sure that nothing a command may change lies behind one of them."""
    found = tuple(
        View(
            root,
            view.kind,
            *(path and os.path.realpath(path) for path in (view.upper, view.work, view.store)),
        )
        for root, view in ((os.path.realpath(view.root), view) for view in views)
        if root in roots
    )
    if not found:
        return ()
    for view in found:
        if any(other is not view and is_beneath(view.root, other.root) for other in found):
            raise SandboxError(
                "A root of this transaction lies in another one.", hint="Give a view to the outer one alone."
            )
    if any(_seen_by(root, found) is None for root in roots):
        raise SandboxError("A root of this transaction has no view, and would be changed at once.")
    open_places = [path for path in elsewhere if _seen_by(path, found) is None]
    for view in found:
        if path := same_storage(view.root, open_places):
            raise SandboxError(
                f"The sandbox lets a command change {path}, and so a root of the transaction.",
                hint="Choose a sandbox that lists no writable place around a root: `workspace` or `network`.",
            )
        places = (*roots, *open_places)
        in_store = view.store and any(is_beneath(path, view.store) for path in places)
        if in_store or any(is_beneath(view.upper, path) for path in places):
            raise SandboxError(
                "What this transaction holds back would lie where its command may change it.",
                hint="Keep the store outside of the roots, and of what the sandbox lists as writable.",
            )
    return found


def _user(machine: Machine, number: int, *, writable: bool, stay_root: bool) -> int | None:
    """Who a command runs as; None: as we do."""
    if machine.uid != 0:
        return None
    if machine.uids is not None and (machine.idmapped or not writable):
        first, count = machine.uids
        return first + number % count
    if stay_root:
        return None
    what = "no other user can work in root's folders" if machine.uids else "there is no other user to run as"
    raise SandboxError(
        f"Commands would run as root: {what} here.",
        hint="custody doctor says why; run Custody as an ordinary user, or allow it in the policy.",
    )


# -- views ----------------------------------------------------------------------------------------------


def _seen_by(path: str, views: Sequence[View]) -> str | None:
    """The root through whose view a place is seen."""
    return next((view.root for view in views if is_beneath(path, view.root)), None)


def _through(views: Sequence[View], kept: Iterable[Keep]) -> Iterator[Keep]:
    """A copy is kept in the root's place; what an overlay shows is no mount of the root."""
    instead = {view.root: view for view in views}
    for source, target, how in kept:
        if os.path.dirname(source) in instead and os.path.basename(source) == GIT:
            continue
        view = instead.get(source)
        if view is None:
            yield source, target, how
        elif view.kind == "copy":
            yield view.upper, target, how


def _overlays(views: Sequence[View], *, later: bool) -> Iterator[tuple[str, str, str]]:
    for view in views:
        if view.kind == "overlay":
            yield (view.root, "", "") if later else (view.root, view.upper, view.work)


def _store(views: Sequence[View]) -> str:
    """The one folder in which they all lie."""
    stores = {view.store for view in views}
    for view in views:
        if (
            len(stores) != 1
            or view.kind != "overlay"
            or not view.store
            or not is_beneath(view.upper, view.store)
        ):
            raise SandboxError("Only overlays that lie in one store can be told of later.")
    return stores.pop() if stores else ""


def _beside(views: Sequence[View], places: Sequence[str], cover: Sequence[str]) -> Iterator[str]:
    """Folders in which what is held back would be seen."""
    for folder in {view.store or os.path.dirname(view.upper) for view in views}:
        around = [path for path in (*cover, *places) if is_beneath(folder, path)]
        if not around or max(around, key=len) in places:
            yield folder


# -- which folders --------------------------------------------------------------------------------------


def _resolved(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(os.path.realpath(path) for path in paths))


def _by_depth(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(paths), key=lambda path: (path.count("/"), path)))


def _outermost(paths: Iterable[str]) -> tuple[str, ...]:
    paths = _by_depth(paths)
    return tuple(p for p in paths if not any(p != other and is_beneath(p, other) for other in paths))


def _private(machine: Machine) -> Iterator[str]:
    """Folders a run has of its own. A home folder that is a part of the system holds nothing of anybody's."""
    yield from (path for path in (*TEMPORARY_FOLDERS, RUN) if os.path.isdir(path))
    for home in machine.homes:
        system = any(is_beneath(home, folder) for folder in (*SYSTEM_FOLDERS, *KERNEL_FOLDERS))
        if home != "/" and not system and os.path.isdir(home):
            yield home


def _hidden(system: Sequence[str], places: Sequence[str]) -> Iterator[str]:
    """Top folders nothing in which may be read, so that nobody changes a mode or finds a socket there either:
    that is no right of Landlock's."""
    with os.scandir("/") as entries:
        tops = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    for top in tops:
        if any(is_beneath(top, path) for path in (*places, *KERNEL_FOLDERS)):
            continue
        if not any(is_beneath(folder, top) for folder in system):
            yield top


def _needed(machine: Machine, places: Sequence[str]) -> Iterator[str]:
    """What programs need beside the system's folders; nothing that contains somebody's home folder."""
    candidates = [*machine.prefixes, *_resolved(filter(os.path.islink, LINKED_FILES))]
    for home in machine.homes:
        candidates += toolchains(home)
    for path in dict.fromkeys(candidates):
        if any(is_beneath(home, path) for home in (*machine.homes, *TEMPORARY_FOLDERS, RUN)):
            continue
        if os.path.exists(path) and not any(is_beneath(path, place) for place in places):
            yield path


def _kept(
    writable: Sequence[str],
    shown: Sequence[str],
    readable: Sequence[str],
    needed: Sequence[str],
    cover: Sequence[str],
    *,
    idmap: bool,
) -> Iterator[Keep]:
    """Each place is a mount of its own, as Landlock does not keep a mode or an owner from being changed; what
    programs need only where it is covered. Devices work in no such mount."""
    for path in _by_depth((*writable, *readable, *needed)):
        covered = any(is_beneath(path, place) for place in cover)
        kernels = any(is_beneath(path, folder) for folder in KERNEL_FOLDERS)
        if path == "/" or not os.path.exists(path) or (kernels and not covered):
            continue
        if path in writable or path in shown:
            yield path, path, "idmap" if idmap else "rw"
            git = os.path.join(path, GIT)
            if path in writable and os.path.exists(git) and not os.path.islink(git):
                yield git, git, "idmap" if idmap else "rw"  # a mount cannot be moved away and made anew
        elif path in readable or covered:
            yield path, path, "ro"


def _read_only(system: Sequence[str], shown: Sequence[str], writable: Sequence[str]) -> Iterator[str]:
    """The system's folders and what of /proc steers the kernel, with all that is mounted below: so none but
    those in which nothing may be changed."""
    for path in _by_depth((*READ_ONLY_BELOW_PROC, *system, *shown)):
        if path == "/proc" or not os.path.exists(path):
            continue
        kernels = any(is_beneath(path, folder) for folder in KERNEL_FOLDERS)
        if kernels or not any(is_beneath(p, path) or is_beneath(path, p) for p in writable):
            yield path


def _names_programs(roots: Iterable[str]) -> Iterator[str]:
    """What of a root would have programs run outside of these walls, when a person next calls git or starts
    an agent there, and what holds that agent."""
    for root in roots:
        git = os.path.join(root, GIT)
        parts = [git] if os.path.isfile(git) else [os.path.join(git, name) for name in READ_ONLY_OF_GIT]
        parts += [os.path.join(root, name) for name in READ_ONLY_OF_AGENTS]
        yield from (part for part in parts if os.path.exists(part) and not os.path.islink(part))


def _is_worked_in(place: str, machine: Machine) -> bool:
    return place in TEMPORARY_FOLDERS or place in machine.homes


def _is_kept(place: str, machine: Machine) -> bool:
    """What is worked in, but for memory that processes share: there is nobody to share it with later."""
    return place != SHARED_MEMORY and _is_worked_in(place, machine)


def _in_memory(place: str, uid: int | None, machine: Machine) -> str:
    """The options of the tmpfs on a covered place."""
    size = SMALL_BYTES
    if _is_worked_in(place, machine):
        share = machine.memory_bytes // MEMORY_SHARE
        size = max(PRIVATE_BYTES_MIN, min(PRIVATE_BYTES_MAX, share or PRIVATE_BYTES_MAX))
    options = [f"size={size}", f"nr_inodes={size // BYTES_PER_FILE}"]
    if place in TEMPORARY_FOLDERS:
        options.append("mode=1777")
    elif place in machine.homes:
        options.append("mode=0700")
        options += [] if uid is None else [f"uid={uid}", f"gid={uid}"]
    else:
        options.append("mode=0755")
    return ",".join(options)


# -- limits ---------------------------------------------------------------------------------------------


def _limits(sandbox: Sandbox) -> Iterator[tuple[int, int]]:
    """What a sandbox says of resources, as far as the kernel bounds it without a cgroup."""
    limits = {
        getattr(resource, f"RLIMIT_{name.upper()}"): value
        for name, value in sandbox.limits.items()
        if name != "cpu"  # each command has its own: the launcher would use its up over its life
    }
    bounds = [
        (resource.RLIMIT_CORE, 0),  # a dump goes to a program of the machine's, outside of every wall
        (resource.RLIMIT_DATA, sandbox.memory_bytes),  # of each process, where a cgroup bounds the tree
        (resource.RLIMIT_NPROC, sandbox.processes),
    ]
    for number, bound in bounds:
        if bound is not None and not 0 <= limits.get(number, -1) <= bound:
            limits[number] = bound
    yield from sorted(limits.items())
