"""What came of a step plan: of each action, of a change on the way, and of the whole.

Owns the words. Knows nothing of how a plan is worked on (`run`), nor of records. Used by what runs step
plans, and by the doors that show it.
"""

from typing import Literal

from msgspec import Struct

StepWord = Literal["pending", "in_progress", "completed", "failed", "skipped"]


class StepResult(Struct, frozen=True, kw_only=True):
    """What one action came to."""

    id: str
    status: StepWord
    reason: str | None = None
    """Why it failed, was skipped or has not begun: a sentence."""
    call_ids: tuple[str, ...] = ()
    """One for each attempt that has a record."""
    attempts: int = 0
    outcome: str | None = None
    """Of its last call: one of `records.OUTCOMES`; null where there was none. `unknown`: it is failed here,
    and nothing that is there for its failure is begun."""
    source: Literal["executed", "earlier run", "plan"] | None = None
    """Who says so: this run, the record of an earlier one, or the plan itself; null where nothing was
    done."""
    duration_s: float | None = None
    """With the pauses between its attempts; null where it was not executed in this run."""


class StepsProgress(Struct, frozen=True, kw_only=True):
    """One action of a plan has begun or ended."""

    plan_id: str
    run_id: str | None
    """Null for what is known before the run has begun."""
    changed: StepResult
    counts: dict[str, int]
    """Actions by status, `changed` included."""


class StepsResult(Struct, frozen=True, kw_only=True):
    """What a run of a plan came to."""

    plan_id: str
    digest: str
    run_id: str | None
    """Null where there was nothing to begin."""
    state: str
    """As `check_plan` says: `complete`, `blocked`, …"""
    why: str
    """A sentence."""
    actions: tuple[StepResult, ...]
    """In the order of the plan."""
    counts: dict[str, int]
    """Actions by status."""
    resumed_from: str | None = None
    """The run that this one went on from."""
    recorded: bool = True
    """False where a call could not be recorded: it did not run, and nothing further was begun. The plan goes
    on once records can be kept."""
