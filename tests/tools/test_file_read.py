"""`file_read`: what is text, which part of it is returned, and what is not read at all."""

import base64
import gzip
import hashlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import custody
from custody.files import Reach, load_protected
from custody.tools import file_read
from custody.tools.file_read import read_cached, read_waiting

MEBIBYTE = 1024 * 1024


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The working directory; the temporary folder is beside it, so that what is above both is outside."""
    for name in ("work", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    return tmp_path / "work"


@pytest.fixture
def read(work):
    with custody.open(":memory:", cwd=str(work)) as runtime:

        def call(path, **arguments):
            return runtime.call("file_read", {"path": os.fspath(path), **arguments})

        yield call


def result_of(call):
    assert call.outcome == "succeeded", (call.outcome, call.reason, call.error)
    return call.result


# -- what a result says ---------------------------------------------------------------------------------


def test_a_text_comes_whole_with_all_there_is_to_say_of_it(work, read):
    content = "first\nsecönd\n".encode()
    (work / "note.txt").write_bytes(content)
    assert result_of(read("note.txt")) == {
        "path": str(work / "note.txt"),
        "kind": "text",
        "encoding": "utf-8",
        "content": "first\nsecönd\n",
        "offset_bytes": 0,
        "bytes": 14,
        "total_bytes": 14,
        "truncated": False,
        "first_line": 1,
        "last_line": 2,
        "total_lines": 2,
        "byte_order_mark": False,
        "undecodable": 0,
        "sha256": hashlib.sha256(content).hexdigest(),
        "changed_while_read": False,
    }


def test_what_is_no_text_comes_as_base64(work, read):
    content = bytes(range(256)) * 3
    (work / "data").write_bytes(content)
    result = result_of(read("data"))
    assert (result["kind"], result["encoding"], result["first_line"]) == ("binary", "base64", None)
    assert base64.b64decode(result["content"]) == content
    assert result["sha256"] == hashlib.sha256(content).hexdigest()


def test_json_that_parses_is_called_so_and_its_value_comes_where_it_is_asked_for(work, read):
    (work / "package.json").write_text('{"name": "x", "numbers": [1, 2.5, null]}\n')
    (work / "broken.json").write_text('{"name": ')
    (work / "list.txt").write_text("[1]")
    plain = result_of(read("package.json"))
    assert (plain["kind"], plain["content"]) == ("json", '{"name": "x", "numbers": [1, 2.5, null]}\n')
    assert "value" not in plain
    assert result_of(read("package.json", parse=True)) == {
        **plain,
        "value": {"name": "x", "numbers": [1, 2.5, None]},
    }
    assert result_of(read("package.json", length_bytes=5, parse=True))["kind"] == "text"
    assert result_of(read("broken.json", parse=True))["kind"] == "text"
    assert result_of(read("list.txt", parse=True))["kind"] == "text"


def test_json_nested_beyond_reason_is_a_text(work, read):
    (work / "deep.json").write_text("[" * 100_000 + "]" * 100_000)
    assert result_of(read("deep.json", parse=True))["kind"] == "text"


RANDOM = Random(7)
NO_NUL = bytes(RANDOM.choice(range(1, 256)) for _ in range(2000))


@pytest.mark.parametrize(
    ("content", "kind", "encoding"),
    [
        (b"", "text", "utf-8"),
        (b"plain\n", "text", "utf-8"),
        ("Größe, 大小, 😀\n".encode(), "text", "utf-8"),
        (b"\xef\xbb\xbfmarked\n", "text", "utf-8"),
        ("x\n".encode("utf-16"), "text", "utf-16-le"),
        ("大小\n".encode("utf-16"), "text", "utf-16-le"),
        (b"\xfe\xff" + "大小\n".encode("utf-16-be"), "text", "utf-16-be"),
        ("no mark, mostly Latin: ü\r\n".encode("utf-16-le"), "text", "utf-16-le"),
        ("no mark, mostly Latin: ü\r\n".encode("utf-16-be"), "text", "utf-16-be"),
        (b"\x1b[31mred\x1b[0m \x1b]0;title\x07 50%\r 60%\b\b\n" * 50, "text", "utf-8"),
        (bytes(range(1, 32)) * 20, "text", "utf-8"),
        ("caf\xe9 cr\xe8me\n".encode("latin-1"), "text", "latin-1"),
        (("Größe " * 100).encode() + b"\xff\n", "text", "utf-8"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary", "base64"),
        (gzip.compress(b"text", mtime=1), "binary", "base64"),
        (b"\x7fELF\x02\x01\x01" + bytes(9), "binary", "base64"),
        (NO_NUL, "binary", "base64"),
        (b"\x01\x00\x02\x00\x03\x00" * 100, "binary", "base64"),
        (b"text and then\0a NUL", "binary", "base64"),
        ("x\n".encode("utf-32"), "binary", "base64"),
    ],
)
def test_what_is_text_and_in_which_encoding(work, read, content, kind, encoding):
    (work / "file").write_bytes(content)
    result = result_of(read("file"))
    assert (result["kind"], result["encoding"]) == (kind, encoding)


def test_a_character_cut_by_the_end_of_what_is_judged_makes_no_binary(work, read):
    (work / "file").write_text("x" * 8191 + "ü" * 10)
    assert result_of(read("file"))["encoding"] == "utf-8"


def test_a_byte_order_mark_is_no_part_of_the_text(work, read):
    (work / "file").write_bytes(b"\xef\xbb\xbfmarked")
    result = result_of(read("file"))
    assert (result["content"], result["byte_order_mark"], result["bytes"]) == ("marked", True, 9)
    assert result_of(read("file", offset_bytes=3))["content"] == "marked"
    assert result_of(read("file", offset_bytes=1))["content"] == "marked"


def test_bytes_that_are_no_characters_are_replaced_and_counted(work, read):
    (work / "log").write_bytes("größer\n".encode() * 20 + b"bad \xff\xfe byte, meant \xef\xbf\xbd\n")
    result = result_of(read("log"))
    assert result["content"].endswith("bad \ufffd\ufffd byte, meant \ufffd\n")
    assert result["undecodable"] == 2


def test_latin_1_gives_back_every_byte(work, read):
    content = b"caf\xe9\n" * 3
    (work / "file").write_bytes(content)
    assert result_of(read("file"))["content"].encode("latin-1") == content


@pytest.mark.parametrize(
    ("encoding", "content", "text"),
    [
        ("utf-8", b"a\0b", "a\0b"),
        ("latin-1", "ü".encode(), "Ã¼"),
        ("utf-16", b"\xfe\xff\x00a", "a"),
        ("utf-16", b"a\x00b\x00", "ab"),
        ("utf-16-be", b"\x00a\x00b", "ab"),
        ("base64", b"text", base64.b64encode(b"text").decode()),
    ],
)
def test_an_encoding_that_is_asked_for_is_used(work, read, encoding, content, text):
    (work / "file").write_bytes(content)
    assert result_of(read("file", encoding=encoding))["content"] == text


# -- a part of it ---------------------------------------------------------------------------------------


def test_a_file_of_exactly_the_bound_is_not_truncated_and_one_byte_more_is(work, read):
    (work / "exact").write_text("x" * 1000)
    (work / "more").write_text("x" * 1001)
    assert result_of(read("exact", bytes_max=1000))["truncated"] is False
    more = result_of(read("more", bytes_max=1000))
    assert (more["truncated"], more["bytes"], more["total_bytes"]) == (True, 1000, 1001)
    assert (more["sha256"], more["total_lines"]) == (None, None)


def test_the_bound_is_a_mebibyte_unless_another_is_asked_for(work, read):
    (work / "large").write_bytes((b"x" * 63 + b"\n") * (MEBIBYTE // 64) + b"x")
    assert result_of(read("large"))["bytes"] == MEBIBYTE
    assert result_of(read("large", bytes_max=16 * MEBIBYTE))["truncated"] is False
    assert read("large", bytes_max=16 * MEBIBYTE + 1).outcome == "rejected"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_of_a_part_the_record_has_no_half_of_a_word_and_the_caller_has_all(tmp_path, encoding):
    """Whoever reads a file by bytes may cut a token in two."""
    token, words = "ghp_" + "0123456789abcdefghijklmnopqrstuvwxyz", "other words of it\n"
    text = f"{words * 20}{token} {words * 20}"
    data = text.encode(encoding)
    (tmp_path / "tokens").write_bytes(data)
    width = len(data) // len(text)
    place = data.index(token.encode("utf-16-le" if encoding == "utf-16" else "utf-8"))
    with custody.open(":memory:", cwd=str(tmp_path)) as runtime:
        for inside in range(1, len(token), 3):
            cut = place + inside * width
            for asked in ({"length_bytes": cut}, {"offset_bytes": cut}):
                call = runtime.call("file_read", {"path": "tokens", **asked})
                recorded = runtime.index.call(call.id).result
                assert call.result["content"] in text
                assert not [at for at in range(len(token) - 5) if token[at : at + 6] in recorded["content"]]
                lost = len(call.result["content"]) - len(recorded["content"])
                assert recorded["not_recorded_characters"] == lost <= len(token) + 1
        whole = runtime.call("file_read", {"path": "tokens", "offset_bytes": 0 if encoding == "utf-8" else 2})
        assert "not_recorded_characters" not in runtime.index.call(whole.id).result


def test_where_a_text_is_truncated_a_line_ends_and_the_next_part_goes_on_there(work, read):
    """So that no half of a secret is in either; and nothing is lost between the two."""
    lines = "".join(f"{number} token=ghp_{'a' * (number % 40)}\n" for number in range(200))
    (work / "lines").write_text(lines)
    parts, offset = [], 0
    while offset < len(lines):
        part = result_of(read("lines", offset_bytes=offset, bytes_max=500))
        parts.append(part["content"])
        offset = part["offset_bytes"] + part["bytes"]
    assert "".join(parts) == lines
    assert all(part.endswith("\n") for part in parts)


@pytest.mark.parametrize(
    ("asked", "content", "first", "last"),
    [
        ({"start_line": 2, "end_line": 3}, "two\r\nthree\n", 2, 3),
        ({"start_line": 4}, "four", 4, 4),
        ({"end_line": 1}, "one\n", 1, 1),
        ({"start_line": 3, "end_line": 99}, "three\nfour", 3, 4),
    ],
)
def test_lines_are_returned_as_they_are_with_their_numbers(work, read, asked, content, first, last):
    (work / "lines").write_bytes(b"one\ntwo\r\nthree\nfour")
    result = result_of(read("lines", **asked))
    assert (result["content"], result["first_line"], result["last_line"]) == (content, first, last)
    assert (result["truncated"], result["total_lines"], result["sha256"]) == (False, 4, None)


def test_all_lines_are_the_whole_file(work, read):
    (work / "lines").write_text("one\ntwo\n")
    assert result_of(read("lines", start_line=1)) == result_of(read("lines"))
    (work / "empty").write_text("")
    assert result_of(read("empty", start_line=1)) == result_of(read("empty"))
    assert result_of(read("empty"))["total_lines"] == 0


def test_a_range_of_lines_that_is_too_long_is_truncated_where_a_character_ends(work, read):
    (work / "lines").write_text("one\n" + "ü" * 100 + "\nthree\n")
    result = result_of(read("lines", start_line=2, end_line=3, bytes_max=11))
    assert (result["content"], result["truncated"], result["last_line"]) == ("ü" * 5, True, 2)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
def test_lines_far_into_a_large_file_are_found(work, read, encoding):
    lines = [f"line {number} Ċ ਊ\n" for number in range(1, 120_001)]
    content = "".join(lines).encode(encoding)
    (work / "large").write_bytes(content)
    result = result_of(read("large", start_line=100_001, end_line=100_003, encoding=encoding))
    assert result["content"] == "".join(lines[100_000:100_003])
    assert result["content"].encode(encoding) == content[result["offset_bytes"] :][: result["bytes"]]
    assert (result["truncated"], result["total_bytes"]) == (False, len(content))
    rest = result_of(read("large", start_line=119_999, encoding=encoding))
    assert (rest["content"], rest["total_lines"]) == ("".join(lines[119_998:]), 120_000)


def test_what_lies_behind_the_end_is_said(work, read):
    (work / "short").write_text("one\ntwo\n")
    assert "has 2 lines; start_line 3" in read("short", start_line=3).error["message"]
    assert "has 8 bytes; offset_bytes 9" in read("short", offset_bytes=9).error["message"]
    assert result_of(read("short", offset_bytes=8))["content"] == ""


def test_lines_of_what_is_no_text_are_refused_in_words(work, read):
    (work / "data").write_bytes(b"\0\1\2")
    assert "no text, so it has no lines; ask for bytes" in read("data", start_line=1).error["message"]


def test_ranges_that_contradict_each_other_are_refused(work, read):
    (work / "file").write_text("x")
    both = read("file", start_line=1, offset_bytes=0)
    assert (both.outcome, both.decision.by) == ("rejected", "schema")
    assert "not for both" in both.reason
    assert "end_line lies before" in read("file", start_line=3, end_line=2).reason


TEXTS = st.text(st.sampled_from("aü大😀\n\r\ufeff\x1b") | st.characters(codec="utf-8"), max_size=40)


@given(text=TEXTS, encoding=st.sampled_from(["utf-8", "utf-16-le", "utf-16-be"]), step=st.integers(4, 9))
def test_reading_on_where_a_result_ends_gives_the_whole_text(tmp_path_factory, text, encoding, step):
    file = tmp_path_factory.mktemp("read") / "file"
    file.write_bytes(text.encode(encoding))
    reach = Reach(str(file.parent), (str(file.parent),), load_protected([]))
    found, place, rounds = "", 0, 0
    while True:
        asked = file_read.Asked(path="file", offset_bytes=place, bytes_max=step, encoding=encoding)
        result = read_waiting(asked, reach, lambda: False).result
        assert result["undecodable"] == 0
        found += result["content"]
        place = result["offset_bytes"] + result["bytes"]
        rounds += 1
        if not result["truncated"]:
            break
        assert rounds <= len(text) + 1
    mark = text.startswith("\ufeff")
    assert (found, place) == (text[mark:], len(text.encode(encoding)))


@given(text=TEXTS, begin=st.integers(0, 30), length=st.integers(1, 30))
def test_a_range_of_bytes_holds_the_characters_that_are_wholly_in_it(tmp_path_factory, text, begin, length):
    file = tmp_path_factory.mktemp("read") / "file"
    content = f"x{text}".encode()
    file.write_bytes(content)
    begin = min(begin, len(content))
    reach = Reach(str(file.parent), (str(file.parent),), load_protected([]))
    asked = file_read.Asked(path="file", offset_bytes=begin, length_bytes=length, encoding="utf-8")
    result = read_waiting(asked, reach, lambda: False).result
    ends = [len(f"x{text}"[:count].encode()) for count in range(len(text) + 2)]
    inside = [end for end in ends if begin <= end <= begin + length]
    expected = content[inside[0] : inside[-1]].decode() if inside else ""
    assert result["content"] == expected
    assert result["truncated"] == (
        result["offset_bytes"] + result["bytes"] < min(begin + length, len(content))
    )


# -- on the loop and in a thread ------------------------------------------------------------------------


def both_ways(work: Path, **arguments):
    """What each gives, or says why not."""
    reach = Reach(str(work), (str(work),), load_protected([]))
    asked = file_read.Asked(**arguments)
    given = []
    for way in (lambda: read_waiting(asked, reach, lambda: False), lambda: read_cached(asked, reach)):
        try:
            given.append(way())
        except custody.CustodyError as error:
            given.append(str(error))
        except BlockingIOError as error:
            pytest.skip(f"this file system cannot tell what is in the page cache ({error.__cause__})")
    return given


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"start_line": 2, "end_line": 300},
        {"start_line": 300},
        {"offset_bytes": 5, "length_bytes": 1001},
        {"offset_bytes": 5, "bytes_max": 4},
        {"encoding": "base64"},
        {"encoding": "latin-1", "end_line": 3},
        {"encoding": "utf-16"},
    ],
    ids=str,
)
@pytest.mark.parametrize("content", [b"", "zwölf\n".encode() * 2000, bytes(range(256)) * 1024])
def test_what_is_read_on_the_loop_is_what_a_thread_would_read(work, content, arguments):
    (work / "file.json").write_bytes(content)
    waiting, cached = both_ways(work, path="file.json", **arguments)
    assert cached == waiting


@pytest.mark.parametrize("kept_bytes", [0, 64 * 1024])
def test_a_file_that_is_not_all_in_the_page_cache_is_left_to_a_thread(work, read, kept_bytes):
    file = work / "cold"
    file.write_bytes(b"x" * 200_000)
    both_ways(work, path="cold")
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), kept_bytes, 0, os.POSIX_FADV_DONTNEED)
    reach = Reach(str(work), (str(work),), load_protected([]))
    assert result_of(read("cold"))["content"] == "x" * 200_000
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), kept_bytes, 0, os.POSIX_FADV_DONTNEED)
    try:
        assert read_cached(file_read.Asked(path="cold"), reach).result["content"] == "x" * 200_000
    except BlockingIOError:
        return
    pytest.skip("this file system keeps its files in the page cache")


def test_a_large_file_is_left_to_a_thread(work):
    (work / "large").write_bytes(b"x" * (file_read.INLINE_BYTES_MAX + 1))
    reach = Reach(str(work), (str(work),), load_protected([]))
    with pytest.raises(BlockingIOError):
        read_cached(file_read.Asked(path="large"), reach)


# -- files that do not hold still, or do not tell -------------------------------------------------------


def test_a_file_that_grows_while_it_is_read_is_bounded_and_says_so(work, read):
    file = work / "log"
    file.write_bytes(b"0123456789" * 60_000)
    stop = threading.Event()

    def grow():
        with file.open("ab", buffering=0) as log:
            while not stop.is_set() and log.tell() < 200_000_000:
                log.write(b"0123456789")

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        seen_changed, until = False, time.monotonic() + 60
        while time.monotonic() < until:
            result = result_of(read("log", bytes_max=700_000))
            content = result["content"]
            assert len(content) == result["bytes"] <= 700_000
            assert content == ("0123456789" * 70_000)[: len(content)]
            assert result["truncated"] == (result["bytes"] < result["total_bytes"])
            if result["changed_while_read"]:
                seen_changed = True
                assert result["sha256"] is None
                break
    finally:
        stop.set()
        writer.join()
    assert seen_changed


def test_a_huge_file_is_read_where_it_is_asked_for(work, read):
    with (work / "sparse").open("wb") as file:
        file.truncate(1 << 40)
        file.seek((1 << 40) - 5)
        file.write(b"there")
    result = result_of(read("sparse", offset_bytes=(1 << 40) - 5, encoding="utf-8"))
    assert (result["content"], result["total_bytes"], result["truncated"]) == ("there", 1 << 40, False)


def test_a_file_that_does_not_tell_its_size_is_read_to_its_end(work):
    with custody.open(":memory:", cwd=str(work), roots=["/proc/sys/kernel"]) as runtime:
        result = result_of(runtime.call("file_read", {"path": "/proc/sys/kernel/ostype"}))
    assert (result["content"], result["truncated"], result["total_bytes"]) == ("Linux\n", False, 6)


# -- what is not read -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["", "a\0b", "a\nb", "\x7f", "x" * 256, "/".join(["x" * 100] * 41), "\ud800"], ids=ascii
)
def test_what_is_no_path_is_refused_by_the_schema(read, path):
    call = read(path)
    assert (call.outcome, call.decision.by) == ("rejected", "schema")


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../outside", "a/../../outside", "link", "folder/x", "~root/x"]
)
def test_what_lies_outside_the_roots_is_refused_by_path(work, read, path):
    (work.parent / "outside").write_text("not for agents")
    (work / "a").mkdir()
    (work / "link").symlink_to("/etc/passwd")
    (work / "folder").symlink_to(work.parent)
    call = read(path)
    if path.startswith("~"):  # no more than a name: nothing expands it
        assert call.error["type"] == "FileNotFoundError"
    else:
        assert (call.outcome, call.decision.by) == ("rejected", "path")
        assert str(work) in call.reason and "--root" in call.reason


def test_links_within_the_roots_are_followed_to_the_real_path(work, read):
    (work / "real.txt").write_text("here")
    (work / "link").symlink_to("real.txt")
    (work / "folder").symlink_to(".")
    assert result_of(read("folder/link"))["path"] == str(work / "real.txt")


def test_a_loop_of_links_is_refused(work, read):
    (work / "a").symlink_to("b")
    (work / "b").symlink_to("a")
    assert read("a").outcome == "rejected"


def test_secrets_are_not_read_whatever_name_leads_to_them(work, read):
    (work / ".ssh").mkdir()
    (work / ".ssh" / "id_ed25519").write_text("SENTINEL")
    (work / "alias").symlink_to(".ssh/id_ed25519")
    os.link(work / ".ssh" / "id_ed25519", work / "innocent.txt")
    for path in (".ssh/id_ed25519", "alias", "innocent.txt", ".SSH/../.ssh/id_ed25519"):
        call = read(path)
        assert call.outcome in ("rejected", "failed"), path
        assert "SENTINEL" not in json.dumps(call.result)


def test_dots_in_names_and_decomposed_letters_are_fine(work, read):
    for name in ("report..final.txt", "...", "e\u0301.txt"):
        (work / name).write_text("fine")
        assert result_of(read(name))["content"] == "fine"


def test_a_name_that_is_no_utf_8_is_read_and_recorded(work, read):
    name = os.fsdecode(b"caf\xe9.txt")
    (work / name).write_text("fine")
    assert result_of(read(name))["path"] == str(work / name)


def test_what_is_no_file_is_not_opened_and_said_in_words(work, read):
    os.mkfifo(work / "pipe")
    (work / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(work / "socket"))
        for path, words in (
            ("pipe", "named pipe"),
            ("socket", "socket"),
            ("folder", "is a folder; file_list"),
            ("folder/", "is a folder; file_list"),
            ("missing", "does not exist; file_list"),
        ):
            call = read(path)
            assert call.outcome == "failed" and words in call.error["message"], path
    (work / "file").write_text("x")
    for path in ("file/", "file/below"):
        assert read(path).error["type"] in ("NotADirectoryError", "FileNotFoundError"), path


def test_a_device_is_not_opened(work):
    with custody.open(":memory:", cwd=str(work), roots=["/dev"]) as runtime:
        call = runtime.call("file_read", {"path": "/dev/zero"})
    assert call.outcome == "failed" and "device" in call.error["message"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_said_in_words(work, read):
    (work / "closed").write_text("x")
    (work / "closed").chmod(0)
    assert "may not be read by the user" in read("closed").error["message"]


def test_no_descriptor_is_left_open(work, read):
    (work / "file").write_text("x")
    os.mkfifo(work / "pipe")

    def open_ones() -> list[str]:
        found = []
        for name in os.listdir("/proc/self/fd"):
            try:
                found.append(os.readlink(f"/proc/self/fd/{name}"))
            except FileNotFoundError:  # the one that listed them
                continue
        return [path for path in found if path.startswith(str(work))]

    for path in ("file", "pipe", "missing", "file/x"):
        read(path)
        read(path, encoding="base64", start_line=1)
    assert open_ones() == []
