"""`custody install`, `uninstall` and `status`, as typed, with settings files in a home folder."""

import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Program
from tests.cli.test_policy import Typed

import custody
from custody.sandbox.survivors import TOKEN_NAME

CLAUDE = '{\n  // mine\n  "model": "opus", // the best\n  "env": {"API_TOKEN": "s3cret-value-99"}\n}\n'
SERVERS = '{"mcpServers": {"fs": {"command": "npx", "args": ["-y", "fs"], "env": {"A": "1"}}}, "x": 1}'
CODEX = '# mine\n[mcp_servers.docs]\ncommand = \'npx\' # how\nargs = ["-y", "docs"]\n'

SOURCE = os.environ.get("PYTHONPATH", "")

Put = Callable[[str, str], Path]


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", TOKEN_NAME):
        monkeypatch.delenv(name, raising=False)
    return Typed(tmp_path, monkeypatch, capsys)


@pytest.fixture
def put(tmp_path: Path) -> Put:
    def put(path: str, text: str) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())
        return file

    return put


def hooks_in(file: Path) -> dict[str, Any]:
    """The hooks of a file without comments."""
    lines = [line.partition(" //")[0] for line in file.read_text().splitlines()]
    return json.loads("\n".join(line for line in lines if not line.lstrip().startswith("//")))["hooks"]


def test_hooks_are_put_in_shown_first_copied_and_taken_out_to_the_byte(typed: Typed, put: Put):
    file = put(".claude/settings.json", CLAUDE)
    os.chmod(file, 0o640)
    ran = typed("install", "claude-code", "--yes")
    assert ran.code == 0, ran.err
    assert '+  "hooks": {' in ran.out
    assert "s3cret-value-99" not in ran.out, "no secret of the settings is shown"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    backup = file.with_name("settings.json.custody-backup")
    assert (backup.read_text(), stat.S_IMODE(backup.stat().st_mode)) == (CLAUDE, 0o600)
    hooks = hooks_in(file)
    assert hooks["PreToolUse"][0]["matcher"] == "*"
    assert "client.py" in hooks["PreToolUse"][0]["hooks"][0]["command"]
    after = file.read_bytes()
    assert typed("install", "claude-code", "--yes").out.startswith("Nothing to do")
    assert file.read_bytes() == after
    ran = typed("uninstall", "claude-code", "--yes")
    assert (ran.code, file.read_text()) == (0, CLAUDE)
    assert os.listdir(file.parent) == ["settings.json"]


def test_nothing_changes_in_a_dry_run_nor_where_nobody_can_be_asked(typed: Typed, put: Put):
    file = put(".claude/settings.json", CLAUDE)
    ran = typed("install", "claude-code", "--dry-run", "--json")
    assert (ran.code, ran.json["changed"], ran.json["files"][0]["changes"]) == (0, 0, True)
    assert ran.json["files"][0]["diff"].startswith("--- ")
    ran = typed("install", "claude-code")
    assert (ran.code, "nobody is here to be asked" in ran.err) == (2, True)
    assert file.read_text() == CLAUDE
    assert os.listdir(file.parent) == ["settings.json"]


def test_a_file_that_is_not_there_is_made_and_goes_again(typed: Typed, tmp_path: Path):
    made = typed("install", "codex", "--yes", "--json").json["files"][0]
    assert (made["made"], made["backup"]) == (True, None)
    hooks = hooks_in(tmp_path / ".codex/hooks.json")
    assert {"PreToolUse", "PostToolUse", "Stop"} <= hooks.keys()
    assert typed("uninstall", "codex", "--yes", "--json").json["files"][0]["removed"] is True
    assert not (tmp_path / ".codex/hooks.json").exists()


