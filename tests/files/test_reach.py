"""What an agent writes as a path is opened beneath a root, or refused in words that say what allows it."""

import errno
import os
import socket
import subprocess
import sys
import threading
import unicodedata
from itertools import product
from pathlib import Path

import pytest
from tests.files.conftest import Mounted, as_ordinary_user, leaving_nothing_open

from custody.errors import PathInvalid, PathRefused
from custody.files import Reach, Target, load_protected, parent_of
from custody.records import Decision


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "folder").mkdir(parents=True)
    outside.mkdir()
    (root / "file").write_text("file")
    (root / "folder/inner").write_text("inner")
    (outside / "secret").write_text("secret")
    (root / "to_file").symlink_to("file")
    (root / "to_folder").symlink_to("folder")
    (root / "absolute_in").symlink_to(root / "folder")
    (root / "absolute_out").symlink_to(outside / "secret")
    (root / "out").symlink_to("../outside")
    (root / "dangling").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    return root


@pytest.fixture
def reach(root: Path) -> Reach:
    return Reach(str(root), (str(root),), load_protected([]))


def read(reach: Reach, path: str) -> tuple[str, str]:
    with reach.open(path) as opened:
        return os.path.relpath(opened.path, reach.roots[0]), os.read(opened.fd, 100).decode()


# -- what is opened -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "real", "content"),
    [
        ("file", "file", "file"),
        ("./folder//inner", "folder/inner", "inner"),
        ("folder/../file", "file", "file"),
        ("../root/file", "file", "file"),
        ("to_file", "file", "file"),
        ("to_folder/inner", "folder/inner", "inner"),
        ("absolute_in/inner", "folder/inner", "inner"),
        ("{root}/file", "file", "file"),
        ("{root}/../root/to_folder/inner", "folder/inner", "inner"),
    ],
)
def test_a_file_is_opened_with_the_path_it_really_has(
    reach: Reach, root: Path, path: str, real: str, content: str
):
    assert read(reach, path.format(root=root)) == (real, content)


def test_an_opened_file_says_what_it_was_and_closes_once(reach: Reach):
    with reach.open("file") as opened:
        assert opened.status.st_size == 4
        assert not os.get_inheritable(opened.fd)
    assert opened.fd == -1
    opened.close()


def test_dots_in_a_name_are_no_way_up(reach: Reach, root: Path):
    (root / "report..final.txt").write_text("x")
    (root / "..hidden").write_text("y")
    assert read(reach, "report..final.txt")[1] == "x"
    assert read(reach, "..hidden")[1] == "y"


def test_the_home_folder_has_a_short_name(reach: Reach, root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(root))
    assert read(reach, "~/file")[1] == "file"
    assert reach.target("~/new", write=True).path == f"{root}/new"
    (root / "~").mkdir()
    (root / "~/file").write_text("in a folder of that name")
    assert read(reach, "./~/file")[1] == "in a folder of that name"


def test_relative_paths_are_taken_from_the_working_directory(root: Path):
    reach = Reach(f"{root}/folder", (str(root),), load_protected([]))
    assert read(reach, "inner")[1] == "inner"
    assert read(reach, "../file")[1] == "file"


def test_with_several_roots_a_path_may_lead_from_one_into_the_other(tmp_path: Path, root: Path):
    reach = Reach(str(root), (str(root), str(tmp_path / "outside")), load_protected([]))
    for path in ("../outside/secret", "out/secret", "absolute_out", f"{root}/../outside/secret"):
        with reach.open(path) as opened:
            assert opened.path == str(tmp_path / "outside/secret")
    nested = Reach(str(root), (str(root), str(tmp_path)), load_protected([]))
    assert nested.target("../outside/new", write=True) == Target(str(tmp_path), "outside/new")


def test_a_path_through_a_link_to_the_root_is_in_the_root(tmp_path: Path, reach: Reach, root: Path):
    (tmp_path / "shortcut").symlink_to(root)
    assert read(reach, f"{tmp_path}/shortcut/to_folder/inner")[0] == "folder/inner"
    assert reach.target(f"{tmp_path}/shortcut/new/file", write=True) == Target(str(root), "new/file")


