"""Which keys may vouch for skills.

Owns the trust file: who is in it, since when, until when, and how it is changed. Knows nothing of skills or
of what was signed (`signing`). Used by `signing`, by whoever loads or installs skills, and by `custody skills
trust`.

    {"schema_version": 1,
     "keys": [{"id": "example.com/skills", "vkey": "example.com/skills+1f2e3d4c+AQ…",
               "added_at": "2026-11-21T14:45:00.000000Z", "expires_at": null, "revoked_at": null}]}

A key's id is its name in the C2SP verifier line `vkey`; there is one key of a name, so a publisher's next key
has another name. A revoked key stays in the file, so that it cannot come back as a new one by mistake. A key
counts as expired from the very instant on that `expires_at` names, and as revoked whether it has expired or
not. Whoever can write this file decides whose skills are run: one that others may write is not used.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from custody.errors import InvalidInput, MalformedKey, NotFound, TrustUnusable
from custody.journal.checkpoint import Verifier
from custody.records import now_us as wall_clock_us
from custody.records import rfc3339
from custody.trust import TrustFile

SCHEMA_VERSION = 1

TRUST_BYTES_MAX = 4 * 1024 * 1024
"""Ten thousand keys; people know some dozens of publishers."""

NAME_CHARACTERS_MAX = 255
"""Of a key, and of a skill as its publisher calls it: both stand in a line that people read."""

_KEY_NAME = re.compile(r"[^\s+]+")
_LOOK = "No signature counts until it is put right: restore it, or move it away and trust the keys again."
_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Standing = Literal["trusted", "expired", "revoked"]


class TrustedKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key somebody decided to trust."""

    id: str
    """The key's name, which is in its verifier line too."""
    vkey: str
    """C2SP verifier line: `NAME+HASH+KEY`."""
    added_at: str
    """RFC 3339, UTC, as the two below."""
    expires_at: str | None = None
    """From this instant on its signatures do not count."""
    revoked_at: str | None = None

    @property
    def key_hash(self) -> str:
        """Eight hexadecimal digits that tell this key from another of the same name."""
        return self.vkey[len(self.id) + 1 :].partition("+")[0]

    def standing(self, now_us: int) -> Standing:
        """Whether it counts at that moment; a key that is revoked and expired is revoked."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and now_us >= _moment_us(self.expires_at):
            return "expired"
        return "trusted"


Keys = tuple[TrustedKey, ...]

OnRecord = Callable[[dict[str, Any]], None]
"""Puts what is said of a key on the record, durably, or raises: then the file stays as it is."""


class _File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema_version: int
    keys: tuple[TrustedKey, ...]


class _Version(Struct, frozen=True, kw_only=True):
    schema_version: int


class Trust(Struct, frozen=True, kw_only=True):
    """The keys as the file had them when it was read. `add` and `revoke` change the file and answer anew."""

    path: str
    keys: tuple[TrustedKey, ...] = ()
    """In the order in which they were added."""

    @classmethod
    def load(cls, path: str) -> "Trust":
        """No file is no key. Raises TrustUnusable."""
        data = _file(path).read()
        return cls(path=path, keys=() if data is None else _parse(data, path))

    def key(self, key_id: str) -> TrustedKey:
        """The key of that id. Raises NotFound."""
        for key in self.keys:
            if key.id == key_id:
                return key
        raise NotFound(
            f"No key {key_id!r} is in {self.path}.", hint="`custody skills trust list` shows those that are."
        )

    def find(self, name: str, key_hash: bytes) -> TrustedKey | None:
        """The key that signs under this name with this hash, whether it counts or not."""
        line_start = f"{name}+{key_hash.hex()}+"
        return next((key for key in self.keys if key.id == name and key.vkey.startswith(line_start)), None)

    def add(
        self,
        vkey: str,
        expires_at: int | None = None,
        *,
        now_us: int | None = None,
        on_record: OnRecord | None = None,
    ) -> "Trust":
        """Trust a key from now on, until `expires_at` (microseconds since 1970 UTC) where that is given.

        Raises TrustUnusable, what `on_record` raises, and InvalidInput for what is no verifier line, an end
        that is past, or an id that is in the file.
        """
        now = wall_clock_us() if now_us is None else now_us
        verifier = _verifier(vkey)
        if expires_at is not None and expires_at <= now:
            raise InvalidInput(f"{rfc3339(expires_at)} is past; a key is trusted until some later time.")
        key = TrustedKey(
            id=verifier.name,
            vkey=verifier.line,
            added_at=rfc3339(now),
            expires_at=None if expires_at is None else rfc3339(expires_at),
        )
        return self._changed(key.id, lambda keys: (*keys, _new(key, keys)), on_record)

    def revoke(self, key_id: str, *, now_us: int | None = None, on_record: OnRecord | None = None) -> "Trust":
        """Let no signature of this key count any more. One that is revoked already stays as it is.

        Raises NotFound, TrustUnusable, and what `on_record` raises.
        """
        revoked_at = rfc3339(wall_clock_us() if now_us is None else now_us)

        def revoked(keys: Keys) -> Keys:
            key = Trust(path=self.path, keys=keys).key(key_id)
            if key.revoked_at is not None:
                return keys
            gone = replace(key, revoked_at=revoked_at)
            return tuple(gone if other is key else other for other in keys)

        return self._changed(key_id, revoked, on_record)

    def _changed(self, key_id: str, change: Callable[[Keys], Keys], on_record: OnRecord | None) -> "Trust":
        """Apply a change to what the file holds by now, with nobody else changing it meanwhile.

        It is on the record before it counts: a death in between leaves a record of what did not come to be,
        and never a key that nobody was told of.
        """
        after: list[Trust] = []

        def make() -> bytes | None:
            before = Trust.load(self.path)
            after.append(Trust(path=self.path, keys=change(before.keys)))
            if after[0] == before:
                return None
            if on_record is not None:
                on_record(_said(after[0].key(key_id)))
            return _file_bytes(after[0].keys)

        _file(self.path).change(make)
        return after[0]


def _said(key: TrustedKey) -> dict[str, Any]:
    """What a record says of a key that came to be trusted, or ceased to be."""
    return {
        "key_id": key.id,
        "key_hash": key.key_hash,
        "vkey": key.vkey,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }


def check_key_name(name: str) -> str:
    """The name, where a key may have it (C2SP signed-note: no space, no plus). Raises InvalidInput."""
    if not line_fits(name) or not _KEY_NAME.fullmatch(name):
        raise InvalidInput(
            f"{name[:NAME_CHARACTERS_MAX]!r} cannot be the name of a key: "
            f"1 to {NAME_CHARACTERS_MAX} visible characters, no spaces and no '+'.",
            hint="Name it after what you own, such as example.com/skills.",
        )
    return name


def line_fits(text: str) -> bool:
    """Whether a name can stand in a line that is signed and that people read."""
    return 0 < len(text) <= NAME_CHARACTERS_MAX and text.isprintable()


def _verifier(vkey: str) -> Verifier:
    """Raises InvalidInput."""
    try:
        verifier = Verifier.parse(vkey)
    except MalformedKey as error:
        raise InvalidInput(
            "This is not the public half of a signing key.",
            hint="Its line looks like NAME+HASH+KEY, as `custody skills trust new-key` prints it.",
        ) from error
    check_key_name(verifier.name)
    return verifier


def _new(key: TrustedKey, keys: Keys) -> TrustedKey:
    """The key, where none of its id is there. Raises InvalidInput."""
    for other in keys:
        if other.id == key.id:
            which = "This key" if other.vkey == key.vkey else "Another key of this name"
            state = "was revoked" if other.revoked_at else "is in the file already"
            raise InvalidInput(
                f"{which} ({key.id}) {state}.",
                hint="A publisher's next key has a name of its own, such as example.com/skills-2.",
            )
    return key


# -- the file -------------------------------------------------------------------------------------------


def _file(path: str) -> TrustFile:
    return TrustFile(path, bytes_max=TRUST_BYTES_MAX, hint=_LOOK)


def _file_bytes(keys: Keys) -> bytes:
    data = msgspec.json.encode(_File(schema_version=SCHEMA_VERSION, keys=keys))
    return msgspec.json.format(data, indent=2) + b"\n"


def _parse(data: bytes, path: str) -> Keys:
    """Raises TrustUnusable."""
    try:
        version = msgspec.json.decode(data, type=_Version).schema_version
        if version > SCHEMA_VERSION:
            raise _unusable(
                f"{path} was made by a newer Custody (schema {version}; this one knows {SCHEMA_VERSION}).",
                hint="Use that Custody.",
            )
        keys = msgspec.json.decode(data, type=_File).keys
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unusable(f"{path} is not a file of trusted keys: {error}.") from error
    if version != SCHEMA_VERSION:
        raise _unusable(f"{path} has schema {version}, which there never was.")
    seen: set[str] = set()
    for key in keys:
        if fault := _fault(key):
            raise _unusable(f"{path}: the entry of {key.id!r} {fault}.")
        if key.id in seen:
            raise _unusable(f"{path} names the key {key.id!r} twice, so nobody knows which of them counts.")
        seen.add(key.id)
    return keys


def _fault(key: TrustedKey) -> str | None:
    """What is wrong with an entry, as the rest of a sentence."""
    try:
        verifier = _verifier(key.vkey)
    except InvalidInput:
        return "has no usable verifier line"
    if verifier.name != key.id or verifier.line != key.vkey:
        return "has the verifier line of another key"
    for moment in (key.added_at, key.expires_at, key.revoked_at):
        try:
            if moment is not None:
                _moment_us(moment)
        except ValueError:
            return f"has {moment!r} for a time, which is none with a time zone"
    return None


def _moment_us(text: str) -> int:
    """Microseconds since 1970 UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(text)
    return (moment - _EPOCH) // _MICROSECOND


def _unusable(message: str, *, hint: str | None = _LOOK) -> TrustUnusable:
    return TrustUnusable(message, hint=hint)
