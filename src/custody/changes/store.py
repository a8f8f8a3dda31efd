"""Where old states are kept until they are needed or too old: a store's `undo/`, sealed files, one or more a
call.

Owns the folder, its key, and which calls are still at it. Knows nothing of what an old state is (`log`), how
it is sealed (`sealing`) or how much is too much (`bounds`). Used by everything in `changes`; made by whoever
opens the store.

    undo/<call id>      what the call's first change needs to be taken back; .1, .2 … its further ones
    undo/open/<same>    that change is not through yet; empty
    keys/undo           32 random bytes
"""

import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress

from custody.changes import entries
from custody.changes.bounds import Bounds, Kept
from custody.changes.log import SealedFile, UndoSet, damaged, read_set
from custody.changes.sealing import (
    HEADER_BYTES,
    KEY_BYTES,
    Damaged,
    Header,
    Seal,
    new_header,
    unpack_header,
)
from custody.changes.writing import UndoWriter, not_kept
from custody.errors import ToolError, UndoGone
from custody.journal import Disk
from custody.journal.disk import File, Lock
from custody.records import now_us

BYTES_MAX = 2 * 1024**3
"""Of all undo data together; the oldest go first."""
AGE_SECONDS = 7 * 24 * 3600
"""Who has not taken something back for a week has other copies."""
CALL_BYTES_MAX = 512 * 1024**2
"""Of old content in one change: a quarter of everything that is kept."""

FOLDER = "undo"
OPEN_FOLDER = "undo/open"
KEY = "keys/undo"
KEY_WAIT_SECONDS = 10.0
"""For another process to have made the key: it is a few milliseconds' work, and the disk may be busy."""

PARTS_MAX = 1 << 20
"""Changes of one call: taking back a run is one call, and a run may have as many calls."""

CREATE_TRIES_MAX = 8
"""Folders that are missing once, names that somebody else was quicker to take."""

_NAME = re.compile(r"([0-9a-f]{16})(?:\.([0-9]+))?")

Part = tuple[bytes, int]
"""A call, and which of its undo files."""


