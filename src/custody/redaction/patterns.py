"""Regular expressions over bytes, as scanner rules have them: RE2, and what must be known of one beforehand.

Owns how RE2 is set up and called. Knows nothing of rules. Used by the scanner and the reader of rule files.

RE2 takes linear time whatever the text, and gives up the interpreter lock for each search, which beside a
busy thread costs 5 ms: whoever can tell that nothing will match does not ask.
"""

import importlib
from functools import lru_cache
from typing import Any

PATTERN_BYTES_MAX = 64 * 1024 * 1024
"""Of a compiled pattern and what it remembers of texts; it takes them when it meets texts that need them.
With too few a pattern is slow."""

PATTERNS_REMEMBERED_MAX = 4096
"""More than the built-in rules and those of any file."""

Spans = list[tuple[int, int]]
"""Where the match and its groups stand; -1 for a group that took no part."""


class Pattern:
    """A compiled expression. Raises `re2.error` for one that RE2 refuses."""

    def __init__(self, expression: str) -> None:
        re2: Any = importlib.import_module("re2")  # 18 ms, which a process without a keyword does not pay

        options = re2.Options()
        options.encoding = re2.Options.Encoding.LATIN1  # a byte is a character, whatever stands around
        options.log_errors = False  # it would write to the standard error
        options.max_mem = PATTERN_BYTES_MAX
        self._compiled: Any = re2.compile(expression.encode(), options)
        self.groups: int = self._compiled.groups
        self._direct, self._anywhere, self._at_start = _direct(re2, self._compiled)

    def search(self, data: bytes, start: int, end: int) -> Spans | None:
        """The first match within the stretch, which sees what stands around it."""
        if self._direct is None:
            return self._spans(self._compiled.search(data, start, end))
        spans: Spans = self._direct(self._anywhere, data, start, end)
        return None if spans[0][0] < 0 else spans

    def match(self, data: bytes, start: int, end: int) -> Spans | None:
        """The match that begins at the start."""
        if self._direct is None:
            return self._spans(self._compiled.match(data, start, end))
        spans: Spans = self._direct(self._at_start, data, start, end)
        return None if spans[0][0] < 0 else spans

    def _spans(self, found: Any) -> Spans | None:
        return None if found is None else [found.span(group) for group in range(self.groups + 1)]


def _direct(re2: Any, compiled: Any) -> tuple[Any, Any, Any]:
    """RE2's own function, where the package still has it where it had it: what it puts around each match
    costs twice as much as the search."""
    try:
        anchor = re2._re2.RE2.Anchor
        return compiled._regexp.Match, anchor.UNANCHORED, anchor.ANCHOR_START
    except AttributeError:
        return None, None, None


@lru_cache(PATTERNS_REMEMBERED_MAX)
def compiled(expression: str) -> Pattern:
    """Raises `re2.error`."""
    return Pattern(expression)


@lru_cache(PATTERNS_REMEMBERED_MAX)
def least_bytes(expression: str) -> int:
    """Of a match, as far as is known. Most names and arguments that hold a keyword are shorter. The standard
    library's parser knows; of what only RE2 understands, nothing."""
    if "[[" in expression:  # `[[:alpha:]]`, which it would misunderstand
        return 0
    try:
        return importlib.import_module("re._parser").parse(expression).getwidth()[0]
    except Exception:
        return 0
