"""What a person is shown of held changes before they count: bounded, in words where no text, harmless."""

import os
import re
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.changes.held.conftest import CALL, Case

from custody.changes.held.difference import (
    BYTES_MAX,
    COMPARED_BYTES_MAX,
    FILE_BYTES_MAX,
    LINE_CHARACTERS_MAX,
    LINES_COMPARED_MAX,
    LINES_MAX,
    Page,
    difference,
)


def shown(case: Case, work, *, clean=lambda text: text) -> list[str]:
    return difference(case.hold(work, kind="copy"), clean).splitlines()


@pytest.fixture
def case(folder, overlays) -> Case:
    return Case(folder)


def test_texts_are_shown_as_a_unified_diff_and_all_else_in_words(case):
    root = case.root
    case.make("text", b"one\ntwo\nthree\n")
    case.make("picture", b"\0" * 10)
    case.make("gone", b"gone\n")
    case.make("from", b"it moves\n")
    case.make("runs", b"#!/bin/sh\n")
    case.make("folder/in", b"in\n")
    (root / "link").symlink_to("text")

    def work():
        (root / "text").write_text("one\ntwo and a half\nthree\n")
        (root / "picture").write_bytes(b"\0\1\2\3")
        (root / "gone").unlink()
        os.rename(root / "from", root / "to")
        os.chmod(root / "runs", 0o755)
        os.unlink(root / "link")
        os.symlink("elsewhere", root / "link")
        shutil.rmtree(root / "folder")
        (root / "folder").write_text("a file\n")
        (root / "made").mkdir()
        (root / "new").write_text("new")
        (root / "new").chmod(0o755)

    lines = shown(case, work)
    text = "\n".join(lines)
    assert "--- a/text\n+++ b/text\n@@ -1,3 +1,3 @@\n one\n-two\n+two and a half\n three" in text
    assert "--- a/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-gone" in text
    assert "--- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+new\n\\ No newline at end of file" in text
    assert "(new: mode 0755)" in lines
    assert re.search(
        r"^\(picture: binary, 10 bytes sha256 \w{12} → 4 bytes sha256 \w{12}\)$", text, re.MULTILINE
    )
    assert "(runs: mode 0644 → 0755)" in lines
    assert "(link: link, text → elsewhere)" in lines
    assert "(made: folder, created)" in lines
    assert any(re.match(r"\(to: renamed from .*/from, as its content says\)$", line) for line in lines)
    assert any(line.startswith("(folder: a directory before, a file after") for line in lines)
    assert not any(line.startswith("(and ") for line in lines)


def test_what_is_left_out_is_counted_in_paths_and_lines(case):
    root = case.root

    def work():
        for name in "abc":
            (root / name).write_text("".join(f"{name}{number}\n" for number in range(60)))

    lines = shown(case, work)
    assert len(lines) == LINES_MAX
    assert lines[:4] == ["--- /dev/null", "+++ b/a", "@@ -0,0 +1,60 @@", "+a0"]
    assert [line for line in lines if line.startswith("(")] == [
        "(a: and 31 more lines)", "(b: and 31 more lines)", "(c: and 30 more lines)",
    ]  # fmt: skip


def test_no_file_hides_another_by_its_length(case):
    root = case.root

    def work():
        (root / "a-long").write_text("a\n" * 900)
        (root / "a-wide").write_text(f"{'w' * 400}\n" * 900)
        for number in range(30):
            (root / f"n{number:02}").symlink_to("elsewhere")
        (root / "z-short").write_text("harmful\n")

    lines = shown(case, work)
    assert "+harmful" in lines and "(n29: link, nothing → elsewhere)" in lines
    assert len(lines) <= LINES_MAX + 1


def test_of_very_many_paths_those_without_place_are_counted(case):
    lines = shown(case, lambda: [(case.root / f"{number:03}").mkdir() for number in range(250)])
    assert lines[LINES_MAX - 1 :] == ["(099: folder, created)", "(and 150 more paths, 150 more lines)"]


def test_neither_many_paths_nor_large_ones_are_compared_for_longer_than_somebody_waits(case):
    root, each = case.root, FILE_BYTES_MAX - 1
    count = COMPARED_BYTES_MAX // each + 3

    def work():
        (root / "a-large").write_bytes(b"x\n" * FILE_BYTES_MAX)
        for number in range(count):
            (root / f"b{number}").write_bytes(b"x" * each)

    compared = []
    lines = shown(case, work, clean=lambda text: compared.append(len(text)) or text)
    assert sum(compared) <= COMPARED_BYTES_MAX
    assert re.match(r"\(a-large: nothing → 524,288 bytes sha256 \w{12}, not compared\)$", lines[0])
    assert len([line for line in lines if line.endswith("not compared)")]) == 1 + count - len(compared)


