"""A step: one model turn, from what its caller knows of it to what is kept.

Owns which values make sense (a count is a whole number that is not negative), how much of the text is kept,
and when none of it is: the turn that asks for a tool which handles secrets may repeat them. Used by `run`.
"""

from collections.abc import Iterable, Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Self, cast

from msgspec import Struct

from custody.calls import stated
from custody.calls.backlog import Offer
from custody.calls.recording import Recording
from custody.cuts import ACROSS_MAX, beginning
from custody.journal import Receipt
from custody.records import Redaction, Tokens
from custody.redaction import Mark

TEXT_CHARACTERS_MAX = 2_000
"""Kept of a turn's text unless the caller says otherwise: enough to see what the model was about."""

SECRET_CHARACTERS_MAX = 16_384
"""Looked at behind the cut, for a secret that begins before it."""

TOKENS_MAX = 10**9
MODEL_US_MAX = 10**12
"""Of one turn; more is a mistake, and would spoil every sum it enters."""

CALLS_MAX = 1_000  # kept of what one turn asks for; that there were more is noted

NAME_CHARACTERS_MAX = 256  # of a model, a tool, a reason: what is longer is no name

NAMES_BYTES_MAX = 8 * 1024
"""Of the tools asked for in one turn, as its leaf names them: leaves have to stay small."""

UNUSABLE_MAX = 16  # names of what could not be used; more of them say nothing new

current_step: ContextVar["tuple[bytes, bytes] | None"] = ContextVar("custody_current_step", default=None)
"""Run and step of the turn whose calls this code makes."""

_type: Any = type
_subclass: Any = issubclass  # of the type alone, as `isinstance` asks the value for its class


