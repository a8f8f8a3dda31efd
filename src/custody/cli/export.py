"""`custody export`: what is on the record, to systems that are run already.

Owns the options of each export and what a person is told of its progress and its end. What is sent, and
when, is `bridges`'.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from custody.cli.asking import OPTIONS
from custody.cli.invocation import message
from custody.cli.options import json_option, look, store_option
from custody.cli.progress import PROGRESS_AFTER_SECONDS
from custody.errors import ExportFailed, UsageError

if TYPE_CHECKING:
    from custody.bridges.otel.destination import Destination
    from custody.bridges.otel.exporter import Exporter, Progress
    from custody.journal.disk import Lock
    from custody.settings import Settings
    from custody.stores import View

PATIENCE_SECONDS = 10.0  # for a collector that asks to be tried again; --follow has no end to its patience
LOOK_SECONDS = 0.2  # how late a signal is heard
SIGNALLED_EXIT_CODE = 128  # plus the signal's number, as every command has it


class Header(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]  (generic from click 8.4 on)
    """NAME=VALUE. The value is never shown."""

    name = "header"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        name, given, text = value.partition("=")
        if not name or not given:
            self.fail("a header is written NAME=VALUE.", param, ctx)
        return name, text


@click.group(
    "export",
    invoke_without_command=True,
    epilog="Example:  custody export --bundle audit.tar.gz --run nightly",
)
@click.option("--bundle", metavar="FILE", help="Calls with their proofs, and a program that checks them.")
@click.option(
    "--format", type=click.Choice(["jsonl", "parquet"]), help="A line a call, or a table with a row a record."
)
@click.option("--out", metavar="FILE", help="With --format: into this file [default: standard output].")
@click.option("--records", is_flag=True, default=None, help="With jsonl: a line a record, not a call.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="With --bundle: the newest N calls.")
@click.option("--zstd", is_flag=True, default=None, help="With --bundle: packed smaller; see its README.")
@click.option("--tool", metavar="NAME", help="Of this tool; for a bundle also glob:PATTERN.")
@OPTIONS["run"]
@OPTIONS["session"]
@OPTIONS["agent"]
@OPTIONS["caller"]
@OPTIONS["outcome"]
@OPTIONS["since"]
@OPTIONS["until"]
@click.option("--force", is_flag=True, default=None, help="Overwrite the file.")
@store_option
@json_option
@click.pass_context
def export_command(
    context: click.Context,
    bundle: str | None,
    format: str | None,
    store: str | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Take what is on the record out of the store, or send it to other systems."""
    from custody.cli.exporting import Asked, export

    options = {name: value for name, value in given.items() if value is not None}
    if context.invoked_subcommand is not None:
        if bundle or format or store or as_json or options:
            raise UsageError(f"{context.invoked_subcommand} takes its options behind its name.")
        return 0
    return export(look(store), Asked(bundle=bundle, format=format, options=options, as_json=as_json))


@export_command.command("otel", epilog="Example:  custody export otel --endpoint http://localhost:4318")
@click.option("--endpoint", metavar="URL", help="Base URL of a collector [env: OTEL_EXPORTER_OTLP_ENDPOINT].")
@click.option(
    "--protocol", metavar="http|grpc", help="How it is spoken to [env: OTEL_EXPORTER_OTLP_PROTOCOL]."
)
@click.option(
    "--header", "headers", type=Header(), multiple=True, metavar="NAME=VALUE",
    help="Sent with each request (repeatable) [env: OTEL_EXPORTER_OTLP_HEADERS].",
)  # fmt: skip
@click.option("--content", is_flag=True, help="Arguments, results and texts too, as recorded: redacted.")
@click.option("--insecure", is_flag=True, help="Allow another machine without TLS.")
@click.option("--from-start", is_flag=True, help="All spans once more, with the ids they had.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is recorded, until a signal.")
@store_option
@json_option
def otel_command(
    endpoint: str | None,
    protocol: str | None,
    headers: tuple[tuple[str, str], ...],
    content: bool,
    insecure: bool,
    from_start: bool,
    follow: bool,
    store: str | None,
    as_json: bool,
) -> int:
    """Send what has ended to an OpenTelemetry collector, from where the last export stopped."""
    from custody.bridges.otel.destination import destination_of, require_packages
    from custody.cli.view import opened

    settings = look(store)
    destination = destination_of(
        settings.file.otel,
        os.environ,
        endpoint=endpoint,
        protocol=protocol,
        headers=dict(headers),
        insecure=insecure,
    )
    require_packages(destination.protocol)
    with opened(settings) as view:
        lock = _lock(view, destination)
        make = _maker(settings, view, destination, content=content)
        if follow:
            return _follow(view, make, lock, from_start=from_start, as_json=as_json)
        try:
            return _export(make(threading.Event()), from_start=from_start, as_json=as_json)
        finally:
            lock.release()


