"""What opening a store takes: disk, keys, recorder, index, and the care for what crashes left.

Owns how the settings become each of these, for calls (`open_store`) and for questions (`View`). Makes no
runtime: that is `compose`'s. Used by `compose` and the command line.
"""

import atexit
import functools
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Self

from custody.checkpoints import seen_by_writer
from custody.errors import CorruptJournal, CustodyError, HeldBusy, NotRecorded, StoreReadOnly, StoreUnusable
from custody.journal import Disk, Journal, MemoryDisk, RealDisk
from custody.recorder import Draft, Recorder
from custody.records import IdSource
from custody.redaction import Redactor, secrets_of
from custody.settings import MEMORY, Settings

if TYPE_CHECKING:
    from custody.calls.private_folders import PrivateFolders
    from custody.calls.recovery import Recovered
    from custody.changes import HeldStore, UndoStore
    from custody.index import Index, Progress
    from custody.redaction import ScanRule

DAY_SECONDS = 24 * 3600
ALLOWED_FILE = "keys/allowed.json"
REDACTION_KEY = "keys/redaction.key"
OWN_TOKENS = ("keys/serve.token", "keys/host.token")
REDACTION_KEY_BYTES = 32
KEY_WAIT_SECONDS = 30.0  # whoever has the lock writes one small file, on a disk that may be slow
KEY_LOOK_SECONDS = 0.002
PURGE_FOLDER = "journal/purge"


def open_disk(store: str, *, create: bool = True) -> Disk:
    """The store's folder, or memory. Raises StoreError; warns about a network file system."""
    if store == MEMORY:
        return MemoryDisk()
    disk = RealDisk(store, create=create)
    network = disk.network_filesystem()
    if network is not None:
        warnings.warn(
            f"The store {store} is on a network file system ({network}): locks and syncs there may not hold. "
            "Choose a local folder with --store.",
            stacklevel=2,
        )
    return disk


def open_index(store: str, journal: Journal) -> "Index":
    """The index of a store. Loaded here, not with this module: most commands only make calls."""
    from custody.index import Index

    return Index(None if store == MEMORY else os.path.join(store, "index.db"), journal)


def redaction_key(disk: Disk) -> bytes:
    """The store's fingerprint key, made on first use. Raises OSError, StoreUnusable."""
    return disk.read_all(REDACTION_KEY) or _make_redaction_key(disk)


def _make_redaction_key(disk: Disk) -> bytes:
    """Of processes that come at once one makes it: fingerprints of two keys are never alike. Raises OSError,
    StoreUnusable."""
    disk.make_folder("keys")
    until = time.monotonic() + KEY_WAIT_SECONDS
    while (lock := disk.lock(REDACTION_KEY + ".lock")) is None:
        if time.monotonic() > until:
            raise StoreUnusable("Another process has been making the store's redaction key all this time.")
        time.sleep(KEY_LOOK_SECONDS)
    try:
        key = disk.read_all(REDACTION_KEY)
        if key is None:
            key = os.urandom(REDACTION_KEY_BYTES)
            disk.replace(REDACTION_KEY, key)
        return key
    finally:
        lock.release()


def make_recorder(
    disk: Disk, journal: Journal, environ: Mapping[str, str], settings: Settings | None = None
) -> Recorder:
    """The recorder of a store; knows the values of secret-looking environment variables. `settings` may add
    rules for scanners and bounds. Raises InvalidSetting."""
    from custody.redaction.log import keep_log_clean  # with logging, which not every command loads

    redactor = make_redactor(disk, environ, settings)
    keep_log_clean(redactor)
    return Recorder(journal, redactor, IdSource(), seen_by_writer(disk))


def make_redactor(disk: Disk, environ: Mapping[str, str], settings: Settings | None) -> Redactor:
    """What replaces secrets for a store. Raises InvalidSetting."""
    key, allowed = redaction_key(disk), allowed_in(disk)
    known = secrets_of(environ) | own_tokens(disk)
    if settings is None:
        return Redactor(key, known, allowed=allowed)
    section = settings.file.redaction
    return Redactor(
        key,
        known,
        rules=scan_rules(settings),
        allowed=allowed,
        bytes_max=section.bytes_max,
        ms_max=section.ms_max,
    )


