"""`custody checkpoint`: sign what is on the record now, and show what is signed.

Owns what a person is told of checkpoints and their keys. What may be signed, and how, is `checkpoints`'.
"""

import functools
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from custody.cli.invocation import message
from custody.cli.options import json_option, look, store_option
from custody.errors import CheckpointRefused, NotFound, StoreReadOnly

if TYPE_CHECKING:
    from custody.checkpoints import Sealer
    from custody.journal import Disk, Journal
    from custody.journal.checkpoint import Note
    from custody.settings import Settings

LOCK_WAIT_SECONDS = 10.0  # another process signs for milliseconds; what takes longer hangs
DELIVERY_SECONDS = 12.0  # somebody waits for this command, so its commands have all their time


@click.command(
    "checkpoint",
    epilog="Example:  custody checkpoint >> /mnt/elsewhere/custody.log",
)
@click.option("--status", is_flag=True, help="Only show how far each shard is signed, and by which keys.")
@click.option("--public-key", is_flag=True, help="Only show the keys that checkpoints are checked with.")
@click.option("--rotate-key", is_flag=True, help="Sign with another key from here on.")
@store_option
@json_option
def checkpoint_command(
    status: bool, public_key: bool, rotate_key: bool, store: str | None, as_json: bool
) -> int:
    """Sign what is on the record now, and print the newest checkpoint: keep it elsewhere."""
    if status + public_key + rotate_key > 1:
        raise click.UsageError("--status, --public-key and --rotate-key are three questions; ask one.")
    settings = look(store)
    if public_key:
        return _show_keys(settings, as_json=as_json)
    if status:
        return _show_status(settings, as_json=as_json)
    with sealing(settings) as (disk, sealer):
        note = sealer.rotate_key(wait_seconds=LOCK_WAIT_SECONDS) if rotate_key else sealed(sealer)
        if note is None:
            raise busy()
        _deliver(settings, disk, note)
        for shard, wrong in sealer.refused.items():
            message(f"Shard {shard} is not signed any further: {wrong}. `custody verify` says more.")
        if as_json:
            _print_note(disk, note, sealer.refused)
        else:
            _write(note.data)
        return 1 if sealer.refused else 0


@contextmanager
def sealing(settings: "Settings") -> Generator[tuple["Disk", "Sealer"]]:
    """The store, and what signs it."""
    from custody.checkpoints import Sealer
    from custody.journal import Journal
    from custody.stores import make_recorder, open_disk

    disk = open_disk(settings.store, create=False)
    journal = Journal(disk)

    recorder = functools.cache(lambda: make_recorder(disk, journal, os.environ, settings))

    def record(name: str, data: dict[str, Any]) -> None:
        recorder().event(name, data, leaf_data=True)

    try:
        yield disk, Sealer(disk, journal, record)
    except PermissionError as error:
        raise StoreReadOnly(f"The store {settings.store} cannot be written: {error.strerror}.") from error
    finally:
        journal.close()


def sealed(sealer: "Sealer") -> "Note | None":
    """The newest checkpoint, over all there is to sign; None when others had the right all the time."""
    return sealer.seal(all_shards=True, wait_seconds=LOCK_WAIT_SECONDS)


def busy() -> CheckpointRefused:
    return CheckpointRefused("Another process has been signing all this time.", hint="Try again.")


def _write(data: bytes) -> None:
    from custody.cli.document import write_bytes

    write_bytes(data)


def _print_note(disk: "Disk", note: "Note", refused: dict[int, str]) -> None:
    from custody.checkpoints import read_verifiers
    from custody.cli.document import print_document

    checkpoint = note.checkpoint
    print_document(
        {
            "note": note.data.decode(),
            "origin": checkpoint.origin,
            "size": checkpoint.size,
            "root": checkpoint.root.hex(),
            "time": checkpoint.time,
            "shards": [
                {"shard": shard, "size": head.size, "root": head.root.hex()}
                for shard, head in checkpoint.heads.items()
            ],
            "keys": [verifier.line for verifier in read_verifiers(disk)],
            "refused": [{"shard": shard, "reason": wrong} for shard, wrong in refused.items()],
        }
    )


