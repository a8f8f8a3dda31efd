"""Installing, removing and running a script as calls of an agent: what is recorded, and what is refused."""

import os
import random
import socket
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.skills.installing import (
    hidden,
    is_sound,
    locked,
    make_skill,
    seen,
    set_aside,
    shelf_of,
    skill_text,
)
from tests.tools.repositories import commit, git, make_home
from tests.tools.trees import Place, message, succeeded

from custody.blocking import BlockingRuntime
from custody.records import Call
from custody.skills import load_catalog


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("acts"))


@pytest.fixture(scope="module")
def runtime(place: Place) -> Iterator[BlockingRuntime]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in make_home(place.temporary / "home").items():
            patch.setenv(name, value)
        with place.open(agent="ada") as runtime:
            yield runtime


@pytest.fixture
def root(place: Place) -> Path:
    """The first root there is: the project's. Empty, as far as these tests go."""
    root = place.work / ".agents" / "skills"
    set_aside(root, place.outside)
    return root


@pytest.fixture
def here(place: Place) -> Path:
    """A folder of this test's own, which the agent may read."""
    folder = place.work / f"{len(list(place.work.iterdir()))}"
    folder.mkdir()
    return folder


def install(runtime: BlockingRuntime, source: object, **more: Any) -> Call:
    return runtime.call("skills_install", {"source": str(source), **more})


def offered(root: Path) -> list[str]:
    return [skill.name for skill in load_catalog(shelf_of(root)).skills]


def temporary_folders(place: Place) -> list[str]:
    return [path.name for path in place.temporary.iterdir() if path.name != "home"]


def test_an_install_is_a_call_that_says_what_came_from_where(
    runtime: BlockingRuntime, root: Path, here: Path, place: Place
):
    source = make_skill(here, "pdf")
    call = install(runtime, source)
    result = succeeded(call)
    assert (call.effect, call.agent) == ("write", "ada")
    assert result == {
        "dry_run": False,
        "name": "pdf",
        "description": "What pdf is for.",
        "path": "pdf",
        "root": os.fspath(root),
        "digest": locked(root)["pdf"],
        "files": 2,
        "bytes": sum(path.stat().st_size for path in (source / "SKILL.md", source / "scripts" / "run")),
        "executables": ["scripts/run"],
        "source": {
            "kind": "local",
            "location": os.fspath(source),
            "commit": None,
            "path": None,
            "sha256": None,
        },
        "signature": None,
        "replaced": None,
        "adopted": False,
        "unchanged": False,
        "locked_too": [],
        "left": [],
    }
    assert is_sound(root)
    assert temporary_folders(place) == []
    [recorded] = runtime.index.calls(limit=1).items
    assert recorded.id == call.id
    assert recorded.arguments == {"source": os.fspath(source)}


