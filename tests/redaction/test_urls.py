"""Credentials in URLs: found where they stand, and nothing else taken for them."""

import hmac

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.how_many import as_many
from tests.implementations import with_each_at_length  # noqa: F401 - every test here holds for both

import custody
from custody.records import Redaction
from custody.redaction import Redactor
from custody.redaction.known import Fingerprints
from custody.redaction.urls import UrlCredentials, holds_userinfo

KEY = b"k" * 32
REDACTOR = Redactor(KEY, {"API_TOKEN": "hunter2-hunter2"})
URLS = UrlCredentials(Fingerprints(KEY))


def token(secret: str, rule: str = "url_credentials") -> str:
    return f"[redacted:{rule}:{hmac.new(KEY, secret.encode(), 'sha256').hexdigest()[:8]}]"


def kept(value: object) -> object:
    return msgspec.msgpack.decode(REDACTOR.keep(value, "").data)


PAIR = token("s3cret")

WITH_CREDENTIALS = {
    "https://ada:s3cret@example.com/x.git": f"https://ada:{PAIR}@example.com/x.git",
    "remote: https://ada:s3cret@example.com.": f"remote: https://ada:{PAIR}@example.com.",
    "--url=https://ada:s3cret@h": f"--url=https://ada:{PAIR}@h",
    '{"u": "https://ada:s3cret@h", "m": "a@b"}': f'{{"u": "https://ada:{PAIR}@h", "m": "a@b"}}',
    "postgres://shop:s3cret@db:5432/shop": f"postgres://shop:{PAIR}@db:5432/shop",
    "redis://:s3cret@cache": f"redis://:{PAIR}@cache",
    "ssh://git:s3cret@host/x": f"ssh://git:{PAIR}@host/x",
    "mongodb://a:s3cret@h1:1,h2:2/db": f"mongodb://a:{PAIR}@h1:1,h2:2/db",
    "MY+SCHEME://a:s3cret@h": f"MY+SCHEME://a:{PAIR}@h",
    "://a:s3cret@h": f"://a:{PAIR}@h",
    "https://a:p@ss:w@rd@h/@x": f"https://a:{token('p@ss:w@rd')}@h/@x",
    "https://a:s3cret@h1 https://b:s3cret@h2": f"https://a:{PAIR}@h1 https://b:{PAIR}@h2",
    "https://a:s3cret@h,https://b:s3cret@i": f"https://a:{PAIR}@h,https://b:{PAIR}@i",
    "https://a:%733cret@h": f"https://a:{PAIR}@h",
    "https://a:1@h": f"https://a:{token('1')}@h",
    "https://ghp_0123456789abcdef@github.com": f"https://{token('ghp_0123456789abcdef')}@github.com",
    "https://abcdefgh@github.com": f"https://{token('abcdefgh')}@github.com",
    "https://ghp_0123456789@h": f"https://{token('ghp_0123456789')}@h",
    "https://0123456789abcdef:@h": f"https://{token('0123456789abcdef')}:@h",
    "https://ghp_tokenish:x-oauth-basic@h": f"https://{token('ghp_tokenish')}:x-oauth-basic@h",
    "https://0123456789abcdef:s3cret@h": f"https://{token('0123456789abcdef')}:{PAIR}@h",
    "https://x-access-token:s3cret@h": f"https://x-access-token:{PAIR}@h",
    "custom://0123456789abcdef@h": f"custom://{token('0123456789abcdef')}@h",
    "http" * 20 + "://a:s3cret@h": "http" * 20 + f"://a:{PAIR}@h",
}

WITHOUT = """
    https://example.com https://example.com/@scope/pkg https://h/x?mail=ada@example.com https://h#ada@b
    ssh://git@github.com/x.git git@github.com:x/y.git ssh://deployer99@host ada@example.com
    postgres://shop@db postgresql://postgres@localhost/db ftp://anonymous@host https://git@github.com
    mailto:somebody@example.com user:pass@host //user:pass@host http:/user:pass@host
    docker://postgres@sha256:0123456789 akka://ActorSystem@host https://@host https://:@host
    https://ada:***@h https://ada:${PASSWORD}@h https://{{user}}:{{password}}@h https://<token>@h
    https://<user>:<password>@h https://example.com,(ada@example.com)
    https://ada:x-oauth-basic@h npm:@scope/pkg @decorator a@b@c@d :// @ ://@ ://@@
""".split()


