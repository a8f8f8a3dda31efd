"""The walls that rules demand around a command: how they are written, and what several come to together."""

import itertools
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from custody.errors import InvalidPolicy
from custody.policy import Case, Layer, Policy, Rule, Walls
from custody.policy.checking import check_document
from custody.policy.document import read_document
from custody.policy.layers import effective
from custody.policy.model import Afterwards, Demand, Demanding, SandboxName, WallLevel
from custody.policy.walls import AFTERWARDS, LEVELS, SANDBOXES, committing, demand_words, who_demands
from custody.sandbox.walls import NAMED, narrowed

CONFINED = 'level = "confined"'
BOTH = f'{CONFINED}\nsandbox = "workspace"'


def read(text: str, kind: Any = "user", source: str | None = None) -> Layer:
    return read_document(text, source or f"/{kind}.toml", kind)


def rule(name: str, said: str, *, tool: str = "exec", decision: str = "allow") -> str:
    return f'[[rules]]\nname = "{name}"\ndecision = "{decision}"\ntool = "{tool}"\n{said}\n'


def case(tool: str = "exec", **fields: Any) -> Case:
    return structs.replace(Case(tool=tool, effect="unknown", params={}), **fields)


def walls(*layers: Layer | str, **fields: Any) -> Walls:
    """Without anything in them where nobody demands any."""
    ruling = Policy([read(one) if isinstance(one, str) else one for one in layers]).decide(case(**fields))
    return (None if ruling is None else ruling.walls) or Walls()


def said(found: Walls | None) -> tuple[Any, ...]:
    assert found is not None
    return found.level, found.sandboxes, found.afterwards


# -- how they are written -----------------------------------------------------------------------------


def test_a_rule_and_a_file_say_walls_and_who_demands_them_is_told():
    text = rule("builds", 'level = "transaction"\nafterwards = "hold"') + '[walls]\nsandbox = "workspace"\n'
    found = walls(text)
    assert found == Walls(
        level="transaction",
        sandboxes=("workspace",),
        afterwards="hold",
        rules=(Demanding("/user.toml", "builds", 1), Demanding("/user.toml", None, None)),
        demands=(Demand(level="transaction", afterwards="hold"), Demand(sandbox="workspace")),
    )
    assert who_demands(found, "level") == "the rule builds (/user.toml:1)"
    assert who_demands(found, "sandbox") == "the [walls] of /user.toml"
    assert demand_words(found) == ("at least transaction, never more than workspace, its changes are held")


