"""Two versions of a file, found again and put side by side.

Owns where a version is looked for: what was before in the undo data, what a call left in the file while
it is still that, or among the arguments of the call. A version counts only by its digest, so that nobody is
shown another text as the one that was recorded. Of changes that are held the old version is what stands
there, while nothing was done to it, and the new one is held. What is shown passes the redaction of texts.
Used by `show` and `changes`.
"""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from custody.cli.changed import relative
from custody.cli.invocation import printable
from custody.cli.render import UNKNOWN, paint, size
from custody.errors import NothingHeld, UndoGone
from custody.records import Call, Change, Version

if TYPE_CHECKING:
    from custody.changes import HeldSet, UndoSet, UndoStore
    from custody.redaction import Redactor
    from custody.settings import Settings
    from custody.stores import View

VERSION_BYTES_MAX = 1024 * 1024
"""Of one version of a file: a larger one is not read by a person, and comparing takes quadratic time."""

DIFFS_SHOWN_MAX = 200  # files; a person who wants more asks for a call

DIGEST_DIGITS = 12  # of a binary file's digest: enough to tell two versions apart

COMPARED = ("created", "modified", "deleted", "renamed")
"""Kinds of change that may have touched a file's content; of the others the line says everything."""

HEADER_LINES = 2  # `---` and `+++`, which else could be lines of the file
LINE_STYLES = {"+": "green", "-": "red", "@": "cyan"}


class Diff(Struct, frozen=True, kw_only=True):
    """What changed in a file."""

    lines: list[str] | None
    """In the unified format, without line ends; None where there is nothing to be shown."""
    why: str | None = None
    """Why there are no lines."""


