"""Nothing of a command's tree is left, however it ends, and nobody waits for longer than was asked."""

import asyncio
import contextlib
import os
import signal
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.sandbox.commands import (
    command,
    deadlines,
    eventually,
    eventually_async,
    is_alive,
    launcher_pids,
    pids_in,
    run_one,
    run_with,
    shell,
)

from custody.errors import LauncherLost
from custody.sandbox import (
    Command,
    Control,
    Finished,
    Launchers,
    end_survivors,
    find_survivors,
    start_ticks,
    ticks_now,
)
from custody.sandbox.launcher.tree import children_of, stat_of

DAEMON = """
import os, sys, time
def write(name):
    with open(os.path.join(sys.argv[1], name + ".new"), "w") as file: file.write(str(os.getpid()))
    os.rename(os.path.join(sys.argv[1], name + ".new"), os.path.join(sys.argv[1], name))
reading, writing = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        if "ignoring" in sys.argv:
            import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)
        write("daemon")
        os.write(writing, b"x")
        if "closing" in sys.argv:
            for descriptor in (0, 1, 2): os.close(descriptor)
        time.sleep(300)
    os._exit(0)
os.wait()
os.read(reading, 1)
write("main")
print("ready", flush=True)
if "staying" in sys.argv: time.sleep(300)
"""


@pytest.fixture
def pids(tmp_path: Path) -> Iterator[Path]:
    """A folder for pids that commands write; whatever still runs when the test is over is ended."""
    folder = tmp_path / "pids"
    folder.mkdir()
    yield folder
    for pid in pids_in(folder):
        with contextlib.suppress(OSError):  # it has just ended
            if is_alive(pid) and str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


def daemon(folder: Path, *how: str, **options: Any) -> Command:
    return command(sys.executable, "-c", DAEMON, str(folder), *how, **options)


def test_past_its_deadline_the_whole_tree_is_ended(pids: Path, cgroups: bool) -> None:
    for seconds in deadlines(0.5):
        before = time.monotonic()
        wanted = daemon(pids, "staying", deadline_seconds=seconds, grace_seconds=300.0)
        finished = run_with(lambda pool, wanted=wanted: pool.run(wanted), cgroups=cgroups)
        if len(pids_in(pids)) == 2:
            break
    assert time.monotonic() - before < seconds + 30  # and nobody waited for the grace
    assert (finished.exit_code, finished.signal, finished.limit_hit) == (None, signal.SIGTERM, "deadline")
    assert finished.tree_killed == 2
    assert not any(map(is_alive, pids_in(pids)))


def test_what_ignores_sigterm_is_killed_after_the_grace(pids: Path, cgroups: bool) -> None:
    text = f"trap '' TERM; sleep 300 & echo $! > {pids}/sleep; echo $$ > {pids}/main"
    text += "; while :; do sleep 300; done"
    for seconds in deadlines(0.3):
        wanted = shell(text, deadline_seconds=seconds, grace_seconds=0.3)
        finished = run_with(lambda pool, wanted=wanted: pool.run(wanted), cgroups=cgroups)
        if len(pids_in(pids)) == 2:
            break
    assert (finished.signal, finished.limit_hit) == (signal.SIGKILL, "deadline")
    assert finished.usage.wall_us is not None
    assert seconds + 0.3 <= finished.usage.wall_us / 1e6 < seconds + 30
    assert not any(map(is_alive, pids_in(pids)))


def cancelled_once_ready(text: str, *, grace_seconds: float = 60.0, cgroups: bool = True) -> Finished:
    """Run a script that says `ready`, and cancel it then."""

    async def body(pool: Launchers) -> Finished:
        control = Control()

        def on_output(name: str, data: bytes) -> None:
            if b"ready" in data:
                control.cancel()

        wanted = shell(text, grace_seconds=grace_seconds)
        return await pool.run(wanted, on_output=on_output, control=control)

    return run_with(body, cgroups=cgroups)


def test_a_command_may_end_well_within_its_grace() -> None:
    finished = cancelled_once_ready("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done")
    assert (finished.exit_code, finished.limit_hit) == (3, "cancelled")
    assert finished.stdout.data == b"ready\nbye\n"


def test_every_process_of_the_tree_may_end_well() -> None:
    leaf = "sh -c \"trap 'echo leaf; exit' TERM; echo ready; while :; do sleep 0.01; done\""
    root = "while :; do sleep 0.01; done"  # a `wait` could return before the root's own signal has come
    finished = cancelled_once_ready(f"trap 'wait; echo root; exit' TERM; (trap : TERM; {leaf}; :) & {root}")
    assert finished.stdout.data == b"ready\nleaf\nroot\n"


