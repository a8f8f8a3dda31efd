"""A launcher with a plan is behind every wall the plan names, or ends before it takes a command."""

import marshal
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.sandbox.commands import eventually, is_alive

from custody.sandbox.launcher import kernel, messages
from custody.sandbox.launcher.messages import Reply
from custody.sandbox.launcher.tree import children_of

PROGRAM = Path(messages.__file__).with_name("program.py")
WAIT_SECONDS = 60.0  # for one answer, on a machine that is busy

UID = 70_011  # of commands
ORDINARY = 70_012  # of a user who starts launchers
PYTHON = "/usr/bin/python3"  # one that any user may execute; ours may lie in somebody's home
ALLOW_ALL = struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)
NAMESPACES = (
    kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWIPC | kernel.CLONE_NEWNET | kernel.CLONE_NEWUTS
)
ALL = 0xFFFF  # of ABI 5 on: all rights to files
READ = 0x000D
FILES = 0x1FFF | 1 << 14
DEVICE = 0x000E | 3 << 14
DEVICES = ("/dev/null", "/dev/ptmx", "/dev/pts")
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc", "/proc", "/sys", "/dev/urandom")

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has users to give away")


def plan(**changes: Any) -> dict[str, Any]:
    """All walls, for the user at hand; a folder of the machine is readable, nothing but /tmp writable."""
    landlock = {
        "fs": ALL, "net": 0, "scoped": 0,
        "rules": [(path, READ) for path in SYSTEM] + [("/tmp", FILES)] + [(path, DEVICE) for path in DEVICES],
        "ports": [],
    }  # fmt: skip
    root = os.geteuid() == 0
    whole = {
        "version": 4, "user_namespace": not root, "namespaces": NAMESPACES, "loopback": True,
        "listener": False, "overlay": [], "later": "", "files": [], "keep": [],
        "cover": [("/tmp", "size=1m,mode=1777")], "private": [], "kept": "",
        "proc": True, "read_only": ["/sys", "/proc/sys"],
        "landlock": landlock, "uid": UID if root else None, "gid": UID if root else None,
        "seccomp": ALLOW_ALL, "limits": [], "hostname": None,
    }  # fmt: skip
    return whole | changes


