"""`http_fetch`: which hosts it reaches, at which addresses, and what becomes of a request that is sent on."""

import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.skills.test_sources_https import certificates
from tests.tools.http_servers import (
    WAIT_SECONDS,
    Fetching,
    Server,
    answer,
    failed,
    sends_on,
    succeeded,
)

from custody.errors import ToolError
from custody.tools.http_fetch.request import METHODS, Asked, Method, redirected

CREDENTIALS = {"Authorization": "Bearer kq81-zz02", "Cookie": "a=b", "X-Api-Key": "c", "Accept": "text/plain"}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fetching]:
    fetching = Fetching(tmp_path_factory.mktemp("work"))
    yield fetching
    fetching.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def another() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def server(running: Server) -> Server:
    running.clear()
    running.answers["/"] = answer(b"here")
    return running


@pytest.fixture
def other(another: Server) -> Server:
    another.clear()
    another.answers["/"] = answer(b"there")
    return another


@pytest.fixture
def fetch(opened: Fetching, server: Server) -> Fetching:
    opened.reset(server.place)
    return opened


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An authority; and a certificate of it for localhost and 127.0.0.1, with its key."""
    return certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def over_tls(files: tuple[Path, Path]) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[1])
    server = Server(tls=context)
    yield server
    server.close()


@pytest.fixture
def tls(over_tls: Server) -> Server:
    over_tls.clear()
    over_tls.answers["/"] = answer(b"sealed")
    return over_tls


# -- which hosts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "0x7f000001", "2130706433", "127.1", "017700000001", "[::ffff:127.0.0.1]", "localhost"],
)
@pytest.mark.parametrize("anywhere", [False, True])
def test_this_machine_is_reached_under_no_spelling_where_nobody_lists_it(
    server: Server, fetch: Fetching, host: str, anywhere: bool
):
    fetch.reset(anywhere=anywhere)
    call = fetch(f"http://{host}:{server.port}/")
    assert "this machine itself" in failed(call)
    assert "[sandbox] hosts = [" in failed(call)
    assert (server.requests, fetch.asked) == ([], [])


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "[fd00::1]"]
)
def test_private_and_special_addresses_are_refused_where_any_public_one_is_allowed(
    fetch: Fetching, host: str
):
    fetch.reset(anywhere=True)
    call = fetch(f"http://{host}/")
    assert (call.outcome, call.error and call.error["type"]) == ("failed", "Refused")


def test_what_is_not_listed_is_not_even_looked_up(fetch: Fetching):
    fetch.reset("example.org")
    assert '[sandbox] hosts = ["example.com:8080"]' in failed(fetch("http://example.com:8080/"))
    assert fetch.asked == []


def test_a_listed_address_is_reached_under_every_spelling_and_called_by_its_usual_one(
    server: Server, fetch: Fetching
):
    assert succeeded(fetch(f"http://0x7f.1:{server.port}"))["body"] == "here"
    assert server.requests[0][1]["host"] == server.place


def test_a_name_is_looked_up_once_and_the_server_is_asked_by_the_name(server: Server, fetch: Fetching):
    fetch.reset(f"service.test:{server.port}", server.place, service__test=[["127.0.0.1"], ["10.0.0.1"]])
    result = succeeded(fetch(f"http://Service.TEST.:{server.port}/"))
    assert (result["body"], result["hops"][0]["address"]) == ("here", "127.0.0.1")
    assert server.requests[0][1]["host"] == f"service.test:{server.port}"
    assert fetch.asked == ["service.test"]


def test_a_name_of_other_letters_is_asked_for_as_the_dns_has_it(server: Server, fetch: Fetching):
    fetch.reset(f"bücher.test:{server.port}", server.place)
    fetch.answers("xn--bcher-kva.test", ["127.0.0.1"])
    server.answers["/%C3%BC"] = answer(b"ue")
    result = succeeded(fetch(f"http://bücher.test:{server.port}/ü"))
    assert result["body"] == "ue"
    assert server.requests[0][1]["host"] == f"xn--bcher-kva.test:{server.port}"


def test_a_name_that_leads_inside_is_refused_though_it_is_listed(server: Server, fetch: Fetching):
    fetch.reset(f"service.test:{server.port}", service__test=[["127.0.0.1"]])
    assert "leads to 127.0.0.1" in failed(fetch(f"http://service.test:{server.port}/"))
    fetch.reset(anywhere=True, service__test=[["93.184.216.34", "127.0.0.1"]])
    assert "leads to 127.0.0.1" in failed(fetch(f"http://service.test:{server.port}/"))
    assert server.requests == []


def test_a_name_that_leads_elsewhere_at_the_next_hop_is_judged_anew(server: Server, fetch: Fetching):
    fetch.reset(
        f"service.test:{server.port}", server.place, service__test=[["127.0.0.1"], ["169.254.169.254"]]
    )
    server.answers["/on"] = sends_on("/")
    call = fetch(f"http://service.test:{server.port}/on")
    assert "leads to 169.254.169.254" in failed(call)
    assert len(server.requests) == 1
    assert fetch.recorded(call).result == {
        "hops": [{"url": f"http://service.test:{server.port}/on", "status": 302, "address": "127.0.0.1"}]
    }


def test_the_next_address_is_tried_where_one_does_not_answer(server: Server, fetch: Fetching):
    fetch.reset(
        f"service.test:{server.port}",
        server.place,
        f"127.0.0.2:{server.port}",
        service__test=[["127.0.0.2", "127.0.0.1"]],
    )
    result = succeeded(fetch(f"http://service.test:{server.port}/"))
    assert result["hops"] == [
        {"url": f"http://service.test:{server.port}/", "status": 200, "address": "127.0.0.1"}
    ]


def test_who_cannot_be_reached_is_named_with_the_reason(fetch: Fetching):
    with socket.socket() as held:  # and nobody listens at it: a free port may be another test's by then
        held.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{held.getsockname()[1]}"
        fetch.reset(place)
        said = failed(fetch(f"http://{place}/?secret"))
    assert f"http://{place} cannot be reached: Connection refused." in said


def test_a_server_with_an_address_of_version_6_is_reached(fetch: Fetching):
    try:
        server = Server("::1")
    except OSError:
        pytest.skip("this machine has no ::1")
    try:
        server.answers["/"] = answer(b"six")
        fetch.reset(server.place)
        result = succeeded(fetch(server.url))
        assert (result["body"], result["hops"][0]["address"]) == ("six", "::1")
        assert server.requests[0][1]["host"] == server.place
    finally:
        server.close()


# -- TLS --------------------------------------------------------------------------------------------------


def test_a_certificate_that_is_trusted_and_names_the_host_is_taken(
    tls: Server, fetch: Fetching, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(files[0]))
    fetch.reset(tls.place, f"localhost:{tls.port}", "[::1]:1")
    assert succeeded(fetch(tls.url))["body"] == "sealed"
    result = succeeded(fetch(f"https://localhost:{tls.port}/"))
    assert (result["url"], result["hops"][0]["address"]) == (f"https://localhost:{tls.port}/", "127.0.0.1")


def test_a_certificate_of_another_host_or_of_nobody_is_refused_before_anything_is_sent(
    tls: Server, fetch: Fetching, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
):
    fetch.reset(tls.place, f"service.test:{tls.port}", service__test=[["127.0.0.1"]])
    assert "its certificate is not trusted" in failed(fetch(tls.url))
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(files[0]))
    said = failed(fetch(f"https://service.test:{tls.port}/"))
    assert "Hostname mismatch" in said
    assert tls.requests == []


def test_a_server_without_tls_is_none_with_it(server: Server, fetch: Fetching):
    assert "cannot be reached" in failed(fetch(f"https://{server.place}/"))
    assert server.requests == []


def test_a_large_answer_comes_through_tls_whole(
    tls: Server, fetch: Fetching, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(files[0]))
    fetch.reset(tls.place)
    data = b"0123456789abcdef" * 50_000
    tls.answers["/large"] = answer(data)
    result = succeeded(fetch(f"{tls.url}/large"))
    assert (result["body"].encode(), result["bytes_in"]) == (data, len(tls.answers["/large"]))


# -- redirects --------------------------------------------------------------------------------------------


def test_redirects_are_followed_and_each_hop_is_told(server: Server, other: Server, fetch: Fetching):
    fetch.reset(server.place, other.place)
    server.answers["/a"] = sends_on("b/c?d=1", "301 Moved Permanently")
    server.answers["/b/c"] = sends_on(f"//{other.place}/größe und#x", "307 Temporary Redirect")
    other.answers["/gr%C3%B6%C3%9Fe%20und"] = answer(b"arrived")
    result = succeeded(fetch(f"{server.url}/a"))
    assert result["body"] == "arrived"
    assert result["url"] == f"{other.url}/gr%C3%B6%C3%9Fe%20und"
    assert [(hop["url"], hop["status"]) for hop in result["hops"]] == [
        (f"{server.url}/a", 301),
        (f"{server.url}/b/c?d=1", 307),
        (result["url"], 200),
    ]


@pytest.mark.parametrize(
    ("status", "method", "then", "with_body"),
    [
        ("301 Moved", "POST", "GET", False),
        ("302 Found", "POST", "GET", False),
        ("303 See Other", "POST", "GET", False),
        ("303 See Other", "PUT", "GET", False),
        ("303 See Other", "HEAD", "HEAD", False),
        ("301 Moved", "PUT", "PUT", True),
        ("302 Found", "DELETE", "DELETE", True),
        ("307 Temporary", "POST", "POST", True),
        ("308 Permanent", "PATCH", "PATCH", True),
    ],
)
def test_a_redirect_changes_the_method_as_it_does_in_browsers(
    server: Server, fetch: Fetching, status: str, method: str, then: str, with_body: bool
):
    server.answers["/on"] = sends_on("/", status)
    body: dict[str, Any] = {} if method == "HEAD" else {"json": {"a": 1}}
    succeeded(fetch(f"{server.url}/on", method=method, **body))
    line, fields, sent = server.requests[1]
    assert line == f"{then} / HTTP/1.1"
    assert (sent, "content-type" in fields) == ((b'{"a": 1}', True) if with_body else (b"", False))


def test_what_may_be_a_key_is_not_sent_along_to_another_host(server: Server, other: Server, fetch: Fetching):
    fetch.reset(server.place, other.place)
    server.answers["/near"] = sends_on("/")
    server.answers["/far"] = sends_on(other.url)
    other.answers["/"] = sends_on(f"{server.url}/")
    near = succeeded(fetch(f"{server.url}/near", headers=CREDENTIALS))
    assert [hop.get("headers_not_sent") for hop in near["hops"]] == [None, None]
    assert (
        server.requests[1][1].items() >= {name.lower(): value for name, value in CREDENTIALS.items()}.items()
    )
    server.requests.clear()
    far = succeeded(fetch(f"{server.url}/far", headers=CREDENTIALS))
    assert [hop.get("headers_not_sent") for hop in far["hops"]] == [
        None,
        ["authorization", "cookie", "x-api-key"],
        None,
    ]
    for _, fields, _ in (other.requests[0], server.requests[1]):
        assert fields["accept"] == "text/plain"
        assert fields.keys().isdisjoint({"authorization", "cookie", "x-api-key"})


def test_a_user_in_a_url_goes_to_its_own_host_alone(server: Server, other: Server, fetch: Fetching):
    fetch.reset(server.place, other.place)
    server.answers["/near"] = sends_on(f"http://mallory:pw@{server.place}/far")
    server.answers["/far"] = sends_on(f"http://mallory:pw@{other.place}/")
    result = succeeded(fetch(f"http://me:secret@{server.place}/near"))
    assert [fields.get("authorization") for _, fields, _ in (*server.requests, *other.requests)] == [
        "Basic bWU6c2VjcmV0",
        "Basic bWU6c2VjcmV0",
        None,
    ]
    assert "@" not in "".join(hop["url"] for hop in result["hops"])


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("http://127.0.0.1:9/", "this machine itself"),
        ("http://0x7f000001/", "this machine itself"),
        ("http://[::1]:22/", "this machine itself"),
        ("http://169.254.169.254/latest/meta-data/", "metadata service"),
        ("//10.0.0.1/", "a private address"),
        ("http://unlisted.test/", "not on the list"),
        ("file:///etc/passwd", "Only http:// and https://"),
        ("javascript:alert(1)", "Only http:// and https://"),
        ("http://a[::1]/", "names no host"),
        ("http://a\\@b/", "a backslash"),
        ("http://[", "no URL"),
    ],
)
def test_a_redirect_to_where_a_request_may_not_go_is_not_followed(
    server: Server, fetch: Fetching, location: str, why: str
):
    server.answers["/on"] = sends_on(location)
    assert why in failed(fetch(f"{server.url}/on"))
    assert len(server.requests) == 1


def test_from_https_nothing_is_sent_on_without_it(
    tls: Server, server: Server, fetch: Fetching, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(files[0]))
    fetch.reset(tls.place, server.place)
    tls.answers["/down"] = sends_on(f"{server.url}/?token")
    said = failed(fetch(f"{tls.url}/down"))
    assert f"sends on from https to {server.url}," in said
    assert server.requests == []
    server.answers["/up"] = sends_on(tls.url)
    assert succeeded(fetch(f"{server.url}/up"))["body"] == "sealed"


def test_redirects_are_bounded_and_with_none_the_first_is_the_answer(server: Server, fetch: Fetching):
    server.answers["/round"] = sends_on("/round")
    assert "after 2 redirects" in failed(fetch(f"{server.url}/round", redirects_max=2))
    assert len(server.requests) == 3
    result = succeeded(fetch(f"{server.url}/round", redirects_max=0))
    assert (result["status"], result["headers"]["location"], result["body"]) == (302, "/round", "moved")


def test_a_redirect_that_says_no_place_and_a_status_that_is_none_are_answers(server: Server, fetch: Fetching):
    server.answers["/nowhere"] = answer(b"?", status="302 Found")
    server.answers["/choice"] = answer(b"which", "Location: /", status="300 Multiple Choices")
    server.answers["/made"] = answer(b"made", "Location: /", status="201 Created")
    bodies = [succeeded(fetch(server.url + path))["body"] for path in ("/nowhere", "/choice", "/made")]
    assert bodies == ["?", "which", "made"]


def test_the_body_of_a_redirect_is_not_waited_for(server: Server, fetch: Fetching):
    server.answers["/on"] = server.hangs(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 999\r\n\r\n")
    assert succeeded(fetch(f"{server.url}/on"))["body"] == "here"
    assert server.ended.wait(WAIT_SECONDS)


HEADERS = st.dictionaries(
    st.sampled_from(["Authorization", "Cookie", "X-Key", "Private-Token", "Accept", "Range", "Content-Type"]),
    st.just("v"),
)
PLACES = st.sampled_from(
    ["http://a.test", "https://a.test", "http://a.test:8080", "https://b.test", "http://b.test"]
)


@given(
    start=PLACES,
    places=st.lists(st.tuples(PLACES, st.sampled_from([301, 302, 303, 307, 308])), min_size=1, max_size=5),
    method=st.sampled_from(METHODS),
    headers=HEADERS,
)
def test_wherever_redirects_lead_keys_stay_with_the_first_host_and_https_is_kept(
    start: str, places: list[tuple[str, int]], method: Method, headers: dict[str, str]
):
    request = first = Asked(url=start, method=method, headers=headers).request()
    left = False
    for place, status in places:
        before = request.url
        try:
            request = redirected(request, status, place)
        except ToolError:
            assert (before.scheme, place[:5]) == ("https", "http:")
            return
        assert (before.scheme, request.url.scheme) != ("https", "http")
        left = left or request.url.host != first.url.host
        if left:
            assert request.headers.keys() <= {"accept", "range", "content-type"}
