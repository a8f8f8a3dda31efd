"""What a policy is made of, and what it says of a call: frozen values without behaviour of their own.

Owns the shapes. Refuses to know how they are written (`document`), how they are joined (`layers`) and how
they are decided (`engine`). Used by all of those, and by whoever builds a case or reads a ruling.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from msgspec import Struct, field

from custody.policy.conditions import Condition
from custody.records import By, Decision, Effect, Verdict

WallLevel = Literal["process", "confined", "transaction"]
SandboxName = Literal["read_only", "workspace", "network", "open"]
Afterwards = Literal["discard", "hold", "ask", "commit_if_passed", "commit"]

Pattern = str
"""A name, compared exactly; or, written `glob:…`, a pattern of `*`, `?` and `[...]` in which case counts."""

GLOB_PREFIX = "glob:"

Per = Literal["run", "agent", "session", "store"]
"""Over what something is counted."""

LayerKind = Literal["organisation", "user", "project", "builtin"]

Mode = Literal["enforce", "shadow"]
"""A layer in shadow says what it would do, and blocks nothing."""

STRICTNESS: Mapping[Verdict, int] = {"allow": 0, "ask": 1, "deny": 2}


# -- rules --------------------------------------------------------------------------------------------


class Match(Struct, frozen=True, kw_only=True):
    """Which calls a rule is about. An empty tuple: every one, also a call that names no agent."""

    tools: tuple[Pattern, ...] = ()
    agents: tuple[Pattern, ...] = ()
    sessions: tuple[Pattern, ...] = ()
    doors: tuple[Pattern, ...] = ()
    effects: tuple[Effect, ...] = ()


class Rate(Struct, frozen=True, kw_only=True):
    """So many admissions in any window of so many seconds; the next one is a match."""

    calls: int
    seconds: float
    per: Per = "store"


class Sequence(Struct, frozen=True, kw_only=True):
    """A call that succeeded before. With neither tools nor effects: any call."""

    after: tuple[Pattern, ...] = ()
    per: Per = "run"
    seconds: float | None = None
    """How long ago at most; None: ever."""
    effects: tuple[Effect, ...] = ()


class Demand(Struct, frozen=True, kw_only=True):
    """Which walls one rule, or one file, wants around a command. None: not said here."""

    level: WallLevel | None = None
    """At least this one."""
    sandbox: SandboxName | None = None
    """Never more than this one; there are sandboxes from the level `confined` on."""
    afterwards: Afterwards | None = None
    """What becomes of the changes of a transaction."""


class Rule(Struct, frozen=True, kw_only=True, eq=False):
    """One rule. All that is given has to hold: names, condition, check, rate, sequence."""

    name: str
    decision: Verdict
    match: Match = Match()
    when: Condition | None = None
    rate: Rate | None = None
    sequence: Sequence | None = None
    reason: str | None = None
    param: str | None = None
    """Name of the argument the rule is about, where it is about one."""
    line: int | None = None
    """Where it stands in its file."""
    check: "Callable[[Case], bool] | None" = None
    """A condition that is code: what CEL would do worse."""
    walls: Demand | None = None
    """Around the command of a call that matches, whichever rule decides. Of no rule that denies."""


# -- layers -------------------------------------------------------------------------------------------


class Budget(Struct, frozen=True, kw_only=True):
    """How much may be used up."""

    per: Per
    amounts: Mapping[str, float] = {}
    """By name of the amount (`calls`, `writes`, `wall_seconds`, …): the next call beyond it is refused."""
    soft: Mapping[str, float] = {}
    """The same, where going beyond is only told."""
    hours: float | None = None
    """The rolling window an agent's and the store's amounts are counted in; None: the counter's own."""


class Loops(Struct, frozen=True, kw_only=True):
    """From which identical call of a run on it is asked, and denied."""

    ask: int | None = None
    deny: int | None = None


class Approvals(Struct, frozen=True, kw_only=True):
    """How questions are put. None: not said here."""

    wait_seconds: float | None = None
    open_hours: float | None = None
    notify: tuple[str | tuple[str, ...], ...] = ()
    """An address of a webhook, or the words of a command."""


