"""`custody exec` is as the command it runs."""

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from tests.cli.conftest import RUN_SECONDS_MAX, eventually


@pytest.fixture
def marker() -> str:
    """So long nobody else's `sleep` sleeps."""
    return f"300.{uuid.uuid4().int:039}"


def processes_with(marker: str) -> list[int]:
    """Pids of live processes with this word in their command line, ourselves aside."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[:1] == [b"sleep"] and marker.encode() in words:
                found.append(int(entry.name))
    return found


def test_says_nothing_of_its_own_on_success(custody):
    ran = custody("exec", "--", "sh", "-c", "echo out; echo err >&2")
    assert (ran.code, ran.out, ran.err) == (0, "out\n", "err\n")


def test_needs_no_dashes_before_the_command_and_leaves_the_commands_options_alone(custody):
    assert custody("exec", "echo", "--json", "--timeout").out == "--json --timeout\n"


@pytest.mark.parametrize("code", [0, 1, 7, 124, 255])
def test_exits_with_the_commands_own_exit_code(custody, code):
    ran = custody("exec", "--", "sh", "-c", f"exit {code}")
    assert (ran.code, ran.out, ran.err) == (code, "", "")


@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV"])
def test_a_command_ended_by_a_signal_gives_128_and_its_number(custody, name):
    ran = custody("exec", "--", "sh", "-c", f"kill -{name} $$")
    assert (ran.code, ran.err) == (128 + signal.Signals[f"SIG{name}"], "")


def test_a_missing_command_is_127_and_one_that_cannot_be_executed_126(custody):
    ran = custody("exec", "--", "no-such-command-anywhere")
    assert ran.code == 127
    assert ran.err.startswith("custody: no-such-command-anywhere: ")
    plain = custody.work / "plain.txt"
    plain.write_text("words")
    ran = custody("exec", "--", str(plain))
    assert ran.code == 126
    assert ran.err.startswith("custody: ")


def test_hands_standard_input_through(custody):
    assert custody("exec", "--", "cat", stdin="a\nb\n").out == "a\nb\n"


def test_output_is_seen_while_the_command_runs(custody):
    process = custody.start(
        "exec",
        "--",
        "sh",
        "-c",
        "echo first; read line; echo got $line",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"first\n"
    out, _ = process.communicate(b"word\n", timeout=30)
    assert (process.returncode, out) == (0, b"got word\n")


def test_bytes_go_through_as_they_are(custody):
    script = "import os; os.write(1, bytes(range(256)) * 4096)"
    done = subprocess.run(
        custody.command("exec", "--", sys.executable, "-c", script),
        capture_output=True, cwd=custody.work, env=custody.environment, timeout=60,
    )  # fmt: skip
    assert done.stdout == bytes(range(256)) * 4096


def test_a_command_that_overruns_is_124_and_its_whole_tree_is_gone(custody, marker):
    began = time.monotonic()
    ran = custody("exec", "--timeout", "1", "--", "sh", "-c", f"setsid sleep {marker} & sleep {marker}")
    assert time.monotonic() - began < RUN_SECONDS_MAX  # the command would take 300
    assert ran.code == 124
    # The shell may have spoken of its ended child before.
    assert re.search(r"custody: sh: timed out after \d+\.\d+ s \(limit 1 s\)", ran.err)
    assert not processes_with(marker)


def test_with_json_a_command_that_overruns_is_4_and_one_document(custody, marker):
    began = time.monotonic()
    ran = custody(
        "exec", "--timeout", "1", "--json", "--", "sh", "-c", f"setsid sleep {marker} & sleep {marker}"
    )
    assert time.monotonic() - began < RUN_SECONDS_MAX  # the command would take 300
    assert (ran.code, ran.err) == (4, "")
    call = ran.json
    assert (call["outcome"], call["limit_hit"], call["tool"]) == ("timed_out", "deadline", "exec")
    assert not processes_with(marker)


@pytest.mark.parametrize(
    ("timeout", "seconds", "code"), [("500ms", "300", 124), ("0", "1", 0), ("none", "1", 0), ("2m", "1", 0)]
)
def test_the_deadline_is_spelled_in_several_ways(custody, timeout, seconds, code):
    assert custody("exec", "--timeout", timeout, "--", "sleep", seconds).code == code


def test_a_call_is_one_object_with_units_and_nulls(custody):
    ran = custody(
        "exec", "--json", "--intent", "look", "--agent", "tester", "--", "sh", "-c", "echo hi; exit 3"
    )
    call = ran.json
    assert ran.code == 1
    promised = """
        id run_id session_id position parent_id step_id external_id agent caller tool effect level arguments
        dry_run source decision outcome reason passed result error exit_code signal limit_hit started_at
        latency_us queue_us decide_us record_us usage host_before host_after changes redactions pid
        shard sequence
    """
    assert set(call) >= set(promised.split())
    assert call["arguments"] == {"argv": ["sh", "-c", "echo hi; exit 3"]}
    assert (call["outcome"], call["exit_code"], call["signal"]) == ("failed", 3, None)
    assert call["result"]["stdout"] == "hi\n"
    assert call["decision"]["verdict"] == "allow"
    assert call["usage"]["wall_us"] > 0
    assert call["started_at"].endswith("Z")
    assert (call["agent"], call["position"]) == ("tester", 0)
    run = custody("show", call["run_id"], "--json").json
    assert (run["intent"], run["outcome"], run["calls"]) == ("look", "failed", 1)


def test_shown_later_it_is_the_same_object(custody):
    call = custody("exec", "--json", "--", "echo", "hi").json
    shown = custody("show", call["id"], "--json").json
    assert set(call) == set(shown)
    volatile = {"host_before", "host_after"}
    differing = {name for name in call if call[name] != shown[name]} - volatile
    assert differing == set()


def test_a_working_directory_outside_the_roots_is_125_and_names_what_would_allow_it(custody):
    ran = custody("exec", "--cwd", "/", "--", "touch", str(custody.work / "marker"))
    assert (ran.code, ran.out) == (125, "")
    assert ran.err.startswith("custody: touch: refused by path: ")
    assert "--root / " in ran.err
    assert not (custody.work / "marker").exists()
    assert custody("exec", "--cwd", "/", "--root", "/", "--", "pwd").out == "/\n"
    assert custody("exec", "--json", "--cwd", "/", "--", "true").code == 3


def test_a_working_directory_that_is_not_there_is_said_so(custody):
    ran = custody("exec", "--cwd", "nowhere", "--", "true")
    assert ran.code == 125
    assert "nowhere does not exist" in ran.err
    assert custody("exec", "--json", "--cwd", "nowhere", "--", "true").code == 2


def test_a_command_line_that_cannot_be_understood_is_125_or_2_with_json(custody):
    assert custody("exec", "--timeout", "soon", "--", "true").code == 125
    assert custody("exec", "--json", "--timeout", "soon", "--", "true").code == 2
    assert custody("exec").code == 125


def test_a_dry_run_runs_nothing_and_is_recorded(custody):
    marker = custody.work / "marker"
    ran = custody("exec", "--dry-run", "--", "touch", str(marker))
    assert (ran.code, ran.out, ran.err) == (0, "", f"custody: would run: touch {marker}\n")
    assert not marker.exists()
    assert custody("calls", "--dry-run", "--json").json["items"][0]["dry_run"] is True


def test_variables_are_added_by_name_and_secret_ones_withheld(custody):
    script = "import os; print(os.environ.get('DEPLOY_TOKEN'), os.environ.get('COLOUR'))"
    arguments = ("--", sys.executable, "-c", script)
    given = {"DEPLOY_TOKEN": "tok-0123456789", "COLOUR": "blue"}
    assert custody("exec", *arguments, **given).out == "None blue\n"
    assert custody("exec", "--env", "DEPLOY_TOKEN", *arguments, **given).out == "tok-0123456789 blue\n"
    assert custody("exec", "--env", "COLOUR=red", *arguments, **given).out == "None red\n"
    ran = custody("exec", "--env", "MISSING", *arguments)
    assert ran.code == 125
    assert "MISSING is not set here" in ran.err


def test_a_run_of_a_name_is_joined_by_the_next_command(custody):
    first = custody("exec", "--json", "--run", "nightly", "--", "true").json
    second = custody("exec", "--json", "--run", "nightly", "--", "true").json
    assert first["run_id"] == second["run_id"]
    assert [first["position"], second["position"]] == [0, 1]


def test_a_run_is_joined_by_the_beginning_of_its_id(custody):
    run_id = custody("exec", "--json", "--run", "nightly", "--", "true").json["run_id"]
    assert custody("exec", "--json", "--run", run_id[:12], "--", "true").json["run_id"] == run_id
    alone = custody("exec", "--json", "--", "true").json["run_id"]
    ran = custody("exec", "--json", "--run", alone, "--", "true")
    assert ran.code == 2
    assert ran.json["error"]["type"] == "RunNotShared"


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2"])
def test_signals_go_on_to_the_command(custody, name):
    script = (
        "import os, signal\n"
        "woken, wakes = os.pipe()\n"  # also by a signal that comes before anything waits
        "os.set_blocking(wakes, False)\n"
        "signal.set_wakeup_fd(wakes)\n"
        f"signal.signal(signal.SIG{name}, lambda *_: (os.write(1, b'heard\\n'), os._exit(9)))\n"
        "os.write(1, b'ready\\n')\n"
        "while True: os.read(woken, 1)"
    )
    process = custody.start(
        "exec", "--", sys.executable, "-c", script, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.Signals[f"SIG{name}"])
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (9, b"heard\n", b"")


def test_a_reader_that_goes_away_ends_the_command_as_in_a_shell(custody):
    process = custody.start("exec", "--", "yes", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    assert process.wait(30) == 128 + signal.SIGPIPE
    assert err == b""


def test_when_custody_itself_is_killed_the_command_is_too(custody, marker):
    process = custody.start("exec", "--", "sleep", marker)
    eventually(lambda: processes_with(marker))
    process.kill()
    process.wait()
    eventually(lambda: not processes_with(marker))


def at_a_terminal(
    custody, *arguments: str, typed: bytes = b"", size: tuple[int, int] = (33, 101)
) -> tuple[int, bytes]:
    """Run the program at a pseudo-terminal; its exit code and everything the terminal showed."""
    import termios

    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, size)
    process = custody.start(*arguments, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    os.write(master, typed)
    shown = b""
    while True:
        try:
            data = os.read(master, 4096)
        except OSError:  # nobody has the terminal open any more
            break
        if not data:
            break
        shown += data
    os.close(master)
    return process.wait(30), shown


def test_at_a_terminal_the_command_is_at_one(custody):
    code, shown = at_a_terminal(
        custody,
        "exec",
        "--",
        sys.executable,
        "-c",
        "import sys, os; print(sys.stdin.isatty(), os.get_terminal_size(1))",
    )
    assert (code, shown) == (0, b"True os.terminal_size(columns=101, lines=33)\r\n")


def test_what_is_typed_reaches_the_command(custody):
    code, shown = at_a_terminal(
        custody, "exec", "--", "sh", "-c", "read word; echo got $word", typed=b"hello\n"
    )
    assert code == 0
    assert shown.endswith(b"got hello\r\n")


def test_interrupting_at_the_terminal_interrupts_the_command(custody):
    script = "trap 'echo heard; exit 9' INT; printf ready; while :; do sleep 0.05; done"
    master, slave = pty.openpty()
    process = custody.start(
        "exec", "--", "sh", "-c", script, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )
    os.close(slave)
    shown = b""
    while not shown.endswith(b"ready"):
        shown += os.read(master, 100)
    os.write(master, b"\x03")
    while b"heard" not in shown:
        shown += os.read(master, 100)
    assert process.wait(30) == 9
    os.close(master)


def test_the_terminal_is_left_as_it_was(custody):
    import termios

    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    process = custody.start(
        "exec", "--", "true", stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )
    assert process.wait(30) == 0
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_in_the_background_of_a_terminal_it_runs_and_leaves_the_terminal_alone(custody):
    """A job that touched the terminal's mode from the background would be stopped by the kernel."""
    command = shlex.join(custody.command("exec", "--", "sh", "-c", "cat; echo done"))
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(custody.work)
        os.execve("/bin/sh", ["sh", "-m", "-c", f"{command} & wait"], custody.environment)
    shown = b""
    try:
        while b"done" not in shown:
            shown += os.read(master, 4096)
    finally:
        os.close(master)
        os.waitpid(pid, 0)
    assert b"custody:" not in shown


