"""What scanners find: secrets told by their format, known values in every spelling, within a budget."""

import base64
import hmac
import random
import re
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.implementations import with_each_at_length  # noqa: F401 - every test here holds for both
from tests.redaction.interpreter_lock import times_given_up
from tests.redaction.patience import PATIENT_MS
from tests.redaction.rule_examples import positives

from custody.records import Redaction
from custody.redaction import OverBudget, Redactor, ScanRule
from custody.redaction.encodings import spellings
from custody.redaction.needles import FOUND_MAX
from custody.redaction.patterns import least_bytes
from custody.redaction.rules import RULES

KEY = b"k" * 32
AWS = "AKIAQRSYO262JEBNU56J"
KNOWN = {"API_TOKEN": "hunter2-hunter2", "DB_PASSWORD": "p\"a ss\\w/&ü'rd\n", "LONG": "geheim-" * 30}
REDACTOR = Redactor(KEY, KNOWN, ms_max=PATIENT_MS)
WITHOUT_KNOWN = Redactor(KEY, ms_max=PATIENT_MS)

TWICE = ScanRule(
    id="twice", kind="twice", keywords=("twice_",), pattern=r"twice_[a-z]{10}(?:_twice_[a-z]{10})?"
)
LINES = ScanRule(id="lines", kind="lines", keywords=("begin_",), pattern=r"(?s)begin_.{0,200}?_end")


def token(rule: str, secret: str) -> str:
    return f"[redacted:{rule}:{hmac.new(KEY, secret.encode(), 'sha256').hexdigest()[:8]}]"


def kept(value: Any, redactor: Redactor = REDACTOR) -> tuple[Any, tuple[Redaction, ...]]:
    outcome = redactor.keep(value, "result")
    return msgspec.msgpack.decode(outcome.data), outcome.hits


def test_a_find_is_replaced_with_its_rule_and_counted_where_it_stands() -> None:
    mark = token("aws_access_key_id", AWS)
    data, hits = kept({"out": f"a {AWS} b {AWS}", "raw": AWS.encode(), f"k {AWS}": [AWS], "n": (1, AWS)})
    assert data == {"out": f"a {mark} b {mark}", "raw": mark.encode(), f"k {mark}": [mark], "n": [1, mark]}
    assert hits == (
        Redaction("aws_access_key_id", "result.out", 2),
        Redaction("aws_access_key_id", "result.raw", 1),
        Redaction("aws_access_key_id", "result", 1),
        Redaction("aws_access_key_id", f"result.k {mark}.0", 1),
        Redaction("aws_access_key_id", "result.n.1", 1),
    )


def test_a_find_is_replaced_in_texts_of_leaves_too() -> None:
    mark = token("aws_access_key_id", AWS)
    hits = (Redaction("aws_access_key_id", "reason", 1),)
    assert REDACTOR.text(f"no: {AWS}", "reason") == (f"no: {mark}", hits)
    assert REDACTOR.knows(msgspec.msgpack.encode({"a": [f"x {AWS}"]}))
    assert not REDACTOR.knows(msgspec.msgpack.encode({"a": ["x AKIA and password and token: none"]}))


@pytest.mark.parametrize("length", [20, 28, 31, 32, 200, 255, 256, 70_000])
def test_what_stands_before_a_text_in_msgpack_never_hides_a_secret(length: int) -> None:
    """The byte that says how long the text is may look like a letter."""
    text = f"{AWS}{' ' * (length - len(AWS))}"
    assert AWS not in str(kept([text])[0]) and AWS not in str(kept({text: text})[0])


def test_nothing_is_found_across_two_texts() -> None:
    value = {"a": [AWS[:10], AWS[10:]], AWS[:8]: AWS[8:]}
    assert kept(value) == ({"a": [AWS[:10], AWS[10:]], AWS[:8]: AWS[8:]}, ())


@pytest.mark.parametrize("rule", [rule.id for rule in RULES[::7]])
def test_secrets_of_each_kind_leave_nothing_in_any_shape_of_value(rule: str) -> None:
    for example in positives(rule, 7, 3):
        for value in (example.text, {"a": [example.text]}, example.text.encode(), {example.text: 1}):
            data = REDACTOR.keep(value, "").data
            assert example.secret.encode() not in data, example.text


# -- known values ----------------------------------------------------------------------------------------


