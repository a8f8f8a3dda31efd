"""What a command wrote on standard error, and the paths its sandbox kept from it."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from tests.sandbox.places import WORKSPACE, Place

from custody.sandbox import Launchers
from custody.sandbox.walls import NAMED, Sandbox
from custody.sandbox.walls.refused import LINE_CHARACTERS_MAX, PATHS_MAX, refused_paths

OUTSIDE = "/var/lib"
"""On every machine, no part of the system's folders, and of no run its own."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a root, a home folder, and what is hidden beside them."""
    for name in ("root", "hidden", "home/.ssh", "home/.cargo/registry"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("root/a", "hidden/a", "hidden/a b", "home/.netrc", "home/.ssh/key"):
        (tmp_path / name).touch()
    return tmp_path


def told(text: str, folder: Path, sandbox: Sandbox = WORKSPACE) -> list[tuple[str, str, str]]:
    """Path, what was wanted and the line, with short names for the folders."""
    text = text.replace("FOLDER", str(folder)).replace("OUTSIDE", OUTSIDE)
    found = refused_paths(text, sandbox, [str(folder / "root"), "/tmp"], homes=[str(folder / "home")])
    return [
        (one.path.replace(str(folder), "FOLDER"), one.wanted, one.allow.replace(str(folder), "FOLDER"))
        for one in found
    ]


SSH = "--root FOLDER/home/.ssh"
CRATES = "FOLDER/home/.cargo/registry"
HIDDEN = "FOLDER/hidden/a"
ROOT = "--root FOLDER/hidden"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("cat: FOLDER/hidden/a: No such file or directory", "read"),
        ("ls: cannot access 'FOLDER/hidden/a': No such file or directory", "read"),
        ("ls: cannot access \u2018FOLDER/hidden/a\u2019: No such file or directory", "read"),
        ("/usr/bin/sed: can't read FOLDER/hidden/a: No such file or directory", "read"),
        ("rm: cannot remove 'FOLDER/hidden/a': No such file or directory", "write"),
        ("touch: setting times of 'FOLDER/hidden/a': No such file or directory", "write"),
        ("tee: FOLDER/hidden/a: No such file or directory", "write"),
        ("tar: FOLDER/hidden/a: Cannot open: No such file or directory", "unknown"),
        ('rsync: [sender] change_dir "FOLDER/hidden/a" failed: No such file or directory (2)', "read"),
        ("bash: line 1: FOLDER/hidden/a: No such file or directory", "unknown"),
        ("bash: line 1: cd: FOLDER/hidden/a: No such file or directory", "read"),
        ("sh: 1: FOLDER/hidden/a: not found", "execute"),
        ("sh: 1: cannot open FOLDER/hidden/a: No such file", "unknown"),
        ("fatal: cannot change to 'FOLDER/hidden/a': No such file or directory", "read"),
        ("make: *** FOLDER/hidden/a: No such file or directory.  Stop.", "unknown"),
        ("sh: 1: cannot create FOLDER/hidden/a: Directory nonexistent", "write"),
        ("zsh: no such file or directory: FOLDER/hidden/a", "unknown"),
        ("env: \u2018FOLDER/hidden/a\u2019: No such file or directory", "execute"),
        ("timeout: failed to run command 'FOLDER/hidden/a': No such file or directory", "execute"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'FOLDER/hidden/a'", "unknown"),
        ("Error: ENOENT: no such file or directory, open 'FOLDER/hidden/a'", "unknown"),
        ("npm error Error: ENOENT: no such file or directory, scandir 'FOLDER/hidden/a'", "read"),
        ("Error: spawn FOLDER/hidden/a ENOENT", "execute"),
        ("open FOLDER/hidden/a: no such file or directory", "unknown"),
        ("panic: fork/exec FOLDER/hidden/a: no such file or directory", "execute"),
        ("error: couldn't read `FOLDER/hidden/a`: No such file or directory (os error 2)", "read"),
        ("error: failed to open: FOLDER/hidden/a\n\nCaused by:\n  No such file or directory (os error)", ""),
        ("java.io.FileNotFoundException: FOLDER/hidden/a (No such file or directory)", "unknown"),
        ("java.nio.file.NoSuchFileException: FOLDER/hidden/a", "unknown"),
        ("a.rb:1: No such file or directory @ rb_sysopen - FOLDER/hidden/a (Errno::ENOENT)", "unknown"),
        ("Warning: fopen(FOLDER/hidden/a): Failed to open stream: No such file or directory in a", "unknown"),
        ("fatal: repository 'FOLDER/hidden/a' does not exist", "read"),
        ("fatal: 'FOLDER/hidden/a' does not appear to be a git repository", "read"),
        ("gcc: error: FOLDER/hidden/a: No such file or directory", "unknown"),
        ("x.c:1:10: fatal error: FOLDER/hidden/a: No such file or directory", "unknown"),
        ("/usr/bin/ld: cannot find FOLDER/hidden/a: No such file or directory", "unknown"),
    ],
)  # fmt: skip
def test_what_is_there_and_was_hidden_is_named(folder: Path, text: str, wanted: str):
    assert told(text, folder) == [(HIDDEN, wanted or "unknown", ROOT)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("ls: cannot open directory 'OUTSIDE': Permission denied", "read"),
        ("PermissionError: [Errno 13] Permission denied: 'OUTSIDE'", "unknown"),
        ("Error: EACCES: permission denied, rmdir 'OUTSIDE'", "write"),
        ("warning: unable to access 'OUTSIDE': Permission denied", "read"),
        ("error: could not open `OUTSIDE`: Operation not permitted (os error 1)", "unknown"),
        ("[Errno 30] Read-only file system: 'OUTSIDE'", "write"),
        ("java.nio.file.AccessDeniedException: OUTSIDE", "unknown"),
        ("zsh: permission denied: OUTSIDE", "unknown"),
    ],
)  # fmt: skip
def test_what_was_refused_outside_of_all_it_may_reach_is_named(folder: Path, text: str, wanted: str):
    assert told(text, folder) == [(OUTSIDE, wanted, f"--root {OUTSIDE}")]