class Walled:
    """A launcher started as `process` starts it; as another user by a program and an interpreter of his."""

    def __init__(self, wanted: dict[str, Any], ordinary: Path | None = None, **user: Any) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(WAIT_SECONDS)
        memory = os.memfd_create("plan")
        os.write(memory, marshal.dumps(wanted))
        numbers = (theirs.fileno(), memory)
        python, program = (sys.executable, PROGRAM) if ordinary is None else (PYTHON, ordinary)
        if ordinary is not None:
            user = {"user": ORDINARY, "group": ORDINARY, "extra_groups": []}
        self.process = subprocess.Popen(
            [python, "-I", "-S", program, str(numbers[0]), str(os.getpid()), "1", "", str(memory)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            cwd="/", env={"LC_ALL": "C.UTF-8"}, pass_fds=numbers, start_new_session=True, **user,
        )  # fmt: skip
        theirs.close()
        os.close(memory)

    def begin(
        self,
        script: str,
        *,
        deadline_seconds: float | None = None,
        cwd: str = "/",
        limits: Sequence[tuple[int, int]] = (),
    ) -> Any:
        """The end its output comes out of."""
        reading, writing = os.pipe()
        texts = b"\0".join([cwd.encode(), b"/bin/sh", b"-c", script.encode(), b"PATH=/usr/bin:/bin"])
        body = messages.pack_request(deadline_seconds, 0.1, list(limits), 3, 1, 0, texts)
        socket.send_fds(self.channel, [messages.RUN + body], [writing, writing])
        os.close(writing)
        return os.fdopen(reading, "rb")

    def answer(self) -> Reply:
        return Reply.unpack(self.channel.recv(messages.REPLY.size))

    def run(self, script: str, **options: Any) -> list[str]:
        """Lines of output, with those of errors."""
        with self.begin(script, **options) as output:
            lines = output.read().decode().splitlines()
        self.answer()
        return lines

    def refusal(self) -> tuple[str, int]:
        """What it says, and its exit code, when it will not start."""
        assert self.process.stderr is not None
        said = self.process.stderr.read().decode()
        return said, self.process.wait(WAIT_SECONDS)

    def close(self) -> None:
        self.channel.close()
        try:
            self.process.wait(WAIT_SECONDS)
        finally:
            self.process.kill()
            assert self.process.stderr is not None
            self.process.stderr.close()


@contextmanager
def walled(
    wanted: dict[str, Any] | None = None, ordinary: Path | None = None, **user: Any
) -> Iterator[Walled]:
    launcher = Walled(plan() if wanted is None else wanted, ordinary, **user)
    try:
        yield launcher
    finally:
        launcher.close()


@pytest.fixture(scope="module", params=["as we are", "as an ordinary user", "as root that stays root"])
def launcher(request: pytest.FixtureRequest) -> Iterator[Walled]:
    """One for all tests that leave it as it was."""
    program, wanted = None, plan()
    if request.param == "as an ordinary user":
        program = request.getfixturevalue("ordinary")
        wanted = plan(user_namespace=True, uid=None, gid=None)
    elif request.param == "as root that stays root":
        if os.geteuid() != 0:
            pytest.skip("we are not root")
        wanted = plan(uid=None, gid=None)
    with walled(wanted, program) as one:
        try:
            there = one.run("echo there")
        except (OSError, struct.error):
            said, code = one.refusal()
            assert code == 71 and said.partition(":")[0] in ("user_namespace", "namespaces", "proc"), said
            pytest.skip(f"this machine has no {said}")
        assert there == ["there"]
        yield one


def status(lines: list[str]) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


# -- what a command finds ---------------------------------------------------------------------------------


def test_a_command_has_no_capability_no_new_privileges_and_a_filter_and_nor_has_the_launcher(
    launcher: Walled,
) -> None:
    for process in ("self", "1"):
        found = status(launcher.run(f"cat /proc/{process}/status"))
        sets = {found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        assert sets == {"0" * 16}
        assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")


@as_root
def test_a_command_of_root_is_another_user_in_no_group() -> None:
    with walled(extra_groups=[0, UID + 1]) as launcher:
        found = status(launcher.run("cat /proc/self/status"))
    assert found["Uid"].split() == found["Gid"].split() == [str(UID)] * 4
    assert found["Groups"] == ""


def test_a_command_sees_its_own_processes_only(launcher: Walled) -> None:
    seen = [int(name) for name in launcher.run("ls /proc") if name.isdigit()]
    assert 1 in seen and len(seen) <= 3  # the launcher, the shell, ls
    assert launcher.run(f"test -e /proc/{os.getpid()} || kill -0 {os.getpid()} || echo none")[-1] == "none"


def test_each_namespace_of_the_plan_is_not_the_machines(launcher: Walled) -> None:
    names = ("mnt", "pid", "net", "ipc", "uts")
    inside = launcher.run("".join(f"readlink /proc/self/ns/{name};" for name in names))
    assert len(inside) == len(names)
    assert not set(inside) & {os.readlink(f"/proc/self/ns/{name}") for name in names}


def test_only_loopback_is_there_and_it_is_up(launcher: Walled) -> None:
    assert launcher.run("grep -c : /proc/net/dev") == ["1"]
    assert "127.0.0.1" in " ".join(launcher.run("cat /proc/net/fib_trie"))


def test_a_listener_is_made_in_the_network_of_the_plan_and_handed_out_before_all_else() -> None:
    if not os.access(PYTHON, os.X_OK):
        pytest.skip(f"commands need {PYTHON}")
    with walled(plan(listener=True)) as launcher:
        kind, descriptors, _, _ = socket.recv_fds(launcher.channel, 64, 4)
        assert kind == messages.LISTENER and len(descriptors) == 1
        assert not os.get_blocking(descriptors[0])
        with socket.socket(fileno=descriptors[0]) as listener:
            assert listener.getsockname() == ("127.0.0.1", 3128)
            inode = os.fstat(listener.fileno()).st_ino
            script = (
                "import socket; there = socket.create_connection(('127.0.0.1', 3128));"
                "there.sendall(b'asked'); print(there.recv(9).decode())"
            )
            with launcher.begin(f'{PYTHON} -I -S -c "{script}"') as output:
                assert select.select([listener], [], [], WAIT_SECONDS)[0]
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(WAIT_SECONDS)
                    assert connection.recv(9) == b"asked"
                    connection.sendall(b"answered")
                assert output.read() == b"answered\n"
            launcher.answer()
            pids = [launcher.process.pid, *children_of(launcher.process.pid)]
            folders = [Path(f"/proc/{pid}/fd") for pid in pids]
            held = {os.readlink(link) for folder in folders for link in folder.iterdir()}
            assert len(pids) == 2 and f"socket:[{inode}]" not in held
        assert launcher.run("echo there") == ["there"]


def test_what_listens_on_the_machine_is_not_what_listens_in_the_plans_network() -> None:
    """Each network has that port to itself: two launchers at once."""
    with walled(plan(listener=True)) as one, walled(plan(listener=True)) as other:
        for launcher in (one, other):
            kind, descriptors, _, _ = socket.recv_fds(launcher.channel, 64, 4)
            assert kind == messages.LISTENER
            os.close(descriptors[0])
            assert launcher.run("echo there") == ["there"]


def test_a_covered_folder_is_empty_and_writable_and_the_machines_stays_as_it_is(
    launcher: Walled, tmp_path: Path
) -> None:
    name = f"custody-test-{os.getpid()}"
    lines = launcher.run(f"ls /tmp | wc -l; echo x > /tmp/{name}; cat /tmp/{name}; rm /tmp/{name}")
    assert lines == ["0", "x"]
    assert not Path("/tmp", name).exists() and tmp_path.exists()


def test_nothing_is_written_outside_of_what_the_rules_allow(launcher: Walled) -> None:
    """Each is opened at its end, and nothing would be written."""
    for place in ("/etc/passwd", "/usr/lib/os-release", "/proc/sys/kernel/core_pattern"):
        assert launcher.run(f"true >> {place} || echo refused")[-1] == "refused"


def test_what_no_rule_names_is_not_there_to_read_or_to_write_whoever_may(launcher: Walled) -> None:
    assert launcher.run("ls / || echo refused")[-1] == "refused"
    name = f"/var/tmp/custody-test-{os.getpid()}"
    assert launcher.run(f"echo x > {name} || echo refused")[-1] == "refused"
    assert not Path(name).exists()


def test_sys_and_proc_sys_are_mounted_read_only(launcher: Walled) -> None:
    options = {
        fields[4]: fields[5].split(",") for fields in map(str.split, launcher.run("cat /proc/self/mountinfo"))
    }
    assert "ro" in options["/sys"] and "ro" in options["/proc/sys"]
    assert {"nosuid", "nodev", "noexec"} <= set(options["/proc"])
    assert {"nosuid", "nodev"} <= set(options["/tmp"])


def test_no_descriptor_of_the_launchers_reaches_a_command(launcher: Walled) -> None:
    assert launcher.run("ls /proc/self/fd") == ["0", "1", "2", "3"]  # the last is the folder ls reads


def test_the_launchers_memory_and_descriptors_are_closed_to_a_command(launcher: Walled) -> None:
    for name in ("mem", "environ"):
        assert launcher.run(f"head -c 1 /proc/1/{name} 2>/dev/null | wc -c") == ["0"]
    # Root that stays root may count the descriptors, but neither follow nor open one.
    follow = "readlink /proc/1/fd/$n /proc/1/cwd /proc/1/root; : 2>/dev/null < /proc/1/fd/$n && echo opened"
    assert launcher.run(f"for n in 0 1 2 3 4 5 6; do ({follow}) 2>/dev/null; done") == []


def test_the_pid_of_a_command_is_unknown_as_its_number_says_nothing_outside(launcher: Walled) -> None:
    with launcher.begin("true") as output:
        output.read()
    reply = launcher.answer()
    assert (reply.kind, reply.status, reply.pid) == (messages.ENDED, 0, -1)
    assert reply.start_ticks > 0


def test_a_command_with_limits_of_its_own_has_them_within_the_walls(launcher: Walled) -> None:
    assert launcher.run("ulimit -n", limits=[(resource.RLIMIT_NOFILE, 19)]) == ["19"]


def test_the_machines_terminals_are_not_there_and_new_ones_can_be_made(launcher: Walled) -> None:
    terminal = os.openpty()
    assert launcher.run("ls /dev/pts") == ["ptmx"]
    for descriptor in terminal:
        os.close(descriptor)
    if os.access(PYTHON, os.X_OK):
        script = "import os; here, there = os.openpty(); print(os.ttyname(there))"
        assert launcher.run(f"{PYTHON} -I -S -c '{script}'") == ["/dev/pts/0"]


def test_no_signal_of_a_command_ends_the_launcher(launcher: Walled) -> None:
    launcher.run("".join(f"kill -{int(number)} 1;" for number in signal.valid_signals()))
    assert launcher.run("echo there") == ["there"]


# -- folders that are kept --------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One that lies in a private place, as pytest's own do."""
    (tmp_path / "mine").write_text("old")
    (tmp_path / "mine").chmod(0o666)
    tmp_path.chmod(0o755)  # the user of a command may enter it
    return tmp_path.resolve()


def test_a_kept_folder_lies_where_it_was_and_the_rest_of_its_place_does_not(folder: Path) -> None:
    wanted = plan(keep=[(str(folder), str(folder), "ro")], cover=[("/tmp", "mode=1777")])
    if not str(folder).startswith("/tmp/"):
        pytest.skip("the folder of the tests lies elsewhere")
    with walled(wanted) as launcher:
        lines = launcher.run(f"ls {folder}; ls {folder.parent} | wc -l; echo x 2>&1 >> {folder}/mine")
    assert lines[:2] == ["mine", "1"] and "Read-only" in lines[2]


@as_root
def test_what_is_written_through_an_idmapped_folder_belongs_to_its_owner(tmp_path: Path) -> None:
    for owner in (0, 70_005):
        work = tmp_path / str(owner)
        work.mkdir(mode=0o700)
        os.chown(work, owner, owner)
        where = f"/tmp/kept/{owner}"
        wanted = plan(keep=[(str(work), where, "idmap")])
        with walled(wanted) as launcher:
            lines = launcher.run("echo new > made; stat -c %u . made; stat -c %u:%a ..", cwd=where)
        assert lines == [str(UID), str(UID), f"{UID}:755"]
        made = (work / "made").stat()
        assert (made.st_uid, made.st_gid) == (owner, owner)


def test_a_single_file_can_be_kept(folder: Path) -> None:
    with walled(plan(keep=[(str(folder / "mine"), "/tmp/a/b", "ro")])) as launcher:
        assert launcher.run("cat /tmp/a/b") == ["old"]


def test_a_folder_inside_a_kept_one_is_still_covered(folder: Path) -> None:
    (folder / "private").mkdir()
    (folder / "private" / "secret").write_text("secret")
    keep = [(str(folder), "/tmp/kept", "rw")]
    with walled(
        plan(keep=keep, cover=[("/tmp/kept/private", "mode=755"), ("/tmp", "mode=1777")])
    ) as launcher:
        assert launcher.run("ls /tmp/kept/private | wc -l; ls /tmp/kept/mine", cwd="/") == [
            "0",
            "/tmp/kept/mine",
        ]


# -- a wall that cannot be put up -------------------------------------------------------------------------


def refused(**changes: Any) -> str:
    """The wall it names."""
    one = Walled(plan(**changes))
    try:
        one.channel.close()  # which ends it if it is there after all
        said, code = one.refusal()
    finally:
        one.close()
    assert code == 71
    wall, _, why = said.partition(": ")
    assert said.count("\n") == 1 and int(why.split()[0]) > 0
    return wall


@pytest.mark.parametrize(
    ("wall", "changes"),
    [
        ("plan", {"version": 1}),
        ("plan", {"proc": False}),
        ("plan", {"namespaces": kernel.CLONE_NEWNS}),
        ("plan", {"uid": 65534}),
        ("plan", {"listener": True, "loopback": False}),
        ("plan", {"overlay": [("/", "/tmp/held/upper", "/tmp/held/work")]}),
        ("plan", {"cover": [("/tmp/../etc", "mode=755")]}),
        ("seccomp", {"seccomp": b""}),
        ("landlock", {"landlock": {"fs": 1 << 60, "net": 0, "scoped": 0, "rules": [], "ports": []}}),
        ("cover", {"cover": [("/tmp", "nonsense=1")]}),
        ("limits", {"limits": [(9999, 1)]}),
    ],
)
def test_a_plan_is_carried_out_whole_or_the_wall_that_fails_is_named(wall: str, changes: Any) -> None:
    assert refused(**changes) == wall


def test_a_kept_folder_that_became_a_link_is_refused(folder: Path) -> None:
    (folder / "link").symlink_to("/etc")
    assert refused(keep=[(f"{folder}/link", "/tmp/kept", "rw")]) == "keep"


def test_nothing_is_made_on_the_machine_for_a_mount(folder: Path) -> None:
    assert refused(keep=[("/usr", f"{folder}/there", "ro")], cover=[]) == "keep"
    assert not (folder / "there").exists()


# -- its end ----------------------------------------------------------------------------------------------


def inside_of(launcher: Walled) -> list[int]:
    """The pids, as the machine has them, of pid 1 and what runs below it."""
    (first,) = eventually(lambda: list(children_of(launcher.process.pid)))
    return [first, *eventually(lambda: list(children_of(first)))]


def test_killing_the_process_outside_ends_everything_inside() -> None:
    with walled() as launcher, launcher.begin("setsid sleep 300 & sleep 300") as output:
        pids = inside_of(launcher)
        launcher.process.kill()
        eventually(lambda: not any(map(is_alive, pids)))
        assert output.read() == b""  # nobody holds its other end any more


def test_closing_the_socket_ends_everything_inside() -> None:
    with walled() as launcher, launcher.begin("setsid sleep 300 & sleep 300"):
        pids = inside_of(launcher)
        launcher.channel.close()
        assert launcher.process.wait(WAIT_SECONDS) == 0
        assert not any(map(is_alive, pids))


@pytest.mark.long
def test_a_tree_that_ignores_every_signal_ends_at_its_deadline() -> None:
    with walled() as launcher:
        script = "trap '' TERM INT HUP; for n in 1 2 3; do (setsid sleep 300 &); done; sleep 300; sleep 300"
        began = time.monotonic()
        launcher.run(script, deadline_seconds=0.2)
        assert time.monotonic() - began < WAIT_SECONDS / 2


def test_a_limit_of_the_plan_holds_for_every_command() -> None:
    with walled(plan(limits=[(resource.RLIMIT_NOFILE, 17)])) as launcher:
        assert launcher.run("ulimit -n; ulimit -Hn") == ["17", "17"]


PARENT = """
import os, subprocess, sys
launcher = subprocess.Popen(
    [sys.executable, "-I", "-S", sys.argv[1], sys.argv[2], str(os.getpid()), "1", "", sys.argv[3]],
    stdin=subprocess.DEVNULL, pass_fds=tuple(map(int, sys.argv[2:4])), start_new_session=True)
for descriptor in map(int, sys.argv[2:4]): os.close(descriptor)
print(launcher.pid, flush=True)
launcher.wait()
"""


@pytest.mark.long
def test_when_the_parent_is_gone_everything_ends_though_another_holds_the_socket() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        memory = os.memfd_create("plan")
        os.write(memory, marshal.dumps(plan()))
        numbers = (theirs.fileno(), memory)
        with subprocess.Popen(
            [sys.executable, "-c", PARENT, PROGRAM, *map(str, numbers)],
            stdout=subprocess.PIPE, pass_fds=numbers,
        ) as parent:  # fmt: skip
            theirs.close()
            os.close(memory)
            assert parent.stdout is not None
            outside = int(parent.stdout.readline())
            (first,) = eventually(lambda: list(children_of(outside)))
            parent.kill()
        eventually(lambda: not is_alive(outside) and not is_alive(first))
