"""What every test starts from: no store or setting of whoever runs them, and the same examples each time."""

import faulthandler
import gc
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings
from tests.how_many import EXAMPLES_MANY
from tests.settings_for_tests import never_short_of_resources, without_walls

Mounted = Callable[..., Path]

EXAMPLES_FEW = 30

HANGING_SECONDS = 60.0  # after its timeout has been raised in it, a test has ended, or its worker is ended

UNMOUNT_SECONDS = 30.0  # what was killed a moment ago may still have files open

for name, count in (("few", EXAMPLES_FEW), ("many", EXAMPLES_MANY)):
    settings.register_profile(
        name, max_examples=count,
        derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None,
    )  # fmt: skip
settings.load_profile("few")


STDERR = pytest.StashKey[int]()
"""Where a worker that is ended says why: what pytest has not put aside for a test's own output."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STDERR] = os.dup(2)
    ignored = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)  # under nohup, in the background of a shell
    for number in ignored:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
    if config.option.markexpr == "long":
        settings.load_profile("many")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """The timeout is raised in a test once. One that then goes on waiting, as an event loop does for a thread
    that is stuck, is ended with the worker it runs in, and where each of its threads stood is printed."""
    marker = item.get_closest_marker("timeout")
    option, ini = item.config.getoption("timeout"), item.config.getini("timeout")
    seconds = float(marker.args[0] if marker is not None else option or ini)
    faulthandler.dump_traceback_later(seconds + HANGING_SECONDS, exit=True, file=item.config.stash[STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """All tests of such a file are long, and collecting them takes time too."""
    left_out = collection_path.name.endswith("_long.py") and config.option.markexpr == "not long"
    return True if left_out else None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Of each property a few examples are tried with the other tests, and many with the long ones."""
    many = settings().max_examples == EXAMPLES_MANY
    if many and isinstance(item, pytest.Function) and is_hypothesis_test(item.obj):
        item.add_marker(pytest.mark.long)


def pytest_collectreport() -> None:
    """What was collected stays to the end, and looking through it again and again is a third of the time of
    collecting: the garbage collector, in forked children too, leaves it alone."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _nobodys_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("CUSTODY_")]:
            patch.delenv(name)
        patch.setenv("XDG_DATA_HOME", str(home / "data"))
        patch.setenv("XDG_CONFIG_HOME", str(home / "config"))
        never_short_of_resources(home / "config")
        without_walls(home / "config")  # most tests are about something else, and many start a command
        patch.setenv("NO_COLOR", "1")
        patch.setenv("COLUMNS", "120")
        yield


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    """Mounts a file system for one test: `mounted("tmpfs", "size=64k")`. Skips where that cannot be done."""
    places: list[Path] = []

    def mount(kind: str, options: str, source: str | Path = "none") -> Path:
        place = tmp_path / f"mounted{len(places)}"
        place.mkdir()
        command = ["mount", "-t", kind, "-o", options, str(source), str(place)]
        if os.geteuid() != 0 or shutil.which("mount") is None:
            pytest.skip("needs root and mount(8)")
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"`mount -t {kind} -o {options}` is refused here: {done.stderr.strip()[:100]}")
        places.append(place)
        return place

    yield mount
    for place in reversed(places):
        until = time.monotonic() + UNMOUNT_SECONDS
        while (done := subprocess.run(["umount", str(place)], capture_output=True)).returncode != 0:
            assert time.monotonic() < until, done.stderr.decode()
            time.sleep(0.05)