@pytest.mark.parametrize(
    ("text", "place", "told"),
    [
        (rule("a", 'level = "confined"', decision="deny"), (5, 9), "level stands in a rule that denies"),
        (rule("a", 'sandbox = "open"', decision="deny"), (5, 11), "sandbox stands in a rule that denies"),
        (rule("a", 'afterwards = "ask"', decision="deny"), (5, 14), "afterwards stands in a rule that den"),
        ('[[rules]]\ndeny_tool = "exec"\nlevel = "confined"', (3, 9), "level stands in a rule that denies"),
        (rule("a", 'level = "none"'), (5, 9), "level is 'none', expected process, confined or transaction"),
        (rule("a", "level = 3"), (5, 9), "level is 3, expected process, confined or transaction"),
        (rule("a", 'sandbox = "workspaces"'), (5, 11), "sandbox is 'workspaces', expected read_only, work"),
        (rule("a", 'afterwards = "keep"'), (5, 14), "afterwards is 'keep', expected discard, hold, ask, co"),
        (rule("a", 'sandbox = "open"\nlevel = "process"'), (6, 9), "level is 'process', expected confined"),
        ('[walls]\nlevel = "high"', (2, 9), "walls.level is 'high', expected process, confined or transac"),
        ('[walls]\nnetwork = "none"', (2, 1), "`walls.network` is no key of walls; expected level, sandb"),
        ('walls = "confined"', (1, 9), "walls is 'confined', expected a table"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_told_with_its_place(text: str, place: tuple[int, int], told: str):
    with pytest.raises(InvalidPolicy) as refused:
        read(text)
    fault = refused.value.details["faults"][0]
    assert ((fault["line"], fault["column"]), fault["message"][: len(told)]) == (place, told)


def test_the_digest_of_a_policy_changes_with_its_walls():
    texts = ["", '[walls]\nlevel = "confined"', '[walls]\nlevel = "process"']
    own = {Policy([read(text)]).digest for text in texts}
    tables = [f"[policy]\n{text.replace('walls', 'policy.walls')}" for text in texts]
    sections = {Policy([read_document(text, "/c", "user", section=True)]).digest for text in tables}
    assert (len(own), len(sections)) == (3, 3)


def test_every_word_is_one_of_the_walls_there_are():
    assert set(SANDBOXES) == set(NAMED) == set(get_args(SandboxName))
    assert (set(LEVELS), set(AFTERWARDS)) == (set(get_args(WallLevel)), set(get_args(Afterwards)))


def test_each_sandbox_allows_all_that_the_one_before_it_does():
    for less, more in itertools.pairwise(SANDBOXES):
        assert narrowed(NAMED[more], NAMED[less]) == NAMED[less]


# -- what several come to -----------------------------------------------------------------------------


def test_all_rules_that_match_count_together_whichever_decides():
    text = (
        rule("looks", 'level = "confined"\nsandbox = "network"\nafterwards = "commit"')
        + rule("asks", 'level = "transaction"\nafterwards = "ask"', decision="ask")
        + rule("narrows", 'sandbox = "read_only"')
        + rule("of another tool", 'afterwards = "discard"', tool="shell")
    )
    ruling = Policy([read(text)]).decide(case())
    assert ruling is not None
    assert ruling.walls is not None
    assert (ruling.verdict, said(ruling.walls)) == ("ask", ("transaction", ("read_only", "network"), "ask"))
    assert who_demands(ruling.walls, "sandbox") == (
        "the rule looks (/user.toml:1) and the rule narrows (/user.toml:14)"
    )


@pytest.mark.parametrize(
    ("of_rule", "of_file", "holds"),
    [
        ('sandbox = "network"', BOTH, ("confined", ("network",), None)),
        ('level = "process"', BOTH, ("process", (), None)),
        ('level = "transaction"', 'sandbox = "workspace"', ("transaction", ("workspace",), None)),
        ('afterwards = "commit"', 'afterwards = "hold"', (None, (), "commit")),
        ('reason = "none of the three"', 'level = "confined"', ("confined", (), None)),
    ],
)  # fmt: skip
def test_what_a_rule_says_goes_before_the_walls_of_its_own_file(
    of_rule: str, of_file: str, holds: tuple[Any, ...]
):
    assert said(walls(f"{rule('a', of_rule)}[walls]\n{of_file}")) == holds


def test_a_sandbox_means_confined():
    assert said(walls(rule("a", 'sandbox = "open"'))) == ("confined", ("open",), None)
    found = walls(rule("a", 'sandbox = "open"') + rule("b", 'level = "process"'))
    assert said(found) == ("confined", ("open",), None)
    assert who_demands(found, "level") == "the rule a (/user.toml:1)"


def test_a_rule_of_one_file_takes_nothing_off_the_walls_of_another():
    above = read('[walls]\nlevel = "confined"\nsandbox = "workspace"\nafterwards = "hold"', "organisation")
    below = read(rule("a", 'level = "process"\nafterwards = "commit"'))
    assert said(walls(above, below)) == ("confined", ("workspace",), "hold")


def test_walls_are_around_a_command_that_no_rule_is_about_and_around_nothing_else():
    text = '[walls]\nlevel = "confined"'
    assert said(walls(text, tool="unheard_of")) == ("confined", (), None)
    assert walls(text, tool="file_read", starts_process=False) == Walls()
    assert walls(rule("a", CONFINED), starts_process=False) == Walls()
    assert Policy([read(text)]).decide(case(starts_process=False)) is None


def test_a_rule_of_which_the_condition_is_false_demands_nothing_and_one_that_fails_denies():
    assert walls(rule("a", 'level = "confined"\nwhen = "params.x == 1"'), params={"x": 2}) == Walls()
    ruling = Policy([read(rule("a", 'level = "confined"\nwhen = "params.x == 1"'))]).decide(case())
    assert ruling is not None
    assert (ruling.verdict, ruling.by) == ("deny", "error")


@pytest.mark.parametrize(
    ("project", "user", "holds"),
    [
        ("commit", None, None),
        ("ask", None, None),
        ("hold", None, "hold"),
        ("discard", None, "discard"),
        ("commit", "ask", "ask"),
        ("ask", "commit", "ask"),
        ("commit", "commit_if_passed", "commit_if_passed"),
    ],
)  # fmt: skip
def test_a_project_nobody_trusts_has_nothing_committed_that_is_else_held(
    project: str, user: str | None, holds: str | None
):
    layers = [read(f'[walls]\nlevel = "transaction"\nafterwards = "{project}"', "project")]
    if user is not None:
        layers.append(read(f'[walls]\nafterwards = "{user}"'))
    found = walls(*layers)
    assert (found.level, found.afterwards) == ("transaction", holds)


def test_what_trust_would_have_committed_is_told_before():
    text = rule("builds", 'afterwards = "commit_if_passed"') + rule("b", 'afterwards = "hold"')
    assert list(committing(read(f'{text}[walls]\nafterwards = "ask"'))) == [
        "commit, when it ends with 0, what a command of level transaction changed (line 1, builds)",
        "ask whether to commit what a command of level transaction changed ([walls])",
    ]


def test_a_layer_in_shadow_says_what_the_walls_would_be_and_puts_none_up():
    shadow = read(f'mode = "shadow"\n{rule("a", CONFINED)}')
    ruling = Policy([shadow, read(rule("b", 'level = "process"'), source="/other.toml")]).decide(case())
    assert ruling is not None
    assert said(ruling.walls) == ("process", (), None)
    assert said(ruling.walls_in_shadow) == ("confined", (), None)
    ruling = Policy([shadow, read(rule("b", 'level = "confined"'), source="/other.toml")]).decide(case())
    assert ruling is not None
    assert ruling.walls_in_shadow is None


demands = st.builds(
    Demand,
    level=st.sampled_from([None, *LEVELS]),
    sandbox=st.sampled_from([None, *SANDBOXES]),
    afterwards=st.sampled_from([None, *AFTERWARDS]),
).filter(lambda one: one.level != "process" or one.sandbox is None)
layers = st.builds(
    Layer,
    kind=st.sampled_from(["organisation", "user", "project"]),
    source=st.sampled_from(["/a", "/b", "/c"]),
    digest=st.integers(0, 10**9).map(lambda number: f"sha256:{number}"),
    rules=st.lists(
        st.builds(
            Rule,
            name=st.integers(0, 30).map(str),
            decision=st.sampled_from(["allow", "ask"]),
            walls=st.none() | demands,
        ),
        max_size=3,
        unique_by=lambda rule: rule.name,
    ).map(tuple),
    walls=st.none() | demands,
    trusted=st.booleans(),
)


def strictness(found: Walls) -> tuple[int, int, int]:
    """Of the level, the narrowest sandbox, and of what becomes of the changes; each more is stricter."""
    return (
        LEVELS.index(found.level) if found.level else 0,
        -SANDBOXES.index(found.sandboxes[0]) if found.sandboxes else -len(SANDBOXES),
        -AFTERWARDS.index(found.afterwards) if found.afterwards else -len(AFTERWARDS),
    )


@settings(max_examples=60)
@given(st.lists(layers, max_size=3, unique_by=lambda layer: layer.digest), layers, st.randoms())
def test_another_layer_only_narrows_and_order_says_nothing(
    given_layers: list[Layer], one: Layer, shuffle: Any
):
    before, after = walls(*given_layers), walls(*given_layers, one)
    assert all(now >= then for now, then in zip(strictness(after), strictness(before), strict=True))
    assert after == walls(*shuffle.sample([*given_layers, one], len(given_layers) + 1))


# -- shown and checked --------------------------------------------------------------------------------


def test_walls_are_shown_with_the_rule_and_the_file_that_demand_them():
    layer = read(rule("a", 'sandbox = "workspace"') + '[walls]\nlevel = "confined"')
    shown = effective([layer])
    assert [one.walls for one in shown.rules] == [Demand(sandbox="workspace")]
    assert [one.walls for one in shown.layers] == [Demand(level="confined")]


def test_a_rule_whose_walls_hold_is_not_told_to_be_pointless():
    asks = '[[rules]]\nname = "asks"\ndecision = "ask"\n'
    for said_of_walls, kinds in (('level = "confined"', []), ("", ["unreachable"])):
        layer = read(asks + rule("walled", said_of_walls))
        assert [one.kind for one in check_document(layer, tools=None)] == kinds
    denies = asks.replace("ask", "deny")
    layer = read(denies + rule("walled", 'level = "confined"'))
    assert [one.kind for one in check_document(layer, tools=None)] == ["unreachable"]


def test_an_untrusted_file_has_its_walls_all_the_same_and_check_says_so():
    layer = read(rule("a", CONFINED), "project")
    (finding,) = check_document(layer, tools=None)
    assert finding.message.endswith("has no effect; the walls it demands hold.")
    (shown,) = effective([layer]).rules
    assert shown.note is not None
    assert shown.note.endswith("Its walls hold.")
    assert said(walls(layer)) == ("confined", (), None)
