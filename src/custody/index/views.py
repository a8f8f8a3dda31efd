"""What the index shows of steps, events, sessions and of what has not ended.

Owns their fields; `records` has those of runs and calls. Used by `reading` and by every door.
"""

from typing import Any

from msgspec import Struct

from custody.records import Redaction, Tokens


class StepView(Struct, frozen=True, kw_only=True):
    """A step as every door shows it."""

    id: str
    run_id: str
    position: int | None
    iteration: int | None
    """1-based, among the steps of its run."""
    at: str
    agent: str | None
    parent_id: str | None
    """The call in which the turn was made."""
    external_id: str | None
    model: str | None
    requested_model: str | None
    responded: bool
    finish_reason: str | None
    text: Any
    """What the model said; None where nothing was, or once purged."""
    text_bytes: int | None
    text_cut_bytes: int
    text_withheld: bool
    requested: tuple[str, ...]
    """Names of the tools it asked for."""
    calls: Any
    """What it asked for, as it put it."""
    data: Any
    tokens: Tokens | None
    cost_nano_usd: int | None
    prices: str | None
    since_previous_us: int | None
    model_us: int | None
    unusable: tuple[str, ...]
    redactions: tuple[Redaction, ...]
    shard: int
    sequence: int


class EventView(Struct, frozen=True, kw_only=True):
    """An event as every door shows it."""

    id: str
    name: str
    at: str
    run_id: str | None
    call_id: str | None
    data: Any
    shard: int
    sequence: int


class Session(Struct, frozen=True, kw_only=True):
    """Runs and calls that belong together."""

    id: str
    runs: int
    calls: int
    first_at: str
    last_at: str
    agents: list[str]


class OpenCall(Struct, frozen=True, kw_only=True):
    """A call that has not ended: it runs, waits for an answer, or its process died."""

    call_id: bytes
    shard: int
    """Of its latest record, *started* where there is one: who holds this shard is running the call."""
    sequence: int
    run_id: bytes | None
    started: bool
    """False: asked, and not yet allowed to start."""
    answered: bool
    """A person has said yes or no."""
    tool: str
    asked_at_us: int
    started_monotonic_ns: int | None
    pid: int
    owner_pid: int | None
    owner_start_ticks: int | None


class OpenRun(Struct, frozen=True, kw_only=True):
    """A run that has not ended."""

    run_id: bytes
    shard: int
    sequence: int
    owner_pid: int
    owner_start_ticks: int | None
    shared: bool