@pytest.mark.parametrize(
    "text",
    [
        "mkdir: cannot create directory 'OUTSIDE/new-here': Permission denied",
        "PermissionError: [Errno 13] Permission denied: 'OUTSIDE/new-here'",
        "fatal: could not create work tree dir 'OUTSIDE/new-here': No such file or directory",
        "fatal: Unable to create 'OUTSIDE/new-here': Read-only file system",
        "/usr/bin/ld: cannot open output file OUTSIDE/new-here: No such file or directory",
        "npm error EACCES: permission denied, mkdir 'OUTSIDE/new-here'",
        "npm error EACCES: permission denied, symlink '/etc/hosts' -> 'OUTSIDE/new-here'",
        "cp: cannot create regular file 'OUTSIDE/new-here': Permission denied",
        "mv: cannot move 'FOLDER/root/a' to 'OUTSIDE/new-here': Permission denied",
        "error: failed to write `OUTSIDE/new-here`\n\nCaused by:\n  Read-only file system (os error 30)",
    ],
)
def test_what_could_not_be_made_is_named_with_the_folder_it_was_to_be_in(folder: Path, text: str):
    assert told(text, folder) == [(f"{OUTSIDE}/new-here", "write", f"--root {OUTSIDE}")]


@pytest.mark.parametrize(
    "text",
    [
        "cat: /etc/shadow: Permission denied",  # its mode's no: the sandbox lets everybody read there
        "cat: FOLDER/root/a: Permission denied",
        "touch: cannot touch 'FOLDER/root/b': Permission denied",
        "cat: FOLDER/hidden/nothing: No such file or directory",
        "cat: /nowhere/at/all: Permission denied",
        "rm: cannot remove 'OUTSIDE/nothing-here': No such file or directory",
        "mkdir: cannot create directory '/tmp/of-the-run': Permission denied",
        "bash: /proc/sys/kernel/core_pattern: Read-only file system",
        "/usr/bin/touch: cannot touch 'b': Permission denied",
        "/usr/local/bin/build.sh: line 3: out/x: Permission denied",
        "Error: EACCES: permission denied, symlink 'OUTSIDE' -> 'FOLDER/root/b'",
        "curl: (56) CONNECT tunnel failed, response 403",
        "is OUTSIDE there? Permission denied",
        "cat: OUTSIDE\0: Permission denied",
        "cat: OUTSIDE/\udcff\ud800: Permission denied",
        "ping: socket: Operation not permitted",
        "Permission denied",
        "",
    ],
)
def test_what_the_sandbox_allows_or_is_nowhere_or_cannot_be_told_is_not_named(folder: Path, text: str):
    assert told(text, folder) == []


@pytest.mark.parametrize(
    ("sandbox", "text", "wanted", "allow"),
    [
        ("workspace", "cat: FOLDER/home/.netrc: No such file or directory", "read", "--sandbox open"),
        ("workspace", "cat: FOLDER/home/.ssh/key: No such file or directory", "read", SSH),
        ("workspace", "cat: 'FOLDER/hidden/a b': No such file or directory", "read", "--root FOLDER/hidden"),
        ("workspace", "cat: FOLDER/hidden/a b: No such file or directory", "read", "--root FOLDER/hidden"),
        ("workspace", "touch: cannot touch '/usr/x': Read-only file system", "write", "--sandbox open"),
        ("workspace", "tee: /home/not-here: Permission denied", "write", "--sandbox open"),
        ("workspace", "cat: /root-file: Permission denied", None, None),
        ("workspace", "mkdir: cannot create directory '/new': Permission denied", "write", "--sandbox open"),
        (
            "workspace", f"mkdir: cannot create directory '{CRATES}/new': Read-only file system",
            "write", f"--root {CRATES}",
        ),
        ("read_only", "tee: FOLDER/root/a: Read-only file system", "write", "--sandbox workspace"),
        (
            "read_only", "touch: cannot touch 'OUTSIDE/x': Permission denied",
            "write", f"--sandbox workspace --root {OUTSIDE}",
        ),
        ("read_only", "cat: FOLDER/hidden/a: No such file or directory", "read", "--root FOLDER/hidden"),
        ("open", "ls: cannot open directory 'OUTSIDE': Permission denied", None, None),
        ("open", "cat: FOLDER/hidden/a: No such file or directory", None, None),
    ],
)  # fmt: skip
def test_the_line_would_allow_it_and_no_more_than_that(
    folder: Path, sandbox: str, text: str, wanted: str | None, allow: str | None
):
    expected = [] if wanted is None else [(wanted, allow)]
    assert [one[1:] for one in told(text, folder, NAMED[sandbox])] == expected


