"""Lane 5: a fault at every n-th operation; nothing acknowledged is lost, nobody hangs, and it can go on."""

import errno
from collections import Counter
from functools import cache

import pytest
from tests.crash.faults import BELOW, FaultLane

from custody.journal.disk_faulty import Fault

FAULTS = {
    "short put, disk full": Fault(operation="put", error=errno.ENOSPC, put_bytes=40),
    "short put, then full for good": Fault(operation="put", error=errno.ENOSPC, put_bytes=200, times=None),
    "disk full": Fault(operation="put", error=errno.ENOSPC),
    "disk full for good": Fault(operation="put", error=errno.ENOSPC, times=None),
    "put fails": Fault(operation="put", error=errno.EIO),
    "sync fails once and then succeeds": Fault(operation="sync", error=errno.EIO),
    "sync fails twice": Fault(operation="sync", error=errno.EIO, times=2),
    "sync fails for good": Fault(operation="sync", error=errno.EIO, times=None),
    "no new file": Fault(operation="create", error=errno.ENOSPC),
    "no new file for good": Fault(operation="create", error=errno.ENOSPC, times=None),
    "folder sync fails": Fault(operation="sync_folder", error=errno.EIO),
    "any operation fails": Fault(operation="any", error=errno.EIO),
    "everything fails from then on": Fault(operation="any", error=errno.EIO, times=None),
}


@cache
def operation_counts() -> Counter[str]:
    """Of the workload without a fault."""
    lane = FaultLane()
    assert lane.run() == []
    assert lane.refused == 0
    below = Counter(operation for operation, _ in lane.below.operations)
    above = Counter(operation for operation, _ in lane.above.operations)
    return Counter({**above, **below, "any": above.total(), "above put": above["put"]})


def run_at(fault: Fault, at: int, *, killed: bool = False) -> FaultLane:
    values = {**vars(fault), "at": at}
    lane = FaultLane(Fault(**values), killed=killed)
    assert lane.run() == [], f"{fault.operation} at {at}"
    return lane


def count_of(fault: Fault) -> int:
    counts = operation_counts()
    return counts["above put"] if fault.put_bytes else counts[fault.operation]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_loses_nothing_acknowledged_and_is_never_a_bare_error(name: str) -> None:
    fault = FAULTS[name]
    count = count_of(fault)
    step = max(1, count // 20)
    met = sum(run_at(fault, at).refused > 0 for at in range(1, count + 1, step))
    assert met or fault.operation not in BELOW or fault.times is not None


@pytest.mark.parametrize("name", [name for name in FAULTS if name.endswith(("for good", "from then on"))])
def test_a_process_killed_in_the_middle_of_faults_loses_nothing_acknowledged(name: str) -> None:
    fault = FAULTS[name]
    count = count_of(fault)
    for at in range(1, count + 1, max(1, count // 20)):
        run_at(fault, at, killed=True)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_at_every_operation_loses_nothing_acknowledged(name: str) -> None:
    fault = FAULTS[name]
    for at in range(1, count_of(fault) + 1):
        run_at(fault, at)
        run_at(fault, at, killed=True)
