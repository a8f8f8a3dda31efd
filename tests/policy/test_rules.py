"""Rules deny by exact names and by arguments; what is wrong with a rule is said with its place."""

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.errors import InvalidSetting
from custody.policy import Policy, parse_rules
from custody.records import Decision


def policy(*tables: dict[str, Any]) -> Policy:
    return Policy(parse_rules(list(tables), "custody.toml"))


def denied(tables: list[dict[str, Any]], tool: str, arguments: dict[str, Any] | None = None) -> bool:
    return policy(*tables).decide(tool, arguments or {}) is not None


def test_a_policy_without_rules_decides_nothing() -> None:
    assert Policy().decide("exec", {"argv": ["rm"]}) is None


def test_a_denied_tool_gets_a_decision_that_names_the_rule() -> None:
    assert policy({"deny_tool": "shell", "name": "no shell", "reason": "Use exec."}).decide(
        "shell", {}
    ) == Decision(verdict="deny", by="rule", reason="Use exec.", rule="no shell")
    assert policy({"deny_tool": "shell"}).decide("shell", {}) == Decision(
        verdict="deny", by="rule", reason="The policy does not allow the tool shell.", rule="policy.rules[0]"
    )


def test_the_first_rule_that_applies_decides() -> None:
    rules = policy({"deny_tool": "git"}, {"deny_tool_glob": "*", "name": "all"}, {"deny_tool": "exec"})
    decision = rules.decide("exec", {})
    assert decision is not None
    assert decision.rule == "all"


@pytest.mark.parametrize("tool", ["bash_session", "Bash", "bas", "bash ", "", "bash\n"])
def test_a_name_matches_exactly(tool: str) -> None:
    assert not denied([{"deny_tool": "bash"}], tool)


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
    assert (
        denied([{"deny_tool_param": {"tool": "git", "param": param, "matches": pattern}}], "git", ARGUMENTS)
        is matches
    )


def test_an_argument_that_cannot_be_matched_is_an_error_for_the_guard_to_turn_into_a_deny() -> None:
    rules = policy({"deny_tool_param": {"tool": "git", "param": "x", "matches": "a"}})
    with pytest.raises(UnicodeEncodeError):
        rules.decide("git", {"x": "\udcff"})
    with pytest.raises(TypeError):
        rules.decide("git", {"x": object()})


def test_a_hostile_argument_takes_linear_time() -> None:
    rules = policy({"deny_tool_param": {"tool": "git", "param": "x", "matches": "(a+)+$"}})
    assert rules.decide("git", {"x": "a" * 100_000 + "b"}) is None


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({}, "a rule that denies nothing, expected one of deny_tool, deny_tool_glob or deny_tool_param"),
        (
            {"deny": "x"},
            "deny is no setting, expected deny_tool, deny_tool_glob, deny_tool_param, name or reason",
        ),
        ({"deny_tool": "a", "deny_tool_glob": "b"}, "deny_tool and deny_tool_glob in one rule"),
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
        (
            {"deny_tool_param": {"tool": "g", "equals": 1}},
            "deny_tool_param.param is None, expected a dotted path",
        ),
        ({"deny_tool_param": {"tool": "g", "param": "a..b", "equals": 1}}, "deny_tool_param.param is 'a..b'"),
        ({"deny_tool_param": {"tool": "g", "param": [], "equals": 1}}, "deny_tool_param.param is []"),
        (
            {"deny_tool_param": {"tool": "g", "param": ["a", 0], "equals": 1}},
            "deny_tool_param.param is ['a', 0]",
        ),
        (
            {"deny_tool_param": {"tool": "g", "param": "a"}},
            "neither equals nor matches, expected one of them",
        ),
        (
            {"deny_tool_param": {"tool": "g", "param": "a", "equals": 1, "matches": "x"}},
            "both equals and matches",
        ),
        ({"deny_tool_param": {"tool": "g", "param": "a", "equal": 1}}, "deny_tool_param.equal is no setting"),
        ({"deny_tool_param": {"tool": "g", "param": "a", "equals": {1}}}, "deny_tool_param.equals is {1}"),
        (
            {"deny_tool_param": {"tool": "g", "param": "a", "matches": "(?=x)"}},
            "(invalid perl operator: (?=)",
        ),
        ({"deny_tool_param": {"tool": "g", "param": "a", "matches": "\udcff"}}, "expected an RE2 expression"),
        (
            {"deny_tool_param": {"tool": "g", "param": "a", "matches": 5}},
            "deny_tool_param.matches is 5, expected text",
        ),
        ("x", "'x', expected a table"),
    ],
)
def test_a_wrong_rule_is_refused_with_file_index_and_what_is_expected(table: Any, sentence: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        parse_rules([{"deny_tool": "fine"}, table], "/etc/custody.toml")
    assert caught.value.message.startswith("/etc/custody.toml: policy.rules[1]: ")
    assert sentence in caught.value.message
    assert caught.value.details["index"] == 1


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidSetting, match=r"policy.rules\[1\]: a second rule is named 'a'"):
        policy({"deny_tool": "x", "name": "a"}, {"deny_tool": "y", "name": "a"})


def test_rules_that_are_no_list_are_refused() -> None:
    with pytest.raises(InvalidSetting, match="expected a list of tables"):
        parse_rules({"deny_tool": "x"}, "custody.toml")  # pyright: ignore[reportArgumentType]


TOOLS = st.text(string.ascii_lowercase + "_", min_size=1, max_size=4)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(allow_nan=False), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TOOLS, inner, max_size=3)),
    max_leaves=8,
)


@given(TOOLS, TOOLS)
def test_only_the_named_tool_is_denied(name: str, tool: str) -> None:
    assert denied([{"deny_tool": name}], tool) is (name == tool)


@given(st.dictionaries(TOOLS, JSON, max_size=3), TOOLS, JSON)
def test_deciding_is_total_over_json_and_repeatable(
    arguments: dict[str, Any], param: str, expected: Any
) -> None:
    rules = [
        {"deny_tool_param": {"tool": "t", "param": param, "equals": expected}},
        {"deny_tool_param": {"tool": "t", "param": f"{param}.0", "matches": "a"}},
    ]
    assert policy(*rules).decide("t", arguments) == policy(*rules).decide("t", arguments)


@given(st.dictionaries(TOOLS, JSON, min_size=1, max_size=3), st.data())
def test_every_argument_equals_itself(arguments: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(arguments)))
    assert denied(
        [{"deny_tool_param": {"tool": "t", "param": name, "equals": arguments[name]}}], "t", arguments
    )


@given(st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=3) | JSON, max_size=3))
def test_any_tables_are_read_or_refused_with_a_sentence(tables: list[Any]) -> None:
    refused = ""
    try:
        parse_rules(tables, "custody.toml")
    except InvalidSetting as error:
        refused = error.message
    assert not refused or refused.startswith("custody.toml: policy.rules[")
