"""The words of a CEL expression, and what they say of it before it is run: what it reads, how deep it loops.

Owns reading the text into tokens and refusing what could not be bounded at run time. Knows nothing of values.
Used by `conditions`.

What an expression builds has to stay in proportion to what it is handed, or a few lines would fill the memory
by doubling a list over and over. Only `map` carries something new out of a loop, so `map` may pick a part of
each element and build nothing.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from msgspec import Struct

from custody.errors import InvalidCondition
from custody.policy.handing import ROOTS, Fields

CHARACTERS_MAX = 4_096
"""Of one condition: a page of text. What is longer is better written as several rules."""

BRACKETS_DEPTH_MAX = 32
"""The library reads them by recursion, and ends the process at some 60 in a thread with a small stack."""

CHAIN_MAX = 400
"""Operators that can stand in a row, in all: the same, at some 600."""

LOOPS_DEPTH_MAX = 2
"""Loops in loops: three deep, a hundred elements are a million passes."""

LOOPS = {"all": 1, "exists": 1, "exists_one": 1, "existsOne": 1, "filter": 2, "map": 2}
"""By which power of the elements each takes time: the library copies a result for each element added."""

_CHAINED = frozenset({"+", "-", "*", "/", "%", ".", "[", "in", "==", "!=", "<", ">", "<=", ">=", "?"})
_CLOSING = {")": "(", "]": "[", "}": "{"}

_TOKENS = re.compile(
    r"""
    (?P<blank>\s+|//[^\n]*)
  | (?P<text>(?:[rR][bB]?|[bB][rR])(?:\"\"\"[\s\S]*?\"\"\"|'''[\s\S]*?'''|"[^"\n]*"|'[^'\n]*')
      | [bB]?(?:\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
  | (?P<number>0[xX][0-9a-fA-F]+[uU]?|[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?[uU]?)
  | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<sign>&&|\|\||[=!<>]=|[\s\S])
    """,
    re.VERBOSE,
)


class Token(Struct, frozen=True):
    """One word of an expression."""

    kind: str
    """`text`, `number`, `name` or `sign`."""
    text: str
    start: int
    """Characters before it."""


class Pattern(Struct, frozen=True):
    """A call of `matches` with a pattern that is written out."""

    start: int
    end: int
    literal: Token


class Expression(Struct, frozen=True, kw_only=True):
    """What is known of an expression without running it."""

    text: str
    tokens: tuple[Token, ...]
    loops_power: int
    """Passes are the elements to this power; 0: it has no loop."""
    bound: frozenset[str]
    """Names its loops give to elements."""
    patterns: tuple[Pattern, ...]

    def count(self, *signs: str) -> int:
        return sum(token.text in signs for token in self.tokens if token.kind != "text")

    def comparisons(self) -> int:
        """Those that may go through whole lists: neither side is written out."""
        tokens = (Token("sign", "(", 0), *self.tokens, Token("sign", ")", 0), Token("sign", ")", 0))
        return sum(
            not (_is_plain(before) or _is_plain(after))
            if token.text in ("==", "!=")
            else token.text == "in" and not (after.text == "[" and _is_plain(second))
            for before, token, after, second in zip(tokens, tokens[1:], tokens[2:], tokens[3:], strict=False)
            if token.kind != "text"
        )

    def names(self) -> frozenset[str]:
        return frozenset(token.text for token in self.tokens if token.kind == "name")

    def start_of(self, name: str) -> int:
        return next((token.start for token in self.tokens if token.text == name), 0)


def _is_plain(token: Token) -> bool:
    return token.kind in ("text", "number") or token.text in ("true", "false", "null")


def refuse(text: str, start: int, message: str) -> NoReturn:
    before = text[:start]
    raise InvalidCondition(
        message, line=before.count("\n") + 1, column=start - (before.rfind("\n") + 1) + 1
    ) from None


def read(text: str) -> Expression:
    """Raises InvalidCondition, with line and column, where the expression could not be bounded."""
    if len(text) > CHARACTERS_MAX:
        refuse(
            text[:1],
            0,
            f"a condition of {len(text):,} characters is too long; at most {CHARACTERS_MAX:,} are taken",
        )
    tokens = tuple(_tokens(text))
    if not tokens:
        refuse(text, 0, "the condition is empty; leave `when` out where there is none")
    _check_chains(text, tokens)
    return _Walk(text, tokens).expression()


def _tokens(text: str) -> Iterator[Token]:
    for found in _TOKENS.finditer(text):
        if found.lastgroup != "blank":
            assert found.lastgroup is not None, "every branch of the expression has a name"
            yield Token(found.lastgroup, found.group(), found.start())


def _check_chains(text: str, tokens: Sequence[Token]) -> None:
    chained = [token for token in tokens if token.kind != "text" and token.text in _CHAINED]
    if len(chained) > CHAIN_MAX:
        refuse(
            text,
            chained[CHAIN_MAX].start,
            f"the condition has more than {CHAIN_MAX} operators; write it as several rules",
        )


class _Walk:
    """Goes over the tokens once, knowing in which brackets it is."""

    def __init__(self, text: str, tokens: tuple[Token, ...]) -> None:
        self._text = text
        self._tokens = tokens
        self._open: list[str] = []
        """What each open bracket is: the name of a loop, or its own sign."""
        self._power = 0
        self._bound: set[str] = set()
        self._patterns: list[Pattern] = []

    def expression(self) -> Expression:
        for index, token in enumerate(self._tokens):
            if token.kind == "sign":
                self._sign(index, token)
            elif token.kind == "name" and token.text == "matches" and self._at(index + 1) == "(":
                self._matches(index, token)
            elif token.kind == "name" and token.text != "in" and self._at(index + 1) == "{":
                self._refuse(token, f"there is no message type {token.text}")
        return Expression(
            text=self._text,
            tokens=self._tokens,
            loops_power=self._power,
            bound=frozenset(self._bound),
            patterns=tuple(self._patterns),
        )

    def _at(self, index: int) -> str:
        """A text never reads as the sign or the name it may hold."""
        if not 0 <= index < len(self._tokens) or self._tokens[index].kind == "text":
            return ""
        return self._tokens[index].text

    def _refuse(self, token: Token, message: str) -> NoReturn:
        refuse(self._text, token.start, message)

    def _sign(self, index: int, token: Token) -> None:
        sign = token.text
        if sign in "([{":
            self._opened(index, token)
        elif sign in _CLOSING:
            if self._open:  # what does not pair is for the library to refuse
                self._open.pop()
        elif sign == "+" and "map" in self._open:
            self._builds(token)

    def _opened(self, index: int, token: Token) -> None:
        name = self._at(index - 1) if self._tokens[index - 1].kind == "name" else ""
        before = self._tokens[index - 1] if index else None
        indexes = before is not None and (
            (before.kind in ("name", "text") and before.text != "in") or before.text in (")", "]", "}")
        )
        if "map" in self._open and not (token.text == "[" and indexes):
            self._builds(token)
        kind = token.text
        if token.text == "(" and name in LOOPS and self._at(index - 2) == ".":
            kind = name
            self._looped(index)
        self._open.append(kind)
        if len(self._open) > BRACKETS_DEPTH_MAX:
            self._refuse(token, f"brackets are nested deeper than {BRACKETS_DEPTH_MAX}")
        loops = [one for one in self._open if one in LOOPS]
        if len(loops) > LOOPS_DEPTH_MAX:
            self._refuse(token, f"loops are nested deeper than {LOOPS_DEPTH_MAX}")
        self._power = max(self._power, sum(LOOPS[one] for one in loops))

    def _looped(self, index: int) -> None:
        name = self._at(index + 1)
        if name in ROOTS:
            self._refuse(self._tokens[index + 1], f"{name} cannot be the name of an element")
        self._bound.add(name)

    def _builds(self, token: Token) -> None:
        self._refuse(token, "map may pick a part of each element, and not build or call anything")

    def _matches(self, index: int, token: Token) -> None:
        literal = self._tokens[index + 2] if index + 2 < len(self._tokens) else token
        written = literal.kind == "text" and not re.match("[rR]?[bB]", literal.text)
        if self._at(index - 1) != "." or not written or self._at(index + 3) != ")":
            self._refuse(
                token, 'matches takes a pattern that is written out, as in params.path.matches("^/tmp/")'
            )
        self._patterns.append(Pattern(token.start, self._tokens[index + 3].start + 1, literal))


def fields_of(expression: Expression, literal: Callable[[str], Any]) -> dict[str, Fields]:
    """Each root that is read, with the fields of it; None where it is used in any other way than by field.

    `literal` gives the value of a text as it is written.
    """
    tokens = expression.tokens
    found: dict[str, set[str] | None] = {}
    for index, token in enumerate(tokens):
        if token.kind != "name" or token.text not in ROOTS:
            continue
        if index and tokens[index - 1].kind == "sign" and tokens[index - 1].text == ".":
            continue
        field = _field(tokens[index + 1 : index + 4], literal)
        known = found.setdefault(token.text, set())
        if field is None or known is None:
            found[token.text] = None
        else:
            known.add(field)
    return {root: None if fields is None else frozenset(fields) for root, fields in found.items()}


def _field(after: Sequence[Token], literal: Callable[[str], Any]) -> str | None:
    signs = ["" if token.kind == "text" else token.text for token in after]
    if len(after) >= 2 and signs[0] == "." and after[1].kind == "name":
        return None if signs[2:] == ["("] else after[1].text
    if len(after) == 3 and signs[0] == "[" and after[1].kind == "text" and signs[2] == "]":
        value = literal(after[1].text)
        return value if isinstance(value, str) else None
    return None
