"""`custody policy`: checked, tested, explained, shown and trusted; each command as it is typed."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import CALM, Program, Ran

import custody
from custody.calls.descent import typed_here
from custody.cli.program import run
from custody.policy.document import KEYS
from custody.policy_files import TRUST_FILE

DOCS = Path(__file__).parents[2] / "docs"

GOOD = """\
default = "allow"

[[rules]]
name = "ask-before-push"
decision = "ask"
tool = "git"
when = 'params.operation == "push"'
reason = "Pushes are looked at."

[[rules]]
name = "no-shell"
decision = "deny"
tool = "shell"
agent = "glob:night-*"

[[rules]]
name = "letters"
decision = "deny"
tool = "shell"
rate = { calls = 1, seconds = 60 }

[[rules]]
name = "after-secret"
decision = "ask"
tool = "exec"
sequence = { after = "file_read" }

[[rules]]
name = "reviewed"
decision = "ask"
tool = "file_write"
when = 'state.reviewed != true'
"""

PROJECT = """\
[[rules]]
name = "push-is-fine-here"
decision = "allow"
tool = "git"

[approvals]
notify = [["notify-send", "{call}"]]
"""


class Typed:
    """Command lines typed in this process, with a home, a folder and a store of their own. Each finds out for
    itself who types, as a process of its own would."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self.work = folder / "work"
        self.work.mkdir()
        self.config = folder / "config" / "custody"
        self.config.mkdir(parents=True)
        (self.config / "custody.toml").write_text(CALM)
        self.store = folder / "store"
        self._capture = capture
        patch.chdir(self.work)
        patch.setenv("HOME", str(folder))
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        patch.setenv("CUSTODY_STORE", str(self.store))
        patch.setenv("COLUMNS", "200")

    def __call__(self, *arguments: str) -> Ran:
        self._capture.readouterr()
        typed_here.cache_clear()
        try:
            code = run(arguments)
        finally:
            typed_here.cache_clear()
        said = self._capture.readouterr()
        return Ran(code, said.out, said.err)

    def file(self, path: str, text: str) -> str:
        place = self.work / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return path

    def policy(self, text: str) -> None:
        """What the user's own says."""
        (self.config / "policy.toml").write_text(text)

    def token(self, patch: pytest.MonkeyPatch) -> None:
        """From here on whoever types shows an operator's token, as no terminal is here."""
        with custody.open(str(self.store)):
            pass
        made = self("token", "create", "ada", "--role", "operator", "--json")
        patch.setenv("CUSTODY_TOKEN", made.json["token"])

    def events(self, name: str) -> list[Any]:
        with custody.open(str(self.store)) as runtime:
            return [event.data for event in runtime.index.events(name=name).items]


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(tmp_path, monkeypatch, capsys)


# -- check --------------------------------------------------------------------------------------------


def test_a_good_file_is_told_so_and_warnings_are_no_failure(typed: Typed):
    typed.file("policy.toml", GOOD)
    ran = typed("policy", "check", "policy.toml")
    assert (ran.code, ran.out) == (0, "policy.toml: 5 rules, nothing to say\n")
    typed.file("policy.toml", GOOD.replace('tool = "git"', 'tool = "gti"'))
    ran = typed("policy", "check", "policy.toml")
    assert ran.code == 0
    assert ran.out.startswith("policy.toml:3: warning: ")
    assert "git" in ran.out and ran.out.endswith("policy.toml: 5 rules, 1 warning\n")


def test_a_condition_on_an_argument_the_tool_does_not_take_is_told(typed: Typed):
    typed.file("policy.toml", GOOD.replace("params.operation", "params.operatoin"))
    ran = typed("policy", "check", "policy.toml")
    assert ran.code == 0
    assert ran.out.startswith(
        "policy.toml:3: warning: The rule ask-before-push: its condition reads the argument 'operatoin', "
        "which git does not take; did you mean operation?\n"
    )


def test_every_fault_is_told_with_its_place_and_the_nearest_key(typed: Typed):
    typed.file("policy.toml", 'defualt = "allow"\n[[rules]]\nname = "x"\ndesicion = "deny"\nwhen = "1 +"\n')
    ran = typed("policy", "check", "policy.toml", "--json")
    assert ran.code == 1
    found = ran.json["findings"]
    assert not ran.json["valid"]
    assert {(one["kind"], one["severity"]) for one in found} == {("fault", "error")}
    by_line = {one["line"]: one["message"] for one in found}
    assert "default" in by_line[1]
    assert "decision" in by_line[4]
    assert 5 in by_line
    assert all(one["column"] >= 1 for one in found)
    shown = typed("policy", "check", "policy.toml")
    assert shown.code == 1
    assert re.search(r"^policy\.toml:1:1: error: ", shown.out, re.MULTILINE)


