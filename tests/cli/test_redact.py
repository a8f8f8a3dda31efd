"""What a person is told of secrets in a text, and what they may say is none."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from custody.journal import RealDisk
from custody.redaction.rules import RULES
from custody.stores import REDACTION_KEY, redaction_key

KEY_ID = "AKIAZ7XQ2LMN4PRS5TUV"
TOKEN = re.compile(r"\[redacted:([a-z0-9_]+):([0-9a-f]{8})\]")
TEXT = f"""one line
  key {KEY_ID} and
url https://bob:hunter22secret@example.com/x and amqp://u:p4ssw0rdp4ss@h
ü {KEY_ID}
-----BEGIN PRIVATE KEY-----
MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7Zm9vYmFyYmF6
-----END PRIVATE KEY-----
"""


def printed(custody, text: str) -> str:
    """What the record has of a command that prints this."""
    shown = custody("exec", "--json", "--", "printf", "%s", text)
    assert shown.code == 0, shown.err
    return shown.json["result"]["stdout"]


def fingerprint(custody) -> str:
    token = TOKEN.fullmatch(printed(custody, KEY_ID))
    assert token is not None
    assert token[1] == "aws_access_key_id"
    return token[2]


def allowed(custody) -> list[str]:
    return [item["fingerprint"] for item in custody("redact", "list", "--json").json["items"]]


# -- test -------------------------------------------------------------------------------------------------


def test_every_secret_of_a_file_is_named_with_its_place_and_never_shown(custody):
    printed(custody, "so that there is a store")
    (custody.work / "log").write_text(TEXT)
    shown = custody("redact", "test", "log")
    places = [line.split(" (")[0].rsplit(" ", 1)[0] for line in shown.out.splitlines()]
    assert shown.code == 1
    assert places == [
        "log:2:7: aws_access_key_id",
        "log:3:13: url_credentials",
        "log:3:57: url_credentials",
        "log:4:3: aws_access_key_id",
        "log:5:1: private_key",
    ]
    for secret in (KEY_ID, "hunter22", "p4ssw0rd", "MIIEvQ"):
        assert secret not in shown.out + shown.err
    assert "5 secrets" in shown.err


def test_with_json_it_is_one_document(custody):
    found = custody("redact", "test", "-", "--json", stdin=TEXT)
    assert found.code == 1
    assert KEY_ID not in found.out
    assert found.json["bytes"] == len(TEXT.encode())
    assert found.json["hits"][0] == {
        "line": 2,
        "column": 7,
        "rule": "aws_access_key_id",
        "kind": next(rule.kind for rule in RULES if rule.id == "aws_access_key_id"),
        "fingerprint": None,
        "encoding": None,
    }


def test_looking_makes_no_store(custody):
    custody("redact", "test", "-", stdin=TEXT)
    custody("redact", "rules")
    assert not custody.store.exists()


def test_the_fingerprint_is_the_one_that_stands_on_the_record(custody):
    on_record = fingerprint(custody)
    found = custody("redact", "test", "-", "--json", stdin=KEY_ID).json
    assert [hit["fingerprint"] for hit in found["hits"]] == [on_record]


def test_a_value_of_the_environment_is_found_and_so_is_what_is_encoded(custody):
    import base64

    encoded = base64.b64encode(f"token: {KEY_ID} ".encode()).decode()
    text = f"deploying with correct-horse-staple\n{encoded}\n"
    found = custody("redact", "test", "-", "--json", stdin=text, DEPLOY_TOKEN="correct-horse-staple").json
    assert [(hit["line"], hit["rule"], hit["encoding"]) for hit in found["hits"]] == [
        (1, "known_value", None),
        (2, "aws_access_key_id", "base64"),
    ]


@pytest.mark.parametrize("text", ["", "nothing here\n", "https://example.com/a@b", "git@github.com:a/b.git"])
def test_a_text_without_secrets_is_said_to_have_none(custody, text):
    shown = custody("redact", "test", "-", stdin=text)
    assert (shown.code, shown.out) == (0, "standard input: no secrets found\n")


def test_bytes_that_are_no_text_are_searched_all_the_same(custody):
    (custody.work / "data").write_bytes(b"\xff\x00\n\xfe " + KEY_ID.encode() + b"\x00\xff")
    assert custody("redact", "test", "data").out.startswith("data:2:3: aws_access_key_id")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_text_in_wide_characters_is_searched_as_what_it_says(custody, encoding):
    (custody.work / "log").write_bytes(TEXT.encode(encoding))
    assert custody("redact", "test", "log").out.startswith("log:2:7: aws_access_key_id")


def test_many_urls_on_a_long_line_take_no_longer(custody):
    (custody.work / "long").write_text("http://a@b:c " * 50_000 + "://" * 50_000 + f" {KEY_ID}")
    assert custody("redact", "test", "long").code == 1


@pytest.mark.parametrize(("name", "why"), [("missing", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_bad_input(custody, name, why):
    shown = custody("redact", "test", name)
    assert (shown.code, shown.out) == (2, "")
    assert why in shown.err


def test_the_kinds_are_listed(custody):
    items = custody("redact", "rules", "--json").json["items"]
    assert [item["id"] for item in items] == [rule.id for rule in RULES]
    assert len(items) >= 60
    assert "aws_access_key_id" in custody("redact", "rules").out


# -- allow ------------------------------------------------------------------------------------------------


def test_what_is_allowed_is_kept_as_it_is_until_it_is_taken_back(custody):
    found = fingerprint(custody)
    done = custody("redact", "allow", found, "--reason", "the example key of the docs")
    assert done.code == 0
    assert "32 bits" in done.err
    assert printed(custody, KEY_ID) == KEY_ID
    assert custody("redact", "test", "-", stdin=KEY_ID).code == 0
    assert allowed(custody) == [found]

    assert custody("redact", "disallow", found).code == 0
    assert TOKEN.fullmatch(printed(custody, KEY_ID))
    assert allowed(custody) == []


def test_who_allowed_what_and_why_is_on_the_record(custody):
    found = fingerprint(custody)
    custody("redact", "allow", f"[redacted:aws_access_key_id:{found}]", "--reason", "of the docs")
    (item,) = custody("redact", "list", "--json").json["items"]
    assert (item["fingerprint"], item["rule"], item["reason"]) == (found, "aws_access_key_id", "of the docs")
    rows = custody("sql", "--json", "SELECT name FROM events WHERE name LIKE 'redaction.%'").json
    assert "redaction.allowed" in json.dumps(rows)
    assert "of the docs" in custody("redact", "list").out


def test_the_record_is_the_truth_and_the_file_beside_it_a_view(custody):
    found = fingerprint(custody)
    custody("redact", "allow", found, "--reason", "of the docs")
    view = custody.store / "keys" / "allowed.json"
    written = view.read_bytes()

    view.unlink()
    assert TOKEN.fullmatch(printed(custody, KEY_ID))
    assert allowed(custody) == [found]
    assert view.read_bytes() == written

    view.write_text(json.dumps({"version": 1, "allowed": []}))
    custody("redact", "list")
    assert view.read_bytes() == written


@pytest.mark.parametrize(
    "content", ["", "{}", '{"version": 2, "allowed": []}', '{"allowed": [{}]}', "\0" * 99]
)
def test_a_damaged_view_allows_nothing_and_says_so(custody, content):
    found = fingerprint(custody)
    custody("redact", "allow", found, "--reason", "of the docs")
    (custody.store / "keys" / "allowed.json").write_text(content)
    shown = custody("exec", "--json", "--", "printf", "%s", KEY_ID)
    assert shown.code == 0
    assert TOKEN.fullmatch(shown.json["result"]["stdout"])
    assert "nothing is allowed" in shown.err


@pytest.mark.parametrize("rule", ["known_value", "sensitive_key", "url_credentials", "unscanned"])
def test_what_is_no_scanners_find_cannot_be_allowed(custody, rule):
    printed(custody, "so that there is a store")
    shown = custody("redact", "allow", f"[redacted:{rule}:01234567]", "--reason", "please")
    assert shown.code == 2
    assert "always replaced" in shown.err
    assert allowed(custody) == []


def test_a_known_value_is_replaced_though_its_fingerprint_is_allowed(custody):
    custody.environment["DEPLOY_TOKEN"] = "correct-horse-staple"
    token = TOKEN.fullmatch(printed(custody, "correct-horse-staple"))
    assert token is not None
    custody("redact", "allow", token[2], "--reason", "please")
    assert printed(custody, "correct-horse-staple") == token[0]


@pytest.mark.parametrize(
    "said", ["", "5F2A90C1", "5f2a90c", "5f2a90c1a", "../../etc", KEY_ID, "[redacted:x:1]"]
)
def test_what_is_no_fingerprint_is_refused_and_not_repeated(custody, said):
    printed(custody, "so that there is a store")
    shown = custody("redact", "allow", said, "--reason", "please")
    assert shown.code == 2
    assert KEY_ID not in shown.err


def test_a_reason_is_asked_for(custody):
    printed(custody, "so that there is a store")
    assert custody("redact", "allow", "01234567").code == 2
    assert custody("redact", "allow", "01234567", "--reason", "  ").code == 2
    assert custody("redact", "allow", "01234567", "--reason", "x" * 501).code == 2
    assert allowed(custody) == []


def test_a_secret_in_the_reason_is_kept_nowhere(custody):
    custody.environment["DEPLOY_TOKEN"] = "correct-horse-staple"
    printed(custody, "so that there is a store")
    custody("redact", "allow", "01234567", "--reason", f"not {KEY_ID}, not correct-horse-staple")
    for path in custody.store.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert KEY_ID.encode() not in data, path
            assert b"correct-horse" not in data, path


def test_taking_back_what_was_never_allowed_says_so(custody):
    printed(custody, "so that there is a store")
    shown = custody("redact", "disallow", "01234567")
    assert shown.code == 2
    assert "not allowed" in shown.err


def test_without_a_store_there_is_nothing_to_allow(custody):
    assert custody("redact", "allow", "01234567", "--reason", "x").code == 2
    assert not custody.store.exists()


def test_of_several_who_make_a_store_at_once_one_makes_the_key(custody):
    """Else what one of them records has fingerprints that nobody else can make."""
    custody.store.mkdir()
    disk = RealDisk(custody.store)
    disk.make_folder("keys")
    lock = disk.lock(f"{REDACTION_KEY}.lock")
    assert lock is not None
    with ThreadPoolExecutor() as pool:
        late = pool.submit(redaction_key, disk)
        with pytest.raises(TimeoutError):
            late.result(0.2)
        disk.replace(REDACTION_KEY, b"k" * 32)
        lock.release()
        assert late.result(60) == b"k" * 32


def test_several_may_allow_at_once(custody):
    printed(custody, "so that there is a store")
    wanted = [f"{number:08x}" for number in range(4)]
    started = [custody.start("redact", "allow", each, "--reason", "at once") for each in wanted]
    assert [process.wait(60) for process in started] == [0] * len(wanted)
    view = json.loads((custody.store / "keys" / "allowed.json").read_text())
    assert sorted(item["fingerprint"] for item in view["allowed"]) == wanted


def test_where_it_cannot_be_written_nothing_is_allowed(custody):
    printed(custody, "so that there is a store")
    (custody.store / "keys" / "allowed.lock").mkdir()
    shown = custody("redact", "allow", "01234567", "--reason", "x")
    assert shown.code == 5
    assert "cannot be written" in shown.err
    assert not (custody.store / "keys" / "allowed.json").exists()
