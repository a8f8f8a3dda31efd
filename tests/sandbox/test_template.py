"""Launchers forked of a template are what started ones are: our children, alone with their own descriptors,
and gone when they should be. Where there is no template, a command runs all the same.
"""

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.sandbox.commands import (
    eventually,
    eventually_async,
    is_alive,
    is_asleep,
    launcher_pids,
    launchers,
    run_with,
    shell,
    template_pids,
)
from tests.sandbox.places import ORDINARY_UID, SYSTEM_PYTHON

from custody.sandbox import Launchers
from custody.sandbox.launcher import kernel, messages
from custody.sandbox.launcher.messages import Reply
from custody.sandbox.launcher.tree import children_of, stat_of
from custody.sandbox.template import Forked, Template

WAIT_SECONDS = 60.0


@contextmanager
def ready_template(python: str = sys.executable) -> Generator[Template]:
    template = Template(python)
    try:
        eventually(lambda: template.is_ready)
        yield template
    finally:
        template.close()
        eventually(template.poll)


class Launcher:
    """A forked one, and our ends of what it was given."""

    def __init__(self, template: Template, **options: object) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(WAIT_SECONDS)
        self.errors = os.memfd_create("errors")
        wanted = {"no_new_privs": False, "cgroup": "", **options}
        forked = template.fork(theirs.fileno(), self.errors, None, **wanted)  # pyright: ignore[reportArgumentType]
        theirs.close()
        assert forked is not None
        self.process: Forked = forked

    def run(self, script: str) -> str:
        reading, writing = os.pipe()
        texts = b"\0".join([b"/", b"/bin/sh", b"-c", script.encode(), b"PATH=/usr/bin:/bin"])
        body = messages.pack_request(None, 0.1, [], 3, 1, 0, texts)
        socket.send_fds(self.channel, [messages.RUN + body], [writing, writing])
        os.close(writing)
        with os.fdopen(reading, "rb") as output:
            said = output.read().decode()
        assert Reply.unpack(self.channel.recv(messages.REPLY.size)).kind == messages.ENDED
        return said

    def close(self) -> None:
        self.channel.close()
        os.close(self.errors)
        eventually(lambda: self.process.poll() is not None)


@pytest.fixture(scope="module")
def template() -> Iterator[Template]:
    with ready_template() as one:
        yield one


@pytest.fixture
def launcher(template: Template) -> Iterator[Launcher]:
    one = Launcher(template)
    yield one
    one.close()


def test_a_forked_launcher_is_a_child_of_who_asked_and_leads_a_session(launcher: Launcher) -> None:
    found = stat_of(launcher.process.pid)
    assert found is not None
    assert found.parent_pid == os.getpid()
    assert launcher.run("echo it works") == "it works\n"
    assert os.getsid(launcher.process.pid) == launcher.process.pid


def test_its_exit_is_ours_to_take_up(template: Template) -> None:
    launcher = Launcher(template)
    assert launcher.process.poll() is None
    launcher.channel.close()
    assert eventually(lambda: launcher.process.poll() is not None)
    assert launcher.process.returncode == 0
    os.close(launcher.errors)


def test_it_can_be_killed_and_says_by_what_it_ended(template: Template) -> None:
    launcher = Launcher(template)
    launcher.process.kill()
    eventually(lambda: launcher.process.poll() is not None)
    assert launcher.process.returncode == -signal.SIGKILL
    launcher.process.kill()  # its number may be another's by now
    launcher.close()


def test_it_has_no_descriptor_of_the_templates_nor_of_another_launcher(template: Template) -> None:
    first, second = Launcher(template), Launcher(template)
    for launcher in (first, second):
        assert launcher.run("exit 0") == ""  # by now it has become one
    one, other = _sockets(first.process.pid), _sockets(second.process.pid)
    assert len(one) == len(other) == 1
    eventually(lambda: not (one | other) & _sockets(template.pid))  # which closes them once it has forked
    assert one != other
    first.close()
    second.close()


def test_a_command_has_none_of_its_descriptors_either(launcher: Launcher) -> None:
    said = launcher.run("ls /proc/self/fd")
    assert set(said.split()) <= {"0", "1", "2", "3"}  # the last is the listing's own


def test_the_environment_of_the_host_is_not_in_the_template(
    template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "x")
    with ready_template() as other:
        assert Path(f"/proc/{other.pid}/environ").read_bytes() == b"LC_ALL=C.UTF-8\0"


def test_no_new_privs_is_for_the_launcher_that_asked_alone(template: Template) -> None:
    wanted, other = Launcher(template, no_new_privs=True), Launcher(template)
    assert wanted.run("grep NoNewPrivs /proc/self/status").split() == ["NoNewPrivs:", "1"]
    assert other.run("grep NoNewPrivs /proc/self/status").split() == ["NoNewPrivs:", "0"]
    wanted.close()
    other.close()


