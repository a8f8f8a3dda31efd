"""Small files that begin with their checksum, are filled up with spaces, and are put in place without a sync.

Owns the difference between one that a power loss tore and one that was changed: a disk writes a sector whole
or not at all, so a line that ends within the first sector is never torn. Used by `lease` and `surroundings`.
"""

import re

from msgspec import Struct

from custody.journal.frames import extend

SECTOR_BYTES = 512
_BEGUN = re.compile(rb"[0-9a-f]{8} \{[ -~]*")


class Summed(Struct, frozen=True):
    """What was read of such a file."""

    text: bytes | None
    """None when it cannot be believed."""
    torn: bool = False
    """A power loss can have left it so."""


def read_summed(data: bytes) -> Summed:
    """The text behind the checksum."""
    line, newline, rest = data.partition(b"\n")
    crc, _, text = line.partition(b" ")
    begun = data[:SECTOR_BYTES]
    if not any(begun):
        return Summed(None, torn=True)
    if not newline or line != b"%08x %s" % (extend(0, text), text) or crc != b"%08x" % extend(0, text):
        return Summed(None, torn=len(line) >= SECTOR_BYTES and _BEGUN.fullmatch(begun) is not None)
    here = SECTOR_BYTES - (len(line) + 1) % SECTOR_BYTES
    sectors = [rest[:here], *(rest[at : at + SECTOR_BYTES] for at in range(here, len(rest), SECTOR_BYTES))]
    if rest[:here].strip(b" ") or any(sector.strip(b" ") and any(sector) for sector in sectors[1:]):
        return Summed(None, torn=any(not any(sector) for sector in sectors[1:]))
    return Summed(text)
