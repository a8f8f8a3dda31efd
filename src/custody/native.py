"""The C parts of recording, where they were built and the processor has instructions for them.

Owns the knowledge of whether they are there; `_native.c` says what each does. Knows nothing of who uses
them. Every function here may be None: its user has a twin in Python that gives the same bytes and is used
then. Used by `journal` and `redaction`, and by whoever says which of the two is in use.
"""

import importlib
from collections.abc import Callable
from typing import Any

INTERFACE = 4
"""Changes with what the functions take and give: a module built from an older source is not used."""


def _built() -> Any:
    try:
        module = importlib.import_module("custody._native")
    except ImportError:  # no compiler when this was installed
        return None
    return module if getattr(module, "INTERFACE", None) == INTERFACE else None


_module = _built()

sha256: Callable[..., bytes] | None = getattr(_module, "sha256", None)
"""`sha256(*parts)`: of the bytes one after another, of any length."""

encode_frame: Callable[[int, int, int, int, bytes, bytes], bytes] | None
encode_frame = getattr(_module, "encode_frame", None)
"""See `journal.frames`."""

grow: Callable[[list[bytes], int, bytes], None] | None = getattr(_module, "grow", None)
"""See `journal.tree`."""

put_directly_into: Callable[[type], None] | None = getattr(_module, "put_directly_into", None)
"""Tells `put_frame` of the one type of file whose `_descriptor` it may write to."""

put_frame: Callable[[Any, int, int, int, int, int, bytes, bytes], object] | None
put_frame = getattr(_module, "put_frame", None)
"""See `journal.put`."""

encode_ordinary: Callable[[Any, set[str], bytes, int, bytes], bytes | list[str] | tuple[bytes] | None] | None
encode_ordinary = getattr(_module, "encode_ordinary", None)
"""See `redaction.redactor`: the value as msgpack, behind the salt; or the names that must be judged before
it can be said to be ordinary; or the msgpack in a tuple, when it holds keywords that must be looked at; or
None, when it is not ordinary, as far as C can tell."""

make_filter: Callable[[tuple[tuple[bytes, int, int, int, int, int, int], ...]], bytes] | None
make_filter = getattr(_module, "make_filter", None)
"""See `redaction.needles`: the tables that the next two take."""

find_level: Callable[[bytes, bytes], int] | None = getattr(_module, "find_level", None)
"""See `redaction.needles`."""

find_needles: Callable[[bytes, bytes], list[tuple[int, int, int]] | None] | None
find_needles = getattr(_module, "find_needles", None)
"""See `redaction.needles`: stretches in no order, and not all of them merged."""

FUNCTIONS = ("encode_frame", "encode_ordinary", "find_level", "find_needles", "grow", "put_frame", "sha256")


def missing() -> list[str]:
    """The names of the functions that Python serves here."""
    return [name for name in FUNCTIONS if globals()[name] is None]
