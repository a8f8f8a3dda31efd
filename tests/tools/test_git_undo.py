"""What the `git` tool changes is given back by undo: references, index, working tree; so is that undo."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.tools.repositories import commit, everything, git, make_home, new_repository, write
from tests.tools.trees import Place, succeeded, tree

Arguments = dict[str, Any]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, value in make_home(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    place = Place(tmp_path)
    new_repository(place.work)
    return place


# Each prepares a repository and says which call is then to be undone.

Case = Callable[[Path], Arguments]
CASES: dict[str, Case] = {}
FAILING: set[str] = set()


def case(prepare: Case) -> Case:
    CASES[prepare.__name__.replace("_", " ")] = prepare
    return prepare


def failing(prepare: Case) -> Case:
    FAILING.add(prepare.__name__.replace("_", " "))
    return case(prepare)


def dirty(work: Path) -> None:
    write(work, {"a.txt": "one\n2\nthree\n", "new.txt": "new\n", "fresh/folder/x.txt": "x\n"})
    (work / "dir/b.txt").unlink()


def other_branch(work: Path) -> None:
    """A branch that differs in every way: content, mode, link, file for folder, gone and new."""
    git(work, "checkout", "--quiet", "-b", "other")
    write(work, {"a.txt": "other\n", "new/deep/n.txt": "n\n"})
    (work / "run.sh").chmod(0o644)
    (work / "link").unlink()
    (work / "link").symlink_to("dir")
    (work / "dir/deep/c.txt").unlink()
    (work / "dir/deep").rmdir()
    (work / "dir/deep").write_text("a file now\n")
    commit(work, "other")
    git(work, "checkout", "--quiet", "main")


@case
def add_some_files(work: Path) -> Arguments:
    dirty(work)
    return {"operation": "add", "files": ["a.txt", "fresh", "dir/b.txt"]}


@case
def add_all(work: Path) -> Arguments:
    dirty(work)
    return {"operation": "add", "all": True}


@case
def commit_what_is_staged(work: Path) -> Arguments:
    dirty(work)
    git(work, "add", "a.txt", "new.txt")
    return {"operation": "commit", "message": "staged"}


@case
def commit_all(work: Path) -> Arguments:
    dirty(work)
    return {"operation": "commit", "message": "all", "all": True}


@case
def commit_files_new_ones_too(work: Path) -> Arguments:
    dirty(work)
    git(work, "add", "a.txt")
    return {"operation": "commit", "message": "files", "files": ["new.txt", "dir"]}


@case
def commit_amended(work: Path) -> Arguments:
    dirty(work)
    git(work, "add", "new.txt")
    return {"operation": "commit", "message": "better", "amend": True}


@case
def the_first_commit(work: Path) -> Arguments:
    git(work, "checkout", "--quiet", "--orphan", "empty")
    return {"operation": "commit", "message": "first of its branch"}


@case
def branch_made(work: Path) -> Arguments:
    return {"operation": "branch", "name": "topic/one"}


@case
def branch_deleted(work: Path) -> Arguments:
    other_branch(work)
    return {"operation": "branch", "name": "other", "delete": True, "force": True}


@case
def packed_branch_deleted(work: Path) -> Arguments:
    other_branch(work)
    git(work, "pack-refs", "--all")
    return {"operation": "branch", "name": "other", "delete": True, "force": True}


@case
def branch_moved(work: Path) -> Arguments:
    other_branch(work)
    return {"operation": "branch", "name": "other", "revision": "main", "force": True}


@case
def checkout_a_branch(work: Path) -> Arguments:
    other_branch(work)
    return {"operation": "checkout", "name": "other"}


@case
def checkout_back_from_it(work: Path) -> Arguments:
    other_branch(work)
    git(work, "checkout", "--quiet", "other")
    return {"operation": "checkout", "name": "main"}


@case
def checkout_with_local_changes_elsewhere(work: Path) -> Arguments:
    other_branch(work)
    write(work, {"mine.txt": "mine\n", "dir/b.txt": "changed\n"})
    return {"operation": "checkout", "name": "other"}


@case
def checkout_over_an_ignored_file(work: Path) -> Arguments:
    other_branch(work)
    write(work, {".git/info/exclude": "new/\n", "new/deep/n.txt": "precious\n"})
    return {"operation": "checkout", "name": "other"}


@case
def checkout_a_folder_for_a_link(work: Path) -> Arguments:
    git(work, "checkout", "--quiet", "-b", "folder")
    (work / "link").unlink()
    commit(work, "a folder", {"link/x.txt": "x\n", "link/y.txt": "y\n"})
    git(work, "checkout", "--quiet", "main")
    (work / "link").unlink()
    (work / "link").symlink_to("dir")
    commit(work, "a link to a folder")
    return {"operation": "checkout", "name": "folder"}


@case
def checkout_a_link_for_a_folder(work: Path) -> Arguments:
    checkout_a_folder_for_a_link(work)
    git(work, "checkout", "--quiet", "folder")
    return {"operation": "checkout", "name": "main"}


@case
def checkout_a_new_branch(work: Path) -> Arguments:
    other_branch(work)
    return {"operation": "checkout", "name": "mine", "create": True, "revision": "other"}


@case
def checkout_of_a_branch_that_follows_a_remote_one(work: Path) -> Arguments:
    other = new_repository(work.parent / "temporary/other")
    git(other, "branch", "theirs")
    git(work, "remote", "add", "origin", "../temporary/other")
    git(work, "fetch", "--quiet", "origin")
    return {"operation": "checkout", "name": "theirs"}


@case
def checkout_a_commit(work: Path) -> Arguments:
    other_branch(work)
    return {"operation": "checkout", "revision": "other~0"}


@case
def checkout_by_force(work: Path) -> Arguments:
    other_branch(work)
    dirty(work)
    git(work, "add", "new.txt")
    return {"operation": "checkout", "name": "other", "force": True}


@case
def files_put_back(work: Path) -> Arguments:
    dirty(work)
    return {"operation": "checkout", "files": ["a.txt", "dir"]}


@case
def files_taken_from_another_commit(work: Path) -> Arguments:
    other_branch(work)
    dirty(work)
    return {"operation": "checkout", "files": ["a.txt", "run.sh"], "revision": "other"}


@case
def stash_pushed(work: Path) -> Arguments:
    dirty(work)
    git(work, "add", "a.txt")
    return {"operation": "stash", "message": "later"}


@case
def stash_pushed_with_new_files_and_empty_folders(work: Path) -> Arguments:
    dirty(work)
    (work / "fresh/empty/deep").mkdir(parents=True)
    (work / "void").mkdir()
    return {"operation": "stash", "untracked": True}


@case
def stash_of_some_files(work: Path) -> Arguments:
    dirty(work)
    return {"operation": "stash", "files": ["a.txt"]}


def stashed(work: Path) -> None:
    dirty(work)
    git(work, "stash", "push", "--include-untracked", "--quiet")
    write(work, {"a.txt": "first\n"})
    git(work, "stash", "push", "--quiet")


@case
def stash_popped(work: Path) -> Arguments:
    stashed(work)
    return {"operation": "stash", "action": "pop", "entry": 1}


@case
def stash_applied(work: Path) -> Arguments:
    stashed(work)
    return {"operation": "stash", "action": "apply"}


@case
def stash_dropped(work: Path) -> Arguments:
    stashed(work)
    return {"operation": "stash", "action": "drop", "entry": 1}


@failing
def stash_popped_into_a_conflict(work: Path) -> Arguments:
    stashed(work)
    commit(work, "in the way", {"a.txt": "quite\ndifferent\n"})
    return {"operation": "stash", "action": "pop"}


@case
def stash_popped_onto_a_renamed_file(work: Path) -> Arguments:
    stashed(work)
    git(work, "mv", "a.txt", "renamed.txt")
    commit(work, "renamed")
    return {"operation": "stash", "action": "pop", "entry": 1}


@case
def revert_of_the_last_commit(work: Path) -> Arguments:
    commit(work, "second", {"a.txt": "one\ntwo\nthree\nfour\n", "more/x.txt": "x\n"})
    return {"operation": "revert", "revision": "HEAD"}


@case
def revert_of_what_was_renamed_since(work: Path) -> Arguments:
    second = commit(work, "second", {"a.txt": "one\ntwo\nthree\nfour\n"})
    git(work, "mv", "a.txt", "renamed.txt")
    commit(work, "renamed")
    return {"operation": "revert", "revision": second}


@case
def revert_of_a_merge(work: Path) -> Arguments:
    other_branch(work)
    commit(work, "meanwhile", {"mine.txt": "m\n"})
    git(work, "merge", "--quiet", "--no-edit", "other")
    return {"operation": "revert", "revision": "HEAD", "mainline": 1}


@failing
def revert_into_a_conflict(work: Path) -> Arguments:
    second = commit(work, "second", {"a.txt": "one\n2\nthree\n"})
    commit(work, "third", {"a.txt": "one\nII\nthree\n"})
    return {"operation": "revert", "revision": second}


@failing
def revert_where_a_folder_is_in_the_way(work: Path) -> Arguments:
    git(work, "rm", "--quiet", "dir/b.txt")
    second = commit(work, "gone")
    commit(work, "a folder", {"dir/b.txt/x.txt": "x\n"})
    return {"operation": "revert", "revision": second}


@pytest.mark.parametrize("name", CASES)
def test_undo_gives_back_what_a_git_call_changed_and_its_undo_changes_it_again(
    place: Place, name: str
) -> None:
    arguments = CASES[name](place.work)
    before, untouched = everything(place.work), tree(place.work)
    with place.open() as runtime:
        dry = runtime.call("git", arguments, dry_run=True)
        assert (succeeded(dry)["dry_run"], dry.changes) == (True, None)
        assert tree(place.work) == untouched
        call = runtime.call("git", arguments)
        assert call.outcome == ("failed" if name in FAILING else "succeeded"), (call.reason, call.error)
        after = everything(place.work)
        assert after != before
        assert all(change.undoable for change in call.changes)
        undone = runtime.call("undo", {"call": call.id})
        succeeded(undone)
        assert everything(place.work) == before
        git(place.work, "fsck", "--strict", "--no-dangling")
        succeeded(runtime.call("undo", {"call": undone.id}))
        assert everything(place.work) == after


def test_a_run_of_git_calls_is_undone_from_the_last_to_the_first(place: Place) -> None:
    before = everything(place.work)
    with place.open() as runtime:
        with runtime.run("a morning's work") as run:
            for number, arguments in enumerate(
                (
                    {"operation": "checkout", "name": "topic", "create": True},
                    {"operation": "commit", "message": "one", "all": True},
                    {"operation": "stash", "untracked": True},
                    {"operation": "revert", "revision": "HEAD"},
                    {"operation": "stash", "action": "pop"},
                    {"operation": "add", "all": True},
                    {"operation": "checkout", "name": "main", "force": True},
                    {"operation": "branch", "name": "topic", "delete": True, "force": True},
                )
            ):
                if number < 2:
                    succeeded(run.call("file_write", {"path": "a.txt", "content": f"{number}\n"}))
                succeeded(run.call("file_write", {"path": f"new/{number}.txt", "content": "new\n"}))
                succeeded(run.call("git", arguments))
        succeeded(runtime.call("undo", {"run": run.id}))
    assert everything(place.work) == before
