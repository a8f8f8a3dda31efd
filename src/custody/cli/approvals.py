"""`custody approvals`, `custody approve`, `custody deny`: what people are asked, and their answers.

Owns the words. Who may answer is `answering`'s, what an answer is `calls.questions`'. While `approvals -f`
runs, somebody listens: calls that ask wait for an answer instead of being refused at once.
"""

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from custody.cli.answering import (
    TOKEN_VARIABLE,
    answering,
    at_terminal,
    person_of,
    question_lines,
    shown_of_record,
)
from custody.cli.invocation import message
from custody.cli.looking import load_to_look, load_with_warning
from custody.cli.options import Decorated, Duration, json_option, store_option
from custody.errors import Ambiguous, AnswerRefused, NotFound, UsageError

if TYPE_CHECKING:
    from custody.calls.grants import Grant
    from custody.calls.questions import Answered, Means, OpenQuestion, Standing
    from custody.index import Index
    from custody.journal.disk import Lock
    from custody.settings import Settings
    from custody.stores import View

POLL_SECONDS = 0.2  # how late a follower may hear of a question
DECLINED_EXIT_CODE = 1
HOUR_SECONDS = 3600.0


def token_option(decorated: Decorated) -> Decorated:
    return click.option(
        "--token", metavar="TOKEN", help=f"An operator's, where there is no terminal [env: {TOKEN_VARIABLE}]."
    )(decorated)


