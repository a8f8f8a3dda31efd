"""`custody doctor`: how the store and the machine stand, and what this machine can give.

Owns the list of checks and the words for them. Each check reads; none repairs. Used by the program
alone.
"""

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from custody.cli.doctor_policy import pause_finding, policy_findings
from custody.cli.doctor_walls import wall_findings
from custody.cli.finding import Finding, State
from custody.cli.looking import load_to_look
from custody.cli.options import json_option, store_option
from custody.errors import CustodyError, UsageError
from custody.records import document

if TYPE_CHECKING:
    from custody.journal import Disk
    from custody.settings import Settings
    from custody.stores import View

MARKS: dict[State, tuple[str, str]] = {"ok": ("✓", "green"), "note": ("·", "yellow"), "wrong": ("✗", "red")}

READING_STATES: dict[str, State] = {"ok": "ok", "unknown": "note", "refusing": "wrong"}

SQLITE_MIN = (3, 51, 3)  # older ones can corrupt a database in WAL mode


@click.command("doctor", epilog="Example:  custody doctor --json")
@store_option
@json_option
def doctor_command(store: str | None, as_json: bool) -> int:
    """Check the store and the machine; 1 if something is wrong."""
    findings = list(look(store))
    wrong = any(finding.state == "wrong" for finding in findings)
    if as_json:
        from custody.cli.document import print_document

        print_document({"healthy": not wrong, "findings": [asdict(finding) for finding in findings]})
    else:
        _print(findings)
    return 1 if wrong else 0


def look(store: str | None) -> Iterator[Finding]:
    """Everything there is to say, in the order it is shown."""
    yield from _versions()
    try:
        settings, unusable = load_to_look(store)
    except CustodyError as error:
        yield _refused("settings", error)
        return
    yield Finding(
        "settings", "ok", list(settings.files_read), ", ".join(settings.files_read) or "defaults alone"
    )
    yield from policy_findings(settings.policy_layers, unusable)
    yield _answers()
    yield from _store(settings)
    yield from _machine(settings)
    yield from _walls()
    yield from wall_findings(settings.file.sandbox.uids, _folder_of(settings.store))


def _folder_of(store: str) -> str | None:
    from custody.settings import MEMORY

    return None if store == MEMORY else store


def _answers() -> Finding:
    from custody.calls.descent import FENCE

    return Finding("answers", "note", "fence", FENCE)


def _refused(name: str, error: CustodyError) -> Finding:
    return Finding(name, "wrong", type(error).__name__, error.message, error.hint)


def _versions() -> Iterator[Finding]:
    import apsw

    from custody import __version__, native

    yield Finding(
        "custody", "ok", __version__, f"{__version__} in {os.path.dirname(os.path.dirname(__file__))}"
    )
    yield Finding(
        "python", "ok", platform.python_version(), f"{platform.python_version()} ({sys.executable})"
    )
    missing = native.missing()
    in_c = [name for name in native.FUNCTIONS if name not in missing]
    yield Finding(
        "recording", "ok" if in_c else "note", {"in_c": in_c, "in_python": missing},
        f"in C{', but in Python ' + ', '.join(missing) if missing else ''}" if in_c else "in Python alone",
        None if in_c else "Twice as fast where a C compiler is at hand when Custody is installed.",
    )  # fmt: skip
    version = apsw.sqlite_lib_version()
    old = tuple(int(part) for part in version.split(".")[:3]) < SQLITE_MIN
    yield Finding(
        "sqlite", "wrong" if old else "ok", version, version, "pip install -U apsw" if old else None
    )
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    linux = sys.platform == "linux"
    yield Finding(
        "system", "ok" if linux else "note", system, system, None if linux else "Commands run on Linux only."
    )


def _store(settings: "Settings") -> Iterator[Finding]:
    from custody.stores import open_disk, open_view

    path = os.path.abspath(os.path.expanduser(settings.store))
    if not os.path.lexists(path):
        yield Finding(
            "store", "note", path, f"{path} is not there yet", "custody init makes it, or the first call."
        )
        return
    try:
        disk = open_disk(settings.store, create=False)
    except CustodyError as error:
        yield _refused("store", error)
        return
    yield Finding("store", "ok", path, path)
    writable = os.access(path, os.W_OK)
    yield Finding(
        "writable", "ok" if writable else "wrong", writable, "yes" if writable else "no",
        None if writable else "Calls are refused until this user can write there.",
    )  # fmt: skip
    yield from _space(disk)
    yield from _retention(settings)
    yield _daemon(disk)
    try:
        with open_view(settings) as view:
            yield from _shards(view)
            yield _undo(settings, view)
            yield _held(settings, view)
            yield pause_finding(view.index, settings.policy_layers)
    except CustodyError as error:
        yield _refused("journal", error)


def _space(disk: Any) -> Iterator[Finding]:
    from custody.cli.render import size

    free, total = disk.free_bytes()
    yield Finding(
        "free space", "ok", {"free_bytes": free, "total_bytes": total}, f"{size(free)} of {size(total)}"
    )
    network = disk.network_filesystem()
    yield Finding(
        "file system", "note" if network else "ok", network or "local", network or "local",
        "Locks and syncs may not hold there; choose a local folder." if network else None,
    )  # fmt: skip


