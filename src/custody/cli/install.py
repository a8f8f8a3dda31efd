"""`custody install`, `uninstall` and `status`: Custody in the settings of coding CLIs and MCP clients.

Owns the options, the one question, and that no agent takes its own guard away: whoever a recorded call
started is refused. Which files, and how they are edited, is `installing`'s; what is printed is
`install_words`'.
"""

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import click

from custody.cli.options import Decorated, json_option, look, store_option
from custody.errors import UsageError

if TYPE_CHECKING:
    from custody.installing.plans import Ours, Planned
    from custody.installing.programs import Place, Scope, Surroundings, Target

DECIDES = "decides what guards an agent"
TARGET = click.Choice(["claude-code", "codex", "gemini", "mcp"])

Act = Literal["install", "uninstall"]
EVENTS: dict[Act, str] = {"install": "guard.installed", "uninstall": "guard.removed"}


def _options(decorated: Decorated) -> Decorated:
    for option in (
        json_option,
        store_option,
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing."),
        click.option("--file", metavar="FILE", help="With mcp: the servers in this file of another client."),
        click.option("--project", is_flag=True, help="In this project's settings."),
        click.option("--user", is_flag=True, help="In your own settings, for every project."),
        click.argument("target", type=TARGET, required=False),
    ):
        decorated = option(decorated)
    return decorated


@click.command("install", epilog="Example:  custody install claude-code")
@click.option("--status", is_flag=True, help="Only show how it stands, as `custody status` does.")
@_options
@click.pass_context
def install_command(
    context: click.Context,
    target: "Target | None",
    user: bool,
    project: bool,
    dry_run: bool,
    file: str | None,
    yes: bool,
    status: bool,
    store: str | None,
    as_json: bool,
) -> int:
    """Put Custody before the tools of a coding CLI or an MCP client.

    Without a name: every program that is found here. Without --project: in your own settings. What would
    change is shown first, a copy of each file is kept beside it, and `custody uninstall` takes out exactly
    what was put in.
    """
    if status:
        if yes or dry_run or file is not None:
            raise UsageError("--status takes neither --yes nor --dry-run nor --file.")
        return context.invoke(
            status_command, target=target, user=user, project=project, store=store, as_json=as_json
        )
    return _change("install", target, _scope(user, project), file, store, dry_run, yes, as_json)


@click.command("uninstall", epilog="Example:  custody uninstall claude-code")
@_options
def uninstall_command(
    target: "Target | None",
    user: bool,
    project: bool,
    dry_run: bool,
    file: str | None,
    yes: bool,
    store: str | None,
    as_json: bool,
) -> int:
    """Take out what `custody install` put in, and nothing else.

    Without a place: from your own settings and from this project's.
    """
    return _change("uninstall", target, _scope(user, project), file, store, dry_run, yes, as_json)


@click.command("status", epilog="Example:  custody status")
@click.argument("target", type=TARGET, required=False)
@click.option("--user", is_flag=True, help="Your own settings alone.")
@click.option("--project", is_flag=True, help="This project's settings alone.")
@store_option
@json_option
def status_command(
    target: "Target | None", user: bool, project: bool, store: str | None, as_json: bool
) -> int:
    """Show which coding CLIs and MCP clients go through Custody."""
    from custody.cli.install_words import look_documents, print_looks
    from custody.installing.plans import look as look_at
    from custody.installing.plans import wanted
    from custody.installing.programs import places

    around, ours = _surroundings(store), _ours(store)
    scope = _scope(user, project)
    scopes: tuple[Scope, ...] = ("user", "project") if scope is None else (scope,)
    found: list[Place] = []
    for each in scopes:
        some = wanted(target, around, each)
        found += some or (places(target, around, each) if target not in (None, "mcp") else ())
    looks = [look_at(place, ours, around) for place in found]
    shown = [one for one in looks if target is not None or one.state != "absent" or one.place.scope == "user"]
    if as_json:
        from custody.cli.document import print_document

        print_document({"items": look_documents(shown), "next": None})
    else:
        print_looks(shown)
    return 0


def _scope(user: bool, project: bool) -> "Scope | None":
    if user and project:
        raise UsageError("--user and --project are two places: name one.")
    return "project" if project else "user" if user else None


