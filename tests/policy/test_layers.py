"""Several files together: what holds, what a check finds, and which lines would allow what was refused."""

import tomllib
from typing import Any

import pytest
from msgspec.structs import replace

from custody.policy import Case, Layer, Policy
from custody.policy.checking import Finding, check_document
from custody.policy.document import read_document
from custody.policy.layers import effective, join, rule_that_allows, what_would_allow
from custody.policy.model import Approvals, Budget, LayerKind, Loops


def layer(text: str = "", kind: LayerKind = "user", source: str | None = None) -> Layer:
    return read_document(text, source or f"{kind}.toml", kind)


def rule(name: str, decision: str, **more: Any) -> str:
    """One rule, as TOML."""
    keys = "".join(f"{key} = {value!r}\n" for key, value in more.items())
    return f"[[rules]]\nname = '{name}'\ndecision = '{decision}'\n{keys}"


# -- joining ------------------------------------------------------------------------------------------


def test_layers_stand_in_the_order_of_their_standing_and_of_their_names() -> None:
    layers = [
        layer(kind="project", source="b.toml"),
        layer(kind="user"),
        layer(kind="project", source="a.toml"),
        layer(kind="organisation"),
    ]
    assert [one.source for one in join(layers)] == ["organisation.toml", "user.toml", "a.toml", "b.toml"]


def test_what_is_built_in_makes_way_for_a_persons_file_and_never_for_a_projects() -> None:
    built_in, project = layer(kind="builtin"), layer(kind="project")
    assert join([built_in]) == (built_in,)
    assert join([project, built_in]) == (project, built_in)
    assert join([replace(project, trusted=True), built_in])[-1] is built_in
    for kind in ("user", "organisation"):
        for says in ("default = 'allow'", rule("a", "allow")):
            assert built_in not in join([layer(says, kind), built_in])
        for nothing in ("", "[budgets.run]\ncalls = 1", "mode = 'shadow'\ndefault = 'allow'"):
            assert built_in in join([layer(nothing, kind), built_in])


def test_of_several_budgets_the_smallest_amount_holds() -> None:
    seen = effective(
        [
            layer("[budgets.run]\ncalls = 10\nsoft.calls = 8\n[budgets.store]\ncalls = 100"),
            layer("[budgets.run]\ncalls = 20\nwrites = 5\nsoft.calls = 3", "project"),
            layer("[budgets.store]\ncalls = 5\nhours = 1", "organisation"),
            layer("mode = 'shadow'\n[budgets.run]\ncalls = 1", "project", "shadow.toml"),
        ]
    )
    assert seen.budgets == (
        Budget(per="run", amounts={"calls": 10, "writes": 5}, soft={"calls": 3}),
        Budget(per="store", amounts={"calls": 100}),
        Budget(per="store", amounts={"calls": 5}, hours=1),
    )


def test_loops_and_waits_are_the_strictest_and_notices_are_joined() -> None:
    seen = effective(
        [
            layer("[loops]\nsame_call = { ask = 5 }\n[approvals]\nwait_seconds = 50\nnotify = [['a']]"),
            layer(
                "[loops]\nsame_call = { ask = 7, deny = 9 }\n"
                "[approvals]\nwait_seconds = 90\nopen_hours = 1\nnotify = [['a'], ['b']]\nmay_pause = false",
                "organisation",
            ),
        ]
    )
    assert seen.loops == Loops(ask=5, deny=9)
    assert seen.approvals == Approvals(wait_seconds=50, open_hours=1, notify=(("a",), ("b",)))
    assert not seen.may_pause


def test_a_command_of_a_projects_file_is_started_only_if_a_person_trusts_the_file() -> None:
    project = layer("[approvals]\nnotify = [['./x']]\nwait_seconds = 5", "project")
    assert effective([project]).approvals == Approvals(wait_seconds=5)
    assert effective([replace(project, trusted=True)]).approvals == Approvals(
        wait_seconds=5, notify=(("./x",),)
    )


def test_the_default_is_the_strictest_of_the_enforced_layers() -> None:
    layers = [layer("default = 'allow'"), layer("default = 'ask'", "project")]
    assert effective(layers).default == "ask"
    assert effective([*layers, layer("mode = 'shadow'\ndefault = 'deny'", "organisation")]).default == "ask"
    assert (effective([]).default, effective([]).mode) == (None, "enforce")
    assert effective([layer("mode = 'shadow'")]).mode == "shadow"


# -- showing ------------------------------------------------------------------------------------------


def test_each_rule_is_shown_in_words_with_where_it_comes_from() -> None:
    text = rule("a", "deny", tool=["git", "glob:vcs_*"], effect="write", when="params.x == 1") + (
        "rate = { calls = 1000, seconds = 60, per = 'run' }\n"
        "sequence = { after = 'read', effect = 'read', seconds = 0.5, per = 'store' }\n"
    )
    (shown,) = effective([layer(text)]).rules
    assert (shown.name, shown.decision, shown.layer, shown.source, shown.line, shown.note) == (
        "a", "deny", "user", "user.toml", 1, None,
    )  # fmt: skip
    assert shown.match == "tool git or glob:vcs_*, effect write"
    assert shown.when == "params.x == 1"
    assert shown.rate == "after 1,000 calls in 60 s, per run"
    assert shown.sequence == "after read or a tool of effect read succeeded in the last 0.5 s, per store"


