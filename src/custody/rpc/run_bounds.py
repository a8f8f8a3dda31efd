"""How long what is said of a run may be. Used by `live`, for every door alike."""

from collections.abc import Mapping
from typing import Any

import msgspec

from custody.errors import InvalidInput
from custody.plans.steps.earlier import EXTERNAL_ID

INTENT_BYTES_MAX = 64 * 1024  # of an intent and of a description: said by a person or a model, in words
ID_CHARACTERS_MAX = 256  # of agents, keys, sessions: what is longer is no id
OUTPUT_BYTES_MAX = 256 * 1024  # of what a run is ended with: a summary and its evidence
LABELS_MAX = 64
LABEL_CHARACTERS_MAX = 1_024


def check_texts(
    agent: str,
    key: str | None,
    session: str | None,
    intent: str | None,
    outcome_description: str | None,
    labels: Mapping[str, str] | None,
) -> None:
    """Raises InvalidInput, with the field named."""
    ids = (("agent_id", agent), ("idempotency_key", key), ("session", session))
    for field, text in ids:
        if text is not None and not 0 < len(text) <= ID_CHARACTERS_MAX:
            raise InvalidInput(f"{field} has 1 to {ID_CHARACTERS_MAX} characters.", field=field)
    check_external_id("idempotency_key", key)
    for field, text in (("intent", intent), ("outcome_description", outcome_description)):
        if text is not None and len(text.encode("utf-8", "surrogatepass")) > INTENT_BYTES_MAX:
            raise InvalidInput(f"{field} has at most {INTENT_BYTES_MAX} bytes.", field=field)
    if labels is not None and (
        len(labels) > LABELS_MAX
        or any(len(text) > LABEL_CHARACTERS_MAX for label in labels.items() for text in label)
    ):
        raise InvalidInput(
            f"labels has at most {LABELS_MAX}, of {LABEL_CHARACTERS_MAX} characters each.", field="labels"
        )


def check_external_id(field: str, text: str | None) -> None:
    """A run of a plan says what of it is done, so that only `plans.run` makes one. Raises InvalidInput."""
    if text is not None and text.startswith(EXTERNAL_ID):
        raise InvalidInput(
            f"{field} begins with {EXTERNAL_ID!r}, which is for runs of plans.",
            hint="Call the run something else; plans.run makes runs of plans.",
            field=field,
        )


def check_output(output: Any) -> None:
    """Raises InvalidInput for what a run is ended with, if it is too long."""
    if len(msgspec.json.encode(output)) > OUTPUT_BYTES_MAX:
        raise InvalidInput(f"outcome has at most {OUTPUT_BYTES_MAX} bytes.", field="outcome")