@pytest.mark.parametrize("text", WITH_CREDENTIALS)
def test_credentials_in_a_url_are_replaced_by_a_token_and_nothing_around_them_is(text: str) -> None:
    assert kept([text]) == [WITH_CREDENTIALS[text]]
    assert kept({"raw": text.encode()}) == {"raw": WITH_CREDENTIALS[text].encode()}
    assert kept({text: 1}) == {WITH_CREDENTIALS[text]: 1}
    assert REDACTOR.text(text, "reason")[0] == WITH_CREDENTIALS[text]
    assert REDACTOR.knows(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        *WITHOUT,
        "https://h\nada@example.com:22",
        "see https://h or mail a:b@c",
        "https://例え.jp。ada@example.com",
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert kept([text, text.encode(), {text: 1}]) == [text, text.encode(), {text: 1}]
    assert REDACTOR.text(text, "reason") == (text, ())


def test_hits_name_the_rule_the_place_and_how_many() -> None:
    text = "https://a:s3cret@h1 hunter2-hunter2 https://a:s3cret@h2"
    kept = REDACTOR.keep({"argv": ["git", "clone", text]}, "arguments")
    assert kept.hits == (
        Redaction("known_value", "arguments.argv.2", 1),
        Redaction("url_credentials", "arguments.argv.2", 2),
    )
    assert REDACTOR.text(text, "reason")[1] == (
        Redaction("known_value", "reason", 1),
        Redaction("url_credentials", "reason", 2),
    )


def test_a_known_value_in_a_url_keeps_the_token_of_the_known_value() -> None:
    known = token("hunter2-hunter2", "known_value")
    assert kept("https://ada:hunter2-hunter2@h") == f"https://ada:{known}@h"
    assert kept("https://hunter2-hunter2@h") == f"https://{known}@h"
    assert kept("https://hunter2-hunter2:x-oauth-basic@h") == f"https://{known}:x-oauth-basic@h"
    assert "more" not in str(kept("https://ada:hunter2-hunter2more@h"))


def test_a_secret_has_one_fingerprint_in_a_url_and_under_a_name() -> None:
    fingerprint = token("s 3@cret").removesuffix("]").rpartition(":")[2]
    assert fingerprint in str(kept("https://ada:s%203%40cret@h"))
    assert fingerprint in str(kept({"password": "s 3@cret"}))


def test_bytes_that_are_no_text_keep_every_other_byte() -> None:
    data = b"\xff\xfe https://a:\xff\x80@h \x00\x01"
    kept_data, count = URLS.replace_bytes(data)
    assert count == 1
    assert kept_data.startswith(b"\xff\xfe https://a:[redacted:url_credentials:")
    assert kept_data.endswith(b"]@h \x00\x01")


PIECES = st.sampled_from([
    "://", "https://", "ssh://", "@", ":", "/", "?", "a", "user", "0123456789", "longer-name", "s3cret",
    " ", "\n", '"', "\\", "é", "\u3000", "\udc80", "***", "${X}", "x-oauth-basic", token("x"), "[", "]",
    "%41", "hunter2-hunter2",
])  # fmt: skip
TEXTS = st.lists(PIECES, max_size=12).map("".join)


@settings(max_examples=as_many(500))
@given(TEXTS)
@example("://" + token("x") + "y@")
def test_what_was_replaced_once_is_left_alone_the_second_time(text: str) -> None:
    once, _ = URLS.replace(text)
    assert URLS.replace(once) == (once, 0)


@settings(max_examples=as_many(500))
@given(TEXTS)
def test_text_and_its_bytes_are_judged_alike(text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    replaced, count = URLS.replace(text)
    assert (URLS.replace_bytes(data)[1] > 0) == (count > 0)
    if count:
        assert holds_userinfo(data)
        assert holds_userinfo(
            replaced.encode("utf-8", "surrogatepass")
        )  # a token has a colon: looked at, kept


NAMES = st.text("abcdefgh-_.", max_size=12)
PASSWORDS = st.text(
    st.characters(min_codepoint=0x21, exclude_characters="/?#\"'<>\\`\x7f", exclude_categories=["Cs"])
)


@settings(max_examples=as_many(300))
@given(st.sampled_from(["https", "ssh", "postgres", "x+y", ""]), NAMES, PASSWORDS, TEXTS, TEXTS)
def test_no_password_of_a_url_is_ever_kept(
    scheme: str, name: str, password: str, before: str, after: str
) -> None:
    secret = f"S3CR3T{password}S3CR3T"
    data = REDACTOR.keep([f"{before} {scheme}://{name}:{secret}@host/ {after}"], "").data
    assert b"S3CR3T" not in data


@pytest.mark.parametrize(
    "piece", ["@", "://", "a", "://a@", "://a:", pytest.param("https://a:b@", marks=pytest.mark.long)]
)
def test_text_made_to_take_long_takes_one_pass(piece: str) -> None:
    """Were it more, 30,000 of them would outlast the test's deadline."""
    text = f"x://{piece * 30_000}"
    for part in (text, f"{text}://", f"{text}@"):
        assert (URLS.replace(part)[1] > 0) <= holds_userinfo(part.encode())
        kept({"text": part})


def test_credentials_in_urls_are_on_no_byte_of_the_store_and_the_caller_still_gets_them(tmp_path) -> None:
    url = "https://ada:hunter2-in-a-url@host.invalid/x"
    store = tmp_path / "store"
    with custody.open(store) as runtime:
        with runtime.run(f"read {url}", inputs={"where": url}) as run:
            call = run.call("exec", {"argv": ["printf", "%s\\n", url]})
            run.call("exec", {"argv": ["true"], "cwd": f"/{url}"})
            run.call(f"no-tool-{url}", {})
            run.step(f"I will read {url}.")
            run.finish(output={"said": url})
        shown = runtime.index.call(call.id)
    assert call.result["stdout"] == f"{url}\n"
    assert "hunter2-in-a-url" not in repr((shown.arguments, shown.result))
    assert {hit.rule for hit in shown.redactions} == {"url_credentials"}
    written = [path.read_bytes() for path in store.rglob("*") if path.is_file()]
    assert written and not any(b"hunter2-in-a-url" in data for data in written)
