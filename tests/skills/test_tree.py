"""The digest of a skill says what is in its files and nothing else, and reading it follows nothing."""

import hashlib
import os
import socket
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from custody.errors import InvalidSkill
from custody.skills.tree import (
    FileState,
    Tree,
    TreeBounds,
    differences,
    path_fault,
    read_tree,
    read_tree_keeping,
    tree_of,
)

BOUNDS = TreeBounds()
TEXT = b"---\ndescription: d\n---\n"


def skill(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    for path, data in {"SKILL.md": TEXT, **(files or {})}.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        file.chmod(0o755 if path.endswith(".sh") else 0o644)
    return folder


def refused(path: Path, bounds: TreeBounds = BOUNDS) -> str:
    with pytest.raises(InvalidSkill) as error:
        read_tree(str(path), bounds)
    return error.value.message


def test_a_tree_names_every_file_with_its_digest_size_and_mode(tmp_path: Path):
    tree = read_tree(str(skill(tmp_path / "pdf", {"scripts/run.sh": b"#!/bin/sh\n", ".env": b""})), BOUNDS)
    assert tree.files == {
        ".env": FileState(sha256=hashlib.sha256(b"").hexdigest(), size_bytes=0, executable=False),
        "SKILL.md": FileState(
            sha256=hashlib.sha256(TEXT).hexdigest(), size_bytes=len(TEXT), executable=False
        ),
        "scripts/run.sh": FileState(
            sha256=hashlib.sha256(b"#!/bin/sh\n").hexdigest(), size_bytes=10, executable=True
        ),
    }
    assert list(tree.files) == [".env", "SKILL.md", "scripts/run.sh"]
    assert (tree.size_bytes, tree.executables) == (len(TEXT) + 10, ("scripts/run.sh",))


def test_the_digest_can_be_made_with_a_shell_and_the_text_of_the_docs(tmp_path: Path):
    folder = skill(tmp_path / "pdf", {"a/b.sh": b"x", "z": b"y"})
    lines = b"custody-skill-tree/v1\n"
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        mode = b"x" if path.stat().st_mode & stat.S_IXUSR else b"-"
        name = path.relative_to(folder).as_posix().encode()
        lines += hashlib.sha256(path.read_bytes()).hexdigest().encode() + b" " + mode + b" " + name + b"\n"
    assert read_tree(str(folder), BOUNDS).digest == f"sha256:{hashlib.sha256(lines).hexdigest()}"


def test_the_digest_of_a_single_file_is_independent_of_its_name(tmp_path: Path):
    (tmp_path / "notes.md").write_bytes(TEXT)
    (tmp_path / "other.md").write_bytes(TEXT)
    tree = read_tree(str(tmp_path / "notes.md"), BOUNDS)
    assert list(tree.files) == ["SKILL.md"]
    assert tree == read_tree(str(tmp_path / "other.md"), BOUNDS)
    assert tree == read_tree(str(skill(tmp_path / "folder")), BOUNDS)


def test_times_owners_places_and_empty_folders_do_not_count(tmp_path: Path):
    one = skill(tmp_path / "one", {"a/b": b"1"})
    other = skill(tmp_path / "deep" / "er" / "other", {"a/b": b"1"})
    (other / "empty" / "er").mkdir(parents=True)
    os.utime(other / "SKILL.md", (1, 1))
    (other / "SKILL.md").chmod(0o600)
    assert read_tree(str(one), BOUNDS).digest == read_tree(str(other), BOUNDS).digest


def test_the_signature_is_not_part_of_the_tree_and_is_kept_where_asked(tmp_path: Path):
    folder = skill(tmp_path / "pdf")
    before = read_tree(str(folder), BOUNDS)
    (folder / "SKILL.sig").write_bytes(b"note")
    (tmp_path / "notes.md").write_bytes(TEXT)
    (tmp_path / "notes.md.sig").write_bytes(b"other")
    keep = ("SKILL.md", "SKILL.sig")
    kept = {"SKILL.md": TEXT, "SKILL.sig": b"note"}
    assert read_tree_keeping(str(folder), BOUNDS, keep) == (before, kept)
    assert read_tree_keeping(str(tmp_path / "notes.md"), BOUNDS, keep)[1] == {**kept, "SKILL.sig": b"other"}


def test_nothing_hides_under_the_name_of_the_signature(tmp_path: Path):
    folder = skill(tmp_path / "folder", {"SKILL.sig/run.sh": b"id"})
    assert "SKILL.sig is not a file" in refused(folder)
    large = skill(tmp_path / "large", {"SKILL.sig": b"x" * 70_000})
    assert "no signature has" in refused(large)
    deeper = skill(tmp_path / "deeper", {"a/SKILL.sig": b"x"})
    assert "a/SKILL.sig" in read_tree(str(deeper), BOUNDS).files


def test_a_link_is_refused_wherever_it_stands_and_leads(tmp_path: Path):
    outside = skill(tmp_path / "outside")
    (tmp_path / "link").symlink_to(outside)
    assert "is a link" in refused(tmp_path / "link")
    within = skill(tmp_path / "within")
    (within / "again.md").symlink_to("SKILL.md")
    assert "again.md is a link" in refused(within)
    below = skill(tmp_path / "below")
    (below / "a").mkdir()
    (below / "a" / "b").symlink_to("/etc")
    assert "a/b is a link" in refused(below)


def test_pipes_and_sockets_are_refused_and_never_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in refused(tmp_path / "pipe")
    folder = skill(tmp_path / "pdf")
    os.mkfifo(folder / "pipe")  # a reader would wait for a writer
    assert "pipe is neither" in refused(folder)
    other = skill(tmp_path / "other")
    with socket.socket(socket.AF_UNIX) as listener:
        cwd = os.open(other, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{cwd}/socket")  # the path itself may be too long for a socket
        os.close(cwd)
        assert "socket is neither" in refused(other)


@pytest.mark.parametrize(
    ("files", "bounds", "says"),
    [
        ({"a": b"", "b": b""}, TreeBounds(files_max=2), "more than 2 files"),
        ({"a/b/c": b""}, TreeBounds(files_max=3), "more than 3 files"),
        ({"a": b"x" * 100}, TreeBounds(bytes_max=100), "more than 100 bytes"),
        ({"a/b/c": b""}, TreeBounds(depth_max=2), "3 levels deep"),
        ({"abcdefghij": b""}, TreeBounds(path_characters_max=9), "10 characters"),
    ],
    ids=["files", "folders count", "bytes", "depth", "path"],
)
def test_what_exceeds_a_bound_is_refused(
    tmp_path: Path, files: dict[str, bytes], bounds: TreeBounds, says: str
):
    assert says in refused(skill(tmp_path / "pdf", files), bounds)


@pytest.mark.parametrize(
    "name", ["a\nb", "a\x1b[2Jb", "gpj.\u202egnp", "\x7f"], ids=["line", "escape", "bidi", "del"]
)
def test_a_path_that_shows_as_another_is_refused(tmp_path: Path, name: str):
    folder = skill(tmp_path / "pdf", {name: b""})
    assert "control character" in refused(folder)
    assert refused(folder).isprintable()


def test_a_path_that_is_not_utf8_is_refused(tmp_path: Path):
    folder = skill(tmp_path / "pdf")
    with open(os.fsencode(folder) + b"/\xff", "wb"):
        pass
    assert "UTF-8" in refused(folder)


@pytest.mark.parametrize("path", ["", "/etc", "a//b", "a/../b", "..", "./a", "a/"])
def test_a_path_that_leads_elsewhere_is_none_of_a_tree(path: str):
    assert path_fault(path, BOUNDS) is not None


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    folder = skill(tmp_path / "pdf", {"secret": b""})
    (folder / "secret").chmod(0)
    assert "secret cannot be read" in refused(folder)


def test_a_path_with_nothing_at_it_is_refused(tmp_path: Path):
    assert "cannot be read" in refused(tmp_path / "nothing")


def test_a_file_that_grows_without_end_is_read_no_further_than_its_size():
    """A file of /proc says it has no bytes and has some."""
    assert "changed while it was read" in refused(Path("/proc/self/status"))


def test_differences_name_each_file_once():
    def state(sha256: str, *, executable: bool = False) -> FileState:
        return FileState(sha256=sha256 * 64, size_bytes=1, executable=executable)

    expected = {"same": state("a"), "text": state("a"), "mode": state("a"), "gone": state("a")}
    found = {"same": state("a"), "text": state("b"), "mode": state("a", executable=True), "new": state("a")}
    assert [(each.file, each.what) for each in differences(expected, found)] == [
        ("gone", "removed"),
        ("mode", "mode"),
        ("new", "added"),
        ("text", "content"),
    ]


# -- any tree -------------------------------------------------------------------------------------------

PATHS = st.lists(
    st.sampled_from(["a", "b", "B", "é", "a b", "a-", "\U0001f600", ".x"]), min_size=1, max_size=3
)
STATES = st.builds(
    FileState,
    sha256=st.binary(max_size=3).map(lambda data: hashlib.sha256(data).hexdigest()),
    size_bytes=st.integers(0, 3),
    executable=st.booleans(),
)
FILES = st.dictionaries(PATHS.map("/".join), STATES, max_size=6)


@given(FILES, st.randoms())
def test_the_digest_does_not_depend_on_the_order_of_the_files(files: dict[str, FileState], random):
    mixed = list(files.items())
    random.shuffle(mixed)
    assert tree_of(dict(mixed)) == tree_of(files)
    assert list(tree_of(files).files) == sorted(files, key=str.encode)


@given(FILES, FILES)
def test_the_digest_is_the_same_exactly_where_nothing_differs(
    one: dict[str, FileState], other: dict[str, FileState]
):
    def told(files: dict[str, FileState]) -> dict[str, tuple[str, bool]]:
        return {path: (state.sha256, state.executable) for path, state in files.items()}

    assert (tree_of(one).digest == tree_of(other).digest) == (told(one) == told(other))
    assert (differences(one, other) == ()) == (one == other)


@settings(max_examples=25)
@given(
    data=st.data(),
    files=st.dictionaries(
        st.sampled_from(["a", "b/c", "b/d.sh", "e/f/g"]), st.binary(min_size=1, max_size=20), min_size=1
    ),
)
def test_every_single_change_of_a_byte_a_name_or_a_mode_changes_the_digest(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, files: dict[str, bytes]
):
    folder = skill(tmp_path_factory.mktemp("skill"), files)
    before = read_tree(str(folder), BOUNDS)
    path = folder / data.draw(st.sampled_from(sorted(files)))
    content = path.read_bytes()
    match data.draw(st.sampled_from(["byte", "cut", "name", "mode", "added", "removed"])):
        case "byte":
            place = data.draw(st.integers(0, len(content) - 1))
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        case "cut":
            path.write_bytes(content[:-1])
        case "name":
            path.rename(path.with_name(path.name + "x"))
        case "mode":
            path.chmod(path.stat().st_mode ^ 0o111)
        case "added":
            path.with_name("new").touch()
        case _:
            path.unlink()
    after = read_tree(str(folder), BOUNDS)
    assert after.digest != before.digest
    assert isinstance(after, Tree)
