"""What is odd about a policy document that can be read: rules that never decide, contradict or repeat.

Owns the findings of `policy check`. Refuses to decide calls; a finding changes nothing. Used by `layers` and
the command line.
"""

from collections.abc import Callable, Collection, Iterator
from collections.abc import Sequence as Ordered
from typing import Literal

from msgspec import Struct

from custody.errors import ConditionFailed
from custody.policy.denials import GLOB_CHARACTERS, Unusable
from custody.policy.model import GLOB_PREFIX, STRICTNESS, Layer, Match, Pattern, Rule
from custody.policy.names import fits, fits_any
from custody.policy.tables import nearest, shown

FindingKind = Literal[
    "unreachable",
    "unregistered_tool",
    "unknown_argument",
    "conflict",
    "duplicate",
    "always_error",
    "never_matches",
    "no_effect",
    "soft_above_hard",
    "unfinished",
]

COMPARED_MAX = 200_000
"""Pairs of rules: some tenths of a second. Of a file of thousands of patterns not all are compared."""


class Finding(Struct, frozen=True, kw_only=True):
    """One thing somebody should look at."""

    kind: FindingKind
    rule: str | None
    line: int | None
    message: str
    severity: Literal["error", "warning"] = "warning"


Arguments = Callable[[str], Collection[str] | None]
"""The arguments a registered tool takes, by its name; None where it takes any, or nobody knows."""


def check_document(
    layer: Layer,
    *,
    tools: Collection[str] | None,
    others: Ordered[Layer] = (),
    arguments: Arguments | None = None,
) -> tuple[Finding, ...]:
    """What is odd about a layer. `tools`: the names that are registered, None if that is not known; `others`:
    the layers above it, which it cannot loosen; `arguments` is asked for tools that conditions look into."""
    findings = [*_alone(layer), *_against_each_other(layer, others), *_budgets(layer)]
    if tools is not None:
        findings += _unregistered(layer, tools)
        findings += _unknown_arguments(layer, tools, arguments) if arguments is not None else ()
    return tuple(sorted(findings, key=lambda finding: (finding.line or 0, finding.kind, finding.rule or "")))


# -- one rule -----------------------------------------------------------------------------------------


def _alone(layer: Layer) -> Iterator[Finding]:
    for rule in layer.rules:
        if isinstance(rule.check, Unusable):
            yield _of(rule, "always_error", f"{rule.check.problem}; the tool is denied.", error=True)
        if rule.when is not None and not rule.when.reads:
            yield from _constant(rule)
        if rule.decision != "allow":
            continue
        if not layer.trusted:
            but = "" if rule.walls is None else "; the walls it demands hold"
            yield _of(rule, "no_effect", f"the file is not trusted, so what it allows has no effect{but}.")
        elif rule.rate is not None:
            yield _of(rule, "no_effect", "it allows only once its rate is used up; a limit is a deny.")


def _constant(rule: Rule) -> Iterator[Finding]:
    """A condition that reads nothing of the call is the same for every call."""
    assert rule.when is not None, "the caller has looked"
    try:
        holds = rule.when.holds({})
    except ConditionFailed as error:
        problem = f"its condition fails for every call, so it denies: {error.message}"
        yield _of(rule, "always_error", problem, error=True)
        return
    if not holds:
        yield _of(rule, "never_matches", "its condition is false for every call.")


def _of(rule: Rule, kind: FindingKind, message: str, *, error: bool = False) -> Finding:
    return Finding(
        kind=kind,
        rule=rule.name,
        line=rule.line,
        message=f"The rule {rule.name}: {message}",
        severity="error" if error else "warning",
    )


def _unregistered(layer: Layer, tools: Collection[str]) -> Iterator[Finding]:
    for rule in layer.rules:
        after = () if rule.sequence is None else rule.sequence.after
        for pattern in (*rule.match.tools, *after):
            if any(fits(pattern, tool) for tool in tools):
                continue
            near = nearest(pattern, tools)
            meant = f"; did you mean {near}?" if near else "."
            what = "no registered tool matches" if pattern.startswith(GLOB_PREFIX) else "no tool is called"
            yield _of(rule, "unregistered_tool", f"{what} {pattern}{meant}")


def _unknown_arguments(layer: Layer, tools: Collection[str], arguments: Arguments) -> Iterator[Finding]:
    """Conditions that read what no tool they are about is ever given. Of a rule for every tool nobody knows
    which those are."""
    for rule in layer.rules:
        read = None if rule.when is None else rule.when.fields.get("params")
        if not read or not rule.match.tools:
            continue
        about = sorted(tool for tool in tools if fits_any(rule.match.tools, tool))
        exact = {pattern for pattern in rule.match.tools if not pattern.startswith(GLOB_PREFIX)}
        taken = [arguments(tool) for tool in about]
        if not about or not exact.issubset(about) or None in taken:
            continue
        known = {name for names in taken for name in names or ()}
        who = f"{about[0]} does not take" if len(about) == 1 else "none of its tools takes"
        for name in sorted(read - known):
            near = nearest(name, known)
            meant = f"; did you mean {near}?" if near else "."
            what = f"its condition reads the argument {shown(name)}, which {who}{meant}"
            yield _of(rule, "unknown_argument", what)


def _budgets(layer: Layer) -> Iterator[Finding]:
    for budget in layer.budgets:
        for name, soft in budget.soft.items():
            hard = budget.amounts.get(name)
            if hard is not None and soft >= hard:
                yield Finding(
                    kind="soft_above_hard",
                    rule=None,
                    line=None,
                    message=f"budgets.{budget.per}: soft.{name} is not below {name}, so it is never told.",
                )