def _complete_question(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """For the shell: calls about which is asked."""
    from custody.calls.questions import open_questions
    from custody.records import now_us
    from custody.stores import open_view

    try:
        settings, _ = load_to_look(ctx.params.get("store"))
        with open_view(settings) as view:
            found = [asked.call_id for asked in open_questions(view.index, now_us())]
    except Exception:  # whatever is wrong, the shell has nobody to tell it to
        return []
    return [call_id for call_id in found if call_id.startswith(incomplete)]


# -- looking ----------------------------------------------------------------------------------------------


@click.group(
    "approvals", invoke_without_command=True, epilog="Example:  custody approvals -f   (leave it running)"
)
@click.option("-f", "--follow", is_flag=True, help="Wait for questions; calls that ask wait for you.")
@token_option
@store_option
@json_option
@click.pass_context
def approvals_command(
    ctx: click.Context, follow: bool, token: str | None, store: str | None, as_json: bool
) -> int:
    """List what waits for a person's answer."""
    if ctx.invoked_subcommand is not None:
        return 0
    from custody.calls.questions import open_questions
    from custody.cli.view import opened
    from custody.records import now_us

    settings = load_with_warning(store)
    with opened(settings) as view:
        if follow:
            _follow(view, listens=_may_answer(settings, view, token), as_json=as_json)
        found = open_questions(view.index, now_us())
        if as_json:
            from custody.cli.document import print_list

            print_list(found, None)
        else:
            _print_questions(found)
    return 0


def _may_answer(settings: "Settings", view: "View", token: str | None) -> bool:
    """Whether calls may wait for who is here; where not, that is said and the questions are shown."""
    try:
        person_of(settings, view, token)
    except AnswerRefused as error:
        message(f"no call waits for you: {error.message} {error.hint}")
        return False
    return True


def _follow(view: "View", *, listens: bool, as_json: bool) -> None:
    """Print each question once, until the command is ended."""
    from custody.calls.questions import open_questions
    from custody.records import now_us

    lock: Lock | None = None
    known: set[str] = set()
    try:
        while True:
            if listens and lock is None:  # somebody else may listen, and leave
                lock, listens = _listen(view)
            found = open_questions(view.index, now_us())
            for asked in found:
                if asked.call_id not in known:
                    print(_new(view.index, asked, as_json=as_json), flush=True)
            known = {asked.call_id for asked in found}
            time.sleep(POLL_SECONDS)
    finally:
        if lock is not None:
            lock.release()


def _listen(view: "View") -> "tuple[Lock | None, bool]":
    """The lock of who listens, where it is free, and whether to ask for it again."""
    try:
        return view.journal.approver_lock(), True
    except OSError as error:
        message(f"no call waits for you: the store cannot be written: {error.strerror}.")
        return None, False


def _new(index: "Index", asked: "OpenQuestion", *, as_json: bool) -> str:
    if as_json:
        from custody.cli.document import encode

        return encode(asked).decode()
    short = asked.call_id[:8]
    lines = question_lines(shown_of_record(index, asked.call_id))
    return "\n".join([*lines, f"  custody approve {short}   or   custody deny {short}", ""])


def _print_questions(found: "list[OpenQuestion]") -> None:
    from custody.cli.asking import say_nothing_found
    from custody.cli.render import ago, flexible, remark, short, summary, table

    if not found:
        say_nothing_found("question is open")
        return
    table(
        ["call", "asked", "agent", flexible("what"), "rule", "open for"],
        [
            [
                short(asked.call_id), ago(asked.asked_at), asked.agent,
                f"{asked.tool} {summary(asked.tool, asked.arguments)}", asked.rule, _left(asked.open_until),
            ]
            for asked in found
        ],
    )  # fmt: skip
    remark(
        "All that is asked: custody approvals show CALL; the answer: custody approve CALL, custody deny CALL"
    )


def _left(until: str) -> str:
    from custody.cli.render import duration, moment

    at = moment(until)
    assert at is not None, "a question has an end"
    return duration(max(0.0, at.timestamp() - time.time()) * 1e6) or ""


# -- answering --------------------------------------------------------------------------------------------


@click.command("approve", epilog="Example:  custody approve 3fa9c1d2 --for 8h --max 20")
@click.argument("call_id", metavar="CALL", shell_complete=_complete_question)
@click.option(
    "--for",
    "seconds",
    type=Duration(),
    metavar="TIME",
    help="Also the same call again, for so long (a grant) [with --max alone: 8h].",
)
@click.option(
    "--max",
    "calls_max",
    type=click.IntRange(1),
    metavar="N",
    help="At most so many such calls [with --for alone: 20].",
)
@click.option("--yes", is_flag=True, help="Do not show it and ask again.")
@token_option
@store_option
@json_option
def approve_command(
    call_id: str, seconds: float | None, calls_max: int | None, yes: bool, token: str | None,
    store: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Say yes to a call that asks; to exactly this call, once.

    Where it does not wait any more, the same call made again in the same session passes.
    """
    from custody.calls.questions import answer_question

    standing = _standing(seconds, calls_max)
    with answering(store, token, "approve") as (means, person):
        if not (yes or as_json) and at_terminal():
            meant = _meant(means, call_id, standing)
            if meant is None:
                return DECLINED_EXIT_CODE
            call_id = meant
        answered = answer_question(means, call_id, "allow", person=person, standing=standing)
    _print_answered(answered, as_json=as_json)
    return 0


@click.command("deny", epilog='Example:  custody deny 3fa9c1d2 --reason "not on a Friday"')
@click.argument("call_id", metavar="CALL", shell_complete=_complete_question)
@click.option("--reason", metavar="TEXT", help="What the caller is told.")
@token_option
@store_option
@json_option
def deny_command(
    call_id: str, reason: str | None, token: str | None, store: str | None, as_json: bool
) -> int:
    """Say no to a call that asks."""
    from custody.calls.questions import answer_question

    with answering(store, token, "deny") as (means, person):
        said = None if reason is None else means.recorder.clean_text(reason, "reason")[0]
        answered = answer_question(means, call_id, "deny", person=person, reason=said)
    _print_answered(answered, as_json=as_json)
    return 0


def _standing(seconds: float | None, calls_max: int | None) -> "Standing | None":
    if seconds is None and calls_max is None:
        return None
    from custody.calls.questions import Standing

    if seconds is not None and seconds <= 0:
        raise UsageError("--for is a time, and no grant is for ever.", hint="Write a rule for that.")
    given: dict[str, Any] = {} if seconds is None else {"hours": seconds / HOUR_SECONDS}
    return Standing(**given, **({} if calls_max is None else {"calls_max": calls_max}))


def _meant(means: "Means", call_id: str, standing: "Standing | None") -> str | None:
    """The call, once a person has seen all of what is asked; None where they leave it."""
    from custody.cli.consent import says_yes

    try:
        view = means.index.questions.one(call_id)
    except (NotFound, Ambiguous):
        return call_id  # the answer to it is refused, and that is recorded
    if view.answer is not None or view.started or not view.in_time(means.clock_us()):
        return view.call_id.hex()  # so is that to what is no question any more
    shown = shown_of_record(means.index, view.call_id.hex())
    print("\n".join(question_lines(shown)), file=sys.stderr)
    much = "once" if standing is None else f"up to {standing.calls_max} times in {standing.hours:g} h"
    sure = says_yes(f"Allow exactly this, {much}?", "nothing was answered; the question is still open.")
    return shown.call_id if sure else None


def _print_answered(answered: "Answered", *, as_json: bool) -> None:
    if as_json:
        from custody.cli.document import print_document

        print_document(answered)
        return
    short = answered.call_id[:8]
    if answered.verdict == "deny":
        print(f"Denied: call {short}.")
    elif answered.waiting:
        print(f"Allowed: call {short}, which goes on.")
    else:
        print(f"Allowed: call {short} has ended; the same call passes when it is made again.")
    if answered.grant:
        print(f"It is a grant; custody approvals revoke {short} ends it.")


# -- grants -----------------------------------------------------------------------------------------------


@approvals_command.command("show", epilog="Example:  custody approvals show 3fa9c1d2")
@click.argument("call_id", metavar="CALL", shell_complete=_complete_question)
@store_option
@json_option
def show_question_command(call_id: str, store: str | None, as_json: bool) -> int:
    """Show all that is asked about one call: of a commit what it would put in place."""
    from custody.cli.view import opened

    with opened(load_with_warning(store)) as view:
        shown = shown_of_record(view.index, call_id)
    if as_json:
        from custody.cli.document import print_document

        print_document(shown)
    else:
        print("\n".join(question_lines(shown)))
    return 0


@approvals_command.command("grants", epilog="Example:  custody approvals grants --all")
@click.option("--all", "every", is_flag=True, help="Also those that are used up, over or revoked.")
@store_option
@json_option
def grants_command(every: bool, store: str | None, as_json: bool) -> int:
    """List what is allowed for more than one call."""
    from custody.calls.grants import list_grants
    from custody.cli.view import opened
    from custody.records import now_us

    with opened(load_with_warning(store)) as view:
        found = list_grants(view.index, now_us(), every=every)
    if as_json:
        from custody.cli.document import print_list

        print_list(found, None)
    else:
        _print_grants(found)
    return 0


def _print_grants(found: "list[Grant]") -> None:
    from custody.cli.asking import say_nothing_found
    from custody.cli.render import flexible, number, short, table

    if not found:
        say_nothing_found("grant")
        return
    table(
        ["call", "tool", "agent", flexible("session"), "by", number("used"), "good for"],
        [
            [
                short(one.call_id), one.tool, one.agent, one.session_id, one.by,
                f"{one.calls_used} of {one.calls_max}", _good_for(one),
            ]
            for one in found
        ],
    )  # fmt: skip


def _good_for(grant: "Grant") -> str:
    if grant.revoked_at is not None:
        return f"revoked by {grant.revoked_by}"
    return _left(grant.until) if grant.good else "over"


@approvals_command.command("revoke", epilog="Example:  custody approvals revoke 3fa9c1d2")
@click.argument("call_id", metavar="CALL")
@token_option
@store_option
@json_option
def revoke_command(call_id: str, token: str | None, store: str | None, as_json: bool) -> int:
    """End a grant, which is named by the call it was given for."""
    from custody.calls.grants import revoke_grant

    with answering(store, token, "revoke") as (means, person):
        gone = revoke_grant(means, call_id, person=person)
    if as_json:
        from custody.cli.document import print_document

        print_document(gone)
    else:
        print(f"The grant of call {gone.call_id[:8]} is good for nothing from here on.")
    return 0
