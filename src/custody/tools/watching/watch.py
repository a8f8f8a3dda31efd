"""What a command changes, told by a listing of its folders before it and one after it.

Owns which folders are looked at, when, and in which thread. What a listing is, and what differs between two,
is `listing`'s; what of it can be taken back is `settling`'s. Used by the tools that run commands.

This is seen from outside: what somebody else changes in these folders meanwhile is told as the command's, and
what was changed and changed back is not told.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from custody.tools.roots import Scope
from custody.tools.tool import Context
from custody.tools.watching.clones import FILES_MAX, CannotClone, Clones
from custody.tools.watching.listing import Entry, Listing, differences, list_folders

if TYPE_CHECKING:
    from custody.records import Change

AT_ONCE_ENTRIES_MAX = 64
"""So few are listed without a thread, which takes as long to begin; the check of the working directory has
looked at the folder a moment ago."""
BEGIN_WAIT_SECONDS = 3.0  # a disk or server that does not answer holds up no command for longer
FINISH_WAIT_SECONDS = 10.0  # the same, with the reading of what changed

_TEMPORARY_FOLDERS = ("/tmp", "/var/tmp")

Result = TypeVar("Result")

_cannot_clone: set[int] = set()
"""Devices that were found not to share blocks between files: one try takes longer than listing a folder."""


class Told(NamedTuple):
    """What a command changed."""

    changes: "tuple[Change, ...] | None"
    """None: nobody looked."""
    unwatched: str | None
    """A sentence where not all was looked at."""


class Watch:
    """One command's folders as they were before it. `close` it."""

    def __init__(
        self,
        scope: Scope,
        before: Listing | None,
        clones: Clones | None = None,
        *,
        why_not: str | None = None,
    ) -> None:
        self._scope = scope
        self._before = before
        self._clones = clones
        self._why_not = why_not

    def close(self) -> None:
        if self._clones is not None:
            self._clones.close()

    async def finish(self, context: Context) -> Told:
        """Look again. Raises nothing that would take the command's result with it."""
        before = self._before
        if before is None or not before.folders:
            return Told(None, self._why_not if before is None else _words(before, before))
        after = _at_once(before.roots) if before.entries <= AT_ONCE_ENTRIES_MAX else None
        if after is not None and not differences(before, after):
            return Told((), _words(before, after))
        clones, self._clones = self._clones, None  # the thread's, until it is through

        def look_again() -> Told:
            try:
                return self._settle(before, after or list_folders(before.roots), clones, context)
            finally:
                if clones is not None:
                    clones.close()

        try:
            told = await _in_thread(look_again, FINISH_WAIT_SECONDS)
        except Exception as error:  # what was run is on the record whatever becomes of the watching
            return Told(None, _failure(error))
        return told or Told(None, _no_answer(FINISH_WAIT_SECONDS))

    def _settle(self, before: Listing, after: Listing, clones: Clones | None, context: Context) -> Told:
        found = differences(before, after)
        if found:  # as the store may be in the workspace: what Custody itself wrote meanwhile
            own = tuple(f"{path}/" for path in self._scope.protected().own)
            found = [one for one in found if not f"{one.path}/".startswith(own)]
        if not found:
            return Told((), _words(before, after))
        from custody.tools.watching.settling import Place, settle  # here: most commands change nothing

        place = Place(self._scope.roots, self._scope.protected(), before, after, clones)
        changes = settle(found, place, lambda: context.undo, bytes.fromhex(context.call_id))
        return Told(changes, _words(before, after))


async def begin(scope: Scope, wait_seconds: float | None) -> Watch:
    """Look at the folders of a command that has not begun, for so long at most. Raises nothing."""
    roots = watched_folders(scope)
    device = _device(roots[0])
    if device in _cannot_clone and (listing := _at_once(roots)) is not None:
        return Watch(scope, listing)

    def look() -> Watch:
        listing = list_folders(roots)
        return Watch(scope, listing, _clones_of(roots[0], device, listing))

    seconds = BEGIN_WAIT_SECONDS if wait_seconds is None else min(wait_seconds, BEGIN_WAIT_SECONDS)
    try:
        watch = await _in_thread(look, seconds, discard=Watch.close)
    except Exception as error:
        return Watch(scope, None, why_not=_failure(error))
    return watch or Watch(scope, None, why_not=_no_answer(seconds))


