"""A command runs as it would in a shell, and what it did is known exactly."""

import asyncio
import os
import resource
import signal
import sys
import textwrap
from pathlib import Path

import pytest
from tests.sandbox.commands import command, run_one, run_with, shell

from custody.cuts import ACROSS_MAX
from custody.errors import (
    CommandNotExecutable,
    CommandNotFound,
    SandboxError,
    UsageError,
    WorkingDirectoryGone,
)
from custody.sandbox import Launchers
from custody.sandbox.launcher.tree import children_of

INTERNAL_SIGNALS = 3 << 31  # 32 and 33 are the C library's own; its posix_spawn leaves them ignored


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_the_exit_code_is_the_commands(code: int) -> None:
    finished = run_one(shell(f"exit {code}"))
    assert (finished.exit_code, finished.signal, finished.limit_hit) == (code, None, None)


def test_a_signal_that_ends_the_command_is_told_from_an_exit() -> None:
    finished = run_one(shell("kill -KILL $$"))
    assert (finished.exit_code, finished.signal) == (None, signal.SIGKILL)


def test_both_streams_are_kept_apart_and_seen_live() -> None:
    seen: list[tuple[str, bytes]] = []
    wanted = shell("echo out; echo err >&2")
    finished = run_one(wanted, on_output=lambda name, data: seen.append((name, data)))
    assert (finished.stdout.data, finished.stderr.data) == (b"out\n", b"err\n")
    assert sorted(seen) == [("stderr", b"err\n"), ("stdout", b"out\n")]


def test_joined_streams_are_one_in_the_order_they_were_written() -> None:
    finished = run_one(shell("echo 1; echo 2 >&2; echo 3; echo 4 >&2", joined=True))
    assert (finished.stdout.data, finished.stderr.data) == (b"1\n2\n3\n4\n", b"")


def test_output_comes_while_the_command_runs(tmp_path: Path) -> None:
    go = tmp_path / "go"

    def on_output(name: str, data: bytes) -> None:
        go.touch()

    text = f"echo first; until test -e {go}; do sleep 0.01; done; echo second"
    finished = run_one(shell(text), on_output=on_output)
    assert finished.stdout.data == b"first\nsecond\n"


def test_standard_input_is_bytes_or_a_descriptor_or_nothing() -> None:
    text = bytes(range(256)) * 8192  # more than any pipe holds
    assert run_one(command("cat", stdin=text, keep_head_bytes=len(text))).stdout.data == text
    assert run_one(command("cat")).stdout.data == b""
    reading, writing = os.pipe()
    os.write(writing, b"through a pipe")
    os.close(writing)
    assert run_one(command("cat", stdin_fd=reading)).stdout.data == b"through a pipe"
    os.close(reading)


def test_input_nobody_reads_blocks_nobody() -> None:
    assert run_one(command("true", stdin=b"x" * 10_000_000)).exit_code == 0


def test_a_flood_is_counted_exactly_and_kept_in_bounds() -> None:
    total = 200_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    finished = run_one(shell(f"head -c {total} /dev/zero | tr '\\0' x"))
    grown_bytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert finished.stdout.total_bytes == total
    assert finished.stdout.data == b"x" * (512 * 1024 - 2 * ACROSS_MAX)  # what may stand across a cut goes
    dropped_bytes = total - len(finished.stdout.data)
    assert finished.stdout.dropped_bytes == dropped_bytes == finished.usage.stdout_dropped_bytes
    assert grown_bytes < 50_000_000


def test_long_arguments_and_environments_arrive_whole() -> None:
    arguments = [str(number) * 1000 for number in range(100)]
    environment = {"PATH": os.environ["PATH"], "LONG": "é" * 50_000}
    program = "import os, sys; print(len(sys.argv), sum(map(len, sys.argv)), len(os.environ['LONG']))"
    wanted = command(sys.executable, "-c", program, *arguments, environment=environment)
    length = len("-c") + sum(map(len, arguments))
    assert run_one(wanted).stdout.data == f"101 {length} 50000\n".encode()


