"""`custody skills install` and `remove`: a person sees what would be done and says yes; then it is a call.

Owns what is shown before the question, and that a yes is to what was shown: what is installed has the digest
that was. What may be installed, and how, is the tools' of `custody.skills`. Used by `skills` alone.
"""

import asyncio
import os
import re
from typing import Any

import click
from msgspec.structs import replace

from custody.cli.acting import Asked, act_interruptibly, exit_code, explanation
from custody.cli.consent import DECLINED_EXIT_CODE, says_yes, somebody_is_there
from custody.cli.invocation import message, printable
from custody.cli.options import act_options
from custody.cli.progress import Waiting
from custody.cli.skills_shelf import complete_skill, dir_option, place, shelf_of
from custody.errors import UsageError
from custody.records import Call

INSTALL_TOOL = "skills_install"
REMOVE_TOOL = "skills_remove"
LOCAL_REPOSITORY = "git+file://"

ARGUMENT = re.compile("`(name|replace|sha256|commit)`")
"""What the tools ask for by the name of an argument; here it is an option of the same name."""

EXECUTABLES_SHOWN_MAX = 20  # a person looks at what could be run; the record has all of them


@click.command(
    "install",
    epilog="Examples:  custody skills install ./pdf    "
    "custody skills install git+https://example.com/skills.git --commit 4f2a… --path pdf",
)
@click.argument("source", type=click.Path())
@click.option("--name", metavar="NAME", help="What it is called here [default: as at its source].")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--replace", "replaces", is_flag=True, help="In place of the skill that has the name.")
@click.option("--sha256", metavar="HEX", help="What an archive or a download must be; https needs it.")
@click.option("--commit", metavar="HEX", help="Of a git repository, all 40 digits.")
@click.option(
    "--path", "inside", metavar="FOLDER", help="The skill's folder inside an archive or repository."
)
@click.option("--require-signed", is_flag=True, help="Only with a valid signature of a trusted key.")
@dir_option
@act_options("dry_run", "agent", "caller", "timeout", "cwd", "root", "store", "json")
def install_command(
    source: str, name: str | None, yes: bool, replaces: bool, sha256: str | None, commit: str | None,
    inside: str | None, require_signed: bool, folders: tuple[str, ...], as_json: bool, **options: Any,
) -> int:  # fmt: skip
    """Install a skill, once you have seen what is in it.

    SOURCE is a folder, a .md file, an archive (.zip .tar .tar.gz .tgz .tar.xz), a git repository
    (git+https://… with --commit) or https://… with --sha256. It is read in a private place first, checked,
    shown, and asked about; then all of it is put in place with its entry in skills.lock.json, or nothing is.
    Exit codes are those of `custody call`.
    """
    asked = _with_source(Asked(**options, skills=folders), source)
    asks = _asks(yes, asked, as_json, "Installing a skill")
    given = {
        "name": name, "replace": replaces or None, "sha256": sha256, "commit": commit, "path": inside,
        "require_signed": require_signed or None,
    }  # fmt: skip
    arguments = {"source": source, "root": shelf_of(folders).install_root}
    arguments |= {key: value for key, value in given.items() if value is not None}
    if asks:
        look = _make(INSTALL_TOOL, arguments, replace(asked, dry_run=True))
        if look.outcome != "succeeded":
            return _said(look)
        _print_install(look.result)
        if not says_yes("Install it?", "nothing was installed."):
            return DECLINED_EXIT_CODE
        arguments["digest"] = look.result["digest"]  # the yes was to this and to nothing else
    call = _make(INSTALL_TOOL, arguments, asked, as_recorded=as_json)
    if not as_json and call.outcome == "succeeded":
        _print_installed(call, shown=asks)
    return _said(call, as_json=as_json)


