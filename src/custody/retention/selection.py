"""What a purge is asked to take, and which records belong together.

Owns the selectors, how they combine (all that are given must hold), and the unit of a purge: a call with all
its records, a run's own two, a step, an event. Reads nothing. Used by `survey` and `plan`.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec
from msgspec import Struct

from custody.errors import CorruptJournal
from custody.journal import Stored
from custody.records import (
    SALT_BYTES,
    Event,
    Leaf,
    RunFinished,
    RunStarted,
    Step,
    decode_payload,
    rfc3339,
)

KEPT_EVENTS = frozenset({"run.refused"})
"""What these say are counts that answers are made of, and nobody's words."""

EMPTY_PAYLOAD_BYTES = SALT_BYTES + 1
"""The salt and a mapping with nothing in it."""

Key = bytes
"""What belongs together: a letter for its kind, and its id."""

Finder = Callable[[Mapping[str, Any]], Mapping[str, int]]
"""Rule -> how often a scanner finds a secret by it in a payload."""

GetBlob = Callable[[bytes], bytes | None]


class Selection(Struct, frozen=True, kw_only=True):
    """All that is given must hold of what is purged."""

    before_us: int | None = None
    """Ended before this time; a step or event: happened before it."""
    run_id: bytes | None = None
    text: str | None = None
    """Occurs in what was said, letter for letter."""
    find: Finder | None = None
    """A scanner finds something."""
    force: bool = False
    """Also what has not ended."""

    def __post_init__(self) -> None:
        assert self.searches or self.run_id or self.before_us is not None, "nothing is selected by nothing"
        assert self.text != "", "no text stands everywhere"

    @property
    def searches(self) -> bool:
        return self.text is not None or self.find is not None

    @property
    def takes_open(self) -> bool:
        """Whether what has not ended goes too: a leak does not wait for the end of a run."""
        return self.force or self.searches

    def stated(self) -> dict[str, Any]:
        """As the record says it: of a text only that there was one."""
        by: dict[str, Any] = {}
        if self.before_us is not None:
            by["before"] = rfc3339(self.before_us)
        if self.run_id is not None:
            by["run"] = self.run_id.hex()
        if self.text is not None:
            by["match"] = True
        if self.find is not None:
            by["secrets"] = True
        return by


def key_of(leaf: Leaf) -> Key:
    if isinstance(leaf, RunStarted | RunFinished):
        return b"r" + leaf.run_id
    if isinstance(leaf, Step):
        return b"s" + leaf.step_id
    if isinstance(leaf, Event):
        return b"e" + leaf.event_id if leaf.call_id is None else b"c" + leaf.call_id
    return b"c" + leaf.call_id


def says_something(stored: Stored, leaf: Leaf) -> bool:
    """Whether there is anything to purge in a record."""
    if stored.purged or len(stored.payload) <= EMPTY_PAYLOAD_BYTES:
        return False
    return not (isinstance(leaf, Event) and leaf.name in KEPT_EVENTS)


def blobs_of(payload: bytes) -> list[bytes]:
    """Digests of the blobs that a payload names. Raises msgspec.DecodeError."""
    if b"$blob" not in payload:
        return []
    values = (decode_payload(payload) or {}).values()
    return [digest for value in values if (digest := _digest_in(value)) is not None]


def _digest_in(value: Any) -> bytes | None:
    """Of the blob that stands for a value; None where the value itself is there."""
    named = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    digest = named.get("$blob")
    return bytes.fromhex(digest) if isinstance(digest, str) else None


class Needle:
    """A text that is looked for in records, in every spelling a payload may have it in."""

    def __init__(self, text: str) -> None:
        plain = text.encode("utf-8", "surrogatepass")
        escaped = text.replace("\\", "\\\\").encode("utf-8", "backslashreplace")
        self.spellings = tuple(dict.fromkeys((plain, escaped)))

    def occurs_in(self, data: bytes) -> bool:
        return any(spelling in data for spelling in self.spellings)


class Search:
    """Whether the text or a secret stands in a payload or in a blob it names."""

    def __init__(self, selection: Selection, get_blob: GetBlob) -> None:
        self._needle = None if selection.text is None else Needle(selection.text)
        self._find = selection.find
        self._get_blob = get_blob
        self._known: dict[bytes, bool] = {}
        self.rules: dict[str, int] = {}
        """Rule -> how many secrets were found by it."""
        self.unread = 0
        """Blobs that are damaged, and count as a hit: nobody can say what they hold."""

    def in_leaf(self, leaf: bytes) -> bool:
        return self._needle is not None and self._needle.occurs_in(leaf)

    def hits(self, payload: bytes) -> bool:
        """Both, where both are asked for."""
        return self._has_text(payload) and self._has_secret(payload)

    def _has_text(self, payload: bytes) -> bool:
        needle = self._needle
        if needle is None or needle.occurs_in(payload[SALT_BYTES:]):
            return True
        return any(self._blob_has_text(digest) for digest in blobs_of(payload))

    def _blob_has_text(self, digest: bytes) -> bool:
        found = self._known.get(digest)
        if found is None:
            assert self._needle is not None, "asked only for a text"
            data = self._blob(digest)
            found = self._known[digest] = data is None or self._needle.occurs_in(data)
        return found

    def _has_secret(self, payload: bytes) -> bool:
        if self._find is None:
            return True
        said = dict(decode_payload(payload) or {})
        for name, value in said.items():
            digest = _digest_in(value)
            if digest is not None:
                data = self._blob(digest)
                if data is None:
                    return True
                said[name] = msgspec.msgpack.decode(data) if data else None
        found = self._find(said)
        for rule, count in found.items():
            self.rules[rule] = self.rules.get(rule, 0) + count
        return bool(found)

    def _blob(self, digest: bytes) -> bytes | None:
        """Empty for one that is gone, None for one that cannot be read."""
        try:
            return self._get_blob(digest) or b""
        except CorruptJournal:
            self.unread += 1
            return None
