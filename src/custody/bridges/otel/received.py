"""Spans of other programs become runs, steps and calls of this store: each once, in whatever order they come.

Owns what of a trace is recorded, under which ids, and when a run of it begins and ends. A trace is a run; its
root span, which usually comes last, says what the run was and how it ended. What is known of a trace is asked
of the index each time, so a restart forgets nothing. Knows no HTTP. Used by the door, from one thread.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from msgspec import Struct

from custody.bridges.otel import told_spans as told
from custody.bridges.otel.told_trace import DOOR, Trace
from custody.bridges.otel.wire import Request, Span
from custody.calls.imported import append_imported, run_finished
from custody.calls.recording import Recording
from custody.index import Index
from custody.recorder import Draft
from custody.records import RunOutcome, now_us

QUIET_SECONDS = 600.0
"""A run whose root span does not come is closed after so long without a span; should it come, it counts."""

LOCAL_QUIET_SECONDS = 60.0
"""The same where the root is in another program, and what this one did under it has ended."""

OPEN_MAX = 10_000
"""Runs that wait for their root span; beyond that the one heard of longest ago is closed."""


class Received(Struct, frozen=True, kw_only=True):
    """What became of the spans of one request."""

    spans: int
    recorded: int
    """Became a call or a step, or the beginning or end of a run."""
    known: int
    """Were on the record already."""
    left_out: dict[str, int]
    """Kind -> how many stand for no record."""
    rejected: dict[str, int]
    """Why -> how many cannot be taken."""


class _Open(Struct):
    """A run whose root span has not come."""

    heard_at: float
    outcome: RunOutcome = "incomplete"
    reason: str | None = "its root span never came"
    ended_us: int | None = None
    """When the part of it that is in one program ended, if its root is in another."""


class Receiver:
    """Takes requests of spans. Everything here may wait; one thread at a time."""

    def __init__(
        self,
        recording: Recording,
        index: Callable[[], Index],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._recording = recording
        self._index = index
        self._clock = clock
        self._open: OrderedDict[bytes, _Open] = OrderedDict()

    def receive(self, request: Request, agent: str | None = None) -> Received:
        """Put on the record what is not there yet, durably. `agent` is whom the sender speaks for, whatever
        its spans say; None: what they say. Raises NotRecorded, StoreError."""
        traces: dict[bytes, list[Span]] = {}
        for span in request.spans:
            traces.setdefault(span.trace_id, []).append(span)
        if traces:
            self._index().caught_up_to()  # once for all of them
        found = [self._trace(trace_id, spans, agent) for trace_id, spans in traces.items()]
        taken_here: set[bytes] = set()
        drafts: list[Draft] = []
        for trace in found:
            drafts += trace.drafts(self._recording, taken_here)
        receipt = append_imported(self._recording, drafts)
        for trace in found:
            self._note(trace)
        if receipt is not None:
            receipt.wait_durable()
        rejected = _sum([request.rejected, *(trace.rejected for trace in found)])
        return Received(
            spans=len(request.spans) + sum(request.rejected.values()),
            recorded=sum(trace.recorded for trace in found),
            known=sum(trace.known for trace in found),
            left_out=_sum(trace.left_out for trace in found),
            rejected=rejected,
        )

    def _trace(self, trace_id: bytes, spans: list[Span], agent: str | None) -> Trace:
        ids = {span.span_id for span in spans}
        ids.update(span.parent_id for span in spans if span.parent_id is not None)
        index = self._index()
        run, taken = index.known.look(trace_id, ids, refresh=False)
        others = run is None and any(call.door != DOOR for call in index.run_calls(trace_id, refresh=False))
        return Trace(trace_id, spans, run, taken, agent, is_others=others)

    # -- runs whose root does not come ------------------------------------------------------------------

    def _note(self, trace: Trace) -> None:
        if trace.finished:
            self._open.pop(trace.run_id, None)
        elif trace.is_open and trace.recorded:
            found = self._open.setdefault(trace.run_id, _Open(0.0))
            found.heard_at = self._clock()
            self._open.move_to_end(trace.run_id)
            top = trace.local_top
            if top is not None:
                ended = told.ended_of(top)
                found.outcome, found.reason = ended.outcome or "succeeded", ended.reason
                found.ended_us = top.ended_us
        if len(self._open) > OPEN_MAX:
            self._finish([self._open.popitem(last=False)])

    def close_quiet(self) -> int:
        """Close the runs nobody has told more of for long; how many. Raises NotRecorded."""
        now = self._clock()
        quiet = [
            (run_id, found)
            for run_id, found in self._open.items()
            if now - found.heard_at > (QUIET_SECONDS if found.ended_us is None else LOCAL_QUIET_SECONDS)
        ]
        self._finish(quiet)  # where that fails they are still here for the next look
        for run_id, _ in quiet:
            del self._open[run_id]
        return len(quiet)

    def close(self) -> None:
        """Close every run that waits for its root. Raises NotRecorded: then whoever opens the store next
        does it."""
        waiting = list(self._open.items())
        self._open.clear()
        self._finish(waiting)

    def _finish(self, runs: list[tuple[bytes, _Open]]) -> None:
        append_imported(
            self._recording,
            [
                run_finished(
                    self._recording, run_id, found.ended_us or now_us(), found.outcome, reason=found.reason
                )
                for run_id, found in runs
            ],
        )


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return total
