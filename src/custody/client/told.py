"""A run of the daemon's as the program that works in it holds it: what is told of it, and its one end.

As `calls.run`, over a wire. Owns nothing that waits: each face adds that (`run`).
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from contextvars import Token
from typing import Any, cast

from custody.calls import stated
from custody.calls.asked import current_call
from custody.calls.lifecycle import describe
from custody.calls.recording import OnError, check_on_error
from custody.calls.run import current_run
from custody.calls.steps import (
    TEXT_CHARACTERS_MAX,
    TOKENS_MAX,
    RecordedStep,
    current_step,
    step_id_of,
)
from custody.calls.tally import Tally
from custody.client.home import Home
from custody.client.observed import RemoteCall
from custody.client.outbox import Item, Outbox
from custody.client.part import Part
from custody.errors import NotRecorded, RunClosed
from custody.records import RUN_OUTCOMES, Effect, Kind, RunOutcome, Tokens, Totals
from custody.rpc.spoken import spoken

log = logging.getLogger("custody")

BEGIN_SECONDS = 1.0
"""How long a run that need not be recorded waits for the daemon; then it begins, and is told later."""


class Told:
    """An open run, and what is told of it without ever waiting."""

    def __init__(
        self, home: Home, part: Part, on_error: OnError | None, joined: bool, said: Mapping[str, Any]
    ) -> None:
        check_on_error(on_error)
        self._home = home
        self.part = part
        self.outbox: Outbox = home.outbox
        self.said = said
        """What was said of it when it was begun: agent, caller, session, channel …"""
        self.on_error: OnError = on_error or home.on_error
        self.tally = Tally()
        self.joined = joined
        """Somebody else has begun it, and finishes it."""
        self._outcome: RunOutcome | None = None
        self._last_step: RecordedStep | None = None
        self._tokens: list[Token[Any]] = []
        home.keep(self)

    def belongs_to(self, runtime: Any) -> bool:
        """Whether it is a run of that runtime, not of another one in the same program."""
        return self._home is runtime

    @property
    def run_id(self) -> bytes:
        """Empty until the daemon has begun it."""
        return self.part.run_id

    @property
    def id(self) -> str:
        """32 hexadecimal digits: also the OpenTelemetry trace id."""
        return self.run_id.hex()

    @property
    def outcome(self) -> RunOutcome | None:
        """How it ended; None while it is open."""
        if self._outcome is None:
            self._outcome = "incomplete" if self.part.lost is not None else self.part.said.get("outcome")
        return self._outcome

    @property
    def totals(self) -> Totals:
        """What the program has done in this run so far, and the daemon has recorded: a snapshot of one
        moment, from any thread. Waits for what is on its way, though not long."""
        last = self.outbox.last(self.part)
        if last is not None:
            last.settle_soon()
        return self.tally.snapshot()

    @property
    def channel(self) -> str | None:
        """Where its caller speaks from."""
        return self.said.get("channel")

    @property
    def strict(self) -> bool:
        """Whether what cannot be recorded raises."""
        return self.on_error == "raise"

    def at(self) -> int:
        """The moment, on the clock by which the daemon is told how long ago something was."""
        return time.monotonic_ns() // 1000

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
    ) -> RemoteCall:
        """A call that the caller runs; see `RunRecord.observe`."""
        return RemoteCall(
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
        """Record one model turn; see `RunRecord.step`."""
        check_on_error(on_error)
        strict = (on_error or self.on_error) == "raise"
        step = RecordedStep(self.run_id, b"")
        if not self.takes("step", model, strict=strict):
            return step
        said = spoken(
            {
                "text": text, "model": model, "requested_model": requested_model,
                "tokens": tokens_said(tokens), "model_us": model_us, "finish_reason": finish_reason,
                "calls": _listed(calls),
                "external_id": external_id, "agent": agent, "responded": responded, "data": data,
                "text_characters_max": text_characters_max, "whole_text": whole_text,
            }
        )  # fmt: skip
        body = {"kind": "step", "at": self.at(), "said": said.value, "marked": said.marked, **_inside()}
        counted = _counted(tokens)

        def settled(answer: dict[str, Any]) -> None:
            step.position = answer.get("position")
            self.tally.step(counted, answer.get("cost_nano_usd"))

        item = Item(self.part, Kind.STEP, body, settled)
        if self.outbox.offer(item):
            step.step_id = self.part.id_of(item.number)
            self._last_step = step
            if step.step_id:
                current_step.set((self.run_id, step.step_id))
        else:
            self.tally.dropped()
        if strict:
            item.wait()
        return step

    def event(self, name: str, /, **data: Any) -> None:
        """Record something else worth keeping. A name that does not begin with `app.` is given that."""
        if self.takes("event", name, strict=self.strict):
            self._event(stated.event_name(name), data)

    def error(self, message: str | BaseException, /, **data: Any) -> None:
        """Record that something went wrong, without ending the run."""
        if self.takes("event", "run.error", strict=self.strict):
            said: dict[str, Any] = {"message": message}
            if issubclass(type(message), BaseException):
                said = describe(cast("BaseException", message))
            self._event("run.error", said | data)

    def _event(self, name: str, data: Mapping[str, Any]) -> None:
        said = spoken(dict(data))
        body = {
            "kind": "event", "at": self.at(), "name": name, "data": said.value, "marked": said.marked,
            **_inside(),
        }  # fmt: skip
        item = Item(self.part, Kind.EVENT, body)
        if not self.outbox.offer(item):
            self.tally.dropped()
        if self.strict:
            item.wait()

    # -- for observed calls ---------------------------------------------------------------------------

    def takes(self, offered: str, name: object, *, strict: bool) -> bool:
        """Whether it is still open. What is offered to a finished run is refused and counted.

        Raises RunClosed if `strict`.
        """
        if self.outcome is None:
            return True
        if self.tally.refused() == 1:
            log.warning("Run %s has finished (%s): a %s was refused.", self.id[:8], self.outcome, offered)
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
        return None if self._last_step is None else self._last_step.step_id or None

    # -- its beginning and its end --------------------------------------------------------------------

    async def _beginning(self) -> None:
        """In the link's thread. Raises what the daemon raised, NotRecorded, TimeoutError."""
        if self.strict or self.joined:
            await self.part.begin()
            return
        async with asyncio.timeout(BEGIN_SECONDS):
            await self.part.begin()

    def begun_late(self, error: BaseException) -> bool:
        """Whether it may go on although the daemon has not begun it yet."""
        if self.strict or not isinstance(error, (NotRecorded, TimeoutError)):
            return False
        log.warning("A run is not begun, as the daemon does not answer; what is done is told it later.")
        return True

    def finishing(
        self, outcome: str | None, output: Any, reason: str | None, passed: bool | None, totals: Any
    ) -> Item | None:
        """Offer the run's end, once."""
        if self.outcome is not None:
            if outcome is not None and stated.name(outcome) != self.outcome and self.part.lost is None:
                self.takes("finish", outcome, strict=False)
            return None
        said = "succeeded" if outcome is None else stated.name(outcome)
        self._outcome = said if said in RUN_OUTCOMES else "unknown"
        output, totals = spoken(output), spoken(totals)
        body = {
            "outcome": None if outcome is None else stated.name(outcome),
            "output": output.value,
            "output_marked": output.marked,
            "reason": stated.name(reason),
            "passed": stated.truth(passed),
            "totals": totals.value,
            "totals_marked": totals.marked,
        }
        item = Item(self.part, Kind.RUN_FINISHED, body, finishes=True)
        self.outbox.offer(item)
        return item

    def _enter(self) -> None:
        self._tokens.append(current_run.set(cast("Any", self)))

    def _leave(self) -> None:
        try:
            current_run.reset(self._tokens.pop())
        except ValueError:
            pass  # entered in another context: it is over there, too


def tokens_said(tokens: Any) -> Any:
    """As a mapping with names."""
    if isinstance(tokens, Tokens):
        return {name: getattr(tokens, name) for name in tokens.__struct_fields__}
    return tokens


def _counted(tokens: Any) -> Tokens | None:
    """What makes sense of them, for this program's own totals."""
    said = tokens_said(tokens)
    if not isinstance(said, Mapping):
        return None
    counts = cast("Mapping[str, Any]", said)
    known = {
        name: count
        for name in Tokens.__struct_fields__
        if type(count := counts.get(name)) is int and 0 <= count <= TOKENS_MAX
    }
    return Tokens(**known) if known else None


def _listed(calls: Any) -> Any:
    """What a program hands over may be given out once only."""
    listed: list[Any] = []
    if calls is None:
        return listed
    try:
        for call in calls:
            listed.append(call)  # noqa: PERF402 - those before one that raises are kept
    except Exception:  # their own code: the daemon notes what is no call
        listed.append(None)
    return listed


def _inside() -> dict[str, Any]:
    parent = current_call.get()
    return {} if parent is None else {"parent_id": parent.hex()}