def test_a_line_with_blanks_in_a_name_is_one_a_shell_reads(folder: Path):
    (folder / "hid den").mkdir()
    (found,) = told("ls: cannot access 'FOLDER/hid den': No such file or directory", folder)
    assert found == ("FOLDER/hid den", "read", f"--root '{folder}/hid den'".replace(str(folder), "FOLDER"))


def test_a_program_that_may_be_read_and_not_executed_is_named(folder: Path):
    sandbox = structs.replace(WORKSPACE, execute=("/usr",))
    text = "env: 'FOLDER/root/a': Permission denied"
    assert told(text, folder, sandbox) == [("FOLDER/root/a", "execute", "execute=('FOLDER/root',)")]
    assert told(text, folder) == []


def test_links_are_followed_to_what_the_sandbox_decides_by(folder: Path):
    (folder / "root" / "link").symlink_to(folder / "hidden")
    (folder / "hidden" / "back").symlink_to(folder / "root")
    text = "cat: FOLDER/root/link/a: No such file or directory\ncat: FOLDER/hidden/back/a: Permission denied"
    assert told(text, folder) == [("FOLDER/root/link/a", "read", ROOT)]


def test_each_path_is_named_once_and_no_more_than_a_screen_of_them(folder: Path):
    text = "cat: FOLDER/hidden/a: No such file or directory\n"
    assert told(text * 3, folder) == [(HIDDEN, "read", ROOT)]
    for number in range(PATHS_MAX + 5):
        (folder / "hidden" / str(number)).touch()
    lines = (f"cat: FOLDER/hidden/{number}: No such file or directory" for number in range(PATHS_MAX + 5))
    assert len(told("\n".join(lines), folder)) == PATHS_MAX


def test_a_command_that_writes_for_ever_is_looked_into_for_a_moment(folder: Path):
    lines = (f"cat: /nowhere/{number}: Permission denied" for number in range(50_000))
    long = f"cat: FOLDER/hidden/{'a' * LINE_CHARACTERS_MAX}: No such file or directory"
    began = time.process_time()
    assert told("\n".join([long, "'/" * 100_000, "/ " * 4_000 + "Permission denied", *lines]), folder) == []
    assert time.process_time() - began < 1.0


WORDS = [
    "Permission denied", "No such file or directory", "EACCES", "Caused by:", "cat", " to ", " -> ", ": ",
    ", open ", "'", '"', "`", "\u2018", "\n", "\0", "(", ")", " ", "/usr", "/var/lib", "FOLDER/hidden/a",
]  # fmt: skip


@settings(max_examples=100)
@given(text=st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=25).map("".join))
def test_whatever_was_written_only_what_is_not_allowed_is_named(
    tmp_path_factory: pytest.TempPathFactory, text: str
):
    folder = tmp_path_factory.getbasetemp()
    for path, _, allow in told(text, folder):
        assert path.startswith("/")
        assert not path.startswith("/usr/")
        assert allow.startswith("--")


SCRIPT = """
cat {outside}/sentinel
ls {outside}
echo x > {outside}/new
touch {readable}/sentinel
cat {readable}/nothing
cat {readable}/sentinel
cat /etc/shadow
touch /usr/new
ls /var/lib
mkdir made && rmdir made
"""


def test_what_real_programs_write_behind_real_walls_is_understood(place: Place) -> None:
    outside, readable = str(place.folder / "outside"), str(place.folder / "readable")
    sandbox = structs.replace(WORKSPACE, read=(readable,))

    async def body(pool: Launchers) -> str:
        script = SCRIPT.format(outside=outside, readable=readable)
        done = await pool.run(place.shell(script, sandbox=sandbox))
        return done.stderr.data.decode()

    written = place.run(body)
    found = refused_paths(written, sandbox, [place.workspace], homes=place.machine.homes)
    named: list[tuple[Any, ...]] = [(one.path, one.wanted, one.allow) for one in found]
    assert named == [
        (f"{outside}/sentinel", "read", f"--root {outside}"),
        (outside, "read", f"--root {outside}"),
        (f"{outside}/new", "write", f"--root {outside}"),
        (f"{readable}/sentinel", "write", f"--root {readable}"),
        ("/usr/new", "write", "--sandbox open"),
        (os.path.realpath(OUTSIDE), "read", f"--root {OUTSIDE}"),
    ], written
