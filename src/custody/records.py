"""The record types: what is kept of runs, calls, steps and events.

Owns the eight kinds of record, their leaf and payload parts, ids and times, and the two read models
(`Run`, `Call`) every door shows. Knows nothing of files, of redaction or of how a call is executed.
Used by every other module.

A record has two parts. The *leaf* is kept for ever and hashed into the journal's tree: ids, decisions,
outcomes, times, measurements and the salted digest of the payload. The *payload* holds what was said:
arguments, results, texts; it can be purged without touching the leaf.

Leaves and payloads are msgpack arrays (msgspec `array_like`): fields are only ever appended, always with
a default, so that an old record decodes with a new reader.
"""

import hashlib
import itertools
import os
import time
import weakref
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any, Literal, NewType

import msgspec
from msgspec import Struct

Effect = Literal["read", "write", "irreversible", "unknown"]
Level = Literal["none", "process", "confined", "transaction"]
Verdict = Literal["allow", "deny", "ask"]
By = Literal["rule", "person", "nobody", "schema", "path", "budget", "resources", "error"]
Outcome = Literal["succeeded", "failed", "timed_out", "cancelled", "rejected", "unknown"]
RunOutcome = Literal["succeeded", "failed", "timed_out", "cancelled", "rejected", "unknown", "incomplete"]
Source = Literal["executed", "cache", "replay", "observed", "imported"]

OUTCOMES: tuple[Outcome, ...] = ("succeeded", "failed", "timed_out", "cancelled", "rejected", "unknown")
RUN_OUTCOMES: tuple[RunOutcome, ...] = (*OUTCOMES, "incomplete")
EFFECTS: tuple[Effect, ...] = ("read", "write", "irreversible", "unknown")

EVENT_NAMES = frozenset(
    {
        "writer.opened",  # a process leased a shard: host, boot id, platform, versions
        "journal.repaired",  # a torn tail was cut: shard, segment, offset, frames, bytes
        "journal.poisoned",  # a sync failed and its unsynced frames were written again elsewhere
        "journal.gap",  # records were dropped while the store could not be written; their count
        "host.sampled",  # one sample of the machine's telemetry
        "call.cancel_requested",  # somebody in another process asked for a call or a run to end
        "run.error",
        "run.model",
        "run.refused",  # something was offered to a run that had finished
        "recovery.reaped",  # processes of a dead call were ended
        "recovery.reported",  # processes that may belong to a dead call, not provably ours
    }
)
"""Closed list of Custody's own event names; names under `app.` are the user's."""

Redacted = NewType("Redacted", bytes)
"""Bytes that redaction has seen. Only `custody.redaction` makes them (`tests/test_architecture.py`
holds it to that), and the journal's append takes nothing else as a payload."""


class Kind(IntEnum):
    """What a journal frame holds. 0 is free space; records are below 32 and are leaves of the tree."""

    RUN_STARTED = 1
    RUN_FINISHED = 2
    CALL_ASKED = 3
    CALL_ANSWERED = 4
    CALL_STARTED = 5
    CALL_FINISHED = 6
    STEP = 7
    EVENT = 8
    COMMIT = 32  # not a record: the tree's size and root so far


# -- parts shared by several records ------------------------------------------------------------------


class Decision(Struct, frozen=True, array_like=True):
    """Whether a call may happen."""

    verdict: Verdict
    by: By
    """Who decided: a rule, a person, nobody (no answer came), the schema, a path outside the roots,
    a budget, the machine's resources, or an error inside a guard."""
    reason: str
    rule: str | None = None
    """Name of the rule that decided, if one did."""


class Redaction(Struct, frozen=True, array_like=True):
    """What redaction replaced in one place."""

    rule: str
    path: str
    """Where: `arguments.env.API_TOKEN`, `result.stdout`."""
    count: int = 1


class Usage(Struct, frozen=True, array_like=True):
    """What a call used. None is unknown, never zero."""

    wall_us: int | None = None
    user_us: int | None = None
    system_us: int | None = None
    memory_peak_bytes: int | None = None
    """None where only the spawning process's own peak is known."""
    read_bytes: int | None = None
    write_bytes: int | None = None
    context_switches_voluntary: int | None = None
    context_switches_involuntary: int | None = None
    descendants: int | None = None
    """Processes the call started below its first, where the launcher or a cgroup saw them."""
    stdout_bytes: int | None = None
    stderr_bytes: int | None = None
    stdout_dropped_bytes: int | None = None
    """Bytes between the kept head and the kept tail that were read but not kept."""
    stderr_dropped_bytes: int | None = None


