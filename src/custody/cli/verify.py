"""`custody verify`: whether the store, a proof or a bundle is what it was.

Owns the options, the line of progress and how a report is shown. What is checked is `verify`'s; proofs are
`checkpoints`', bundles `bridges`'.
"""

from typing import TYPE_CHECKING, Any

import click

from custody.cli.invocation import printable
from custody.cli.options import json_option, look, store_option
from custody.cli.progress import Progress
from custody.errors import InvalidInput, MalformedKey, UsageError

if TYPE_CHECKING:
    from custody.journal.checkpoint import Verifier
    from custody.verify import Finding, Report, ShardVerdict

SHOWN_MAX = 20  # findings of a sort on a screen; `--json` has up to a hundred
FILE_BYTES_MAX = 1 << 30  # of an anchor or a proof; more is something else

PATH = click.Path(dir_okay=False)


@click.command("verify", epilog="Example:  custody verify --anchor /mnt/elsewhere/custody.log")
@click.option(
    "--anchor", "anchors", multiple=True, type=PATH, metavar="FILE",
    help="Checkpoints that were kept elsewhere must be part of the store (repeatable).",
)  # fmt: skip
@click.option(
    "--public-key", type=PATH, metavar="FILE",
    help="Only signatures of these keys count, whatever the store says of its own.",
)  # fmt: skip
@click.option("--proof", type=PATH, metavar="FILE", help="Check a proof instead; no store is needed.")
@click.option("--bundle", type=PATH, metavar="FILE", help="Check a bundle instead; no store is needed.")
@store_option
@json_option
def verify_command(
    anchors: tuple[str, ...],
    public_key: str | None,
    proof: str | None,
    bundle: str | None,
    store: str | None,
    as_json: bool,
) -> int:
    """Check the whole store against itself, its signatures, and what was kept elsewhere.

    Exits with 0 when it is intact, 1 when something is not as it was written, 2 when something is missing or
    cannot be read.
    """
    if (proof is not None) + (bundle is not None) + bool(anchors) > 1:
        raise UsageError("--anchor, --proof and --bundle check three different things; name one.")
    keys = None if public_key is None else _read_keys(public_key)
    if proof is not None:
        return _verify_proof(proof, keys, as_json=as_json)
    if bundle is not None:
        return _verify_bundle(bundle, keys, as_json=as_json)
    report = _verify_store(anchors, keys, store)
    if as_json:
        from custody.cli.document import print_document

        print_document(report)
    else:
        _show(report)
    return report.exit_code


def _verify_store(anchors: tuple[str, ...], keys: "list[Verifier] | None", store: str | None) -> "Report":
    from custody.journal import boot_id
    from custody.stores import open_disk
    from custody.verify import Wanted, verify_store

    settings = look(store)
    disk = open_disk(settings.store, create=False)
    wanted = Wanted({name: _read_file(name) for name in anchors}, keys)
    with Progress("{} records verified") as line:
        return verify_store(disk, root=settings.store, wanted=wanted, boot_id=boot_id(), progress=line)


def _read_keys(path: str) -> "list[Verifier]":
    from custody.journal.checkpoint import parse_verifiers

    try:
        keys = parse_verifiers(_read_file(path).decode())
    except (MalformedKey, UnicodeDecodeError):
        keys = []
    if not keys:
        raise InvalidInput(
            f"{path} holds no public key.", hint="`custody checkpoint --public-key` prints a store's."
        )
    return keys


def _read_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > FILE_BYTES_MAX:
        raise InvalidInput(f"{path} is larger than {FILE_BYTES_MAX:,} bytes.")
    return data


# -- proofs and bundles -----------------------------------------------------------------------------------


def _verify_proof(path: str, keys: "list[Verifier] | None", *, as_json: bool) -> int:
    from custody.checkpoints import check_proof

    faults = check_proof(_read_file(path), keys)
    return _tell(path, "proof", faults, own_keys=keys is None, as_json=as_json)


def _verify_bundle(path: str, keys: "list[Verifier] | None", *, as_json: bool) -> int:
    from custody.bridges.bundle import check_bundle

    try:
        with open(path, "rb") as file:
            found = check_bundle(file, keys)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error
    return _tell(path, "bundle", found["faults"], own_keys=keys is None, as_json=as_json, more=found)


def _tell(
    path: str,
    what: str,
    faults: list[str],
    *,
    own_keys: bool,
    as_json: bool,
    more: dict[str, Any] | None = None,
) -> int:
    if as_json:
        from custody.cli.document import print_document

        print_document(
            {**(more or {}), what: path, "ok": not faults, "keys_given": not own_keys, "faults": faults}
        )
        return 1 if faults else 0
    for fault in faults[:SHOWN_MAX]:
        print(printable(fault, keep=""))
    if len(faults) > SHOWN_MAX:
        print(f"{len(faults) - SHOWN_MAX:,} more")
    if faults:
        print(f"The {what} does not hold.")
    elif own_keys:
        print(f"The {what} holds together; whose key it is it says itself: --public-key FILE settles that.")
    else:
        print(f"The {what} holds.")
    return 1 if faults else 0


# -- a report ---------------------------------------------------------------------------------------------


def _show(report: "Report") -> None:
    for shard in report.shards:
        print(_shard_line(shard))
    for title, findings, count in (
        ("", report.faults, report.fault_count),
        ("cannot be read: ", report.problems, report.problem_count),
        ("note: ", report.notes, report.note_count),
    ):
        for finding in findings[:SHOWN_MAX]:
            print(f"{title}{_finding_line(finding)}")
        if count > SHOWN_MAX:
            print(f"{title}and {count - SHOWN_MAX:,} more (--json has up to {len(findings)})")
    if report.not_checked:
        print(f"Not checked: {'; '.join(report.not_checked)}.")
    print(report.verdict)


def _shard_line(shard: "ShardVerdict") -> str:
    parts = [f"shard {shard.shard}: complete to record {shard.records:,}"]
    if shard.first > 1:
        parts[0] += f" (from {shard.first:,}, the earlier ones were dropped)"
    if shard.signed:
        parts.append(f"signed to {shard.signed:,} (key {shard.signed_by}, {_time(shard.signed_at)})")
    else:
        parts.append("not signed")
    if shard.anchored:
        parts.append(f"anchored to {shard.anchored:,} ({_time(shard.anchored_at)})")
    if shard.purged:
        parts.append(f"{shard.purged:,} payloads purged")
    if shard.live:
        parts.append("in use")
    return ", ".join(parts)


def _time(at: str | None) -> str:
    return (at or "?").partition(".")[0].replace("T", " ")


def _finding_line(finding: "Finding") -> str:
    place = [] if finding.shard is None else [f"shard {finding.shard}"]
    if finding.sequence is not None:
        place.append(f"record {finding.sequence:,}")
    for name, identifier in (("call", finding.call_id), ("run", finding.run_id)):
        if identifier is not None:
            place.append(f"{name} {identifier[:8]}")
    if finding.file is not None:
        place.append(finding.file if finding.offset is None else f"{finding.file} at {finding.offset:,}")
    return printable(f"{', '.join(place)}: {finding.what}" if place else finding.what, keep="")
