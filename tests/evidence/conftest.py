import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.evidence.planting import KNOWN, Secret, by_form, by_surroundings, known_values, leaks
from tests.settings_for_tests import never_short_of_resources

WAYS = {"form": by_form, "surroundings": by_surroundings, "known": known_values}


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that is in no git working tree, nobody's settings, and the known values."""
    monkeypatch.setenv("XDG_CONFIG_HOME", os.fspath(tmp_path / "config"))
    for name in [name for name in os.environ if name.startswith(("OTEL_", "LANGSMITH_", "LANGCHAIN_"))]:
        monkeypatch.delenv(name)
    for name, value in KNOWN.items():
        monkeypatch.setenv(name, value)
    never_short_of_resources(tmp_path / "config")
    # Addresses that secrets stand in are asked for nothing: they are no machines of ours, or none at all.
    (tmp_path / "gitconfig").write_text("[http]\nproxy = http://127.0.0.1:1\n[core]\nsshCommand = false\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.fspath(tmp_path / "gitconfig"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture(params=["some", *(pytest.param(way, marks=pytest.mark.long) for way in WAYS)])
def secrets(request: pytest.FixtureRequest) -> tuple[Secret, ...]:
    """All kinds of secrets, in each of the three ways in which they are known; or some of each way."""
    if request.param == "some":
        return (*by_form()[::4], *by_surroundings()[::4], *known_values()[::4])
    return WAYS[request.param]()


@pytest.fixture(autouse=True)
def _nothing_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test plants, wherever: no line that Custody logs has it."""
    caplog.set_level(logging.DEBUG, "custody")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield
    said = [logging.Formatter().format(record) for record in caplog.get_records("call")
            if record.name == "custody"]  # fmt: skip
    said += [str(warning.message) for warning in warned]
    everything = (*by_form(), *by_surroundings(), *known_values())
    assert leaks(everything, [("the log", "\n".join(said).encode())]) == []