class UndoStore:
    """The undo data of one store. Safe for threads; several processes may share the store.

    Nothing is made on disk, and no key is read, before the first call that changes something.
    """

    def __init__(
        self,
        disk: Disk,
        *,
        bytes_max: int = BYTES_MAX,
        age_seconds: float = AGE_SECONDS,
        call_bytes_max: int = CALL_BYTES_MAX,
    ) -> None:
        self.call_bytes_max = call_bytes_max
        self._disk = disk
        self._bounds = Bounds(disk, f"{FOLDER}/bounds", bytes_max=bytes_max, age_seconds=age_seconds)
        self._key: bytes | None = None

    # -- writing ----------------------------------------------------------------------------------------

    def begin(
        self,
        call_id: bytes,
        *,
        roots: tuple[str, ...],
        observed: bool = False,
        owner: tuple[int, int] | None = None,
    ) -> UndoWriter:
        """The file that takes the old states of a call's next change. `owner`: the process that will change
        them, and when it started; None: this one. Raises ToolError: it cannot be made."""
        pid, start_ticks = owner or (os.getpid(), own_start_ticks())
        header = new_header(observed=observed, pid=pid, start_ticks=start_ticks, at_us=now_us())
        try:
            with suppress(OSError):  # a store that cannot be counted may still take this
                if self._bounds.due():
                    self.keep_within_bounds()
            key = self._store_key()
            file, part = self._create(call_id)
        except OSError as error:
            raise not_kept(error) from error
        writer = self._writer(file, key, header, (call_id, part))
        writer.header(header)
        writer.write(entries.Begun(entries.pack_paths(roots)))
        return writer

    def go_on(self, undo_set: UndoSet) -> UndoWriter:
        """The file of a dead process, to be ended. Raises OSError."""
        part = (undo_set.call_id, undo_set.part)
        file = self._disk.open(_path(part))
        header = unpack_header(file.read(HEADER_BYTES, 0))
        writer_number = int.from_bytes(os.urandom(4), "big") | 1
        return self._writer(
            file, self._store_key(), header, part,
            number=undo_set.end_number, offset=undo_set.end_offset, writer=writer_number,
        )  # fmt: skip

    def _writer(
        self,
        file: File,
        key: bytes,
        header: Header,
        part: Part,
        *,
        number: int = 0,
        offset: int = 0,
        writer: int = 0,
    ) -> UndoWriter:
        def leave(file_bytes: int | None) -> None:
            if file_bytes is None:
                self.forget(part)
            else:
                self.close(part)
                self._bounds.added(file_bytes)

        return UndoWriter(
            file,
            Seal(key, header, _name(part).encode()),
            call_id=part[0],
            part=part[1],
            content_bytes_max=self.call_bytes_max,
            mark=lambda: self._mark(part),
            sync_name=lambda: self._disk.sync_folder(FOLDER),
            leave=leave,
            number=number,
            offset=offset,
            writer=writer,
        )

    def _mark(self, part: Part) -> None:
        with suppress(FileExistsError):
            try:
                self._disk.open(_open_path(part), create=True).close()
            except FileNotFoundError:  # whoever makes the folders has come no further yet
                self._disk.make_folder(OPEN_FOLDER)
                self._disk.open(_open_path(part), create=True).close()

    def _create(self, call_id: bytes) -> tuple[File, int]:
        part = 0
        for _ in range(CREATE_TRIES_MAX):
            try:
                return self._disk.open(_path((call_id, part)), create=True), part
            except FileNotFoundError:
                self._disk.make_folder(OPEN_FOLDER)
            except FileExistsError:
                part = self.parts(call_id)
        return self._disk.open(_path((call_id, part)), create=True), part

    # -- reading ----------------------------------------------------------------------------------------

    def read(self, call_id: bytes, part: int = 0) -> UndoSet | None:
        """What was kept for a call's first change, or another; None when nothing is, or not any more.

        Raises UndoGone for a file that is damaged or sealed with another key, OSError.
        """
        name = (call_id, part)

        def open_file() -> File:
            return self._disk.open(_path(name), write=False)

        try:
            file = open_file()
        except FileNotFoundError:
            return None
        try:
            head = file.read(HEADER_BYTES, 0)
            if not any(head):
                return None  # its process died before it wrote anything, or the power went
            header = unpack_header(head)
            key = self._disk.read_all(KEY)
            if key is None:
                raise Damaged("the key of this store's undo data is gone")
            source = SealedFile(call_id, header, Seal(key, header, _name(name).encode()), open_file)
            undo_set = read_set(source, part, file)
        except Damaged as error:
            raise damaged(call_id, str(error)) from error
        finally:
            file.close()
        if undo_set.ready or self._exists(_open_path(name)):
            return undo_set
        if undo_set.damage is not None:
            raise damaged(call_id, undo_set.damage)
        return None  # its process died before it began

    def parts(self, call_id: bytes) -> int:
        """How many undo files a call has; they are numbered from 0."""
        past = 1
        while past < PARTS_MAX and self._exists(_path((call_id, past - 1))):
            past *= 2
        first, past = past // 2, past - 1
        while first < past:  # every part below `first` is there, `past` is not
            middle = (first + past) // 2
            if self._exists(_path((call_id, middle))):
                first = middle + 1
            else:
                past = middle
        return first

    def gone(self, call_id: bytes) -> UndoGone:
        """The error for a call that has nothing here: says the bounds beyond which nothing is kept."""
        bounds = self._bounds
        return UndoGone(
            f"Nothing is kept to take back call {call_id.hex()}: it changed no file, or it is too long ago "
            f"(old states are kept for {bounds.age_seconds / 86_400:g} days and up to "
            f"{bounds.bytes_max / 1024**2:,.0f} MiB).",
            hint="[undo] in the settings says how much is kept.",
            call_id=call_id.hex(),
        )

    def unfinished(self) -> list[Part]:
        """Changes that began and have not said that they are through."""
        found = map(_parse, self._disk.names(OPEN_FOLDER))
        return [part for part in found if part is not None]

    def call_ids(self) -> Iterable[bytes]:
        """Every call something is kept for, in no order."""
        return {part[0] for part in self._parts_kept()}

    def free_bytes(self) -> int:
        """Free space of the file system the store is on."""
        return self._disk.free_bytes()[0]

    # -- forgetting -------------------------------------------------------------------------------------

    def close(self, part: Part) -> None:
        """Its change is through, or will never be."""
        with suppress(FileNotFoundError):
            self._disk.remove(_open_path(part))

    def remove(self, call_id: bytes) -> None:
        """Forget all that was kept for a call; fine when nothing is."""
        for part in reversed(range(self.parts(call_id))):
            self.forget((call_id, part))

    def forget(self, part: Part) -> None:
        """Remove one undo file, the last of its call."""
        with suppress(FileNotFoundError):
            self._disk.remove(_path(part))
        self.close(part)

    def total_bytes(self) -> int:
        """What all undo data takes on the disk, counted now."""
        return sum(kept.disk_bytes for kept in self._kept())

    def keep_within_bounds(self) -> list[bytes]:
        """Remove what is too old or too much, oldest first, never of a call that is still at it."""
        return self._bounds.keep(self._kept, self.remove)

    def only_one(self) -> Lock | None:
        """The lock under which unfinished changes are ended; None: somebody else is at it."""
        try:
            return self._disk.lock(f"{FOLDER}/recovery.lock")
        except FileNotFoundError:  # there is no undo data yet
            return None

    def _kept(self) -> Iterable[Kept]:
        parts = list(self._parts_kept())
        still_at_it = {part[0] for part in self.unfinished()}
        for part in parts:
            try:
                file = self._disk.open(_path(part), write=False)
            except FileNotFoundError:
                continue
            try:
                size, head = file.size_bytes(), file.read(HEADER_BYTES, 0)
            finally:
                file.close()
            if not any(head):
                continue  # somebody is about to begin it
            try:
                at_us = unpack_header(head).at_us
            except Damaged:
                at_us = 0  # nobody can use it: the first to go
            yield Kept(call_id=part[0], at_us=at_us, file_bytes=size, at_it=part[0] in still_at_it)

    def _parts_kept(self) -> Iterable[Part]:
        found = map(_parse, self._disk.names(FOLDER))
        return (part for part in found if part is not None)

    def _exists(self, path: str) -> bool:
        try:
            self._disk.open(path, write=False).close()
        except FileNotFoundError:
            return False
        return True

    # -- the key ----------------------------------------------------------------------------------------

    def _store_key(self) -> bytes:
        """The key all of this store's undo data is sealed with, made on first use. Raises OSError,
        ToolError."""
        if self._key is None:  # two threads at once come to the same one
            self._key = self._disk.read_all(KEY) or self._make_key()
        return self._key

    def _make_key(self) -> bytes:
        self._disk.make_folder("keys")
        until = time.monotonic() + KEY_WAIT_SECONDS
        while True:
            lock = self._disk.lock(f"{KEY}.lock")
            try:
                key = self._disk.read_all(KEY)
                if key is None and lock is not None:
                    key = os.urandom(KEY_BYTES)
                    self._disk.replace(KEY, key)
            finally:
                if lock is not None:
                    lock.release()
            if key is not None:
                return key
            if time.monotonic() > until:
                raise ToolError("Another process holds the lock of the undo data's key. Nothing was changed.")
            time.sleep(0.002)


def _name(part: Part) -> str:
    call_id, number = part
    return f"{call_id.hex()}.{number}" if number else call_id.hex()


def _path(part: Part) -> str:
    return f"{FOLDER}/{_name(part)}"


def _open_path(part: Part) -> str:
    return f"{OPEN_FOLDER}/{_name(part)}"


def _parse(name: str) -> Part | None:
    found = _NAME.fullmatch(name)
    return None if found is None else (bytes.fromhex(found[1]), int(found[2] or 0))


_own: dict[int, int] = {}


def own_start_ticks() -> int:
    """When this process started; read once a process."""
    pid = os.getpid()
    if pid not in _own:
        from custody.sandbox import start_ticks

        _own[pid] = start_ticks(pid) or 0
    return _own[pid]