@pytest.mark.parametrize("how", [(), ("closing",), ("ignoring",), ("ignoring", "closing")])
def test_a_daemon_left_at_a_normal_end_is_ended_too(pids: Path, how: tuple[str, ...], cgroups: bool) -> None:
    wanted = daemon(pids, *how, grace_seconds=0.3)
    finished = run_with(lambda pool: pool.run(wanted), cgroups=cgroups)
    assert (finished.exit_code, finished.limit_hit) == (0, None)
    assert finished.stdout.data == b"ready\n"
    assert finished.tree_killed == 1
    assert not any(map(is_alive, pids_in(pids)))


def test_what_is_about_to_end_by_itself_is_let_to() -> None:
    for _ in range(20):  # on a busy machine it may take longer than is waited for it
        finished = run_one(shell("(sleep 0.05; echo late) & exit 0"))
        if not finished.tree_killed:
            break
    assert (finished.stdout.data, finished.tree_killed) == (b"late\n", 0)


def test_many_processes_are_all_ended(pids: Path, cgroups: bool) -> None:
    text = f"for n in $(seq 50); do setsid sleep 300 & echo $! > {pids}/$n; done; echo ready; sleep 300"
    finished = cancelled_once_ready(text, grace_seconds=0.2, cgroups=cgroups)
    assert len(pids_in(pids)) == 50
    assert finished.tree_killed >= 51
    assert not any(map(is_alive, pids_in(pids)))


def test_a_tree_that_forks_while_it_is_ended_does_not_get_away(pids: Path, cgroups: bool) -> None:
    program = f"""
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for number in range(2000):  # each a successor of the one before: whoever kills is one too late
            if os.fork():
                os._exit(0)
            os.setsid()
            with open("{pids}/last", "w") as file:
                file.write(str(os.getpid()))
            time.sleep(0.0005)
        time.sleep(300)
    """
    wanted = command(sys.executable, "-c", textwrap.dedent(program), grace_seconds=0.1)
    finished = run_with(lambda pool: pool.run(wanted), cgroups=cgroups)
    assert finished.exit_code == 0
    assert not any(map(is_alive, pids_in(pids)))


def test_orphans_are_reaped_while_the_command_runs() -> None:
    text = """
        for n in 1 2 3 4 5; do (sleep 0.01 &) ; done
        until test "$(cat /proc/$PPID/task/$PPID/children)" = "$$ "; do sleep 0.01; done
        echo $PPID
    """

    async def body(pool: Launchers) -> None:
        finished = await pool.run(shell(text))
        launcher = int(finished.stdout.data.split()[-1])
        assert list(children_of(launcher)) == []
        assert finished.usage.descendants is not None and finished.usage.descendants >= 5

    run_with(body)


def test_setting_the_event_ends_the_tree(pids: Path) -> None:
    async def body(pool: Launchers) -> None:
        control = Control()
        running = asyncio.create_task(pool.run(daemon(pids, "staying"), control=control))
        await eventually_async(lambda: len(pids_in(pids)) == 2)
        control.cancel()
        finished = await running
        assert (finished.signal, finished.limit_hit) == (signal.SIGTERM, "cancelled")
        assert not any(map(is_alive, pids_in(pids)))

    run_with(body)


def test_cancelling_the_task_ends_the_tree_before_it_goes_on(pids: Path) -> None:
    async def body(pool: Launchers) -> None:
        running = asyncio.create_task(pool.run(daemon(pids, "staying", "ignoring", grace_seconds=0.2)))
        await eventually_async(lambda: len(pids_in(pids)) == 2)
        running.cancel()
        await asyncio.sleep(0)
        running.cancel()  # impatience does not help
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not any(map(is_alive, pids_in(pids)))
        assert (await pool.run(command("true"))).exit_code == 0

    run_with(body)


def test_closing_ends_what_runs_as_if_cancelled(pids: Path) -> None:
    async def body(pool: Launchers) -> None:
        running = asyncio.create_task(pool.run(daemon(pids, "staying")))
        await eventually_async(lambda: len(pids_in(pids)) == 2)
        await pool.close()
        assert (await running).limit_hit == "cancelled"
        assert not any(map(is_alive, pids_in(pids)))

    run_with(body)


def test_signals_reach_the_commands_process_group() -> None:
    async def body(pool: Launchers) -> None:
        control = Control()

        def on_output(name: str, data: bytes) -> None:
            if data == b"ready\n":
                control.send_signal(signal.SIGHUP)

        text = "trap 'echo hangup; exit 4' HUP; echo ready; while :; do sleep 0.01; done"
        finished = await pool.run(shell(text), on_output=on_output, control=control)
        assert (finished.exit_code, finished.stdout.data, finished.limit_hit) == (4, b"ready\nhangup\n", None)
        control.send_signal(signal.SIGHUP)  # too late, and of no effect

    run_with(body)


