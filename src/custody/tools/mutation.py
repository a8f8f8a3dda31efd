"""One change of files as a tool plans it, and the carrying out: again where somebody else was quicker.

Owns the order of looking, the dry run and the new try. What is wanted where is each tool's own; doing it is
`changes`'. Used by `file_write`, `file_edit` and `file_delete`.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from custody.changes import Wanted, carry_out
from custody.errors import UndoConflict
from custody.files import State
from custody.records import Change
from custody.tools.threads import Changed
from custody.tools.tool import Context

TRIES_MAX = 8
"""A path that somebody else changes between the look and the act is looked at again; one that changes each
time is being written to all the time."""

FINISH_SECONDS = 10.0
"""Past its deadline a change either stops or is past stopping; it is given so long to say which."""


class Mutation(Struct, frozen=True):
    """What is to stand where, and what that rests on."""

    wanted: Sequence[Wanted]
    """Nothing: all of it stands there already."""
    expected: dict[str, State]
    """Absolute path -> what must still stand there when it is kept."""
    result: dict[str, Any]

    @property
    def place(self) -> str:
        """For messages: the path, or the folder that all of them are in."""
        paths = [one.target.path for one in self.wanted if one.state.kind == "file"]
        paths = paths or [one.target.path for one in self.wanted]
        return paths[0] if len(paths) == 1 else os.path.commonpath(paths)


def carried_out(
    plan: Callable[[], Mutation],
    context: Context,
    would: str,
    finished: Callable[[dict[str, Any], tuple[Change, ...]], dict[str, Any]] = lambda result, _: result,
) -> Any:
    """What the call ends with. `plan` looks and says what is to be done; it is asked again where that was
    overtaken. `would` is the result's name for what a dry run found; `finished` completes the result.

    Raises what `plan` raises, ToolError, UndoConflict, OSError; then nothing was changed.
    """
    for tried in range(1, TRIES_MAX + 1):
        planned = plan()
        if context.dry_run:
            return {"dry_run": True, would: planned.result}
        if not planned.wanted:
            return Changed(planned.result, ())
        try:
            changes = carry_out(
                context.undo,
                bytes.fromhex(context.call_id),
                planned.wanted,
                roots=context.scope.roots,
                stop=lambda: context.cancelled,
                expected=planned.expected,
            )
        except UndoConflict:
            if tried == TRIES_MAX:
                raise
        except OSError as error:  # it names a temporary file, or a part of a path
            raise OSError(error.errno, error.strerror, planned.place) from error
        else:
            return Changed(finished(planned.result, changes), changes)
    raise AssertionError("the last try has returned or raised")
