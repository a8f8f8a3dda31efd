"""Behind walls a command can do what it is for, and nothing it tries gets out."""

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.sandbox import escapes
from tests.sandbox.commands import (
    WAIT_SECONDS,
    command,
    deadlines,
    eventually_async,
    have_waiting,
    is_alive,
    launcher_pids,
    launchers,
    run_with,
    waits,
)
from tests.sandbox.escapes import Given
from tests.sandbox.places import SENTINEL, WORKSPACE, Place, machine_of

from custody.errors import LauncherLost, SandboxError, WorkingDirectoryGone
from custody.sandbox import Command, Launchers, TerminalSize, launcher
from custody.sandbox.launcher.tree import children_of
from custody.sandbox.walls import NAMED, View

SECRET = "secret-of-another-call"

SPARE = "transaction in a launcher that waited for it"
LEVELS = ("confined", "transaction", SPARE, pytest.param("transaction on a copy", marks=pytest.mark.long))


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


def views_at(level: str, place: Place, name: str = "held") -> tuple[View, ...]:
    """What a command of that level sees in place of the workspace as it is now."""
    if level == "confined":
        return ()
    if level in ("transaction", SPARE) and not place.machine.overlay:
        pytest.skip("no overlay can be mounted here")
    store = place.folder / "store"
    folder = store / name if level == SPARE else place.folder / name
    upper, work = folder / "upper", folder / "work"
    work.mkdir(parents=True)
    if level in ("transaction", SPARE):
        upper.mkdir()
    else:
        shutil.copytree(place.workspace, upper)
    for path in (folder.parent, folder, upper, work, *upper.iterdir()):
        bits = path.stat().st_mode
        os.chown(path, place.uid, place.uid)
        path.chmod(0o700 if path.is_dir() else bits)  # a change of owner takes them away
    if level == SPARE:
        return (View(place.workspace, "overlay", str(upper), str(work), str(store)),)
    kind = "overlay" if level == "transaction" else "copy"
    return (View(place.workspace, kind, str(upper), str(work) if kind == "overlay" else ""),)


async def have_spare(pool: Launchers, wanted: Command) -> int:
    """From here on a launcher waits for it: its process."""
    (view,) = wanted.views

    async def run(number: int) -> None:
        folder = Path(view.store) / str(number)
        for name in ("upper", "work"):
            (folder / name).mkdir(parents=True)
            os.chown(folder / name, os.stat(view.root).st_uid, os.stat(view.root).st_gid)
        other = msgspec.structs.replace(view, upper=f"{folder}/upper", work=f"{folder}/work")
        await pool.run(msgspec.structs.replace(wanted, argv=("true",), stdin=None, views=(other,)))

    return await have_waiting(run)


def with_bits(folder: str) -> dict[str, str]:
    """What lies there and would run as its owner or group, whoever starts it."""
    modes = {str(path.relative_to(folder)): path.lstat().st_mode for path in Path(folder).rglob("*")}
    bits = stat.S_ISUID | stat.S_ISGID
    return {name: stat.filemode(mode) for name, mode in modes.items() if mode & bits}


def as_it_is(folder: str) -> dict[str, tuple[Any, ...]]:
    return {name: tuple(os.lstat(os.path.join(folder, name))[:7]) for name in os.listdir(folder)}


