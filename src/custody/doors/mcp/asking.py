"""A question is put to the person behind an MCP client, while the call that asks waits for an answer.

Owns which clients are asked (who may not answer at the daemon's own wire is not asked here either), the form,
and what is taken for an answer: anything but a clear one is none, and others may still give it. How the form
comes to the client and back is the caller's: a request of the older versions, `rounds` in the newest. Used by
`server` and `rounds`.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext

from custody.calls.answers import Prompt, no, yes
from custody.calls.descent import descent
from custody.calls.questions import REASON_CHARACTERS_MAX, SHORT_ID, Answer, Question
from custody.doors.mcp.caller import NAME_CHARACTERS_MAX, Caller
from custody.rpc.access import Access
from custody.rpc.methods.approvals import approvals_answer

QUESTIONS_MAX = 4
"""Put to one client at a time: under more dialogs than that nobody reads what they say yes to."""

ARGUMENTS_CHARACTERS_MAX = 2_000
"""Of the arguments in a question, a screen of them: more is no longer read."""

DIFFERENCE_CHARACTERS_MAX = 4_000
"""Of what a call would make of files: a dialog is no pager, and the rest is told where it is."""

TAB_COLUMNS = 4

LINE_CHARACTERS_MAX = 500
"""Of each of the other lines."""

FORM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "answer": {"type": "string", "title": "Allow it, once?", "enum": ["yes", "no"]},
        "reason": {
            "type": "string",
            "title": "Reason",
            "description": "What the agent is told; it may be left out.",
            "maxLength": REASON_CHARACTERS_MAX,
        },
    },
    "required": ["answer"],
}
"""Has no default: whoever only closes it has answered nothing."""


class Shown:
    """How many questions each client of a server has before it. A request that belongs to no session counts
    with all others of its token."""

    def __init__(self) -> None:
        self._counts: Counter[Caller | Access] = Counter()

    @contextmanager
    def one_more(self, caller: Caller) -> Generator[bool]:
        """Whether it takes one more, which it has meanwhile."""
        client = caller if caller.lasting else caller.peer.access
        if self._counts[client] >= QUESTIONS_MAX:
            yield False
            return
        self._counts[client] += 1
        try:
            yield True
        finally:
            self._counts[client] -= 1
            self._counts += Counter()  # without those that have none


Put = Callable[[str], Awaitable[types.ElicitResult | None]]
"""Shows a person the form under a message; None: it was not answered."""


def may_be_asked(caller: Caller, request: ServerRequestContext[Any, Any]) -> bool:
    """Whether questions of this request's calls are put to its client."""
    access, method = caller.peer.access, approvals_answer
    may_answer = access.role in method.roles and (access.methods is None or method.name in access.methods)
    return caller.backing.asks and may_answer and _shows_forms(request.session.client_capabilities)


def _shows_forms(said: types.ClientCapabilities | None) -> bool:
    shows = None if said is None else said.elicitation
    # One that names no mode is of a version that had the form alone.
    return shows is not None and (shows.form is not None or shows.url is None)


def by_request(request: ServerRequestContext[Any, Any]) -> Put:
    """The way of the versions in which a server sends requests; given up, the client is told."""

    async def put(message: str) -> types.ElicitResult:
        return await request.session.elicit_form(message, FORM, related_request_id=request.request_id)

    return put


def prompt_of(caller: Caller, request: ServerRequestContext[Any, Any], put: Put, shown: Shown) -> Prompt:
    """Asks the person behind the client of this request. What the client refuses, or answers with nonsense,
    is raised or None: no answer by this way."""
    clean = caller.runtime.ledger.recorder.clean_text

    async def prompt(question: Question) -> Answer | None:
        with shown.one_more(caller) as takes_it:
            if not takes_it or await asyncio.to_thread(_is_agents, caller):
                return None
            answer = await put(message_of(question))
            person = person_of(request, lambda name: clean(name, "leaf")[0])
            return answer_of(question, answer, person, lambda reason: clean(reason, "reason")[0])

    return prompt


