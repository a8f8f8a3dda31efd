"""What a hook is told and what it answers, in words that no CLI uses.

Owns the reading of one document of a CLI's (which fields must be there, which may be missing) and the shape
of an answer. Pure. Knows nothing of a particular CLI: that is its `Dialect`. Used by everything in `hooks`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from msgspec import Struct

from custody.errors import InvalidInput

Kind = Literal[
    "session_started",
    "session_ended",
    "prompted",
    "before",
    "after",
    "failed",
    "subagent_started",
    "subagent_stopped",
    "stopped",
    "compacting",
    "other",
]

BLOCKS: frozenset[Kind] = frozenset({"before", "prompted"})
"""Where a hook that went wrong says no: before a tool, and before a prompt. To say no to an end would keep
the agent going."""

BLOCKED = 2
"""The exit code by which every CLI here knows that a hook says no; standard error says why."""

TOLD_NOTHING = 1
"""The exit code of a hook that failed where it cannot, or must not, stop anything."""

NAME_CHARACTERS_MAX = 256
"""Of a session, tool, agent or id: each goes into the leaf of a record, which is kept for ever."""

REASON_CHARACTERS_MAX = 2_000
"""Of what is told to a CLI, which tells it to a model."""


class HookUnclear(InvalidInput):
    """What the hook was told cannot be understood."""


class HookEvent(Struct, frozen=True, kw_only=True):
    """One thing a CLI told its hook."""

    cli: str
    kind: Kind
    name: str
    """The CLI's own name of the event."""
    session: str
    cwd: str | None = None
    tool: str | None = None
    """Of `before`, `after` and `failed` alone, and never None there."""
    arguments: dict[str, Any] = {}
    tool_use_id: str | None = None
    """The CLI's own id of the tool's use; None where it gives none."""
    agent_id: str | None = None
    """Of the subagent it happens in; None: in the main agent."""
    agent_type: str | None = None
    prompt: str | None = None
    result: Any = None
    error: str | None = None
    interrupted: bool = False
    """Its user ended it, the tool or the turn."""
    details: dict[str, Any] = {}
    """What else is worth keeping: why a session began or ended, the model, the mode of permissions."""

    @property
    def external_id(self) -> str:
        """By which the two hooks of one tool's use find each other: the CLI's id, else what is asked."""
        if self.tool_use_id is not None:
            return self.tool_use_id
        asked = json.dumps([self.tool, self.arguments], sort_keys=True, ensure_ascii=True, default=str)
        return f"asked:{hashlib.sha256(asked.encode()).hexdigest()[:32]}"


class Answer(Struct, frozen=True, kw_only=True):
    """What the hook has to say of an event."""

    verdict: Literal["allow", "deny", "ask"] = "allow"
    reason: str = ""
    arguments: dict[str, Any] | None = None
    """All of the tool's arguments, changed; None: as they were."""


ALLOW = Answer()


class Spoken(Struct, frozen=True, kw_only=True):
    """An answer as a CLI hears it."""

    exit_code: int = 0
    out: str = ""
    err: str = ""


class Dialect(Struct, frozen=True, kw_only=True):
    """How one CLI speaks to its hooks."""

    name: str
    title: str
    events: Mapping[str, Kind]
    fields: Mapping[str, str]
    """Our name of a field -> the CLI's, where a document has it."""
    details: tuple[str, ...] = ()
    interrupts: frozenset[str] = frozenset()
    """Events that tell of a turn its user ended."""
    asks: bool = False
    """It can ask its own user."""
    rewrites: bool = False
    """It takes changed arguments."""
    on_failure: Mapping[str, str] = {}
    """What its settings say of a hook whose failure is to be a no, where they can."""
    say: Callable[[HookEvent, Answer], str]
    """What is printed for an answer to a tool or prompt; the exit code is 0."""
    error_of: Callable[[Mapping[str, Any]], str | None] = lambda _document: None
    """The failure that a result tells of, where a CLI has no event for that."""


