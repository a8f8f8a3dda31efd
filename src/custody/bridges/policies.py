"""Rule kinds of other engines, as they stand at the top of their policy files, read into rules of ours.

Owns their spelling and what each comes to. Knows nothing of files; the reader of documents is handed
`OTHER_KINDS`. Used by `settings` and the command line.

    deny_tool = ["shell"]
    deny_keyword = ["DROP TABLE"]          # found in any parameter, also in texts inside it; case counts

    [[deny_tool_param]]                    # without equals and contains: a call with the parameter is denied
    tool = "git"
    param = "argv.0"
    equals = "push"                        # or contains = "text"

    [[allow_tool_param]]                   # anything else is denied, and so is a call without the parameter
    tool = "git"
    param = "remote"
    allow = ["origin"]

    [[deny_tool_param_matching]]           # an RE2 expression, found anywhere; one that does not compile
    tool = "git"                           # denies the tool
    param = "branch"
    matches = "^release/"

    [[rate_limit_tool]]                    # counted at admission, over the whole store
    tool = "mail_send"
    max_calls = 10
    interval_secs = 60

    [[require_state]]                      # every tool is denied until the state holds it
    key = "reviewed"
    value = true

A parameter is a name, or a dotted path as in our own short rules. No sentence holds what an argument held.
"""

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, ClassVar, cast

from msgspec import Struct
from msgspec.structs import replace

from custody.policy.arguments import (
    InvalidExpression,
    argument_at,
    argument_text,
    compile_expression,
    json_equal,
)
from custody.policy.denials import Unusable, is_pattern, json_value, tool_name
from custody.policy.document import RULES_MAX, OtherKinds
from custody.policy.model import Case, Match, Rate, Rule
from custody.policy.rule_tables import RATE_CALLS_MAX, WINDOW_SECONDS_MAX
from custody.policy.tables import Table, shown

KEYS: Mapping[str, tuple[str, ...]] = {
    "deny_tool": (),
    "deny_keyword": (),
    "deny_tool_param": ("tool", "param", "equals", "contains"),
    "allow_tool_param": ("tool", "param", "allow"),
    "deny_tool_param_matching": ("tool", "param", "matches"),
    "rate_limit_tool": ("tool", "max_calls", "interval_secs"),
    "require_state": ("key", "value"),
}
"""The keys of each kind's tables; lists of names have none."""

NESTED_MAX = 100
"""Lists in lists of an argument that are searched for keywords; deeper ones are an error, which denies."""

PATTERN_HINT = 'These kinds name a tool exactly; a rule of ours can have tool = "glob:…".'


# -- what they come to --------------------------------------------------------------------------------


class HasKeyword(Struct, frozen=True):
    """Holds when a parameter, or a text or a name inside it, has the keyword. Raises beyond NESTED_MAX."""

    keyword: str

    def __call__(self, case: Case) -> bool:
        return any(_has_text(value, self.keyword, NESTED_MAX) for value in case.params.values())

    @property
    def words(self) -> str:
        """The condition, for whoever reads the policy."""
        return f"any parameter with {self.keyword!r}"


class HasParam(Struct, frozen=True):
    """Holds when there is the parameter and, where either is given, it equals or contains that."""

    param: str
    equals: Any = None
    contains: str | None = None
    by_value: bool = False

    def __call__(self, case: Case) -> bool:
        found, value = _param(case.params, self.param)
        if not found:
            return False
        if self.contains is not None:
            return _has_text(value, self.contains, NESTED_MAX) or self.contains in argument_text(value)
        return not self.by_value or json_equal(value, self.equals)

    @property
    def words(self) -> str:
        """The condition, for whoever reads the policy."""
        if self.contains is not None:
            return f"{self.param} with {self.contains!r}"
        return f"{self.param} = {self.equals!r}" if self.by_value else f"any {self.param}"


class NotAllowed(Struct, frozen=True):
    """Holds unless the parameter is there and is one of those listed."""

    param: str
    allow: tuple[Any, ...]

    def __call__(self, case: Case) -> bool:
        found, value = _param(case.params, self.param)
        return not (found and any(json_equal(value, allowed) for allowed in self.allow))

    @property
    def words(self) -> str:
        """The condition, for whoever reads the policy."""
        return f"{self.param} other than {', '.join(map(repr, self.allow)) or 'nothing'}"