def _retention(settings: "Settings") -> Iterator[Finding]:
    from custody.cli.render import size
    from custody.cli.room import near_bound, nearly_full
    from custody.retention.bounds import standing

    section = settings.file.retention
    stands = standing(settings.store, section.bytes_max)
    full, near = nearly_full(stands), near_bound(stands)
    if full is not None:
        yield Finding("disk", "note", stands.free_bytes, full, "Calls are refused when it is full.")
    bounds = [f"{section.days_max:g} days"] if section.days_max else []
    bounds += [f"{size(stands.used_bytes)} of {size(section.bytes_max)}"] if section.bytes_max else []
    yield Finding(
        "retention", "note" if near else "ok",
        {"days_max": section.days_max, "bytes_max": section.bytes_max, "used_bytes": stands.used_bytes},
        ", ".join(bounds) or "no bound: nothing is ever purged by itself",
        "custody purge --retention makes room." if near else None,
    )  # fmt: skip


def _daemon(disk: "Disk") -> Finding:
    """Nothing is wrong where there is none: it is for agents that are other programs."""
    from custody.cli.daemon import LOCK_FILE, require_packages, serving_of

    if disk.locked(LOCK_FILE):
        serving = serving_of(disk)
        text = "starting" if serving is None else f"process {serving.pid} at {', '.join(serving.addresses)}"
        return Finding("daemon", "ok", document(serving), text)
    try:
        require_packages()
    except UsageError as error:
        return Finding("daemon", "note", None, "what it needs is not installed", error.hint)
    return Finding("daemon", "ok", None, "none serves this store")


def _shards(view: Any) -> Iterator[Finding]:
    from custody.journal.frames import FORMAT_VERSION

    yield Finding("format", "ok", FORMAT_VERSION, str(FORMAT_VERSION))
    shards = view.journal.shards()
    held = sum(shard.holder != "free" for shard in shards)
    torn = sum(shard.holder == "free" and not shard.clean for shard in shards)
    text = f"{len(shards)}, {held} being written" + (f", {torn} left by processes that died" if torn else "")
    yield Finding("shards", "ok", {"all": len(shards), "held": held, "unclean": torn}, text)
    recovered = view.recovered
    if recovered.calls_unknown:
        count = len(recovered.calls_unknown)
        yield Finding("recovered", "note", count, f"{count} calls of dead processes are now unknown")


def _undo(settings: "Settings", view: Any) -> Finding:
    from custody.cli.render import size

    kept = {"calls": sum(1 for _ in view.undo.call_ids()), "bytes": view.undo.total_bytes()}
    bound = settings.file.undo
    text = f"of {kept['calls']:,} calls, {size(kept['bytes'])} of {size(bound.bytes_max)}"
    return Finding("undo data", "ok", kept, f"{text}; kept for {bound.days_max:g} days")


def _held(settings: "Settings", view: "View") -> Finding:
    from custody.cli.render import ago
    from custody.index import CallFilter
    from custody.stores import held_store

    waiting = len(held_store(settings).calls())
    if not waiting:
        return Finding("held changes", "ok", {"calls": 0, "oldest": None}, "none wait")
    asked = view.index.calls(CallFilter(held=True, order="oldest"), limit=1, refresh=False).items
    oldest = asked[0].asked_at if asked else None
    since = "" if oldest is None else f"; the oldest: {ago(oldest)}"
    days_max = settings.file.undo.held_days_max
    until = f"; each is dropped after {days_max:g} days" if days_max else ""
    text = f"of {waiting:,} call{'s' if waiting > 1 else ''}, to be committed or discarded{since}{until}"
    value = {"calls": waiting, "oldest": oldest}
    return Finding("held changes", "note", value, text, "custody calls --held lists them.")


def _machine(settings: "Settings") -> Iterator[Finding]:
    from custody.host import Breaker, Sampler

    folder = settings.store
    while not os.path.isdir(folder):
        folder = os.path.dirname(os.path.abspath(folder))
    sample = Sampler(folder).sample()
    for reading in Breaker(settings.file.breaker).readings(sample):
        state = READING_STATES[reading.state]
        shown = "unknown" if reading.value is None else _with_unit(reading.value, reading.unit)
        text = f"{shown}, from the {reading.source}; the limit is {_with_unit(reading.limit, reading.unit)}"
        hint = f"Calls are refused; the limit is {reading.setting}." if state == "wrong" else None
        yield Finding(f"breaker: {reading.name.replace('_', ' ')}", state, document(reading), text, hint)


def _with_unit(value: float, unit: str) -> str:
    from custody.cli.render import size

    if unit == "bytes":
        return str(size(value))
    return f"{value:.3g} %" if unit == "percent" else f"{value:g}"


def _walls() -> Iterator[Finding]:
    pressure = os.path.exists("/proc/pressure/cpu")
    yield Finding(
        "pressure readings", "ok" if pressure else "note", pressure,
        "/proc/pressure" if pressure else "none; processor time is used instead",
    )  # fmt: skip
    kill = _cgroup_kill()
    yield Finding(
        "cgroup.kill", "ok" if kill else "note", kill,
        "available" if kill else "not available; process trees are ended by walking them",
    )  # fmt: skip


def _cgroup_kill() -> bool:
    """Whether a cgroup can be made here whose processes are killed at once."""
    from custody.sandbox.cgroup import make_cgroup, parent_folder

    parent = parent_folder()
    made = None if parent is None else make_cgroup(parent)
    if made is None:
        return False
    made.remove()
    return True


def _print(findings: list[Finding]) -> None:
    from custody.cli.invocation import printable
    from custody.cli.render import paint

    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark, style = MARKS[finding.state]
        hint = "" if finding.hint is None else f"  {finding.hint}"
        print(
            f"{paint(mark, style)} {finding.name.ljust(width)}  {printable(finding.text)}{paint(hint, 'dim')}"
        )
