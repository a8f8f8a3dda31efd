"""Behind walls a command can do what it is for, and nothing it tries gets out.

As root, and as an ordinary user in a forked child that drops to one: with an interpreter such a user can
execute.
"""

import asyncio
import contextlib
import ctypes
import importlib
import json
import os
import shutil
import signal
import socket
import stat
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.sandbox import escapes
from tests.sandbox.commands import WAIT_SECONDS, command, eventually_async, is_alive, launcher_pids, run_with
from tests.sandbox.escapes import Given

from custody.errors import LauncherLost, SandboxError, WorkingDirectoryGone
from custody.sandbox import Command, Launchers, TerminalSize
from custody.sandbox.idle import WALLED_MAX
from custody.sandbox.launcher.tree import children_of, stat_of
from custody.sandbox.walls import NAMED
from custody.sandbox.walls.machine import Machine, look_at_machine

ORDINARY_UID = 61_234  # nobody's
SYSTEM_PYTHON = "/usr/bin/python3"
SECRET = "secret-of-another-call"
WORKSPACE = NAMED["workspace"]
SENTINEL = "as it was\n"

importlib.import_module("concurrent.futures.thread")  # asyncio does late, when a child may not reach it


@cache
def machine_of(uid: int) -> Machine:
    """What walls a process of that user has here."""
    python = sys.executable if uid == os.getuid() else SYSTEM_PYTHON

    def look() -> Any:
        return msgspec.to_builtins(look_at_machine(tempfile.gettempdir(), python=python))

    found = look() if uid == os.getuid() else _as_user(uid, "/", look)
    return msgspec.convert(found, Machine)


@dataclass
class Place:
    """Folders of a test, all of one user, and how something is run as that user."""

    folder: Path
    uid: int

    def __post_init__(self) -> None:
        ours = self.uid == os.getuid()
        self.python = sys.executable if ours else SYSTEM_PYTHON
        found = machine_of(self.uid)
        self.machine = found if ours else msgspec.structs.replace(found, homes=(str(self.folder),))
        for name in ("workspace", "outside", "readable"):
            (self.folder / name).mkdir()
        for name in ("outside", "readable"):
            (self.folder / name / "sentinel").write_text(SENTINEL)
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, self.uid, self.uid)
            path.chmod(0o755 if path.is_dir() else 0o644)

    @property
    def workspace(self) -> str:
        return str(self.folder / "workspace")

    def command(self, *argv: str, **options: Any) -> Command:
        wanted: dict[str, Any] = {
            "cwd": self.workspace,
            "roots": (self.workspace,),
            "run_id": "run",
            "sandbox": WORKSPACE,
            "environment": {"PATH": "/usr/bin:/bin", "HOME": os.environ["HOME"]},
        }
        return command(*argv, **{**wanted, **options})

    def shell(self, text: str, **options: Any) -> Command:
        return self.command("sh", "-c", text, **options)

    def program(self, text: str, *arguments: str, **options: Any) -> Command:
        return self.command(self.python, "-I", "-S", "-c", text, *arguments, **options)

    def run(self, body: Callable[[Launchers], Awaitable[Any]]) -> Any:
        """With launchers of its own, as the user of the place; the result has to be JSON."""

        if self.machine.missing:
            missing = "; ".join(finding.why for finding in self.machine.missing)
            pytest.skip(f"`confined` is not offered here: {missing}")

        def run() -> Any:
            return run_with(body, python=self.python, look_at_machine=lambda: self.machine)

        return run() if self.uid == os.getuid() else _as_user(self.uid, str(self.folder), run)


