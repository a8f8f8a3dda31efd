"""What commands share that change which rules hold: only a person gives them, and a refusal is recorded.

Owns the words for it. Who may is what `answering` says of answers. Used by `pause` and `policy_trust`.
"""

from collections.abc import Generator
from contextlib import contextmanager

from msgspec import Struct

from custody.cli.answering import answering
from custody.index import Index
from custody.recorder import Recorder

DECIDES = "decides what rules hold"


class Person(Struct, frozen=True):
    """Somebody who may decide, and the store that is told."""

    name: str
    recorder: Recorder
    index: Index


@contextmanager
def a_person(store: str | None, what: str) -> Generator[Person]:
    """The store, for a person; `what` they want, for the record of a refusal. Raises AnswerRefused."""
    with answering(store, None, what, does=DECIDES) as (means, person):
        yield Person(person, means.recorder, means.index)
