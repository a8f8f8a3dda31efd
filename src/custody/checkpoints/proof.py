"""Proofs as documents: JSON that says of records, or of an older checkpoint, what anybody can check.

Owns the two forms, `custody-inclusion` and `custody-consistency`, and their checking, which needs nothing but
the document and, to say who signed it, the public key. Pure. Used by `prove`, which makes them, and by
whoever checks one.

Everything binary is standard base64. A record's leaf is hashed as RFC 6962 has it: SHA-256 of a zero byte and
the leaf; `path` leads from there to `root`, which the checkpoint names for the record's shard.
"""

import binascii
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from custody.errors import InvalidInput, MalformedKey, MalformedNote
from custody.journal.checkpoint import Note, Verifier, parse_note
from custody.journal.proofs import root_by_inclusion, verify_consistency
from custody.journal.tree import leaf_hash
from custody.records import Kind, decode_leaf, kind_of

PROOF_BYTES_MAX = 1 << 30
"""A gigabyte of proofs is not read."""


class RecordProof(Struct, frozen=True, kw_only=True):
    """One record, and the way from its leaf to a head that is signed."""

    kind: str
    shard: int
    sequence: int
    index: int
    """The leaf's number in its shard's tree: `sequence - 1`."""
    size: int
    """Of the tree, as the checkpoint names it."""
    root: str
    leaf: str
    """As stored and hashed."""
    path: tuple[str, ...]
    view: dict[str, Any]
    """The leaf to be read: fields by name, bytes in hex."""


class InclusionProof(Struct, frozen=True, kw_only=True):
    """Records that were there when a checkpoint was signed."""

    form: Literal["custody-inclusion/1"] = "custody-inclusion/1"
    of: str
    """The id of the call or run whose records these are."""
    checkpoint: str
    """The signed note."""
    keys: tuple[str, ...]
    """Verifier lines, as the store has them: who has them from elsewhere takes those."""
    records: tuple[RecordProof, ...]


class ShardProof(Struct, frozen=True, kw_only=True):
    """A shard's older head, and that its newer one goes on from it."""

    shard: int
    old_size: int
    old_root: str
    new_size: int
    new_root: str
    path: tuple[str, ...]


class LogProof(Struct, frozen=True, kw_only=True):
    """The same of the checkpoint log itself: its leaves are the checkpoints' statements."""

    old_size: int
    old_root: str
    new_size: int
    new_root: str
    path: tuple[str, ...]


class ConsistencyProof(Struct, frozen=True, kw_only=True):
    """A newer checkpoint that takes nothing back of what an older one said."""

    form: Literal["custody-consistency/1"] = "custody-consistency/1"
    old: str
    new: str
    keys: tuple[str, ...]
    log: LogProof
    shards: tuple[ShardProof, ...]


Proof = InclusionProof | ConsistencyProof


# -- making ---------------------------------------------------------------------------------------------


def leaf_view(kind: int, leaf: bytes) -> dict[str, Any]:
    """A leaf's fields by name, with bytes in hex. Raises msgspec.DecodeError."""
    return _plain(decode_leaf(kind, leaf))


def _plain(value: Any) -> Any:
    if isinstance(value, Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def bytes_of(text: str) -> bytes:
    """Raises InvalidInput."""
    try:
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (ValueError, UnicodeEncodeError):
        raise InvalidInput("The proof has something that should be base64 and is not.") from None


# -- checking -------------------------------------------------------------------------------------------


def parse_proof(data: bytes) -> Proof:
    """Raises InvalidInput for what is no proof."""
    if len(data) > PROOF_BYTES_MAX:
        raise InvalidInput("A proof is not so large.")
    try:
        form = msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get("form", msgspec.Raw(b"null"))
        consistency = msgspec.json.decode(form) == "custody-consistency/1"
        return msgspec.json.decode(data, type=ConsistencyProof if consistency else InclusionProof)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"This is not a proof of Custody's: {error}.") from None


