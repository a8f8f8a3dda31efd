"""Which rules match a call, and what several layers of them add up to."""

import gc
import weakref
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from custody.policy import Case, Layer, Match, Policy, Rule, Ruling, compile_condition
from custody.policy.engine import CACHED_MAX
from custody.policy.model import Rate, Sequence
from custody.records import Decision

DIGEST = f"sha256:{'0' * 64}"


def rule(name: str, decision: str = "deny", *, when: str | None = None, **fields: Any) -> Rule:
    names = {
        key: fields.pop(key) for key in ("tools", "agents", "sessions", "doors", "effects") if key in fields
    }
    condition = None if when is None else compile_condition(when)
    return msgspec.structs.replace(
        Rule(name=name, decision="deny", match=Match(**names), when=condition, **fields), decision=decision
    )


def layer(*rules: Rule, kind: str = "user", **fields: Any) -> Layer:
    source = fields.pop("source", f"/{kind}.toml")
    return Layer(**{"kind": kind, "source": source, "digest": DIGEST, "rules": rules, **fields})


def case(tool: str = "git", **fields: Any) -> Case:
    return Case(**{"tool": tool, "effect": "write", "params": {}, **fields})


def decided(*layers: Layer, **fields: Any) -> Ruling:
    ruling = Policy(layers).decide(case(**fields))
    assert ruling is not None
    return ruling


def verdict(*layers: Layer, **fields: Any) -> tuple[str, str | None]:
    ruling = Policy(layers).decide(case(**fields))
    return ("nothing", None) if ruling is None else (ruling.verdict, ruling.rule)


def never() -> Mapping[str, Any]:
    raise AssertionError("nobody reads it, so nobody works it out")


# -- matching -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "call", "matches"),
    [
        ({"tools": ("bash",)}, {"tool": "bash"}, True),
        ({"tools": ("bash",)}, {"tool": "bash_session"}, False),
        ({"tools": ("bash",)}, {"tool": "Bash"}, False),
        ({"tools": ("ba*",)}, {"tool": "bash"}, False),
        ({"tools": ("glob:ba*",)}, {"tool": "bash_session"}, True),
        ({"tools": ("glob:ba*",)}, {"tool": "BASH"}, False),
        ({"tools": ("git", "glob:drive_*")}, {"tool": "drive_put"}, True),
        ({"tools": ("glob:*",)}, {"tool": "line\nfeed"}, True),
        ({}, {"tool": "anything"}, True),
        ({"agents": ("reviewer",)}, {"agent": "reviewer"}, True),
        ({"agents": ("reviewer",)}, {"agent": "reviewer-2"}, False),
        ({"agents": ("reviewer",)}, {}, False),
        ({"agents": ("glob:*",)}, {}, False),
        ({"sessions": ("glob:ticket-*",)}, {"session_id": "ticket-7"}, True),
        ({"sessions": ("ticket-7",)}, {"session_id": "ticket-8"}, False),
        ({"doors": ("mcp", "http")}, {"door": "mcp"}, True),
        ({"doors": ("mcp",)}, {}, False),
        ({"effects": ("write", "irreversible")}, {}, True),
        ({"effects": ("read",)}, {}, False),
        ({"tools": ("git",), "agents": ("a",), "effects": ("write",)}, {"agent": "a"}, True),
        ({"tools": ("git",), "agents": ("a",), "effects": ("read",)}, {"agent": "a"}, False),
    ],
)
def test_a_rule_matches_names_exactly_unless_it_says_glob(
    names: dict[str, Any], call: dict[str, Any], matches: bool
):
    policy = Policy([layer(rule("r", **names))])
    assert (policy.decide(case(**call)) is not None) is matches
    assert (policy.decide(case(**call)) is not None) is matches  # what is remembered says the same


def test_a_policy_that_says_nothing_of_a_call_says_nothing():
    assert Policy().decide(case(facts=never)) is None
    assert Policy([layer(rule("r", tools=("other",), when="facts.x == 1"))]).decide(case(facts=never)) is None
    assert Policy([layer(rule("r", when="params.x == 1"))]).decide(case(params={"x": 2}, facts=never)) is None


def test_a_condition_reads_what_is_known_of_the_call():
    when = (
        'params.argv[0] == "push" && facts.harmless == false && run.id == "r"'
        " && state.open && counters.calls == 3"
        ' && agent.name == "a" && agent.caller == null && agent.session == "s" && agent.door == "python"'
    )
    ruling = decided(
        layer(rule("r", when=when, reason="No pushes.")),
        params={"argv": ["push"]},
        agent="a",
        session_id="s",
        run={"id": "r"},
        facts=lambda: {"harmless": False},
        state=lambda: {"open": True},
        counters=lambda: {"calls": 3},
    )
    assert ruling.decision() == Decision("deny", "rule", "No pushes.", "r", None)


