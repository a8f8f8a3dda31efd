"""`custody skills`: what a person sees of skills, is asked before an install, and finds on the record."""

import io
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Program

from custody.cli.consent import says_yes

KEY_NAME = "example.com/skills"
LONG = pytest.mark.long  # more of the same


def put(folder: Path, description: str = "Fill in forms.", *, more: str = "") -> Path:
    """A skill in a folder of that name."""
    folder.mkdir(parents=True)
    (folder / "SKILL.md").write_text(f"---\ndescription: {description}\n{more}---\nEach field, please.\n")
    return folder


def events(custody: Program, *names: str) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in custody("tail", "--json").out.splitlines()]
    return [record for record in records if record.get("name") in names]


@pytest.fixture
def roots(custody: Program) -> Path:
    """The folder that the project's skills lie in."""
    return custody.work / ".agents" / "skills"


# -- looking --------------------------------------------------------------------------------------------


def test_a_list_shows_what_is_offered_and_says_what_is_not(custody: Program, roots: Path):
    put(roots / "pdf")
    (roots / "half").mkdir()
    put(custody.folder / ".claude" / "skills" / "pdf", "Somebody else's.")
    shown = custody("skills", "list")
    assert shown.code == 0
    assert [re.split("  +", line) for line in shown.out.splitlines()] == [
        ["skill", "what it is for", "from", "lock", "in"],
        ["pdf", "Fill in forms.", "–", "none", ".agents/skills"],
    ]
    half, conflict = shown.err.splitlines()
    assert half == "custody: not offered: .agents/skills/half: There is no SKILL.md in it."
    assert conflict.startswith("custody: not offered: ~/.claude/skills/pdf:")


def test_where_all_are_kept_back_nobody_is_told_that_there_are_none(custody: Program, roots: Path):
    (roots / "pdf").mkdir(parents=True)
    ran = custody("skills", "list")
    assert (ran.code, ran.out) == (0, "")
    assert "no skill is offered" in ran.err and "not offered: .agents/skills/pdf: " in ran.err
    assert "no skills in" not in ran.err


def test_without_any_skill_it_says_where_it_looked(custody: Program):
    shown = custody("skills", "list")
    assert (shown.code, shown.out) == (0, "")
    assert ".agents/skills, .claude/skills, ~/.agents/skills, ~/.claude/skills" in shown.err
    assert custody("skills", "search", "anything").code == 0
    assert custody("skills", "list", "--json").json == {"items": [], "problems": [], "next": None}


@pytest.mark.parametrize("way", ["option", pytest.param("variable", marks=LONG), "settings"])
def test_folders_are_named_by_option_variable_or_settings(custody: Program, roots: Path, way: str):
    put(roots / "pdf")
    put(custody.folder / "one" / "notes")
    put(custody.folder / "two" / "review")
    folders = [str(custody.folder / "one"), str(custody.folder / "two")]
    options, variables = [], {}
    if way == "option":
        options = ["--dir", folders[0], "--dir", folders[1]]
    elif way == "variable":
        variables = {"CUSTODY_SKILLS": ":".join(folders)}
    else:
        with custody.settings.open("a") as file:
            file.write(f"[skills]\nroots = {json.dumps(folders)}\n")
    items = custody("skills", "list", "--json", *options, **variables).json["items"]
    assert [(item["name"], item["root"]) for item in items] == [
        ("notes", folders[0]),
        ("review", folders[1]),
    ]


def test_what_strangers_write_does_not_steer_the_terminal(custody: Program, roots: Path):
    folder = put(roots / "pdf", '"\\e[2J\\e]0;title\\a"', more='"lock\\e[1A": "\\e[31mas installed"\n')
    with (folder / "SKILL.md").open("a") as file:
        file.write("\x1b[2Jbody\x9b2J\r\n")
    (folder / "\x1b[31mred").mkdir()
    put(roots / "x\ncustody: all is well")
    for command in (["list"], ["info", "pdf"], ["info", "pdf", "--text"], ["search", "title"]):
        shown = custody("skills", *command)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown.out + shown.err), command
        assert not re.search(r"^custody: all is well", shown.err, re.MULTILINE), command
    (folder / "\x1b[31mred").rmdir()
    shown = custody("skills", "info", "pdf").out
    assert r"\x1b[31mas installed" in shown.partition("It says of itself")[2]
    assert r"\x1b[2Jbody" in custody("skills", "info", "pdf", "--text").out


