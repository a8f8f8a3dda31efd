"""Two versions of a text in the unified format."""

import difflib
import random
import time

import pytest

from custody.changes import unified
from custody.changes.diff import LINES_COMPARED_MAX, TEXT_BYTES_MAX


def test_a_change_is_shown_with_its_surroundings():
    before = "".join(f"line {number}\n" for number in range(10)).encode()
    after = before.replace(b"line 5\n", b"line five\nand a half\n")
    assert unified(before, after, "/srv/f") == [
        "--- a/srv/f",
        "+++ b/srv/f",
        "@@ -3,7 +3,8 @@",
        " line 2",
        " line 3",
        " line 4",
        "-line 5",
        "+line five",
        "+and a half",
        " line 6",
        " line 7",
        " line 8",
    ]


def test_a_new_and_a_deleted_file_have_nothing_on_the_other_side():
    assert unified(None, b"a\n", "/f") == ["--- /dev/null", "+++ b/f", "@@ -0,0 +1 @@", "+a"]
    assert unified(b"a\n", None, "/f") == ["--- a/f", "+++ /dev/null", "@@ -1 +0,0 @@", "-a"]


def test_a_missing_newline_at_the_end_is_said():
    assert unified(b"a\nb", b"a\nb\n", "/f") == [
        "--- a/f",
        "+++ b/f",
        "@@ -1,2 +1,2 @@",
        " a",
        "-b\n\\ No newline at end of file",
        "+b",
    ]


@pytest.mark.parametrize("content", [b"\0", b"\xff\xfe", b"text\0text", b"\xc3"])
def test_what_is_no_text_has_no_lines(content: bytes):
    assert unified(content, b"a\n", "/f") is None
    assert unified(b"a\n", content, "/f") is None


def test_equal_versions_differ_in_nothing():
    assert unified(b"a\n", b"a\n", "/f") == []
    assert unified(b"", None, "/f") == []


def test_too_much_is_said_and_not_compared():
    large = b"x" * (TEXT_BYTES_MAX + 1)
    assert unified(large, b"", "/f") == ["(/f: more than 1 MiB of text is not compared)"]
    chance = random.Random(1)
    many = ["".join(f"{chance.random()}\n" for _ in range(LINES_COMPARED_MAX + 2)).encode() for _ in range(2)]
    assert unified(*many, "/f") == [
        f"(/f: more than {LINES_COMPARED_MAX} lines differ; they are not compared)"
    ]


def test_one_line_of_many_is_shown():
    before = "".join(f"{number}\n" for number in range(50_000)).encode()
    shown = unified(before, before.replace(b"\n25000\n", b"\nchanged\n"), "/f")
    assert shown is not None and shown[2] == "@@ -24998,7 +24998,7 @@"


def test_the_worst_texts_that_are_compared_take_a_bounded_time():
    before = b"a\n" * 2400 + b"b\n" * 2400
    after = b"b\n" * 2400 + b"a\n" * 2400
    began = time.monotonic()
    assert unified(before, after, "/f")
    chance = random.Random(2)
    lines = [b"%d\n" % chance.randrange(150) for _ in range(4800)]
    mixed = list(lines)
    chance.shuffle(mixed)
    assert unified(b"".join(lines), b"".join(mixed), "/f")
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("seed", range(30))
def test_the_lines_lead_from_one_version_to_the_other(seed: int):
    chance = random.Random(seed)
    before = [str(chance.randrange(4)) for _ in range(chance.randrange(20))]
    after = [str(chance.randrange(4)) for _ in range(chance.randrange(20))]
    texts = ["".join(f"{line}\n" for line in lines).encode() for lines in (before, after)]
    assert unified(*texts, "/f") == list(difflib.unified_diff(before, after, "a/f", "b/f", lineterm=""))
