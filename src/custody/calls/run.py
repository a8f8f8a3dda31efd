"""A run: one bounded piece of work of one agent, as the program that does it holds it.

Owns its beginning, the calls made in it and its one end. Made by `Runtime.run`, `join` and `named_run`.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Protocol, Self, TypedDict

from msgspec import Struct

from custody.calls.execute import Who
from custody.calls.ledger import Ledger, Numbering
from custody.errors import RunClosed
from custody.journal import Journal
from custody.recorder import Draft, Recorder
from custody.records import Call, RunFinished, RunOutcome, RunStarted, now_us

current_run: ContextVar["RunHandle | None"] = ContextVar("custody_current_run", default=None)
"""The run in which this code works; tasks and threads started here inherit it."""


class RunOptions(TypedDict, total=False):
    """What may be said of a run when it is started; what is left out is the runtime's."""

    agent: str | None
    caller: str | None
    session: str | None
    """Id shared by runs that belong together."""
    parent: str | None
    """Id of the run it was started from; by default the surrounding one."""
    client: str | None
    channel: str | None
    user: str | None
    host: str | None
    workspace: str | None
    external_id: str | None
    outcome_description: str | None
    """What would count as success, in words."""
    inputs: Any
    labels: Mapping[str, str] | None
    owner_pid: int
    """The process a shared run lives and dies with; by default this one."""


class Beginning(Struct, frozen=True):
    """A run's first record before it is drafted."""

    payload: dict[str, Any]
    """Intent, outcome description, inputs and labels, as far as they were given."""
    fields: dict[str, Any]
    """The leaf's, but for the run's id and the time."""

    @property
    def shared(self) -> bool:
        return self.fields["shared"]

    def draft(self, recorder: Recorder, run_id: bytes) -> Draft:
        return recorder.draft(RunStarted, self.payload, run_id=run_id, at_us=now_us(), **self.fields)


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

    def __init__(self, runtime: Home, run_id: bytes, beginning: Beginning, *, joined: bool = False) -> None:
        self._runtime = runtime
        self.run_id = run_id
        self._beginning = beginning
        self.who = Who(**{name: beginning.fields[name] for name in Who.__struct_fields__})
        self.numbering = Numbering(run_id, shared=beginning.shared)
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
        draft = self._beginning.draft(self._runtime.ledger.recorder, self.run_id)
        await self._runtime.ledger.append(draft)
        if self._beginning.shared:
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
            calls=None if self._beginning.shared else self.calls,
        )
        await asyncio.shield(self._runtime.ledger.append(draft, closes=True))
