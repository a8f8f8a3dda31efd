"""A run: one bounded piece of work of one agent, as the program that does it holds it.

Owns its beginning, what is recorded of it while it is open, and its one end; all without waiting longer
than the set delay. `handle.RunHandle` is the run of a coroutine, `blocking.BlockingRun` that of a thread.
"""

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar, Token
from typing import Any, cast

import msgspec

from custody.calls import process, stated
from custody.calls.asked import Who, current_call
from custody.calls.backlog import Dropped, Offer
from custody.calls.beginning import NewRun, RunOptions
from custody.calls.delegation import refusal
from custody.calls.descent import TYPED_DOOR, typed_here
from custody.calls.drops import cause_of
from custody.calls.first_record import FirstRecord
from custody.calls.home import Home
from custody.calls.lifecycle import describe
from custody.calls.numbering import Numbering
from custody.calls.observe import ObservedCall
from custody.calls.recording import OnError, check_on_error
from custody.calls.steps import (
    TEXT_CHARACTERS_MAX,
    RecordedStep,
    Turn,
    current_step,
    make_turn,
    step_id_of,
)
from custody.calls.tally import Tally
from custody.errors import DelegationRefused, RunClosed
from custody.journal import Receipt
from custody.recorder import Draft
from custody.records import (
    CALL_ID_BYTES,
    KINDS,
    RUN_OUTCOMES,
    Effect,
    Kind,
    Leaf,
    RunFinished,
    RunOutcome,
    Step,
    Tokens,
    Totals,
    now_us,
)
from custody.tools import Asker

log = logging.getLogger("custody")

FINISH_SECONDS = 10.0
"""How long a run's end may wait for a disk; then it is tried again when the store is closed, and opened."""

current_run: ContextVar["RunRecord | None"] = ContextVar("custody_current_run", default=None)
"""The run in which this code works; tasks and `asyncio.to_thread` inherit it, other threads do not."""


