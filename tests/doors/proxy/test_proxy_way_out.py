"""`custody proxy --url` behind an HTTP proxy that the environment names."""

import base64
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.doors.mcp_clients import Home
from tests.doors.proxy.proxied import Proxied
from tests.doors.proxy.test_proxy_hostile_address import Answering

NOWHERE = "http://server.example:81/mcp"
"""No such host: only a proxy that asks nobody for its address gets an answer for it."""


@pytest.fixture
def way_out() -> Generator[Answering]:
    """Takes requests for any host, and answers them itself."""
    made = Answering()
    yield made
    made.close()


@contextmanager
def begun(folder: Path, url: str, **variables: str) -> Generator[Proxied]:
    home = Home(folder)
    home.environment |= variables
    made = Proxied(home, "--url", url, server=())
    try:
        yield made
    finally:
        made.kill()


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_requests_go_through_the_proxy_of_the_environment(way_out: Answering, tmp_path: Path, scheme: str):
    with begun(tmp_path, NOWHERE, http_proxy=f"{scheme}127.0.0.1:{way_out.port}") as client:
        client.greet()
        assert "result" in client.ask("tools/call", {"name": "do", "arguments": {}})
    assert {headers["host"] for _, headers in way_out.requests} == {"server.example:81"}
    assert not any("proxy-authorization" in headers for _, headers in way_out.requests)


def test_what_authorizes_at_the_proxy_stands_in_its_address(way_out: Answering, tmp_path: Path):
    with begun(tmp_path, NOWHERE, http_proxy=f"http://ada:p%40ss@127.0.0.1:{way_out.port}") as client:
        client.greet()
    said = "Basic " + base64.b64encode(b"ada:p@ss").decode()
    assert {headers.get("proxy-authorization") for _, headers in way_out.requests} == {said}
    assert not any("authorization" in headers for _, headers in way_out.requests)


@pytest.mark.parametrize("excepted", ["127.0.0.1", "127.0.0.1:{port}", "*"])
def test_a_host_that_needs_no_proxy_is_spoken_to_directly(way_out: Answering, tmp_path: Path, excepted: str):
    server = Answering()
    try:
        proxy, no_proxy = f"http://127.0.0.1:{way_out.port}", excepted.format(port=server.port)
        url = f"http://127.0.0.1:{server.port}/mcp"
        with begun(tmp_path, url, http_proxy=proxy, no_proxy=no_proxy) as client:
            client.greet()
        assert server.requests and not way_out.requests
    finally:
        server.close()


def test_a_proxy_of_a_kind_that_is_not_spoken_is_refused(tmp_path: Path):
    with begun(tmp_path, NOWHERE, http_proxy="socks5://127.0.0.1:9") as client:
        assert client.process.wait(60) == 2
        assert "http_proxy names a proxy of kind socks5" in client.complaints()
        assert "no_proxy=server.example" in client.complaints()


def test_passwords_of_a_netrc_are_not_sent_unasked(tmp_path: Path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ada password of-the-netrc\n")
    server = Answering()
    try:
        with begun(tmp_path, f"http://127.0.0.1:{server.port}/mcp") as client:
            client.greet()
        assert not any("authorization" in headers for _, headers in server.requests)
    finally:
        server.close()
