"""What the commands of `custody skills` share: the folders they look in, how places and problems are shown.

Owns `--dir` and the completion of names. Which folders there are where none is given is `compose`'s.
"""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from custody.cli.invocation import fold_lines, message
from custody.cli.options import Decorated, load

if TYPE_CHECKING:
    from custody.skills import Problem, Root, Shelf

PROBLEMS_SHOWN_MAX = 50  # a person reads a screen or two; `--json` has all of them


def _named(ctx: click.Context, param: click.Parameter, folders: tuple[str, ...]) -> tuple[str, ...]:
    """An unset variable in a script names no folder, this one neither."""
    if not all(folders) and not ctx.resilient_parsing:
        raise click.BadParameter("it names no folder.", ctx, param)
    return folders


def dir_option(decorated: Decorated) -> Decorated:
    """`--dir`: where skills are."""
    return click.option(
        "--dir", "folders", multiple=True, metavar="FOLDER", type=click.Path(), callback=_named,
        help="A folder with skills (repeatable; the first that has a name has it) "
        "[env: CUSTODY_SKILLS; else as the settings say, else the project's and yours].",
    )(decorated)  # fmt: skip


def shelf_of(folders: tuple[str, ...]) -> "Shelf":
    """Where skills are for this command line. Raises InvalidSetting."""
    from custody import offering

    return offering.shelf_of(load(None, skills=folders))


def complete_skill(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """For the shell: skills that begin so."""
    from custody.skills import answers

    try:
        items = answers.list_skills(shelf_of(ctx.params.get("folders") or ())).items
    except Exception:  # whatever is wrong, the shell has nobody to tell it to
        return []
    return [item.name for item in items if item.name.startswith(incomplete)]


def complete_script(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """For the shell: files of the skill that was named, but its own text."""
    from custody.skills import answers

    try:
        info = answers.skill_info(shelf_of(ctx.params.get("folders") or ()), ctx.params["name"])
    except Exception:  # whatever is wrong, the shell has nobody to tell it to
        return []
    text = os.path.basename(info.file)
    return [path for path in info.files if path.startswith(incomplete) and path != text]


def place(path: str) -> str:
    """A path as a person knows it: from here, else from home."""
    here, home = os.getcwd(), os.path.expanduser("~")
    if path == here:
        return path  # a full stop says little, least of all at the end of a sentence
    if path.startswith(f"{here.rstrip('/')}/"):
        return os.path.relpath(path, here)
    if path.startswith(f"{home.rstrip('/')}/"):
        return os.path.join("~", os.path.relpath(path, home))
    return path


def places(roots: "Iterable[Root]") -> str:
    return ", ".join(place(root.path) for root in roots)


def say_problems(problems: "Iterable[Problem]") -> None:
    """Each problem in a line of its own, what is not offered first."""
    ordered = sorted(problems, key=lambda problem: problem.offered)
    for problem in ordered[:PROBLEMS_SHOWN_MAX]:
        where = place(problem.root if problem.path is None else os.path.join(problem.root, problem.path))
        message(fold_lines(f"{'' if problem.offered else 'not offered: '}{where}: {problem.message}"))
    if len(ordered) > PROBLEMS_SHOWN_MAX:
        message(f"And {len(ordered) - PROBLEMS_SHOWN_MAX:,} more; --json has them all.")
