"""The spans of one trace in one request, beside what is on the record of it, as drafts of what is new.

Owns which span becomes which record, in which run and inside what, and what of it is told of as left out.
Does no I/O: what is known of the trace it is given. Knows nothing of runs that wait for their root. Used by
`received`.
"""

from typing import Any, Literal

from custody.bridges.otel import told_spans as told
from custody.bridges.otel import understood as names
from custody.bridges.otel.wire import Span
from custody.calls import stated
from custody.calls.imported import (
    ImportedCall,
    ImportedRun,
    ImportedStep,
    call_finished,
    run_finished,
    run_started,
    step_recorded,
)
from custody.calls.recording import Recording
from custody.index.known_ids import KnownRun, Taken
from custody.recorder import Draft

DOOR = "otel"
"""Of every run and call that is received: no trace may be added to a run that came another way."""

RECEIVED = "trace.received"

NESTED_AGENT = "invoke_agent"
"""The tool of an agent that is at work inside another's run."""

OTHERS_RUN = "its trace is a run that was not received as this"
OTHERS_ID = "its id is taken by another call or step"
UNKNOWN_SERVICE = "unknown_service"  # what an SDK says where nobody named the program

_Around = tuple[bytes | None, bytes | None]
"""A call and a step that something was made in."""


class Trace:
    """The spans of one trace in one request, beside what is on the record of it."""

    def __init__(
        self,
        run_id: bytes,
        spans: list[Span],
        known: KnownRun | None,
        taken: dict[bytes, Taken],
        agent: str | None,
        *,
        is_others: bool = False,
    ) -> None:
        """`is_others`: the beginning of the run is gone, and what is left of it was not received."""
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
        self._around_of: dict[bytes, _Around] = {}
        self._circular = self._find_circles()
        self._is_others = is_others or (known is not None and not self._may_add_to(known))

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

    def _around(self, span: Span) -> "_Around":
        """The call and the step it was made in, as far as that is known by now. Each span above is looked at
        once, however many are below it."""
        passed: list[bytes] = []
        above = None if span.span_id in self._circular else span.parent_id
        while above is not None and above not in self._around_of:
            passed.append(above)
            kind, next_above = self._look_at(above)
            if kind == "call":
                self._around_of[above] = above, None
            above = next_above
        found: _Around = (None, None) if above is None else self._around_of[above]
        for one in reversed(passed):
            if one in self._around_of:
                found = self._around_of[one]
                continue
            found = (found[0], one) if self._look_at(one)[0] == "step" else found
            self._around_of[one] = found
        return found

    def _look_at(self, above: bytes) -> tuple[Literal["call", "step"] | None, bytes | None]:
        """What stands there, and where to look on: nowhere above a call, or where the run itself is. A parent
        that has not come yet is taken for a call: most are."""
        if self._is_root(above):
            return None, None
        parent, found = self._by_id.get(above), self._taken.get(above)
        if parent is None and found is None:
            return "call", None
        kind = None if parent is None else self._kinds[above][0]
        in_run = found is not None and found.in_run
        if kind in ("call", "agent") or (in_run and found is not None and found.what == "call"):
            return "call", None
        what = "step" if kind == "step" or in_run else None
        return what, None if parent is None or above in self._circular else parent.parent_id

    def _is_root(self, span_id: bytes) -> bool:
        if self._root is not None and span_id == self._root.span_id:
            return True
        return self._run is not None and span_id.hex() == self._run.started.external_id

    def _find_circles(self) -> set[bytes]:
        """Spans above which there are, in the end, they themselves: nothing is made inside itself."""
        circular: set[bytes] = set()
        seen: set[bytes] = set()
        for span in self._spans:
            way: dict[bytes, None] = {}
            above: bytes | None = span.span_id
            while above is not None and above in self._by_id and above not in seen:
                way[above] = None
                seen.add(above)
                above = self._by_id[above].parent_id
            if above in way:
                ids = list(way)
                circular.update(ids[ids.index(above) :])
        return circular

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
        if not (self.left_out or self.rejected or attributes or self._circular):
            return []
        data = {
            "spans": len(self._spans),
            "records": records,
            "left_out": self.left_out,
            "rejected": self.rejected,
            "attributes_left_out": attributes,
            "parents_left_out": len(self._circular),
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
