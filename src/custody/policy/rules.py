"""Rules that deny a call by its tool's name or by one of its arguments.

Owns reading them and applying them. Knows nothing of files: it is handed the tables of
`[[policy.rules]]`. Used by `custody.policy`.

    [[policy.rules]]
    deny_tool = "shell"                     # this name and no other

    [[policy.rules]]
    deny_tool_glob = "drive_*"              # an explicit opt-in: `*`, `?` and `[...]`, case counts

    [[policy.rules]]
    name = "no force push"                  # optional: what the record calls the rule
    reason = "Ask for a merge instead."     # optional: what the caller is told
    deny_tool_param = { tool = "git", param = "argv.0", matches = "^push$" }

`param` is a dotted path of names and list indices, or a list of them where a name holds a dot. An argument
that is absent matches nothing. `equals` compares as JSON does: `1` is `1.0`, `true` is not `1`. `matches`
is an RE2 expression found anywhere in the argument (anchor it with ^ and $ to compare the whole); an
argument that is no string is matched by its compact JSON text.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NoReturn, cast

import msgspec
from msgspec import Struct

from custody.errors import InvalidSetting
from custody.records import Decision

_KINDS = ("deny_tool", "deny_tool_glob", "deny_tool_param")
_CONDITION_KEYS = ("tool", "param", "equals", "matches")
_GLOB_CHARACTERS = frozenset("*?[]")


class ParamCondition(Struct, frozen=True):
    """What an argument has to be for its rule to apply."""

    path: tuple[str, ...]
    expression: Any
    """A compiled RE2 expression; None compares with `equals`."""
    equals: Any = None

    def holds(self, arguments: Mapping[str, Any]) -> bool:
        """Raises for an argument that has no JSON text to match."""
        found, value = _at(arguments, self.path)
        if not found:
            return False
        if self.expression is None:
            return json_equal(value, self.equals)
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        return self.expression.search(text) is not None


class Rule(Struct, frozen=True):
    """One deny."""

    name: str
    reason: str
    tool: str
    glob: bool = False
    condition: ParamCondition | None = None

    def applies(self, tool: str, arguments: Mapping[str, Any]) -> bool:
        named = fnmatchcase(tool, self.tool) if self.glob else tool == self.tool
        return named and (self.condition is None or self.condition.holds(arguments))


class Policy:
    """The rules in the order they were written; the first that applies decides."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self.rules = tuple(rules)

    def decide(self, tool: str, arguments: Mapping[str, Any]) -> Decision | None:
        """A deny, or None where no rule applies. Errors are the caller's: a guard that fails denies."""
        for rule in self.rules:
            if rule.applies(tool, arguments):
                return Decision(verdict="deny", by="rule", reason=rule.reason, rule=rule.name)
        return None


def _at(arguments: Any, path: Sequence[str]) -> tuple[bool, Any]:
    """Whether there is an argument at the path, and it."""
    value: Any = arguments
    for step in path:
        if isinstance(value, (list, tuple)):
            items = cast("Sequence[Any]", value)
            if not (step.isascii() and step.isdigit() and int(step) < len(items)):
                return False, None
            value = items[int(step)]
        elif isinstance(
            value, (dict, Mapping)
        ):  # a dict is told at once, another mapping takes a microsecond
            if step not in value:
                return False, None
            value = cast("Mapping[str, Any]", value)[step]
        else:
            return False, None
    return True, value


def json_equal(value: Any, expected: Any) -> bool:
    """Equality of JSON values: Python's, but a boolean is no number, at any depth."""
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    if isinstance(expected, str):
        return value == expected
    if isinstance(value, Mapping) and isinstance(expected, Mapping):
        ours = cast("Mapping[Any, Any]", value)
        theirs = cast("Mapping[Any, Any]", expected)
        return ours.keys() == theirs.keys() and all(json_equal(ours[name], theirs[name]) for name in ours)
    if isinstance(value, (list, tuple)) and isinstance(expected, (list, tuple)):
        items = cast("Sequence[Any]", value)
        wanted = cast("Sequence[Any]", expected)
        return len(items) == len(wanted) and all(map(json_equal, items, wanted))
    return value == expected


# -- reading ------------------------------------------------------------------------------------------


def parse_rules(raw: Sequence[Mapping[str, Any]], where: str) -> tuple[Rule, ...]:
    """The rules of `[[policy.rules]]`. `where` is the file's name.

    Raises InvalidSetting, which names the file, the rule's index and what is expected there.
    """
    if not isinstance(raw, (list, tuple)):
        raise InvalidSetting(
            f"{where}: policy.rules is {_shown(raw)}, expected a list of tables.",
            hint="Write each rule under [[policy.rules]].",
            where=where,
        )
    rules = tuple(_Reader(where, index).rule(table) for index, table in enumerate(raw))
    seen: set[str] = set()
    for index, rule in enumerate(rules):
        if rule.name in seen:
            _Reader(where, index).refuse(f"a second rule is named {_shown(rule.name)}", "names that differ")
        seen.add(rule.name)
    return rules


