"""The walls that rules demand around the command of a call: how they are written, joined and told.

Owns the three keys `level`, `sandbox` and `afterwards`, which value of each is the stricter, and what several
rules and files come to together. Refuses to know how a wall is put up and whether this machine has it:
whoever runs the call is told what is demanded, and by whom. Used by `engine`, `layers`, and the readers of
documents.

A file only narrows what others say: the highest level counts, every sandbox that is named, and what is done
most carefully with the changes of a transaction.
"""

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Ordered
from typing import Any, Literal, cast

from custody.policy.model import (
    Afterwards,
    Demand,
    Demanding,
    Layer,
    Rule,
    SandboxName,
    WallLevel,
    Walls,
)
from custody.policy.tables import Table

LEVELS: tuple[WallLevel, ...] = ("process", "confined", "transaction")
"""The lowest first."""

SANDBOXES: tuple[SandboxName, ...] = ("read_only", "workspace", "network", "open")
"""Each allows all that the one before it does."""

AFTERWARDS: tuple[Afterwards, ...] = ("discard", "hold", "ask", "commit_if_passed", "commit")
"""The most careful first."""

UNSAID: Afterwards = "hold"
"""What becomes of the changes where nobody says. Only what stands before it is more careful."""

KNOWN_MAX = 1_024
"""Sets of rules that matched together for which it is kept what they come to; nearly always it is a few."""

Key = Literal["level", "sandbox", "afterwards"]
WALL_KEYS: tuple[Key, ...] = ("level", "sandbox", "afterwards")

_AFTERWARDS_WORDS: Mapping[Afterwards, str] = {
    "discard": "discarded",
    "hold": "held",
    "ask": "shown to a person, who is asked",
    "commit_if_passed": "committed when it ends with 0, else held",
    "commit": "committed",
}

_COMMITTING: Mapping[Afterwards, str] = {
    "ask": "ask whether to commit",
    "commit_if_passed": "commit, when it ends with 0,",
    "commit": "commit",
}


# -- reading ------------------------------------------------------------------------------------------


def read_demand(table: Table) -> Demand | None:
    """What a table says of walls; None where it says nothing, or cannot be read."""
    if not any(key in table.raw for key in WALL_KEYS):
        return None
    level = cast("WallLevel | None", table.word("level", LEVELS))
    sandbox = cast("SandboxName | None", table.word("sandbox", SANDBOXES))
    afterwards = cast("Afterwards | None", table.word("afterwards", AFTERWARDS))
    if level == "process" and sandbox is not None:
        expected = "confined or transaction beside a sandbox"
        table.refuse("level", expected, hint="Leave it out: a sandbox means confined.")
    return Demand(level=level, sandbox=sandbox, afterwards=afterwards)


def refuse_walls(table: Table) -> None:
    """A fault for each of the keys, in a rule that denies: what does not run needs no walls."""
    for key in WALL_KEYS:
        if key in table.raw:
            table.refuse(key, "it beside allow or ask", "stands in a rule that denies")


# -- joining ------------------------------------------------------------------------------------------


class JoinedWalls:
    """What the layers of a policy demand around a command. For any number of threads."""

    def __init__(self, layers: Ordered[Layer]) -> None:
        self._layers = layers
        self._enforced = [at for at, layer in enumerate(layers) if layer.mode == "enforce"]
        self._known: dict[tuple[tuple[int, Rule], ...], tuple[Walls | None, Walls | None]] = {}

    def demanded(self, matched: tuple[tuple[int, Rule], ...]) -> tuple[Walls | None, Walls | None]:
        """By those that are enforced, and, where that is something else, by all of them, those in shadow
        among them. `matched` are the rules with a demand that matched, each with the place of its layer."""
        known = self._known.get(matched)
        if known is None:
            known = self._joined(matched)
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[matched] = known
        return known

    def _joined(self, matched: tuple[tuple[int, Rule], ...]) -> tuple[Walls | None, Walls | None]:
        walls = _joined(self._layers, matched, self._enforced)
        every = _joined(self._layers, matched, range(len(self._layers)))
        return walls, None if _said(every) == _said(walls) else every


def _said(walls: Walls | None) -> tuple[Any, ...]:
    """Without who says it."""
    return () if walls is None else (walls.level, walls.sandboxes, walls.afterwards)


