"""Whether a store is what it was: an independent reader of everything a store holds.

Owns the verification of segments, frames, sequences, digests, trees, signatures, tombstones, blobs and the
index, and what may be said of each. Shares with the writer the format alone (`journal.frames`,
`journal.tree`, `journal.checkpoint`, the record types): a mistake in the writer's way of reading does not
hide here. Writes nothing and takes no lock. Used by the command line.
"""

from custody.verify.findings import Finding, Report, ShardVerdict
from custody.verify.verify import Progress, Wanted, verify_store

__all__ = ["Finding", "Progress", "Report", "ShardVerdict", "Wanted", "verify_store"]
