"""Very many commands behind walls at once leave nothing behind: counted before and after."""

import asyncio
import contextlib
import os
from typing import Any

import pytest
from tests.sandbox import escapes
from tests.sandbox.commands import eventually, eventually_async, launcher_pids, mounts
from tests.sandbox.places import Place

from custody.sandbox import Launchers
from custody.sandbox.cgroup import parent_folder
from custody.sandbox.idle import WALLED_MAX
from custody.sandbox.launcher.tree import children_of, stat_of

AT_ONCE = 200
HERE, ABOVE = os.getpid(), os.getppid()
"""The process that runs the tests, and the one that started it beside others: also for what it forks."""


def left_in(namespaces: set[str]) -> list[int]:
    """Processes in one of these that nobody else has started: the kernel gives a number that is free again to
    the next namespace of another test's, whose processes are below the one that started both of us."""
    return [pid for pid in _everybody() if namespaces & _namespaces_of(pid) and not _anothers(pid)]


def _everybody() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _namespaces_of(pid: int) -> set[str]:
    found: set[str] = set()
    for kind in escapes.NAMESPACES:
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
    return found


def _anothers(pid: int) -> bool:
    while (found := stat_of(pid)) is not None and pid != HERE:
        if found.parent_pid == ABOVE:
            return True
        pid = found.parent_pid
    return False


def counted() -> dict[str, Any]:
    """What there is of ours, and what is mounted."""
    groups = parent_folder()
    own = f"custody-{os.getpid()}-"
    return {
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "children": sorted(children_of(os.getpid())),
        "mounts": mounts(),
        "groups": sorted(name for name in os.listdir(groups) if name.startswith(own)) if groups else [],
    }


@pytest.mark.long
def test_two_hundred_at_once_leave_nothing_behind(place: Place) -> None:
    async def body(pool: Launchers) -> list[list[str]]:
        ours = [place.program(escapes.LITTER, run_id=str(number)) for number in range(AT_ONCE)]
        every = await asyncio.gather(*map(pool.run, ours))
        await eventually_async(lambda: len(launcher_pids()) <= WALLED_MAX)
        said = [finished.stdout.data.decode().split() for finished in every]
        assert left_in({namespace for its in said for namespace in its}), "some launchers are kept"
        return said

    before, ours = counted(), _namespaces_of(os.getpid())
    said = place.run(body)
    made = {namespace for its in said for namespace in its}
    assert {len(its) for its in said} == {len(escapes.NAMESPACES)}
    assert len(made) > AT_ONCE  # those of a launcher are never another's at the same time
    assert not made & ours
    eventually(lambda: not left_in(made))  # those of a launcher that was killed take a moment
    assert counted() == before
