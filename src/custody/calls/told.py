"""Work that a program at the other end of a wire did itself, put on the record as it is told.

Owns how a told call or step becomes records: under ids that both ends know, at the times they happened. Used
by `rpc.telling`; a program that records in its own process uses `observe`.
"""

import time
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from custody.calls.lifecycle import Judgement
from custody.calls.observe import ObservedCall
from custody.calls.run import RunRecord
from custody.calls.steps import TEXT_CHARACTERS_MAX, RecordedStep, Turn, make_turn
from custody.errors import Denied, NotRecorded
from custody.records import CallFinished, Decision, Outcome, Request, now_us


class ToldEnd(Struct, frozen=True, kw_only=True):
    """How a told call ended."""

    at_us: int
    latency_us: int
    result: Any = None
    passed: bool | None = None
    cached: bool = False
    outcome: Outcome | None = None
    """None: what the result says of itself."""
    reason: str | None = None
    error: dict[str, Any] | None = None


class ToldCall(ObservedCall):
    """A call whose start and end are told by whoever runs it."""

    def __init__(
        self,
        run: RunRecord,
        tool: str,
        arguments: Any,
        *,
        call_id: bytes,
        asked_at_us: int,
        door: str,
        connection: str,
        denied: Decision | None = None,
        **options: Any,
    ) -> None:
        """`denied` is what guards of the connection said before those of the runtime are asked."""
        super().__init__(run, tool, arguments, **options)
        self._given = call_id, asked_at_us
        self._door, self._connection = door, connection
        self._denied = denied
        self._end: ToldEnd | None = None

    def end(self, told: ToldEnd) -> None:
        """Raises NotRecorded where `on_error` is `raise`."""
        self._end = told
        self.result, self.passed, self.cached = told.result, told.passed, told.cached
        self._ended_at_us = told.at_us
        self._started_ns = time.monotonic_ns() - told.latency_us * 1000  # told later than it was
        self.close()

    def abandon(self) -> None:
        """Nobody will say how it ended: whoever ran it is gone. Raises NotRecorded; then its store says so
        when it is closed."""
        if self._closed:
            return
        self._closed, self.outcome = True, "unknown"
        recording = self._run.recording
        draft = recording.recorder.draft(
            CallFinished,
            {},
            call_id=self.call_id,
            at_us=now_us(),
            outcome="unknown",
            reason="its client went away before it ended",
        )
        try:
            recording.recorder.append(draft, closes=self._reserved)
        except NotRecorded:
            self._mark_unrecorded()
            raise
        finally:
            self._run.tally.call_ended("unknown")
            self._give_back()
            recording.open_calls.discard(self.call_id)
            self._arguments = None

    def _name_it(self) -> None:
        super()._name_it()
        self.call_id, self._asked_at_us = self._given

    def _decide(self) -> None:
        if self._denied is None:
            super()._decide()
            return
        self._decision = self._denied
        self._record_rejection()
        raise Denied(self._decision.reason, decision=self._decision, call_id=self.id)

    def _judge(self, error: BaseException | None) -> Judgement:
        told = self._end
        if told is None or told.outcome is None:
            return super()._judge(error)
        return Judgement(told.outcome, told.reason, told.error)

    def _request(self) -> Request:
        return msgspec.structs.replace(super()._request(), door=self._door, connection=self._connection)


def tell_step(
    run: RunRecord, step_id: bytes, said: Mapping[str, Any], age_us: int
) -> tuple[RecordedStep, Turn]:
    """Record a turn as `RunRecord.step` would; it was over so long ago. Raises RunClosed, NotRecorded."""
    run.takes("step", said.get("model"), strict=True)
    turn = make_turn(
        run.recording,
        said.get("text"),
        model=said.get("model"),
        requested_model=said.get("requested_model"),
        tokens=said.get("tokens"),
        model_us=said.get("model_us"),
        finish_reason=said.get("finish_reason"),
        calls=said.get("calls") or (),
        external_id=said.get("external_id"),
        agent=said.get("agent"),
        responded=said.get("responded", True),
        data=said.get("data"),
        text_characters_max=said.get("text_characters_max", TEXT_CHARACTERS_MAX),
        whole_text=said.get("whole_text") is True,
    )
    step = RecordedStep(run.run_id, step_id)
    run.record_step(step, turn, strict=True, age_us=age_us)
    return step, turn
