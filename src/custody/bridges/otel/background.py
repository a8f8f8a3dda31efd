"""An exporter in a thread of its own, beside a program that has other things to do.

Owns the thread, the right to export (one process at a time for each destination) and the end: within
`STOP_SECONDS`, whatever the collector does. Used by `compose` and by `custody export otel --follow`.
"""

import logging
import threading
from collections.abc import Callable

from custody.bridges.otel.destination import Destination, OtelSection
from custody.bridges.otel.exporter import Exporter
from custody.errors import CustodyError
from custody.index import Index
from custody.journal import Journal
from custody.journal.disk import Lock
from custody.recorder import Recorder

STOP_SECONDS = 2.0  # a program that ends does not wait longer for a collector
SENDING_SHARE = 0.6  # of that for what is left; then the request is cut off, and there is time to save
LOCK_RETRY_SECONDS = 5.0  # how late another process takes over when the one that exported has ended

log = logging.getLogger("custody")


class BackgroundExport:
    """Exports from `start` to `stop`."""

    def __init__(
        self,
        journal: Journal,
        index: Index,
        make_exporter: Callable[[threading.Event], Exporter],
        lock: Lock | None = None,
    ) -> None:
        """`index` is closed at the end; a `lock` that was taken already is released."""
        self._stop = threading.Event()
        self.exporter = make_exporter(self._stop)
        self._journal = journal
        self._index = index
        self._lock = lock
        self._thread = threading.Thread(target=self._run, name="custody-export", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within that time."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """One more attempt at what is left, then the cursor is recorded. A second stop does nothing."""
        if not self._thread.is_alive():
            return  # also in a forked child, where the thread never was
        self._stop.set()
        if not self.wait(timeout * SENDING_SHARE):
            self.exporter.abort()
            if not self.wait(timeout * (1 - SENDING_SHARE)):
                # Inside something nobody can interrupt, such as a name being looked up; it dies with us.
                self._save()

    def _run(self) -> None:
        try:
            lock = self._locked()
            if lock is None:
                return
            try:
                self.exporter.follow()
                self._save()
            finally:
                lock.release()
        except Exception:
            log.exception("Exporting to %s has ended.", self.exporter.destination.shown)
        finally:
            self._index.close()

    def _locked(self) -> Lock | None:
        """The right to export; None when it is time to stop before another process has given it up."""
        waiting = False
        while True:  # also when it was told to stop before it began: there is something left to send
            lock = self._lock or self._journal.export_lock(self.exporter.destination.name)
            if lock is not None:
                return lock
            if not waiting:
                log.info("Another process exports to %s.", self.exporter.destination.shown)
            waiting = True
            if self._stop.wait(LOCK_RETRY_SECONDS):
                return None

    def _save(self) -> None:
        try:
            self.exporter.save()
        except CustodyError as error:
            log.warning("Where the export stands could not be recorded; some is sent again: %s", error)


def start_export(
    destination: Destination,
    section: OtelSection,
    journal: Journal,
    index: Index,
    make_recorder: Callable[[], Recorder],
) -> BackgroundExport:
    """Export what was not exported before and what is recorded from here on."""

    def make_exporter(stop: threading.Event) -> Exporter:
        return Exporter(
            journal=journal,
            index=index,
            make_recorder=make_recorder,
            destination=destination,
            content=section.content,
            service_name=section.service_name,
            say=log.warning,
            stop=stop,
        )

    export = BackgroundExport(journal, index, make_exporter)
    export.start()
    return export