class RecordedStep:
    """A step that was offered. Calls observed after it in the same context belong to it; use it as `with` to
    end that early."""

    __slots__ = ("_run_id", "_tokens", "position", "step_id", "stored")

    def __init__(self, run_id: bytes, step_id: bytes) -> None:
        self._run_id = run_id
        self.step_id = step_id
        self.position: int | None = None
        self.stored: Receipt | Offer | None = None
        self._tokens: list[Token[tuple[bytes, bytes] | None]] = []

    @property
    def id(self) -> str:
        """16 hexadecimal digits: also the OpenTelemetry span id. Empty for a step that was not recorded."""
        return self.step_id.hex()

    def __enter__(self) -> Self:
        if self.step_id:
            self._tokens.append(current_step.set((self._run_id, self.step_id)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            current_step.reset(self._tokens.pop())
        except (IndexError, ValueError):
            pass  # not recorded, or entered in another context: it is over there, too


class Turn(Struct, frozen=True, kw_only=True):
    """A step made ready: what its leaf says beside ids and times, and its payload."""

    fields: dict[str, Any]
    payload: dict[str, Any]
    redactions: tuple[Redaction, ...]
    """Made before the text was cut, so that no half of a secret is left."""


def make_turn(
    recording: Recording,
    text: str | None,
    *,
    model: str | None,
    requested_model: str | None,
    tokens: Tokens | Mapping[str, Any] | None,
    model_us: int | None,
    finish_reason: str | None,
    calls: Iterable[Mapping[str, Any]],
    external_id: str | None,
    agent: str | None,
    responded: bool,
    data: Any,
    text_characters_max: int | None,
    whole_text: bool,
) -> Turn:
    """Check what was offered: a value that cannot be one is left out, and its name noted. Raises for none."""
    unusable = _Unusable()
    named = {
        "model": model,
        "requested_model": requested_model,
        "finish_reason": finish_reason,
        "external_id": external_id,
        "agent": agent,
    }
    fields: dict[str, Any] = {name: _name(name, value, unusable) for name, value in named.items()}
    counted = tokens_of(tokens, unusable)
    prices = recording.prices
    model_named = fields["model"] or fields["requested_model"]
    cost = None if prices is None else prices.cost_nano_usd(model_named, counted)
    asked_for, withheld = _calls(recording, calls, unusable)
    requested = tuple(call["name"] for call in asked_for)
    payload: dict[str, Any] = {"calls": asked_for} if asked_for else {}
    redactions: tuple[Redaction, ...] = ()
    said = _text(text, unusable)
    if said is not None:
        fields["text_bytes"] = _bytes(said)
        fields["text_withheld"] = withheld
        if not withheld:
            cut, redactions = _cut(recording, said, text_characters_max)
            payload["text"] = cut
            if cut is not said and whole_text:
                payload["whole_text"] = said
            elif cut is not said:
                fields["text_cut_bytes"] = max(1, fields["text_bytes"] - _bytes(cut))
    elif data is None and not withheld:
        data = text  # what is no text is kept as data, where secrets are found by their names
    if data is not None:
        payload["data"] = data
    fields |= {
        "responded": bool(stated.truth(responded) is not False),
        "requested": _named(requested, unusable),
        "tokens": counted,
        "model_us": _count("model_us", model_us, MODEL_US_MAX, unusable),
        "cost_nano_usd": cost,
        "prices": None if cost is None or prices is None else prices.version,
    }
    return Turn(fields=fields | {"unusable": tuple(unusable)}, payload=payload, redactions=redactions)


class _Unusable(dict[str, None]):
    """Names of what was offered with a value that cannot be one, each once."""

    def note(self, name: str) -> None:
        if len(self) < UNUSABLE_MAX:
            self[beginning(name, NAME_CHARACTERS_MAX)] = None


def tokens_of(tokens: Tokens | Mapping[str, Any] | None, unusable: _Unusable) -> Tokens | None:
    """Counts as they may be summed; None when none of them is known."""
    if tokens is None:
        return None
    said: dict[str, Any] = {}
    try:
        if _subclass(_type(tokens), Tokens):
            said = {name: getattr(tokens, name) for name in Tokens.__struct_fields__}
        elif _subclass(_type(tokens), Mapping):
            said = dict(cast("Mapping[str, Any]", tokens))
        else:
            unusable.note("tokens")
    except Exception:  # the mapping's own code
        unusable.note("tokens")
    for name in said:
        if name not in Tokens.__struct_fields__:
            unusable.note(f"tokens.{stated.name(name)}")
    counts = [
        _count(f"tokens.{name}", said.get(name), TOKENS_MAX, unusable) for name in Tokens.__struct_fields__
    ]
    return None if all(count is None for count in counts) else Tokens(*counts)


def _count(name: str, value: Any, most: int, unusable: _Unusable) -> int | None:
    """A whole number that is not negative; a float that is one is taken for it."""
    if value is None:
        return None
    if _type(value) is float and value.is_integer():
        value = int(value)
    if _type(value) is int and 0 <= value <= most:
        return value
    unusable.note(name)
    return None


def _name(name: str, value: Any, unusable: _Unusable) -> str | None:
    if value is None:
        return None
    if _subclass(_type(value), str) and str.__len__(value) <= NAME_CHARACTERS_MAX:
        return str.__str__(value)
    unusable.note(name)
    return None


def _text(text: Any, unusable: _Unusable) -> str | None:
    if text is None:
        return None
    if _subclass(_type(text), str):
        return str.__str__(text)
    if _type(text) in (int, float):
        return str(text)
    unusable.note("text")
    return None


def _calls(
    recording: Recording, calls: Iterable[Mapping[str, Any]], unusable: _Unusable
) -> tuple[list[dict[str, Any]], bool]:
    """What the model asked for: `id`, `name`, `arguments`; and whether any of it, kept or not, is a tool
    that handles secrets."""
    asked_for: list[dict[str, Any]] = []
    secret = False
    if calls is None:  # pyright: ignore[reportUnnecessaryComparison] - as adapters find it
        return asked_for, secret
    try:
        for call in calls:
            if not _subclass(_type(call), Mapping):
                unusable.note("calls")
                continue
            secret = secret or recording.settings.secret_tools.matches(stated.name(call.get("name")) or "")
            if len(asked_for) >= CALLS_MAX:
                unusable.note("calls")
                continue
            name = _name("calls.name", call.get("name"), unusable)
            arguments = stated.arguments(call.get("arguments"))
            if name is not None and recording.keep(name) != "full":
                arguments = Mark({"$omitted": True})  # the call's own record has the digest
            asked_for.append({"id": call.get("id"), "name": name or "", "arguments": arguments})
    except Exception:  # their own code
        unusable.note("calls")
    return asked_for, secret


def _named(requested: tuple[str, ...], unusable: _Unusable) -> tuple[str, ...]:
    """As many of the names as a leaf has room for; the payload has all."""
    room = NAMES_BYTES_MAX
    for count, name in enumerate(requested):
        room -= len(name.encode("utf-8", "surrogatepass"))
        if room < 0:
            unusable.note("requested")
            return requested[:count]
    return requested


def _cut(recording: Recording, text: str, characters_max: int | None) -> tuple[str, tuple[Redaction, ...]]:
    """The beginning of the text, between characters. Secrets are replaced before, so that none is halved."""
    most = max(0, characters_max) if isinstance(characters_max, int) else len(text)
    if len(text) <= most:
        return text, ()
    clean, redactions = recording.recorder.clean_text(text[: most + SECRET_CHARACTERS_MAX], "text")
    if len(text) > most + SECRET_CHARACTERS_MAX:  # what stands across that end may be half a secret
        most = min(most, max(0, len(clean) - ACROSS_MAX))
    return clean[:most], redactions


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def step_id_of(step: object) -> bytes | None:
    """The id of a step given as what `run.step` returned, or as hexadecimal text."""
    if step is None:
        return None
    if _subclass(_type(step), RecordedStep):
        return cast("RecordedStep", step).step_id or None
    return stated.call_id(step)
