"""Policy files of other engines are read: each of their rule kinds denies what it denied there."""

from typing import Any

import pytest

from custody.bridges.policies import KEYS, OTHER_KINDS
from custody.errors import InvalidPolicy
from custody.policy import Case, Layer, Policy
from custody.policy.checking import check_document
from custody.policy.document import read_document
from custody.policy.model import Matched, Rate


def layer(text: str) -> Layer:
    return read_document(text, "car.toml", "user", other_kinds=OTHER_KINDS)


def matched(text: str, tool: str, params: dict[str, Any], **more: Any) -> tuple[Matched, ...]:
    ruling = Policy([layer(text)]).decide(Case(tool=tool, effect="unknown", params=params, **more))
    return () if ruling is None or ruling.verdict != "deny" else ruling.matched


def denied_by(text: str, tool: str, params: dict[str, Any], **more: Any) -> list[str | None]:
    return [match.rule for match in matched(text, tool, params, **more)]


def test_a_list_of_tools_denies_each_by_its_exact_name() -> None:
    text = 'deny_tool = ["shell", "exec"]'
    assert denied_by(text, "shell", {}) == ["deny_tool:shell"]
    assert denied_by(text, "shell_session", {}) == []


@pytest.mark.parametrize(
    ("params", "denies"),
    [
        ({"sql": "DROP TABLE x"}, True),
        ({"sql": "drop table x"}, False),
        ({"a": {"b": [1, ["DROP TABLE"]]}}, True),
        ({"a": {"DROP TABLE": 1}}, True),
        ({"DROP TABLE": 1}, False),
        ({"raw": b"DROP TABLE"}, True),
        ({"a": "DROP", "b": " TABLE"}, False),
        ({}, False),
    ],
)
def test_a_keyword_is_found_in_any_parameter_and_in_the_texts_inside(
    params: dict[str, Any], denies: bool
) -> None:
    text = 'deny_keyword = ["secret plan", "DROP TABLE"]'
    assert denied_by(text, "any", params) == (["deny_keyword:2"] if denies else [])


def test_an_argument_too_deep_to_search_denies() -> None:
    deep: Any = "x"
    for _ in range(10_000):
        deep = [deep]
    (match,) = matched('deny_keyword = ["y"]', "any", {"a": deep})
    assert (match.decision, match.by) == ("deny", "error")


DENY = '[[deny_tool_param]]\ntool = "git"\nparam = "argv.0"\n'


@pytest.mark.parametrize(
    ("condition", "argument", "denies"),
    [
        ("", "anything", True),
        ("", None, True),
        ("equals = 'push'", "push", True),
        ("equals = 'push'", "pushed", False),
        ("equals = 1", True, False),
        ("contains = 'us'", "push", True),
        ("contains = 'US'", "push", False),
        ("contains = 'a\"b'", ['a"b'], True),
        ("contains = '12'", 123, True),
    ],
)
def test_a_denied_parameter_is_one_that_equals_contains_or_is_there_at_all(
    condition: str, argument: Any, denies: bool
) -> None:
    expected = ["deny_tool_param:git.argv.0"] if denies else []
    assert denied_by(DENY + condition, "git", {"argv": [argument]}) == expected
    assert denied_by(DENY + condition, "git", {"argv.0": argument}) == expected
    assert denied_by(DENY + condition, "git", {"argv": []}) == []
    assert denied_by(DENY + condition, "github", {"argv": [argument]}) == []


@pytest.mark.parametrize(
    ("allow", "params", "denies"),
    [
        ('["origin", 1]', {"remote": "origin"}, False),
        ('["origin", 1]', {"remote": 1.0}, False),
        ('["origin", 1]', {"remote": True}, True),
        ('["origin", 1]', {"remote": "origin2"}, True),
        ('["origin", 1]', {}, True),
        ("[]", {"remote": "origin"}, True),
    ],
)
def test_an_allowed_parameter_denies_what_is_unlisted_absent_or_when_nothing_is_listed(
    allow: str, params: dict[str, Any], denies: bool
) -> None:
    text = f'[[allow_tool_param]]\ntool = "git"\nparam = "remote"\nallow = {allow}'
    assert denied_by(text, "git", params) == (["allow_tool_param:git.remote"] if denies else [])
    assert denied_by(text, "other", params) == []


