"""The rules a scanner ships with: each finds what it is for, and leaves what only looks so.

Goes through `Redactor.scan` and `keep`, as every value on its way to the record does.
"""

import random
import re
from pathlib import Path

import msgspec
import pytest
import re2
from tests.redaction import rules_reference
from tests.redaction.rule_examples import EXAMPLES, FIELD, made, positives
from tests.redaction.rule_near_misses import GLUED, glued, near_misses

from custody.redaction import Hit, Redactor, ScanRule
from custody.redaction.checks import CHECKS
from custody.redaction.rule import FIRST_GROUP
from custody.redaction.rules import RULES
from custody.redaction.rules_general import GENERAL_RULES

KEY = b"k" * 32
IDS = [rule.id for rule in RULES]
GENERAL = {rule.id for rule in GENERAL_RULES}

SEED = 7
POSITIVES = 40
NEAR_MISSES = 24


@pytest.fixture(scope="module")
def redactor() -> Redactor:
    return Redactor(KEY)


def _covering(hits: list[Hit], text: str, secret: str) -> Hit | None:
    start = text.encode().find(secret.encode())
    end = start + len(secret.encode())
    return next((hit for hit in hits if hit.start <= start and end <= hit.end), None)


# -- the table ----------------------------------------------------------------------------------------


def test_there_are_rules_for_seventy_kinds_and_more_with_ids_of_their_own() -> None:
    assert len(RULES) >= 70
    assert len(set(IDS)) == len(IDS)
    assert {rule.kind for rule in RULES} and all(rule.kind[0] != " " for rule in RULES)


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_a_rule_is_complete(rule: ScanRule) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]{2,63}", rule.id)
    assert rule.keywords and all(len(keyword) >= 3 and keyword.isascii() for keyword in rule.keywords)
    assert rule.check is None or rule.check in CHECKS
    pattern = re2.compile(rule.pattern.encode())
    assert pattern.groups == 1 if rule.secret == 1 else rule.secret == FIRST_GROUP
    assert EXAMPLES[rule.id]


def test_every_example_belongs_to_a_rule() -> None:
    assert set(EXAMPLES) == set(IDS)


def test_no_check_raises_whatever_the_bytes() -> None:
    odd = [
        b"",
        b"\xff\xfe",
        b"=",
        b".",
        b"a.b.c",
        b"e30.e30.e30",
        b"_",
        b"1",
        b":" * 9,
        b"\0" * 40,
        "ü€".encode() * 9,
    ]
    for check in CHECKS.values():
        for data in odd:
            assert check(data) in (True, False)


def test_the_page_of_rules_says_what_the_rules_are() -> None:
    page = rules_reference.PAGE.read_text(encoding="utf-8")
    assert rules_reference.made(page) == page, "run python -m tests.redaction.rules_reference"
    assert Path(rules_reference.PAGE).name == "redaction-rules.md"


# -- what is found ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", IDS)
def test_every_form_is_found_in_all_its_surroundings(rule: str, redactor: Redactor) -> None:
    missed = [
        example
        for example in positives(rule, SEED, POSITIVES)
        if _covering(redactor.scan(example.text.encode()), example.text, example.secret) is None
    ]
    assert missed == []


@pytest.mark.parametrize("rule", IDS)
def test_what_is_found_is_not_in_what_is_kept(rule: str, redactor: Redactor) -> None:
    for example in positives(rule, SEED + 1, 4):
        kept = redactor.keep({"stdout": example.text, "lines": [example.text]}, "result")
        assert example.secret.encode() not in kept.data
        assert example.secret not in str(msgspec.msgpack.decode(kept.data))
        assert {hit.path for hit in kept.hits} == {"result.stdout", "result.lines.0"}


@pytest.mark.parametrize("rule", sorted(set(IDS) - GENERAL))
def test_a_token_is_named_by_its_own_rule(rule: str, redactor: Redactor) -> None:
    """Where a token stands alone, or its provider's name is nearest."""
    for example in positives(rule, SEED, 1):
        if example.text == example.secret:
            assert [hit.rule for hit in redactor.scan(example.text.encode())] == [rule]