def own_tokens(disk: Disk) -> dict[str, str]:
    """The tokens that lie in the store as they are: whoever prints one must not put it on the record."""
    found: dict[str, str] = {}
    for path in OWN_TOKENS:
        try:
            token = (disk.read_all(path) or b"").decode("ascii", "replace").strip()
        except OSError:
            continue  # then it admits nobody either
        if token:
            found[path] = token
    return found


def allowed_in(disk: Disk) -> frozenset[str]:
    """Fingerprints of what a person has said is no secret. A file that cannot be read allows nothing."""
    try:
        data = disk.read_all(ALLOWED_FILE)
        if data is None:
            return frozenset()
        from custody.redaction.allowed import fingerprints_in

        return fingerprints_in(data)
    except (OSError, ValueError) as error:
        warnings.warn(
            f"{ALLOWED_FILE} cannot be read, so nothing is allowed: {error}. "
            "`custody redact list` writes it anew.",
            stacklevel=2,
        )
        return frozenset()


def scan_rules(settings: Settings) -> "tuple[ScanRule, ...]":
    """The scanner rules of the files that the settings name. Raises InvalidSetting."""
    paths = settings.file.redaction.rules
    if not paths:
        return ()
    from custody.redaction import load_rules

    rules: list[ScanRule] = []
    for path in paths:
        rules += load_rules(os.path.expanduser(path), frozenset(rule.id for rule in rules))
    return tuple(rules)


class View:
    """A store opened to be looked at. Calls of dead processes are closed first where it may be written."""

    def __init__(self, settings: Settings, progress: "Progress | None" = None) -> None:
        from custody.calls.recovery import Recovered, recover

        disk = open_disk(settings.store, create=False)
        self.journal = Journal(disk)
        self.index = open_index(settings.store, self.journal)
        self._open_undo = lambda: undo_store(settings, disk)
        self.recovered = Recovered()
        try:
            self.index.refresh(progress)
            self.recovered = recover(
                self.journal,
                self.index,
                lambda: make_recorder(disk, self.journal, os.environ, settings),
                lambda: self.undo,
                lambda: held_store(settings),
            )
            _remove_private_folders(settings, self.index, self.recovered)
            if disk.names(PURGE_FOLDER):
                finish_purges(
                    settings,
                    self.journal,
                    self.index,
                    lambda: make_recorder(disk, self.journal, os.environ, settings),
                    lambda: self.undo,
                )
        except CorruptJournal:
            pass  # what can be read is shown; `index.damage` says what cannot
        except (OSError, NotRecorded) as error:
            warnings.warn(f"Calls of dead processes could not be closed: {error}", stacklevel=2)

    @functools.cached_property
    def undo(self) -> "UndoStore":
        """What files were before calls changed them."""
        return self._open_undo()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.index.close()
        self.journal.close()


def open_view(settings: Settings, progress: "Progress | None" = None) -> View:
    """Open a store for questions, the index caught up. Raises StoreError when there is none."""
    return View(settings, progress)


class OpenStore(NamedTuple):
    disk: Disk
    journal: Journal
    recorder: Recorder
    recovered: "Recovered | None"


def open_store(settings: Settings, disk: Disk | None, environ: Mapping[str, str]) -> OpenStore:
    """Take a shard of the store, and close what dead processes left open. Raises StoreError, NotRecorded."""
    try:
        disk = disk or open_disk(settings.store)
        journal = Journal(disk)
        recorder = make_recorder(disk, journal, environ, settings)
        journal.lease()
    except OSError as error:
        raise StoreReadOnly(
            f"The store {settings.store} cannot be written: {error.strerror or error}.",
            hint="Make room, or choose another with CUSTODY_STORE or --store.",
        ) from error
    unfinished = unfinished_in(settings.store)
    if unfinished:
        from custody.calls.recording import retry_unfinished

        retry_unfinished(recorder, unfinished)
    recovered = recover_from_crashes(settings, journal, disk, lambda: recorder)
    try:
        discard_expired_of(settings, journal, lambda: recorder)
    except (CustodyError, OSError) as error:
        warnings.warn(f"Held changes whose time is over could not be discarded: {error}", stacklevel=2)
    if disk.names(PURGE_FOLDER):
        index = open_index(settings.store, journal)
        try:
            finish_purges(settings, journal, index, lambda: recorder, lambda: undo_store(settings, disk))
        finally:
            index.close()
    return OpenStore(disk, journal, recorder, recovered)