def _deliver(settings: "Settings", disk: "Disk", note: "Note") -> None:
    """To where the settings say, unless it is there already."""
    from custody.checkpoints import Destinations

    section = settings.file.checkpoints
    destinations = Destinations(disk, section.files, section.commands)
    if destinations and not destinations.have(note):
        destinations.offer(note)
        destinations.stop(DELIVERY_SECONDS)


# -- looking --------------------------------------------------------------------------------------------


def _show_keys(settings: "Settings", *, as_json: bool) -> int:
    from custody.checkpoints import read_verifiers
    from custody.stores import open_disk

    verifiers = read_verifiers(open_disk(settings.store, create=False))
    if not verifiers:
        raise NotFound(
            "Nothing in this store has been signed yet.", hint="`custody checkpoint` makes a key and signs."
        )
    if as_json:
        from custody.cli.document import print_document

        print_document(
            {"keys": [{"key_id": verifier.key_id, "key": verifier.line} for verifier in verifiers]}
        )
        return 0
    for verifier in verifiers:
        print(verifier.line)
    return 0


def _show_status(settings: "Settings", *, as_json: bool) -> int:
    from custody.checkpoints import load_keys, newest_note, read_arrivals, read_verifiers
    from custody.journal import Journal
    from custody.stores import open_disk

    disk = open_disk(settings.store, create=False)
    journal = Journal(disk)
    note, verifiers = newest_note(disk), read_verifiers(disk)
    keys = load_keys(disk)
    status: dict[str, Any] = {
        "size": note.checkpoint.size if note else None,
        "time": note.checkpoint.time if note else None,
        "shards": _shards(journal, note),
        "keys": [
            {
                "key_id": verifier.key_id,
                "key": verifier.line,
                "signs": keys is not None and keys.signer.verifier == verifier,
            }
            for verifier in verifiers
        ],
        "private_key": keys is not None,
        "destinations": [
            {"to": name, "size": arrival.size or None, "at": arrival.at,
             "undelivered": arrival.undelivered, "error": arrival.error}
            for name, arrival in read_arrivals(disk).items()
        ],
    }  # fmt: skip
    if as_json:
        from custody.cli.document import print_document

        print_document(status)
    else:
        _tell(status)
    return 0


def _shards(journal: "Journal", note: "Note | None") -> list[dict[str, Any]]:
    heads = note.checkpoint.heads if note else {}
    shards: list[dict[str, Any]] = []
    for state in journal.shards():
        head = heads.get(state.shard)
        shards.append(
            {
                "shard": state.shard,
                "records": journal.last_sequence(state.shard),
                "signed": head.size if head else 0,
                "held": state.holder == "held",
            }
        )
    return shards


def _tell(status: dict[str, Any]) -> None:
    if status["size"] is None:
        print("no checkpoint yet")
    else:
        print(f"checkpoint {status['size']} of {status['time']}")
    for shard in status["shards"]:
        print(f"shard {shard['shard']}: {shard['signed']:,} of {shard['records']:,} records signed")
    for key in status["keys"]:
        print(f"key {key['key_id']}{' signs' if key['signs'] else ' has been replaced'}")
    if status["keys"] and not status["private_key"]:
        print("the private key is gone: nothing is signed until it is back, or `--rotate-key` made another")
    for arrival in status["destinations"]:
        print(_arrival(arrival))
    sys.stdout.flush()


def _arrival(arrival: dict[str, Any]) -> str:
    reached = f"has checkpoint {arrival['size']}" if arrival["size"] else "has none yet"
    if arrival["error"] is None:
        return f"{arrival['to']} {reached}"
    return f"{arrival['to']} {reached}; {arrival['undelivered']} did not arrive since: {arrival['error']}"
