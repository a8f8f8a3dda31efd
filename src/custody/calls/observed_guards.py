"""Whether a call that its caller runs may happen: policy, what it may still use up, the machine's resources.

Owns that nobody is asked about such a call, that an event loop it is made on never waits for counting, and
that what was taken for one that does not start is given back. How deciding and counting are joined is
`taking`'s. Used by `recording`.
"""

import asyncio
import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from custody.calls.asked import Who
from custody.calls.deciding import Deciding
from custody.calls.guards import Guard, Proposal, decide, said_of
from custody.host import HostSample
from custody.policy import Policy
from custody.records import Decision, Effect
from custody.tools import Asker, Scope

if TYPE_CHECKING:
    from custody.calls.admission import Limits
    from custody.calls.taking import How, Taken

running_loop = asyncio._get_running_loop  # pyright: ignore[reportPrivateUsage] - asked at every guarded call
log = logging.getLogger("custody")

PREPARE_SECONDS = 1.0
"""Between two counts for the sake of an event loop: a call on it may meet the count, and does not wait."""

Tell = Callable[[str, Mapping[str, Any]], object]
"""Puts an event on the record: its name, and what it says."""


class Wanted(Struct, frozen=True, kw_only=True):
    """A call that somebody is about to run."""

    tool: str
    arguments: Any
    effect: Effect = "unknown"
    who: Who = Who()
    door: str
    run_chain: tuple[bytes, ...] = ()
    """Its run, the one that run was started from, and so on."""
    call_id: bytes | None = None
    """None: somebody only wants to know. Nothing is taken, and nothing recorded."""
    dry_run: bool = False
    asks: bool = False
    """Whoever runs it can ask a person itself: an ask stays one."""
    scope: Scope | None = None
    """Where it would work; None: where the runtime's calls do."""


