"""A line on a terminal that says how far a command is, or how long it has taken, once that takes long.

Used by every command whose work may take more than a second.
"""

import os
import sys
import threading
import time
from typing import Self

PROGRESS_AFTER_SECONDS = 1.0  # what is faster needs no explanation
PROGRESS_SECONDS = 0.2  # between two lines, so that printing does not slow the work


class Progress:
    """Called with how many are done; `with` it, and the line is gone at the end."""

    def __init__(self, what: str) -> None:
        """`what` is done, with `{}` where the number stands: `{} records read`."""
        self._what = what
        self._began = self._said = time.monotonic()
        self._shown = False

    def __enter__(self) -> "Progress":
        return self

    def __call__(self, count: int) -> None:
        now = time.monotonic()
        if now - self._began < PROGRESS_AFTER_SECONDS or now - self._said < PROGRESS_SECONDS:
            return
        self._said = now
        if sys.stderr.isatty():
            self._shown = True
            rate = count / (now - self._began)
            sys.stderr.write(f"\rcustody: {self._what.format(f'{count:,}')} so far ({rate:,.0f}/s)\x1b[K")
            sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


class Waiting:
    """Says how long something takes that cannot tell how far it is; `with` it, and the line is gone after."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> Self:
        if os.isatty(2):
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _show(self) -> None:
        began = time.monotonic()
        if self._over.wait(PROGRESS_AFTER_SECONDS):
            return
        while not self._over.wait(PROGRESS_SECONDS):
            sys.stderr.write(f"\rcustody: {self._what}, {time.monotonic() - began:.0f} s so far\x1b[K")
            sys.stderr.flush()
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
