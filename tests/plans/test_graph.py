"""What comes after what, and which actions are no plan."""

import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.plans.plans import assertion, call, read, write

from custody.errors import InvalidInput
from custody.plans import Action, Condition, Graph
from custody.plans.graph import ACTIONS_MAX, RETRIES_MAX, Conflict, faults_of


def waves(*actions: Action) -> tuple[tuple[str, ...], ...]:
    return Graph(actions).waves


def kinds(*actions: Action) -> list[tuple[str, str | None]]:
    return [(fault.kind, fault.action_id) for fault in faults_of(actions)]


# -- order --------------------------------------------------------------------------------------------


def test_nothing_is_a_plan() -> None:
    assert waves() == ()


def test_actions_without_order_are_one_wave_as_listed() -> None:
    assert waves(call("c"), call("a"), call("b")) == (("c", "a", "b"),)


def test_an_action_comes_after_those_it_depends_on_wherever_they_are_listed() -> None:
    assert waves(call("last", dependencies=("first",)), call("first")) == (("first",), ("last",))


def test_an_action_comes_after_those_it_refers_to() -> None:
    later = call("b", parameters={"deep": [{"x": "$a.output.path"}], "text": "and ${c.output}"})
    assert waves(call("a"), later, call("c")) == (("a", "c"), ("b",))


def test_a_text_that_names_no_action_makes_no_order() -> None:
    assert waves(call("a"), call("b", parameters={"prompt": "fix ${module.output}"})) == (("a", "b"),)


@pytest.mark.parametrize(
    "writer",
    [write("w", "key", 1), call("w", write_set=("key",)), call("w", expected_effects={"key": 1})],
    ids=["state_write", "write_set", "expected_effects"],
)
def test_an_action_comes_after_every_earlier_writer_of_a_key_it_depends_on(writer: Action) -> None:
    user = call("user", state_dependencies=("key",))
    graph = Graph([writer, user])
    assert graph.waves == (("w",), ("user",))
    assert graph.needed_by("user") == ("w",)
    assert waves(user, writer) == (("user", "w"),)


def test_a_key_has_as_many_writers_as_it_has() -> None:
    actions = [
        write("one", "k", 1),
        write("two", "k", 2),
        call("user", state_dependencies=("k",)),
        write("late", "k", 3),
    ]
    assert Graph(actions).needed_by("user") == ("one", "two")


@pytest.mark.parametrize(
    "reader",
    [read("r", "key"), assertion("r", "key", value=1), call("r", preconditions=(Condition(key="key"),))],
    ids=["state_read", "assertion", "precondition"],
)
def test_who_looks_at_a_key_comes_after_its_earlier_writers_without_needing_them(reader: Action) -> None:
    graph = Graph([write("w", "key", 1), reader])
    assert graph.waves == (("w",), ("r",))
    assert graph.needed_by("r") == ()
    assert graph.before("r") == ("w",)


def test_a_read_set_makes_no_order() -> None:
    assert waves(write("w", "key", 1), call("r", read_set=("key",))) == (("w", "r"),)


def test_a_diamond_has_three_waves() -> None:
    assert waves(
        call("top"),
        call("right", dependencies=("top",)),
        call("left", dependencies=("top", "top")),
        call("end", dependencies=("left", "right")),
    ) == (("top",), ("right", "left"), ("end",))


def test_a_graph_finds_its_actions_by_id() -> None:
    first, second = call("a"), call("b")
    graph = Graph([first, second])
    assert (graph["b"], "a" in graph, "c" in graph, len(graph)) == (second, True, False, 2)


# -- faults -------------------------------------------------------------------------------------------


def test_each_fault_has_a_kind_of_its_own() -> None:
    assert kinds(call("a"), call("b"), call("a")) == [("duplicate_id", "a")]
    assert kinds(call("a", dependencies=("nobody", "nobody"))) == [("missing_dependency", "a")]
    assert kinds(call("a", dependencies=("a",))) == [("self_reference", "a")]
    assert kinds(call("a", parameters={"x": "$a.output"})) == [("self_reference", "a")]
    assert kinds(call("a", parameters={"x": "$b.output"})) == [("unknown_reference", "a")]
    assert kinds(call("a", dependencies=("b",)), call("b", dependencies=("a",))) == [("cycle", "a")]


def test_all_faults_are_told_at_once_and_the_first_is_the_error() -> None:
    actions = [
        call("a", dependencies=("x",)),
        call("a"),
        call("b", tool=None),
        call("c", parameters={"y": "$z.output"}),
    ]
    assert kinds(*actions) == [
        ("duplicate_id", "a"),
        ("missing_dependency", "a"),
        ("malformed", "b"),
        ("unknown_reference", "c"),
    ]
    with pytest.raises(InvalidInput, match="A second action has the id 'a'") as refusal:
        Graph(actions)
    assert refusal.value.details["faults"] == faults_of(actions)


def test_a_cycle_is_named_as_the_way_around() -> None:
    actions = [
        call("start"),
        call("into", dependencies=("start", "c")),
        call("a", dependencies=("b",)),
        call("b", parameters={"x": "$c.output"}),
        call("c", dependencies=("a",)),
    ]
    (fault,) = faults_of(actions)
    assert fault.message == "Actions wait for each other: 'c' -> 'a' -> 'b' -> 'c'."