@pytest.mark.parametrize("content", [b"\xff", b"rules = [[[", b"x" * (1024 * 1024 + 1)])
def test_what_is_no_toml_is_told_with_its_place(typed: Typed, content: bytes):
    (typed.work / "policy.toml").write_bytes(content)
    ran = typed("policy", "check", "policy.toml", "--json")
    assert ran.code == 1
    assert len(ran.json["findings"]) == 1


def test_a_file_that_is_not_there_or_none_is_exit_2(typed: Typed):
    assert typed("policy", "check", "nothing.toml").code == 2
    assert typed("policy", "check", ".").code == 2


def test_ones_own_broken_file_can_be_checked_while_other_commands_refuse_it(typed: Typed):
    typed.policy("defualt = 1\n")
    assert typed("policy", "check", str(typed.config / "policy.toml")).code == 1
    refused = typed("policy", "show", "--json")
    assert refused.code == 2
    assert refused.json["error"]["type"] == "InvalidPolicy"
    assert "policy.toml:1:1" in refused.json["error"]["message"]


# -- test ---------------------------------------------------------------------------------------------

CASES: list[dict[str, Any]] = [
    {"tool": "git", "params": {"operation": "push"}, "expect": "ask", "rule": "ask-before-push"},
    {"tool": "git", "params": {"operation": "status"}, "expect": "allow", "name": "looking is free"},
    {"tool": "git", "params": {}, "expect": "deny"},
    {"tool": "shell", "agent": "night-shift", "expect": "deny", "rule": "no-shell"},
    {"tool": "shell", "agent": "ada", "expect": "allow"},
    {"tool": "shell", "expect": "deny", "rate_used": ["letters"]},
    {"tool": "exec", "expect": "allow"},
    {"tool": "exec", "expect": "ask", "happened": ["after-secret"]},
    {"tool": "file_write", "expect": "allow", "state": {"reviewed": True}},
    {"tool": "file_write", "expect": "ask", "state": {"reviewed": False}},
]


def test_cases_are_decided_as_they_expect_in_json_yaml_and_toml(typed: Typed):
    typed.file("policy.toml", 'mode = "shadow"\n' + GOOD)
    typed.file("cases.json", json.dumps(CASES))
    ran = typed("policy", "test", "policy.toml", "cases.json", "--json")
    assert [one["why"] for one in ran.json["items"]] == [None] * len(CASES)
    assert (ran.code, ran.json["cases"], ran.json["failed"]) == (0, len(CASES), 0)
    typed.file("cases.yaml", "cases:\n- tool: git\n  params: {operation: push}\n  expect: ask\n")
    assert typed("policy", "test", "policy.toml", "cases.yaml").out.endswith("\n1 case: all as expected.\n")
    typed.file("cases.toml", '[[cases]]\ntool = "git"\nparams = { operation = "push" }\nexpect = "ask"\n')
    assert typed("policy", "test", "policy.toml", "cases.toml").code == 0


def test_a_case_that_differs_says_how_and_fails_the_command(typed: Typed):
    typed.file("policy.toml", GOOD)
    wrong = [
        {"tool": "git", "params": {"operation": "push"}, "expect": "allow"},
        {"tool": "shell", "expect": "allow", "rule": "no-shell"},
        {"tool": "exec", "expect": "allow"},
    ]
    typed.file("cases.json", json.dumps({"cases": wrong}))
    ran = typed("policy", "test", "policy.toml", "cases.json", "--json")
    assert (ran.code, ran.json["failed"]) == (1, 2)
    assert [one["why"] for one in ran.json["items"]] == [
        "it is ask, not allow",
        "the rule no-shell does not match",
        None,
    ]
    shown = typed("policy", "test", "policy.toml", "cases.json")
    assert shown.code == 1
    assert shown.out.endswith("\n3 cases: 2 differ.\n")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("cases.json", "[]", "has no cases"),
        ("cases.json", "{", "cannot be read"),
        ("cases.json", '{"cases": [], "more": 1}', "something else"),
        ("cases.json", '[{"tool": "git", "expect": "perhaps"}]', "case 1"),
        ("cases.json", '[{"tool": "git", "expect": "ask", "parms": {}}]', "parms"),
        ("cases.yaml", "a: &b [*b]", "cases.yaml"),
        ("cases.txt", "[]", "neither TOML, JSON nor YAML"),
    ],
)
def test_a_file_of_cases_that_cannot_be_read_is_exit_2(typed: Typed, name: str, text: str, told: str):
    typed.file("policy.toml", GOOD)
    ran = typed("policy", "test", "policy.toml", typed.file(name, text))
    assert ran.code == 2
    assert told in ran.err


