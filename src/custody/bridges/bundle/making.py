"""Making a bundle: the records of the selected calls, each with its proof, and the witnesses told from them.

Owns which records belong to a call in a bundle, what is left out and how that is counted. A bundle is checked
with its own `verify.py` before it is handed out; what changed under the maker's hands (a purge, a shard
repaired) makes it begin again. Knows nothing of how checkpoints are made: it is lent an `Evidence`. Used by
`compose`, the command line and the tool.
"""

import base64
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, Protocol, cast

import msgspec
from msgspec import Struct

from custody import __version__
from custody.bridges.bundle import verify
from custody.bridges.bundle.checking import check_bundle
from custody.bridges.bundle.packing import Packing
from custody.bridges.bundle.selection import Selection, selected
from custody.bridges.bundle.witness import witness_name
from custody.bridges.objects import call_object
from custody.errors import ExportFailed, NotFound
from custody.index import Index
from custody.journal import Journal, Stored
from custody.journal.checkpoint import Note, Signature, Signer, Verifier
from custody.records import (
    Call,
    CallAsked,
    CallFinished,
    CallStarted,
    decode_leaf,
    decode_payload,
)

SCRATCH_BYTES_MAX = 32 * 1024 * 1024
"""Of a bundle that is being made; what is more waits in a file without a name."""

ROOM_BYTES = 16 * 1024 * 1024
"""Of what can be checked, kept free for lists and headers, whose size is known at the end."""

PROOF_BYTES = 64 * 48 + 200
"""Of a record in a bundle beside its own bytes, at most: a path of 64 hashes, and names."""

ATTEMPTS_MAX = 3
"""A bundle that does not hold was made while records were purged; that does not go on for ever."""

ENCLOSED = {"README.md": "enclosed.md", "verify.py": "verify.py"}
"""Name in each bundle -> file of this package."""

Place = tuple[int, int, int]


class Evidence(Protocol):
    """What a store's checkpoints lend."""

    def seal(self) -> Note:
        """The newest checkpoint, made now where there is something new. Raises what sealing raises."""
        ...

    def path(self, shard: int, index: int, size: int) -> Sequence[bytes]:
        """From a leaf to the root of the shard's tree of that size."""
        ...

    def signer(self) -> Signer:
        """The key of the store."""
        ...

    def verifiers(self) -> Sequence[Verifier]:
        """The public keys, newest last."""
        ...

    def close(self) -> None:
        """Let go of what paths were made with."""
        ...


class Limits(Struct, frozen=True, kw_only=True):
    """How large a bundle may become."""

    count_max: int | None = None
    """Calls."""
    bytes_max: int | None = None
    """Of the archive as it is handed out."""


class Made(Struct, frozen=True, kw_only=True):
    """What a bundle holds."""

    calls: int
    records: int
    blobs: int
    bytes: int
    omitted: int
    """Calls that were asked for and are left out because of a limit."""
    unsigned: int
    """Calls left out because no checkpoint covers them yet: another process has just written them."""
    payloads_purged: int
    blobs_gone: int


class BundleMaker:
    """Makes bundles of one store. Its methods wait, so they have no place on an event loop."""

    def __init__(self, journal: Journal, index: Callable[[], Index], evidence: Evidence) -> None:
        self._journal = journal
        self._index = index
        self._evidence = evidence

    def make(
        self,
        selection: Selection,
        limits: Limits,
        out: IO[bytes],
        *,
        zstd: bool = False,
        folder: str | None = None,
        progressed: Callable[[int], None] = lambda _: None,
    ) -> Made:
        """Write a bundle to `out`, an empty file that can be read, written and emptied. No calls: nothing is
        written. `folder` is where scratch files go; `progressed` hears how many calls were gathered.

        Raises what the selection and the evidence raise; ExportFailed, CorruptJournal, OSError.
        """
        try:
            return self._make(selection, limits, out, zstd, folder, progressed)
        finally:
            self._evidence.close()

    def _make(
        self,
        selection: Selection,
        limits: Limits,
        out: IO[bytes],
        zstd: bool,
        folder: str | None,
        progressed: Callable[[int], None],
    ) -> Made:
        faults: list[str] = []
        count_max = limits.count_max
        for _ in range(ATTEMPTS_MAX):
            while True:
                gathered = _Gathering(self._journal, self._index(), self._evidence)
                gathered.take(selection, count_max, progressed)
                made = self._write(gathered, selection, out, zstd=zstd, folder=folder)
                too_large = limits.bytes_max is not None and made.bytes > limits.bytes_max
                if not made.calls or not too_large:
                    break
                assert limits.bytes_max is not None, "something is too large for it"
                count_max = _fewer(made.calls, made.bytes, limits.bytes_max)
                if count_max == 0:
                    _empty(out)
                    return _nothing_of(made)
            if not made.calls:
                return made
            out.seek(0)
            faults = check_bundle(out, self._evidence.verifiers())["faults"]
            out.seek(0, os.SEEK_END)
            if not faults:
                return made
        raise ExportFailed(
            f"The bundle does not hold, so there is none: {faults[0]}.",
            hint="Nothing is lost: try again, and look at the store with `custody verify`.",
        )

    def _write(
        self, gathered: "_Gathering", selection: Selection, out: IO[bytes], *, zstd: bool, folder: str | None
    ) -> Made:
        _empty(out)
        if not gathered.witnesses:
            return gathered.made(0)
        with tempfile.SpooledTemporaryFile(SCRATCH_BYTES_MAX, dir=folder) as scratch:
            packing = Packing(scratch)
            gathered.pack(packing, selection)
            packing.write(out, zstd=zstd)
        out.flush()
        return gathered.made(out.tell())


