"""One policy document, a TOML text, read into a layer.

Owns the keys of a document, its bounds, and that a document with a fault is no layer at all: every fault is
told with its line and column, and whoever holds the layer before it keeps that. Refuses to know where the
text comes from and whether anybody trusts it. Used by `settings` and the command line.

In a file of its own the keys are at the top; in `custody.toml` they stand under `[policy]`.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from msgspec import Struct, structs

from custody.errors import InvalidPolicy
from custody.hosts import webhook_host
from custody.policy.model import Approvals, Budget, Demand, Layer, LayerKind, Loops, Mode, Per, Rule
from custody.policy.places import KEY_PARTS_MAX, Lines, Places, deepest, long_key
from custody.policy.rule_tables import DECISIONS, PERS, RATE_KEYS, RULE_KEYS, SEQUENCE_KEYS, read_rule
from custody.policy.tables import Fault, Faults, Table, refusal, shown
from custody.policy.walls import WALL_KEYS, read_demand
from custody.records import Verdict

DOCUMENT_BYTES_MAX = 1024 * 1024
"""Refused before it is read: 10,000 rules are smaller, and reading it holds up every command."""

RULES_MAX = 10_000
"""Of one document, whichever kinds."""

NOTIFY_MAX = 16  # each is started for every question

WORDS_MAX = 64  # of one command that notifies

WAIT_SECONDS_MAX = 3600.0
"""A call that waits holds what its caller holds."""

OPEN_HOURS_MAX = 30 * 24.0
"""A yes to something older is no answer to what is asked today."""

BUDGET_HOURS_MAX = 366 * 24.0

LOOP_CALLS_MAX = 1_000_000  # what is repeated more often has long done its harm

MODES: tuple[Mode, ...] = ("enforce", "shadow")
COUNTS = ("calls", "writes", "output_bytes", "tokens", "hosts", "files")
"""Amounts in whole numbers."""
AMOUNTS = (*COUNTS, "wall_seconds", "cpu_seconds", "cost_usd")

TOP_KEYS = ("mode", "default", "rules", "budgets", "loops", "approvals", "walls")
KEYS: Mapping[str, tuple[str, ...]] = {
    "": TOP_KEYS,
    "rules": RULE_KEYS,
    "rules.rate": RATE_KEYS,
    "rules.sequence": SEQUENCE_KEYS,
    "budgets": PERS,
    "budgets.run": (*AMOUNTS, "soft"),
    "budgets.session": (*AMOUNTS, "soft"),
    "budgets.agent": (*AMOUNTS, "soft", "hours"),
    "budgets.store": (*AMOUNTS, "soft", "hours"),
    "loops": ("same_call",),
    "loops.same_call": ("ask", "deny"),
    "approvals": ("wait_seconds", "open_hours", "notify", "may_pause"),
    "walls": WALL_KEYS,
}
"""Every key of a document, by the table it stands in."""


class OtherKinds(Struct, frozen=True):
    """Rule kinds that stand at the top of a document beside ours."""

    keys: tuple[str, ...]
    read: Callable[[Table], tuple[Rule, ...]]
    """Handed the top of the document; adds to its faults."""


def read_document(
    text: str | bytes,
    source: str,
    kind: LayerKind,
    *,
    section: bool = False,
    other_kinds: OtherKinds | None = None,
) -> Layer:
    """The layer a text says. `section`: its keys stand under `[policy]`, and the rest is not looked at.

    A project's layer comes untrusted. The digest is that of the text, and of a section that of what it says.
    Raises InvalidPolicy, which has every fault.
    """
    text, data = _bounded(text, source)
    raw, places = _parsed(text, source)
    faults = Faults(source, places)
    top = Table(raw, (), faults, "a policy")
    if section and kind == "project":
        _only_policy(raw, faults)
    if section:
        policy = top.table("policy", "[policy]", prefix="policy.")
        top = policy or Table({}, ("policy",), faults, "[policy]")
    layer = _layer(top, kind, other_kinds)
    faults.refuse()
    if section:
        data = json.dumps(top.raw, sort_keys=True, default=repr).encode()
    return structs.replace(layer, digest="sha256:" + hashlib.sha256(data).hexdigest())


def _only_policy(raw: Mapping[str, Any], faults: Faults) -> None:
    """What a project says comes with the code an agent works on: it may speak of policy, of nothing else."""
    others = [key for key in raw if key != "policy"]
    if others:
        faults.add(
            faults.places.key((others[0],)),
            f"a project's own file may only add a [policy]; it has {', '.join(sorted(others))}.",
            key=others[0],
            hint="Move the rest to your own custody.toml; custody doctor says where it is.",
        )


# -- the text -----------------------------------------------------------------------------------------


def _bounded(text: str | bytes, source: str) -> tuple[str, bytes]:
    """The text and its bytes. Raises InvalidPolicy for what is too large or no UTF-8."""
    if len(text) > DOCUMENT_BYTES_MAX:
        raise _too_large(source)
    if isinstance(text, bytes):
        try:
            decoded = text.decode()
        except UnicodeDecodeError as error:
            before = text[: error.start].decode()
            message = f"byte {error.start} is not UTF-8, which a TOML file is."
            raise _refused(source, Lines(before).place(len(before)), message) from None
        return decoded.removeprefix("\ufeff"), text
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        place = Lines(text).place(error.start)
        raise _refused(source, place, "a character here is not one UTF-8 can hold.") from None
    if len(data) > DOCUMENT_BYTES_MAX:
        raise _too_large(source)
    return text, data


def _too_large(source: str) -> InvalidPolicy:
    message = f"the file is larger than {DOCUMENT_BYTES_MAX:,} bytes, the most a policy may have."
    return _refused(source, (1, 1), message)


def _refused(source: str, place: tuple[int, int], message: str, hint: str | None = None) -> InvalidPolicy:
    line, column = place
    return refusal(source, [Fault(line=line, column=column, message=message, hint=hint)])


def _parsed(text: str, source: str) -> tuple[dict[str, Any], Places]:
    """The tables of the text, and where they stand. Raises InvalidPolicy for what is no TOML."""
    import tomllib  # most machines have no policy

    key = long_key(text)
    if key is not None:
        raise _refused(source, Lines(text).place(key), f"a key of more than {KEY_PARTS_MAX} parts.")
    try:
        # with the newline an error in the last line has a place as well
        return tomllib.loads(text + "\n"), Places(text + "\n")
    except tomllib.TOMLDecodeError as error:
        raise _refused(source, *_syntax_fault(str(error), text)) from None
    except RecursionError:
        place = Lines(text).place(deepest(text))
        raise _refused(source, place, "lists or tables are nested too deep.") from None
    except ValueError:  # the one thing tomllib leaves to Python, which reads no number of so many digits
        number = re.search(r"[0-9_]{1000,}", text)
        place = Lines(text).place(number.start() if number else 0)
        raise _refused(source, place, "a number has too many digits.") from None


def _syntax_fault(message: str, text: str) -> tuple[tuple[int, int], str]:
    """The place in tomllib's message, and the rest of it."""
    found = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    words = f"{message[: found.start()] if found else message}."
    if found is None or found[1] is None:
        return Lines(text).place(len(text)), words
    return (int(found[1]), int(found[2])), words


