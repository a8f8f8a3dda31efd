"""A call as a door hands it over, and in which call code runs.

Knows nothing of what becomes of it. Used by `execute`, by runs and by whoever calls tools in a tool.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from custody.calls.numbering import Numbering
from custody.recorder import Keep
from custody.tools import Origin, Scope, Tool
from custody.tools.confinement import Confinement

if TYPE_CHECKING:
    from custody.calls.answers import Prompt

current_call: ContextVar[bytes | None] = ContextVar("custody_current_call", default=None)
"""The call in which this code runs: the parent of calls it makes."""


@contextmanager
def inside(call_id: bytes | None) -> Generator[None]:
    """What is recorded here was made in this call; None: in the one that it is made in anyway."""
    if call_id is None:
        yield
        return
    token = current_call.set(call_id)
    try:
        yield
    finally:
        current_call.reset(token)


class Who(Struct, frozen=True, kw_only=True):
    """On whose behalf, and in which surroundings, a call is made."""

    session_id: str | None = None
    agent: str | None = None
    caller: str | None = None
    workspace: str | None = None


class Asked(Struct, frozen=True, kw_only=True):
    """A call as a door hands it over: what is asked, by whom, and where it belongs."""

    call_id: bytes
    tool: Tool | None
    name: str
    arguments: Mapping[str, Any]
    scope: Scope
    timeout_seconds: float | None
    dry_run: bool
    numbering: Numbering | None
    """None: a call outside a run."""
    stated: Who
    """What the record says of who asks; None where the run's record says it."""
    who: Who
    """The same with the run's words filled in."""
    external_id: str | None
    run_chain: tuple[bytes, ...]
    """Its run, and those above it."""
    prompt: "Prompt | None"
    """Asks a person at the door itself."""
    origin: Origin
    door: str
    keep: Keep
    wish: Confinement | None
    """What holds its command, as far as call and settings say; None where its tool starts no process."""
    as_recorded: bool
    """Whether the caller gets arguments, result and error as the record has them, or as they were."""
