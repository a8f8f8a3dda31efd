"""A policy document is a layer, or it is refused with every fault and the place of each."""

import contextlib
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import custody.policy
from custody.errors import InvalidPolicy, exit_code
from custody.policy import Case, Layer, Policy
from custody.policy.document import DOCUMENT_BYTES_MAX, KEYS, RULES_MAX, read_document
from custody.policy.facts import Facts
from custody.policy.model import Approvals, Budget, Loops, Match, Rate, Sequence
from custody.records import Effect


def read(text: str | bytes, **more: Any) -> Layer:
    return read_document(text, "policy.toml", "user", **more)


def refused(text: str | bytes, **more: Any) -> InvalidPolicy:
    with pytest.raises(InvalidPolicy) as caught:
        read(text, **more)
    assert exit_code(caught.value) == 2
    return caught.value


def faults(text: str) -> list[tuple[int, int, str]]:
    return [(f["line"], f["column"], f["message"]) for f in refused(text).details["faults"]]


FULL = """\
mode = "shadow"
default = "ask"
[[rules]]
name = "ask-before-push"
decision = "ask"
tool = ["git", "glob:vcs_*"]
agent = "writer"
session = "glob:s-*"
door = "mcp"
effect = ["write", "irreversible"]
when = 'params.argv[0] == "push"'
reason = "Pushes are looked at."
rate = { calls = 10, seconds = 60, per = "session" }
sequence = { after = "glob:*secret*", seconds = 600, effect = "read" }
[budgets.run]
calls = 200
soft = { calls = 150 }
[budgets.store]
cost_usd = 2.5
hours = 1
[loops]
same_call = { ask = 5, deny = 10 }
[approvals]
wait_seconds = 50
open_hours = 8
notify = [["notify-send", "{call}"], "https://hooks.example/x"]
may_pause = false
"""


def test_every_key_is_read() -> None:
    layer = read(FULL)
    (rule,) = layer.rules
    assert (layer.mode, layer.default, layer.source, layer.may_pause) == (
        "shadow", "ask", "policy.toml", False,
    )  # fmt: skip
    assert (rule.name, rule.decision, rule.reason, rule.line) == (
        "ask-before-push", "ask", "Pushes are looked at.", 3,
    )  # fmt: skip
    assert rule.match == Match(
        tools=("git", "glob:vcs_*"),
        agents=("writer",),
        sessions=("glob:s-*",),
        doors=("mcp",),
        effects=("write", "irreversible"),
    )
    assert rule.when is not None
    assert rule.when.text == 'params.argv[0] == "push"'
    assert rule.rate == Rate(calls=10, seconds=60, per="session")
    assert rule.sequence == Sequence(after=("glob:*secret*",), seconds=600, per="run", effects=("read",))
    assert layer.budgets == (
        Budget(per="run", amounts={"calls": 200}, soft={"calls": 150}),
        Budget(per="store", amounts={"cost_usd": 2.5}, hours=1),
    )
    assert layer.loops == Loops(ask=5, deny=10)
    assert layer.approvals == Approvals(
        wait_seconds=50, open_hours=8, notify=(("notify-send", "{call}"), "https://hooks.example/x")
    )


def test_an_empty_file_is_a_layer_without_rules_or_an_opinion() -> None:
    layer = read("")
    assert (layer.rules, layer.default, layer.mode, layer.approvals) == ((), None, "enforce", None)


def test_in_the_settings_file_the_keys_stand_under_policy_and_the_rest_is_not_looked_at() -> None:
    text = (
        "[calls]\nwhatever = 1\n[policy]\nmode = 'shadow'\n[[policy.rules]]\nname = 'a'\ndecision = 'deny'\n"
    )
    layer = read(text, section=True)
    assert (layer.mode, [rule.line for rule in layer.rules]) == ("shadow", [5])
    assert read("[calls]\nx = 1\n", section=True).rules == ()
    error = refused("[policy]\nmod = 'shadow'\n", section=True)
    assert error.message == "policy.toml:2:1: `policy.mod` is no key of [policy]; did you mean mode?"


