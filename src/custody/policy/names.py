"""Names against the patterns of rules: exact, or `glob:` with `*`, `?` and `[...]`, in which case counts.

Owns the one meaning of a pattern. Knows nothing of what is named. Used by the engine, and by whoever counts,
replays or checks rules.
"""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase, translate

from custody.policy.model import GLOB_PREFIX, Pattern


class Names:
    """Names that are compared exactly, and patterns of them; compiled, for who asks at every call."""

    __slots__ = ("_every", "_exact", "_globs")

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self._every = not patterns
        self._exact = frozenset(one for one in patterns if not one.startswith(GLOB_PREFIX))
        self._globs = tuple(
            re.compile(translate(one[len(GLOB_PREFIX) :])).match
            for one in patterns
            if one.startswith(GLOB_PREFIX)
        )

    def fits(self, name: str | None) -> bool:
        """No patterns are every name; else a call that names nobody is matched by no name and no pattern."""
        if self._every:
            return True
        return name is not None and (name in self._exact or any(glob(name) for glob in self._globs))


def fits(pattern: Pattern, name: str) -> bool:
    """Whether one pattern matches a name."""
    if not pattern.startswith(GLOB_PREFIX):
        return name == pattern
    return fnmatchcase(name, pattern[len(GLOB_PREFIX) :])


def fits_any(patterns: Sequence[Pattern], name: str) -> bool:
    """The same of several; none are every name."""
    return not patterns or any(fits(pattern, name) for pattern in patterns)
