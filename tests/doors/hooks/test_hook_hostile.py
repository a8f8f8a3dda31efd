"""What an agent may put into its tools so that a hook looks elsewhere than the CLI, or says yes twice."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.settings_for_tests import never_short_of_resources

from custody.compose import open_runtime
from custody.doors.hooks import client, own_files
from custody.doors.hooks.answering import ANOTHER, Hooks
from custody.doors.hooks.event import Spoken
from custody.index import CallFilter
from custody.records import Call
from custody.settings import load_settings

SECRET = "kq81-Zx7pL-0042-vv"
SESSION = "s1"


class Told:
    """What hooks of one session were answered, and what is on the record of it."""

    def __init__(self) -> None:
        self.answers: list[Spoken] = []
        self.calls: list[Call] = []
        self.events: list[str] = []

    @property
    def verdicts(self) -> list[str]:
        return [self.verdict(one) for one in self.answers]

    @staticmethod
    def verdict(answer: Spoken) -> str:
        if answer.exit_code:
            return "blocked"
        said = json.loads(answer.out or "{}").get("hookSpecificOutput", {})
        return said.get("permissionDecision", "allow")

    @property
    def reasons(self) -> str:
        return " ".join(answer.out + answer.err for answer in self.answers)


Tell = Callable[..., Told]


@pytest.fixture
def tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tell:
    """Hooks answered one after the other by a runtime of their own; the CLI works in `tmp_path/work`."""
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", os.fspath(tmp_path / "config"))
    never_short_of_resources(tmp_path / "config")
    (tmp_path / "work" / ".claude").mkdir(parents=True)
    (tmp_path / "work" / ".claude" / "settings.json").write_text("{}", encoding="utf-8")

    def tell(*documents: dict[str, Any] | str, **request: Any) -> Told:
        return asyncio.run(_told(os.fspath(tmp_path), documents, request))

    return tell


async def _told(folder: str, documents: tuple[dict[str, Any] | str, ...], request: dict[str, Any]) -> Told:
    told = Told()
    async with await open_runtime(load_settings(store=f"{folder}/store"), door="server") as runtime:
        hooks = Hooks(runtime, lambda _folder: None)
        for document in documents:
            told.answers.append(await hooks.answer(_request(f"{folder}/store", document, request)))
        told.calls = runtime.index.calls(CallFilter(session=SESSION), limit=50).items[::-1]
        told.calls = [runtime.index.call(call.id) for call in told.calls]
    return told


def _request(store: str, document: dict[str, Any] | str, more: dict[str, Any]) -> bytes:
    pid = os.getpid()
    said = document if isinstance(document, str) else json.dumps(document)
    request: dict[str, Any] = {
        "cli": "claude-code", "event": "PreToolUse", "rewrite": True, "store": store, "secrets": {},
        "owner_pid": pid, "owner_start_ticks": client.stat_of(pid)[1], "told": said, **more,
    }  # fmt: skip
    return json.dumps(request).encode()


@pytest.fixture
def before(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def before(tool: str, arguments: Any, **more: Any) -> dict[str, Any]:
        said = {"hook_event_name": "PreToolUse", "tool_name": tool, "tool_input": arguments}
        return {"session_id": SESSION, "cwd": os.fspath(tmp_path / "work"), **said, **more}

    return before


Before = Callable[..., dict[str, Any]]


# -- one use of a tool, told twice --------------------------------------------------------------------


def test_a_use_that_was_decided_on_is_decided_for_its_arguments_alone(tell: Tell, before: Before):
    first = before("mcp__shop__look", {"shelf": 1}, tool_use_id="t1")
    same, other = dict(first), before("mcp__shop__look", {"shelf": 2}, tool_use_id="t1")
    tool = before("mcp__shop__buy", {"shelf": 1}, tool_use_id="t1")
    folder = before("mcp__shop__look", {"shelf": 1}, tool_use_id="t1", cwd="/")
    told = tell(first, same, other, tool, folder)
    assert told.verdicts == ["allow", "allow", "deny", "deny", "deny"]
    assert [call.outcome for call in told.calls] == [None, "rejected", "rejected", "rejected"]
    assert {call.reason for call in told.calls[1:]} == {ANOTHER}


def test_the_same_use_is_known_again_with_a_secret_and_much_text_in_it(tell: Tell, before: Before):
    content = before("Write", {"file_path": "a.txt", "content": f"{SECRET} {'x' * 300_000}"}, tool_use_id="t")
    told = tell(content, content, secrets={"SHOP_API_KEY": SECRET})
    assert (told.verdicts, len(told.calls)) == (["allow", "allow"], 1)


def test_the_end_of_another_tool_ends_no_call(tell: Tell, before: Before):
    first = before("mcp__shop__look", {"shelf": 1}, tool_use_id="t1")
    tell(first)
    end = before("Read", {"file_path": "/srv/x"}, tool_use_id="t1", tool_response={"ok": 1})
    told = tell(end | {"hook_event_name": "PostToolUse"}, event="PostToolUse")
    assert [(call.tool, call.outcome) for call in told.calls] == [
        ("mcp__shop__look", None),
        ("Read", "succeeded"),
    ]


# -- paths that a CLI reads otherwise -----------------------------------------------------------------


SPELLINGS = (
    "{}", "{} ", "\u00a0{}\ufeff", " .claude/settings.json ", "{}/../settings.json",
    ".CLAUDE/Settings.json", "work/../.claude/settings.json", "//{}",
    "~/{0.parent.parent.name}/.claude/settings.json",
)  # fmt: skip
NO_PATHS = ("{}\n", "{}\0.txt", "{}\x1b")


@pytest.mark.parametrize(
    ("tool", "name", "spellings"),
    [
        ("Write", "file_path", SPELLINGS + NO_PATHS),
        ("NotebookEdit", "notebook_path", SPELLINGS + NO_PATHS),
        ("MultiEdit", "file_path", SPELLINGS + NO_PATHS),
        ("mcp__files__put", "path", SPELLINGS),
    ],
)
def test_no_spelling_of_a_protected_path_is_written(
    tell: Tell, before: Before, tmp_path: Path, tool: str, name: str, spellings: tuple[str, ...]
):
    settings = tmp_path / "work" / ".claude" / "settings.json"
    told = tell(*(before(tool, {name: spelling.format(settings)}) for spelling in spellings))
    assert dict(zip(spellings, told.verdicts, strict=True)) == dict.fromkeys(spellings, "deny")
    assert [call.outcome for call in told.calls] == ["rejected"] * len(spellings)


def test_other_names_of_settings_are_not_written(tell: Tell, before: Before, tmp_path: Path):
    real = tmp_path / "dotfiles" / "claude.json"
    real.parent.mkdir()
    real.write_text("{}", encoding="utf-8")
    (tmp_path / ".claude").mkdir()
    (tmp_path / ".claude" / "settings.json").symlink_to(real)
    (tmp_path / "work" / "hard").hardlink_to(tmp_path / "work" / ".claude" / "settings.json")
    (tmp_path / "work" / "soft").symlink_to(tmp_path / "work" / ".claude")
    for path in (real, tmp_path / "work" / "hard", "soft/settings.json", "soft/settings.local.json"):
        assert tell(before("Write", {"file_path": os.fspath(path), "content": "x"})).verdicts == ["deny"], (
            path
        )
    assert tell(before("Bash", {"command": f"echo > {real}"})).verdicts == ["deny"]
    assert real.read_text(encoding="utf-8") == "{}"


def test_settings_are_kept_wherever_the_environment_of_the_cli_says_they_are(
    tell: Tell, before: Before, tmp_path: Path
):
    folders = {"CLAUDE_CONFIG_DIR": os.fspath(tmp_path / "cfg"), "CODEX_HOME": os.fspath(tmp_path / "codex")}
    writes = [
        before("Write", {"file_path": os.fspath(tmp_path / path), "content": "x"})
        for path in ("cfg/settings.json", "codex/hooks.json", "cfg/notes.md")
    ]
    assert tell(*writes, folders=folders).verdicts == ["deny", "deny", "allow"]
    paths = ("cfg/.credentials.json", "codex/auth.json", "cfg/settings.json")
    reads = [before("Read", {"file_path": os.fspath(tmp_path / path)}) for path in paths]
    assert tell(*reads, folders=folders).verdicts == ["deny", "deny", "allow"]
    assert tell(*writes, folders={}).verdicts == ["allow", "allow", "allow"]


def test_a_rule_of_a_path_holds_for_every_file_and_every_spelling(tell: Tell, before: Before, tmp_path: Path):
    rule = """