def _fewer(calls: int, size: int, size_max: int) -> int:
    """How many calls to try with, so that it fits sooner or later."""
    return min(calls - 1, int(calls * size_max / size * 0.9))


def _nothing_of(made: Made) -> Made:
    return Made(
        calls=0, records=0, blobs=0, bytes=0, omitted=made.omitted + made.calls, unsigned=made.unsigned,
        payloads_purged=0, blobs_gone=0,
    )  # fmt: skip


def _empty(out: IO[bytes]) -> None:
    out.seek(0)
    out.truncate()


class _Gathering:
    """The records of one bundle: first where they are, then what they say."""

    def __init__(self, journal: Journal, index: Index, evidence: Evidence) -> None:
        self._journal = journal
        self._index = index
        self._evidence = evidence
        self._note = evidence.seal()
        self._heads = self._note.checkpoint.heads
        self._places: dict[tuple[int, int], Place] = {}
        """Shard and sequence of each record -> where it is."""
        self._runs: set[str] = set()
        self._blobs: set[str] = set()
        self._gone: set[str] = set()
        self._purged = 0
        self._bytes = ROOM_BYTES
        self._newest_us = 0
        self.witnesses: list[tuple[str, str, int]] = []
        """Call, its file's name, and seconds since 1970."""
        self._omitted = self._unsigned = 0

    # -- which records --------------------------------------------------------------------------------

    def take(self, selection: Selection, count_max: int | None, progressed: Callable[[int], None]) -> None:
        """Find the records of every selected call, until a limit; count what is left out."""
        for call in selected(self._index, selection):
            if self._omitted or (count_max is not None and len(self.witnesses) >= count_max):
                self._omitted += 1
                continue
            records = self._of_call(call)
            if records is None:
                self._unsigned += 1
                continue
            size = sum(map(self._size, records.values())) + 2 * len(msgspec.json.encode(call_object(call)))
            if self._bytes + size > verify.BYTES_MAX:
                self._omitted += 1
                continue
            self._bytes += size
            for key, stored in records.items():
                self._places[key] = stored.shard, stored.segment, stored.offset
            if call.run_id is not None:
                self._runs.add(call.run_id)
            name, seconds = witness_name(call)
            self.witnesses.append((call.id, name, seconds))
            progressed(len(self.witnesses))

    def _of_call(self, call: Call) -> dict[tuple[int, int], Stored] | None:
        """The records of a call, of its run as far as they are new, and the machine's samples it names. None
        when one of the call's own, or the run's start, is not signed yet."""
        places = list(self._index.call_records(call.id, refresh=False))
        own = [self._journal.read(*place) for place in places]
        for stored in list(own):
            for event_id in _samples_of(stored):
                place = self._index.event_record(event_id, refresh=False)
                if place is not None:
                    own.append(self._journal.read(*place))
        if call.run_id is not None and call.run_id not in self._runs:
            run = self._of_run(call.run_id)
            if run and not self._signed(run[0]):
                return None
            own += filter(self._signed, run)
        if not all(map(self._signed, own)):
            return None
        return {_key(stored): stored for stored in own if _key(stored) not in self._places}

    def _of_run(self, run_id: str) -> list[Stored]:
        try:
            places = self._index.run_records(run_id, refresh=False)
        except NotFound:  # its start was lost, with what the call inherits of it
            return []
        return [self._journal.read(*place) for place in places]

    def _signed(self, stored: Stored) -> bool:
        head = self._heads.get(stored.shard)
        return head is not None and stored.sequence <= head.size

    def _size(self, stored: Stored) -> int:
        """What a record takes in a bundle, at most, with its blobs."""
        said: dict[str, Any] = decode_payload(stored.payload) or {}
        blobs = sum(_blob_bytes(value) for value in said.values())
        return (len(stored.leaf) + len(stored.payload)) * 4 // 3 + PROOF_BYTES + 2 * blobs

    # -- what they say --------------------------------------------------------------------------------

    def pack(self, packing: Packing, selection: Selection) -> None:
        packing.add("records.jsonl", self._lines())
        for blob in sorted(self._blobs):
            data = self._journal.get_blob(bytes.fromhex(blob))
            if data is None:
                self._gone.add(blob)
            else:
                packing.add(f"blobs/{blob}", data)
        for call_id, name, seconds in self.witnesses:
            call = _by_itself(self._index.call(call_id, refresh=False))
            packing.add(
                name, msgspec.json.format(msgspec.json.encode(call_object(call)), indent=1) + b"\n", seconds
            )
        keys = "".join(f"{key.line}\n" for key in self._evidence.verifiers())
        packing.add("checkpoint", self._note.data)
        packing.add("key.pub", keys.encode())
        for name, source in ENCLOSED.items():
            with open(os.path.join(os.path.dirname(__file__), source), "rb") as file:
                packing.add(name, file.read())
        facts = {
            "custody": __version__,
            "calls": len(self.witnesses),
            "records": len(self._places),
            "blobs": len(self._blobs - self._gone),
            "omitted": self._omitted,
            "unsigned": self._unsigned,
            "payloads_purged": self._purged,
            "blobs_gone": len(self._gone),
            "last": selection.last,
            "tool": selection.tool,
            "run": selection.run,
        }
        packing.seal(facts, self._sign, self._newest_us // 1_000_000)

    def _sign(self, text: bytes) -> bytes:
        signer = self._evidence.signer()
        return Signature(signer.name, signer.key_hash, signer.sign(text)).line()

    def _lines(self) -> Iterator[bytes]:
        """The records in order, each on a line of JSON."""
        for (shard, sequence), place in sorted(self._places.items()):
            stored = self._journal.read(*place)
            self._newest_us = max(self._newest_us, _at_us(stored))
            self._purged += stored.purged
            self._blobs |= _blobs_of(stored)
            path = self._evidence.path(shard, sequence - 1, self._heads[shard].size)
            line = {
                "shard": shard,
                "sequence": sequence,
                "kind": stored.kind,
                "leaf": _base64(stored.leaf),
                "payload": None if stored.purged else _base64(stored.payload),
                "path": [_base64(node) for node in path],
            }
            yield msgspec.json.encode(line) + b"\n"

    def made(self, size: int) -> Made:
        return Made(
            calls=len(self.witnesses),
            records=len(self._places) if self.witnesses else 0,
            blobs=len(self._blobs - self._gone),
            bytes=size,
            omitted=self._omitted,
            unsigned=self._unsigned,
            payloads_purged=self._purged,
            blobs_gone=len(self._gone),
        )


def _key(stored: Stored) -> tuple[int, int]:
    return stored.shard, stored.sequence


def _samples_of(stored: Stored) -> Iterator[bytes]:
    """Ids of the events that describe the machine before and after a call."""
    leaf = decode_leaf(stored.kind, stored.leaf)
    if isinstance(leaf, CallStarted) and leaf.host_before is not None:
        yield leaf.host_before
    if isinstance(leaf, CallFinished) and leaf.host_after is not None:
        yield leaf.host_after


def _at_us(stored: Stored) -> int:
    leaf = decode_leaf(stored.kind, stored.leaf)
    return leaf.request.asked_at_us if isinstance(leaf, CallAsked) else leaf.at_us


def _said(stored: Stored) -> dict[str, Any]:
    return decode_payload(stored.payload) or {}


def _blobs_of(stored: Stored) -> set[str]:
    return {
        value["$blob"] for value in _said(stored).values() if isinstance(value, dict) and "$blob" in value
    }


def _blob_bytes(value: Any) -> int:
    if not isinstance(value, dict) or "$blob" not in value:
        return 0
    return cast("dict[str, int]", value)["bytes"]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _by_itself(call: Call) -> Call:
    """As its own records have it: what became of what it held, another call's say."""
    return msgspec.structs.replace(call, held=None if call.held is None else "held", settled_by=None)