def _joined(
    layers: Ordered[Layer], matched: Ordered[tuple[int, Rule]], counting: Iterable[int]
) -> Walls | None:
    """What the layers at these places and those of their rules that matched demand."""
    said = [one for at in counting for one in _of_layer(layers[at], at, matched)]
    if not said:
        return None
    demands = [demand for _, demand, _ in said]
    return Walls(
        level=max(filter(None, map(_level, demands)), key=LEVELS.index, default=None),
        sandboxes=tuple(sorted({one.sandbox for one in demands if one.sandbox}, key=SANDBOXES.index)),
        afterwards=_afterwards(said),
        rules=tuple(who for who, _, _ in said),
        demands=tuple(demands),
    )


def _of_layer(
    layer: Layer, at: int, matched: Ordered[tuple[int, Rule]]
) -> Iterator[tuple[Demanding, Demand, bool]]:
    """Who demands what, and whether the layer is trusted. Its `[walls]` last, with what no rule says."""
    own = [(rule, rule.walls) for place, rule in matched if place == at and rule.walls is not None]
    for rule, demand in own:
        yield Demanding(layer.source, rule.name, rule.line), demand, layer.trusted
    if layer.walls is not None:
        left = _left(layer.walls, [demand for _, demand in own])
        if left != Demand():
            yield Demanding(layer.source, None, None), left, layer.trusted


def _left(whole: Demand, own: Ordered[Demand]) -> Demand:
    """What the `[walls]` of a file add to what its rules say: the keys that none of them has. A rule that is
    content with `process` has said that there need be no sandbox."""
    said = {key for key in WALL_KEYS for demand in own if getattr(demand, key) is not None}
    if "level" in said and all(demand.level in (None, "process") for demand in own):
        said.add("sandbox")
    return Demand(**{key: getattr(whole, key) for key in WALL_KEYS if key not in said})


def _level(demand: Demand) -> WallLevel | None:
    """A sandbox is a wall: beside one, at least `confined` is meant."""
    return "confined" if demand.level in (None, "process") and demand.sandbox else demand.level


def _afterwards(said: Ordered[tuple[Demanding, Demand, bool]]) -> Afterwards | None:
    """The most careful of all. What a project says that nobody trusts only adds care to what others say, and
    where nobody does, to what holds anyway."""
    trusted = {demand.afterwards for _, demand, trusts in said if trusts} - {None}
    others = {demand.afterwards for _, demand, trusts in said if not trusts} - {None}
    for one in AFTERWARDS:
        if one in trusted or one in others:
            return one
        if one == UNSAID and not trusted:
            return None
    return None


def has_walls(layer: Layer) -> bool:
    """Whether the layer, or a rule of it, demands any."""
    return layer.walls is not None or any(rule.walls is not None for rule in layer.rules)


def committing(layer: Layer) -> Iterator[str]:
    """What a layer would have done with changes that are else held, a line for each of its rules."""
    said = [(rule.walls, f"line {rule.line}, {rule.name}") for rule in layer.rules]
    for demand, where in (*said, (layer.walls, "[walls]")):
        does = None if demand is None or demand.afterwards is None else _COMMITTING.get(demand.afterwards)
        if does is not None:
            yield f"{does} what a command of level transaction changed ({where})"


# -- telling ------------------------------------------------------------------------------------------


def demand_words(said: Demand | Walls) -> str:
    """`at least confined, never more than workspace, its changes are held`."""
    sandboxes = said.sandboxes if isinstance(said, Walls) else (said.sandbox,)
    parts = (
        f"at least {said.level}" if said.level else None,
        f"never more than {sandboxes[0]}" if any(sandboxes) else None,
        None if said.afterwards is None else f"its changes are {_AFTERWARDS_WORDS[said.afterwards]}",
    )
    return ", ".join(filter(None, parts))


def who_demands(walls: Walls, key: Key) -> str:
    """Who is behind what holds of one of the three, for whoever is refused because of it:
    `the rule builds-are-walled (/home/ada/policy.toml:12)`."""
    found = [
        _place(who)
        for who, demand in zip(walls.rules, walls.demands, strict=True)
        if _value(demand, key) is not None and _value(demand, key) in _values(walls, key)
    ]
    return " and ".join(found)


def _value(demand: Demand, key: Key) -> Any:
    return _level(demand) if key == "level" else getattr(demand, key)


def _values(walls: Walls, key: Key) -> tuple[Any, ...]:
    return walls.sandboxes if key == "sandbox" else (getattr(walls, key),)


def _place(who: Demanding) -> str:
    if who.rule is None:
        return f"the [walls] of {who.source}"
    where = who.source if who.line is None else f"{who.source}:{who.line}"
    return f"the rule {who.rule} ({where})"
