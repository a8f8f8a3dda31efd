"""What a condition may say, and that whatever goes wrong with one is a failure that names no value."""

import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from custody.errors import ConditionFailed, InvalidCondition
from custody.policy import compile_condition
from custody.policy.conditions import STEPS_MAX
from custody.policy.expressions import BRACKETS_DEPTH_MAX, CHAIN_MAX, CHARACTERS_MAX
from custody.policy.handing import VALUE_DEPTH_MAX

PARAMS: dict[str, Any] = {
    "argv": ["git", "push"],
    "path": "/tmp/x",
    "count": 1,
    "ratio": 1.0,
    "half": 1.5,
    "flag": True,
    "nothing": None,
    "table": {"key": "value"},
    "secret": "hunter2",
}


def holds(text: str, params: dict[str, Any] | None = None, **roots: Any) -> bool:
    return compile_condition(text).holds({"params": PARAMS if params is None else params, **roots})


def failure(text: str, params: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConditionFailed) as caught:
        holds(text, params)
    return str(caught.value)


def refusal(text: str) -> InvalidCondition:
    with pytest.raises(InvalidCondition) as caught:
        compile_condition(text)
    return caught.value


# -- what is true -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        'params.argv[0] == "git" && params.argv[1] != "pull"',
        'params["path"].startsWith("/tmp") && params.path.endsWith("x") && params.path.contains("mp")',
        'params.argv.exists(word, word == "push") && !params.argv.all(word, word == "push")',
        'params.argv.filter(word, word.size() == 3) == ["git"]',
        'params.argv.map(word, word) == params.argv && "push" in params.argv',
        'has(params.path) && !has(params.missing) && "path" in params && !("missing" in params)',
        "params.nothing == null && params.flag && params.half > 1 && params.count < 1.5",
        'params.table.key == "value" && params.table["key"] == "value"',
        'params.path == "/tmp/x" ? params.flag : false',
        "type(params.count) == int && type(params.path) == string",
        'params.path.matches("^/tmp/") && params.path.matches(r"/\\w$") && !params.path.matches("^x")',
        'params.path.matches("(?i)^/TMP/")',
        "true // params.missing",
    ],
)
def test_a_condition_that_holds(text: str):
    assert holds(text) is True
    assert holds(f"!({text}\n)") is False


def test_numbers_are_equal_by_value_and_a_boolean_is_no_number():
    assert holds("params.count == 1.0 && params.ratio == 1 && params.count == params.ratio")
    assert holds("params.count in [1.0] && params.ratio in [1]")
    assert not holds("params.flag == params.count || params.flag == 1")
    assert "types" in failure("params.count + params.half > 2.0")


def test_a_pattern_is_one_of_re2_found_anywhere_in_the_text():
    assert holds(r'"a\u0660".matches("\\d") == false && "a1b".matches("\\d")', {})
    assert holds("params.path.matches('p') && params.argv[1].matches('''^p''')")


def test_what_does_not_depend_on_a_failing_part_is_decided_without_it():
    assert holds('params.missing == 1 || params.path == "/tmp/x"')
    assert not holds('params.missing == 1 && params.path == "elsewhere"')
    assert "missing" in failure('params.missing == 1 && params.path == "/tmp/x"')


def test_a_condition_says_what_it_reads():
    reads = compile_condition(
        'params.path == "x" && params["the key"] == 1 && has(facts.hosts) && run.size() == 1'
    )
    assert reads.reads == {"params", "facts", "run"}
    assert reads.fields == {
        "params": frozenset({"path", "the key"}),
        "facts": frozenset({"hosts"}),
        "run": None,
    }
    whole = compile_condition("params.path == 1 || params[params.path] == 1 || agent.name == null")
    assert whole.fields == {"params": None, "agent": frozenset({"name"})}
    assert compile_condition('"params.path" == "facts.x"').fields == {}


# -- what fails ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("params.missing == 1", "there is no missing"),
        ("params.table.missing == 1", "there is no missing"),
        ("params[params.secret] == 1", "a field it reads is missing"),
        ("params.argv[2] == 'x'", "an index is out of range"),
        ("params.secret > 1", "types"),
        ("params.secret + 1 == 2", "types"),
        ("params.secret", "neither true nor false"),
        ("params.count", "neither true nor false"),
        ("params.count / 0 == 1", "divides by zero"),
        ("params.count + 9223372036854775807 > 0", "too large"),
        ("int(params.secret) == 1", "arguments"),
        ("params.count.matches('x')", "arguments"),
        ("size(params.count) == 1", "arguments"),
        ("params.path.startsWith('x', 'y')", "arguments"),
    ],
)
def test_whatever_goes_wrong_is_a_failure_that_names_no_value(text: str, words: str):
    said = failure(text)
    assert words in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (2**63, "64 bits"),
        (-(2**63) - 1, "64 bits"),
        (2**70, "64 bits"),
        (float("nan"), "not finite"),
        (float("inf"), "not finite"),
        (b"hunter2", "JSON"),
        ({"hunter2"}, "JSON"),
        ({1: "hunter2"}, "name that is no text"),
        ("hunter2\ud800", "UTF-8"),
        ([[{"deep": 2**64}]], "64 bits"),
    ],
    ids=["large", "small", "huge", "nan", "infinite", "bytes", "set", "key", "surrogate", "deep"],
)
def test_a_value_that_cel_cannot_hold_fails_the_conditions_that_read_it_and_no_other(value: Any, words: str):
    params = {"odd": value, "plain": 1}
    for text in ("params.odd == 1", "has(params.odd)", '"plain" in params'):
        said = failure(text, params)
        assert words in said
        assert "hunter2" not in said
    assert holds("params.plain == 1", params)