def test_a_cgroup_it_may_not_be_in_is_no_reason_to_fail(template: Template) -> None:
    launcher = Launcher(template, cgroup="/nowhere")
    assert launcher.run("echo it works") == "it works\n"
    launcher.close()


def test_launchers_outlive_the_template_and_end_with_their_own_socket() -> None:
    with ready_template() as one:
        launcher = Launcher(one)
    assert launcher.run("echo it works") == "it works\n"
    launcher.close()


def test_a_template_that_is_gone_forks_nothing_and_says_so() -> None:
    with ready_template() as one:
        os.kill(one.pid, signal.SIGKILL)
        eventually(lambda: not is_alive(one.pid))
        assert _asked(one) is None
        assert one.is_lost


def test_a_template_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("custody.sandbox.template.ANSWER_SECONDS", 0.05)
    with ready_template() as one:
        os.kill(one.pid, signal.SIGSTOP)
        assert _asked(one) is None
        assert one.is_lost
        assert eventually(one.poll)  # so it forks nothing later


@pytest.mark.parametrize("seconds", [0.0, 0.0002, 0.0005, 0.001])
def test_whatever_it_did_when_it_was_given_up_no_launcher_is_left(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("custody.sandbox.template.ANSWER_SECONDS", seconds)
    before = set(children_of(os.getpid()))
    one = Template(sys.executable)
    eventually(lambda: one.is_ready)
    forked = _asked(one)
    one.close()
    assert eventually(one.poll)
    if forked is not None:  # it was in time
        eventually(lambda: forked.poll() is not None)
    assert set(children_of(os.getpid())) <= before


def test_one_that_cannot_fork_for_now_is_asked_again() -> None:
    if os.geteuid() == 0 and not os.access(SYSTEM_PYTHON, os.X_OK):
        pytest.skip("no interpreter that an ordinary user can execute")
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:  # who may have any number of processes
                os.setgroups([])
                os.setresgid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
                os.setresuid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
                kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # else what it may do is not its own to read
            with ready_template(SYSTEM_PYTHON) as one:
                usual = resource.prlimit(one.pid, resource.RLIMIT_NPROC)
                resource.prlimit(one.pid, resource.RLIMIT_NPROC, (0, usual[1]))
                refused = _asked(one) is None and not one.is_lost
                resource.prlimit(one.pid, resource.RLIMIT_NPROC, usual)
                forked = _asked(one)
                os._exit(0 if refused and forked is not None else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_template_ends_with_its_host_and_so_does_the_launcher_that_was_being_asked_for() -> None:
    host = subprocess.Popen([sys.executable, "-c", ASKING], stdout=subprocess.PIPE)
    assert host.stdout is not None
    template_pid = int(host.stdout.readline())
    os.kill(template_pid, signal.SIGSTOP)
    host.stdout.readline()  # it will never be answered
    eventually(lambda: is_asleep(host.pid))
    host.kill()
    host.wait()
    host.stdout.close()
    os.kill(template_pid, signal.SIGCONT)
    eventually(lambda: not _forked_for(host.pid))


ASKING = """
import os, socket, sys, time
from custody.sandbox import template
one = template.Template(sys.executable)
while not one.is_ready:
    time.sleep(0.001)
template.ANSWER_SECONDS = 60
here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
print(one.pid, flush=True)
while open(f"/proc/{one.pid}/stat").read().rpartition(")")[2].split()[0] != "T":
    time.sleep(0.001)
print("now", flush=True)
one.fork(there.fileno(), 2, None, no_new_privs=False, cgroup="")
"""

BUSY = """
import asyncio, os, sys
from tests.sandbox.commands import eventually_async, shell
from custody.sandbox import Launchers, template
from custody.sandbox.launcher.tree import children_of

def tree():
    found = list(children_of(os.getpid()))
    return found + [below for pid in found for below in children_of(pid)]

template.ANSWER_SECONDS = 60

async def main():
    pool = Launchers()
    await asyncio.gather(*(pool.run(shell("exit 0")) for _ in range(2)))
    await eventually_async(pool._templates.ready)
    runs = asyncio.gather(*(pool.run(shell("exec sleep 300")) for _ in range(4)))
    # a template, four launchers, four commands
    print(*await eventually_async(lambda: found if len(found := tree()) == 9 else None), flush=True)
    await runs

asyncio.run(main())
"""


def test_when_the_host_is_killed_the_template_and_all_launchers_and_commands_end() -> None:
    host = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE)
    assert host.stdout is not None
    pids = [int(word) for word in host.stdout.readline().split()]
    assert len(pids) == 9
    eventually(lambda: len(_forked_for(host.pid)) == 3)  # a command is its launcher until it is executed
    host.kill()
    host.wait()
    host.stdout.close()
    eventually(lambda: not any(map(is_alive, pids)))


CHANGES: dict[str, Callable[[], object]] = {
    "no new privileges": lambda: kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1),
    "limits": lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    "file mode mask": lambda: os.umask(0o077 ^ os.umask(0)),
    "priority": lambda: os.nice(1),
    "scheduling": lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)),
    "processors": lambda: os.sched_setaffinity(0, [max(os.sched_getaffinity(0))]),
    "killed sooner": lambda: Path("/proc/self/oom_score_adj").write_text("999"),
    "ignored signals": lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
}
CHANGES_OF_ROOT: dict[str, Callable[[], object]] = {
    "user": lambda: os.setresuid(61_234, 61_234, 61_234),
    "groups": lambda: os.setgroups([61_234]),
    "capabilities": kernel.drop_bounding_set,
    "network": lambda: kernel.unshare(kernel.CLONE_NEWNET),
    "mounts": lambda: kernel.unshare(kernel.CLONE_NEWNS),
    "processes": lambda: kernel.unshare(kernel.CLONE_NEWPID),
    "root folder": lambda: os.chroot("/tmp"),  # where no proc shows what it may: then there is none either
}


