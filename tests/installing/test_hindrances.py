"""What `custody status` says of hooks and servers that stand in settings and are not asked all the same."""

import json
import os
from pathlib import Path

import pytest

from custody.doors.hooks.lines import hook_lines
from custody.installing.hooks import HookLine
from custody.installing.plans import Look, Ours, carry_out, look, plan_install, wanted
from custody.installing.programs import Surroundings, Target
from custody.installing.servers import Proxy


def ours(program: str = "/opt/bin/custody") -> Ours:
    lines = {
        cli: [
            HookLine(
                event=one.event, of_tools=one.of_tools, command=one.command,
                timeout_seconds=one.timeout_seconds, more=one.more,
            )
            for one in hook_lines(cli)
        ]
        for cli in ("claude-code", "codex", "gemini")
    }  # fmt: skip
    return Ours(lines=lines, proxy=Proxy(words=(program, "proxy")))


@pytest.fixture
def around(tmp_path: Path) -> Surroundings:
    return Surroundings(home=str(tmp_path), project=str(tmp_path / "work"), environ={})


def installed(around: Surroundings, target: Target, by: Ours | None = None) -> Path:
    found = wanted(target, around, "user")
    for planned in plan_install(found, by or ours(), around):
        carry_out(planned, around)
    return Path(found[0].path)


def looked(around: Surroundings, target: Target) -> Look:
    return look(wanted(target, around, "user")[0], ours(), around)


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (".claude/settings.local.json", '{"disableAllHooks": true}'),
        ("work/.claude/settings.json", '{"disableAllHooks": true} // since Monday'),
        ("work/.claude/settings.local.json", '{"disableAllHooks": true}'),
    ],
)
def test_every_file_that_turns_the_hooks_of_claude_code_off_is_named(
    around: Surroundings, tmp_path: Path, place: str, text: str
):
    installed(around, "claude-code")
    assert looked(around, "claude-code").notes == ()
    put(tmp_path / place, text)
    assert looked(around, "claude-code").notes == (
        f"disableAllHooks is true in {tmp_path / place}: no hook is run",
    )


@pytest.mark.parametrize("by_name", [True, False])
def test_a_hook_that_gemini_is_told_not_to_run_is_named(around: Surroundings, by_name: bool):
    file = installed(around, "gemini")
    said = json.loads(file.read_text())
    name = "custody" if by_name else said["hooks"]["BeforeTool"][0]["hooks"][0]["command"]
    file.write_text(json.dumps({**said, "hooksConfig": {"disabled": ["other", name]}}))
    assert "hooksConfig.disabled" in looked(around, "gemini").notes[0]


def test_a_program_that_is_gone_is_told(around: Surroundings, tmp_path: Path):
    file = installed(around, "claude-code")
    text = file.read_text()
    gone = text.replace("/custody/doors/hooks/client.py", "/older/custody/doors/hooks/client.py")
    file.write_text(gone)
    told = looked(around, "claude-code")
    assert (told.state, "which is not there: every tool is refused" in told.notes[0]) == ("outdated", True)
    put(tmp_path / ".cursor/mcp.json", '{"mcpServers": {"fs": {"command": "npx"}}}')
    installed(around, "mcp", ours(str(tmp_path / "bin/custody")))
    assert "server fs is started by" in looked(around, "mcp").notes[0]
    put(tmp_path / "bin/custody", "")
    os.chmod(tmp_path / "bin/custody", 0o755)
    assert looked(around, "mcp").notes == ()


def test_a_program_in_the_project_itself_is_told(around: Surroundings, tmp_path: Path):
    file = installed(around, "claude-code")
    inside = tmp_path / "work/.venv/custody/doors/hooks/client.py"
    put(inside, "")
    client = next(
        word for word in file.read_text().split() if word.endswith("/custody/doors/hooks/client.py")
    )
    file.write_text(file.read_text().replace(client, str(inside)))
    assert any("lies in this project" in note for note in looked(around, "claude-code").notes)


def test_settings_that_others_may_change_are_told(around: Surroundings, tmp_path: Path):
    file = installed(around, "claude-code")
    os.chmod(file.parent, 0o777)
    assert looked(around, "claude-code").notes == (
        f"users other than you may change {file.parent}, and take Custody out",
    )
    os.chmod(file.parent, 0o1777)
    os.chmod(file, 0o664)
    assert looked(around, "claude-code").notes == (
        f"users other than you may change {file}, and take Custody out",
    )


def test_a_hook_that_is_narrowed_is_not_called_installed(around: Surroundings):
    file = installed(around, "claude-code")
    said = json.loads(file.read_text())
    group = said["hooks"]["PreToolUse"][0]
    group["hooks"].insert(0, {"type": "command", "command": "theirs"})
    group["matcher"] = "Read"
    file.write_text(json.dumps(said))
    assert looked(around, "claude-code").state == "outdated"
