"""Fixtures of the tests of `sandbox`."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from tests.sandbox.overlays import Held, this_machine, unlock
from tests.sandbox.places import ORDINARY_UID, SYSTEM_PYTHON, WHO_ELSE, Place
from tests.sandbox.test_confine import ORDINARY, PROGRAM, PYTHON

BOUNDS = {
    "template.ANSWER_SECONDS": 60.0,
    "spare.READY_SECONDS": 60.0,
    "spare.SPARE_SECONDS": 600.0,
    "process.IDLE_SECONDS": 600.0,
    "survivors.KILL_SECONDS": 60.0,
    "cgroup._REMOVALS_MAX": 3000,
    "egress.link.LINGER_SECONDS": 60.0,
}
"""Of the product, for what hangs or is of no use any more. A test that is about one sets its own."""


@pytest.fixture(autouse=True)
def _time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other test comes up against one because the machine was busy."""
    for name, bound in BOUNDS.items():
        monkeypatch.setattr(f"custody.sandbox.{name}", bound)


@pytest.fixture(params=[True, False], ids=["cgroup", "no cgroup"])
def cgroups(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def token() -> str:
    """Another for each test: tests run at the same time, and see each other's processes."""
    return secrets.token_hex(8)


@pytest.fixture(params=["root", WHO_ELSE])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Not below tmp_path, into which only its owner can go."""
    ordinary = request.param == "ordinary user"
    if not ordinary and os.getuid() != 0:
        pytest.skip("not started as root")
    if ordinary and os.getuid() == 0 and not os.access(SYSTEM_PYTHON, os.X_OK):
        pytest.skip("no interpreter that an ordinary user can execute")
    with tempfile.TemporaryDirectory(prefix="custody-walls-") as folder:
        yield Place(Path(folder), ORDINARY_UID if ordinary and os.getuid() == 0 else os.getuid())


@pytest.fixture(scope="module")
def ordinary() -> Iterator[Path]:
    """The program, in a folder that a user who may not enter ours can read."""
    if os.geteuid() != 0 or not os.access(PYTHON, os.X_OK):
        pytest.skip(f"only root becomes another user, for which there must be {PYTHON}")
    with TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        shutil.copytree(
            PROGRAM.parent, Path(folder, "launcher"), ignore=shutil.ignore_patterns("__pycache__")
        )
        yield Path(folder, "launcher", "program.py")


@pytest.fixture(params=["as we are", "as an ordinary user"])
def held(request: pytest.FixtureRequest) -> Iterator[Held]:
    machine = this_machine()
    if machine.missing or not machine.overlay:
        missing = ", ".join(finding.name for finding in machine.findings if finding.has == "no")
        pytest.skip(f"no overlay can be had behind walls here; missing: {missing}")
    program: Path | None = None
    if request.param == "as an ordinary user":
        program = request.getfixturevalue("ordinary")
    with TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        yield Held(Path(folder, "a"), os.geteuid() if program is None else ORDINARY, program)
        unlock(Path(folder))