# -- its tables ---------------------------------------------------------------------------------------


def _layer(top: Table, kind: LayerKind, other_kinds: OtherKinds | None) -> Layer:
    """All but its digest."""
    top.only(TOP_KEYS if other_kinds is None else (*TOP_KEYS, *other_kinds.keys))
    mode = cast("Mode | None", top.word("mode", MODES))
    default = cast("Verdict | None", top.word("default", DECISIONS))
    rules = _rules(top)
    if other_kinds is not None:
        own = {rule.name for rule in rules}
        others = other_kinds.read(top)
        for rule in others:
            if rule.name in own:
                place = (rule.line or 1, 1)
                top.faults.add(place, f"a rule of [[rules]] has the name {shown(rule.name)} as well.")
        rules += others
    if len(rules) > RULES_MAX:
        top.faults.add((1, 1), f"there are {len(rules):,} rules, expected at most {RULES_MAX:,}.")
    approvals, may_pause = _approvals(top)
    return Layer(
        kind=kind,
        source=top.faults.source,
        digest="",
        mode=mode or "enforce",
        default=default,
        rules=rules,
        budgets=_budgets(top),
        loops=_loops(top),
        approvals=approvals,
        walls=_walls(top),
        trusted=kind != "project",
        may_pause=may_pause,
    )


