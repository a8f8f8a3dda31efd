"""`file_search`: which lines match, with ripgrep and without, and what is not searched."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import custody
from custody.tools import file_search
from custody.tools.search import ripgrep
from custody.tools.search.matching import as_text, matching_lines, occurs, pattern_of

RG = shutil.which("rg")
needs_ripgrep = pytest.mark.skipif(RG is None, reason="ripgrep (rg) is not installed")

MANY = file_search.RIPGREP_FILES_MIN + 20


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The working directory; the temporary folder is beside it, so that what is above both is outside."""
    for name in ("work", "temporary", "programs"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    return tmp_path / "work"


@pytest.fixture
def search(work):
    with custody.open(":memory:", cwd=str(work)) as runtime:
        yield lambda pattern, **arguments: runtime.call("file_search", {"pattern": pattern, **arguments})


def result_of(call):
    assert call.outcome == "succeeded", (call.outcome, call.reason, call.error)
    return call.result


def found(result) -> list[tuple[str, int]]:
    """Path from the folder that was searched, and line, of each match."""
    return [(os.path.relpath(match["path"], result["path"]), match["line"]) for match in result["matches"]]


def make(folder: Path, **contents: bytes) -> None:
    for name, content in contents.items():
        (folder / name).write_bytes(content)


NOTHING_LEFT_OUT = dict.fromkeys(("hidden", "ignored", "protected", "unreadable", "too_large", "binary"), 0)


# -- what a result says ---------------------------------------------------------------------------------


def test_matching_lines_come_with_place_and_context(work, search):
    (work / "a.txt").write_text("one\ntwo größe\nthree\nfour größe größe")
    (work / "sub").mkdir()
    (work / "sub" / "b.txt").write_text("nothing\n")
    assert result_of(search("gr.ße", context_lines=1)) == {
        "path": str(work),
        "engine": "custody",
        "matches": [
            {
                "path": str(work / "a.txt"),
                "line": 2,
                "column": 5,
                "text": "two größe",
                "before": ["one"],
                "after": ["three"],
            },
            {
                "path": str(work / "a.txt"),
                "line": 4,
                "column": 6,
                "text": "four größe größe",
                "before": ["three"],
                "after": [],
            },
        ],
        "truncated": False,
        "files_matched": 1,
        "files": 2,
        "searched_all": True,
        "left_out": NOTHING_LEFT_OUT,
    }


def test_one_file_can_be_searched(work, search):
    make(work, a=b"x\ny\n", b=b"x\n")
    result = result_of(search("x", path="a"))
    assert (result["path"], len(result["matches"]), result["left_out"]) == (
        str(work / "a"),
        1,
        NOTHING_LEFT_OUT,
    )


@pytest.mark.parametrize(
    ("pattern", "arguments", "lines"),
    [
        ("a.c", {}, [1, 2]),
        ("a.c", {"literal": True}, [2]),
        ("ABC", {}, []),
        ("ABC", {"case_sensitive": False}, [1]),
        ("A.C", {"case_sensitive": False, "literal": True}, [2]),
        ("^a", {}, [1, 2]),
        ("c$", {}, [1, 2, 4]),
        (r"\bword\b", {}, [3]),
        ("x*", {}, [1, 2, 3, 4]),
        ("[^a]b", {}, []),
        (r"\s", {}, [4]),
        (r"\x41|(?i)WORD", {}, [3]),
    ],
)
def test_patterns_are_those_of_re2_over_single_lines(work, search, pattern, arguments, lines):
    (work / "file").write_text("abc\na.c\nword\n c\n")
    assert [line for _, line in found(result_of(search(pattern, **arguments)))] == lines


@pytest.mark.parametrize(
    ("pattern", "arguments", "words"),
    [
        ("a(b", {}, "missing )"),
        (r"(a)\1", {}, "no back-references"),
        ("a)(b", {}, "RE2"),
        ("a\nb", {}, "line by line"),
        (r"a\nb", {}, "line by line"),
        ("a\nb", {"literal": True}, "line by line"),
        ("\udcff", {}, "UTF-8"),
        ("", {}, "pattern"),
        ("x{1000}{1000}", {}, "RE2"),
        ("x", {"glob": "[a"}, "glob"),
    ],
)
def test_a_pattern_that_is_none_is_refused_in_words(search, pattern, arguments, words):
    call = search(pattern, **arguments)
    assert (call.outcome, call.decision.by) == ("rejected", "schema")
    assert words in call.reason


def test_an_escaped_backslash_before_an_n_is_no_line_break(work, search):
    (work / "file").write_text("C:\\new\n")
    assert len(result_of(search(r"C:\\new"))["matches"]) == 1


def test_a_pattern_made_to_take_for_ever_takes_no_time(work, search):
    (work / "file").write_text("a" * 200_000 + "\n")
    began = time.process_time()
    assert result_of(search(r"(a*)*(a|a)*(.*a){20}b"))["matches"] == []
    assert time.process_time() - began < 10


def test_more_matches_than_the_bound_are_said_to_be_there_and_as_many_are_not(work, search):
    make(work, a=b"x\n" * 10, b=b"y\n")
    exact = result_of(search("x", matches_max=10))
    assert (len(exact["matches"]), exact["truncated"], exact["searched_all"]) == (10, False, True)
    cut = result_of(search("x", matches_max=9))
    assert (len(cut["matches"]), cut["truncated"], cut["searched_all"]) == (9, True, False)


def test_a_line_that_is_cut_holds_no_half_of_a_token(work, search):
    """Wherever one stands around either end of what is shown, in prose and in what programs write."""
    token = "ghp_" + "0123456789abcdefghijklmnopqrstuvwxyz"
    halves = [token[at : at + 6] for at in range(len(token) - 5)]
    for filler, glue in (("lorem ipsum dolor ", " "), ('"a":1,', '"')):
        for inside in range(-2, len(token) + 3):
            before = (filler * 100)[: 1_800 - inside] + glue + token + glue + (filler * 40)[:198]
            after = (filler * 100)[: 795 - inside] + glue + token + glue + filler * 100
            (work / "long").write_text(f"{before}needle{glue}{after}\n{after}\n")
            (match,) = result_of(search("needle", context_lines=1))["matches"]
            assert "needle" in match["text"]
            for kept in (match["text"], *match["after"]):
                assert not [half for half in halves if half in kept.replace(token, "")], (inside, kept)
            assert match["cut_characters"] == len(f"{before}needle{glue}{after}") - len(match["text"])


def test_a_line_longer_than_anyone_reads_is_cut_around_its_match(work, search):
    (work / "minified.js").write_text("ü" * 5000 + "needle" + "y" * 5000 + "\nnext" + "z" * 5000)
    (match,) = result_of(search("needle", context_lines=1))["matches"]
    assert (match["column"], len(match["text"]), match["cut_characters"]) == (5001, 1000, 9006)
    assert "needle" in match["text"]
    assert match["after"] == [("next" + "z" * 5000)[:1000]]


def test_a_tree_of_more_files_than_the_bound_says_that_not_all_were_searched(work, search, monkeypatch):
    make(work, a=b"x", b=b"x", c=b"x")
    monkeypatch.setattr(file_search, "FILES_MAX", 2)
    result = result_of(search("x"))
    assert (found(result), result["truncated"], result["searched_all"]) == (
        [("a", 1), ("b", 1)],
        False,
        False,
    )


def test_long_lines_do_not_make_a_result_without_bound(work, search):
    (work / "file").write_text(("x" * 900 + "\n") * 4000)
    result = result_of(search("x", matches_max=5000))
    assert result["truncated"] and len(json.dumps(result)) < 2 * file_search.CHARACTERS_MAX


# -- what is in the files -------------------------------------------------------------------------------


def test_texts_are_searched_in_their_encoding_and_binary_files_counted(work, search):
    make(
        work,
        crlf=b"first\r\nneedle\r\n",
        latin=b"caf\xe9 needle\n",
        marked=b"\xef\xbb\xbfneedle\n",
        utf16="ü needle\r\n".encode("utf-16"),
        binary=b"\0\1needle\n",
        other_binary=b"\0\1\2",
    )
    result = result_of(search("needle$"))
    assert found(result) == [("crlf", 2), ("latin", 1), ("marked", 1), ("utf16", 1)]
    assert [match["text"] for match in result["matches"]] == ["needle", "café needle", "needle", "ü needle"]
    assert (result["left_out"]["binary"], result["files"]) == (1, 6)
    assert found(result_of(search("^needle"))) == [("crlf", 2), ("marked", 1)]


def test_a_file_too_large_to_search_is_counted_and_refused_by_itself(work, search):
    with (work / "large").open("wb") as file:
        file.truncate(file_search.FILE_BYTES_MAX + 1)
    (work / "small").write_text("x")
    result = result_of(search("x"))
    assert (found(result), result["left_out"]["too_large"]) == ([("small", 1)], 1)
    assert "file_read reads it in parts" in search("x", path="large").error["message"]


# -- what is not searched -------------------------------------------------------------------------------


def test_secrets_links_and_what_is_ignored_are_not_searched(work, search):
    outside = work.parent / "outside"
    outside.mkdir()
    make(outside, secret=b"needle OUTSIDE\n")
    (work / ".ssh").mkdir()
    make(work / ".ssh", id_rsa=b"needle KEY\n", config=b"needle\n")
    make(
        work, **{".env": b"needle ENV\n", "seen": b"needle\n", "a.log": b"needle\n", ".gitignore": b"*.log\n"}
    )
    os.link(work / ".env", work / "innocent")
    (work / "link").symlink_to(outside / "secret")
    (work / "folder").symlink_to(outside)
    os.mkfifo(work / "pipe")
    call = search("needle|OUTSIDE|KEY|ENV")
    result = result_of(call)
    assert found(result) == [("seen", 1)]
    assert result["left_out"] == {**NOTHING_LEFT_OUT, "protected": 3, "ignored": 1}
    assert found(result_of(search("needle", ignored=True))) == [("a.log", 1), ("seen", 1)]


def test_hidden_files_and_a_glob(work, search):
    make(work, **{"a.py": b"x", "b.txt": b"x", ".c.py": b"x"})
    assert found(result_of(search("x", glob="*.py"))) == [(".c.py", 1), ("a.py", 1)]
    hidden = result_of(search("x", hidden=False))
    assert (found(hidden), hidden["left_out"]["hidden"]) == ([("a.py", 1), ("b.txt", 1)], 1)


@pytest.mark.parametrize("path", ["/etc", "..", "link", ".ssh"])
def test_what_may_not_be_read_is_refused(work, search, path):
    (work / "link").symlink_to("/etc/passwd")
    (work / ".ssh").mkdir()
    assert search("x", path=path).outcome == "rejected"


def test_what_is_neither_file_nor_folder_is_said_in_words(work, search):
    os.mkfifo(work / "pipe")
    assert "named pipe" in search("x", path="pipe").error["message"]
    assert "does not exist" in search("x", path="missing").error["message"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read_are_counted(work, search):
    make(work, closed=b"x", open=b"x")
    (work / "closed").chmod(0)
    result = result_of(search("x"))
    assert (found(result), result["left_out"]["unreadable"]) == ([("open", 1)], 1)


def test_names_that_are_no_utf_8_are_searched(work, search):
    (work / os.fsdecode(b"caf\xe9")).write_text("x\n")
    assert [match["path"] for match in result_of(search("x"))["matches"]] == [
        str(work / os.fsdecode(b"caf\xe9"))
    ]


# -- with ripgrep ---------------------------------------------------------------------------------------


@pytest.fixture
def many(work):
    return filled(work)


@pytest.fixture(scope="module")
def many_unchanged(tmp_path_factory):
    """The same once, for tests that change nothing in it."""
    folder = tmp_path_factory.mktemp("many") / "work"
    folder.mkdir()
    return filled(folder)


def filled(work: Path) -> Path:
    """As many files as make it worth while to ask ripgrep, some of them odd."""
    git = ["git", "-c", "init.defaultBranch=main", "-C", str(work), "init", "-q"]
    subprocess.run(git, check=True, env={"PATH": os.environ["PATH"], "HOME": str(work.parent)})
    (work / "deep" / "er").mkdir(parents=True)
    for number in range(MANY):
        folder = work / ("", "deep", "deep/er")[number % 3]
        (folder / f"{number:03d}.txt").write_text(
            f"line {number}\nfoo_bar {number % 7}\nGröße\n\ttab x{number}\n"
        )
    make(
        work,
        **{
            "crlf.txt": b"foo\r\nfoo_bar 3\r\n",
            "latin.txt": b"Gr\xf6\xdfe foo\n",
            "marked.txt": b"\xef\xbb\xbffoo first\n",
            "utf16.txt": "foo Größe\r\n".encode("utf-16"),
            "bare16.txt": "foo Größe\r\n".encode("utf-16-le"),
            "binary.dat": b"\0\1\2 foo 3\n\xff\xfe",
            "split.dat": b"left\0right\n",
            "broken.txt": ("Größe" * 50).encode() + b" \xff foo\n",
            "-dash.txt": b"foo\n",
            "odd name\n.txt": b"foo\n",
            "a.log": b"foo\n",
            ".gitignore": b"*.log\n",
            ".env": b"foo\n",
        },
    )
    (work / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"foo\n")
    (work / "link.txt").symlink_to("crlf.txt")
    return work


def found_with(work: Path, search_path: str, monkeypatch: pytest.MonkeyPatch, pattern: str, **arguments):
    """The result of a search where PATH is this."""
    monkeypatch.setenv("PATH", search_path)
    monkeypatch.setenv("TMPDIR", str(work))  # so that ripgrep may lie in the system's temporary folder
    with custody.open(":memory:", cwd=str(work)) as runtime:
        return result_of(runtime.call("file_search", {"pattern": pattern, **arguments}))


def without_engine(result):
    return {name: value for name, value in result.items() if name != "engine"}


PATTERNS = [
    ("foo", {}),
    ("foo_bar [36]$", {}),
    ("^foo$", {}),
    ("^foo", {"context_lines": 1}),
    (r"\bx\d{2}\b", {}),
    (r"\W\d+$", {"matches_max": 5000}),
    (r"[^\W_]+_bar", {}),
    (r"[\w.]+ [0-4]", {"matches_max": 5000}),
    ("größe", {"case_sensitive": False}),
    ("GRÖSSE|FOO", {"case_sensitive": False}),
    ("foo_bar 3", {"literal": True}),
    ("x1.", {"literal": True}),
    (r"\tTAB", {"case_sensitive": False}),
    ("(?:line|foo) (1|2)[0-9]?$", {}),
    ("x{2", {}),
    ("-dash", {}),
    ("--files", {"literal": True}),
    ("foo", {"glob": "*r*.txt"}),
    ("left.right", {}),
    ("nothing at all", {}),
]


@needs_ripgrep
@pytest.mark.parametrize(("pattern", "arguments"), PATTERNS, ids=str)
def test_ripgrep_makes_no_difference_to_what_is_found(many_unchanged, monkeypatch, pattern, arguments):
    assert RG is not None
    result = found_with(many_unchanged, os.path.dirname(RG), monkeypatch, pattern, **arguments)
    known = ripgrep.expression_for(
        pattern, literal=arguments.get("literal", False), case_sensitive=arguments.get("case_sensitive", True)
    )
    enough = result["files"] >= file_search.RIPGREP_FILES_MIN
    assert result["engine"] == ("ripgrep" if known is not None and enough else "custody")
    alone = found_with(many_unchanged, "/nowhere", monkeypatch, pattern, **arguments)
    assert alone["engine"] == "custody"
    assert without_engine(alone) == without_engine(result)


def run_ripgrep(work: Path, expression: str, *, case_sensitive: bool, environment: dict[str, str]):
    """What it says of the file called `file`."""
    assert RG is not None
    ((command, _),) = ripgrep.commands(
        RG,
        str(work),
        ["file"],
        expression,
        literal=False,
        case_sensitive=case_sensitive,
        environment=environment,
        deadline_seconds=None,
    )
    return subprocess.run(command.argv, cwd=work, env=command.environment, capture_output=True)


PARTS = st.sampled_from(
    [
        *r"a b _ ö . * + ? *? | ( (?: ) [ab] [^a] [a-c] [\d_] [\w-] [-b] ^ $ \b \B \d \w \s \W \S".split(),
        *r"\. \- \x61 {2} {2,} { } ] (?i) \pL \/ \_ & # ~".split(),
        " ",
    ]
)
TEXT_LINES = st.lists(st.text(st.sampled_from("abc_ö .-{1\t/&#~]}é"), max_size=8), max_size=4)


@needs_ripgrep
@settings(
    max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]
)
@given(
    parts=st.lists(PARTS, min_size=1, max_size=5),
    lines=TEXT_LINES,
    end=st.sampled_from(["\n", "\r\n"]),
    case_sensitive=st.booleans(),
)
def test_ripgrep_names_every_file_that_re2_finds_something_in(work, parts, lines, end, case_sensitive):
    pattern = "".join(parts)
    try:
        compiled = pattern_of(pattern, literal=False, case_sensitive=case_sensitive)
    except ValueError:
        assume(False)
    expression = ripgrep.expression_for(pattern, literal=False, case_sensitive=case_sensitive)
    assume(expression is not None)
    assert expression is not None
    content = end.join([*lines, ""]).encode()
    (work / "file").write_bytes(content)
    done = run_ripgrep(work, expression, case_sensitive=case_sensitive, environment={})
    if done.returncode == 2:  # an expression it cannot read: Custody searches alone
        return
    text, _ = as_text(content)
    assert not occurs(text, compiled) or done.stdout == b"./file\0", (pattern, expression, content)


def program(folder: Path, *lines: str) -> None:
    """A program called `rg`."""
    (folder / "rg").write_text("\n".join(["#!/bin/sh", *lines, ""]))
    (folder / "rg").chmod(0o755)


def programs(work: Path) -> str:
    """A PATH with the program of this test before those of the system."""
    return f"{work.parent / 'programs'}:/usr/bin:/bin"


def test_a_program_that_lies_where_agents_write_is_not_run(many, monkeypatch):
    program(many, f"touch {many.parent}/ran", "exit 1")
    (many.parent / "programs" / "rg").symlink_to(many / "rg")
    for folder in (many, many.parent / "programs"):
        assert found_with(many, str(folder), monkeypatch, "foo_bar 3")["engine"] == "custody"
    assert not (many.parent / "ran").exists()


def test_what_ripgrep_says_is_looked_at_and_never_shown(many, monkeypatch):
    (many.parent / "outside").write_text("foo OUTSIDE\n")
    program(
        many.parent / "programs",
        "printf './000.txt\\0./../outside\\0/etc/passwd\\0./.env\\0./deep/001.txt\\0./nothing.txt\\0OUTSIDE'",
    )
    result = found_with(many, programs(many), monkeypatch, "foo")
    assert result["engine"] == "ripgrep"
    assert found(result) == [("000.txt", 2), ("deep/001.txt", 2)]


def test_a_file_that_is_swapped_for_a_link_while_ripgrep_looks_is_not_shown(many, monkeypatch):
    (many.parent / "outside").write_text("foo OUTSIDE\n")
    (many.parent / "folder").mkdir()
    (many.parent / "folder" / "001.txt").write_text("foo OUTSIDE\n")
    program(
        many.parent / "programs",
        "ln -sf ../outside 000.txt",
        "mv deep gone && ln -s ../folder deep",
        "rm 003.txt && mkfifo 003.txt",
        "ln -sf .env 006.txt && ln -f .env 009.txt && ln -sf crlf.txt 012.txt",
        "printf './000.txt\\0./deep/001.txt\\0./003.txt\\0./006.txt\\0./009.txt\\0./012.txt\\0./crlf.txt\\0'",
    )
    result = found_with(many, programs(many), monkeypatch, "foo|OUTSIDE")
    assert "OUTSIDE" not in json.dumps(result["matches"])
    assert found(result) == [("crlf.txt", 1), ("crlf.txt", 2)]
    assert result["left_out"]["unreadable"] == 0


@pytest.mark.parametrize(
    "lines",
    [("exit 2",), ("printf './000.txt\\0'; exit 2",), ("kill -9 $$",), ("head -c 3000000 /dev/zero",)],
)
def test_where_ripgrep_fails_custody_searches_alone(many, monkeypatch, lines):
    program(many.parent / "programs", *lines)
    result = found_with(many, programs(many), monkeypatch, "foo_bar 3")
    assert (result["engine"], len(result["matches"]) > 20) == ("custody", True)


@needs_ripgrep
def test_settings_of_ripgrep_do_not_count(work):
    make(work, file=b"needle")
    (work / "rgrc").write_text("--max-count=0\n")
    done = run_ripgrep(
        work, "needle", case_sensitive=True, environment={"RIPGREP_CONFIG_PATH": str(work / "rgrc")}
    )
    assert done.stdout == b"./file\0"


def test_columns_and_context_of_a_line_in_latin_1_are_told_in_its_characters():
    data, encoding = as_text(b"caf\xe9 x\n\xe9\n")
    assert encoding is not None
    (line,) = matching_lines(data, encoding, pattern_of("x", literal=True, case_sensitive=True), 1)
    assert (line.column, line.text, line.after) == (6, "café x", ("é",))