def test_bytes_that_are_not_text_pass_through_arguments() -> None:
    assert run_one(command("printf", "%s", os.fsdecode(b"\xff\xfe"))).stdout.data == b"\xff\xfe"


def test_the_environment_is_the_one_given_and_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "a-secret")
    program = "import os; print(sorted(os.environ.items()))"
    finished = run_one(command(sys.executable, "-c", program, environment={"LC_ALL": "C.UTF-8"}, token="tok"))
    assert finished.stdout.data == b"[('CUSTODY_CALL', 'tok'), ('LC_ALL', 'C.UTF-8')]\n"


def test_the_launcher_itself_holds_nothing_of_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "a-secret")
    finished = run_one(shell("cat /proc/$PPID/environ; ls /proc/$PPID/fd | wc -l; ls /proc/self/fd"))
    environment, rest = finished.stdout.data.split(b"\0", 1)
    assert environment == b"LC_ALL=C.UTF-8"
    count, *own = rest.split()
    assert int(count) <= 9  # three standard ones, the socket, the parent, the wakeup pipe
    assert own == [b"0", b"1", b"2", b"3"]  # 3 is what `ls` opened


def test_the_command_has_a_session_of_its_own_and_no_signal_ignored_or_blocked() -> None:
    text = "cut -d' ' -f1,6 /proc/$$/stat; exec grep -E 'SigBlk|SigIgn' /proc/self/status"
    for limits in ({}, {"nofile": 100}):  # the way over vfork, and the one over fork
        pid, session, _, blocked, _, ignored = run_one(shell(text, limits=limits)).stdout.data.split()
        assert pid == session
        assert int(blocked, 16) == 0
        assert int(ignored, 16) & ~INTERNAL_SIGNALS == 0


def test_the_working_directory_is_the_commands_alone(tmp_path: Path) -> None:
    async def body(pool: Launchers) -> bytes:
        first = await pool.run(command("pwd", cwd=str(tmp_path)))
        os.rmdir(tmp_path)
        with pytest.raises(WorkingDirectoryGone) as gone:
            await pool.run(command("pwd", cwd=str(tmp_path)))
        assert gone.value.details["cwd"] == str(tmp_path)
        return first.stdout.data

    assert run_with(body) == f"{tmp_path}\n".encode()


def test_a_command_that_does_not_exist_is_said_to(tmp_path: Path) -> None:
    for name in ("no-such-command-anywhere", str(tmp_path / "missing"), ""):
        with pytest.raises(CommandNotFound) as error:
            run_one(command(name))
        assert error.value.details["command"] == name
        assert error.value.shell_exit_code == 127