def test_a_dry_run_says_what_would_be_and_changes_nothing(runtime: BlockingRuntime, root: Path, here: Path):
    source = make_skill(here, "pdf")
    would = succeeded(runtime.call("skills_install", {"source": str(source)}, dry_run=True))
    assert (would["dry_run"], would["name"]) == (True, "pdf")
    assert not root.exists()
    did = succeeded(install(runtime, source, digest=would["digest"]))
    assert {**did, "dry_run": True} == would
    (source / "SKILL.md").write_text(skill_text("pdf", "something else"), encoding="utf-8")
    assert "not what was expected" in message(install(runtime, source, digest=would["digest"], replace=True))
    would = succeeded(runtime.call("skills_install", {"source": str(source), "replace": True}, dry_run=True))
    assert would["replaced"] == did["digest"]
    gone = succeeded(runtime.call("skills_remove", {"name": "pdf"}, dry_run=True))
    assert (gone["dry_run"], gone["digest"]) == (True, did["digest"])
    assert locked(root) == {"pdf": did["digest"]}


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "/x",
        "",
        "a/b",
        "CON",
        "nul.txt",
        "a\0b",
        "x" * 300,
        "..",
        "-x",
        "x.",
        "skills.lock.json",
        "é",
    ],
    ids=lambda name: ascii(name[:20]),
)
def test_a_name_is_judged_before_anything_is_fetched(
    runtime: BlockingRuntime, root: Path, here: Path, name: str
):
    call = install(runtime, here / "nothing is here", name=name)
    assert call.outcome == "rejected"
    assert call.decision.by == "schema"
    assert not root.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"source": "http://example.com/a.zip"}, "not fetched over http://"),
        ({"source": "ftp://example.com/a.zip"}, "not fetched over ftp://"),
        ({"source": "https://example.com/skills"}, "does not end as an archive"),
        ({"source": "git@example.com:a/b"}, "git+ssh://"),
        ({"source": "git+http://example.com/a.git@" + "0" * 40}, "http://"),
        ({"source": "git+ext::sh -c id"}, "runs a program"),
        ({"source": "git+https://example.com/a.git@-x"}, "no name for a branch"),
        ({"source": "git+https://example.com/a.git@main", "ref": "main"}, "more than once"),
        ({"source": "git+https://example.com/a.git", "commit": "abc"}, "whole name of a commit"),
        ({"source": "https://example.com/a.zip", "sha256": "abc"}, "64 hexadecimal"),
        ({"source": "https://example.com/a.zip", "commit": "0" * 40}, "no meaning"),
        ({"source": "pdf", "sha256": "0" * 64}, "no meaning"),
        ({"source": "pdf.zip", "path": "../x"}, "not a path below"),
        ({"source": "pdf.zip", "path": "/x"}, "not a path below"),
        ({"source": "pdf", "root": "/etc"}, "not one of the folders of skills"),
        ({"source": "a\nb"}, "control character"),
        ({"source": "https://user:pass@/a.zip"}, "names no host"),
        ({"source": "https://user:pass/word@host/a.zip"}, "its host or its port is none"),
        ({"source": "/etc"}, "outside the allowed roots"),
        ({"source": "git+file:///etc/x.git", "commit": "0" * 40}, "outside the allowed roots"),
    ],
    ids=lambda value: value["source"][:40] if isinstance(value, dict) else "",
)
def test_what_cannot_be_a_source_is_refused_before_it_is_tried(
    runtime: BlockingRuntime, root: Path, arguments: dict[str, Any], said: str
):
    call = runtime.call("skills_install", arguments)
    assert call.outcome == "rejected"
    assert said in call.reason
    assert not root.exists()


def test_links_and_odd_files_are_refused_at_the_source_and_in_it(
    runtime: BlockingRuntime, root: Path, here: Path, place: Place
):
    skill = make_skill(here, "pdf")
    (here / "link").symlink_to("pdf")
    assert "is a link" in message(install(runtime, here / "link"))
    (place.outside / "secret.md").write_text(skill_text("secret"), encoding="utf-8")
    (here / "out.md").symlink_to(place.outside / "secret.md")
    assert "link" in message(install(runtime, here / "out.md"))
    (skill / "in").symlink_to("SKILL.md")
    assert "in is a link" in message(install(runtime, skill))
    (skill / "in").unlink()
    os.mkfifo(skill / "in")
    assert "in is neither a file nor a folder" in message(install(runtime, skill))
    os.mkfifo(here / "pipe.md")
    assert "is not a file" in message(install(runtime, here / "pipe.md"))
    assert "nothing there" in message(install(runtime, here / "none"))
    assert not root.exists()


def test_what_no_tool_may_read_does_not_come_along_in_a_skill(
    runtime: BlockingRuntime, root: Path, here: Path
):
    skill = make_skill(here, "pdf", **{".env": "KEY=value"})
    assert ".env is protected" in message(install(runtime, skill))
    (skill / ".env").rename(here / ".env")
    os.link(here / ".env", skill / "harmless.txt")
    assert "harmless.txt" in message(install(runtime, skill))
    assert not root.exists()


def test_what_no_tool_may_write_does_not_come_in_a_skill(runtime: BlockingRuntime, root: Path, here: Path):
    make_skill(here, "pdf", **{".git/config": "[core]\n\tfsmonitor = ./run\n"})
    with tarfile.open(here / "pdf.tar", "w") as archive:  # of a folder it would be left out
        archive.add(here / "pdf", "pdf")
    call = install(runtime, here / "pdf.tar")
    assert call.outcome == "failed"
    assert "pdf/.git/config is protected" in message(call)
    assert not root.exists()


def test_a_folder_that_holds_the_root_is_no_skill_for_it(
    runtime: BlockingRuntime, root: Path, here: Path, place: Place
):
    root.mkdir(parents=True)
    (place.work / "SKILL.md").write_text(skill_text("work"), encoding="utf-8")
    call = install(runtime, place.work)
    (place.work / "SKILL.md").unlink()
    assert "holds the folder that it would be installed into" in message(call)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"---\nname: pdf\ndescription: x\n", "not closed"),
        (b"---\ndescription: &a [x]\nmore: [*a, *a]\n---\n", "anchor or alias"),
        (b"---\ndescription: \xff\n---\n", "not UTF-8"),
        (b"---\nname: pdf\n---\n", "no `description`"),
        (b"no front matter", "no front matter"),
    ],
    ids=["not closed", "aliases", "bytes", "no description", "none"],
)
def test_a_skill_that_says_nothing_readable_of_itself_is_refused(
    runtime: BlockingRuntime, root: Path, here: Path, text: bytes, said: str
):
    (make_skill(here, "pdf") / "SKILL.md").write_bytes(text)
    call = install(runtime, here / "pdf")
    assert said in message(call)
    assert call.outcome == "failed"
    assert not root.exists()


