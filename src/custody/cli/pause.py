"""`custody pause`: for a while, rules are noted and not enforced.

Owns the words for it. What a pause is and how long it may be is `calls.pause`'s. Used by the program alone.
"""

import os
from typing import TYPE_CHECKING

import click

from custody.cli.invocation import printable
from custody.cli.looking import load_to_look, load_with_warning
from custody.cli.options import Duration, json_option, store_option
from custody.errors import Denied, UsageError

if TYPE_CHECKING:
    from custody.calls.pause import Pause
    from custody.settings import Settings


@click.command("pause", epilog='Example:  custody pause --for 30m --reason "moving the build host"')
@click.option("--for", "seconds", type=Duration(), metavar="TIME", help="How long: 30m, 2h; 8h is the most.")
@click.option("--reason", metavar="TEXT", help="Why; it stays on the record.")
@click.option("--end", "ends", is_flag=True, help="Enforce the rules again.")
@store_option
@json_option
def pause_command(
    seconds: float | None, reason: str | None, ends: bool, store: str | None, as_json: bool
) -> int:
    """Pause the policy, end a pause, or show the one there is.

    While it lasts, what rules would refuse or ask is put on the record as of a policy in shadow, and done.
    Arguments, roots, protected files, budgets and the machine's resources are checked as always.
    """
    if ends and (seconds is not None or reason is not None):
        raise UsageError("--end takes neither --for nor --reason.")
    if (seconds is None) is not (reason is None):
        raise UsageError(
            "A pause says how long and why.", hint='Example: custody pause --for 30m --reason "a drill"'
        )
    if seconds is not None and reason is not None:
        pause = _begin(store, seconds, reason)
        words = "The policy is paused"
    elif ends:
        pause = _end(store)
        words = "The pause is over; it was to last"
    else:
        pause = pause_here(load_with_warning(store))
        words = "The policy is paused"
    if as_json:
        from custody.cli.document import print_document

        shown = None if pause is None else pause.shown()
        print_document({"paused": pause is not None and not ends, "pause": shown})
    elif pause is None:
        print("The policy is not paused.")
    else:
        print(f"{words} {pause_words(pause)}.")
    return 0


def pause_words(pause: "Pause") -> str:
    """Until when, by whom and why, on one line."""
    from custody.cli.lines import one_line
    from custody.cli.render import moment
    from custody.records import rfc3339

    until = moment(rfc3339(pause.until_us))
    assert until is not None, "a pause has an end"
    who = "" if pause.person is None else f", by {printable(pause.person, keep='')}"
    return f"until {until:%Y-%m-%d %H:%M:%S}{who}: {one_line(pause.reason).rstrip('.')}"


def _begin(store: str | None, seconds: float, reason: str) -> "Pause":
    from custody.calls.pause import begin_pause, check_pause
    from custody.cli.person import a_person
    from custody.policy.layers import may_pause

    settings, unusable = load_to_look(store)
    if unusable:
        raise Denied(
            f"Whether the policy may be paused cannot be told: {unusable[0].message}",
            hint="Put that right first; `custody policy check FILE` says all that is wrong with a file.",
        )
    allowed = may_pause(settings.policy_layers)
    check_pause(seconds, reason, may_pause=allowed)
    with a_person(store, "pause") as person:
        return begin_pause(
            person.recorder,
            person.index,
            seconds=seconds,
            reason=reason,
            person=person.name,
            may_pause=allowed,
        )


def _end(store: str | None) -> "Pause | None":
    from custody.calls.pause import end_pause
    from custody.cli.person import a_person

    with a_person(store, "pause --end") as person:
        return end_pause(person.recorder, person.index, person=person.name)


def pause_here(settings: "Settings") -> "Pause | None":
    """The pause that holds in this store; none where there is no store yet."""
    if not os.path.exists(settings.store):
        return None
    from custody.calls.pause import pause_at
    from custody.cli.view import opened
    from custody.records import now_us

    with opened(settings) as view:
        return pause_at(view.index, now_us())