def _lock(view: "View", destination: "Destination") -> "Lock":
    try:
        lock = view.journal.export_lock(destination.name)
    except OSError as error:
        raise ExportFailed(f"Where the export stands cannot be kept: {error.strerror}.") from None
    if lock is None:
        raise ExportFailed(
            f"Another process exports this store to {destination.shown}.",
            hint="What it sends is the same; leave it to that one, or end it.",
        )
    return lock


def _maker(
    settings: "Settings", view: "View", destination: "Destination", *, content: bool
) -> "Callable[[threading.Event], Exporter]":
    from custody.bridges.otel.exporter import Exporter
    from custody.stores import make_recorder, open_disk

    section = settings.file.otel
    return lambda stop: Exporter(
        journal=view.journal,
        index=view.index,
        make_recorder=lambda: make_recorder(
            open_disk(settings.store, create=False), view.journal, os.environ, settings
        ),
        destination=destination,
        content=content or section.content,
        service_name=section.service_name,
        say=message,
        stop=stop,
    )


def _export(exporter: "Exporter", *, from_start: bool, as_json: bool) -> int:
    """Everything there is now. Raises ExportFailed, saying what remains."""
    exporter.resume(from_start=from_start)
    try:
        with _Line() as line:
            failure = exporter.deliver_all(patience_seconds=PATIENCE_SECONDS, progressed=line)
    finally:
        exporter.save()
    if failure is not None:
        raise ExportFailed(
            f"{exporter.destination.shown}: {failure.words}. "
            f"{_spans(exporter.progress.spans)} exported, {exporter.remaining():,} remain.",
            hint="Nothing is lost: the same command goes on where this one stopped.",
        )
    _tell(exporter, as_json=as_json)
    return 0


def _follow(
    view: "View",
    make: "Callable[[threading.Event], Exporter]",
    lock: "Lock",
    *,
    from_start: bool,
    as_json: bool,
) -> int:
    """Until SIGINT or SIGTERM."""
    from custody.bridges.otel.background import BackgroundExport

    heard: list[int] = []

    def hear(number: int, _frame: FrameType | None) -> None:
        heard.append(number)

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        export = BackgroundExport(view.journal, view.index, make, lock)
        export.exporter.resume(from_start=from_start)
        export.start()
        while not heard and not export.wait(LOOK_SECONDS):
            pass
        export.stop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    _tell(export.exporter, as_json=as_json)
    return SIGNALLED_EXIT_CODE + heard[0] if heard else 1


def _tell(exporter: "Exporter", *, as_json: bool) -> None:
    progress = exporter.progress
    if as_json:
        from custody.cli.document import print_document

        print_document(
            {
                "destination": exporter.destination.shown,
                "spans": progress.spans,
                "rejected": progress.rejected,
                "points_rejected": progress.points_rejected,
                "unreadable": progress.unreadable,
                "metrics": not progress.metrics_absent,
                "remaining": exporter.remaining(),
            }
        )
        return
    print(f"{_spans(progress.spans)} exported to {exporter.destination.shown}")
    if progress.rejected or progress.points_rejected:
        print(f"{progress.rejected} rejected, with {progress.points_rejected} points: {progress.words}")
    if progress.unreadable:
        print(f"{progress.unreadable} could not be read")


def _spans(count: int) -> str:
    return "1 span" if count == 1 else f"{count:,} spans"


class _Line:
    """A line on a terminal that says how many spans have gone, once that takes long."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._shown = False

    def __enter__(self) -> "_Line":
        return self

    def __call__(self, progress: "Progress") -> None:
        if time.monotonic() - self._began >= PROGRESS_AFTER_SECONDS and sys.stderr.isatty():
            self._shown = True
            sys.stderr.write(f"\rcustody: {_spans(progress.spans)} exported so far\x1b[K")
            sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
