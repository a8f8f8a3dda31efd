"""Behind an overlay a root stays as it is, whatever a command does to it; what was changed lies beside it."""

import errno
import json
import os
import stat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.sandbox.overlays import OWNER, STRANGER, WORKSPACE, Held, needs_python, unlock
from tests.sandbox.test_confine import (
    Walled,
    as_root,
    walled,
)

from custody.sandbox.launcher import kernel
from custody.sandbox.launcher.user_namespace import swapped


def kinds(upper: Path) -> dict[str, str]:
    """What lies in an upper layer, in one word each."""
    found: dict[str, str] = {}
    prefix = str(upper) + "/"
    for path in upper.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISCHR(mode) and path.lstat().st_rdev == 0:
            kind = "gone"
        elif stat.S_ISDIR(mode):
            marks = [name for name in os.listxattr(path) if name.endswith("overlay.opaque")]
            kind = "opaque folder" if marks and os.getxattr(path, marks[0]) == b"y" else "folder"
        elif stat.S_ISLNK(mode):
            kind = f"-> {path.readlink()}"
        elif stat.S_ISFIFO(mode):
            kind = "fifo"
        else:
            kind = path.read_text()
        found[str(path).removeprefix(prefix)] = kind
    return found


# -- what a command changes -------------------------------------------------------------------------------

CHANGES = """
import mmap, os, shutil
open("changed", "a").write("and more")
open("new", "w").write("new")
os.unlink("removed")
os.rename("renamed", "other name")
os.chmod("mode", 0o700)
os.utime("times", (1, 2))
os.setxattr("attribute", "user.note", b"noted")
os.truncate("cut", 3)
with open("mapped", "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
    memory[:6] = b"MAPPED"
os.link("twin", "twin3")
open("twin3", "a").write("linked")
os.unlink("link"); os.symlink("/etc/passwd", "link")
shutil.rmtree("replaced"); os.mkdir("replaced"); open("replaced/fresh", "w").write("fresh")
shutil.rmtree("folder"); open("folder", "w").write("a file now")
shutil.move("moved", "moved away")
os.mkfifo("fifo")
os.chmod("deep", 0o711)
os.mkdir("deep/deeper/made")
made = os.open(".", os.O_TMPFILE | os.O_RDWR)
os.write(made, b"had no name")
os.link(f"/proc/self/fd/{made}", "named", src_dir_fd=made, follow_symlinks=True)
print("done")
"""


@needs_python
def test_the_root_stays_as_it_was_and_what_was_changed_lies_beside_it(held: Held) -> None:
    before = held.state()
    assert held.python(CHANGES) == ["done"]
    assert held.state() == before
    assert kinds(held.upper) == {
        "changed": "changed as it was\nand more",
        "new": "new",
        "removed": "gone",
        "renamed": "gone",
        "other name": "renamed as it was\n",
        "mode": "mode as it was\n",
        "times": "times as it was\n",
        "attribute": "attribute as it was\n",
        "cut": "cut",
        "mapped": "MAPPED as it was\n",
        "twin": "twin as it was\nlinked",
        "twin3": "twin as it was\nlinked",
        "link": "-> /etc/passwd",
        "replaced": "opaque folder",
        "replaced/fresh": "fresh",
        "folder": "a file now",
        "moved": "gone",
        "moved away": "folder",
        "moved away/inner": "moved/inner as it was\n",
        "fifo": "fifo",
        "deep": "folder",
        "deep/deeper": "folder",
        "deep/deeper/made": "folder",
        "named": "had no name",
    }
    assert stat.S_IMODE((held.upper / "mode").stat().st_mode) == 0o700
    assert stat.S_IMODE((held.upper / "deep").stat().st_mode) == 0o711
    assert (held.upper / "times").stat().st_mtime == 2
    assert os.getxattr(held.upper / "attribute", "user.note") == b"noted"
    assert (held.upper / "twin").samefile(held.upper / "twin3")


