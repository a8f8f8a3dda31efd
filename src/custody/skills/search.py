"""Finding skills by words, and the beginning of a text.

Owns how well a skill fits a query. A query is cut into words at whatever is no letter or digit; case and
accents as typed do not count. A word found in the name weighs most, then tags, then the description, then the
text; a whole word more than a part of one. Only skills in which every word is found somewhere are found.
Knows nothing of where skills lie. Used by the catalog and the answers.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any, cast

from msgspec import Struct

from custody.errors import InvalidInput
from custody.skills.skill import Skill

QUERY_CHARACTERS_MAX = 400
WORDS_MAX = 16  # a model that pastes its task gets the skills of its first words

_WORD = re.compile(r"[^\W_]+")

_NAME, _TAGS, _DESCRIPTION, _TEXT = 8, 5, 3, 1
"""What a whole word there is worth. A part of a word is worth half."""


class Hit(Struct, frozen=True, kw_only=True):
    """A skill that fits."""

    skill: Skill
    score: float


def search(skills: Iterable[Skill], query: str, limit: int, text_of: Callable[[Skill], str]) -> list[Hit]:
    """The best that fit, the best first, equals by name. `text_of` is asked where the rest does not do.

    Raises InvalidInput: a query that is too long or has no word in it, a limit below 1.
    """
    words = _query_words(query)
    if limit < 1:
        raise InvalidInput(f"{limit} is no number of skills to find; ask for 1 or more.")
    hits: list[Hit] = []
    for skill in skills:
        score = _score(skill, words, text_of)
        if score:
            hits.append(Hit(skill=skill, score=score))
    hits.sort(key=lambda hit: (-hit.score, hit.skill.name))
    return hits[:limit]


def preview(text: str, characters_max: int) -> str:
    """The beginning of a text, cut between characters."""
    return text[:characters_max]


def _query_words(query: str) -> list[str]:
    if len(query) > QUERY_CHARACTERS_MAX:
        raise InvalidInput(
            f"A query of {len(query)} characters is too long; {QUERY_CHARACTERS_MAX} are allowed.",
            hint="Ask with a few words.",
        )
    words = list(dict.fromkeys(_WORD.findall(_plain(query))))
    if not words:
        raise InvalidInput("There is no word in the query.", hint="Ask with words, such as `pdf forms`.")
    return words[:WORDS_MAX]


def _plain(text: str) -> str:
    """Without case and accents."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def _score(skill: Skill, words: list[str], text_of: Callable[[Skill], str]) -> float:
    """The sum over the words of the best place each is found in; 0 where one is not found at all."""
    places = [
        (_NAME, _plain(skill.name)),
        (_TAGS, _plain(" ".join(_tags(skill.metadata)))),
        (_DESCRIPTION, _plain(skill.description)),
    ]
    found = [_best(word, places) for word in words]
    if not all(found):
        in_text = [(_TEXT, _plain(text_of(skill)))]
        found = [score or _best(word, in_text) for word, score in zip(words, found, strict=True)]
    return sum(found) if all(found) else 0


def _best(word: str, places: list[tuple[int, str]]) -> float:
    best = 0.0
    for weight, text in places:
        if word in text:
            best = max(best, weight if word in _WORD.findall(text) else weight / 2)
    return best


def _tags(metadata: dict[str, Any]) -> list[str]:
    """The texts under `tags` and `keywords`, at the top or under `metadata`, where publishers put them."""
    nested = metadata.get("metadata")
    sources = [metadata, cast("dict[str, Any]", nested)] if isinstance(nested, dict) else [metadata]
    tags: list[str] = []
    for source in sources:
        for key in ("tags", "keywords"):
            value = source.get(key)
            values = cast("list[Any]", value) if isinstance(value, list) else [value]
            tags += [each for each in values if isinstance(each, str)]
    return tags