def _change(
    act: Act,
    target: "Target | None",
    scope: "Scope | None",
    path: str | None,
    store: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    from custody.cli.consent import DECLINED_EXIT_CODE
    from custody.cli.install_words import print_plan, print_result, result_document

    around, ours = _surroundings(store), _ours(store)
    planned = _planned(act, _places(act, target, scope, path, around), ours, around)
    changing = [one for one in planned if one.changes]
    if not as_json:
        print_plan(planned)
    if changing and not dry_run:
        with _by_a_person(store, f"{act} {target or 'all'}") as record:
            if not yes and not _agreed(act, len(changing), as_json):
                return DECLINED_EXIT_CODE
            record(EVENTS[act], [one.file.path for one in changing])
            _carry_out(changing, around)
    if as_json:
        from custody.cli.document import print_document

        print_document(result_document(act, planned, dry_run=dry_run))
    else:
        print_result(act, planned, dry_run=dry_run)
        if act == "install" and target is None and scope is None:
            _tell_of_the_project(around, ours)
    return 0


def _tell_of_the_project(around: "Surroundings", ours: "Ours") -> None:
    """Its settings are its people's, so nothing is put in there unless that was asked for."""
    from custody.installing.plans import look, wanted

    left = [
        place.path for place in wanted(None, around, "project") if look(place, ours, around).state == "absent"
    ]
    if left:
        print(f"\nOf this project, left as it is: {', '.join(dict.fromkeys(left))}")
        print("  custody install --project puts Custody in there as well.")


def _places(
    act: Act, target: "Target | None", scope: "Scope | None", path: str | None, around: "Surroundings"
) -> "list[Place]":
    from custody.installing.plans import place_of_file, wanted

    if path is not None:
        if target != "mcp" or scope is not None:
            raise UsageError("--file goes with mcp, and names the place itself.")
        return [place_of_file(path)]
    both: tuple[Scope, ...] = ("user", "project") if act == "uninstall" else ("user",)
    found = [place for each in ((scope,) if scope else both) for place in wanted(target, around, each)]
    if not found and act == "install":
        what = "list of MCP servers" if target == "mcp" else "coding CLI or MCP client"
        where = "in this project" if scope == "project" else "here"
        raise UsageError(f"No {what} was found {where}.", hint=_other_places(target, scope, around))
    return found


def _other_places(target: "Target | None", scope: "Scope | None", around: "Surroundings") -> str:
    from custody.installing.plans import wanted

    if scope is None and wanted(target, around, "project"):
        named = "" if target is None else f" {target}"
        return f"This project has settings of its own: custody install{named} --project."
    if target == "mcp":
        return "Name the file of another client: custody install mcp --file FILE."
    return "Name a CLI to make its settings: custody install claude-code."


def _planned(act: Act, found: "list[Place]", ours: "Ours", around: "Surroundings") -> "list[Planned]":
    from custody.installing.plans import plan_install, plan_uninstall

    return (plan_install if act == "install" else plan_uninstall)(found, ours, around)


def _carry_out(changing: "list[Planned]", around: "Surroundings") -> None:
    from custody.installing.plans import carry_out

    for one in changing:
        carry_out(one, around)


def _agreed(act: Act, files: int, as_json: bool) -> bool:
    from custody.cli.consent import says_yes, somebody_is_there

    if as_json or not somebody_is_there():
        raise UsageError(
            "Nothing was changed: nobody is here to be asked.",
            hint="--yes does it, --dry-run shows it alone.",
        )
    what = "this file" if files == 1 else f"these {files} files"
    return says_yes(f"{act.capitalize()}: change {what}?", "Nothing was changed.")


def _surroundings(store: str | None) -> "Surroundings":
    from custody.installing.programs import Surroundings

    settings = look(store)
    return Surroundings(
        home=os.path.expanduser("~"), project=settings.workspace or settings.cwd, environ=os.environ
    )


def _ours(store: str | None) -> "Ours":
    """What is put in. A store that is named, here or in the environment, is named there too: the program that
    starts us has an environment of its own."""
    from importlib.util import find_spec

    from custody.doors.hooks.lines import hook_lines
    from custody.installing.hooks import HookLine
    from custody.installing.plans import Ours
    from custody.installing.programs import CLIS
    from custody.installing.servers import Proxy
    from custody.settings import store_path

    named = store_path(store) if store or os.environ.get("CUSTODY_STORE") else None
    lines = {
        cli: [
            HookLine(
                event=line.event,
                of_tools=line.of_tools,
                command=line.command,
                timeout_seconds=line.timeout_seconds,
                more=line.more,
            )
            for line in hook_lines(cli, store=named)
        ]
        for cli in CLIS
    }
    options = () if named is None else ("--store", named)
    words = (*program_words(), "proxy", *options)
    return Ours(lines=lines, proxy=Proxy(words=words, urls=find_spec("mcp") is not None))


def program_words() -> tuple[str, ...]:
    """What starts this very program, wherever a client stands when it does."""
    beside = os.path.join(os.path.dirname(sys.executable), "custody")
    return (beside,) if os.access(beside, os.X_OK) else (sys.executable, "-m", "custody")


@contextmanager
def _by_a_person(store: str | None, what: str) -> "Generator[Callable[[str, list[str]], None]]":
    """Gives what puts the act on the record, where there is a store. Raises AnswerRefused, recorded there
    too, for whoever a recorded call started."""
    from custody.cli.answering import (
        TOKEN_VARIABLE,
        holder_of,
        no_agents_child,
        person_here,
        refusals_recorded,
    )

    settings, token = look(store), os.environ.get(TOKEN_VARIABLE)
    if not os.path.exists(settings.store):
        if not no_agents_child(None, DECIDES):
            holder_of(settings, token, DECIDES)
        yield lambda name, files: None
        return
    from custody.cli.view import opened
    from custody.stores import make_recorder, open_disk

    with opened(settings) as view:
        recorder = make_recorder(open_disk(settings.store, create=False), view.journal, os.environ, settings)
        with refusals_recorded(lambda: recorder, what):
            clear = no_agents_child(view.index, DECIDES)
            person = person_here() if clear else holder_of(settings, token, DECIDES)

        def record(name: str, files: list[str]) -> None:
            recorder.event(name, {"files": files, "person": person}, leaf_data=True).wait_durable()

        yield record
