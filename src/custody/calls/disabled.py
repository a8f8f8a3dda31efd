"""`custody.disabled()`: everything `custody.open` gives, with no effect.

Owns the doing of nothing: a program that turns recording off has no `if` at any caller. Guarded calls are
refused, for there is no act without a record. Used by applications.
"""

from collections.abc import Generator, Mapping
from contextvars import ContextVar
from typing import Any, NoReturn, Self

from custody.errors import CustodyError, NotRecorded
from custody.records import Totals

NO_ID = ""

_NOTHING_DONE = Totals()
_NO_GUARD = "Custody is disabled, so guarded calls do not run."

_runs_here: ContextVar[int] = ContextVar("custody_disabled_runs", default=0)


def in_disabled_run() -> bool:
    """Whether this code works in a run that records nothing, as its author wanted."""
    return _runs_here.get() > 0


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

    def __exit__(self, kind: object, error: object, trace: object) -> None:
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

    def __getattr__(self, name: str) -> Any:
        """Of what was not set: a slot cannot have a default, and is a third cheaper than a dictionary."""
        if name in self.__slots__:
            return False if name == "cached" else None
        raise AttributeError(name)

    def open(self) -> Self:
        return self

    def close(self, error: BaseException | None = None) -> None:
        pass

    async def open_on_loop(self) -> Self:
        return self

    async def close_on_loop(self, error: BaseException | None = None) -> None:
        pass

    def fail(self, message: str, *, type: str = "ToolError") -> None:
        pass

    def reject(self, reason: str, *, rule: str | None = None) -> None:
        pass


class DisabledStep(_Scope):
    """As `RecordedStep`."""

    __slots__ = ()
    id = NO_ID
    step_id = b""
    position = stored = None


_step = DisabledStep()


class DisabledRun(_Scope):
    """As a run of either face; also what `join` and `named_run` give, which one face awaits."""

    __slots__ = ()
    id = NO_ID
    run_id = b""
    outcome = channel = None
    totals = _NOTHING_DONE

    def __await__(self) -> Generator[Any, Any, Self]:
        return self
        yield

    def __enter__(self) -> Self:
        _runs_here.set(_runs_here.get() + 1)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        _runs_here.set(max(0, _runs_here.get() - 1))

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__(None, None, None)

    def observe(
        self,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        external_id: str | None = None,
        **options: Any,
    ) -> DisabledCall:
        # Not all names one by one: a default of each would cost more than all else here.
        if options and options.get("guard"):
            raise NotRecorded(_NO_GUARD, hint="Open a store, or leave guard out.")
        return DisabledCall()

    def step(self, text: str | None = None, **options: Any) -> DisabledStep:
        return _step

    def event(self, name: str, /, **data: Any) -> None:
        pass

    def error(self, message: str | BaseException, /, **data: Any) -> None:
        pass

    def child(self, intent: str | None = None, **options: Any) -> "DisabledRun":
        return self

    def call(self, *arguments: Any, **options: Any) -> NoReturn:
        raise NotRecorded(_NO_GUARD, hint="Run the tool yourself inside run.observe, or open a store.")

    def start(self, *, durable: bool = False) -> _Done:
        return _done

    def finish(self, outcome: str | None = None, **options: Any) -> _Done:
        return _done


_run = DisabledRun()


class _NobodyAsked(list[str]):
    """What `cancel` returns, awaited or not."""

    def __await__(self) -> Generator[Any, Any, list[str]]:
        return self
        yield


class Disabled(_Scope):
    """As a runtime of either face."""

    __slots__ = ()

    notices = None
    """Nobody is told of anything."""

    @property
    def index(self) -> NoReturn:
        raise CustodyError("Custody is disabled, so there is nothing to be asked.", hint="Open a store.")

    def cancel(self, target: str) -> _NobodyAsked:
        return _NobodyAsked()

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
