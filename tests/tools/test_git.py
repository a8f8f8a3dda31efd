"""What the `git` tool answers, operation by operation, on real repositories."""

import os
from pathlib import Path

import pytest
from tests.tools.repositories import commit, git, make_home, new_repository, write
from tests.tools.test_git_undo import CASES
from tests.tools.trees import Place, message, succeeded, tree


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, value in make_home(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    place = Place(tmp_path)
    new_repository(place.work)
    return place


# -- reading --------------------------------------------------------------------------------------------


def test_status_lists_what_is_changed_and_where_the_branch_stands(place):
    write(place.work, {"a.txt": "changed\n", "new/x.txt": "x\n"})
    (place.work / os.fsdecode(b"caf\xe9")).write_text("x")
    git(place.work, "mv", "dir/b.txt", "dir/moved.txt")
    with place.open() as runtime:
        result = succeeded(runtime.call("git", {"operation": "status", "path": "dir"}))
        some = succeeded(runtime.call("git", {"operation": "status", "path": "dir", "files": ["../new"]}))
    assert result == {
        "operation": "status",
        "repository": os.fspath(place.work),
        "exit_code": 0,
        "branch": "main",
        "tracking": {"name": "main", "commit": git(place.work, "rev-parse", "HEAD").strip()},
        "clean": False,
        "entries": [
            {"path": "a.txt", "index": ".", "worktree": "M"},
            {"path": "dir/moved.txt", "index": "R", "worktree": ".", "renamed_from": "dir/b.txt"},
            {"path": "caf\udce9", "index": "?", "worktree": "."},
            {"path": "new/x.txt", "index": "?", "worktree": "."},
        ],
    }
    assert [entry["path"] for entry in some["entries"]] == ["new/x.txt"]


def test_diff_shows_what_differs_from_the_index_a_revision_or_between_two(place):
    first = git(place.work, "rev-parse", "HEAD").strip()
    commit(place.work, "second", {"a.txt": "second\n"})
    write(place.work, {"a.txt": "third\n", "run.sh": "#!/bin/sh\ntrue\n"})
    git(place.work, "add", "run.sh")
    with place.open() as runtime:

        def diff(**more):
            return succeeded(runtime.call("git", {"operation": "diff", **more}))

        assert diff()["stdout"].splitlines()[-2:] == ["-second", "+third"]
        assert "+true" in diff(staged=True)["stdout"]
        assert "third" not in diff(revision=f"{first}..HEAD")["stdout"]
        assert diff(revision=first, files=["run.sh"], stat=True)["files"] == [
            {"path": "run.sh", "added": 1, "deleted": 0}
        ]


def test_log_gives_commits_newest_first_and_says_whether_there_are_more(place):
    for number in range(3):
        commit(place.work, f"number {number}\n\nwith a body\nof two lines", {f"{number}.txt": "x"})
    with place.open() as runtime:
        result = succeeded(runtime.call("git", {"operation": "log", "limit": 2}))
        of_one = succeeded(runtime.call("git", {"operation": "log", "files": ["0.txt"]}))
        since = succeeded(runtime.call("git", {"operation": "log", "revision": "HEAD~1.."}))
    assert [found["subject"] for found in result["commits"]] == ["number 2", "number 1"]
    newest = result["commits"][0]
    assert (newest["body"], newest["author"], newest["email"]) == (
        "with a body\nof two lines",
        "Ada",
        "ada@example.com",
    )
    assert newest["parents"] == [result["commits"][1]["id"]]
    assert (result["more"], of_one["more"]) == (True, False)
    assert [found["subject"] for found in of_one["commits"]] == ["number 0"]
    assert [found["subject"] for found in since["commits"]] == ["number 2"]


def test_show_gives_a_commit_with_its_patch_or_a_file_of_a_revision(place):
    second = commit(place.work, "second", {"a.txt": "second\n"})
    (place.work / "binary").write_bytes(b"\xff\0\xfe")
    commit(place.work, "third")
    with place.open() as runtime:
        shown = succeeded(runtime.call("git", {"operation": "show", "revision": "HEAD~1"}))
        file = succeeded(runtime.call("git", {"operation": "show", "revision": "HEAD~2:a.txt"}))
        binary = succeeded(runtime.call("git", {"operation": "show", "revision": "HEAD:binary"}))
        nothing = runtime.call("git", {"operation": "show", "revision": "HEAD:nothing"})
    assert (shown["commit"]["id"], shown["commit"]["subject"]) == (second, "second")
    assert shown["stdout"].endswith("+second\n")
    assert file["stdout"] == "one\ntwo\nthree\n"
    assert binary["stdout"] == b"\xff\0\xfe"
    assert "'nothing' does not exist" in message(nothing)


def test_a_repository_without_a_commit_can_be_read_and_committed_to(place):
    git(place.temporary, "init", "--quiet", "fresh")
    fresh = place.temporary / "fresh"
    write(fresh, {"x.txt": "x\n"})
    with place.open() as runtime:

        def call(operation, **more):
            return succeeded(runtime.call("git", {"operation": operation, "path": os.fspath(fresh), **more}))

        assert call("log") == {
            "operation": "log",
            "repository": os.fspath(fresh),
            "exit_code": 0,
            "commits": [],
            "more": False,
        }
        assert call("status")["tracking"] == {"name": "main", "commit": None}
        assert call("branch")["branches"] == []
        assert call("stash", action="list")["stashes"] == []
        assert call("add", all=True)["added"] == ["x.txt"]
        result = call("commit", message="first")
        assert (result["head_before"], result["refs_before"]) == (None, {"refs/heads/main": None})
        assert result["commit"] == git(fresh, "rev-parse", "HEAD").strip()


def test_branches_and_stashes_are_listed(place):
    git(place.work, "branch", "topic/one")
    for text in ("one", "two"):
        write(place.work, {"a.txt": text})
        git(place.work, "stash", "push", "--quiet", "-m", text)
    head = git(place.work, "rev-parse", "HEAD").strip()
    with place.open() as runtime:
        branches = succeeded(runtime.call("git", {"operation": "branch"}))["branches"]
        stashes = succeeded(runtime.call("git", {"operation": "stash", "action": "list"}))["stashes"]
    more = {"commit": head, "upstream": None, "subject": "first"}
    assert branches == [
        {"name": "main", "current": True, **more},
        {"name": "topic/one", "current": False, **more},
    ]
    assert [(stash["entry"], stash["message"]) for stash in stashes] == [
        (0, "On main: two"),
        (1, "On main: one"),
    ]


def test_a_long_diff_is_kept_in_part_and_counted(place):
    write(place.work, {"a.txt": "".join(f"line {number}\n" for number in range(100_000))})
    with place.open() as runtime:
        result = succeeded(runtime.call("git", {"operation": "diff"}))
    assert result["stdout_dropped_bytes"] > 100_000
    assert len(result["stdout"]) <= 2 * 256 * 1024
    assert result["stdout"].endswith("+line 99999\n")


def test_reading_changes_nothing_not_even_the_index(place):
    os.utime(place.work / "a.txt")  # the index says another time: git would note the new one
    before = tree(place.work)
    with place.open() as runtime:
        for operation in ("status", "diff", "log", "show", "branch"):
            call = runtime.call("git", {"operation": operation})
            assert (succeeded(call)["operation"], call.changes) == (operation, None)
    assert tree(place.work) == before


# -- changing -------------------------------------------------------------------------------------------


def test_a_commit_says_what_moved_and_lists_its_changes(place):
    before = git(place.work, "rev-parse", "HEAD").strip()
    write(place.work, {"a.txt": "changed\n", "new.txt": "x\n"})
    with place.open() as runtime:
        added = runtime.call("git", {"operation": "add", "all": True})
        call = runtime.call("git", {"operation": "commit", "message": "-m is no option"})
    assert succeeded(added)["added"] == ["a.txt", "new.txt"]
    assert [Path(change.path).name for change in added.changes] == ["index"]
    result = succeeded(call)
    after = git(place.work, "rev-parse", "HEAD").strip()
    assert git(place.work, "log", "-1", "--format=%B").strip() == "-m is no option"
    assert {name: result[name] for name in ("head_before", "head_after", "commit", "branch")} == {
        "head_before": before,
        "head_after": after,
        "commit": after,
        "branch": "main",
    }
    assert (result["refs_before"], result["refs_after"]) == (
        {"refs/heads/main": before},
        {"refs/heads/main": after},
    )
    assert "2 files changed" in result["stdout"]
    assert os.fspath(place.work / ".git/refs/heads/main") in {change.path for change in call.changes}
    assert (call.exit_code, call.usage is not None) == (0, True)


def test_a_failure_is_told_in_gits_own_words(place):
    with place.open() as runtime:
        nothing = runtime.call("git", {"operation": "commit", "message": "x"})
        unknown = runtime.call("git", {"operation": "checkout", "name": "nowhere"})
        bad = runtime.call("git", {"operation": "revert", "revision": "nothing"})
        missing = runtime.call("git", {"operation": "add", "files": ["missing.txt"]})
    assert "nothing to commit" in message(nothing)
    assert (nothing.outcome, nothing.exit_code, nothing.result["exit_code"]) == ("failed", 1, 1)
    assert "There is no branch nowhere" in message(unknown)
    assert "Needed a single revision" in message(bad)
    assert "did not match any files" in message(missing)


def test_a_conflict_names_its_files_and_what_to_do(place):
    second = commit(place.work, "second", {"a.txt": "one\n2\nthree\n"})
    commit(place.work, "third", {"a.txt": "one\nII\nthree\n"})
    with place.open() as runtime:
        call = runtime.call("git", {"operation": "revert", "revision": second})
    assert call.result["conflicts"] == ["a.txt"]
    assert "or undo this call" in message(call)
    assert call.result["head_before"] == call.result["head_after"]


def test_a_checkout_follows_a_remotes_branch_of_that_name(place):
    git(place.work, "clone", "--quiet", os.fspath(place.work), os.fspath(place.temporary / "copy"))
    git(place.work, "branch", "topic")
    copy = place.temporary / "copy"
    git(copy, "fetch", "--quiet")
    with place.open() as runtime:
        arguments = {"operation": "checkout", "path": os.fspath(copy), "name": "topic"}
        result = succeeded(runtime.call("git", arguments))
        listed = succeeded(runtime.call("git", {"operation": "branch", "path": os.fspath(copy)}))
    assert (result["branch_before"], result["branch"]) == ("main", "topic")
    assert {branch["name"]: branch["upstream"] for branch in listed["branches"]}["topic"] == "origin/topic"


def test_adding_what_is_not_changed_does_nothing(place):
    with place.open() as runtime:
        call = runtime.call("git", {"operation": "add", "all": True})
        assert (succeeded(call)["added"], call.changes) == ([], ())
        call = runtime.call("git", {"operation": "add", "files": ["dir"]})
        assert (succeeded(call)["added"], call.changes) == ([], ())


def test_names_that_mean_something_to_git_or_a_shell_are_only_names(place):
    names = ["--all", ":(glob)**", "*", "a b", "-n", "$(x)", "\n", "!x", os.fsdecode(b"\xff\xfe")]
    for name in names:
        (place.work / name).write_text("x")
    write(place.work, {"other.txt": "x"})
    usable = [name for name in names if name != "\n"]
    with place.open() as runtime:
        result = succeeded(
            runtime.call("git", {"operation": "add", "files": [f"./{name}" for name in usable]})
        )
        assert sorted(result["added"]) == sorted(usable)
        refused = runtime.call("git", {"operation": "add", "files": ["\n"]})
        assert "control character" in message(refused)
        result = succeeded(runtime.call("git", {"operation": "add", "all": True}))
        assert sorted(result["added"]) == ["\n", "other.txt"]


def test_a_dry_run_names_the_files_it_is_about(place):
    arguments = CASES["checkout a branch"](place.work)
    with place.open() as runtime:
        result = succeeded(runtime.call("git", arguments, dry_run=True))
    assert result["files"] == ["a.txt", "dir/deep", "dir/deep/c.txt", "link", "new/deep/n.txt", "run.sh"]
    assert result["would_run"] == [["git", "checkout", "other", "--"]]


def test_a_linked_worktree_beneath_the_roots_is_a_repository_like_any_other(place):
    linked = place.temporary / "linked"
    git(place.work, "worktree", "add", "--quiet", "-b", "linked", os.fspath(linked))
    write(linked, {"a.txt": "linked\n"})
    with place.open() as runtime:
        arguments = {"operation": "commit", "path": os.fspath(linked), "message": "x", "all": True}
        head = git(linked, "rev-parse", "HEAD")
        call = runtime.call("git", arguments)
        assert succeeded(call)["branch"] == "linked"
        succeeded(runtime.call("undo", {"call": call.id}))
    assert git(linked, "rev-parse", "HEAD") == head
    assert git(linked, "status", "--porcelain") == " M a.txt\n"
