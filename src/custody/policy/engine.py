"""The engine: all layers of rules, compiled and indexed by tool, and what they say of a call.

Owns which rules match and what their verdicts add up to. Refuses to know where layers come from, to keep
anything between calls but what it worked out of the rules, and to let a call through because something
failed. Used by the guards, and by whatever decides recorded or imagined calls.

Within a layer deny beats ask beats allow, and its default holds where no rule matches; over the layers the
strictest verdict holds, so that a lower layer can only narrow. One exception: what a rule of a trusted
project allows is neither asked nor refused by default on behalf of the user or of the built-in policy. In
which order rules and layers are given says nothing.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct

from custody.errors import ConditionFailed
from custody.policy.handing import Fields, Handing
from custody.policy.layers import STANDING, joined_approvals, joined_budgets, joined_loops, may_pause
from custody.policy.model import (
    GLOB_PREFIX,
    STRICTNESS,
    Approvals,
    Budget,
    Case,
    Layer,
    LayerKind,
    Loops,
    Matched,
    Rule,
    RuleExplained,
    Ruling,
)
from custody.policy.names import Names
from custody.policy.walls import JoinedWalls, has_walls
from custody.records import By, Verdict

CACHED_MAX = 4_096
"""Names of tools, agents and doors for which the rules are kept sorted out. Callers choose some of them, so
there may be any number."""

_DOES: Mapping[Verdict, str] = {
    "deny": "does not allow it",
    "ask": "wants a person to look at it",
    "allow": "allows it",
}
_OWNERS: Mapping[LayerKind, str] = {
    "organisation": "the organisation's policy",
    "user": "the user's policy",
    "project": "the project's policy",
    "builtin": "the built-in policy",
}


class Policy:
    """Rules to decide by. Immutable: whoever holds one replaces it by another. For any number of threads."""

    def __init__(self, layers: Iterable[Layer] = ()) -> None:
        self.layers = tuple(sorted(layers, key=_standing))
        """From the organisation's down."""
        said = [f"{layer.kind} {layer.digest} {layer.mode} {layer.trusted}" for layer in self.layers]
        self.digest = f"sha256:{hashlib.sha256(chr(10).join(said).encode()).hexdigest()}"
        """Of every layer's text, and of whether it is trusted."""
        self.budgets: tuple[Budget, ...] = joined_budgets(self.layers)
        self.loops: Loops | None = joined_loops(self.layers)
        self.approvals: Approvals | None = joined_approvals(self.layers)
        self.may_pause = may_pause(self.layers)
        self.counted: tuple[tuple[Layer, Rule], ...] = tuple(
            (layer, rule) for layer in self.layers for rule in layer.rules if rule.rate or rule.sequence
        )
        """Rules for which somebody has to count. Their names are unique within a layer only."""
        self._opinionated = any(layer.default is not None for layer in self.layers)
        self._walls = JoinedWalls(self.layers) if any(map(has_walls, self.layers)) else None
        self._walls_anyway = any(layer.walls is not None for layer in self.layers)
        """Whether a command has walls of which no rule speaks."""
        self._exact: dict[str, list[_Placed]] = {}
        self._residue: list[_Placed] = []
        self._known: dict[_Key, _Applying] = {}
        for at, layer in enumerate(self.layers):
            for rule in layer.rules:
                self._index(_Placed(at, layer, rule))

    def _index(self, placed: "_Placed") -> None:
        tools = placed.rule.match.tools
        if not tools or any(one.startswith(GLOB_PREFIX) for one in tools):
            self._residue.append(placed)
            return
        for tool in set(tools):
            self._exact.setdefault(tool, []).append(placed)

    def rules_for(self, tool: str) -> tuple[Rule, ...]:
        """The rules that may say something of calls of a tool, by layer and name."""
        return tuple(placed.rule for placed in _in_order(self._placed_for(tool)))

    def _placed_for(self, tool: str) -> "list[_Placed]":
        return [*self._exact.get(tool, ()), *(one for one in self._residue if one.tools.fits(tool))]

    def _applying(self, case: Case) -> "_Applying":
        """The rules whose names are those of the call; sessions, of which there are too many, aside."""
        key = (case.tool, case.agent, case.effect, case.door)
        known = self._known.get(key)
        if known is None:
            known = _applying(one for one in self._placed_for(case.tool) if one.differs(case) is None)
            if len(self._known) >= CACHED_MAX:
                self._known.clear()
            self._known[key] = known
        return known

    def decide(self, case: Case) -> Ruling | None:
        """What all layers say of a call; None where no rule of any layer matches and none has a default, nor
        demands walls."""
        rules = self._applying(case)
        opinionated = self._opinionated or (self._walls_anyway and case.starts_process)
        if not rules.placed and not opinionated:
            return None
        look = _Look(case, rules)
        found: list[tuple[int, Matched]] = []
        walled: list[tuple[int, Rule]] = []
        undecidable: list[str] = []
        for placed in rules.placed:
            seen = look.at(placed)
            if seen.matched:
                found.append((placed.at, _matched(placed, seen)))
                if placed.rule.walls is not None:
                    walled.append((placed.at, placed.rule))
            elif seen.matched is None:
                undecidable.append(placed.rule.name)
        if not found and not undecidable and not opinionated:
            return None
        ruling = _ruling(self.layers, found, tuple(undecidable))
        if self._walls is None or not case.starts_process:
            return ruling
        walls, in_shadow = self._walls.demanded(tuple(walled))
        return msgspec.structs.replace(ruling, walls=walls, walls_in_shadow=in_shadow)

    def explain(self, case: Case) -> tuple[RuleExplained, ...]:
        """Every rule of every layer, by layer and name: whether it matches, and why or why not."""
        every = [_Placed(at, layer, rule) for at, layer in enumerate(self.layers) for rule in layer.rules]
        look = _Look(case, _Applying(tuple(every), None, True))
        return tuple(_explained(placed, look) for placed in _in_order(every))


