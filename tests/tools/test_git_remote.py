"""The `git` tool with other repositories: pull and clone, and how both are undone."""

import os
from pathlib import Path

import pytest
from tests.tools.repositories import commit, everything, git, make_home, new_repository, write
from tests.tools.trees import Place, message, succeeded, tree


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The upstream lies in the temporary folder, a clone of it in `work`."""
    for name, value in make_home(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    place = Place(tmp_path)
    new_repository(upstream(place))
    git(place.work, "clone", "--quiet", os.fspath(upstream(place)), ".")
    return place


REMOTE_REFS = {"refs/remotes/origin/main", "refs/remotes/origin/HEAD"}


def upstream(place: Place) -> Path:
    return place.temporary / "upstream"


# -- pull -----------------------------------------------------------------------------------------------


def test_a_pull_fast_forwards_says_what_moved_and_is_undone(place):
    theirs = commit(upstream(place), "more", {"a.txt": "theirs\n", "new/n.txt": "n\n"})
    before = everything(place.work)
    with place.open() as runtime:
        call = runtime.call("git", {"operation": "pull"})
        result = succeeded(call)
        assert result["commit"] == result["head_after"] == theirs
        assert set(result["refs_after"]) == {"refs/heads/main", *REMOTE_REFS}
        assert result["refs_before"]["refs/heads/main"] == result["head_before"] != theirs
        assert (result["remote"], result["remote_ref"]) == ("origin", "refs/heads/main")
        after = everything(place.work)
        undone = runtime.call("undo", {"call": call.id})
        succeeded(undone)
        assert everything(place.work) == before
        succeeded(runtime.call("undo", {"call": undone.id}))
        assert everything(place.work) == after


def test_a_pull_with_nothing_new_changes_at_most_what_git_notes_of_it(place):
    with place.open() as runtime:
        call = runtime.call("git", {"operation": "pull"})
    assert succeeded(call)["refs_after"] == {}
    assert {Path(change.path).name for change in call.changes} <= {"FETCH_HEAD", "ORIG_HEAD", "index"}


def test_a_pull_of_what_has_diverged_is_refused_with_gits_words_and_fetches_only(place):
    commit(upstream(place), "theirs", {"theirs.txt": "x\n"})
    ours = commit(place.work, "ours", {"ours.txt": "x\n"})
    before = everything(place.work)
    with place.open() as runtime:
        call = runtime.call("git", {"operation": "pull"})
        assert "Not possible to fast-forward" in message(call)
        assert call.result["head_after"] == ours
        assert set(call.result["refs_after"]) == REMOTE_REFS
        succeeded(runtime.call("undo", {"call": call.id}))
    assert everything(place.work) == before


def test_a_pull_with_rebase_puts_own_commits_on_top_and_is_undone(place):
    theirs = commit(upstream(place), "theirs", {"theirs.txt": "x\n"})
    git(place.work, "mv", "dir/b.txt", "dir/renamed.txt")
    commit(place.work, "ours", {"ours/o.txt": "x\n"})
    before = everything(place.work, times=False)
    with place.open() as runtime:
        call = runtime.call("git", {"operation": "pull", "rebase": True})
        assert git(place.work, "rev-parse", "HEAD~1").strip() == theirs
        assert succeeded(call)["commit"] == git(place.work, "rev-parse", "HEAD").strip()
        succeeded(runtime.call("undo", {"call": call.id}))
    assert everything(place.work, times=False) == before


def test_a_rebase_that_meets_a_conflict_is_given_up_and_the_branch_stays(place):
    commit(upstream(place), "theirs", {"a.txt": "theirs\n"})
    ours = commit(place.work, "ours", {"a.txt": "ours\n"})
    before = everything(place.work, times=False)
    with place.open() as runtime:
        call = runtime.call("git", {"operation": "pull", "rebase": True})
        assert "could not apply" in message(call)
        assert call.result["conflicts"] == ["a.txt"]
        assert (call.result["head_after"], call.result["branch"]) == (ours, "main")
        assert git(place.work, "status", "--porcelain") == ""
        assert not (place.work / ".git/rebase-merge").exists()
        succeeded(runtime.call("undo", {"call": call.id}))
    assert everything(place.work, times=False) == before


def test_a_branch_that_follows_none_says_what_to_give(place):
    git(place.work, "checkout", "--quiet", "-b", "mine")
    commit(upstream(place), "more", {"x.txt": "x\n"})
    with place.open() as runtime:
        assert "follows no other" in message(runtime.call("git", {"operation": "pull"}))
        assert "no remote nowhere" in message(runtime.call("git", {"operation": "pull", "remote": "nowhere"}))
        succeeded(runtime.call("git", {"operation": "pull", "remote": "origin", "name": "main"}))
        git(place.work, "checkout", "--quiet", "--detach")
        assert "on no branch" in message(runtime.call("git", {"operation": "pull"}))
    assert (place.work / "x.txt").exists()


def test_a_pull_over_local_changes_is_refused_by_git_and_loses_nothing(place):
    commit(upstream(place), "theirs", {"a.txt": "theirs\n"})
    write(place.work, {"a.txt": "mine\n"})
    with place.open() as runtime:
        call = runtime.call("git", {"operation": "pull"})
    assert "would be overwritten" in message(call)
    assert (place.work / "a.txt").read_text() == "mine\n"


def test_a_pull_that_would_write_a_protected_file_is_refused_once_that_is_known(place):
    commit(upstream(place), "tasks", {".vscode/tasks.json": "{}\n"})
    head = git(place.work, "rev-parse", "HEAD")
    with place.open() as runtime:
        call = runtime.call("git", {"operation": "pull"})
    assert ".vscode/tasks.json is protected" in message(call)
    assert git(place.work, "rev-parse", "HEAD") == head
    assert not (place.work / ".vscode").exists()


def test_a_dry_pull_asks_the_remote_and_touches_nothing(place):
    theirs = commit(upstream(place), "more", {"a.txt": "theirs\n"})
    before = tree(place.work)
    with place.open() as runtime:
        unknown = succeeded(runtime.call("git", {"operation": "pull"}, dry_run=True))
        assert tree(place.work) == before
        git(place.work, "fetch", "--quiet")
        before = tree(place.work)
        known = succeeded(runtime.call("git", {"operation": "pull"}, dry_run=True))
        assert tree(place.work) == before
    assert unknown["remote_commit"] == known["remote_commit"] == theirs
    assert "known once it is fetched" in unknown["note"]
    assert known["files"] == ["a.txt"]
    assert [command[1] for command in known["would_run"]] == ["fetch", "merge"]


def test_a_remote_in_a_folder_outside_the_roots_is_not_pulled(place):
    new_repository(place.outside / "theirs")
    git(place.work, "remote", "set-url", "origin", os.fspath(place.outside / "theirs"))
    with place.open() as runtime:
        call = runtime.call("git", {"operation": "pull"})
    assert "outside the allowed roots" in message(call)


def test_a_remote_that_names_a_program_is_not_run(place):
    mark = place.work / "mark"
    git(place.work, "config", "remote.origin.url", f"ext::sh -c touch% {mark}")
    git(place.work, "config", "protocol.ext.allow", "always")
    with place.open() as runtime:
        call = runtime.call("git", {"operation": "pull"})
    assert "not allowed" in message(call)
    assert not mark.exists()


# -- clone ----------------------------------------------------------------------------------------------


def test_a_clone_is_told_as_one_new_folder_and_undo_takes_it_away(place):
    before = tree(place.work)
    with place.open() as runtime:
        call = runtime.call(
            "git", {"operation": "clone", "url": os.fspath(upstream(place)), "path": "sub/copy"}
        )
        result = succeeded(call)
        copy = place.work / "sub/copy"
        assert result["commit"] == git(copy, "rev-parse", "HEAD").strip()
        assert (result["branch"], result["repository"]) == ("main", os.fspath(copy))
        assert result["entries"] > 20
        assert [(change.path, change.change, change.undoable) for change in call.changes] == [
            (os.fspath(place.work / "sub"), "created", True),
            (os.fspath(copy), "created", True),
        ]
        whole = tree(place.work)
        undone = runtime.call("undo", {"call": call.id})
        succeeded(undone)
        assert tree(place.work) == before
        succeeded(runtime.call("undo", {"call": undone.id}))
        assert tree(place.work) == whole
    git(copy, "fsck", "--strict")


def test_a_clone_in_which_something_was_changed_is_not_taken_away(place):
    with place.open() as runtime:
        call = runtime.call("git", {"operation": "clone", "url": os.fspath(upstream(place)), "path": "copy"})
        succeeded(call)
        write(place.work / "copy", {"precious.txt": "mine\n"})
        assert "precious.txt" in message(runtime.call("undo", {"call": call.id}))
    assert (place.work / "copy/precious.txt").read_text() == "mine\n"
    assert (place.work / "copy/a.txt").exists()


def test_a_clone_takes_its_name_from_the_address_a_branch_and_a_depth(place):
    git(upstream(place), "checkout", "--quiet", "-b", "topic")
    commit(upstream(place), "second", {"x.txt": "x\n"})
    with place.open() as runtime:
        arguments = {
            "operation": "clone",
            "url": f"file://{upstream(place)}/.git",
            "name": "topic",
            "depth": 1,
        }
        result = succeeded(runtime.call("git", arguments))
    copy = place.work / "upstream"
    assert (result["repository"], result["branch"]) == (os.fspath(copy), "topic")
    assert git(copy, "rev-list", "--count", "HEAD").strip() == "1"


def test_a_clone_brings_no_hooks_of_a_template(place):
    hooks = place.temporary / "template/hooks"
    hooks.mkdir(parents=True)
    (hooks / "post-checkout").write_text(f"#!/bin/sh\ntouch {place.work}/mark\n")
    (hooks / "post-checkout").chmod(0o755)
    git(place.work, "config", "--global", "init.templateDir", os.fspath(hooks.parent))
    with place.open() as runtime:
        succeeded(
            runtime.call("git", {"operation": "clone", "url": os.fspath(upstream(place)), "path": "copy"})
        )
    assert not (place.work / "mark").exists()
    assert not (place.work / "copy/.git/hooks").exists()


ELSEWHERE = [
    ({"url": "{outside}/theirs"}, "outside the allowed roots"),
    ({"url": "file://{outside}/theirs"}, "outside the allowed roots"),
    ({"url": "ext::sh -c x"}, "runs a program"),
    ({"url": "http://host/x"}, "http://"),
    ({"url": "{upstream}", "path": "{outside}/copy"}, "outside the allowed roots"),
    ({"url": "{upstream}", "path": "../outside/copy"}, "outside the allowed roots"),
    ({"url": "{upstream}", "path": "a.txt/copy"}, "a.txt"),
    ({"url": "{upstream}", "path": "dir"}, "is there already"),
    ({"url": "{upstream}", "path": "link"}, "is there already"),
    ({"url": "{upstream}", "path": ".git/hooks"}, "is protected"),
    ({"url": "{upstream}/missing"}, "nothing at"),
    ({"url": "https://github.com/"}, "no address"),
]


def test_a_clone_that_would_reach_elsewhere_is_refused(place):
    new_repository(place.outside / "theirs")
    names = {"outside": place.outside, "upstream": upstream(place)}
    before, outside = tree(place.work), tree(place.outside)
    with place.open() as runtime:
        for arguments, words in ELSEWHERE:
            filled = {name: value.format(**names) for name, value in arguments.items()}
            assert words in message(runtime.call("git", {"operation": "clone", **filled}))
            assert (tree(place.work), tree(place.outside)) == (before, outside)


def test_a_clone_that_fails_leaves_nothing(place):
    (place.temporary / "empty").mkdir()
    before = tree(place.work)
    with place.open() as runtime:
        call = runtime.call(
            "git", {"operation": "clone", "url": os.fspath(place.temporary / "empty"), "path": "copy"}
        )
        assert "does not exist" in message(call)
    assert call.changes == ()
    after = tree(place.work)
    assert after.keys() == before.keys()


def test_a_dry_clone_says_what_it_would_run_and_touches_nothing(place):
    before = tree(place.work)
    with place.open() as runtime:
        arguments = {"operation": "clone", "url": os.fspath(upstream(place)), "path": "copy"}
        result = succeeded(runtime.call("git", arguments, dry_run=True))
    assert result["would_run"][0][-2:] == [os.fspath(upstream(place)), os.fspath(place.work / "copy")]
    assert tree(place.work) == before


def test_credentials_in_an_address_are_on_no_record(place):
    url = "https://ada:hunter2-hunter2@host.invalid/x.git"
    with place.open() as runtime:
        call = runtime.call("git", {"operation": "clone", "url": url}, dry_run=True)
        assert url in call.result["would_run"][0]
        shown = runtime.index.call(call.id)
    assert "hunter2" not in repr(shown.arguments) + repr(shown.result)
    assert shown.arguments["url"].startswith("https://ada:[redacted:url_credentials:")
    for path in place.store.rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes()