def test_when_the_store_cannot_be_written_nothing_runs(custody):
    (custody.folder / "store").write_text("a file")
    marker = custody.work / "marker"
    ran = custody("exec", "--", "touch", str(marker))
    assert ran.code == 125
    assert "is not a folder" in ran.err
    assert not marker.exists()
    ran = custody("exec", "--json", "--", "touch", str(marker))
    assert ran.code == 2
    assert json.loads(ran.out)["error"]["type"] == "StoreUnusable"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_with_closed_descriptors_nothing_of_custodys_is_taken_for_them(custody, closed):
    marker = custody.work / "where"
    script = f"readlink /proc/self/fd/0 > {marker}; echo x; exit 5"
    command = f"{sys.executable} -m custody exec -- sh -c '{script}' {closed}"
    ended = subprocess.run(
        ["sh", "-c", command], env=custody.environment, cwd=custody.work, capture_output=True
    )
    assert ended.returncode == 5
    assert b"Traceback" not in ended.stderr
    if "<" in closed:
        assert marker.read_text().strip() == "/dev/null"


def test_output_that_cannot_be_written_is_said_and_is_no_success(custody):
    command = f"{sys.executable} -m custody exec -- echo x > /dev/full"
    ended = subprocess.run(
        ["sh", "-c", command], env=custody.environment, cwd=custody.work, capture_output=True, text=True
    )
    assert ended.returncode == 125
    assert "No space left on device" in ended.stderr
    listed = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m custody calls > /dev/full"],
        env=custody.environment, cwd=custody.work, capture_output=True, text=True,
    )  # fmt: skip
    assert listed.returncode == 1
    assert "The output cannot be written" in listed.stderr
    assert "bug" not in listed.stderr