def test_a_command_that_cannot_be_executed_is_said_to(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program\n")
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\x01\x02\x03")
    garbage.chmod(0o755)
    orphan = tmp_path / "orphan"
    orphan.write_text("#!/no/such/interpreter\n")
    orphan.chmod(0o755)
    for path in (plain, garbage, orphan, tmp_path):
        for limits in ({}, {"nofile": 100}):  # the way over vfork, and the one over fork
            with pytest.raises(CommandNotExecutable) as error:
                run_one(command(str(path), limits=limits))
            assert error.value.details["command"] == str(path)
            assert error.value.shell_exit_code == 126
    with pytest.raises(CommandNotExecutable):
        run_one(command("plain", environment={"PATH": str(tmp_path)}))


def test_the_path_searched_is_the_commands(tmp_path: Path) -> None:
    tool = tmp_path / "own-tool"
    tool.write_text("#!/bin/sh\necho found\n")
    tool.chmod(0o755)
    finished = run_one(command("own-tool", environment={"PATH": f"/nowhere:{tmp_path}"}))
    assert finished.stdout.data == b"found\n"


def test_what_no_process_can_be_given_is_the_callers_error() -> None:
    no_name = command("true", environment={"A=B": "c"})
    no_limit = command("true", limits={"moon": 1})
    for wanted in (command("a\0b"), no_name, no_limit, command()):
        with pytest.raises(UsageError):
            run_one(wanted)
    with pytest.raises(SandboxError, match="too long"):
        run_one(command("true", "x" * 4_000_000))


def test_limits_bind_the_command_and_not_the_launcher() -> None:
    async def body(pool: Launchers) -> list[bytes]:
        limited = await pool.run(shell("ulimit -n; ulimit -Hn", limits={"nofile": 77}))
        free = await pool.run(shell("ulimit -n"))
        return [limited.stdout.data, free.stdout.data]

    limited, free = run_with(body)
    assert limited == b"77\n77\n"
    assert int(free) > 77


def test_no_new_privileges_when_asked_only() -> None:
    text = "grep NoNewPrivs /proc/self/status"

    async def body(pool: Launchers) -> list[bytes]:
        both = [await pool.run(shell(text, no_new_privs=asked)) for asked in (True, False)]
        return [finished.stdout.data.split()[1] for finished in both]

    assert run_with(body) == [b"1", b"0"]


def test_usage_is_measured_and_what_is_unknown_is_none(tmp_path: Path) -> None:
    program = """
        import os
        waste = b"x" * 80_000_000
        sum(range(3_000_000))
        with open("file", "wb") as file:
            file.write(os.urandom(5_000_000))
            os.fsync(file.fileno())
    """
    used = run_one(command(sys.executable, "-c", textwrap.dedent(program), cwd=str(tmp_path))).usage
    assert used.memory_peak_bytes is not None and 80_000_000 < used.memory_peak_bytes < 300_000_000
    assert used.user_us is not None and used.wall_us is not None and 10_000 < used.user_us <= used.wall_us * 2
    assert used.write_bytes is not None and used.write_bytes >= 5_000_000
    assert used.context_switches_voluntary is not None
    nothing = run_one(command("true")).usage
    assert nothing.memory_peak_bytes is None  # no more than the launcher has itself
    assert nothing.descendants is None
    assert (nothing.stdout_bytes, nothing.stderr_bytes) == (0, 0)


def test_the_child_is_named_by_pid_and_start() -> None:
    finished = run_one(shell("cut -d' ' -f1,22 /proc/$$/stat"))
    assert finished.stdout.data == f"{finished.child_pid} {finished.child_start_ticks}\n".encode()
    assert finished.started_monotonic_ns < finished.ended_monotonic_ns


def test_sixty_four_at_once() -> None:
    async def body(pool: Launchers) -> set[bytes]:
        all_finished = await asyncio.gather(*(pool.run(shell(f"echo {number}")) for number in range(64)))
        return {finished.stdout.data for finished in all_finished}

    assert run_with(body) == {f"{number}\n".encode() for number in range(64)}


def test_two_hundred_runs_leave_no_descriptor_and_no_process(tmp_path: Path) -> None:
    async def body(pool: Launchers) -> None:
        async def all_kinds() -> None:
            await pool.run(command("true", stdin=b"text"))
            with pytest.raises(CommandNotFound):
                await pool.run(command("no-such-command-anywhere"))

        await all_kinds()
        launcher = set(children_of(os.getpid())).difference(strangers).pop()
        before = sorted(os.listdir("/proc/self/fd")), sorted(os.listdir(f"/proc/{launcher}/fd"))
        for _ in range(100):
            await all_kinds()
        assert (sorted(os.listdir("/proc/self/fd")), sorted(os.listdir(f"/proc/{launcher}/fd"))) == before
        assert list(children_of(launcher)) == []

    strangers = set(children_of(os.getpid()))
    descriptors = sorted(os.listdir("/proc/self/fd"))
    run_with(body)
    assert sorted(os.listdir("/proc/self/fd")) == descriptors
    assert set(children_of(os.getpid())) <= strangers


def test_an_error_of_the_listener_ends_the_command_and_is_raised() -> None:
    def broken(name: str, data: bytes) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_one(shell("echo; exec sleep 300"), on_output=broken)
