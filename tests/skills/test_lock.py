"""A lock is read in full or not at all, and equal skills make equal bytes."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.how_many import as_many
from tests.skills.locked_roots import entry_of, file_skill, folder_skill, lock

from custody.errors import LockUnusable
from custody.skills.lock import (
    LOCK_BYTES_MAX,
    LOCK_FILE,
    SCHEMA_VERSION,
    Lock,
    LockEntry,
    SignatureData,
    lock_bytes,
    parse_lock,
    path_of,
    read_lock,
)
from custody.skills.skill import Source
from custody.skills.tree import FileState, tree_of


def parsed(content: Any) -> Lock:
    """The lock in a file of this content, or of these bytes."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return parse_lock(data, "skills.lock.json")


def one_entry(name: str = "pdf") -> LockEntry:
    tree = tree_of({"SKILL.md": FileState(sha256="ab" * 32, size_bytes=3, executable=False)})
    source = Source(kind="git", location="https://example.com/x.git", commit="c" * 40, path="skills/pdf")
    return LockEntry(name=name, digest=tree.digest, files=tree.files, source=source)


def content(**members: Any) -> dict[str, Any]:
    """What stands in a lock of one skill; some members of its entry are others."""
    whole = json.loads(lock_bytes(Lock(entries={"pdf": one_entry()})))
    whole["skills"]["pdf"] |= members
    return whole


# -- what is in it --------------------------------------------------------------------------------------


def test_two_folders_that_each_have_a_skill_md_are_two_entries(tmp_path: Path):
    folder_skill(tmp_path, "pdf", {"scripts/run.sh": "echo hi\n"})
    folder_skill(tmp_path, "xlsx")
    file_skill(tmp_path, "notes")
    lock(tmp_path, "pdf", "xlsx", "notes.md")
    held = read_lock(str(tmp_path))
    assert held is not None
    assert {path: sorted(entry.files) for path, entry in held.entries.items()} == {
        "pdf": ["SKILL.md", "scripts/run.sh"],
        "xlsx": ["SKILL.md"],
        "notes.md": ["SKILL.md"],
    }


def test_the_file_is_as_the_documents_show_it():
    assert lock_bytes(Lock(entries={"pdf": one_entry()})).decode() == (
        '{\n  "schema_version": 1,\n  "skills": {\n    "pdf": {\n'
        f'      "digest": "{one_entry().digest}",\n'
        '      "files": {\n        "SKILL.md": {\n          "executable": false,\n'
        f'          "sha256": "{"ab" * 32}",\n          "size_bytes": 3\n        }}\n      }},\n'
        '      "name": "pdf",\n      "signature": null,\n      "source": {\n'
        f'        "commit": "{"c" * 40}",\n        "kind": "git",\n'
        '        "location": "https://example.com/x.git",\n        "path": "skills/pdf",\n'
        '        "sha256": null\n      }\n    }\n  }\n}\n'
    )


def test_the_bytes_do_not_say_in_which_order_or_where_the_skills_came(tmp_path: Path):
    one, other = tmp_path / "one", tmp_path / "other" / "place"
    for root, names in ((one, ["a", "b", "c"]), (other, ["c", "a", "b"])):
        for name in names:
            folder_skill(root, name, {"z.txt": "z", "a.txt": "a"})
            os.utime(root / name / "SKILL.md", (len(names), ord(name)))
            lock(root, name)
    assert (one / LOCK_FILE).read_bytes() == (other / LOCK_FILE).read_bytes()


def test_a_root_without_a_lock_or_no_root_has_none(tmp_path: Path):
    (tmp_path / "file").touch()
    assert [read_lock(str(tmp_path / path)) for path in ("", "gone", "file")] == [None, None, None]


def test_entries_are_added_and_taken_out_in_a_lock_of_their_own(tmp_path: Path):
    folder_skill(tmp_path, "pdf")
    empty = Lock()
    one = empty.having("pdf", entry_of(tmp_path, "pdf"))
    assert (list(empty.entries), list(one.entries), one.without("pdf")) == ([], ["pdf"], empty)


def test_the_key_of_a_single_file_is_its_file_name():
    assert [path_of("notes", "file"), path_of("pdf", "folder")] == ["notes.md", "pdf"]


# -- what makes it unusable -----------------------------------------------------------------------------


def test_a_newer_schema_is_not_guessed_at():
    with pytest.raises(LockUnusable, match="made by a newer Custody") as told:
        parsed({"schema_version": SCHEMA_VERSION + 1, "skills": [], "anything": {}})
    assert told.value.hint is not None


