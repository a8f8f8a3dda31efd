"""`custody skills verify`: whether the skills are still what was installed.

Owns how findings are shown and what a person is told to do. What is compared is `custody.skills.verify`'s.
Used by `skills` alone.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from custody.cli.invocation import fold_lines, message, printable
from custody.cli.options import json_option
from custody.cli.progress import Waiting
from custody.cli.skills_shelf import complete_skill, dir_option, place, places, shelf_of
from custody.errors import UsageError

if TYPE_CHECKING:
    from custody.cli.render import Row
    from custody.skills import RootReport

DIFFERS_EXIT_CODE = 1
FINDINGS_SHOWN_MAX = 200  # a person reads a screen or two; `--json` has all of them


@click.command("verify", epilog="Example:  custody skills verify   (exit code 1 where anything differs)")
@click.argument("name", required=False, shell_complete=complete_skill)
@dir_option
@json_option
def verify_command(name: str | None, folders: tuple[str, ...], as_json: bool) -> int:
    """Check that skills are as installed.

    It compares them with skills.lock.json file by file, names each file that differs, what is missing and
    what nobody installed, and says what each signature is worth. It changes nothing.
    """
    from custody.skills import answers

    for folder in folders:
        if not os.path.isdir(os.path.expanduser(folder)):  # a misspelt one has nothing wrong with it
            raise UsageError(f"{folder!r} is no folder.", hint="--dir takes one with skills.")
    shelf = shelf_of(folders)
    with Waiting("looking"):
        found = answers.verify_skills(shelf, name)
    if as_json:
        from custody.cli.document import print_document

        print_document(found)
    else:
        _print_findings(found.roots)
        if found.problem is not None:
            message(found.problem)
        if not any(report.checked or not report.ok for report in found.roots):
            message(f"there are no skills in {places(shelf.roots)}.")
        for report in found.roots:
            _say_outcome(report)
    return 0 if found.ok else DIFFERS_EXIT_CODE


def _print_findings(reports: "list[RootReport]") -> None:
    from custody.cli.render import flexible, table

    rows = [row for report in reports for row in _rows(report)]
    if rows:
        table(["skill", "file", flexible("what is the matter")], rows[:FINDINGS_SHOWN_MAX])
    if len(rows) > FINDINGS_SHOWN_MAX:
        message(f"And {len(rows) - FINDINGS_SHOWN_MAX:,} more; --json has them all.")


def _rows(report: "RootReport") -> "Iterator[Row]":
    def at(skill: str | None) -> str:
        return place(os.path.join(report.root, skill or ""))

    for skill in report.missing:
        yield [at(skill), None, "It was installed and is gone."]
    for skill in report.extra:
        yield [at(skill), None, "Nobody installed it: the lock does not name it."]
    for one in report.changed:
        yield [at(one.skill), one.file, one.message]
    for one in report.metadata_mismatch:
        yield [at(one.skill), None, one.message]
    for verdict in report.signatures:
        if verdict.reason not in ("valid", "unsigned"):
            yield [at(verdict.skill), None, verdict.message]


def _say_outcome(report: "RootReport") -> None:
    where = place(report.root)
    skills = "1 skill" if report.checked == 1 else f"{report.checked:,} skills"
    if report.problem is not None:
        message(f"{where}: {report.problem}")
    elif report.missing or report.extra or report.changed or report.metadata_mismatch:
        message(
            f"{where} is not as installed. `custody skills install SOURCE --replace` puts a skill back, "
            f"`custody skills remove NAME` takes one away. To keep one as it stands, once you have looked at "
            f"it, install it from where it lies: custody skills install {os.path.join(where, 'NAME')}"
        )
    elif not report.ok:
        message(f"{where}: not every skill has a signature that counts.")
    elif report.locked:
        signed = sum(verdict.valid for verdict in report.signatures)
        also = f" {signed:,} of them signed by a trusted key." if signed else ""
        print(printable(f"{where}: {skills} as installed.{also}"))
    elif report.checked:
        message(f"{where} has no lock file, so there is nothing to compare its {skills} with.")
    for leftover in report.leftovers:
        what = f"{where}: {leftover} was left by an install that was cut; the next install clears it."
        message(fold_lines(what))  # a stranger may have named it
