"""One table of `[[rules]]`, read into a rule.

Owns the keys of a rule, the forms of what it matches, its rate and its sequence. Refuses to know what a rule
does (`engine`) and what else a document holds. Used by `document`.
"""

from typing import cast

from custody.errors import InvalidCondition
from custody.policy.conditions import Condition, compile_condition
from custody.policy.denials import GLOB_CHARACTERS, KINDS, read_denial
from custody.policy.model import GLOB_PREFIX, Match, Pattern, Per, Rate, Rule, Sequence
from custody.policy.tables import Table, listed, rule_name
from custody.policy.walls import WALL_KEYS, read_demand, refuse_walls
from custody.records import EFFECTS, Effect, Verdict

RULE_KEYS = (
    "name", "decision", "tool", "agent", "session", "door", "effect", "when", "rate", "sequence", "reason",
    *WALL_KEYS,
)  # fmt: skip
RATE_KEYS = ("calls", "seconds", "per")
SEQUENCE_KEYS = ("after", "effect", "seconds", "per")

DECISIONS: tuple[Verdict, ...] = ("deny", "ask", "allow")
"""The strictest first."""
PERS: tuple[Per, ...] = ("run", "agent", "session", "store")

CONDITION_CHARACTERS_MAX = 4_096
"""A longer one is not read by people any more, and it is asked before every call."""

RATE_CALLS_MAX = 1_000_000
"""Each admission within the window is kept until it leaves it."""

WINDOW_SECONDS_MAX = 366 * 24 * 3600.0
"""Of a rate or a sequence. What is older may have been purged."""


def read_rule(table: Table, unnamed: str) -> Rule | None:
    """The rule, or faults and None. `unnamed` is what a short rule without a name is called."""
    if any(kind in table.raw for kind in KINDS):
        return read_denial(table, unnamed)
    table.only((*RULE_KEYS, *KINDS))
    name = rule_name(table, required=True)
    decision = _decision(table)
    match = _match(table)
    when = _condition(table)
    rate = _rate(table)
    sequence = _sequence(table)
    reason = table.text("reason")
    walls = None
    if decision == "deny":
        refuse_walls(table)
    else:
        walls = read_demand(table)
    if name is None or decision is None:
        return None
    return Rule(
        name=name,
        decision=decision,
        match=match,
        when=when,
        rate=rate,
        sequence=sequence,
        reason=reason,
        line=table.line,
        walls=walls,
    )


def _decision(table: Table) -> Verdict | None:
    if "decision" not in table.raw:
        table.refuse("decision", listed(DECISIONS), hint=f"Or write one of {listed(KINDS)}.")
        return None
    return cast("Verdict | None", table.word("decision", DECISIONS))


def _match(table: Table) -> Match:
    return Match(
        tools=patterns(table, "tool"),
        agents=patterns(table, "agent"),
        sessions=patterns(table, "session"),
        doors=patterns(table, "door"),
        effects=_effects(table),
    )


def patterns(table: Table, key: str) -> tuple[Pattern, ...]:
    """Names, and patterns marked as such. A name that looks like an unmarked pattern is a fault."""
    kept: list[Pattern] = []
    for text in table.texts(key):
        glob = text.startswith(GLOB_PREFIX)
        if glob and text == GLOB_PREFIX:
            table.refuse(key, "a pattern after glob:", f"has {text}")
        elif not glob and key in ("tool", "after") and GLOB_CHARACTERS & set(text):
            table.refuse(key, "the exact name of a tool", hint=f'A pattern is written "{GLOB_PREFIX}…".')
        else:
            kept.append(text)
    return tuple(dict.fromkeys(kept))


def _effects(table: Table) -> tuple[Effect, ...]:
    words = table.texts("effect")
    for word in words:
        if word not in EFFECTS:
            table.refuse("effect", listed(EFFECTS))
            return ()
    return cast("tuple[Effect, ...]", tuple(dict.fromkeys(words)))


def _condition(table: Table) -> Condition | None:
    text = table.text("when", characters_max=CONDITION_CHARACTERS_MAX)
    if text is None:
        return None
    try:
        return compile_condition(text)
    except InvalidCondition as error:
        path = (*table.path, "when")
        places = table.faults.places
        place = places.within(path, error.line, error.column) or places.value(path)
        table.faults.add(
            place, f"when: {error.message}", key="when", expected="a CEL condition", hint=error.hint
        )
        return None


def _rate(rule: Table) -> Rate | None:
    table = rule.table("rate", "a rate")
    if table is None:
        return None
    table.only(RATE_KEYS)
    calls = table.number("calls", low=1, high=RATE_CALLS_MAX, whole=True, required=True)
    seconds = _seconds(table, required=True)
    per = table.word("per", PERS)
    if calls is None or seconds is None:
        return None
    return Rate(calls=int(calls), seconds=seconds, per=cast("Per", per or "store"))


def _sequence(rule: Table) -> Sequence | None:
    table = rule.table("sequence", "a sequence")
    if table is None:
        return None
    table.only(SEQUENCE_KEYS)
    if "after" not in table.raw and "effect" not in table.raw:
        table.refuse("after", "the name of a tool, or an effect beside")
    per = table.word("per", PERS)
    return Sequence(
        after=patterns(table, "after"),
        effects=_effects(table),
        seconds=_seconds(table),
        per=cast("Per", per or "run"),
    )


def _seconds(table: Table, *, required: bool = False) -> float | None:
    seconds = table.number("seconds", low=0.001, high=WINDOW_SECONDS_MAX, required=required)
    return None if seconds is None else float(seconds)