def test_without_a_name_every_program_that_is_there_is_meant(typed: Typed, put: Put, tmp_path: Path):
    gemini = json.dumps({"mcpServers": {"a": {"command": "a"}, "b": {"url": "http://b/sse"}}})
    texts = {".claude/settings.json": CLAUDE, ".claude.json": SERVERS, ".gemini/settings.json": gemini}
    texts |= {".codex/config.toml": CODEX, ".cursor/mcp.json": SERVERS}
    texts |= {"config/Code/User/mcp.json": SERVERS.replace("mcpServers", "servers")}
    files = {put(path, text): text for path, text in texts.items()}
    files_told = {file["path"] for file in typed("install", "--yes", "--json").json["files"]}
    assert files_told == {*map(str, files), str(tmp_path / ".codex/hooks.json")}
    for file in files:
        if file.name != "settings.json" or ".gemini" in str(file):
            assert "proxy" in file.read_text()
    gemini_now = json.loads((tmp_path / ".gemini/settings.json").read_text())
    assert gemini_now["hooks"]["BeforeTool"][0]["hooks"][0]["timeout"] == 60_000
    assert gemini_now["mcpServers"]["b"] == {"url": "http://b/sse"}
    states = {(one["program"], one["kind"]): one["state"] for one in typed("status", "--json").json["items"]}
    assert states == {
        ("Claude Code", "hooks"): "installed",
        ("Codex", "hooks"): "installed",
        ("Gemini CLI", "hooks"): "installed",
        ("Claude Code", "servers"): "installed",
        ("Codex", "servers"): "installed",
        ("Cursor", "servers"): "installed",
        ("VS Code", "servers"): "installed",
        ("Gemini CLI", "servers"): "partly",
    }
    assert typed("uninstall", "--yes").code == 0
    assert {file: file.read_text() for file in files} == files
    assert not list(tmp_path.glob("**/*.custody-backup"))


def test_what_the_project_has_is_told_and_left(typed: Typed, put: Put):
    put("work/.git/HEAD", "")
    ours, projects = put(".claude/settings.json", CLAUDE), put("work/.mcp.json", SERVERS)
    told = typed("install", "--yes").out
    assert f"left as it is: {projects}" in told and "install --project" in told
    assert (projects.read_text(), "hooks" in ours.read_text()) == (SERVERS, True)


def test_without_a_place_it_is_taken_out_of_both(typed: Typed, put: Put):
    put("work/.git/HEAD", "")
    ours, projects = put(".claude/settings.json", CLAUDE), put("work/.mcp.json", SERVERS)
    assert typed("install", "claude-code", "--yes").code == 0
    assert typed("install", "mcp", "--project", "--yes").code == 0
    assert typed("uninstall", "--yes").code == 0
    assert (ours.read_text(), projects.read_text()) == (CLAUDE, SERVERS)


def test_a_server_goes_through_the_proxy_with_all_it_had(typed: Typed, put: Put, tmp_path: Path):
    put("work/.git/HEAD", "")
    file = put("work/.mcp.json", SERVERS)
    assert typed("install", "mcp", "--project", "--yes").code == 0
    entry = json.loads(file.read_text())["mcpServers"]["fs"]
    at = entry["args"].index("--")
    assert entry["args"][at + 1 :] == ["npx", "-y", "fs"]
    assert entry["args"][at - 4 : at] == ["--store", str(tmp_path / "store"), "--name", "fs"]
    assert entry["env"] == {"A": "1"}
    assert typed("uninstall", "mcp", "--project", "--yes").code == 0
    assert file.read_text() == SERVERS


@pytest.mark.parametrize("key", ["mcpServers", "servers"])
def test_a_client_that_nobody_knows_is_named_by_its_file(typed: Typed, put: Put, key: str):
    text = SERVERS.replace("mcpServers", key)
    file = put("other/client.json", text)
    assert typed("install", "mcp", "--file", str(file), "--yes").code == 0
    assert "proxy" in json.loads(file.read_text())[key]["fs"]["args"]
    assert typed("uninstall", "mcp", "--file", str(file), "--yes").code == 0
    assert (file.read_text(), os.listdir(file.parent)) == (text, ["client.json"])
    assert typed("install", "mcp", "--file", str(file) + "x", "--yes").code == 2
    assert typed("install", "codex", "--file", str(file), "--yes").code == 2


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=lambda make: make.__name__)
def test_what_is_no_file_is_told(typed: Typed, tmp_path: Path, make: Callable[[Path], None]):
    (tmp_path / ".claude").mkdir()
    make(tmp_path / ".claude/settings.json")
    ran = typed("install", "claude-code", "--yes")
    assert (ran.code, "is not a file" in ran.err) == (2, True)