@needs_python
def test_the_command_sees_its_own_changes(held: Held) -> None:
    look = "import json\nprint(json.dumps([sorted(os.listdir()), sorted(os.listdir('replaced')),"
    look += "open('changed').read(), os.stat('mode').st_mode & 0o777, os.stat('.').st_uid == os.getuid()]))"
    there, replaced, changed, mode, own = json.loads(held.python(CHANGES + look)[-1])
    assert "removed" not in there and {"new", "other name", "moved away"} <= set(there)
    assert (replaced, changed, mode, own) == (["fresh"], "changed as it was\nand more", 0o700, True)


def test_what_is_not_changed_is_not_copied(held: Held) -> None:
    assert held.run("cat changed deep/deeper/inner; ls -R > /dev/null") == [
        "changed as it was",
        "deep/deeper/inner as it was",
    ]
    assert kinds(held.upper) == {}


@as_root
@pytest.mark.parametrize("owner", [0, OWNER])
def test_what_roots_command_makes_belongs_on_disk_to_the_owner_of_the_root(owner: int) -> None:
    with TemporaryDirectory(dir="/tmp") as folder:
        held = Held(Path(folder, "a"), owner, None)
        strange = held.root / "strange"
        strange.write_text("old")
        strange.chmod(0o666)
        for path in (strange, held.root / "deep"):  # whose folder is copied for what is changed in it
            os.chown(path, STRANGER, STRANGER)
        lines = held.run(
            "echo new > new; echo more >> changed; chmod 600 mode; echo by all >> strange; mkdir made;"
            "echo more >> deep/deeper/inner; stat -c %u . new strange"
        )
        uid = lines[0]
        assert lines == [uid, uid, str(STRANGER)] and int(uid) not in (0, owner)
        own = {(held.upper / name).stat()[4:6] for name in ("new", "changed", "mode", "made", "deep/deeper")}
        assert own == {(owner, owner)}
        for name in ("strange", "deep"):
            assert (held.upper / name).stat()[4:6] == (STRANGER, STRANGER)


# -- no way around it -------------------------------------------------------------------------------------


@needs_python
def test_no_other_path_leads_to_the_root_or_to_what_is_held(held: Held) -> None:
    before = held.state()
    root, upper = held.root, held.upper
    paths = [f"/proc/self/root{root}", f"/proc/self/cwd/../{root.name}", f"/proc/1/root{root}", f"//{root}/."]
    lines = held.python(
        f"import os, json\nsaid = []\nfor path in {paths!r}:\n"
        "    try: open(path + '/changed', 'a').write('by another path'); said.append('written')\n"
        "    except OSError: said.append('refused')\n"
        f"for path in ({str(upper)!r}, {str(held.work)!r}, {str(upper.parent)!r}):\n"
        "    said.append(os.path.exists(path))\n"
        "print(json.dumps(said)); print(open('/proc/self/mountinfo').read())"
    )
    assert json.loads(lines[0]) == ["written", "written", "refused", "written", False, False, False]
    assert str(upper.parent) not in "".join(lines)
    assert held.state() == before
    assert (upper / "changed").read_text().count("by another path") == 3


CALLS = """
import ctypes, errno, json, os
library = ctypes.CDLL(None, use_errno=True)
def tried(name, *arguments):
    ctypes.set_errno(0)
    said[name] = errno.errorcode.get(ctypes.get_errno()) if getattr(library, name)(*arguments) < 0 else "done"
def call(name, number, *arguments):
    ctypes.set_errno(0)
    result = library.syscall(ctypes.c_long(number), *arguments)
    said[name] = errno.errorcode.get(ctypes.get_errno()) if result < 0 else "done"
said = {}
here = os.getcwd().encode()
tried("umount2", here, 2)
tried("umount", here)
tried("mount", b"none", here, None, ctypes.c_ulong(32), None)
tried("mount", b"none", here, None, ctypes.c_ulong(1 << 18), None)
tried("unshare", 0x10020000)
tried("chroot", here)
call("open_tree", 428, -100, here, 1)
call("move_mount", 429, -100, here, -100, b"/tmp", 0)
call("fsopen", 430, b"overlay", 0)
call("fspick", 433, -100, here, 0)
call("mount_setattr", 442, -100, here, 0, b"\\0" * 32, 32)
call("open_by_handle_at", OPEN_BY_HANDLE, -100, b"\\0" * 136, 0)
print(json.dumps(said))
"""


