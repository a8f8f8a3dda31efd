"""Every tool, called by the official client over each transport: none pretends; acts can be read back."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client import stdio
from mcp.client.stdio import stdio_client
from mcp_types import Tool
from tests.doors.daemons import Daemon, daemon, held_address
from tests.doors.mcp_clients import END_SECONDS, LEGACY, MODERN, Home, greeted, lines, over_http
from tests.sandbox.places import machine_of
from tests.settings_for_tests import nothing_is_asked
from tests.tools.http_servers import Server, answer

SETTINGS = """
[drive_cli.commands]
says = ["/bin/sh", "-c", 'echo it was told "$0"', "{prompt}"]
hangs = ["/bin/sh", "-c", "exec sleep 4321", "--", "{prompt}"]

[training]
command = ["/bin/sh", "-c", "echo trained on $0"]
"""

SKILL = "---\nname: greet\ndescription: Greets somebody.\n---\nSay hello.\n"
PLAN = {
    "id": "two",
    "goal": "say two things",
    "actions": [
        {"id": "a", "tool": "exec", "arguments": {"argv": ["echo", "one"]}},
        {"id": "b", "tool": "exec", "arguments": {"argv": ["echo", "two"]}, "depends_on": ["a"]},
    ],
}

ASKED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "agent_cancel": lambda found: {"id": found.get("agent", "feedfeed")},
    "agent_spawn": lambda found: {"cli": "says", "prompt": "hello"},
    "agent_status": lambda found: {"id": found.get("agent", "feedfeed")},
    "calls_search": lambda found: {"tool": "exec", "since": "1h"},
    "calls_show": lambda found: {"call": found["call"]},
    "commit": lambda found: {"call": found["call"]},
    "discard": lambda found: {"call": found["call"]},
    "http_fetch": lambda found: {"url": "http://127.0.0.1:9/"},
    "check_outcome": lambda found: {"command": "true"},
    "drive_cli": lambda found: {"cli": "says", "prompt": "hello"},
    "exec": lambda found: {"argv": ["echo", "hello"]},
    "failure_patterns": lambda found: {"count_min": 1},
    "file_delete": lambda found: {"path": "made.txt"},
    "file_edit": lambda found: {"path": "made.txt", "edits": [{"old": "one", "new": "two"}]},
    "file_list": lambda found: {},
    "file_read": lambda found: {"path": "made.txt"},
    "file_search": lambda found: {"pattern": "two"},
    "file_write": lambda found: {"path": "made.txt", "content": "one\n"},
    "git": lambda found: {"operation": "status"},
    "plan_check": lambda found: {"plan": PLAN},
    "plan_run": lambda found: {"plan": PLAN, "again": True},
    "process_kill": lambda found: {"pid": found["pid"]},
    "runs_list": lambda found: {},
    "runs_show": lambda found: {"run": "latest"},
    "shell": lambda found: {"command": "echo hello"},
    "skill_run": lambda found: {"name": "greet", "script": "greet.sh"},
    "skills_info": lambda found: {"name": "greet", "text": True},
    "skills_install": lambda found: {"source": "source/greet"},
    "skills_list": lambda found: {},
    "skills_remove": lambda found: {"name": "greet"},
    "skills_search": lambda found: {"query": "greets"},
    "skills_verify": lambda found: {},
    "stats": lambda found: {},
    "tool_rates": lambda found: {},
    "training_trigger": lambda found: {},
    "undo": lambda found: {"call": found["call"]},
    "witness_download": lambda found: {"last_n": 1},
}
"""What each tool is asked; `found` has what came before."""

ORDER = (
    "exec file_write file_read file_edit file_search file_list undo file_delete skills_install skills_list "
    "skills_info skill_run skills_search skills_verify skills_remove agent_spawn agent_status agent_cancel"
).split()
"""What depends on what came before; the rest follows by name."""

REFUSED = {"commit", "discard", "git", "http_fetch", "process_kill", "witness_download"}
"""Those that say no here: nothing is held, no repository, an address of this machine, not a process of ours,
not at a terminal."""


def prepared(work: Path) -> None:
    skill = work / "source" / "greet"
    skill.mkdir(parents=True)
    (skill / "SKILL.md").write_text(SKILL)
    (skill / "greet.sh").write_text("#!/bin/sh\necho hello from the skill\n")
    (skill / "greet.sh").chmod(0o755)


async def every_tool(session: ClientSession, *, daemon: bool) -> None:
    tools = {tool.name: tool for tool in (await session.list_tools()).tools}
    assert tools.keys() == ASKED.keys()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        try:
            await _each(session, tools, {"pid": stranger.pid}, daemon=daemon)
        finally:
            stranger.kill()


async def _each(
    session: ClientSession, tools: dict[str, Tool], found: dict[str, Any], *, daemon: bool
) -> None:
    for name in [*ORDER, *sorted(tools.keys() - set(ORDER))]:
        result = await session.call_tool(name, ASKED[name](found))
        said = result.structured_content
        assert isinstance(said, dict), (name, result)
        if said.get("status") == "not_implemented":
            assert (result.is_error, tools[name].description is not None) == (True, True)
            assert name.startswith("agent_")
            assert not daemon
            continue
        assert result.is_error == (name in REFUSED), (name, said)
        assert said.get("status") != "accepted"
        await read_back(session, name, said)
        found |= {"call": said["id"]} if name in ("file_edit", "exec") else {}
        found |= {"agent": said["id"]} if name == "agent_spawn" else {}


async def read_back(session: ClientSession, name: str, said: dict[str, Any]) -> None:
    """What an act answers is on the record, as it answered."""
    if name.startswith("agent_"):

        async def status() -> str:
            shown = await session.call_tool("agent_status", {"id": said["id"]})
            return (shown.structured_content or {})["status"]

        while await status() == "running":
            pass
        run = await session.call_tool("runs_show", {"run": said["id"]})
        assert (run.structured_content or {})["outcome"] == await status() == "succeeded"
    elif "run_id" in said and "tool" not in said and name not in ("runs_show", "runs_list"):
        run = await session.call_tool("runs_show", {"run": said["run_id"]})
        assert (run.structured_content or {})["outcome"] == "succeeded", name
    elif "tool" in said and name != "calls_show":
        call = await session.call_tool("calls_show", {"call": said["id"]})
        kept = call.structured_content or {}
        assert (kept["tool"], kept["outcome"], kept["id"]) == (name, said["outcome"], said["id"])


@pytest.mark.long
@pytest.mark.parametrize("version", [LEGACY, MODERN])
def test_over_standard_input_and_output(tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stdio, "PROCESS_TERMINATION_TIMEOUT", END_SECONDS)  # else it may be killed
    made = Home(tmp_path, SETTINGS)
    nothing_is_asked(tmp_path / "config")
    prepared(made.work)

    async def main() -> None:
        server = StdioServerParameters(
            command=sys.executable, args=["-m", "custody", "mcp"], env=made.environment, cwd=made.work
        )
        async with stdio_client(server) as (reading, writing), ClientSession(reading, writing) as session:
            await greeted(session, version)
            await every_tool(session, daemon=False)

    asyncio.run(main())
    assert made.run("verify")["ok"] is True
    (session,) = [
        run for run in made.run("runs", "--all")["items"] if run["intent"].startswith("MCP session")
    ]
    assert session["outcome"] == "succeeded"


@pytest.mark.long
def test_changes_that_are_held_are_discarded_by_who_made_them_and_committed_by_a_person_alone(tmp_path: Path):
    missing = "; ".join(finding.why for finding in machine_of(os.getuid()).missing)
    if missing:
        pytest.skip(f"`transaction` is not offered here: {missing}")
    server = Server()
    server.answers["/"] = answer(b"here")
    made = Home(tmp_path, f'[calls]\nlevel = "transaction"\n[sandbox]\nhosts = ["{server.place}"]\n')
    nothing_is_asked(tmp_path / "config")

    async def main() -> None:
        parameters = StdioServerParameters(
            command=sys.executable, args=["-m", "custody", "mcp"], env=made.environment, cwd=made.work
        )
        async with stdio_client(parameters) as (reading, writing), ClientSession(reading, writing) as session:
            await greeted(session, MODERN)

            async def call(name: str, **arguments: Any) -> dict[str, Any]:
                return (await session.call_tool(name, arguments)).structured_content or {}

            dropped = await call("exec", argv=["touch", "dropped"])
            kept = await call("shell", command="touch kept")
            assert (dropped["level"], dropped["held"], kept["held"]) == ("transaction", "held", "held")
            assert (await call("discard", call=dropped["id"]))["outcome"] == "succeeded"
            refused = await call("commit", call=kept["id"])
            assert (refused["outcome"], refused["decision"]["by"]) == ("rejected", "nobody")
            fetched = await call("http_fetch", url=server.url)
            assert fetched["result"]["body"] == "here"
            assert os.listdir(made.work) == []

    try:
        asyncio.run(main())
    finally:
        server.close()
    (kept,) = made.run("calls", "--held", "--all")["items"]
    assert made.run("commit", kept["id"])["outcome"] == "succeeded"
    assert os.listdir(made.work) == ["kept"]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("mcp-daemon")
    nothing_is_asked(folder / "config")
    with daemon(folder, settings=SETTINGS) as made:
        prepared(made.work)
        yield made


def token_of(made: Daemon) -> str:
    return Path(made.said["token_file"]).read_text(encoding="utf-8").strip()


@pytest.mark.long
@pytest.mark.parametrize("version", [LEGACY, MODERN])
def test_over_http_at_the_daemon(serving: Daemon, version: str):
    url = serving.url.replace("ws", "http", 1).rstrip("/")

    async def main() -> None:
        async with over_http(url, token_of(serving), version=version) as session:
            await every_tool(session, daemon=True)

    asyncio.run(main())
    serving.is_intact()


@pytest.mark.long
def test_an_agent_of_a_named_daemon_is_spawned_told_of_and_ended(serving: Daemon, tmp_path: Path):
    home = Home(tmp_path, variables={"CUSTODY_TOKEN": token_of(serving)})
    with lines(home, "--daemon", serving.url) as client:
        client.greet()
        spawned = client.call("agent_spawn", {"cli": "hangs", "prompt": "go on"})["structuredContent"]
        assert (spawned["status"], spawned["prompt"]) == ("running", "go on")
        told = client.call("agent_status", {"id": spawned["id"]})["structuredContent"]
        assert (told["id"], told["status"]) == (spawned["id"], "running")
        ended = client.call("agent_cancel", {"id": spawned["id"]})["structuredContent"]
        assert ended["status"] == "cancelled"
        assert client.call("agent_spawn", {"cli": "nobody", "prompt": "x"})["isError"] is True
    (run,) = [run for run in serving.run("runs", "--all")[1]["items"] if run["id"] == spawned["id"]]
    assert (run["outcome"], run["agent"]) == ("cancelled", "tester")


@pytest.mark.long
def test_an_agent_of_a_named_daemon_that_nobody_waited_for_is_ended(serving: Daemon, tmp_path: Path):
    home = Home(tmp_path, variables={"CUSTODY_TOKEN": token_of(serving)})
    with lines(home, "--daemon", serving.url) as client:
        client.greet()
        client.call("agent_status", {"id": "feedfeed"})  # it is connected
        asked = {"name": "agent_spawn", "arguments": {"cli": "hangs", "prompt": "taken back"}}
        identity = client.begin("tools/call", asked)
        cancelled = {"requestId": identity, "reason": "enough"}
        client.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancelled})
        assert client.close() == 0  # what was under way has ended
    runs = serving.run("runs", "--all")[1]["items"]
    assert {run["outcome"] for run in runs if run["intent"] == "taken back"} <= {"cancelled"}


@pytest.mark.long
def test_an_agent_whose_daemon_was_killed_is_incomplete_once_there_is_one_again(tmp_path: Path):
    nothing_is_asked(tmp_path / "daemon" / "config")
    with (
        held_address() as address,
        daemon(tmp_path / "daemon", settings=SETTINGS, listen=address) as made,
    ):
        home = Home(tmp_path, variables={"CUSTODY_TOKEN": token_of(made)})
        with lines(home, "--daemon", made.url) as client:
            client.greet()
            spawned = client.call("agent_spawn", {"cli": "hangs", "prompt": "go on"})["structuredContent"]
            made.kill()
            made.start(address)
            told = client.call("agent_status", {"id": spawned["id"]})["structuredContent"]
            assert (told["id"], told["status"]) == (spawned["id"], "incomplete")
            over = client.call("agent_cancel", {"id": spawned["id"]})
            assert (over["isError"], over["structuredContent"]) == (False, told)


@pytest.mark.long
def test_a_daemon_that_is_not_there_is_told_when_it_is_needed(tmp_path: Path):
    with lines(tmp_path, "--daemon", "ws://127.0.0.1:9") as client:
        client.greet()
        assert client.call("exec", {"argv": ["true"]})["isError"] is False
        answer = client.call("agent_spawn", {"cli": "says", "prompt": "x"})
        assert (answer["isError"], answer["structuredContent"]["error"]["type"]) == (True, "StoreUnusable")