# -- whether a rule matches ---------------------------------------------------------------------------


class _Placed:
    """A rule in its layer, its names compiled."""

    __slots__ = ("_agents", "_doors", "_effects", "at", "layer", "rule", "sessions", "tools")

    def __init__(self, at: int, layer: Layer, rule: Rule) -> None:
        self.at, self.layer, self.rule = at, layer, rule
        match = rule.match
        self.tools = Names(match.tools)
        self.sessions = Names(match.sessions) if match.sessions else None
        self._agents, self._doors = Names(match.agents), Names(match.doors)
        self._effects = frozenset(match.effects)

    def differs(self, case: Case) -> "_Seen | None":
        """Which of its names are not those of the call; its session aside."""
        if not self.tools.fits(case.tool):
            return _TOOL_DIFFERS
        if self._effects and case.effect not in self._effects:
            return _EFFECT_DIFFERS
        if not self._agents.fits(case.agent):
            return _AGENT_DIFFERS
        return None if self._doors.fits(case.door) else _DOOR_DIFFERS


_Key = tuple[str, str | None, str, str]
"""Tool, agent, effect and door."""


class _Applying(Struct, frozen=True):
    """The rules that are looked at for some names."""

    placed: tuple[_Placed, ...]
    wanted: Mapping[str, Fields] | None
    """What their conditions read; None: not worked out."""
    checks: bool
    """Whether one of them is code, which may ask the case as it likes."""


def _standing(layer: Layer) -> tuple[int, str, str]:
    return STANDING.index(layer.kind), layer.source, layer.digest


def _in_order(placed: Iterable[_Placed]) -> list[_Placed]:
    return sorted(placed, key=lambda one: (one.at, one.rule.name, one.rule.line or 0))


def _applying(placed: Iterable[_Placed]) -> _Applying:
    ordered = tuple(_in_order(placed))
    wanted: dict[str, Fields] = {}
    for when in (one.rule.when for one in ordered):
        for root, fields in () if when is None else when.fields.items():
            known = wanted.get(root, frozenset[str]())
            wanted[root] = None if fields is None or known is None else known | fields
    return _Applying(ordered, wanted, any(one.rule.check is not None for one in ordered))


class _Seen(Struct, frozen=True):
    """What became of one rule."""

    matched: bool | None
    why: str
    failed: bool = False
    """Matched, as a deny, because it could not be decided."""