class ObservedGuards:
    """Of one runtime. Safe for threads."""

    def __init__(
        self,
        guards: tuple[Guard, ...],
        standing: Callable[[], Policy],
        deciding: Deciding,
        scope: Scope,
        sample: Callable[[], HostSample | None],
    ) -> None:
        """`standing` gives the policy in force."""
        self._guards = guards
        self._standing = standing
        self._deciding = deciding
        self._scope = scope
        self._sample = sample
        self._unreleased: deque[bytes] = deque()
        """Calls that did not start, and whose share could not be given back yet."""
        self._preparing: threading.Thread | None = None
        self._prepare_at = float("-inf")

    def decide(self, wanted: Wanted, tell: Tell) -> Decision:
        """Where a rule asks, that is a no, unless `wanted` says that it is asked elsewhere. After an allow
        comes the record of the call's start, or `release`.
        `tell` is called for what goes on the record beside it."""
        proposal = self._proposal(wanted)
        at_once = running_loop() is not None
        decision = self._decided(wanted, proposal, tell, at_once)
        if self._is_paused(decision, at_once):
            proposal = msgspec.structs.replace(proposal, paused=True)
            decision = self._decided(wanted, proposal, tell, at_once)
        for noted in proposal.noted if wanted.call_id is not None else ():
            tell("shadow.denied", said_of(noted) | {"tool": wanted.tool})
        if decision.verdict != "ask" or wanted.asks:
            return decision
        reason = f"{decision.reason} Nobody can be asked about a tool that its caller runs."
        return msgspec.structs.replace(decision, verdict="deny", by="nobody", reason=reason)

    def prepare(self) -> None:
        """Count what is on the record already, where the policy limits anything: nobody could wait for that
        on an event loop. Waits; raises nothing, as whoever finds nothing counted is told no."""
        try:
            if self._deciding.limits(self._standing()) is not None:
                self._deciding.spending.refresh()
        except Exception as error:
            log.warning("What the policy limits could not be counted: %s", error)

    def release(self, call_id: bytes) -> None:
        """It was allowed and does not start: what it took is there again, at the latest when the next is
        decided. Raises nothing."""
        if self._deciding.limits(self._standing()) is not None:
            self._unreleased.append(call_id)
            self._give_back(at_once=running_loop() is not None)

    def close(self) -> None:
        """Waits. Raises nothing."""
        if self._unreleased:
            self._give_back(at_once=False)
            self._deciding.spending.close()

    # -- how --------------------------------------------------------------------------------------------

    def _decided(self, wanted: Wanted, proposal: Proposal, tell: Tell, at_once: bool) -> Decision:
        limits = self._deciding.limits(proposal.policy)
        # Whoever only wants to know outside any run does not say whose accounts are meant.
        if limits is None or (wanted.call_id is None and not wanted.run_chain):
            return decide(proposal, self._guards)
        self._give_back(at_once=at_once)
        found = self._counted(wanted, proposal, limits, at_once)
        if found.unsure:
            self._prepare_aside()
        if wanted.call_id is not None and found.soft:
            from custody.calls.taking import said_of_soft

            for soft in found.soft:
                tell("budget.soft", said_of_soft(soft))
        return found.decision

    def _counted(self, wanted: Wanted, proposal: Proposal, limits: "Limits", at_once: bool) -> "Taken":
        from custody.calls.taking import admission_of, decide_and_count

        how: How = "at_once" if at_once else "wait"
        if wanted.call_id is None and not at_once:
            how = "look"
        elif wanted.call_id is None:
            limits = msgspec.structs.replace(limits, budgets=(), loops=None, rates=False, counters=False)
        admission = functools.partial(
            admission_of,
            proposal,
            self._deciding.key,
            limits,
            call_id=wanted.call_id or b"",
            who=wanted.who,
            run_chain=wanted.run_chain,
            dry_run=wanted.dry_run,
        )
        return decide_and_count(proposal, self._guards, self._deciding.spending, admission, limits, how)

    def _is_paused(self, decision: Decision, at_once: bool) -> bool:
        """Whether a person has paused the rules that say no. On an event loop nobody looks: they hold."""
        if decision.verdict == "allow" or decision.policy is None or at_once:
            return False
        return self._deciding.pauses.active() is not None

    def _proposal(self, wanted: Wanted) -> Proposal:
        run_id = wanted.run_chain[0].hex() if wanted.run_chain else None
        return Proposal(
            name=wanted.tool,
            tool=None,
            arguments=wanted.arguments,
            scope=self._scope if wanted.scope is None else wanted.scope,
            host=self._sample(),
            policy=self._standing(),
            effect=wanted.effect,
            agent=wanted.who.agent,
            run={} if run_id is None else {"id": run_id},
            asker=Asker(
                door=wanted.door,
                caller=wanted.who.caller,
                session_id=wanted.who.session_id,
                run_id=run_id,
            ),
        )

    def _give_back(self, *, at_once: bool) -> None:
        while True:
            try:
                call_id = self._unreleased.popleft()
            except IndexError:
                return
            try:
                done = self._released(call_id, at_once=at_once)
            except Exception as error:
                log.warning("What a call took that did not start is given back later: %s", error)
                done = False
            if not done:
                self._unreleased.append(call_id)
                return

    def _released(self, call_id: bytes, *, at_once: bool) -> bool:
        spending = self._deciding.spending
        if at_once:
            return spending.release_at_once(call_id)
        spending.release(call_id)
        return True

    def _prepare_aside(self) -> None:
        """So that the next call on this event loop finds things counted."""
        before, now = self._preparing, time.monotonic()
        if now < self._prepare_at or (before is not None and before.is_alive()):
            return
        self._prepare_at = now + PREPARE_SECONDS
        # It may wait for another process for a minute, which a program that ends must not.
        self._preparing = threading.Thread(target=self.prepare, name="custody-counting", daemon=True)
        try:
            self._preparing.start()
        except RuntimeError:
            self._preparing = None  # no more threads; tried again
