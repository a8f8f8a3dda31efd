"""What every disk promises, real or not; and what only the real one can."""

import errno
import os
import resource
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.crash.simulated_disk import SimulatedDisk
from tests.redaction.interpreter_lock import times_given_up

from custody.errors import StoreUnusable
from custody.journal import disk as real
from custody.journal.disk import Disk, RealDisk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.journal.disk_memory import MemoryDisk

WAIT_SECONDS = 60

MAKERS: dict[str, Callable[[Path], Disk]] = {
    "real": lambda path: RealDisk(path / "store"),
    "memory": lambda path: MemoryDisk(),
    "faulty over memory": lambda path: FaultyDisk(MemoryDisk()),
    "faulty over real": lambda path: FaultyDisk(RealDisk(path / "store")),
    "simulated": lambda path: SimulatedDisk(),
}


@pytest.fixture(params=sorted(MAKERS))
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return MAKERS[request.param](tmp_path)


def in_child(work: Callable[[], object]) -> int:
    """Fork, do `work` in the child, and give its exit code: 0 when it returned something true."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# -- files --------------------------------------------------------------------------------------------


def test_what_was_put_is_read_back_by_everybody_who_has_the_file_open(disk: Disk) -> None:
    writer = disk.open("a", create=True)
    reader = disk.open("a", write=False)
    writer.put(b"hello", 0)
    writer.put(b"HE", 0)
    assert reader.read(100, 0) == b"HEllo"
    assert reader.read(2, 3) == b"lo"
    assert reader.size_bytes() == 5


def test_a_put_behind_the_end_leaves_zeros_between(disk: Disk) -> None:
    file = disk.open("a", create=True)
    file.put(b"x", 0)
    file.put(b"y", 600)
    assert file.size_bytes() == 601
    assert file.read(1000, 0) == b"x" + bytes(599) + b"y"


def test_reading_at_or_behind_the_end_gives_nothing(disk: Disk) -> None:
    file = disk.open("a", create=True)
    file.put(b"abc", 0)
    assert (file.read(10, 3), file.read(10, 4000), file.read(0, 0)) == (b"", b"", b"")


def test_a_large_put_arrives_whole(disk: Disk) -> None:
    data = bytes(range(256)) * 8192
    file = disk.open("a", create=True)
    file.put(data, 3)
    file.sync()
    assert file.read(len(data), 3) == data


def test_what_was_put_is_a_copy(disk: Disk) -> None:
    file = disk.open("a", create=True)
    file.put(b"first", 0)
    before = file.read(5, 0)
    file.put(b"other", 0)
    assert before == b"first"


def test_an_empty_put_changes_nothing(disk: Disk) -> None:
    file = disk.open("a", create=True)
    file.put(b"", 0)
    assert file.size_bytes() == 0


def test_a_file_is_created_once(disk: Disk) -> None:
    disk.open("a", create=True).close()
    with pytest.raises(FileExistsError):
        disk.open("a", create=True)


def test_a_missing_file_or_folder_is_named_as_missing(disk: Disk) -> None:
    for act in (
        lambda: disk.open("missing"),
        lambda: disk.open("missing", write=False),
        lambda: disk.open("nowhere/a", create=True),
        lambda: disk.remove("missing"),
        lambda: disk.replace("nowhere/a", b""),
        lambda: disk.sync_folder("nowhere"),
        lambda: disk.lock("nowhere/lock"),
    ):
        with pytest.raises(FileNotFoundError):
            act()
    assert disk.read_all("missing") is None
    assert disk.names("nowhere") == []
    assert not disk.locked("missing")


def test_a_file_opened_for_reading_takes_no_put(disk: Disk) -> None:
    disk.open("a", create=True).close()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)[:3] + "|reading only") as caught:
        disk.open("a", write=False).put(b"x", 0)
    assert caught.value.errno == errno.EBADF


def test_a_closed_file_does_nothing_more_and_closes_twice(disk: Disk) -> None:
    file = disk.open("a", create=True)
    file.close()
    file.close()
    for act in (lambda: file.put(b"x", 0), lambda: file.read(1, 0), file.sync, file.size_bytes):
        with pytest.raises(OSError) as caught:  # noqa: PT011
            act()
        assert caught.value.errno == errno.EBADF


def test_a_removed_file_stays_readable_where_it_is_open(disk: Disk) -> None:
    file = disk.open("a", create=True)
    file.put(b"still", 0)
    disk.remove("a")
    assert file.read(5, 0) == b"still"
    assert disk.read_all("a") is None
    disk.open("a", create=True).close()


# -- folders and names --------------------------------------------------------------------------------


def test_folders_are_made_with_their_parents_and_made_again_without_complaint(disk: Disk) -> None:
    disk.make_folder("journal/0001/deep")
    disk.make_folder("journal/0001/deep")
    disk.make_folder("journal")
    assert disk.names("") == ["journal"]
    assert disk.names("journal") == ["0001"]
    assert disk.names("journal/0001") == ["deep"]
    disk.sync_folder("journal/0001")
    disk.sync_folder("")


def test_names_are_sorted_and_of_one_folder_only(disk: Disk) -> None:
    disk.make_folder("b/inner")
    for path in ("c", "a", "b/z", "b/y"):
        disk.open(path, create=True).close()
    assert disk.names("") == ["a", "b", "c"]
    assert disk.names("b") == ["inner", "y", "z"]


def test_a_folder_cannot_be_made_where_a_file_is(disk: Disk) -> None:
    disk.open("a", create=True).close()
    with pytest.raises((FileExistsError, NotADirectoryError)):
        disk.make_folder("a")


# -- whole small files --------------------------------------------------------------------------------


def test_replace_gives_a_file_its_whole_content(disk: Disk) -> None:
    disk.make_folder("keys")
    disk.replace("keys/k", b"long content")
    disk.replace("keys/k", b"short")
    assert disk.read_all("keys/k") == b"short"
    assert disk.names("keys") == ["k"]


def test_who_has_the_old_file_open_keeps_the_old_content(disk: Disk) -> None:
    disk.replace("k", b"old")
    reader = disk.open("k", write=False)
    disk.replace("k", b"new")
    assert reader.read(10, 0) == b"old"
    assert disk.read_all("k") == b"new"


# -- locks --------------------------------------------------------------------------------------------


def test_a_renamed_file_takes_the_place_of_what_has_the_name(disk: Disk) -> None:
    disk.replace("a", b"one")
    disk.replace("b", b"two")
    disk.rename("a", "b")
    disk.sync_folder("")
    assert (disk.read_all("a"), disk.read_all("b")) == (None, b"one")
    with pytest.raises(FileNotFoundError):
        disk.rename("a", "b")


def test_punched_zeros_are_still_zeros_and_what_is_around_them_stays(disk: Disk) -> None:
    file = disk.open("a", create=True)
    file.put(b"x" * 20_000, 0)
    file.put(bytes(12_000), 4_000)
    file.punch(4_000, 12_000)
    assert file.read(20_000, 0) == b"x" * 4_000 + bytes(12_000) + b"x" * 4_000
    assert file.size_bytes() == 20_000


def test_a_lock_is_held_once_until_it_is_released(disk: Disk) -> None:
    assert not disk.locked("lock")
    lock = disk.lock("lock")
    assert lock is not None
    assert disk.locked("lock")
    assert disk.lock("lock") is None
    lock.release()
    lock.release()
    assert not disk.locked("lock")
    again = disk.lock("lock")
    assert again is not None
    lock.release()
    assert disk.locked("lock"), "releasing an old hold must not end the new one"
    again.release()


def test_locks_at_different_paths_do_not_meet(disk: Disk) -> None:
    assert disk.lock("one") is not None
    assert disk.lock("two") is not None


def test_only_one_of_many_threads_gets_the_lock(disk: Disk) -> None:
    barrier = threading.Barrier(8)
    got: list[bool] = []

    def work() -> None:
        barrier.wait(WAIT_SECONDS)
        got.append(disk.lock("lock") is not None)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert sorted(got) == [False] * 7 + [True]


def test_free_bytes_are_part_of_the_total(disk: Disk) -> None:
    free, total = disk.free_bytes()
    assert 0 < free <= total


def test_threads_put_side_by_side(disk: Disk) -> None:
    file = disk.open("a", create=True)

    def work(number: int) -> None:
        for turn in range(50):
            file.put(bytes([number]) * 64, (turn * 4 + number) * 64)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    expected = b"".join(bytes([number]) * 64 for number in range(4)) * 50
    assert file.read(len(expected) + 1, 0) == expected


# -- the real disk ------------------------------------------------------------------------------------


def modes(path: Path) -> dict[str, int]:
    return {str(p.relative_to(path)): stat.S_IMODE(p.lstat().st_mode) for p in [path, *path.rglob("*")]}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_files_and_folders_are_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    def work() -> bool:
        os.umask(umask)
        disk = RealDisk(tmp_path / "store")
        disk.make_folder("journal/0001")
        disk.open("journal/0001/segment", create=True)
        disk.replace("key", b"k")
        disk.lock("journal/lock")
        return True

    assert in_child(work) == 0
    assert modes(tmp_path / "store") == {
        ".": 0o700,
        "journal": 0o700,
        "journal/0001": 0o700,
        "journal/0001/segment": 0o600,
        "journal/lock": 0o600,
        "key": 0o600,
    }


def test_no_descriptor_of_the_store_reaches_a_started_program(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "store")
    file = disk.open("a", create=True)
    lock = disk.lock("lock")
    listing = subprocess.run(
        ["sh", "-c", "ls -l /proc/self/fd"], capture_output=True, text=True, check=True, close_fds=False
    )
    assert str(tmp_path) not in listing.stdout
    file.close()
    assert lock is not None
    lock.release()


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "store")
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "store" / "a").symlink_to(tmp_path / "victim")
    for act in (lambda: disk.open("a"), lambda: disk.read_all("a"), lambda: disk.lock("a")):
        with pytest.raises(OSError) as caught:  # noqa: PT011
            act()
        assert caught.value.errno == errno.ELOOP
    with pytest.raises(FileExistsError):
        disk.open("a", create=True)
    disk.replace("a", b"own")
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_a_short_write_is_continued_and_then_raised_as_what_stopped_it(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "store")
    for number, count in enumerate((4096, 1 << 20)):
        file = disk.open(f"small{number}", create=True)

        def work(file: real.RealFile = file, count: int = count) -> bool:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
            try:
                file.put(b"x" * count, 0)
            except OSError as error:
                return error.errno == errno.EFBIG and file.size_bytes() == 1000
            return False

        assert in_child(work) == 0


def test_a_file_whose_sync_failed_is_never_synced_with_success_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RealDisk(tmp_path / "store").open("a", create=True)
    file.put(b"x", 0)

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(real, "_sync_data", fail)
        with pytest.raises(OSError, match="Input/output error"):
            file.sync()
    with pytest.raises(OSError, match="an earlier sync of this file failed") as caught:
        file.sync()
    assert caught.value.errno == errno.EIO


def test_a_put_keeps_the_gil(tmp_path: Path) -> None:
    # Beside a busy thread a put that gave up the GIL would wait a whole switch interval for it.
    file = RealDisk(tmp_path / "store").open("a", create=True)
    data = b"x" * 600

    def put_all() -> None:
        for turn in range(100):
            file.put(data, turn * 600)

    assert times_given_up(put_all) == 0


def test_a_failed_replace_leaves_the_old_content_and_no_temporary_file(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "store")
    disk.make_folder("k")
    with pytest.raises(IsADirectoryError):
        disk.replace("k", b"new")
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["k"]


def test_a_temporary_file_left_by_a_dead_process_is_not_a_name(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "store")
    (tmp_path / "store" / f"{real.TEMPORARY_PREFIX}0011-key").write_bytes(b"half")
    assert disk.names("") == []


# -- the real disk's locks ----------------------------------------------------------------------------

HOLDER = """
import sys
from custody.journal.disk import RealDisk
lock = RealDisk(sys.argv[1]).lock("lock")
print("held" if lock else "refused", flush=True)
sys.stdin.read()
"""


def start_holder(path: Path) -> "subprocess.Popen[str]":
    source = str(Path(real.__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    )


def said(holder: "subprocess.Popen[str]") -> str:
    assert holder.stdout is not None
    return holder.stdout.readline().strip()


def end(holder: "subprocess.Popen[str]") -> None:
    holder.kill()
    holder.communicate(timeout=WAIT_SECONDS)


def test_a_lock_holds_against_other_processes_and_ends_with_its_process(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "store")
    holder = start_holder(tmp_path / "store")
    try:
        assert said(holder) == "held"
        assert disk.locked("lock")
        assert disk.lock("lock") is None
    finally:
        end(holder)
    assert not disk.locked("lock")
    assert disk.lock("lock") is not None


def test_asking_about_a_lock_neither_takes_nor_drops_it(tmp_path: Path) -> None:
    disk, other_disk = RealDisk(tmp_path / "store"), RealDisk(tmp_path / "store")
    lock = disk.lock("lock")
    assert lock is not None
    for one in (disk, other_disk):
        assert one.locked("lock")
        assert one.lock("lock") is None
        for act in (one.open, one.read_all, lambda path: one.replace(path, b"")):  # noqa: B023
            with pytest.raises(OSError, match="holds it as a lock"):
                act("lock")
    holder = start_holder(tmp_path / "store")
    try:
        assert said(holder) == "refused"
    finally:
        end(holder)
    lock.release()
    assert not other_disk.locked("lock")


def test_a_forked_child_holds_no_lock_and_cannot_lose_its_parents(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "store")
    mine, own = disk.lock("mine"), disk.lock("own")
    assert mine is not None
    assert own is not None

    def work() -> bool:
        mine.release()
        own.release()
        sees = disk.locked("mine") and disk.lock("mine") is None
        file = disk.open("mine")
        file.close()
        return sees and disk.lock("child") is not None

    assert in_child(work) == 0
    holder = start_holder(tmp_path / "store")
    try:
        assert disk.locked("mine")
        assert said(holder) == "held"
    finally:
        end(holder)
    assert in_child(lambda: disk.lock("mine") is None and disk.lock("own") is None) == 0
    mine.release()
    assert in_child(lambda: disk.lock("mine") is not None) == 0
    assert in_child(lambda: not disk.locked("mine") and disk.locked("own")) == 0
    own.release()


def test_a_forked_child_of_a_memory_store_holds_no_lock() -> None:
    disk = MemoryDisk()
    assert disk.lock("lock") is not None
    assert in_child(lambda: not disk.locked("lock") and disk.lock("lock") is not None) == 0
    assert disk.locked("lock")


def test_a_lock_file_that_was_removed_is_locked_anew(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "store")
    old = disk.lock("lock")
    assert old is not None
    disk.remove("lock")
    new = disk.lock("lock")
    assert new is not None
    old.release()
    assert in_child(lambda: disk.lock("lock") is None) == 0


# -- opening a real store -----------------------------------------------------------------------------


def test_a_store_that_is_a_file_is_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"")
    for path in (tmp_path / "store", tmp_path / "store" / "below"):
        for create in (True, False):
            with pytest.raises(StoreUnusable, match="is not a folder") as caught:
                RealDisk(path, create=create)
            assert "--store" in (caught.value.hint or "")


def test_a_store_that_does_not_exist_is_made_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "above" / "store"
    with pytest.raises(StoreUnusable, match="does not exist") as caught:
        RealDisk(path, create=False)
    assert "custody init" in (caught.value.hint or "")
    assert not path.parent.exists()
    RealDisk(path)
    assert RealDisk(path, create=False).names("") == []


def test_a_store_without_write_permission_can_be_read_but_not_made_use_of() -> None:
    def work() -> bool:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(70001)
            os.setuid(70001)
        disk = RealDisk(path, create=False)
        if disk.writable or disk.read_all("a") != b"content":
            return False
        try:
            RealDisk(path)
        except StoreUnusable as error:
            return "cannot be written" in error.message and bool(error.hint)
        return False

    # Not below tmp_path: pytest keeps that closed to other users.
    with tempfile.TemporaryDirectory() as above:
        os.chmod(above, 0o711)
        path = Path(above) / "store"
        RealDisk(path).replace("a", b"content")
        os.chmod(path / "a", 0o644)
        os.chmod(path, 0o555)
        assert in_child(work) == 0
        os.chmod(path, 0o700)


def test_a_store_on_a_network_file_system_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = RealDisk(tmp_path / "store")
    monkeypatch.setattr(real, "_filesystem_type", lambda path: "nfs4")
    assert disk.network_filesystem() == "nfs4"
    monkeypatch.setattr(real, "_filesystem_type", lambda path: "ext4")
    assert disk.network_filesystem() is None


def test_the_type_of_a_file_system_is_that_of_the_mount_a_path_is_on() -> None:
    mounts = (
        "22 1 254:0 / / rw - ext4 /dev/root rw\n"
        "23 22 0:5 / /mnt/my\\040share rw,relatime shared:2 - nfs4 host:/x rw\n"
        "24 22 0:6 / /mnt/my\\040share rw,relatime master:1 shared:9 - cifs //host/x rw\n"
        "25 22 0:7 / /mnt/my rw - tmpfs none rw\n"
    ).splitlines()
    assert real.mount_type("/mnt/my share/store", mounts) == "cifs"
    assert real.mount_type("/mnt/my/store", mounts) == "tmpfs"
    assert real.mount_type("/mnt/myself", mounts) == "ext4"
    assert real.mount_type("/", mounts) == "ext4"


# -- the faulty disk ----------------------------------------------------------------------------------


def test_a_fault_hits_the_operation_it_names_and_no_other() -> None:
    disk = FaultyDisk(MemoryDisk(), Fault(operation="put", at=2, error=errno.ENOSPC, put_bytes=2))
    file = disk.open("a", create=True)
    file.put(b"1111", 0)
    with pytest.raises(OSError, match="No space left"):
        file.put(b"2222", 4)
    file.put(b"33", 6)
    assert file.read(10, 0) == b"11112233"
    assert disk.operations == [("create", "a"), ("put", "a"), ("put", "a"), ("put", "a"), ("read", "a")]


def test_a_fault_can_last_and_be_healed() -> None:
    disk = FaultyDisk(MemoryDisk(), Fault(operation="sync", times=None))
    file = disk.open("a", create=True)
    for _ in range(3):
        with pytest.raises(OSError, match="Input/output error"):
            file.sync()
    disk.heal()
    file.sync()
    assert disk.hit_count == 3


def test_a_sync_can_fail_once_and_then_succeed() -> None:
    disk = FaultyDisk(MemoryDisk(), Fault(operation="sync"))
    file = disk.open("a", create=True)
    with pytest.raises(OSError, match="Input/output error"):
        file.sync()
    file.sync()


def test_a_stalled_sync_waits_until_it_is_healed() -> None:
    disk = FaultyDisk(MemoryDisk(), Fault(operation="sync", error=None, stall_seconds=60))
    file = disk.open("a", create=True)
    thread = threading.Thread(target=file.sync)
    thread.start()
    assert disk.wait_for_hits(1, WAIT_SECONDS)
    assert thread.is_alive()
    disk.heal()
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()


def test_free_bytes_can_be_made_up() -> None:
    disk = FaultyDisk(MemoryDisk())
    disk.free = (10, 100)
    assert disk.free_bytes() == (10, 100)


def test_only_paths_within_are_hit() -> None:
    disk = FaultyDisk(MemoryDisk(), Fault(operation="create", within="blobs/", times=None))
    disk.make_folder("blobs")
    disk.open("a", create=True)
    with pytest.raises(OSError, match="Input/output error"):
        disk.open("blobs/x", create=True)
