"""Plans as people write them in files: JSON, YAML and TOML, read to the same plain values.

Owns which spelling a file has and where in it a mistake stands. Knows nothing of what a plan is: a key that
is there twice is refused here, a key that means nothing is not. Used by what reads step plans.
"""

import json
import math
import re
from typing import Any, NoReturn

from custody import safe_yaml
from custody.errors import InvalidInput

TEXT_BYTES_MAX = 16 * 1024 * 1024
"""Of JSON and TOML; YAML, which takes longer to read, has a bound of its own."""

SUFFIXES = (".json", ".yaml", ".yml", ".toml")

_TOML_PLACE = re.compile(r" \(at line (\d+), column (\d+)\)$")


def read_text(text: str | bytes, suffix: str) -> Any:
    """What stands in the text. `suffix` is the file's, with its dot; an empty one (a pipe has no name) is
    JSON where the text begins with a brace, else YAML.

    Raises InvalidInput, whose details have `line` and `column` (from 1) where they are known.
    """
    suffix = suffix.lower()
    if suffix == "":
        begins = text.lstrip()[:1]
        suffix = ".json" if begins in ("{", b"{") else ".yaml"
    if suffix in (".yaml", ".yml"):
        return safe_yaml.load(text, what="The plan")
    if suffix not in SUFFIXES:
        raise InvalidInput(
            f"A plan is a file that ends in {', '.join(SUFFIXES)}; this one ends in {suffix!r}.",
            hint="Give it the ending of what it is written in.",
        )
    words = _words(text)
    try:
        return _json(words) if suffix == ".json" else _toml(words)
    except RecursionError as error:
        raise InvalidInput("The plan is nested deeper than can be read.") from error


def _words(text: str | bytes) -> str:
    if len(text) > TEXT_BYTES_MAX:
        raise InvalidInput(f"The plan is longer than {TEXT_BYTES_MAX} bytes, which is the most that is read.")
    try:
        return (text if isinstance(text, str) else text.decode()).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"The plan is not UTF-8 at byte {error.start}.", offset=error.start) from error


def _json(words: str) -> Any:
    try:
        return json.loads(
            words, object_pairs_hook=_without_repeats, parse_constant=_no_number, parse_float=_finite
        )
    except json.JSONDecodeError as error:
        raise InvalidInput(
            f"The plan cannot be read: {error.msg} (line {error.lineno}, column {error.colno}).",
            line=error.lineno,
            column=error.colno,
        ) from error
    except ValueError as error:  # Python reads no number of more than some thousand digits
        raise InvalidInput("The plan has a number that is too long.") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise InvalidInput(f"The plan has the key {name[:80]!r} twice in one object.")
            seen.add(name)
    return found


def _no_number(word: str) -> NoReturn:
    raise InvalidInput(f"The plan has {word}, which is no number of JSON.")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise InvalidInput(f"The plan has the number {digits[:80]}, which is too large.")
    return number


def _toml(words: str) -> Any:
    import tomllib  # most plans are not written in it

    try:
        return tomllib.loads(words)
    except tomllib.TOMLDecodeError as error:
        place = _TOML_PLACE.search(str(error))
        known: dict[str, Any] = {"line": int(place[1]), "column": int(place[2])} if place else {}
        said = _TOML_PLACE.sub("", str(error)).rstrip(".")
        where = f" (line {known['line']}, column {known['column']})" if place else ""
        raise InvalidInput(f"The plan cannot be read: {said}{where}.", **known) from error
    except ValueError as error:
        raise InvalidInput("The plan has a number or a date that cannot be.") from error