@needs_python
def test_no_call_takes_the_overlay_away(held: Held) -> None:
    number = {"x86_64": 304, "aarch64": 265}[os.uname().machine]
    said = json.loads(held.python(CALLS.replace("OPEN_BY_HANDLE", str(number)))[0])
    assert set(said.values()) == {"EPERM"} and len(said) == 11


@needs_python
def test_a_command_cannot_write_what_the_kernel_would_read_from_the_layer(held: Held) -> None:
    """A mark of its own would make the kernel, or whoever reads the layer, believe what never happened."""
    said = held.python(
        "import os, stat\n"
        "for name in ('user.overlay.opaque', 'trusted.overlay.opaque'):\n"
        "    try: os.setxattr('deep', name, b'y')\n"
        "    except OSError: pass\n"
        "try: os.mknod('changed2', stat.S_IFCHR); print('made')\n"
        "except OSError: print('refused')"
    )
    assert said == ["refused"]
    read = "user" if held.program is not None else "trusted"
    marks = os.listxattr(held.upper / "deep") if (held.upper / "deep").exists() else []
    assert f"{read}.overlay.opaque" not in marks
    assert "changed2" not in kinds(held.upper)


# -- several roots, and places in them --------------------------------------------------------------------


@pytest.fixture
def second(held: Held) -> Held:
    return Held(held.folder.parent / "b", held.owner, held.program)


def test_every_root_has_a_view_of_its_own(held: Held, second: Held) -> None:
    before = held.state(), second.state()
    roots = (str(held.root), str(second.root))
    script = f"echo one >> changed; echo two >> {second.root}/changed; mv removed {second.root}/from-a"
    assert held.run(script, held.view(), second.view(), roots=roots) == []
    assert (held.state(), second.state()) == before
    assert kinds(held.upper) == {"changed": "changed as it was\none\n", "removed": "gone"}
    assert kinds(second.upper) == {"changed": "changed as it was\ntwo\n", "from-a": "removed as it was\n"}


def test_a_root_within_a_root_is_seen_through_the_view_of_the_outer_one(held: Held) -> None:
    before = held.state()
    roots = (str(held.root), str(held.root / "deep"))
    assert held.run("echo x > deep/new; echo y > deep/deeper/new; ls deep", roots=roots) == ["deeper", "new"]
    assert held.state() == before
    assert {"deep/new", "deep/deeper/new"} <= set(kinds(held.upper))


def test_a_place_in_a_root_that_is_to_be_read_alone_is_not_changed_in_its_view_either(held: Held) -> None:
    sandbox = replace(WORKSPACE, name="careful", read=(str(held.root / "deep"),))
    lines = held.run("echo x > deep/new || echo refused; echo y > new", sandbox=sandbox)
    assert lines[-1] == "refused"
    assert "deep/new" not in kinds(held.upper) and kinds(held.upper)["new"] == "y\n"


def test_what_is_held_is_not_seen_where_everything_around_it_may_be_read(held: Held) -> None:
    sandbox = replace(WORKSPACE, name="nosy", read=(str(held.folder),))
    assert held.run(f"ls {held.folder}; ls -A {held.upper.parent}; echo x > new", sandbox=sandbox) == [
        "held",
        "root",
    ]
    assert kinds(held.upper) == {"new": "x\n"}


def test_a_copy_is_seen_in_the_place_of_its_root(held: Held) -> None:
    before = held.state()
    (held.upper / "copied").write_text("of the root\n")
    os.chown(held.upper / "copied", held.owner, held.owner)
    view = held.view(kind="copy", work="")
    assert held.run("ls; echo more >> copied; echo new > new", view) == ["copied"]
    assert held.state() == before
    assert kinds(held.upper) == {"copied": "of the root\nmore\n", "new": "new\n"}
    assert (held.upper / "new").stat().st_uid == held.owner


# -- what cannot be had -----------------------------------------------------------------------------------


