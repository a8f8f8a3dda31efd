"""Any sequence of file calls, then the undo of the run: the tree is what it was, down to times and links."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.tools.trees import Place, can_set_xattrs, succeeded, temporary_files, tree

NAMES = [
    "a",
    "b",
    "d",
    "d/a",
    "d/e",
    "d/e/f",
    "link",
    "into",
    "into/a",
    "other",
    "nowhere",
    "new/x",
    "é",
    "\udcff",
]
"""Paths that are files, folders, links and nothing, and become each other."""

paths = st.sampled_from(NAMES)
contents = st.sampled_from(["", "one", "two\nlines\n", "old" + "x" * 5000])

writes = st.fixed_dictionaries(
    {"path": paths, "content": contents},
    optional={"append": st.booleans(), "mode": st.sampled_from(["0600", "0755"])},
)
careful_writes = st.fixed_dictionaries(
    {"path": paths, "content": contents},
    optional={"make_parents": st.booleans(), "create": st.sampled_from(["only", "never"])},
)
edits = st.lists(
    st.fixed_dictionaries(
        {
            "old": st.sampled_from(["one", "two", "lines", "old"]),
            "new": st.sampled_from(["", "one two", "old lines\n"]),
        },
        optional={"count": st.integers(1, 2)},
    ),
    min_size=1,
    max_size=2,
)
one_file = st.fixed_dictionaries({"path": paths, "edits": edits})
several = st.fixed_dictionaries({"files": st.lists(one_file, min_size=1, max_size=3)})
deletions = st.fixed_dictionaries(
    {"paths": st.lists(paths, min_size=1, max_size=3), "missing_ok": st.just(value=True)},
    optional={"recursive": st.booleans()},
)
earlier = st.fixed_dictionaries({"call": st.integers(0, 20)}, optional={"force": st.booleans()})

calls = st.lists(
    st.one_of(
        st.tuples(st.just("file_write"), writes),
        st.tuples(st.just("file_write"), st.one_of(writes, careful_writes)),
        st.tuples(st.just("file_edit"), st.one_of(one_file, one_file, several)),
        st.tuples(st.just("file_delete"), deletions),
        st.tuples(st.just("undo"), earlier),
    ),
    min_size=3,
    max_size=14,
)


def populate(folder: Path) -> None:
    """A bit of everything."""
    (folder / "d" / "e").mkdir(parents=True)
    (folder / "a").write_text("one old file\n")
    (folder / "d" / "a").write_bytes(b"\xff\xfe no text")
    (folder / "d" / "e" / "f").write_text("two\r\nlines\r\n")
    (folder / "link").symlink_to("d/e/f")
    (folder / "into").symlink_to("d")
    (folder / "nowhere").symlink_to("nothing/here")
    os.link(folder / "a", folder / "other")
    os.chmod(folder / "a", 0o4710)
    os.chmod(folder / "d", 0o711)
    if can_set_xattrs(folder):
        os.setxattr(folder / "a", "user.origin", b"\0here")
        os.setxattr(folder / "d", "user.origin", b"there")
    for number, path in enumerate(sorted(folder.rglob("*"), reverse=True)):
        os.utime(path, ns=(1, 10**9 * (number + 2) + number), follow_symlinks=False)
    os.utime(folder, ns=(1, 10**9 + 1))


def play(run, asked) -> None:
    """Make the calls; `undo` takes back one of those made before."""
    made: list[str] = []
    for name, arguments in asked:
        if name == "undo":
            if not made:
                continue
            arguments = {**arguments, "call": made[arguments["call"] % len(made)]}
        made.append(run.call(name, arguments).id)


def judge(asked) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        populate(place.work)
        before = tree(place.work)
        with place.open() as runtime:
            with runtime.run("any") as run:
                play(run, asked)
            after = tree(place.work)
            undoing = runtime.call("undo", {"run": run.id})
            succeeded(undoing)
            assert tree(place.work) == before
            if undoing.result["undone"]:
                succeeded(runtime.call("undo", {"call": undoing.id}))
                assert seen(tree(place.work)) == seen(after)
                succeeded(runtime.call("undo", {"run": run.id}))
                assert tree(place.work) == before
        assert temporary_files(place.work) == []


def seen(found):
    """Of a tree that was made again, everything but when its folders changed."""
    return {
        name: {field: value for field, value in entry.items() if field != "mtime_ns" or "content" in entry}
        for name, entry in found.items()
    }


WRITE_A, WRITE_B = {"path": "a", "content": ""}, {"path": "b", "content": ""}
DELETE_B = {"paths": ["b"], "missing_ok": True}


@given(calls)
@example([  # what the second call did is undone while the third has already done the same
    ("file_write", WRITE_A), ("file_write", WRITE_B), ("file_delete", DELETE_B), ("undo", {"call": 1}),
])  # fmt: skip
@example([
    ("file_write", WRITE_A), ("file_write", {"path": "a", "content": "one"}), ("file_write", WRITE_A),
    ("undo", {"call": 1}),
])  # fmt: skip
@settings(max_examples=10)
def test_any_sequence_of_file_calls_is_taken_back_by_the_undo_of_the_run(asked):
    judge(asked)


@pytest.mark.long
@pytest.mark.timeout(3600)
@given(calls)
@settings(max_examples=300)
def test_any_of_thousands_of_sequences_of_file_calls_is_taken_back(asked):
    judge(asked)
