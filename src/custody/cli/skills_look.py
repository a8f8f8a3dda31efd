"""`custody skills list`, `info` and `search`: which skills there are, and what is in one.

Owns the columns, and that a text is shown only once it is on the record that it was. The answers are
`custody.skills.answers`'. Used by `skills` alone.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from custody.cli.acting import Asked
from custody.cli.invocation import message, printable
from custody.cli.lines import one_line
from custody.cli.options import PAGE_ITEMS_MAX, act_options, json_option, load
from custody.cli.progress import Waiting
from custody.cli.skills_shelf import complete_skill, dir_option, place, places, say_problems, shelf_of
from custody.skills import answers

if TYPE_CHECKING:
    from custody.cli.render import Cell, Column, Row
    from custody.skills import Shelf
    from custody.skills.answers import SkillInfo, SkillLine, SkillText

FILES_SHOWN_MAX = 30  # a person sees what kind of skill it is; `--json` has all of them


@click.command("list", epilog="Example:  custody skills list --dir .agents/skills")
@dir_option
@json_option
def list_command(folders: tuple[str, ...], as_json: bool) -> int:
    """List the skills there are.

    Below the table: what is not offered and why, and what else a person should know.
    """
    shelf = shelf_of(folders)
    with Waiting("looking"):
        found = answers.list_skills(shelf)
    if as_json:
        _print_json(found)
        return 0
    if found.items:
        _table(found.items)
    elif any(not problem.offered for problem in found.problems):
        message(f"no skill is offered in {places(shelf.roots)}.")
    else:
        message(f"no skills in {places(shelf.roots)}. `custody skills install SOURCE` gets one.")
    say_problems(found.problems)
    return 0


@click.command("search", epilog="Example:  custody skills search fill in pdf forms")
@click.argument("query", nargs=-1, required=True)
@click.option(
    "--limit", type=click.IntRange(1, PAGE_ITEMS_MAX), default=answers.FOUND_MAX, show_default=True,
    help="At most so many.",
)  # fmt: skip
@dir_option
@json_option
def search_command(query: tuple[str, ...], limit: int, folders: tuple[str, ...], as_json: bool) -> int:
    """Find skills by words.

    Each word has to occur in a skill: in its name, tags, description or text.
    """
    shelf = shelf_of(folders)
    with Waiting("looking"):
        found = answers.search_skills(shelf, " ".join(query), limit)
    if as_json:
        _print_json(found)
    elif found.items:
        _table(found.items)
        if not found.complete:
            message(f"There are more than these {len(found.items):,}; --limit shows more.")
    else:
        message(f"no skill in {places(shelf.roots)} fits.")
    return 0


@click.command("info", epilog="Example:  custody skills info pdf --text   (what an agent is to follow)")
@click.argument("name", shell_complete=complete_skill)
@click.option("--text", "whole", is_flag=True, help="The text itself; that it was read goes on the record.")
@dir_option
@act_options("run", "agent", "store", "json")
def info_command(name: str, whole: bool, folders: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Show what is known of a skill, or its text.

    With --text the record says which version was read, and with --run or --agent by whom.
    """
    asked = Asked(**options)
    shelf = shelf_of(folders)
    if whole:
        import asyncio

        text = asyncio.run(_read(asked, shelf, name))
        if as_json:
            _print_json(text)
        else:
            print(printable(text.text), end="" if text.text.endswith("\n") else "\n")
        return 0
    with Waiting("looking"):
        info = answers.skill_info(shelf, name)
    if as_json:
        _print_json(info)
    else:
        _print_info(info)
    return 0


async def _read(asked: Asked, shelf: "Shelf", name: str) -> "SkillText":
    """Raises NotFound, InvalidSkill, NotRecorded."""
    from custody.cli.acting import shared_run
    from custody.compose import open_runtime

    runtime = await open_runtime(load(asked.store), door="cli", agent=asked.agent)
    try:
        run = None if asked.run_name is None else await shared_run(runtime, asked.run_name, None)
        return await answers.read_skill(runtime, shelf, name, run, asked.agent)
    finally:
        await runtime.close()


def _print_json(answer: Any) -> None:
    from custody.cli.document import print_document

    print_document(answer)


def _table(items: "Sequence[SkillLine]") -> None:
    from custody.cli.render import flexible, optional, table

    columns: list[Column | str] = [
        "skill", flexible("what it is for"), optional("from"), optional("lock"), optional("in"),
    ]  # fmt: skip
    rows: list[Row] = [
        [item.name, item.description, item.source_kind, _standing(item), place(item.root)] for item in items
    ]
    table(columns, rows)


def _standing(item: "SkillLine") -> "Cell | str":
    """What is known of its being what was installed."""
    from custody.cli.render import Cell

    if item.signed_by is not None:
        return Cell(f"signed by {item.signed_by}", "green")
    return "as installed" if item.locked else Cell("none", "dim")


def _print_info(info: "SkillInfo") -> None:
    from custody.cli.render import count, fields, heading

    fields(
        [
            ("skill", info.name),
            ("for", info.description),
            ("file", place(info.file)),
            ("digest", info.digest),
            ("lock", _standing(info)),
            *_source_fields(info),
            ("files", count(len(info.files))),
        ]
    )
    if info.kind == "folder":
        for path in info.files[:FILES_SHOWN_MAX]:
            print(f"  {printable(path, keep='')}")
        if len(info.files) > FILES_SHOWN_MAX:
            print(f"  and {len(info.files) - FILES_SHOWN_MAX:,} more")
    further = [(key, value) for key, value in info.metadata.items() if key not in ("name", "description")]
    if further:  # apart, so that nothing a stranger wrote passes for what Custody found
        heading("It says of itself")
        fields((one_line(key), _said(value)) for key, value in further)
    heading("Begins")
    print(printable(info.preview.strip()) + ("" if info.preview_complete else " …"))
    say_problems(info.problems)


def _source_fields(info: "SkillInfo") -> list[tuple[str, str | None]]:
    source = info.source
    if source is None:
        return []
    return [
        ("from", f"{source.kind}: {source.location}"),
        ("commit", source.commit),
        ("path", source.path),
        ("sha256", source.sha256),
    ]


def _said(value: Any) -> str:
    from custody.cli.document import encode

    return value if isinstance(value, str) else encode(value).decode()