class ParamMatching(Struct, frozen=True):
    """Holds when the expression is found in the parameter's text."""

    param: str
    pattern: str
    expression: Any

    def __call__(self, case: Case) -> bool:
        found, value = _param(case.params, self.param)
        return found and self.expression.search(argument_text(value)) is not None

    @property
    def words(self) -> str:
        """The condition, for whoever reads the policy."""
        return f"{self.param} matching {self.pattern}"


class StateDiffers(Struct, frozen=True):
    """Holds unless the state has the value under the key."""

    key: str
    value: Any
    reads: ClassVar[frozenset[str]] = frozenset({"state"})
    """Whoever cannot know the state cannot tell; of the other checks here this holds of the parameters."""

    def __call__(self, case: Case) -> bool:
        state = case.state()
        return not (self.key in state and json_equal(state[self.key], self.value))

    @property
    def words(self) -> str:
        """The condition, for whoever reads the policy."""
        return f"state {self.key} other than {self.value!r}"


def _param(params: Mapping[str, Any], param: str) -> tuple[bool, Any]:
    """A parameter of that very name, else what is at the dotted path."""
    return (True, params[param]) if param in params else argument_at(params, param.split("."))


def _has_text(value: Any, text: str, deeper: int) -> bool:
    if isinstance(value, str):
        return text in value
    if isinstance(value, (bytes, bytearray)):
        return text.encode() in value
    if deeper == 0:
        raise RecursionError("the argument has more lists in lists than are searched")
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value)
        return any(
            _has_text(name, text, deeper - 1) or _has_text(item, text, deeper - 1)
            for name, item in items.items()
        )
    if isinstance(value, (list, tuple)):
        return any(_has_text(item, text, deeper - 1) for item in cast("Sequence[Any]", value))
    return text in argument_text(value)


# -- how they are written -----------------------------------------------------------------------------


def rules_of_others(top: Table) -> tuple[Rule, ...]:
    """The rules of all these kinds at the top of a document; what is wrong is added to its faults."""
    rules = [*_denied_tools(top), *_keywords(top)]
    for kind, read in _READERS.items():
        for table in top.tables(kind, f"a {kind}", RULES_MAX):
            table.prefix = f"{kind}."
            table.only(KEYS[kind])
            rule = read(table)
            if rule is not None:
                rules.append(rule)
    return tuple(_named_apart(rules))


def _named_apart(rules: Sequence[Rule]) -> list[Rule]:
    """Two rules about one parameter get names that differ: the second is numbered."""
    taken = {rule.name for rule in rules}
    seen: set[str] = set()
    apart: list[Rule] = []
    for rule in rules:
        name = rule.name
        if name in seen:
            name = next(free for number in count(2) if (free := f"{rule.name}:{number}") not in taken)
        taken.add(name)
        seen.add(name)
        apart.append(rule if name == rule.name else replace(rule, name=name))
    return apart


def _denied_tools(top: Table) -> list[Rule]:
    line = top.faults.places.key((*top.path, "deny_tool"))[0]
    return [
        Rule(
            name=f"deny_tool:{tool}",
            decision="deny",
            match=Match(tools=(tool,)),
            reason=f"The policy does not allow the tool {tool}.",
            line=line,
        )
        for tool in _exact_tools(top)
    ]


def _exact_tools(top: Table) -> tuple[str, ...]:
    tools = top.texts("deny_tool", one=False)
    for index, tool in enumerate(tools):
        if is_pattern(tool):
            place = top.faults.places.value((*top.path, "deny_tool", index))
            message = f"deny_tool has {tool!r:.80}, expected the exact name of a tool."
            top.faults.add(place, message, key="deny_tool", hint=PATTERN_HINT)
    return tools


def _keywords(top: Table) -> list[Rule]:
    """They are named by their place in the list: the keyword is part of what was refused."""
    line = top.faults.places.key((*top.path, "deny_keyword"))[0]
    return [
        Rule(
            name=f"deny_keyword:{number}",
            decision="deny",
            reason="The policy does not allow a parameter with one of its keywords.",
            line=line,
            check=HasKeyword(keyword),
        )
        for number, keyword in enumerate(top.texts("deny_keyword", one=False), 1)
    ]


