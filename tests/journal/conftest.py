"""Disks and journals for the tests of the journal."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from custody.errors import CustodyError
from custody.journal import Journal, JournalSettings
from custody.journal.disk import Disk, RealDisk
from custody.journal.disk_memory import MemoryDisk

SMALL = JournalSettings(
    first_segment_bytes=4096,
    segment_bytes_max=16384,
    commit_leaves=4,
    refusal_reserve_bytes=512,
    fill_pause_seconds=0.0,
    flush_seconds=3600.0,
)
"""Rolls over after a few records, and syncs only when asked."""

OpenJournal = Callable[..., Journal]


@pytest.fixture(params=["memory", "real"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return MemoryDisk() if request.param == "memory" else RealDisk(tmp_path / "store")


@pytest.fixture
def open_journal() -> Iterator[OpenJournal]:
    """Opens journals with small segments, which are closed when the test ends."""
    opened: list[Journal] = []

    def open_it(disk: Disk, **changes: object) -> Journal:
        opened.append(Journal(disk, settings=replace(SMALL, **changes)))  # type: ignore[arg-type]
        return opened[-1]

    yield open_it
    for journal in opened:
        try:
            journal.close()
        except CustodyError:
            pass  # a test may leave its disk broken
