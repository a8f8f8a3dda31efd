"""What is kept of a value, and what is not."""

import hmac
import threading
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.how_many import as_many
from tests.implementations import with_each_at_length  # noqa: F401 - every test here holds for both
from tests.redaction.interpreter_lock import times_given_up
from tests.redaction.patience import PATIENT_MS

from custody.records import Redaction
from custody.redaction import Redactor, plain
from custody.redaction.walk import DEPTH_MAX, HITS_MAX, PATH_CHARACTERS_MAX

KEY = b"k" * 32
KNOWN = {
    "API_TOKEN": "hunter2-hunter2",
    "DB_PASSWORD": 'p"a ss\\w&rd',
    "OTHER_TOKEN": "nter2-hunter2-and-more",
}


def token(rule: str, secret: str | bytes, key: bytes = KEY) -> str:
    data = secret.encode() if isinstance(secret, str) else secret
    return f"[redacted:{rule}:{hmac.new(key, data, 'sha256').hexdigest()[:8]}]"


def kept(
    value: Any, path: str = "", known: dict[str, str] | None = None
) -> tuple[Any, tuple[Redaction, ...]]:
    outcome = Redactor(KEY, KNOWN if known is None else known).keep(value, path)
    return msgspec.msgpack.decode(outcome.data), outcome.hits


def test_plain_data_is_kept_as_it_is() -> None:
    value = {
        "path": "a/b",
        "n": 1,
        "f": 0.5,
        "t": True,
        "none": None,
        "list": [1, "x", {"y": b"\x00"}],
        "ü": "€",
    }
    assert kept(value) == (value, ())


def test_a_value_under_a_sensitive_key_is_replaced_at_any_depth() -> None:
    value = {"env": [{"deep": {"API_TOKEN": "abc", "token_count": 3}}], "password": "abc"}
    mark = token("sensitive_key", "abc")
    data, hits = kept(value, "arguments")
    assert data == {"env": [{"deep": {"API_TOKEN": mark, "token_count": 3}}], "password": mark}
    assert hits == (
        Redaction("sensitive_key", "arguments.env.0.deep.API_TOKEN", 1),
        Redaction("sensitive_key", "arguments.password", 1),
    )


def test_everything_below_a_sensitive_key_is_replaced_but_absence_and_truth() -> None:
    value = {
        "credentials": {
            "user": "me",
            "pin": 1234,
            "on": True,
            "none": None,
            "raw": b"x",
            "empty": "",
            "l": ["a"],
        }
    }
    data, hits = kept(value)
    assert data == {
        "credentials": {
            "user": token("sensitive_key", "me"),
            "pin": token("sensitive_key", "1234"),
            "on": True,
            "none": None,
            "raw": token("sensitive_key", b"x"),
            "empty": "",
            "l": [token("sensitive_key", "a")],
        }
    }
    assert len(hits) == 4


def test_a_known_value_is_replaced_in_text_bytes_and_keys() -> None:
    secret = KNOWN["API_TOKEN"]
    mark = token("known_value", secret)
    data, hits = kept(
        {"out": f"a {secret} b {secret}", "raw": b"\xff" + secret.encode(), f"k{secret}": 1}, "result"
    )
    assert data == {"out": f"a {mark} b {mark}", "raw": b"\xff" + mark.encode(), f"k{mark}": 1}
    assert hits == (
        Redaction("known_value", "result.out", 2),
        Redaction("known_value", "result.raw", 1),
        Redaction("known_value", "result", 1),
    )


def test_a_known_value_is_found_as_json_and_urls_spell_it() -> None:
    mark = token("known_value", KNOWN["DB_PASSWORD"])
    text = r"""{"a": "p\"a ss\\w&rd"} https://x/?p=p%22a%20ss%5Cw%26rd"""
    assert kept([text])[0] == [f'{{"a": "{mark}"}} https://x/?p={mark}']


def test_known_values_that_overlap_leave_nothing_of_either() -> None:
    data, hits = kept("<hunter2-hunter2-and-more> <hunter2-hunter2-hunter2>", "x")
    assert (
        data == f"<{token('known_value', KNOWN['OTHER_TOKEN'])}> <{token('known_value', KNOWN['API_TOKEN'])}>"
    )
    assert hits == (Redaction("known_value", "x", 2),)


