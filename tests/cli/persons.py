"""The program as somebody types it who is root, or an ordinary user, in folders of their own.

An ordinary user that root drops to needs an interpreter they can execute: the system's, of the version the
packages here are built for.
"""

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Program
from tests.sandbox.places import ORDINARY_UID, SYSTEM_PYTHON, machine_of

import custody

PACKAGES = os.pathsep.join(path for path in (str(Path(custody.__path__[0]).parent), *sys.path) if path)

DROPS = (
    "import os, sys\n"
    "uid = int(sys.argv[1])\n"
    "os.setgroups([])\n"
    "os.setresgid(uid, uid, uid)\n"
    "os.setresuid(uid, uid, uid)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


class Person(Program):
    """What a user has: a home, a working directory, a store, and the program."""

    def __init__(self, folder: Path, uid: int) -> None:
        ours = uid == os.getuid()
        super().__init__(folder, from_nothing=not ours)
        self.uid = uid
        self._python = [sys.executable]
        if not ours:
            self._python = [SYSTEM_PYTHON, "-I", "-S", "-c", DROPS, str(uid), SYSTEM_PYTHON]
            self.environment |= {"PYTHONPATH": PACKAGES, "PYTHONDONTWRITEBYTECODE": "1"}
            self.give()

    def command(self, *arguments: str) -> list[str]:
        return [*self._python, "-m", "custody", *arguments]

    def give(self) -> None:
        """All that is here becomes the user's, as if they had made it; the times stay."""
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, self.uid, self.uid, follow_symlinks=False)

    def runs(self, *argv: str) -> None:
        """Another program, in the working directory."""
        self.give()
        ours = self.uid == os.getuid()
        whose = {} if ours else {"user": self.uid, "group": self.uid, "extra_groups": ()}
        subprocess.run(argv, cwd=self.work, env=self.environment, check=True, **whose)

    def needs_walls(self) -> None:
        """Skip where a command of this user cannot be walled in."""
        missing = "; ".join(finding.why for finding in machine_of(self.uid).missing)
        if missing:
            pytest.skip(f"`confined` is not offered here: {missing}")


@functools.cache
def why_nobody_else() -> str | None:
    """Why no ordinary user can run the program here; None where one can."""
    if not os.access(SYSTEM_PYTHON, os.X_OK):
        return "no interpreter that an ordinary user can execute"
    done = subprocess.run(
        [SYSTEM_PYTHON, "-c", "import custody.cli.program"],
        env={"PATH": "/usr/bin:/bin", "HOME": "/", "PYTHONPATH": PACKAGES, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        user=ORDINARY_UID,
        group=ORDINARY_UID,
        extra_groups=(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return None if done.returncode == 0 else f"an ordinary user cannot run it: {done.stderr.strip()[-200:]}"


def person(who: str) -> Iterator[Person]:
    """`root`, or `ordinary user`. Not below tmp_path, into which only its owner can go."""
    is_root = os.getuid() == 0
    if who == "root" and not is_root:
        pytest.skip("not started as root")
    if who != "root" and is_root and (why := why_nobody_else()) is not None:
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="custody-person-") as folder:
        os.chmod(folder, 0o755)
        made = Person(Path(folder), ORDINARY_UID if who != "root" and is_root else os.getuid())
        made.needs_walls()
        yield made
        made.close()
