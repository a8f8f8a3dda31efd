"""The cancelling of a run, and the receipt of it.

Owns the order: what is asked is on the record, without the words of the reason, before anything is ended;
then what is in flight is told to end; then the run. The same key and reason give the same receipt, also after
a restart, as the receipt is on the record. Usable without any peer. Used by `runs.cancel`.
"""

import asyncio
import hashlib
from collections.abc import Collection
from contextlib import suppress
from typing import Any, Literal

import msgspec
from msgspec import Struct

from custody.errors import InvalidInput
from custody.records import Run
from custody.rpc.live import PEER_GONE, Known, LiveRuns, no_such_run
from custody.rpc.live_run import LiveRun, Work
from custody.rpc.trace_records import ended_record

REASON_BYTES_MAX = 1_024
KEY_BYTES_MAX = 128
"""Both as in the reference."""

RECEIPT_VERSION = 1

RECEIPTS_READ_MAX = 1_000
"""Of one run, looked through for a key: a run is cancelled once, so nearly all are answers to nothing new."""

CancelStatus = Literal["cancelled_confirmed", "already_terminal", "termination_unconfirmed"]


class CancelReceipt(Struct, frozen=True, kw_only=True):
    """What became of a request to cancel a run."""

    receipt_version: int = RECEIPT_VERSION
    run_id: str
    idempotency_key: str
    reason_digest: str
    """SHA-256 of the reason, in hex."""
    principal: str
    """Who asked: `agent:ID`, or the role."""
    status: CancelStatus
    terminal_digest: str | None
    """SHA-256 of the run's `ended` record in canonical JSON; null while it has none."""
    action_id: str | None
    """What was in flight, the oldest of it."""
    request_id: str | None
    receipt_digest: str = ""
    """SHA-256 of the receipt without this member, in canonical JSON."""


async def cancel_run(
    runs: LiveRuns,
    run_id: str,
    key: str,
    reason: str,
    *,
    whose: Collection[str] | None,
    principal: str | None = None,
) -> CancelReceipt:
    """End a run as cancelled. `principal` is who asks; None: the run's agent.

    Raises InvalidInput, NotFound, NotRecorded.
    """
    reason_digest = _checked(key, reason)
    known = await runs.find(run_id, whose)
    if known is None:
        raise no_such_run()
    async with runs.alone(("cancel", known.run_id)):
        earlier = await runs.in_thread(_earlier, runs, known.run_id, key)
        if earlier is not None:
            if earlier.reason_digest != reason_digest:
                raise InvalidInput("The key was used with another reason.", field="idempotency_key")
            return earlier
        asked = _Asked(runs, known, key, reason_digest, principal)
        live = known.live
        if live is None:
            return await (asked.already_over() if known.over else asked.elsewhere())
        return await (asked.being_ended(live) if live.over else asked.cancel(live))


