"""The eight kinds of record: their leaf and payload parts.

Leaves and payloads are msgpack arrays (msgspec `array_like`): fields are only ever appended, always with
a default, so that an old record decodes with a new reader. The first item of a leaf is its kind, so that
what is hashed says what it is.
"""

from collections.abc import Callable
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
Settled = Literal["committed", "discarded"]
"""What became of changes that were held."""
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
        "network.connected",  # a connection of a confined command: to where, bytes in and out
        "network.refused",  # one that its sandbox does not list, and what would allow it
        "network.untold",  # connections of one command beyond those that are told; their count
        "call.cancel_requested",  # somebody in another process asked for a call or a run to end
        "run.error",
        "run.model",
        "run.refused",  # something was offered to a run that had finished
        "recovery.reaped",  # processes of a dead call were ended
        "export.advanced",  # what was exported was taken: destination, cursor, counts
        "recovery.restored",  # changes to files that a dead call was in the middle of were taken back
        "recovery.reported",  # processes that may belong to a dead call, not provably ours
        "key.created",  # a key that signs checkpoints, and which one it replaces
        "checkpoint.refused",  # a shard does not go on from what was signed of it: what is wrong
        "checkpoint.undelivered",  # a checkpoint did not reach a place it is kept at; counts
        "store.purged",  # payloads that are there no more: which, why, on whose word
        "store.dropped",  # whole segments that are there no more, and the roots of their subtrees
        "run.held",  # nothing of the run is purged until it is released
        "run.released",
        "held.expired",  # held changes of a command whose time was over: whose, and after how many days
        "redaction.allowed",  # what a scanner found under this fingerprint is no secret
        "redaction.disallowed",
        "bundle.made",  # records left the store in a bundle; which, how many
        "boundary.received",  # a notice of another program about a call of its own
        "boundary.undelivered",  # notices that no listener took; counts
        "trace.received",  # spans of another program became this run's records; what was left out, counted
        "trace.refused",  # what a program sent as spans and could not be read: why, how many
        "guard.installed",  # Custody is put into other programs' settings: which files, by whom
        "guard.removed",
        "server.started",  # a daemon took the store: its addresses, who may come in
        "server.stopped",
        "hook.unclear",  # what a program's hook was told could not be understood: which, why
        "session.started",  # a program that works on its own told of a session: which program, why
        "session.ended",
        "session.compacted",  # what its model knows of it was made shorter
        "peer.connected",  # somebody at a door: which door, from where, as whom
        "peer.disconnected",  # why, and how much was said
        "proposal.finished",  # what became of each action, those that are no calls included
        "state.changed",  # a key of a peer's state was set
        "tool.registered",  # a peer offers a tool that it runs itself
        "tool.unregistered",
        "policy.registered",  # a peer narrows what it may do itself
        "policy.unregistered",
        "run.cancel_requested",  # over a connection: by whom, under which key, a digest of the reason
        "run.cancel_answered",  # the receipt of it
        "run.resumed",  # another connection of the same agent goes on with it
        "token.created",
        "token.revoked",
        "skill.read",  # the text of a skill was given to somebody: which skill, at which digest
        "skills.trusted",  # a key whose signatures on skills count, until when
        "skills.distrusted",
        "plan.resumed",  # a plan goes on where another run of it was cut: which run, what stands
        "plan.decided",  # a person said what became of an action nobody knows the outcome of
        "plan.finished",  # what became of each action of a plan, those that were skipped included
        "policy.in_force",  # which files of rules count from here on, with their digests
        "policy.unusable",  # a changed file of rules cannot be used; the old one stays
        "policy.trusted",  # a project's policy may widen what its user's says, at this digest
        "policy.distrusted",
        "policy.paused",  # asks and refusals of rules do not count, until when and why
        "policy.unpaused",
        "shadow.denied",  # what a rule would have refused or asked, were it enforced
        "budget.soft",  # the soft bound of a budget was passed
        "answer.used",  # a yes that came too late for its call let another pass
        "grant.created",  # what a person allows more than once: for how long, how often
        "grant.revoked",
        "grant.used",
        "approval.refused",  # somebody tried to answer who may not, or what cannot be answered
        "approvals.undelivered",  # nobody could be told of a question; where, why
        "mcp.request",  # a request between an MCP client and a server behind the proxy that is no tool call
        "mcp.fault",  # what one of the two said that could not be handed on
        "mcp.server_gone",  # the server ended by itself: how
        "mcp.described",  # what tools said of themselves when it was new; characters in it that nobody sees
        "mcp.tools_pinned",  # descriptions of tools that were seen for the first time: their digests
        "mcp.tool_changed",  # a tool describes itself otherwise than was trusted
        "mcp.tools_trusted",  # a person trusts descriptions that have changed
    }
)
"""Closed list of Custody's own event names."""