def test_a_rule_that_does_not_do_what_it_says_has_a_note() -> None:
    seen = effective(
        [
            layer(rule("no-git", "deny", tool="glob:g*"), "organisation"),
            layer("mode = 'shadow'\n" + rule("a", "deny")),
            layer(rule("b", "allow", tool="x") + rule("c", "ask", tool="git"), "project"),
        ]
    )
    assert {shown.name: shown.note for shown in seen.rules} == {
        "no-git": None,
        "a": "In shadow: what it would do is recorded, nothing is blocked.",
        "b": "Not trusted: its allow has no effect outside this file.",
        "c": "The rule c: the rule no-git (organisation.toml:1) says deny to all it matches, so it never "
        "decides.",
    }


# -- a check ------------------------------------------------------------------------------------------


def found(text: str, **more: Any) -> list[tuple[str, str | None]]:
    findings = check_document(layer(text), tools=more.pop("tools", None), **more)
    return [(finding.kind, finding.rule) for finding in findings]


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        ({}, {"tool": "git"}, True),
        ({"tool": "git"}, {}, False),
        ({"tool": "glob:*"}, {"tool": "glob:g?t"}, True),
        ({"tool": "glob:g*"}, {"tool": ["git", "glob:gi*"]}, True),
        ({"tool": "glob:g*"}, {"tool": ["git", "svn"]}, False),
        ({"tool": "glob:g?*"}, {"tool": "glob:gi*"}, False),
        ({"tool": ["svn", "git"]}, {"tool": "git"}, True),
        ({"tool": "git", "agent": "a"}, {"tool": "git"}, False),
        ({"tool": "git"}, {"tool": "git", "agent": "a"}, True),
        ({"effect": ["read", "write"]}, {"effect": "write", "tool": "x"}, True),
        ({"effect": "read"}, {"effect": "write"}, False),
        ({"tool": "git", "when": "params.x"}, {"tool": "git", "agent": "a"}, False),
        ({"tool": "bash"}, {"tool": "bash_session"}, False),
    ],
)
def test_a_rule_is_unreachable_below_a_stricter_one_that_matches_all_it_does(
    wide: dict[str, Any], narrow: dict[str, Any], covered: bool
) -> None:
    expected = [("unreachable", "narrow")] if covered else []
    for order in (1, -1):
        rules = [rule("wide", "deny", **wide), rule("narrow", "ask", **narrow)][::order]
        assert found("".join(rules)) == expected
    below = layer(rule("narrow", "ask", **narrow), "project")
    above = layer(rule("wide", "deny", **wide), "organisation")
    kinds = {finding.kind for finding in check_document(below, tools=None, others=[above])}
    assert kinds == ({"unreachable"} if covered else set())


def test_what_a_trusted_projects_rule_lifts_does_not_stand_in_its_way() -> None:
    project = replace(layer(rule("a", "allow", tool="git"), "project"), trusted=True)
    asks = rule("asks", "ask", tool="git")
    assert check_document(project, tools=None, others=[layer(asks)]) == ()
    assert len(check_document(project, tools=None, others=[layer(asks, "organisation")])) == 1


def test_a_layer_in_shadow_makes_nothing_unreachable() -> None:
    shadow = layer("mode = 'shadow'\n" + rule("wide", "deny"), "organisation")
    assert found(rule("a", "ask", tool="git"), others=[shadow]) == []


def test_rules_that_contradict_or_repeat_each_other_are_found_once() -> None:
    assert found(rule("a", "deny", tool="git") + rule("b", "allow", tool="git")) == [("conflict", "b")]
    when = {"tool": ["x", "y"], "when": "params.a"}
    turned = {"tool": ["y", "x"], "when": "params.a"}
    assert found(rule("a", "deny", **when) + rule("b", "ask", **turned)) == [("conflict", "b")]
    assert found(rule("a", "deny", **when) + rule("b", "deny", **turned)) == [("duplicate", "b")]
    assert found(rule("a", "deny", **when) + rule("b", "deny", tool="x", when="params.b")) == []
    denial = "[[rules]]\ndeny_tool_param = { tool = 'git', param = 'a', matches = 'b' }\n"
    assert found(denial * 2) == [("duplicate", "rules[1]")]


def test_a_tool_nobody_registered_is_told_with_the_nearest_that_is() -> None:
    text = rule("a", "deny", tool=["bash", "bsh"]) + rule("b", "ask", tool="glob:drive_*")
    text += "sequence = { after = 'raed' }\n"
    messages = [finding.message for finding in check_document(layer(text), tools={"bash", "read"})]
    assert messages == [
        "The rule a: no tool is called bsh; did you mean bash?",
        "The rule b: no registered tool matches glob:drive_*.",
        "The rule b: no tool is called raed; did you mean read?",
    ]


