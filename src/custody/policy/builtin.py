"""The built-in policy: what holds at the doors of agents where no organisation's or user's file says more.

Owns its three rules. Reading and writing inside the roots, commands, and what the other side runs are
allowed: the roots, the protected files and the level of a command hold anyway. Used where policies are
joined, and by the guards.
"""

import hashlib
from collections.abc import Iterable

from custody.policy.layers import join
from custody.policy.model import Case, Layer, Match, Rule

SOURCE = "built in"


class OfAnAgent:
    """Whether nobody has typed the call at a terminal."""

    words = "no person has typed it"

    def __call__(self, case: Case) -> bool:
        return not case.typed


class DoesIt(OfAnAgent):
    """Whether an agent wants it done, and not only to see what it would do."""

    words = f"{OfAnAgent.words}, and it is no dry run"

    def __call__(self, case: Case) -> bool:
        return not case.dry_run and super().__call__(case)


class WritesOutside(OfAnAgent):
    """Whether an agent's call would write outside the roots."""

    words = f"it would write outside the roots, and {OfAnAgent.words}"

    def __call__(self, case: Case) -> bool:
        return case.writes_outside and super().__call__(case)


class WritesProtected(OfAnAgent):
    """Whether an agent's call would write a protected file."""

    words = f"it would write a protected file, and {OfAnAgent.words}"

    def __call__(self, case: Case) -> bool:
        return case.writes_protected and super().__call__(case)


_RULES = (
    Rule(
        name="builtin:irreversible",
        decision="ask",
        match=Match(effects=("irreversible",)),
        check=DoesIt(),
        reason="What it does cannot be taken back.",
    ),
    Rule(
        name="builtin:outside-the-roots",
        decision="ask",
        check=WritesOutside(),
        reason="A write outside the roots is for a person to allow.",
    ),
    Rule(
        name="builtin:protected",
        decision="ask",
        check=WritesProtected(),
        reason="A write to a protected file is for a person to allow.",
    ),
)

_SAID = "\n".join(f"{rule.name} {rule.decision} {getattr(rule.check, 'words', '')}" for rule in _RULES)

BUILT_IN = Layer(
    kind="builtin",
    source=SOURCE,
    digest=f"sha256:{hashlib.sha256(_SAID.encode()).hexdigest()}",
    rules=_RULES,
)


def with_built_in(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """The same, joined, and the built-in rules where they hold: a project's file alone does not replace
    them."""
    return join((*(layer for layer in layers if layer.kind != "builtin"), BUILT_IN))
