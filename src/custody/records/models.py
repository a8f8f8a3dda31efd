"""The two read models every door shows, `Run` and `Call`, and how they become plain data."""

from typing import Any, Literal

from msgspec import Struct

from custody.records.changes import Change
from custody.records.leaves import (
    Decision,
    Effect,
    Level,
    Outcome,
    Redaction,
    RunOutcome,
    Source,
    Totals,
    Usage,
)


class Run(Struct, frozen=True, kw_only=True):
    """A run as every door shows it: folded from its records."""

    id: str
    name: str | None
    session_id: str | None
    parent_run_id: str | None
    agent: str | None
    caller: str | None
    client: str | None
    channel: str | None
    user: str | None
    host: str | None
    workspace: str | None
    door: str
    shared: bool
    external_id: str | None
    intent: str | None
    outcome_description: str | None
    inputs: Any
    labels: dict[str, str] | None
    outcome: RunOutcome | None
    """None while it is running."""
    reason: str | None
    passed: bool | None
    output: Any
    started_at: str
    finished_at: str | None
    duration_us: int | None
    calls: int
    calls_by_outcome: dict[str, int]
    steps: int
    totals: Totals
    """As the run's own process counted when it finished, else added up from what is recorded."""
    stated_totals: Any
    """What the caller said of tokens and cost when it finished the run."""
    owner_pid: int | None
    shard: int
    sequence: int

    def __repr__(self) -> str:
        return f"<Run {self.id[:8]} {self.outcome or 'running'}>"


class Call(Struct, frozen=True, kw_only=True):
    """A call as every door shows it: folded from its records."""

    id: str
    run_id: str | None
    session_id: str | None
    position: int | None
    parent_id: str | None
    step_id: str | None
    external_id: str | None
    agent: str | None
    caller: str | None
    tool: str
    effect: Effect
    level: Level
    arguments: Any
    dry_run: bool
    source: Source
    decision: Decision
    outcome: Outcome | None
    """None while it is running."""
    reason: str | None
    passed: bool | None
    result: Any
    error: dict[str, Any] | None
    """`type` and `message`."""
    exit_code: int | None
    signal: int | None
    limit_hit: str | None
    started_at: str | None
    """None for a call that never ran."""
    finished_at: str | None
    asked_at: str
    monotonic_start_ns: int | None
    monotonic_end_ns: int | None
    latency_us: int | None
    queue_us: int | None
    decide_us: int | None
    record_us: int | None
    usage: Usage | None
    host_before: dict[str, Any] | None
    host_after: dict[str, Any] | None
    changes: tuple[Change, ...] | None
    """What it did to files, the first `CHANGES_KEPT_MAX` of it; None where its tool does not tell, or the
    payload was purged."""
    changes_count: int | None
    """All of it."""
    held: Literal["held", "committed", "discarded"] | None
    """Whether its changes are held still, or what became of them; None where they never were."""
    settled_by: str | None
    """The call that committed or discarded them; None where their time was over."""
    held_digest: str | None = None
    """SHA-256 of the manifest of what is held, hex; None where nothing is, or an earlier version held it."""
    redactions: tuple[Redaction, ...]
    cwd: str | None
    """Where its process ran."""
    environment_withheld: tuple[str, ...] | None
    sandbox: str | None
    """Behind which walls its process ran; None below the level `confined`."""
    door: str
    workspace: str | None
    pid: int
    thread_id: int
    child_pid: int | None
    child_start_ticks: int | None
    proposal_id: str | None
    action_id: str | None
    attempt: int | None
    connection: str | None
    prompt: str | None
    """What a model was told, where whoever made the call says so beside its arguments."""
    shard: int
    sequence: int

    def __repr__(self) -> str:
        return f"<Call {self.id[:8]} {self.tool} {self.outcome or 'running'}>"


def document(value: Any) -> Any:
    """A read model as the plain data every door shows: mappings with named fields, lists, scalars.

    Leaves are stored as arrays, so their parts (decision, usage, redactions) are given their names here.
    """
    if isinstance(value, Struct):
        return dict(_shown(name, getattr(value, name)) for name in value.__struct_fields__)
    if isinstance(value, (list, tuple)):
        return [document(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, dict):
        return {str(name): document(item) for name, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return value


def _shown(name: str, field: Any) -> tuple[str, Any]:
    """Money is kept in whole billionths, so that it adds up, and shown in dollars."""
    if name == "cost_nano_usd":
        return "cost_usd", None if field is None else field / 1e9
    return name, document(field)