def read(dialect: Dialect, document: Any, event: str | None = None) -> HookEvent:
    """What a document says. Fields that are not known are passed over; one that has to be there and is not,
    or is something else, raises HookUnclear. `event` is what the CLI was told to call this hook for."""
    if not isinstance(document, dict):
        raise HookUnclear("A hook is told a JSON object; this is none.")
    told: dict[str, Any] = document  # pyright: ignore[reportUnknownVariableType]
    name = _text(told, "hook_event_name", required=event is None) or event or ""
    if event is not None and name != event:
        raise HookUnclear(f"This hook is called for {event}, and was told of {name[:80]!r}.")
    kind = dialect.events.get(name, "other")
    of_tool = kind in ("before", "after", "failed")
    arguments = told.get("tool_input")
    if of_tool and not isinstance(arguments, dict):
        raise HookUnclear("tool_input is no object, so it cannot be told what the tool would do.")
    fields = dialect.fields
    return HookEvent(
        cli=dialect.name,
        kind=kind,
        name=name[:NAME_CHARACTERS_MAX],
        session=_text(told, "session_id", required=True) or "",
        cwd=_folder(told, required=kind == "before"),
        tool=_text(told, "tool_name", required=of_tool) if of_tool else None,
        arguments=arguments if of_tool and isinstance(arguments, dict) else {},  # pyright: ignore[reportUnknownArgumentType]
        tool_use_id=_text(told, fields.get("tool_use_id", "tool_use_id")),
        agent_id=_text(told, "agent_id", required=kind in ("subagent_started", "subagent_stopped")),
        agent_type=_text(told, "agent_type"),
        prompt=_text(told, "prompt", characters_max=None) if kind == "prompted" else None,
        result=told.get(fields.get("result", "tool_response")) if of_tool else None,
        error=_text(told, "error", characters_max=None)
        if kind == "failed"
        else _failure(dialect, kind, told),
        interrupted=told.get("is_interrupt") is True or name in dialect.interrupts,
        details={field: told[field] for field in dialect.details if field in told},
    )


def speak(dialect: Dialect, event: HookEvent, answer: Answer) -> Spoken:
    """The answer in the CLI's form."""
    if event.kind not in BLOCKS:
        return Spoken()
    if answer.verdict == "ask" and not dialect.asks:
        reason = f"{answer.reason} {dialect.title} cannot be told to ask its user, so it is refused."
        answer = Answer(verdict="deny", reason=reason)
    reason = answer.reason.strip() or "Refused."
    if len(reason) > REASON_CHARACTERS_MAX:
        left = len(reason) - REASON_CHARACTERS_MAX
        reason = f"{reason[:REASON_CHARACTERS_MAX]} … ({left} characters more)"
    if event.kind == "prompted" and answer.verdict != "allow":
        return Spoken(exit_code=BLOCKED, err=f"Custody: {reason}\n")
    return Spoken(
        out=dialect.say(event, Answer(verdict=answer.verdict, reason=reason, arguments=answer.arguments))
    )


def speak_failure(kind: Kind, reason: str) -> Spoken:
    """What went wrong in ours: a no where the CLI can be stopped."""
    code = BLOCKED if kind in BLOCKS else TOLD_NOTHING
    return Spoken(exit_code=code, err=f"Custody: {reason[:REASON_CHARACTERS_MAX]}\n")


def _failure(dialect: Dialect, kind: Kind, told: Mapping[str, Any]) -> str | None:
    return dialect.error_of(told) if kind == "after" else None


def _folder(told: Mapping[str, Any], *, required: bool) -> str | None:
    """Where the CLI works. Raises HookUnclear: from another folder the same words name other files."""
    folder = _text(told, "cwd", required=required, characters_max=None)
    if folder is None or (folder.startswith("/") and "\0" not in folder):
        return folder
    if required:
        raise HookUnclear("cwd is no absolute path, so it cannot be told which files are meant.")
    return None


def _text(
    told: Mapping[str, Any],
    field: str,
    *,
    required: bool = False,
    characters_max: int | None = NAME_CHARACTERS_MAX,
) -> str | None:
    """A field that is text or not there. Raises HookUnclear for one that is needed and is not usable."""
    value = told.get(field)
    if isinstance(value, str) and value:
        if characters_max is None or len(value) <= characters_max:
            return value
        if required:
            raise HookUnclear(f"{field} has {len(value)} characters; {characters_max} at most are a name.")
        return value[:characters_max]
    if required:
        raise HookUnclear(f"{field} is missing, or is no text.")
    return None
