"""A method: its name, what it takes and gives, who may ask it, and the coroutine that answers.

Owns the shape; the table of all of them is `table`, who may ask what is decided in `serve`. The modules in
`methods/` make them.
"""

import inspect
import typing
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Any

import msgspec

from custody.rpc.access import ROLES, Role

ACTING: tuple[Role, ...] = ("agent", "operator", "host")
"""Of what does something: an auditor looks and does nothing."""

HANDLER_SECONDS = 30 * 60.0
"""A method that has not answered by then never will; whoever asked is told that its effects are unknown."""


class NoParams(msgspec.Struct, frozen=True):
    """Of a method that takes none."""


class Method:
    """One method of the wire."""

    def __init__(
        self,
        name: str,
        handle: Callable[[Any, Any], Awaitable[Any]],
        *,
        roles: tuple[Role, ...],
        before_auth: bool,
        seconds: Callable[[Any], float] | None,
    ) -> None:
        hints = typing.get_type_hints(handle, include_extras=True)
        self.name = name
        self.handle = handle
        self.params: Any = hints["params"]
        self.result: Any = hints["return"]
        self.roles = roles
        self.help = (inspect.getdoc(handle) or "").partition("\n")[0]
        self.before_auth = before_auth
        """Whether it is answered before anybody has said who they are."""
        self.seconds = seconds
        """Its deadline, from its params; None: the usual."""
        assert self.help, f"{name} has no line of help"

    @cached_property
    def takes_array(self) -> bool:
        return typing.get_origin(self.params) is list

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[Any]:
        return msgspec.json.Decoder(self.params)

    def read(self, params: bytes) -> Any:
        """The params, typed. Raises msgspec.ValidationError."""
        return self._decoder.decode(params or b"{}")

    def deadline_seconds(self, params: Any) -> float:
        return HANDLER_SECONDS if self.seconds is None else self.seconds(params)


def method(
    name: str,
    *,
    roles: tuple[Role, ...] = ROLES,
    before_auth: bool = False,
    seconds: Callable[[Any], float] | None = None,
) -> Callable[[Callable[[Any, Any], Awaitable[Any]]], Method]:
    """Make `async def handle(peer, params) -> result` a method; its first line of documentation is its help.

    `params` is annotated with a Struct (whose unknown fields are ignored, and which stands for absent params
    too) or with a list where the wire has an array; the result with any type msgspec can describe.
    """

    def decorate(handle: Callable[[Any, Any], Awaitable[Any]]) -> Method:
        return Method(name, handle, roles=roles, before_auth=before_auth, seconds=seconds)

    return decorate