def test_the_largest_whole_numbers_are_compared_exactly():
    assert holds("params.n == 9223372036854775807", {"n": 2**63 - 1})
    assert not holds("params.n == 9223372036854775807", {"n": 2**63 - 2})
    assert holds("params.n == -9223372036854775808", {"n": -(2**63)})


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


def test_values_nested_too_deep_fail_before_the_library_sees_them():
    assert not holds("params.v == 1", {"v": nested(VALUE_DEPTH_MAX)})
    assert "nested deeper" in failure("params.v == 1", {"v": nested(VALUE_DEPTH_MAX + 1)})
    assert "nested deeper" in failure("params.v == 1", {"v": nested(100_000)})


# -- what is refused before it is run -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", (1, 1), "empty"),
        ("  // only a word", (1, 1), "empty"),
        ("params.path ==", (1, 15), "<EOF>"),
        ('params.path == "open', (1, 16), "token recognition"),
        ("params.count == 1 &&\n   parms.path == 2", (2, 4), "no variable parms; did you mean params?"),
        ("agent.name == nobody", (1, 15), "no variable nobody; there is: agent, counters"),
        ("word == 1 || params.argv.exists(w, w == word)", (1, 1), "no variable word"),
        (".params.path == 1", (1, 1), "no variable"),
        ("params.path.startswith('x')", (1, 13), "no function startswith; did you mean startsWith?"),
        ("now() == 1", (1, 1), "no function now"),
        ('params.path.matches("[")', (1, 21), "no RE2 expression: missing ]"),
        ('params.path.matches("(?=x)")', (1, 21), "no RE2 expression"),
        ("params.path.matches(params.secret)", (1, 13), "written out"),
        ('params.path.matches("a" + "b")', (1, 13), "written out"),
        ('params.path.matches(b"a")', (1, 13), "written out"),
        ('matches(params.path, "a")', (1, 1), "written out"),
        ("Thing{a: 1} == 1", (1, 1), "no message type Thing"),
        ("params.argv.exists(params, true)", (1, 20), "cannot be the name of an element"),
        ("params.argv.map(w, w + w) == []", (1, 22), "map may pick"),
        ("params.argv.map(w, [w, w]) == []", (1, 20), "map may pick"),
        ("params.argv.map(w, {'a': w}) == []", (1, 20), "map may pick"),
        ("params.argv.map(w, string(w)) == []", (1, 26), "map may pick"),
        ("params.a.all(x, params.a.all(y, params.a.all(z, true)))", (1, 45), "nested deeper than 2"),
        ("has(params.a[0])", (1, 13), "invalid argument to has"),
    ],
)
def test_a_condition_that_cannot_be_used_is_refused_with_its_place(
    text: str, place: tuple[int, int], words: str
):
    error = refusal(text)
    assert words in error.message
    assert (error.line, error.column) == place
    assert (error.details["line"], error.details["column"]) == place
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("params.path == '" + "x" * CHARACTERS_MAX + "'", "too long"),
        ("(" * 10_000 + "true" + ")" * 10_000, "too long"),
        ("(" * 2_000 + "true" + ")" * 2_000, f"deeper than {BRACKETS_DEPTH_MAX}"),
        ("(" * 2_000, f"deeper than {BRACKETS_DEPTH_MAX}"),
        ("[" * 40 + "]" * 40 + " == []", f"deeper than {BRACKETS_DEPTH_MAX}"),
        ("1" + "+1" * (CHAIN_MAX + 1) + " == 1", f"more than {CHAIN_MAX} operators"),
        ("params" + ".a" * (CHAIN_MAX + 1) + " == 1", f"more than {CHAIN_MAX} operators"),
        ("params.a" + "[0]" * (CHAIN_MAX + 1) + " == 1", f"more than {CHAIN_MAX} operators"),
    ],
    ids=["long", "parens", "deep", "open", "lists", "sums", "fields", "indexes"],
)
def test_a_condition_too_long_or_too_deep_is_refused(text: str, words: str):
    assert words in refusal(text).message