class Request(Struct, frozen=True, array_like=True):
    """What was asked: part of the first record of a call, whichever kind that is."""

    run_id: bytes | None
    position: int | None
    tool: str
    effect: Effect
    level: Level
    decision: Decision
    asked_at_us: int
    """Wall clock, microseconds since 1970 UTC."""
    session_id: str | None = None
    parent_id: bytes | None = None
    """The call in which this one was made."""
    step_id: bytes | None = None
    external_id: str | None = None
    agent: str | None = None
    """None: the run's."""
    caller: str | None = None
    """None: the run's."""
    door: str = "python"
    dry_run: bool = False
    owner_pid: int | None = None
    """The process this call lives and dies with, where it is not the writing one (a hook's agent)."""
    owner_start_ticks: int | None = None
    pid: int = 0
    thread_id: int = 0
    workspace: str | None = None
    """None: the run's."""
    decide_us: int | None = None


# -- leaves -------------------------------------------------------------------------------------------


class RunStarted(Struct, frozen=True, array_like=True):
    run_id: bytes
    at_us: int
    payload_digest: bytes
    agent: str | None = None
    caller: str | None = None
    session_id: str | None = None
    parent_run_id: bytes | None = None
    name: str | None = None
    client: str | None = None
    channel: str | None = None
    user: str | None = None
    host: str | None = None
    workspace: str | None = None
    door: str = "python"
    shared: bool = False
    external_id: str | None = None
    owner_pid: int = 0
    """The process the run lives and dies with, and when it started (clock ticks since boot)."""
    owner_start_ticks: int | None = None
    redactions: tuple[Redaction, ...] = ()


class RunFinished(Struct, frozen=True, array_like=True):
    run_id: bytes
    at_us: int
    payload_digest: bytes
    outcome: RunOutcome
    reason: str | None = None
    passed: bool | None = None
    calls: int | None = None
    redactions: tuple[Redaction, ...] = ()


class CallAsked(Struct, frozen=True, array_like=True):
    call_id: bytes
    request: Request
    payload_digest: bytes
    redactions: tuple[Redaction, ...] = ()


class CallAnswered(Struct, frozen=True, array_like=True):
    call_id: bytes
    at_us: int
    decision: Decision
    payload_digest: bytes
    person: str | None = None


class CallStarted(Struct, frozen=True, array_like=True):
    call_id: bytes
    at_us: int
    monotonic_ns: int
    """CLOCK_MONOTONIC when the execution was about to begin."""
    payload_digest: bytes
    request: Request | None = None
    """None when the call was asked before (`CallAsked` holds it)."""
    queue_us: int | None = None
    host_before: bytes | None = None
    """Id of the `host.sampled` event that describes the machine before the call."""
    redactions: tuple[Redaction, ...] = ()


class CallFinished(Struct, frozen=True, array_like=True):
    """The only terminal record of a call."""

    call_id: bytes
    at_us: int
    outcome: Outcome
    payload_digest: bytes
    request: Request | None = None
    """Given when this is the call's first record: it was rejected without an ask."""
    reason: str | None = None
    passed: bool | None = None
    source: Source = "executed"
    monotonic_ns: int | None = None
    """CLOCK_MONOTONIC when the execution ended."""
    latency_us: int | None = None
    """The execution alone; None if nothing was executed."""
    record_us: int | None = None
    """Spent on the *started* record, the wait for its durability included."""
    exit_code: int | None = None
    signal: int | None = None
    limit_hit: str | None = None
    usage: Usage | None = None
    child_pid: int | None = None
    child_start_ticks: int | None = None
    changes: int | None = None
    host_after: bytes | None = None
    redactions: tuple[Redaction, ...] = ()


class Step(Struct, frozen=True, array_like=True):
    step_id: bytes
    run_id: bytes
    at_us: int
    payload_digest: bytes
    position: int | None = None
    iteration: int | None = None
    model: str | None = None
    redactions: tuple[Redaction, ...] = ()


