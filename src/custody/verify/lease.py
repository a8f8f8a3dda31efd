"""What a shard's lease file promises, read without the writer's code.

The lease is advice: never synced, and believed here only in what it says against the store: that records were
durable, that a shard was left in order at a certain place. Used by `shard`.
"""

from contextlib import suppress

import msgspec
from msgspec import Struct

from custody.journal.disk import Disk
from custody.journal.frames import is_free
from custody.verify.findings import Findings
from custody.verify.segments import shard_folder
from custody.verify.summed import SECTOR_BYTES, Summed, read_summed


class Left(Struct, frozen=True):
    """Where the shard was left in order."""

    segment: int
    offset: int
    sequence: int
    frontier: tuple[bytes, ...]


class Lease(Struct, frozen=True):
    boot_id: str
    durable: int
    """Everything up to this sequence was durable."""
    clean: Left | None = None


def read_lease(disk: Disk, shard: int, findings: Findings, boot_id: str, *, live: bool) -> Lease | None:
    """None when there is none that says anything. Of a live shard it may be in the middle of a change."""
    path = f"{shard_folder(shard)}/lease"
    try:
        data = disk.read_all(path)
    except OSError as error:
        findings.problem(f"cannot be read: {error.strerror or error}", file=path, shard=shard)
        return None
    if not data or is_free(data):
        findings.note("no lease says how far the shard was durable", file=path, shard=shard)
        return None
    found = read_summed(data)
    if len(data) % SECTOR_BYTES:  # it is put as a whole, and a disk loses whole sectors of it
        found = Summed(None)
    if found.text is not None:
        with suppress(msgspec.DecodeError):
            return msgspec.json.decode(found.text, type=Lease)
    if live:
        findings.note("the lease was being written", file=path, shard=shard)
    elif found.torn and not (boot_id and boot_id.encode() in data):
        findings.note("the lease was torn by a power loss, or changed", file=path, shard=shard)
    else:
        findings.fault("the lease does not have its checksum", file=path, offset=0, shard=shard)
    return None
