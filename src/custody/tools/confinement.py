"""What a call's command is held by: its level, its sandbox, and what becomes of what it changes.

Owns the value alone. Which one a call has is decided by `calls.walled`; who carries it out are the tools that
start processes.
"""

from msgspec import Struct

from custody.policy.model import Afterwards, WallLevel
from custody.sandbox.walls import Sandbox


class Confinement(Struct, frozen=True, kw_only=True):
    """Of one call whose tool starts a process."""

    level: WallLevel = "process"
    sandbox: Sandbox | None = None
    """None at level `process` only."""
    afterwards: Afterwards = "hold"
    """What becomes of the changes of a transaction."""
    said: Afterwards | None = None
    """The same as far as call or settings say it, so that no rule makes it less careful."""