def test_secrets_in_argument_lists_headers_and_named_values_are_replaced() -> None:
    mark = token("sensitive_key", "abc")
    value = {
        "argv": ["tool", "--password=abc", "--token", "abc", "-v"],
        "env": ("API_KEY=abc", "HOME=/root"),
        "headers": [["Cookie", "abc"], ["Accept", "abc"]],
        "vars": [{"name": "DB_PASSWORD", "value": "abc"}, {"name": "HOME", "value": "abc"}],
        "tags": ["token", "abc"],
    }
    data, hits = kept(value)
    assert data == {
        "argv": ["tool", f"--password={mark}", "--token", mark, "-v"],
        "env": [f"API_KEY={mark}", "HOME=/root"],
        "headers": [["Cookie", mark], ["Accept", "abc"]],
        "vars": [{"name": "DB_PASSWORD", "value": mark}, {"name": "HOME", "value": "abc"}],
        "tags": ["token", "abc"],
    }
    assert [hit.path for hit in hits] == ["argv.1", "argv.3", "env.0", "headers.0", "vars.0.value"]


def test_what_was_redacted_before_is_left_alone() -> None:
    once, _ = kept({"password": "abc", "argv": ["--token", "abc"]})
    assert kept(once) == (once, ())


def test_the_fingerprint_is_an_hmac_under_the_stores_key_for_secrets_of_any_length() -> None:
    for length in (1, 63, 2047, 2048, 2049, 10_000):
        for key in (b"short", b"k" * 64, b"k" * 65):
            data = msgspec.msgpack.decode(Redactor(key).keep({"secret": "s" * length}, "").data)
            assert data == {"secret": token("sensitive_key", "s" * length, key)}


def test_hits_are_bounded_and_every_further_one_is_still_counted() -> None:
    _, hits = kept([{"password": "x"} for _ in range(HITS_MAX * 3)], "result")
    assert len(hits) == HITS_MAX + 1
    assert sum(hit.count for hit in hits) == HITS_MAX * 3
    assert hits[-1] == Redaction("sensitive_key", "result", HITS_MAX * 2)


def test_a_path_never_holds_a_known_value_a_surrogate_or_more_than_its_bound() -> None:
    secret = KNOWN["API_TOKEN"]
    _, hits = kept({secret + "\udc80" + "k" * 1000: {"token": "x"}})
    for hit in hits:
        assert secret not in hit.path
        assert len(hit.path) <= PATH_CHARACTERS_MAX
        assert msgspec.msgpack.encode(hit)


def test_a_text_for_a_leaf_has_known_values_replaced_and_can_be_encoded() -> None:
    redactor = Redactor(KEY, KNOWN)
    text, hits = redactor.text(f"no: {KNOWN['API_TOKEN']}\udcff", "decision.reason")
    assert text == f"no: {token('known_value', KNOWN['API_TOKEN'])}\\udcff"
    assert hits == (Redaction("known_value", "decision.reason", 1),)
    assert redactor.text("ordinary", "x") == ("ordinary", ())


def test_the_salt_stands_before_the_value() -> None:
    assert Redactor(KEY).keep(1, "", b"s" * 16).data == b"s" * 16 + b"\x01"


def test_names_made_of_data_do_not_fill_memory() -> None:
    redactor = Redactor(KEY)
    for start in range(0, 40_000, 100):
        redactor.keep({f"name-{start + n}": n for n in range(100)}, "")
    assert len(redactor._ordinary_names) <= 8192


def test_threads_may_share_a_redactor() -> None:
    redactor = Redactor(KEY, KNOWN)
    wrong: list[Any] = []

    def work(thread: int) -> None:
        for n in range(300):
            value = {f"name-{thread}-{n}": n, "password": "abc", "text": f"{KNOWN['API_TOKEN']} {n}"}
            data = redactor.keep(value, "").data
            if b"abc" in data or b"hunter2-hunter2" in data:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# -- the short way and the long way agree -------------------------------------------------------------

