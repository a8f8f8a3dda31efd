"""Servers in an MCP client's settings: behind the proxy with all they had, and given back to the byte."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.installing.texts import SERVERS, Text

from custody.installing import toml_servers
from custody.installing.jsonc import parse
from custody.installing.servers import Proxy, servers_in, with_proxy, without_proxy

PROXY = Proxy(words=("/opt/bin/custody", "proxy", "--store", "/srv/store"))
MODULE = Proxy(words=("/usr/bin/python3", "-m", "custody", "proxy"))
KEY = "mcpServers"


@given(SERVERS, st.sampled_from([PROXY, MODULE]))
def test_what_was_put_behind_the_proxy_comes_back_to_the_byte(text: Text, proxy: Proxy):
    edited = with_proxy(text[0], KEY, proxy)
    assert with_proxy(edited, KEY, proxy) == edited, "a second time changes nothing"
    back = without_proxy(edited, KEY, text[0])
    assert parse(back).value == text[1]
    if not any("url" in entry for entry in text[1][KEY].values()):  # of an address the copy knows the blanks
        assert back == text[0]


@given(SERVERS)
def test_each_server_is_behind_the_proxy_or_it_is_said_why_not(text: Text):
    edited = parse(with_proxy(text[0], KEY, PROXY)).value
    told = {server.name: server for server in servers_in(text[0], KEY, PROXY)}
    assert told.keys() == text[1][KEY].keys()
    for name, before in text[1][KEY].items():
        after = edited[KEY][name]
        if told[name].left is not None:
            assert after == before
            continue
        assert after["command"] == PROXY.words[0]
        way = (
            ["--url", before["url"]]
            if "url" in before
            else ["--", before["command"], *before.get("args", [])]
        )
        assert after["args"] == [*PROXY.words[1:], "--name", name, *way]
        assert after.get("env") == before.get("env")


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ('{"url": "http://x", "headers": {"Authorization": "Bearer x"}}', "signs in by headers"),
        ('{"url": "http://x", "type": "sse"}', "streamable HTTP"),
        ('{"command": "x", "args": ["a", 1]}', "no list of texts"),
        ('{"command": "/usr/bin/custody", "args": ["mcp"]}', "Custody's own"),
        ("{}", "neither"),
        ("3", "no object"),
    ],
)
def test_a_server_the_proxy_cannot_stand_in_for_is_left_alone(entry: str, why: str):
    text = f'{{"servers": {{"it": {entry}}}}}'
    assert with_proxy(text, "servers", PROXY) == text
    [server] = servers_in(text, "servers", PROXY)
    assert server.left is not None and why in server.left


def test_a_server_at_an_address_is_left_alone_where_the_proxy_cannot_speak_to_it():
    text = '{"servers": {"it": {"url": "http://x"}}}'
    [server] = servers_in(text, "servers", Proxy(words=PROXY.words, urls=False))
    assert server.left is not None and "custody-runtime[mcp]" in server.left


def test_lists_of_single_projects_count_too():
    text = '{"projects": {"/srv/a": {"mcpServers": {"one": {"command": "x"}}}, "/srv/b": {}}}'
    edited = with_proxy(text, KEY, PROXY)
    assert [(one.name, one.through) for one in servers_in(edited, KEY, PROXY)] == [("/srv/a: one", True)]
    assert without_proxy(edited, KEY, text) == text


TOML = """\
# mine
model = "x" # nice
[mcp_servers.docs]
command = "npx" # the command
args = [ "-y",
  "docs", # its args
]
env = { A_TOKEN = "s" }

[mcp_servers."a b"]
  command = "srv"

[mcp_servers.empty]
command = "e"
args = []

[mcp_servers.web]
url = "https://z.example/mcp"
tool_timeout_sec = 60

[mcp_servers.signed]
url = "https://z.example/mcp"
bearer_token_env_var = "TOKEN"

[mcp_servers]
inline = { command = "a", args = [] }
dotted.command = "d"
"""


@pytest.mark.parametrize(
    "text", [TOML, TOML.replace("\n", "\r\n"), TOML.rstrip(), "", "[mcp_servers]\n", "a = 1"]
)
@pytest.mark.parametrize("proxy", [PROXY, MODULE])
def test_in_toml_too(text: str, proxy: Proxy):
    edited = toml_servers.with_proxy(text, "mcp_servers", proxy)
    assert toml_servers.with_proxy(edited, "mcp_servers", proxy) == edited
    assert toml_servers.without_proxy(edited, "mcp_servers", text) == text
    assert edited.count("#") == text.count("#")
    told = {one.name: one.left for one in toml_servers.servers_in(text, "mcp_servers", proxy)}
    for name, before in tomllib.loads(text).get("mcp_servers", {}).items():
        after = tomllib.loads(edited)["mcp_servers"][name]
        if told[name] is not None:
            assert (after, name in ("inline", "dotted", "signed")) == (before, True)
            continue
        way = (
            ["--url", before["url"]]
            if "url" in before
            else ["--", before["command"], *before.get("args", [])]
        )
        assert (after["command"], after["args"]) == (
            proxy.words[0],
            [*proxy.words[1:], "--name", name.replace(" ", "-"), *way],
        )
        assert after.get("env") == before.get("env")


def test_a_toml_list_that_somebody_wrote_anew_is_given_back_all_the_same():
    text = '[mcp_servers.x]\ncommand = "npx"\nargs = ["-y"]\n'
    edited = toml_servers.with_proxy(text, "mcp_servers", PROXY).replace('["proxy", ', '[\n  "proxy",\n  ')
    assert tomllib.loads(toml_servers.without_proxy(edited, "mcp_servers", text)) == tomllib.loads(text)


def test_what_is_no_toml_is_told_with_its_place():
    with pytest.raises(toml_servers.NotToml, match="line 2"):
        toml_servers.with_proxy("a = 1\nb = \n", "mcp_servers", PROXY)