@pytest.mark.parametrize(
    ("target", "path", "text", "place"),
    [
        ("claude-code", ".claude/settings.json", '{\n  "a": 1\n  "b": 2\n}', "Line 3, column 3"),
        ("claude-code", ".claude/settings.json", '{"hooks": []}', "Line 1, column 11"),
        ("gemini", ".gemini/settings.json", '{"a": /* x', "Line 1, column 7"),
        ("mcp", ".codex/config.toml", "a = 1\nb = \n", "line 2"),
    ],
)
def test_broken_settings_stay_as_they_are(
    typed: Typed, put: Put, target: str, path: str, text: str, place: str
):
    file = put(path, text)
    ran = typed("install", target, "--yes")
    assert (ran.code, place in ran.err, str(file) in ran.err) == (2, True, True), ran.err
    assert file.read_text() == text
    assert os.listdir(file.parent) == [file.name]
    broken = {one["path"] for one in typed("status", "--json").json["items"] if one["state"] == "broken"}
    assert broken == {str(file)}


def test_one_broken_file_stops_all_before_anything_is_changed(typed: Typed, put: Put):
    good, _ = put(".claude/settings.json", CLAUDE), put(".gemini/settings.json", "{")
    assert typed("install", "--yes").code == 2
    assert good.read_text() == CLAUDE


def test_a_file_that_is_not_utf_8_is_told(typed: Typed, put: Put):
    file = put(".claude/settings.json", "{}")
    file.write_bytes(b'{\n"a": "\xff"}')
    ran = typed("install", "claude-code", "--yes")
    assert (ran.code, "not UTF-8: line 2" in ran.err) == (2, True)


def test_a_link_is_followed_and_stays_one(typed: Typed, put: Put, tmp_path: Path):
    real = put("dotfiles/claude.json", CLAUDE)
    link = tmp_path / ".claude/settings.json"
    link.parent.mkdir()
    link.symlink_to(real)
    assert typed("install", "claude-code", "--yes").code == 0
    assert link.is_symlink()
    assert "PreToolUse" in hooks_in(real)
    assert os.listdir(real.parent) == ["claude.json"], "the copy is beside the link, not among the dotfiles"
    assert typed("uninstall", "claude-code", "--yes").code == 0
    assert (link.is_symlink(), real.read_text()) == (True, CLAUDE)


def test_a_link_of_a_project_that_leads_out_of_it_is_refused(typed: Typed, put: Put, tmp_path: Path):
    mine = put("mine.json", "{}")
    put("work/.git/HEAD", "")
    link = tmp_path / "work/.claude/settings.json"
    link.parent.mkdir()
    link.symlink_to(mine)
    ran = typed("install", "claude-code", "--project", "--yes")
    assert (ran.code, "leads out of the project" in ran.err, mine.read_text()) == (3, True, "{}")


def test_a_link_to_nothing_is_told(typed: Typed, tmp_path: Path):
    link = tmp_path / ".claude/settings.json"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "nothing")
    ran = typed("install", "claude-code", "--yes")
    assert (ran.code, "where nothing is" in ran.err) == (2, True)


def test_what_somebody_changed_meanwhile_stays(typed: Typed, put: Put):
    file = put(".claude/settings.json", CLAUDE)
    typed("install", "claude-code", "--yes")
    file.write_text(file.read_text().replace('"opus"', '"haiku"').replace("// mine", "// still mine"))
    assert typed("uninstall", "claude-code", "--yes").code == 0
    assert file.read_text() == CLAUDE.replace('"opus"', '"haiku"').replace("// mine", "// still mine")


def test_what_turns_hooks_off_is_told(typed: Typed, put: Put):
    put(".claude/settings.json", '{"disableAllHooks": true}')
    put(".gemini/settings.json", '{"hooksConfig": {"enabled": false}}')
    put(".codex/config.toml", "[features]\nhooks = false\n")
    typed("install", "--yes")
    notes = {one["target"]: one["notes"] for one in typed("status", "--json").json["items"] if one["notes"]}
    assert {target: "no hook is run" in said[0] for target, said in notes.items()} == {
        "claude-code": True,
        "gemini": True,
        "codex": True,
    }


