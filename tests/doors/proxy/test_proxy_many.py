"""`custody proxy --config`: the servers of an `mcpServers` file as one, their names in front."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.doors.mcp_clients import Home
from tests.doors.proxy.proxied import SERVER, Proxied, calls


def config(folder: Path, **servers: Any) -> str:
    """A file with these beside `one` and `two`."""
    entry = {"command": sys.executable, "args": [str(SERVER)]}
    described = {
        "one": {**entry, "env": {"CALLS": str(folder / "one.txt")}},
        "two": {**entry, "args": ["${ECHO_SERVER}"], "env": {"CALLS": str(folder / "two.txt")}},
        **servers,
    }
    path = folder / "servers.json"
    path.write_text(json.dumps({"mcpServers": described, "other": 1}), encoding="utf-8")
    return str(path)


def started(folder: Path, **servers: Any) -> Proxied:
    home = Home(folder, variables={"ECHO_SERVER": str(SERVER)})
    return Proxied(home, "--config", config(folder, **servers), server=())


def sent(client: Proxied, server: str) -> list[dict[str, Any]]:
    """What a server got of all that was said before: both have answered what was asked behind it."""
    assert "result" in client.ask("ping")
    lines = (client.home.folder / f"{server}.txt").read_bytes().splitlines()
    return [json.loads(line) for line in lines[:-1]]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    made = started(tmp_path_factory.mktemp("many"))
    try:
        made.greet()
        yield made
        assert made.close() == 0, made.complaints()
    finally:
        made.kill()


def test_one_greeting_says_what_any_of_them_can(client: Proxied):
    greeting = client.greeting
    assert set(greeting["capabilities"]) == {"tools", "prompts", "resources"}
    assert (greeting["serverInfo"]["name"], greeting["protocolVersion"]) == ("custody-proxy", "2025-06-18")


def test_the_tools_of_all_are_listed_under_names_of_their_own(client: Proxied):
    tools = {tool["name"]: tool for tool in client.ask("tools/list")["result"]["tools"]}
    assert {"one__echo", "two__echo", "two__die"} <= tools.keys()
    assert tools["two__echo"]["inputSchema"] == {"type": "object", "$defs": {"a": {"$anchor": "here"}}}
    assert list(tools["two__echo"]["_meta"]) == ["z", "a"]


def test_a_call_comes_to_its_server_under_the_servers_own_name(client: Proxied):
    before = len(sent(client, "one"))
    assert client.call("two__echo", {"text": "for two"})["content"][0]["text"] == "for two"
    assert sent(client, "two")[-1]["params"] == {"name": "echo", "arguments": {"text": "for two"}}
    assert not any(one.get("method") == "tools/call" for one in sent(client, "one")[before:])
    assert "result" in client.ask("prompts/get", {"name": "one__p"})
    assert sent(client, "one")[-1]["params"] == {"name": "p"}


def test_requests_of_two_servers_under_one_id_are_told_apart(client: Proxied):
    asked = [
        client.begin("tools/call", {"name": f"{name}__elicit", "arguments": {}}) for name in ("one", "two")
    ]
    forms = [client.told_of("elicitation/create"), client.told_of("elicitation/create")]
    assert len({form["id"] for form in forms}) == 2
    for form in forms:
        answer = {"action": "accept", "content": {"of": form["id"].partition("-")[0]}}
        client.send({"jsonrpc": "2.0", "id": form["id"], "result": answer})
    said = {}
    for _ in asked:
        message = client.read()
        assert message is not None
        said[message["id"]] = json.loads(message["result"]["content"][0]["text"])["content"]["of"]
    assert said == {asked[0]: "one", asked[1]: "two"}


def test_what_no_server_has_is_an_error_that_names_those_there_are(client: Proxied):
    error = client.ask("tools/call", {"name": "three__echo", "arguments": {}})["error"]
    assert error["code"] == -32602
    assert "one, two" in error["message"]
    assert "error" in client.ask("resources/read", {"uri": "test://nowhere"})


def test_one_that_ends_leaves_the_others_there(tmp_path: Path):
    made = started(tmp_path, broken={"command": "/nowhere/server"})
    try:
        made.greet()
        dying = made.ask("tools/call", {"name": "one__die", "arguments": {}})["error"]
        assert dying["code"] == -32000
        assert "'one' is gone" in dying["message"]
        names = {tool["name"] for tool in made.ask("tools/list")["result"]["tools"]}
        assert {name.partition("__")[0] for name in names} == {"two"}
        assert made.call("two__echo", {"text": "still"})["content"][0]["text"] == "still"
        found = calls(made.records()).values()
    finally:
        made.kill()
    assert [(one["tool"], one["outcome"]) for one in found] == [
        ("one__die", "unknown"), ("two__echo", "succeeded"),
    ]  # fmt: skip


HOSTILE = str(Path(__file__).parent / "hostile_server.py")


def beside_a_hostile_one(folder: Path) -> Proxied:
    environment = {"CALLS": str(folder / "bad.txt"), "LISTS": str(folder / "lists.json")}
    return started(folder, bad={"command": sys.executable, "args": [HOSTILE], "env": environment})


def written(text: str) -> dict[str, Any]:
    return {"name": "bad__do", "arguments": {"steps": [{"write": text.encode().hex()}]}}


def test_one_server_can_neither_answer_nor_take_back_what_is_anothers(tmp_path: Path):
    made = beside_a_hostile_one(tmp_path)
    try:
        made.greet()
        eliciting = made.begin("tools/call", {"name": "one__elicit", "arguments": {}})
        form = made.told_of("elicitation/create")
        for text in (
            f'{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":"{form["id"]}"}}}}',
            f'{{"jsonrpc":"2.0","id":{eliciting},"result":{{"content":[]}}}}',
            f'{{"jsonrpc":"2.0","id":{eliciting},"result":{{"n":NaN}}}}',
        ):
            made.told.clear()
            assert made.ask("tools/call", written(text + "\n"))["result"]["content"][0]["text"] == "done"
            assert made.told == []
        made.send({"jsonrpc": "2.0", "id": form["id"], "result": {"action": "decline"}})
        assert "decline" in made.answer_to(eliciting)["result"]["content"][0]["text"]
    finally:
        made.kill()


@pytest.mark.long
@pytest.mark.parametrize(
    "listed",
    ["7", "[]", '{"tools":7}', '{"tools":{"a":1}}', '{"tools":[1,null]}', '{"tools":[],"tools":[]}', "NaN"],
)
def test_a_server_whose_list_is_none_leaves_the_lists_of_the_others(tmp_path: Path, listed: str):
    (tmp_path / "lists.json").write_text(listed)
    made = beside_a_hostile_one(tmp_path)
    try:
        made.greet()
        answer = made.ask("tools/list")
        names: set[str] = {tool["name"] for tool in answer["result"]["tools"] if isinstance(tool, dict)}
        assert {"one__echo", "two__echo"} <= names
    finally:
        made.kill()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no JSON"),
        ("{}", "no mcpServers"),
        ('{"mcpServers": {"a": {}}}', "neither a command nor a url"),
        ('{"mcpServers": {"a b": {"command": "x"}}}', "no name for a server"),
        ('{"mcpServers": {"a": {"url": "ftp://x"}}}', "no address"),
        ('{"mcpServers": {"a": {"command": "x"}, "a__b": {"command": "y"}}}', "could have the name"),
        ('{"mcpServers": {"a": {"command": "x"}, "a_": {"command": "y"}}}', "could have the name"),
    ],
)
def test_a_file_that_is_none_is_told_before_anything_begins(tmp_path: Path, text: str, said: str):
    path = tmp_path / "servers.json"
    path.write_text(text, encoding="utf-8")
    made = Proxied(Home(tmp_path), "--config", str(path), server=())
    try:
        assert made.read() is None
        assert made.process.wait(30) == 2
        assert said in made.complaints()
    finally:
        made.kill()


@pytest.mark.parametrize("url", ["https://ada:hunter2@h/mcp", "ftp://ada:hunter2@h/mcp"])
def test_a_password_in_an_address_is_refused_and_not_said_again(tmp_path: Path, url: str):
    made = Proxied(Home(tmp_path), "--url", url, server=())
    try:
        assert made.process.wait(30) == 2
        assert "no name and no password" in made.complaints()
        assert "hunter2" not in made.complaints()
    finally:
        made.kill()
