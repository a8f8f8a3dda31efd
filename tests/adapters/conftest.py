import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.settings_for_tests import never_short_of_resources

import custody
from custody.blocking import BlockingRuntime


@pytest.fixture(autouse=True)
def settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in no git working tree, and the settings file for whoever adds a rule to it."""
    for name in ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING_V2"):
        monkeypatch.setenv(name, "false")  # nothing leaves the machine, whoever runs the tests
    monkeypatch.setenv("XDG_CONFIG_HOME", os.fspath(tmp_path / "config"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return never_short_of_resources(tmp_path / "config")


@pytest.fixture(autouse=True)
def no_loop_left_open() -> Iterator[None]:
    """The frameworks' synchronous faces use the thread's own event loop, and leave it open."""
    ours = asyncio.new_event_loop()
    asyncio.set_event_loop(ours)
    yield
    try:
        theirs = asyncio.get_event_loop_policy().get_event_loop()
    except RuntimeError:  # asyncio.run has taken it away
        theirs = ours
    ours.close()
    theirs.close()
    asyncio.set_event_loop(None)


@pytest.fixture(params=[pytest.param("memory", marks=pytest.mark.long), "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Everything works on both."""
    return ":memory:" if request.param == "memory" else os.fspath(tmp_path / "store")


@pytest.fixture
def runtime(store: str) -> Iterator[BlockingRuntime]:
    with custody.open(store) as runtime:
        yield runtime
