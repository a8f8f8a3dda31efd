"""What commands share that change which rules hold: only a person gives them, and a refusal is recorded.

Owns the words for it. Who may is what `answering` says of answers. Used by `pause` and `policy_trust`.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from msgspec import Struct

from custody.cli.answering import answering
from custody.errors import AnswerRefused
from custody.index import Index
from custody.recorder import Recorder

TERMINAL_HINT = (
    "Type it at a terminal, or show an operator's token: custody token create NAME --role operator."
)

REFUSED: Mapping[str, tuple[str, str]] = {
    "terminal": ("What rules hold is decided at a terminal.", TERMINAL_HINT),
    "agent": (
        "Only a person decides what rules hold, and this was started by a recorded call or its agent.",
        "Type it in a terminal that no recorded call has started.",
    ),
    "unclear": (
        "Which processes started this one cannot be told, so an agent may be among them.",
        "Show an operator's token: custody token create NAME --role operator.",
    ),
    "token": ("That token may not decide what rules hold.", TERMINAL_HINT),
}
"""By why somebody may not."""


class Person(Struct, frozen=True):
    """Somebody who may decide, and the store that is told."""

    name: str
    recorder: Recorder
    index: Index


@contextmanager
def a_person(store: str | None, what: str) -> Generator[Person]:
    """The store, for a person; `what` they want, for the record of a refusal. Raises AnswerRefused."""
    try:
        with answering(store, None, what) as (means, person):
            yield Person(person, means.recorder, means.index)
    except AnswerRefused as error:
        words = REFUSED.get(str(error.details.get("why")))
        if words is None:
            raise
        raise AnswerRefused(words[0], hint=words[1], **error.details) from error