def _as_user(uid: int, home: str, body: Callable[[], Any]) -> Any:
    """What `body` returns in a child that has dropped to the user; asserts that it returned."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.environ["HOME"] = home
            answer: Any = {"ended": body()}
        except BaseException:
            answer = {"failed": traceback.format_exc()}
        with contextlib.suppress(BaseException), open(writing, "w") as file:
            json.dump(answer, file)
        os._exit(0)
    os.close(writing)
    with open(reading) as file:
        answer = json.load(file)
    os.waitpid(pid, 0)
    assert "failed" not in answer, answer["failed"]
    return answer["ended"]


WHO_ELSE = pytest.param("ordinary user", marks=[pytest.mark.long] if os.getuid() == 0 else [])
"""Everything is tried as both; a quick round of root has an ordinary user in `test_confine` alone."""


@pytest.fixture(params=["root", WHO_ELSE])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Not below tmp_path, into which only its owner can go."""
    ordinary = request.param == "ordinary user"
    if not ordinary and os.getuid() != 0:
        pytest.skip("not started as root")
    if ordinary and os.getuid() == 0 and not os.access(SYSTEM_PYTHON, os.X_OK):
        pytest.skip("no interpreter that an ordinary user can execute")
    with tempfile.TemporaryDirectory(prefix="custody-walls-") as folder:
        yield Place(Path(folder), ORDINARY_UID if ordinary and os.getuid() == 0 else os.getuid())