# -- two rules ----------------------------------------------------------------------------------------


class _Other(Struct, frozen=True, eq=False):
    """A rule that could make another one pointless."""

    rule: Rule
    key: object
    source: str | None
    """The file of a layer above; None for the same layer."""


def _against_each_other(layer: Layer, above: Ordered[Layer]) -> Iterator[Finding]:
    compared = 0
    candidates = _Candidates(layer, above)
    for rule in layer.rules:
        key = _key(rule)
        for other in candidates.of(rule):
            compared += 1
            if compared > COMPARED_MAX:
                message = f"Only {COMPARED_MAX:,} pairs of rules were compared, not all."
                yield Finding(kind="unfinished", rule=None, line=rule.line, message=message)
                return
            finding = _compared(rule, key, other)
            if finding is not None:
                yield finding
                break


def _compared(rule: Rule, key: object, other: _Other) -> Finding | None:
    """What another rule means for this one."""
    wins, source = other.rule, other.source
    same = source is None and key == other.key
    if rule.walls not in (None, wins.walls) and wins.decision != "deny":
        return None  # its walls hold, whichever decides
    if same and rule.decision == wins.decision:
        repeated = (rule.line or 0, rule.name) > (wins.line or 0, wins.name)
        return _of(rule, "duplicate", f"it says the same as {_placed(other)}.") if repeated else None
    if STRICTNESS[wins.decision] <= STRICTNESS[rule.decision]:
        return None
    if same:
        verdict = f"matches the same calls and says {wins.decision}, which wins."
        return _of(rule, "conflict", f"{_placed(other)} {verdict}")
    if _unconditional(wins) and _match_covers(wins.match, rule.match):
        verdict = f"says {wins.decision} to all it matches, so it never decides."
        return _of(rule, "unreachable", f"{_placed(other)} {verdict}")
    return None


def _placed(other: _Other) -> str:
    if other.source is not None:
        return f"the rule {other.rule.name} ({other.source}:{other.rule.line or 1})"
    return f"the rule {other.rule.name} (line {other.rule.line or 1})"


def _unconditional(rule: Rule) -> bool:
    return rule.when is None and rule.rate is None and rule.sequence is None and rule.check is None


def _key(rule: Rule) -> object:
    """Equal for rules that match the same calls, as far as their texts say."""
    match = rule.match
    names = tuple(
        frozenset(names) for names in (match.tools, match.agents, match.sessions, match.doors, match.effects)
    )
    check = None if rule.check is None else (type(rule.check), getattr(rule.check, "words", id(rule.check)))
    when = None if rule.when is None else rule.when.text
    return names, when, rule.rate, rule.sequence, check


def _match_covers(wide: Match, narrow: Match) -> bool:
    pairs = (
        (wide.tools, narrow.tools),
        (wide.agents, narrow.agents),
        (wide.sessions, narrow.sessions),
        (wide.doors, narrow.doors),
        (wide.effects, narrow.effects),
    )
    return all(
        not outer or (inner and all(_pattern_covered(pattern, outer) for pattern in inner))
        for outer, inner in pairs
    )


def _pattern_covered(pattern: Pattern, by: Ordered[Pattern]) -> bool:
    """Whether one of the patterns matches every name that `pattern` does."""
    return any(wide == pattern or _glob_covers(wide, pattern) for wide in by)


def _glob_covers(wide: Pattern, pattern: Pattern) -> bool:
    """Of two globs only a plain prefix is understood; what is not seen here is only not told."""
    if not wide.startswith(GLOB_PREFIX):
        return False
    if not pattern.startswith(GLOB_PREFIX):
        return fits(wide, pattern)
    glob = wide[len(GLOB_PREFIX) :]
    prefix = glob[:-1]
    return (
        glob.endswith("*")
        and not set(prefix) & GLOB_CHARACTERS
        and pattern[len(GLOB_PREFIX) :].startswith(prefix)
    )


class _Candidates:
    """The rules that could make another one pointless, found by the tools they name."""

    def __init__(self, layer: Layer, above: Ordered[Layer]) -> None:
        self._named: dict[str, list[_Other]] = {}
        self._wide: list[_Other] = []
        for rule in layer.rules:
            self._add(rule, None)
        for other in above:
            for rule in other.rules if other.mode == "enforce" else ():
                if _unconditional(rule) and not _lifted(rule, other, layer):
                    self._add(rule, other.source)

    def _add(self, rule: Rule, source: str | None) -> None:
        other = _Other(rule, _key(rule), source)
        exact = [tool for tool in rule.match.tools if not tool.startswith(GLOB_PREFIX)]
        if not exact or len(exact) < len(rule.match.tools):
            self._wide.append(other)
        for tool in exact:
            self._named.setdefault(tool, []).append(other)

    def of(self, rule: Rule) -> Iterator[_Other]:
        """Each but the rule itself. What covers it names its first tool, or is wide."""
        for tool in rule.match.tools[:1]:
            yield from (other for other in self._named.get(tool, ()) if other.rule is not rule)
        yield from (other for other in self._wide if other.rule is not rule)


def _lifted(rule: Rule, above: Layer, layer: Layer) -> bool:
    """Whether an allow of the layer lifts this rule: a trusted project's lifts what a user would be asked."""
    project = layer.kind == "project" and layer.trusted
    return project and above.kind != "organisation" and rule.decision == "ask"
