"""What the client hands over of one hook. Used by `answering`, and held against `client` by a test."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from custody.doors.hooks.dialects import DIALECTS
from custody.doors.hooks.event import Dialect, HookEvent, HookUnclear, Kind, read

PID_MAX = 2**31 - 1
TICKS_MAX = 2**53


class Told(Struct, frozen=True, kw_only=True):
    """One call of the client."""

    cli: str
    event: str
    rewrite: bool
    """Whether commands are to be run behind walls."""
    store: str
    owner_pid: Annotated[int, Meta(ge=1, le=PID_MAX)]
    """The CLI's process, and when it started."""
    owner_start_ticks: Annotated[int, Meta(ge=0, le=TICKS_MAX)]
    secrets: dict[str, str]
    folders: dict[str, str] = {}
    """Variables of the CLI's that say where its settings are."""
    told: str
    """The CLI's document as it came."""

    @property
    def dialect(self) -> Dialect:
        """Raises HookUnclear."""
        dialect = DIALECTS.get(self.cli)
        if dialect is None:
            raise HookUnclear(f"{self.cli[:80]!r} is no CLI whose hooks are known: {', '.join(DIALECTS)}.")
        return dialect

    @property
    def kind(self) -> Kind:
        """What the hook was called for, also where what it was told cannot be read. Unknown is a tool: the
        careful way to be wrong."""
        dialect = DIALECTS.get(self.cli)
        return "before" if dialect is None else dialect.events.get(self.event, "other")

    def read(self) -> HookEvent:
        """Raises HookUnclear."""
        try:
            document: Any = msgspec.json.decode(self.told)
        except (msgspec.DecodeError, RecursionError) as error:
            raise HookUnclear(f"What the hook was told is no JSON: {error}.") from error
        return read(self.dialect, document, self.event)


def decode(request: bytes) -> Told:
    """Raises HookUnclear."""
    try:
        return msgspec.json.decode(request, type=Told)
    except (msgspec.DecodeError, RecursionError) as error:
        raise HookUnclear(f"The hook's client and this Custody do not fit together: {error}.") from error
