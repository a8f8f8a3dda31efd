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
from contextvars import ContextVar
from typing import Any, Protocol

import msgspec

from custody.calls.backlog import Dropped, Offer
from custody.calls.beginning import NewRun, RunOptions
from custody.calls.delegation import refusal
from custody.calls.execute import Who, current_call
from custody.calls.lifecycle import outcome_of
from custody.calls.numbering import Numbering
from custody.calls.observe import ObservedCall
from custody.calls.recording import OnError, Recording
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
from custody.journal import Journal, Receipt
from custody.recorder import Draft
from custody.records import (
    CALL_ID_BYTES,
    KINDS,
    RUN_OUTCOMES,
    Call,
    Effect,
    Event,
    Leaf,
    RunFinished,
    RunOutcome,
    Step,
    Tokens,
    Totals,
    now_us,
)

log = logging.getLogger("custody")

FINISH_SECONDS = 10.0
"""How long a run's end may wait for a disk; then it is tried again when the store is closed, and opened."""

OWN_NAMES = "app."
"""What the names of a user's events begin with: the others are Custody's, and some change what is allowed."""

EVENT_NAME_CHARACTERS_MAX = 128

current_run: ContextVar["RunRecord | None"] = ContextVar("custody_current_run", default=None)
"""The run in which this code works; tasks and threads started here inherit it."""