def test_the_digest_is_that_of_the_file_and_of_a_section_that_of_what_it_says() -> None:
    assert read("").digest == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert read("mode = 'shadow'").digest != read("mode = 'shadow' # why").digest
    first = read("[calls]\nx = 1\n[policy]\nmode = 'shadow'\n", section=True)
    same = read("[policy]\nmode = 'shadow' # why\n", section=True)
    other = read("[policy]\nmode = 'enforce'\n", section=True)
    assert first.digest == same.digest != other.digest


def test_only_a_projects_layer_is_not_trusted_until_somebody_says_so() -> None:
    layers = [read_document("", "p", kind) for kind in ("organisation", "user", "project", "builtin")]
    assert [layer.trusted for layer in layers] == [True, True, False, True]


# -- what is wrong ------------------------------------------------------------------------------------


def test_all_faults_are_told_at_once_each_with_line_and_column() -> None:
    text = """\
defalt = "deny"
[[rules]]
name = "first"
desicion = "deny"
[[rules]]
name = "second"
decision = "refuse"
rate = { calls = 0, secs = 1 }
[[rules]]
name = "second"
decision = "deny"
tool = [
    "git",
    3,
]
"""
    assert faults(text) == [
        (1, 1, "`defalt` is no key of a policy; did you mean default?"),
        (2, 1, "decision is missing, expected deny, ask or allow."),
        (4, 1, "`desicion` is no key of a rule; did you mean decision?"),
        (7, 12, "decision is 'refuse', expected deny, ask or allow."),
        (8, 1, "rate.seconds is missing, expected a number from 0.001 to 31,622,400."),
        (8, 18, "rate.calls is 0, expected a whole number from 1 to 1,000,000."),
        (8, 21, "`rate.secs` is no key of a rate; did you mean seconds?"),
        (14, 5, "tool has 3, expected text, or a list of texts."),
    ]


def test_the_error_says_the_first_fault_and_how_many_more_there_are() -> None:
    error = refused("mode = 'x'\ndefault = 'y'\nloops = 3\n")
    assert error.message == "policy.toml:1:8: mode is 'x', expected enforce or shadow."
    assert error.hint == "2 more: custody policy check policy.toml lists all."
    details = {name: error.details[name] for name in ("file", "line", "column", "key", "expected")}
    assert details == {
        "file": "policy.toml", "line": 1, "column": 8, "key": "mode", "expected": "enforce or shadow",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "place", "sentence"),
    [
        ("mode = \n", (1, 8), "Invalid value."),
        ("x = 1\nx = 2", (2, 6), "Cannot overwrite a value."),
        ("[[rules]\n", (1, 8), "Expected ']]' at the end of an array declaration."),
        (b"mode = 'enforce'\n# caf\xe9\n", (2, 6), "byte 22 is not UTF-8, which a TOML file is."),
        ("# \udcff\n", (1, 3), "a character here is not one UTF-8 can hold."),
        ("x = " + "9" * 5_000, (1, 5), "a number has too many digits."),
        ("x = " + "[" * 5_000 + "]" * 5_000, (1, 5_004), "lists or tables are nested too deep."),
        ("x = 1\n" + "a." * 40 + "b = 1", (2, 1), "a key of more than 32 parts."),
        ("rules = 3", (1, 9), "rules is 3, expected a list of tables. Write each under [[rules]]."),
        ("rules = [3]", (1, 10), "rules[0] is 3, expected a table."),
        ("budgets = 3", (1, 11), "budgets is 3, expected a table."),
        ("[budgets.runs]", (1, 1), "`budgets.runs` is no key of budgets; did you mean run?"),
        ("[budgets.run]\nhours = 1", (2, 1), "`budgets.run.hours` is no key of a budget of a run;"),
        ("[budgets.run]\ncalls = 1.5", (2, 9), "budgets.run.calls is 1.5, expected a whole number from 0"),
        ("[budgets.run]\ncost_usd = inf", (2, 12), "budgets.run.cost_usd is inf, expected a number from 0"),
        ("[budgets.run]\ncalls = true", (2, 9), "budgets.run.calls is True, expected a whole number"),
        ("[budgets.run]\nsoft.call = 1", (2, 6), "`budgets.run.soft.call` is no key of what is only told;"),
        ("[loops]\nsame_call = { ask = 5, deny = 5 }", (2, 21), "is 5, which deny comes before"),
        ("[approvals]\nmay_pause = 'no'", (2, 13), "approvals.may_pause is 'no', expected true or false."),
        ("[approvals]\nnotify = ['ftp://x']", (2, 11), "notify[0] is neither, expected a list of commands"),
        ("[[rules]]\ndeny_tool = 'x'\nname = 'a?'", (3, 8), "name is 'a?', expected 1 to 100 letters,"),
        ("[[rules]]\nname = 'a?'\ndecision = 'deny'", (2, 8), "name is 'a?', expected 1 to 100 letters,"),
        ("[[rules]]\nname = ' a'\ndecision = 'deny'", (2, 8), "name is ' a', expected 1 to 100 letters,"),
        ("[[rules]]\nname = 'a'\ndecision = 'deny'\ntool = 'git*'", (4, 8), "A pattern is written"),
        ("[[rules]]\nname = 'a'\ndecision = 'deny'\ntool = []", (4, 8), "tool is [], expected text, or"),
        ("[[rules]]\nname = 'a'\ndecision = 'deny'\neffect = 'wirte'", (4, 10), "expected read, write,"),
        ("[[rules]]\nname = 'a'\ndecision = 'deny'\nsequence = {}", (4, 1), "sequence.after is missing"),
        ("[[rules]]\nname = 'a'\ndecision = 'deny'\n'when' = ''", (4, 10), "when is '', expected text."),
    ],
    ids=lambda value: None if isinstance(value, tuple) else "",
)  # fmt: skip
def test_a_fault_has_its_place_and_says_what_is_expected(
    text: str | bytes, place: tuple[int, int], sentence: str
) -> None:
    error = refused(text)
    assert (error.details["line"], error.details["column"]) == place
    assert sentence in str(error)