class Differ:
    """Compares what stood at the paths that calls changed. It is told of the calls first, in their order."""

    old_is_gone = "what was there before is not kept"
    new_is_gone = "what was left there is no longer there"

    def __init__(self, view: "View", settings: "Settings") -> None:
        self._view = view
        self._settings = settings
        self._redactor: Redactor | None = None
        self._kept_by: dict[tuple[str, str], str] = {}
        """Path and digest of an old version -> the call that kept it."""
        self._said_by: dict[tuple[str, str], str] = {}
        """Path and digest of a new version -> the call that was given it."""
        self._opened: tuple[str, list[UndoSet]] | None = None

    def know(self, call: Call) -> None:
        changing = call.settled_by if call.held == "committed" and call.settled_by is not None else call.id
        for change in call.changes or ():
            if change.before is not None and change.before.sha256 is not None:
                old_path = change.renamed_from or change.path
                self._kept_by.setdefault((old_path, change.before.sha256), changing)
            if call.tool == "file_write" and change.after is not None and change.after.sha256 is not None:
                self._said_by[change.path, change.after.sha256] = call.id

    def alone(self, call: Call) -> "Differ":
        """One that knows of this call and no other."""
        return differ_of(self._view, self._settings, call)

    def diff(self, change: Change, base: str | None) -> Diff | None:
        """None where the change is not one of content."""
        if change.kind != "file" or change.change not in COMPARED:
            return None
        before, after = change.before, change.after
        if before is not None and after is not None and before.sha256 == after.sha256 is not None:
            return None
        largest = max(version.bytes or 0 for version in (before, after) if version is not None)
        if largest > VERSION_BYTES_MAX:
            return Diff(lines=None, why=f"not compared: {size(largest)} is much to read")
        new = None if after is None else self._new(change.path, after)
        if after is not None and new is None:
            return Diff(lines=None, why=self.new_is_gone)
        old = None if before is None else self._old(change.renamed_from or change.path, before)
        if old is None and before is not None and new is not None and _is(new[: before.bytes], before):
            old = new[: before.bytes]  # something was added at its end
        if before is not None and old is None:
            return Diff(lines=None, why=self.old_is_gone)
        return self._compared(change, old, new, base)

    def _compared(self, change: Change, old: bytes | None, new: bytes | None, base: str | None) -> Diff:
        from custody.changes import unified

        lines = unified(self._clean(old), self._clean(new), relative(change.path, base))
        if lines is None:
            return Diff(lines=None, why=f"binary: {_binary(change.before)} → {_binary(change.after)}")
        return Diff(lines=lines)

    # -- the versions ---------------------------------------------------------------------------------

    def _old(self, path: str, version: Version) -> bytes | None:
        """What stood there, from the undo data of the call that replaced it."""
        if version.sha256 is None:
            return None
        call_id = self._kept_by.get((path, version.sha256))
        for kept in () if call_id is None else self._kept(call_id):
            try:
                content = kept.content_of(path, VERSION_BYTES_MAX)
            except UndoGone:
                continue
            if content is not None and _is(content, version):
                return content
        return None

    def _new(self, path: str, version: Version) -> bytes | None:
        """What a call left there: still in its place, kept by the call that replaced it, or an argument."""
        if version.sha256 is None:
            return None
        content = read_now(path, version)
        if content is None and (path, version.sha256) in self._kept_by:
            content = self._old(path, version)
        if content is None and (path, version.sha256) in self._said_by:
            content = self._said(self._said_by[path, version.sha256])
        return content if content is not None and _is(content, version) else None

    def _kept(self, call_id: str) -> "list[UndoSet]":
        """The undo data of a call, in its parts; of the last call asked for it stays open."""
        if self._opened is None or self._opened[0] != call_id:
            self._opened = (call_id, list(_parts(self._view.undo, bytes.fromhex(call_id))))
        return self._opened[1]

    def _said(self, call_id: str) -> bytes | None:
        arguments: Any = self._view.index.call(call_id, details=False, refresh=False).arguments
        content: Any = arguments.get("content") if isinstance(arguments, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return content.encode("utf-8", "surrogatepass") if isinstance(content, str) else None

    def _clean(self, content: bytes | None) -> bytes | None:
        """Text without the secrets this process knows of; what is no text is not shown anyway."""
        try:
            text = None if content is None else content.decode()
        except UnicodeDecodeError:
            return content
        if text is None:
            return None
        if self._redactor is None:
            self._redactor = _redactor(self._settings)
        return self._redactor.text(text, "diff")[0].encode()


class HeldDiffer(Differ):
    """Compares what stands at the paths of held changes with what is held."""

    old_is_gone = "what was there has been changed since"
    new_is_gone = "it is not held any more"

    def __init__(self, view: "View", settings: "Settings", held: "HeldSet") -> None:
        super().__init__(view, settings)
        self._held = held
        self._entries = {entry.target.path: entry for entry in held.entries}

    def _old(self, path: str, version: Version) -> bytes | None:
        entry = self._entries.get(path)
        return None if entry is None else read_now(path, version, ctime_ns=entry.ctime_ns)

    def _new(self, path: str, version: Version) -> bytes | None:
        entry = self._entries.get(path)
        if entry is None or not entry.content:
            return None
        try:
            content = b"".join(self._held.content(entry.target)())
        except (NothingHeld, OSError):
            return None
        return content if _is(content, version) else None


def differ_of(view: "View", settings: "Settings", call: Call) -> Differ:
    """One for the changes of this call alone."""
    if call.held == "held":
        from custody.stores import held_store

        held = held_store(settings).read(bytes.fromhex(call.id))
        if held is not None:
            if call.held_digest not in (None, held.manifest_digest.hex()):
                from custody.changes.held import another_set

                raise another_set(held.call_id)
            return HeldDiffer(view, settings, held)
    differ = Differ(view, settings)
    differ.know(call)
    return differ


def _parts(undo: "UndoStore", call_id: bytes) -> "Iterator[UndoSet]":
    part = 0
    while True:
        try:
            kept = undo.read(call_id, part)
        except UndoGone:
            return
        if kept is None:
            return
        yield kept
        part += 1


def _redactor(settings: "Settings") -> "Redactor":
    from custody.stores import make_redactor, open_disk

    return make_redactor(open_disk(settings.store, create=False), os.environ, settings)


def _is(content: bytes, version: Version) -> bool:
    return hashlib.sha256(content).hexdigest() == version.sha256


def read_now(path: str, version: Version, *, ctime_ns: int | None = None) -> bytes | None:
    """The file's content, if by its size, and by when anything was last done to it, it may be this version.
    Never waits, whatever stands there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size != version.bytes:
            return None
        if ctime_ns is not None and found.st_ctime_ns != ctime_ns:
            return None
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(VERSION_BYTES_MAX)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _binary(version: Version | None) -> str:
    if version is None:
        return "nothing"
    digest = UNKNOWN if version.sha256 is None else version.sha256[:DIGEST_DIGITS]
    return f"{size(version.bytes) or UNKNOWN} sha256 {digest}"


# -- shown --------------------------------------------------------------------------------------------


def print_diffs(differ: Differ, changes: Iterable[Change], base: str | None) -> None:
    """The diff of each file, one after another; `DIFFS_SHOWN_MAX` of them."""
    from custody.cli.render import remark

    for number, (change, diff) in enumerate(diffs(differ, changes, base)):
        if number == DIFFS_SHOWN_MAX:
            remark(f"The first {DIFFS_SHOWN_MAX} files; --json has all, and a call can be asked for alone.")
            return
        print()
        if diff.lines is None:
            print(paint(f"{relative(change.path, base)}: {diff.why}", "dim"))
        for at, line in enumerate("\n".join(diff.lines or ()).split("\n") if diff.lines else ()):
            style = "bold" if at < HEADER_LINES else LINE_STYLES.get(line[:1], "")
            print(paint(printable(line, keep="\t"), style))


def diffs(differ: Differ, changes: Iterable[Change], base: str | None) -> Iterator[tuple[Change, Diff]]:
    """Of every change of a file's content."""
    for change in changes:
        diff = differ.diff(change, base)
        if diff is not None:
            yield change, diff


def change_documents(differ: Differ | None, changes: Iterable[Change], base: str | None) -> list[Any]:
    """Changes as JSON; with a differ each has `diff`, a text or null, and `diff_absent`, why it is null."""
    from custody.records import document

    documents: list[Any] = []
    for change in changes:
        shown: dict[str, Any] = document(change)
        if differ is not None:
            diff = differ.diff(change, base)
            shown["diff"] = None if diff is None or diff.lines is None else "\n".join([*diff.lines, ""])
            shown["diff_absent"] = None if diff is None else diff.why
        documents.append(shown)
    return documents
