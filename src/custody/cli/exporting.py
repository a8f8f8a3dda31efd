"""`custody export --bundle` and `custody export --format`: records taken out of the store into a file.

Owns which options go together and what a person is told. What is in a bundle or a table is `bridges`'. Used
by `export`.
"""

import functools
import hashlib
import os
import sys
from collections.abc import Iterable, Mapping
from typing import IO, TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from custody.cli.invocation import message
from custody.cli.outgoing import STANDARD_OUTPUT, outgoing
from custody.cli.progress import Progress
from custody.errors import ExportFailed, NotRecorded, UsageError

if TYPE_CHECKING:
    from custody.bridges.bundle import Made
    from custody.index import CallFilter
    from custody.settings import Settings
    from custody.stores import View

READ_BYTES = 1024 * 1024

OF_BUNDLES = frozenset({"last", "tool", "run", "zstd", "force"})
OF_TABLES = frozenset("out records tool run session agent caller outcome since_us until_us force".split())
FLAGS = {name: f"--{name.removesuffix('_us').replace('_', '-')}" for name in OF_BUNDLES | OF_TABLES}


class Asked(Struct, frozen=True, kw_only=True):
    """What the options of `custody export` say."""

    bundle: str | None
    format: str | None
    options: Mapping[str, Any]
    """Those that were given, by name."""
    as_json: bool


def check(asked: Asked) -> None:
    """Raises UsageError for options that make no sense together."""
    if (asked.bundle is None) == (asked.format is None):
        raise UsageError(
            "Say what to export: --bundle FILE, or --format jsonl or parquet, or a command such as otel.",
            hint="See 'custody export --help'.",
        )
    known, what = (OF_BUNDLES, "--bundle") if asked.format is None else (OF_TABLES, "--format")
    strange = sorted(FLAGS[name] for name in asked.options.keys() - known)
    if strange:
        raise UsageError(
            f"{what} does not go with {', '.join(strange)}.", hint="See 'custody export --help'."
        )
    target = asked.bundle if asked.format is None else asked.options.get("out", STANDARD_OUTPUT)
    if asked.as_json and target == STANDARD_OUTPUT:
        raise UsageError("--json and the export cannot both go to standard output.", hint="Name a file.")


def export(settings: "Settings", asked: Asked) -> int:
    """Do it. Raises as `check`, and what cannot be read or written."""
    from custody.cli.view import opened

    check(asked)
    with opened(settings) as view:
        if asked.bundle is not None:
            return _bundle(view, settings, asked, asked.bundle)
        return _table(view, asked)


# -- bundles ------------------------------------------------------------------------------------------


def _bundle(view: "View", settings: "Settings", asked: Asked, path: str) -> int:
    from custody.bridges.bundle import Limits, Selection, bundle_maker
    from custody.stores import make_recorder, open_disk

    options = asked.options
    selection = Selection(last=options.get("last"), tool=options.get("tool"), run=options.get("run"))
    folder = None if path == STANDARD_OUTPUT else os.path.dirname(os.path.abspath(path))
    disk = open_disk(settings.store, create=False)
    recorder = functools.cache(lambda: make_recorder(disk, view.journal, os.environ, settings))
    maker = bundle_maker(disk, view.journal, lambda: view.index, recorder)
    with outgoing(path, force="force" in options) as file, Progress("{} calls gathered") as progress:
        made = maker.make(
            selection, Limits(), file, zstd="zstd" in options, folder=folder, progressed=progress
        )
        if not made.calls:
            raise ExportFailed(_why_none(made))
        digest = _digest(file)
    facts = {**msgspec.structs.asdict(made), "sha256": digest}
    said = {name: options.get(name) for name in ("last", "tool", "run")}
    try:
        recorder().event("bundle.made", {**facts, **said}, leaf_data=True)
    except (NotRecorded, OSError) as error:
        message(f"that this bundle was made could not be recorded: {error}")
    _tell_bundle(asked, path, made, facts)
    return 0


def _why_none(made: "Made") -> str:
    if made.unsigned:
        return f"No call is signed yet, so there is no bundle: {made.unsigned} have just been recorded."
    if made.omitted:
        return "Not one call fits into a bundle, so there is none."
    return "No call matches, so there is no bundle."


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while data := file.read(READ_BYTES):
        digest.update(data)
    return digest.hexdigest()


def _tell_bundle(asked: Asked, path: str, made: "Made", facts: dict[str, Any]) -> None:
    if asked.as_json:
        from custody.cli.document import print_document

        print_document({"bundle": path, **facts})
        return
    from custody.cli.render import size

    if path != STANDARD_OUTPUT:
        print(
            f"{_counted(made.calls, 'call')}, {_counted(made.records, 'record')}: {path}, {size(made.bytes)}"
        )
        print(f"sha256 {facts['sha256']}")
    notes = {
        "left out: a bundle takes no more": made.omitted,
        "left out: just recorded by another process, and not signed yet": made.unsigned,
        "with payloads that were purged": made.payloads_purged,
        "large values that were purged": made.blobs_gone,
    }
    for words, count in notes.items():
        if count:
            message(f"{count:,} {words}.")


# -- tables -------------------------------------------------------------------------------------------


def _table(view: "View", asked: Asked) -> int:
    from custody.bridges.tables import call_lines, record_lines

    options = asked.options
    path: str = options.get("out", STANDARD_OUTPUT)
    chosen = _filter(options)
    if asked.format == "parquet":
        return _parquet(view, asked, path, chosen)
    if "records" in options:
        lines: Iterable[bytes] = record_lines(view.journal, view.index, chosen)
    else:
        from custody.index import CallFilter

        lines = call_lines(view.index, chosen or CallFilter())
    what = "record" if "records" in options else "call"
    if path == STANDARD_OUTPUT:
        sys.stdout.flush()
        for line in lines:
            sys.stdout.buffer.write(line)
        return 0
    count = 0
    with outgoing(path, force="force" in options) as file, Progress("{} " + f"{what}s exported") as progress:
        for count, line in enumerate(lines, 1):
            file.write(line)
            progress(count)
    return _tell_table(asked, path, count, what)


def _parquet(view: "View", asked: Asked, path: str, chosen: "CallFilter | None") -> int:
    from custody.bridges.tables import require_pyarrow, write_parquet

    require_pyarrow()
    if "out" not in asked.options and sys.stdout.isatty():
        raise UsageError("Parquet is no text; a terminal cannot show it.", hint="Name a file with --out.")
    with outgoing(path, force="force" in asked.options) as file, Progress("{} records exported") as progress:
        count = write_parquet(view.journal, view.index, chosen, file, progress)
    return _tell_table(asked, path, count, "record")


def _filter(options: Mapping[str, Any]) -> "CallFilter | None":
    """None where nothing is left out."""
    from custody.index import CallFilter

    fields = {name: value for name, value in options.items() if name in CallFilter.__struct_fields__}
    return CallFilter(**fields) if fields else None


def _tell_table(asked: Asked, path: str, count: int, what: str) -> int:
    if asked.as_json:
        from custody.cli.document import print_document

        print_document({"file": path, "format": asked.format, f"{what}s": count})
    elif path != STANDARD_OUTPUT:
        print(f"{_counted(count, what)} exported to {path}")
    return 0


def _counted(count: int, what: str) -> str:
    return f"1 {what}" if count == 1 else f"{count:,} {what}s"