def test_a_folder_in_the_root_is_adopted_and_a_single_file_installed(
    runtime: BlockingRuntime, root: Path, here: Path
):
    made = make_skill(root, "pdf")
    assert succeeded(install(runtime, made))["adopted"] is True
    (here / "notes.md").write_text(skill_text("notes"), encoding="utf-8")
    assert succeeded(install(runtime, here / "notes.md"))["path"] == "notes.md"
    assert succeeded(install(runtime, here / "notes.md", name="other"))["path"] == "other.md"
    assert list(locked(root)) == ["notes.md", "other.md", "pdf"]
    assert is_sound(root)


def test_skills_that_stand_in_a_root_are_in_its_first_lock_by_path_and_stay_offered(
    runtime: BlockingRuntime, root: Path, here: Path
):
    make_skill(root, "word")
    make_skill(root, "sheet")
    (root / "notes.md").write_text(skill_text("notes"), encoding="utf-8")
    (root / "folder").mkdir()
    (root / "broken").mkdir()
    (root / "broken" / "SKILL.md").write_text("---\nnever closed", encoding="utf-8")
    asked = {"source": str(make_skill(here, "pdf"))}
    told = succeeded(runtime.call("skills_install", asked, dry_run=True))
    assert told["locked_too"] == ["sheet", "word", "notes"]
    assert locked(root) == {}
    assert succeeded(install(runtime, make_skill(here, "pdf2")))["locked_too"] == ["sheet", "word", "notes"]
    assert list(locked(root)) == ["notes.md", "pdf2", "sheet", "word"]
    assert offered(root) == ["notes", "pdf2", "sheet", "word"]
    (root / "word" / "SKILL.md").write_text(skill_text("other"), encoding="utf-8")
    assert offered(root) == ["notes", "pdf2", "sheet"]
    make_skill(root, "later")
    assert succeeded(install(runtime, make_skill(here, "third")))["locked_too"] == []
    assert "later" not in locked(root)


def test_what_git_keeps_beside_a_skill_does_not_come_along(runtime: BlockingRuntime, root: Path, here: Path):
    skill = make_skill(here, "pdf")
    git(skill, "init", "--quiet")
    assert succeeded(install(runtime, skill))["files"] == 2
    assert sorted(path.name for path in (root / "pdf").iterdir()) == ["SKILL.md", "scripts"]


def test_a_skill_goes_to_the_root_that_is_named_and_is_removed_from_where_it_is(
    runtime: BlockingRuntime, root: Path, here: Path, place: Place
):
    other = place.work / ".claude" / "skills"
    succeeded(install(runtime, make_skill(here, "pdf"), root=os.fspath(other)))
    assert not root.exists()
    assert "would be taken for 'pdf'" in message(install(runtime, make_skill(here, "PDF")))
    removed = succeeded(runtime.call("skills_remove", {"name": "pdf"}))
    assert removed["root"] == os.fspath(other)
    assert locked(other) == {}
    assert "no skill 'pdf'" in message(runtime.call("skills_remove", {"name": "pdf"}))
    assert runtime.call("skills_remove", {"name": "../x"}).outcome == "rejected"


# -- git ----------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(here: Path) -> Path:
    folder = here / "skills"
    folder.mkdir()
    git(folder, "init", "--quiet", "--template=")
    make_skill(folder / "some", "pdf")
    commit(folder, "first")
    return folder