_MATCHES = _Seen(True, "everything it asks for holds")
_TOOL_DIFFERS = _Seen(False, "the tool differs")
_EFFECT_DIFFERS = _Seen(False, "the effect differs")
_AGENT_DIFFERS = _Seen(False, "the agent differs")
_SESSION_DIFFERS = _Seen(False, "the session differs")
_DOOR_DIFFERS = _Seen(False, "the door differs")
_CONDITION_FALSE = _Seen(False, "its condition is false")
_CHECK_FALSE = _Seen(False, "what it says of the arguments does not hold")
_RATE_LEFT = _Seen(False, "its rate is not used up")
_RATE_UNKNOWN = _Seen(None, "how much of its rate is used up is not known here")
_NOT_HAPPENED = _Seen(False, "its sequence has not happened")
_HAPPENED_UNKNOWN = _Seen(None, "whether its sequence has happened is not known here")


class _Look:
    """Looks at one case, rule by rule. What the case works out, it works out once."""

    __slots__ = ("_handing", "_wanted", "case")

    def __init__(self, case: Case, rules: _Applying) -> None:
        self.case = case
        if rules.checks:  # else only what is handed to conditions asks, and that asks once
            self.case = msgspec.structs.replace(
                case, facts=_once(case.facts), state=_once(case.state), counters=_once(case.counters)
            )
        self._wanted = rules.wanted
        self._handing: Handing | None = None

    def at(self, placed: _Placed) -> _Seen:
        """Whether the rule matches; its names do. A rule that fails matches, as a deny."""
        if placed.sessions is not None and not placed.sessions.fits(self.case.session_id):
            return _SESSION_DIFFERS
        rule = placed.rule
        try:
            if rule.when is not None:
                if self._handing is None:
                    # of the case alone: a way back to this look would leave both to the garbage collector
                    self._handing = Handing(partial(_root, self.case), self._wanted)
                if not rule.when.holds_in(self._handing):
                    return _CONDITION_FALSE
            if rule.check is not None and not _bool(rule.check(self.case)):
                return _CHECK_FALSE
            return _MATCHES if rule.rate is None and rule.sequence is None else self._counted(rule)
        except KeyboardInterrupt:
            raise
        except ConditionFailed as error:
            return _Seen(True, error.message, failed=True)
        except BaseException as error:  # a library's panic is no Exception, and denies like anything else
            return _Seen(True, f"it ended with {type(error).__name__}", failed=True)

    def _counted(self, rule: Rule) -> _Seen:
        unknown: _Seen | None = None
        if rule.rate is not None:
            if self.case.rate_used is None:
                unknown = _RATE_UNKNOWN
            elif not _bool(self.case.rate_used(rule)):
                return _RATE_LEFT
        if rule.sequence is not None:
            if self.case.happened is None:
                unknown = unknown or _HAPPENED_UNKNOWN
            elif not _bool(self.case.happened(rule)):
                return _NOT_HAPPENED
        return unknown or _MATCHES


def _root(case: Case, root: str) -> Mapping[str, Any]:
    if root == "params":
        return case.params
    if root == "facts":
        return case.facts()
    if root == "run":
        return case.run
    if root == "state":
        return case.state()
    if root == "counters":
        return case.counters()
    assert root == "agent", "a condition that reads anything else is not compiled"
    return {"name": case.agent, "caller": case.caller, "session": case.session_id, "door": case.door}


def _once(ask: Callable[[], Mapping[str, Any]]) -> Callable[[], Mapping[str, Any]]:
    answers: list[Mapping[str, Any]] = []

    def answer() -> Mapping[str, Any]:
        if not answers:
            answers.append(ask())
        return answers[0]

    return answer


def _bool(value: object) -> bool:
    """What is neither true nor false is no answer."""
    if value is True or value is False:
        return value
    raise ConditionFailed("it is neither true nor false")


# -- what they add up to ------------------------------------------------------------------------------


def _matched(placed: _Placed, seen: _Seen) -> Matched:
    rule = placed.rule
    if seen.failed:
        reason = f"The rule {rule.name} of {_OWNERS[placed.layer.kind]} could not be decided: {seen.why}."
        return _said(placed.layer, rule, "deny", reason, "error")
    words = f"The rule {rule.name} of {_OWNERS[placed.layer.kind]} {_DOES[rule.decision]}."
    return _said(placed.layer, rule, rule.decision, rule.reason or words, "rule")


