"""Bundles: records taken out of a store with all that somebody else needs to check them.

A bundle is a tar of plain files. `records.jsonl` has each record's leaf and payload as stored and the path of
its leaf to the root that `checkpoint` signs; `blobs/` what was too large for a payload; `witnesses/` one file
a call, as every door shows it; `SHA256SUMS` the digest of each file, and `BUNDLE`, signed by the store's key,
how many there are of everything and the digest of that list. `verify.py` checks it all and needs nothing of
Custody; `custody verify --bundle` runs the same code.

`selection` says which calls, `making` gathers their records, `evidence` has the proofs, `packing` writes the
archive, `download` is the tool of it. Used by `compose` and the command line.
"""

from custody.bridges.bundle.checking import check_bundle
from custody.bridges.bundle.download import WitnessDownload
from custody.bridges.bundle.evidence import StoreEvidence, bundle_maker
from custody.bridges.bundle.making import BundleMaker, Evidence, Limits, Made
from custody.bridges.bundle.selection import Selection

__all__ = [
    "BundleMaker",
    "Evidence",
    "Limits",
    "Made",
    "Selection",
    "StoreEvidence",
    "WitnessDownload",
    "bundle_maker",
    "check_bundle",
]