@pytest.mark.parametrize(
    "data",
    [
        b'{"schema_version": 1, "skills": {}, "skills": {}}',
        b'{"schema_version": 1, "schema_version": 1, "skills": {}}',
        lock_bytes(Lock(entries={"a": one_entry("a"), "b": one_entry("b")})).replace(b'"b": {', b'"a": {'),
        lock_bytes(Lock(entries={"pdf": one_entry()})).replace(
            b'"size_bytes"', b'"size_bytes": 3, "size_bytes"'
        ),
        lock_bytes(Lock(entries={"pdf": one_entry()})).replace(b'"name"', b'"na\\u006de": "pdf", "name"'),
    ],
    ids=["skills", "schema", "an entry", "a size", "a name spelled otherwise"],
)
def test_a_member_that_is_there_twice_makes_it_unusable(data: bytes):
    with pytest.raises(LockUnusable, match="twice in one place"):
        parsed(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"schema_version": "1", "skills": {}}',
        b'{"schema_version": 0, "skills": {}}',
        b'{"schema_version": 1}',
        b'{"schema_version": 1, "skills": {}, "more": 1}',
        b'{"schema_version": 1, "skills": {"\xff": {}}}',
        b'{"schema_version": 1, "skills": {"\\ud800": {}}}',
        b'{"schema_version": 1, "skills": ' + b"[" * 100_000,
        b'{"schema_version": 1, "skills": {}, "more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"schema_version": ' + b"9" * 10_000 + b', "skills": {}}',
        b"\xef\xbb\xbf{}",
    ],
    ids=[
        "empty", "cut", "a list", "null", "no schema", "schema as text", "schema 0", "no skills", "more",
        "not UTF-8", "half a character", "deep", "deep beside", "a huge number", "a byte order mark",
    ],
)  # fmt: skip
def test_what_is_no_lock_is_refused_with_what_to_do(data: bytes):
    with pytest.raises(LockUnusable) as told:
        parsed(data)
    assert told.value.hint is not None


@pytest.mark.parametrize(
    "path",
    [
        "",
        "..",
        ".",
        "/etc",
        "a/b",
        "../pdf",
        "a\\b",
        "CON",
        "a\0b",
        "x" * 300,
        ".hidden",
        "SKILL.md",
        "..md",
        "é",
    ],
)
def test_a_path_that_no_skill_can_have_is_refused(path: str):
    whole = content()
    whole["skills"][path] = whole["skills"].pop("pdf")
    with pytest.raises(LockUnusable, match="cannot be the path of a skill"):
        parsed(whole)


@pytest.mark.parametrize(
    "file", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "a\nb", "a\0b", "x" * 5000]
)
def test_a_file_outside_the_skill_is_refused(file: str):
    state = {"sha256": "ab" * 32, "size_bytes": 1, "executable": False}
    with pytest.raises(LockUnusable, match="pdf: "):
        parsed(content(files={file: state}))


@pytest.mark.parametrize(
    "state",
    [
        {"sha256": "AB" * 32},
        {"sha256": "ab"},
        {"size_bytes": -1},
        {"size_bytes": 2**70},
        {"size_bytes": "3"},
        {"executable": 1},
        {"mode": "0755"},
    ],
    ids=["upper case", "short", "less than nothing", "too large", "text", "a number", "unknown"],
)
def test_a_file_that_is_not_said_in_full_is_refused(state: dict[str, object]):
    whole = content()
    whole["skills"]["pdf"]["files"]["SKILL.md"] |= state
    with pytest.raises(LockUnusable):
        parsed(whole)


@pytest.mark.parametrize(
    "members",
    [
        {"files": {}},
        {"source": {"kind": "ftp", "location": "x"}},
        {"source": {"kind": "git", "location": "x", "branch": "main"}},
        {"signature": {"key_id": "x"}},
        {"installed_at": "2026-01-01T00:00:00Z"},
        {"name": None},
    ],
    ids=["no files", "source kind", "source more", "signature", "unknown", "no name"],
)
def test_an_entry_that_is_not_what_it_should_be_is_refused(members: dict[str, object]):
    with pytest.raises(LockUnusable):
        parsed(content(**members))


@pytest.mark.parametrize(
    ("members", "why"),
    [({"digest": "sha256:" + "0" * 64}, "Its digest is not that"), ({"name": "docx"}, "which is another's")],
    ids=["digest", "name"],
)
def test_an_entry_that_contradicts_itself_makes_the_lock_unusable(
    tmp_path: Path, members: dict[str, object], why: str
):
    (tmp_path / LOCK_FILE).write_text(json.dumps(content(**members)))
    with pytest.raises(LockUnusable, match=f"pdf: .*{why}"):
        read_lock(str(tmp_path))


