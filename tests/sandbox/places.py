"""Folders of a test, all of one user, and commands run there behind walls as that user.

As root, and as an ordinary user in a forked child that drops to one: with an interpreter such a user can
execute.
"""

import contextlib
import importlib
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.sandbox.commands import command, run_with

from custody.sandbox import Command, Launchers
from custody.sandbox.walls import NAMED
from custody.sandbox.walls.machine import Machine, look_at_machine

ORDINARY_UID = 61_234  # nobody's
SYSTEM_PYTHON = "/usr/bin/python3"
WORKSPACE = NAMED["workspace"]
SENTINEL = "as it was\n"

importlib.import_module("concurrent.futures.thread")  # asyncio does late, when a child may not reach it


@cache
def machine_of(uid: int) -> Machine:
    """What walls a process of that user has here."""
    python = sys.executable if uid == os.getuid() else SYSTEM_PYTHON

    def look() -> Any:
        return msgspec.to_builtins(look_at_machine(tempfile.gettempdir(), python=python))

    found = look() if uid == os.getuid() else as_user(uid, "/", look)
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

    @property
    def home(self) -> str:
        return os.environ["HOME"] if self.uid == os.getuid() else str(self.folder)

    def command(self, *argv: str, **options: Any) -> Command:
        wanted: dict[str, Any] = {
            "cwd": self.workspace,
            "roots": (self.workspace,),
            "run_id": "run",
            "sandbox": WORKSPACE,
            "environment": {"PATH": "/usr/bin:/bin", "HOME": self.home},
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

        return run() if self.uid == os.getuid() else as_user(self.uid, self.home, run)


def as_user(uid: int, home: str, body: Callable[[], Any]) -> Any:
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
