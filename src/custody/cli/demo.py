"""`custody demo`: a scripted agent at work, and every promise it shows checked as it is made.

Owns the story and its checks; the chapters about files are `demo_files`', the one about a policy
`demo_policy`'s, those about skills and plans `demo_plans`', those about the daemon `demo_daemon`'s, those
about the record as evidence `demo_evidence`'s. Goes through the public Python face and the commands only, in
a temporary folder with a store of its own. Each claim is printed once it was found true; one that fails makes
the exit code 1.
"""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from custody.cli.demo_commands import eventually
from custody.cli.demo_daemon import agent_elsewhere
from custody.cli.demo_evidence import answer_customer, audit, github_like_token
from custody.cli.demo_files import reach_out, take_back
from custody.cli.demo_plans import SKILLS, follow_skill, work_on_plan
from custody.cli.demo_policy import ask_first
from custody.cli.demo_story import Story
from custody.cli.demo_walls import behind_walls
from custody.cli.invocation import message
from custody.cli.options import json_option, look
from custody.cli.render import duration, paint

if TYPE_CHECKING:
    from custody.blocking import BlockingRun, BlockingRuntime

SECRET_NAME = "PAYMENTS_API_TOKEN"
DEADLINE_SECONDS = 2.0

PACKAGE = {
    "thermometer/__init__.py": '''"""Temperatures."""


def celsius(fahrenheit):
    """Fahrenheit to Celsius."""
    return (fahrenheit - 32) * 9 / 5
''',
    "tests/__init__.py": "",
    "tests/test_thermometer.py": """import unittest

from thermometer import celsius


class Celsius(unittest.TestCase):
    def test_water_freezes(self):
        self.assertEqual(celsius(32), 0)

    def test_water_boils(self):
        self.assertEqual(celsius(212), 100)
""",
}
WRONG, RIGHT = "* 9 / 5", "* 5 / 9"
COMMIT_MESSAGE = "Convert the right way round"
GIT_IDENTITY = """
[user]
name = agent
email = agent@example.invalid
[commit]
gpgsign = false
"""
PYTHON = os.path.basename(sys.executable)
TESTS = [PYTHON, "-B", "-m", "unittest", "-q"]

SETTINGS = """
[breaker]
memory_percent_max = 100
cpu_pressure_percent_max = 100
disk_free_percent_min = 0
disk_free_bytes_min = 0
zombies_max = 1_000_000
[calls]
level = "process"
"""
"""The demo's own, so that neither this user's rules nor a busy machine change the story. Its commands run
without walls, as what becomes of them is told by process numbers, but where walls are the story."""

DAEMON = """
(setsid sh -c 'echo $$ >> "$0"; exec sleep 600' "$1" &)
echo $$ >> "$1"
sleep 600
"""
"""Double-forks a child into a session of its own, then overruns. `$1` is the file for the pids."""

WORKER = """
import sys, custody
store, folder, pids = sys.argv[1:]
with custody.open(store, cwd=folder) as runtime, runtime.run("nightly import", agent="worker") as run:
    script = 'echo $$ > "$0.new"; mv "$0.new" "$0"; sleep 600'
    run.call("exec", {"argv": ["sh", "-c", script, pids]}, timeout=600)
"""
"""A worker with a runtime of its own, in the middle of a call when it is killed."""


@click.command("demo", epilog="Example:  custody demo")
@click.option("--store", metavar="FOLDER", help="Keep the demo's records in this store [default: a new one].")
@json_option
def demo_command(store: str | None, as_json: bool) -> int:
    """Watch a scripted agent being guarded and recorded."""
    folder = Path(tempfile.mkdtemp(prefix="custody-demo-"))
    store = os.path.abspath(store) if store is not None else str(folder / "store")
    story = Story(quiet=as_json)
    began = time.monotonic()
    run_id, undone_id = tell(story, folder, store)
    elapsed = time.monotonic() - began
    if as_json:
        from custody.cli.document import print_document

        print_document({"held": story.held, "claims": story.claims, "store": store, "run_id": run_id})
    else:
        _end(store, run_id, undone_id, elapsed)
    if not story.held:
        message("a claim did not hold.")
    return 0 if story.held else 1