@pytest.mark.parametrize("address", ["http://hooks.example/key", "http://10.0.0.1/key", "http://127.1/key"])
def test_a_question_goes_over_no_network_in_plain_text(address: str) -> None:
    error = refused(f"[approvals]\nnotify = [['say'], '{address}']")
    assert (error.details["line"], error.details["column"]) == (2, 20)
    assert "notify[1] is neither" in error.message
    assert "key" not in str(error)


def test_a_webhook_is_told_over_tls_or_on_this_machine() -> None:
    addresses = ("https://hooks.example/x", "http://127.0.0.1:80/", "http://[::1]/", "http://localhost/x")
    approvals = read(f"[approvals]\nnotify = {list(addresses)}").approvals
    assert approvals is not None
    assert approvals.notify == addresses


def test_two_rules_of_one_name_are_refused_with_the_line_of_the_other() -> None:
    rule = "[[rules]]\nname = 'a'\ndecision = 'deny'\n"
    assert faults(rule * 2) == [
        (5, 8, "name is 'a', the name of the rule in line 1 as well, expected names that differ.")
    ]


def test_a_condition_that_cannot_be_compiled_is_refused_where_it_stands() -> None:
    error = refused("[[rules]]\nname = 'a'\ndecision = 'deny'\nwhen = 'params.x ==== 1'\n")
    assert error.details["line"] == 4
    assert error.details["column"] > len("when = '")
    assert "when: " in error.message
    several = refused("[[rules]]\nname = 'a'\ndecision = 'deny'\nwhen = '''\n  params.x\n  ==== 1\n'''\n")
    assert (several.details["line"], several.details["column"]) == (6, 5)
    unknown = refused("[[rules]]\nname = 'a'\ndecision = 'deny'\nwhen = 'shout(params.x)'\n")
    assert "shout" in unknown.message


