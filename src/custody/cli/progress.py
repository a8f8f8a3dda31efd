"""A line on a terminal that says how far a command is, once that takes long.

Used by every command whose work may take more than a second.
"""

import sys
import time

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