OWN_EVENTS = "app."
"""What the names of a user's events begin with: the others are Custody's, and some change what is allowed."""

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
    param: str | None = None
    """Name of the parameter that rule was about."""
    matched: tuple[str, ...] = ()
    """Names of all rules that matched, the one that decided included."""
    policy: str | None = None
    """The digest of the policy that was asked, cut to 16 hex digits; None where there is none."""


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


class Tokens(Struct, frozen=True, array_like=True):
    """What one model turn used, as its provider counted. None is unknown, never zero.

    As in the GenAI conventions of OpenTelemetry, `input` includes what was read from and written to a
    cache, `output` includes reasoning.
    """

    input: int | None = None
    output: int | None = None
    reasoning: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None


class Totals(Struct, frozen=True, array_like=True):
    """What a run has done so far, its children not included. Tokens and cost are the sums of what is known:
    0 before the first step, None when no step said."""

    steps: int = 0
    calls: int = 0
    """Started or rejected."""
    calls_by_outcome: dict[str, int] = {}
    """Those that ended."""
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    reasoning_tokens: int | None = 0
    cache_read_tokens: int | None = 0
    cache_write_tokens: int | None = 0
    cost_nano_usd: int | None = 0
    """Billionths of a US dollar: whole numbers add up."""
    steps_without_tokens: int = 0
    """Steps that said nothing of input or of output tokens."""
    steps_without_cost: int = 0
    """Steps whose model or tokens the price table could not price."""
    refused: int = 0
    """Calls, steps and events offered after the run had finished."""
    dropped: int = 0
    """Records of the run that could not be kept."""

    @property
    def cost_usd(self) -> float | None:
        return None if self.cost_nano_usd is None else self.cost_nano_usd / 1e9


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
    proposal_id: str | None = None
    """The proposal it is an action of, as its author calls both; authors use ids again."""
    action_id: str | None = None
    attempt: int | None = None
    """1-based: an action that is retried makes a call each time."""
    connection: str | None = None
    """Id of the connection it was asked over."""


# -- leaves -------------------------------------------------------------------------------------------


class RunStarted(Struct, frozen=True, array_like=True, tag=Kind.RUN_STARTED.value):
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


class RunFinished(Struct, frozen=True, array_like=True, tag=Kind.RUN_FINISHED.value):
    run_id: bytes
    at_us: int
    payload_digest: bytes
    outcome: RunOutcome
    reason: str | None = None
    passed: bool | None = None
    calls: int | None = None
    redactions: tuple[Redaction, ...] = ()
    totals: Totals | None = None
    """As the finishing process counted; None where several processes shared the run."""


class CallAsked(Struct, frozen=True, array_like=True, tag=Kind.CALL_ASKED.value):
    call_id: bytes
    request: Request
    payload_digest: bytes
    redactions: tuple[Redaction, ...] = ()
    digest: bytes | None = None
    """Keyed digest of exactly what is asked: a yes is bound to it."""
    open_until_us: int | None = None
    """When the question can be answered no more, and a yes to it be used no more."""
    standing: bool = False
    """Whether a person may allow it for more than one call."""


