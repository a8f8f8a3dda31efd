"""A command at level `transaction`, as somebody types it in a git checkout: nothing counts before the commit.

As root, and as an ordinary user.
"""

import os
from collections.abc import Iterator

import pytest
from tests.cli.persons import Person, person
from tests.sandbox.places import WHO_ELSE
from tests.tools.trees import can_set_xattrs, temporary_files, tree

A_TIME_NS = 1_500_000_000_000_000_005

LINE = "rm -r src; echo x > new; mv a b; chmod +x c"
CHANGED = {
    "new": "created", "b": "renamed", "c": "mode",
    "src": "deleted", "src/main.py": "deleted", "src/deep": "deleted", "src/deep/as a": "deleted",
    "src/deep/link": "deleted",
}  # fmt: skip


@pytest.fixture(params=["root", WHO_ELSE])
def custody(request: pytest.FixtureRequest) -> Iterator[Person]:
    yield from person(request.param)


def checkout(custody: Person) -> None:
    """A repository with a file of each kind, all of an old date."""
    work = custody.work
    (work / "src" / "deep").mkdir(parents=True)
    for name in ("src/main.py", "a", "c"):
        (work / name).write_text(f"{name}\n")
    (work / "c").chmod(0o640)
    os.link(work / "a", work / "src" / "deep" / "as a")
    (work / "src" / "deep" / "link").symlink_to("../main.py")
    if can_set_xattrs(work):
        os.setxattr(work / "src" / "main.py", "user.custody.test", b"1")
        os.setxattr(work / "src" / "deep", "user.custody.test", b"2")
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "gc.auto=0")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        custody.runs(*git, *command)
    for path in (*work.rglob("*"), work):
        os.utime(path, ns=(A_TIME_NS, A_TIME_NS), follow_symlinks=False)


def told(custody: Person, call) -> dict[str, str]:
    return {os.path.relpath(change["path"], custody.work): change["change"] for change in call["changes"]}


@pytest.mark.long
def test_a_checkout_is_as_it_was_until_the_commit_and_again_after_the_undo(custody):
    checkout(custody)
    before = tree(custody.work)

    ran = custody("exec", "--level", "transaction", "--json", "--", "sh", "-c", LINE)
    assert (ran.code, ran.err) == (0, "")
    call = ran.json
    assert (call["level"], call["held"], call["settled_by"]) == ("transaction", "held", None)
    assert told(custody, call) == CHANGED
    assert tree(custody.work) == before

    shown = custody("show", call["id"], "--diff")
    assert shown.code == 0 and "+x\n" in shown.out and "-src/main.py\n" in shown.out
    assert tree(custody.work) == before

    assert custody("commit", call["id"]).code == 0
    assert sorted(os.listdir(custody.work)) == [".git", "b", "c", "new"]
    assert (custody.work / "c").stat().st_mode & 0o7777 == 0o751
    assert {path.stat().st_uid for path in custody.work.iterdir()} == {custody.uid}
    after = tree(custody.work)

    undone = custody("undo", call["id"], "--json").json
    assert tree(custody.work) == before
    assert custody("undo", undone["id"]).code == 0
    assert tree(custody.work) == after
    assert temporary_files(custody.work) == []
    assert custody("verify").code == 0


@pytest.mark.long
def test_git_itself_works_on_the_view_and_its_commit_counts_after_ours(custody):
    checkout(custody)
    before = tree(custody.work)
    git = "git -c user.name=t -c user.email=t@example.org"
    line = f"git mv a b && echo more >> c && {git} commit -qam second && git log --oneline | wc -l"

    ran = custody("exec", "--level", "transaction", "--", "sh", "-c", line)
    assert (ran.code, ran.out.strip()) == (0, "2"), ran.err
    assert tree(custody.work) == before

    assert custody("commit", "--yes").code == 0
    custody.runs("sh", "-c", 'test "$(git log --format=%s | head -1)" = second && git diff --exit-code HEAD')
    custody.runs("git", "fsck", "--strict")


@pytest.mark.long
def test_a_commit_into_a_checkout_somebody_worked_in_meanwhile_is_all_or_nothing(custody):
    checkout(custody)
    call = custody("exec", "--level", "transaction", "--json", "--", "sh", "-c", LINE).json
    (custody.work / "src" / "main.py").write_text("mine\n")
    (custody.work / "c").chmod(0o600)
    before = tree(custody.work)

    ran = custody("commit", call["id"])
    assert ran.code == 1 and "2 paths have changed since" in ran.err
    assert tree(custody.work) == before
    assert custody("show", call["id"], "--json").json["held"] == "held"

    (custody.work / "c").chmod(0o640)
    (custody.work / "src" / "main.py").write_text("src/main.py\n")
    before = tree(custody.work)
    assert custody("commit", call["id"]).code == 0, "by hand they are again what the command saw"
    assert sorted(os.listdir(custody.work)) == [".git", "b", "c", "new"]
    assert custody("undo", call["id"]).code == 0
    assert tree(custody.work) == before
