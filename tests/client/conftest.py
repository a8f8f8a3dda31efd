"""What the tests of the client share."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from tests.calls import faces
from tests.calls.conftest import tools_for_tests
from tests.calls.faces import FACES
from tests.client.daemon import WAIT_SECONDS, Daemon, WireStage
from tests.settings_for_tests import never_short_of_resources

from custody.client import outbox, run, told

__all__ = ["tools_for_tests"]

OF_THE_DAEMON = ("peer.connected", "peer.disconnected", "server.started", "tool.registered", "run.resumed")
"""Events a daemon adds of its own; scenarios of local stores know nothing of them."""


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """A working directory that is in no git working tree, with nobody's settings."""
    monkeypatch.setenv("XDG_CONFIG_HOME", os.fspath(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", os.fspath(tmp_path / "data"))
    for name in ("CUSTODY_TOKEN", "CAR_AUTH_TOKEN", "CUSTODY_STORE"):
        monkeypatch.delenv(name, raising=False)
    never_short_of_resources(tmp_path / "config")
    for module, name in ((told, "BEGIN_SECONDS"), (run, "FINISH_SECONDS"), (outbox, "LOOK_SECONDS")):
        monkeypatch.setattr(module, name, WAIT_SECONDS)  # the machine may be busy
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon() as daemon:
        yield daemon


@pytest.fixture
def runtime(daemon: Daemon) -> Iterator[Any]:
    """The blocking face of a client."""
    with daemon.open() as runtime:
        yield runtime


@pytest.fixture(params=FACES)
def stage(request, monkeypatch) -> Iterator[WireStage]:
    """Scenarios of local stores, played over a wire."""
    monkeypatch.setattr(faces, "MACHINERY", (*faces.MACHINERY, *OF_THE_DAEMON))
    stage = WireStage(request.param)
    yield stage
    stage.heal()
