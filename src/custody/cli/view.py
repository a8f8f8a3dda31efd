"""A store opened for a looking command, with what a person should hear of its opening.

Used by every command that reads.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from custody.cli.invocation import message
from custody.cli.progress import Progress

if TYPE_CHECKING:
    from custody.settings import Settings
    from custody.stores import View


@contextmanager
def opened(settings: "Settings") -> Generator["View"]:
    """The store, to be looked at, its index brought up to date.

    Says which calls of dead processes it found, and how far it is when the index takes long.
    """
    from custody.stores import open_view

    with Progress("indexing, {} records") as progress:
        view = open_view(settings, progress)
    with view:
        unknown = len(view.recovered.calls_unknown)
        if unknown:
            what = "a call" if unknown == 1 else f"{unknown} calls"
            message(f"{what} of a process that died is now recorded as unknown.")
        yield view
        if view.index.damage is not None:
            raise view.index.damage  # after what could be shown, so that nobody takes it for all there is
