"""A run as it went: its steps, below each the calls it asked for, and its events in between.

Owns what of an entry is shown in how many lines, and which entry stands below which. Used by `show`.
"""

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

import msgspec

from custody.cli.lines import begun, cells, folded, one_line
from custody.cli.render import (
    GAP,
    OUTCOME_STYLES,
    SHORT_ID,
    UNKNOWN,
    cost,
    duration,
    moment,
    outcome,
    paint,
    summary,
    width,
)
from custody.cli.step import model, text_cut, tokens, without_text

if TYPE_CHECKING:
    from custody.index import Index, Page, StepView, TimelineEntry

INDENT = 2  # columns an entry stands to the right of the one it belongs to
DEPTH_MAX = 8  # calls made in calls; deeper ones stand at this depth, so that something is left of a line

TEXT_LINES_MAX = 3  # of what a model said, on a terminal: what it is about to do stands there
RESULT_LINES_MAX = 1

PAGE_ENTRIES = 1_000

BAD_EVENTS = ("run.error", "journal.gap", "run.refused")


def pages(index: "Index", run_id: str, most: int | None) -> "Iterator[Page[TimelineEntry]]":
    """Page by page; `most` in all, None for every one."""
    cursor: str | None = None
    while most is None or most > 0:
        limit = PAGE_ENTRIES if most is None else min(most, PAGE_ENTRIES)
        page = index.timeline(run_id, limit=limit, cursor=cursor, refresh=cursor is None)
        yield page
        if page.next is None:
            return
        cursor = page.next
        most = None if most is None else most - len(page.items)


def print_timeline(index: "Index", run_id: str, *, most: int | None) -> bool:
    """Print the entries of a run; returns whether those were all."""
    printer = _Printer()
    complete = True
    for page in pages(index, run_id, most):
        printer.page(page.items)
        complete = page.next is None
    return complete


class _Printer:
    """Prints a run page by page; knows how deep what was printed stood."""

    def __init__(self) -> None:
        self._depths: dict[str, int] = {}
        self._width = width()
        self._digits = 0

    def page(self, items: "list[TimelineEntry]") -> None:
        positions = [entry.position for entry in items if entry.position is not None]
        self._digits = max(self._digits, len(str(max(positions, default=0))) + 1)
        calls_of: dict[str, int] = {}
        for entry in items:
            if entry.step_id is not None:
                calls_of[entry.step_id] = calls_of.get(entry.step_id, 0) + 1
        for entry in self._below_their_own(items):
            self._print(entry, calls_of.get(entry.id, 0))

    def _below_their_own(self, items: "list[TimelineEntry]") -> "Iterator[TimelineEntry]":
        """In their order, but that what belongs to a step or call of this page follows that."""
        groups: list[list[TimelineEntry]] = []
        group_of: dict[str, list[TimelineEntry]] = {}
        for entry in items:
            owners = [owner for owner in (entry.parent_id, entry.step_id) if owner in self._depths]
            depths = [self._depths[owner] + 1 for owner in owners]
            group = next((group_of[owner] for owner in owners if owner in group_of), None)
            if group is None and entry.kind == "event" and groups:
                group = groups[-1]
            if group is None:
                groups.append(group := list["TimelineEntry"]())
            group.append(entry)
            group_of[entry.id] = group
            self._depths[entry.id] = min(max(depths, default=0), DEPTH_MAX)
        for group in groups:
            yield from group

    def _print(self, entry: "TimelineEntry", calls: int) -> None:
        position = "" if entry.position is None else f"#{entry.position}"
        place = _clock(entry.at) if entry.kind == "event" else entry.id[:SHORT_ID]
        margin = f"{position:>{self._digits}}{' ' * GAP}{place:<{SHORT_ID}}{' ' * GAP}"
        indent = " " * (INDENT * self._depths[entry.id])
        lines = iter(self._lines(entry, calls, len(margin) + len(indent)))
        sys.stdout.write(f"{paint(margin, 'dim')}{indent}{next(lines)}\n")
        for line in lines:
            sys.stdout.write(f"{' ' * len(margin)}{indent}{line}\n")

    def _lines(self, entry: "TimelineEntry", calls: int, begin: int) -> list[str]:
        room = None if self._width is None else max(self._width - begin, 16)
        if entry.kind == "step":
            assert entry.step is not None, "an entry of a step carries it"
            return _step_lines(entry.step, entry, calls, room)
        return (_call_lines if entry.kind == "call" else _event_lines)(entry, room)


# -- one entry ----------------------------------------------------------------------------------------