def test_info_of_a_skill_that_is_kept_back_says_why(custody: Program, roots: Path):
    (put(roots / "pdf") / "SKILL.md").write_text("---\ndescription: never closed\n")
    for more in ([], ["--text"]):
        shown = custody("skills", "info", "pdf", "--json", *more)
        assert (shown.code, shown.json["error"]["type"]) == (2, "NotFound")
        assert "kept back" in shown.json["error"]["message"]
    assert events(custody, "skill.read") == []


def test_a_search_finds_by_words(custody: Program, roots: Path):
    put(roots / "pdf", "Fill in forms.", more="tags: [paper]\n")
    put(roots / "review", "Look at changes.")
    found = custody("skills", "search", "PAPER", "forms", "--json").json
    assert ([item["name"] for item in found["items"]], found["complete"]) == (["pdf"], True)
    assert custody("skills", "search", "?!").code == 2


# -- a text ---------------------------------------------------------------------------------------------


def test_a_text_is_shown_and_the_record_says_which_and_to_whom(custody: Program, roots: Path):
    put(roots / "pdf")
    shown = custody("skills", "info", "pdf", "--text", "--agent", "ada", "--run", "nightly")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out == (roots / "pdf" / "SKILL.md").read_text()
    (event,) = events(custody, "skill.read")
    digest = custody("skills", "info", "pdf", "--json").json["digest"]
    said = event["payload"]["data"]
    assert (said["digest"], said["agent"], said["root"]) == (digest, "ada", str(roots))
    (run,) = custody("runs", "--name", "nightly", "--json", "--all").json["items"]
    assert event["run_id"] == run["id"]
    assert digest in custody("show", "nightly").out


def test_without_a_record_there_is_no_text(custody: Program, roots: Path):
    put(roots / "pdf")
    custody.store.write_text("no folder")
    shown = custody("skills", "info", "pdf", "--text")
    assert (shown.code, shown.out) == (2, "")
    assert "Each field" not in shown.err
    assert custody("skills", "info", "pdf").code == 0


# -- installing -----------------------------------------------------------------------------------------


def test_a_skill_is_installed_locked_and_on_the_record(custody: Program, roots: Path):
    source = put(custody.work / "downloads" / "pdf")
    (source / "fill.py").write_text("print('filled')")
    put(roots / "word")  # by hand
    done = custody("skills", "install", "downloads/pdf", "--yes", "--agent", "ada")
    assert done.code == 0, done.err
    assert "pdf is installed" in done.out
    assert "gets its first lock file, with what stands there: word." in done.err
    assert (roots / "pdf" / "fill.py").read_text() == "print('filled')"
    items = custody("skills", "list", "--json").json["items"]
    assert [(item["name"], item["locked"], item["source_kind"]) for item in items] == [
        ("pdf", True, "local"),
        ("word", True, "local"),
    ]
    (call,) = custody("calls", "--tool", "skills_install", "--json").json["items"]
    assert (call["effect"], call["outcome"], call["agent"]) == ("write", "succeeded", "ada")
    assert call["result"]["digest"] == items[0]["digest"]
    assert call["result"]["source"]["location"] == str(source)


def test_nobody_at_the_terminal_is_no_yes(custody: Program, roots: Path):
    put(custody.work / "pdf")
    for more in ([], ["--json"]):
        done = custody("skills", "install", "pdf", *more, stdin="y\n")
        assert done.code == 2
        assert "--yes" in (done.json["error"]["hint"] if more else done.err)
    assert not roots.exists()


def test_a_dry_run_says_what_would_come_and_changes_nothing(custody: Program, roots: Path):
    put(custody.work / "pdf")
    done = custody("skills", "install", "pdf", "--dry-run", "--name", "forms")
    assert done.code == 0, done.err
    assert re.search(r"^skill +forms$", done.out, re.MULTILINE)
    assert "dry run" in done.err
    assert not roots.exists()