@click.command("remove", epilog="Example:  custody skills remove pdf")
@click.argument("name", shell_complete=complete_skill)
@click.option("--yes", is_flag=True, help="Do not ask.")
@dir_option
@act_options("dry_run", "agent", "caller", "timeout", "store", "json")
def remove_command(name: str, yes: bool, folders: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Remove a skill, with its entry in skills.lock.json."""
    asked = Asked(**options, skills=folders)
    asks = _asks(yes, asked, as_json, "Removing a skill")
    arguments = {"name": name}
    if asks:
        look = _make(REMOVE_TOOL, arguments, replace(asked, dry_run=True))
        if look.outcome != "succeeded":
            return _said(look)
        print(f"{printable(name)} in {printable(place(look.result['root']))}, with every file in it.")
        if not says_yes("Remove it?", "nothing was removed."):
            return DECLINED_EXIT_CODE
    call = _make(REMOVE_TOOL, arguments, asked, as_recorded=as_json)
    if not as_json and call.outcome == "succeeded":
        begin = "Would remove" if asked.dry_run else "Removed"
        print(f"{begin} {printable(name)} from {printable(place(call.result['root']))}.")
    return _said(call, as_json=as_json)


def _asks(yes: bool, asked: Asked, as_json: bool, what: str) -> bool:
    """Whether a person is to be asked. Raises UsageError where one would have to be and nobody is there."""
    if yes or asked.dry_run:
        return False
    if as_json or not somebody_is_there():
        raise UsageError(
            f"{what} takes a yes, and nobody is there to be asked.",
            hint="See what would be done with --dry-run, then say --yes.",
        )
    return True


def _with_source(asked: Asked, source: str) -> Asked:
    """A person who names a folder or file allows it to be read: it is a root of this call."""
    if source.startswith(LOCAL_REPOSITORY):
        source = source.removeprefix(LOCAL_REPOSITORY).partition("@")[0]
    elif "://" in source:
        return asked
    path = os.path.join(asked.cwd or os.getcwd(), os.path.expanduser(source))
    whole = os.path.isdir(path) and not os.path.islink(path)
    return replace(asked, roots=(*asked.roots, path if whole else os.path.dirname(path)))


def _make(tool: str, arguments: dict[str, Any], asked: Asked, *, as_recorded: bool = False) -> Call:
    with Waiting("looking" if asked.dry_run else "working"):
        return asyncio.run(act_interruptibly(asked, tool, arguments, own_run=False, as_recorded=as_recorded))


def _said(call: Call, *, as_json: bool = False) -> int:
    """Say why it did not succeed; the exit code."""
    if as_json:
        from custody.cli.document import print_document

        print_document(call)
    elif call.outcome != "succeeded":
        why = ARGUMENT.sub(r"`--\1`", explanation(call) or "")
        message(f"{call.tool}: {why}")
    return exit_code(call)


def _print_install(result: dict[str, Any]) -> None:
    """What would come, before anybody is asked."""
    from custody.cli.render import count, fields, size

    source, signature = result["source"], result["signature"]
    fields(
        [
            ("skill", result["name"]),
            ("into", place(result["root"])),
            ("from", f"{source['kind']}: {source['location']}"),
            ("commit", source.get("commit")),
            ("files", f"{count(result['files'])}, {size(result['bytes'])}"),
            ("executable", _some(result["executables"])),
            ("digest", result["digest"]),
            (
                "signature",
                "none" if signature is None else signature.get("message") or signature.get("key_id"),
            ),
            ("replaces", result["replaced"]),
        ]
    )
    if result["locked_too"]:
        message(
            f"{place(result['root'])} gets its first lock file, with what stands there: "
            f"{_some(result['locked_too'])}. What is changed from then on is not offered."
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:EXECUTABLES_SHOWN_MAX])
    more = len(names) - EXECUTABLES_SHOWN_MAX
    return f"{shown} and {more:,} more" if more > 0 else shown or "none"


def _print_installed(call: Call, *, shown: bool) -> None:
    result = call.result
    if not shown:
        _print_install(result)
    if call.dry_run:
        message("nothing was installed: this was a dry run.")
        return
    name = printable(result["name"])
    if result["unchanged"]:
        print(f"{name} is there already, exactly so.")
    elif result["adopted"]:
        print(f"{name} is in the lock as it stands.")
    else:
        print(f"{name} is installed. Call {call.id[:8]} has it on the record.")
    if result["left"]:
        message(f"not cleared away, as the next install does: {', '.join(result['left'])}.")