def person_of(request: ServerRequestContext[Any, Any], clean: Callable[[str], str]) -> str:
    """Who answers, as the record names them: by what their client calls itself."""
    said = request.session.client_params
    name = "" if said is None else said.client_info.name[: 2 * NAME_CHARACTERS_MAX]
    # Cut last, and to less than was cleaned: half a secret at the end would not be known for one.
    return f"mcp client {one_line(clean(name)) or 'without a name'}"[:NAME_CHARACTERS_MAX]


def _is_agents(caller: Caller) -> bool:
    """Whether an agent on the record has started this process, and so is who would answer. A daemon's
    clients are no parents of it: there the token says who answers."""
    return not caller.backing.is_daemon and descent(caller.runtime.index, own_record=False) is not None


# -- the question -------------------------------------------------------------------------------------------


def message_of(question: Question) -> str:
    """All that a yes is bound to, as the record has it; nothing in it steers who shows it."""
    call = question.call_id.hex()[:SHORT_ID]
    around = [("in", question.cwd), ("session", question.session_id)]
    rule = "" if question.rule is None else f"rule {question.rule}: "
    who = question.agent or "somebody"
    return "\n".join(
        [
            one_line(f"{who} asks: {question.tool} ({question.effect}), call {call}"),
            _screen(_arguments(question.shown), ARGUMENTS_CHARACTERS_MAX),
            *_difference(question.difference),
            *(one_line(f"{word} {value}") for word, value in around if value),
            one_line(rule + question.reason),
        ]
    )


def _difference(text: str | None) -> list[str]:
    """Whole lines of it, each behind a mark that no line of ours has."""
    if not text:
        return []
    lines, left = text.removesuffix("\n").expandtabs(TAB_COLUMNS).split("\n"), DIFFERENCE_CHARACTERS_MAX
    shown: list[str] = []
    for taken, line in enumerate(lines):
        line = _visible(line)
        left -= len(line) + 1
        if left < 0:
            return [*shown, f"| … and {len(lines) - taken:,} more lines, which custody approvals --json has"]
        shown.append(f"| {line}")
    return shown


def _arguments(shown: Any) -> str:
    return shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False, default=str)


def one_line(text: str) -> str:
    return _screen(" ".join(text.split()), LINE_CHARACTERS_MAX)


def _visible(text: str) -> str:
    """Control characters, and what turns the direction of writing, as escapes."""
    if text.isprintable():
        return text
    escaped = (one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
    return "".join(escaped)


def _screen(text: str, characters_max: int) -> str:
    """Its beginning, made visible. No more than that is looked at: arguments may be as long as a message, and
    others wait for the loop meanwhile."""
    shown = ""
    for taken, one in enumerate(text):
        more = _visible(one)
        if len(shown) + len(more) > characters_max:
            left = len(text) - taken
            return f"{shown} … and {left:,} more characters, which custody approvals --json has"
        shown += more
    return shown


# -- the answer ---------------------------------------------------------------------------------------------


def answer_of(
    question: Question, said: types.ElicitResult | None, person: str, clean: Callable[[str], str]
) -> Answer | None:
    """What a person said; None for a dialog that was closed and for what fits no form."""
    if said is None or said.action == "cancel":
        return None
    if said.action == "decline":
        return no(question, person)
    content = said.content or {}
    answer, reason = content.get("answer"), content.get("reason")
    if answer not in ("yes", "no") or not isinstance(reason, str | None):
        return None
    if reason is not None and len(reason) > REASON_CHARACTERS_MAX:
        return None
    # Escapes and replaced secrets may make it longer than it may be on the record.
    told = None if not reason else _visible(" ".join(clean(reason).split()))[:REASON_CHARACTERS_MAX]
    return yes(question, person, told) if answer == "yes" else no(question, person, told)