def test_the_spelling_of_a_root_may_be_another_form_of_the_same_text(tmp_path: Path):
    root = tmp_path / unicodedata.normalize("NFC", "café")
    root.mkdir()
    (root / "file").write_text("x")
    reach = Reach(str(root), (str(root),), load_protected([]))
    decomposed = unicodedata.normalize("NFD", str(root))
    assert decomposed != str(root)
    assert read(reach, f"{decomposed}/file") == ("file", "x")
    assert reach.target(f"{decomposed}/new", write=True) == Target(str(root), "new")


def test_names_that_are_no_utf8_are_names(reach: Reach, root: Path):
    name = os.fsdecode(b"caf\xe9")
    (root / name).write_text("x")
    with reach.open(name) as opened:
        assert os.fsencode(opened.path) == os.fsencode(root) + b"/caf\xe9"
    assert reach.target(name, write=True) == Target(str(root), name)


def test_a_file_that_is_called_deleted_is_not_taken_for_one_that_is(reach: Reach, root: Path):
    (root / "odd (deleted)").write_text("x")
    (root / "link").symlink_to("odd (deleted)")
    assert read(reach, "link") == ("odd (deleted)", "x")


def test_a_file_replaced_at_the_same_time_has_the_path_it_had(reach: Reach, root: Path):
    done = threading.Event()

    def replace() -> None:
        while not done.is_set():
            (root / "new").write_text("file")
            (root / "new").replace(root / "file")

    replacer = threading.Thread(target=replace)
    replacer.start()
    try:
        for _ in range(500):
            assert read(reach, "to_file")[0] == "file"
            assert reach.target("to_file", write=True).relative == "file"
    finally:
        done.set()
        replacer.join()


# -- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "../outside/secret",
        "folder/../../outside/secret",
        "/etc/passwd",
        "absolute_out",
        "out/secret",
        "..",
        "/",
    ],
)
def test_what_leads_out_is_refused_and_the_root_that_would_allow_it_is_named(
    reach: Reach, tmp_path: Path, path: str
):
    for attempt in (reach.open, reach.open_folder, lambda path: reach.target(path, write=True)):
        with pytest.raises(PathRefused, match="is outside the allowed roots") as caught:
            attempt(path)
        assert f"allowed roots ({reach.roots[0]}); --root " in str(caught.value)
    folder = {"/etc/passwd": "/etc", "..": str(tmp_path), "/": "/"}.get(path, str(tmp_path / "outside"))
    assert str(caught.value).endswith(f"--root {folder} would allow it.")


def test_a_link_that_leads_out_is_said_to(reach: Reach, tmp_path: Path):
    with pytest.raises(PathRefused) as caught:
        reach.open("absolute_out")
    assert str(caught.value) == (
        f"absolute_out leads to {tmp_path}/outside/secret, which is outside the allowed roots "
        f"({tmp_path}/root); --root {tmp_path}/outside would allow it."
    )


def test_a_path_that_may_be_a_url_is_named_as_it_is_spelled(reach: Reach, root: Path, tmp_path: Path):
    """Without one of its slashes what it holds would be no credential to anybody who looks for some."""
    url = "/nowhere/db://me:hidden@host/x"
    for path, way in ((url, ""), (f"/nowhere/../nowhere/{url}", " leads into /, which")):
        with pytest.raises(PathRefused) as refused:
            reach.target(path, write=True)
        assert refused.value.message.startswith(f"{path}{way} is outside the allowed roots")
        assert "db:/me" not in refused.value.message
    with pytest.raises(PathRefused, match=f"leads into {tmp_path}/outside, which"):
        reach.target(f"{root}//out/x", write=True)


def test_a_root_is_suggested_that_is_there(reach: Reach):
    with pytest.raises(PathRefused, match="--root /etc would allow it"):
        reach.target("/etc/nothing/here/at/all", write=True)


def test_links_without_end_are_refused(reach: Reach):
    for path in ("loop", "loop/x"):
        with pytest.raises(PathRefused, match="without end"):
            reach.open(path)