def tell(story: Story, folder: Path, store: str) -> tuple[str, str]:
    """The whole story; returns the ids of the agent's run and of the one that was taken back."""
    import custody

    workspace = folder / "workspace"
    for name, text in PACKAGE.items():
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_text(text)
    story.say(f"A workspace, a store and settings of their own in {folder}")
    secret = f"tok_{secrets.token_hex(20)}"
    os.environ[SECRET_NAME] = secret
    os.environ["CUSTODY_CONFIG"] = str(folder / "custody.toml")
    os.environ["CUSTODY_SKILLS"] = str(workspace / SKILLS)
    os.environ["PATH"] = f"{os.path.dirname(sys.executable)}:{os.environ.get('PATH', os.defpath)}"
    (folder / "custody.toml").write_text(SETTINGS)
    (folder / "gitconfig").write_text(GIT_IDENTITY)
    (folder / "leave_daemon.sh").write_text(DAEMON)
    with custody.open(store, cwd=str(workspace), roots=[str(workspace)]) as runtime:
        with runtime.run("Make the failing tests pass", agent="demo-agent", session="demo") as run:
            repair(story, run, workspace)
            reach_out(story, run, workspace, folder / "custody.toml", store)
            behind_walls(story, run, workspace, folder / "custody.toml")
            overrun(story, run, folder)
            token = keep_secrets(story, runtime, run, workspace, secret)
        undone_id = take_back(story, runtime, workspace)
    worker_killed(story, folder, store)
    secrets_nowhere(story, Path(store), secret, token)
    with custody.open(store, cwd=str(workspace)) as runtime:
        personal_id = answer_customer(story, runtime)
    ask_first(story, folder / "garden", Path(store))
    with custody.open(store, cwd=str(workspace)) as runtime:
        follow_skill(story, runtime, workspace, Path(store))
    work_on_plan(story, workspace, Path(store))
    agent_elsewhere(story, workspace, Path(store))
    audit(story, folder, Path(store), personal_id, run.id)
    return run.id, undone_id


def repair(story: Story, run: "BlockingRun", workspace: Path) -> None:
    """Red, fix, green, commit."""
    story.chapter("1. An agent repairs a package")
    identity = {"GIT_CONFIG_GLOBAL": str(workspace.parent / "gitconfig")}

    def git(*arguments: str) -> Any:
        return run.call("exec", {"argv": ["git", *arguments], "env": identity})

    git("init", "--quiet")
    red = run.call("exec", {"argv": TESTS})
    story.claim(
        f"unittest ran for real and failed: exit code {red.exit_code}, recorded as {red.outcome}",
        red.outcome == "failed" and red.exit_code == 1 and "FAILED" in written(red, "stderr"),
        red.result,
    )
    fixed = run.call(
        "file_edit", {"path": "thermometer/__init__.py", "edits": [{"old": WRONG, "new": RIGHT}]}
    )
    green = run.call("exec", {"argv": TESTS})
    story.claim(
        f"fixed with file_edit; the same tests now pass: {green.outcome} in {duration(green.latency_us)}",
        fixed.changes_count == 1 and green.outcome == "succeeded" and "OK" in written(green, "stderr"),
        fixed.error or green.result,
    )
    git("add", "--all")
    git("commit", "--quiet", "-m", COMMIT_MESSAGE)
    log = git("log", "--format=%s")
    story.claim("git has the commit", written(log) == f"{COMMIT_MESSAGE}\n", log.result)


def overrun(story: Story, run: "BlockingRun", folder: Path) -> None:
    story.chapter("3. A command that leaves a daemon behind and overruns its deadline")
    pids = folder / "daemon.pids"
    late = run.call("exec", {"argv": ["sh", "../leave_daemon.sh", str(pids)]}, timeout=DEADLINE_SECONDS)
    story.claim(str(late.reason), late.outcome == "timed_out", late.outcome)
    started = read_pids(pids)
    gone = eventually(lambda: not any(alive(pid) for pid in started))
    story.claim(
        f"the shell and its daemon in a session of its own (pids {', '.join(map(str, started))}) are gone",
        len(started) == 2 and gone,
        [pid for pid in started if alive(pid)],
    )


