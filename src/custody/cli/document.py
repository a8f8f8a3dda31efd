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
    """The JSON of a read model or plain data; bytes and odd floats as the marks a record has for them."""
    return msgspec.json.encode(plain(document(value)), enc_hook=repr)


def write_bytes(data: bytes) -> None:
    """Through the text layer's own buffer, so that it stays in order with what was printed before."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