# -- ways out -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_no_way_leads_out(place: Place, token: str, request: pytest.FixtureRequest, level: str) -> None:
    bare = beside_every_root(place, request)
    sandbox = msgspec.structs.replace(WORKSPACE, read=(str(place.folder / "readable"),))

    with listeners(place.folder / "outside", token) as made, shared_memory() as key:
        given = given_of(place, made, token, bare, key)
        before = as_it_is(place.workspace)
        views = views_at(level, place)
        if views:
            given.held = os.path.dirname(views[0].upper)

        async def body(pool: Launchers) -> tuple[str, int | None, bool]:
            secret = {"KEY": SECRET, "PATH": "/bin"}
            holding = place.shell("echo; exec sleep 300", run_id="other", environment=secret)
            began = asyncio.Event()
            other = asyncio.create_task(pool.run(holding, on_output=lambda name, data: began.set()))
            await asyncio.wait_for(began.wait(), WAIT_SECONDS)  # till then its launcher looks like a spare
            tried = place.program(escapes.DRIVER, stdin=escapes.told(given), sandbox=sandbox, views=views)
            waiting = await have_spare(pool, tried) if level == SPARE else 0
            finished = await pool.run(tried)
            if views:  # that of the command is about to be gone, and of one that waited it was that one
                await eventually_async(lambda: not waiting or not is_alive(waiting))
                await eventually_async(lambda: len([p for p in launcher_pids() if not waits(p)]) == 1)
            before = {pid for pid in launcher_pids() if not waits(pid)}
            after = await pool.run(msgspec.structs.replace(tried, argv=("true",), stdin=None, views=()))
            now = {
                pid for pid in launcher_pids() if not waits(pid)
            }  # with views there was one for that alone
            is_same = before < now if views else before == now
            unharmed = not other.done() and after.exit_code == 0 and is_same
            other.cancel()
            await asyncio.wait([other])
            error = finished.stderr.data.decode(errors="replace")
            return finished.stdout.data.decode() or error, finished.exit_code, unharmed

        printed, code, unharmed = place.run(body)
        assert code == 0, printed
        assert escapes.escaped(json.loads(printed), given) == {}
        assert unharmed
        assert arrived(made) == []
    own = set(filter(None, [os.path.basename(given.setuid)]))
    assert with_bits(place.workspace).keys() == own
    for view in views:
        assert as_it_is(place.workspace) == before
        assert "made" in os.listdir(view.upper)
        assert with_bits(view.upper).keys() == (own if view.kind == "copy" else set())
        assert sorted(os.listdir(given.held)) == ["upper", "work"]
    sentinels = [given.outside, given.readable, *filter(None, [bare])]
    assert {Path(path).read_text() for path in sentinels} == {SENTINEL}
    assert {Path(path).stat().st_mode & 0o777 for path in (given.outside, given.readable)} == {0o644}
    assert sorted(os.listdir(given.readable_folder)) == ["sentinel"]
    if bare:
        os.unlink(bare)


@pytest.mark.long
@pytest.mark.parametrize("level", LEVELS)
def test_a_tree_that_hides_and_ignores_is_gone_at_its_deadline(place: Place, level: str) -> None:

    async def body(pool: Launchers, wanted: Command) -> tuple[str | None, str, list[int]]:
        finished = await pool.run(wanted)
        below = [pid for launcher in launcher_pids() for pid in children_of(launcher)]
        left = [pid for first in below for pid in children_of(first)]
        return finished.limit_hit, finished.stdout.data.decode(), left

    for number, seconds in enumerate(deadlines(0.25)):
        views = views_at(level, place, f"held{number}")
        bounds = {"deadline_seconds": seconds, "grace_seconds": 0.1}
        wanted = place.program(escapes.FORKS, "40", views=views, **bounds)
        limit_hit, made, left = place.run(lambda pool, wanted=wanted: body(pool, wanted))
        assert (limit_hit, left) == ("deadline", [])
        if made:
            break
    assert int(made) > 10


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


def test_what_keeps_modes_keeps_them(place: Place) -> None:
    text = """
        umask 022; mkdir -p from/folder; echo x > from/file; chmod 1755 from/folder; chmod 750 from/file
        cp -a from copied; mkdir unpacked; tar cf - from | tar xpf - -C unpacked; mkdir -m 1777 open
        install -m 711 from/file installed; ln from/file linked; mv linked moved
        git init -q of-git && cd of-git && cp ../from/file . && git add file
        git -c user.name=a -c user.email=b commit -qm c && git clone -q . ../cloned
    """

    async def body(pool: Launchers) -> list[Any]:
        finished = await pool.run(place.shell(f"set -e; {text}"))
        return [finished.exit_code, finished.stderr.data.decode()]

    if shutil.which("git", path="/usr/bin:/bin") is None:
        pytest.skip("git is not installed")
    assert place.run(body) == [0, ""]
    names = ("copied/folder", "copied/file", "unpacked/from/folder", "unpacked/from/file")
    names += ("open", "installed", "moved", "cloned/file")
    modes = {name: (Path(place.workspace) / name).stat().st_mode & 0o7777 for name in names}
    assert [f"{mode:o}" for mode in modes.values()] == "1755 750 1755 750 1777 711 750 755".split()


