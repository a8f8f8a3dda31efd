"""Both ways to open beneath a folder, by one contract: what is opened, what is refused and how."""

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.files.conftest import leaving_nothing_open

from custody.files import beneath

Way = Callable[..., int]
WAYS: dict[str, Way] = {"by the kernel": beneath.by_kernel, "by a walk": beneath.by_walk}


def kernel_can() -> bool:
    top = os.open("/", os.O_PATH)
    try:
        os.close(beneath.by_kernel(top, ".", os.O_PATH, links=False))
    except OSError:
        return False
    finally:
        os.close(top)
    return True


needs_openat2 = pytest.mark.skipif(not kernel_can(), reason="this kernel (or a filter on it) has no openat2")


@pytest.fixture(params=[pytest.param(name, marks=needs_openat2 if "kernel" in name else ()) for name in WAYS])
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with every kind of link, beside one that must not be reached."""
    outside, root = tmp_path / "outside", tmp_path / "root"
    (root / "folder/deep").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (root / "file").write_text("file")
    (root / "report..final.txt").write_text("report")
    (root / "folder/inner").write_text("inner")
    (root / "folder/deep/leaf").write_text("leaf")
    for name, target in {
        "to_file": "file",
        "to_folder": "folder",
        "to_folder_slash": "folder/",
        "to_file_slash": "file/",
        "to_inside_by_dots": "folder/../file",
        "folder/up": "../file",
        "folder/deep/climb": "../../../outside/secret",
        "out_by_dots": "../outside/secret",
        "out_and_in": "../root/file",
        "absolute_out": str(outside / "secret"),
        "absolute_in": str(root / "file"),
        "loop": "pool",
        "pool": "loop",
        "self": "self",
        "dangling": "nowhere",
        "to_root": ".",
        "folder/to_parent": "..",
    }.items():
        (root / name).symlink_to(target)
    previous = "file"
    for number in range(41):  # the link `chain40` is the 41st on its way
        (root / f"chain{number}").symlink_to(previous)
        previous = f"chain{number}"
    return root


@pytest.fixture
def root_fd(root: Path) -> Iterator[int]:
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def content(fd: int) -> str:
    with open(fd, encoding="utf-8") as file:
        return file.read()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("file", "file"),
        ("./folder//deep/./leaf", "leaf"),
        ("report..final.txt", "report"),
        ("folder/../file", "file"),
        ("folder/deep/../../folder/inner", "inner"),
        ("to_file", "file"),
        ("to_folder/inner", "inner"),
        ("to_folder_slash/deep/leaf", "leaf"),
        ("to_inside_by_dots", "file"),
        ("to_folder/up", "file"),
        ("to_folder/to_parent/file", "file"),
        ("to_root/to_root/file", "file"),
        ("chain39", "file"),
    ],
)
def test_what_stays_beneath_is_opened(way: Way, root_fd: int, path: str, expected: str):
    assert content(way(root_fd, path, os.O_RDONLY, links=True)) == expected


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("..", errno.EXDEV),
        ("../outside/secret", errno.EXDEV),
        ("folder/../../outside/secret", errno.EXDEV),
        ("../root/file", errno.EXDEV),
        ("/etc/passwd", errno.EXDEV),
        ("/", errno.EXDEV),
        ("out_by_dots", errno.EXDEV),
        ("out_and_in", errno.EXDEV),
        ("absolute_out", errno.EXDEV),
        ("absolute_in", errno.EXDEV),
        ("folder/deep/climb", errno.EXDEV),
        ("to_root/../file", errno.EXDEV),
        ("to_folder/to_parent/../file", errno.EXDEV),
        ("loop", errno.ELOOP),
        ("self/x", errno.ELOOP),
        ("chain40", errno.ELOOP),
        ("missing", errno.ENOENT),
        ("missing/../file", errno.ENOENT),
        ("dangling", errno.ENOENT),
        ("file/x", errno.ENOTDIR),
        ("file/..", errno.ENOTDIR),
        ("file/.", errno.ENOTDIR),
        ("file/", errno.ENOTDIR),
        ("to_file/", errno.ENOTDIR),
        ("to_file_slash", errno.ENOTDIR),
        ("x" * 256, errno.ENAMETOOLONG),
    ],
)
def test_what_leads_out_or_nowhere_is_refused(way: Way, root_fd: int, path: str, number: int):
    assert refused(way, root_fd, path, links=True) == errno.errorcode[number]


@pytest.mark.parametrize("path", ["to_file", "to_folder/inner", "absolute_out", "out_by_dots", "dangling"])
def test_no_link_is_followed_where_none_may_be(way: Way, root_fd: int, path: str):
    assert refused(way, root_fd, path, links=False) == "ELOOP"


@pytest.mark.parametrize("path", ["", ".", "./", "folder/..", "to_root"])
def test_the_root_itself_can_be_named(way: Way, root_fd: int, path: str):
    fd = way(root_fd, path, os.O_RDONLY | os.O_DIRECTORY, links=True)
    try:
        assert os.path.samestat(os.fstat(fd), os.fstat(root_fd))
    finally:
        os.close(fd)


def test_a_link_is_opened_as_itself_where_it_is_asked_for(way: Way, root_fd: int):
    for links in (True, False):
        fd = way(root_fd, "absolute_out", os.O_PATH | os.O_NOFOLLOW, links=links)
        try:
            assert os.readlink("", dir_fd=fd).endswith("/outside/secret")
        finally:
            os.close(fd)


def test_a_file_is_created_beneath_and_nowhere_else(way: Way, root: Path, root_fd: int):
    flags = os.O_WRONLY | os.O_CREAT
    os.close(way(root_fd, "folder/made", flags, 0o640, links=False))
    os.close(way(root_fd, "dangling", flags, 0o600, links=True))
    assert (root / "folder/made").stat().st_mode & 0o777 == 0o640
    assert (root / "nowhere").exists()
    (root / "out").symlink_to("../outside/made")
    for path, links in [("../made", True), ("out", True), ("out", False)]:
        assert refused(way, root_fd, path, flags, links=links) in ("EXDEV", "ELOOP")
    assert sorted(os.listdir(root.parent / "outside")) == ["secret"]


@pytest.mark.parametrize("path", ["self/root/etc/passwd", "self/fd/{}", "self/cwd", "self/ns/mnt"])
def test_a_magic_link_is_refused(way: Way, tmp_path: Path, path: str):
    proc = os.open("/proc", os.O_PATH)
    held = os.open(tmp_path, os.O_PATH)
    try:
        assert refused(way, proc, path.format(held), links=True) == "ELOOP"
    finally:
        os.close(proc)
        os.close(held)


def test_a_descriptor_is_not_inherited_and_none_is_left_open(way: Way, root_fd: int):
    with leaving_nothing_open():
        fd = way(root_fd, "folder/deep/leaf", os.O_RDONLY, links=True)
        assert not os.get_inheritable(fd)
        os.close(fd)
        for path in ("folder/deep/climb", "to_folder/up/x", "chain40", "folder/deep/nothing"):
            refused(way, root_fd, path, links=True)


def test_bytes_that_are_no_utf8_are_a_name(way: Way, root: Path, root_fd: int):
    name = b"caf\xe9"
    Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_text("bytes")
    assert content(way(root_fd, os.fsdecode(name), os.O_RDONLY, links=True)) == "bytes"


def test_a_zero_byte_is_no_end_of_a_path(way: Way, root_fd: int):
    with pytest.raises(ValueError, match="null"):
        way(root_fd, "file\0/../../outside", os.O_RDONLY, links=True)


def test_what_has_to_be_waited_for_is_not_opened_where_waiting_is_not_wanted(way: Way, root_fd: int):
    try:
        fd = way(root_fd, "file", os.O_RDONLY, links=True, cached=True)
    except BlockingIOError:
        return
    assert content(fd) == "file"


@needs_openat2
def test_both_ways_agree_on_every_short_path(root_fd: int):
    """Every path of up to three components, with every use of a descriptor that changes nothing."""
    names = [
        "file",
        "folder",
        "deep",
        "to_file",
        "to_folder",
        "to_folder_slash",
        "to_file_slash",
        "folder/up",
    ]
    names += ["..", ".", "", "out_by_dots", "absolute_in", "loop", "dangling", "to_root", "missing"]
    uses = [os.O_RDONLY, os.O_RDONLY | os.O_DIRECTORY, os.O_PATH, os.O_PATH | os.O_NOFOLLOW]
    uses += [os.O_RDONLY | os.O_NOFOLLOW, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY]
    paths = {"/".join(parts) for count in (1, 2) for parts in itertools.product(names, repeat=count)}
    differing = [
        (path, flags, links, *answers)
        for path in sorted(paths)
        for flags in uses
        for links in (True, False)
        if len(set(answers := [answer(way, root_fd, path, flags, links) for way in WAYS.values()])) != 1
    ]
    assert differing == []
    threes = {"/".join(parts) for parts in itertools.product(names, repeat=3)}
    differing = [
        (path, *answers)
        for path in sorted(threes)
        if len(set(answers := [answer(way, root_fd, path, os.O_PATH, True) for way in WAYS.values()])) != 1
    ]
    assert differing == []


def answer(way: Way, root_fd: int, path: str, flags: int, links: bool) -> object:
    """What was opened, or the name of the error."""
    try:
        fd = way(root_fd, path, flags, 0o600, links=links)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def refused(way: Way, root_fd: int, path: str, flags: int = os.O_RDONLY, *, links: bool) -> str:
    """The name of the error."""
    found = answer(way, root_fd, path, flags, links)
    assert isinstance(found, str), f"{path} was opened"
    return found


# -- a path that is exact ---------------------------------------------------------------------------------


def test_an_exact_path_holds_no_link_anywhere(root: Path):
    fd = beneath.open_exactly(str(root / "folder/inner"), os.O_RDONLY)
    assert content(fd) == "inner"
    for path in ("to_folder/inner", "to_file"):
        with pytest.raises(OSError, match="Too many levels of symbolic links"):
            beneath.open_exactly(str(root / path), os.O_RDONLY)


def test_an_exact_path_holds_no_dots(root: Path):
    with pytest.raises(ValueError, match=r"\.\."):
        beneath.open_exactly(f"{root}/folder/../file", os.O_RDONLY)
