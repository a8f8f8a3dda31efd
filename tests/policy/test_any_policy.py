"""What holds of every policy and every call."""

import random
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from custody.errors import ConditionFailed
from custody.policy import Case, Layer, Match, Policy, Rule, Ruling, compile_condition
from custody.policy.model import STRICTNESS, Rate, Sequence

EXAMPLES = 25

TOOLS = ["bash", "bash_session", "git", "drive_put"]
PATTERNS = [*TOOLS, "glob:bash*", "glob:*", "glob:drive_?ut"]
CONDITIONS = {
    text: compile_condition(text)
    for text in (
        "params.x == 1",
        "params.x > 1",
        "has(params.y)",
        "params.missing == 1",
        "facts.odd == 1",
        "params.x",
        'agent.name == "a"',
    )
}


def fails(_: object) -> bool:
    raise RuntimeError


def subset(values: Iterable[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(list(values)), max_size=2, unique=True).map(tuple)


matches = st.builds(
    Match, tools=subset(PATTERNS), agents=subset(["a", "glob:b*"]), effects=subset(["read", "write"])
)
rules = st.builds(
    Rule,
    name=st.integers(0, 30).map(lambda number: f"rule {number}"),
    decision=st.sampled_from(["allow", "ask", "deny"]),
    match=matches,
    when=st.none() | st.sampled_from(sorted(CONDITIONS)).map(CONDITIONS.__getitem__),
    rate=st.none() | st.just(Rate(calls=1, seconds=1)),
    sequence=st.none() | st.just(Sequence()),
    check=st.sampled_from([None, None, None, lambda case: True, lambda case: False, fails]),
)
layers = st.builds(
    Layer,
    kind=st.sampled_from(["organisation", "user", "project", "builtin"]),
    source=st.sampled_from(["/a", "/b", "/c", "/d"]),
    digest=st.integers(0, 10**9).map(lambda number: f"sha256:{number}"),
    mode=st.sampled_from(["enforce", "enforce", "shadow"]),
    default=st.sampled_from([None, None, "allow", "ask", "deny"]),
    rules=st.lists(rules, max_size=4, unique_by=lambda rule: rule.name).map(tuple),
    trusted=st.booleans(),
)
policies = st.lists(layers, max_size=3, unique_by=lambda layer: layer.digest)
cases = st.builds(
    Case,
    tool=st.sampled_from([*TOOLS, "unheard_of"]),
    effect=st.sampled_from(["read", "write", "unknown"]),
    params=st.sampled_from([{}, {"x": 1}, {"x": 2, "y": None}, {"x": "text"}, {"x": 2**70}]),
    agent=st.sampled_from([None, "a", "bb"]),
    facts=st.sampled_from([dict, lambda: {"odd": 1}, lambda: {"odd": float("nan")}]),
    rate_used=st.sampled_from([None, lambda rule: True, lambda rule: False, fails]),
    happened=st.sampled_from([lambda rule: True, lambda rule: False]),
)


def strictness(ruling: Ruling | None) -> int:
    return 0 if ruling is None else STRICTNESS[ruling.verdict]


def seen(ruling: Ruling | None) -> Any:
    return None if ruling is None else msgspec.to_builtins(ruling)


@settings(max_examples=EXAMPLES)
@given(policies, cases, rules, st.integers(0, 3))
def test_adding_a_deny_never_turns_a_refusal_into_an_allowance(
    given_layers: list[Layer], case: Case, rule: Rule, where: int
):
    before = strictness(Policy(given_layers).decide(case))
    deny = msgspec.structs.replace(rule, decision="deny", name="the added one")
    if where < len(given_layers):
        into = given_layers[where]
        given_layers[where] = msgspec.structs.replace(into, rules=(*into.rules, deny))
    else:
        given_layers.append(Layer(kind="project", source="/added", digest="sha256:added", rules=(deny,)))
    assert strictness(Policy(given_layers).decide(case)) >= before


@settings(max_examples=EXAMPLES)
@given(policies, cases, st.randoms(use_true_random=False))
def test_order_never_matters(given_layers: list[Layer], case: Case, shuffle: random.Random):
    before = Policy(given_layers)
    shuffled = [
        msgspec.structs.replace(layer, rules=tuple(shuffle.sample(layer.rules, len(layer.rules))))
        for layer in shuffle.sample(given_layers, len(given_layers))
    ]
    after = Policy(shuffled)
    assert seen(after.decide(case)) == seen(before.decide(case))
    assert after.explain(case) == before.explain(case)
    assert after.digest == before.digest


@settings(max_examples=EXAMPLES)
@given(policies, cases, rules)
def test_any_error_gives_deny(given_layers: list[Layer], case: Case, rule: Rule):
    fits_all = msgspec.structs.replace(rule, name="fails", match=Match(), when=None, check=fails)
    failing = Layer(kind="builtin", source="/failing", digest="sha256:failing", rules=(fits_all,))
    ruling = Policy([*given_layers, failing]).decide(case)
    assert ruling is not None
    assert ruling.verdict == "deny"


@settings(max_examples=EXAMPLES)
@given(policies, cases, layers)
def test_a_layer_below_never_widens_unless_it_is_trusted(given_layers: list[Layer], case: Case, below: Layer):
    project = msgspec.structs.replace(below, kind="project", digest="sha256:below", trusted=False)
    before = strictness(Policy(given_layers).decide(case))
    assert strictness(Policy([*given_layers, project]).decide(case)) >= before


@settings(max_examples=EXAMPLES)
@given(policies, cases, layers)
def test_a_trusted_project_never_widens_what_the_organisation_says_or_a_rule_denies(
    given_layers: list[Layer], case: Case, below: Layer
):
    project = msgspec.structs.replace(below, kind="project", digest="sha256:below", trusted=True)
    after = strictness(Policy([*given_layers, project]).decide(case))
    organisation = [layer for layer in given_layers if layer.kind == "organisation"]
    assert after >= strictness(Policy(organisation).decide(case))
    before = Policy(given_layers).decide(case)
    if before is not None and before.verdict == "deny" and before.rule is not None:
        assert after == STRICTNESS["deny"]


@settings(max_examples=EXAMPLES)
@given(policies, cases, layers)
def test_a_layer_in_shadow_never_changes_the_verdict(given_layers: list[Layer], case: Case, extra: Layer):
    shadow = msgspec.structs.replace(extra, mode="shadow", digest="sha256:shadow")
    before, after = Policy(given_layers).decide(case), Policy([*given_layers, shadow]).decide(case)
    assert strictness(after) == strictness(before)
    if before is not None:
        assert after is not None
        assert (after.rule, after.by, after.matched) == (before.rule, before.by, before.matched)


def linear(given_layers: list[Layer], case: Case) -> set[tuple[str, str, str, str]]:
    """Every rule tried against the call, one after the other, as the words of the plan have it."""

    def named(patterns: tuple[str, ...], name: str | None) -> bool:
        return not patterns or any(
            name is not None and (fnmatchcase(name, one[5:]) if one.startswith("glob:") else name == one)
            for one in patterns
        )

    found: set[tuple[str, str, str, str]] = set()
    for layer in given_layers:
        for rule in layer.rules:
            names = rule.match
            if not (named(names.tools, case.tool) and named(names.agents, case.agent)):
                continue
            if names.effects and case.effect not in names.effects:
                continue
            roots = {"params": case.params, "facts": case.facts(), "agent": {"name": case.agent}}
            try:
                matched = (
                    (rule.when is None or rule.when.holds(roots))
                    and (rule.check is None or rule.check(case))
                    and (rule.rate is None or (case.rate_used is not None and case.rate_used(rule)))
                    and (rule.sequence is None or (case.happened is not None and case.happened(rule)))
                )
                decision = rule.decision
            except (ConditionFailed, RuntimeError):
                matched, decision = True, "deny"
            if matched:
                found.add((layer.kind, layer.source, rule.name, decision))
    return found


@settings(max_examples=EXAMPLES)
@given(policies, st.lists(cases, min_size=1, max_size=4))
def test_the_index_finds_what_a_search_through_all_rules_finds(given_layers: list[Layer], calls: list[Case]):
    enforced = [msgspec.structs.replace(layer, mode="enforce") for layer in given_layers]
    policy = Policy(enforced)
    for call in calls:
        ruling = policy.decide(call)
        matched = () if ruling is None else ruling.matched
        expected = sorted((kind, name, decision) for kind, _, name, decision in linear(enforced, call))
        found = sorted((one.layer, str(one.rule), one.decision) for one in matched)
        assert sorted(set(found)) == sorted(set(expected))
        explained = {(one.layer, one.source, one.rule) for one in policy.explain(call) if one.matched}
        assert explained == {(kind, source, name) for kind, source, name, _ in linear(enforced, call)}


@settings(max_examples=EXAMPLES)
@given(st.text(min_size=1, max_size=12), st.text(max_size=6))
def test_a_name_matches_itself_and_nothing_longer(tool: str, more: str):
    if tool.startswith("glob:"):
        return
    policy = Policy(
        [
            Layer(
                kind="user",
                source="/u",
                digest="sha256:u",
                rules=(Rule(name="r", decision="deny", match=Match(tools=(tool,))),),
            )
        ]
    )
    assert policy.decide(Case(tool=tool, effect="read", params={})) is not None
    longer = policy.decide(Case(tool=tool + more, effect="read", params={}))
    assert (longer is None) is bool(more)
