"""A store opened for a looking command, with what a person should hear of its opening.

Used by every command that reads.
"""

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from custody.cli.invocation import message

if TYPE_CHECKING:
    from custody.stores import View
from custody.settings import Settings

PROGRESS_AFTER_SECONDS = 1.0  # what is faster needs no explanation
PROGRESS_SECONDS = 0.2  # between two lines, so that printing does not slow the work


@contextmanager
def opened(settings: "Settings") -> Generator["View"]:
    """The store, to be looked at, its index brought up to date.

    Says which calls of dead processes it found, and how far it is when the index takes long.
    """
    from custody.stores import open_view

    with Progress() as progress:
        view = open_view(settings, progress)
    with view:
        unknown = len(view.recovered.calls_unknown)
        if unknown:
            what = "a call" if unknown == 1 else f"{unknown} calls"
            message(f"{what} of a process that died is now recorded as unknown.")
        yield view
        if view.index.damage is not None:
            raise view.index.damage  # after what could be shown, so that nobody takes it for all there is


class Progress:
    """A line on a terminal that says how many records have been read, once that takes long."""

    def __init__(self, doing: str = "indexing") -> None:
        self._doing = doing
        self._began = self._said = time.monotonic()
        self._shown = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def __call__(self, records: int) -> None:
        now = time.monotonic()
        if now - self._began < PROGRESS_AFTER_SECONDS or now - self._said < PROGRESS_SECONDS:
            return
        self._said = now
        if sys.stderr.isatty():
            self._shown = True
            rate = records / (now - self._began)
            sys.stderr.write(f"\rcustody: {self._doing}, {records:,} records so far ({rate:,.0f}/s)\x1b[K")
            sys.stderr.flush()
