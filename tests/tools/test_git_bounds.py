"""What the `git` tool does not do: run hooks, leave the roots, add secrets, take values for options."""

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.tools.repositories import commit, everything, git, make_home, new_repository, write
from tests.tools.trees import Place, message, succeeded, tree

import custody


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, value in make_home(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    place = Place(tmp_path)
    new_repository(place.work)
    return place


def program(place: Place, name: str) -> Path:
    """A program that leaves a mark where it was run, and says nothing else."""
    path = place.temporary / name
    path.write_text(f"#!/bin/sh\ntouch {place.temporary}/marks/{name}\n")
    path.chmod(0o755)
    (place.temporary / "marks").mkdir(exist_ok=True)
    return path


def marks(place: Place) -> list[str]:
    return sorted(os.listdir(place.temporary / "marks"))


# -- nothing else is run --------------------------------------------------------------------------------

HOOKS = """
    pre-commit prepare-commit-msg commit-msg post-commit post-checkout post-merge pre-rebase post-rewrite
    reference-transaction post-index-change fsmonitor-watchman pre-auto-gc pre-merge-commit
""".split()


@pytest.mark.parametrize("where", ["its own", "configured"])
def test_no_hook_of_the_repository_runs(place, where):
    git(place.work, "clone", "--quiet", os.fspath(place.work), os.fspath(place.temporary / "copy"))
    copy = place.temporary / "copy"
    folder = copy / ".git/hooks" if where == "its own" else place.temporary / "hooks"
    folder.mkdir(exist_ok=True)
    for name in HOOKS:
        program(place, name).rename(folder / name)
    if where == "configured":
        git(copy, "config", "core.hooksPath", os.fspath(folder))
    commit(place.work, "upstream", {"up.txt": "x\n"})
    write(copy, {"a.txt": "changed\n"})
    with place.open() as runtime:

        def call(operation, **more):
            succeeded(runtime.call("git", {"operation": operation, "path": os.fspath(copy), **more}))

        call("commit", message="x", all=True)
        call("checkout", name="topic", create=True)
        call("checkout", name="main")
        call("revert", revision="HEAD")
        write(copy, {"a.txt": "again\n"})
        call("stash")
        call("stash", action="pop")
        call("checkout", files=["."])
        call("pull", rebase=True)
    assert marks(place) == []
    git(copy, "commit", "--quiet", "--allow-empty", "-m", "by a person")
    assert "post-commit" in marks(place)


def test_no_program_of_the_settings_runs(place):
    settings = {
        "core.fsmonitor": "fsmonitor", "core.pager": "pager", "core.editor": "editor",
        "sequence.editor": "editor",
        "diff.external": "diff", "diff.mine.textconv": "textconv", "diff.mine.command": "command",
        "gpg.program": "gpg", "core.askPass": "askpass", "interactive.diffFilter": "filter",
    }  # fmt: skip
    for name, value in settings.items():
        git(place.work, "config", name, os.fspath(program(place, value)))
    for name in ("commit.gpgSign", "log.showSignature", "pager.log", "pager.diff", "commit.verbose"):
        git(place.work, "config", name, "true")
    write(place.work, {".gitattributes": "*.txt diff=mine\n", "a.txt": "changed\n"})
    with place.open() as runtime:
        for arguments in (
            {"operation": "status"},
            {"operation": "diff"},
            {"operation": "add", "all": True},
            {"operation": "commit", "message": "x"},
            {"operation": "commit", "amend": True},
            {"operation": "show"},
            {"operation": "show", "revision": "HEAD:a.txt"},
            {"operation": "log"},
            {"operation": "revert", "revision": "HEAD"},
        ):
            succeeded(runtime.call("git", arguments))
    assert marks(place) == []


def test_our_own_environment_does_not_point_git_elsewhere(place, monkeypatch):
    other = new_repository(place.outside / "other")
    monkeypatch.setenv("GIT_DIR", os.fspath(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", os.fspath(other))
    with place.open() as runtime:
        result = succeeded(runtime.call("git", {"operation": "status"}))
    assert result["repository"] == os.fspath(place.work)


def test_without_git_the_call_says_so(place, monkeypatch):
    monkeypatch.setenv("PATH", os.fspath(place.outside))
    with place.open() as runtime:
        call = runtime.call("git", {"operation": "status"})
    assert (call.outcome, call.error["type"]) == ("failed", "CommandNotFound")


# -- the roots ------------------------------------------------------------------------------------------


def test_a_repository_outside_the_roots_is_refused(place):
    other = new_repository(place.outside / "other")
    with place.open() as runtime:
        call = runtime.call("git", {"operation": "status", "path": os.fspath(other)})
        assert call.outcome == "rejected"
        assert "outside the allowed roots" in message(call)


def test_a_repository_around_a_root_is_refused(place):
    git(place.work.parent, "init", "--quiet")
    inner = place.temporary / "inner"
    inner.mkdir()
    with place.open() as runtime:
        call = runtime.call("git", {"operation": "status", "path": os.fspath(inner)})
    assert "outside the allowed roots" in message(call)


def points_by_file(place: Place, other: Path) -> Path:
    folder = place.work / "sub"
    write(folder, {".git": f"gitdir: {other}/.git\n"})
    return folder


def points_by_worktree(place: Place, other: Path) -> Path:
    git(other, "worktree", "add", "--quiet", os.fspath(place.work / "linked"))
    return place.work / "linked"


def points_by_setting(place: Place, other: Path) -> Path:
    git(place.work, "config", "core.worktree", os.fspath(other))
    return place.work


def points_by_alternates(place: Place, other: Path) -> Path:
    git(place.work, "clone", "--quiet", "--shared", os.fspath(other), "sub")
    return place.work / "sub"


def points_by_link(place: Place, other: Path) -> Path:
    (place.work / "sub").mkdir()
    (place.work / "sub/.git").symlink_to(other / ".git")
    return place.work / "sub"


@pytest.mark.parametrize(
    "points", [points_by_file, points_by_worktree, points_by_setting, points_by_alternates, points_by_link]
)
def test_a_repository_whose_parts_lie_outside_is_neither_read_nor_written(place, points):
    other = new_repository(place.outside / "other")
    commit(other, "a secret of theirs", {"theirs.txt": "x"})
    folder = points(place, other)
    write(folder, {"mine.txt": "x"})
    before = everything(other)
    with place.open() as runtime:
        for arguments in ({"operation": "log"}, {"operation": "status"}, {"operation": "add", "all": True}):
            call = runtime.call("git", {**arguments, "path": os.fspath(folder)})
            assert "outside the allowed roots" in message(call)
            assert "theirs" not in repr(call.result)
    assert everything(other) == before


def test_a_bare_repository_that_lies_in_a_tree_is_not_taken_for_one(place):
    git(place.work, "init", "--quiet", "--bare", "hidden")
    git(place.work / "hidden", "config", "core.bare", "false")
    git(place.work / "hidden", "config", "core.worktree", os.fspath(place.work))
    git(place.work / "hidden", "config", "core.fsmonitor", os.fspath(program(place, "fsmonitor")))
    with place.open() as runtime:
        call = runtime.call("git", {"operation": "status", "path": "hidden"})
    assert "bare repository" in message(call)
    assert marks(place) == []


def test_a_file_outside_the_roots_is_refused(place):
    write(place.outside, {"x": "theirs"})
    (place.work / "link-out").symlink_to(place.outside)
    with place.open() as runtime:
        for operation in ("status", "diff", "log", "show", "add", "commit", "checkout", "stash"):
            for file in ("../outside/x", "/etc/hostname", "link-out/x"):
                more = {"message": "x"} if operation == "commit" else {}
                call = runtime.call("git", {"operation": operation, "files": [file], **more})
                assert call.outcome == "rejected"
                assert "outside the allowed roots" in message(call)


def test_two_files_outside_the_repository_are_not_compared(place):
    """`git diff x y` compares any two files of the machine where one is in no repository."""
    write(place.temporary, {"x": "one\n", "y": "two\n"})
    with place.open() as runtime:
        files = [os.fspath(place.temporary / name) for name in "xy"]
        call = runtime.call("git", {"operation": "diff", "files": files})
    assert "not in the repository" in message(call)
    assert call.result is None


OPTIONS: list[dict[str, object]] = [
    {"operation": "log", "revision": "--output=x"},
    {"operation": "log", "revision": "HEAD..--output=x"},
    {"operation": "diff", "revision": "--no-index"},
    {"operation": "show", "revision": "--output=x"},
    {"operation": "show", "revision": "--output=x:y"},
    {"operation": "branch", "name": "--list"},
    {"operation": "branch", "name": "ok", "revision": "-f"},
    {"operation": "checkout", "name": "-f"},
    {"operation": "checkout", "revision": "--orphan=x"},
    {"operation": "checkout", "files": ["a.txt"], "revision": "--patch"},
    {"operation": "revert", "revision": "--abort"},
    {"operation": "pull", "remote": "--upload-pack=x"},
    {"operation": "pull", "remote": "origin", "name": "--force"},
    {"operation": "clone", "url": "--upload-pack=x"},
    {"operation": "clone", "url": "ssh://-oProxyCommand=x/y"},
    {"operation": "clone", "url": "https://host.invalid/x", "name": "--config=x"},
]


def test_no_value_of_a_caller_becomes_an_option(place):
    before = tree(place.work)
    with place.open() as runtime:
        for arguments in OPTIONS:
            call = runtime.call("git", arguments)
            assert (call.outcome, call.decision.by) == ("rejected", "schema"), arguments
    assert tree(place.work) == before


# -- secrets --------------------------------------------------------------------------------------------

SECRETS = {
    ".env": "S=1\n",
    "conf/.env.production": "S=1\n",
    "id_rsa": "x",
    "Credentials.JSON": "{}",
    "deep/server.pem": "x",
}
FINE = {".env.example": "S=\n", "foo.env": "x", "my_id_rsa.txt": "x", "secrets.md": "x"}


def test_secret_files_are_left_out_of_add_and_named(place):
    write(place.work, {**SECRETS, **FINE})
    with place.open() as runtime:
        everything_added = succeeded(runtime.call("git", {"operation": "add", "all": True}))
        git(place.work, "reset", "--quiet")
        folder_added = succeeded(
            runtime.call("git", {"operation": "add", "files": ["conf", "deep", "foo.env"]})
        )
        only_secrets = succeeded(runtime.call("git", {"operation": "add", "files": ["conf"]}))
    assert sorted(everything_added["left_out"]) == sorted(SECRETS)
    assert sorted(everything_added["added"]) == sorted(FINE)
    assert sorted(folder_added["left_out"]) == ["conf/.env.production", "deep/server.pem"]
    assert folder_added["added"] == ["foo.env"]
    assert (only_secrets["added"], only_secrets["left_out"]) == ([], ["conf/.env.production"])
    assert git(place.work, "diff", "--cached", "--name-only").split() == ["foo.env"]


def test_a_secret_file_that_is_named_is_refused(place):
    write(place.work, SECRETS)
    with place.open() as runtime:
        for name in SECRETS:
            for arguments in (
                {"operation": "add"},
                {"operation": "commit", "message": "x"},
                {"operation": "stash"},
            ):
                call = runtime.call("git", {**arguments, "files": ["a.txt", name]})
                assert (call.outcome, call.decision.by) == ("rejected", "path")
                assert name in message(call)
    assert git(place.work, "status", "--porcelain", "--untracked-files=no") == ""


def test_a_commit_leaves_changed_secrets_out_and_refuses_staged_ones(place):
    commit(place.work, "by a person", SECRETS)
    write(place.work, dict.fromkeys(SECRETS, "changed") | {"a.txt": "changed\n"})
    with place.open() as runtime:
        result = succeeded(runtime.call("git", {"operation": "commit", "message": "x", "all": True}))
        assert sorted(result["left_out"]) == sorted(SECRETS)
        assert git(place.work, "show", "--name-only", "--format=").split() == ["a.txt"]
        write(place.work, {"dir/b.txt": "changed\n"})
        git(place.work, "add", ".env", "dir/b.txt")
        refused = runtime.call("git", {"operation": "commit", "message": "x"})
        assert ".env" in message(refused)
        succeeded(runtime.call("git", {"operation": "commit", "message": "x", "files": ["dir"]}))
        git(place.work, "rm", "--quiet", "--force", ".env")
        succeeded(runtime.call("git", {"operation": "commit", "message": "a secret goes"}))
    assert ".env" not in git(place.work, "ls-files").split()


def test_a_diff_and_a_commit_are_shown_without_secret_files(place):
    commit(place.work, "by a person", {".env": "S=hunter2\n", "a.txt": "plain\n"})
    write(place.work, {".env": "S=hunter3\n", "a.txt": "changed\n"})
    with place.open() as runtime:
        diff = succeeded(runtime.call("git", {"operation": "diff"}))
        shown = succeeded(runtime.call("git", {"operation": "show"}))
        numbers = succeeded(runtime.call("git", {"operation": "show", "stat": True}))
        file = runtime.call("git", {"operation": "show", "revision": "HEAD:.env"})
        same = runtime.call("git", {"operation": "show", "revision": "HEAD:./dir/../.env"})
    assert diff["left_out"] == shown["left_out"] == numbers["left_out"] == [".env"]
    assert "+changed" in diff["stdout"] and "+plain" in shown["stdout"]
    assert [line["path"] for line in numbers["files"]] == ["a.txt"]
    assert "hunter" not in repr((diff, shown, numbers, file.result, same.result))
    assert "kept from agents" in message(file) and "kept from agents" in message(same)


def test_a_stash_leaves_secret_and_protected_files_where_they_are(place):
    commit(place.work, "by a person", {".envrc": "x\n"})
    write(place.work, {".env": "S=1\n", ".envrc": "changed\n", "a.txt": "changed\n", "new.txt": "x\n"})
    with place.open() as runtime:
        result = succeeded(runtime.call("git", {"operation": "stash", "untracked": True}))
    assert sorted(result["left_out"]) == [".env", ".envrc"]
    assert (place.work / ".env").read_text() + (place.work / ".envrc").read_text() == "S=1\nchanged\n"
    assert (place.work / "a.txt").read_text() == "one\ntwo\nthree\n"
    assert not (place.work / "new.txt").exists()


# -- protected files, bounds, locks ---------------------------------------------------------------------


def test_a_checkout_that_would_write_a_protected_file_is_refused(place):
    git(place.work, "checkout", "--quiet", "-b", "other")
    commit(place.work, "loader", {".envrc": "x\n", "a.txt": "other\n"})
    git(place.work, "checkout", "--quiet", "main")
    before = everything(place.work)
    with place.open() as runtime:
        for arguments in (
            {"operation": "checkout", "name": "other"},
            {"operation": "checkout", "files": ["."], "revision": "other"},
        ):
            assert ".envrc is protected" in message(runtime.call("git", arguments))
        call = runtime.call("git", {"operation": "checkout", "files": [".git/config"]})
        assert "did not match any file" in message(call)
    assert everything(place.work) == before


def test_more_files_than_can_be_kept_are_not_changed(place, monkeypatch):
    git(place.work, "checkout", "--quiet", "-b", "other")
    commit(place.work, "many", {f"{number}.txt": "x" for number in range(6)})
    git(place.work, "checkout", "--quiet", "main")
    before = everything(place.work)
    monkeypatch.setattr("custody.tools.git.kept.NAMES_MAX", 5)
    with place.open() as runtime:
        call = runtime.call("git", {"operation": "checkout", "name": "other"})
    assert "may change 6 files; 5 at most are kept" in message(call)
    assert everything(place.work) == before
    assert place.undo_data() == {}


def test_a_lock_that_was_left_is_named_and_nothing_is_tried(place):
    lock = place.work / ".git/index.lock"
    lock.touch()
    with place.open() as runtime:
        call = runtime.call("git", {"operation": "add", "all": True})
        assert f"delete {lock}" in message(call)
        succeeded(runtime.call("git", {"operation": "status"}))
        succeeded(runtime.call("file_delete", {"path": os.fspath(lock)}))
        succeeded(runtime.call("git", {"operation": "add", "all": True}))


def test_another_lock_is_named_by_gits_own_words_and_what_to_do(place):
    (place.work / ".git/refs/heads/topic.lock").touch()
    with place.open() as runtime:
        call = runtime.call("git", {"operation": "branch", "name": "topic"})
    assert "topic.lock" in message(call) and "delete" in message(call)


def test_a_call_cut_off_by_its_deadline_says_what_it_changed_and_is_undone(place):
    """The filter of a person's settings hangs while git holds the index."""
    git(place.work, "config", "filter.slow.clean", "sleep 60")
    write(place.work, {".git/info/attributes": "*.slow filter=slow\n", "x.slow": "x\n"})
    before = everything(place.work)
    with place.open() as runtime:
        call = runtime.call("git", {"operation": "add", "all": True}, timeout=1.5)
        assert (call.outcome, call.limit_hit) == ("timed_out", "deadline")
        if call.changes:  # a lock, where git was killed before it could clear it away
            succeeded(runtime.call("undo", {"call": call.id}))
    assert everything(place.work) == before
    assert not (place.work / ".git/index.lock").exists()


def test_a_folder_that_is_no_repository_says_so(place):
    with place.open() as runtime:
        call = runtime.call("git", {"operation": "status", "path": os.fspath(place.temporary)})
    assert "not a git repository" in message(call)


def hanging_filter(place: Place) -> Path:
    """Adding `x.slow` writes to the FIFO and then hangs, while git holds the index."""
    fifo = place.temporary / "fifo"
    os.mkfifo(fifo)
    git(place.work, "config", "filter.slow.clean", f"echo > {fifo}; sleep 60")
    write(place.work, {".git/info/attributes": "*.slow filter=slow\n", "x.slow": "x\n"})
    return fifo


def test_a_call_that_is_abandoned_while_git_works_has_said_what_it_changed(place, monkeypatch):
    monkeypatch.setenv("TMPDIR", os.fspath(place.temporary))
    fifo = hanging_filter(place)
    before = everything(place.work)

    async def abandon() -> str:
        async with custody.open(place.store, cwd=os.fspath(place.work)) as runtime:
            task = asyncio.create_task(runtime.call("git", {"operation": "add", "all": True}))
            await asyncio.to_thread(fifo.read_bytes)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            return runtime.index.calls().items[0].id

    call_id = asyncio.run(abandon())
    with place.open() as runtime:
        found = runtime.index.call(call_id)
        assert found.outcome == "cancelled"
        if place.undo_data():
            succeeded(runtime.call("undo", {"call": call_id}))
    assert everything(place.work) == before
    assert not (place.work / ".git/index.lock").exists()


def test_what_a_call_had_changed_when_its_process_was_killed_is_undone_after_the_next_open(place):
    fifo = hanging_filter(place)
    before = everything(place.work)
    program = f"""
import custody
with custody.open({os.fspath(place.store)!r}, cwd={os.fspath(place.work)!r}) as runtime:
    runtime.call("git", {{"operation": "add", "all": True}})
"""
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        fifo.read_bytes()
        process.kill()
    with place.open() as runtime:
        (call,) = runtime.index.calls().items
        assert call.outcome == "unknown"
        if (place.work / ".git/index.lock").exists():
            succeeded(runtime.call("undo", {"call": call.id}))
    assert everything(place.work) == before
    assert not (place.work / ".git/index.lock").exists()