def _rules(top: Table) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    lines: dict[str, int] = {}
    for table in top.tables("rules", "a rule", RULES_MAX):
        rule = read_rule(table, f"{top.prefix}rules[{table.path[-1]}]")
        if rule is None:
            continue
        if rule.name in lines:
            found = f"is {shown(rule.name)}, the name of the rule in line {lines[rule.name]} as well"
            table.refuse("name", "names that differ", found)
        lines.setdefault(rule.name, table.line)
        rules.append(rule)
    return tuple(rules)


def _budgets(top: Table) -> tuple[Budget, ...]:
    tables = top.table("budgets", "budgets", prefix="budgets.")
    if tables is None:
        return ()
    tables.only(PERS)
    return tuple(budget for per in PERS if (budget := _budget(tables, per)) is not None)


def _budget(tables: Table, per: Per) -> Budget | None:
    table = tables.table(per, f"a budget of a {per}")
    if table is None:
        return None
    table.only(KEYS[f"budgets.{per}"])
    soft = table.table("soft", "what is only told")
    if soft is not None:
        soft.only(AMOUNTS)
    return Budget(
        per=per,
        amounts=_amounts(table),
        soft={} if soft is None else _amounts(soft),
        hours=table.number("hours", low=0.01, high=BUDGET_HOURS_MAX) if per in ("agent", "store") else None,
    )


def _amounts(table: Table) -> dict[str, float]:
    read = {name: table.number(name, low=0, high=2**53, whole=name in COUNTS) for name in AMOUNTS}
    return {name: amount for name, amount in read.items() if amount is not None}


def _loops(top: Table) -> Loops | None:
    table = top.table("loops", "loops", prefix="loops.")
    if table is None:
        return None
    table.only(KEYS["loops"])
    same = table.table("same_call", "same_call")
    if same is None:
        return None
    same.only(KEYS["loops.same_call"])
    ask = same.number("ask", low=2, high=LOOP_CALLS_MAX, whole=True)
    deny = same.number("deny", low=2, high=LOOP_CALLS_MAX, whole=True)
    if ask is not None and deny is not None and ask >= deny:
        same.refuse("ask", "fewer calls than deny has", f"is {ask}, which deny comes before")
    return Loops(ask=None if ask is None else int(ask), deny=None if deny is None else int(deny))


def _approvals(top: Table) -> tuple[Approvals | None, bool]:
    """How questions are put, and whether people may pause the policy."""
    table = top.table("approvals", "approvals", prefix="approvals.")
    if table is None:
        return None, True
    table.only(KEYS["approvals"])
    said = Approvals(
        wait_seconds=table.number("wait_seconds", low=0, high=WAIT_SECONDS_MAX),
        open_hours=table.number("open_hours", low=0, high=OPEN_HOURS_MAX),
        notify=_notify(table),
    )
    return said, table.flag("may_pause") is not False


def _walls(top: Table) -> Demand | None:
    table = top.table("walls", "walls", prefix="walls.")
    if table is None:
        return None
    table.only(KEYS["walls"])
    return read_demand(table)


def _notify(table: Table) -> tuple[str | tuple[str, ...], ...]:
    expected = 'a list of commands such as ["notify-send", "{call}"] and of addresses such as "https://…"'
    value = table.raw.get("notify", [])
    if not isinstance(value, list) or len(cast("list[Any]", value)) > NOTIFY_MAX:
        table.refuse("notify", f"{expected}, at most {NOTIFY_MAX}")
        return ()
    kept: list[str | tuple[str, ...]] = []
    for index, item in enumerate(cast("list[Any]", value)):
        if isinstance(item, str) and webhook_host(item) is not None:
            kept.append(item)
        elif _is_command(item):
            kept.append(tuple(item))
        else:
            place = table.faults.places.value((*table.path, "notify", index))
            message = f"notify[{index}] is neither, expected {expected}."  # an address can hold a token
            table.faults.add(place, message, key="notify", expected=expected)
    return tuple(kept)


def _is_command(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    words = cast("list[Any]", value)
    return (
        len(words) <= WORDS_MAX
        and all(isinstance(word, str) and "\0" not in word for word in words)
        and bool(words[0])
    )