def test_pipes_and_links_to_nothing_are_told_and_not_waited_for(typed: Typed):
    good, pipe = typed.file("policy.toml", GOOD), typed.work / "pipe.toml"
    os.mkfifo(pipe)
    for words in (["check", str(pipe)], ["test", str(pipe), str(pipe)], ["test", good, str(pipe)]):
        ran = typed("policy", *words)
        assert ran.code in (1, 2)
        assert "pipe.toml is not a file" in ran.out + ran.err
    (typed.config / "policy.toml").symlink_to("nowhere.toml")
    ran = typed("policy", "show")
    assert ran.code == 2
    assert "policy.toml is a link to nothing" in ran.err


# -- explain ------------------------------------------------------------------------------------------


def test_each_rule_says_why_it_matches_or_not(typed: Typed):
    typed.policy(GOOD)
    ran = typed("policy", "explain", "--tool", "git", "--args", '{"operation": "push"}', "--json")
    assert ran.code == 0
    said = ran.json
    assert (said["verdict"], said["rule"], said["by"]) == ("ask", "ask-before-push", "rule")
    assert said["schema"] is not None, "the tool git takes an operation"
    rules = {rule["rule"]: rule for rule in said["rules"]}
    assert rules["ask-before-push"]["matched"] is True
    assert rules["ask-before-push"]["line"] == 3
    assert rules["no-shell"]["matched"] is False
    assert all(rule["why"] for rule in said["rules"])
    assert "ask-before-push" in said["would_allow"]["words"]
    shown = typed("policy", "explain", "--tool", "git", "--args", '{"operation": "push"}')
    assert shown.out.startswith("git: ask by the rule ask-before-push: Pushes are looked at.\n")


def test_what_was_called_before_is_undecidable_in_dry_use(typed: Typed):
    typed.file("policy.toml", GOOD)
    ran = typed("policy", "explain", "--file", "policy.toml", "--tool", "shell", "--json")
    said = ran.json
    assert said["verdict"] == "allow"
    assert [rule["rule"] for rule in said["rules"] if rule["matched"] is None] == ["letters"]
    assert any("letters" in note for note in said["notes"])


def test_a_call_on_the_record_is_explained_as_it_was_asked(typed: Typed):
    with custody.open(str(typed.store)) as runtime, runtime.run("work", agent="night-shift") as going:
        with going.observe("shell", {"command": "true"}) as call:
            call.result = {}
        call_id = call.id
    typed.policy(GOOD)
    ran = typed("policy", "explain", call_id[:12], "--json")
    assert (ran.code, ran.json["call_id"]) == (0, call_id)
    assert (ran.json["verdict"], ran.json["rule"]) == ("deny", "no-shell")
    assert typed("policy", "explain", "ffffffff").code == 2


def test_without_a_file_the_built_in_rules_are_explained(typed: Typed):
    ran = typed("policy", "explain", "--tool", "process_kill", "--args", '{"pid": 1}', "--json")
    assert (ran.json["verdict"], ran.json["rule"]) == ("ask", "builtin:irreversible")
    assert "custody init" in ran.json["would_allow"]["words"]
    outside = {"path": "/srv/elsewhere/x", "content": ""}
    ran = typed("policy", "explain", "--tool", "file_write", "--args", json.dumps(outside), "--json")
    assert (ran.json["verdict"], ran.json["rule"]) == ("ask", "builtin:outside-the-roots")
    ran = typed(
        "policy", "explain", "--tool", "file_write", "--args", json.dumps(outside), "--door", "cli", "--json"
    )
    assert ran.json["verdict"] == "allow"
    assert "outside the roots" in ran.json["notes"][0]


def test_a_tool_that_is_not_known_here_is_explained_and_said_to_be_none(typed: Typed):
    ran = typed("policy", "explain", "--tool", "file_reed", "--json")
    assert (ran.json["verdict"], ran.json["notes"]) == (
        "allow",
        ["No tool of that name is known here; did you mean file_read?"],
    )
    assert typed("policy", "explain", "--tool", "file_read", "--json").json["notes"] == []
    far = typed("policy", "explain", "--tool", "xyzzy", "--json").json["notes"]
    assert far == ["No tool of that name is known here."]