@contextlib.contextmanager
def listeners(folder: Path, name: str) -> Iterator[dict[str, socket.socket]]:
    """Sockets of the host, of every kind; nothing is to reach them."""
    with contextlib.ExitStack() as stack:
        made: dict[str, socket.socket] = {}
        for kind, family, type_, address in (
            ("tcp", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            ("udp", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            ("path_stream", socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "stream")),
            ("path_datagram", socket.AF_UNIX, socket.SOCK_DGRAM, str(folder / "datagram")),
            ("abstract_stream", socket.AF_UNIX, socket.SOCK_STREAM, f"\0{name}-stream"),
            ("abstract_datagram", socket.AF_UNIX, socket.SOCK_DGRAM, f"\0{name}-datagram"),
        ):
            made[kind] = stack.enter_context(socket.socket(family, type_))
            made[kind].bind(address)
            made[kind].setblocking(False)
            if type_ == socket.SOCK_STREAM:
                made[kind].listen()
            if isinstance(address, str) and not address.startswith("\0"):
                os.chmod(address, 0o777)
        yield made


@contextlib.contextmanager
def shared_memory() -> Iterator[int]:
    """The key of a segment that everybody may read."""
    library = ctypes.CDLL(None, use_errno=True)
    key = 0x43000000 | os.getpid()
    segment = library.shmget(key, 4096, 0o1000 | 0o666)  # IPC_CREAT
    assert segment >= 0
    try:
        yield key
    finally:
        library.shmctl(segment, 0, None)  # IPC_RMID


def arrived(made: dict[str, socket.socket]) -> list[str]:
    found: list[str] = []
    for kind, listener in made.items():
        with contextlib.suppress(BlockingIOError):
            if listener.type == socket.SOCK_STREAM:
                listener.accept()[0].close()
            else:
                listener.recv(100)
            found.append(kind)
    return found


def beside_every_root(place: Place, request: pytest.FixtureRequest) -> str:
    """A sentinel of the user's where nothing is covered and no root is; empty where it cannot reach it."""
    cache = getattr(request.config, "cache", None)
    folder = Path(cache.mkdir("walls")) if cache is not None else Path("/nowhere")
    if not folder.is_dir() or any((parent.stat().st_mode & 0o1) == 0 for parent in folder.parents):
        return ""
    sentinel = folder / f"sentinel-{os.getpid()}"
    sentinel.write_text(SENTINEL)
    os.chown(sentinel, place.uid, place.uid)
    return str(sentinel)


def open_device() -> str:
    """One that everybody may open, and no program needs; empty where there is none."""
    usual = {"null", "zero", "full", "random", "urandom", "tty", "ptmx"}
    for path in sorted(Path("/dev").iterdir()):
        found = path.lstat()
        if path.name not in usual and stat.S_ISCHR(found.st_mode) and found.st_mode & 0o006 == 0o006:
            return str(path)
    return ""


def given_of(place: Place, made: dict[str, socket.socket], name: str, bare: str, key: int) -> Given:
    setuid = ""
    if os.getuid() == 0:
        setuid = str(Path(place.workspace) / "who")
        shutil.copy("/usr/bin/id", setuid)
        os.chmod(setuid, 0o4755)
    return Given(
        outside=str(place.folder / "outside" / "sentinel"),
        outside_folder=str(place.folder / "outside"),
        readable=str(place.folder / "readable" / "sentinel"),
        readable_folder=str(place.folder / "readable"),
        bare=bare,
        device=open_device(),
        setuid=setuid,
        path_stream=str(place.folder / "outside" / "stream"),
        path_datagram=str(place.folder / "outside" / "datagram"),
        abstract_stream=f"{name}-stream",
        abstract_datagram=f"{name}-datagram",
        tcp_port=made["tcp"].getsockname()[1],
        udp_port=made["udp"].getsockname()[1],
        host_pid=os.getpid(),
        shared_memory=key,
        secret=SECRET,
    )


# -- ways out -------------------------------------------------------------------------------------------


def test_no_way_leads_out(place: Place, token: str, request: pytest.FixtureRequest) -> None:
    bare = beside_every_root(place, request)
    sandbox = msgspec.structs.replace(WORKSPACE, read=(str(place.folder / "readable"),))

    with listeners(place.folder / "outside", token) as made, shared_memory() as key:
        given = given_of(place, made, token, bare, key)

        async def body(pool: Launchers) -> tuple[str, int | None, bool]:
            secret = {"KEY": SECRET, "PATH": "/bin"}
            holding = place.command("sleep", "60", run_id="other", environment=secret)
            other = asyncio.create_task(pool.run(holding))
            tried = place.program(escapes.DRIVER, stdin=escapes.told(given), sandbox=sandbox)
            finished = await pool.run(tried)
            before = set(launcher_pids())
            after = await pool.run(msgspec.structs.replace(tried, argv=("true",), stdin=None))
            unharmed = not other.done() and after.exit_code == 0 and set(launcher_pids()) == before
            other.cancel()
            await asyncio.wait([other])
            error = finished.stderr.data.decode(errors="replace")
            return finished.stdout.data.decode() or error, finished.exit_code, unharmed

        printed, code, unharmed = place.run(body)
        assert code == 0, printed
        assert escapes.escaped(json.loads(printed), given) == {}
        assert unharmed
        assert arrived(made) == []
    sentinels = [given.outside, given.readable, *filter(None, [bare])]
    assert {Path(path).read_text() for path in sentinels} == {SENTINEL}
    assert {Path(path).stat().st_mode & 0o777 for path in (given.outside, given.readable)} == {0o644}
    assert sorted(os.listdir(given.readable_folder)) == ["sentinel"]
    if bare:
        os.unlink(bare)


@pytest.mark.long
def test_a_tree_that_hides_and_ignores_is_gone_at_its_deadline(place: Place) -> None:
    async def body(pool: Launchers) -> tuple[str | None, int, list[int]]:
        wanted = place.program(escapes.FORKS, "40", deadline_seconds=0.25, grace_seconds=0.1)
        finished = await pool.run(wanted)
        below = [pid for launcher in launcher_pids() for pid in children_of(launcher)]
        return finished.limit_hit, int(finished.stdout.data), [p for b in below for p in children_of(b)]

    limit_hit, made, left = place.run(body)
    assert (limit_hit, left) == ("deadline", [])
    assert made > 10


def test_whoever_kills_a_launcher_kills_all_of_it(place: Place) -> None:
    async def body(pool: Launchers) -> list[str]:
        ended: list[str] = []
        text = "setsid sleep 300 & echo; exec sleep 300"
        began = asyncio.Event()
        running = asyncio.create_task(pool.run(place.shell(text), on_output=lambda name, data: began.set()))
        await asyncio.wait_for(began.wait(), WAIT_SECONDS)
        (outer,) = launcher_pids()
        (inner,) = children_of(outer)
        below = list(children_of(inner))
        os.kill(outer, signal.SIGKILL)
        try:
            await running
        except LauncherLost:
            ended.append("lost")
        await eventually_async(lambda: not any(map(is_alive, (inner, *below))))
        return [*ended, str(len(below) >= 1)]

    assert place.run(body) == ["lost", "True"]


# -- what it is for -------------------------------------------------------------------------------------

_WORK = """
import json, os, socket, stat, tempfile
told = {}
open("made", "w").write("by the command")
os.mkdir("folder"); os.rename("made", "folder/made"); os.link("folder/made", "linked")
os.mkfifo("fifo"); told["fifo"] = stat.S_ISFIFO(os.stat("fifo").st_mode)
told["own"] = os.stat("linked").st_uid == os.getuid()
with tempfile.NamedTemporaryFile() as file: told["temporary"] = os.path.dirname(file.name)
open(os.path.expanduser("~/note"), "w").close()
told["home"] = os.path.exists(os.path.expanduser("~/note"))
listener = socket.create_server(("127.0.0.1", 0))
socket.create_connection(listener.getsockname(), 5).sendall(b"x")
told["loopback"] = listener.accept()[0].recv(1) == b"x"
told["pids"] = sum(name.isdigit() for name in os.listdir("/proc")) <= 3
for name in ("null", "zero", "urandom", "full"): open("/dev/" + name, "rb").close()
open("/dev/null", "wb").write(b"x")
print(json.dumps(told))
"""


def test_a_workspace_can_be_worked_in(place: Place) -> None:
    async def body(pool: Launchers) -> tuple[str, str, list[int | None]]:
        finished = await pool.run(place.program(_WORK))
        told = finished.stdout.data.decode(), finished.stderr.data.decode()
        return *told, [finished.child_pid, finished.child_start_ticks]

    printed, errors, identity = place.run(body)
    assert errors == ""
    assert json.loads(printed) == {
        "fifo": True,
        "own": True,
        "temporary": "/tmp",
        "home": True,
        "loopback": True,
        "pids": True,
    }
    assert (Path(place.workspace) / "folder" / "made").read_text() == "by the command"
    assert {path.stat().st_uid for path in Path(place.workspace).rglob("*")} == {place.uid}
    assert identity == [None, None]  # a number of another namespace would name a stranger


def test_everything_a_command_is_given_comes_through_the_walls(place: Place) -> None:
    async def body(pool: Launchers) -> list[str]:
        ended = [
            await pool.run(place.command("cat", stdin=b"x" * 300_000, keep_head_bytes=400_000)),
            await pool.run(place.command("printf", "%s", "y" * 100_000)),
            await pool.run(place.shell("ulimit -n; ulimit -c", limits={"nofile": 77})),
            await pool.run(place.shell("test -t 0 && stty size && : >/dev/tty", terminal=TerminalSize(7, 9))),
        ]
        return [finished.stdout.data.decode() for finished in ended]

    assert place.run(body) == ["x" * 300_000, "y" * 100_000, "77\n0\n", "7 9\r\n"]


def test_what_is_private_is_shared_within_a_run_and_gone_after_it(place: Place) -> None:
    async def body(pool: Launchers) -> list[list[bytes]]:
        look = "cat $TMPDIR/left $HOME/left /dev/shm/left 2>&-; printf y >$TMPDIR/left; exit 0"

        async def left(**options: Any) -> str:
            finished = await pool.run(place.shell(look, **options))
            return finished.stdout.data.decode()

        write = "for folder in $TMPDIR $HOME /dev/shm; do printf x >$folder/left; done"
        await pool.run(place.shell(write))
        seen = [
            await left(),
            await left(run_id="another"),
            await left(sandbox=NAMED["network"]),
            await left(roots=(place.workspace, str(place.folder / "readable"))),
        ]
        ended = set(launcher_pids())
        pool.end_run("run")
        await eventually_async(lambda: len(ended & set(map(int, filter(is_alive, ended)))) == 1)
        seen.append(await left())
        await pool.run(place.shell("echo"), on_output=lambda name, data: pool.end_run("run"))
        return [*seen, await left()]

    assert place.run(body) == ["xxx", "", "", "", "", ""]


def test_a_narrower_sandbox_is_narrower(place: Place) -> None:
    text = "touch made; echo x >/dev/tcp/127.0.0.1/1; ls -1 /sys/class/net; env"

    async def body(pool: Launchers) -> str:
        sandbox = msgspec.structs.replace(NAMED["read_only"], environment=("PATH",))
        finished = await pool.run(
            place.shell(text, sandbox=sandbox, environment={"PATH": "/bin", "KEY": "v"})
        )
        return finished.stdout.data.decode()

    printed = place.run(body)
    assert "KEY" not in printed and "TMPDIR=/tmp" in printed
    assert os.listdir(place.workspace) == []


@pytest.mark.skipif(os.getuid() != 0, reason="others can be run as by root alone")
def test_commands_of_root_run_as_the_users_that_are_named(tmp_path: Path) -> None:
    machine = machine_of(0)
    if machine.missing or not machine.idmapped:
        pytest.skip("another user cannot work in root's folders here")

    async def body(pool: Launchers) -> list[int]:
        pool.uids = (81_000, 2)
        commands = [
            command("id", "-u", cwd=str(tmp_path), roots=(str(tmp_path),), run_id=run_id, sandbox=WORKSPACE)
            for run_id in ("one", "another", "third")
        ]
        return [int((await pool.run(one)).stdout.data) for one in commands]

    first, second, third = run_with(body)
    assert {first, second} == {81_000, 81_001} and third == first


def test_a_folder_behind_a_wall_cannot_be_entered(place: Place) -> None:
    async def body(pool: Launchers) -> list[str]:
        await pool.run(place.command("true"))
        said: list[str] = []
        for cwd in (str(place.folder / "outside"), os.environ["HOME"] + "/elsewhere"):
            try:
                await pool.run(place.command("true", cwd=cwd))
            except SandboxError as error:
                said.append(type(error).__name__)
        return said

    assert place.run(body) == [WorkingDirectoryGone.__name__] * 2


def test_a_wall_that_cannot_be_had_is_named_and_nothing_is_run(place: Place) -> None:
    async def body(_: Launchers) -> list[str]:
        claimed = msgspec.structs.replace(place.machine, landlock_abi=99)  # with rights no kernel knows here
        pool = Launchers(python=place.python, look_at_machine=lambda: claimed)
        try:
            await pool.run(place.shell("touch made"))
        except SandboxError as error:
            return [type(error).__name__, str(error), error.details["wall"]]
        finally:
            await pool.close()
        return ["it ran"]

    name, message, wall = place.run(body)
    assert name == "SandboxError" and wall and wall in message
    assert os.listdir(place.workspace) == []


# -- much at once ---------------------------------------------------------------------------------------


def _left_in(namespaces: set[str]) -> list[int]:
    """Processes in one of these that nobody else has started: the kernel gives a number that is free again to
    the next namespace of another test's, whose processes are below the one that started both of us."""
    return [pid for pid in _everybody() if namespaces & _namespaces_of(pid) and not _anothers(pid)]


def _everybody() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _namespaces_of(pid: int) -> set[str]:
    found: set[str] = set()
    for kind in escapes.NAMESPACES:
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
    return found


def _anothers(pid: int) -> bool:
    while (found := stat_of(pid)) is not None and pid != os.getpid():
        if found.parent_pid == os.getppid():
            return True
        pid = found.parent_pid
    return False


@pytest.mark.long
def test_fifty_at_once_leave_nothing_behind(place: Place) -> None:
    async def body(pool: Launchers) -> list[list[str]]:
        ours = [place.program(escapes.LITTER, run_id=str(number)) for number in range(50)]
        every = await asyncio.gather(*map(pool.run, ours))
        await eventually_async(lambda: len(launcher_pids()) <= WALLED_MAX)
        said = [finished.stdout.data.decode().split() for finished in every]
        assert _left_in({namespace for its in said for namespace in its}), "some launchers are kept"
        return said

    descriptors = sorted(os.listdir("/proc/self/fd"))
    children, ours = set(children_of(os.getpid())), _namespaces_of(os.getpid())
    mounts = Path("/proc/self/mountinfo").read_text()
    said = place.run(body)
    assert {len(its) for its in said} == {len(escapes.NAMESPACES)}
    assert sorted(os.listdir("/proc/self/fd")) == descriptors
    assert set(children_of(os.getpid())) == children
    made = {namespace for its in said for namespace in its}
    assert not made & ours
    assert _left_in(made) == []
    assert Path("/proc/self/mountinfo").read_text() == mounts


@pytest.mark.long
def test_what_is_filled_is_its_own_and_bounded(place: Place) -> None:
    async def body(pool: Launchers) -> list[str]:
        said = [
            await pool.run(place.program(escapes.FILL, f"{folder}/full", str(1 << 40)))
            for folder in ("/dev/shm", "/tmp", "/run")
        ]
        flood = await pool.run(place.shell("head -c 1000000000 /dev/zero", deadline_seconds=60.0))
        return [*(finished.stdout.data.decode() for finished in said), str(flood.stdout.total_bytes)]

    *filled, flood = place.run(body)
    assert all(said.startswith("refused") for said in filled)
    assert flood == "1000000000"
