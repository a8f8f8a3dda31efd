"""Calls as the JSON object every door shows, for what leaves the store as JSON.

Owns what JSON cannot hold and the record can. Used by `tables` and `bundle`.
"""

from typing import Any

import msgspec

from custody.records import Call, document
from custody.redaction import plain


def call_object(call: Call) -> Any:
    """A call as every door shows it."""
    return speakable(plain(document(call)))


def json_line(value: Any) -> bytes:
    return msgspec.json.encode(speakable(value)) + b"\n"


def speakable(value: Any) -> Any:
    """Names of files that are not UTF-8 escaped: JSON has no lone surrogates."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {speakable(name): speakable(item) for name, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [speakable(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value
