"""What was on the record when: signed checkpoints over all shards, where they are kept, and proofs from them.

The names other packages use; each module says what it owns. The form of a checkpoint and of its keys is
`journal.checkpoint`, the arithmetic of proofs `journal.proofs`: both can be had without this package. What
only proofs need is imported when it is first used: every command that acts loads the rest.
"""

from typing import TYPE_CHECKING, Any

from custody.checkpoints.background import Due, start_sealing
from custody.checkpoints.destinations import Destinations, read_arrivals
from custody.checkpoints.keys import load_keys, read_verifiers
from custody.checkpoints.log import newest_note, read_log, seen_by_writer
from custody.checkpoints.sealer import Sealer

if TYPE_CHECKING:
    from custody.checkpoints.proof import InclusionProof, check_proof, parse_proof
    from custody.checkpoints.prove import Prover

__all__ = [
    "Destinations",
    "Due",
    "InclusionProof",
    "Prover",
    "Sealer",
    "check_proof",
    "load_keys",
    "newest_note",
    "parse_proof",
    "read_arrivals",
    "read_log",
    "read_verifiers",
    "seen_by_writer",
    "start_sealing",
]

_HOMES: dict[str, str] = {
    "InclusionProof": "proof",
    "Prover": "prove",
    "check_proof": "proof",
    "parse_proof": "proof",
}
"""Name -> the module of this package it comes from."""


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
