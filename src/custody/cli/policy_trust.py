"""`custody policy trust` and `distrust`: whether a project's policy may widen what its user's says.

Owns the words for it, that a person sees what would be widened, and that it is on the record before it
counts. Where trust is kept is `policy_files`'. Used by the group `policy`.
"""

import os
import shlex
from typing import TYPE_CHECKING, Any

import click

from custody.cli.invocation import message, printable
from custody.cli.options import json_option, load, store_option
from custody.errors import UsageError

if TYPE_CHECKING:
    from custody.cli.person import Person
    from custody.cli.policy_places import Policies
    from custody.policy import Layer, Rule

TRUSTED, DISTRUSTED = "policy.trusted", "policy.distrusted"


@click.command("trust", epilog="Example:  custody policy trust .custody/policy/git.toml")
@click.argument("file", required=False, type=click.Path())
@click.option("--yes", is_flag=True, help="Do not ask: what it would widen has been read.")
@store_option
@json_option
def trust_command(file: str | None, yes: bool, store: str | None, as_json: bool) -> int:
    """Let the project's policy widen what your own says, as it is now.

    A rule of it that allows then lifts what your own policy asks, or has for a default. It never lifts a rule
    that denies, nor anything of the organisation's. What it would have committed of the changes of commands
    is committed then. Once the file says something else it is trusted no more. Without FILE all files of the
    project's policy are meant.
    """
    from custody.cli.policy_places import policies_here, project_files

    policies = policies_here(load(store))
    paths = [place.path for place in project_files(policies, file)]
    layers = [layer for layer in policies.layers if layer.source in paths and widened(layer)]
    waiting = [layer for layer in layers if not layer.trusted]
    if waiting:
        from custody.cli.person import a_person

        with a_person(store, "policy trust") as person:
            if not _agreed(waiting, yes=yes):
                from custody.cli.consent import DECLINED_EXIT_CODE

                return DECLINED_EXIT_CODE
            for layer in waiting:
                _trust(layer, person)
    if as_json:
        _print_items([_shown(layer, trusted=True) for layer in layers])
    elif waiting:
        for layer in waiting:
            print(f"{printable(layer.source, keep='')} is trusted as it is now.")
    else:
        message(_nothing_to_trust(policies, layers))
    return 0


@click.command("distrust", epilog="Example:  custody policy distrust")
@click.argument("file", required=False, type=click.Path())
@store_option
@json_option
def distrust_command(file: str | None, store: str | None, as_json: bool) -> int:
    """Let the project's policy widen nothing any more. It still narrows.

    Without FILE all files of the project's policy are meant.
    """
    from custody.cli.person import a_person
    from custody.policy_files import read_trusted, trust_path
    from custody.settings import user_settings_path

    settings = load(store)
    known = {one.path for one in read_trusted(trust_path(user_settings_path())).trusted}
    paths = [path for path in _paths(settings.cwd, file) if path in known]
    if paths:
        with a_person(store, "policy distrust") as person:
            for path in paths:
                _distrust(path, person)
    if as_json:
        _print_items([{"path": path, "trusted": False} for path in paths])
    elif paths:
        for path in paths:
            print(f"{printable(path, keep='')} is not trusted any more.")
    else:
        message("none of it was trusted.")
    return 0


def widened(layer: "Layer") -> tuple[str, ...]:
    """What a project's file may do only once it is trusted, a line for each."""
    from custody.policy.walls import committing

    allows = [rule_words(rule) for rule in layer.rules if rule.decision == "allow"]
    notices = () if layer.approvals is None else layer.approvals.notify
    starts = [
        f"tell {notice}" if isinstance(notice, str) else f"start {shlex.join(notice)}" for notice in notices
    ]
    return (*allows, *(f"{words} of each question" for words in starts), *committing(layer))


def rule_words(rule: "Rule") -> str:
    """A rule on one line: where it stands, what it is called, what it is about."""
    from custody.policy.layers import condition_words, match_words

    line = "" if rule.line is None else f"line {rule.line}, "
    when = condition_words(rule)
    return f"allow {match_words(rule)}{'' if when is None else f' when {when}'} ({line}{rule.name})"


def _paths(folder: str, file: str | None) -> list[str]:
    """As the trust file has them. A file that is gone or cannot be read is distrusted as well."""
    from custody.policy_files import policy_files
    from custody.settings import user_settings_path

    if file is not None:
        return [os.path.realpath(file)]
    files = policy_files(folder, user_settings_path())
    return [os.path.realpath(place.path) for place in files if place.kind == "project"]


def _agreed(layers: "list[Layer]", *, yes: bool) -> bool:
    """Whether the person wants it, having seen what it comes to. Raises UsageError where nobody can."""
    if yes:
        return True
    from custody.cli.consent import says_yes, somebody_is_there
    from custody.cli.lines import one_line

    if not somebody_is_there():
        raise UsageError("Nobody is there to be asked.", hint="Read the file, then say --yes.")
    for layer in layers:
        click.echo(f"{printable(layer.source, keep='')} would:", err=True)
        for words in widened(layer):
            click.echo(f"  {one_line(words)}", err=True)
    which = "this file" if len(layers) == 1 else "these files"
    return says_yes(f"Trust {which}?", "Nothing was trusted.")


def _trust(layer: "Layer", person: "Person") -> None:
    from custody.policy_files import TrustedPolicies, change_trusted, trust_path
    from custody.settings import user_settings_path

    def change(trusted: TrustedPolicies) -> TrustedPolicies:
        _record(person, TRUSTED, layer.source, layer.digest)
        return trusted.with_policy(layer.source, layer.digest)

    change_trusted(trust_path(user_settings_path()), change)


def _distrust(path: str, person: "Person") -> None:
    from custody.policy_files import TrustedPolicies, change_trusted, trust_path
    from custody.settings import user_settings_path

    def change(trusted: TrustedPolicies) -> TrustedPolicies:
        for one in trusted.trusted:
            if one.path == path:
                _record(person, DISTRUSTED, path, one.digest)
        return trusted.without(path)

    change_trusted(trust_path(user_settings_path()), change)


def _record(person: "Person", name: str, path: str, digest: str) -> None:
    """Durably, before it counts. Raises NotRecorded."""
    said = {"path": os.path.realpath(path), "digest": digest, "person": person.name}
    person.recorder.event(name, said, leaf_data=True, essential=True).wait_durable()


def _nothing_to_trust(policies: "Policies", layers: "list[Layer]") -> str:
    if layers:
        return "it is trusted already, as it is now."
    if any(layer.kind == "project" for layer in policies.layers):
        return (
            "the project's policy widens nothing, so there is nothing to trust; what it narrows holds anyway."
        )
    return "there is no project's policy here."


def _shown(layer: "Layer", *, trusted: bool) -> dict[str, Any]:
    return {
        "path": layer.source,
        "digest": layer.digest,
        "trusted": trusted,
        "widens": list(widened(layer)),
    }


def _print_items(items: list[dict[str, Any]]) -> None:
    from custody.cli.document import print_document

    print_document({"items": items, "next": None})
