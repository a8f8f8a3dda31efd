"""Spans of other programs become runs, steps and calls of this store: each once, in whatever order they come.

Owns what of a trace is recorded, under which ids, and when a run of it begins and ends. A trace is a run; its
root span, which usually comes last, says what the run was and how it ended. What is known of a trace is asked
of the index each time, so a restart forgets nothing. Knows no HTTP. Used by the door, from one thread.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct

from custody.bridges.otel import told_spans as told
from custody.bridges.otel import understood as names
from custody.bridges.otel.wire import Request, Span
from custody.calls import stated
from custody.calls.imported import (
    ImportedCall,
    ImportedRun,
    ImportedStep,
    append_imported,
    call_finished,
    run_finished,
    run_started,
    step_recorded,
)
from custody.calls.recording import Recording
from custody.index import Index
from custody.index.known_ids import KnownRun, Taken
from custody.recorder import Draft
from custody.records import RunOutcome, now_us

DOOR = "otel"
"""Of every run and call that is received: no trace may be added to a run that came another way."""

RECEIVED = "trace.received"

QUIET_SECONDS = 600.0
"""A run whose root span does not come is closed after so long without a span; should it come, it counts."""

LOCAL_QUIET_SECONDS = 60.0
"""The same where the root is in another program, and what this one did under it has ended."""

OPEN_MAX = 10_000
"""Runs that wait for their root span; beyond that the one heard of longest ago is closed."""

NESTED_AGENT = "invoke_agent"
"""The tool of an agent that is at work inside another's run."""

OTHERS_RUN = "its trace is a run that was not received as this"
OTHERS_ID = "its id is taken by another call or step"
UNKNOWN_SERVICE = "unknown_service"  # what an SDK says where nobody named the program


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

    def _trace(self, trace_id: bytes, spans: list[Span], agent: str | None) -> "_Trace":
        ids = {span.span_id for span in spans}
        ids.update(span.parent_id for span in spans if span.parent_id is not None)
        run, taken = self._index().known.look(trace_id, ids, refresh=False)
        return _Trace(trace_id, spans, run, taken, agent)

    # -- runs whose root does not come ------------------------------------------------------------------

    def _note(self, trace: "_Trace") -> None:
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
        for run_id, _ in quiet:
            del self._open[run_id]
        self._finish(quiet)
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


