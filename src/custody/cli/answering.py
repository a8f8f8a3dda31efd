"""Who may answer a question at the command line, and what they are shown of it before.

Owns the refusal of whoever is no person, put on the record, and the words of a question: all that a yes is
bound to, secrets replaced as in the record. What an answer is, is `calls.answers`'. Used by `approvals`,
`approve`, `deny`, by the prompt of commands that make calls, and by all that is a person's alone.
"""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

from msgspec import Struct

from custody.cli.invocation import fold_lines, printable
from custody.cli.looking import load_with_warning
from custody.errors import AnswerRefused, CustodyError, NotRecorded, StoreReadOnly

if TYPE_CHECKING:
    from custody.calls.questions import Means, Question
    from custody.index import Index
    from custody.recorder import Recorder
    from custody.settings import Settings
    from custody.stores import View

LINES_MAX = 200  # of one argument: two screens, and the rest is counted
LINE_CHARACTERS_MAX = 2_000
"""Of one line: more is no longer read, and a yes to what was not read is none."""

TAB_COLUMNS = 4

TOKEN_VARIABLE = "CUSTODY_TOKEN"
ANSWERING_ROLES = ("operator",)
"""A host's token lies in the store, where whatever runs as its user can read it."""

TOKEN_HINT = "Type it at a terminal, or show an operator's token: custody token create NAME --role operator."
REFUSED = "approval.refused"
ANSWERS = "answers"


# -- what is shown ----------------------------------------------------------------------------------------


class Shown(Struct, frozen=True, kw_only=True):
    """What a yes is bound to, in the words of the record. Ids in hex."""

    call_id: str
    tool: str
    effect: str
    arguments: Any
    """None: they are not there any more."""
    reason: str
    rule: str | None
    cwd: str | None = None
    agent: str | None = None
    caller: str | None = None
    session_id: str | None = None
    run_id: str | None = None
    difference: str | None = None
    """What it would make of files."""


def shown_of_record(index: "Index", call: str) -> Shown:
    """The question about a call, by the beginning of its id. Raises NotFound or Ambiguous."""
    from custody.calls.questions import text_of

    view = index.questions.one(call)
    request, said = view.request, index.questions.shown(view.call_id)
    return Shown(
        call_id=view.call_id.hex(),
        tool=request.tool,
        effect=request.effect,
        arguments=said.get("arguments"),
        reason=request.decision.reason,
        rule=request.decision.rule,
        cwd=said.get("cwd"),
        agent=view.agent,
        caller=view.caller,
        session_id=view.session_id,
        run_id=None if view.run_id is None else view.run_id.hex(),
        difference=text_of(said.get("difference")),
    )


def shown_of_call(asked: "Question") -> Shown:
    """A question that a call puts just now."""
    return Shown(
        call_id=asked.call_id.hex(),
        tool=asked.tool,
        effect=asked.effect,
        arguments=asked.shown,
        reason=asked.reason,
        rule=asked.rule,
        agent=asked.agent,
        cwd=asked.cwd,
        session_id=asked.session_id,
        run_id=None if asked.run_id is None else asked.run_id.hex(),
        difference=asked.difference,
    )


def question_lines(shown: Shown) -> list[str]:
    """All that a yes is bound to, for a person to read; nothing in it steers the terminal."""
    who = _one_line(shown.agent) if shown.agent else "somebody"
    lines = [f"{who} asks: {_one_line(shown.tool)} ({shown.effect}), call {shown.call_id[:8]}"]
    lines += [f"  {line}" for line in argument_lines(shown.tool, shown.arguments)]
    lines += [f"  | {printable(line, keep='')}" for line in difference_lines(shown.difference)]
    lines += [f"  {name}: {_one_line(value)}" for name, value in _surroundings(shown) if value]
    rule = f"rule {shown.rule}: " if shown.rule else ""
    return [*lines, f"  {_one_line(rule + shown.reason)}"]


def _surroundings(shown: Shown) -> list[tuple[str, str | None]]:
    return [
        ("in", shown.cwd),
        ("on behalf of", shown.caller),
        ("session", shown.session_id),
        ("run", None if shown.run_id is None else shown.run_id[:8]),
    ]


def argument_lines(tool: str, arguments: Any) -> list[str]:
    """Every argument, a text of several lines as such, a replacement of text as a difference."""
    if arguments is None:
        return ["(what it was asked to do is not on the record any more)"]
    if not isinstance(arguments, dict):
        return [_cut(_json(arguments))]
    lines: list[str] = []
    for name, value in cast("dict[str, Any]", arguments).items():
        if tool == "exec" and name == "argv" and isinstance(value, list):
            import shlex

            lines.append(_cut(shlex.join(str(word) for word in cast("list[Any]", value))))
        elif tool == "file_edit" and name == "edits" and isinstance(value, list):
            lines += _bounded([line for edit in cast("list[Any]", value) for line in _difference(edit)])
        elif isinstance(value, str) and "\n" in value:
            lines += [f"{_one_line(name)}:", *_bounded([f"| {line}" for line in value.split("\n")])]
        else:
            shown = value if isinstance(value, str) and value else _json(value)
            lines.append(_cut(f"{_one_line(name)}: {shown}"))
    return lines