class Home(Protocol):
    """What a run needs of the runtime it belongs to."""

    journal: Journal
    recording: Recording

    async def call(
        self,
        tool: str | Callable[..., Any],
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        dry_run: bool = False,
        run: "RunRecord | None" = None,
        external_id: str | None = None,
    ) -> Call: ...

    def child_of(
        self, parent: "RunRecord", intent: str | None, name: str | None, options: RunOptions
    ) -> NewRun: ...


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
        self.on_error: OnError = beginning.on_error or self.recording.settings.on_error
        self.outcome: RunOutcome | None = new.outcome
        """How it ended; None while it is open."""
        self._joined = new.joined
        self.lineage = (*new.ancestors, beginning.task())
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._iterations = 0
        self._last_step_ns = time.monotonic_ns()
        self._last_step: bytes | None = None
        self._model: str | None = None
        self._unstarted: Draft | None = None
        """The run's first record, while the store has not taken it."""
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
            step_id=None if step is None else step_id_of(step),
            parent_id=None if parent is None else bytes.fromhex(parent),
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
            self._record_step(step, turn, strict)
        except Exception as error:
            if strict:
                raise
            self.failed(error)
        return step

    def event(self, name: str, **data: Any) -> None:
        """Record something else worth keeping. A name that does not begin with `app.` is given that."""
        if self.takes("event", name, strict=self.on_error == "raise"):
            name = name if name.startswith(OWN_NAMES) else OWN_NAMES + name
            self._event(name[:EVENT_NAME_CHARACTERS_MAX], data)

    def error(self, message: str | BaseException, **data: Any) -> None:
        """Record that something went wrong, without ending the run."""
        if self.takes("event", "run.error", strict=self.on_error == "raise"):
            said = {"message": str(message)} | data
            if isinstance(message, BaseException):
                said["type"] = type(message).__name__
            self._event("run.error", said)

    # -- for observed calls ---------------------------------------------------------------------------

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
        closes: bool = False,
        dropped: Dropped | None = None,
    ) -> Receipt | Offer | None:
        """Put a record of the run on the record, within the delay. Raises NotRecorded if `strict`."""
        if self._unstarted is not None:
            self._offer_start()
        if strict:
            return self.recording.recorder.append(draft, opens=opens, closes=closes)
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
        recorder, backlog = self.recording.recorder, self.recording.backlog

        def write() -> Receipt:
            return recorder.append_in_shared_run(self.run_id, draft_at, opens=opens)[1]

        if strict:
            return write()
        size_bytes = draft_at(None).frame_bytes
        stored = backlog.offer(Offer(write, KINDS[leaf_type], size_bytes, self.run_id, dropped, False))
        return None if stored is None else backlog.wait(stored) or stored

    def dropped(self) -> bool:
        """One of the run's records is lost."""
        self.tally.dropped()
        return False

    def failed(self, error: Exception) -> None:
        """Recording itself went wrong: a defect of ours must not become one of the agent."""
        self.tally.dropped()
        log.warning("Run %s: a record could not be made: %r", self.id[:8], error, exc_info=error)

    # -- its records ----------------------------------------------------------------------------------

    def _record_step(self, step: RecordedStep, turn: Turn, strict: bool) -> None:
        recorder = self.recording.recorder
        said = recorder.redact(turn.payload)
        if turn.redactions:
            said = msgspec.structs.replace(said, redactions=turn.redactions + said.redactions)
        step.step_id = recorder.ids.take(CALL_ID_BYTES)
        now_ns = time.monotonic_ns()
        with self._lock:
            self._iterations += 1
            iteration = self._iterations
            since_previous_us = (now_ns - self._last_step_ns) // 1000
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
                at_us=now_us(),
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
        strict = self.on_error == "raise"
        try:
            draft = recorder.draft(
                Event,
                {"data": data},
                event_id=recorder.ids.take(CALL_ID_BYTES),
                name=name,
                at_us=now_us(),
                run_id=self.run_id,
                call_id=current_call.get(),
            )
            self.keep(draft, strict=strict)
        except Exception as error:
            if strict:
                raise
            self.failed(error)

    def _child(self, intent: str | None, name: str | None, options: RunOptions) -> NewRun:
        """A run below this one. Raises DelegationRefused, RunClosed."""
        self.takes("child", name or intent, strict=True)
        new = self._runtime.child_of(self, intent, name, options)
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
        return self._beginning.shared or self.on_error == "raise"

    def _start(self) -> None:
        """Put the run on the record. Raises NotRecorded for a shared run and where `on_error` is `raise`."""
        recorder = self.recording.recorder
        draft = self._beginning.draft(recorder, self.run_id)
        self._last_step_ns = time.monotonic_ns()
        if not self._waits_to_start:
            self._unstarted = draft
            self._offer_start()
            return
        recorder.append(draft, opens=not self._beginning.shared)
        if self._beginning.shared:
            self._runtime.journal.create_shared(self.run_id)

    def _offer_start(self) -> None:
        draft, backlog = self._unstarted, self.recording.backlog
        if draft is None or not (backlog.healthy or self.outcome is not None):
            return
        self._unstarted = None

        def dropped() -> bool:
            self._unstarted = draft
            return True

        backlog.submit(draft, run_id=self.run_id, dropped=dropped, opens=True)

    def _finish(
        self, outcome: str | None, output: Any, reason: str | None, passed: bool | None, totals: Any
    ) -> Receipt | Offer | None:
        """Offer the run's last record, once. Raises NotRecorded where `on_error` is `raise`."""
        if not self._ends_as(outcome):
            return None
        if self.outcome != outcome and outcome is not None:
            reason = f"its outcome was stated as {outcome!r}" if reason is None else reason
        payload = {"output": output, "stated_totals": totals}
        shared, recorder = self._beginning.shared, self.recording.recorder
        draft = recorder.draft(
            RunFinished,
            {name: value for name, value in payload.items() if value is not None},
            run_id=self.run_id,
            at_us=now_us(),
            outcome=self.outcome,
            reason=reason,
            passed=passed,
            calls=None if shared else self.tally.snapshot().calls,
            totals=None if shared else self.tally.snapshot(),
        )
        if self._unstarted is not None:
            self._offer_start()
        if self.on_error == "raise":
            return recorder.append(draft, closes=not shared)

        def dropped() -> bool:
            self.recording.unfinished += [*filter(None, [self._unstarted]), draft]
            return True

        return self.recording.backlog.submit(draft, run_id=self.run_id, dropped=dropped, closes=not shared)

    def _ends_as(self, outcome: str | None) -> bool:
        """Settle the outcome; False if that has been done, or is its parent process's to do."""
        if self._pid != os.getpid():
            return False
        with self._lock:
            open_before = self.outcome is None
            if open_before:
                known = "succeeded" if outcome is None else outcome
                self.outcome = known if known in RUN_OUTCOMES else "unknown"
        if not open_before and outcome not in (None, self.outcome):
            self.takes("finish", outcome, strict=False)
        return open_before

    def _left_with(self, error: BaseException | None) -> tuple[RunOutcome | None, str | None]:
        """Outcome and reason of a run whose `with` is left."""
        if error is None:
            return None, None
        outcome = outcome_of(error)
        return outcome, None if outcome == "cancelled" else type(error).__name__

    def after_fork_in_child(self) -> None:
        """Locks may be held by threads that are gone. The run goes on in parent and child."""
        self._lock = threading.Lock()
        self.tally.after_fork_in_child()


_runs: "weakref.WeakSet[RunRecord]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for run in list(_runs):
        run.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
