"""The tools a server lists: which of them a client is shown, and what is remembered of each.

Owns what of a description counts (all a model reads), and how tools are left out of a list with the rest of
it as it was. Decides by the rules alone that say no whatever the arguments; all others decide when a call is
made. Pure. Used by `session` and `pins`.
"""

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec

from custody.doors.proxy.messages import kept, misspelt_in, place_of, value_of, with_value
from custody.policy import Policy, Rule
from custody.policy.names import fits_any
from custody.records import Effect

READ_BY_MODELS = (
    "name", "title", "description", "inputSchema", "outputSchema", "annotations", "execution",
)  # fmt: skip
"""Of a tool, what a client may put before a model. Icons and `_meta` are not among it."""
_FOLDED = frozenset(name.casefold() for name in READ_BY_MODELS)  # some clients take names whatever their case

LIST_NAMES = frozenset({"tools", "nextCursor"})
TOOL_NAMES = frozenset({"name"})

INVISIBLE = frozenset({"Cf", "Co", "Cn"})
"""Categories of characters that nobody sees and a model reads: marks of direction, joiners, tags."""


def tools_in(listed: Any) -> list[Mapping[str, Any]]:
    """The tools of a result of `tools/list` that have a name. Raises NoMessage where a client may see others
    than these."""
    if not isinstance(listed, dict):
        return []
    named = cast("dict[str, Any]", listed)
    misspelt_in(named, LIST_NAMES)
    items: list[Any] = named["tools"] if isinstance(named.get("tools"), list) else []
    tools: list[dict[str, Any]] = [item for item in items if isinstance(item, dict)]
    for tool in tools:
        misspelt_in(tool, TOOL_NAMES)
    return [tool for tool in tools if isinstance(tool.get("name"), str)]


def by_name(tools: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Of several tools of one name all, as nobody knows which a client takes."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for tool in tools:
        found.setdefault(tool["name"], []).append(tool)
    return found


def described(tools: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What the tools of one name say, for the record: most often there is one."""
    return tools[0] if len(tools) == 1 else {str(number): dict(tool) for number, tool in enumerate(tools, 1)}


def digest_of(*tools: Mapping[str, Any]) -> str:
    """Of all that a model may read of the tools of one name; the order of names does not matter."""
    said = [{name: one for name, one in tool.items() if name.casefold() in _FOLDED} for tool in tools]
    read = msgspec.json.encode(said[0] if len(said) == 1 else said, order="sorted")
    return hashlib.sha256(read).hexdigest()[:32]


def folded(name: str) -> str:
    """The same for names that a server may take for one."""
    return name.casefold() if name.isascii() else unicodedata.normalize("NFKC", name).casefold()


def invisible_in(value: Any) -> int:
    """How many characters of its texts nobody sees."""
    if isinstance(value, str):
        if value.isascii():
            return 0
        return sum(unicodedata.category(one) in INVISIBLE for one in value)
    if isinstance(value, dict):
        named = cast("dict[str, Any]", value)
        return sum(invisible_in(name) + invisible_in(one) for name, one in named.items())
    if isinstance(value, list):
        return sum(invisible_in(one) for one in cast("list[Any]", value))
    return 0


def shown(line: bytes, leave_out: Iterable[str], rename: Callable[[str], str] | None = None) -> bytes:
    """The same list without these tools, the others under their new names, for nobody else to keep: what is
    left out depends on who asks."""
    left_out = frozenset(leave_out)
    text = line.decode("utf-8")
    place = place_of(text, "result", "tools")
    if place is None or text[place[0]] != "[" or not (left_out or rename):
        return line
    start, end = place

    def keep(one: Any) -> str | None:
        part = text[one.start : one.end]
        name = value_of(msgspec.Raw(part.encode())).get("name") if part[:1] == "{" else None
        if name in left_out:
            return None
        if rename is None or not isinstance(name, str):
            return part
        return with_value(part.encode(), rename(name), "name").decode()

    cut = (text[:start] + kept(text, start, keep) + text[end:]).encode("utf-8")
    return private(cut)


def private(line: bytes) -> bytes:
    """A result that says who may keep it says: nobody but the client."""
    if place_of(line.decode("utf-8"), "result", "cacheScope") is None:
        return line
    return with_value(line, "private", "result", "cacheScope")


def never_allowed(policy: Policy, tool: str, effect: Effect, agent: str | None, door: str) -> bool:
    """Whether rules say no to every call of a tool."""

    def about(rule: Rule) -> bool:
        match = rule.match
        return (
            fits_any(match.tools, tool)
            and (not match.effects or effect in match.effects)
            and (not match.doors or fits_any(match.doors, door))
            and (not match.agents or (agent is not None and fits_any(match.agents, agent)))
        )

    layers = [layer for layer in policy.layers if layer.mode == "enforce"]
    rules = [rule for layer in layers for rule in layer.rules if about(rule)]
    if any(rule.decision == "deny" and _always(rule) for rule in rules):
        return True
    if any(rule.decision != "deny" for rule in rules):
        return False
    return any(layer.default == "deny" for layer in layers)


def _always(rule: Rule) -> bool:
    return (
        rule.when is None
        and rule.check is None
        and rule.rate is None
        and rule.sequence is None
        and not rule.match.sessions
    )
