"""What is held as a person is shown it before it counts: texts as a unified diff, all else in words.

Owns the bounds, the words, and the count of what is left out. No line of it steers a terminal, and none that
is ours can be one of a file's: lines of a file begin as in every unified diff, ours with a bracket. Knows
nothing of records and of doors. Used by the tool that commits.
"""

import hashlib
from collections.abc import Callable

from custody.changes.diff import unified
from custody.changes.held.found import on_one_line
from custody.changes.held.manifest import HeldEntry, HeldSet, is_another
from custody.changes.told import attributes_of
from custody.records import Change, Version

LINES_MAX = 100
"""Two screens: who wants to read more asks for all of it."""

BYTES_MAX = 8 * 1024
"""It is kept with the question, and goes to doors that show less."""

FEW_LINES = 6
"""The head of a file and its first lines: with less a path is only counted."""

LINE_CHARACTERS_MAX = 500
NAME_CHARACTERS_MAX = 200

FILE_BYTES_MAX = 256 * 1024
"""Of a version that is compared: of a larger one nothing is gained by its first hundred lines."""

COMPARED_BYTES_MAX = 1024 * 1024
"""Of all versions: the call that asks waits for it."""

LINES_COMPARED_MAX = 1_000
"""Of either of two versions: comparing takes their product, in a process that serves others."""

DIGEST_DIGITS = 12

Clean = Callable[[str], str]
"""A text without secrets."""


def difference(held: HeldSet, clean: Clean) -> str:
    """The lines, each ended by a newline; `clean` is asked of what is compared, before it is."""
    page, left = Page(), COMPARED_BYTES_MAX
    entries = {entry.target.path: entry for entry in held.entries}
    several = len(held.roots) > 1
    for change in held.changes:
        entry = entries[change.path]
        size = _bytes_to_compare(change, entry)
        if page.paths >= LINES_MAX and not size:
            page.more(lines=1)
        elif page.paths >= LINES_MAX and size > left:
            page.more(lines=None)
        else:
            name = on_one_line(entry.target.path if several else entry.target.relative)
            name = _cut(name, NAME_CHARACTERS_MAX)
            page.add(name, _Told(held, change, entry, name, clean).lines(compared=size <= left))
            left -= min(size, left)
    return page.text()


class Page:
    """What is told of each path, and so much of it as there is place for: of many paths a little each, so
    that no file hides another by its length."""

    def __init__(self) -> None:
        self._told: list[tuple[str, list[str]]] = []
        self._more_paths = self._more_lines = self._not_counted = 0

    @property
    def paths(self) -> int:
        return len(self._told)

    def add(self, name: str, lines: list[str]) -> None:
        self._told.append((name, [_cut(line) for line in lines]))

    def more(self, lines: int | None) -> None:
        """One path more, of so many lines; None: they were not counted."""
        self._more_paths += 1
        self._more_lines += lines or 0
        self._not_counted += lines is None

    def text(self) -> str:
        shown, left = list[str](), BYTES_MAX
        shares = _shares([len(lines) for _, lines in self._told], LINES_MAX)
        for at, (name, lines) in enumerate(self._told):
            share = left if at + 1 == len(self._told) else left // 2  # others follow
            kept = _fitting(name, lines, shares[at], share) if at < len(shares) else []
            if lines and not kept:
                self.more(len(lines))
            shown += kept
            left -= sum(map(_size, kept))
        return "".join(f"{line}\n" for line in (*shown, *self._footer()))

    def _footer(self) -> list[str]:
        paths, lines = self._more_paths, self._more_lines
        if not paths:
            return []
        counts = [f"{paths:,} more path{'s' if paths > 1 else ''}"]
        counts += [f"{lines:,} more line{'s' if lines > 1 else ''}"] if lines else []
        uncounted = f"; the lines of {self._not_counted:,} were not counted" if self._not_counted else ""
        return [f"(and {', '.join(counts)}{uncounted})"]