def test_each_condition_is_handed_what_it_reads_whatever_the_others_read():
    rules = [
        rule("one", when="params.a == 1 && facts.x == 1"),
        rule("other", when="params.b == 2 && facts.y == 2"),
        rule("all", when="params.size() == 3"),
    ]
    call: dict[str, Any] = {"params": {"a": 1, "b": 2, "c": 3}, "facts": lambda: {"x": 1, "y": 2}}
    assert [(one.rule, one.by) for one in decided(layer(*rules[:2]), **call).matched] == [
        ("one", "rule"),
        ("other", "rule"),
    ]
    assert [(one.rule, one.by) for one in decided(layer(*rules), **call).matched] == [
        ("all", "rule"),
        ("one", "rule"),
        ("other", "rule"),
    ]


def test_what_costs_something_is_asked_once_and_only_where_a_rule_needs_it():
    asked: list[str] = []

    def facts() -> Mapping[str, Any]:
        asked.append("facts")
        return {"x": 1}

    rules = [
        *(rule(f"condition {index}", when="facts.x == 2") for index in range(3)),
        rule("check", check=lambda case: case.facts() == {"x": 2} or case.facts() == {"x": 3}),
        rule("elsewhere", sessions=("other",), when="state.x == 1"),
    ]
    policy = Policy([layer(*rules)])
    assert policy.decide(case(facts=facts, state=never, counters=never)) is None
    assert asked == ["facts"]


def test_a_rate_and_a_sequence_are_asked_about_once_everything_else_holds():
    asked: list[str] = []

    def used(one: Rule) -> bool:
        asked.append(one.name)
        return one.name == "used up"

    rate = Rate(calls=10, seconds=60)
    rules = [
        rule("used up", rate=rate),
        rule("not used up", rate=rate, when="params.x == 1"),
        rule("condition false", rate=rate, when="params.x == 2"),
        rule("other tool", tools=("other",), rate=rate),
        rule("after", "ask", sequence=Sequence(after=("glob:*secret*",))),
        rule("both", "ask", rate=rate, sequence=Sequence(effects=("read",))),
    ]
    ruling = decided(layer(*rules), params={"x": 1}, rate_used=used, happened=lambda one: one.name == "after")
    assert (ruling.verdict, ruling.rule) == ("deny", "used up")
    assert [one.rule for one in ruling.matched] == ["after", "used up"]
    assert sorted(asked) == ["both", "not used up", "used up"]
    assert [one.name for _, one in Policy([layer(*rules)]).counted] == [
        "used up", "not used up", "condition false", "other tool", "after", "both",
    ]  # fmt: skip


def test_a_rule_whose_rate_is_not_known_here_is_undecidable():
    rules = [
        rule("limit", rate=Rate(calls=1, seconds=1)),
        rule("after", sequence=Sequence(after=("read",))),
        rule("asks", "ask"),
    ]
    ruling = decided(layer(*rules))
    assert (ruling.verdict, ruling.rule, ruling.undecidable) == ("ask", "asks", ("after", "limit"))
    ruling = decided(layer(*rules[:2]))
    assert (ruling.verdict, ruling.rule, ruling.undecidable) == ("allow", None, ("after", "limit"))


# -- failing ------------------------------------------------------------------------------------------


class Panic(BaseException):
    """As a library written in another language ends."""


def raising(error: BaseException) -> Any:
    def fail(*_: object) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    "error", [ValueError("hunter2"), KeyError("hunter2"), Panic("hunter2"), SystemExit(0)]
)
@pytest.mark.parametrize("place", ["facts", "state", "check", "rate_used", "happened"])
def test_whatever_is_raised_while_a_rule_is_decided_is_a_deny(error: BaseException, place: str):
    if place in ("facts", "state"):
        failing = rule("r", "allow", when=f"{place}.x == 1")
    elif place == "check":
        failing = rule("r", "allow", check=raising(error))
    else:
        failing = rule("r", "allow", rate=Rate(calls=1, seconds=1), sequence=Sequence())
    calls = {"rate_used": lambda _: True, "happened": lambda _: True}
    if place != "check":
        calls[place] = raising(error)
    ruling = decided(layer(failing), **calls)
    assert (ruling.verdict, ruling.by, ruling.rule) == ("deny", "error", "r")
    assert type(error).__name__ in ruling.reason
    assert "hunter2" not in repr(ruling)


def test_an_interruption_is_nobodys_verdict():
    with pytest.raises(KeyboardInterrupt):
        decided(layer(rule("r", check=raising(KeyboardInterrupt()))))


