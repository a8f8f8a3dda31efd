"""A call that the program runs itself, told to the daemon as it starts and as it ends.

Owns what is said of such a call. As in `calls.observe`, telling never disturbs the agent unless it asks for
that. Used by `told`.
"""

import time
from contextvars import Token
from types import TracebackType
from typing import Any, Self

from custody.calls import stated
from custody.calls.asked import current_call
from custody.calls.lifecycle import describe, judge_result, outcome_of
from custody.calls.recording import OnError, check_on_error
from custody.client.outbox import Item
from custody.client.reading import read
from custody.client.working import Working
from custody.errors import Denied
from custody.records import Decision, Effect, Kind, Outcome
from custody.rpc.spoken import spoken


class RemoteCall:
    """One call that is run by whoever holds this; see `ObservedCall`, which this is over a wire."""

    stored = None
    """Receipts stay with the daemon."""

    def __init__(
        self,
        run: Working,
        tool: str,
        arguments: Any,
        *,
        effect: Effect = "unknown",
        external_id: str | None = None,
        step_id: bytes | None = None,
        parent_id: bytes | None = None,
        durable: bool = False,
        on_error: OnError | None = None,
        dry_run: bool = False,
        agent: str | None = None,
        guard: bool = False,
    ) -> None:
        check_on_error(on_error)
        self._run = run
        self._tool = stated.name(tool) or ""
        self._arguments: Any = stated.arguments(arguments)
        self._said: dict[str, Any] = {
            "effect": stated.effect(effect),
            "external_id": stated.name(external_id),
            "agent": stated.name(agent),
            "dry_run": bool(dry_run),
            "durable": bool(durable),
            "guard": bool(guard),
        }
        self._step_id, self._parent_id = step_id, parent_id
        self._strict = guard or (on_error or run.on_error) == "raise"
        self._durable = durable
        self.call_id = b""
        self._position: int | None = None
        self._placed: Item | None = None
        """What takes its position."""
        self.result: Any = None
        """What the tool gave; set it before the call ends."""
        self.passed: bool | None = None
        """What a verifier said of the work."""
        self.cached = False
        """The result came from a cache: nothing was executed, so there is no latency."""
        self.outcome: Outcome | None = None
        """How it ended; None while it runs."""
        self._failure: dict[str, Any] | None = None
        self._rejection: tuple[str, str | None] | None = None
        self._began_ns = 0
        self._start: Item | None = None
        self._over = False
        self._token: Token[bytes | None] | None = None

    @property
    def id(self) -> str:
        """16 hexadecimal digits: also the OpenTelemetry span id. Empty for a call that was not told."""
        return self.call_id.hex()

    @property
    def position(self) -> int | None:
        """In its run; None for a call that was refused. Waits for the daemon to say it, though not long."""
        if self._position is None and self._placed is not None:
            self._placed.settle_soon()
        return self._position

    def fail(self, message: str, *, type: str = "ToolError") -> None:
        """The call failed, though nothing is raised."""
        self._failure = {"type": stated.name(type) or "ToolError", "message": message}

    def reject(self, reason: str, *, rule: str | None = None) -> None:
        """It never ran, as somebody said no. Of a call that was not opened this is the only record."""
        self._rejection = stated.name(reason) or "", stated.name(rule)
        if self._start is not None or self._over:
            return  # its end says so
        self._over = True
        if not self._run.takes("call", self._tool, strict=self._strict):
            return
        self.outcome = "rejected"
        item = Item(self._run.part, Kind.CALL_FINISHED, self._asked("call_rejected"), self._settled)
        item.body |= {"reason": self._rejection[0], "rule": self._rejection[1]}
        self._run.tally.call_offered()
        self._run.tally.call_ended("rejected")
        self._placed = item
        if self._run.outbox.offer(item):
            self.call_id = self._run.part.id_of(item.number)
        if self._strict:
            item.wait()

    # -- with -----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.open()
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        self.close(error)

    async def __aenter__(self) -> Self:
        await self.open_on_loop()
        self._enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        if isinstance(error, GeneratorExit):  # its coroutine is closed, maybe as garbage: it cannot await
            self._close(error)
        else:
            await self.close_on_loop(error)

    def _enter(self) -> None:
        if self.call_id:
            self._token = current_call.set(self.call_id)

    def _leave(self) -> None:
        token, self._token = self._token, None
        if token is not None:
            try:
                current_call.reset(token)
            except ValueError:
                pass  # entered in another context: it is over there

    # -- what is told ---------------------------------------------------------------------------------

    def open(self) -> Self:
        """Tell that it starts. Raises Denied for a guarded call that may not happen, NotRecorded and
        RunClosed where `on_error` is `raise`; else nothing."""
        self._open()
        start = self._start
        if start is not None and (self._strict or self._durable):
            try:
                start.wait()
            except BaseException as error:
                self._not_begun(error)
        return self

    async def open_on_loop(self) -> Self:
        """`open` for a coroutine. Raises the same."""
        self._open()
        start = self._start
        if start is not None and (self._strict or self._durable):
            try:
                await start.over()
            except BaseException as error:
                self._not_begun(error)
        return self

    async def close_on_loop(self, error: BaseException | None = None) -> None:
        """`close` for a coroutine. Raises the same."""
        end = self._close(error)
        if end is not None and (self._strict or self._durable):
            try:
                await end.over()
            except Exception:
                if self._strict:
                    raise

    def close(self, error: BaseException | None = None) -> None:
        """Tell how it ended; once. Raises NotRecorded where `on_error` is `raise`, else nothing."""
        end = self._close(error)
        if end is not None and (self._strict or self._durable):
            try:
                end.wait()
            except Exception:
                if self._strict:
                    raise

    def _open(self) -> None:
        if self._start is not None or self._over:
            return  # opened before
        if not self._run.takes("call", self._tool, strict=self._strict):
            self._over = True
            return
        if self._step_id is None:
            self._step_id = self._run.step_id()
        if self._parent_id is None:
            self._parent_id = current_call.get()
        item = Item(self._run.part, Kind.CALL_STARTED, self._asked("call_started"), self._settled)
        self._began_ns = time.monotonic_ns()
        self._run.tally.call_offered()
        if not self._run.outbox.offer(item):
            self._over = True
            self._run.tally.call_withdrawn()
            self._run.tally.dropped()
            if self._strict:
                item.wait()
            return
        self._start = self._placed = item
        self.call_id = self._run.part.id_of(item.number)

    def _asked(self, kind: str) -> dict[str, Any]:
        arguments = spoken(self._arguments)
        return {
            "kind": kind,
            "at": self._run.at(),
            "tool": self._tool,
            "arguments": arguments.value,
            "marked": arguments.marked,
            "step_id": None if self._step_id is None else self._step_id.hex(),
            "parent_id": None if self._parent_id is None else self._parent_id.hex(),
            **self._said,
        }

    def _settled(self, answer: dict[str, Any]) -> None:
        self._position = answer.get("position")
        if not self.call_id and answer.get("id"):
            self.call_id = bytes.fromhex(answer["id"])

    def _not_begun(self, error: BaseException) -> None:
        """What it was to start will not run, unless telling was all that failed."""
        if isinstance(error, Denied):
            self._over, self.outcome = True, "rejected"
            self._run.tally.call_ended("rejected")
            decision: Any = error.details.get("decision")
            if type(decision) is dict:
                error.details["decision"] = read(Decision, decision)
            raise error
        if self._strict or not isinstance(error, Exception):
            self._close(error)
            raise error

    def _close(self, error: BaseException | None) -> Item | None:
        start = self._start
        if start is None or self._over:
            return None
        self._over = True
        ended_ns = time.monotonic_ns()
        result = spoken(self.result)
        body: dict[str, Any] = {
            "kind": "call_finished",
            "at": self._run.at(),
            "call": start.number,
            "result": result.value,
            "marked": result.marked,
            "passed": stated.truth(self.passed),
            "cached": bool(self.cached),
            "latency_us": (ended_ns - self._began_ns) // 1000,
            **self._judged(error),
        }
        self._arguments = None
        item = Item(self._run.part, Kind.CALL_FINISHED, body)
        self._run.tally.call_ended(self.outcome or "unknown")
        if not self._run.outbox.offer(item):
            self._run.tally.dropped()
        return item

    def _judged(self, error: BaseException | None) -> dict[str, Any]:
        """What is known of its end beside its result; the daemon judges that."""
        if self._rejection is not None:
            self.outcome = "rejected"
            return {"outcome": "rejected", "reason": self._rejection[0]}
        if error is not None and (outcome := outcome_of(error)) != "succeeded":
            self.outcome = outcome
            return {"outcome": outcome, "reason": type(error).__name__, "error": describe(error)}
        if self._failure is not None:
            self.outcome = "failed"
            message = spoken(self._failure["message"]).value
            return {
                "outcome": "failed",
                "reason": self._failure["type"],
                "error": {**self._failure, "message": message},
            }
        try:
            self.outcome = judge_result(self.result).outcome
        except Exception:  # what a result says of itself is asked with its own code
            self.outcome = "succeeded"
        return {}