MATCHING = '[[deny_tool_param_matching]]\ntool = "git"\nparam = "branch"\nmatches = '


def test_an_expression_is_found_anywhere_and_takes_linear_time() -> None:
    name = "deny_tool_param_matching:git.branch"
    assert denied_by(MATCHING + "'lease/'", "git", {"branch": "release/1"}) == [name]
    assert denied_by(MATCHING + "'^lease/'", "git", {"branch": "release/1"}) == []
    assert denied_by(MATCHING + "'(a+)+$'", "git", {"branch": "a" * 100_000 + "b"}) == []


def test_an_expression_that_does_not_compile_denies_the_tool_and_is_found_by_a_check() -> None:
    text = MATCHING + "'(?=x)'"
    for params in ({}, {"branch": "x"}):
        (match,) = matched(text, "git", params)
        assert "cannot be used, so git is denied" in match.reason
    assert denied_by(text, "other", {"branch": "x"}) == []
    (finding,) = check_document(layer(text), tools=None)
    assert (finding.kind, finding.severity, finding.line) == ("always_error", "error", 1)
    assert "invalid perl operator" in finding.message


def test_a_limit_counts_over_the_whole_store() -> None:
    text = '[[rate_limit_tool]]\ntool = "mail"\nmax_calls = 10\ninterval_secs = 60'
    (rule,) = layer(text).rules
    assert (rule.name, rule.rate) == ("rate_limit_tool:mail", Rate(calls=10, seconds=60, per="store"))
    assert denied_by(text, "mail", {}, rate_used=lambda _: True) == ["rate_limit_tool:mail"]
    assert denied_by(text, "mail", {}, rate_used=lambda _: False) == []


@pytest.mark.parametrize(
    ("state", "denies"),
    [({"reviewed": True}, False), ({"reviewed": 1}, True), ({"reviewed": False}, True), ({}, True)],
)
def test_a_required_state_denies_every_tool_until_it_holds(state: dict[str, Any], denies: bool) -> None:
    text = '[[require_state]]\nkey = "reviewed"\nvalue = true'
    expected = ["require_state:reviewed"] if denies else []
    assert denied_by(text, "any", {}, state=lambda: state) == expected


def test_a_state_that_cannot_be_read_denies() -> None:
    def unreadable() -> dict[str, Any]:
        raise OSError

    text = '[[require_state]]\nkey = "reviewed"\nvalue = true'
    (match,) = matched(text, "any", {}, state=unreadable)
    assert match.by == "error"


def test_no_refusal_holds_what_an_argument_held() -> None:
    text = (
        'deny_keyword = ["hunter2"]\n'
        '[[deny_tool_param]]\ntool = "t"\nparam = "p"\nequals = "hunter2"\n'
        '[[deny_tool_param]]\ntool = "t"\nparam = "p"\ncontains = "hunter"\n'
        '[[deny_tool_param_matching]]\ntool = "t"\nparam = "p"\nmatches = "hunter2"\n'
        '[[allow_tool_param]]\ntool = "t"\nparam = "p"\nallow = ["other"]\n'
    )
    said = matched(text, "t", {"p": "hunter2"})
    assert len(said) == 5
    assert "hunter" not in repr(said)


def test_two_rules_about_one_parameter_have_names_that_differ() -> None:
    assert [rule.name for rule in layer(DENY + "equals = 'a'\n" + DENY + "equals = 'b'\n").rules] == [
        "deny_tool_param:git.argv.0",
        "deny_tool_param:git.argv.0:2",
    ]