# -- when one of us is killed -----------------------------------------------------------------------------

HOST = """
import asyncio, os, sys
from custody.sandbox import Command, Control, Launchers
async def main():
    pool = Launchers(cgroups=sys.argv[3] == "True")
    argv = (sys.executable, "-c", sys.argv[2], sys.argv[1], "staying", "ignoring")
    await pool.run(Command(argv=argv, cwd="/", environment=dict(os.environ), token=sys.argv[4],
                           deadline_seconds=None))
asyncio.run(main())
"""


def start_host(pids: Path, cgroups: bool, token: str) -> int:
    pid = os.posix_spawn(
        sys.executable, [sys.executable, "-c", HOST, str(pids), DAEMON, str(cgroups), token], dict(os.environ)
    )
    eventually(lambda: (pids / "main").exists() and (pids / "daemon").exists())
    return pid


def test_the_tree_goes_when_the_host_is_killed(pids: Path, cgroups: bool, token: str) -> None:
    host = start_host(pids, cgroups, token)
    (launcher,) = children_of(host)
    os.kill(host, signal.SIGKILL)
    os.waitpid(host, 0)
    eventually(lambda: not any(map(is_alive, [*pids_in(pids), launcher])))
    assert find_survivors(token) == []


def test_a_launcher_that_is_killed_is_a_loss_that_is_told(pids: Path, cgroups: bool, token: str) -> None:
    async def body(pool: Launchers) -> None:
        strangers = set(launcher_pids())
        running = asyncio.create_task(pool.run(daemon(pids, "staying", "ignoring", token=token)))
        await eventually_async(lambda: len(pids_in(pids)) == 2)
        (launcher,) = set(launcher_pids()) - strangers
        os.kill(launcher, signal.SIGKILL)
        with pytest.raises(LauncherLost) as loss:
            await running
        await eventually_async(lambda: not any(map(is_alive, pids_in(pids))))
        assert loss.value.details["left"] == []
        assert {found["pid"] for found in loss.value.details["ended"]} == set(pids_in(pids))
        assert (await pool.run(command("true"))).exit_code == 0

    run_with(body, cgroups=cgroups)


def test_an_idle_launcher_that_is_killed_costs_nothing() -> None:
    async def body(pool: Launchers) -> None:
        strangers = set(launcher_pids())
        await pool.run(command("true"))
        (launcher,) = set(launcher_pids()) - strangers
        os.kill(launcher, signal.SIGKILL)
        await eventually_async(lambda: start_ticks(launcher) is None)  # it was reaped as well
        assert (await pool.run(command("true"))).exit_code == 0

    run_with(body)


def kill_both(host: int) -> None:
    """Stopped first, so that neither can act on the other's end."""
    (launcher,) = children_of(host)
    os.kill(launcher, signal.SIGSTOP)
    eventually(lambda: (found := stat_of(launcher)) is not None and found.state == b"T")
    os.kill(host, signal.SIGKILL)
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(host, 0)
    eventually(lambda: not is_alive(launcher))


def test_after_a_crash_of_both_the_survivors_are_found_and_ended(pids: Path, token: str) -> None:
    began = ticks_now()
    kill_both(start_host(pids, False, token))
    alive = sorted(pids_in(pids))
    assert all(map(is_alive, alive))
    found = find_survivors(token, began)
    assert [survivor.pid for survivor in found] == alive
    assert all(survivor.proven and survivor.start_ticks == start_ticks(survivor.pid) for survivor in found)
    assert find_survivors(token, ticks_now() + 1) == []
    assert find_survivors(token[:-1]) == []
    ended, left = end_survivors(token, began)
    assert sorted(survivor.pid for survivor in ended) == alive
    assert left == []
    assert not any(map(is_alive, alive))


def test_a_survivor_without_its_environment_is_known_by_session_or_parent(pids: Path, token: str) -> None:
    text = f"""
        env -i sh -c 'echo $$ > {pids}/same-session; exec sleep 300' &
        setsid env -i sh -c 'echo $$ > {pids}/other-session; exec sleep 300' &
        sleep 300 & echo $$ > {pids}/main; wait
    """

    async def body(pool: Launchers) -> None:
        control = Control()
        running = asyncio.create_task(pool.run(shell(text, token=token), control=control))
        await eventually_async(lambda: len(pids_in(pids)) == 3)
        found = await asyncio.to_thread(find_survivors, token)
        assert {survivor.pid for survivor in found} > set(pids_in(pids))
        assert all(survivor.proven for survivor in found)
        control.cancel()
        await running

    run_with(body)


