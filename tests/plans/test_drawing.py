"""Plans as pictures: who hangs under whom, what is said of each, and texts of others that do no harm."""

import re
import time
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.plans.steps.drawing import (
    DEPTH_MAX,
    SIGNS,
    WORDS,
    ActionWord,
    After,
    ShownAction,
    mermaid,
    tree,
)

HOSTILE = 'a"]\n    x[b\x1b[2J\u202e|`;<script>&%%{init: {}}%%#quot; end'


def action(action_id: str, *after: str | After, **said: Any) -> ShownAction:
    edges = tuple(After(action_id=one) if isinstance(one, str) else one for one in after)
    return ShownAction(id=action_id, after=edges, **said)


def drawn(*actions: ShownAction) -> list[str]:
    return [str(line) for line in tree(actions)]


def test_an_action_hangs_under_the_last_of_those_it_comes_after_and_is_referred_to_under_the_others():
    assert drawn(
        action("build", status="completed", description="compile\nit all"),
        action("test", "build", status="in_progress"),
        action("lint", "build", status="ready"),
        action("deploy", "test", "lint"),
        action("docs"),
    ) == [
        "✓ completed build: compile it all",
        "├─ ▶ in progress test",
        "│  └─ ↓ deploy, below",
        "└─ ▷ ready lint",
        "   └─ ○ pending deploy [after test]",
        "○ pending docs",
    ]


def test_conditions_and_reasons_are_said_in_words():
    failed = After(action_id="deploy", only_if="failed")
    assert drawn(
        action("deploy", status="failed", reason="exit code 1\n(call 3fa9c1d2)"),
        action("rollback", failed, status="waiting"),
        action("announce", After(action_id="deploy", only_if="succeeded", needed=False), status="skipped",
               reason="deploy failed"),
    ) == [
        "✗ failed deploy",
        "│  exit code 1 (call 3fa9c1d2)",
        "├─ ? waiting for an answer rollback [if deploy failed]",
        "└─ – skipped announce [if deploy succeeded]",
        "      deploy failed",
    ]  # fmt: skip


def test_every_status_has_a_sign_of_its_own_and_a_word():
    assert set(SIGNS) == set(WORDS) == set(get_args(ActionWord))
    assert len(set(SIGNS.values())) == len(SIGNS)
    assert len(set(WORDS.values())) == len(WORDS)


def test_what_waits_for_itself_or_for_what_is_not_there_is_drawn_all_the_same():
    assert drawn(action("a", "b"), action("b", "a"), action("self", "self"), action("c", "gone", "b")) == [
        "○ pending self [after self]",
        "○ pending a [after b]",
        "└─ ○ pending b",
        "   ├─ ↑ a, above",
        "   └─ ○ pending c [there is no gone]",
    ]


def test_a_long_chain_goes_on_at_the_margin():
    lines = drawn(*(action(f"s{n}", *([f"s{n - 1}"] if n else [])) for n in range(DEPTH_MAX * 3)))
    assert max(len(line) - len(line.lstrip(" │├└─")) for line in lines) <= 3 * (DEPTH_MAX + 1)
    assert f"○ pending s{DEPTH_MAX + 1} [after s{DEPTH_MAX}]" in lines
    assert sum(f" s{DEPTH_MAX + 1}, below" in line for line in lines) == 1


def test_twenty_thousand_actions_are_drawn_while_one_waits():
    actions = [
        action(f"s{n}", *{f"s{n - 1 - back}" for back in (0, 1, n % 97) if back < n}) for n in range(20_000)
    ]
    began = time.thread_time()
    assert len(tree(actions)) >= 20_000
    assert mermaid(actions).count("\n") >= 40_000
    assert time.thread_time() - began < 5  # it takes a tenth of that


@pytest.mark.parametrize("place", ["id", "description", "reason", "condition", "missing"])
def test_hostile_texts_neither_steer_a_terminal_nor_end_a_label(place: str):
    name = HOSTILE if place == "id" else "x"
    shown = [
        action(name, description=HOSTILE if place == "description" else "",
               reason=HOSTILE if place == "reason" else None, status="failed"),
        action("y", After(action_id=name, only_if="failed"), *([HOSTILE] if place == "missing" else [])),
    ]  # fmt: skip
    assert all(line.isprintable() for line in drawn(*shown))
    for line in mermaid(shown).splitlines():
        assert re.fullmatch(
            r'flowchart TD|    [am]\d+\["[^"<>\[\]`|]*(<br/>[^"<>\[\]`|]*)*"\]'
            r'|    [am]\d+ -\.?->(\|"if (succeeded|failed)"\|)? a\d+'
            r"|    classDef \w+ [\w#:,; -]+|    class [am\d,]+ \w+",
            line,
        ), line


def test_a_chart_says_edges_conditions_and_statuses():
    source = mermaid(
        [
            action("build", status="completed"),
            action("ship", "build", status="failed", reason="no"),
            action("undo", After(action_id="ship", only_if="failed", needed=False), description='say "no"'),
            action("late", "gone"),
        ]
    )
    assert source.splitlines()[:10] == [
        "flowchart TD",
        '    a1["build<br/>completed"]',
        '    a2["ship<br/>failed: no"]',
        '    a3["undo<br/>say #34;no#34;<br/>pending"]',
        '    a4["late<br/>pending"]',
        '    m1["gone<br/>missing"]',
        "    a1 --> a2",
        '    a2 -.->|"if failed"| a3',
        "    m1 --> a4",
        "    classDef completed fill:#dcf5dc,stroke:#2e7d32,color:#222",
    ]
    assert source.endswith(
        "    class a1 completed\n    class a2 failed\n    class a3,a4 pending\n    class m1 missing\n"
    )


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdefg"), max_size=4))))
def test_whatever_refers_to_whatever_each_action_is_drawn_once(plan: list[tuple[str, list[str]]]):
    actions = [action(name, *after) for name, after in plan]
    lines = tree(actions)
    assert sorted(line.text.split(" ")[0] for line in lines if line.status) == sorted(
        name for name, _ in plan
    )
    assert mermaid(actions).count('["') == len(plan) + len(
        {one for _, after in plan for one in after} - {name for name, _ in plan}
    )