@pytest.mark.parametrize("answer", [None, 1, "yes"])
def test_an_answer_that_is_neither_true_nor_false_is_a_deny(answer: Any):
    ruling = decided(layer(rule("r", "allow", check=lambda case: answer)))
    assert (ruling.verdict, ruling.by) == ("deny", "error")


def test_a_condition_that_fails_denies_and_names_the_rule():
    ruling = decided(layer(rule("push", "allow", when="params.argv[3] == 'x'")), params={"argv": ["hunter2"]})
    assert ruling.decision() == Decision(
        "deny",
        "error",
        "The rule push of the user's policy could not be decided: an index is out of range.",
        "push",
        None,
    )
    assert [(one.rule, one.decision, one.by) for one in ruling.matched] == [("push", "deny", "error")]


def test_what_nobody_knows_is_missing_and_so_denies():
    assert verdict(layer(rule("r", "ask", when="counters.calls > 3"))) == ("deny", "r")


def test_a_value_that_cannot_be_held_fails_only_the_rules_that_read_it():
    rules = [rule("odd", "ask", when="params.odd == 1"), rule("plain", "ask", when="params.plain == 1")]
    ruling = decided(layer(*rules), params={"odd": 2**80, "plain": 1})
    assert [(one.rule, one.by) for one in ruling.matched] == [("odd", "error"), ("plain", "rule")]


# -- verdicts -----------------------------------------------------------------------------------------


def test_deny_beats_ask_beats_allow_and_every_match_is_told():
    rules = [rule("c", "allow"), rule("b", "ask"), rule("a", "allow"), rule("z", "deny"), rule("y", "deny")]
    ruling = decided(layer(*rules))
    assert (ruling.verdict, ruling.rule) == ("deny", "y")
    assert [one.rule for one in ruling.matched] == ["a", "b", "c", "y", "z"]
    assert verdict(layer(*rules[:3])) == ("ask", "b")
    assert verdict(layer(rules[0], rules[2])) == ("allow", "a")


def test_a_default_holds_where_no_rule_of_its_layer_matches():
    ruling = decided(layer(rule("r", "allow", tools=("other",)), default="deny"))
    assert ruling.decision() == Decision(
        "deny", "rule", "No rule of the user's policy is about it, and by default that does not allow it."
    )
    assert verdict(layer(rule("r", "allow"), default="deny")) == ("allow", "r")
    assert verdict(layer(default="allow")) == ("allow", None)


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize(
    ("organisation", "user", "project", "trusts", "mistrusts"),
    [
        ("deny", "allow", "allow", "deny", "deny"),
        ("ask", "allow", "allow", "ask", "ask"),
        ("allow", "deny", "allow", "deny", "deny"),
        ("allow", "ask", "allow", "allow", "ask"),
        ("allow", "allow", "deny", "deny", "deny"),
        ("allow", "allow", "ask", "ask", "ask"),
        ("ask", "ask", "allow", "ask", "ask"),
        (None, "ask", "allow", "allow", "ask"),
        (None, None, "allow", "allow", "allow"),
        ("deny", None, None, "deny", "deny"),
    ],
)
def test_the_strictest_layer_holds_and_only_a_trusted_project_lifts_a_question(
    organisation: str | None,
    user: str | None,
    project: str | None,
    trusts: str,
    mistrusts: str,
    trusted: bool,
):
    said = {"organisation": organisation, "user": user, "project": project}
    layers = [
        layer(rule(kind, decision), kind=kind, trusted=trusted or kind != "project")
        for kind, decision in said.items()
        if decision is not None
    ]
    assert verdict(*layers)[0] == verdict(*reversed(layers))[0] == (trusts if trusted else mistrusts)


def test_a_trusted_project_lifts_defaults_of_the_user_and_nothing_of_the_organisation():
    allows = layer(rule("yes", "allow"), kind="project")
    assert verdict(layer(default="deny"), allows) == ("allow", "yes")
    assert verdict(layer(default="ask", kind="builtin"), allows) == ("allow", "yes")
    assert verdict(layer(default="ask", kind="organisation"), allows) == ("ask", None)
    assert verdict(layer(default="deny"), layer(default="allow", kind="project")) == ("deny", None)
    fails = layer(rule("fails", "ask", when="params.missing == 1"))
    assert verdict(fails, allows) == ("deny", "fails")
    shadowed = layer(rule("yes", "allow"), kind="project", mode="shadow")
    assert verdict(layer(default="deny"), shadowed) == ("deny", None)


