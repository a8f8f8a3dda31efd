"""A run: one bounded piece of work of one agent, as the program that does it holds it.

Owns its beginning, the calls made in it and its one end. Made by `Runtime.run`, `join` and `named_run`.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Protocol, Self

from msgspec import Struct

from custody.calls.ledger import Ledger, Numbering
from custody.errors import RunClosed
from custody.journal import Journal
from custody.records import Call, RunFinished, RunOutcome, RunStarted, now_us

current_run: ContextVar["RunHandle | None"] = ContextVar("custody_current_run", default=None)
"""The run in which this code works; tasks and threads started here inherit it."""


class RunFacts(Struct, frozen=True, kw_only=True):
    """What a run's first record says of it."""

    intent: str | None = None
    outcome_description: str | None = None
    inputs: Any = None
    labels: Mapping[str, str] | None = None
    agent: str | None = None
    caller: str | None = None
    session_id: str | None = None
    parent_run_id: bytes | None = None
    name: str | None = None
    client: str | None = None
    channel: str | None = None
    user: str | None = None
    host: str | None = None
    workspace: str | None = None
    door: str = "python"
    shared: bool = False
    external_id: str | None = None
    owner_pid: int = 0
    owner_start_ticks: int | None = None


_PAYLOAD_FIELDS = ("intent", "outcome_description", "inputs", "labels")


def started_record(facts: RunFacts) -> tuple[dict[str, Any], dict[str, Any]]:
    """The payload and the leaf fields of a run's first record."""
    payload = {name: getattr(facts, name) for name in _PAYLOAD_FIELDS if getattr(facts, name) is not None}
    fields = {
        name: getattr(facts, name) for name in RunFacts.__struct_fields__ if name not in _PAYLOAD_FIELDS
    }
    return payload, fields


class Home(Protocol):
    """What a run needs of the runtime it belongs to."""

    ledger: Ledger
    journal: Journal

    async def call(
        self,
        tool: str | Callable[..., Any],
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        dry_run: bool = False,
        run: "RunHandle | None" = None,
        external_id: str | None = None,
    ) -> Call: ...


class RunHandle:
    """An open run. `async with` starts it and finishes it; calls made inside belong to it."""

    def __init__(self, runtime: Home, run_id: bytes, facts: RunFacts, *, joined: bool = False) -> None:
        self._runtime = runtime
        self.run_id = run_id
        self.facts = facts
        self.numbering = Numbering(run_id, shared=facts.shared)
        self.outcome: RunOutcome | None = None
        self.calls = 0
        self._joined = joined
        """A joined run was started by somebody else, who finishes it."""
        self._tokens: list[Token[RunHandle | None]] = []

    def belongs_to(self, runtime: Home) -> bool:
        """Whether it is a run of that runtime, not of another one in the same program."""
        return self._runtime is runtime

    @property
    def id(self) -> str:
        """32 hexadecimal digits: also the OpenTelemetry trace id."""
        return self.run_id.hex()

    async def __aenter__(self) -> Self:
        await self.begin()
        self._tokens.append(current_run.set(self))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        current_run.reset(self._tokens.pop())
        await self.leave(error)

    async def begin(self) -> None:
        """Start the run, unless it was joined: then somebody else has."""
        if not self._joined:
            await self.start()

    async def leave(self, error: BaseException | None) -> None:
        """Finish the run by how its body ended, unless it was joined or has been finished."""
        if self._joined or self.outcome is not None:
            return
        if error is None:
            await self.finish()
        elif isinstance(error, asyncio.CancelledError | KeyboardInterrupt):
            await self.finish("cancelled")
        else:
            await self.finish("failed", reason=type(error).__name__)

    async def start(self) -> None:
        """Put the run on the record. Raises NotRecorded."""
        payload, fields = started_record(self.facts)
        draft = self._runtime.ledger.recorder.draft(
            RunStarted, payload, run_id=self.run_id, at_us=now_us(), **fields
        )
        await self._runtime.ledger.append(draft)
        if self.facts.shared:
            await asyncio.to_thread(self._runtime.journal.create_shared, self.run_id)

    async def call(
        self,
        tool: str | Callable[..., Any],
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        dry_run: bool = False,
        external_id: str | None = None,
    ) -> Call:
        """Make a call in this run; returns the finished call for every outcome.

        `timeout` is in seconds. Raises NotRecorded (nothing ran), OutcomeUnknown, UsageError.
        """
        return await self._runtime.call(
            tool, arguments, timeout=timeout, dry_run=dry_run, external_id=external_id, run=self
        )

    def admit(self) -> None:
        """Count a call in, or raise RunClosed."""
        if self.outcome is not None:
            raise RunClosed(
                f"Run {self.id[:8]} has finished ({self.outcome}); start another.", run_id=self.id
            )
        self.calls += 1

    async def finish(
        self,
        outcome: RunOutcome | None = None,
        *,
        output: Any = None,
        reason: str | None = None,
        passed: bool | None = None,
    ) -> None:
        """End the run; a second finish changes nothing. Without an outcome it succeeded."""
        if self.outcome is not None:
            return
        self.outcome = outcome or "succeeded"
        draft = self._runtime.ledger.recorder.draft(
            RunFinished,
            {} if output is None else {"output": output},
            run_id=self.run_id,
            at_us=now_us(),
            outcome=self.outcome,
            reason=reason,
            passed=passed,
            calls=None if self.facts.shared else self.calls,
        )
        await asyncio.shield(self._runtime.ledger.append(draft, closes=True))
