"""What can be asked of the record over MCP: runs, calls, and what many of them come to.

Owns the parameters, in words that a model understands. The answers are those of the daemon's own wire
(`rpc.methods.audit`), so the numbers are the store's own, and a client sees what such a peer would see.
Looking is recorded nowhere.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from custody.doors.mcp.tool import Asked, DoorTool
from custody.rpc.methods import audit
from custody.rpc.moments import moment_us

Limit = Annotated[int, Meta(ge=1, le=500, description="At most so many.")]
Cursor = Annotated[str, Meta(description="`next` of the page before, as it was given.")]
Moment = Annotated[str, Meta(description="RFC 3339, a date, or how long ago: 90s, 15m, 2h, 7d.")]
RunName = Annotated[str, Meta(description="A run: its id, the beginning of it, its name, or `latest`.")]
CallId = Annotated[str, Meta(description="Id of a call, or the beginning of it.")]
Agent = Annotated[str, Meta(description="Of this agent alone.")]
ToolName = Annotated[str, Meta(description="Of this tool alone, by its exact name.")]
Session = Annotated[str, Meta(description="Of this session alone.")]
Effect = Annotated[
    Literal["read", "write", "irreversible", "unknown"], Meta(description="Of tools with this effect.")
]
RunOutcome = Annotated[
    str,
    Meta(description="succeeded, failed, timed_out, cancelled, rejected, unknown, incomplete or running."),
]
CallOutcome = Annotated[
    str, Meta(description="succeeded, failed, timed_out, cancelled, rejected, unknown or running.")
]


class Narrowed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which calls a question is about."""

    run: RunName | None = None
    session: Session | None = None
    agent: Agent | None = None
    tool: ToolName | None = None
    since: Moment | None = None
    until: Moment | None = None

    def fields(self, *names: str) -> dict[str, Any]:
        """Those of a filter of the index, and `names` beside them."""
        said = {name: getattr(self, name) for name in ("run", "session", "agent", "tool", *names)}
        return {**said, "since_us": moment_us(self.since), "until_us": moment_us(self.until)}


class RunsListParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which runs."""

    agent: Agent | None = None
    session: Session | None = None
    name: Annotated[str, Meta(description="Of this name alone.")] | None = None
    outcome: RunOutcome | None = None
    text: Annotated[str, Meta(description="All these words occur.")] | None = None
    since: Moment | None = None
    until: Moment | None = None
    limit: Limit = 20
    cursor: Cursor | None = None


async def runs_list(asked: Asked, params: RunsListParams) -> Any:
    named = {name: getattr(params, name) for name in ("agent", "session", "name", "outcome", "text")}
    wanted = audit.RunsParams(
        **named,
        since_us=moment_us(params.since),
        until_us=moment_us(params.until),
        limit=params.limit,
        cursor=params.cursor,
    )
    return await audit.audit_runs.handle(asked.caller.peer, wanted)


class RunsShowParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which run."""

    run: RunName


async def runs_show(asked: Asked, params: RunsShowParams) -> Any:
    return await audit.audit_run.handle(asked.caller.peer, audit.IdParams(id=params.run))


class CallsSearchParams(Narrowed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which calls."""

    text: Annotated[str, Meta(description='All these words occur; "a phrase" as such.')] | None = None
    outcome: CallOutcome | None = None
    effect: Effect | None = None
    order: Annotated[Literal["newest", "oldest"], Meta(description="Which come first.")] = "newest"
    limit: Limit = 20
    cursor: Cursor | None = None


async def calls_search(asked: Asked, params: CallsSearchParams) -> Any:
    fields = params.fields("text", "outcome", "effect", "order", "limit", "cursor")
    return await audit.audit_calls.handle(asked.caller.peer, audit.CallsParams(**fields))


class CallsShowParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which call."""

    call: CallId


async def calls_show(asked: Asked, params: CallsShowParams) -> Any:
    return await audit.audit_call.handle(asked.caller.peer, audit.CallParams(id=params.call))


async def stats(asked: Asked, params: Narrowed) -> Any:
    return await audit.audit_stats.handle(asked.caller.peer, audit.CallFilter(**params.fields()))


class FailurePatternsParams(Narrowed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which failures, and how many alike."""

    count_min: Annotated[int, Meta(ge=1, description="Only those that happened so often.")] = 2
    limit: Limit = 20


async def failure_patterns(asked: Asked, params: FailurePatternsParams) -> Any:
    wanted = audit.PatternsParams(**params.fields("count_min", "limit"))
    return await audit.audit_failure_patterns.handle(asked.caller.peer, wanted)


class ToolRatesParams(Narrowed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which calls, and how many of a tool there have to be."""

    calls_min: Annotated[int, Meta(ge=1, description="Only tools with so many calls.")] = 1


async def tool_rates(asked: Asked, params: ToolRatesParams) -> Any:
    wanted = audit.RatesParams(**params.fields("calls_min"))
    return await audit.audit_tool_rates.handle(asked.caller.peer, wanted)


TOOLS = (
    DoorTool(
        name="runs_list",
        about="List recorded runs, the newest first: who worked on what, when, and how it ended.",
        params=RunsListParams,
        answer=runs_list,
    ),
    DoorTool(
        name="runs_show",
        about="Show one recorded run: intent, outcome, counts of its calls, tokens and cost.",
        params=RunsShowParams,
        answer=runs_show,
    ),
    DoorTool(
        name="calls_search",
        about="Find recorded tool calls by words in them, tool, outcome, agent or time, the newest first.",
        params=CallsSearchParams,
        answer=calls_search,
    ),
    DoorTool(
        name="calls_show",
        about="Show one recorded call whole: arguments, decision, result, error, usage, changes to files.",
        params=CallsShowParams,
        answer=calls_show,
    ),
    DoorTool(
        name="stats",
        about="Count recorded calls by tool and outcome, with success rates and latencies.",
        params=Narrowed,
        answer=stats,
    ),
    DoorTool(
        name="failure_patterns",
        about="Group recorded failures that are alike, the most frequent first.",
        params=FailurePatternsParams,
        answer=failure_patterns,
    ),
    DoorTool(
        name="tool_rates",
        about="List tools by how often their recorded calls succeed, the worst first.",
        params=ToolRatesParams,
        answer=tool_rates,
    ),
)
