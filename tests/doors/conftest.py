"""What the tests of the door share. A served runtime is in `tests.doors.serving`, the daemon as a process of
its own in `tests.doors.daemons`."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.doors.asked import Stage, staged
from tests.doors.daemons import Daemon, daemon
from tests.settings_for_tests import never_short_of_resources


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that is in no git working tree, with nobody's settings."""
    monkeypatch.setenv("XDG_CONFIG_HOME", os.fspath(tmp_path / "config"))
    never_short_of_resources(tmp_path / "config")
    work = tmp_path / "its-work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A served store in which something was done."""
    with staged(tmp_path_factory.mktemp("served")) as stage:
        yield stage


CLIS = """
[drive_cli.commands]
says = ["/bin/sh", "-c", 'echo it was told "$0"; exit 3', "{prompt}"]
hangs = ["/bin/sh", "-c", "exec sleep 4321", "--", "{prompt}"]

[policy]
default = "allow"
"""
"""Nobody is asked whether such a CLI may be driven."""


@pytest.fixture(scope="session")
def open_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A process that asks for no token: each test has connections and runs of its own."""
    with daemon(tmp_path_factory.mktemp("open"), "--no-auth", settings=CLIS) as made:
        yield made
