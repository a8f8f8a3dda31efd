"""The short rules: deny a tool by name, by glob, or by one of its arguments.

Owns their spelling and the checks they become. Refuses to know documents and layers. Used by `rule_tables`.

    [[rules]]
    deny_tool = "shell"                     # this name and no other

    [[rules]]
    deny_tool_glob = "drive_*"              # an explicit opt-in: `*`, `?` and `[...]`, case counts

    [[rules]]
    name = "no force push"                  # optional: what the record calls the rule
    reason = "Ask for a merge instead."     # optional: what the caller is told
    deny_tool_param = { tool = "git", param = "argv.0", matches = "^push$" }

`param` is a dotted path of names and list indices, or a list of them where a name holds a dot. An argument
that is absent matches nothing. `matches` is an RE2 expression found anywhere in the argument (anchor it with
^ and $ to compare the whole).
"""

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import msgspec
from msgspec import Struct

from custody.policy.arguments import (
    EXPRESSION_HINT,
    InvalidExpression,
    argument_at,
    argument_text,
    compile_expression,
    is_json,
    json_equal,
)
from custody.policy.model import GLOB_PREFIX, Case, Match, Rule
from custody.policy.tables import Table, listed, rule_name, shown
from custody.policy.walls import WALL_KEYS, refuse_walls

KINDS = ("deny_tool", "deny_tool_glob", "deny_tool_param")
RULE_KEYS = (*KINDS, "name", "reason")
PARAM_KEYS = ("tool", "param", "equals", "matches")

GLOB_CHARACTERS = frozenset("*?[]")
"""A name that has one was meant as a pattern, which is written as such."""


class ParamEquals(Struct, frozen=True):
    """Holds when the argument is that JSON value."""

    path: tuple[str, ...]
    expected: Any

    def __call__(self, case: Case) -> bool:
        found, value = argument_at(case.params, self.path)
        return found and json_equal(value, self.expected)

    @property
    def words(self) -> str:
        """The condition, for whoever reads the policy."""
        return f"{'.'.join(self.path)} = {msgspec.json.encode(self.expected).decode()}"


class ParamMatches(Struct, frozen=True):
    """Holds when the expression is found in the argument's text. Raises for an argument without one."""

    path: tuple[str, ...]
    pattern: str
    expression: Any
    """The pattern, compiled."""

    def __call__(self, case: Case) -> bool:
        found, value = argument_at(case.params, self.path)
        return found and self.expression.search(argument_text(value)) is not None

    @property
    def words(self) -> str:
        """The condition, for whoever reads the policy."""
        return f"{'.'.join(self.path)} matching {self.pattern}"


class Unusable(Struct, frozen=True):
    """Stands for a condition that cannot be used: it always holds, so that its rule denies."""

    problem: str
    """For `policy check`."""
    reads: ClassVar[frozenset[str]] = frozenset()
    """Nothing of the call: it holds whatever is known of that."""

    def __call__(self, case: Case) -> bool:
        return True

    @property
    def words(self) -> str:
        """The condition, for whoever reads the policy."""
        return f"always, because {self.problem}"


def read_denial(table: Table, unnamed: str) -> Rule | None:
    """The rule of a table that has one of KINDS; None after a fault."""
    table.only((*RULE_KEYS, *(key for key in WALL_KEYS if key in table.raw)))  # refused in words of their own
    refuse_walls(table)
    kinds = [kind for kind in KINDS if kind in table.raw]
    if len(kinds) != 1:
        expected = f"one of {listed(KINDS)}"
        table.refuse(kinds[-1], expected, f"stands beside {' and '.join(kinds[:-1])} in one rule")
        return None
    name = rule_name(table) or unnamed
    reason = table.text("reason")
    if kinds[0] == "deny_tool_param":
        return _param_denial(table, name, reason)
    if kinds[0] == "deny_tool_glob":
        glob = table.text("deny_tool_glob", required=True)
        if glob is None:
            return None
        return Rule(
            name=name,
            decision="deny",
            match=Match(tools=(GLOB_PREFIX + glob,)),
            reason=reason or f"The policy does not allow tools named {glob}.",
            line=table.line,
        )
    tool = tool_name(table, "deny_tool", "Patterns are written as deny_tool_glob.")
    if tool is None:
        return None
    return Rule(
        name=name,
        decision="deny",
        match=Match(tools=(tool,)),
        reason=reason or f"The policy does not allow the tool {tool}.",
        line=table.line,
    )


def _param_denial(rule: Table, name: str, reason: str | None) -> Rule | None:
    if not isinstance(rule.raw["deny_tool_param"], dict):
        rule.refuse("deny_tool_param", "a table with tool, param and equals or matches")
        return None
    table = rule.table("deny_tool_param", "deny_tool_param")
    assert table is not None, "it is a table, as was just seen"
    table.only(PARAM_KEYS)
    tool = tool_name(table, "tool", "Patterns are written as deny_tool_glob.")
    path = param_path(table)
    check = None if path is None else _check(table, path)
    if tool is None or path is None or check is None:
        return None
    param = ".".join(path)
    return Rule(
        name=name,
        decision="deny",
        match=Match(tools=(tool,)),
        reason=reason or f"The policy does not allow {tool} with this {param}.",
        param=param,
        line=rule.line,
        check=check,
    )


def _check(table: Table, path: tuple[str, ...]) -> ParamEquals | ParamMatches | None:
    if "equals" in table.raw and "matches" in table.raw:
        table.refuse("matches", "one of them", "stands beside equals: there are both equals and matches")
    elif "matches" in table.raw:
        return _matches(table, path)
    elif "equals" not in table.raw:
        table.refuse("param", "one of them", "has neither equals nor matches beside it")
    elif json_value(table, "equals") is not None:
        return ParamEquals(path, table.raw["equals"])
    return None


def _matches(table: Table, path: tuple[str, ...]) -> ParamMatches | None:
    pattern = table.text("matches", required=True)
    if pattern is None:
        return None
    try:
        return ParamMatches(path, pattern, compile_expression(pattern))
    except InvalidExpression as error:
        found = f"is {shown(pattern)} ({error})"
        table.refuse("matches", "an RE2 expression", found, EXPRESSION_HINT)
        return None


def json_value(table: Table, key: str) -> str | None:
    """The JSON text of what the key holds, or a fault and None."""
    value = table.raw[key]
    try:
        text = msgspec.json.encode(value).decode() if is_json(value) else None
    except (TypeError, ValueError, OverflowError, RecursionError):
        text = None
    if text is None:
        table.refuse(key, "a value JSON has")
    return text


def is_pattern(tool: str) -> bool:
    """Whether a name is none, but something for which there is `glob:`."""
    return tool.startswith(GLOB_PREFIX) or bool(GLOB_CHARACTERS & set(tool))


def tool_name(table: Table, key: str, hint: str) -> str | None:
    """The exact name of a tool, or a fault and None."""
    tool = table.text(key, required=True)
    if tool is not None and is_pattern(tool):
        table.refuse(key, "the exact name of a tool", hint=hint)
        return None
    return tool


def param_path(table: Table) -> tuple[str, ...] | None:
    """The steps of `param`, or a fault and None."""
    param = table.raw.get("param")
    steps: Sequence[Any] = ()
    if isinstance(param, str):
        steps = param.split(".")
    elif isinstance(param, list):
        steps = cast("list[Any]", param)
    if steps and all(isinstance(step, str) and step for step in steps):
        return tuple(steps)
    table.refuse("param", 'a dotted path such as "argv.0" or a list of names such as ["headers", "x.y"]')
    return None