@pytest.mark.parametrize("level", LEVELS)
def test_a_bit_that_was_there_stays_until_the_file_is_written(place: Place, level: str) -> None:
    """As for any user: what is put into such a file would else be run as its owner."""
    for name in ("written", "shortened", "touched"):
        path = Path(place.workspace) / name
        path.write_text("as it was")
        os.chown(path, place.uid, place.uid)
        path.chmod(0o4755)
    views = views_at(level, place)

    async def body(pool: Launchers) -> list[Any]:
        text = "echo more >>written; : >shortened; touch touched; chmod 755 touched && chmod u+s touched"
        finished = await pool.run(place.shell(text, views=views))
        return [finished.exit_code, finished.stderr.data.decode().count("Operation not permitted")]

    assert place.run(body) == [1, 1]
    assert with_bits(views[0].upper if views else place.workspace) == {}
    assert len(with_bits(place.workspace)) == (3 if views else 0)


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
    async def body(pool: Launchers) -> list[str]:
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


def test_what_is_kept_for_a_run_is_found_on_another_launcher(place: Place) -> None:
    kept = place.folder / "kept"
    kept.mkdir(mode=0o700)
    os.chown(kept, place.uid, place.uid)

    async def body(_: Launchers) -> list[str]:
        said: list[str] = []
        look = "cat $TMPDIR/left $HOME/left /dev/shm/left 2>&-; stat -c '%A %u' $HOME/left; id -u; exit 0"
        write = "for folder in $TMPDIR $HOME /dev/shm; do (umask 77; printf x >$folder/left); done"
        for text in (write, look):
            async with launchers(python=place.python, look_at_machine=lambda: place.machine) as pool:
                finished = await pool.run(place.shell(text, private=str(kept)))
                said.append(finished.stdout.data.decode())
        return said

    nothing, found = place.run(body)
    left, mode_and_owner, uid = found[:2], *found[2:].splitlines()
    assert (nothing, left) == ("", "xx")
    assert mode_and_owner == f"-rw------- {uid}"


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


# -- what is not to count yet --------------------------------------------------------------------------


def test_what_is_shown_a_view_is_alone_and_over_when_it_is_finished(place: Place) -> None:
    held = place.folder / "held"
    for name in ("upper", "work"):
        (held / name).mkdir(parents=True)
    for path in (held, *held.iterdir()):
        os.chown(path, place.uid, place.uid)
    if not place.machine.overlay:
        pytest.skip("no overlay can be mounted here")

    async def body(pool: Launchers) -> list[Any]:
        view = View(place.workspace, "overlay", str(held / "upper"), str(held / "work"))
        own = await pool.run(place.shell("echo made >made; echo x >$TMPDIR/left"))
        before = launcher_pids()
        text = "cat made; test -e $TMPDIR/left && echo old; rm made; touch new"
        seen = await pool.run(place.shell(text, views=(view,)))
        await eventually_async(lambda: launcher_pids() == before)  # its mounts take a moment longer
        stale = await pool.run(place.shell("ls"))
        printed = [finished.stdout.data.decode() for finished in (own, seen, stale)]
        return [printed, sorted(os.listdir(held / "upper")), os.listdir(place.workspace)]

    assert place.run(body) == [["", "made\n", "made\n"], ["made", "new"], ["made"]]


# -- what it costs --------------------------------------------------------------------------------------


def test_a_launcher_starts_without_what_makes_python_slow_to_start() -> None:
    text = "import sys; sys.path.append(sys.argv[1]); before = set(sys.modules)\n"
    text += "from launcher import confine, overlay, service\nprint(*sorted(set(sys.modules) - before))"
    folder = Path(launcher.__file__).parent.parent
    said = subprocess.run(
        [sys.executable, "-I", "-S", "-c", text, folder], capture_output=True, text=True, timeout=WAIT_SECONDS
    )
    loaded = set(said.stdout.split())
    assert {"launcher.confine", "launcher.service", "launcher.spawn", "launcher.tree"} <= loaded, said.stderr
    assert loaded.isdisjoint("enum signal typing socket collections functools re inspect".split())


# -- much at once --------------------------------------------------------------------------------------


@pytest.mark.long
def test_what_is_filled_is_its_own_and_bounded(place: Place) -> None:
    async def body(pool: Launchers) -> list[str]:
        said = [
            await pool.run(place.program(escapes.FILL, f"{folder}/full", str(1 << 40)))
            for folder in ("/dev/shm", "/tmp", "/run")
        ]
        flood = await pool.run(place.shell("head -c 1000000000 /dev/zero"))
        return [*(finished.stdout.data.decode() for finished in said), str(flood.stdout.total_bytes)]

    *filled, flood = place.run(body)
    assert all(said.startswith("refused") for said in filled)
    assert flood == "1000000000"