def check_proof(
    proof: Proof | dict[str, Any] | bytes, verifiers: Sequence[Verifier] | None = None
) -> list[str]:
    """What is wrong with a proof, as sentences; an empty list when it holds.

    `verifiers` are the keys to believe. Without them those that the proof itself brings are taken, which
    shows that it fits together and not who signed it. Raises InvalidInput for what is no proof at all.
    """
    if isinstance(proof, dict):
        proof = parse_proof(msgspec.json.encode(proof))
    elif isinstance(proof, bytes):
        proof = parse_proof(proof)
    try:
        keys = [Verifier.parse(line) for line in proof.keys] if verifiers is None else list(verifiers)
    except MalformedKey as error:
        return [f"The proof's own keys cannot be read: {error.message}"]
    if isinstance(proof, InclusionProof):
        return _check_inclusion(proof, keys)
    return _check_consistency(proof, keys)


def _check_inclusion(proof: InclusionProof, keys: Sequence[Verifier]) -> list[str]:
    note, faults = _checked_note(proof.checkpoint, keys, "checkpoint")
    if note is None:
        return faults
    if not proof.records:
        faults.append("The proof is of no record.")
    for record in proof.records:
        where = f"Shard {record.shard}, record {record.sequence}"
        faults += [f"{where}: {fault}." for fault in _record_faults(record, note)]
    return faults


def _record_faults(record: RecordProof, note: Note) -> list[str]:
    head = note.checkpoint.heads.get(record.shard)
    root, leaf = bytes_of(record.root), bytes_of(record.leaf)
    if head is None or (head.size, head.root) != (record.size, root):
        return ["the checkpoint names another head of this shard, or none"]
    if record.index != record.sequence - 1:
        return ["its index is not its sequence minus one"]
    path = [bytes_of(node) for node in record.path]
    if root_by_inclusion(leaf_hash(leaf), record.index, record.size, path) != root:
        return ["its path does not lead to the signed root: it is another record, or has been changed"]
    kind = kind_of(leaf)
    if kind is None or kind.name.lower() != record.kind:
        return ["its leaf is of another kind"]
    if leaf_view(kind, leaf) != record.view:
        return ["what is shown of it is not what its leaf says"]
    return []


def _check_consistency(proof: ConsistencyProof, keys: Sequence[Verifier]) -> list[str]:
    old, faults = _checked_note(proof.old, keys, "older checkpoint")
    new, more = _checked_note(proof.new, keys, "newer checkpoint")
    faults += more
    if old is None or new is None:
        return faults
    before, after, log = old.checkpoint, new.checkpoint, proof.log
    if before.origin != after.origin:
        faults.append("The checkpoints are of two stores.")
    said = (log.old_size, bytes_of(log.old_root), log.new_size, bytes_of(log.new_root))
    if said != (before.size, before.root, after.size, after.root):
        faults.append("The log's sizes and roots are not those of the checkpoints.")
    elif not verify_consistency(*said, [bytes_of(node) for node in log.path]):
        faults.append("The newer checkpoint does not commit to the older one.")
    shown = {shard.shard: shard for shard in proof.shards}
    for number, head in before.heads.items():
        shard, newer = shown.get(number), after.heads.get(number)
        if shard is None or newer is None:
            faults.append(f"Shard {number}: nothing is shown of how it goes on.")
            continue
        heads = (shard.old_size, bytes_of(shard.old_root), shard.new_size, bytes_of(shard.new_root))
        if heads != (head.size, head.root, newer.size, newer.root):
            faults.append(f"Shard {number}: its heads are not those of the checkpoints.")
        elif not verify_consistency(*heads, [bytes_of(node) for node in shard.path]):
            faults.append(f"Shard {number}: its newer records do not go on from the older ones.")
    return faults


def _checked_note(text: str, keys: Sequence[Verifier], what: str) -> tuple[Note | None, list[str]]:
    try:
        note = parse_note(text.encode())
    except (MalformedNote, UnicodeEncodeError) as error:
        return None, [f"The {what} cannot be read: {error}"]
    if not note.signed_by(keys):
        return note, [f"The {what} is not signed by any key that was given."]
    return note, []


def kind_name(kind: int) -> str:
    return Kind(kind).name.lower()