_unfinished: "dict[str, list[Draft]]" = {}
"""Store -> ends of runs that this process could not record; tried again when it opens the store again."""


def unfinished_in(store: str) -> "list[Draft]":
    return [] if store == MEMORY else _unfinished.setdefault(store, [])


def undo_store(settings: Settings, disk: Disk) -> "UndoStore":
    """Where a store keeps what files were before they were changed."""
    from custody.changes import UndoStore

    undo = settings.file.undo
    return UndoStore(
        disk,
        bytes_max=undo.bytes_max,
        age_seconds=undo.days_max * DAY_SECONDS,
        call_bytes_max=undo.call_bytes_max,
    )


def held_store(settings: Settings) -> "HeldStore":
    """Where a store keeps changes of commands until they are committed or discarded."""
    from custody.changes import HeldStore

    @functools.cache
    def folder() -> str:
        if settings.store != MEMORY:
            return os.path.join(settings.store, "undo", "held")
        made = tempfile.mkdtemp(prefix="custody-")
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        return made

    return HeldStore(folder, bytes_max=settings.file.undo.call_bytes_max)


def private_folders(settings: Settings) -> "PrivateFolders":
    """Where the private folders of runs are; they come and go with the first command behind walls."""
    from custody.calls.private_folders import PrivateFolders

    is_on_disk = settings.store != MEMORY
    return PrivateFolders(os.path.join(settings.store, "undo", "private") if is_on_disk else None)


def discard_expired_of(
    settings: Settings, journal: Journal, make_recorder: Callable[[], Recorder]
) -> list[bytes]:
    """Discard held changes whose time is over, on the record; whose they were. Raises CustodyError,
    OSError."""
    held, days_max = os.path.join(settings.store, "undo", "held"), settings.file.undo.held_days_max
    if not days_max or settings.store == MEMORY or not os.path.isdir(held):
        return []
    from custody.retention.expiry import discard_expired  # few stores hold anything

    store, now_ns = held_store(settings), time.time_ns()
    return discard_expired(
        store, days_max, now_ns, lambda: open_index(settings.store, journal), make_recorder
    )


def recover_from_crashes(
    settings: Settings, journal: Journal, disk: Disk, recorder: Callable[[], Recorder]
) -> "Recovered | None":
    """Close what dead processes left open; None when none did."""
    if not journal.left_open():
        return None
    from custody.calls.recovery import recover

    index = open_index(settings.store, journal)
    try:
        recovered = recover(
            journal, index, recorder, lambda: undo_store(settings, disk), lambda: held_store(settings)
        )
        _remove_private_folders(settings, index, recovered)
        return recovered
    finally:
        index.close()


def _remove_private_folders(settings: Settings, index: "Index", recovered: "Recovered") -> None:
    """Those of runs that have ended and, like their processes, did not come to it."""

    def still_open() -> set[str]:
        return {run.run_id.hex() for run in index.open_runs()} - set(recovered.runs_incomplete)

    private_folders(settings).sweep(still_open)


def finish_purges(
    settings: Settings,
    journal: Journal,
    index: "Index",
    recorder: Callable[[], Recorder],
    open_undo: "Callable[[], UndoStore]",
) -> None:
    """Go on with what a crash cut short of a purge; what cannot be done now is left to the next who opens."""
    from custody.retention import Means, finish_purges, forgetting

    means = Means(
        journal=journal,
        index=index,
        make_recorder=recorder,
        forget_undo=forgetting(open_undo, lambda: held_store(settings)),
    )
    try:
        finish_purges(means)
    except (OSError, CorruptJournal, NotRecorded, HeldBusy) as error:
        warnings.warn(f"A purge that a crash cut short could not be finished: {error}", stacklevel=2)
