"""What the tests of the wire share. The client and the ways to connect it are in `tests.rpc.clients`."""

import os
from pathlib import Path

import pytest
from tests.rpc.clients import SOCKETS
from tests.settings_for_tests import never_short_of_resources


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that is in no git working tree, with nobody's settings."""
    monkeypatch.setenv("XDG_CONFIG_HOME", os.fspath(tmp_path / "config"))
    never_short_of_resources(tmp_path / "config")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture(params=["memory", *(pytest.param(name, marks=pytest.mark.long) for name in SOCKETS)])
def transport(request: pytest.FixtureRequest) -> str:
    """Everything works over each of them; a socket takes a fifth of a second to open and close."""
    return request.param
