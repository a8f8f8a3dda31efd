"""Grants: what a person allows for more than one call, listed and taken back.

A grant comes with a yes (`questions.answer_question`) and is named by the call that was asked about. Owns its
listing and its revocation. May wait: not for an event loop.
"""

from msgspec import Struct

from custody.calls.questions import SHORT_ID, Means, one_at_a_time, refuse
from custody.errors import NotFound
from custody.index import Index
from custody.index.questions import REVOKED, GrantView
from custody.records import rfc3339


class Grant(Struct, frozen=True, kw_only=True):
    """A grant as it is listed."""

    call_id: str
    """The call that was asked about, by which it is revoked."""
    tool: str
    session_id: str | None
    agent: str | None
    by: str | None
    at: str
    until: str
    calls_max: int
    calls_used: int
    revoked_at: str | None
    revoked_by: str | None
    good: bool
    """Whether it lets one more call pass."""


def list_grants(index: Index, at_us: int, *, every: bool = False) -> list[Grant]:
    """The latest first: those that let one more call pass, or every one."""
    grants = (listed(grant, at_us) for grant in index.questions.grants())
    return [grant for grant in grants if every or grant.good]


def revoke_grant(means: Means, call: str, *, person: str) -> Grant:
    """No call passes on it from here on; those that have begun go on.

    `call` is the beginning of the id of the call that was asked about. Raises NotFound, Ambiguous,
    AnswerRefused and NotRecorded.
    """
    with one_at_a_time(means.journal):
        view = means.index.questions.one(call)
        name = f"call {view.call_id.hex()[:SHORT_ID]}"
        if view.grant is None:
            raise NotFound(f"There is no grant for {name}.", hint="`custody approvals` lists the grants.")
        if view.grant.revoked_at_us is not None:
            message = f"{view.grant.revoked_by} has revoked the grant for {name} before."
            raise refuse(means, "revoked", message, person, view.call_id)
        data = {"of_call": view.call_id.hex(), "by": person}
        receipt = means.recorder.event(REVOKED, data, leaf_data=True, call_id=view.call_id)
        revoked = means.index.questions.one(view.call_id.hex()).grant
    receipt.wait_durable()
    assert revoked is not None, "it was there, and records stay"
    return listed(revoked, means.clock_us())


def listed(grant: GrantView, at_us: int) -> Grant:
    """As it stands at that time."""
    revoked_at_us = grant.revoked_at_us
    return Grant(
        call_id=grant.call_id.hex(),
        tool=grant.tool,
        session_id=grant.session_id,
        agent=grant.agent,
        by=grant.by,
        at=rfc3339(grant.at_us),
        until=rfc3339(grant.until_us),
        calls_max=grant.calls_max,
        calls_used=len(grant.used_by),
        revoked_at=None if revoked_at_us is None else rfc3339(revoked_at_us),
        revoked_by=grant.revoked_by,
        good=grant.is_good(at_us),
    )
