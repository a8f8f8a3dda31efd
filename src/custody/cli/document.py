"""JSON on standard output: one document, snake_case, unknown as null.

Used by every command that has `--json`.
"""

import sys
from collections.abc import Iterable
from typing import Any

import msgspec

from custody.records import document
from custody.redaction import plain


def print_document(value: Any) -> None:
    """Write one document, indented for a person, compact for a pipe."""
    data = encode(value)
    if sys.stdout.isatty():
        data = msgspec.json.format(data, indent=2)
    write_bytes(data + b"\n")


def print_list(items: Iterable[Any], next_cursor: str | None) -> None:
    """Write one page of a list."""
    print_document({"items": list(items), "next": next_cursor})


def encode(value: Any) -> bytes:
    """The JSON of a read model or plain data; what JSON cannot hold as the marks a record has for it."""
    shown = plain(document(value))
    try:
        return msgspec.json.encode(shown, enc_hook=repr)
    except UnicodeEncodeError:
        return msgspec.json.encode(_without_surrogates(shown), enc_hook=repr)


def _without_surrogates(value: Any) -> Any:
    """Texts that UTF-8 cannot hold escaped, as names of files may be that are not UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_without_surrogates(name): _without_surrogates(item) for name, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def write_bytes(data: bytes) -> None:
    """Through the text layer's own buffer, so that it stays in order with what was printed before."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