def test_a_person_sees_what_comes_and_says_no_or_yes(custody: Program, roots: Path):
    put(custody.work / "pdf")
    shown = custody.at_terminal("skills", "install", "pdf", columns=100, typed="n\n", code=1)
    assert "digest" in shown and "Install it? [y/N]" in shown and "nothing was installed" in shown
    assert not roots.exists()
    shown = custody.at_terminal("skills", "install", "pdf", columns=100, typed="y\n")
    assert "is on the record" not in shown and (roots / "pdf" / "SKILL.md").exists()
    looked, installed = custody(
        "calls", "--tool", "skills_install", "--outcome", "succeeded", "--oldest", "--json"
    ).json["items"][-2:]
    assert (looked["dry_run"], installed["dry_run"]) == (True, False)
    assert installed["arguments"]["digest"] == looked["result"]["digest"]


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        *(pytest.param(name, marks=LONG) for name in ("/x", "a/b", "CON", "x" * 300, "", "skill.md")),
    ],
    ids=["up", "absolute", "below", "device", "long", "empty", "reserved"],
)
def test_a_name_that_cannot_be_is_refused_on_the_record(custody: Program, roots: Path, name: str):
    put(custody.work / "pdf")
    done = custody("skills", "install", "pdf", "--yes", "--name", name)
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert not roots.exists()
    (call,) = custody("calls", "--tool", "skills_install", "--json").json["items"]
    assert call["outcome"] == "rejected"


def test_a_skill_that_was_changed_is_named_by_verify_and_no_longer_given(custody: Program, roots: Path):
    put(custody.work / "pdf")
    assert custody("skills", "install", "pdf", "--yes").code == 0
    assert custody("skills", "verify").code == 0
    (roots / "pdf" / "extra.sh").write_text("echo")
    text = (roots / "pdf" / "SKILL.md").read_text()
    (roots / "pdf" / "SKILL.md").write_text(text.replace("forms", "bank details"))
    for more in ([], ["pdf"]):
        found = custody("skills", "verify", *more)
        assert found.code == 1
        assert [re.split("  +", line)[:2] for line in found.out.splitlines()] == [
            ["skill", "file"],
            [".agents/skills/pdf", "SKILL.md"],
            [".agents/skills/pdf", "extra.sh"],
        ]
        assert "custody skills install" in found.err
    report = custody("skills", "verify", "--json").json
    assert not report["ok"]
    assert [(one["file"], one["what"]) for one in report["roots"][0]["changed"]] == [
        ("SKILL.md", "content"),
        ("extra.sh", "added"),
    ]
    assert custody("skills", "info", "pdf", "--text").code == 2
    adopted = custody("skills", "install", ".agents/skills/pdf", "--yes")
    assert (adopted.code, custody("skills", "verify").code) == (0, 0), adopted.err
    assert custody("skills", "verify", "nothing").code == 2


def test_a_folder_that_nobody_can_mean_is_no_folder_that_is_fine(custody: Program):
    missing = custody("skills", "verify", "--dir", "skils", "--json")
    assert (missing.code, missing.json["error"]["message"]) == (2, "'skils' is no folder.")
    assert custody("skills", "list", "--dir", "").code == 2
    assert f"no skills in {custody.work}." in custody("skills", "list", "--dir", ".").err


def test_a_refusal_names_the_option_that_helps(custody: Program, roots: Path):
    put(roots / "pdf")
    put(custody.work / "pdf", "Somebody else's.")
    refused = custody("skills", "install", "pdf", "--yes")
    assert "`--replace`" in refused.err and "`--name`" in refused.err


def test_a_skill_is_removed_with_its_entry(custody: Program, roots: Path):
    for name in ("pdf", "notes"):
        put(custody.work / name)
        assert custody("skills", "install", name, "--yes").code == 0
    assert custody("skills", "remove", "pdf").code == 2
    removed = custody("skills", "remove", "pdf", "--yes")
    assert (removed.code, removed.out) == (0, "Removed pdf from .agents/skills.\n")
    assert sorted(json.loads((roots / "skills.lock.json").read_text())["skills"]) == ["notes"]
    assert custody("skills", "remove", "pdf", "--yes").code != 0
    assert custody("skills", "verify").code == 0


def test_a_script_runs_as_a_call(custody: Program, roots: Path):
    source = put(custody.work / "pdf")
    (source / "fill.py").write_text("import sys\nprint('filled', *sys.argv[1:])\nsys.exit(len(sys.argv) - 2)")
    assert custody("skills", "install", "pdf", "--yes").code == 0
    done = custody("skills", "run", "pdf", "fill.py", "--", "form")
    assert (done.code, done.out) == (0, "filled form\n"), done.err
    failed = custody("skills", "run", "pdf", "fill.py", "--", "a", "b", "c")
    assert (failed.code, failed.out) == (1, "filled a b c\n")
    (roots / "pdf" / "fill.py").write_text("print('stolen')")
    changed = custody("skills", "run", "pdf", "fill.py")
    assert changed.code != 0 and "stolen" not in changed.out


