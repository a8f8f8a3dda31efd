"""`custody proxy --trust`: descriptions of a server's tools that have changed are trusted as they are now.

Owns that a person sees what each says now, and that their word is on the record before it counts. What a pin
is, is `doors.proxy.pins`'. Used by `proxy`.
"""

from collections.abc import Mapping
from typing import Any

import click

from custody.cli.invocation import message, printable
from custody.errors import UsageError


def trust_changes(store: str | None, server: str, *, yes: bool, as_json: bool) -> int:
    """Trust what has changed. Raises AnswerRefused where nobody may, UsageError where nobody is there."""
    from custody.cli.person import a_person
    from custody.doors.proxy.pins import TRUSTED, said_of_pins, waiting_changes

    with a_person(store, "proxy --trust") as person:
        changes = waiting_changes(person.index, server)
        if changes and not _agreed(server, changes, yes=yes):
            from custody.cli.consent import DECLINED_EXIT_CODE

            return DECLINED_EXIT_CODE
        digests = {tool: str(said["now"]) for tool, said in changes.items()}
        for said in said_of_pins(server, digests):
            record = {**said, "person": person.name}
            person.recorder.event(TRUSTED, record, leaf_data=True, essential=True).wait_durable()
    if as_json:
        from custody.cli.document import print_document

        items = [{"server": server, "tool": tool, "digest": digest} for tool, digest in digests.items()]
        print_document({"items": items, "next": None})
    elif not changes:
        message(f"no tool of {server} that was listed describes itself otherwise than before.")
    for tool in changes if not as_json else ():
        print(f"{printable(tool, keep='')} of {server} is trusted as it describes itself now.")
    return 0


def _agreed(server: str, changes: Mapping[str, Mapping[str, Any]], *, yes: bool) -> bool:
    if yes:
        return True
    from custody.cli.consent import says_yes, somebody_is_there
    from custody.cli.lines import one_line

    if not somebody_is_there():
        raise UsageError("Nobody is there to be asked.", hint="Read what has changed, then say --yes.")
    for tool, said in changes.items():
        described: Any = said.get("described")
        click.echo(f"{printable(tool, keep='')} of {server} says now:", err=True)
        for name, value in described.items() if isinstance(described, dict) else ():  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            click.echo(f"  {one_line(f'{name}: {value}')}", err=True)
    return says_yes("Trust these descriptions?", "Nothing was trusted.")