class Layer(Struct, frozen=True, kw_only=True, eq=False):
    """The rules of one file, or the built-in ones."""

    kind: LayerKind
    source: str
    """The file's path."""
    digest: str
    """`sha256:<hex>` of the text."""
    mode: Mode = "enforce"
    default: Verdict | None = None
    """What holds where none of its rules matches. None: the layer has no opinion then."""
    rules: tuple[Rule, ...] = ()
    budgets: tuple[Budget, ...] = ()
    loops: Loops | None = None
    approvals: Approvals | None = None
    walls: Demand | None = None
    """Around every command; what a rule of this layer that matches says of one of the three holds instead."""
    trusted: bool = True
    """Whether a person trusted this very text of a project's file. Says nothing of other layers."""
    may_pause: bool = True


# -- a call, and what is said of it -------------------------------------------------------------------


def _nothing() -> Mapping[str, Any]:
    """Nothing is known: a condition that reads it fails, and so denies."""
    return {}


class Case(Struct, frozen=True, kw_only=True, eq=False):
    """One call that somebody wants, as the rules see it.

    What costs something is a callable, asked once at most and only where a rule needs it. An error of a
    callable denies.
    """

    tool: str
    effect: Effect
    params: Mapping[str, Any]
    door: str = "python"
    agent: str | None = None
    caller: str | None = None
    session_id: str | None = None
    run: Mapping[str, Any] = field(default_factory=dict[str, Any])
    facts: Callable[[], Mapping[str, Any]] = _nothing
    state: Callable[[], Mapping[str, Any]] = _nothing
    counters: Callable[[], Mapping[str, Any]] = _nothing
    dry_run: bool = False
    typed: bool = False
    """Whether a person has typed it at a terminal."""
    writes_outside: bool = False
    """Whether its tool would write where the roots keep it from writing."""
    writes_protected: bool = False
    """Whether its tool would write a file that is protected."""
    starts_process: bool = True
    """Whether its tool may start a process: walls are around those alone."""
    rate_used: Callable[[Rule], bool] | None = None
    """Whether the rule's rate is used up. Asked for each rule with a rate whose names, condition and check
    hold: those are the rules the call takes a slot of, should it be admitted. None: not known here."""
    happened: Callable[[Rule], bool] | None = None
    """Whether the rule's sequence has happened. None: not known here."""


class Matched(Struct, frozen=True, kw_only=True):
    """A rule that matched, or a layer's default where `rule` is None."""

    rule: str | None
    decision: Verdict
    layer: LayerKind
    source: str
    """The file's path."""
    reason: str
    by: By = "rule"
    """`error`: the rule could not be decided, and so denies."""
    param: str | None = None


class Demanding(NamedTuple):
    """Who demands walls."""

    source: str
    """The file's path."""
    rule: str | None
    """None: the file's `[walls]`."""
    line: int | None


class Walls(Struct, frozen=True, kw_only=True):
    """Which walls all that matched demand together. A call that cannot have them does not run."""

    level: WallLevel | None = None
    """The highest that is demanded."""
    sandboxes: tuple[SandboxName, ...] = ()
    """Every one that is named, the narrowest first: the command has what all of them allow."""
    afterwards: Afterwards | None = None
    """The most careful. None: nobody says."""
    rules: tuple[Demanding, ...] = ()
    """Who demands any of it, by layer and name."""
    demands: tuple[Demand, ...] = ()
    """What each of those demands."""


class Ruling(Struct, frozen=True, kw_only=True):
    """What the policy says of one call."""

    verdict: Verdict
    by: By
    reason: str
    rule: str | None = None
    """The first, by layer and name, of the rules that made the verdict; None: a default did, or nothing."""
    param: str | None = None
    matched: tuple[Matched, ...] = ()
    """Every rule of the enforced layers that matched, by layer and name, whether or not it decided."""
    shadow: tuple[Matched, ...] = ()
    """What of the layers in shadow would have made the verdict stricter."""
    undecidable: tuple[str, ...] = ()
    """Rules whose rate or sequence is not known here; the verdict is that of the others."""
    walls: Walls | None = None
    """None: nobody demands any."""
    walls_in_shadow: Walls | None = None
    """What they would be, were the layers in shadow enforced; None where that is no different."""

    def decision(self) -> Decision:
        """In the words of a record."""
        return Decision(self.verdict, self.by, self.reason, self.rule, self.param)


class RuleExplained(Struct, frozen=True, kw_only=True):
    """What became of one rule for one call."""

    rule: str
    layer: LayerKind
    source: str
    line: int | None
    decision: Verdict
    """The rule's own; a rule that failed denies whatever it says."""
    matched: bool | None
    """None: undecidable here."""
    why: str
