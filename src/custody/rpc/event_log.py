"""What one connection did, as its peer may ask: a bounded list in memory, newest kept.

Owns the entries and the questions about them. It is a view for the peer's own convenience: no parameters
and no outputs are in it, and what is older than its bound is counted and gone. The journal is the truth,
and is asked by other methods.
"""

import time
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from custody.records import rfc3339

ENTRIES_MAX = 10_000
"""Of one connection: some thousands of proposals."""

LOG_BYTES_MAX = 4 * 1024 * 1024
"""Of all entries of one connection, whatever an author calls actions: a daemon has many connections."""

ENTRY_BYTES_MAX = 4 * 1024
"""Of one entry's data. What is longer is replaced by its size."""


class Entry(Struct, frozen=True, kw_only=True, omit_defaults=False):
    """One thing that happened on the connection."""

    kind: str
    timestamp: str
    action_id: str | None
    proposal_id: str | None
    data: dict[str, Any]


class LogStats(Struct, frozen=True, kw_only=True, rename="camel"):
    """How full the log is."""

    events: int
    approx_event_bytes: int
    dropped_events: int
    """Older ones that were there and are no more."""
    spans: int = 0
    """Custody has none here; its OpenTelemetry export has."""
    approx_span_bytes: int = 0


class EventLog:
    """Entries of one connection."""

    def __init__(self, entries_max: int = ENTRIES_MAX, bytes_max: int = LOG_BYTES_MAX) -> None:
        self._entries: deque[_Noted] = deque()
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._logged = 0
        self._bytes = 0

    def add(self, kind: str, action_id: str | None, proposal_id: str | None, data: Mapping[str, Any]) -> None:
        """Note one. Never raises for data that JSON cannot hold: then only its kind is kept."""
        try:
            encoded = _encode(data) if data else _NOTHING
        except (TypeError, ValueError, RecursionError):
            encoded = _NOTHING
        if len(encoded) > ENTRY_BYTES_MAX:
            encoded = _encode({"omitted_bytes": len(encoded)})
        self._keep((kind, time.time_ns() // 1000, action_id, proposal_id, encoded))

    def add_small(
        self, kind: str, action_id: str | None, proposal_id: str | None, data: Mapping[str, Any]
    ) -> None:
        """Note one whose data is a few names and numbers that nobody changes: encoded when somebody asks."""
        self._keep((kind, time.time_ns() // 1000, action_id, proposal_id, data))

    def _keep(self, noted: "_Noted") -> None:
        entries = self._entries
        entries.append(noted)
        self._logged += 1
        self._bytes += _bytes(noted)
        while len(entries) > self._entries_max or self._bytes > self._bytes_max:
            self._bytes -= _bytes(entries.popleft())

    def __len__(self) -> int:
        return len(self._entries)

    def query(
        self,
        *,
        kinds: Collection[str] | None = None,
        action_id: str | None = None,
        proposal_id: str | None = None,
        since: int | None = None,
        until: int | None = None,
        data_matches: Mapping[str, str] | None = None,
        limit: int,
    ) -> list[Entry]:
        """Entries that fit all that is asked, newest first.

        `since` (inclusive) and `until` (exclusive) are microseconds since 1970; `data_matches` names values
        of the data by their text.
        """
        found: list[Entry] = []
        for kind, at_us, action, proposal, said in reversed(self._entries):
            if len(found) >= limit:
                break
            if (
                (kinds is not None and kind not in kinds)
                or (action_id is not None and action != action_id)
                or (proposal_id is not None and proposal != proposal_id)
                or (since is not None and at_us < since)
                or (until is not None and at_us >= until)
            ):
                continue
            data = _data(said)
            if data_matches is None or all(_matches(data, *pair) for pair in data_matches.items()):
                found.append(
                    Entry(
                        kind=kind,
                        timestamp=rfc3339(at_us),
                        action_id=action,
                        proposal_id=proposal,
                        data=data,
                    )
                )
        return found

    def stats(self) -> LogStats:
        held = len(self._entries)
        return LogStats(
            events=held,
            approx_event_bytes=self._bytes,
            dropped_events=self._logged - held,
        )


_Noted = tuple[str, int, str | None, str | None, bytes | Mapping[str, Any]]
"""Kind, microseconds since 1970, action, proposal, and the data: as JSON, or small and as it is."""

SMALL_BYTES = 150  # what data that is kept as it is is taken for

ENTRY_OVERHEAD_BYTES = 200  # of an entry beside its data: kind, ids, time, and the tuple around them

_encode = msgspec.json.Encoder().encode
_NOTHING = b"{}"


def _data(said: bytes | Mapping[str, Any]) -> dict[str, Any]:
    return msgspec.json.decode(said if isinstance(said, bytes) else _encode(said))


def _bytes(noted: _Noted) -> int:
    _, _, action_id, proposal_id, said = noted
    data_bytes = len(said) if isinstance(said, bytes) else SMALL_BYTES
    return ENTRY_OVERHEAD_BYTES + len(action_id or "") + len(proposal_id or "") + data_bytes


def _matches(data: Mapping[str, Any], name: str, text: str) -> bool:
    if name not in data:
        return False
    value = data[name]
    return (value if isinstance(value, str) else _encode(value).decode()) == text