def test_beside_a_projects_file_each_built_in_rule_is_explained_once(typed: Typed):
    typed.file(".custody/policy/git.toml", PROJECT)
    ran = typed("policy", "explain", "--tool", "git", "--json")
    names = [rule["rule"] for rule in ran.json["rules"]]
    assert len(names) == len(set(names)) and "builtin:protected" in names


@pytest.mark.parametrize(
    "arguments",
    [[], ["abc", "--tool", "git"], ["abc", "--args", "{}"], ["--tool", "git", "--args", "[]"],
     ["--tool", "git", "--effect", "odd"]],
    ids=["nothing", "both", "arguments of a record", "no object", "no effect"],
)  # fmt: skip
def test_what_cannot_be_explained_is_exit_2(typed: Typed, arguments: list[str]):
    assert typed("policy", "explain", *arguments).code == 2


# -- show ---------------------------------------------------------------------------------------------


def test_the_rules_are_shown_with_where_each_comes_from(typed: Typed):
    typed.policy(
        GOOD + "\n[budgets.run]\ncalls = 5\nsoft = { calls = 4 }\n[loops]\nsame_call = { ask = 3 }\n"
    )
    project = typed.file(".custody/policy/git.toml", PROJECT)
    shown = typed("policy", "show", "--json").json
    assert [layer["kind"] for layer in shown["layers"]] == ["user", "project"]
    assert [layer["trusted"] for layer in shown["layers"]] == [True, False]
    rules = {rule["name"]: rule for rule in shown["rules"]}
    assert rules["ask-before-push"]["source"] == str(typed.config / "policy.toml")
    assert rules["ask-before-push"]["line"] == 3
    assert "Not trusted" in rules["push-is-fine-here"]["note"]
    assert shown["budgets"][0]["amounts"] == {"calls": 5}
    assert shown["pause"] is None
    places = {file["path"]: file["found"] for file in shown["files"]}
    assert places["/etc/custody/policy.toml"] in (True, False)
    assert places[str(typed.work / project)] is True
    out = typed("policy", "show").out
    for words in ("ask-before-push", "policy.toml:3", "not trusted", "calls 5", "asks at number 3"):
        assert words in out


def test_where_there_is_no_file_the_default_is_told(typed: Typed):
    ran = typed("policy", "show")
    assert ran.code == 0
    assert "built-in default" in ran.err
    assert all(f"builtin:{name}" in ran.out for name in ("irreversible", "outside-the-roots", "protected"))
    assert [layer["kind"] for layer in typed("policy", "show", "--json").json["layers"]] == ["builtin"]


@pytest.mark.long
@pytest.mark.parametrize("columns", [80, 40])
def test_a_narrow_terminal_folds_what_holds_and_cuts_nothing(custody: Program, columns: int):
    (custody.settings.parent / "policy.toml").write_text(GOOD)
    folder = custody.work / ".custody" / "policy"
    folder.mkdir(parents=True)
    (folder / "git.toml").write_text(PROJECT)
    out = custody.at_terminal("policy", "show", columns=columns, NO_COLOR="1")
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in out.split("\n")]
    assert all(len(line) <= columns for line in lines if not line.startswith("custody: "))
    assert "…" not in out
    said = " ".join(" ".join(lines).split())
    assert (
        'ask ask-before-push tool git, when params.operation == "push" ~/config/custody/policy.toml:3' in said
    )
    assert "allow push-is-fine-here tool git .custody/policy/git.toml:1 Not trusted: " in said
    assert "user ~/config/custody/policy.toml mode: enforce when no rule matches: allow rules: 5" in said


# -- trust --------------------------------------------------------------------------------------------


def test_trust_is_on_the_record_bound_to_what_the_file_says_and_taken_back(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
):
    place = typed.file(".custody/policy/git.toml", PROJECT)
    typed.token(monkeypatch)
    assert typed("policy", "trust").code == 2, "nobody is there to be asked"
    ran = typed("policy", "trust", place, "--yes", "--json")
    assert ran.code == 0
    (item,) = ran.json["items"]
    assert item["trusted"] is True
    assert [line.split(" ")[0] for line in item["widens"]] == ["allow", "start"]
    trust_file = typed.config / TRUST_FILE
    assert trust_file.stat().st_mode & 0o777 == 0o600
    assert typed("policy", "show", "--json").json["layers"][0]["trusted"] is True
    assert "trusted already" in typed("policy", "trust").err
    said = {"path": str(typed.work / place), "digest": item["digest"], "person": "operator ada"}
    assert typed.events("policy.trusted") == [said]
    typed.file(place, PROJECT + "# one more word\n")
    assert typed("policy", "show", "--json").json["layers"][0]["trusted"] is False
    assert typed("policy", "distrust", "--json").json["items"] == [{"path": said["path"], "trusted": False}]
    assert typed.events("policy.distrusted") == [said]
    assert "none of it was trusted" in typed("policy", "distrust").err