def test_another_spelling_of_the_same_lock_is_read():
    assert parsed(content()) == parsed(lock_bytes(Lock(entries={"pdf": one_entry()})))


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path):
    (tmp_path / "other.json").write_bytes(lock_bytes(Lock()))
    (tmp_path / LOCK_FILE).symlink_to("other.json")
    with pytest.raises(LockUnusable, match="it is a link"):
        read_lock(str(tmp_path))


def test_a_lock_that_is_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / LOCK_FILE)
    with pytest.raises(LockUnusable, match="is not a file"):
        read_lock(str(tmp_path))


def test_a_lock_beyond_the_bound_is_not_read(tmp_path: Path):
    with open(tmp_path / LOCK_FILE, "wb") as file:
        file.truncate(LOCK_BYTES_MAX + 1)
    with pytest.raises(LockUnusable, match="more than"):
        read_lock(str(tmp_path))


# -- for any lock ---------------------------------------------------------------------------------------

NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,20}", fullmatch=True).filter(
    lambda name: name not in {"con", "prn", "aux", "nul", "skill"} and not name.startswith(("com", "lpt"))
)
LINES = st.text(
    st.characters(exclude_categories=["C", "Zl", "Zp"], exclude_characters="/"), min_size=1, max_size=20
)
FILES = st.dictionaries(
    LINES.filter(lambda part: part not in (".", "..")),
    st.builds(
        FileState,
        sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
        size_bytes=st.integers(0, 2**40),
        executable=st.booleans(),
    ),
    min_size=1,
    max_size=4,
)
SOURCES = st.builds(
    Source,
    kind=st.sampled_from(["local", "archive", "git", "https"]),
    location=LINES,
    commit=st.none() | st.just("c" * 40),
    path=st.none() | LINES,
    sha256=st.none() | st.just("d" * 64),
)
SIGNATURES = st.none() | st.builds(SignatureData, key_id=LINES, key_hash=st.just("0a1b2c3d"), note=LINES)


@st.composite
def locks(draw: st.DrawFn) -> Lock:
    entries: dict[str, LockEntry] = {}
    for name in draw(st.lists(NAMES, max_size=4, unique=True)):
        tree = tree_of(draw(FILES))
        entries[path_of(name, draw(st.sampled_from(["folder", "file"])))] = LockEntry(
            name=name, digest=tree.digest, files=tree.files, source=draw(SOURCES), signature=draw(SIGNATURES)
        )
    return Lock(entries=entries)


@settings(max_examples=as_many(50))
@given(made=locks())
def test_what_is_written_is_what_is_read_and_there_is_one_spelling(made: Lock):
    data = lock_bytes(made)
    assert parsed(data) == made
    assert lock_bytes(parsed(data)) == data


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a JSON value something stands."""
    inner = value.items() if isinstance(value, dict) else ()
    return [at, *(place for key, below in inner for place in places(below, (*at, key)))]


@settings(max_examples=as_many(50))
@given(data=st.data(), made=locks())
def test_whatever_is_done_to_a_lock_it_is_refused_or_still_one(data: st.DataObject, made: Lock):
    whole = json.loads(lock_bytes(made))
    *above, last = data.draw(st.sampled_from(places(whole)[1:]))
    holder = whole
    for key in above:
        holder = holder[key]
    match data.draw(st.sampled_from(["junk", "gone", "moved"])):
        case "junk":
            holder[last] = data.draw(JUNK)
        case "gone":
            del holder[last]
        case _:
            holder[data.draw(st.text(max_size=8))] = holder.pop(last)
    refused_or_a_lock(json.dumps(whole).encode())


@settings(max_examples=as_many(50))
@given(at=st.integers(0, 10_000), put=st.binary(max_size=4), cut=st.integers(0, 4), made=locks())
def test_whatever_bytes_are_put_in_a_lock_it_is_refused_or_still_one(
    at: int, put: bytes, cut: int, made: Lock
):
    data = lock_bytes(made)
    at %= len(data)
    refused_or_a_lock(data[:at] + put + data[at + cut :])


def refused_or_a_lock(data: bytes) -> None:
    try:
        read = parsed(data)
    except LockUnusable:
        return
    assert parsed(lock_bytes(read)) == read
