"""A shard's lease file: who has or had it, from which sequence on, and whether it was left in order.

Owns the file's form. It is advice: never synced, believed only as far as the frames bear it out, and a
reader that finds it torn treats the shard as held from its beginning. Used by `shard`, `journal`, `follow`.
"""

import os

import msgspec
from msgspec import Struct

from custody.journal.disk import Disk, RealDisk
from custody.journal.frames import extend
from custody.journal.segments import shard_folder

LEASE_BYTES = 4096
"""A frontier of 40 hashes fits; one page is written at a time."""


class Clean(Struct, frozen=True):
    """Where the last lease ended, everything before it durable."""

    segment: int
    offset: int
    sequence: int
    """The next one."""
    commit: int
    """Offset of the commit frame that ends at `offset`."""
    frontier: tuple[bytes, ...]
    total_bytes: int
    """Of all segments, from which the size of the next follows."""


class Lease(Struct, frozen=True):
    first_sequence: int
    pid: int
    start_ticks: int | None
    boot_id: str
    durable: int
    """Everything up to this sequence was durable when this was written: it is there, or it is damaged."""
    clean: Clean | None = None


def lock_path(shard: int) -> str:
    return f"{shard_folder(shard)}/lock"


def lease_path(shard: int) -> str:
    return f"{shard_folder(shard)}/lease"


_decoder = msgspec.json.Decoder(Lease)


def encode_lease(lease: Lease) -> bytes:
    text = msgspec.json.encode(lease)
    data = b"%08x %s\n" % (extend(0, text), text)
    assert len(data) <= LEASE_BYTES, "a frontier has fewer than 40 hashes"
    return data.ljust(LEASE_BYTES)


def read_lease(disk: Disk, shard: int) -> Lease | None:
    """None when there is none or it is torn."""
    crc, _, text = (disk.read_all(lease_path(shard)) or b"").rstrip().partition(b" ")
    try:
        return _decoder.decode(text) if int(crc, 16) == extend(0, text) else None
    except (ValueError, msgspec.DecodeError):
        return None


def write_lease(disk: Disk, shard: int, lease: Lease) -> None:
    path = lease_path(shard)
    try:
        file = disk.open(path)
    except FileNotFoundError:
        file = disk.open(path, create=True)
    try:
        file.put(encode_lease(lease), 0)
    finally:
        file.close()


def boot_id() -> str:
    """The kernel's id of this boot; empty where it has none."""
    return _read_proc("sys/kernel/random", "boot_id").strip()


def own_start_ticks() -> int | None:
    """When this process started, in clock ticks since boot."""
    fields = _read_proc(str(os.getpid()), "stat").rpartition(")")[2].split()
    return int(fields[19]) if len(fields) > 19 else None


def _read_proc(folder: str, name: str) -> str:
    try:
        file = RealDisk(f"/proc/{folder}", create=False).open(name, write=False)
    except Exception:
        return ""
    try:
        return file.read(4096, 0).decode(errors="replace")
    finally:
        file.close()
