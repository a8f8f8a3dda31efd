"""What the actions of plans know of each other: values by key, and the way back to what they were.

Owns the values, their versions and their bounds, and taking back what one plan wrote without touching what
others wrote meanwhile. Knows nothing of actions, of who may write, nor of tenants: each has a state of its
own. Used from one event loop by the scheduler, and by the door that keeps a state for its peer.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from custody.errors import InvalidInput
from custody.plans.json_values import why_not_json

KEYS_MAX = 10_000
"""A state is a handful of facts; so many are a program that uses it as a database."""

KEY_CHARACTERS_MAX = 512
"""Keys stand in sentences and in records."""

STATE_BYTES_MAX = 1024 * 1024
"""Keys and values together, as JSON. A daemon keeps a state, or one for each tenant, for every connection."""


class Entry(NamedTuple):
    """What stands at one key."""

    encoded: bytes
    """JSON: what was handed in cannot be changed from outside, and its size is known."""
    version: int


class Snapshot(Struct, frozen=True):
    """What a state was at one moment. The values are shared with the state, not copied."""

    entries: dict[str, Entry]
    version: int


class StateChange(Struct, frozen=True, kw_only=True):
    """How one key differs from what it was."""

    key: str
    version: int
    value: Any = None
    removed: bool = False
    """Whether nothing stands there any more; `value` is null then as well."""


class State:
    """JSON values by key. Every write has a version of its own; none is given twice."""

    def __init__(
        self,
        values: Mapping[str, Any] | None = None,
        *,
        keys_max: int = KEYS_MAX,
        bytes_max: int = STATE_BYTES_MAX,
    ) -> None:
        """Raises InvalidInput for what is no JSON, or more than fits."""
        self._entries: dict[str, Entry] = {}
        self._bytes = 0
        self._version = 0
        self._keys_max = keys_max
        self._bytes_max = bytes_max
        for key, value in (values or {}).items():
            self.set(key, value)

    def __contains__(self, key: object, /) -> bool:
        return key in self._entries

    def exists(self, key: str) -> bool:
        """`key in state`, as the operators and the wire call it."""
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def version(self) -> int:
        """Of the last write; 0 before the first."""
        return self._version

    @property
    def encoded_bytes(self) -> int:
        """How much of the bound is used."""
        return self._bytes

    def get(self, key: str, /) -> Any:
        """A value of the caller's own; None where there is none (ask with `in` to tell it from null)."""
        entry = self._entries.get(key)
        return None if entry is None else msgspec.json.decode(entry.encoded)

    def keys(self) -> list[str]:
        return sorted(self._entries)

    def contents(self) -> dict[str, Any]:
        """Everything, by key in order: the caller's own."""
        return {key: self.get(key) for key in self.keys()}

    def version_of(self, key: str) -> int:
        """Of the write that left what stands there; 0 where nothing does."""
        entry = self._entries.get(key)
        return 0 if entry is None else entry.version

    def set(self, key: str, value: Any) -> int:
        """Put a value there; its version. Raises InvalidInput, and then nothing is changed."""
        encoded = _encoded(key, value)
        old = self._entries.get(key)
        if old is None and len(self._entries) >= self._keys_max:
            raise InvalidInput(
                f"The state has {self._keys_max} keys, which is the most it may have.", key=key, field="key"
            )
        more = len(encoded) - len(old.encoded) if old else len(encoded) + len(key)
        if self._bytes + more > self._bytes_max:
            raise InvalidInput(
                f"The state would be larger than {self._bytes_max} bytes with this value of {_shown(key)}.",
                key=key,
                field="value",
            )
        self._version += 1
        self._put(key, Entry(encoded, self._version))
        return self._version

    def snapshot(self) -> Snapshot:
        return Snapshot(dict(self._entries), self._version)

    def restore(self, snapshot: Snapshot) -> None:
        """As it was, versions included. What others wrote since goes too: `Writes` leaves that alone."""
        for change in self.changes_since(snapshot):
            self._put(change.key, snapshot.entries.get(change.key))

    def changes_since(self, snapshot: Snapshot) -> list[StateChange]:
        """What is different now, by key in order."""
        return list(self._differences(snapshot))

    def _differences(self, snapshot: Snapshot) -> Iterator[StateChange]:
        for key in sorted(self._entries.keys() | snapshot.entries.keys()):
            then, now = snapshot.entries.get(key), self._entries.get(key)
            if now is None:
                yield StateChange(key=key, version=self._version, removed=True)
            elif now != then:
                yield StateChange(key=key, version=now.version, value=self.get(key))

    def entry(self, key: str) -> Entry | None:
        return self._entries.get(key)

    def put_back(self, key: str, entry: Entry | None) -> None:
        """What stood there before, or nothing; whether that fits is not asked, as it did fit."""
        self._put(key, entry)

    def _put(self, key: str, entry: Entry | None) -> None:
        old = self._entries.pop(key, None) if entry is None else self._entries.get(key)
        if old is not None:
            self._bytes -= len(key) + len(old.encoded)
        if entry is not None:
            self._entries[key] = entry
            self._bytes += len(key) + len(entry.encoded)


class Writes:
    """What one plan writes to a state others write to as well, so that it can be taken back."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._log: list[tuple[str, Entry | None, int]] = []
        """Key, what stood there, and the version that was put there; one entry a write."""

    def apply(self, values: Mapping[str, Any]) -> None:
        """All of these or, with InvalidInput, none."""
        begun = len(self._log)
        try:
            for key, value in values.items():
                before = self._state.entry(key)
                self._log.append((key, before, self._state.set(key, value)))
        except InvalidInput:
            self._back_to(begun)
            raise

    def take_back(self) -> list[str]:
        """Every write of the plan, the last one first. The keys that somebody else wrote since are left as
        they are, and named."""
        return self._back_to(0)

    def _back_to(self, begun: int) -> list[str]:
        left: dict[str, None] = {}
        while len(self._log) > begun:
            key, before, version = self._log.pop()
            if self._state.version_of(key) == version:
                self._state.put_back(key, before)
            else:
                left[key] = None
        return sorted(left)


def _encoded(key: str, value: Any) -> bytes:
    if not isinstance(key, str) or not key or len(key) > KEY_CHARACTERS_MAX:  # pyright: ignore[reportUnnecessaryIsInstance]  # from the wire
        raise InvalidInput(f"A state key is text of 1 to {KEY_CHARACTERS_MAX} characters.", field="key")
    problem = why_not_json(value)
    if problem is not None:
        raise InvalidInput(f"The value of {_shown(key)} {problem}.", key=key, field="value")
    try:
        key.encode()
        return msgspec.json.encode(value)
    except (UnicodeEncodeError, OverflowError, ValueError, TypeError) as error:
        raise InvalidInput(
            f"The value of {_shown(key)} cannot be kept: it has no JSON text.", key=key, field="value"
        ) from error


def _shown(key: str) -> str:
    return repr(key)
