import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from custody.errors import CorruptJournal, NotRecorded
from custody.journal import Journal
from custody.journal.disk import Disk, RealDisk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.journal.disk_memory import MemoryDisk
from custody.records import Redacted

OpenJournal = Callable[..., Journal]
DATA = Redacted(b"a long build log\n" * 10_000)


def test_a_blob_is_found_under_the_digest_of_its_plain_bytes(disk: Disk, open_journal: OpenJournal) -> None:
    journal = open_journal(disk)
    digest = journal.put_blob(DATA)
    assert digest == hashlib.sha256(DATA).digest()
    assert open_journal(disk).get_blob(digest) == DATA
    assert journal.get_blob(bytes(32)) is None
    assert journal.put_blob(Redacted(b"")) == hashlib.sha256(b"").digest()
    assert journal.get_blob(hashlib.sha256(b"").digest()) == b""


def test_the_same_value_is_kept_once_and_compressed(tmp_path: Path, open_journal: OpenJournal) -> None:
    journal = open_journal(RealDisk(tmp_path))
    assert journal.put_blob(DATA) == journal.put_blob(DATA)
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert path.name == hashlib.sha256(DATA).hexdigest()
    assert path.stat().st_size < len(DATA) / 50


def test_a_damaged_blob_is_named(tmp_path: Path, open_journal: OpenJournal) -> None:
    journal = open_journal(RealDisk(tmp_path))
    digest = journal.put_blob(DATA)
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    path.write_bytes(path.read_bytes()[:-3] + b"xyz")
    with pytest.raises(CorruptJournal) as caught:
        journal.get_blob(digest)
    assert caught.value.details == {"blob": digest.hex()}


def test_a_blob_that_cannot_be_kept_is_refused(open_journal: OpenJournal) -> None:
    disk = FaultyDisk(MemoryDisk(), Fault(operation="replace"))
    journal = open_journal(disk)
    with pytest.raises(NotRecorded):
        journal.put_blob(DATA)
    assert journal.get_blob(journal.put_blob(DATA)) == DATA


def test_threads_may_keep_the_same_value_at_once(disk: Disk, open_journal: OpenJournal) -> None:
    journal = open_journal(disk)
    digests: list[bytes] = []
    threads = [threading.Thread(target=lambda: digests.append(journal.put_blob(DATA))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digests == [hashlib.sha256(DATA).digest()] * 4
    assert journal.get_blob(digests[0]) == DATA