def _shares(lengths: list[int], lines_max: int) -> list[int]:
    """How many lines each of the first paths gets; those that have a few get all of them, and what is left is
    shared equally. Paths for which less than a few lines are left get none: the list is shorter then."""
    few, count = 0, 0
    while count < len(lengths) and (few := few + min(lengths[count], FEW_LINES)) <= lines_max:
        count += 1
    shares, left = [0] * count, lines_max
    for rank, at in enumerate(sorted(range(count), key=lengths.__getitem__)):
        shares[at] = min(lengths[at], left // (count - rank))
        left -= shares[at]
    return shares


def _fitting(name: str, lines: list[str], lines_max: int, bytes_max: int) -> list[str]:
    """Those that have place, and then how many have none."""
    if len(lines) <= lines_max and sum(map(_size, lines)) <= bytes_max:
        return lines
    kept: list[str] = []
    bytes_left = bytes_max - _size(_rest(name, len(lines)))
    for line in lines[: max(0, lines_max - 1)]:
        bytes_left -= _size(line)
        if bytes_left < 0:
            break
        kept.append(line)
    return [*kept, _rest(name, len(lines) - len(kept))] if kept else []


def _rest(name: str, count: int) -> str:
    return _cut(f"({name}: and {count:,} more line{'s' if count > 1 else ''})")


def _size(line: str) -> int:
    return len(line.encode()) + 1


class _Told:
    """One change, in lines."""

    def __init__(self, held: HeldSet, change: Change, entry: HeldEntry, name: str, clean: Clean) -> None:
        self._held = held
        self._change = change
        self._entry = entry
        self._name = name
        self._clean = clean

    def lines(self, *, compared: bool) -> list[str]:
        change, entry = self._change, self._entry
        words = _in_words(change, entry)
        told = [f"({self._name}: {words})"] if words is not None else []
        if entry.before.kind != "directory" and is_another(entry):
            told.insert(0, f"({self._name}: changed by somebody else since, a commit refuses)")
        if not _is_text(change, entry):
            return told
        if not compared or _largest(change) > FILE_BYTES_MAX:
            return [*told, f"({self._name}: {_both(change)}, not compared)"]
        return [*told, *self._compared()]

    def _compared(self) -> list[str]:
        old, new = self._held.old_and_new(self._change)
        after = self._change.after
        if after is not None and (new is None or hashlib.sha256(new).hexdigest() != after.sha256):
            return [f"({self._name}: what is held of it is not what was written, a commit refuses)"]
        if old is not None and new is not None:
            was, is_now = old.count(b"\n"), new.count(b"\n")
            if max(was, is_now) > LINES_COMPARED_MAX:
                return [f"({self._name}: {was:,} lines before, {is_now:,} after, not compared)"]
        lines = unified(self._cleaned(old), self._cleaned(new), self._name)
        if lines is None:
            return [f"({self._name}: binary, {_both(self._change)})"]
        # One line of the diff may bring another: that a file does not end with a newline.
        return [_visible(part) for line in lines for part in line.split("\n")]

    def _cleaned(self, content: bytes | None) -> bytes | None:
        try:
            return None if content is None else self._clean(content.decode()).encode()
        except UnicodeError:
            return content  # no text


def _is_text(change: Change, entry: HeldEntry) -> bool:
    """Whether its content is to be shown, as far as that is one."""
    if change.change == "renamed" or change.change == "mode":
        return False
    return "file" in (entry.before.kind, entry.after.kind) and _same_kind(entry)


def _same_kind(entry: HeldEntry) -> bool:
    return entry.before.kind == entry.after.kind or "absent" in (entry.before.kind, entry.after.kind)


def _bytes_to_compare(change: Change, entry: HeldEntry) -> int:
    if not _is_text(change, entry) or _largest(change) > FILE_BYTES_MAX:
        return 0
    return sum(version.bytes or 0 for version in (change.before, change.after) if version is not None)


def _largest(change: Change) -> int:
    versions = (change.before, change.after)
    return max((version.bytes or 0 for version in versions if version is not None), default=0)


def _in_words(change: Change, entry: HeldEntry) -> str | None:
    """What no line of a diff says; None where nothing is left to say."""
    before, after = entry.before, entry.after
    if change.change == "renamed":
        moved = f"renamed from {on_one_line(change.renamed_from or '')}"
        return f"{moved}{', as its content says' if change.inferred else ''}{_modes(change)}"
    if not _same_kind(entry):
        return f"a {before.kind} before, a {after.kind} after, {_both(change)}{_modes(change)}"
    if change.change == "link" or "link" in (before.kind, after.kind):
        return f"link, {_pointing(before.target)} → {_pointing(after.target)}"
    if "directory" in (before.kind, after.kind) and change.change != "mode":
        return f"folder, {change.change}{_modes(change)}"
    if "other" in (before.kind, after.kind):
        return f"a device, FIFO or socket, {change.change}"
    if change.change == "mode":
        return _modes(change).removeprefix(", ") or "another owner, or other attributes"
    if before.kind == "absent":
        return None if after.mode & 0o7111 == 0 else f"mode {after.mode:04o}"
    if after.kind != "absent" and attributes_of(before) != attributes_of(after):
        return _modes(change).removeprefix(", ") or "another owner, or other attributes"
    return None


def _modes(change: Change) -> str:
    before, after = change.before, change.after
    if before is None or after is None or before.mode == after.mode:
        return ""
    return f", mode {before.mode} → {after.mode}"


def _pointing(target: str | None) -> str:
    return "nothing" if target is None else on_one_line(target)


def _both(change: Change) -> str:
    return f"{_version(change.before)} → {_version(change.after)}"


def _version(version: Version | None) -> str:
    if version is None:
        return "nothing"
    if version.bytes is None:
        return "no file"
    digest = "not known" if version.sha256 is None else version.sha256[:DIGEST_DIGITS]
    return f"{version.bytes:,} bytes sha256 {digest}"


def _visible(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(one if one.isprintable() or one == "\t" else ascii(one)[1:-1] for one in line)


def _cut(line: str, characters_max: int = LINE_CHARACTERS_MAX) -> str:
    left = len(line) - characters_max
    return line if left <= 0 else f"{line[:characters_max]} … and {left:,} more characters"
