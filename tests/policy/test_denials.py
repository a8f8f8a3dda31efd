"""Short rules deny by exact names and by arguments; what is wrong with one is said with its place."""

import string
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from custody.errors import InvalidPolicy
from custody.policy import Case, Policy, Ruling
from custody.policy.document import read_document


def toml(value: Any) -> str:
    """A JSON value as inline TOML, which has no null."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(str(k))} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")


def policy(*tables: dict[str, Any]) -> Policy:
    text = "".join(
        "[[rules]]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in table.items())
        for table in tables
    )
    return Policy([read_document(text, "policy.toml", "user")])


def decided(rules: Policy, tool: str, arguments: dict[str, Any]) -> Ruling | None:
    return rules.decide(Case(tool=tool, effect="unknown", params=arguments))


def denied(tables: list[dict[str, Any]], tool: str, arguments: dict[str, Any] | None = None) -> bool:
    ruling = decided(policy(*tables), tool, arguments or {})
    return ruling is not None and ruling.verdict == "deny"


def test_a_denied_tool_gets_a_ruling_that_names_the_rule() -> None:
    said = decided(policy({"deny_tool": "shell", "name": "no shell", "reason": "Use exec."}), "shell", {})
    assert said is not None
    assert (said.verdict, said.by, said.reason, said.rule) == ("deny", "rule", "Use exec.", "no shell")
    said = decided(policy({"deny_tool": "shell"}), "shell", {})
    assert said is not None
    assert (said.reason, said.rule) == ("The policy does not allow the tool shell.", "rules[0]")


def test_a_rule_of_the_settings_file_is_named_by_where_it_stands() -> None:
    layer = read_document("[[policy.rules]]\ndeny_tool = 'x'\n", "custody.toml", "user", section=True)
    assert [rule.name for rule in layer.rules] == ["policy.rules[0]"]


@pytest.mark.parametrize("tool", ["bash_session", "Bash", "bas", "bash ", "", "bash\n"])
def test_a_name_matches_exactly(tool: str) -> None:
    assert not denied([{"deny_tool": "bash"}], tool)


@pytest.mark.parametrize("name", ["glob:bash", "ba*", "ba?h", "[b]ash"])
@pytest.mark.parametrize(
    "table", ["deny_tool = '{}'", "deny_tool_param = {{tool = '{}', param = 'x', equals = 1}}"]
)
def test_a_pattern_where_an_exact_name_stands_is_refused_and_never_taken_for_a_name(
    table: str, name: str
) -> None:
    with pytest.raises(InvalidPolicy, match="expected the exact name of a tool") as caught:
        read_document(f"[[rules]]\n{table.format(name)}\n", "policy.toml", "user")
    assert caught.value.hint == "Patterns are written as deny_tool_glob."


@pytest.mark.parametrize(
    ("glob", "tool", "matches"),
    [
        ("drive_*", "drive_list", True),
        ("drive_*", "Drive_list", False),
        ("drive_*", "my_drive_list", False),
        ("file_?", "file_x", True),
        ("file_[rw]*", "file_write", True),
        ("file_[rw]*", "file_edit", False),
    ],
)
def test_a_glob_is_an_explicit_choice(glob: str, tool: str, matches: bool) -> None:
    assert denied([{"deny_tool_glob": glob}], tool) is matches


ARGUMENTS = {
    "argv": ["git", "push", "--force"],
    "options": {"force": True, "depth": 1, "x.y": "z", "list": [{"a": 1}], "none": None},
    "raw": b"\xff",
}


@pytest.mark.parametrize(
    ("param", "expected", "matches"),
    [
        ("argv.0", "git", True),
        ("argv.0", "gi", False),
        ("argv.9", "git", False),
        ("argv.-1", "--force", False),
        ("argv.²", "git", False),
        ("argv.x", "git", False),
        ("argv", ["git", "push", "--force"], True),
        ("argv", ["git", "push"], False),
        ("argv.0.0", "g", False),
        ("options.force", True, True),
        ("options.force", 1, False),
        ("options.depth", 1, True),
        ("options.depth", 1.0, True),
        ("options.depth", True, False),
        ("options.depth", "1", False),
        ("options.list", [{"a": 1}], True),
        ("options.list", [{"a": True}], False),
        ("options.list.0.a", 1, True),
        (["options", "x.y"], "z", True),
        ("options.x.y", "z", False),
        ("options.missing", "x", False),
        ("missing.deeper", "x", False),
    ],
)
def test_equals_compares_the_argument_at_a_path_as_json_does(
    param: Any, expected: Any, matches: bool
) -> None:
    rule = {"deny_tool_param": {"tool": "git", "param": param, "equals": expected}}
    assert denied([rule], "git", ARGUMENTS) is matches
    assert not denied([rule], "github", ARGUMENTS)


@pytest.mark.parametrize(
    ("param", "pattern", "matches"),
    [
        ("argv.2", "force", True),
        ("argv.2", "^force", False),
        ("argv.2", "(?i)FORCE$", True),
        ("argv", r'"push","--force"', True),
        ("options.depth", "^1$", True),
        ("options.force", "^true$", True),
        ("options.none", "^null$", True),
        ("options.list", r'\{"a":1\}', True),
        ("missing", ".*", False),
    ],
)
def test_matches_searches_the_argument_or_its_json_text(param: str, pattern: str, matches: bool) -> None:
    rule = {"deny_tool_param": {"tool": "git", "param": param, "matches": pattern}}
    assert denied([rule], "git", ARGUMENTS) is matches


@pytest.mark.parametrize("argument", ["\udcff", object()], ids=["no UTF-8", "no JSON"])
def test_an_argument_that_cannot_be_matched_denies(argument: Any) -> None:
    rules = policy({"deny_tool_param": {"tool": "git", "param": "x", "matches": "a"}})
    said = decided(rules, "git", {"x": argument})
    assert said is not None
    assert (said.verdict, said.by) == ("deny", "error")


def test_a_hostile_argument_takes_linear_time() -> None:
    rules = policy({"deny_tool_param": {"tool": "git", "param": "x", "matches": "(a+)+$"}})
    assert decided(rules, "git", {"x": "a" * 100_000 + "b"}) is None


def test_a_refusal_names_the_parameter_and_never_its_value() -> None:
    for condition in ({"equals": "hunter2"}, {"matches": "hunter2"}):
        rule = {"deny_tool_param": {"tool": "login", "param": "password", **condition}}
        said = decided(policy(rule), "login", {"password": "hunter2"})
        assert said is not None
        assert said.param == "password"
        assert "hunter2" not in repr(said)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (
            {},
            "decision is missing, expected deny, ask or allow.",
        ),
        ({"deny_tool": "a", "deny": "x"}, "`deny` is no key of a rule; did you mean deny_tool?"),
        ({"deny_tool": "a", "reasn": "x"}, "`reasn` is no key of a rule; did you mean reason?"),
        ({"deny_tool": "a", "deny_tool_glob": "b"}, "deny_tool_glob stands beside deny_tool in one rule"),
        ({"deny_tool": ""}, "deny_tool is '', expected text"),
        ({"deny_tool": ["a"]}, "deny_tool is ['a'], expected text"),
        ({"deny_tool": "git*"}, "deny_tool is 'git*', expected the exact name of a tool"),
        ({"deny_tool": "a", "name": 1}, "name is 1, expected text"),
        ({"deny_tool": "a", "reason": " "}, "reason is ' ', expected text"),
        (
            {"deny_tool_param": "x"},
            "deny_tool_param is 'x', expected a table with tool, param and equals or matches",
        ),
        ({"deny_tool_param": {"param": "a", "equals": 1}}, "deny_tool_param.tool is missing, expected text"),
        ({"deny_tool_param": {"tool": "g*", "param": "a", "equals": 1}}, "deny_tool_param.tool is 'g*'"),
        ({"deny_tool_param": {"tool": "g", "equals": 1}}, "param is missing, expected a dotted path"),
        ({"deny_tool_param": {"tool": "g", "param": "a..b", "equals": 1}}, "deny_tool_param.param is 'a..b'"),
        ({"deny_tool_param": {"tool": "g", "param": [], "equals": 1}}, "deny_tool_param.param is []"),
        ({"deny_tool_param": {"tool": "g", "param": ["a", 0], "equals": 1}}, "param is ['a', 0]"),
        ({"deny_tool_param": {"tool": "g", "param": "a"}}, "neither equals nor matches"),
        (
            {"deny_tool_param": {"tool": "g", "param": "a", "equals": 1, "matches": "x"}},
            "both equals and matches",
        ),
        (
            {"deny_tool_param": {"tool": "g", "param": "a", "equal": 1}},
            "`deny_tool_param.equal` is no key of deny_tool_param; did you mean equals?",
        ),
        (
            {"deny_tool_param": {"tool": "g", "param": "a", "matches": "(?=x)"}},
            "(invalid perl operator: (?=), expected an RE2 expression",
        ),
        (
            {"deny_tool_param": {"tool": "g", "param": "a", "matches": 5}},
            "deny_tool_param.matches is 5, expected text",
        ),
    ],
)
def test_a_wrong_rule_is_refused_with_its_line_and_what_is_expected(
    table: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        policy({"deny_tool": "fine"}, table)
    assert sentence in "".join(fault["message"] for fault in caught.value.details["faults"])
    assert 3 <= caught.value.details["line"] <= 5


@pytest.mark.parametrize("value", ["1979-05-27", "0x" + "f" * 5_000], ids=["a date", "a huge number"])
def test_equals_takes_only_what_json_has(value: str) -> None:
    with pytest.raises(InvalidPolicy, match=r"equals is .* expected a value JSON has"):
        read_document(
            f'[[rules]]\ndeny_tool_param = {{ tool = "g", param = "a", equals = {value} }}', "p.toml", "user"
        )


TOOLS = st.text(string.ascii_lowercase + "_", min_size=1, max_size=4)
JSON = st.recursive(
    st.one_of(st.booleans(), st.integers(-3, 3), st.text(string.printable, max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TOOLS, inner, max_size=3)),
    max_leaves=6,
)


@settings(max_examples=30)
@given(TOOLS, TOOLS)
def test_only_the_named_tool_is_denied(name: str, tool: str) -> None:
    assert denied([{"deny_tool": name}], tool) is (name == tool)


@settings(max_examples=30)
@given(st.dictionaries(TOOLS, JSON, min_size=1, max_size=3), st.data())
def test_every_argument_equals_itself(arguments: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(arguments)))
    rule = {"deny_tool_param": {"tool": "t", "param": name, "equals": arguments[name]}}
    assert denied([rule], "t", arguments)
