"""What callers say of a run or call, made fit for a leaf.

A leaf that says a number where readers expect a name could never be read again, and would stop every reader
of its store. So what is no name, id or truth value becomes one here, or is left out. Raises for no value,
whatever code the value runs. Used by everything that fills a leaf with a caller's words.
"""

from typing import Any, cast
from uuid import UUID

import msgspec

from custody.calls import lifecycle
from custody.cuts import beginning
from custody.records import CALL_ID_BYTES, EFFECTS, OWN_EVENTS, Effect

NAME_CHARACTERS_MAX = 1_024
"""Of a tool, an agent, a foreign id: what is longer is no name, and leaves have to stay small."""

EVENT_NAME_CHARACTERS_MAX = 128  # the index keeps each as a word of its own

_CUT = "…"

_SPELT_OUT = frozenset({int, float, UUID})
"""Types, beside text, whose values are names as they stand."""

_EFFECTS: dict[str, Effect] = {known: known for known in EFFECTS}


def _is_text(value: object) -> bool:
    """By the type alone: `isinstance` asks the value for its class, which is code of its own."""
    return issubclass(type(value), str)


def name(value: object) -> str | None:
    """As text; None stays None. What is too long ends in `…`."""
    if value is None or (type(value) is str and len(value) <= NAME_CHARACTERS_MAX):
        return value
    if _is_text(value):
        text = str.__str__(cast("str", value))
    elif type(value) in _SPELT_OUT:
        text = str(value)
    elif issubclass(type(value), BaseException):
        text = lifecycle.describe(cast("BaseException", value))["message"]
    else:  # what it would say of itself may hold anything, a secret among it
        text = f"<{type(value).__name__}>"
    return text if len(text) <= NAME_CHARACTERS_MAX else beginning(text, NAME_CHARACTERS_MAX - 1) + _CUT


def arguments(value: Any) -> Any:
    """As data: providers hand them over as JSON in a text, in which no secret is found by its name."""
    if type(value) is not str or value[:1] != "{":
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return value


def event_name(value: object) -> str:
    """Of a user's event."""
    said = name(value) or ""
    said = said if said.startswith(OWN_EVENTS) else OWN_EVENTS + said
    return said if len(said) <= EVENT_NAME_CHARACTERS_MAX else _cut_event_name(said)


def _cut_event_name(said: str) -> str:
    return beginning(said, EVENT_NAME_CHARACTERS_MAX - 1) + _CUT


def truth(value: object) -> bool | None:
    """True, false or unknown: whatever is neither of the two is unknown."""
    if value is True or value is False:
        return value
    if type(value).__name__ in ("bool_", "bool"):  # of a library for numbers
        try:
            return bool(value)
        except Exception:
            return None
    return None


def effect(value: object) -> Effect:
    if type(value) is str:
        return _EFFECTS.get(value, "unknown")
    return _EFFECTS.get(str.__str__(cast("str", value)), "unknown") if _is_text(value) else "unknown"


def call_id(value: object) -> bytes | None:
    """The id of a call or step, from hexadecimal text."""
    if value is None:
        return None
    found: object = value
    if _is_text(value):
        try:
            found = bytes.fromhex(cast("str", value))
        except ValueError:
            return None
    return found if type(found) is bytes and len(found) == CALL_ID_BYTES else None