def test_an_allow_without_effect_and_a_soft_amount_never_told_are_found() -> None:
    project = layer(rule("a", "allow", tool="git"), "project")
    assert [finding.kind for finding in check_document(project, tools=None)] == ["no_effect"]
    limited = rule("a", "allow", tool="git") + "rate = { calls = 1, seconds = 1 }\n"
    assert found(limited) == [("no_effect", "a")]
    assert found("[budgets.run]\ncalls = 5\nsoft.calls = 5") == [("soft_above_hard", None)]


def test_a_condition_that_is_the_same_for_every_call_is_found() -> None:
    assert found(rule("a", "deny", tool="x", when="1 + 1 == 3")) == [("never_matches", "a")]
    findings = check_document(layer(rule("a", "deny", tool="x", when="1 / 0 == 1")), tools=None)
    assert [(finding.kind, finding.severity) for finding in findings] == [("always_error", "error")]


def test_a_file_of_thousands_of_patterns_is_checked_in_bounded_time() -> None:
    text = "".join(rule(f"r{i}", "ask", tool=f"glob:t{i}_*", agent=f"a{i}") for i in range(600))
    assert found(text)[-1][0] == "unfinished"


# -- what would allow it ------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", ["git", "odd [name]*?", 'quo"te\\', "glob:x", "tab\there\x7f", "nämé😀"])
def test_the_lines_that_allow_a_tool_are_a_rule_that_does(tool: str) -> None:
    lines = rule_that_allows(tool, agent="writer")
    assert tomllib.loads(lines)["rules"][0]["decision"] == "allow"
    policy = Policy([layer("default = 'deny'\n" + lines)])
    ruling = policy.decide(Case(tool=tool, effect="read", params={}, agent="writer"))
    assert ruling is None or ruling.verdict == "allow"
    other = policy.decide(Case(tool=tool + "x", effect="read", params={}, agent="writer"))
    assert other is not None
    assert other.verdict == "deny"


def test_a_refusal_by_a_default_is_lifted_by_lines_and_one_by_a_rule_where_it_stands() -> None:
    layers = [layer("default = 'deny'"), layer(rule("no", "deny", tool="git"), "organisation")]
    policy = Policy(layers)

    def allowing(tool: str) -> Any:
        ruling = policy.decide(Case(tool=tool, effect="read", params={}))
        assert ruling is not None
        return what_would_allow(tool, ruling.matched, layers)

    by_default = allowing("svn")
    assert by_default.words == "The default of user.toml is deny; a rule there can allow svn."
    assert (by_default.file, by_default.text) == ("user.toml", rule_that_allows("svn"))
    by_rule = allowing("git")
    assert "The rule no in organisation.toml:1 denies; it holds until it is changed there." in by_rule.words
    assert (by_rule.file, by_rule.line, by_rule.text) == ("organisation.toml", 1, None)
    assert by_rule.words.endswith("The default of user.toml is deny; a rule there can allow git.")


def test_what_a_trusted_project_lifts_is_not_told_to_stand_in_the_way() -> None:
    user = layer("default = 'ask'\n" + rule("asks", "ask", tool="git"))
    project = layer(rule("a", "allow", tool="git"), "project")
    asked = "The rule asks in user.toml:2 asks; it holds until it is changed there."
    for trusted, words in ((False, asked), (True, None)):
        layers = [user, replace(project, trusted=trusted)]
        ruling = Policy(layers).decide(Case(tool="git", effect="read", params={}))
        assert ruling is not None
        allowing = what_would_allow("git", ruling.matched, layers)
        assert (None if allowing is None else allowing.words) == words
        assert (ruling.verdict == "allow") is trusted


def test_of_two_files_of_one_person_each_says_what_stands_in_the_way_there() -> None:
    layers = [
        layer(rule("x", "deny", tool="git"), source="a"),
        layer(rule("x", "allow", tool="git"), source="b"),
    ]
    ruling = Policy(layers).decide(Case(tool="git", effect="read", params={}))
    assert ruling is not None
    allowing = what_would_allow("git", ruling.matched, layers)
    assert allowing is not None
    assert allowing.words == "The rule x in a:1 denies; it holds until it is changed there."


def test_findings_come_in_the_order_of_the_file() -> None:
    text = rule("a", "ask", tool="git") + rule("b", "deny", tool="git") + rule("c", "ask", tool="git")
    findings: tuple[Finding, ...] = check_document(layer(text), tools={"svn"})
    assert [finding.line for finding in findings] == sorted(finding.line or 0 for finding in findings)
    told = {(finding.kind, finding.rule) for finding in findings if finding.kind != "unregistered_tool"}
    assert told == {("conflict", "a"), ("duplicate", "c")}