def _said(layer: Layer, rule: Rule, decision: Verdict, reason: str, by: By) -> Matched:
    return Matched(
        rule=rule.name,
        decision=decision,
        layer=layer.kind,
        source=layer.source,
        reason=reason,
        by=by,
        param=rule.param,
    )


def _by_default(layer: Layer, default: Verdict) -> Matched:
    words = f"No rule of {_OWNERS[layer.kind]} is about it, and by default that {_DOES[default]}."
    return Matched(rule=None, decision=default, layer=layer.kind, source=layer.source, reason=words)


def _ruling(
    layers: Sequence[Layer], found: Sequence[tuple[int, Matched]], undecidable: tuple[str, ...]
) -> Ruling:
    matched = tuple([one for at, one in found if layers[at].mode == "enforce"])
    first: Matched | None = None
    for _, one in _counting(layers, found, shadow=False):
        if first is None or _goes_before(one, first):
            first = one
    verdict: Verdict = "allow" if first is None else first.decision
    shadow: tuple[Matched, ...] = ()
    if "shadow" in [layer.mode for layer in layers]:
        shadow = tuple(
            one
            for at, one in _counting(layers, found, shadow=True)
            if layers[at].mode == "shadow" and STRICTNESS[one.decision] > STRICTNESS[verdict]
        )
    if first is None:
        return Ruling(verdict=verdict, by="rule", reason="", shadow=shadow, undecidable=undecidable)
    return Ruling(
        verdict=verdict,
        by=first.by,
        reason=first.reason,
        rule=first.rule,
        param=first.param,
        matched=matched,
        shadow=shadow,
        undecidable=undecidable,
    )


def _goes_before(one: Matched, first: Matched) -> bool:
    """Stricter; or as strict, and a rule where the other is a default."""
    if one.decision == first.decision:
        return first.rule is None and one.rule is not None
    return STRICTNESS[one.decision] > STRICTNESS[first.decision]


def _strictest(matched: Sequence[Matched]) -> Verdict:
    found: Verdict = "allow"
    for one in matched:
        if STRICTNESS[one.decision] > STRICTNESS[found]:
            found = one.decision
    return found


def _counting(
    layers: Sequence[Layer], found: Sequence[tuple[int, Matched]], *, shadow: bool
) -> list[tuple[int, Matched]]:
    """What makes each layer's verdict, by layer and name. `shadow`: as if those in shadow were enforced."""
    made: list[tuple[int, Matched]] = []
    lifted = False
    for at, layer in enumerate(layers):
        if layer.mode == "shadow" and not shadow:
            continue
        own = [one for place, one in found if place == at]
        if own:
            verdict = _strictest(own)
            made += [(at, one) for one in own if one.decision == verdict]
            lifted = lifted or (layer.kind == "project" and layer.trusted and verdict == "allow")
        elif layer.default is not None:
            made.append((at, _by_default(layer, layer.default)))
    if not lifted:
        return made
    return [(at, one) for at, one in made if not _gives_way(layers[at], one)]


def _gives_way(layer: Layer, one: Matched) -> bool:
    """To what a trusted project allows: questions and defaults, but no rule that denies, and nothing of the
    organisation's."""
    return layer.kind in ("user", "builtin") and (one.rule is None or one.decision == "ask")


# -- explaining ---------------------------------------------------------------------------------------


def _explained(placed: _Placed, look: _Look) -> RuleExplained:
    rule, layer = placed.rule, placed.layer
    seen = placed.differs(look.case) or look.at(placed)
    why = f"it could not be decided, and so denies: {seen.why}" if seen.failed else seen.why
    return RuleExplained(
        rule=rule.name,
        layer=layer.kind,
        source=layer.source,
        line=rule.line,
        decision=rule.decision,
        matched=seen.matched,
        why="; ".join([why, *_but(layer, rule)]) if seen.matched else why,
    )


def _but(layer: Layer, rule: Rule) -> Iterator[str]:
    """Why a rule that matches may change nothing."""
    if layer.mode == "shadow":
        yield "its layer is in shadow and blocks nothing"
    if layer.kind == "project" and not layer.trusted and rule.decision == "allow":
        yield "its file is not trusted, so it loosens nothing above it"