def _step_lines(step: "StepView", entry: "TimelineEntry", calls: int, room: int | None) -> list[str]:
    head = f"step {UNKNOWN if step.iteration is None else step.iteration}"
    price, taken = cost(step.cost_nano_usd), duration(step.model_us)
    figures = [
        one_line(model(step) or f"model {UNKNOWN}"),
        *tokens(step.tokens),
        price or f"cost {UNKNOWN}",
        f"+{duration(step.since_previous_us)}" if step.since_previous_us is not None else None,
        f"model took {taken}" if taken else None,
        one_line(step.finish_reason or ""),
        "asked for " + one_line(", ".join(step.requested)) if len(step.requested) > calls else None,
    ]
    lines = _joined(head, [figure for figure in figures if figure], room)
    note = without_text(step)
    if note is not None:
        lines += [paint(note, "red" if not step.responded else "dim")]
    if entry.preview is not None:
        lines += folded(entry.preview, entry.preview_cut_characters, room, TEXT_LINES_MAX)
        cut = text_cut(step)
        lines += [paint(f"… {cut}", "dim")] if cut else []
    return lines


def _call_lines(entry: "TimelineEntry", room: int | None) -> list[str]:
    ended = outcome(entry.outcome)
    taken = duration(entry.latency_us)
    head = f"{one_line(entry.name or UNKNOWN)}  "
    said = ended.text + (f" {taken}" if taken else "")
    if entry.changes_count:
        said += f", {entry.changes_count:,} changed"
    what = one_line(_asked(entry))
    left = None if room is None else max(room - cells(head) - cells(said) - GAP, 0)
    shown = begun(what, entry.arguments_cut_characters, left)
    said = said.replace(ended.text, paint(ended.text, ended.style), 1)
    line = f"{head}{said}  {shown}".rstrip()
    result = _result(entry)
    if not result:
        return [line]
    style = OUTCOME_STYLES.get(entry.outcome or "", "") if entry.outcome != "succeeded" else "dim"
    return [line, *folded(f"→ {result}", entry.preview_cut_characters, room, RESULT_LINES_MAX, style)]


def _event_lines(entry: "TimelineEntry", room: int | None) -> list[str]:
    name = one_line(entry.name or UNKNOWN)
    said = one_line(event_words(entry.name, _decoded(entry.preview)))
    left = None if room is None else max(room - cells(name) - GAP, 0)
    shown = begun(said, entry.preview_cut_characters, left)
    style = "red" if entry.name in BAD_EVENTS else "cyan"
    return [f"{paint(name, style)}  {shown}".rstrip()]


def _clock(text: str) -> str:
    at = moment(text)
    return UNKNOWN if at is None else at.strftime("%H:%M:%S")


def event_words(name: str | None, data: Any) -> str:
    """What an event says, in one line."""
    if not isinstance(data, dict):
        return "" if data is None else str(data)
    left = dict(cast("dict[str, Any]", data))
    said: list[str] = []
    if name == "run.error" and isinstance(left.get("message"), str):
        kind, message = left.pop("type", None), left.pop("message")
        said.append(f"{kind}: {message}" if kind else message)
    if name == "run.model" and "model" in left:
        new, old = left.pop("model"), left.pop("previous", None)
        said.append(f"{new}" if old is None else f"{old} → {new}")
    said += [f"{key}: {_short(value)}" for key, value in left.items() if value is not None]
    return " · ".join(said)


def _short(value: Any) -> str:
    from custody.cli.document import encode

    return value if isinstance(value, str) else encode(value).decode()


def _asked(entry: "TimelineEntry") -> str:
    if entry.arguments is None or entry.arguments_cut_characters:
        return entry.arguments or ""
    return summary(entry.name or "", _decoded(entry.arguments))


def _result(entry: "TimelineEntry") -> str:
    """The result or error in words; of a process what it printed."""
    said = _decoded(entry.preview)
    if not isinstance(said, dict):
        return entry.preview or ""
    given = cast("dict[str, Any]", said)
    if entry.outcome != "succeeded" and isinstance(given.get("message"), str):
        return f"{given['type']}: {given['message']}" if given.get("type") else given["message"]
    if isinstance(given.get("stdout"), str):
        return given["stdout"].strip() or str(given.get("stderr") or "").strip()
    return entry.preview or ""


def _decoded(text: str | None) -> Any:
    """The value a preview is the JSON of; the text itself if it is not."""
    try:
        return None if text is None else msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError):
        return text


# -- lines --------------------------------------------------------------------------------------------


def _joined(head: str, figures: Iterable[str], room: int | None) -> list[str]:
    """`head  a · b · c`, broken between figures where a terminal is too narrow."""
    begin = " " * (len(head) + GAP)
    lines: list[list[str]] = [[]]
    used = len(begin)
    for figure in figures:
        if room is not None and lines[-1] and used + 3 + cells(figure) > room:
            lines.append([])
            used = len(begin)
        used += cells(figure) + (3 if lines[-1] else 0)
        lines[-1].append(figure)
    shown = [" · ".join(line) for line in lines]
    return [paint(head, "bold") + " " * GAP + shown[0], *(begin + line for line in shown[1:])]
