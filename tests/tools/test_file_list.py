"""`file_list`: what is in a folder, in one order and bounded, without what git ignores."""

import os
import socket
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import custody
from custody.files import Reach, load_protected
from custody.tools.search import tree
from custody.tools.search.tree import Wanted, Way

EVERYTHING = 100  # levels


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The working directory; the temporary folder is beside it, so that what is above both is outside."""
    for name in ("work", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    return tmp_path / "work"


@pytest.fixture
def listed(work):
    with custody.open(":memory:", cwd=str(work)) as runtime:
        yield lambda **arguments: runtime.call("file_list", arguments)


def result_of(call):
    assert call.outcome == "succeeded", (call.outcome, call.reason, call.error)
    return call.result


def names(result) -> list[str]:
    """Paths from the folder that was listed, as it orders them."""
    return [os.path.relpath(entry["path"], result["path"]) for entry in result["entries"]]


def make(folder: Path, *paths: str) -> None:
    """Empty files, and folders where the path ends in a slash."""
    for path in paths:
        made = folder / path
        if path.endswith("/"):
            made.mkdir(parents=True, exist_ok=True)
        else:
            made.parent.mkdir(parents=True, exist_ok=True)
            made.touch()


# -- what a result says ---------------------------------------------------------------------------------


def test_a_folder_is_listed_with_all_there_is_to_say_of_it(work, listed):
    (work / "file.txt").write_text("12345")
    (work / "file.txt").chmod(0o640)
    at = datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC)
    os.utime(work / "file.txt", ns=(0, int(at.timestamp()) * 10**9 + 678_900_000))
    make(work, "folder/inside")
    (work / "link").symlink_to("nowhere/at all")
    os.mkfifo(work / "pipe")
    result = result_of(listed())
    for entry in result["entries"][1:]:
        del entry["modified_at"]
    folder_mode = f"{(work / 'folder').stat().st_mode & 0o7777:04o}"
    pipe_mode = f"{(work / 'pipe').stat().st_mode & 0o7777:04o}"
    nothing = {"bytes": None, "target": None}
    assert result == {
        "path": str(work),
        "entries": [
            {
                "path": str(work / "file.txt"),
                "kind": "file",
                "bytes": 5,
                "mode": "0640",
                "modified_at": "2026-01-02T03:04:05.678900Z",
                "target": None,
            },
            {**nothing, "path": str(work / "folder"), "kind": "directory", "mode": folder_mode},
            {
                **nothing,
                "path": str(work / "link"),
                "kind": "link",
                "mode": "0777",
                "target": "nowhere/at all",
            },
            {**nothing, "path": str(work / "pipe"), "kind": "other", "mode": pipe_mode},
        ],
        "truncated": False,
        "left_out": {
            "entries": 0,
            "entries_exact": True,
            "hidden": 0,
            "ignored": 0,
            "protected": 0,
            "unreadable": 0,
        },
    }


def test_it_goes_as_deep_as_is_asked_the_nearest_first_and_follows_no_link(work, listed):
    make(work, "b/deep/deeper/file", "a/x", "z")
    (work / "a" / "up").symlink_to("..")
    assert names(result_of(listed())) == ["a", "b", "z"]
    assert names(result_of(listed(depth=2))) == ["a", "b", "z", "a/up", "a/x", "b/deep"]
    assert names(result_of(listed(depth=EVERYTHING)))[-2:] == ["b/deep/deeper", "b/deep/deeper/file"]
    assert names(result_of(listed(path="b/deep", depth=2))) == ["deeper", "deeper/file"]


def test_what_is_beyond_the_bound_is_counted_exactly(work, listed):
    make(work, *(f"{number:02d}" for number in range(10)), "folder/more")
    exact = result_of(listed(entries_max=11))
    assert (exact["truncated"], exact["left_out"]["entries"]) == (False, 0)
    cut = result_of(listed(entries_max=4, depth=2))
    assert names(cut) == ["00", "01", "02", "03"]
    assert (cut["truncated"], cut["left_out"]["entries"], cut["left_out"]["entries_exact"]) == (True, 8, True)


def test_a_tree_beyond_the_bound_on_names_says_that_its_count_is_not_exact(work, listed, monkeypatch):
    make(work, *(f"{number:02d}" for number in range(10)), "folder/more")
    monkeypatch.setattr(tree, "NAMES_MAX", 8)
    result = result_of(listed(depth=2))
    assert (len(result["entries"]), result["truncated"], result["left_out"]["entries_exact"]) == (
        8,
        True,
        False,
    )


@pytest.fixture
def quick_folder(tmp_path):
    """In memory where that can be had: a disk takes many seconds for a hundred thousand files."""
    memory = "/dev/shm"
    parent = memory if os.access(memory, os.W_OK) else str(tmp_path)
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        yield folder


def test_a_hundred_thousand_files_in_one_folder_are_bounded_and_counted(quick_folder):
    folder = os.open(quick_folder, os.O_RDONLY)
    for number in range(100_000):
        os.mknod(f"{number:06d}", dir_fd=folder)
    os.close(folder)
    with custody.open(":memory:", cwd=quick_folder) as runtime:
        few = result_of(runtime.call("file_list", {"entries_max": 3}))
        many = result_of(runtime.call("file_list", {"entries_max": 10_000}))
    assert names(few) == ["000000", "000001", "000002"]
    assert (few["truncated"], few["left_out"]["entries"]) == (True, 99_997)
    assert len(many["entries"]) == 10_000


def test_hidden_names_are_shown_unless_they_are_not_wanted(work, listed):
    make(work, ".config/x", ".hidden", "seen")
    assert names(result_of(listed())) == [".config", ".hidden", "seen"]
    result = result_of(listed(hidden=False, depth=2))
    assert (names(result), result["left_out"]["hidden"]) == (["seen"], 2)


@pytest.mark.parametrize(
    ("glob", "shown"),
    [
        ("*.py", ["a.py", "src/b.py", "src/deep/c.py"]),
        ("src/*.py", ["src/b.py"]),
        ("/*.py", ["a.py"]),
        ("./src/*.py", ["src/b.py"]),
        ("**/deep/**", ["src/deep/c.py", "src/deep/ü.js"]),
        ("*.{py,js}", ["a.py", "src/b.py", "src/deep/c.py", "src/deep/ü.js"]),
        ("{a,src/{b,x}}.py", ["a.py", "src/b.py"]),
        ("?.js", ["src/deep/ü.js"]),
        ("[!a].py", ["src/b.py", "src/deep/c.py"]),
        ("{odd", ["{odd"]),
        ("\\{odd", ["{odd"]),
        ("nothing", []),
    ],
)
def test_a_glob_is_about_names_or_with_a_slash_about_paths(work, listed, glob, shown):
    make(work, "a.py", "src/b.py", "src/deep/c.py", "src/deep/ü.js", "{odd")
    assert names(result_of(listed(glob=glob, depth=EVERYTHING))) == shown


@pytest.mark.parametrize(
    ("glob", "words"), [("[a", "open bracket"), ("a\\", "backslash"), ("{a,b}" * 7, "more than 64 patterns")]
)
def test_a_glob_that_is_none_is_refused_in_words(listed, glob, words):
    call = listed(glob=glob)
    assert (call.outcome, call.decision.by) == ("rejected", "schema")
    assert words in call.reason


def test_names_that_are_no_utf_8_or_hold_line_breaks_are_shown_as_they_are(work, listed):
    odd = [b"caf\xe9", b"line\nbreak", "ü".encode(), b"\xff\xfe"]
    for name in odd:
        (work / os.fsdecode(name)).touch()
    found = {os.fsencode(name) for name in names(result_of(listed()))}
    assert found == set(odd)
    assert names(result_of(listed(glob="caf?"))) == [os.fsdecode(b"caf\xe9")]


def test_a_time_no_calendar_has_is_none(work, listed):
    make(work, "file")
    os.utime(work / "file", ns=(0, 2**62))
    seconds = (work / "file").stat().st_mtime_ns // 10**9
    (entry,) = result_of(listed())["entries"]
    assert (entry["modified_at"] is None) == (seconds > 253_402_300_799)


# -- what git ignores -----------------------------------------------------------------------------------

GIT_ENVIRONMENT = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], env=GIT_ENVIRONMENT, capture_output=True, check=True
    )
    return os.fsdecode(done.stdout)


def files_of_git(folder: Path) -> set[str]:
    shown = git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return set(shown.split("\0")) - {""}


def files_listed(result) -> set[str]:
    kinds = {os.path.relpath(entry["path"], result["path"]): entry["kind"] for entry in result["entries"]}
    return {path for path, kind in kinds.items() if kind != "directory"}


def test_what_git_ignores_is_left_out_and_counted(work, listed):
    git(work, "init", "-q")
    (work / ".gitignore").write_text("*.log\n!keep.log\n/build/\ncache/\n# comment\n\\#odd\n")
    with (work / ".gitignore").open("a") as rules:
        rules.write("foo**\n!foo1/\n/src[!x]two\n")
    (work / ".git" / "info" / "exclude").write_text("private\n")
    make(
        work,
        "a.log",
        "keep.log",
        "build/out",
        "src/build/in",
        "src/cache/x",
        "#odd",
        "private",
        "src/deep/b.log",
    )
    (work / "src" / "deep" / ".gitignore").write_text("!b.log\n*.tmp\n")
    make(work, "src/deep/c.tmp", "c.tmp", "src/deep/cache", "foo1/x", "foo2/x", "src/two", "srcatwo")
    result = result_of(listed(depth=EVERYTHING))
    assert files_listed(result) == files_of_git(work)
    assert files_listed(result) == {
        ".gitignore",
        "keep.log",
        "c.tmp",
        "foo1/x",
        "src/build/in",
        "src/deep/.gitignore",
        "src/deep/b.log",
        "src/deep/cache",
        "src/two",
    }
    # .git, #odd, a.log, build, foo2, private, src/cache, src/deep/c.tmp and srcatwo
    assert result["left_out"]["ignored"] == 9
    everything = names(result_of(listed(depth=EVERYTHING, ignored=True)))
    assert {"a.log", "build/out", ".git/info/exclude"} <= set(everything)


def test_the_rules_above_a_listed_folder_hold_up_to_the_top_of_the_repository(work, listed):
    (work / ".gitignore").write_text("*.txt\n")
    top = work / "top"
    make(top, "src/a.txt", "src/a.log", "src/deep/x.log", "src/only/x", "only/x")
    git(top, "init", "-q")
    (top / ".gitignore").write_text("*.log\nsrc/only\n")
    assert names(result_of(listed(path="top/src", depth=2))) == ["a.txt", "deep"]
    inner = top / "src" / "deep"
    git(inner, "init", "-q")
    assert names(result_of(listed(path="top/src/deep"))) == ["x.log"]
    assert "deep/x.log" in names(result_of(listed(path="top/src", depth=2)))


def test_rules_outside_the_roots_do_not_count(work, listed):
    git(work.parent, "init", "-q")
    (work.parent / ".gitignore").write_text("*.log\n")
    make(work, "a.log")
    assert names(result_of(listed())) == ["a.log"]


def test_without_a_repository_rules_count_from_the_listed_folder_on(work, listed):
    make(work, "a.log", "copy/b.log", "copy/c.txt", "copy/below/d.log")
    (work / "copy" / ".gitignore").write_text("*.log")
    assert files_listed(result_of(listed(depth=2))) == {"a.log", "copy/.gitignore", "copy/c.txt"}
    assert names(result_of(listed(path="copy", depth=2))) == [".gitignore", "below", "c.txt"]
    assert names(result_of(listed(path="copy/below"))) == ["d.log"]


def test_rules_that_cannot_be_read_hold_nobody_up(work, listed):
    make(work, "a/x", "b/x", "c/x", "d/x")
    os.mkfifo(work / "a" / ".gitignore")
    (work / "b" / ".gitignore").symlink_to("../rules")
    (work / "rules").write_text("x\n")
    (work / "c" / ".gitignore").mkdir()
    (work / "d" / ".gitignore").write_bytes(
        b"\xff[\\\n[z-a]\n[[:what:]]\n" + b"*a" * 2000 + b"b\n" + b"x" * 5000
    )
    assert {"a/x", "b/x", "c/x", "d/x"} <= set(names(result_of(listed(depth=2))))


PIECES = (
    *"a b foo * ** ? / / [ab] [!a] [^b] []x] [a- \\ \\a [[:alpha:]] [[:foo:]] .py *.py ! # x] -".split(),
    *"[a-z] [z-a] é **/ /** /**/".split(),
    " ",
    "\\ ",
)
LINES = st.lists(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join), min_size=1, max_size=4
)
PATHS = (
    "a",
    "b",
    "ab/a",
    "ab/foo/x",
    "foo/a/b.py",
    "foo/b/a",
    ".x/y",
    "é/a",
    "x]/-",
    "-/x]",
    "b /a b",
    "A/0.py",
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(top=LINES, below=LINES)
def test_any_rules_mean_what_they_mean_to_git(work, listed, top, below):
    if not (work / ".git").exists():
        git(work, "init", "-q")
        make(work, *PATHS)
    (work / ".gitignore").write_text("\n".join(top))
    (work / "foo" / ".gitignore").write_text("\n".join(below))
    assert files_listed(result_of(listed(depth=EVERYTHING))) == files_of_git(work)


# -- what is not listed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/etc", "..", "link", "/proc/self/root"])
def test_what_lies_outside_the_roots_is_refused(work, listed, path):
    (work / "link").symlink_to("/etc")
    call = listed(path=path)
    assert (call.outcome, call.decision.by) == ("rejected", "path")


def test_folders_of_secrets_are_named_and_not_entered(work, listed):
    make(work, ".ssh/id_rsa", "seen")
    result = result_of(listed(depth=2))
    assert (names(result), result["left_out"]["protected"]) == ([".ssh", "seen"], 1)
    assert listed(path=".ssh").outcome == "rejected"


def test_what_is_no_folder_is_said_in_words(work, listed):
    make(work, "file")
    os.mkfifo(work / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(work / "socket"))
        for path in ("file", "pipe", "socket", "file/below"):
            assert "is no folder" in listed(path=path).error["message"], path
    assert "does not exist" in listed(path="missing").error["message"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_counted_and_the_rest_listed(work, listed):
    make(work, "closed/x", "open/y")
    (work / "closed").chmod(0)
    try:
        result = result_of(listed(depth=2))
        assert (names(result), result["left_out"]["unreadable"]) == (["closed", "open", "open/y"], 1)
        assert "may not be read" in listed(path="closed").error["message"]
    finally:
        (work / "closed").chmod(0o700)


def test_a_folder_that_becomes_a_link_on_the_way_is_not_followed(work):
    make(work, "a", "folder/inside")
    outside = work.parent / "outside"
    make(outside, "secret")
    reach = Reach(str(work), (str(work),), load_protected([]))
    with reach.open_folder(".") as opened:
        way = Way(opened, reach, Wanted(depth_max=9, hidden=True, ignored=False), lambda: False)
        seen = iter(way)
        found = [next(seen).relative]
        (work / "folder").rename(work.parent / "moved")
        (work / "folder").symlink_to(outside)
        found += [entry.relative for entry in seen]
    assert (found, way.left_out.unreadable) == (["a", "folder"], 1)


def test_no_descriptor_is_left_open(work, listed):
    make(work, "a/b/c", "file")
    listed(depth=5)
    listed(path="file")
    listed(depth=5, entries_max=1)
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:  # the one that listed them
            continue
    assert [path for path in links if path.startswith(str(work))] == []
