"""A server behind walls: it works in its roots, and reaches nothing else of the machine or the network."""

import json
import sys
from pathlib import Path

import pytest
from tests.doors.mcp_clients import Home
from tests.doors.proxy.proxied import LEGACY_FORMS, Proxied, events, proxied

from custody.sandbox.walls.machine import look_at_machine

SERVER = """
import json, os, socket, sys, urllib.request
def tried(path):
    try:
        with open(path, "a") as file: file.write("x")
        return "written"
    except OSError as error:
        return type(error).__name__
def reached(url):
    try:
        return str(urllib.request.urlopen(url, timeout=30).status)
    except OSError as error:
        return str(error)
for line in sys.stdin:
    said = json.loads(line)
    if "id" not in said:
        continue
    if said["method"] == "tools/call":
        given = said["params"]["arguments"]
        does = {"write": tried, "reach": reached, "environ": lambda name: os.environ.get(name, "")}
        text = does[given["do"]](given["to"])
        result = {"content": [{"type": "text", "text": text}]}
    else:
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "tools": [],
                  "serverInfo": {"name": "walled", "version": "1"}}
    print(json.dumps({"jsonrpc": "2.0", "id": said["id"], "result": result}), flush=True)
"""


@pytest.fixture(autouse=True)
def walls():
    if missing := "; ".join(finding.why for finding in look_at_machine().missing):
        pytest.skip(f"`confined` is not offered here: {missing}")


def does(client: Proxied, do: str, to: str) -> str:
    return client.call("act", {"do": do, "to": to})["content"][0]["text"]


def test_it_works_in_its_roots_and_nowhere_else(tmp_path: Path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root, outside):
        folder.mkdir()
    home = Home(tmp_path)
    home.environment["TOLD"] = "by the client"
    options = ("--sandbox", "workspace", "--root", str(root), "--root", str(home.work))
    with proxied(home, *options, server=(sys.executable, "-c", SERVER)) as client:
        assert does(client, "write", f"{root}/made") == "written"
        assert does(client, "write", f"{outside}/made") == "FileNotFoundError"
        assert does(client, "write", "/etc/custody-was-here") in ("PermissionError", "OSError")
        assert does(client, "write", "/tmp/own") == "written"
        assert does(client, "environ", "TOLD") == "by the client"
        assert "403" in does(client, "reach", "http://nothing.example/")
        records = client.records()
    assert (root / "made").read_text() == "x"
    assert list(outside.iterdir()) == []
    (refused,) = events(records, "network.refused")
    assert (refused["host"], refused["server"]) == ("nothing.example", "echo")


def test_where_a_wall_cannot_be_had_no_server_runs_and_the_client_is_told(tmp_path: Path):
    sentinel = tmp_path / "ran"
    with proxied(tmp_path, "--sandbox", "workspace", "--root", "/", greet=False,
                 server=("/usr/bin/touch", str(sentinel))) as client:  # fmt: skip
        answer = client.ask("initialize", LEGACY_FORMS)
    assert "A root contains" in answer["error"]["message"]
    assert not sentinel.exists()


def test_where_there_are_no_walls_to_put_up_it_says_so(tmp_path: Path):
    made = Home(tmp_path)
    for options, words in (
        (("--root", "."), "Roots are those of a sandbox"),
        (("--sandbox", "workspace", "--root", "nowhere"), "There is no folder"),
    ):
        client = Proxied(made, *options)
        assert client.process.wait(30) == 2
        assert words in client.errors.read_text()
        client.kill()


def test_an_entry_for_a_client_has_the_walls(tmp_path: Path):
    made = Proxied(Home(tmp_path), "--sandbox", "network", "--root", ".", "--json")
    try:
        assert made.process.stdout is not None
        (entry,) = json.loads(made.process.stdout.read())["mcpServers"].values()
    finally:
        made.kill()
    arguments = entry["args"]
    assert arguments[arguments.index("--sandbox") + 1] == "network"
    assert arguments[arguments.index("--root") + 1] == str(made.home.work)
