"""The only way onto the record: redact, split into leaf and payload, append.

Owns how a value becomes part of a payload (kept in full, as a digest, or not at all; inline or as a
blob), the salt, the digest in the leaf and the room set aside for a terminal record. Knows nothing of
when a record is due: `calls` decides that. No other module calls the journal's append.
"""

import os
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import msgspec
from msgspec import Struct

from custody import __version__
from custody.errors import NotRecorded
from custody.journal import Journal, Receipt, boot_id, sha256
from custody.locks import NESTED
from custody.records import (
    CALL_ID_BYTES,
    EVENT_NAMES,
    KINDS,
    OWN_EVENTS,
    SALT_BYTES,
    CallAnswered,
    Event,
    IdSource,
    Kind,
    Leaf,
    Redacted,
    Redaction,
    decode_leaf,
    decode_payload,
    encode_leaf,
    now_us,
)
from custody.redaction import MARK_KEYS, Mark, Redactor, plain

Keep = Literal["full", "digest", "none"]
"""What the record holds of a tool's arguments and results."""

SAID = frozenset({"arguments", "difference", "result", "error", "changes"})
"""The parts of a payload that `Keep` is about."""

INLINE_BYTES_MAX = 16 * 1024
"""A payload above this puts its large values into blobs, so that a frame stays small enough for any
segment and a scan of the journal never reads a build log."""

FRAME_BYTES = 64  # of a frame around its leaf and payload, at most

FINISHED_RESERVE_BYTES = INLINE_BYTES_MAX + 2 * 1024
"""Room set aside with each *started*: the largest inline payload and its leaf. A *finished* that would
need a blob on a full disk gives up its payload, not itself."""


class Said(Struct, frozen=True, gc=False):
    """A payload as it goes on the record: redacted, salted and digested."""

    data: Redacted
    digest: bytes
    blobs: tuple[Redacted, ...]
    redactions: tuple[Redaction, ...]


class Draft(Struct, frozen=True, gc=False):
    """A record ready to be appended: redacted, split and digested. Making one does no I/O."""

    kind: Kind
    leaf: bytes
    payload: Redacted
    blobs: tuple[Redacted, ...]
    redactions: tuple[Redaction, ...]

    @property
    def frame_bytes(self) -> int:
        """Upper bound of the room its frame takes."""
        return len(self.leaf) + len(self.payload) + FRAME_BYTES

    def said(self) -> dict[str, Any]:
        """The payload as a reader of the record gets it: secrets replaced, marks for what is not JSON."""
        blobs = iter(self.blobs)
        named = decode_payload(self.payload) or {}
        return {
            name: plain(msgspec.msgpack.decode(next(blobs)) if _is_blob(value) else value)
            for name, value in named.items()
        }


