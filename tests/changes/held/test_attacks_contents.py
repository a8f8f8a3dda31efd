"""A command that plants what is to be taken for something else: what is told and committed is what it did."""

import mmap
import os
import shutil
import socket
import stat
import struct
from contextlib import chdir, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.changes.held.conftest import CALL, COMMIT, Case
from tests.changes.held.overlays import USER, as_user, seeing, why_no_overlays
from tests.changes.trees import seen

from custody.changes import undo_call
from custody.changes.held.found import on_one_line
from custody.changes.held.manifest import with_renames
from custody.errors import CannotHold
from custody.records import Change, Version

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a program capabilities, and devices")

RAW_SOCKETS = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
"""`cap_net_raw+ep`, as the kernel keeps it."""
CAPABILITIES = "security.capability"

KERNELS = ("opaque", "redirect", "metacopy", "origin", "whiteout", "upper", "impure", "nlink", "protattr")
"""What an overlay marks files with, behind its prefix."""


def with_capabilities(case: Case, name: str, content: bytes = b"#" * 4096) -> Path:
    program = case.make(name, content, 0o777)
    try:
        os.setxattr(program, CAPABILITIES, RAW_SOCKETS)
    except OSError as error:
        pytest.skip(f"a program can be given no capabilities here: {error.strerror}")
    return program


def become(uid: int, place: Path) -> None:
    """That user, working in a folder to which he would not find the way."""
    os.chdir(place)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


# -- rights that nobody gave --------------------------------------------------------------------------------


