"""Results of a peer's own tools that may be given again: bounded, each for a while.

Owns them, and the tool that gives one in place of the one that was asked for, so that such a call is checked
and recorded like any other, with the source `cache`. Custody's own tools are never remembered: files change.
Used by `session` and by whoever works on proposals.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from custody.records import Decision, Effect, Level
from custody.tools import Context, Ended, Offered, Scope, Tool
from custody.tools.schema import ArgumentsSchema
from custody.tools.tool import Keep

REMEMBERED_MAX = 1_000
"""Results of one connection; the one longest unused goes first."""

REMEMBERED_BYTES_MAX = 4 * 1024 * 1024
"""Of them all together, as JSON: a daemon has a thousand connections."""

REMEMBERED_SECONDS = 300.0
"""Where the tool says nothing: as long as one call of it may take."""


class _Result(Struct, frozen=True):
    tool: str
    encoded: bytes
    until: float


class Remembered:
    """The results of one connection, by tool and parameters."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._results: OrderedDict[bytes, _Result] = OrderedDict()
        self._bytes = 0

    def put(self, key: bytes, tool: str, result: Any, seconds: float | None) -> None:
        """Keep a result for so long; one that is too large, or that JSON cannot hold, is not kept."""
        self.drop(key)
        try:
            encoded = msgspec.json.encode(result)
        except (TypeError, ValueError, RecursionError):
            return
        size_bytes = len(key) + len(encoded)
        if size_bytes > REMEMBERED_BYTES_MAX:
            return
        lasts = REMEMBERED_SECONDS if seconds is None else seconds
        self._results[key] = _Result(tool, encoded, self._clock() + lasts)
        self._bytes += size_bytes
        while len(self._results) > REMEMBERED_MAX or self._bytes > REMEMBERED_BYTES_MAX:
            self.drop(next(iter(self._results)))

    def get(self, key: bytes) -> tuple[Any] | None:
        """The result, in a tuple as it may be null; None where there is none, or none any more."""
        found = self._results.get(key)
        if found is None:
            return None
        if found.until <= self._clock():
            self.drop(key)
            return None
        self._results.move_to_end(key)
        return (msgspec.json.decode(found.encoded),)

    def drop(self, key: bytes) -> None:
        found = self._results.pop(key, None)
        if found is not None:
            self._bytes -= len(key) + len(found.encoded)

    def forget(self, tool: str) -> None:
        """Every result of a tool: it is another one now, or none."""
        for key in [key for key, result in self._results.items() if result.tool == tool]:
            self.drop(key)


class GivenAgain:
    """A tool that gives a remembered result and does nothing."""

    def __init__(self, tool: Tool, result: Any) -> None:
        self.name = tool.name
        self.description = tool.description
        self.schema: Mapping[str, Any] = tool.schema
        self.effect: Effect = tool.effect
        self.level: Level = tool.level
        self.timeout_seconds = tool.timeout_seconds
        self.keep: Keep = tool.keep
        self._tool = tool
        self._result = result

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        return self._tool.validate(arguments, scope)

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        del arguments
        context.origin.told["answered"] = True
        now_ns = time.monotonic_ns()
        return Ended(started_ns=now_ns, ended_ns=now_ns, result=self._result, source="cache")


class WithGivenAgain:
    """The tools a call looks up, with one in place of the tool it stands for."""

    def __init__(self, offered: Offered, tool: GivenAgain) -> None:
        self._offered = offered
        self._tool = tool

    def get(self, name: str) -> Tool | None:
        return self._tool if name == self._tool.name else self._offered.get(name)

    def schema(self, name: str) -> ArgumentsSchema:
        return self._offered.schema(name)

    def nearest(self, name: str) -> list[str]:
        return self._offered.nearest(name)

    def keep(self, tool: Tool) -> Keep:
        return self._offered.keep(tool)