def shifted(text: bytes) -> list[bytes]:
    """In base64 at each of the three places of a group, in both alphabets, broken into lines; and in hex."""
    found: list[bytes] = []
    for front in (b"", b"=", b"\n ", b"x y"):
        whole = front + text + b" and more"
        found += [
            base64.b64encode(whole), base64.urlsafe_b64encode(whole).rstrip(b"="),
            base64.encodebytes(whole), base64.encodebytes(whole).replace(b"\n", b"\\n"),
            base64.encodebytes(whole).replace(b"\n", b"\r\n  "),
            whole.hex().encode(), whole.hex().upper().encode(),
        ]  # fmt: skip
    return found


@pytest.mark.parametrize("name", KNOWN)
def test_known_values_leave_nothing_in_any_spelling(name: str) -> None:
    value = KNOWN[name].strip()
    for spelling in [*spellings(value), *shifted(value.encode())]:
        data, hits = kept({"out": b"before <" + spelling + b"> behind"})
        assert spelling not in data["out"]
        assert data["out"].startswith(b"before <") and data["out"].endswith(b"> behind")
        assert hits == (Redaction("known_value", "result.out", 1),)
        assert value.encode() not in _read_back(data["out"].replace(b"\\n", b""))


def _read_back(data: bytes) -> bytes:
    """What base64 in the text says, from each of four beginnings."""
    plain = re.sub(rb"[^A-Za-z0-9+/]", b"", data.translate(bytes.maketrans(b"-_", b"+/")))
    parts = (plain[at : at + (len(plain) - at) // 4 * 4] for at in range(4))
    return b"|".join(base64.b64decode(part) for part in parts)


@settings(max_examples=80)
@given(st.binary(min_size=6, max_size=80), st.binary(max_size=5), st.binary(max_size=90), st.booleans())
def test_a_known_value_of_any_bytes_is_found_in_base64_at_any_place(
    value: bytes, before: bytes, behind: bytes, urlsafe: bool
) -> None:
    text = value.decode("utf-8", "surrogateescape").strip()
    value = text.encode("utf-8", "surrogateescape")
    if len(value) < 6:
        return
    redactor = Redactor(KEY, {"API_TOKEN": text})
    encode = base64.urlsafe_b64encode if urlsafe else base64.b64encode
    for encoded in (encode(before + value + behind), (before + value + behind).hex().encode()):
        assert [hit.rule for hit in redactor.scan(b"x: " + encoded + b" y")].count("known_value") >= 1


def test_one_secret_has_one_fingerprint_however_it_is_spelt() -> None:
    value = KNOWN["DB_PASSWORD"].strip()
    texts = [*spellings(value), *shifted(value.encode())]
    marks = {hit.fingerprint for text in texts for hit in REDACTOR.scan(text)}
    assert marks == {token("", value)[-9:-1]}


def test_two_hundred_known_values_are_all_found() -> None:
    chance = random.Random(5)
    letters = "abcdefghijkmnpqrstuvwxyz23456789"
    known = {f"TOKEN_{n}": "".join(chance.choices(letters, k=12)) for n in range(200)}
    redactor = Redactor(KEY, known, ms_max=PATIENT_MS)
    values = list(known.values())
    data, hits = kept({"out": " ".join(values), "b64": base64.b64encode(" ".join(values).encode())}, redactor)
    assert not any(value in str(data) for value in values)
    assert hits == (Redaction("known_value", "result.out", 200), Redaction("known_value", "result.b64", 200))


# -- encoded finds ---------------------------------------------------------------------------------------


def test_a_token_that_a_command_printed_in_base64_or_hex_is_replaced() -> None:
    for encoded in shifted(f"key={AWS};".encode()):
        hits = REDACTOR.scan(b"data: " + encoded)
        assert [(hit.rule, hit.fingerprint) for hit in hits] == [
            ("aws_access_key_id", token("", AWS)[-9:-1])
        ], encoded
        assert hits[0].encoding in ("base64", "hex")


def test_only_the_part_of_an_encoded_text_that_is_the_secret_is_replaced() -> None:
    encoded = base64.b64encode(b"a" * 300 + b" " + AWS.encode() + b" " + b"b" * 300).decode()
    data, _ = kept(encoded)
    head, _, rest = data.partition("[redacted:aws_access_key_id:")
    assert encoded.startswith(head) and len(head) >= 400
    assert encoded.endswith(rest[9:]) and len(rest) >= 400


def test_a_secret_in_a_percent_encoded_text_is_replaced() -> None:
    before, behind = "GET /x?q=%7B%22client_secret%22%3A%22", "%22%7D&z=1 HTTP"
    data, _ = kept(f"{before}f8Gk2mQp0ZxW{behind}")
    assert data.startswith(f"{before}[redacted:") and data.endswith(f"]{behind}")
    assert "f8Gk2mQp0ZxW" not in data


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("git clone https://bob:gR2q68N9TroOWsQE0kEEJYuJ@git.example.com/x", "gR2q68N9TroOWsQE0kEEJYuJ"),
        ("https://8keTJtiqpjHOg6ZLeBJmaZGrxtL9rCp@git.example.com/x", "8keTJtiqpjHOg6ZLeBJmaZGrxtL9rCp"),
        ("redis://:lo45vKgD9t5mFr2za20UjXKV@cache:6379/", "lo45vKgD9t5mFr2za20UjXKV"),
    ],
)
def test_credentials_in_an_encoded_url_are_replaced(url: str, secret: str) -> None:
    for encoded in (*shifted(url.encode()), quote(url, safe="").encode(), quote(url).encode()):
        data, hits = kept({"out": b"data: " + encoded + b" end"})
        assert hits == (Redaction("url_credentials", "result.out", 1),), encoded
        assert secret.encode() not in _read_back(data["out"].replace(b"\\n", b""))
        assert secret.encode() not in data["out"]


