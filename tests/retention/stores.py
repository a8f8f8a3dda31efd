"""A store that something is purged from: records as writers put them, and a look at every byte of it."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import zstandard
from tests.crash.roots import tree_root
from tests.index.conftest import Store

from custody.journal import Journal, JournalSettings, Stored
from custody.journal.disk import Disk
from custody.recorder import Recorder
from custody.records import IdSource, decode_payload
from custody.redaction import Redactor
from custody.retention import Means, Purged, PurgePlan, Selection, carry_out, plan_purge
from custody.retention.holds import purge_lock

SMALL = JournalSettings(
    first_segment_bytes=8192,
    segment_bytes_max=16384,
    commit_leaves=4,
    refusal_reserve_bytes=1024,
    fill_pause_seconds=0.0,
)


class Purgeable(Store):
    """With what a purge works with."""

    settings = SMALL

    def __init__(self, folder: str | None = None, disk: Disk | None = None, **changes: Any) -> None:
        """`changes` are settings of its first writer."""
        self.undone: list[bytes] = []
        super().__init__(folder)
        if disk is not None:
            self.disk = disk
            self.writer = self.open_writer(**changes)

    def open_writer(self, **changes: Any) -> Journal:
        journal = Journal(self.disk, settings=replace(self.settings, **changes))
        self.journals.append(journal)
        return journal

    def call_by(self, writer: Journal, number: int, at: float, said: Any) -> None:
        """A whole call in the shard of one writer."""
        self.start_call(number, at, arguments=said, writer=writer)
        self.finish_call(number, at + 0.5, writer=writer, result=said)

    def means(self, journal: Journal | None = None, **more: Any) -> Means:
        journal = journal or self.writer
        return Means(
            journal=journal,
            index=self.index(),
            make_recorder=lambda: Recorder(journal, Redactor(b"k" * 32), IdSource()),
            forget_undo=self.undone.extend,
            **more,
        )

    def plan(self, **selection: Any) -> PurgePlan:
        self.writer.sync()
        return plan_purge(self.writer, Selection(**selection))

    def purge(self, journal: Journal | None = None, **selection: Any) -> Purged:
        journal = journal or self.writer
        self.writer.sync()
        lock = purge_lock(journal)
        try:
            means = self.means(journal)
            return carry_out(means, plan_purge(journal, Selection(**selection)))
        finally:
            lock.release()

    def records(self) -> list[Stored]:
        return list(self.writer.follow())

    def said(self) -> list[dict[str, Any]]:
        """What can still be read of what was said, in order."""
        return [said for stored in self.records() if (said := decode_payload(stored.payload))]

    def roots(self) -> dict[int, bytes]:
        """The tree over each shard's leaves, as RFC 6962 defines it."""
        leaves: dict[int, list[bytes]] = {}
        for stored in self.records():
            leaves.setdefault(stored.shard, []).append(stored.leaf)
        return {shard: tree_root(some) for shard, some in leaves.items()}

    def holds(self, text: str) -> bool:
        """Whether any byte sequence of the store, compressed ones unpacked, says it."""
        return any(text.encode() in data for data in every_content(self.folder, self.disk))


def every_content(folder: str | None, disk: Any) -> Iterable[bytes]:
    files = _files_of(folder) if folder is not None else _files_in(disk)
    for path, data in files:
        yield data
        if path.startswith("blobs/"):
            yield zstandard.ZstdDecompressor().decompress(data)


def _files_of(folder: str) -> Iterable[tuple[str, bytes]]:
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            with open(path, "rb") as file:
                yield os.path.relpath(path, folder), file.read()


def _files_in(disk: Any) -> Iterable[tuple[str, bytes]]:
    disk = getattr(disk, "_disk", disk)  # behind a faulty one
    if hasattr(disk, "_cached"):  # a simulated one
        return [(path, bytes(inode.cached)) for path, inode in disk._cached.items()]
    return [(path, bytes(data)) for path, data in disk._files.items()]


@dataclass
class Model:
    """What must be readable after purges: number of a call -> what it said."""

    said: dict[int, str] = field(default_factory=dict)
    ended_at: dict[int, float | None] = field(default_factory=dict)
    run_of: dict[int, int] = field(default_factory=dict)
    held: set[int] = field(default_factory=set)

    def purge(self, *, before: float | None = None, run: int | None = None, text: str | None = None) -> None:
        for number in list(self.said):
            ended = self.ended_at[number]
            if run is not None and self.run_of[number] != run:
                continue
            if text is not None and text not in self.said[number]:
                continue
            if before is not None and (ended is None or ended >= before):
                continue
            if self.run_of[number] in self.held or (ended is None and text is None):
                continue
            del self.said[number]