def test_a_trust_file_that_others_may_write_trusts_nobody(typed: Typed):
    typed.file(".custody/policy/git.toml", PROJECT)
    trust_file = typed.config / TRUST_FILE
    trust_file.write_text('{"schema_version": 1, "trusted": []}')
    trust_file.chmod(0o666)
    ran = typed("policy", "show")
    assert ran.code == 2
    assert f"Others may change {trust_file}" in ran.err


def test_nobody_but_a_person_trusts_and_the_refusal_is_recorded(typed: Typed):
    typed.file(".custody/policy/git.toml", PROJECT)
    with custody.open(str(typed.store)):
        pass
    ran = typed("policy", "trust", "--yes", "--json")
    assert ran.code == 3
    assert ran.json["error"]["type"] == "AnswerRefused"
    assert not (typed.config / TRUST_FILE).exists()
    (refused,) = typed.events("approval.refused")
    assert refused["what"] == "policy trust"


def test_what_widens_nothing_needs_no_trust(typed: Typed):
    assert "no project's policy" in typed("policy", "trust").err
    typed.file("custody.toml", '[policy]\n[[policy.rules]]\nname = "x"\ndecision = "deny"\ntool = "git"\n')
    assert "nothing to trust" in typed("policy", "trust").err
    assert typed("policy", "trust", "elsewhere.toml").code == 2


@pytest.mark.long
def test_at_a_terminal_a_person_sees_what_would_be_widened(custody: Program):
    folder = custody.work / ".custody" / "policy"
    folder.mkdir(parents=True)
    (folder / "git.toml").write_text(PROJECT)
    custody("init")
    left = custody.at_terminal("policy", "trust", columns=120, typed="n\n", code=1)
    assert "allow tool git (line 1, push-is-fine-here)" in left
    assert "start notify-send" in left
    assert "Nothing was trusted." in left
    assert "is trusted as it is now." in custody.at_terminal("policy", "trust", columns=120, typed="y\n")


# -- init and the reference ---------------------------------------------------------------------------


def test_init_writes_a_policy_that_holds_and_never_changes_one(typed: Typed):
    made = typed("init", "--json").json
    assert (made["policy"], made["policy_made"]) == (str(typed.config / "policy.toml"), True)
    assert typed("policy", "check", made["policy"]).code == 0
    typed.policy(GOOD)
    assert typed("init", "--json").json["policy_made"] is False
    assert (typed.config / "policy.toml").read_text() == GOOD


def test_the_policy_and_the_case_of_the_how_to_hold(typed: Typed):
    text = (DOCS / "how-to" / "policy.md").read_text(encoding="utf-8")
    policy, cases, walls = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    typed.file("policy.toml", policy)
    typed.file("cases.toml", cases)
    typed.file("walls.toml", walls)
    assert typed("policy", "check", "policy.toml").out.endswith("nothing to say\n")
    assert typed("policy", "check", "walls.toml").out.endswith("nothing to say\n")
    assert typed("policy", "test", "policy.toml", "cases.toml").code == 0


def test_the_reference_has_every_key_of_a_policy_and_no_other():
    text = (DOCS / "reference" / "policy.md").read_text(encoding="utf-8")
    keys = text.partition("<!-- keys -->")[2].partition("<!-- /keys -->")[0]
    told: dict[str, set[str]] = {}
    for section in re.split(r"^## ", keys, flags=re.MULTILINE)[1:]:
        table = re.search(r"`\[+([a-z_.]+)\]+`", section.splitlines()[0])
        told["" if table is None else table[1]] = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert told == {table: set(names) for table, names in KEYS.items()}


# -- a policy that cannot be used -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [["calls"], ["runs"], ["stats"], ["verify"], ["token", "list"]], ids=" ".join
)
def test_who_only_looks_needs_no_policy(typed: Typed, command: list[str]):
    with custody.open(os.fspath(typed.store)) as runtime:
        runtime.call("file_list", {"path": "."})
    typed.policy("[[rules]\n")
    assert typed(*command).code == 0
    assert typed("call", "file_list", "--args", '{"path": "."}').code == 2
