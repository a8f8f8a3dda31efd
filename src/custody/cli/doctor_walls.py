"""What `custody doctor` says of the walls: each that was tried, whether it holds, and what would change it.

Owns how they are put into lines. What holds is found by `sandbox.walls`. Used by `doctor` alone.
"""

import sys
from collections.abc import Iterator

from custody.cli.finding import Finding


def wall_findings(uids: tuple[int, int] | None, store: str | None = None) -> Iterator[Finding]:
    """One for each wall, and one for what they come to. A wall that is not there is nothing wrong: what
    demands it is refused. `uids` are those of the settings, `store` is where the store lies or will."""
    from custody.sandbox.walls.machine import look_at_machine
    from custody.sandbox.walls.users import UIDS

    machine = look_at_machine(store=store, uids=uids or UIDS)
    for found in machine.findings:
        value = {"has": found.has, "needed": found.needed}
        hint = None if found.change is None or found.has == "yes" else found.change
        state = "ok" if found.has == "yes" else "note"
        yield Finding(f"wall: {found.name}", state, value, f"{found.has}: {found.why}", hint)
    missing = [found.name for found in machine.missing]
    levels = ["none", "process"] if sys.platform == "linux" else ["none"]
    levels += (
        [] if missing else ["confined", "transaction"]
    )  # without the overlay a transaction works on copies
    yield Finding("levels", "ok", levels, ", ".join(levels))
    yield Finding(
        "confined", "note" if missing else "ok", {"offered": not missing, "missing": missing},
        f"not offered: {', '.join(missing)} missing" if missing else "all walls it needs hold here",
        "What demands it is refused." if missing else None,
    )  # fmt: skip
