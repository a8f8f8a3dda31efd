"""`@custody.observed`: every call of a function on the record of the surrounding run.

Owns how a function's arguments become those of a call, and what of a generator is its result. Used by
applications that run their own tools; a tool that Custody runs is `custody.tool`.
"""

import functools
import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping
from typing import Any, TypeVar, cast, overload

from custody.calls.observe import ObservedCall
from custody.calls.recording import OnError
from custody.calls.run import current_run
from custody.records import Effect

log = logging.getLogger("custody")

F = TypeVar("F", bound=Callable[..., Any])


@overload
def observed(function: F, /) -> F: ...
@overload
def observed(
    *,
    tool: str | None = None,
    effect: Effect = "unknown",
    durable: bool = False,
    on_error: OnError | None = None,
    guard: bool = False,
) -> Callable[[F], F]: ...
def observed(
    function: Any = None,
    /,
    *,
    tool: str | None = None,
    effect: Effect = "unknown",
    durable: bool = False,
    on_error: OnError | None = None,
    guard: bool = False,
) -> Any:
    """Record each call of a function in the run around it, with arguments by name, result or exception.

    The tool is called as the function is, unless `tool` says otherwise. Coroutines, generators and async
    generators are recorded from their first step to their last; the result of a generator is how many items
    it gave. The rest is as in `run.observe`. Outside a run the function runs unrecorded, and the log says so
    once.
    """
    options: dict[str, Any] = {"effect": effect, "durable": durable, "on_error": on_error, "guard": guard}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        return _Observing(function, tool, options).wrapper()

    return decorate if function is None else decorate(function)


class _Observing:
    """One decorated function."""

    def __init__(self, function: Callable[..., Any], tool: str | None, options: Mapping[str, Any]) -> None:
        self._function = function
        self._tool = tool or function.__name__
        self._options = options
        parameters = inspect.signature(function).parameters
        self._names = [name for name, one in parameters.items() if one.kind in _POSITIONAL]
        self._skips = 1 if self._names[:1] in (["self"], ["cls"]) else 0
        self._rest = next((name for name, one in parameters.items() if one.kind is one.VAR_POSITIONAL), "")
        self._said = False

    def wrapper(self) -> Callable[..., Any]:
        """A function of the same kind, so that whoever asks what it is gets the same answer."""

        def plain(*arguments: Any, **named: Any) -> Any:
            return self._plain(arguments, named)

        async def coroutine(*arguments: Any, **named: Any) -> Any:
            return await self._coroutine(arguments, named)

        def generator(*arguments: Any, **named: Any) -> Generator[Any, Any, Any]:
            return (yield from self._generator(arguments, named))

        async def async_generator(*arguments: Any, **named: Any) -> AsyncIterator[Any]:
            async for item in self._async_generator(arguments, named):
                yield item

        function, kind = self._function, plain
        if inspect.isasyncgenfunction(function):
            kind = async_generator
        elif inspect.iscoroutinefunction(function):
            kind = coroutine
        elif inspect.isgeneratorfunction(function):
            kind = generator
        return functools.update_wrapper(kind, function)

    def _plain(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        observed = self._call(arguments, named)
        if observed is None:
            return self._function(*arguments, **named)
        with observed as call:
            call.result = self._function(*arguments, **named)
            return call.result

    async def _coroutine(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        observed = self._call(arguments, named)
        if observed is None:
            return await self._function(*arguments, **named)
        async with observed as call:
            call.result = await self._function(*arguments, **named)
            return call.result

    def _generator(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> Generator[Any, Any, Any]:
        observed = self._call(arguments, named)
        generator = cast("Generator[Any, Any, Any]", self._function(*arguments, **named))
        if observed is None:
            return (yield from generator)
        call, items = observed.open(), 0
        ended: BaseException | None = None
        try:
            for item in generator:
                items += 1
                yield item
        except BaseException as error:
            ended = error
            raise
        finally:
            generator.close()
            call.result = {"items": items}
            call.close(ended)

    async def _async_generator(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> AsyncIterator[Any]:
        observed = self._call(arguments, named)
        generator = cast("AsyncGenerator[Any, Any]", self._function(*arguments, **named))
        call, items = None if observed is None else observed.open(), 0
        ended: BaseException | None = None
        try:
            async for item in generator:
                items += 1
                yield item
        except BaseException as error:
            ended = error
            raise
        finally:
            await generator.aclose()
            if call is not None:
                call.result = {"items": items}
                call.close(ended)

    def _call(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> ObservedCall | None:
        run = current_run.get()
        if run is None:
            if not self._said:
                self._said = True
                log.warning("%s was called outside a run, so the call is not recorded.", self._tool)
            return None
        return run.observe(self._tool, self._by_name(arguments, named), **self._options)

    def _by_name(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        """As they were passed: what is left to a default is not an argument of the call."""
        names, skips = self._names, self._skips
        by_name = dict(zip(names[skips:], arguments[skips:], strict=False))
        if len(arguments) > len(names):
            by_name[self._rest] = arguments[len(names) :]
        return by_name | named if named else by_name


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