def test_a_magic_link_is_refused():
    reach = Reach("/proc", ("/proc",), load_protected([]))
    for path in ("self/cwd/x", "self/root/etc/passwd", "self/fd/0"):
        with pytest.raises(PathRefused, match="of /proc"):
            reach.open(path)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "is empty"),
        ("a\0b", "control character"),
        ("a\nb", "control character"),
        ("a\x1b[2Jb", "control character"),
        ("a\x7f", "control character"),
        ("x" * 256, "256 bytes; 255 is the most"),
        ("é" * 128, "256 bytes; 255 is the most"),
        ("a/" * 2048, "4096 bytes; 4095 is the most"),
        ("\ud800", "cannot be written as bytes"),
        ("missing/../x", "goes up from a folder that does not exist"),
    ],
)
def test_what_is_no_path_is_refused_as_such(reach: Reach, path: str, words: str):
    with pytest.raises(PathInvalid, match=words) as caught:
        reach.target(path, write=True)
    assert str(caught.value).isprintable()
    if "missing" not in path:
        with pytest.raises(PathInvalid, match=words):
            reach.open(path)


def test_only_files_are_opened(reach: Reach, root: Path):
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        fd = os.open(root, os.O_PATH)
        listening.bind(f"/proc/self/fd/{fd}/socket")
        os.close(fd)
    for name, words in [("pipe", "is a named pipe"), ("socket", "is a socket")]:
        with pytest.raises(PathInvalid, match=words):
            reach.open(name)
    with pytest.raises(IsADirectoryError):
        reach.open("folder")
    with pytest.raises(PathInvalid, match="is a device"):
        Reach("/dev", ("/dev",), load_protected([])).open("null")


def test_what_is_missing_or_of_another_kind_is_the_systems_error(reach: Reach):
    for path, error in [("missing", FileNotFoundError), ("file/x", NotADirectoryError)]:
        with pytest.raises(error) as caught:
            reach.open(path)
        assert caught.value.filename == path
    with pytest.raises(NotADirectoryError):
        reach.open("file/")
    with pytest.raises(NotADirectoryError):
        reach.open_folder("file")
    with pytest.raises(FileNotFoundError):
        reach.open("dangling")


def test_a_file_that_may_not_be_read_is_the_systems_error(public: Path):
    (public / "file").touch(mode=0)
    reach = Reach(str(public), (str(public),), load_protected([]))
    with pytest.raises(PermissionError) as caught:
        as_ordinary_user(lambda: reach.open("file"))
    assert (caught.value.errno, caught.value.filename) == (errno.EACCES, "file")


def test_a_name_too_long_for_the_file_system_is_never_a_file(reach: Reach):
    assert reach.target("x" * 255, write=True).relative == "x" * 255


# -- targets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "relative"),
    [
        ("file", "file"),
        ("new", "new"),
        ("to_folder/new", "folder/new"),
        ("absolute_in/new", "folder/new"),
        ("new/and/deeper", "new/and/deeper"),
        ("to_folder/new/deeper", "folder/new/deeper"),
        ("folder/../new", "new"),
        ("folder/", "folder"),
        ("new/", "new"),
        ("to_file", "file"),
    ],
)
def test_a_target_has_no_links_left(reach: Reach, path: str, relative: str):
    target = reach.target(path, write=True)
    assert target == Target(reach.roots[0], relative)
    assert target.path == f"{reach.roots[0]}/{relative}"


def test_a_link_can_be_the_target_itself(reach: Reach):
    for name in ("to_file", "to_folder", "absolute_out", "dangling", "loop", "out"):
        assert reach.target(name, write=True, follow=False).relative == name
    assert reach.target("to_folder/", write=True, follow=False).relative == "to_folder"
    assert reach.target("to_folder/inner", write=True, follow=False).relative == "folder/inner"


def test_a_link_that_leads_nowhere_is_no_target(reach: Reach, root: Path):
    (root / "absolute_dangling").symlink_to(root / "nowhere")
    for path in ("dangling", "dangling/below", "absolute_dangling"):
        with pytest.raises(PathRefused, match="is a symbolic link that leads nowhere"):
            reach.target(path, write=True)


def test_the_root_itself_can_be_listed_and_not_changed(reach: Reach):
    for path in (".", "folder/..", reach.roots[0]):
        assert reach.target(path, write=False) == Target(reach.roots[0], "")
        with pytest.raises(PathRefused, match="is an allowed root itself"):
            reach.target(path, write=True)
    assert Target("/", "etc/x").path == "/etc/x"


