"""What a check finds in conditions that read arguments which no tool of theirs takes."""

from collections.abc import Collection

import pytest

from custody.policy.checking import check_document
from custody.policy.document import read_document

TAKEN: dict[str, Collection[str] | None] = {
    "branch": {"operation", "name"},
    "file_read": {"path"},
    "file_write": {"path", "content"},
    "proxied": None,
}
"""The last takes anything."""


def told(when: str, tool: str) -> list[str]:
    text = f"[[rules]]\nname = 'a'\ndecision = 'ask'\nwhen = '''{when}'''\n{tool}"
    layer = read_document(text, "user.toml", "user")
    findings = check_document(layer, tools=TAKEN, arguments=TAKEN.__getitem__)
    assert all(one.line == 1 and one.severity == "warning" and one.rule == "a" for one in findings)
    return [one.message for one in findings if one.kind == "unknown_argument"]


@pytest.mark.parametrize(
    "when", ["params.operatoin == 1", "has(params.operatoin)", 'params["operatoin"] == 1 && params.name == 1']
)
def test_an_argument_the_tool_does_not_take_is_told_with_the_nearest_it_takes(when: str):
    (message,) = told(when, "tool = 'branch'")
    assert message.startswith(
        "The rule a: its condition reads the argument 'operatoin', which branch does not"
    )
    assert message.endswith("; did you mean operation?")


def test_of_several_tools_it_is_told_only_where_none_takes_it():
    for tool in ("tool = ['file_read', 'file_write']", "tool = 'glob:file_*'"):
        assert told("params.content == '' || params.path == ''", tool) == []
        assert told("params.zzz == 1", tool) == [
            "The rule a: its condition reads the argument 'zzz', which none of its tools takes."
        ]


@pytest.mark.parametrize(
    "tool",
    [
        "",
        "tool = 'proxied'",
        "tool = ['branch', 'proxied']",
        "tool = ['branch', 'unknown']",
        "tool = 'glob:x*'",
    ],
)
def test_of_tools_nobody_knows_nothing_is_told(tool: str):
    assert told("params.zzz == 1", tool) == []


def test_a_condition_that_looks_through_all_arguments_is_left_alone():
    assert told("size(params) > 3 || 'zzz' in params", "tool = 'branch'") == []