@pytest.mark.parametrize("change", [*CHANGES, *CHANGES_OF_ROOT])
def test_who_may_do_less_than_before_has_no_launcher_of_the_old_template(change: str) -> None:
    if change in CHANGES_OF_ROOT and os.geteuid() != 0:
        pytest.skip("only root can come to do less in this")
    if change == "processors" and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is only one processor")
    pid = os.fork()
    if pid == 0:
        try:
            with ready_template() as one:
                {**CHANGES, **CHANGES_OF_ROOT}[change]()
                os._exit(0 if _asked(one) is None and one.is_lost else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0


def test_nothing_is_lost_where_nothing_changed(template: Template) -> None:
    for _ in range(3):
        forked = _asked(template)
        assert forked is not None
        assert eventually(lambda forked=forked: forked.poll() is not None)
    assert not template.is_lost


def test_a_host_whose_children_would_be_in_another_pid_namespace_has_no_template() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make such a namespace without others")
    pid = os.fork()
    if pid == 0:
        try:
            kernel.unshare(kernel.CLONE_NEWPID)
            try:
                Template(sys.executable)
            except OSError:
                os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


# -- in the pool --------------------------------------------------------------------------------------


async def with_template(pool: Launchers) -> int:
    """Two launchers, both started anew, and a template that is ready: the next launcher will be forked."""
    strangers = set(template_pids())
    await asyncio.gather(pool.run(shell("exit 0")), pool.run(shell("exit 0")))
    (pid,) = set(template_pids()) - strangers
    await eventually_async(pool._templates.ready)  # pyright: ignore[reportPrivateUsage]
    return pid


async def at_once(pool: Launchers, count: int, text: str = "exit 0") -> list[int | None]:
    """The exit codes."""
    return [done.exit_code for done in await asyncio.gather(*(pool.run(shell(text)) for _ in range(count)))]


@pytest.fixture
def strangers() -> set[int]:
    """Templates of other tests of this process."""
    return set(template_pids())


def test_the_second_of_two_commands_at_once_is_the_first_to_have_a_template_started(
    strangers: set[int],
) -> None:
    async def body(pool: Launchers) -> list[int]:
        seen: list[int] = []
        await pool.run(shell("exit 0"))
        seen.append(len(set(template_pids()) - strangers))
        await at_once(pool, 2)
        seen.append(len(set(template_pids()) - strangers))
        return seen

    assert run_with(body) == [0, 1]


def test_once_it_is_ready_all_further_launchers_are_forked_of_it() -> None:
    async def body(pool: Launchers) -> int:
        await with_template(pool)
        before = set(launcher_pids())
        await at_once(pool, 5)
        new = set(launcher_pids()) - before
        assert len(new) == 3
        return sum(pid in _forked_for(os.getpid()) for pid in new)

    assert run_with(body) == 3


def test_when_the_pool_is_closed_no_template_is_left() -> None:
    async def body(pool: Launchers) -> int:
        pid = await with_template(pool)
        await at_once(pool, 4)
        return pid

    before = set(children_of(os.getpid()))
    assert run_with(body) not in before
    assert set(children_of(os.getpid())) <= before


def test_one_that_is_still_loading_is_not_waited_for_and_ends_with_the_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("custody.sandbox.template.ANSWER_SECONDS", 0.05)

    async def body(pool: Launchers) -> list[int | None]:
        strangers = set(template_pids())
        await at_once(pool, 2)
        (template,) = set(template_pids()) - strangers
        os.kill(template, signal.SIGSTOP)  # it may be ready by now, and then it is given up
        return await at_once(pool, 4, "exit 7")

    before = set(children_of(os.getpid()))
    assert run_with(body) == [7] * 4
    assert set(children_of(os.getpid())) <= before


def test_one_that_hangs_is_missed_by_no_command_and_leaves_no_second_launcher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body(pool: Launchers) -> tuple[list[int | None], int]:
        template = await with_template(pool)
        before = set(launcher_pids())
        os.kill(template, signal.SIGSTOP)
        monkeypatch.setattr("custody.sandbox.template.ANSWER_SECONDS", 0.05)
        codes = await at_once(pool, 3, "exit 7")
        await eventually_async(lambda: not is_alive(template))
        return codes, len(set(launcher_pids()) - before)

    before = set(children_of(os.getpid()))
    assert run_with(body) == ([7, 7, 7], 1)
    assert set(children_of(os.getpid())) <= before


def test_one_that_was_killed_is_missed_by_no_command() -> None:
    async def body(pool: Launchers) -> list[int | None]:
        os.kill(await with_template(pool), signal.SIGKILL)
        return await at_once(pool, 4)

    before = set(children_of(os.getpid()))
    assert run_with(body) == [0] * 4
    assert set(children_of(os.getpid())) <= before


def test_after_three_that_were_lost_there_is_no_other(strangers: set[int]) -> None:
    async def body(pool: Launchers) -> tuple[list[int | None], int]:
        codes: list[int | None] = []
        for count in (
            2,
            4,
            6,
        ):  # one more launcher finds that it was lost, and with one more there is another
            codes += await at_once(pool, count)
            for pid in set(template_pids()) - strangers:
                os.kill(pid, signal.SIGKILL)
                await eventually_async(lambda pid=pid: not is_alive(pid))
        await at_once(pool, 8)
        return codes, len(set(template_pids()) - strangers)

    assert run_with(body) == ([0] * 12, 0)


def test_two_pools_have_templates_that_share_nothing() -> None:
    async def body(pool: Launchers) -> list[str]:
        first = await with_template(pool)
        async with launchers() as other:
            second = await with_template(other)
            await asyncio.gather(at_once(pool, 3), at_once(other, 3))
            everybody = [*launcher_pids(), first, second]

            def shared() -> list[str]:
                held = [name for pid in everybody for name in _sockets(pid)]
                return [name for name in held if held.count(name) > 1]

            await eventually_async(lambda: not shared())  # a template closes them once it has forked
            return shared()

    assert run_with(body) == []


def test_launchers_that_somebody_else_took_up_are_no_loss_to_the_next_command() -> None:
    """As a host does that waits for whatever child there is."""

    async def body(pool: Launchers) -> list[int | None]:
        await with_template(pool)
        before = set(launcher_pids())
        await at_once(pool, 4)
        for pid in set(launcher_pids()) - before:
            _kill_and_take_up(pid)
        return await at_once(pool, 4)

    assert run_with(body) == [0] * 4


def test_a_pool_in_a_forked_host_leaves_the_template_to_the_parent() -> None:
    async def body(pool: Launchers) -> tuple[int, bool]:
        template = await with_template(pool)
        code = _in_child(pool)
        before = set(launcher_pids())
        await at_once(pool, 3)
        (new,) = set(launcher_pids()) - before
        return code, is_alive(template) and new in _forked_for(os.getpid())

    assert run_with(body) == (7, True)


def _kill_and_take_up(pid: int) -> None:
    """Before the pool can, whose loop waits for this."""
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[0] == pid


def _asked(template: Template) -> Forked | None:
    """A launcher that ends at once, as the other end of its socket is closed."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        return template.fork(there.fileno(), 2, None, no_new_privs=False, cgroup="")


def _forked_for(host: int) -> list[int]:
    """Launchers forked of a template of this process, or the template."""
    found: list[int] = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            arguments = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        if b"template" in arguments and str(host).encode() in arguments:
            found.append(int(name))
    return found


def _sockets(pid: int) -> set[str]:
    found: set[str] = set()
    for number in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # it has just been closed
            found.add(os.readlink(f"/proc/{pid}/fd/{number}"))
    return {link for link in found if link.startswith("socket:")}


def _in_child(pool: Launchers) -> int:
    """The exit code of a command there."""
    pid = os.fork()
    if pid == 0:
        try:
            done = asyncio.new_event_loop().run_until_complete(pool.run(shell("exit 7")))
            os._exit(done.exit_code or 0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
