"""Answers: a call that is asked about waits here for a person, and for nobody else.

Owns the waiting: how many, how long, and where an answer may come from (a prompt of the door, or the record,
where whichever process put it). What an answer is worth is `questions`' to say. Nothing here gives up the
event loop to a disk. Used by `execute`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from msgspec import Struct

from custody.calls.question_digest import question_digest
from custody.calls.questions import (
    SHORT_ID,
    Answer,
    Means,
    Question,
    answer_question,
    answer_to,
    passed_before,
    use_answer,
)
from custody.errors import AnswerRefused, CustodyError, NotRecorded, StoreClosed
from custody.index import Index
from custody.journal import Journal
from custody.recorder import Recorder
from custody.records import Effect, now_us, rfc3339

log = logging.getLogger("custody")

POLL_SECONDS = 0.1
"""Between two looks at the record while somebody waits: an answer from another process arrives in a third of
a second at most, and a look costs about a millisecond."""

THREADS = 2
"""One looks, one records: what more there is to do is done in turn under the store's lock anyway."""

NOTIFY_SECONDS = 10.0
"""Whoever tells people of a question gets so long; the question waits for nobody but a person."""

A = TypeVar("A")

Prompt = Callable[[Question], Awaitable[Answer | None]]
"""Asks at the door itself. None: nobody is there any more."""


OnCancel = Callable[[Callable[[], None]], None]
"""Takes what is to be called, on the event loop, when the call is cancelled; at once where it is already."""


class ApprovalSettings(Struct, frozen=True, kw_only=True):
    """How long is waited, and for how many."""

    wait_seconds: float = 50.0
    """Below the minute that most callers give a tool."""
    open_hours: float = 8.0
    """A working day: then the question is asked anew."""
    parked_max: int = 64
    """As many as calls may run at once: each holds its caller's connection and its arguments."""


def yes(question: Question, person: str, reason: str | None = None) -> Answer:
    """For prompts."""
    return _said(question, "allow", person, reason)


def no(question: Question, person: str, reason: str | None = None) -> Answer:
    """For prompts."""
    return _said(question, "deny", person, reason)


def _said(question: Question, verdict: Any, person: str, reason: str | None) -> Answer:
    return Answer(verdict=verdict, by="person", reason=reason or "", person=person, call_id=question.call_id)