class CallAnswered(Struct, frozen=True, array_like=True, tag=Kind.CALL_ANSWERED.value):
    call_id: bytes
    at_us: int
    decision: Decision
    payload_digest: bytes
    person: str | None = None


class CallStarted(Struct, frozen=True, array_like=True, tag=Kind.CALL_STARTED.value):
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


class CallFinished(Struct, frozen=True, array_like=True, tag=Kind.CALL_FINISHED.value):
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
    decision: Decision | None = None
    """What refused it after it had been asked: nobody answered, or a check behind the answer."""
    held: int | None = None
    """Its `changes` are held, so many: the files are as they were, until a call commits or discards them."""
    settles: bytes | None = None
    """The call whose held changes it commits or discards."""
    settled: Settled | None = None
    """What became of those."""
    held_digest: bytes | None = None
    """SHA-256 of the manifest of what is held: nothing else is committed. None in records of old."""


class Step(Struct, frozen=True, array_like=True, tag=Kind.STEP.value):
    """One model turn. Its payload has `text`, `calls` (what the model asked for) and `data`."""

    step_id: bytes
    run_id: bytes
    at_us: int
    payload_digest: bytes
    position: int | None = None
    iteration: int | None = None
    """1-based, among the steps of its run."""
    model: str | None = None
    """The one that answered, as it names itself."""
    redactions: tuple[Redaction, ...] = ()
    requested_model: str | None = None
    external_id: str | None = None
    """The provider's id of the response."""
    agent: str | None = None
    """None: the run's."""
    parent_id: bytes | None = None
    """The call in which the turn was made."""
    responded: bool = True
    """False: the model was asked and nothing came."""
    finish_reason: str | None = None
    since_previous_us: int | None = None
    """From the step before, or the run's start, to the end of this one: tools included."""
    model_us: int | None = None
    """The model alone, where the caller measured it."""
    text_bytes: int | None = None
    """Of the whole text in UTF-8, whatever of it is kept."""
    text_cut_bytes: int = 0
    """How many of them the payload does not have."""
    text_withheld: bool = False
    """The text is not kept because the step asks for a tool that handles secrets."""
    requested: tuple[str, ...] = ()
    """Names of the tools the model asked for, in its order."""
    tokens: Tokens | None = None
    cost_nano_usd: int | None = None
    """None: the model or its tokens are unknown to the price table."""
    prices: str | None = None
    """Version of the price table the cost was worked out with."""
    unusable: tuple[str, ...] = ()
    """Names of what was offered with a value that cannot be one: a negative count, text for a number."""


class Event(Struct, frozen=True, array_like=True, tag=Kind.EVENT.value):
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


encode_leaf: Callable[[Leaf], bytes] = _encoder.encode
"""The bytes that are stored, hashed and never serialised again."""


def decode_leaf(kind: int, data: bytes) -> Leaf:
    """Raises msgspec.DecodeError for bytes that are no leaf of this kind."""
    return _decoders[Kind(kind)].decode(data)


def kind_of(data: bytes) -> Kind | None:
    """The kind of record these bytes are a leaf of; None when they are none."""
    for kind, decoder in _decoders.items():
        try:
            decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        return kind
    return None


# -- payloads -----------------------------------------------------------------------------------------

SALT_BYTES = 16
"""Each payload begins with so many random bytes, so that its digest in the leaf cannot be guessed back
to a short text once the payload is purged."""


def decode_payload(data: bytes) -> dict[str, Any] | None:
    """The mapping behind the salt; None for a purged payload or one that was never kept."""
    if len(data) <= SALT_BYTES or not any(data[:SALT_BYTES]):
        return None
    return msgspec.msgpack.decode(data[SALT_BYTES:])