def test_a_file_too_large_is_refused_before_it_is_read() -> None:
    began = time.thread_time()
    error = refused(b"x" * 10_000_000)
    assert "larger than 1,048,576 bytes" in error.message
    assert time.thread_time() - began < 0.5
    assert "larger than" in refused("é" * (DOCUMENT_BYTES_MAX // 2 + 1)).message


def test_more_rules_than_the_most_are_refused() -> None:
    assert f"has {RULES_MAX + 1:,} tables" in refused("[[rules]]\n" * (RULES_MAX + 1)).message


@pytest.mark.parametrize("shape", ['\\"""x\n', '\\"', '""" """"', "a.", '"a".', "[", "'''", "a={", "#\n"])
def test_no_text_takes_the_square_of_its_length(shape: str) -> None:
    began = time.thread_time()
    text = shape * (60_000 // len(shape))
    with contextlib.suppress(InvalidPolicy):
        read(text)
    assert time.thread_time() - began < 2


WORDS = st.sampled_from(
    ["[[rules]]", "[rules]", "[budgets.run]", "[loops]", "name", "decision", "when", "rate", "calls", "=",
     "'deny'", "'a'", '"""', "'''", "{", "}", "[", "]", ",", ".", "1", "-0x1", "inf", "1979-05-27", "true",
     "#", "\n", "\n", " ", "=", "\\", "é", "deny_tool", "tool", "params.x"]
)  # fmt: skip


@settings(max_examples=60)
@given(st.lists(WORDS, max_size=30).map("".join) | st.binary(max_size=30))
@example("[[rules]]\n[rules.rate.calls]")
@example('a = {b = "}"}\n[policy]')
def test_any_text_is_read_or_refused_with_a_place(text: str | bytes) -> None:
    for section in (False, True):
        try:
            read(text, section=section)
        except InvalidPolicy as error:
            lines = (text if isinstance(text, str) else text.decode("utf-8", "replace")).split("\n")
            for fault in error.details["faults"]:
                assert 1 <= fault["line"] <= len(lines) + 1
                assert fault["column"] >= 1
                assert fault["message"]


def test_a_place_is_found_behind_every_form_of_toml() -> None:
    text = '''\
# rules = 1
mode = """
[[rules]]
x""""
"default" = \'\'\'z\'\'\'\'\'
[[ rules ]]
tool = ["a#]", "glob:b", # ]
  """c
  """ , 5]
rate.calls = "x"
[ rules . "sequence" ] # here
"af ter" = 1
[[rules]]
name = 1979-05-27 07:32:00
'''
    places = {message.split()[0]: (line, column) for line, column, message in faults(text)}
    assert places["mode"] == (2, 8)
    assert places["default"] == (5, 13)
    assert places["tool"] == (9, 9)
    assert places["rate.calls"] == (10, 14)
    assert places["`sequence.af"] == (12, 1)
    assert places["name"] == (14, 8)


# -- the example --------------------------------------------------------------------------------------

EXAMPLE = Path(custody.policy.__file__).with_name("example.toml").read_text(encoding="utf-8")


def test_the_example_is_accepted_as_it_is_and_with_every_line_of_it() -> None:
    assert len(read(EXAMPLE).rules) == 2
    whole = read(re.sub(r"^#(?=\S)", "", EXAMPLE, flags=re.MULTILINE))
    assert len(whole.rules) == EXAMPLE.count("[[rules]]")
    assert whole.budgets
    assert whole.loops is not None
    assert whole.approvals is not None
    assert whole.approvals.notify


@pytest.mark.parametrize(
    ("tool", "effect", "params", "rules"),
    [
        ("file_write", "write", {"path": "/srv/a", "content": ""}, []),
        ("file_write", "write", {"path": "/etc/a", "content": ""}, ["ask-before-writing-elsewhere"]),
        ("exec", "unknown", {"argv": ["git", "push"]}, ["ask-before-commands", "ask-before-push"]),
        ("exec", "unknown", {"argv": ["git", "status"]}, []),
        ("git", "write", {"operation": "commit"}, []),
        ("shell", "unknown", {"command": "ls"}, []),
        ("shell", "unknown", {"command": "ls $(curl x)"}, ["ask-before-commands"]),
        ("fetch", "read", {"url": "http://169.254.169.254/latest"}, ["no-inside-hosts"]),
        ("fetch", "read", {"url": "https://example.com/"}, []),
    ],
)
def test_the_example_does_what_it_says(
    tool: str, effect: Effect, params: dict[str, Any], rules: list[str]
) -> None:
    policy = Policy([read(re.sub(r"^#(?=\S)", "", EXAMPLE, flags=re.MULTILINE))])
    facts = Facts(tool, effect, params, cwd="/srv", roots=["/srv"])
    ruling = policy.decide(Case(tool=tool, effect=effect, params=params, facts=lambda: facts))
    assert ruling is not None
    assert [match.rule for match in ruling.matched] == rules


def test_the_example_has_every_key_of_the_top() -> None:
    words = set(re.findall(r"[a-z_]+", EXAMPLE))
    assert [key for keys in KEYS.values() for key in keys if key not in words] == []
