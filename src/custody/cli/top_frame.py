"""What `custody top` draws: one look as lines that fit a terminal.

Owns the layout: what is left out where there is little room, and in which order. What has no room is counted.
Knows nothing of keys. Used by `top`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

from custody.cli.invocation import fold_lines, printable
from custody.cli.render import (
    GAP,
    SHORT_ID,
    UNKNOWN,
    Cell,
    Column,
    ago,
    count,
    duration,
    fit,
    flexible,
    number,
    optional,
    outcome,
    outcomes,
    short,
    size,
    summary,
)

if TYPE_CHECKING:
    from custody.cli.top_look import Look
    from custody.host.breaker import Reading

Styled = tuple[str, str]
"""A stretch of a line, and its rich style."""

Line = list[Styled]

MARK = "▸ "
"""Before the question that is chosen."""

SECTION_LINES_MIN = 2  # a title and one row, or what there is none of
UNBOUNDED = 10_000  # lines or columns, for a pipe
NAMES = {
    "memory": "memory",
    "cpu_pressure": "cpu",
    "disk_free_percent": "disk free",
    "disk_free_bytes": "free",
    "zombies": "zombies",
}


def frame(
    look: "Look", width: int, height: int, *, selected: str | None = None, notes: Sequence[str] = ()
) -> list[Line]:
    """At most `height` lines, each at most `width` cells. `selected` is the call whose question is chosen;
    `notes` stand at the end. Where there are few lines the head is left out first, the question last."""
    tail: list[Line] = [[(_cut(note, width), "dim")] for note in notes][:height]
    left = height - len(tail)
    head = [*_head(look, width), []][: max(left - 3 * SECTION_LINES_MIN, min(1, left - SECTION_LINES_MIN), 0)]
    room = max(height - len(head) - len(tail), 0)
    questions, runs, calls = _questions(look, width, selected), _runs(look, width), _calls(look, width)
    room_of_questions = min(len(questions), max(room // 3, SECTION_LINES_MIN))
    room_of_runs = min(len(runs), max((room - room_of_questions) // 2, SECTION_LINES_MIN))
    rest = room - room_of_questions - room_of_runs
    kept_at = next((place for place, line in enumerate(questions) if line and line[0][0] == MARK), 0)
    body = [
        *_within(questions, room_of_questions, kept_at),
        *_within(runs, room_of_runs),
        *_within(calls, rest),
    ]
    return [_clipped(line, width) for line in [*head, *body[:room], *tail][:height]]


def shows_chosen(lines: Sequence[Line], selected: str | None) -> bool:
    """Whether whoever looks at these lines sees which question is chosen, and what of."""
    if selected is None:
        return False
    chosen = selected[:SHORT_ID]
    for line in lines:
        mark, _, said = "".join(text for text, _ in line).partition(chosen)
        if mark == MARK and said.strip():
            return True
    return False


def unread(notes: Sequence[str], width: int) -> list[Line]:
    """What is drawn while nothing could be looked at: why, and what the keys do."""
    return [
        _clipped([(_cut(note, width), "red" if number == 0 else "dim")], width)
        for number, note in enumerate(notes)
    ]


def _clipped(line: Line, width: int) -> Line:
    """Whatever a terminal too narrow for anything has no room for is left out."""
    kept: Line = []
    for text, style in line:
        text = _cut(text, width)
        width -= cell_len(text)
        kept.append((text, style))
        if width <= 0:
            break
    return kept


def _within(lines: list[Line], room: int, keep: int = 0) -> list[Line]:
    """A section cut to its room, the line `keep` among what is left; its title says how many rows are not
    shown."""
    if len(lines) <= room or room <= 0:
        return lines[: max(room, 0)]
    first = max(1, keep - room + 2)
    rows = lines[first : first + room - 1]
    hidden = len(lines) - 1 - len(rows)
    return [[*lines[0], (f"  {hidden:,} not shown", "dim")], *rows]


# -- the head -------------------------------------------------------------------------------------------


def _head(look: "Look", width: int) -> list[Line]:
    daemon = "no daemon" if look.daemon is None else f"daemon {look.daemon.pid}"
    said, time = f"custody  {printable(look.store, keep='')}  {daemon}", clock(look.at)
    room = max(width - len(time) - GAP, 0)
    first: Line = [(time[:width], "dim"), ((" " * GAP + _cut(said, room)) if room else "", "bold")]
    return [first, *_wrapped(_pressure(look), width), *_wrapped(_recorder(look), width)]


def clock(moment: str) -> str:
    """The local time of day of an RFC 3339 time."""
    from datetime import datetime

    return datetime.fromisoformat(moment).astimezone().strftime("%H:%M:%S")


def _pressure(look: "Look") -> list[Styled]:
    shown = [_reading(reading) for reading in look.pressure.readings]
    if look.pressure.refuses is not None:
        shown.append((printable(look.pressure.refuses, keep=""), "bold red"))
    return shown


def _reading(reading: "Reading") -> Styled:
    value = UNKNOWN
    if reading.value is not None:
        value = {
            "percent": f"{reading.value:.0f} %",
            "bytes": size(reading.value) or UNKNOWN,
            "processes": f"{reading.value:.0f}",
        }[reading.unit]
    style = "bold red" if reading.state == "refusing" else ""
    return f"{NAMES.get(reading.name, reading.name)} {value}", style


def _recorder(look: "Look") -> list[Styled]:
    recorder = look.recorder
    rate = "" if recorder.records_per_second is None else f" (+{recorder.records_per_second:g}/s)"
    writing = sum(shard.holder != "free" for shard in recorder.shards)
    shards = "1 shard" if len(recorder.shards) == 1 else f"{len(recorder.shards):,} shards"
    shown = [
        (f"{recorder.records:,} records{rate}", ""),
        (f"{shards}, {writing:,} being written", ""),
        (f"{recorder.lost_last_day:,} lost in a day", "bold red" if recorder.lost_last_day else ""),
        (f"last minute: {outcomes(look.calls.last_minute) or 'no call'}", ""),
    ]
    if recorder.damage is not None:
        shown.append((printable(recorder.damage, keep=""), "bold red"))
    if not recorder.index_kept:
        shown.append(("the index cannot be kept", "yellow"))
    return shown


def _wrapped(parts: list[Styled], width: int) -> list[Line]:
    """The parts beside one another, on as many lines as they take."""
    lines: list[Line] = [[]]
    used = 0
    for text, style in parts:
        cells = cell_len(text) + (GAP if used else 0)
        if used and used + cells > width:
            lines.append([])
            used, cells = 0, cell_len(text)
        lines[-1].append((" " * (GAP if used else 0) + _cut(text, width), style))
        used += cells
    return lines


# -- the sections ---------------------------------------------------------------------------------------


def _questions(look: "Look", width: int, selected: str | None) -> list[Line]:
    found = look.questions
    if not found:
        return [[(_cut("no question is open", width), "dim")]]
    rows = [
        [
            Cell(MARK[0] if asked.call_id == selected else " "), short(asked.call_id), asked.agent,
            f"{asked.tool} {summary(asked.tool, asked.arguments)}", asked.rule,
            "waits" if asked.waiting else None, ago(asked.asked_at),
        ]
        for asked in found
    ]  # fmt: skip
    columns = [Column(""), Column("call"), optional("agent"), flexible("what"), optional("rule"),
               optional("waits"), optional("asked")]  # fmt: skip
    title = "1 question" if len(found) == 1 else f"{len(found):,} questions"
    return [[(title, "bold yellow")], *_table(columns, rows, width, header=False)]


def _runs(look: "Look", width: int) -> list[Line]:
    if not look.runs.items:
        return [[(_cut("no run is open", width), "dim")]]
    rows = [
        [
            short(run.id),
            run.agent,
            run.intent or run.name,
            count(run.calls),
            count(run.steps),
            ago(run.started_at),
        ]
        for run in look.runs.items
    ]
    columns = [Column("run"), optional("agent"), flexible("what"), number("calls"),
               number("steps", optional=True), optional("started")]  # fmt: skip
    title = "1 open run" if look.runs.running == 1 else f"{look.runs.running:,} open runs"
    return [[(title, "bold")], *_table(columns, rows, width)]


def _calls(look: "Look", width: int) -> list[Line]:
    if not look.calls.items:
        return [[(_cut("no call yet", width), "dim")]]
    rows = [
        [
            short(call.id), call.agent, f"{call.tool} {summary(call.tool, call.arguments)}",
            outcome(call.outcome), duration(call.latency_us), ago(call.asked_at),
        ]
        for call in look.calls.items
    ]  # fmt: skip
    columns = [Column("call"), optional("agent"), flexible("what"), Column("outcome"),
               number("took", optional=True), optional("asked")]  # fmt: skip
    title = "latest calls" if not look.calls.running else f"latest calls, {look.calls.running:,} running"
    return [[(title, "bold")], *_table(columns, rows, width)]


def _table(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell | str | None]], width: int, *, header: bool = True
) -> list[Line]:
    cells = [[_cell(value) for value in row] for row in rows]
    natural = [
        max([cell_len(column.title), *(cell_len(row[index].text) for row in cells)])
        for index, column in enumerate(columns)
    ]
    widths = fit(columns, natural, width)
    titles = [Cell(column.title, "dim") for column in columns]
    return [_row(columns, row, widths, width) for row in ([titles] if header else []) + cells]


def _row(columns: Sequence[Column], row: Sequence[Cell], widths: Sequence[int], width: int) -> Line:
    line: Line = []
    used = 0
    for column, cell, cells in zip(columns, row, widths, strict=True):
        room = min(cells, width - used)
        if not cells or room <= 0:
            continue
        text = _cut(cell.text, room)
        space = " " * (room - cell_len(text))
        padded = space + text if column.number else text + space
        gap = " " * min(GAP if column.title or not line else 1, max(width - used - room, 0))
        line.append((padded + (gap if column.title else gap[:1]), cell.style))
        used += room + (len(gap) if column.title else min(len(gap), 1))
    return line


def _cell(value: Cell | str | None) -> Cell:
    if value is None or value == "":
        return Cell(UNKNOWN, "dim")
    cell = value if isinstance(value, Cell) else Cell(value)
    return Cell(printable(fold_lines(cell.text), keep="") or " ", cell.style)


def _cut(text: str, width: int) -> str:
    """The text in so many cells, with a mark where it was longer."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(width - 1, 0)).rstrip() + ("…" if width > 0 else "")
