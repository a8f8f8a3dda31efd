"""Calls that are asked about and people who answer, each with a writer of their own on one store."""

import itertools
import os
from typing import Any

from custody.calls.answers import Answering, ApprovalSettings
from custody.calls.questions import Answer, Means, Question, answer_question, passed_before, use_answer
from custody.index import Index
from custody.journal import Journal, JournalSettings
from custody.journal.disk import RealDisk
from custody.recorder import Recorder
from custody.records import CallAsked, CallFinished, CallStarted, Decision, IdSource, Request, now_us
from custody.redaction import Redactor

KEY = b"k" * 32
HOUR_US = 3_600_000_000


class Clock:
    """The time, which can be put forward."""

    def __init__(self) -> None:
        self.ahead_us = 0

    def __call__(self) -> int:
        return now_us() + self.ahead_us


class Desk:
    """One writer of a store: a runtime's part in asking, or a person's terminal."""

    def __init__(self, store: Any, clock: Clock | None = None) -> None:
        self.store = store
        folder = isinstance(store, str | os.PathLike)
        self.disk = RealDisk(store) if folder else store
        self.journal = Journal(self.disk, settings=JournalSettings(first_segment_bytes=64 * 1024))
        self.recorder = Recorder(self.journal, Redactor(KEY), IdSource())
        self.index = Index(os.path.join(store, "index.db") if folder else None, self.journal)
        self.clock = clock or Clock()
        self.means = Means(
            journal=self.journal, recorder=self.recorder, index=self.index, clock_us=self.clock
        )
        self.numbers = itertools.count(1)

    def answering(self, someone: bool = True, **fields: Any) -> Answering:
        given = {name: fields.pop(name) for name in ("notify",) if name in fields}
        return Answering(
            journal=self.journal,
            recorder=self.recorder,
            index=lambda: self.index,
            key=KEY,
            settings=lambda: ApprovalSettings(**{"wait_seconds": 20.0, **fields}),
            someone=lambda: someone,
            clock_us=self.clock,
            **given,
        )

    def question(
        self, what: str = "rm x", session: str | None = "s", standing: bool = True, hours: float = 8
    ) -> Question:
        """One that is on the record: somebody wants `what`."""
        asked_at = self.clock()
        question = Question(
            call_id=self.recorder.ids.take(8),
            tool="shell",
            effect="write",
            summary=what,
            reason="it removes files",
            rule="ask-before-rm",
            digest=digest_of(what),
            session_id=session,
            agent="ada",
            run_id=None,
            asked_at_us=asked_at,
            open_until_us=asked_at + round(hours * HOUR_US),
            standing_allowed=standing,
        )
        decision = Decision("ask", "rule", question.reason, question.rule)
        request = Request(
            None, None, "shell", "write", "process", decision, asked_at, session_id=session, agent="ada"
        )
        self.recorder.append(
            self.recorder.draft(
                CallAsked,
                {"arguments": {"line": what}, "cwd": "/w"},
                call_id=question.call_id,
                request=request,
                **question.recorded(),
            )
        )
        return question

    def end(self, question: Question, reason: str = "waiting for a person") -> None:
        """The call is over; it never ran."""
        self.recorder.append(
            self.recorder.draft(
                CallFinished,
                {},
                call_id=question.call_id,
                at_us=self.clock(),
                outcome="rejected",
                reason=reason,
                decision=Decision("deny", "nobody", reason),
            )
        )

    def start(self, call_id: bytes) -> None:
        """The call runs."""
        draft = self.recorder.draft(
            CallStarted, {}, call_id=call_id, at_us=self.clock(), monotonic_ns=next(self.numbers)
        )
        self.recorder.append(draft)

    def say(self, question: Question, verdict: Any = "allow", person: str = "kim", **fields: Any) -> Any:
        return answer_question(self.means, question.call_id.hex(), verdict, person=person, **fields)

    def again(self, what: str = "rm x", session: str | None = "s") -> Answer | None:
        """What lets the same call pass now."""
        return passed_before(self.means, digest_of(what), session)

    def use(self, answer: Answer | None, call_id: bytes | None = None) -> bool:
        return answer is not None and use_answer(self.means, answer, call_id or self.recorder.ids.take(8))

    def close(self) -> None:
        self.index.close()
        self.journal.close()


def digest_of(what: str) -> str:
    return (what.encode().hex() * 32)[:64].ljust(64, "0")