def test_a_skill_of_a_repository_is_that_of_the_commit(
    runtime: BlockingRuntime, root: Path, repository: Path, place: Place
):
    first = git(repository, "rev-parse", "HEAD").strip()
    (repository / ".gitattributes").write_text("* text eol=crlf\nSKILL.md export-ignore\n", encoding="utf-8")
    second = commit(repository, "second", {"some/pdf/SKILL.md": skill_text("pdf", "another way")})
    (repository / "some" / "pdf" / "SKILL.md").write_text("never committed", encoding="utf-8")
    result = succeeded(install(runtime, repository, commit=first, path="some/pdf"))
    assert result["source"] == {
        "kind": "git",
        "location": os.fspath(repository),
        "commit": first,
        "path": "some/pdf",
        "sha256": None,
    }
    assert (root / "pdf" / "SKILL.md").read_text(encoding="utf-8") == skill_text("pdf")
    assert result["executables"] == ["scripts/run"]
    spelled = install(runtime, f"git+file://{repository}@{second}", path="some/pdf", replace=True)
    assert succeeded(spelled)["replaced"] == result["digest"]
    assert (root / "pdf" / "SKILL.md").read_bytes() == skill_text("pdf", "another way").encode()
    named = install(runtime, f"git+file://{repository}@main", path="some/pdf")
    assert succeeded(named)["source"]["commit"] == second
    assert is_sound(root)
    assert temporary_folders(place) == []


def test_a_repository_without_a_commit_says_which_it_has(
    runtime: BlockingRuntime, root: Path, repository: Path
):
    head = git(repository, "rev-parse", "HEAD").strip()
    call = install(runtime, f"git+file://{repository}", path="some/pdf")
    assert call.outcome == "failed"
    assert head in message(call)
    assert "some/pdf" in message(install(runtime, repository, commit=head))
    assert "could not be fetched" in message(install(runtime, repository, commit="0" * 40))
    assert "could not be fetched" in message(install(runtime, repository, ref="nowhere"))
    assert not root.exists()


