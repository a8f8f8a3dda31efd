"""What it takes to count, to ask people and to pause: made where a policy first needs it.

Owns that a call under no policy pays for none of it, not even for its loading. Used by `execute`; made by
`compose`.
"""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from custody.policy import Policy

if TYPE_CHECKING:
    from custody.calls.admission import Limits
    from custody.calls.answers import Answering
    from custody.calls.budgets import Spending
    from custody.calls.pause import Pauses


class Deciding:
    """Of one runtime."""

    def __init__(
        self,
        *,
        key: "Callable[[], bytes]",
        spending: "Callable[[], Spending]",
        answering: "Callable[[], Answering]",
        pauses: "Callable[[], Pauses]",
    ) -> None:
        """`key` gives a secret of the store, for digests of what is the same."""
        self._make_key = key
        self._make_spending = spending
        self._make_answering = answering
        self._make_pauses = pauses
        self.ending: list[Callable[[], object]] = []
        """What was started with them, ended when they are closed."""
        self._limited: Policy | None = None
        self._limits: Limits | None = None

    @cached_property
    def key(self) -> bytes:
        """A secret of the store."""
        return self._make_key()

    @cached_property
    def spending(self) -> "Spending":
        """What was used up, by whom."""
        return self._make_spending()

    @cached_property
    def answering(self) -> "Answering":
        """Who is asked."""
        return self._make_answering()

    @cached_property
    def pauses(self) -> "Pauses":
        """Whether a person has paused the policy."""
        return self._make_pauses()

    def limits(self, policy: Policy) -> "Limits | None":
        """What has to be counted for this policy; None where nothing has."""
        if not policy.layers:
            return None
        if self._limited is not policy:
            from custody.calls.admission import limits_of

            limits = limits_of(policy.layers, policy.budgets, policy.loops)
            self._limits = limits if limits.admits or limits.sequences else None
            self._limited = policy
        return self._limits

    def close(self) -> None:
        """When no call is under way any more. On the event loop; `end` comes next."""
        if "answering" in self.__dict__:
            self.answering.close()

    def end(self) -> None:
        """End what may take its time: not on the event loop."""
        if "spending" in self.__dict__:
            self.spending.close()
        for end in self.ending:
            end()