class RunRecord:
    """What is recorded of an open run, without ever waiting for longer than the set delay."""

    def __init__(self, runtime: Home, new: NewRun) -> None:
        beginning = new.beginning
        self._runtime = runtime
        self.recording = runtime.recording
        self.run_id = new.run_id
        self._beginning = beginning
        self.who = Who(**{name: beginning.fields[name] for name in Who.__struct_fields__})
        self.numbering = Numbering(new.run_id, shared=beginning.shared)
        self.tally = Tally()
        check_on_error(beginning.on_error)
        self.on_error: OnError = beginning.on_error or self.recording.settings.on_error
        self.outcome: RunOutcome | None = new.outcome
        """How it ended; None while it is open."""
        self._joined = new.joined
        self.lineage = (*new.ancestors, beginning.task())
        self.chain = (new.run_id, *new.above)
        """Its own id, and those of the runs above it."""
        self._pid = process.pid
        self._lock = threading.RLock()
        self._iterations = 0
        self._last_step_ns = time.monotonic_ns()
        self._last_step: bytes | None = None
        self._model: str | None = None
        self._begun = False
        self.first = FirstRecord(self.recording, self.run_id, lambda: self.outcome is not None)
        self._tokens: list[Token[RunRecord | None]] = []
        _runs.add(self)

    def belongs_to(self, runtime: Home) -> bool:
        """Whether it is a run of that runtime, not of another one in the same program."""
        return self._runtime is runtime

    @property
    def id(self) -> str:
        """32 hexadecimal digits: also the OpenTelemetry trace id."""
        return self.run_id.hex()

    @property
    def totals(self) -> Totals:
        """What the run has done in this process so far: a snapshot of one moment, from any thread."""
        return self.tally.snapshot()

    @property
    def channel(self) -> str | None:
        """Where its caller speaks from."""
        return self._beginning.fields.get("channel")

    # -- what happens in it ---------------------------------------------------------------------------

    def observe(
        self,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        effect: Effect = "unknown",
        external_id: str | None = None,
        step: RecordedStep | str | None = None,
        parent: str | None = None,
        durable: bool = False,
        on_error: OnError | None = None,
        dry_run: bool = False,
        agent: str | None = None,
        guard: bool = False,
    ) -> ObservedCall:
        """A call that the caller runs: `with run.observe("search", {"q": q}) as call: call.result = …`.

        `external_id` is the model's own id of the call; `durable` waits until both records survive a power
        loss. `guard` asks policy and resources first, and raises Denied when they say no; then, and with
        `on_error="raise"`, a call that cannot be recorded raises NotRecorded.
        """
        return ObservedCall(
            self,
            tool,
            {} if arguments is None else arguments,
            effect=effect,
            external_id=external_id,
            step_id=step_id_of(step),
            parent_id=stated.call_id(parent),
            durable=durable,
            on_error=on_error,
            dry_run=dry_run,
            agent=agent,
            guard=guard,
        )

    def step(
        self,
        text: str | None = None,
        *,
        model: str | None = None,
        requested_model: str | None = None,
        tokens: Tokens | Mapping[str, int | None] | None = None,
        model_us: int | None = None,
        finish_reason: str | None = None,
        calls: Iterable[Mapping[str, Any]] = (),
        external_id: str | None = None,
        agent: str | None = None,
        responded: bool = True,
        data: Any = None,
        text_characters_max: int | None = TEXT_CHARACTERS_MAX,
        whole_text: bool = False,
        on_error: OnError | None = None,
    ) -> RecordedStep:
        """Record one model turn; calls observed from here on in this context belong to it.

        `tokens` has any of input, output, reasoning, cache_read, cache_write; what is left out is unknown.
        `calls` are mappings with id, name and arguments. Of the text `text_characters_max` characters are
        kept (None: all), the rest is counted, and kept beside it if `whole_text`. No answer at all is a step
        with `responded=False`.
        """
        if on_error is not None:
            check_on_error(on_error)
        strict = (on_error or self.on_error) == "raise"
        step = RecordedStep(self.run_id, b"")
        if not self.takes("step", model, strict=strict):
            return step
        try:
            turn = make_turn(
                self.recording, text, model=model, requested_model=requested_model, tokens=tokens,
                model_us=model_us, finish_reason=finish_reason, calls=calls, external_id=external_id,
                agent=agent, responded=responded, data=data, text_characters_max=text_characters_max,
                whole_text=whole_text,
            )  # fmt: skip
            self.record_step(step, turn, strict=strict)
        except Exception as error:
            if strict:
                raise
            self.failed(Kind.STEP, error)
        return step

    def event(self, name: str, /, **data: Any) -> None:
        """Record something else worth keeping. A name that does not begin with `app.` is given that."""
        if self.takes("event", name, strict=self._strict):
            self._event(stated.event_name(name), data)

    def error(self, message: str | BaseException, /, **data: Any) -> None:
        """Record that something went wrong, without ending the run."""
        if self.takes("event", "run.error", strict=self._strict):
            said: dict[str, Any] = {"message": message}
            if issubclass(type(message), BaseException):
                said = describe(cast("BaseException", message))
            self._event("run.error", said | data)

    # -- for observed calls ---------------------------------------------------------------------------

    @property
    def _strict(self) -> bool:
        """Whether what cannot be recorded raises."""
        return self.on_error == "raise"

    def takes(self, offered: str, name: object, *, strict: bool) -> bool:
        """Whether it is still open. What is offered to a finished run is refused and counted.

        Raises RunClosed if `strict`.
        """
        if self.outcome is None:
            return True
        if self.tally.refused() > 1:
            self.recording.refused_again(self.run_id)
        else:
            log.warning("Run %s has finished (%s): a %s was refused.", self.id[:8], self.outcome, offered)
            self._event("run.refused", {"offered": offered, "name": name, "count": 1})
        if strict:
            raise RunClosed(
                f"Run {self.id[:8]} has finished ({self.outcome}); start another.", run_id=self.id
            )
        return False

    def step_id(self) -> bytes | None:
        """The step this code belongs to: of its context, else the run's last."""
        current = current_step.get()
        if current is not None and current[0] == self.run_id:
            return current[1]
        return self._last_step

    def keep(
        self,
        draft: Draft,
        *,
        strict: bool,
        opens: bool = False,
        closes: Callable[[], bool] | None = None,
        dropped: Dropped | None = None,
    ) -> Receipt | Offer | None:
        """Put a record of the run on the record, within the delay; one that interrupts another is queued.
        Raises NotRecorded if `strict`."""
        if self.first.waiting:
            self.first.offer()
        if strict and self.recording.recorder.can_append():
            return self.recording.recorder.append(draft, opens=opens, closes=closes is not None and closes())
        backlog = self.recording.backlog
        stored = backlog.submit(
            draft, run_id=self.run_id, dropped=dropped or self.dropped, opens=opens, closes=closes
        )
        return stored if not isinstance(stored, Offer) else backlog.wait(stored) or stored

    def keep_numbered(
        self,
        draft_at: Callable[[int | None], Draft],
        leaf_type: type[Leaf],
        *,
        strict: bool,
        opens: bool = False,
        dropped: Dropped | None = None,
    ) -> Receipt | Offer | None:
        """The same for a record that takes the run's next position."""
        if self.numbering.shared:
            return self._keep_shared(draft_at, leaf_type, strict, opens, dropped or self.dropped)
        position = self.numbering.take()
        try:
            return self.keep(draft_at(position), strict=strict, opens=opens, dropped=dropped)
        except BaseException:
            self.numbering.give_back(position)
            raise

    def _keep_shared(
        self,
        draft_at: Callable[[int | None], Draft],
        leaf_type: type[Leaf],
        strict: bool,
        opens: bool,
        dropped: Dropped,
    ) -> Receipt | Offer | None:
        """Where several processes count, the position is known only once the journal has been asked."""
        backlog = self.recording.backlog

        def write() -> Receipt:
            return self.recording.recorder.append_in_shared_run(self.run_id, draft_at, opens=opens)[1]

        if strict:
            return write()
        size_bytes = draft_at(None).frame_bytes
        stored = backlog.offer(
            Offer(write, KINDS[leaf_type], size_bytes, self.run_id, dropped, essential=False)
        )
        return None if stored is None else backlog.wait(stored) or stored

    def dropped(self) -> bool:  # one of the run's records
        self.tally.dropped()
        return False

    def failed(self, kind: Kind, error: Exception) -> None:
        """Recording itself went wrong: a defect of ours must not become one of the agent."""
        self.recording.backlog.drop(kind, self.run_id, cause_of(error), self.dropped)

    # -- its records ----------------------------------------------------------------------------------

    def record_step(self, step: RecordedStep, turn: Turn, *, strict: bool, age_us: int = 0) -> None:
        """Put a turn on the record, under the step's own id if it has one; it was over so long ago. Raises
        NotRecorded if `strict`."""
        recorder = self.recording.recorder
        said = recorder.redact(turn.payload)
        if turn.redactions:
            said = msgspec.structs.replace(said, redactions=turn.redactions + said.redactions)
        step.step_id = step.step_id or recorder.ids.take(CALL_ID_BYTES)
        now_ns, at_us = time.monotonic_ns() - 1000 * age_us, now_us() - age_us
        with self._lock:
            self._iterations += 1
            iteration = self._iterations
            since_previous_us = max(0, now_ns - self._last_step_ns) // 1000
            self._last_step_ns, self._last_step = now_ns, step.step_id
            previous = self._model
            self._model = turn.fields["model"] or previous

        def draft_at(position: int | None) -> Draft:
            step.position = position
            return recorder.draft_of(
                said,
                Step,
                step_id=step.step_id,
                run_id=self.run_id,
                at_us=at_us,
                position=position,
                iteration=iteration,
                since_previous_us=since_previous_us,
                parent_id=current_call.get(),
                **turn.fields,
            )

        self.tally.step(turn.fields["tokens"], turn.fields["cost_nano_usd"])
        current_step.set((self.run_id, step.step_id))
        step.stored = self.keep_numbered(draft_at, Step, strict=strict)
        if self._model != previous:
            self._event("run.model", {"model": self._model, "previous": previous})

    def _event(self, name: str, data: Mapping[str, Any]) -> None:
        recorder = self.recording.recorder
        try:
            draft = recorder.draft_event(name, data, run_id=self.run_id, call_id=current_call.get())
            self.keep(draft, strict=self._strict)
        except Exception as error:
            if self._strict:
                raise
            self.failed(Kind.EVENT, error)

    def _child(self, intent: str | None, name: str | None, options: RunOptions) -> NewRun:
        """A run below this one. Raises DelegationRefused, RunClosed."""
        self.takes("child", name or intent, strict=True)
        new = self._runtime.new_runs.child_of(self, intent, name, options)
        reason = refusal(self.lineage, new.beginning.task(), self.recording.settings.child_depth_max)
        if reason is not None:
            agent = new.beginning.fields["agent"]
            self._event("run.refused", {"offered": "child", "name": agent, "reason": reason, "count": 1})
            raise DelegationRefused(
                f"The task is not handed on: {reason}.", depth=len(self.lineage), agent=agent
            )
        return new

    # -- its beginning and its end --------------------------------------------------------------------

    @property
    def _waits_to_start(self) -> bool:
        return self._beginning.shared or self._strict

    def _start(self) -> Receipt | None:
        """Put the run on the record. Raises NotRecorded for a shared run and where `on_error` is `raise`."""
        if self._begun:
            return None  # its `with` was entered before
        stored: Receipt | None = None
        recorder, shared = self.recording.recorder, self._beginning.shared
        draft = self._beginning.draft(recorder, self.run_id)
        if self._waits_to_start:
            stored = recorder.append(draft, opens=not shared)
        else:
            self.first.waiting.append(draft)
            self.first.offer()
        if shared:
            self._runtime.journal.create_shared(self.run_id)
        else:
            self.recording.open_runs[self.run_id] = self
        self._begun, self._last_step_ns = True, time.monotonic_ns()
        return stored

    def end_at_close(self) -> None:
        """Nobody has finished it, and nobody can from now on. Raises NotRecorded as `_finish` does."""
        self._finish("incomplete", None, "its store was closed", None, None)

    def _finish(
        self, outcome: str | None, output: Any, reason: str | None, passed: bool | None, totals: Any
    ) -> Receipt | Offer | None:
        """Offer the run's last record, once. Raises NotRecorded where `on_error` is `raise`."""
        if not self._ends_as(outcome):
            return None
        self.recording.open_runs.pop(self.run_id, None)
        self._runtime.walled.end_run(self.id)
        if self.outcome != outcome and outcome is not None:
            reason = f"its outcome was stated as {stated.name(outcome)!r}" if reason is None else reason
        payload = {"output": output, "stated_totals": totals}
        shared, recorder, at_us = self._beginning.shared, self.recording.recorder, now_us()
        said = recorder.redact({name: value for name, value in payload.items() if value is not None})

        def draft() -> Draft:
            """With the numbers of when it is written: then it is known what was dropped before."""
            counted = None if shared else self.tally.snapshot()
            return recorder.draft_of(
                said,
                RunFinished,
                run_id=self.run_id,
                at_us=at_us,
                outcome=self.outcome,
                reason=stated.name(reason),
                passed=stated.truth(passed),
                calls=None if counted is None else counted.calls,
                totals=counted,
            )

        self.first.offer()
        if self._strict and recorder.can_append():
            return recorder.append(draft(), closes=not shared)

        def dropped() -> bool:
            self.recording.unfinished.append(draft())
            return True

        return self.recording.backlog.submit(
            draft(), run_id=self.run_id, dropped=dropped, closes=lambda: not shared, anew=draft
        )

    def _ends_as(self, outcome: str | None) -> bool:
        """Settle the outcome; False if that has been done, or is its parent process's to do."""
        if self._pid != process.pid:
            return False
        said = "succeeded" if outcome is None else stated.name(outcome)
        with self._lock:
            open_before = self.outcome is None
            if open_before:
                self.outcome = said if said in RUN_OUTCOMES else "unknown"
        if not open_before and outcome is not None and stated.name(outcome) != self.outcome:
            self.takes("finish", outcome, strict=False)
        return open_before

    def _enter(self) -> None:
        self._tokens.append(current_run.set(self))

    def _leave(self) -> None:
        try:
            current_run.reset(self._tokens.pop())
        except ValueError:
            pass  # entered in another context, as a fixture or a generator may be: it is over there, too

    def after_fork_in_child(self) -> None:
        """Locks may be held by threads that are gone. The run goes on in parent and child; its first record
        is the parent's."""
        self._lock = threading.RLock()
        self.first.after_fork_in_child()
        self.tally.after_fork_in_child()


_runs: "weakref.WeakSet[RunRecord]" = weakref.WeakSet()


def asker_of(who: Who, run: RunRecord | None, door: str, *, caused: bool) -> Asker:
    """Who asks for a call. One in a run belongs to the run's session, whatever it says itself."""
    session_id = who.session_id if run is None else run.who.session_id
    return Asker(
        door=door,
        caller=who.caller,
        session_id=session_id,
        run_id=None if run is None else run.id,
        typed=door == TYPED_DOOR and typed_here(),
        caused=caused,
    )


def _after_fork_in_child() -> None:
    for run in list(_runs):
        run.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
