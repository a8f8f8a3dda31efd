"""`approvals.*`: operators and hosts see what people are asked, and answer it.

Owns their shapes, and that whoever waits for questions is somebody who listens: calls that ask wait for them.
What an answer is worth is `calls.questions`'. Agents have none of it.
"""

import asyncio
import time
import weakref
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Annotated, Literal

from msgspec import Meta, Struct

from custody.calls.grants import Grant, list_grants, revoke_grant
from custody.calls.questions import (
    REASON_CHARACTERS_MAX,
    STANDING_CALLS_MAX,
    STANDING_HOURS_MAX,
    Answered,
    Means,
    OpenQuestion,
    Standing,
    answer_question,
    open_questions,
)
from custody.journal.disk import Lock
from custody.records import now_us
from custody.rpc.access import Role
from custody.rpc.method import method
from custody.rpc.peer import Peer
from custody.rpc.service import Service
from custody.rpc.sight import apart, ask

ANSWERING: tuple[Role, ...] = ("operator", "host")
"""Who answers: an agent would answer itself, and an auditor does nothing."""

WAIT_SECONDS_MAX = 30.0
"""How long somebody may wait for a question; then they ask again."""

POLL_SECONDS = 0.2  # how late they may hear of one

LINGER_SECONDS = 10.0
"""How long they are taken to be there after an answer: they read it, and ask again."""

KNOWN_MAX = 1_000  # as many as there are in a list

CallId = Annotated[str, Meta(min_length=1, max_length=16, pattern="^[0-9a-fA-F]+$")]


class ListParams(Struct, frozen=True, kw_only=True):
    """Which questions, and how long to wait for one."""

    wait_s: Annotated[float, Meta(ge=0, le=WAIT_SECONDS_MAX)] = 0.0
    """Wait so long for a question that is not among `known`; calls that ask wait for whoever does."""
    known: Annotated[list[str], Meta(max_length=KNOWN_MAX)] = []
    """Ids of the calls whose questions the caller has."""


class Questions(Struct, frozen=True, kw_only=True):
    """The questions that are open, the oldest first."""

    items: list[OpenQuestion]


class StandingParams(Struct, frozen=True, kw_only=True):
    """A yes for more than one call: a grant."""

    hours: Annotated[float, Meta(gt=0, le=STANDING_HOURS_MAX)] = 8.0
    calls_max: Annotated[int, Meta(ge=1, le=STANDING_CALLS_MAX)] = 20


class AnswerParams(Struct, frozen=True, kw_only=True):
    """A person's answer."""

    id: CallId
    """The call, or the beginning of its id."""
    verdict: Literal["allow", "deny"]
    reason: Annotated[str, Meta(max_length=REASON_CHARACTERS_MAX)] | None = None
    """What the caller is told."""
    standing: StandingParams | None = None


class GrantsParams(Struct, frozen=True, kw_only=True):
    """Which grants."""

    all: bool = False
    """Also those that are used up, over or revoked."""


class Grants(Struct, frozen=True, kw_only=True):
    """Grants, the latest first."""

    items: list[Grant]


class RevokeParams(Struct, frozen=True, kw_only=True):
    """Which grant: the call it was given for, or the beginning of its id."""

    id: CallId


@method("approvals.list", roles=ANSWERING)
async def approvals_list(peer: Peer, params: ListParams) -> Questions:
    """The questions that are open; waits for one, where so asked."""
    known, until = frozenset(params.known), time.monotonic() + params.wait_s
    if not params.wait_s:
        return Questions(items=await _open(peer))
    with _listening_of(peer.service).one():
        while True:
            items = await _open(peer)
            left = until - time.monotonic()
            if left <= 0 or any(item.call_id not in known for item in items):
                return Questions(items=items)
            await asyncio.sleep(min(POLL_SECONDS, left))


async def _open(peer: Peer) -> list[OpenQuestion]:
    return await ask(peer, lambda index: open_questions(index, now_us()))


@method("approvals.answer", roles=ANSWERING)
async def approvals_answer(peer: Peer, params: AnswerParams) -> Answered:
    """Answer a question, for a person; the first answer counts."""
    given, person, means = params.standing, _person(peer), _means(peer)
    standing = None if given is None else Standing(hours=given.hours, calls_max=given.calls_max)
    said = None if params.reason is None else means.recorder.clean_text(params.reason, "reason")[0]
    return await apart(
        peer,
        lambda: answer_question(
            means, params.id.lower(), params.verdict, person=person, reason=said or None, standing=standing
        ),
    )


@method("approvals.grants", roles=ANSWERING)
async def approvals_grants(peer: Peer, params: GrantsParams) -> Grants:
    """What is allowed for more than one call."""
    return await ask(peer, lambda index: Grants(items=list_grants(index, now_us(), every=params.all)))


@method("approvals.revoke", roles=ANSWERING)
async def approvals_revoke(peer: Peer, params: RevokeParams) -> Grant:
    """End a grant: no call passes on it from here on."""
    person, means = _person(peer), _means(peer)
    return await apart(peer, lambda: revoke_grant(means, params.id.lower(), person=person))


def _person(peer: Peer) -> str:
    """As the record names whoever answers: by their token, which is all that is known of them."""
    role, name = peer.access.role, peer.access.name
    assert role is not None, "nobody is let through to a method before they have said who they are"
    return role if name is None or name == role else f"{role} {name}"


def _means(peer: Peer) -> Means:
    runtime = peer.service.runtime
    return Means(journal=runtime.journal, recorder=runtime.ledger.recorder, index=runtime.index)


# -- who listens ------------------------------------------------------------------------------------------


class _Listening:
    """The store's lock of who listens, for all peers of one service together."""

    def __init__(self, service: Service) -> None:
        self._service = weakref.ref(service)
        self._peers = 0
        self._lock: Lock | None = None
        self._leaving: asyncio.TimerHandle | None = None
        service.runtime.closing.insert(0, self._release)

    @contextmanager
    def one(self) -> Generator[None]:
        """Somebody waits for questions."""
        self._peers += 1
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        service = self._service()
        if self._lock is None and service is not None:  # else another process listens, and will do
            with suppress(OSError):  # then nobody listens
                self._lock = service.runtime.journal.approver_lock()
        try:
            yield
        finally:
            self._peers -= 1
            if not self._peers:
                self._leaving = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._release)

    def _release(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()


_listening: "weakref.WeakKeyDictionary[Service, _Listening]" = weakref.WeakKeyDictionary()


def _listening_of(service: Service) -> _Listening:
    found = _listening.get(service)
    if found is None:
        found = _listening[service] = _Listening(service)
    return found


METHODS = (approvals_list, approvals_answer, approvals_grants, approvals_revoke)