@as_root
def test_a_program_whose_content_was_changed_through_a_mapping_loses_its_capabilities(case: Case, kind: str):
    """The kernel takes them where a file is written to, and not where a mapping of it is."""
    program = with_capabilities(case, "program")

    def work() -> bytes:
        become(USER, case.root)
        with open("program", "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            memory[:4] = b"evil"
        return os.getxattr("program", CAPABILITIES)

    held = case.hold(work, kind=kind)
    case.commit()

    assert case.shown == RAW_SOCKETS
    assert program.read_bytes()[:4] == b"evil"
    assert os.listxattr(program) == []
    assert len(held.warnings) == 1 and "capabilities" in held.warnings[0]
    undo_call(case.undo, COMMIT, bytes(8))
    assert os.getxattr(program, CAPABILITIES) == RAW_SOCKETS


@as_root
def test_another_name_for_a_program_with_capabilities_has_none_and_the_program_keeps_its_own(
    case: Case, kind: str
):
    program, likeness = with_capabilities(case, "program"), case.make("likeness", b"#" * 4096, 0o777)

    def work() -> None:
        os.link(program, case.root / "again")
        likeness.unlink()
        os.link(program, likeness)
        program.chmod(0o755)

    case.hold(work, kind=kind)
    case.commit()

    assert os.listxattr(program) == [CAPABILITIES]
    assert [os.listxattr(case.root / name) for name in ("again", "likeness")] == [[], []]


@as_root
def test_a_program_that_keeps_its_content_keeps_its_capabilities_without_a_word(case: Case, kind: str):
    program = with_capabilities(case, "program")
    held = case.hold(lambda: program.chmod(0o755), kind=kind)
    case.commit()
    assert (held.warnings, os.listxattr(program)) == ((), [CAPABILITIES])


# -- marks of the kernel ------------------------------------------------------------------------------------


def marked_by_the_command() -> list[str]:
    """The marks that a command could give a folder and a file in it; the folder shows what it did."""
    given: list[str] = []
    for prefix in ("user.overlay.", "trusted.overlay."):
        for name in KERNELS:
            for place in ("d", "d/f"):
                with suppress(PermissionError):
                    os.setxattr(place, prefix + name, b"y")
                    given.append(prefix + name)
    assert sorted(os.listdir("d")) == ["e", "f"]
    return given


@as_root
def test_marks_that_roots_command_gives_are_attributes_and_hide_nothing(case: Case, kind: str):
    case.make("d/e/g")
    case.make("d/f")

    def work() -> list[str]:
        become(USER, case.root)
        return marked_by_the_command()

    for place in (case.root, *case.root.rglob("*")):
        os.chown(place, USER, USER)
    held = case.hold(work, kind=kind)
    assert not any(name.startswith("trusted.") for name in case.shown)
    assert case.told(held) == ({"d": "mode", "d/f": "mode"} if case.shown else {})
    if case.shown:
        case.commit()
        assert set(os.listxattr(case.root / "d")) == set(case.shown)
    assert (case.root / "d" / "e" / "g").read_bytes() == (case.root / "d" / "f").read_bytes() == b"old"


def test_marks_that_an_ordinary_users_command_gives_hide_nothing(folder: Path):
    """In the namespace of an ordinary user they have the kernel's own prefix, and the kernel escapes them."""

    def mark() -> str | None:
        if (why := why_no_overlays(os.fspath(folder))) is not None:
            return why
        case = Case(folder)
        case.make("d/e/g")
        case.make("d/f")

        def work() -> list[str]:
            os.chdir(case.root)
            return marked_by_the_command()

        held = case.hold(work)
        assert set(case.told(held).values()) <= {"mode"}
        if held.entries:
            case.commit()
        assert sorted(os.listdir(case.root / "d")) == ["e", "f"]
        assert (case.root / "d" / "e" / "g").read_bytes() == b"old"
        return None

    if (why := as_user(mark, folder)) is not None:
        pytest.skip(f"an ordinary user can make no namespace with an overlay here: {why}")


@as_root
def test_what_looks_deleted_in_the_root_already_is_replaced_only_where_that_is_told(
    case: Case, overlays: None
):
    """A whiteout that somebody left in the root itself: an overlay shows nothing there."""
    case.make("d/f")
    os.mknod(case.root / "d" / "gone", stat.S_IFCHR, 0)
    os.mknod(case.root / "d" / "stays", stat.S_IFCHR, 0)
    held = case.hold(lambda: (case.root / "d" / "gone").write_bytes(b"new"))
    assert case.told(held) == {"d/gone": "modified"}
    assert [change.undoable for change in held.changes] == [False]
    case.commit()
    assert (case.root / "d" / "gone").read_bytes() == b"new"
    assert stat.S_ISCHR(os.lstat(case.root / "d" / "stays").st_mode)


# -- kinds of files -----------------------------------------------------------------------------------------


def test_a_link_in_the_place_of_a_folder_takes_what_was_beneath_it_and_nothing_of_where_it_leads(
    case: Case, folder: Path, kind: str
):
    for name in ("d/e/f", "d/g"):
        case.make(name)
    elsewhere = folder / "elsewhere"
    shutil.copytree(case.root / "d", elsewhere)
    before = seen(case.root), seen(elsewhere)

    def work() -> None:
        shutil.rmtree(case.root / "d")
        (case.root / "d").symlink_to(elsewhere)

    held = case.hold(work, kind=kind)
    assert case.told(held) == {"d": "modified", "d/e": "deleted", "d/e/f": "deleted", "d/g": "deleted"}
    case.commit()
    assert os.readlink(case.root / "d") == os.fspath(elsewhere)
    assert seen(elsewhere) == before[1]
    undo_call(case.undo, COMMIT, bytes(8))
    assert (seen(case.root), seen(elsewhere)) == before


def test_links_that_lead_round_in_circles_or_nowhere_are_committed_as_they_are(case: Case, kind: str):
    targets = {
        "a": "b",
        "b": "a",
        "self": "self/self",
        "up": "../" * 200 + "etc/passwd",
        "no\nwhere": "/\x1b[2J",
    }

    def work() -> None:
        for name, target in targets.items():
            (case.root / name).symlink_to(target)

    case.hold(work, kind=kind)
    case.commit()
    assert {name: os.readlink(case.root / name) for name in os.listdir(case.root)} == targets


def test_a_deep_tree_is_held_committed_and_taken_back(case: Case, kind: str):
    """Nearly as deep as a path can be spelled."""

    def work() -> None:
        os.chdir(case.root)
        for _ in range(24):
            os.mkdir("d" * 150)
            os.chdir("d" * 150)
        Path("f").write_bytes(b"deep")

    before = seen(case.root)
    assert len(case.hold(work, kind=kind).changes) == 25
    case.commit()
    assert (case.root / "/".join(["d" * 150] * 24) / "f").read_bytes() == b"deep"
    undo_call(case.undo, COMMIT, bytes(8))
    assert seen(case.root) == before


def test_no_file_of_the_root_is_a_way_out_to_who_works_beside_the_command(case: Case, kind: str):
    """A FIFO or socket that lies in the root: through it a descriptor could leave."""
    os.mkfifo(case.root / "fifo", 0o666)
    server = socket.socket(socket.AF_UNIX)
    with chdir(case.root):  # a socket's path is short
        server.bind("socket")
    server.listen()
    server.setblocking(False)
    reading = os.open(case.root / "fifo", os.O_RDONLY | os.O_NONBLOCK)

    def work() -> tuple[bool, bool]:
        os.chdir(case.root)
        return could(lambda: os.open("fifo", os.O_WRONLY | os.O_NONBLOCK)), could(
            lambda: socket.socket(socket.AF_UNIX).connect("socket")
        )

    holding = case.store.begin(CALL, [os.fspath(case.root)], kind="copy" if kind == "copy" else "overlay")
    assert seeing(holding.views, work) == (False, False)
    holding.abandon()
    assert os.read(reading, 1) == b""
    with pytest.raises(BlockingIOError):
        server.accept()
    os.close(reading)
    server.close()


def could(act: object) -> bool:
    assert callable(act)
    try:
        act()
    except OSError:
        return False
    return True


# -- names --------------------------------------------------------------------------------------------------


def test_a_name_cannot_look_like_another_line_of_what_is_said(case: Case, kind: str):
    def work() -> None:
        os.mkfifo(case.root / "x\ncustody: nothing else was changed.\x1b[2J\r\u202e")
        (case.root / "file").write_bytes(b"x")

    (warning,) = case.hold(work, kind=kind).warnings
    assert warning.isprintable()
    assert r"x\ncustody: nothing else was changed.\x1b[2J\r\u202e: a device" in warning


@settings(max_examples=40)
@given(st.text(st.characters(exclude_characters="\0"), min_size=1))
def test_a_path_in_a_sentence_is_one_line_and_plain_ones_are_as_they_are(name: str):
    shown = on_one_line(name)
    assert shown.isprintable() and shown.splitlines() in ([shown], [])
    assert shown == name or not name.isprintable()


# -- numbers ------------------------------------------------------------------------------------------------


def test_files_of_one_content_that_moved_by_the_thousand_are_told_at_once():
    """Each is paired with the one of its name, without looking through all others."""
    version = Version(bytes=4, sha256="00" * 32, mode="0644", target=None)

    def change(path: str, kind: str) -> Change:
        before, after = (version, None) if kind == "deleted" else (None, version)
        return Change(path=path, change=kind, kind="file", before=before, after=after, undoable=True)  # pyright: ignore[reportArgumentType]

    numbers = range(15_000)
    changes = [change(f"/r/old/{number:06}", "deleted") for number in numbers]
    changes += [change(f"/r/new/{number:06}", "created") for number in reversed(numbers)]
    told = with_renames(changes)
    assert len(told) == 15_000
    assert all(
        (one.renamed_from or "").removeprefix("/r/old/") == one.path.removeprefix("/r/new/") for one in told
    )


@pytest.mark.long
def test_attributes_and_names_beyond_a_bound_are_not_held(case: Case, kind: str):
    """They are kept in memory and told wherever the change is, and no bound of content counts them."""

    def work() -> str | None:
        for number in range(1100):
            (case.root / f"{number}").touch()
            try:
                os.setxattr(case.root / f"{number}", "user.large", b"x" * 64_000)
            except OSError as error:
                return error.strerror
        return None

    holding = case.store.begin(CALL, [os.fspath(case.root)], kind="copy" if kind == "copy" else "overlay")
    why = seeing(holding.views, work)
    if why is not None:
        holding.abandon()
        pytest.skip(f"this file system takes no large attributes: {why}")
    with pytest.raises(CannotHold, match="names and attributes") as refused:
        holding.settle()
    assert refused.value.details["limit"] == "files" and refused.value.hint
    assert case.store.calls() == [] and os.listdir(case.root) == []


def test_files_of_one_content_and_other_names_are_paired_in_order_and_each_once():
    version = Version(bytes=4, sha256="00" * 32, mode="0644", target=None)
    gone = [
        Change(path=path, change="deleted", kind="file", before=version, after=None, undoable=True)
        for path in ("/r/a", "/r/b", "/r/c")
    ]
    came = [
        Change(path=path, change="created", kind="file", before=None, after=version, undoable=True)
        for path in ("/s/b", "/s/x", "/s/y", "/s/z")
    ]
    told = {one.path: one.renamed_from for one in with_renames([*gone, *came])}
    assert told == {"/s/b": "/r/b", "/s/x": "/r/a", "/s/y": "/r/c", "/s/z": None}
