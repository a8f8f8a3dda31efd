"""The bounds of the settings kept by a process that lives long: looked at once a day, beside its work.

Owns when that is due, for all processes of a store together, and the thread. A command that ends soon never
does it: its first look comes when it is gone. What fails is tried again an hour later. Used by `compose`.
"""

import logging
import threading
from collections.abc import Callable

from custody.errors import CustodyError
from custody.records import now_us
from custody.retention.bounds import DAY_US, Bounds
from custody.retention.finish import finish_purges
from custody.retention.means import Means
from custody.retention.plan import plan_purge
from custody.retention.purge import Purged, carry_out
from custody.retention.selection import Selection

FIRST_SECONDS = 60.0
"""A process that is still there by then is no command somebody waits for."""

AGAIN_SECONDS = 3600.0
"""Between two looks whether it is due: a day late is early enough."""

STOP_SECONDS = 5.0
"""For a step that is under way; what is left of it, the next opening finishes."""

PAUSE_SECONDS = 0.05
"""After every few thousand records: who acts meanwhile goes first."""

log = logging.getLogger("custody.retention")


class Keeper:
    """Keeps one store within its bounds. Starts no thread where there is no bound."""

    def __init__(
        self,
        bounds: Bounds,
        make_means: Callable[[], Means],
        *,
        first_seconds: float = FIRST_SECONDS,
        beside: Callable[[], object] | None = None,
    ) -> None:
        """`beside`: what else is kept within its bounds, each time it looks."""
        self._bounds = bounds
        self._beside = beside
        self._make_means = make_means
        self._first_seconds = first_seconds
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._bounds or self._beside is not None:
            self._thread = threading.Thread(target=self._run, name="custody-retention", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        seconds = self._first_seconds
        while not self._stopped.wait(seconds):
            seconds = AGAIN_SECONDS
            try:
                if self._beside is not None:
                    self._beside()
                if self._bounds:
                    self.keep()
            except (CustodyError, OSError) as error:
                log.warning("the store could not be kept within its bounds: %s", error)

    def keep(self) -> Purged | None:
        """Purge what is beyond the bounds, if nobody has in the last day. None: it was not due, or somebody
        else is at it."""
        means = self._make_means()
        purging = means.journal.purging
        if now_us() - purging.kept_at_us() < DAY_US:
            return None
        lock = purging.lock()
        if lock is None:
            return None
        try:
            finish_purges(means, locked=True)
            done = self._purge(means)
            purging.note_kept(now_us())
        finally:
            lock.release()
            means.index.close()
        if done.records:
            log.info("purged what %d records said, as %s", done.records, done.purge_id)
        return done

    def _purge(self, means: Means) -> Purged:
        before_us = self._bounds.before_us(means.journal, now_us(), self._pause)
        if before_us is None:
            return Purged(purge_id=None)
        plan = plan_purge(means.journal, Selection(before_us=before_us), self._pause)
        return carry_out(means, plan, reason="retention")

    def _pause(self, _: int) -> None:
        if self._stopped.wait(PAUSE_SECONDS):
            raise CustodyError("The process ends.")