def watched_folders(scope: Scope) -> tuple[str, ...]:
    """The root that holds the working directory, then the others.

    The system's temporary folder is full of what others write at the same time: of it only the working
    directory, if it is there.
    """
    cwd = os.path.realpath(scope.cwd)
    temporary = _temporary_folders()
    around = [root for root in scope.roots if f"{cwd}/".startswith(f"{root.rstrip('/')}/")]
    nearest = max(around, key=len, default=cwd)
    first = cwd if nearest in temporary else nearest
    return first, *(root for root in scope.roots if root != nearest and root not in temporary)


def _temporary_folders() -> frozenset[str]:
    return _real_folders(tuple(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")))


@lru_cache(maxsize=4)
def _real_folders(named: tuple[str | None, ...]) -> frozenset[str]:
    return frozenset(os.path.realpath(folder) for folder in (*named, *_TEMPORARY_FOLDERS) if folder)


def _at_once(roots: tuple[str, ...]) -> Listing | None:
    """A listing of folders that hold next to nothing; None where they hold more."""
    listing = list_folders(roots, entries_max=AT_ONCE_ENTRIES_MAX)
    return None if listing.beyond else listing


def _device(folder: str) -> int | None:
    try:
        return os.stat(folder).st_dev
    except OSError:
        return None


def _clones_of(root: str, device: int | None, listing: Listing) -> Clones | None:
    """Clones of the first files, the nearest to the root first; None where there can be none."""
    if device is None or device in _cannot_clone:
        return None
    try:
        clones = Clones(root)
    except CannotClone as reason:
        if not isinstance(reason.__cause__, PermissionError):
            _cannot_clone.add(device)
        return None
    clones.take(_first_files(root, listing))
    return clones


def _first_files(root: str, listing: Listing) -> dict[str, Entry]:
    files: dict[str, Entry] = {}
    for folder, names in listing.folders.items():
        if not f"{folder}/".startswith(f"{root.rstrip('/')}/"):
            continue
        for name in names:
            entry = listing.entry(folder, name)
            if entry.kind == "file" and entry.size:
                files[f"{folder.rstrip('/')}/{name}"] = entry
                if len(files) >= FILES_MAX:
                    return files
    return files


def _words(before: Listing, after: Listing) -> str | None:
    beyond = before.beyond or after.beyond
    if not beyond:
        return None
    count = len({*before.beyond, *after.beyond})
    folders = "1 folder was" if count == 1 else f"{count} folders were"
    return (
        f"{folders} not looked into ({beyond[0]} the first): too many entries, or not readable. "
        "What changed there is not told."
    )


def _failure(error: Exception) -> str:
    return f"Looking for changes failed: {type(error).__name__}: {error}"


def _no_answer(seconds: float) -> str:
    return f"The file system did not answer within {seconds:g} s. What changed is not told."


def _let_go(_: object) -> None:
    """Nothing is left to be closed."""


async def _in_thread(
    work: Callable[[], Result], seconds: float, *, discard: Callable[[Result], None] = _let_go
) -> Result | None:
    """What `work` returns from a thread of its own; None when it takes longer, and then it is discarded."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Result] = loop.create_future()

    def take(result: Result | None, error: BaseException | None) -> None:
        if answer.done():
            if result is not None:
                discard(result)
        elif error is not None:
            answer.set_exception(error)
        else:
            assert result is not None, "work gives a result or raises"
            answer.set_result(result)

    def run() -> None:
        result = error = None
        try:
            result = work()
        except BaseException as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(take, result, error)
        except RuntimeError:  # the loop has closed meanwhile
            if result is not None:
                discard(result)

    threading.Thread(target=run, name="custody-watch", daemon=True).start()
    try:
        await asyncio.wait({answer}, timeout=seconds)
        return answer.result() if answer.done() else None
    finally:
        answer.cancel()