def test_a_layer_in_shadow_says_what_it_would_do_and_blocks_nothing():
    asks = layer(rule("asks", "ask"), rule("looks", "allow"), kind="organisation")
    shadow = layer(rule("denies", "deny"), rule("also asks", "ask"), mode="shadow")
    ruling = decided(asks, shadow)
    assert (ruling.verdict, ruling.rule) == ("ask", "asks")
    assert [one.rule for one in ruling.matched] == ["asks", "looks"]
    assert [(one.rule, one.decision, one.layer) for one in ruling.shadow] == [("denies", "deny", "user")]
    assert decided(asks, layer(rule("asks too", "ask"), mode="shadow")).shadow == ()
    alone = decided(layer(default="deny", mode="shadow"))
    assert (alone.verdict, [(one.rule, one.decision) for one in alone.shadow]) == ("allow", [(None, "deny")])


# -- explaining ---------------------------------------------------------------------------------------


def test_every_rule_is_explained():
    policy = Policy(
        [
            layer(
                rule("tool", tools=("other",), line=3),
                rule("agent", agents=("b",)),
                rule("effect", effects=("read",)),
                rule("session", sessions=("t",)),
                rule("door", doors=("mcp",)),
                rule("false", when="params.x == 2"),
                rule("fails", "allow", when="params.y == 2"),
                rule("check", check=lambda case: False),
                rule("rate", rate=Rate(calls=1, seconds=1)),
                rule("sequence", sequence=Sequence()),
                rule("matches", "ask", when="params.x == 1"),
            ),
            layer(rule("loosens", "allow"), kind="project", trusted=False, mode="shadow"),
        ]
    )
    told = policy.explain(case(params={"x": 1}, agent="a", session_id="s", happened=lambda one: False))
    assert [(one.layer, one.rule, one.matched, one.why) for one in told] == [
        ("user", "agent", False, "the agent differs"),
        ("user", "check", False, "what it says of the arguments does not hold"),
        ("user", "door", False, "the door differs"),
        ("user", "effect", False, "the effect differs"),
        ("user", "fails", True, "it could not be decided, and so denies: there is no y"),
        ("user", "false", False, "its condition is false"),
        ("user", "matches", True, "everything it asks for holds"),
        ("user", "rate", None, "how much of its rate is used up is not known here"),
        ("user", "sequence", False, "its sequence has not happened"),
        ("user", "session", False, "the session differs"),
        ("user", "tool", False, "the tool differs"),
        (
            "project",
            "loosens",
            True,
            "; ".join(
                [
                    "everything it asks for holds",
                    "its layer is in shadow and blocks nothing",
                    "its file is not trusted, so it loosens nothing above it",
                ]
            ),
        ),
    ]
    assert (told[10].source, told[10].line, told[10].decision) == ("/user.toml", 3, "deny")


# -- the whole of it ----------------------------------------------------------------------------------


def test_the_digest_is_of_all_texts_and_whether_they_are_trusted():
    one, other = layer(), layer(kind="project", digest="sha256:1")
    digests = {
        Policy().digest,
        Policy([one]).digest,
        Policy([one, other]).digest,
        Policy([one, msgspec.structs.replace(other, trusted=False)]).digest,
        Policy([one, msgspec.structs.replace(other, digest="sha256:2")]).digest,
    }
    assert len(digests) == 5
    assert Policy([other, one]).digest == Policy([one, other]).digest


def test_rules_are_found_by_tool_and_names_of_callers_fill_no_memory():
    rules = [rule("glob", tools=("glob:g*",)), rule("exact", tools=("git", "other")), rule("any")]
    policy = Policy([layer(*rules)])
    assert [one.name for one in policy.rules_for("git")] == ["any", "exact", "glob"]
    assert [one.name for one in policy.rules_for("other")] == ["any", "exact"]
    for index in range(CACHED_MAX + 10):
        assert policy.decide(case(f"tool {index}")) is not None
    assert len(policy._known) <= CACHED_MAX


def test_thousands_of_rules_for_other_tools_are_not_looked_at():
    """Counted, not timed: to look at a rule is to run its check, and these may not be run."""
    unread = raising(AssertionError("a rule for another tool"))
    others = [rule(f"other {index}", tools=(f"tool {index}",), check=unread) for index in range(5_000)]
    own = [rule(f"own {index}", tools=("git",), when=f"params.x == {index}") for index in range(10)]
    assert len(Policy([layer(*others, *own)]).rules_for("git")) == len(own)
    assert verdict(layer(*others, *own), params={"x": 7}, facts=never) == ("deny", "own 7")


class Params(dict[str, Any]):
    """Arguments of which one can tell whether anybody still holds them."""


@pytest.mark.parametrize("condition", ["params.x == 1", "params.y == 1"], ids=["holds", "fails"])
def test_nothing_of_a_call_outlives_its_decision(condition: str):
    params = Params(x=1)
    held = weakref.ref(params)
    gc.disable()  # what is let go of only there stays for a time that nobody knows
    try:
        ruling = decided(layer(rule("reads", when=condition)), params=params)
        del params
        assert held() is None
    finally:
        gc.enable()
    assert ruling.rule == "reads"
