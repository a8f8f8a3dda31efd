"""`custody commit`, `discard` and `undo` of held changes are killed before many of their steps on the disk.

The next to open the store finds the old tree or the new one, the record says which, and what was meant can
still be done, or it is said why not. It is one store throughout: each death follows on the traces of those
before it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from tests.cli.conftest import Program, Ran
from tests.tools.holding import Rearrange
from tests.tools.trees import succeeded, temporary_files, tree

import custody as package

Act = Literal["commit", "discard", "undo"]

DYING = """
import os, signal, sys

CHANGE = {
    "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.chown",
    "os.utime", "os.setxattr", "os.removexattr", "os.truncate",
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
left = int(sys.argv.pop(1))

def step():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def event(name, arguments):
    if name in CHANGE or name == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES:
        step()

def counted(function):
    def count(*arguments, **named):
        step()
        return function(*arguments, **named)
    return count

for name in ("write", "writev", "pwrite", "pwritev", "fsync", "fdatasync"):
    setattr(os, name, counted(getattr(os, name)))
sys.addaudithook(event)
sys.argv[0] = "custody"
from custody.cli import main
main()
"""
"""The program, killed before its n-th step that may change what is on the disk, in whichever thread."""

STEPS_MAX = 2_000
"""Far more than any of the three has."""

LANE = 9
"""Every third step in all: each costs three or four commands. Within the process every step is tried where
held changes are."""

OLD_NS = 1_000_000_000_000_000_000


def rearrange(root: Path) -> None:
    """Each thing a command can do to a tree."""
    (root / "new").write_text("x\n")
    (root / "written").write_text("another\n")
    (root / "moded").chmod(0o755)
    os.rename(root / "from", root / "to")
    (root / "d" / "deep" / "file").unlink()
    (root / "d" / "deep").rmdir()
    (root / "d").rmdir()
    (root / "link").unlink()
    (root / "link").symlink_to("written")
    (root / "folder").mkdir()
    (root / "folder" / "in").write_text("in\n")


class Killed:
    """A store and a tree; a command is killed, and somebody comes and looks."""

    def __init__(self, custody: Program) -> None:
        self.custody = custody
        self.work = custody.work
        (self.work / "d" / "deep").mkdir(parents=True)
        for name in ("written", "moded", "from", "d/deep/file"):
            (self.work / name).write_text(f"{name}\n")
        (self.work / "link").symlink_to("from")
        for path in (*self.work.rglob("*"), self.work):
            os.utime(path, ns=(OLD_NS, OLD_NS), follow_symlinks=False)
        self.old = tree(self.work)

    def hold(self) -> str:
        """A call that leaves the same changes held, each time."""
        tools = [Rearrange({"all": rearrange})]
        with package.open(self.custody.store, tools=tools, cwd=os.fspath(self.work)) as runtime:
            call = runtime.call("rearrange", {"act": "all"})
            succeeded(call)
        return call.id

    def dies(self, step: int, *arguments: str) -> bool:
        """Whether it was killed; else it came to its end."""
        done = subprocess.run(
            [sys.executable, "-c", DYING, str(step), *arguments],
            cwd=self.work,
            env=self.custody.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode != 0

    def opens(self) -> None:
        """The next command there is, which changes nothing."""
        assert self.custody("call", "file_list").code == 0

    def shown(self, call: str) -> Any:
        return self.custody("show", call, "--json").json

    def is_as_after(self) -> bool:
        """Whether the changes are in place; all or none, whatever times the new files have."""
        now = tree(self.work)
        if now == self.old:
            return False
        names = {os.fsdecode(name): entry for name, entry in now.items()}
        assert names.keys() == {".", "folder", "folder/in", "link", "moded", "new", "to", "written"}, names
        assert names["written"]["content"] == b"another\n" and names["to"]["content"] == b"from\n"
        assert (names["moded"]["mode"], names["link"]["target"]) == ("0o100755", b"written")
        return True

    def is_clean(self) -> None:
        assert temporary_files(self.work) == []
        assert self.custody("verify").code == 0


def said(ran: Ran, *words: str) -> None:
    assert ran.code == 1 and any(word in ran.err for word in words), ran


@pytest.fixture
def killed(custody: Program) -> Killed:
    return Killed(custody)


@pytest.fixture
def custody(tmp_path: Path) -> Iterator[Program]:
    program = Program(tmp_path)
    yield program
    program.close()


def commit_dies(killed: Killed, step: int) -> bool:
    call = killed.hold()
    died = killed.dies(step, "commit", call)
    killed.opens()
    is_new, shown = killed.is_as_after(), killed.shown(call)
    assert shown["held"] == ("committed" if is_new else "held"), (step, shown["held"], is_new)
    assert (shown["settled_by"] is not None) == is_new
    again = killed.custody("commit", call)
    if is_new:
        said(again, "committed already")
    else:
        assert again.code == 0, (step, again.err)
    assert killed.is_as_after()
    assert killed.custody("undo", call).code == 0
    assert tree(killed.work) == killed.old, step
    return died


def discard_dies(killed: Killed, step: int) -> bool:
    call = killed.hold()
    died = killed.dies(step, "discard", call)
    killed.opens()
    assert tree(killed.work) == killed.old
    shown, again = killed.shown(call), killed.custody("commit", call)
    if shown["held"] == "held":
        assert again.code == 0, (step, again.err)
        assert killed.custody("undo", call).code == 0
    else:
        assert (shown["held"], shown["settled_by"] is not None) == ("discarded", True), step
        said(again, "discarded already")
        said(killed.custody("undo", call), "discarded")
    assert tree(killed.work) == killed.old, step
    return died


def undo_dies(killed: Killed, step: int) -> bool:
    call = killed.hold()
    assert killed.custody("commit", call).code == 0
    died = killed.dies(step, "undo", call)
    killed.opens()
    again = killed.is_as_after()
    ran = killed.custody("undo", call)
    if again:
        assert ran.code == 0, (step, ran.err)
    assert tree(killed.work) == killed.old, (step, ran)
    assert killed.shown(call)["held"] == "committed"
    return died


DIES = {"commit": commit_dies, "discard": discard_dies, "undo": undo_dies}


def deaths(killed: Killed, act: Act, first: int, every: int) -> int:
    for count, step in enumerate(range(first, STEPS_MAX, every)):
        if not DIES[act](killed, step):
            killed.is_clean()
            return count
    raise AssertionError("it never came to its end")


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", [1, 4, 7])
@pytest.mark.parametrize("act", DIES)
def test_whichever_step_it_is_killed_before_the_tree_is_the_old_or_the_new_and_the_record_says_which(
    killed, act, first
):
    assert deaths(killed, act, first, LANE) >= 3