class Event(Struct, frozen=True, array_like=True):
    event_id: bytes
    name: str
    at_us: int
    payload_digest: bytes
    run_id: bytes | None = None
    call_id: bytes | None = None
    data: dict[str, Any] | None = None
    """Kept in the leaf for names that change what is allowed or say what the journal itself did."""
    redactions: tuple[Redaction, ...] = ()


Leaf = RunStarted | RunFinished | CallAsked | CallAnswered | CallStarted | CallFinished | Step | Event

LEAF_TYPES: dict[Kind, type[Leaf]] = {
    Kind.RUN_STARTED: RunStarted,
    Kind.RUN_FINISHED: RunFinished,
    Kind.CALL_ASKED: CallAsked,
    Kind.CALL_ANSWERED: CallAnswered,
    Kind.CALL_STARTED: CallStarted,
    Kind.CALL_FINISHED: CallFinished,
    Kind.STEP: Step,
    Kind.EVENT: Event,
}
KINDS: dict[type[Leaf], Kind] = {leaf: kind for kind, leaf in LEAF_TYPES.items()}

_encoder = msgspec.msgpack.Encoder()
_decoders = {kind: msgspec.msgpack.Decoder(leaf) for kind, leaf in LEAF_TYPES.items()}


def encode_leaf(leaf: Leaf) -> bytes:
    """The bytes that are stored, hashed and never serialised again."""
    return _encoder.encode(leaf)


def decode_leaf(kind: int, data: bytes) -> Leaf:
    """Raises msgspec.DecodeError for bytes that are no leaf of this kind."""
    return _decoders[Kind(kind)].decode(data)


# -- payloads -----------------------------------------------------------------------------------------

SALT_BYTES = 16
"""Each payload begins with so many random bytes, so that its digest in the leaf cannot be guessed back
to a short text once the payload is purged."""


def decode_payload(data: bytes) -> dict[str, Any] | None:
    """The mapping behind the salt; None for a purged payload or one that was never kept."""
    if len(data) <= SALT_BYTES or not any(data[:SALT_BYTES]):
        return None
    return msgspec.msgpack.decode(data[SALT_BYTES:])


# -- read models --------------------------------------------------------------------------------------


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
    changes: int | None
    redactions: tuple[Redaction, ...]
    cwd: str | None
    """Where its process ran."""
    environment_withheld: tuple[str, ...] | None
    door: str
    workspace: str | None
    pid: int
    thread_id: int
    child_pid: int | None
    child_start_ticks: int | None
    shard: int
    sequence: int

    def __repr__(self) -> str:
        return f"<Call {self.id[:8]} {self.tool} {self.outcome or 'running'}>"


def document(value: Any) -> Any:
    """A read model as the plain data every door shows: mappings with named fields, lists, scalars.

    Leaves are stored as arrays, so their parts (decision, usage, redactions) are given their names here.
    """
    if isinstance(value, Struct):
        return {name: document(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, (list, tuple)):
        return [document(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, dict):
        return {str(name): document(item) for name, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return value


# -- times and ids ------------------------------------------------------------------------------------


def now_us() -> int:
    """Wall clock in microseconds since 1970 UTC."""
    return time.time_ns() // 1000


_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - all times here are UTC


def rfc3339(at_us: int) -> str:
    """RFC 3339 UTC with microseconds, as all JSON shows times."""
    moment = _EPOCH + timedelta(microseconds=at_us)
    return f"{moment.isoformat(timespec='microseconds')}Z"


RUN_ID_BYTES = 16  # an OpenTelemetry trace id
CALL_ID_BYTES = 8  # an OpenTelemetry span id


_id_sources: "weakref.WeakSet[IdSource]" = weakref.WeakSet()


class IdSource:
    """Random bytes for ids and salts without a system call.

    SHA-256 over a random key and a counter: `os.urandom` gives up the GIL, which beside a busy thread
    costs 5 ms a call. A forked child takes a key of its own.
    """

    def __init__(self) -> None:
        self.renew()
        _id_sources.add(self)

    def renew(self) -> None:
        self._key = os.urandom(32)
        self._counter = itertools.count()

    def take(self, count: int) -> bytes:
        """`count` random bytes, at most 32."""
        assert 0 < count <= 32, "one SHA-256 gives 32 bytes"
        return hashlib.sha256(self._key + next(self._counter).to_bytes(8, "little")).digest()[:count]


def _renew_after_fork() -> None:
    for source in _id_sources:
        source.renew()


os.register_at_fork(after_in_child=_renew_after_fork)
