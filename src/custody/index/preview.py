"""The beginning of a value, as a line of a list can show it.

Owns the bound and the counting of what it leaves out. Used by `timeline`, `patterns` and `loops`.
"""

from typing import Any

import msgspec
from msgspec import Struct

RESULT_PREVIEW_CHARACTERS_MAX = 4_000
"""Two screens of a terminal; a thousand of them are still read in one piece."""


class Preview(Struct, frozen=True):
    """The beginning of a text; the whole of it is in the call, step or event."""

    text: str | None
    cut_characters: int = 0


def preview(value: Any) -> Preview:
    """A text as it is, anything else as JSON."""
    if value is None:
        return Preview(None)
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return Preview(text[:RESULT_PREVIEW_CHARACTERS_MAX], max(0, len(text) - RESULT_PREVIEW_CHARACTERS_MAX))
