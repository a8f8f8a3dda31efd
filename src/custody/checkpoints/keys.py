"""The keys a store signs its checkpoints with.

Owns `keys/checkpoint.key` (private, one line, or two while one key follows another) and
`keys/checkpoint.pub` (the verifier lines of all there were, newest last), and the order in which they
change. Knows nothing of checkpoints. Used by `sealer` and by whoever shows the public key.

A new key is first in the private file, then on the record, then among the public ones. One that is private
and not yet public is put on the record (again) by the next who signs, so a death in between loses nothing.
A missing private key is never replaced by a new one unasked: whoever took it away would have us sign afresh.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct

from custody.errors import CheckpointRefused, MalformedKey
from custody.journal import Disk
from custody.journal.checkpoint import (
    ORIGIN_PREFIX,
    SEED_BYTES,
    Signer,
    Verifier,
    parse_verifiers,
)

PRIVATE = "keys/checkpoint.key"
PUBLIC = "keys/checkpoint.pub"
LOCK = "keys/checkpoint.lock"
STORE_ID_BYTES = 16

OnRecord = Callable[[dict[str, Any]], None]
"""Puts `key.created` with this leaf data on the record, durably. Raises NotRecorded."""


class Keys(Struct, frozen=True):
    """What a store signs with and is checked by."""

    signers: tuple[Signer, ...]
    """Newest first. A second one has to sign once more, so that the notes go over from it to the newest."""
    verifiers: tuple[Verifier, ...]
    """Newest last."""

    @property
    def signer(self) -> Signer:
        return self.signers[0]


def read_verifiers(disk: Disk) -> tuple[Verifier, ...]:
    """The public keys, newest last; empty when none was ever made. Raises MalformedKey, OSError."""
    data = disk.read_all(PUBLIC)
    if data is None:
        return ()
    try:
        return tuple(parse_verifiers(data.decode()))
    except (UnicodeDecodeError, MalformedKey) as error:
        raise _malformed(disk, PUBLIC) from error


def load_keys(disk: Disk) -> Keys | None:
    """None when the store has no private key. Raises MalformedKey, OSError."""
    data = disk.read_all(PRIVATE)
    if data is None:
        return None
    try:
        signers = tuple(Signer.parse(line) for line in data.decode().splitlines() if line.strip())
    except (UnicodeDecodeError, MalformedKey) as error:
        raise _malformed(disk, PRIVATE) from error
    if not signers or len({signer.name for signer in signers}) != 1:
        raise _malformed(disk, PRIVATE)
    return Keys(signers, read_verifiers(disk))


def keys_to_sign(disk: Disk, was_signed: Callable[[], bool], on_record: OnRecord) -> Keys:
    """The store's keys, made on first use. The caller holds the right to sign.

    `was_signed` says whether anything speaks of an earlier key. Raises CheckpointRefused when one is gone,
    MalformedKey, NotRecorded, OSError.
    """
    keys = load_keys(disk)
    if keys is None:
        if disk.read_all(PUBLIC) is not None or was_signed():
            raise missing_key(disk)
        _make(disk, (), _new_name())
        keys = load_keys(disk)
    assert keys is not None, "it has just been made"
    return _published(disk, keys, on_record)


def rotate(disk: Disk, origin: str | None, on_record: OnRecord) -> Keys:
    """A new key, which the next checkpoint is signed with beside the one before, if that is still there.

    `origin` is the name of the store's log, should no key know it. The caller holds the right to sign.
    Raises MalformedKey, NotRecorded, OSError.
    """
    try:
        keys = load_keys(disk)
    except MalformedKey:
        keys = None  # to be replaced, which was asked for
    before = () if keys is None else keys.signers[:1]
    verifiers = read_verifiers(disk)
    name = next((key.name for key in (*before, *reversed(verifiers))), origin or _new_name())
    _make(disk, before, name)
    made = load_keys(disk)
    assert made is not None, "it has just been made"
    return _published(disk, made, on_record)


def forget_replaced(disk: Disk, keys: Keys) -> Keys:
    """A checkpoint of both keys is durable: the older one has done its last."""
    if len(keys.signers) > 1:
        disk.replace(PRIVATE, f"{keys.signer.line}\n".encode())
        return Keys(keys.signers[:1], keys.verifiers)
    return keys


def missing_key(disk: Disk) -> CheckpointRefused:
    return CheckpointRefused(
        f"The key that signs checkpoints is gone from {disk.description}/{PRIVATE}; nothing is signed.",
        hint="Put it back from a copy, or make another with `custody checkpoint --rotate-key`.",
    )


def _make(disk: Disk, before: tuple[Signer, ...], name: str) -> None:
    disk.make_folder("keys")
    signers = (Signer(name, os.urandom(SEED_BYTES)), *before)
    disk.replace(PRIVATE, "".join(f"{signer.line}\n" for signer in signers).encode())


def _published(disk: Disk, keys: Keys, on_record: OnRecord) -> Keys:
    """Have the key on the record and among the public ones."""
    verifier = keys.signer.verifier
    if verifier in keys.verifiers:
        return keys
    replaced = keys.verifiers[-1].key_id if keys.verifiers else None
    on_record({"key": verifier.line, "key_id": verifier.key_id, "replaces": replaced})
    publish(disk, (*keys.verifiers, verifier))
    return Keys(keys.signers, (*keys.verifiers, verifier))


def publish(disk: Disk, verifiers: Iterable[Verifier]) -> None:
    """Write the public keys, newest last. Raises OSError."""
    disk.make_folder("keys")
    disk.replace(PUBLIC, "".join(f"{verifier.line}\n" for verifier in verifiers).encode())


def _new_name() -> str:
    return ORIGIN_PREFIX + os.urandom(STORE_ID_BYTES).hex()


def _malformed(disk: Disk, path: str) -> MalformedKey:
    return MalformedKey(
        f"{disk.description}/{path} does not hold keys of checkpoints; nothing is signed.",
        hint="Put it back from a copy. `custody checkpoint --rotate-key` makes another private key.",
        path=path,
    )