STEEP = """
import threading
from custody.policy import compile_condition
from custody.policy.expressions import BRACKETS_DEPTH_MAX, CHAIN_MAX
from custody.policy.handing import VALUE_DEPTH_MAX

def steep():
    value = 1
    for _ in range(VALUE_DEPTH_MAX):
        value = [value]
    texts = [
        "(" * BRACKETS_DEPTH_MAX + "1" + ")" * BRACKETS_DEPTH_MAX + " == 1",
        "[" * BRACKETS_DEPTH_MAX + "]" * BRACKETS_DEPTH_MAX + " != [params.v]",
        "params.v" + "[0]" * 60 + " != 5",
        "1" + "+1" * (CHAIN_MAX - 1) + " == %d" % CHAIN_MAX,
        "!" * 4000 + "true",
        "true" + "&&true" * 600,
        "params.v == params.v",
    ]
    for text in texts:
        assert compile_condition(text).holds({"params": {"v": value}}) is True, text
    print("stood")

threading.stack_size(1024 * 1024)
thread = threading.Thread(target=steep)
thread.start()
thread.join()
"""


def test_what_is_just_deep_enough_stands_in_a_thread_with_a_small_stack():
    done = subprocess.run([sys.executable, "-c", STEEP], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("stood\n", 0), done.stderr


# -- what would take too long -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("params.a.all(x, params.a.all(y, x + y >= 0))", {"a": list(range(3_000))}),
        ("params.a.map(x, x) == params.a", {"a": list(range(20_000))}),
        ("params.a.filter(x, x > 5) == params.a", {"a": list(range(20_000))}),
        ("params.a.all(x, params.a == params.b)", {"a": list(range(50_000)), "b": list(range(50_000))}),
        ("params.a.all(x, params.s.contains(x))", {"a": ["y"] * 5_000, "s": "x" * 4_000_000}),
        ('params.a.all(x, params.s.matches("y$"))', {"a": ["y"] * 5_000, "s": "x" * 1_000_000}),
        ("params.s + params.s + params.s + params.s != ''", {"s": "x" * 9_000_000}),
    ],
    ids=["loops", "map", "filter", "lists", "texts", "patterns", "sums"],
)
def test_what_would_run_for_ever_or_fill_the_memory_fails_before_it_is_run(text: str, params: dict[str, Any]):
    began = time.thread_time()
    assert failure(text, params) == "there is more to look through than a condition may"
    assert time.thread_time() - began < 4


def test_ordinary_amounts_are_looked_through():
    paths = [f"/home/someone/project/src/module_{index}.py" for index in range(5_000)]
    assert holds('params.paths.all(path, path.startsWith("/home/someone/"))', {"paths": paths})
    assert holds('params.paths.all(path, path != "x" && !(path in ["y", "z"]))', {"paths": paths})
    words = [f"word{index}" for index in range(200)]
    assert holds("params.words.all(x, params.words.exists(y, x == y))", {"words": words})
    assert holds("params.content.contains('y')", {"content": "x" * 5_000_000 + "y"})
    assert holds("params.path == 'x'", {"path": "x", "content": "x" * 50_000_000})


@pytest.mark.long
@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("params.a.all(x, x >= 0)", {"a": list(range(1_000_000))}),
        ("params.a.all(x, params.a.all(y, x + y >= 0))", {"a": list(range(3_000))}),
        ("params.a.map(x, x) == params.a", {"a": list(range(3_000))}),
        ("params.a.all(x, params.a == params.a)", {"a": list(range(6_500))}),
        ("params.a.all(x, !params.s.contains(x))", {"a": ["y"] * 1_000, "s": "x" * 1_000_000}),
        ('params.a.all(x, !params.s.matches("y$"))', {"a": ["y"] * 1_000, "s": "x" * 100_000}),
    ],
    ids=["loop", "loops", "map", "lists", "texts", "patterns"],
)
def test_the_most_that_is_looked_through_takes_seconds(text: str, params: dict[str, Any]):
    """Each list is cut until it is within the bound: what is left is the worst there is."""
    while True:
        began = time.thread_time()
        try:
            assert holds(text, params)
            break
        except ConditionFailed:
            params["a"] = params["a"][: len(params["a"]) * 3 // 4]
    assert time.thread_time() - began < 10, STEPS_MAX


def test_one_condition_serves_many_threads():
    condition = compile_condition('params.path.matches("^/tmp/") && params.n >= 0')
    answers: list[bool] = []
    threads = [
        threading.Thread(
            target=lambda: answers.extend(
                condition.holds({"params": {"path": "/tmp/x", "n": n}}) for n in range(50)
            )
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 400
