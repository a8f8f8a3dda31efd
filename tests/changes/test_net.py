"""The sum of what several calls did, path by path."""

import random

import pytest

from custody.changes import net_changes
from custody.records import Change, ChangeKind, Version

NAMES = ("/a", "/b", "/c")


def version(content: str) -> Version:
    return Version(bytes=len(content), sha256=content, mode="0644")


def change(path: str, kind: ChangeKind, before: str | None, after: str | None, **more) -> Change:
    return Change(
        path=path,
        change=kind,
        kind="file",
        before=None if before is None else version(before),
        after=None if after is None else version(after),
        **more,
    )


def created(path: str, after: str) -> Change:
    return change(path, "created", None, after)


def modified(path: str, before: str, after: str) -> Change:
    return change(path, "modified", before, after)


def deleted(path: str, before: str) -> Change:
    return change(path, "deleted", before, None)


def renamed(path: str, source: str, content: str) -> Change:
    return change(path, "renamed", content, content, renamed_from=source)


@pytest.mark.parametrize(
    ("calls", "net"),
    [
        ([], []),
        ([[created("/a", "1")]], [created("/a", "1")]),
        ([[created("/a", "1")], [deleted("/a", "1")]], []),
        ([[created("/a", "1")], [modified("/a", "1", "2")]], [created("/a", "2")]),
        ([[modified("/a", "1", "2")], [modified("/a", "2", "3")]], [modified("/a", "1", "3")]),
        ([[modified("/a", "1", "2")], [modified("/a", "2", "1")]], []),
        ([[modified("/a", "1", "2")], [deleted("/a", "2")]], [deleted("/a", "1")]),
        ([[deleted("/a", "1")], [created("/a", "1")]], []),
        ([[deleted("/a", "1")], [created("/a", "2")]], [modified("/a", "1", "2")]),
        ([[renamed("/b", "/a", "1")]], [renamed("/b", "/a", "1")]),
        ([[renamed("/b", "/a", "1"), renamed("/c", "/b", "1")]], [renamed("/c", "/a", "1")]),
        ([[renamed("/b", "/a", "1")], [renamed("/a", "/b", "1")]], []),
        ([[renamed("/b", "/a", "1")], [deleted("/b", "1")]], [deleted("/a", "1")]),
        ([[created("/a", "1")], [renamed("/b", "/a", "1")]], [created("/b", "1")]),
        ([[created("/a", "1")], [renamed("/b", "/a", "1")], [deleted("/b", "1")]], []),
        (
            [[deleted("/b", "9")], [created("/a", "1")], [renamed("/b", "/a", "1")]],
            [modified("/b", "9", "1")],
        ),
        ([[modified("/b", "8", "9"), deleted("/a", "1")]], [deleted("/a", "1"), modified("/b", "8", "9")]),
    ],
)
def test_the_net_effect_is_what_is_left(calls: list[list[Change]], net: list[Change]):
    assert net_changes(calls) == net


def test_a_rename_and_a_change_of_content_are_told_as_a_rename_with_both_versions():
    (found,) = net_changes([[renamed("/b", "/a", "1")], [modified("/b", "1", "2")]])
    assert (found.change, found.renamed_from, found.before, found.after) == (
        "renamed",
        "/a",
        version("1"),
        version("2"),
    )


def test_a_path_that_was_left_by_a_rename_and_made_anew_is_two_changes():
    found = net_changes([[renamed("/b", "/a", "1")], [created("/a", "2")]])
    assert [(one.path, one.change) for one in found] == [("/a", "created"), ("/b", "renamed")]


def test_an_owner_alone_is_told_although_no_version_shows_it():
    only = change("/a", "mode", "1", "1")
    assert net_changes([[only]]) == [only]


def test_what_cannot_be_taken_back_in_part_cannot_be_taken_back():
    calls = [
        [change("/a", "modified", "1", "2", undoable=False)],
        [change("/a", "modified", "2", "3", undoable=True)],
    ]
    assert [one.undoable for one in net_changes(calls)] == [False]


@pytest.mark.parametrize("seed", range(300))
def test_the_net_effect_of_any_calls_leads_from_the_first_tree_to_the_last(seed: int):
    chance = random.Random(seed)
    tree = {name: str(chance.randrange(3)) for name in NAMES if chance.random() < 0.5}
    first = dict(tree)
    calls = [[act(tree, chance)] for _ in range(chance.randrange(1, 12))]
    applied = dict(first)
    found = net_changes(calls)
    for one in found:
        if one.renamed_from is not None and one.renamed_from not in {other.path for other in found}:
            applied.pop(one.renamed_from, None)
    for one in found:
        if one.after is None:
            applied.pop(one.path, None)
        else:
            applied[one.path] = one.after.sha256 or ""
    assert applied == tree


def act(tree: dict[str, str], chance: random.Random) -> Change:
    """One change of a tree of names and contents."""
    name, content = chance.choice(NAMES), str(chance.randrange(3))
    if name not in tree:
        tree[name] = content
        return created(name, content)
    before = tree[name]
    free = [other for other in NAMES if other not in tree]
    match chance.choice(("delete", "modify", "rename" if free else "modify")):
        case "delete":
            del tree[name]
            return deleted(name, before)
        case "rename":
            other = chance.choice(free)
            tree[other] = tree.pop(name)
            return renamed(other, name, before)
        case _:
            tree[name] = content
            return modified(name, before, content)
