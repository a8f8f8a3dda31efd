"""Conditions: CEL expressions over what is known of a call, compiled once and bounded before they run.

Owns compiling a `when` and running it, and the words for what goes wrong there. Refuses to know of rules and
of where values come from. Used by the engine, and by `document`, which compiles what is written.

A condition is true, false, or it fails: a field that is missing, types that do not fit, more to look through
than can be looked through. Whatever goes wrong is a `ConditionFailed`, which denies. As everywhere in CEL,
`a || b` is true where b is, also if a fails; `1 == 1.0`; `true == 1` is false; and arithmetic does not mix
whole numbers with others. `matches` is RE2, found anywhere in the text.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from custody.errors import ConditionFailed, InvalidCondition
from custody.policy import expressions
from custody.policy.arguments import InvalidExpression, compile_expression
from custody.policy.expressions import Expression, Pattern, refuse
from custody.policy.handing import CHARACTERS_MAX, ELEMENTS_MAX, ROOTS, Fields, Handing, Size

STEPS_MAX = 20_000_000
"""Of one condition over one call. A step is a word of the expression on one element, some 50 ns: a second,
at the worst, in which nothing else of the process decides."""

STEP_CHARACTERS = 500
"""Characters that are looked through in one step."""

STEP_ELEMENTS = 2
"""Elements of two lists that are compared in one step."""

PATTERN_STEPS = 100
"""A search for a pattern leaves the library and comes back."""

FUNCTIONS = frozenset(
    "size contains startsWith endsWith matches int uint double string bytes timestamp duration type dyn"
    " getFullYear getMonth getDate getDayOfMonth getDayOfWeek getDayOfYear getHours getMinutes getSeconds"
    " getMilliseconds".split()
)
TYPES = frozenset("int uint double string bool bytes list map null_type".split())

_PLACE = re.compile(r"<input>:(\d+):(\d+): (?:Syntax error: )?([^\n]*)")
_MESSAGE_CHARACTERS_MAX = 160  # the library lists every word it would have taken

_WORDS: tuple[tuple[type[BaseException], str], ...] = (
    (KeyError, "a field it reads is missing"),
    (IndexError, "an index is out of range"),
    (ZeroDivisionError, "it divides by zero"),
    (OverflowError, "a number becomes too large"),
    (TypeError, "an operation does not take values of these types"),
    (ValueError, "a value cannot be read as it is wanted"),
    (RuntimeError, "a function does not take these arguments"),
)


class Condition:
    """A compiled condition. May be used by several threads at once."""

    __slots__ = (
        "_compares",
        "_elements",
        "_functions",
        "_names",
        "_power",
        "_program",
        "_steps",
        "_sums",
        "fields",
        "text",
    )

    def __init__(
        self, expression: Expression, program: Any, functions: Mapping[str, Callable[[Any], bool]]
    ) -> None:
        """`compile_condition` makes them."""
        self.text = expression.text
        self.fields: Mapping[str, Fields] = expressions.fields_of(expression, _literal)
        """The roots it reads, each with the fields that are read; None: all of it."""
        self._program = program
        self._functions = tuple(functions.items())
        texts = (token.text for token in expression.tokens if token.kind == "text")
        self._names = expression.names() | {str(_literal(text)) for text in texts}
        self._power = expression.loops_power
        self._steps = len(expression.tokens) + PATTERN_STEPS * len(functions)
        self._sums = 1 + expression.count("+")
        self._compares = expression.comparisons()
        self._elements = expression.count(",")

    @property
    def reads(self) -> frozenset[str]:
        """The roots it reads."""
        return frozenset(self.fields)

    def holds(self, values: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether it is true of these roots. Raises ConditionFailed."""
        return self.holds_in(Handing(values.__getitem__))

    def holds_in(self, handing: Handing) -> bool:
        """Whether it is true of what is handed to all conditions of one decision. Raises ConditionFailed."""
        for root in self.fields:
            handing.hand(root)
        bounded = handing.whole and self._is_bounded(handing.total)  # of which it reads a part
        if not bounded and not self._is_bounded(handing.size_of(self.fields)):
            raise ConditionFailed("there is more to look through than a condition may")
        context = handing.context
        for name, function in self._functions:
            context.add_function(name, function)
        try:
            result = self._program.execute(context)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic of the library is no Exception
            raise ConditionFailed(self._words(error)) from None
        if result is True or result is False:
            return result
        raise ConditionFailed("it is neither true nor false")

    def _is_bounded(self, size: Size) -> bool:
        elements, characters, longest = size
        if elements > ELEMENTS_MAX or characters * self._sums > CHARACTERS_MAX:
            return False
        if not self._power:
            return True
        elements += self._elements
        steps = self._steps * (1 + longest * self._sums // STEP_CHARACTERS)
        steps += self._compares * elements // STEP_ELEMENTS
        return elements**self._power * steps <= STEPS_MAX

    def _words(self, error: BaseException) -> str:
        """Of the library's own words only a name is kept, and only one that the condition itself holds."""
        if type(error) is KeyError and error.args and error.args[0] in self._names:
            return f"there is no {error.args[0]}"
        for kind, words in _WORDS:
            if isinstance(error, kind):
                return words
        return f"it ended with {type(error).__name__}"


def compile_condition(text: str) -> Condition:
    """The condition. Raises InvalidCondition, with line and column, and the nearest known name."""
    expression = expressions.read(text)
    program = _compile(text)  # as it is written, so that places are those of the text
    _check_names(expression, program)
    functions: dict[str, Callable[[Any], bool]] = {}
    parts: list[str] = []
    end = 0
    for index, pattern in enumerate(expression.patterns):
        name = f"matches_{index}"
        functions[name] = _searching(expression, pattern)
        parts += [text[end : pattern.start], f"{name}()"]
        end = pattern.end
    if functions:
        program = _compile("".join([*parts, text[end:]]))
    return Condition(expression, program, functions)


def _compile(text: str) -> Any:
    import cel  # a policy without conditions starts without the library

    try:
        return cel.compile(text)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of the library is no Exception
        found = _PLACE.search(str(error))
        if not isinstance(error, ValueError) or found is None:
            refuse(text, 0, f"the condition cannot be read ({type(error).__name__})")
        message = found.group(3).split(" expecting ")[0][:_MESSAGE_CHARACTERS_MAX].strip()
        raise InvalidCondition(
            f"the condition cannot be read: {message}", line=int(found.group(1)), column=int(found.group(2))
        ) from None


def _literal(text: str) -> Any:
    """The value of a text as CEL writes it."""
    return _compile(text).execute()


def _check_names(expression: Expression, program: Any) -> None:
    """Whatever the library sees is what was seen here, and is known."""
    functions = [name for name in program.functions() if name.isidentifier()]
    for name in functions:
        if name not in FUNCTIONS:
            _unknown(expression, "function", name, FUNCTIONS)
    names = expression.names()
    for name in program.variables():
        if name in TYPES or (name in names and (name in ROOTS or name in expression.bound)):
            continue
        _unknown(expression, "variable", name, frozenset(ROOTS))


def _unknown(expression: Expression, what: str, name: str, known: frozenset[str]) -> NoReturn:
    from difflib import get_close_matches

    near = get_close_matches(name, sorted(known), n=1)
    meant = f"did you mean {near[0]}?" if near else f"there is: {', '.join(sorted(known))}."
    refuse(expression.text, expression.start_of(name), f"there is no {what} {name}; {meant}")


def _searching(expression: Expression, pattern: Pattern) -> Callable[[Any], bool]:
    """A function of a text: whether the pattern is found in it."""
    try:
        search = compile_expression(_literal(pattern.literal.text)).search
    except InvalidExpression as error:
        refuse(expression.text, pattern.literal.start, f"the pattern is no RE2 expression: {error}")

    def found(text: Any) -> bool:
        if type(text) is not str:
            raise TypeError
        return search(text) is not None

    return found