[[rules]]
name = "no-plans"
decision = "deny"
tool = "file_write"
when = 'facts.paths.exists(p, p.path.endsWith("/plan.txt"))'
reason = "Plans are people's."
"""
    (tmp_path / "config" / "custody" / "policy.toml").write_text(rule, encoding="utf-8")
    told = tell(
        before("Write", {"file_path": "plan.txt", "content": ""}),
        before("Write", {"file_path": "\u00a0plan.txt ", "content": ""}),
        before("Write", {"file_path": "other.txt", "path": "plan.txt", "content": ""}),
        before("Write", {"file_path": "other.txt", "content": ""}),
    )
    assert told.verdicts == ["deny", "deny", "deny", "allow"], told.reasons
    patch = "*** Begin Patch\n*** Add File: other.txt\n+x\n*** Add File: plan.txt\n+x\n*** End Patch"
    assert tell(before("apply_patch", {"input": patch}), cli="codex").verdicts == ["deny"]


def test_custody_itself_is_not_written(tell: Tell, before: Before, tmp_path: Path):
    for path in (
        client.__file__,
        "/etc/claude-code/managed-settings.json",
        tmp_path / "store/journal/serving",
    ):
        told = tell(before("Edit", {"file_path": os.fspath(path), "old_string": "a", "new_string": "b"}))
        assert told.verdicts == ["deny"]
    assert tell(before("Read", {"file_path": client.__file__})).verdicts == ["allow"]


def test_a_tool_that_nobody_knows_may_look_at_what_it_may_not_write(tell: Tell, before: Before):
    told = tell(
        before("mcp__files__read_file", {"path": ".mcp.json"}),
        before("mcp__files__write_file", {"path": ".mcp.json"}),
        before("mcp__files__read_file", {"path": "~/.ssh/id_rsa"}),
        before("mcp__git__commit", {"path": os.path.expanduser("~")}),
    )
    assert told.verdicts == ["allow", "deny", "deny", "allow"]


UNREADABLE: list[tuple[str, Any]] = [
    ("Write", {"file_path": [".claude/settings.json"], "content": "x"}),
    ("Write", {"content": "x"}),
    ("Edit", {"file_path": "  ", "old_string": "a"}),
    ("MultiEdit", {"edits": [{"file_path": ".claude/settings.json"}]}),
    ("Bash", {"command": ["rm", "-r", "."]}),
    ("Bash", {}),
    ("Bash", {"command": "echo a\0b"}),
    ("apply_patch", {"command": ["apply_patch", "*** Add File: x"]}),
    ("apply_patch", {"command": "a patch in another form"}),
    ("apply_patch", {"command": "".join(f"*** Add File: {number}\n" for number in range(1_001))}),
    ("mcp__x", {"deep": json.loads("[" * 65 + "]" * 65)}),
]


def test_what_cannot_be_read_is_refused(tell: Tell, before: Before):
    told = tell(*(before(tool, arguments) for tool, arguments in UNREADABLE))
    assert (told.verdicts, told.calls) == (["blocked"] * len(UNREADABLE), [])


def test_a_folder_that_is_no_place_is_refused(tell: Tell, before: Before):
    write = {"file_path": "a", "content": ""}
    told = tell(*(before("Write", write, cwd=cwd) for cwd in (".", "work", "/srv\0", "")))
    assert told.verdicts == ["blocked"] * 4
    assert all("cwd" in answer.err for answer in told.answers)


def test_a_patch_is_read_as_leniently_as_its_cli_does(tell: Tell, before: Before):
    lines = (
        "  *** Update File: .codex/config.toml",
        "*** add file: .codex/config.toml  ",
        "***Move to:.mcp.json",
    )
    patch = "*** Begin Patch\n*** Update File: a.py\n@@\n-x\n+y\n{}\n+z\n*** End Patch"
    told = tell(*(before("apply_patch", {"command": patch.format(line)}) for line in lines), cli="codex")
    assert told.verdicts == ["deny"] * len(lines), told.reasons


# -- numbers, depths, forms ---------------------------------------------------------------------------


def test_no_depth_hides_a_secret(tell: Tell, before: Before):
    deep: list[Any] = []
    for levels in (1, 40, 60, 64, 65, 200):
        value: Any = SECRET
        for _ in range(levels):
            value = [value]
        deep.append(value)
    secrets = {"SHOP_API_KEY": SECRET}
    told = tell(*(before("mcp__x", {"a": value}) for value in deep), secrets=secrets)
    assert "allow" not in told.verdicts
    after = {"hook_event_name": "PostToolUse"}
    results = [before("mcp__x", {}, tool_response={"a": value}) | after for value in deep]
    told = tell(*results, event="PostToolUse", secrets=secrets)
    assert SECRET not in str(told.calls)
    assert all(call.redactions for call in told.calls), "what is left out is counted"


def test_what_is_no_json_to_everybody_is_refused(tell: Tell, before: Before):
    forms = (
        '{"a": 1e999}',
        '{"a": NaN}',
        '{"a": "\\ud800"}',
        "[" * 9_000 + "]" * 9_000,
        '{"a": 1',
        "{'a': 1}",
    )
    documents = [json.dumps(before("mcp__x", "@")).replace('"@"', form) for form in forms]
    assert tell(*documents).verdicts == ["blocked"] * len(forms)


def test_no_id_that_is_told_breaks_the_record(tell: Tell, before: Before):
    odd = "\x1b[2J\n'\u202e/../"
    ids = {"tool_use_id": odd, "agent_id": odd, "agent_type": odd}
    told = tell(before("mcp__x", {odd: odd}, **ids), before(odd, {}, **ids | {"tool_use_id": "y" * 900}))
    assert told.verdicts == ["allow", "allow"]
    assert [(call.tool, call.arguments) for call in told.calls] == [("mcp__x", {odd: odd}), (odd, {})]
    long = tell(before("x" * 300, {}), before("mcp__x", {}, session_id="s" * 300))
    assert long.verdicts == ["blocked", "blocked"]


def test_a_process_that_cannot_be_is_refused(tell: Tell, before: Before):
    for wrong in ({"owner_pid": 2**63}, {"owner_pid": -1}, {"owner_start_ticks": 2**64}):
        told = tell(before("mcp__x", {}), **wrong)
        assert (told.verdicts, told.calls) == (["blocked"], [])


def test_no_deadline_that_a_model_names_is_none_or_is_another(tell: Tell, before: Before):
    said = {0.5: "0.1", 1_234_567: "1233.567", 1e300: "604799", 10**400: "604799", -1: "119"}
    told = tell(*(before("Bash", {"command": "true", "timeout": one}) for one in said))
    answers = [json.loads(one.out)["hookSpecificOutput"]["updatedInput"]["command"] for one in told.answers]
    for line, seconds in zip(answers, said.values(), strict=True):
        assert f" --timeout {seconds} --root " in line


def test_what_cannot_be_kept_is_not_changed_and_that_is_on_the_record(
    tell: Tell, before: Before, tmp_path: Path
):
    os.mkfifo(tmp_path / "work" / "pipe")
    told = tell(before("Write", {"file_path": "pipe/a", "content": "x"}))
    assert told.verdicts == ["deny"]
    assert [call.outcome for call in told.calls] == ["rejected"]


def test_spellings_are_few_and_have_the_path_itself():
    assert own_files.spellings("/srv/a", "/srv") == ("/srv/a",)
    assert own_files.spellings("a/../b ", "/srv") == ("a/../b ", "a/../b", "/srv/b")