def test_an_older_line_is_outdated_until_it_is_installed_again(typed: Typed, put: Put):
    file = put(".claude/settings.json", "{}")
    typed("install", "claude-code", "--yes")
    file.write_text(file.read_text().replace("client.py", "client.py --old"))
    [one] = typed("status", "claude-code", "--user", "--json").json["items"]
    assert one["state"] == "outdated"
    typed("install", "claude-code", "--yes")
    assert (
        typed("install", "--status", "claude-code", "--user", "--json").json["items"][0]["state"]
        == "installed"
    )


def test_a_recorded_call_changes_nothing_and_the_refusal_is_recorded(
    typed: Typed, put: Put, monkeypatch: pytest.MonkeyPatch
):
    with custody.open(str(typed.store)):
        pass
    file = put(".claude/settings.json", CLAUDE)
    typed("install", "claude-code", "--yes")
    guarded = file.read_bytes()
    monkeypatch.setenv(TOKEN_NAME, "00" * 8)
    for act in ("uninstall", "install"):
        ran = typed(act, "claude-code" if act == "uninstall" else "codex", "--yes", "--json")
        assert (ran.code, ran.json["error"]["type"]) == (3, "AnswerRefused")
    assert file.read_bytes() == guarded
    monkeypatch.delenv(TOKEN_NAME)
    assert [data["what"] for data in typed.events("approval.refused")] == [
        "install codex",
        "uninstall claude-code",
    ]


def test_who_put_it_in_and_took_it_out_is_on_the_record(typed: Typed, put: Put):
    with custody.open(str(typed.store)):
        pass
    file = put(".claude/settings.json", CLAUDE)
    typed("install", "claude-code", "--yes")
    typed("uninstall", "claude-code", "--yes")
    for name in ("guard.installed", "guard.removed"):
        [said] = typed.events(name)
        assert (said["files"], bool(said["person"])) == ([str(file)], True)


def test_two_places_are_one_too_many_and_no_place_is_told(typed: Typed):
    assert typed("install", "claude-code", "--user", "--project").code == 2
    ran = typed("install", "--yes")
    assert (ran.code, "was found here" in ran.err) == (2, True)
    assert typed("uninstall", "--yes").out == "Nothing to do: nothing of Custody's is in.\n"
    assert typed("status").out == "No coding CLI and no MCP client was found here.\n"


@pytest.mark.parametrize("target", [(), ("mcp",)])
def test_where_only_the_project_has_servers_that_is_said(typed: Typed, target: tuple[str, ...]):
    (typed.work / ".mcp.json").write_text('{"mcpServers": {"x": {"command": "echo"}}}')
    ran = typed("install", *target, "--yes")
    assert (ran.code, f"{' '.join(('install', *target))} --project" in ran.err) == (2, True)


@pytest.mark.long
@pytest.mark.parametrize(("typed_", "code"), [("y\n", 0), ("n\n", 1)])
def test_whoever_sits_at_a_terminal_is_asked_once(custody: Program, typed_: str, code: int):
    folder = custody.folder / ".claude"
    folder.mkdir()
    shown = custody.at_terminal("install", columns=120, typed=typed_, code=code, PYTHONPATH=SOURCE)
    assert shown.count("[y/N]") == 1
    assert (folder / "settings.json").exists() is (code == 0)


@pytest.mark.long
def test_an_installed_hook_keeps_the_agent_from_the_settings_it_stands_in(custody: Program):
    file = custody.folder / ".claude" / "settings.json"
    file.parent.mkdir()
    file.write_text(CLAUDE)
    assert custody("install", "claude-code", "--yes", PYTHONPATH=SOURCE).code == 0
    [group] = hooks_in(file)["PreToolUse"]
    asked = {
        "session_id": "s1",
        "hook_event_name": "PreToolUse",
        "tool_name": "Edit",
        "tool_use_id": "toolu_1",
        "tool_input": {"file_path": str(file), "old_string": "opus", "new_string": "haiku"},
        "cwd": str(custody.work),
    }
    done = subprocess.run(
        ["/bin/sh", "-c", group["hooks"][0]["command"]],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env={**custody.environment, "PYTHONPATH": SOURCE},
        cwd=custody.work,
        timeout=60,
    )
    said = json.loads(done.stdout)["hookSpecificOutput"]
    assert (said["permissionDecision"], "protected" in said["permissionDecisionReason"]) == ("deny", True)