def test_what_git_says_of_an_address_has_no_secrets_of_it(runtime: BlockingRuntime, root: Path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        host = f"127.0.0.1:{nobody.getsockname()[1]}"
        source = f"git+https://ada:hidden-word@{host}/skills.git?sig=hidden-sign"
        call = install(runtime, source, commit="0" * 40)
    assert f"https://{host}/skills.git could not be fetched" in message(call)
    assert "hidden" not in message(call)
    assert not root.exists()


def test_a_repository_that_sends_without_end_is_cut_at_the_bound(
    runtime: BlockingRuntime, root: Path, repository: Path, monkeypatch: pytest.MonkeyPatch, place: Place
):
    (repository / "large").write_bytes(random.Random(1).randbytes(300_000))
    head = commit(repository, "large")
    monkeypatch.setattr("custody.skills.sources.git.REPOSITORY_BYTES_MAX", 64 * 1024)
    call = install(runtime, repository, commit=head, path="some/pdf")
    assert "more than 65,536 bytes" in message(call)
    assert temporary_folders(place) == []


def test_links_and_submodules_of_a_commit_are_refused(runtime: BlockingRuntime, root: Path, repository: Path):
    (repository / "some" / "pdf" / "link").symlink_to("/etc/passwd")
    linked = commit(repository, "link")
    assert "is a link" in message(install(runtime, repository, commit=linked, path="some/pdf"))
    (repository / "some" / "pdf" / "link").unlink()
    commit(repository, "no link")
    cache = f"160000,{linked},some/pdf/module"
    git(repository, "update-index", "--add", "--cacheinfo", cache)
    git(repository, "commit", "--quiet", "-m", "module")
    module = git(repository, "rev-parse", "HEAD").strip()
    assert "is a submodule" in message(install(runtime, repository, commit=module, path="some/pdf"))
    assert not root.exists()


def test_a_repository_that_has_its_objects_elsewhere_is_refused(
    runtime: BlockingRuntime, root: Path, repository: Path, here: Path, place: Place
):
    head = git(repository, "rev-parse", "HEAD").strip()
    git(here, "clone", "--quiet", "--bare", "--shared", os.fspath(repository), "shared.git")
    assert "objects elsewhere" in message(install(runtime, here / "shared.git", commit=head, path="some/pdf"))
    git(repository, "worktree", "add", "--quiet", os.fspath(here / "tree"))
    assert "only points to" in message(install(runtime, here / "tree", commit=head, path="some/pdf"))


def test_a_single_file_of_a_repository_is_named_by_its_path(
    runtime: BlockingRuntime, root: Path, repository: Path
):
    head = commit(repository, "notes", {"notes.md": skill_text("notes")})
    result = succeeded(install(runtime, f"git+file://{repository}@{head}", path="notes.md"))
    assert (result["name"], result["path"]) == ("notes", "notes.md")
    assert "There is no none.md" in message(install(runtime, repository, commit=head, path="none.md"))


def test_settings_of_the_user_and_hooks_have_no_say(
    runtime: BlockingRuntime, root: Path, repository: Path, place: Place, here: Path
):
    head = git(repository, "rev-parse", "HEAD").strip()
    marker = here / "ran"
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    for name in ("post-checkout", "reference-transaction", "pre-auto-gc"):
        (hook.parent / name).write_text(f"#!/bin/sh\ntouch '{marker}'\n", encoding="utf-8")
        (hook.parent / name).chmod(0o755)
    config = place.temporary / "home" / ".gitconfig"
    before = config.read_text(encoding="utf-8")
    config.write_text(before + f'[url "{here}/nowhere"]\n\tinsteadOf = {repository}\n', encoding="utf-8")
    try:
        succeeded(install(runtime, repository, commit=head, path="some/pdf"))
    finally:
        config.write_text(before, encoding="utf-8")
    assert not marker.exists()


# -- running ------------------------------------------------------------------------------------------------


def test_a_script_runs_in_the_calls_folder_with_what_it_is_given(
    runtime: BlockingRuntime, root: Path, here: Path, place: Place
):
    skill = make_skill(
        here, "pdf", **{"scripts/show.py": "import os, sys\nprint(sys.argv[1:], sys.stdin.read())"}
    )
    (skill / "scripts" / "run").write_text(
        '#!/bin/sh\necho "$CUSTODY_SKILL $PWD" "$@"\ntouch made\nexit 3\n', encoding="utf-8"
    )
    digest = succeeded(install(runtime, skill))["digest"]
    call = runtime.call("skill_run", {"name": "pdf", "script": "scripts/run", "args": ["a b", "c"]})
    assert (call.effect, call.level, call.exit_code) == ("unknown", "process", 3)
    assert call.result["stdout"] == f"pdf {place.work} a b c\n"
    assert (call.result["skill"], call.result["digest"]) == ("pdf", digest)
    assert (place.work / "made").exists()
    shown = runtime.call("skill_run", {"name": "pdf", "script": "scripts/show.py", "stdin": "text"})
    assert succeeded(shown)["stdout"] == "[] text\n"
    would = runtime.call("skill_run", {"name": "pdf", "script": "scripts/run"}, dry_run=True)
    assert succeeded(would)["would_run"] == [os.fspath(root / "pdf" / "scripts" / "run")]


def test_running_a_script_leaves_the_skill_as_it_was_installed(
    runtime: BlockingRuntime, root: Path, here: Path
):
    skill = make_skill(
        here,
        "pdf",
        **{"scripts/helper.py": "SAID = 'helped'", "scripts/show.py": "import helper\nprint(helper.SAID)"},
    )
    succeeded(install(runtime, skill))
    ran = runtime.call("skill_run", {"name": "pdf", "script": "scripts/show.py"})
    assert succeeded(ran)["stdout"] == "helped\n"
    assert "skill_changed" not in ran.result
    assert is_sound(root)


def test_a_skill_that_is_another_when_its_script_has_ended_is_told_of(
    runtime: BlockingRuntime, root: Path, here: Path
):
    skill = make_skill(here, "pdf")
    (skill / "scripts" / "run").write_text(
        '#!/bin/sh\necho more >"$CUSTODY_SKILL_FOLDER/made"\n', encoding="utf-8"
    )
    succeeded(install(runtime, skill))
    ran = runtime.call("skill_run", {"name": "pdf", "script": "scripts/run"})
    assert succeeded(ran)["skill_changed"] is True
    assert not is_sound(root)


def test_a_skill_that_differs_from_its_lock_does_not_run(runtime: BlockingRuntime, root: Path, here: Path):
    succeeded(install(runtime, make_skill(here, "pdf")))
    (root / "pdf" / "more.txt").write_text("added", encoding="utf-8")
    call = runtime.call("skill_run", {"name": "pdf", "script": "scripts/run"})
    assert call.outcome == "failed"
    assert "more.txt" in message(call)
    assert call.child_pid is None


def test_only_scripts_of_the_skill_are_run(runtime: BlockingRuntime, root: Path, here: Path):
    succeeded(install(runtime, make_skill(here, "pdf", data="x")))
    for script in ("../../../etc/passwd", "/bin/sh", "none", "data", "SKILL.md"):
        call = runtime.call("skill_run", {"name": "pdf", "script": script})
        assert "what can be run: scripts/run" in message(call)
    assert "none" in message(runtime.call("skill_run", {"name": "none", "script": "x"}))


def test_what_is_installed_has_ordinary_modes(runtime: BlockingRuntime, root: Path, here: Path):
    skill = make_skill(here, "pdf")
    (skill / "scripts" / "run").chmod(0o6777)
    succeeded(install(runtime, skill))
    assert stat.S_IMODE((root / "pdf" / "scripts" / "run").stat().st_mode) == 0o755
    assert hidden(root) == []
    assert seen(root)
