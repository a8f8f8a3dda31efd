"""What came of a plan: of each attempt, of each action, and of the whole.

Owns the words. Knows nothing of how a plan is worked on (`schedule`), nor of how any of this is spelled on a
wire. Used by the scheduler and by whoever performs its calls or tells of its end.
"""

from typing import Any, Literal

from msgspec import Struct

Status = Literal["succeeded", "failed", "rejected", "skipped"]
"""`failed` was tried; `rejected` was refused before anything ran; `skipped` was not begun."""


class Performed(Struct, frozen=True, kw_only=True):
    """What one attempt at a tool call came to."""

    status: Literal["succeeded", "failed", "rejected"]
    output: Any = None
    error: str | None = None
    terminal: bool = False
    """The tool says that trying again, or going on, is of no use: no further attempt, the plan is aborted."""
    call_id: str | None = None
    """Of the record."""
    source: Literal["executed", "cache"] = "executed"
    cacheable: bool = True
    """Whether an output of an idempotent action may stand for later calls of it."""


class ActionResult(Struct, frozen=True, kw_only=True):
    """What one action came to."""

    action_id: str
    status: Status
    output: Any = None
    error: str | None = None
    """Why it did not succeed: a sentence that names no value."""
    state_changes: dict[str, Any] = {}  # msgspec gives every result its own
    """Values it put into the state, by key."""
    rolled_back: bool = False
    """It succeeded, and then the plan was aborted: the state is as if it had not."""
    terminal: bool = False
    source: Literal["executed", "cache"] = "executed"
    attempts: int = 0
    """How often its tool was called."""
    call_ids: tuple[str, ...] = ()
    """One for each attempt that has a record."""
    began_at_us: int = 0
    duration_seconds: float = 0.0


class Costs(Struct, frozen=True, kw_only=True):
    """What a plan took."""

    tool_calls: int
    """Attempts that ran; what was rejected or came from the cache did not."""
    actions_executed: int
    """Succeeded or failed."""
    actions_rejected: int
    actions_skipped: int
    retries: int
    """Attempts after the first."""
    duration_seconds: float


class Rollback(Struct, frozen=True, kw_only=True):
    """How an aborted plan was taken back."""

    keys_left: tuple[str, ...] = ()
    """State keys that somebody else has written since; they are as those left them."""
    error: str | None = None
    """What kept the rest (files) from being taken back; the state is taken back all the same."""


class PlanResult(Struct, frozen=True, kw_only=True):
    """What a plan came to."""

    results: tuple[ActionResult, ...]
    """In the order of the plan."""
    costs: Costs
    aborted_by: str | None = None
    """The action that aborted it; None too where the plan was cancelled."""
    cancelled: bool = False
    rollback: Rollback | None = None
    """None: the plan came to its end, and nothing was taken back."""

    def of(self, action_id: str) -> ActionResult:
        """Raises KeyError."""
        for result in self.results:
            if result.action_id == action_id:
                return result
        raise KeyError(action_id)