def refusal(held: Held, **changes: Any) -> str:
    """What a launcher says that will not start."""
    wanted = held.plan()
    wanted["overlay"] = [
        tuple(changes.get(name, getattr(held.view(), name)) for name in ("root", "upper", "work"))
    ]
    one = Walled(wanted, held.program)
    try:
        one.channel.close()  # which ends it if it is there after all
        said, code = one.refusal()
    finally:
        one.close()
    assert code == 71
    return said


def test_a_layer_that_cannot_be_one_is_refused_by_the_name_of_the_wall(held: Held) -> None:
    (held.folder / "held" / "link").symlink_to("upper")
    cases: list[tuple[dict[str, str], int | None]] = [
        ({"upper": "/proc/tty", "work": "/proc/bus"}, None),
        ({"upper": str(held.folder / "held" / "missing")}, errno.ENOENT),
        ({"upper": str(held.folder / "held" / "link")}, errno.ELOOP),
        ({"work": str(held.root)}, errno.EINVAL),
        ({"root": str(held.root / "changed")}, None),
        ({"work": str(held.upper)}, None),
    ]
    for changes, number in cases:
        said = refusal(held, **changes)
        wall, _, why = said.partition(": ")
        assert wall == "overlay", said
        assert said.count("\n") == 1 and int(why.split()[0]) == (number or int(why.split()[0]))


@as_root
@pytest.mark.parametrize(
    ("forbidden", "says"),
    [(kernel.MOUNT_NO_EXECUTE, "Permission denied"), (kernel.MOUNT_READ_ONLY, "Read-only file system")],
)
def test_what_the_mount_of_a_root_forbids_its_overlay_forbids(forbidden: int, says: str) -> None:
    with TemporaryDirectory(dir="/tmp") as folder:
        held = Held(Path(folder, "a"), 0, None)
        (held.root / "changed").write_text("#!/bin/sh\necho ran\n")
        (held.root / "changed").chmod(0o755)

        def mount_so() -> None:
            kernel.unshare(kernel.CLONE_NEWNS)
            kernel.make_mounts_private()
            place = kernel.open_path(str(held.root))
            mount = kernel.clone_mount(place)
            kernel.restrict_mount(mount, forbidden)
            kernel.attach_mount(mount, place)

        with walled(held.plan(), preexec_fn=mount_so) as launcher:
            lines = launcher.run("./changed 2>&1; echo new > new || echo refused", cwd=str(held.root))
        assert says in "".join(lines)
        assert ("ran" in lines, "refused" in lines) == (forbidden == kernel.MOUNT_READ_ONLY,) * 2


def test_nothing_of_it_is_left_mounted(held: Held) -> None:
    def mounts() -> list[str]:
        return Path("/proc/self/mountinfo").read_text().splitlines()

    before = [line for line in mounts() if str(held.folder) in line]
    with held.walled() as launcher:
        assert launcher.run("true", cwd=str(held.root)) == []
        assert [line for line in mounts() if str(held.folder) in line] == before == []
        open_files = Path(f"/proc/{launcher.process.pid}/fd")
        assert not [link for link in map(os.readlink, open_files.iterdir()) if str(held.folder) in link]
    unlock(held.folder)
    for path in sorted((held.folder / "held").rglob("*"), reverse=True):  # nobody is using them any more
        path.rmdir() if path.is_dir() else path.unlink()


# -- whose files are shown as whose -----------------------------------------------------------------------

numbers = st.integers(0, 2**32 - 2)


@given(one=numbers, other=numbers, there=st.sets(st.integers(0, 2**32 - 2), max_size=6))
def test_two_users_stand_for_one_another_and_all_others_for_themselves(
    one: int, other: int, there: set[int]
) -> None:
    cuts = sorted(there)
    ranges = [(a, b - a) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    lines = swapped(one, other, "\n".join(f"{first} {first + 7} {count}" for first, count in ranges))
    shown = [tuple(map(int, line.split())) for line in lines.splitlines()]
    assert sum(count for _, _, count in shown) == sum(count for _, count in ranges)
    for first, to, count in shown:
        for number, shown_as in ((first, to), (first + count - 1, to + count - 1)):
            assert shown_as == {one: other, other: one}.get(number, number)
    assert len(shown) <= len(ranges) + 4