def test_a_rule_that_is_numbered_takes_no_name_that_another_has() -> None:
    denials = [DENY + f"equals = '{letter}'\n" for letter in "abc"]
    named_so = DENY.replace("argv.0", "argv.0:2")
    expected = {"deny_tool_param:git.argv.0" + more for more in ("", ":2", ":3", ":4")}
    for texts in ([*denials, named_so], [named_so, *denials]):
        rules = layer("".join(texts)).rules
        assert {rule.name for rule in rules} == expected
        (kept,) = [rule.name for rule in rules if rule.param == "argv.0:2"]
        assert kept == "deny_tool_param:git.argv.0:2"


def test_they_stand_beside_our_own_rules_and_in_the_settings_file() -> None:
    text = "deny_tool = ['a']\n[[rules]]\nname = 'b'\ndecision = 'deny'\ntool = 'b'\n"
    assert [rule.name for rule in layer(text).rules] == ["b", "deny_tool:a"]
    section = read_document(
        "[policy]\ndeny_tool = ['a']", "c.toml", "user", section=True, other_kinds=OTHER_KINDS
    )
    assert [rule.name for rule in section.rules] == ["deny_tool:a"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("deny_tool = 'shell'", "car.toml:1:13: deny_tool is 'shell', expected a list of texts."),
        ("deny_tool = [1]", "car.toml:1:14: deny_tool has 1, expected a list of texts."),
        ("deny_tool = ['a', 'glob:b']", "car.toml:1:19: deny_tool has 'glob:b', expected the exact name of"),
        ("deny_tool = ['b*']", "car.toml:1:14: deny_tool has 'b*', expected the exact name of a tool."),
        (DENY.replace("git", "glob:git"), "2:8: deny_tool_param.tool is 'glob:git', expected the exact name"),
        ("deny_tools = ['a']", "car.toml:1:1: `deny_tools` is no key of a policy; did you mean deny_tool?"),
        ("[[trace_rule]]\nx = 1", "car.toml:1:1: `trace_rule` is no key of a policy"),
        ("deny_tool_param = 1", "car.toml:1:19: deny_tool_param is 1, expected a list of tables."),
        ("[[deny_tool_param]]\ntool = 'a'", "deny_tool_param.param is missing, expected text."),
        (DENY + "equals = 'a'\ncontains = 'a'", "5:12: deny_tool_param.contains stands beside equals"),
        (DENY + "equal = 'a'", "4:1: `deny_tool_param.equal` is no key of a deny_tool_param; did you mean"),
        (DENY + "equals = 1979-05-27", "4:10: deny_tool_param.equals is datetime.date(1979, 5, 27)"),
        (DENY + "contains = 1", "4:12: deny_tool_param.contains is 1, expected text."),
        ("[[allow_tool_param]]\ntool = 'a'\nparam = 'b'\nallow = 'c'", "4:9: allow_tool_param.allow is 'c'"),
        (
            "[[rate_limit_tool]]\ntool = 'a*'\nmax_calls = 1\ninterval_secs = 1",
            "2:8: rate_limit_tool.tool is 'a*'",
        ),
        ("[[rate_limit_tool]]\ntool = 'a'\nmax_calls = 1\ninterval_secs = 0", "4:17: rate_limit"),
        ("[[require_state]]\nkey = 'a'", "require_state.value is missing, expected what"),
        (
            "deny_tool = ['a']\n[[rules]]\nname = 'deny_tool:a'\ndecision = 'deny'",
            "a rule of [[rules]] has the name 'deny_tool:a' as well.",
        ),
    ],
)  # fmt: skip
def test_a_wrong_one_is_refused_with_its_place(text: str, sentence: str) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        layer(text)
    assert sentence in caught.value.message


def test_without_them_their_spellings_are_unknown_keys() -> None:
    for kind in KEYS:
        with pytest.raises(InvalidPolicy, match=f"`{kind}` is no key of a policy"):
            read_document(f"{kind} = []", "policy.toml", "user")