class Answering:
    """Where the calls of one runtime wait. Lives on its event loop; `close` it with the runtime."""

    def __init__(
        self,
        *,
        journal: Journal,
        recorder: Recorder,
        index: Callable[[], Index],
        key: bytes,
        settings: Callable[[], ApprovalSettings],
        someone: Callable[[], bool],
        notify: Callable[[Question], Awaitable[None]] | None = None,
        clock_us: Callable[[], int] = now_us,
    ) -> None:
        """`key` keys the digests; `someone` says whether anybody is there to answer; `notify` tells people
        of a question that waits."""
        self._journal = journal
        self._recorder = recorder
        self._index = index
        self._key = key
        self._settings = settings
        self._someone = someone
        self._notify = notify
        self._clock_us = clock_us
        self._parked: dict[bytes, tuple[Question, asyncio.Future[Answer]]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._closed = False

    # -- what is asked --------------------------------------------------------------------------------

    def digest(
        self,
        *,
        tool: str,
        arguments: Mapping[str, Any],
        cwd: str | None,
        agent: str | None,
        policy_digest: str | None,
        dry_run: bool = False,
        walls: Any = None,
        opens: Sequence[tuple[str, str]] = (),
        difference: str | None = None,
        input_unread: bool = False,
    ) -> str:
        """Of exactly this call, as `question_digest`."""
        return question_digest(
            self._key,
            tool=tool,
            arguments=arguments,
            cwd=cwd,
            agent=agent,
            policy_digest=policy_digest,
            dry_run=dry_run,
            walls=walls,
            opens=opens,
            difference=difference,
            input_unread=input_unread,
        )

    def question(
        self,
        *,
        call_id: bytes,
        tool: str,
        effect: Effect,
        summary: str,
        reason: str,
        rule: str | None,
        digest: str,
        session_id: str | None,
        agent: str | None,
        run_id: bytes | None,
        asked_at_us: int,
        cwd: str | None = None,
        standing_allowed: bool = True,
        once: bool = False,
        shown: Any = None,
    ) -> Question:
        """The question about a call. Its `recorded()` goes with the `CallAsked` that precedes the wait."""
        how = self._settings()
        open_seconds = how.wait_seconds if once else how.open_hours * 3600
        return Question(
            call_id=call_id,
            tool=tool,
            effect=effect,
            summary=summary,
            reason=reason,
            rule=rule,
            digest=digest,
            session_id=session_id,
            agent=agent,
            run_id=run_id,
            asked_at_us=asked_at_us,
            open_until_us=asked_at_us + round(open_seconds * 1_000_000),
            cwd=cwd,
            standing_allowed=standing_allowed,
            once=once,
            shown=shown,
        )

    def refused_at_once(self, prompt: Prompt | None) -> Answer | None:
        """The no of nobody, where there is no use in asking; None: ask."""
        if len(self._parked) >= self._settings().parked_max:
            waiting = f"{len(self._parked)} calls wait for a person already, and no more may"
            return _nobody(f"{waiting}; answer some: `custody approvals` lists them.")
        try:
            there = prompt is not None or self._someone()
        except Exception as error:  # whoever cannot tell has nobody
            log.warning("whether anybody is there to answer cannot be told: %s", type(error).__name__)
            there = False
        if there:
            return None
        return _nobody(
            "nobody is there to answer: no terminal, and no approver listens; "
            "`custody approvals -f` in another terminal does."
        )

    # -- waiting --------------------------------------------------------------------------------------

    async def ask(
        self, question: Question, prompt: Prompt | None = None, on_cancel: OnCancel | None = None
    ) -> Answer:
        """Wait for a person. The question must be on the record; a wait that ends or is cancelled leaves it
        open. Nothing is used by an answer: `consume` does that. Raises StoreClosed.

        `on_cancel` is handed what ends the wait when the call is no longer wanted.
        """
        if self._closed:
            raise StoreClosed
        refused = self.refused_at_once(prompt)
        if refused is not None:
            return refused
        arrived: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._parked[question.call_id] = question, arrived
        if on_cancel is not None:
            on_cancel(lambda: _resolve(arrived, _left(question, "cancelled while it waited for a person")))
        beside = [asyncio.ensure_future(work) for work in self._beside(question, prompt, arrived)]
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._look_again_and_again())
        try:
            await asyncio.wait({arrived}, timeout=self._settings().wait_seconds)
            if not arrived.done():
                await self._look()  # once more, for what came while the time ran out
            return arrived.result() if arrived.done() else _left(question, "waiting for a person")
        finally:
            del self._parked[question.call_id]
            if not self._parked:
                self._stop_looking()
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    def _beside(
        self, question: Question, prompt: Prompt | None, arrived: asyncio.Future[Answer]
    ) -> list[Any]:
        works: list[Any] = []
        if prompt is not None:
            works.append(self._prompted(question, prompt, arrived))
        if self._notify is not None:
            works.append(self._notified(question, self._notify))
        return works

    async def _prompted(self, question: Question, prompt: Prompt, arrived: asyncio.Future[Answer]) -> None:
        """What is said at the door, once it is on the record."""
        try:
            said = await prompt(question)
        except Exception as error:  # no answer is a no, in the end: others may still answer
            log.warning("a prompt failed: %s", type(error).__name__)
            return
        if said is None:
            return
        try:
            found = await self._in_thread(self._record, question, said)
        except CustodyError as error:
            found = Answer(
                verdict="deny", by="error", reason=f"the answer cannot be recorded: {error.message}"
            )
        if found is not None:
            _resolve(arrived, found)

    def _record(self, question: Question, said: Answer) -> Answer | None:
        """Of a prompt and another process the first counts."""
        means = self._means()
        try:
            answer_question(
                means,
                question.call_id.hex(),
                said.verdict,
                person=said.person or "somebody",
                reason=said.reason or None,
                standing=said.standing,
            )
        except AnswerRefused as error:
            if error.details.get("why") not in ("answered", "used"):
                raise
        return answer_to(means, question)

    async def _notified(self, question: Question, notify: Callable[[Question], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(NOTIFY_SECONDS):
                await notify(question)
        except Exception as error:  # the question waits all the same
            log.warning("nobody could be told of a question: %s", type(error).__name__)

    async def _look_again_and_again(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(POLL_SECONDS)

    def _stop_looking(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _look(self) -> None:
        """Give everyone who waits the answer that is on the record."""
        waiting = [question for question, arrived in self._parked.values() if not arrived.done()]
        try:
            found = await self._in_thread(self._answers_to, waiting)
        except Exception as error:  # the next look may do better; in the end no answer is a no
            log.warning("the record cannot be looked at for answers: %s", type(error).__name__)
            return
        for call_id, answer in found.items():
            parked = self._parked.get(call_id)
            if parked is not None:
                _resolve(parked[1], answer)

    def _answers_to(self, waiting: list[Question]) -> dict[bytes, Answer]:
        means, found = self._means(), dict[bytes, Answer]()
        for number, question in enumerate(waiting):
            answer = answer_to(means, question, refresh=number == 0)
            if answer is not None:
                found[question.call_id] = answer
        return found

    # -- what was answered before -----------------------------------------------------------------------

    async def passed_before(self, digest: str, session_id: str | None) -> Answer | None:
        """A yes that nobody has used, or a grant, for exactly this in this session; not used by being found.
        What cannot be found is no yes."""
        try:
            return await self._in_thread(lambda: passed_before(self._means(), digest, session_id))
        except (CustodyError, OSError) as error:
            log.warning("earlier answers cannot be looked up: %s", type(error).__name__)
            return None

    async def consume(self, answer: Answer, call_id: bytes) -> bool:
        """Right before the call is recorded as started, when every other check has passed: whether it is this
        call that passes on the answer. Of many exactly one does. Raises NotRecorded: then nothing may run."""
        try:
            return await self._in_thread(lambda: use_answer(self._means(), answer, call_id))
        except NotRecorded:
            raise
        except (CustodyError, OSError) as error:
            log.warning("an answer cannot be used: %s", type(error).__name__)
            return False

    # -- inside ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """When no call waits any more. What is being recorded is waited for."""
        self._closed = True
        self._stop_looking()
        if self._executor is not None:
            self._executor.shutdown(wait=True)

    def _means(self) -> Means:
        return Means(
            journal=self._journal, recorder=self._recorder, index=self._index(), clock_us=self._clock_us
        )

    async def _in_thread(self, function: Callable[..., A], *arguments: Any) -> A:
        if self._closed:
            raise StoreClosed
        if self._executor is None:
            self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="custody-answers")
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)


def _nobody(reason: str) -> Answer:
    return Answer(verdict="deny", by="nobody", reason=reason)


def _resolve(arrived: asyncio.Future[Answer], answer: Answer) -> None:
    """The first counts."""
    if not arrived.done():
        arrived.set_result(answer)


def _left(question: Question, why: str) -> Answer:
    """Nobody answered, and somebody still can."""
    call = question.call_id.hex()[:SHORT_ID]
    then = f"repeat the same call (the question is open until {rfc3339(question.open_until_us)})"
    if question.once:
        then = (
            "what it reads on its standard input is not known before, so each such call is asked about anew"
        )
    return Answer(
        verdict="deny",
        by="nobody",
        reason=f"{why}, call {call}; {then}",
        call_id=question.call_id,
        digest=question.digest,
        session_id=question.session_id,
        rule=question.rule,
        open_until_us=question.open_until_us,
    )
