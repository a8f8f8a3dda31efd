"""`custody import`: what other programs have written down, as runs marked imported.

Owns which files are meant and what a person is told. How a transcript is read and recorded is
`bridges.transcripts`'. Used by the program alone.
"""

import os
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from custody.cli.invocation import message, printable
from custody.cli.options import json_option, look, store_option
from custody.errors import UsageError

if TYPE_CHECKING:
    from custody.bridges.transcripts.importing import Imported

LOCK = "import-claude-code"
NOTHING_UNDERSTOOD = "nothing in it is understood as a transcript of Claude Code"
NOT_TRANSCRIPTS = frozenset({"journal.jsonl"})  # of workflows: what they did stands in their agents' files


@click.group("import", epilog="Example:  custody import claude-code --json")
def import_command() -> None:
    """Put on the record what other programs have written down."""


@import_command.command("claude-code", epilog="Example:  custody import claude-code ~/.claude/projects")
@click.argument("paths", nargs=-1, type=click.Path(), metavar="[PATH]...")
@store_option
@json_option
def claude_code_command(paths: tuple[str, ...], store: str | None, as_json: bool) -> int:
    """Import transcripts of Claude Code: files, or folders of them [default: all there are].

    Each prompt becomes a run of its session, with the steps and calls that followed; a subagent's is a child.
    Nothing of it was guarded, and it is marked imported. Done again, it adds what is new.
    """
    import asyncio

    files = transcripts_in(paths or (_projects(),))
    done, failed = asyncio.run(_import(store, files))
    total = _total(done)
    if as_json:
        from custody.cli.document import print_document

        print_document({"files": len(files), **total, "failed": failed})
    else:
        _print(len(files) - len(failed), total, failed)
    if not total["understood"] and not failed:
        message("Nothing was imported: what was named is empty.")
    return 1 if failed or not total["understood"] else 0


def transcripts_in(paths: Iterable[str]) -> list[str]:
    """The files that are meant: a session before its subagents, which lie in a folder of its name. Raises
    UsageError where nothing is."""
    paths, found = list(paths), list[str]()
    for path in paths:
        if not os.path.exists(path):
            raise UsageError(f"There is no {path}.", hint="Name a transcript (.jsonl), or a folder of them.")
        if not os.path.isdir(path):
            found += [path, *_jsonl(path.removesuffix(".jsonl"))]
        else:
            found += _jsonl(path)
    if not found:
        raise UsageError(
            f"There is no transcript in {', '.join(paths)}.", hint="They are files that end in .jsonl."
        )
    return list(dict.fromkeys(map(os.path.realpath, found)))


def _jsonl(folder: str) -> list[str]:
    return [
        os.path.join(above, name)
        for above, folders, names in os.walk(folder)
        for name in (folders.sort(), sorted(names))[1]
        if name.endswith(".jsonl") and name not in NOT_TRANSCRIPTS
    ]


def _projects() -> str:
    folder = os.environ.get("CLAUDE_CONFIG_DIR") or os.path.join(os.path.expanduser("~"), ".claude")
    return os.path.join(folder, "projects")


async def _import(store: str | None, files: list[str]) -> "tuple[list[Imported], list[dict[str, str]]]":
    from asyncio import to_thread

    from custody.cli.progress import Progress
    from custody.compose import open_runtime

    runtime = await open_runtime(look(store), door="cli")
    try:
        lock = runtime.journal.export_lock(LOCK)
        if lock is None:
            raise UsageError("Another process is importing into this store.", hint="Let that one finish.")
        try:
            with Progress("{} lines read") as progress:
                return await to_thread(_import_files, runtime, files, progress)
        finally:
            lock.release()
    finally:
        await runtime.close()


def _import_files(
    runtime: Any, files: list[str], progress: Any
) -> "tuple[list[Imported], list[dict[str, str]]]":
    from custody.bridges.transcripts.importing import Importer

    importer = Importer(runtime.recording, runtime.index, progress)
    done: list[Imported] = []
    failed: list[dict[str, str]] = []
    for path in files:
        try:
            one = importer.file(path)
        except OSError as error:
            failed.append({"path": path, "reason": error.strerror or str(error)})
            continue
        done.append(one)
        has_lines = one.counts.unknown or one.counts.unreadable or one.counts.torn
        if has_lines and not one.counts.understood:
            failed.append({"path": path, "reason": NOTHING_UNDERSTOOD})
    return done, failed


def _total(done: "list[Imported]") -> dict[str, Any]:
    left_out: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for one in done:
        left_out += one.counts.left_out
        unknown += one.counts.unknown
    names = ("runs", "steps", "calls", "known", "going_on")
    return {
        **{name: sum(getattr(one, name) for one in done) for name in names},
        "left_out": dict(left_out.most_common()),
        "unknown": dict(unknown.most_common()),
        "unreadable": sum(one.counts.unreadable for one in done),
        "torn": sum(one.counts.torn for one in done),
        "understood": sum(one.counts.understood for one in done),
    }


def _print(files: int, total: dict[str, Any], failed: list[dict[str, str]]) -> None:
    what = ", ".join(_number(total[name], name.removesuffix("s")) for name in ("runs", "steps", "calls"))
    if files:
        print(f"Imported {what} from {_number(files, 'transcript')}.")
    if total["known"]:
        print(f"{_number(total['known'], 'run')} had been imported before.")
    if total["going_on"]:
        print(f"{_number(total['going_on'], 'turn')} may still go on: import again later.")
    for name, words in (("left_out", "No part of a run"), ("unknown", "Not understood, so left out")):
        if total[name]:
            parts = (f"{count:,} {printable(kind)}" for kind, count in total[name].items())
            print(f"{words}: {', '.join(parts)}.")
    if total["unreadable"]:
        print(f"{_number(total['unreadable'], 'line')} cannot be read as JSON.")
    if total["torn"]:
        print(f"{_number(total['torn'], 'last line')} had not been written to the end.")
    for one in failed:
        message(f"{printable(one['path'])} cannot be imported: {one['reason']}.")


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