class _Asked:
    """One request to cancel a run."""

    def __init__(
        self, runs: LiveRuns, known: Known, key: str, reason_digest: str, principal: str | None
    ) -> None:
        self._runs = runs
        self._known = known
        self._key = key
        self._reason_digest = reason_digest
        self._principal = principal or f"agent:{known.agent}"
        self._by_its_agent = principal is None

    async def cancel(self, live: LiveRun) -> CancelReceipt:
        await self._record_request()
        if live.over:  # somebody else was first
            return await self.being_ended(live)
        if self._by_its_agent or live.attached or live.last_connection is None:
            return await self._confirmed(live)
        # Whoever worked on it is gone, and took with it what there was to cancel.
        await self._runs.end(live, "incomplete", reason=PEER_GONE)
        return await self.already_over()

    async def _confirmed(self, live: LiveRun) -> CancelReceipt:
        self._runs.claim(live)
        work = _oldest(live)
        return await asyncio.shield(self._runs.spawn(self._end(live, work)))

    async def _end(self, live: LiveRun, work: Work | None) -> CancelReceipt:
        stopped = await live.stop(self._runs.stop_seconds)
        if not stopped:
            receipt = await self._answer("termination_unconfirmed", None, work)
            self._runs.spawn(self._end_late(live))
            return receipt
        await self._runs.finish(live, "cancelled", reason=f"cancelled by {self._principal}")
        return await self._answer("cancelled_confirmed", await self._terminal_digest(), work)

    async def _end_late(self, live: LiveRun) -> None:
        """Until what is in flight has ended nothing else happens in the run, its end included."""
        await live.idle()
        await self._runs.finish(live, "cancelled", reason=f"cancelled by {self._principal}")

    async def being_ended(self, live: LiveRun) -> CancelReceipt:
        """Somebody else ends it, or has; unless what is in flight does not let them."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._runs.stop_seconds):
                await live.ended.wait()
        if not live.ended.is_set():
            return self._receipt("termination_unconfirmed", None, _oldest(live))
        return await self.already_over()

    async def already_over(self) -> CancelReceipt:
        """Nothing is recorded of it: the same request gets the same answer anyway."""
        return self._receipt("already_terminal", await self._terminal_digest(), None)

    async def elsewhere(self) -> CancelReceipt:
        """Another process works on the run: it is told, and ends the calls; the run is its own to end."""
        await self._record_request()
        await self._runs.runtime.cancel(self._known.run_id.hex())
        return await self._answer("termination_unconfirmed", None, None)

    async def _record_request(self) -> None:
        data = {
            "idempotency_key": self._key,
            "reason_digest": self._reason_digest,
            "principal": self._principal,
        }
        await self._runs.record("run.cancel_requested", data, self._known.run_id)

    async def _answer(
        self, status: CancelStatus, terminal_digest: str | None, work: Work | None
    ) -> CancelReceipt:
        receipt = self._receipt(status, terminal_digest, work)
        await self._runs.record("run.cancel_answered", msgspec.to_builtins(receipt), self._known.run_id)
        return receipt

    def _receipt(self, status: CancelStatus, terminal_digest: str | None, work: Work | None) -> CancelReceipt:
        receipt = CancelReceipt(
            run_id=self._known.id,
            idempotency_key=self._key,
            reason_digest=self._reason_digest,
            principal=self._principal,
            status=status,
            terminal_digest=terminal_digest,
            action_id=None if work is None else work.action_id,
            request_id=None if work is None else work.request_id,
        )
        body: dict[str, Any] = msgspec.to_builtins(receipt)
        del body["receipt_digest"]
        return msgspec.structs.replace(receipt, receipt_digest=digest_of(body))

    async def _terminal_digest(self) -> str:
        run: Run = await self._runs.in_thread(self._runs.runtime.index.run, self._known.run_id.hex())
        return digest_of(msgspec.to_builtins(ended_record(run)))


def _oldest(live: LiveRun) -> Work | None:
    """Of what is in flight and can be ended."""
    return next((work for work in live.in_flight if work.cancel is not None), None)


def digest_of(value: Any) -> str:
    """SHA-256 of the value in canonical JSON (RFC 8785; all names here are ASCII, all numbers whole)."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()


def _checked(key: str, reason: str) -> str:
    """The digest of the reason. Raises InvalidInput."""
    said = reason.encode("utf-8", "surrogatepass")
    if not 0 < len(key.encode("utf-8", "surrogatepass")) <= KEY_BYTES_MAX:
        raise InvalidInput(f"idempotency_key has 1 to {KEY_BYTES_MAX} bytes.", field="idempotency_key")
    if len(said) > REASON_BYTES_MAX:
        raise InvalidInput(f"reason has at most {REASON_BYTES_MAX} bytes.", field="reason")
    return hashlib.sha256(said).hexdigest()


def _earlier(runs: LiveRuns, run_id: bytes, key: str) -> CancelReceipt | None:
    """The receipt given under the key before."""
    index, limit = runs.runtime.index, RECEIPTS_READ_MAX
    answered = index.events(name="run.cancel_answered", run=run_id.hex(), limit=limit)
    for event in answered.items:
        data: Any = event.data
        if isinstance(data, dict) and data.get("idempotency_key") == key:  # pyright: ignore[reportUnknownMemberType]
            return msgspec.convert(data, CancelReceipt)
    return None
