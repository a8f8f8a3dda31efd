"""Where an action's parameters speak of what an earlier one gave: `$id.output`, and what stands for it then.

Owns the spelling and the putting in. Knows nothing of order, nor of where outputs are kept. Used by the
graph, which makes edges of references, and by the scheduler, which puts the outputs in.

    "$build.output"                 a text that is nothing else: the output itself, with its JSON type
    "$build.output.files.0.path"    what stands there in the output, by names and list indices
    "to ${build.output.version}"    within a text: texts as they are, everything else as compact JSON
    "$$build.output", "$${a.output}"    the text itself, with one `$` less

A text that is a whole reference has to name an action of the plan. One within a text that names none stays
as it is: texts speak of other things that look so (`${module.output}` in a template somebody asks about).
What is put in is not searched again.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import msgspec
from msgspec import Struct

from custody.plans.json_values import DEPTH_MAX

REFERENCE_CHARACTERS_MAX = 512
"""From `$` to the end of the path; anything longer is text. Keeps the search linear in the text's length."""

RESOLVED_CHARACTERS_MAX = 16 * 1024 * 1024
"""Of one text with outputs put in: an output named many times would make much of little."""

_WITHIN = re.compile(rf"(\$?)\$\{{([^\s${{}}]{{1,{REFERENCE_CHARACTERS_MAX}}})\}}")


class Reference(Struct, frozen=True):
    """One place where an output is asked for."""

    action_id: str
    path: tuple[str, ...] = ()
    """Names and list indices below the output."""
    whole: bool = True
    """Whether it is all of its text."""

    def __str__(self) -> str:
        return ".".join((f"${self.action_id}.output", *self.path))


class Unresolved(Exception):
    """What a reference names is not there; says what, and never a value."""


def too_deep(value: Any, depth: int = 0) -> bool:
    """Whether it is nested deeper than the rest of this module walks."""
    if depth > DEPTH_MAX:
        return True
    if isinstance(value, dict):
        return any(too_deep(item, depth + 1) for item in cast("dict[Any, Any]", value).values())
    if isinstance(value, list):
        return any(too_deep(item, depth + 1) for item in cast("list[Any]", value))
    return False


def references_in(value: Any) -> Iterator[Reference]:
    """Every reference of parameters, from the outside in; names of objects have none."""
    if isinstance(value, str):
        whole = _whole(value)
        if whole is not None:
            yield whole
        elif "$" in value:
            for escaped, inner in _WITHIN.findall(value):
                found = None if escaped else _parsed(inner, whole=False)
                if found is not None:
                    yield found
    elif isinstance(value, dict):
        for item in cast("dict[Any, Any]", value).values():
            yield from references_in(item)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from references_in(item)


def resolved(value: Any, outputs: Mapping[str, Any], known: Callable[[str], bool]) -> Any:
    """The parameters with outputs put in. `known` says whether there is an action of that id: what names none
    stays text. Raises Unresolved."""
    if isinstance(value, str):
        return _resolved_text(value, outputs, known)
    if isinstance(value, dict):
        return {name: resolved(item, outputs, known) for name, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list):
        return [resolved(item, outputs, known) for item in cast("list[Any]", value)]
    return value


def _resolved_text(text: str, outputs: Mapping[str, Any], known: Callable[[str], bool]) -> Any:
    if "$" not in text:
        return text
    whole = _whole(text)
    if whole is not None:
        return _at(whole, outputs)
    if text.startswith("$$") and _whole(text[1:]) is not None:
        return text[1:]
    total = 0

    def put_in(match: re.Match[str]) -> str:
        nonlocal total
        reference = _parsed(match[2], whole=False)
        if reference is None or not known(reference.action_id):
            return match[0]
        if match[1]:
            return match[0][1:]
        output = _at(reference, outputs)
        words = output if isinstance(output, str) else _json(output, reference)
        total += len(words)
        if total > RESOLVED_CHARACTERS_MAX:
            raise Unresolved(f"{reference} makes a text of more than {RESOLVED_CHARACTERS_MAX} characters.")
        return words

    return _WITHIN.sub(put_in, text)


def _json(output: Any, reference: Reference) -> str:
    try:
        return msgspec.json.encode(output).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Unresolved(f"{reference} has no JSON text to be put into one.") from error


def _whole(text: str) -> Reference | None:
    if not text.startswith("$") or len(text) > REFERENCE_CHARACTERS_MAX or text[1:2] in ("$", "{"):
        return None
    return _parsed(text[1:], whole=True)


def _parsed(inner: str, *, whole: bool) -> Reference | None:
    action_id, output, rest = inner.partition(".output")
    if not action_id or not output or (rest and not rest.startswith(".")) or any(map(str.isspace, inner)):
        return None
    return Reference(action_id, tuple(rest[1:].split(".")) if rest else (), whole)


def _at(reference: Reference, outputs: Mapping[str, Any]) -> Any:
    """Raises Unresolved."""
    if reference.action_id not in outputs:
        raise Unresolved(f"{reference} has no value: the action {reference.action_id!r} gave no output.")
    value = outputs[reference.action_id]
    for step in reference.path:
        if isinstance(value, dict) and step in value:
            value = cast("dict[str, Any]", value)[step]
        elif isinstance(value, (list, tuple)) and _index(step) < len(cast("Sequence[Any]", value)):
            value = cast("Sequence[Any]", value)[_index(step)]
        else:
            raise Unresolved(f"{reference} has no value: nothing stands at {step!r} in that output.")
    return value


INDEX_DIGITS_MAX = 9
"""No list is longer, and a number of any length costs more than linear time to read."""


def _index(step: str) -> int:
    """Beyond every list where it is no index."""
    is_index = step.isascii() and step.isdigit() and len(step) <= INDEX_DIGITS_MAX
    return int(step) if is_index else 10**INDEX_DIGITS_MAX