def test_a_long_line_is_cut_with_a_count(case):
    lines = shown(case, lambda: (case.root / "one").write_text("x" * 10_000))
    cut = 10_001 - LINE_CHARACTERS_MAX
    assert lines[3] == f"+{'x' * (LINE_CHARACTERS_MAX - 1)} … and {cut:,} more characters"


def test_a_long_name_is_cut_with_a_count_and_hides_no_count_of_lines(case):
    folder = case.root.joinpath(*["d" * 200] * 3)
    folder.mkdir(parents=True)

    def work():
        (folder / "one").write_text("x\n" * 200)
        (folder / "two").write_text("x\n" * 200)

    lines = shown(case, work)
    rest = [line for line in lines if line.endswith(": and 154 more lines)")]
    assert len(rest) == 2 and all("more characters: and" in line for line in rest)


def test_texts_of_very_many_lines_are_not_compared_line_by_line(case):
    case.make("long", b"".join(b"%d\n" % number for number in range(LINES_COMPARED_MAX + 1)))
    lines = shown(case, lambda: (case.root / "long").write_text("other\n"))
    assert lines == [f"(long: {LINES_COMPARED_MAX + 1:,} lines before, 1 after, not compared)"]


def test_names_and_lines_that_would_steer_a_terminal_are_made_visible(case):
    name = "\x1b[31mred\nline\u202e"

    def work():
        (case.root / name).write_text("\x1b]0;title\x07 \u202e\ttab\r\n")

    lines = shown(case, work)
    assert all(one.isprintable() or one == "\t" for line in lines for one in line)
    assert lines[1] == "+++ b/\\x1b[31mred\\nline\\u202e"
    assert lines[3] == "+\\x1b]0;title\\x07 \\u202e\ttab\\r"


def test_secrets_are_taken_out_before_texts_are_compared(case):
    case.make("key", b"BEGIN\nold\nEND\n")
    work = lambda: (case.root / "key").write_text("BEGIN\nnew\nEND\nplain\n")  # noqa: E731
    lines = shown(case, work, clean=lambda text: re.sub(r"BEGIN\n.*\nEND", "[redacted]", text))
    assert [line for line in lines if line[:1] in "+- " and line[:3] not in ("+++", "---")] == [
        " [redacted]",
        "+plain",
    ]


def test_what_stands_there_and_was_changed_since_is_said(case):
    case.make("text", b"one\n")
    held = case.hold(lambda: (case.root / "text").write_text("two\n"), kind="copy")
    (case.root / "text").write_text("three\n")
    assert "(text: changed by somebody else since, a commit refuses)" in difference(held, str)


def test_held_content_that_is_not_what_was_written_is_not_shown_as_if_it_were(case):
    held = case.hold(lambda: (case.root / "text").write_text("harmful\n"), kind="copy")
    (upper,) = held.uppers
    with open(f"{upper}/text", "w") as file:
        file.write("harmless\n"[:8])
    told = difference(held, str)
    assert told == "(text: what is held of it is not what was written, a commit refuses)\n"


def test_other_owners_and_attributes_are_told_where_nothing_else_is_another(case):
    case.make("plain")
    os.setxattr(case.root / "plain", "user.note", b"one")
    lines = shown(case, lambda: os.setxattr(case.root / "plain", "user.note", b"two"))
    assert lines == ["(plain: another owner, or other attributes)"]


def test_of_several_roots_each_path_is_told_whole(folder):
    case = Case(folder)
    other = folder / "other"
    other.mkdir()
    holding = case.store.begin(CALL, [os.fspath(case.root), os.fspath(other)], kind="copy")
    for view in holding.views:
        with open(f"{view.upper}/new", "w") as file:
            file.write("x\n")
    text = difference(holding.settle(), str)
    assert f"+++ b{case.root}/new" in text and f"+++ b{other}/new" in text


LINE = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=200)


@settings(max_examples=40)
@given(st.lists(st.lists(st.one_of(LINE, st.just("x")), min_size=1), max_size=110))
def test_a_page_never_holds_more_than_its_bounds_and_counts_every_line_it_has_not(told):
    page = Page()
    for number, lines in enumerate(told):
        page.add(f"path{number}", [f"+{line}" for line in lines])
    kept = page.text().split("\n")[:-1]
    footer = kept.pop() if kept and kept[-1].startswith("(and ") else ""
    assert len(kept) <= LINES_MAX
    assert sum(len(line.encode()) + 1 for line in kept) <= BYTES_MAX
    counted = [int(found) for line in kept for found in re.findall(r"^\(path\d+: and (\d+) more line", line)]
    counted += [int(found) for found in re.findall(r"(\d+) more line", footer)]
    assert sum(line.startswith("+") for line in kept) + sum(counted) == sum(map(len, told))
