"""What the text of a skill says about it: the YAML between two lines of `---` at its very beginning.

Owns where front matter begins and ends, its bounds, and what is demanded of it: a mapping with a
`description`. Every other key is kept as it is. Knows nothing of files or of where a skill lies. Used by
`content`, and by whoever shows the text without it.
"""

import re
from typing import Any, cast

import msgspec
from msgspec import Struct

from custody.errors import InvalidInput, InvalidSkill
from custody.safe_yaml import load

FRONT_MATTER_BYTES_MAX = 64 * 1024  # a name, a description and some keys; published ones have under 4 KiB
BODY_BYTES_MAX = 1024 * 1024  # it is read by models, which take in a fraction of it
DESCRIPTION_CHARACTERS_MAX = 1_024  # as in the public format

_BEGINS = re.compile(r"\ufeff?---[ \t]*\r?\n")
_ENDS = re.compile(r"^---[ \t]*\r?(?:\n|\Z)", re.MULTILINE)


class FrontMatter(Struct, frozen=True, kw_only=True):
    """What a skill says about itself."""

    metadata: dict[str, Any]
    """All of it."""
    description: str
    """In one line, cut to `DESCRIPTION_CHARACTERS_MAX`."""
    description_cut: bool
    name: str | None
    """What the skill calls itself, where it does."""


def decode(data: bytes) -> str:
    """The text of a skill. Raises InvalidSkill where it is too long or not UTF-8."""
    bytes_max = FRONT_MATTER_BYTES_MAX + BODY_BYTES_MAX
    if len(data) > bytes_max:
        raise _fault(f"The text of the skill has {len(data):,} bytes; at most {bytes_max:,} are allowed.")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _fault(f"The text is not UTF-8: byte {error.start} is {data[error.start]:#04x}.") from error


def split(text: str) -> tuple[str | None, str]:
    """The YAML (None where the text has no front matter) and what follows it.

    Raises InvalidSkill where front matter begins and does not end.
    """
    begin = _BEGINS.match(text)
    if begin is None:
        return None, text.removeprefix("\ufeff")
    end = _ENDS.search(text, begin.end())
    if end is None:
        raise _fault("The front matter is not closed: a second line `---` is missing.")
    return text[begin.end() : end.start()], text[end.end() :]


def read_front_matter(text: str) -> FrontMatter:
    """Raises InvalidSkill, with `kind` `not_a_skill` where the text has no front matter at all, else
    `front_matter`."""
    yaml, body = split(text)
    if yaml is None:
        raise InvalidSkill(
            "The text has no front matter, so it is not a skill: a skill begins with a line `---`, "
            "a `description: …` and a second line `---`.",
            kind="not_a_skill",
        )
    size_bytes = len(body.encode())
    if size_bytes > BODY_BYTES_MAX:
        raise _fault(
            f"Behind the front matter are {size_bytes:,} bytes; at most {BODY_BYTES_MAX:,} are allowed."
        )
    metadata = _mapping(yaml)
    name = metadata.get("name")
    description = " ".join(_described(metadata).split())
    return FrontMatter(
        metadata=metadata,
        description=description[:DESCRIPTION_CHARACTERS_MAX],
        description_cut=len(description) > DESCRIPTION_CHARACTERS_MAX,
        name=None if name is None else str(name),
    )


def _mapping(yaml: str) -> dict[str, Any]:
    try:
        found = load(yaml, what="The front matter", first_line=2, bytes_max=FRONT_MATTER_BYTES_MAX)
        msgspec.json.encode(found)  # half a surrogate pair, spelled as an escape, is no text
    except InvalidInput as error:
        raise InvalidSkill(error.message, **{**error.details, "kind": "front_matter"}) from error
    except ValueError as error:
        raise _fault(f"The front matter has a text that is no valid Unicode: {error}.") from error
    if found is None:
        raise _fault("The front matter is empty; a skill has at least a `description`.")
    if not isinstance(found, dict):
        raise _fault("The front matter is not a mapping of keys to values, such as `description: …`.")
    return cast("dict[str, Any]", found)


def _described(metadata: dict[str, Any]) -> str:
    description = metadata.get("description")
    if description is None:
        raise _fault("The front matter has no `description`; without one nobody knows when to use the skill.")
    if not isinstance(description, str):
        raise _fault("The `description` in the front matter is not a text.")
    if not description.strip():
        raise _fault("The `description` in the front matter is empty.")
    return description


def _fault(sentence: str) -> InvalidSkill:
    return InvalidSkill(sentence, kind="front_matter")