def test_a_root_that_is_gone_is_said_to_be(root: Path):
    reach = Reach(str(root), (f"{root}/gone",), load_protected([]))
    with pytest.raises(FileNotFoundError, match="the root does not exist"):
        reach.target(f"{root}/gone/x", write=True)


def test_a_root_reached_through_a_link_by_now_is_not_used(tmp_path: Path, root: Path):
    reach = Reach(str(root), (str(root),), load_protected([]))
    root.rename(tmp_path / "moved")
    root.symlink_to(tmp_path / "outside")
    for path in ("secret", "new"):
        with pytest.raises(PathRefused):
            reach.target(path, write=True)
        with pytest.raises((PathRefused, FileNotFoundError)):
            reach.open(path)


def test_the_folder_of_a_target_is_held_open_without_following_links(reach: Reach, root: Path):
    target = reach.target("folder/new", write=True)
    with parent_of(target) as (fd, name):
        assert name == "new"
        assert os.path.samestat(os.fstat(fd), (root / "folder").stat())
        os.fsync(fd)
    (root / "folder").rename(root / "was")
    (root / "folder").symlink_to("../outside")
    with pytest.raises(OSError, match="Too many levels of symbolic links"), parent_of(target):
        pass
    with pytest.raises(OSError, match="a root itself"), parent_of(Target(str(root), "")):
        pass


def test_a_folder_that_may_be_used_and_not_listed_can_be_worked_in(public: Path):
    folder = public / "folder"
    folder.mkdir()
    (folder / "file").write_text("inner")
    folder.chmod(0o311)

    def size() -> int:
        with parent_of(Target(str(public), "folder/file")) as (fd, name):
            return os.stat(name, dir_fd=fd).st_size

    assert as_ordinary_user(size) == 5


# -- protected ------------------------------------------------------------------------------------------


def test_a_protected_file_is_refused_by_where_it_really_is(reach: Reach, root: Path):
    (root / ".env").write_text("SECRET=1")
    (root / "innocent").symlink_to(".env")
    for path in (".env", "innocent", "folder/../.env", "./.env"):
        with pytest.raises(PathRefused, match=r"is protected \(\.env: credentials and keys\)"):
            reach.open(path)
    (root / ".ssh").mkdir()
    with pytest.raises(PathRefused, match="is protected"):
        reach.open_folder(".ssh")
    with pytest.raises(PathRefused, match="is protected"):
        reach.target(".ssh/authorized_keys", write=True)


def test_a_protected_name_is_refused_also_where_it_is_a_link_to_another(reach: Reach, root: Path):
    (root / ".bashrc").symlink_to("file")
    (root / ".netrc").symlink_to("file")
    with pytest.raises(PathRefused, match=r"\.bashrc is protected"):
        reach.target(".bashrc", write=True)
    assert reach.target(".bashrc", write=False).relative == "file"
    with pytest.raises(PathRefused, match=r"\.netrc is protected"):
        reach.open(".netrc")


def test_a_hard_link_to_a_protected_file_is_refused(reach: Reach, root: Path):
    (root / ".env").write_text("SECRET=1")
    (root / "folder/innocent").hardlink_to(root / ".env")
    with pytest.raises(PathRefused, match="is another name of"):
        reach.open("folder/innocent")
    with pytest.raises(PathRefused, match="is another name of"):
        reach.target("folder/innocent", write=True)
    with pytest.raises(BlockingIOError):
        reach.open("folder/innocent", cached=True)


def test_what_a_lenient_file_system_takes_for_a_protected_file_is_refused(lenient: Path):
    (lenient / ".env").write_text("SECRET=1")
    reach = Reach(str(lenient), (str(lenient),), load_protected([]))
    for name in (".ENV", ".Env", ".env"):
        with pytest.raises(PathRefused, match="is protected"):
            reach.open(name)


# -- before anything is done ----------------------------------------------------------------------------


