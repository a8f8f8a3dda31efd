"""`custody.disabled()`: everything `custody.open` gives, with no effect.

Owns the doing of nothing: a program that turns recording off has no `if` at any caller. Guarded calls are
refused, for there is no act without a record. Used by applications.
"""

from collections.abc import Generator, Mapping
from typing import Any, NoReturn, Self

from custody.errors import NotRecorded
from custody.records import Totals

NO_ID = ""

_NOTHING_DONE = Totals()


class _Done:
    """What a method that may be awaited returns: there is nothing to wait for."""

    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield


_done = _Done()


class _Scope:
    """`with` and `async with` around nothing."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


class DisabledCall(_Scope):
    """As `ObservedCall`. A new one for each call, so that a result is not kept for longer than the call."""

    __slots__ = ("cached", "passed", "result")
    id = NO_ID
    call_id = b""
    position = outcome = stored = None

    def open(self) -> Self:
        return self

    def close(self, error: BaseException | None = None) -> None:
        pass

    def fail(self, message: str, *, type: str = "ToolError") -> None:
        pass


class DisabledStep(_Scope):
    """As `RecordedStep`."""

    __slots__ = ()
    id = NO_ID
    step_id = b""
    position = stored = None


_step = DisabledStep()


class DisabledRun(_Scope):
    """As a run of either face."""

    __slots__ = ()
    id = NO_ID
    run_id = b""
    outcome = channel = None
    totals = _NOTHING_DONE

    def observe(self, tool: str, arguments: Mapping[str, Any] | None = None, **options: Any) -> DisabledCall:
        return DisabledCall()

    def step(self, text: str | None = None, **options: Any) -> DisabledStep:
        return _step

    def event(self, name: str, **data: Any) -> None:
        pass

    def error(self, message: str | BaseException, **data: Any) -> None:
        pass

    def child(self, intent: str | None = None, **options: Any) -> "DisabledRun":
        return self

    def call(self, *arguments: Any, **options: Any) -> NoReturn:
        raise NotRecorded(
            "Custody is disabled, so guarded calls do not run.",
            hint="Run the tool yourself inside run.observe, or open a store.",
        )

    def finish(self, outcome: str | None = None, **options: Any) -> _Done:
        return _done


_run = DisabledRun()


class Disabled(_Scope):
    """As a runtime of either face."""

    __slots__ = ()

    def run(self, intent: str | None = None, **options: Any) -> DisabledRun:
        return _run

    join = named_run = run
    call = DisabledRun.call

    def close(self) -> _Done:
        return _done


_disabled = Disabled()


def disabled() -> Disabled:
    """What `custody.open` gives, with no effect: nothing is opened, recorded or run."""
    return _disabled