def sessions_below_launchers() -> list[int]:
    """The pids of commands that lead their session already."""
    pids = [pid for launcher in launcher_pids() for pid in children_of(launcher)]
    return [pid for pid in pids if (found := stat_of(pid)) is not None and found.session_id == pid]


def test_what_is_not_proven_is_reported_only(token: str) -> None:
    async def body(pool: Launchers) -> None:
        control = Control()
        running = asyncio.create_task(pool.run(command("sleep", "300"), control=control))
        (pid,) = await eventually_async(sessions_below_launchers)
        (survivor,) = find_survivors(token, session_id=pid)
        assert (survivor.pid, survivor.proven) == (pid, False)
        ended, left = end_survivors(token)
        assert (ended, left) == ([], [])
        assert is_alive(pid)
        control.send_signal(signal.SIGINT)
        assert (await running).signal == signal.SIGINT

    run_with(body)


# -- the host application ----------------------------------------------------------------------------------


def test_nothing_of_the_host_application_is_touched() -> None:
    program = """
        import asyncio, os, signal, sys, threading, ctypes
        from custody.sandbox import Command, Control, Launchers
        handlers = {number: signal.getsignal(number) for number in signal.Signals}
        child = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 9"], {})
        async def main():
            pool = Launchers()
            finished = await pool.run(Command(argv=("sh", "-c", "echo $PPID; sleep 300 & exit 5"), cwd="/",
                                              environment={"PATH": os.environ["PATH"]}))
            await pool.close()
            return finished
        finished = []
        thread = threading.Thread(target=lambda: finished.append(asyncio.run(main())))
        thread.start(); thread.join()
        assert finished[0].exit_code == 5 and finished[0].tree_killed == 1
        assert int(finished[0].stdout.data) != os.getpid()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        assert handlers == {number: signal.getsignal(number) for number in signal.Signals}
        flag = ctypes.c_int(7)
        assert ctypes.CDLL(None).prctl(37, ctypes.byref(flag), 0, 0, 0) == 0 and flag.value == 0
        try: os.waitpid(-1, os.WNOHANG)
        except ChildProcessError: sys.exit(0)
        sys.exit("a child is left")
    """
    finished = run_one(command(sys.executable, "-W", "error", "-c", textwrap.dedent(program)))
    assert (finished.stderr.data, finished.exit_code) == (b"", 0)


def test_a_forked_child_starts_launchers_of_its_own() -> None:
    program = """
        import asyncio, os, sys
        from custody.sandbox import Command, Control, Launchers
        def wanted(text):
            return Command(argv=("sh", "-c", text), cwd="/", environment={"PATH": os.environ["PATH"]})
        pool = Launchers()
        pool.prepare()
        pid = os.fork()
        async def main():
            finished = await pool.run(wanted("cut -d' ' -f4 /proc/$PPID/stat"))
            assert int(finished.stdout.data) == os.getpid()
            if pid: assert os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, pid, 0))[1]) == 0
            assert (await pool.run(wanted("exit 6"))).exit_code == 6
            await pool.close()
        asyncio.run(main())
        if not pid: os._exit(0)
    """
    finished = run_one(command(sys.executable, "-W", "error", "-c", textwrap.dedent(program)))
    assert (finished.stderr.data, finished.exit_code) == (b"", 0)


def test_idle_launchers_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("custody.sandbox.process.IDLE_SECONDS", 0.05)

    async def body(pool: Launchers) -> None:
        strangers = set(launcher_pids())
        await asyncio.gather(*(pool.run(command("true")) for _ in range(10)))
        await eventually_async(lambda: len(set(launcher_pids()) - strangers) == 4)

    run_with(body)


def test_cgroups_do_not_pile_up() -> None:
    from custody.sandbox.cgroup import parent_folder

    parent = parent_folder()
    if parent is None or not os.access(parent, os.W_OK):
        pytest.skip("no cgroup can be made here")
    own = f"custody-{os.getpid()}-"

    def left() -> list[str]:
        return [name for name in os.listdir(parent) if name.startswith(own)]

    async def body(pool: Launchers) -> None:
        before = len(left())
        text = "trap '' TERM; while :; do sleep 300; done"
        await pool.run(shell(text, deadline_seconds=0.1, grace_seconds=0.1))
        await pool.run(command("true"))
        assert len(left()) > before

    before = left()
    run_with(body)
    assert left() == before