class _Trace:
    """The spans of one trace in one request, beside what is on the record of it."""

    def __init__(
        self,
        run_id: bytes,
        spans: list[Span],
        known: KnownRun | None,
        taken: dict[bytes, Taken],
        agent: str | None,
    ) -> None:
        self.run_id = run_id
        self._run = known
        self._taken = taken
        self._agent = agent
        self._spans = list({span.span_id: span for span in reversed(spans)}.values())
        self._spans.sort(key=lambda span: span.started_us)
        self._by_id = {span.span_id: span for span in self._spans}
        self._kinds = {span.span_id: told.kind_of(span) for span in self._spans}
        self.recorded = 0
        self.known = len(spans) - len(self._spans)
        self.left_out: dict[str, int] = {}
        self.rejected: dict[str, int] = {}
        self.finished = False
        self._root = self._find_root()
        self._is_others = known is not None and not self._may_add_to(known)

    def _may_add_to(self, known: KnownRun) -> bool:
        started = known.started
        return started.door == DOOR and (self._agent is None or started.agent == self._agent)

    def _find_root(self) -> Span | None:
        """The span without a parent; where one was recorded, only that one is it."""
        recorded = None if self._run is None else self._run.started.external_id
        for span in self._spans:
            if span.parent_id is None and recorded in (None, span.span_id.hex()):
                return span
        return None

    @property
    def is_open(self) -> bool:
        """It is a run that waits for its root span."""
        return not self.finished and not self._is_others and (self._run is None or self._run.outcome is None)

    @property
    def local_top(self) -> Span | None:
        """The topmost span here, where what is above it is in another program."""
        if self._root is not None:
            return None
        tops = (span for span in self._spans if span.remote_parent and span.parent_id not in self._by_id)
        return next(tops, None)

    # -- drafts -----------------------------------------------------------------------------------------

    def drafts(self, recording: Recording, taken_here: set[bytes]) -> list[Draft]:
        """What is new of it, in the order it is to be recorded; `taken_here` are ids of this request."""
        if self._is_others:
            self._refuse()
            return []
        if self._run is None and not any(kind for kind, _ in self._kinds.values()):
            for _, word in self._kinds.values():
                self._leave_out(word)
            return []
        parts = self._parts(recording, taken_here)
        made = [*self._start(recording), *parts]
        end = self._end(recording)
        if made or end:
            made += self._said_of_it(recording, len(parts))
        self.recorded = len(parts) + (
            1 if end and self._kinds[self._root_id][0] not in ("call", "step") else 0
        )
        return [*made, *end]

    @property
    def _root_id(self) -> bytes:
        assert self._root is not None, "only a root ends a run"
        return self._root.span_id

    def _refuse(self) -> None:
        for span in self._spans:
            found = self._taken.get(span.span_id)
            if (found is not None and found.in_run) or self._is_run_itself(span):
                self.known += 1
            else:
                self.rejected[OTHERS_RUN] = self.rejected.get(OTHERS_RUN, 0) + 1

    def _is_run_itself(self, span: Span) -> bool:
        """What an export made of this very run, on its way back."""
        return self._run is not None and span.attributes.get(names.RUN_ID) == self.run_id.hex()

    def _leave_out(self, word: str) -> None:
        self.left_out[word] = self.left_out.get(word, 0) + 1

    def _parts(self, recording: Recording, taken_here: set[bytes]) -> list[Draft]:
        made: list[Draft] = []
        position = 0 if self._run is None else self._run.last_position + 1
        for span in self._spans:
            kind, word = self._kinds[span.span_id]
            if span is self._root and kind not in ("call", "step"):
                if self._run is not None and self._run.outcome not in (None, "incomplete"):
                    self.known += 1
                continue
            if kind is None or kind == "part":
                self._leave_out(word)
                continue
            found = self._taken.get(span.span_id)
            if (found is not None and found.in_run) or (span is not self._root and self._is_run_itself(span)):
                self.known += 1
            elif found is not None or span.span_id in taken_here:
                self.rejected[OTHERS_ID] = self.rejected.get(OTHERS_ID, 0) + 1
            else:
                taken_here.add(span.span_id)
                if kind == "step":
                    made.append(step_recorded(recording, self._step(span, position)))
                else:
                    made.append(call_finished(recording, self._call(span, kind, word, position)))
                position += 1
        return made

    def _call(self, span: Span, kind: names.Kind, word: str, position: int) -> ImportedCall:
        attributes, ended = span.attributes, told.ended_of(span)
        arguments: Any = told.first(attributes, names.ARGUMENTS)
        result: Any = told.first(attributes, names.RESULT)
        tool = told.tool_of(span, word) if kind == "call" else NESTED_AGENT
        if kind == "agent":
            asked = told.said_in(told.first(attributes, names.RUN_INPUT))
            arguments = {"agent": told.agent_of(span, kind), "input": asked}
            result = told.said_in(told.first(attributes, names.RUN_OUTPUT))
        parent_id, step_id = self._around(span)
        return ImportedCall(
            call_id=span.span_id,
            run_id=self.run_id,
            position=position,
            door=DOOR,
            tool=tool,
            arguments={} if arguments is None else arguments,
            result=result,
            started_us=span.started_us,
            ended_us=span.ended_us,
            effect=told.effect_of(span, word),
            outcome=ended.outcome,
            reason=ended.reason,
            error=ended.error,
            passed=_truth(attributes.get(names.PASSED)),
            dry_run=attributes.get(names.DRY_RUN) is True,
            external_id=told.text(attributes, names.CALL_EXTERNAL_ID),
            agent=self._own_agent(span),
            parent_id=parent_id,
            step_id=step_id,
        )

    def _step(self, span: Span, position: int) -> ImportedStep:
        attributes, ended = span.attributes, told.ended_of(span)
        said, calls = told.output_of(attributes)
        failed = ended.error is not None
        return ImportedStep(
            step_id=span.span_id,
            run_id=self.run_id,
            position=position,
            started_us=span.started_us,
            ended_us=span.ended_us,
            text=said,
            model=told.text(attributes, names.MODEL),
            requested_model=told.text(attributes, names.REQUESTED_MODEL),
            tokens=told.tokens_of(attributes),
            finish_reason=told.finish_reason_of(attributes),
            calls=calls,
            external_id=told.text(attributes, names.STEP_EXTERNAL_ID),
            agent=self._own_agent(span),
            parent_id=self._around(span)[0],
            responded=not failed,
            data={"error": ended.error} if failed else None,
        )

    def _own_agent(self, span: Span) -> str | None:
        """None: the run's."""
        return None if self._agent is not None else told.text(span.attributes, names.AGENT)

    def _around(self, span: Span) -> tuple[bytes | None, bytes | None]:
        """The call and the step it was made in, as far as that is known by now. A parent that has not come
        yet is taken for a call: most are."""
        step_id: bytes | None = None
        above = span.parent_id
        for _ in range(len(self._spans) + 1):
            if above is None or (self._root is not None and above == self._root.span_id):
                break
            if self._run is not None and above.hex() == self._run.started.external_id:
                break
            parent, found = self._by_id.get(above), self._taken.get(above)
            kind = None if parent is None else self._kinds[above][0]
            if kind in ("call", "agent") or (found is not None and found.what == "call" and found.in_run):
                return above, step_id
            if step_id is None and (kind == "step" or (found is not None and found.in_run)):
                step_id = above
            elif parent is None and found is None:
                return above, step_id
            above = None if parent is None else parent.parent_id
        return None, step_id

    # -- the run ----------------------------------------------------------------------------------------

    def _start(self, recording: Recording) -> list[Draft]:
        """Its beginning: as soon as anything of it is known, and once more, and then for good, by its root.
        Of two beginnings the earlier one counts."""
        root, known = self._root, self._run
        if known is None:
            at_us = (root or self._spans[0]).started_us
        elif root is not None and known.started.external_id is None:
            at_us = min(root.started_us, known.started.at_us - 1)
        else:
            return []
        said = self._said_first()
        span = said[0]
        asked = stated.arguments(told.said_in(told.first(span.attributes, names.RUN_INPUT)))
        resource = (root or self._spans[0]).resource
        service = _named(resource, names.SERVICE)
        return [
            run_started(
                recording,
                ImportedRun(
                    run_id=self.run_id,
                    at_us=at_us,
                    door=DOOR,
                    name=_first_text(said, names.RUN_NAME),
                    agent=self._agent or self._agent_of_run() or service,
                    caller=_first_text(said, names.CALLER),
                    session_id=_first_text(said, names.SESSION),
                    client=service,
                    host=_named(resource, names.HOST),
                    external_id=None if root is None else root.span_id.hex(),
                    intent=span.name if isinstance(asked, dict | list) else asked or span.name,
                    inputs=asked if isinstance(asked, dict | list) else None,
                    labels={"otel.scope": (root or self._spans[0]).scope},
                ),
            )
        ]

    def _said_first(self) -> list[Span]:
        """Whose word counts for the run: its root's first, then that of agents, then that of the others."""
        agents = [span for span in self._spans if self._kinds[span.span_id][0] == "agent"]
        return [*([] if self._root is None else [self._root]), *agents, *self._spans]

    def _agent_of_run(self) -> str | None:
        for span in self._said_first():
            found = told.agent_of(span, self._kinds[span.span_id][0])
            if found is not None:
                return found
        return None

    def _end(self, recording: Recording) -> list[Draft]:
        root, known = self._root, self._run
        if root is None or (known is not None and known.outcome not in (None, "incomplete")):
            return []
        ended = told.ended_of(root)
        self.finished = True
        return [
            run_finished(
                recording,
                self.run_id,
                root.ended_us,
                ended.outcome or "succeeded",
                reason=ended.reason,
                output=stated.arguments(told.said_in(told.first(root.attributes, names.RUN_OUTPUT))),
            )
        ]

    def _said_of_it(self, recording: Recording, records: int) -> list[Draft]:
        """What of the spans stands in no record, counted; nothing where nothing was left out."""
        attributes = sum(told.left_out(span) for span in self._spans)
        if not self.left_out and not self.rejected and not attributes:
            return []
        data = {
            "spans": len(self._spans),
            "records": records,
            "left_out": self.left_out,
            "rejected": self.rejected,
            "attributes_left_out": attributes,
        }
        return [recording.recorder.draft_event(RECEIVED, data, run_id=self.run_id)]


def _first_text(spans: list[Span], wanted: tuple[str, ...]) -> str | None:
    found = (told.text(span.attributes, wanted) for span in spans)
    return next((value for value in found if value is not None), None)


def _named(resource: dict[str, Any], name: str) -> str | None:
    value = resource.get(name)
    return value if isinstance(value, str) and value and not value.startswith(UNKNOWN_SERVICE) else None


def _truth(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return total