NAMES = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [
            "password",
            "API_KEY",
            "token_count",
            "clientSecret",
            "value",
            "name",
            "Name",
            "Value",
            "key",
            "$type",
            "argv",
        ]
    ),
)
TEXTS = st.one_of(
    st.text(max_size=12),
    st.builds(
        "".join,
        st.lists(
            st.sampled_from(
                [
                    *KNOWN.values(),
                    "hunter2-",
                    "hunter2",
                    "x",
                    "é",
                    " ",
                    "--token",
                    "=",
                    "PASSWORD",
                    ":",
                    "://",
                    "@",
                ]
            ),
            max_size=4,
        ),
    ),
    st.sampled_from(
        ["--token", "--password=abc", "API_KEY=abc", "Cookie", "Authorization: abc", "-H", "DB_PASSWORD"]
    ),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**66), 2**66),
    st.floats(),
    TEXTS,
    st.binary(max_size=8),
    TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.tuples(inner, inner), st.dictionaries(NAMES, inner, max_size=4)
    ),
    max_leaves=20,
)
SHARED = Redactor(KEY, KNOWN, ms_max=PATIENT_MS)


@settings(max_examples=as_many(500))
@given(VALUES)
@example(["--token", "x"])
@example(["--token", "x", 1])
@example([["a"], "https://x"])
@example([{"a": 1}, "x: y"])
@example(["-H", "X-Api-Key: x"])
@example(["PASSWORD=x"])
@example({"n": [{"name": "API_KEY", "value": "x"}]})
@example({"Key": "API_KEY", "Value": ["x"]})
@example([["Cookie", "x"]])
@example([("Cookie", "x"), ("Accept", "y")])
@example({"a": {"$type": 1}})
@example({"a": {"x" * 100 + "_password": 1}})
@example({"a": KNOWN["API_TOKEN"].encode()})
def test_the_short_way_keeps_what_the_long_way_would(value: Any) -> None:
    walk = SHARED._walk("root")
    slow = msgspec.msgpack.encode(walk.value(value, "root", 0, False))
    outcome = SHARED.keep(value, "root")
    assert (outcome.data, outcome.hits) == (slow, walk.redactions())


@settings(max_examples=as_many(300))
@given(VALUES)
def test_no_known_value_is_ever_kept(value: Any) -> None:
    data = SHARED.keep(value, "root").data
    for secret in KNOWN.values():
        assert secret.encode() not in data


BELOW = st.recursive(
    st.just("S3CR3T"),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.dictionaries(st.text("abc", max_size=3), inner, min_size=1, max_size=3),
        st.tuples(inner),
        st.sets(st.just("S3CR3T"), min_size=1),
    ),
    max_leaves=8,
)


@given(BELOW, st.sampled_from(["password", "API_KEY", "x-api-key", "clientSecret"]))
def test_no_value_below_a_sensitive_key_is_ever_kept(value: Any, name: str) -> None:
    assert b"S3CR3T" not in SHARED.keep([{"outer": {name: value}}], "").data


@given(VALUES)
def test_what_is_kept_decodes_renders_as_json_and_is_ordinary_the_second_time(value: Any) -> None:
    data = msgspec.msgpack.decode(SHARED.keep(value, "").data)
    assert msgspec.json.encode(plain(data))


@pytest.mark.parametrize("depth", [DEPTH_MAX - 1, DEPTH_MAX, DEPTH_MAX + 1])
def test_both_ways_bound_depth_at_the_same_place(depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    walk = SHARED._walk("")
    assert SHARED.keep(value, "").data == msgspec.msgpack.encode(walk.value(value, "", 0, False))


def test_a_value_that_repeats_itself_leaves_no_rest() -> None:
    known = {"API_TOKEN": "abcXabcXabc"}
    assert kept("-abcXabcXabcXabc-", "", known)[0] == f"-{token('known_value', known['API_TOKEN'])}-"


def test_keeping_never_gives_up_the_interpreter_lock() -> None:
    redactor = Redactor(KEY, KNOWN)
    values: list[Any] = [
        {"stdout": "line\n" * 2000, "n": 1},
        {"password": "s" * 10_000, "raw": b"x" * 5000},
        {"text": f"{KNOWN['API_TOKEN']} " * 300, "argv": ["--token", "x"], 1: {2}},
    ]

    def keep_all() -> None:
        for value in values:
            redactor.keep(value, "result")

    keep_all()  # what is loaded once
    assert times_given_up(lambda: [keep_all() for _ in range(100)]) == 0
