"""`@custody.observed`: every call of a function on the record of the surrounding run.

Owns how a function's arguments become those of a call, and what of a generator is its result. Used by
applications that run their own tools; a tool that Custody runs is `custody.tool`.
"""

import functools
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from functools import partial
from typing import Any, TypeVar, cast, overload

from custody.calls.asked import inside
from custody.calls.disabled import in_disabled_run
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

    def decorate(function: Any) -> Any:
        for kind in _METHODS:
            if isinstance(function, kind):
                return kind(decorate(function.__func__))
        return _Observing(function, tool, options).wrapper()

    return decorate if function is None else decorate(function)


class _Observing:
    """One decorated function."""

    def __init__(self, function: Callable[..., Any], tool: str | None, options: Mapping[str, Any]) -> None:
        self._function = function
        self._tool = tool or getattr(function, "__name__", type(function).__name__)
        self._options = options
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):  # of a function written in C
            parameters: Mapping[str, inspect.Parameter] = {}
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

        function, kind = self._function, plain
        if inspect.isasyncgenfunction(function):
            kind = self._async_generator_function()
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
        """As `yield from` (PEP 380), with the call around each step: what the function calls has it as its
        parent, and what the consumer does between two steps has not."""
        observed = self._call(arguments, named)
        generator = cast("Generator[Any, Any, Any]", self._function(*arguments, **named))
        if observed is None:
            return (yield from generator)
        call, items = observed.open(), 0
        ended: BaseException | None = None
        resume: Callable[[], Any] = partial(next, generator)
        try:
            while True:
                item = _inside(call, resume)
                items += 1
                try:
                    resume = partial(generator.send, (yield item))
                except GeneratorExit as left:
                    ended = left
                    _inside(call, generator.close)
                    raise
                except BaseException as error:
                    resume = partial(generator.throw, error)
        except StopIteration as end:
            return end.value
        except BaseException as error:
            ended = error
            raise
        finally:
            call.result = {"items": items}
            call.close(ended)

    def _async_generator_function(self) -> Callable[..., AsyncGenerator[Any, Any]]:
        """There is no `yield from` for these: what hands on the items is the very function that is called."""

        async def observing(*arguments: Any, **named: Any) -> AsyncGenerator[Any, Any]:
            observed = self._call(arguments, named)
            generator = cast("AsyncGenerator[Any, Any]", self._function(*arguments, **named))
            call, items = None if observed is None else await observed.open_on_loop(), 0
            ended: BaseException | None = None
            resume: Callable[[], Awaitable[Any]] = generator.__anext__
            try:
                while True:
                    item = await _inside_async(call, resume)
                    items += 1
                    try:
                        resume = partial(generator.asend, (yield item))
                    except GeneratorExit as left:
                        ended = left
                        await _inside_async(call, generator.aclose)
                        raise
                    except BaseException as error:
                        resume = partial(generator.athrow, error)
            except StopAsyncIteration:
                return
            except BaseException as error:
                ended = error
                raise
            finally:
                if call is not None:
                    call.result = {"items": items}
                    await call.close_on_loop(ended)

        return observing

    def _call(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> ObservedCall | None:
        run = current_run.get()
        if run is None:
            if not self._said and not in_disabled_run():
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


_METHODS: tuple[Any, ...] = (staticmethod, classmethod)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _inside(call: ObservedCall, resume: Callable[[], Any]) -> Any:
    """One step of a generator: the calls it makes are made in this one."""
    with inside(call.call_id or None):
        return resume()


async def _inside_async(call: ObservedCall | None, resume: Callable[[], Awaitable[Any]]) -> Any:
    with inside(None if call is None else call.call_id or None):
        return await resume()
