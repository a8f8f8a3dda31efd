"""Who is listened to at all: names, pages, tokens."""

import pytest

from custody.doors.server.checks import Callers, bearer, headers_of, host_name
from custody.doors.server.listening import parse_address
from custody.errors import UsageError

CALLERS = Callers.of(["Ledger.example.", "[2001:db8::1]"], ["https://Console.example/"])


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST:9100", "127.0.0.1", "127.0.0.1:1", "127.8.9.1:80", "[::1]:9100", "[::1]",
        "ledger.example", "LEDGER.example.:9100", "[2001:db8::1]:9100",
    ],
)  # fmt: skip
def test_names_of_this_machine_and_those_that_were_allowed_are_ours(host: str):
    assert CALLERS.refuse({b"host": host.encode()}, by_name=True) is None


@pytest.mark.parametrize(
    "host",
    [
        None, "", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil.example:9100",
        "ledger.example.evil", "127.0.0.1:x", "127.0.0.1@evil.example", "[::1", "[::1]x", "0x7f.1",
        "10.0.0.1", "localhost, evil.example", "2130706433", "::1",
    ],
)  # fmt: skip
def test_a_name_that_is_not_ours_is_refused(host: str | None):
    headers = {} if host is None else {b"host": host.encode()}
    refusal = CALLERS.refuse(headers, by_name=True)
    assert refusal is not None
    assert (refusal.status, refusal.code) == (421, "host_refused")


def test_nobody_comes_to_a_unix_socket_by_name():
    assert CALLERS.refuse({b"host": b"evil.example"}, by_name=False) is None


@pytest.mark.parametrize(
    "headers",
    [
        {b"origin": b"https://evil.example"},
        {b"origin": b"null"},
        {b"origin": b""},
        {b"origin": b"http://127.0.0.1:9100"},
        {b"origin": b"https://console.example.evil"},
        {b"origin": b"http://console.example"},
        {b"origin": b"https://console.example, https://evil.example"},
        {b"sec-fetch-site": b"cross-site"},
        {b"sec-fetch-site": b"same-site"},
    ],
)
@pytest.mark.parametrize("by_name", [True, False])
def test_a_web_page_that_was_not_allowed_is_refused(headers: dict[bytes, bytes], by_name: bool):
    refusal = CALLERS.refuse({b"host": b"localhost", **headers}, by_name=by_name)
    assert refusal is not None
    assert (refusal.status, refusal.code) == (403, "origin_refused")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"origin": b"https://console.example"},
        {b"origin": b"HTTPS://CONSOLE.EXAMPLE", b"sec-fetch-site": b"cross-site"},
        {b"sec-fetch-site": b"none"},
    ],
)
def test_no_page_or_one_that_was_allowed_is_let_through(headers: dict[bytes, bytes]):
    assert CALLERS.refuse({b"host": b"localhost", **headers}, by_name=True) is None


def test_without_any_page_allowed_none_is():
    assert Callers().refuse({b"host": b"localhost", b"origin": b"http://localhost"}, by_name=True) is not None


def test_a_second_header_of_the_same_name_hides_nothing():
    scope = {"headers": [(b"origin", b"https://console.example"), (b"origin", b"https://evil.example")]}
    assert CALLERS.refuse({b"host": b"localhost", **headers_of(scope)}, by_name=True) is not None


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (b"Bearer abc", "abc"), (b"bearer  abc ", "abc"), (b"Basic abc", None), (b"Bearer", None),
        (b"Bearer ", None), (b"abc", None), (b"", None),
    ],
)  # fmt: skip
def test_a_token_is_what_follows_bearer(value: bytes, token: str | None):
    assert bearer({b"authorization": value}) == token


def test_a_name_is_read_without_its_port():
    assert [host_name(text) for text in ("A:1", "[::1]:1", "a.", ":1", "")] == ["a", "::1", "a", None, None]


@pytest.mark.parametrize(
    "host", ["", "*", "https://ledger.example", "ledger.example:9100", "a b", "a/b", "[::1", ".", "*.example"]
)
def test_a_name_that_no_request_can_say_is_refused_at_once(host: str):
    with pytest.raises(UsageError, match="no name of a host"):
        Callers.of([host], [])


@pytest.mark.parametrize(
    "page",
    ["", "*", "null", "console.example", "https://", "https://*.example", "https://a/b", "https://a:x"],
)
def test_a_page_that_no_browser_can_name_is_refused_at_once(page: str):
    with pytest.raises(UsageError, match="no origin"):
        Callers.of([], [page])


def test_a_page_is_known_by_the_name_browsers_give_it():
    callers = Callers.of(
        [], ["HTTPS://console.example:443/", "http://localhost:3000", "chrome-extension://abc"]
    )
    assert callers.origins == {"https://console.example", "http://localhost:3000", "chrome-extension://abc"}


@pytest.mark.parametrize(
    "listen",
    [
        "", "nowhere", "9100", ":9100", "127.0.0.1", "127.0.0.1:", "127.0.0.1:-1", "127.0.0.1:70000",
        "127.0.0.1:9x", "::1:9100", "[::1:9100", "::1]:9100", "[localhost]:9100", "localhost:80:80",
        "ws://127.0.0.1:9100", "*:9100", "a b:1", "127.0.0.1:\uff11",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(listen: str):
    with pytest.raises(UsageError, match="no address to listen on"):
        parse_address(listen)


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)), ("localhost:9100", ("localhost", 9100)), ("[::1]:1", ("::1", 1)),
        ("[FE80::1%eth0]:65535", ("FE80::1%eth0", 65535)), ("ledger-1.example:80", ("ledger-1.example", 80)),
    ],
)  # fmt: skip
def test_an_address_is_a_host_and_a_port(listen: str, address: tuple[str, int]):
    assert parse_address(listen) == address
