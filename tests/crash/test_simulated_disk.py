"""The simulated disk loses what POSIX lets a disk lose, and nothing else."""

import random

import pytest
from tests.crash.simulated_disk import CRASH_MODES, PAGE_BYTES, SECTOR_BYTES, KilledInPut, SimulatedDisk


def disk_with_file(*, folder_synced: bool = True) -> SimulatedDisk:
    disk = SimulatedDisk()
    disk.open("a", create=True)
    if folder_synced:
        disk.sync_folder("")
    return disk


def contents_after_power_loss(disk: SimulatedDisk, count: int = 200) -> set[bytes | None]:
    chance = random.Random(1)
    return {disk.after_power_loss("subset", chance).read_all("a") for _ in range(count)}


def test_what_was_synced_survives_every_power_loss() -> None:
    disk = disk_with_file()
    file = disk.open("a")
    file.put(b"kept", 0)
    file.sync()
    for mode in CRASH_MODES:
        assert disk.after_power_loss(mode, random.Random(1)).read_all("a") == b"kept"


def test_what_was_not_synced_lands_in_any_subset() -> None:
    disk = disk_with_file()
    file = disk.open("a")
    file.put(b"1", 0)
    file.put(b"2", 1)
    assert contents_after_power_loss(disk) == {b"", b"1", b"\x002", b"12"}
    assert disk.after_power_loss("none", random.Random(1)).read_all("a") == b""
    assert disk.after_power_loss("all", random.Random(1)).read_all("a") == b"12"


def test_a_put_is_torn_at_sectors_of_the_file() -> None:
    disk = disk_with_file()
    file = disk.open("a")
    file.put(bytes(2 * SECTOR_BYTES), 0)
    file.sync()
    file.put(b"x" * SECTOR_BYTES, SECTOR_BYTES // 2)
    half = SECTOR_BYTES // 2
    first, second = b"x" * half + bytes(half), bytes(half) + b"x" * half
    seen = {bytes(content or b"")[half : 3 * half] for content in contents_after_power_loss(disk)}
    assert seen == {bytes(2 * half), first, second, b"x" * (2 * half)}


def test_a_name_survives_only_after_a_sync_of_its_folder() -> None:
    disk = disk_with_file(folder_synced=False)
    file = disk.open("a")
    file.put(b"kept", 0)
    file.sync()
    assert contents_after_power_loss(disk) == {None, b"kept"}
    disk.sync_folder("")
    assert contents_after_power_loss(disk) == {b"kept"}
    disk.remove("a")
    assert contents_after_power_loss(disk) == {None, b"kept"}


def test_replace_leaves_the_old_or_the_new_content_at_every_step() -> None:
    seen: set[bytes | None] = set()
    steps: list[str] = []

    def look(operation: str, path: str) -> None:
        steps.append(operation)
        seen.update(contents_after_power_loss(disk, 20))

    disk = SimulatedDisk()
    disk.replace("a", b"old")
    disk.on_operation = look
    disk.replace("a", b"new")
    assert seen == {b"old", b"new"}
    assert steps == ["create", "put", "sync", "rename", "sync_folder"]
    assert contents_after_power_loss(disk) == {b"new"}


def test_after_a_failed_sync_the_bytes_can_be_read_but_never_reach_the_disk() -> None:
    disk = disk_with_file()
    file = disk.open("a")
    file.put(b"lost", 0)

    def fail(operation: str, path: str) -> None:
        raise OSError(5, "Input/output error")

    disk.on_operation = fail
    with pytest.raises(OSError, match="Input/output error"):
        file.sync()
    disk.on_operation = None
    file.sync()
    assert disk.read_all("a") == b"lost"
    assert disk.after_power_loss("all", random.Random(1)).read_all("a") == b""


def test_the_page_cache_survives_the_death_of_the_process_but_its_locks_do_not() -> None:
    disk = disk_with_file()
    disk.open("a").put(b"written", 0)
    assert disk.lock("lock") is not None
    after = disk.after_process_death()
    assert after.read_all("a") == b"written"
    assert after.lock("lock") is not None
    assert after.after_power_loss("none", random.Random(1)).read_all("a") == b""
    after.open("a").sync()
    assert after.after_power_loss("none", random.Random(1)).read_all("a") == b"written"
    assert disk.after_power_loss("none", random.Random(1)).read_all("a") == b""


@pytest.mark.parametrize(("share", "bytes_put"), [(0.0, 0), (0.3, 0), (0.4, 3996), (0.7, 3996), (0.9, 8092)])
def test_a_kill_in_the_middle_of_a_put_leaves_it_up_to_the_end_of_a_page(
    share: float, bytes_put: int
) -> None:
    disk = disk_with_file()
    disk.open("a").put(bytes(100), 0)
    file = disk.open("a")

    def kill(operation: str, path: str) -> None:
        raise KilledInPut(share, path)

    disk.on_operation = kill
    with pytest.raises(KilledInPut):
        file.put(b"x" * 10_000, 100)
    content = disk.after_process_death().read_all("a")
    assert content == bytes(100) + b"x" * bytes_put
    assert content is not None and (len(content) == 100 or len(content) % PAGE_BYTES == 0)
