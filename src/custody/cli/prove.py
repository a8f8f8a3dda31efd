"""`custody prove`: what anybody can check without the store.

Owns which records are proved and what a person is told. The proofs are `checkpoints`'.
"""

import os
from typing import TYPE_CHECKING, Any

import click

from custody.cli.checkpoint import busy, sealed, sealing
from custody.cli.invocation import message
from custody.cli.options import complete_id, json_option, look, store_option
from custody.cli.progress import Progress
from custody.errors import CheckpointRefused, InvalidInput, MalformedNote, NotFound

if TYPE_CHECKING:
    from custody.checkpoints import Prover
    from custody.journal import Disk, Stored
    from custody.journal.checkpoint import Note
    from custody.settings import Settings
    from custody.stores import View


@click.command("prove", epilog="Example:  custody prove latest --out proof.json")
@click.argument("target", required=False, metavar="CALL|RUN", shell_complete=complete_id)
@click.option(
    "--consistency", metavar="OLD", type=click.Path(dir_okay=False),
    help="Prove that nothing was taken back since OLD: a file with a checkpoint or a proof.",
)  # fmt: skip
@click.option("--out", metavar="FILE", type=click.Path(dir_okay=False), help="Write the proof to this file.")
@store_option
@json_option
def prove_command(
    target: str | None, consistency: str | None, out: str | None, store: str | None, as_json: bool
) -> int:
    """Give a proof of a call or a run: `custody verify --proof` checks it, and so can anybody."""
    if (target is None) == (consistency is None):
        raise click.UsageError("Name a call or a run, or an older checkpoint with --consistency.")
    settings = look(store)
    old = None if consistency is None else read_note(consistency)
    with Progress("{} records read") as line:
        if old is not None:
            return _prove_consistency(settings, old, out, line, as_json=as_json)
        assert target is not None, "one of the two was given"
        return _prove_records(settings, target, out, line, as_json=as_json)


# -- records --------------------------------------------------------------------------------------------


def _prove_records(
    settings: "Settings", target: str, out: str | None, line: Progress, *, as_json: bool
) -> int:
    from custody.cli.view import opened
    from custody.stores import open_disk

    with opened(settings) as view:
        of, records = _records_of(view, target)
        disk = open_disk(settings.store, create=False)
        note = _note_over(settings, disk, records)
        with _prover(disk, view, note, line) as prover:
            proof = prover.inclusion(of, records)
    checkpoint = note.checkpoint
    _give(
        proof,
        out,
        {"of": of, "records": len(records), "checkpoint": checkpoint.size, "time": checkpoint.time},
        f"{len(records)} records of {of} are under checkpoint {checkpoint.size} of {checkpoint.time}",
        as_json=as_json,
    )
    return 0


def _records_of(view: "View", target: str) -> tuple[str, list["Stored"]]:
    """The id of a call or run, and its records; a run's calls are among them."""
    from custody.records import Call, Run

    index = view.index
    found = index.find(target)
    if isinstance(found, Call):
        places = index.call_records(found.id, refresh=False)
    elif isinstance(found, Run):
        places = index.run_records(found.id, refresh=False)
        for call in index.run_calls(bytes.fromhex(found.id), refresh=False):
            places += index.call_records(call.id, refresh=False)
    else:
        raise NotFound(f"{target} is a step; a proof is of a call or of a whole run.")
    return found.id, [view.journal.read(*place) for place in dict.fromkeys(places)]


def _note_over(settings: "Settings", disk: "Disk", records: list["Stored"]) -> "Note":
    """The newest checkpoint, made now unless it covers all of them. Raises CheckpointRefused."""
    from custody.checkpoints import newest_note

    note = newest_note(disk)
    if note is None or not _covers(note, records):
        with sealing(settings) as (_, sealer):
            note = sealed(sealer)
        if note is None:
            raise busy()
        if not _covers(note, records):
            wrong = next(
                (sealer.refused[record.shard] for record in records if record.shard in sealer.refused), None
            )
            raise CheckpointRefused(
                "Some of these records are not under a checkpoint"
                + (f": {wrong}." if wrong else "; the process that writes them signs them before long."),
                hint="`custody verify` says more." if wrong else "Try again in some seconds.",
            )
    return note


def _covers(note: "Note", records: list["Stored"]) -> bool:
    heads = note.checkpoint.heads
    return all(record.shard in heads and record.sequence <= heads[record.shard].size for record in records)


def _prover(disk: "Disk", view: "View", note: "Note", line: Progress) -> "Prover":
    from custody.checkpoints import Prover

    return Prover(disk, view.journal, note, progress=line)


# -- an older checkpoint --------------------------------------------------------------------------------


def _prove_consistency(
    settings: "Settings", old: "Note", out: str | None, line: Progress, *, as_json: bool
) -> int:
    from custody.checkpoints import Prover, newest_note
    from custody.journal import Journal
    from custody.stores import open_disk

    disk = open_disk(settings.store, create=False)
    note = newest_note(disk)
    if note is None:
        raise CheckpointRefused(
            "This store has no checkpoint, though there is an older one of it.",
            hint="Its log of checkpoints is gone; `custody verify` says more.",
        )
    journal = Journal(disk)
    try:
        with Prover(disk, journal, note, progress=line) as prover:
            made = prover.consistency(old)
    finally:
        journal.close()
    before, after = old.checkpoint, note.checkpoint
    faults = list(made.faults)
    _give(
        made.proof,
        out,
        {"consistent": not faults, "faults": faults, "old": before.size, "new": after.size},
        f"checkpoint {after.size} of {after.time} goes on from {before.size} of {before.time}"
        if not faults
        else f"checkpoint {after.size} does not go on from {before.size}",
        as_json=as_json,
    )
    for fault in faults:
        message(fault)
    return 1 if faults else 0


def read_note(path: str) -> "Note":
    """The newest checkpoint in a file: a note, a log of them, or the one a proof is under.

    Raises InvalidInput.
    """
    from custody.checkpoints import parse_proof
    from custody.checkpoints.proof import ConsistencyProof
    from custody.journal.checkpoint import parse_log, parse_note

    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error
    try:
        if data.lstrip()[:1] == b"{":
            proof = parse_proof(data)
            return parse_note(
                (proof.new if isinstance(proof, ConsistencyProof) else proof.checkpoint).encode()
            )
        notes = parse_log(data).notes
    except MalformedNote as error:
        raise InvalidInput(f"{path} holds no checkpoint: {error.message}") from error
    if not notes:
        raise InvalidInput(f"{path} holds no checkpoint.", hint="`custody checkpoint` prints one to keep.")
    return notes[-1]


# -- what is given --------------------------------------------------------------------------------------


def _give(proof: Any, out: str | None, document: dict[str, Any], text: str, *, as_json: bool) -> None:
    """The proof to standard output, or to a file and a word about it here."""
    from custody.cli.document import encode, print_document, write_bytes

    data = encode(proof) + b"\n"
    if out is None:
        write_bytes(data)
        return
    try:
        with open(out, "wb") as file:
            file.write(data)
    except OSError as error:
        raise InvalidInput(f"{out} cannot be written: {error.strerror}.") from error
    if as_json:
        print_document({"out": os.path.abspath(out), "bytes": len(data), **document})
    else:
        print(f"{text}: {out}")