def _marked(value: Any) -> Any:
    """A value read from a payload, its marks told from mappings again."""
    if isinstance(value, dict):
        named = {name: _marked(item) for name, item in cast("dict[str, Any]", value).items()}
        return named if MARK_KEYS.isdisjoint(named) else Mark(named)
    return [_marked(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value


def _is_blob(value: Any) -> bool:
    return isinstance(value, dict) and "$blob" in value


class Recorder:
    """Writes records for one runtime."""

    def __init__(
        self, journal: Journal, redactor: Redactor, ids: IdSource, seen: Mapping[str, Any] | None = None
    ) -> None:
        """`seen` is what its writer found when it came: leaf data of `writer.opened`."""
        self._seen = seen
        self._journal = journal
        self._redactor = redactor
        self.ids = ids
        self._introduced = False
        _recorders.add(self)

    def redact(self, payload: Mapping[str, Any], keep: Keep = "full") -> Said:
        """What `payload` (name -> any value) says, secrets replaced. From here on it cannot change."""
        salt = self.ids.take(SALT_BYTES)
        if keep != "full":
            payload = {
                name: self._withhold(value, keep, salt) if name in SAID else value
                for name, value in payload.items()
            }
        data = self._redactor.keep_ordinary(payload, salt)
        redactions: tuple[Redaction, ...] = ()
        if data is None:
            kept = self._redactor.keep_slowly(payload, "", salt)
            data, redactions = kept.data, kept.hits
        if len(data) <= INLINE_BYTES_MAX + SALT_BYTES:
            return Said(data, sha256(data), (), redactions)
        del data  # as large as the payload, which is copied once more below
        payload, blobs, redactions = self._detach(payload)
        data = self._redactor.keep(payload, "", salt).data
        return Said(data, sha256(data), blobs, redactions)

    def clean_text(self, text: str, path: str) -> tuple[str, tuple[Redaction, ...]]:
        """A text without known secrets, for whoever has to cut it."""
        return self._redactor.text(text, path)

    def draft_of(self, said: Said, leaf_type: type[Leaf], /, **fields: Any) -> Draft:
        """The leaf around what is said. `fields` are its own, except `payload_digest` and `redactions`."""
        return self._around(said, leaf_type, fields)

    def _around(self, said: Said, leaf_type: type[Leaf], fields: dict[str, Any]) -> Draft:
        if said.redactions and leaf_type is not CallAnswered:
            fields["redactions"] = said.redactions
        fields["payload_digest"] = said.digest
        leaf = leaf_type(**fields)
        try:
            data = encode_leaf(leaf)
            if self._redactor.knows(data):
                data = self._encode_clean(leaf)
        except UnicodeEncodeError:  # lone surrogates: text that is not UTF-8 on the command line
            data = self._encode_clean(leaf)
        return Draft(KINDS[leaf_type], data, said.data, said.blobs, said.redactions)

    def draft(
        self, leaf_type: type[Leaf], payload: Mapping[str, Any], /, *, keep: Keep = "full", **fields: Any
    ) -> Draft:
        """Both at once."""
        return self._around(self.redact(payload, keep), leaf_type, fields)

    def append(
        self, draft: Draft, *, opens: bool = False, closes: bool = False, essential: bool = False
    ) -> Receipt:
        """Put the draft on the record.

        `opens` sets room aside for the record that will close the call, `closes` uses and returns it; an
        `essential` one may use the room that is kept on a full disk. May wait. Raises NotRecorded.
        """
        if not self._introduced:
            self._introduced = True
            self.append(self._introduction(), essential=essential)
        digests = [self._journal.put_blob(blob) for blob in draft.blobs] if draft.blobs else ()
        reserve = FINISHED_RESERVE_BYTES if opens else 0
        reserved = FINISHED_RESERVE_BYTES if closes else 0
        receipt = self._journal.append(
            draft.kind, draft.leaf, draft.payload, reserve, reserved, essential=essential
        )
        if digests:
            self._keep_blobs(digests, draft.blobs)
        return receipt

    def append_at_once(self, draft: Draft, *, opens: bool = False, closes: bool = False) -> Receipt | None:
        """The same for whoever must not wait for a disk: None, and nothing on the record, where that would.

        Raises NotRecorded.
        """
        if draft.blobs:
            return None
        if not self._introduced:
            self._introduced = True
            self._introduced = self.append_at_once(self._introduction()) is not None
            if not self._introduced:
                return None
        reserve = FINISHED_RESERVE_BYTES if opens else 0
        reserved = FINISHED_RESERVE_BYTES if closes else 0
        return self._journal.append_at_once(draft.kind, draft.leaf, draft.payload, reserve, reserved)

    def can_append(self) -> bool:
        """False in a finalizer or a signal handler that has interrupted another record of this thread."""
        return not self._journal.puts_here()

    def check_can_append(self) -> None:
        """For who would wait for another thread to append. Raises NotRecorded."""
        if not self.can_append():
            raise NotRecorded(NESTED)

    def _keep_blobs(self, digests: Sequence[bytes], blobs: Sequence[Redacted]) -> None:
        """A purge may have removed one before the record named it."""
        for digest, blob in zip(digests, blobs, strict=True):
            if not self._journal.has_blob(digest):
                self._journal.put_blob(blob)

    def append_in_shared_run(
        self, run_id: bytes, draft_at: Callable[[int], Draft], *, opens: bool = False
    ) -> tuple[int, Receipt]:
        """Append under the shared run's counter: `draft_at` gets the position. May wait."""
        positions: list[int] = []

        def append_at(position: int) -> Receipt:
            positions.append(position)
            return self.append(draft_at(position), opens=opens)

        receipt = self._journal.positions(run_id).take(append_at)
        return positions[-1], receipt

    def append_all(self, drafts: Sequence[Draft]) -> Receipt:
        """Put several drafts on the record, one after the other: all, or none where there is no room.

        The receipt is the last one's. May wait. Raises NotRecorded, whose details have as `appended` how
        many were put before a disk failed in the middle: those stand.
        """
        assert drafts, "there is something to append"
        if not self._introduced:
            self._introduced = True
            self.append(self._introduction())
        blobs = [blob for draft in drafts for blob in draft.blobs]
        digests = [self._journal.put_blob(blob) for blob in blobs]
        receipt: Receipt | None = None
        aside, left = 0, sum(draft.frame_bytes for draft in drafts)
        appended = 0
        try:
            for draft in drafts:
                left -= draft.frame_bytes
                receipt = self._journal.append(draft.kind, draft.leaf, draft.payload, left, aside)
                aside = left  # the room for the rest, set aside with the first
                appended += 1
        except NotRecorded as error:
            error.details["appended"] = appended
            raise
        finally:
            if aside:
                self._journal.release(aside)
        self._keep_blobs(digests, blobs)
        assert receipt is not None, "there was something to append"
        return receipt

    def append_all_in_shared_run(
        self, run_id: bytes, count: int, drafts_at: Callable[[int], Sequence[Draft]]
    ) -> tuple[int, Receipt]:
        """The same under the shared run's counter: `drafts_at` gets the first of `count` positions."""
        positions: list[int] = []

        def append_at(position: int) -> Receipt:
            positions.append(position)
            return self.append_all(drafts_at(position))

        receipt = self._journal.positions(run_id).take(append_at, count)
        return positions[-1], receipt

    def without_blobs(self, draft: Draft) -> Draft:
        """The same record for a store that has no room for its large values: they are counted, not kept."""
        named: dict[str, Any] = decode_payload(draft.payload) or {}
        said = self.redact(
            {
                name: Mark({"$omitted": True, "bytes": value["bytes"]}) if _is_blob(value) else _marked(value)
                for name, value in named.items()
            }
        )
        leaf = msgspec.structs.replace(decode_leaf(draft.kind, draft.leaf), payload_digest=said.digest)
        return Draft(draft.kind, encode_leaf(leaf), said.data, said.blobs, draft.redactions)

    def event(
        self,
        name: str,
        data: Mapping[str, Any],
        *,
        leaf_data: bool = False,
        essential: bool = False,
        **fields: Any,
    ) -> Receipt:
        """Record an event. `leaf_data` keeps the data for ever. Raises NotRecorded."""
        return self.append(self.draft_event(name, data, leaf_data=leaf_data, **fields), essential=essential)

    def draft_event(
        self, name: str, data: Mapping[str, Any], *, leaf_data: bool = False, **fields: Any
    ) -> Draft:
        """An event for whoever decides how it is appended; else as `event`."""
        assert name in EVENT_NAMES or name.startswith(OWN_EVENTS), (
            f"{name} is not in the closed list of records.EVENT_NAMES"
        )
        return self.draft(
            Event,
            {} if leaf_data else {"data": data},
            event_id=self.ids.take(CALL_ID_BYTES),
            name=name,
            at_us=now_us(),
            data=dict(data) if leaf_data else None,
            **fields,
        )

    def after_fork_in_child(self) -> None:
        self._introduced = False

    def _introduction(self) -> Draft:
        """Said once, of who writes here: a forked child is another writer, with a shard of its own."""
        system = os.uname()
        facts = {
            "pid": os.getpid(),
            "host": system.nodename,
            "boot_id": boot_id(),
            "platform": f"{system.sysname} {system.machine}",
            "kernel": system.release,
            "python": sys.version.partition(" ")[0],
            "custody": __version__,
        }
        seen = None if self._seen is None else dict(self._seen)
        return self.draft(
            Event,
            {"data": facts},
            event_id=self.ids.take(CALL_ID_BYTES),
            name="writer.opened",
            at_us=now_us(),
            data=seen,
        )

    def _encode_clean(self, leaf: Leaf) -> bytes:
        """The leaf's bytes. Names and reasons repeat what callers said, so known values and credentials in
        URLs are replaced there too; ids, times and decisions are not text and pass as they are."""
        hits: list[Redaction] = []
        plain: Any = self._clean(msgspec.to_builtins(leaf, builtin_types=(bytes,)), hits)
        clean = msgspec.convert(plain, type(leaf))
        if hits and not isinstance(clean, CallAnswered):
            rules = dict.fromkeys(hit.rule for hit in hits)
            merged = [
                Redaction(rule, "leaf", sum(hit.count for hit in hits if hit.rule == rule)) for rule in rules
            ]
            clean = msgspec.structs.replace(clean, redactions=(*clean.redactions, *merged))
        return encode_leaf(clean)

    def _clean(self, value: Any, hits: list[Redaction]) -> Any:
        if isinstance(value, str):
            text, found = self._redactor.text(value, "leaf")
            hits.extend(found)
            return text
        if isinstance(value, dict):
            named = cast("dict[str, Any]", value)
            return {self._clean(name, hits): self._clean(item, hits) for name, item in named.items()}
        if isinstance(value, list | tuple):
            return [self._clean(item, hits) for item in cast("list[Any]", value)]
        return value

    def _withhold(self, value: Any, keep: Keep, salt: bytes) -> dict[str, Any]:
        """What stands in a payload for a value that its tool's setting keeps out of the store."""
        data = self._redactor.keep(value, "").data
        if keep == "none":
            return Mark({"$omitted": True, "bytes": len(data)})
        return Mark({"$digest": sha256(salt, data).hex(), "bytes": len(data)})

    def _detach(
        self, payload: Mapping[str, Any]
    ) -> tuple[dict[str, Any], tuple[Redacted, ...], tuple[Redaction, ...]]:
        """Move the payload's large values into blobs."""
        slim: dict[str, Any] = {}
        blobs: list[Redacted] = []
        redactions: list[Redaction] = []
        for name, value in payload.items():
            kept = self._redactor.keep(value, name)
            redactions.extend(kept.hits)
            if len(kept.data) <= INLINE_BYTES_MAX // len(payload):
                slim[name] = value
            else:
                blobs.append(kept.data)
                slim[name] = Mark({"$blob": sha256(kept.data).hex(), "bytes": len(kept.data)})
        return slim, tuple(blobs), tuple(redactions)


_recorders: "weakref.WeakSet[Recorder]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for recorder in list(_recorders):
        recorder.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