def test_keys_and_dependencies_may_make_a_cycle_together() -> None:
    assert kinds(write("w", "k", 1, dependencies=("r",)), call("r", state_dependencies=("k",))) == [
        ("cycle", "w")
    ]


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (call(""), "id is empty"),
        (call("a", tool=None), "names its tool"),
        (call("a", tool=""), "names its tool"),
        (Action(id="a", type="state_read"), "parameters.key"),
        (Action(id="a", type="assertion", parameters={"key": 3}), "parameters.key"),
        (Action(id="a", type="state_write", parameters={"key": "", "value": 1}), "parameters.key"),
        (Action(id="a", type="state_write", parameters={"key": "k"}), "parameters.value"),
        (call("a", max_retries=-1), "max_retries is -1"),
        (call("a", max_retries=RETRIES_MAX + 1), "expected 0 to"),
        (call("a", timeout_seconds=0), "timeout"),
        (call("a", timeout_seconds=float("nan")), "timeout"),
        (call("a", timeout_seconds=float("inf")), "timeout"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_action_that_says_too_little_or_nonsense_is_malformed(action: Action, said: str) -> None:
    (fault,) = faults_of([action])
    assert fault.kind == "malformed"
    assert said in fault.message


def test_parameters_may_be_so_deep_and_no_deeper() -> None:
    deep: Any = "$a.output"
    for _ in range(99):
        deep = [deep]
    assert waves(call("a"), call("b", parameters={"x": deep})) == (("a",), ("b",))
    for _ in range(10_000):
        deep = [deep]
    assert kinds(call("a"), call("b", parameters={"x": deep})) == [("malformed", "b")]


def test_a_plan_has_a_most_of_actions() -> None:
    actions = [call(str(number)) for number in range(ACTIONS_MAX + 1)]
    assert kinds(*actions) == [("too_many", None)]
    assert len(Graph(actions[1:]).waves) == 1


def test_the_largest_plan_where_all_wait_for_all_has_its_order() -> None:
    keys = tuple(f"k{number}" for number in range(50))
    actions = [call(str(n), write_set=keys, state_dependencies=keys) for n in range(ACTIONS_MAX)]
    assert Graph(actions).waves == tuple((str(number),) for number in range(ACTIONS_MAX))


# -- conflicts ----------------------------------------------------------------------------------------


def test_two_that_write_a_key_or_one_that_reads_what_the_other_writes_are_in_conflict() -> None:
    graph = Graph(
        [
            write("one", "k", 1),
            write("two", "k", 2),
            call("three", read_set=("k",)),
            call("four", read_set=("k",)),
        ]
    )
    assert list(graph.conflicts()) == [
        Conflict(one="one", other="two", key="k"),
        Conflict(one="one", other="three", key="k"),
        Conflict(one="one", other="four", key="k"),
        Conflict(one="two", other="three", key="k"),
        Conflict(one="two", other="four", key="k"),
    ]


def test_an_order_by_way_of_others_is_an_order() -> None:
    graph = Graph([
        write("last", "k", 2, dependencies=("middle",)),
        call("middle", dependencies=("first",)),
        write("first", "k", 1),
    ])  # fmt: skip
    assert list(graph.conflicts()) == []


# -- any graph ----------------------------------------------------------------------------------------


@st.composite
def plans(draw: st.DrawFn) -> list[Action]:
    """Actions in any order, with dependencies and references to any others and keys they share."""
    count = draw(st.integers(1, 12))
    ids = [f"a{number}" for number in range(count)]
    some = st.lists(st.integers(0, count - 1), max_size=2)
    keys = st.lists(st.sampled_from(["k", "l", "m"]), max_size=2).map(tuple)
    actions: list[Action] = []
    for number, action_id in enumerate(ids):
        wanted = [other for other in draw(some) if other < number or draw(st.integers(0, 9)) == 0]
        referred = [other for other in draw(some) if other < number]
        actions.append(
            call(
                action_id,
                dependencies=tuple(ids[other] for other in wanted),
                parameters={str(other): f"$a{other}.output" for other in referred},
                state_dependencies=draw(keys),
                write_set=draw(keys),
                preconditions=tuple(Condition(key=key) for key in draw(keys)),
            )
        )
    random.Random(draw(st.integers(0, 99))).shuffle(actions)
    return actions


def wanted_before(actions: list[Action]) -> set[tuple[str, str]]:
    """Every pair that has an order, found the slow way."""
    pairs: set[tuple[str, str]] = set()
    for place, action in enumerate(actions):
        pairs |= {(other, action.id) for other in action.dependencies}
        pairs |= {(f"a{name}", action.id) for name in action.parameters}
        keys = {*action.state_dependencies, *(condition.key for condition in action.preconditions)}
        pairs |= {(earlier.id, action.id) for earlier in actions[:place] if keys & set(earlier.write_set)}
    return pairs


@given(plans())
def test_waves_keep_every_order_and_have_every_action_once_as_early_as_can_be(actions: list[Action]) -> None:
    pairs = wanted_before(actions)
    faults = faults_of(actions)
    if faults:
        assert {fault.kind for fault in faults} <= {"cycle", "self_reference"}
        around = [part.strip("'.") for part in faults[-1].message.split(": ")[-1].split(" -> ")]
        assert faults[-1].kind == "self_reference" or all(
            (after, before) in pairs for before, after in itertools.pairwise(around)
        )
        return
    graph = Graph(actions)
    level = {action_id: number for number, wave in enumerate(graph.waves) for action_id in wave}
    assert sorted(level) == sorted(action.id for action in actions)
    listed = [action.id for action in actions]
    for action_id, own in level.items():
        earlier = [level[before] for before, after in pairs if after == action_id]
        assert own == max(earlier, default=-1) + 1
    for wave in graph.waves:
        assert list(wave) == sorted(wave, key=listed.index)
    assert {(b, a.id) for a in actions for b in graph.before(a.id)} == pairs