class _Reader:
    """Reads the table of one rule."""

    def __init__(self, where: str, index: int) -> None:
        self._where = where
        self._index = index

    def refuse(self, found: str, expected: str, hint: str | None = None) -> NoReturn:
        raise InvalidSetting(
            f"{self._where}: policy.rules[{self._index}]: {found}, expected {expected}.",
            hint=hint,
            where=self._where,
            index=self._index,
            expected=expected,
        )

    def rule(self, table: Any) -> Rule:
        if not isinstance(table, Mapping):
            self.refuse(_shown(table), "a table")
        fields = cast("Mapping[str, Any]", table)
        self._only(fields, (*_KINDS, "name", "reason"))
        kinds = [kind for kind in _KINDS if kind in fields]
        if len(kinds) != 1:
            found = " and ".join(kinds) + " in one rule" if kinds else "a rule that denies nothing"
            self.refuse(found, f"one of {_listed(_KINDS)}")
        name = self._text(fields, "name") if "name" in fields else f"policy.rules[{self._index}]"
        reason = self._text(fields, "reason") if "reason" in fields else None
        return self._of_kind(kinds[0], fields, name, reason)

    def _of_kind(self, kind: str, fields: Mapping[str, Any], name: str, reason: str | None) -> Rule:
        if kind == "deny_tool":
            tool = self._tool(fields, kind)
            return Rule(name, reason or f"The policy does not allow the tool {tool}.", tool)
        if kind == "deny_tool_glob":
            glob = self._text(fields, kind)
            return Rule(name, reason or f"The policy does not allow tools named {glob}.", glob, glob=True)
        table = fields[kind]
        if not isinstance(table, Mapping):
            self.refuse(
                f"deny_tool_param is {_shown(table)}", "a table with tool, param and equals or matches"
            )
        condition = cast("Mapping[str, Any]", table)
        self._only(condition, _CONDITION_KEYS, "deny_tool_param.")
        tool = self._tool(condition, "tool", "deny_tool_param.")
        parsed, clause = self._condition(condition)
        return Rule(
            name, reason or f"The policy does not allow {tool} with {clause}.", tool, condition=parsed
        )

    def _condition(self, table: Mapping[str, Any]) -> tuple[ParamCondition, str]:
        """The condition, and its words for the reason."""
        path = self._path(table)
        shown = ".".join(path)
        if ("equals" in table) == ("matches" in table):
            found = "both equals and matches" if "equals" in table else "neither equals nor matches"
            self.refuse(f"deny_tool_param has {found}", "one of them")
        if "equals" in table:
            try:
                text = msgspec.json.encode(table["equals"]).decode()
            except (TypeError, ValueError, OverflowError):
                text = None
            if text is None or not _is_json(table["equals"]):
                self.refuse(f"deny_tool_param.equals is {_shown(table['equals'])}", "a value JSON has")
            return ParamCondition(path, None, table["equals"]), f"{shown} = {text}"
        pattern = self._text(table, "matches", "deny_tool_param.")
        return ParamCondition(path, self._expression(pattern)), f"{shown} matching {pattern}"

    def _expression(self, pattern: str) -> Any:
        library = _re2()
        options = library.Options()
        options.log_errors = False
        try:
            return library.compile(pattern, options=options)
        except (library.error, UnicodeEncodeError) as error:
            detail = error.args[0] if isinstance(error, library.error) else "it is not text UTF-8 can hold"
            shown = detail.decode("utf-8", "replace") if isinstance(detail, bytes) else str(detail)
            self.refuse(
                f"deny_tool_param.matches is {_shown(pattern)} ({shown})",
                "an RE2 expression",
                hint="RE2 has no back-references and no look-around: https://github.com/google/re2/wiki/Syntax",
            )

    def _path(self, table: Mapping[str, Any]) -> tuple[str, ...]:
        param = table.get("param")
        steps: list[Any] = []
        if isinstance(param, str):
            steps += param.split(".")
        elif isinstance(param, list):
            steps += cast("list[Any]", param)
        if not steps or not all(isinstance(step, str) and step for step in steps):
            self.refuse(
                f"deny_tool_param.param is {_shown(table.get('param'))}",
                'a dotted path such as "argv.0" or a list of names such as ["headers", "x.y"]',
            )
        return tuple(steps)

    def _tool(self, table: Mapping[str, Any], key: str, prefix: str = "") -> str:
        tool = self._text(table, key, prefix)
        if _GLOB_CHARACTERS & set(tool):
            self.refuse(
                f"{prefix}{key} is {_shown(tool)}",
                "the exact name of a tool",
                hint="Patterns are written as deny_tool_glob.",
            )
        return tool

    def _text(self, table: Mapping[str, Any], key: str, prefix: str = "") -> str:
        text = table.get(key)
        if not isinstance(text, str) or not text.strip():
            found = f"is {_shown(text)}" if key in table else "is missing"
            self.refuse(f"{prefix}{key} {found}", "text")
        return text

    def _only(self, table: Mapping[str, Any], allowed: Sequence[str], prefix: str = "") -> None:
        for key in table:
            if key not in allowed:
                self.refuse(f"{prefix}{key} is no setting", f"{_listed(allowed)}")


def _re2() -> Any:
    """Loaded by the first rule that needs it: a policy without expressions starts without the library."""
    import re2  # pyright: ignore[reportMissingTypeStubs]

    return re2


def _is_json(value: Any) -> bool:
    if value is None or isinstance(value, (str, bool, int, float)):
        return True
    if isinstance(value, list):
        return all(map(_is_json, cast("list[Any]", value)))
    return isinstance(value, dict) and all(map(_is_json, cast("dict[str, Any]", value).values()))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" or {names[-1]}"


SHOWN_CHARACTERS_MAX = 80
"""Of a wrong setting, in the sentence that refuses it."""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[: SHOWN_CHARACTERS_MAX - 1]}…"