def keep_secrets(
    story: Story, runtime: "BlockingRuntime", run: "BlockingRun", workspace: Path, secret: str
) -> str:
    """A secret that is told to Custody, and one that nobody told it of, which is returned."""
    story.chapter("4. Secrets")
    seen = run.call("shell", {"command": f'echo "${{{SECRET_NAME}:-absent}}"'})
    story.claim(
        f"{SECRET_NAME} is set here and absent in the child",
        written(seen) == "absent\n",
        seen.result,
    )
    echoed = run.call("exec", {"argv": ["echo", f"the token is {secret}"]})
    story.claim("handed over in an argument it works as usual", secret in written(echoed), echoed.outcome)
    kept = run.call("file_write", {"path": "service.ini", "content": f"token = {secret}\n"})
    was_there = secret in (workspace / "service.ini").read_text()
    gone = run.call("file_delete", {"path": "service.ini"})
    story.claim(
        "a file with it is written and deleted; what could bring it back is kept",
        was_there and kept.outcome == gone.outcome == "succeeded" and gone.changes_count == 1,
        kept.error or gone.error,
    )
    token = github_like_token()
    found = run.call(
        "exec", {"argv": ["git", "remote", "add", "mirror", f"https://{token}@example.invalid/x"]}
    )
    argument = runtime.index.call(found.id).arguments["argv"][-1]
    story.claim(
        f"a token nobody told of is known by its form; the record has {argument}",
        token not in argument and "[redacted:" in argument,
        found.outcome,
    )
    return token


def worker_killed(story: Story, folder: Path, store: str) -> None:
    """SIGKILL a worker in mid-call, then open its store."""
    import custody

    story.chapter("6. A worker is killed with SIGKILL in the middle of a call")
    pids = folder / "worker.pids"
    command = [sys.executable, "-c", WORKER, store, str(folder / "workspace"), str(pids)]
    worker = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        eventually(pids.exists)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    with custody.open(store) as runtime:
        call = find_call(runtime, str(pids))
        story.claim(
            "its call was on the record before it ran, and the reopened store says: unknown",
            call is not None and call.outcome == "unknown",
            call and call.outcome,
        )
        started = read_pids(pids)
        gone = eventually(lambda: not any(alive(pid) for pid in started))
        story.claim(
            f"what it had started (pid {started[0] if started else '?'}) was ended", bool(started) and gone
        )


def find_call(runtime: "BlockingRuntime", text: str) -> Any:
    """The newest call of a worker whose arguments hold `text`."""
    recent = runtime.index.calls(limit=20).items
    return next((call for call in recent if text in str(call.arguments)), None)


def secrets_nowhere(story: Story, store: Path, *hidden: str) -> None:
    """Search every byte of the store. Nobody has it open in this process: closing a file drops its locks."""
    story.chapter("7. The secrets, looked for on disk")
    files = [file for file in store.rglob("*") if file.is_file()]
    found = [str(file) for file in files for secret in hidden if secret.encode() in file.read_bytes()]
    story.claim(
        f"in the {len(files)} files of the store their bytes do not occur, undo data included",
        bool(files) and not found,
        found,
    )


def written(call: Any, stream: str = "stdout") -> str:
    """What the command wrote; nothing where it did not run."""
    result: dict[str, Any] = call.result or {}
    return str(result.get(stream, ""))


def read_pids(file: Path) -> list[int]:
    try:
        return [int(line) for line in file.read_text().split()]
    except FileNotFoundError:
        return []


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits for its parent does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def _end(store: str, run_id: str, undone_id: str, elapsed_seconds: float) -> None:
    from custody.cli.show import print_run
    from custody.stores import open_view

    print(f"\n{paint('What is on the record', 'bold')}  ({elapsed_seconds:.1f} s)")
    with open_view(look(store)) as view:
        print_run(view, view.index.run(run_id))
    print(f"\n{paint('Try next', 'bold')}")
    for command in (
        f"runs --all --store {store}",
        f"show {run_id[:8]} --store {store}",
        f"changes {undone_id[:8]} --store {store}",
        "exec -- ls -l",
    ):
        print(f"  custody {command}")