# -- whose word counts ----------------------------------------------------------------------------------


def test_a_signature_counts_once_its_key_is_trusted_and_not_when_it_is_revoked(custody: Program, roots: Path):
    put(roots / "pdf")
    key = str(custody.folder / "key.pem")
    vkey = custody("skills", "trust", "new-key", key, "--name", KEY_NAME).out.strip()
    signed = custody("skills", "sign", ".agents/skills/pdf", "--key", key, "--name", KEY_NAME, "--json")
    assert (signed.code, signed.json["vkey"]) == (0, vkey)
    assert custody("skills", "list", "--json").json["items"][0]["signed_by"] is None
    added = custody("skills", "trust", "add", vkey, "--expires", "30d")
    assert added.code == 0 and "It signed: pdf." in added.err
    assert f"signed by {KEY_NAME}" in custody("skills", "list").out
    (item,) = custody("skills", "trust", "list", "--json").json["items"]
    assert (item["id"], item["standing"], item["signed"]) == (KEY_NAME, "trusted", ["pdf"])
    assert custody("skills", "trust", "revoke", KEY_NAME).code == 0
    assert custody("skills", "verify", "pdf").code == 1
    assert [
        (event["name"], event["data"]["vkey"])
        for event in events(custody, "skills.trusted", "skills.distrusted")
    ] == [("skills.trusted", vkey), ("skills.distrusted", vkey)]


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["add", "no line"], marks=LONG), pytest.param(["add", "a+b+c"], marks=LONG),
        ["revoke", "nobody"],
        ["add", "example.com/k+7896aa41+AVELBqn766wRwE7OLaB0o2dTtfG+5wEHSTay3Dr0ljsK"],
        pytest.param(["new-key", "key.pem", "--name", "with space"], marks=LONG),
    ],
    ids=["words", "letters", "nobody", "other-hash", "space"],
)  # fmt: skip
def test_a_key_that_nobody_can_mean_changes_nothing(custody: Program, words: list[str]):
    done = custody("skills", "trust", *words, "--json")
    assert (done.code, set(done.json)) == (2, {"error"})
    assert list(custody.work.iterdir()) == []
    assert not (custody.settings.parent / "skills.trust.json").exists()
    assert not custody.store.exists() or events(custody, "skills.trusted", "skills.distrusted") == []


@pytest.mark.parametrize(
    "expires", ["1970-01-01", *(pytest.param(time, marks=LONG) for time in ("0", "tomorrow", "99999999999d"))]
)
def test_a_key_is_trusted_until_a_moment_to_come(custody: Program, expires: str):
    vkey = custody("skills", "trust", "new-key", "key.pem", "--name", KEY_NAME).out.strip()
    assert custody("skills", "trust", "add", vkey, "--expires", expires).code == 2
    assert custody("skills", "trust", "list", "--json").json["items"] == []


def test_names_are_completed(custody: Program, roots: Path):
    put(roots / "pdf")
    put(roots / "notes")
    done = custody(_CUSTODY_COMPLETE="bash_complete", COMP_WORDS="custody skills info p", COMP_CWORD="3")
    assert done.out.split() == ["plain,pdf"]


@pytest.mark.long
def test_scripts_of_a_skill_are_completed(custody: Program, roots: Path):
    source = put(custody.work / "pdf")
    (source / "fill.py").write_text("print()")
    assert custody("skills", "install", "pdf", "--yes").code == 0
    words = "custody skills run pdf f"
    done = custody(_CUSTODY_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD="4")
    assert done.out.split() == ["plain,fill.py"]


@pytest.mark.parametrize("leaves", ["as it is asked", "while it waits", "at the end of the input"])
def test_whoever_leaves_a_question_is_told_what_became_of_it(monkeypatch: pytest.MonkeyPatch, leaves: str):
    class Keyboard:
        def readline(self) -> str:
            if leaves == "while it waits":
                raise KeyboardInterrupt
            return ""

    class Shown(io.StringIO):
        def flush(self) -> None:
            if leaves == "as it is asked" and self.getvalue().endswith("] "):
                raise KeyboardInterrupt

    shown = Shown()
    monkeypatch.setattr("sys.stdin", Keyboard())
    monkeypatch.setattr("sys.stderr", shown)
    with suppress(KeyboardInterrupt):
        assert not says_yes("Sure?", "nothing was done.")
    assert shown.getvalue() == "Sure? [y/N] \ncustody: nothing was done.\n"