def test_images_and_digests_in_base64_and_hex_are_left() -> None:
    chance = random.Random(11)
    size = 200_000
    image = chance.randbytes(size)
    value = {"image": base64.b64encode(image).decode(), "hex": image[: size // 4].hex(), "raw": image}
    assert kept(value) == (value, ())


# -- lines -----------------------------------------------------------------------------------------------


def private_key() -> str:
    return next(example.text for example in positives("private_key", 3, 40) if example.text.count("\n") > 5)


def test_a_private_key_whose_lines_are_items_is_replaced_in_each() -> None:
    lines = private_key().strip().split("\n")
    shapes: list[Any] = [
        ["before it", *lines, "behind it"],
        [{"path": "a", "line": n, "text": line} for n, line in enumerate(["before it", *lines, "behind it"])],
    ]
    for value in shapes:
        data, hits = kept(value)
        assert not any(line in str(data) for line in lines)
        assert "before it" in str(data) and "behind it" in str(data)
        assert hits[0] == Redaction("private_key", "result", 1)


# -- overlaps, tokens and what is allowed ----------------------------------------------------------------


def test_finds_that_overlap_are_one_that_of_the_longest() -> None:
    redactor = Redactor(KEY, {"X_TOKEN": "abcdefghij"}, rules=[TWICE])
    text = "twice_abcdefghij_twice_klmnopqrst"
    assert kept(f"<{text}>", redactor) == (f"<{token('twice', text)}>", (Redaction("twice", "result", 1),))
    data, _ = kept("twice_qabcdefghij", Redactor(KEY, {"X_TOKEN": "qabcdefghijklm"}, rules=[TWICE]))
    assert data == token("twice", "twice_qabcdefghi") + "j"


def test_what_was_redacted_before_is_left_alone() -> None:
    value = {"out": [example.text for rule in RULES[::5] for example in positives(rule.id, 2, 2)], "n": KNOWN}
    once, _ = kept(value)
    assert kept(once) == (once, ())


def test_text_that_only_looks_like_a_token_hides_nothing() -> None:
    rule = ScanRule(id="low", kind="low", keywords=("low_",), pattern=r"low_[a-z0-9]{20}")
    secret = "low_abcdefghij0123456789"
    data, _ = kept(f"[redacted:{secret}:0a1b2c3d]", Redactor(KEY, rules=[rule]))
    assert secret not in data


def test_an_allowed_fingerprint_is_left_and_nothing_else_is() -> None:
    known = "hunter2-hunter2"
    allowed = frozenset({token("", AWS)[-9:-1], token("", known)[-9:-1], token("", "abc")[-9:-1]})
    redactor = Redactor(KEY, KNOWN, allowed=allowed)
    other = "ASIAGV3MCYKRDSZNC376"
    value = {"out": f"{AWS} {other} {known}", "password": "abc", "b": base64.b64encode(AWS.encode())}
    data, hits = kept(value, redactor)
    assert data == {
        "out": f"{AWS} {token('aws_access_key_id', other)} {token('known_value', known)}",
        "password": token("sensitive_key", "abc"),
        "b": base64.b64encode(AWS.encode()),
    }
    assert len(hits) == 3


def test_an_allowed_find_does_not_cover_another() -> None:
    text = "begin_ hunter2-hunter2 _end"
    allowed = frozenset({token("", text)[-9:-1]})
    redactor = Redactor(KEY, KNOWN, rules=[LINES], allowed=allowed)
    assert kept(text, redactor)[0] == f"begin_ {token('known_value', 'hunter2-hunter2')} _end"


@settings(max_examples=100)
@given(st.text(max_size=6), st.text(max_size=6))
def test_around_a_secret_text_stays_as_it_is(before: str, behind: str) -> None:
    secret = "hunter2-hunter2"
    try:
        (before + behind).encode()
    except UnicodeEncodeError:
        return
    text = f"{before}{secret}{behind}"
    assume(not kept(text, WITHOUT_KNOWN)[1])  # as "glptt-" would make a token of another kind of it
    assert kept(text)[0] == f"{before}{token('known_value', secret)}{behind}"


def test_a_pattern_that_ends_within_a_character_takes_all_of_it() -> None:
    rule = ScanRule(id="odd", kind="odd", keywords=("odd_",), pattern=r"odd_.")
    redactor = Redactor(KEY, rules=[rule])
    alone, _ = kept("odd_é", redactor)
    assert alone == "[redacted:odd:" + alone[-9:]
    data, _ = kept("«odd_éx»", redactor)
    assert data == f"«{alone}x»"


# -- budgets ---------------------------------------------------------------------------------------------


def test_what_exceeds_the_bytes_of_a_record_is_kept_as_a_digest_and_counted() -> None:
    redactor = Redactor(KEY, KNOWN, bytes_max=1000)
    text = "x" * 1001
    digest = hmac.new(KEY, text.encode(), "sha256").hexdigest()
    mark = {"$type": "unscanned", "bytes": 1001, "digest": digest}
    assert kept({"out": text, "n": 1, "short": "hello"}, redactor) == (
        {"out": mark, "n": 1, "short": "hello"},
        (Redaction("unscanned", "result.out", 1),),
    )
    assert kept([b"y" * 600, b"z" * 600], redactor)[0][0] == b"y" * 600
    assert kept([b"y" * 600, b"z" * 600], redactor)[0][1]["$type"] == "unscanned"
    assert redactor.text(text, "reason")[0] == token("unscanned", text)
    assert kept({"a" * 1001: 1}, redactor)[0] == {token("unscanned", "a" * 1001): 1}
    with pytest.raises(OverBudget):
        redactor.scan(text.encode())


def test_what_takes_longer_than_the_time_of_a_record_is_kept_as_a_digest() -> None:
    redactor = Redactor(KEY, KNOWN, ms_max=0.0)
    data, hits = kept({"out": f"one {AWS} two", "harmless": "three"}, redactor)
    assert data["out"]["$type"] == "unscanned" and data["harmless"] == "three"
    assert hits == (Redaction("unscanned", "result.out", 1),)
    assert AWS not in str(redactor.text(AWS, "reason"))


def test_more_finds_than_can_be_held_leave_a_digest() -> None:
    data, hits = kept({"out": "hunter2-hunter2 " * (FOUND_MAX + 1), "n": 1})
    assert data["out"]["$type"] == "unscanned" and data["n"] == 1
    assert hits == (Redaction("unscanned", "result.out", 1),)


def test_a_value_of_many_texts_on_the_long_way_is_searched_whole() -> None:
    lines = [f"line {number}" for number in range(20_000)] + ["hunter2-hunter2"]
    data, hits = kept(lines)
    assert data == [*lines[:-1], token("known_value", "hunter2-hunter2")]
    assert hits == (Redaction("known_value", "result.20000", 1),)


def test_keywords_alone_do_not_give_up_the_interpreter_lock() -> None:
    """Beside a busy thread each time would cost 5 ms."""
    values: list[Any] = [
        {"stdout": "the password and the token were changed\n" * 40, "argv": ["--token", "x"]},
        {"password": "x", "credentials": {"token": "y"}},
        {"argv": ["vault", "login", "--password"], "AKIA": "ghp_", "note": "api key, secret, bearer"},
    ]

    def keep_all() -> None:
        for value in values:
            REDACTOR.keep(value, "")

    keep_all()  # what is loaded once
    assert times_given_up(lambda: [keep_all() for _ in range(50)]) == 0


def test_the_least_length_of_a_match_is_never_more_than_that_of_an_example() -> None:
    for rule in RULES:
        least = least_bytes(rule.pattern)
        for example in positives(rule.id, 3, 3):
            assert least <= len(example.text.encode())
