"""What a scanner rule is: the format of one kind of secret.

Owns the type and what holds for every rule. Knows nothing of where rules come from or how they are
searched for. Used by the tables of rules, the loader of rule files and the scanner.
"""

from typing import Literal

from msgspec import Struct

KEYWORD_BYTES_MIN = 3
"""A shorter keyword stands in any text."""

BEFORE_BYTES = 128
AFTER_BYTES = 1024
"""Of the stretch around a keyword that the pattern is tried on, where a rule says nothing else."""

WHOLE_TEXT = 2**30
"""As `before` and `after`: the pattern is tried on the whole text."""


FIRST_GROUP = -1
"""As `secret`: the first group that took part in the match and is not empty, or else the whole match."""


class Exemption(Struct, frozen=True, kw_only=True):
    """What a rule of a file leaves although it has the format."""

    patterns: tuple[str, ...] = ()
    target: Literal["secret", "match", "line"] = "secret"
    """What the patterns are looked for in."""
    stopwords: tuple[str, ...] = ()
    """Small letters. Looked for in the secret, capitals or not."""
    all_needed: bool = False
    """A pattern and a stopword, not either."""


class ScanRule(Struct, frozen=True, kw_only=True):
    """One kind of secret, told by its format."""

    id: str
    """`[a-z0-9_]+`; stands in the token, `[redacted:github_pat:5f2a90c1]`."""
    kind: str
    """What it is, in words."""
    keywords: tuple[str, ...]
    """ASCII, at least three characters each. The pattern is tried only near one of them."""
    keywords_exact: bool = False
    """Capital and small letters of the keywords are told apart."""
    pattern: str
    """RE2 syntax, over bytes: `.` and `[^…]` take one byte of UTF-8; `\\b` and `\\w` mean ASCII. It sees what
    stands before and after the stretch that is searched, so `\\b`, `^` and `$` mean the text's own. `^` and
    `$` are the text's ends, not a line's, unless it says `(?m)`."""
    secret: int = 0
    """The group that is the secret, or `FIRST_GROUP`. What stands around it stays."""
    check: str | None = None
    """Name of a function of `redaction.checks`, bytes (the secret) to bool: a checksum or a variety test on
    top of the format."""
    before: int = BEFORE_BYTES
    after: int = AFTER_BYTES
    """How far before a keyword's begin and behind its end a match may reach, in bytes. A match that reaches
    the end of the stretch is followed further."""
    run: int = 0
    """So many characters of `A-Z a-z 0-9 _ - . + / = ~ %` stand in a row behind the keyword's begin, within
    `after`, or the pattern is not tried. Costs nothing, saves the pattern."""
    entropy: float = 0.0
    """The secret has more bits per character (Shannon) than this; on top of the format."""
    exemptions: tuple[Exemption, ...] = ()