def difference_lines(difference: str | None) -> list[str]:
    """What a call would make of files, tabs as columns; it was bounded when it was recorded."""
    return [] if not difference else difference.removesuffix("\n").expandtabs(TAB_COLUMNS).split("\n")


def _difference(edit: Any) -> list[str]:
    if not isinstance(edit, dict):
        return [_json(edit)]
    parts = cast("dict[str, Any]", edit)
    old, new = (str(parts.get(name, "")).split("\n") for name in ("old", "new"))
    rest = {name: value for name, value in parts.items() if name not in ("old", "new")}
    return [*(f"- {line}" for line in old), *(f"+ {line}" for line in new), *([_json(rest)] if rest else [])]


def _bounded(lines: list[str]) -> list[str]:
    shown = [_cut(line) for line in lines[:LINES_MAX]]
    left = len(lines) - len(shown)
    return [*shown, f"… and {left:,} more lines, which custody show has"] if left else shown


def _cut(line: str) -> str:
    clean = printable(line, keep="")
    if len(clean) <= LINE_CHARACTERS_MAX:
        return clean
    left = len(clean) - LINE_CHARACTERS_MAX
    return f"{clean[:LINE_CHARACTERS_MAX]} … and {left:,} more characters, which custody show has"


def _one_line(text: str) -> str:
    return _cut(fold_lines(text))


def _json(value: Any) -> str:
    from custody.cli.document import encode

    return encode(value).decode()


# -- who may ----------------------------------------------------------------------------------------------


@contextmanager
def answering(
    store: str | None, token: str | None, what: str, *, does: str = ANSWERS
) -> "Generator[tuple[Means, str]]":
    """What it takes to answer, and the person who does; `what` is asked for, for the record of a refusal,
    and `does` says it in words that follow `Only a person`.

    Raises AnswerRefused where that is nobody who may.
    """
    from custody.calls.questions import Means
    from custody.cli.view import opened
    from custody.stores import make_recorder, open_disk

    settings = load_with_warning(store)
    with opened(settings) as view:
        recorder = make_recorder(open_disk(settings.store, create=False), view.journal, os.environ, settings)
        with refusals_recorded(lambda: recorder, what):
            person = person_of(settings, view, token, does=does)
        try:
            yield Means(journal=view.journal, recorder=recorder, index=view.index), person
        except PermissionError as error:
            raise StoreReadOnly(f"The store {settings.store} cannot be written: {error.strerror}.") from error
        except OSError as error:
            raise NotRecorded(f"Nothing was answered: {error.strerror or error}.") from error


@contextmanager
def refusals_recorded(recorder: "Callable[[], Recorder]", what: str) -> Generator[None]:
    """Whoever is refused here is put on the record, with `what` they wanted."""
    try:
        yield
    except AnswerRefused as error:
        said = {name: value for name, value in error.details.items() if value is not None}
        with suppress(CustodyError, OSError):  # what cannot be recorded is refused all the same
            recorder().event(REFUSED, {"what": what, **said}, leaf_data=True).wait_durable()
        raise


def person_of(settings: "Settings", view: "View", token: str | None, *, does: str = ANSWERS) -> str:
    """Who is here to answer. Raises AnswerRefused."""
    clear = no_agents_child(view.index, does)
    token = token or os.environ.get(TOKEN_VARIABLE)
    if token or not clear:
        return holder_of(settings, token, does)
    if not at_terminal():
        raise AnswerRefused(f"Only a person {does}, and at a terminal.", hint=TOKEN_HINT, why="terminal")
    return person_here()


def no_agents_child(index: "Index | None", does: str) -> bool:
    """Whether no agent started this process; False where that cannot be told. Raises AnswerRefused where one
    did. Without an index the runs on the record are not asked."""
    from custody.calls.descent import descent

    found = descent(index)
    if found is None or not found.certain:
        return found is None
    which = found.call_id or found.run_id
    raise AnswerRefused(
        f"Only a person {does}, and this was started by {found.why}{f' ({which[:8]})' if which else ''}.",
        hint="Type it in a terminal that no recorded call has started.",
        why="agent",
        by_call=found.call_id,
        by_run=found.run_id,
    )


def holder_of(settings: "Settings", token: str | None, does: str) -> str:
    """Whom a token names, where nothing else will do. Raises AnswerRefused."""
    from custody.rpc.access import TokenDoor
    from custody.rpc.tokens import Tokens
    from custody.stores import open_disk

    if not token:
        raise AnswerRefused(
            f"Only a person {does}, and an agent may have started this: its parents cannot be told.",
            hint=TOKEN_HINT,
            why="unclear",
        )
    access = TokenDoor(Tokens(open_disk(settings.store, create=False)).known).admit(token)
    if access is None or access.role not in ANSWERING_ROLES:
        name = None if access is None else access.name
        raise AnswerRefused(
            f"Only a person {does}, and that token shows none.", hint=TOKEN_HINT, why="token", token=name
        )
    return f"operator {access.name}"


def at_terminal() -> bool:
    """Whether somebody sits here who types, and sees what they are asked."""
    return os.isatty(0) and os.isatty(2)


def person_here() -> str:
    """Who sits here, as the machine calls them."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
