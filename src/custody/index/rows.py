"""Rows of the fold, taken from the tables and put back.

Owns the layout of the tables `runs` and `calls` in Python and the writing of one batch. Knows nothing of
when a batch is due. Used by `index`.
"""

import mmap
from collections.abc import Callable
from typing import Any

from custody.index.database import Database
from custody.index.fold import (
    AGENT,
    CALLER,
    SESSION,
    WORKSPACE,
    CallRow,
    Fold,
    Place,
    RunRow,
    Said,
    StepRow,
    text_of_finished,
    text_of_first,
)
from custody.index.text import Gatherer
from custody.journal import Journal
from custody.records import Leaf, Tokens, decode_leaf, decode_payload

SPAN_ROWS = 4_096
"""Rows for which the first and last time are kept together: a search for a frequent word looks at so many
rows at a time, newest first."""

NOWHERE: tuple[None, None, None] = (None, None, None)

AMOUNT_MAX = 2**44
"""Tokens, microseconds or billionths of a dollar of one step: 17,592 dollars, half a year. More is no count
and is taken as unknown, so that sums over half a million steps stay within SQLite's integers whatever was
recorded."""


SEEN_BYTES = 16 * 1024 * 1024
"""Of `Seen`, touched only as far as needed: among a million ids one in 130 is a false alarm."""


