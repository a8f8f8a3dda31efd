import importlib
import os
import sys
from collections.abc import Iterator

import pytest
from tests.calls.faces import FACES, Stage
from tests.settings_for_tests import never_short_of_resources

import custody
from custody.blocking import BlockingRuntime


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """A working directory that is in no git working tree, with nobody's settings."""
    monkeypatch.setenv("XDG_CONFIG_HOME", os.fspath(tmp_path / "config"))
    never_short_of_resources(tmp_path / "config")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def policy(work):
    """Writes the project's policy: it stands for everything called in the working directory."""

    def write(text: str, name: str = "rules.toml") -> None:
        path = work / ".custody" / "policy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    return write


@pytest.fixture(params=["memory", "folder"])
def store(request, tmp_path) -> str:
    """Everything works on both."""
    return ":memory:" if request.param == "memory" else os.fspath(tmp_path / "store")


@pytest.fixture
def runtime(store) -> Iterator[BlockingRuntime]:
    with custody.open(store) as runtime:
        yield runtime


@pytest.fixture(params=FACES)
def stage(request) -> Iterator[Stage]:
    """A store in memory that can be made to fail, for scenarios on both faces."""
    stage = Stage(request.param)
    yield stage
    stage.heal()


@pytest.fixture(params=FACES)
def folder_stage(request, tmp_path) -> Iterator[Stage]:
    """The same on a folder."""
    stage = Stage(request.param, os.fspath(tmp_path / "store"))
    yield stage
    stage.heal()


ISOLATED_TOOLS = """
import os
import time

import custody


@custody.tool(isolated=True)
def spin(seconds: float) -> dict:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    print("prints do not disturb the answer")
    return {"spun": seconds}


@custody.tool(isolated=True)
def fail(how: str) -> None:
    if how == "exit":
        os._exit(9)
    raise KeyError("how")
"""


@pytest.fixture
def tools_for_tests(tmp_path, monkeypatch):
    """A module of isolated tools: their child imports them by name."""
    (tmp_path / "tools_for_tests.py").write_text(ISOLATED_TOOLS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("tools_for_tests")
    del sys.modules["tools_for_tests"]