def test_a_decision_says_who_refuses_and_none_is_no_promise(reach: Reach, root: Path):
    assert reach.decision("file", write=True) is None
    assert reach.decision("missing/new", write=True) is None
    assert reach.decision("file/x", write=True) is None
    outside = reach.decision("/etc/passwd", write=False)
    assert outside == Decision(
        "deny",
        "path",
        f"/etc/passwd is outside the allowed roots ({root}); --root /etc would allow it.",
    )
    control = reach.decision("a\tb", write=True)
    assert control == Decision("deny", "schema", "The path 'a\\tb' holds a control character.")
    protected = reach.decision(".git/config", write=True)
    assert protected is not None
    assert protected.by == "path"
    assert reach.decision(".git/config", write=False) is None
    assert reach.decision("dangling", write=True) is not None
    assert reach.decision("dangling", write=True, follow=False) is None


def test_what_may_have_to_be_waited_for_is_left_to_a_thread(reach: Reach):
    with reach.open("file"):
        pass
    with reach.open("file", cached=True) as opened:
        assert os.read(opened.fd, 10) == b"file"
    for path in ("to_file", "missing", "/etc/passwd", "folder/../file"):
        with pytest.raises(BlockingIOError):
            reach.open(path, cached=True)


def test_nothing_is_left_open(reach: Reach, root: Path):
    os.mkfifo(root / "pipe")
    (root / ".env").touch()
    paths = ("file", "to_file", "missing", "pipe", ".env", "out/secret", "loop", "folder", "dangling")
    attempts = (reach.open, reach.open_folder, lambda path: reach.target(path, write=True))
    with leaving_nothing_open():
        for path, attempt in product(paths, attempts):
            try:
                opened = attempt(path)
            except (OSError, PathRefused, PathInvalid):
                continue
            if not isinstance(opened, Target):
                opened.close()


def test_a_file_on_a_read_only_file_system_is_read(mounted: Mounted):
    place = mounted("tmpfs", "size=64k")
    (place / "file").write_text("x")
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    reach = Reach(str(place), (str(place),), load_protected([]))
    assert read(reach, "file") == ("file", "x")
    assert reach.target("new", write=True).relative == "new"


# -- without openat2 ------------------------------------------------------------------------------------

OPENAT2 = 437
SECCOMP = {"x86_64": (317, 0xC000003E), "aarch64": (277, 0xC00000B7)}
WITHOUT = """
import ctypes, os, struct, sys
root, number, architecture = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def step(code, yes, no, k):
    return struct.pack("=HBBI", code, yes, no, k)
program = (
    step(0x20, 0, 0, 4) + step(0x15, 0, 3, architecture)  # another architecture: allowed
    + step(0x20, 0, 0, 0) + step(0x15, 0, 1, 437)
    + step(0x06, 0, 0, 0x00050000 | 38)  # ENOSYS
    + step(0x06, 0, 0, 0x7FFF0000)
)
buffer = ctypes.create_string_buffer(program)
filter = struct.pack("HxxxxxxP", 6, ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
if libc.syscall(number, 1, 0, ctypes.c_char_p(filter)) != 0:
    sys.exit(99)

from custody.errors import PathRefused
from custody.files import Reach, beneath, load_protected, parent_of
assert beneath.open_beneath.__module__ and not beneath._kernel_can()
reach = Reach(root, (root,), load_protected([]))
for path in ("file", "to_file", "to_folder/inner", "absolute_in/inner", "folder/../file"):
    with reach.open(path) as opened:
        print(os.path.relpath(opened.path, root), os.read(opened.fd, 10).decode())
for path in ("../outside/secret", "out/secret", "absolute_out", "loop", "/etc/passwd"):
    try:
        reach.open(path)
    except PathRefused:
        print("refused")
with parent_of(reach.target("to_folder/new", write=True)) as (fd, name):
    print(name, os.listdir(fd))
"""


def test_everything_is_the_same_where_a_filter_refuses_openat2(root: Path):
    number, architecture = SECCOMP.get(os.uname().machine, (0, 0))
    if not number:
        pytest.skip(f"the number of seccomp(2) on {os.uname().machine} is not written down here")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(root), str(number), str(architecture)],
        capture_output=True,
        text=True,
    )
    if done.returncode == 99:
        pytest.skip("this kernel has no seccomp filters")
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "file file",
        "file file",
        "folder/inner inner",
        "folder/inner inner",
        "file file",
        *["refused"] * 5,
        "new ['inner']",
    ]
