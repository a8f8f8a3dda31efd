"""A question of a rule is put to the person behind the client of the proxy, while the call waits.

Owns how the form comes to a client and its answer back, in the versions in which a server sends requests and
in the newest, in which a client comes again. What is asked, and what counts as an answer, is
`doors.mcp.asking`'s, which is loaded when somebody is first asked. Used by `calling`.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from custody.calls.answers import Prompt
from custody.calls.questions import Answer, Question
from custody.calls.runtime import Runtime
from custody.doors.proxy.messages import Id

QUESTIONS_MAX = 4
"""Put to a client at a time: under more dialogs than that nobody reads what they say yes to."""

NAME_CHARACTERS_MAX = 256
"""Of what a client calls itself: it stands in the record of its answer."""

KEY = "custody"
"""Of our question among those a client is asked to answer first."""

Put = Callable[[str, Mapping[str, Any]], Awaitable[Any]]
"""Shows a person a message with a form; gives what the client says of it, None: nothing."""


class Asking:
    """Of one client."""

    def __init__(self, runtime: Runtime, client_name: Callable[[], str]) -> None:
        self._runtime = runtime
        self._client_name = client_name
        self._shown = 0

    def prompt_by(self, put: Put) -> Prompt:
        """What the client refuses, or answers with nonsense, is no answer by this way: others may answer."""

        async def prompt(question: Question) -> Answer | None:
            if self._shown >= QUESTIONS_MAX:
                return None
            self._shown += 1
            try:
                return await self._asked(question, put)
            finally:
                self._shown -= 1

        return prompt

    async def _asked(self, question: Question, put: Put) -> Answer | None:
        from custody.calls.descent import descent

        clean = self._runtime.ledger.recorder.clean_text
        if await asyncio.to_thread(descent, self._runtime.index, own_record=False) is not None:
            return None  # an agent on the record has started this process, and would answer itself
        try:
            words = await asyncio.to_thread(_words)
        except ImportError:
            return None
        said = await put(words.message_of(question), words.FORM)
        name = words.one_line(clean(self._client_name(), "leaf")[0]) or "without a name"
        person = f"mcp client {name}"[:NAME_CHARACTERS_MAX]
        return words.answer_of(question, words.elicited(said), person, lambda text: clean(text, "reason")[0])


class _Words:
    """What `doors.mcp` makes of a question; it needs the extra `[mcp]`."""

    def __init__(self) -> None:
        import mcp_types
        from pydantic import ValidationError

        from custody.doors.mcp import asking

        self.message_of = asking.message_of
        self.answer_of = asking.answer_of
        self.one_line = asking.one_line
        self.FORM = asking.FORM

        def elicited(said: Any) -> mcp_types.ElicitResult | None:
            try:
                return None if said is None else mcp_types.ElicitResult.model_validate(said, by_name=False)
            except ValidationError:
                return None

        self.elicited = elicited


def _words() -> _Words:
    return _Words()


def own_id() -> Id:
    """Of a request of ours: no server can have the same."""
    return f"custody-{secrets.token_hex(12)}"


def own_state() -> str:
    """Under which a client comes again; nobody else can."""
    return f"custody-{secrets.token_urlsafe(24)}"


def form_request(message: str, form: Mapping[str, Any], *, modern: bool) -> dict[str, Any]:
    """The parameters of the request that shows a form."""
    said: dict[str, Any] = {"message": message, "requestedSchema": form}
    return {"mode": "form", **said} if modern else said


def input_required(message: str, form: Mapping[str, Any], state: str) -> dict[str, Any]:
    """The result by which a client is asked first."""
    asked = {"method": "elicitation/create", "params": form_request(message, form, modern=True)}
    return {"resultType": "input_required", "inputRequests": {KEY: asked}, "requestState": state}