class Seen:
    """The ids that have a row, with some false alarms: asking it is forty times quicker than the table, which
    is in no memory any more when an index of millions is filled."""

    __slots__ = ("_bits",)

    def __init__(self) -> None:
        # A bytearray is filled with zeros, 10 ms for each new index; what is mapped costs what is touched.
        self._bits = mmap.mmap(-1, SEEN_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def add(self, id: bytes) -> None:
        number = int.from_bytes(id[:4], "big")
        self._bits[number >> 8] |= 1 << (number & 7)

    def maybe(self, id: bytes) -> bool:
        number = int.from_bytes(id[:4], "big")
        return bool(self._bits[number >> 8] & (1 << (number & 7)))


class SaidHere:
    """What one record's payload says."""

    __slots__ = ("_payload", "_rows")

    def __init__(self, rows: "Rows", payload: bytes) -> None:
        self._rows = rows
        self._payload = payload

    def text(self) -> str:
        return self._rows.text(self._payload)

    def error(self) -> Any:
        return self._rows.error(self._payload)


class Rows:
    """The stored rows, for the length of one transaction."""

    def __init__(self, database: Database, journal: Journal, seen: Seen | None = None) -> None:
        """`seen` has at least the calls that are stored."""
        self._database = database
        self._journal = journal
        self._seen = seen
        self._gatherer = Gatherer(journal.get_blob)
        self.fold = Fold(self)
        self.characters = 0
        """Of text gathered for the batch so far."""
        self._by_row: dict[int, RunRow] = {}
        last = database.row("last_rows")
        assert last is not None, "an aggregate has one row"
        self._run_last, self._call_last = last
        self._run_stored, self._call_stored = self._run_last, self._call_last

    def add(self, kind: int, leaf_bytes: bytes, payload: bytes, place: Place) -> None:
        """Fold one record. Raises msgspec.DecodeError for bytes that are no leaf of this kind."""
        self.fold.add(decode_leaf(kind, leaf_bytes), place, SaidHere(self, payload))

    # -- Known ----------------------------------------------------------------------------------------

    def run(self, run_id: bytes) -> RunRow:
        found = self._database.row("load_run", run_id) if self._run_stored else None
        if found is not None:
            return self._loaded_run(found)
        self._run_last += 1
        return RunRow(self._run_last, run_id, new=True)

    def call(self, call_id: bytes) -> CallRow:
        seen = self._seen
        if self._call_stored and (seen is None or seen.maybe(call_id)):
            found = self._database.row("load_call", call_id)
            if found is not None:
                return self._loaded_call(found)
        if seen is not None:
            seen.add(call_id)
        self._call_last += 1
        return CallRow(self._call_last, call_id, new=True)

    def _loaded_run(self, found: tuple[Any, ...]) -> RunRow:
        word = self._database.word
        run = RunRow(found[0], found[1], new=False)
        run.name, run.parent_id = found[2], found[8]
        run.agent, run.caller, run.channel = word(found[3]), word(found[4]), word(found[5])
        run.session, run.workspace = word(found[6]), word(found[7])
        run.outcome = word(found[9]) or ""
        run.at_us = found[10]
        run.finished_at_us = _sum(found[10], found[11])
        run.reason, run.passed = word(found[12]), _flag(found[13])
        run.external_id = found[14]
        run.first, run.finished = _place(found, 15), _place(found, 18)
        return run

    def _loaded_call(self, found: tuple[Any, ...]) -> CallRow:
        word = self._database.word
        call = CallRow(found[0], found[1], new=False)
        call.run = None if found[2] is None else self._run_by_row(found[2])
        call.position = found[3]
        call.tool, call.effect, call.door = word(found[4]), word(found[5]), word(found[6])
        bits = call.inherits = found[11]
        call.agent = None if bits & AGENT else word(found[7])
        call.caller = None if bits & CALLER else word(found[8])
        call.session = None if bits & SESSION else word(found[9])
        call.workspace = None if bits & WORKSPACE else word(found[10])
        call.parent_id, call.external_id = found[12], found[13]
        call.dry_run = _flag(found[14])
        call.outcome = word(found[15]) or ""
        call.at_us, call.finished_at_us, call.latency_us = found[16], _sum(found[16], found[17]), found[18]
        call.step_id, call.passed, call.error = found[19], _flag(found[20]), word(found[21])
        call.proposal_id, call.action_id, call.attempt = found[22], found[23], found[24]
        call.connection = word(found[25])
        call.first, call.answered = _place(found, 26), _place(found, 29)
        call.started, call.finished = _place(found, 32), _place(found, 35)
        return call

    def _run_by_row(self, row: int) -> RunRow:
        """The run of a stored call, the same object the fold has if this batch speaks of it."""
        found = self._by_row.get(row)
        if found is None:
            stored = self._database.row("load_run_by_row", row)
            assert stored is not None, "a call's run is stored before the call"
            found = self._by_row[row] = self.fold.run(stored[1])
        return found

    # -- the batch ------------------------------------------------------------------------------------

    def write(self) -> None:
        """Put the batch into the tables."""
        self.fold.inherit()
        self._write_runs([run for run in self.fold.runs.values() if run.changed])
        self._write_calls([call for call in self.fold.calls.values() if call.changed])
        many, number = self._database.put_all, self._database.words
        many("put_step", [self._step_values(step) for step in self.fold.steps])
        many(
            "put_question",
            [(q.call_id, q.digest, q.at_us, q.open_until_us, *q.place) for q in self.fold.questions],
        )
        many("put_held", [(h.call_id, h.settled, h.settled_by) for h in self.fold.held])
        events = self.fold.events
        many(
            "put_event",
            [(e.id, number[e.name], e.run and e.run.row, e.call_id, e.at_us, *e.place) for e in events],
        )

    def _write_runs(self, runs: list[RunRow]) -> None:
        many, number = self._database.put_all, self._database.words
        many("insert_run", [self._run_values(run) for run in runs if run.new])
        many("update_run", [self._run_values(run) for run in runs if not run.new])
        many(
            "inherit",
            [
                (run.row, number[run.agent], number[run.caller], number[run.session], number[run.workspace])
                for run in runs
                if run.retold and not run.new
            ],
        )
        for new in (True, False):
            said = (run for run in runs if run.new is new and run.at_us is not None)
            texts = [(run.row, self._text_of(run)) for run in said]
            many("insert_run_text" if new else "replace_run_text", texts)
        many("widen_run_span", _spans(runs))

    def _write_calls(self, calls: list[CallRow]) -> None:
        many = self._database.put_all
        many("insert_call", [self._call_values(call) for call in calls if call.new])
        many("update_call", [self._call_values(call) for call in calls if not call.new])
        for new in (True, False):
            said = (call for call in calls if call.new is new and call.at_us is not None)
            texts = [(call.row, self._text_of(call)) for call in said]
            many("insert_call_text" if new else "replace_call_text", texts)
        many("widen_call_span", _spans(calls))

    def _run_values(self, run: RunRow) -> tuple[Any, ...]:
        number = self._database.words
        return (
            run.row, run.id, run.name, number[run.agent], number[run.caller], number[run.channel],
            number[run.session], number[run.workspace], run.parent_id, number[run.outcome],
            run.at_us, _difference(run.finished_at_us, run.at_us), number[run.reason], run.passed,
            run.external_id,
            *(run.first or NOWHERE), *(run.finished or NOWHERE),
        )  # fmt: skip

    def _call_values(self, call: CallRow) -> tuple[Any, ...]:
        number = self._database.words
        return (
            call.row, call.id, call.run and call.run.row, call.position,
            number[call.tool], number[call.effect], number[call.door],
            number[call.agent], number[call.caller], number[call.session], number[call.workspace],
            call.inherits, call.parent_id, call.external_id, call.dry_run, number[call.outcome],
            call.at_us, _difference(call.finished_at_us, call.at_us), call.latency_us,
            call.step_id, call.passed, number[call.error],
            call.proposal_id, call.action_id, call.attempt, number[call.connection],
            *(call.first or NOWHERE), *(call.answered or NOWHERE),
            *(call.started or NOWHERE), *(call.finished or NOWHERE),
        )  # fmt: skip

    def _step_values(self, step: StepRow) -> tuple[Any, ...]:
        number, leaf = self._database.words, step.leaf
        tokens = leaf.tokens or _NOTHING_SAID
        return (
            leaf.step_id, step.run.row, leaf.position, leaf.iteration, number[leaf.agent],
            number[leaf.model], number[leaf.requested_model], number[leaf.finish_reason], leaf.responded,
            leaf.parent_id, leaf.external_id, _amount(leaf.since_previous_us), _amount(leaf.model_us),
            _amount(tokens.input), _amount(tokens.output), _amount(tokens.reasoning),
            _amount(tokens.cache_read), _amount(tokens.cache_write), _amount(leaf.cost_nano_usd),
            leaf.at_us, *step.place,
        )  # fmt: skip

    # -- text -----------------------------------------------------------------------------------------

    def _text_of(self, row: CallRow | RunRow) -> str:
        """Of both its records; the one folded in an earlier batch is read again."""
        if row.text_first is None and row.first is not None:
            row.text_first = self._text_at(row.first, text_of_first)
        if row.text_finished is None and row.finished is not None:
            row.text_finished = self._text_at(row.finished, text_of_finished)
        return f"{row.text_first or ''} {row.text_finished or ''}"

    def _text_at(self, place: Place, text_of: Callable[[Leaf, Said], str]) -> str:
        stored = self._journal.read(*place)
        leaf = decode_leaf(stored.kind, stored.leaf)
        return text_of(leaf, SaidHere(self, stored.payload))

    def text(self, payload: bytes) -> str:
        """All that can be searched for in a payload."""
        text = self._gatherer.payload(decode_payload(payload))
        self.characters += len(text)
        return text

    def error(self, payload: bytes) -> Any:
        """Type and message of what went wrong."""
        return self._gatherer.whole((decode_payload(payload) or {}).get("error"))


_NOTHING_SAID = Tokens()


def _amount(count: int | None) -> int | None:
    return count if count is None or -AMOUNT_MAX <= count <= AMOUNT_MAX else None


def _flag(stored: int | None) -> bool | None:
    return None if stored is None else bool(stored)


def _spans(rows: list[RunRow] | list[CallRow]) -> list[tuple[int, int, int]]:
    spans: dict[int, tuple[int, int]] = {}
    for row in rows:
        at_us = row.at_us
        if at_us is not None:
            block = row.row // SPAN_ROWS
            low, high = spans.get(block, (at_us, at_us))
            spans[block] = (min(low, at_us), max(high, at_us))
    return [(block, low, high) for block, (low, high) in spans.items()]


def _sum(at_us: int | None, elapsed_us: int | None) -> int | None:
    return None if elapsed_us is None else (at_us or 0) + elapsed_us


def _difference(finished_at_us: int | None, at_us: int | None) -> int | None:
    """From the start, so that it takes few bytes; from 1970 while the start is not known."""
    return None if finished_at_us is None else finished_at_us - (at_us or 0)


def _place(found: tuple[Any, ...], at: int) -> Place | None:
    return None if found[at] is None else (found[at], found[at + 1], found[at + 2])
