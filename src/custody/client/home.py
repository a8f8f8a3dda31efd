"""What a run needs of the client it belongs to.

Used by `told` and `run`; `runtime.Remote` is it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from custody.calls.recording import OnError
from custody.client.asking import Asked
from custody.client.link import Link
from custody.client.outbox import Outbox
from custody.client.part import Part
from custody.records import Call

NewRun = tuple[Any, Part, OnError | None, bool, dict[str, Any]]
"""A run before anybody holds it, as `told.Told` takes it: its home, the part in it, what becomes of what
cannot be recorded, whether somebody else finishes it, and what was said of it."""


class Home(Protocol):
    """A client, as its runs see it."""

    link: Link
    outbox: Outbox
    on_error: OnError

    def keep(self, run: Any) -> None: ...

    def asked(self, *, run: Any, **options: Any) -> Asked: ...

    async def make(
        self, tool: str | Callable[..., Any], arguments: Mapping[str, Any] | None, asked: Asked
    ) -> Call: ...

    def child_of(
        self, parent: Any, intent: str | None, name: str | None, options: Mapping[str, Any]
    ) -> NewRun: ...
