"""Turns and model turns that an agent tells of in `runs.*`, put on the record of its run.

Owns what becomes of a batch: recorded whole and durable, softly dropped with a reason, or refused. How long a
turn may be is `told_turns`; the records are `calls.narrated` and steps. Usable without any peer. Used by the
methods.
"""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from custody.calls.narrated import append_narrated
from custody.calls.uncut import to_the_end
from custody.errors import InvalidInput, RunClosed
from custody.journal import Receipt
from custody.records import Tokens
from custody.rpc.live import LiveRuns
from custody.rpc.live_run import LiveRun
from custody.rpc.told_turns import ToldTurn, TurnTooLarge, narrated, read_turns

Dropped = Literal["run_not_found", "run_terminal", "run_turn_limit", "turn_too_large"]

TOKEN_NAMES: dict[str, tuple[str, ...]] = {
    "input": ("input", "input_tokens", "prompt_tokens"),
    "output": ("output", "output_tokens", "completion_tokens"),
    "reasoning": ("reasoning", "reasoning_tokens"),
    "cache_read": ("cache_read", "cache_read_tokens", "cache_read_input_tokens", "cached_tokens"),
    "cache_write": ("cache_write", "cache_write_tokens", "cache_creation_input_tokens"),
}
"""How providers and agents call what `Tokens` counts; what is said is kept as it was said, too."""


class RecordedTurns(Struct, frozen=True, kw_only=True):
    """What became of a batch: recorded in positions from `base_index` on, or dropped as a whole."""

    run_id: str
    base_index: int = 0
    count: int = 0
    ok: bool
    dropped: Dropped | UnsetType = UNSET


class RecordedModelTurn(Struct, frozen=True, kw_only=True):
    """What became of a model turn."""

    run_id: str
    index: int | UnsetType | None = UNSET
    """Its position in the run."""
    ok: bool
    dropped: Dropped | UnsetType = UNSET


class ModelTurn(Struct, frozen=True, kw_only=True):
    """One turn of a model, as its agent tells it."""

    turn_index: int | None = None
    """1-based, as the agent counts."""
    assistant_text: str | None = None
    requested_tool_calls: list[dict[str, Any]] | None = None
    """Mappings with id, name and arguments."""
    model_id: str | None = None
    token_usage: Any = None
    duration_ms: float | None = None


async def record_turns(
    runs: LiveRuns,
    run_id: str,
    turns: Any,
    *,
    whose: Collection[str] | None,
    connection: str | None = None,
) -> RecordedTurns:
    """Record 1 to 256 turns in contiguous positions; durable when this returns.

    Raises InvalidInput for what is not well formed, NotRecorded where the store cannot keep it.
    """
    _check_run_id(run_id)
    told = read_turns(turns)
    live = await _open_run(runs, run_id, whose)
    if not isinstance(live, LiveRun):
        return RecordedTurns(run_id=run_id, ok=False, dropped=live)
    if live.narrated + len(told) > runs.narrated_max:
        return RecordedTurns(run_id=run_id, ok=False, dropped="run_turn_limit")
    live.narrated += len(told)
    try:
        with live.working("runs.record_turns"):
            first = await to_the_end(_append(live, told, connection))
    except (RunClosed, TurnTooLarge) as error:
        live.narrated -= len(told)
        dropped: Dropped = "run_terminal" if isinstance(error, RunClosed) else "turn_too_large"
        return RecordedTurns(run_id=run_id, ok=False, dropped=dropped)
    except Exception:
        live.narrated -= len(told)
        raise
    finally:
        runs.touched(live)
    return RecordedTurns(run_id=run_id, base_index=first, count=len(told), ok=True)


async def _append(live: LiveRun, told: list[ToldTurn], connection: str | None) -> int:
    recorder = live.handle.recording.recorder

    def write() -> tuple[int, Receipt]:
        calls = [narrated(turn, recorder) for turn in told]
        return append_narrated(live.handle, calls, connection=connection)

    first, receipt = await asyncio.to_thread(write)
    await receipt.durable()
    return first


async def record_model_turn(
    runs: LiveRuns, run_id: str, turn: ModelTurn, *, whose: Collection[str] | None
) -> RecordedModelTurn:
    """Record one model turn with its whole text; durable when this returns. Raises as `record_turns`."""
    _check_run_id(run_id)
    live = await _open_run(runs, run_id, whose)
    if not isinstance(live, LiveRun):
        return RecordedModelTurn(run_id=run_id, ok=False, dropped=live)
    if live.narrated >= runs.narrated_max:
        return RecordedModelTurn(run_id=run_id, ok=False, dropped="run_turn_limit")
    live.narrated += 1
    try:
        with live.working("runs.record_model_turn"):
            position = await to_the_end(_append_step(live, turn))
    except RunClosed:
        live.narrated -= 1
        return RecordedModelTurn(run_id=run_id, ok=False, dropped="run_terminal")
    except Exception:
        live.narrated -= 1
        raise
    finally:
        runs.touched(live)
    return RecordedModelTurn(run_id=run_id, index=position, ok=True)


async def _append_step(live: LiveRun, turn: ModelTurn) -> int | None:
    handle = live.handle
    data = {"turn_index": turn.turn_index, "token_usage": turn.token_usage}
    data = {name: value for name, value in data.items() if value is not None}

    def write() -> tuple[int | None, object]:
        with handle.numbering.guarded:  # so that no later turn is on the record before this one
            step = handle.step(
                turn.assistant_text,
                model=turn.model_id,
                tokens=tokens_of(turn.token_usage),
                model_us=None if turn.duration_ms is None else round(turn.duration_ms * 1000),
                calls=turn.requested_tool_calls or (),
                data=data or None,
                text_characters_max=None,
                on_error="raise",
            )
        return step.position, step.stored

    position, stored = await asyncio.to_thread(write)
    assert isinstance(stored, Receipt), "what must be recorded is not queued"
    await stored.durable()
    return position


def tokens_of(usage: Any) -> Tokens | None:
    """What of it can be counted."""
    if not isinstance(usage, Mapping):
        return None
    counted: dict[str, int] = {}
    for name, spellings in TOKEN_NAMES.items():
        for spelling in spellings:
            count: Any = usage.get(spelling)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            if isinstance(count, int) and not isinstance(count, bool) and count >= 0:
                counted[name] = count
                break
    return Tokens(**counted) if counted else None


def _check_run_id(run_id: str) -> None:
    if not run_id:
        raise InvalidInput("run_id is empty.", field="run_id")


async def _open_run(runs: LiveRuns, run_id: str, whose: Collection[str] | None) -> LiveRun | Dropped:
    known = await runs.find(run_id, whose)
    if known is None:
        return "run_not_found"
    if known.over:
        return "run_terminal"
    return known.live or "run_not_found"