def test_two_tokens_beside_each_other_are_two_hits(redactor: Redactor) -> None:
    for rule in (
        "github_token",
        "aws_access_key_id",
        "npm_token",
        "google_api_key",
        "telegram_bot_token",
        "sk_key",
    ):
        first, second = (example.secret for example in positives(rule, SEED, 2))
        hits = redactor.scan(f"{first} {second}".encode())
        assert [(hit.start, hit.end) for hit in hits] == [
            (0, len(first)),
            (len(first) + 1, len(first) + 1 + len(second)),
        ]


def test_text_around_a_secret_stays(redactor: Redactor) -> None:
    token = next(positives("github_pat", SEED, 1)).secret
    kept = redactor.keep(f"clone with {token}, then build", "stdout")
    text = msgspec.msgpack.decode(kept.data)
    assert re.fullmatch(r"clone with \[redacted:github_pat:[0-9a-f]{8}\], then build", text)


# -- what is left -------------------------------------------------------------------------------------

ALSO_HIT = {
    "aws_key_pair": {"aws_access_key_id"},
    "npmrc_auth": {"npmrc_auth"},
    "quoted_url_credentials": {"quoted_url_credentials"},
    "openai_key": {"sk_key", "openai_key"},
}
"""A broken form of the one holds another whole, or enough of itself."""


@pytest.mark.parametrize("rule", IDS)
def test_what_nearly_is_one_is_left(rule: str, redactor: Redactor) -> None:
    """No rule for a format finds any. A rule for names may, where a name calls what is left a secret."""
    named = any("«" in form for form in EXAMPLES[rule] if isinstance(form, str)) and rule not in GENERAL
    allowed = ALSO_HIT.get(rule, set[str]()) | (GENERAL if named else set[str]())
    count = 0
    wrong: list[tuple[str, str]] = []
    for text in near_misses(rule, SEED, NEAR_MISSES):
        count += 1
        wrong += [(hit.rule, text) for hit in redactor.scan(text.encode()) if hit.rule not in allowed]
    assert count >= NEAR_MISSES
    assert wrong == []


@pytest.mark.parametrize("rule", sorted(GLUED))
def test_a_token_that_is_a_piece_of_a_longer_word_is_none(rule: str, redactor: Redactor) -> None:
    for text in glued(rule, SEED):
        assert redactor.scan(text.encode()) == []


@pytest.mark.parametrize(
    "text",
    [
        "aws_access_key_id = AKIAIOSFODNN7EXAMPLE",
        "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "OPENAI_API_KEY=sk-...",
        "API_KEY=<TOKEN>",
        "API_KEY=${TOKEN}",
        "API_KEY=$TOKEN",
        "API_KEY=****************",
        "curl -H 'Authorization: Bearer $TOKEN'",
        "sk_test_xxxxxxxxxxxxxxxxxxxxxxxx",
        "xoxb-your-bot-token-goes-here",
        'api_key = "YOUR_API_KEY_1a2b3c"',
        "postgres://USER:PASSWORD@HOST/db",
    ],
)
def test_what_documents_write_where_a_secret_goes_is_none(text: str, redactor: Redactor) -> None:
    assert redactor.scan(text.encode()) == []
    assert redactor.keep(text, "stdout").hits == ()


def test_checksums_of_tokens_known_from_their_providers_documents() -> None:
    """So that a token's checksum is told as the provider computes it, not as these tests would."""
    known = {
        "github": b"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",
        "grafana": b"glsa_yscW25imSKJIuav8zF37RZmnbiDvB05G_fcaaf58a",
        "bech32": b"AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX",
        "jwt": b"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UifQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r",
        "basic": b"QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
    }
    for name, secret in known.items():
        assert CHECKS[name](secret), name
        assert not CHECKS[name](b"A" + secret[1:-8] + b"AAAAAAAA"), name


def test_forms_draw_what_their_fields_say() -> None:
    example = made("x_{hex:8}:«{dig:4}»", random.Random(1))
    assert re.fullmatch(r"x_[0-9a-f]{8}:[0-9]{4}", example.text)
    assert example.text.endswith(example.secret) and FIELD.search(example.text) is None
