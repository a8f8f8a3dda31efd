"""What the commands of `custody skills` share: the folders they look in, how places and problems are shown.

Owns `--dir` and the completion of names. Which folders there are where none is given is `compose`'s.
"""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from custody.cli.invocation import message
from custody.cli.options import Decorated, load

if TYPE_CHECKING:
    from custody.skills import Problem, Root, Shelf

PROBLEMS_SHOWN_MAX = 50  # a person reads a screen or two; `--json` has all of them


def dir_option(decorated: Decorated) -> Decorated:
    """`--dir`: where skills are."""
    return click.option(
        "--dir", "folders", multiple=True, metavar="FOLDER",
        help="A folder with skills (repeatable; the first that has a name has it) "
        "[env: CUSTODY_SKILLS; else as the settings say, else the project's and yours].",
    )(decorated)  # fmt: skip


def shelf_of(folders: tuple[str, ...]) -> "Shelf":
    """Where skills are for this command line. Raises InvalidSetting."""
    from custody import compose

    return compose.shelf_of(load(None, skills=folders))


def complete_skill(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """For the shell: skills that begin so."""
    from custody.skills import answers

    try:
        items = answers.list_skills(shelf_of(ctx.params.get("folders") or ())).items
    except Exception:  # whatever is wrong, the shell has nobody to tell it to
        return []
    return [item.name for item in items if item.name.startswith(incomplete)]


def place(path: str) -> str:
    """A path as a person knows it: from here, else from home."""
    here, home = os.getcwd(), os.path.expanduser("~")
    if path == here or path.startswith(f"{here.rstrip('/')}/"):
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
        message(f"{'' if problem.offered else 'not offered: '}{where}: {problem.message}")
    if len(ordered) > PROBLEMS_SHOWN_MAX:
        message(f"And {len(ordered) - PROBLEMS_SHOWN_MAX:,} more; --json has them all.")
