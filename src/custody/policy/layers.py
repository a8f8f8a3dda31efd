"""The layers of a policy together: what holds when several files speak, and in which words it is shown.

Owns how amounts, loops and the putting of questions are joined, the view of `policy show`, and the lines of
policy that would allow what was refused. Refuses to decide a call (`engine`) and to read files. Used by
`engine`, the guards' hints and the command line.

A layer in shadow adds neither verdicts nor budgets nor loops; how questions are put, and whether people may
pause, it still says.
"""

import json
import re
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Ordered

from msgspec import Struct

from custody.policy.checking import check_document
from custody.policy.denials import GLOB_CHARACTERS
from custody.policy.model import (
    GLOB_PREFIX,
    Approvals,
    Budget,
    Demand,
    Layer,
    LayerKind,
    Loops,
    Matched,
    Mode,
    Per,
    Rate,
    Rule,
    Sequence,
)
from custody.policy.rule_tables import DECISIONS, PERS
from custody.records import Verdict

STANDING: tuple[LayerKind, ...] = ("organisation", "user", "project", "builtin")


# -- joining ------------------------------------------------------------------------------------------


def join(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Those that hold together, in order of standing, and of their files' names within one.

    The built-in layer makes way for an organisation's or a user's file that is enforced and says which calls
    may happen. A project's does not replace it: an empty file in a repository would else take away what holds
    without any.
    """
    ordered = sorted(layers, key=lambda layer: (STANDING.index(layer.kind), layer.source))
    replaced = any(map(_replaces_built_in, ordered))
    return tuple(layer for layer in ordered if layer.kind != "builtin" or not replaced)


def _replaces_built_in(layer: Layer) -> bool:
    """Budgets, or how questions are put, replace no rules; nor does what is only tried out."""
    says = bool(layer.rules) or layer.default is not None
    return says and layer.mode == "enforce" and layer.kind in ("organisation", "user")


def joined_budgets(layers: Iterable[Layer]) -> tuple[Budget, ...]:
    """The smallest of each amount; amounts over different windows stand side by side."""
    hard: dict[tuple[Per, float | None], dict[str, float]] = {}
    soft: dict[tuple[Per, float | None], dict[str, float]] = {}
    for layer in layers:
        for budget in layer.budgets if layer.mode == "enforce" else ():
            _keep_smallest(hard.setdefault((budget.per, budget.hours), {}), budget.amounts)
            _keep_smallest(soft.setdefault((budget.per, budget.hours), {}), budget.soft)
    windows = sorted(hard, key=lambda window: (PERS.index(window[0]), window[1] or 0))
    return tuple(
        Budget(per=per, hours=hours, amounts=hard[per, hours], soft=soft[per, hours])
        for per, hours in windows
    )


def _keep_smallest(kept: dict[str, float], amounts: Mapping[str, float]) -> None:
    for name, amount in amounts.items():
        kept[name] = min(amount, kept.get(name, amount))


def joined_loops(layers: Iterable[Layer]) -> Loops | None:
    """The earliest of each."""
    said = [layer.loops for layer in layers if layer.mode == "enforce" and layer.loops is not None]
    ask = min((loops.ask for loops in said if loops.ask is not None), default=None)
    deny = min((loops.deny for loops in said if loops.deny is not None), default=None)
    return None if ask is None and deny is None else Loops(ask=ask, deny=deny)


def joined_approvals(layers: Iterable[Layer]) -> Approvals | None:
    """The shortest times, and every notice. What a project's file wants started needs its file trusted."""
    said = [(layer, layer.approvals) for layer in layers if layer.approvals is not None]
    if not said:
        return None
    waits = [asked.wait_seconds for _, asked in said if asked.wait_seconds is not None]
    opens = [asked.open_hours for _, asked in said if asked.open_hours is not None]
    notices = [notice for layer, asked in said if layer.trusted for notice in asked.notify]
    return Approvals(
        wait_seconds=min(waits, default=None),
        open_hours=min(opens, default=None),
        notify=tuple(dict.fromkeys(notices)),
    )


def may_pause(layers: Iterable[Layer]) -> bool:
    """Whether no layer forbids it."""
    return all(layer.may_pause for layer in layers)


# -- showing ------------------------------------------------------------------------------------------


class EffectiveRule(Struct, frozen=True, kw_only=True):
    """One rule, in words."""

    name: str
    decision: Verdict
    layer: LayerKind
    source: str
    line: int | None
    match: str
    when: str | None
    rate: str | None
    sequence: str | None
    reason: str | None
    walls: Demand | None
    """Around the command of a call that matches."""
    note: str | None
    """Why it does not do what it says, where it does not."""


class EffectiveLayer(Struct, frozen=True, kw_only=True):
    """One file, or the built-in rules."""

    kind: LayerKind
    source: str
    digest: str
    mode: Mode
    default: Verdict | None
    trusted: bool
    rules: int
    walls: Demand | None
    """Around every command, where none of its rules says otherwise."""


class Effective(Struct, frozen=True, kw_only=True):
    """What holds, over all layers."""

    mode: Mode
    """`shadow` where every layer is."""
    default: Verdict | None
    """Of the enforced layers the strictest. None: no layer has an opinion, and what no rule matches is
    allowed."""
    layers: tuple[EffectiveLayer, ...]
    rules: tuple[EffectiveRule, ...]
    budgets: tuple[Budget, ...]
    loops: Loops | None
    approvals: Approvals | None
    may_pause: bool


def effective(layers: Iterable[Layer]) -> Effective:
    """What holds, and where each rule comes from."""
    joined = join(layers)
    enforced = [layer for layer in joined if layer.mode == "enforce"]
    defaults = [layer.default for layer in enforced if layer.default is not None]
    return Effective(
        mode="enforce" if enforced or not joined else "shadow",
        default=next((verdict for verdict in DECISIONS if verdict in defaults), None),
        layers=tuple(map(_shown_layer, joined)),
        rules=tuple(
            rule for index, layer in enumerate(joined) for rule in _shown_rules(layer, joined[:index])
        ),
        budgets=joined_budgets(joined),
        loops=joined_loops(joined),
        approvals=joined_approvals(joined),
        may_pause=may_pause(joined),
    )


def _shown_layer(layer: Layer) -> EffectiveLayer:
    return EffectiveLayer(
        kind=layer.kind,
        source=layer.source,
        digest=layer.digest,
        mode=layer.mode,
        default=layer.default,
        trusted=layer.trusted,
        rules=len(layer.rules),
        walls=layer.walls,
    )


def _shown_rules(layer: Layer, above: Ordered[Layer]) -> Iterable[EffectiveRule]:
    findings = check_document(layer, tools=None, others=above)
    notes = {finding.rule: finding.message for finding in findings if finding.kind == "unreachable"}
    for rule in layer.rules:
        yield EffectiveRule(
            name=rule.name,
            decision=rule.decision,
            layer=layer.kind,
            source=layer.source,
            line=rule.line,
            match=match_words(rule),
            when=condition_words(rule),
            rate=None if rule.rate is None else rate_words(rule.rate),
            sequence=None if rule.sequence is None else sequence_words(rule.sequence),
            reason=rule.reason,
            walls=rule.walls,
            note=_note(rule, layer, notes.get(rule.name)),
        )


_UNTRUSTED = "Not trusted: its allow has no effect outside this file."


def _note(rule: Rule, layer: Layer, unreachable: str | None) -> str | None:
    if layer.mode == "shadow":
        return "In shadow: what it would do is recorded, nothing is blocked."
    if rule.decision == "allow" and not layer.trusted:
        return _UNTRUSTED if rule.walls is None else f"{_UNTRUSTED} Its walls hold."
    return unreachable


def match_words(rule: Rule) -> str:
    """Which calls a rule is about: `tool git or glob:drive_*, effect write`."""
    match = rule.match
    parts = {
        "tool": match.tools,
        "agent": match.agents,
        "session": match.sessions,
        "door": match.doors,
        "effect": match.effects,
    }
    said = [f"{name} {' or '.join(patterns)}" for name, patterns in parts.items() if patterns]
    return ", ".join(said) or "every call"


def condition_words(rule: Rule) -> str | None:
    """The condition as it is written, or what the check of another kind looks for."""
    return rule.when.text if rule.when is not None else getattr(rule.check, "words", None)


def rate_words(rate: Rate) -> str:
    """When a rate is used up."""
    return f"after {rate.calls:,} calls in {rate.seconds:g} s, per {rate.per}"


def sequence_words(sequence: Sequence) -> str:
    """What has to have happened."""
    what = " or ".join((*sequence.after, *(f"a tool of effect {effect}" for effect in sequence.effects)))
    ago = "" if sequence.seconds is None else f" in the last {sequence.seconds:g} s"
    return f"after {what or 'any call'} succeeded{ago}, per {sequence.per}"


# -- what would allow it ------------------------------------------------------------------------------


def rule_that_allows(tool: str, *, agent: str | None = None, decision: Verdict = "allow") -> str:
    """The lines of a policy file that allow a tool where no rule of that file matches."""
    name = "".join(char if re.match(r"[A-Za-z0-9_.:/-]", char) else "-" for char in tool)[:90]
    lines = [
        "[[rules]]",
        f'name = "{decision}-{name}"',
        f'decision = "{decision}"',
        f"tool = {_exactly(tool)}",
    ]
    if agent is not None:
        lines.append(f"agent = {_quoted(agent)}")
    return "\n".join(lines) + "\n"


def _exactly(tool: str) -> str:
    """A name that looks like a pattern is written as the pattern that matches it alone."""
    if GLOB_CHARACTERS & set(tool) or tool.startswith(GLOB_PREFIX):
        return _quoted(GLOB_PREFIX + re.sub(r"([*?[])", r"[\1]", tool))
    return _quoted(tool)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


class Allowing(Struct, frozen=True, kw_only=True):
    """What somebody would have to change for a call to be allowed."""

    words: str
    """One sentence for each thing that stands in the way."""
    file: str | None = None
    line: int | None = None
    text: str | None = None
    """Lines to add to the file, where adding some is enough."""


def what_would_allow(tool: str, matched: Iterable[Matched], layers: Iterable[Layer]) -> Allowing | None:
    """For a call that was not allowed: the rules that say so, or the lines that lift a default.

    None where nothing of these layers stands in its way. An allow lifts the default of its own layer, and a
    trusted project's what the user is asked or has by default; any other rule is changed where it stands.
    """
    obstacles = _obstacles([*matched], join(layers))
    if not obstacles:
        return None
    first = obstacles[0]
    return Allowing(
        words=" ".join(dict.fromkeys(obstacle.sentence(tool) for obstacle in obstacles)),
        file=None if first.layer.kind == "builtin" else first.layer.source,
        line=None if first.rule is None else first.rule.line,
        text=rule_that_allows(tool) if all(one.rule is None for one in obstacles) else None,
    )


class _Obstacle(Struct, frozen=True):
    """A rule, or where there is none the default of a layer, that stands in the way of a call."""

    layer: Layer
    verdict: Verdict
    rule: Rule | None

    @property
    def gives_way(self) -> bool:
        """To what a trusted project allows."""
        return self.layer.kind in ("user", "builtin") and (self.rule is None or self.verdict == "ask")

    def sentence(self, tool: str) -> str:
        place = self.layer.source
        if self.layer.kind == "builtin":
            name = "" if self.rule is None else f" ({self.rule.name})"
            return (
                f"The built-in policy asks{name}. A policy of your own takes its place; "
                "custody init writes one that asks the same, to be changed."
            )
        if self.rule is None:
            return f"The default of {place} is {self.verdict}; a rule there can allow {tool}."
        where = f"{place}:{self.rule.line}" if self.rule.line else place
        does = "asks" if self.verdict == "ask" else "denies"
        return f"The rule {self.rule.name} in {where} {does}; it holds until it is changed there."


def _obstacles(matched: Ordered[Matched], layers: Iterable[Layer]) -> list[_Obstacle]:
    found: list[_Obstacle] = []
    lifted = False
    for layer in layers:
        if layer.mode == "shadow":
            continue
        said: dict[str | None, Verdict] = {
            match.rule: match.decision for match in matched if match.source == layer.source
        }
        own = [rule for rule in layer.rules if rule.name in said]
        against = [_Obstacle(layer, said[rule.name], rule) for rule in own if said[rule.name] != "allow"]
        default: Verdict = layer.default or "allow"
        if not own and default != "allow":
            against = [_Obstacle(layer, default, None)]
        lifted = lifted or (layer.kind == "project" and layer.trusted and bool(own) and not against)
        found += against
    return [one for one in found if not (lifted and one.gives_way)]