def _of_param(table: Table, kind: str) -> tuple[str, str, str] | None:
    """Tool, parameter and the name of the rule."""
    tool = tool_name(table, "tool", PATTERN_HINT)
    param = table.text("param", required=True)
    return None if tool is None or param is None else (tool, param, f"{kind}:{tool}.{param}")


def _denied_param(table: Table) -> Rule | None:
    named = _of_param(table, "deny_tool_param")
    contains = table.text("contains")
    if "equals" in table.raw and "contains" in table.raw:
        table.refuse("contains", "one of them", "stands beside equals")
        return None
    if named is None or ("contains" in table.raw and contains is None):
        return None
    by_value = "equals" in table.raw
    if by_value and json_value(table, "equals") is None:
        return None
    tool, param, name = named
    check = HasParam(param, table.raw.get("equals"), contains, by_value)
    allowed = "with this" if by_value or contains is not None else "with a"
    return Rule(
        name=name,
        decision="deny",
        match=Match(tools=(tool,)),
        reason=f"The policy does not allow {tool} {allowed} {param}.",
        param=param,
        line=table.line,
        check=check,
    )


def _allowed_param(table: Table) -> Rule | None:
    named = _of_param(table, "allow_tool_param")
    allow = table.raw.get("allow", [])
    if not isinstance(allow, list):
        table.refuse("allow", "a list of values")
        return None
    if "allow" in table.raw and json_value(table, "allow") is None:
        return None
    if named is None:
        return None
    tool, param, name = named
    return Rule(
        name=name,
        decision="deny",
        match=Match(tools=(tool,)),
        reason=f"The policy allows {tool} only with certain values of {param}.",
        param=param,
        line=table.line,
        check=NotAllowed(param, tuple(cast("list[Any]", allow))),
    )


def _denied_matching(table: Table) -> Rule | None:
    named = _of_param(table, "deny_tool_param_matching")
    pattern = table.text("matches", required=True)
    if named is None or pattern is None:
        return None
    tool, param, name = named
    reason = f"The policy does not allow {tool} with this {param}."
    try:
        check = ParamMatching(param, pattern, compile_expression(pattern))
    except InvalidExpression as error:
        check = Unusable(f"matches is {shown(pattern)}, which is no RE2 expression ({error})")
        reason = (
            f"The policy has an expression for {param} of {tool} that cannot be used, so {tool} is denied."
        )
    return Rule(
        name=name,
        decision="deny",
        match=Match(tools=(tool,)),
        reason=reason,
        param=param,
        line=table.line,
        check=check,
    )


def _limited_tool(table: Table) -> Rule | None:
    tool = tool_name(table, "tool", PATTERN_HINT)
    calls = table.number("max_calls", low=0, high=RATE_CALLS_MAX, whole=True, required=True)
    seconds = table.number("interval_secs", low=0.001, high=WINDOW_SECONDS_MAX, required=True)
    if tool is None or calls is None or seconds is None:
        return None
    return Rule(
        name=f"rate_limit_tool:{tool}",
        decision="deny",
        match=Match(tools=(tool,)),
        rate=Rate(calls=int(calls), seconds=float(seconds), per="store"),
        reason=f"The policy allows {calls:,} calls of {tool} in {seconds:g} s.",
        line=table.line,
    )


def _required_state(table: Table) -> Rule | None:
    key = table.text("key", required=True)
    if "value" not in table.raw:
        table.refuse("value", "what the state has to hold")
        return None
    if key is None or json_value(table, "value") is None:
        return None
    return Rule(
        name=f"require_state:{key}",
        decision="deny",
        reason=f"The policy allows no tool until the state {key} is as it requires.",
        line=table.line,
        check=StateDiffers(key, table.raw["value"]),
    )


_READERS = {
    "deny_tool_param": _denied_param,
    "allow_tool_param": _allowed_param,
    "deny_tool_param_matching": _denied_matching,
    "rate_limit_tool": _limited_tool,
    "require_state": _required_state,
}

OTHER_KINDS = OtherKinds(tuple(KEYS), rules_of_others)
"""What `read_document` is handed."""
