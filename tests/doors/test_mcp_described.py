"""What the MCP server says of itself holds: the reference, the descriptions, the missing extra."""

import json
import sys
from pathlib import Path

import pytest
from tests.doors.mcp_reference import PAGE, made, section

from custody.cli.program import run
from custody.doors.mcp.resources import TEMPLATES
from custody.doors.mcp.results import shortened
from custody.doors.mcp.table import DOOR_TOOLS


def test_the_reference_is_made_from_the_table():
    page = PAGE.read_text(encoding="utf-8")
    assert made(page) == page, "python -m tests.doors.mcp_reference"
    assert all(template.uri_template in page for template in TEMPLATES)


@pytest.mark.parametrize("name", ["agent_cancel", "agent_spawn", "agent_status", "training_trigger"])
def test_a_tool_that_needs_something_says_so_wherever_it_is_described(name: str):
    (tool,) = [tool for tool in DOOR_TOOLS if tool.name == name]
    assert tool.requires is not None
    for said in (tool.description, section(tool)):
        assert f"Needs {tool.requires.what}; without it" in said
        assert "not_implemented" in said
    assert section(tool) in PAGE.read_text(encoding="utf-8")


def test_no_other_tool_needs_anything():
    needing = [tool.name for tool in DOOR_TOOLS if tool.requires is not None]
    assert needing == ["agent_cancel", "agent_spawn", "agent_status", "training_trigger"]


def test_each_argument_is_described_and_no_other_is_taken():
    for tool in DOOR_TOOLS:
        assert tool.schema["additionalProperties"] is False, tool.name
        for name, schema in tool.schema["properties"].items():
            described = [schema, *schema.get("anyOf", ())]
            assert any("description" in one for one in described), (tool.name, name)


def test_without_the_packages_the_command_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "mcp", None)
    assert run(["mcp"]) == 2
    assert "pip install 'custody-runtime[mcp]'" in capsys.readouterr().err


def test_it_prints_the_entry_for_a_clients_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = [
        "--cwd",
        str(tmp_path),
        "--tools",
        "exec",
        "--store",
        str(tmp_path / "store"),
        "--root",
        "/tmp",
    ]
    assert run(["mcp", *options, "--json"]) == 0
    server = json.loads(capsys.readouterr().out)["mcpServers"]["custody"]
    started = ["-m", "custody", "mcp", "--cwd", str(tmp_path), "--tools", "exec"]
    rest = ["--store", str(tmp_path / "store"), "--root", "/tmp"]
    assert (server["command"], server["args"]) == (sys.executable, [*started, *rest])


@pytest.mark.parametrize(
    ("option", "said"),
    [(("--daemon", "http://x"), "ws://"), (("--tools", "exec,teleport"), "teleport")],
    ids=["daemon", "tools"],
)
def test_what_could_not_be_served_makes_no_entry(
    option: tuple[str, str], said: str, capsys: pytest.CaptureFixture[str]
):
    assert run(["mcp", *option, "--json"]) == 2
    assert said in capsys.readouterr().out


def test_a_folder_that_is_not_there_is_refused_before_anything_is_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(["mcp", "--cwd", str(tmp_path / "nowhere")]) == 2
    assert "is no folder" in capsys.readouterr().err


def test_an_answer_that_is_too_large_keeps_its_shape_and_tells_what_is_left_out():
    rows = [{"id": str(number), "text": "x" * (2_000 if number % 2 else 10)} for number in range(100)]
    short = shortened({"items": rows, "next": "more"}, 50_000)
    assert len(json.dumps(short)) <= 50_000
    assert short["next"] == "more"
    assert [row["id"] for row in short["items"]] == [row["id"] for row in rows]
    assert short["items"][0] == rows[0]
    assert short["items"][1]["text"]["omitted_bytes"] == 2_002
    many = {"state": "complete", "actions": ["x" * 10] * 10_000}
    assert shortened(many, 50_000)["actions"]["omitted_bytes"] == 130_001
    assert shortened(many, 200_000) is many
