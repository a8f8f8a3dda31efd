"""A command behind walls that wants more of its overlay than a view: the layers, marks of the kernel, a life
after its end."""

import hashlib
import json
import os
from pathlib import Path

from tests.sandbox.overlays import Held, needs_python
from tests.sandbox.test_overlay import kinds

pytestmark = needs_python

TRIED = """
import ctypes, errno, fcntl, json, os, struct
library = ctypes.CDLL(None, use_errno=True)
said = {}
def tried(name, act):
    try:
        act()
        said[name] = "done"
    except OSError as error:
        said[name] = errno.errorcode[error.errno]
def renamed(flags):
    ctypes.set_errno(0)
    if library.renameat2(-100, b"renamed", -100, b"away", flags) < 0:
        raise OSError(ctypes.get_errno(), "")
def flagged(flag):
    descriptor = os.open("mode", os.O_RDONLY)
    fcntl.ioctl(descriptor, 0x40086602, struct.pack("l", flag))
"""


def tried(held: Held, lines: str) -> dict[str, str]:
    """What each attempt of a command met, by its name."""
    return json.loads(held.python(f"{TRIED}\n{lines}\nprint(json.dumps(said))")[-1])


def test_a_command_makes_no_mark_that_says_a_file_is_gone_and_gives_itself_no_rights(held: Held) -> None:
    said = tried(
        held,
        """
tried("whiteout", lambda: os.mknod("white", 0o020644, 0))
tried("block", lambda: os.mknod("block", 0o060644, os.makedev(7, 0)))
tried("rename leaving a whiteout", lambda: renamed(4))
tried("capabilities", lambda: os.setxattr("mode", "security.capability",
      struct.pack("<5I", 0x02000001, 0x2000, 0, 0, 0)))
tried("capabilities of a namespace", lambda: os.setxattr("mode", "security.capability",
      struct.pack("<6I", 0x03000001, 0x2000, 0, 0, 0, 0)))
tried("immutable", lambda: flagged(0x10))
tried("append only", lambda: flagged(0x20))
tried("set-user-id", lambda: os.chmod("mode", 0o4755))
tried("given away", lambda: os.chown("mode", 12345, -1))
for name in ("opaque", "redirect", "metacopy", "whiteout", "origin"):
    tried("trusted." + name, lambda: os.setxattr("deep", "trusted.overlay." + name, b"y"))
""",
    )
    assert "done" not in said.values(), said
    assert len(said) == 14
    assert not [kind for kind in kinds(held.upper).values() if kind in ("gone", "opaque folder")]


def test_no_way_leads_from_the_view_to_what_it_is_made_of(held: Held) -> None:
    (held.upper / "planted").write_text("of the layer\n")
    os.chown(held.upper / "planted", held.owner, held.owner)
    said = tried(
        held,
        f"""
import glob
for place in ({str(held.upper)!r}, {str(held.work)!r}, {str(held.folder / "held")!r}):
    tried("list " + place, lambda: os.listdir(place))
    tried("write " + place, lambda: open(place + "/x", "w"))
    for way in ("/proc/1/root", "/proc/self/root", "/proc/self/cwd/../.."):
        tried(way + place, lambda: os.listdir(way + place))
with open("/proc/self/mountinfo") as file:
    mine = [line for line in file if " overlay " in line]
said["mounts"] = str(len(mine))
said["told"] = str(any({str(held.folder / "held")!r} in line for line in mine))
for number in range(64):
    for whose in ("self", "1"):
        try:
            leads = os.readlink(f"/proc/{{whose}}/fd/{{number}}")
        except OSError:
            continue
        if {str(held.folder)!r} in leads and "root" not in leads:
            said["descriptor"] = leads
""",
    )
    assert said.pop("mounts") == "1" and said.pop("told") == "False"
    assert "descriptor" not in said
    assert len(said) == 15 and "done" not in said.values(), said


LIVES_ON = """
import mmap, os, sys
file = open("mapped", "r+b")
memory = mmap.mmap(file.fileno(), 0)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        import signal
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        os.close(1), os.close(2)
        count = 0
        while True:
            count += 1
            memory[:6] = b"%06d" % (count % 1000000)
            if count % 50 == 0:
                open(f"new-{count % 500}", "w").write("x")
    os._exit(0)
print("over")
"""


def test_what_lives_on_writes_nothing_once_the_launcher_has_ended(held: Held) -> None:
    """Also not through a mapping, which no system call is needed to write to."""
    assert held.python(LIVES_ON) == ["over"]
    first = contents(held.upper)
    assert first["mapped"][1] and first == contents(held.upper)
    assert not [place for place in Path("/proc").glob("[0-9]*/maps") if str(held.folder) in readable(place)]


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    return {
        path.name: (path.stat().st_ctime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file()
    }


def readable(place: Path) -> str:
    try:
        return place.read_text(errors="replace")
    except OSError:
        return ""


def test_a_name_whose_content_is_in_the_root_is_written_to_in_the_layer_by_whatever_way(held: Held) -> None:
    """By another name, by a descriptor opened to be read and opened again, by one that only names it."""
    before = held.state()
    said = held.python(
        """
import os
os.link("twin", "third")
reading = os.open("twin2", os.O_RDONLY)
again = os.open(f"/proc/self/fd/{reading}", os.O_RDWR)
os.write(again, b"WRITTEN")
path = os.open("cut", os.O_PATH)
os.truncate(f"/proc/self/fd/{path}", 1)
os.chmod(f"/proc/self/fd/{path}", 0o600)
os.setxattr(f"/proc/self/fd/{path}", "user.x", b"y")
os.utime(f"/proc/self/fd/{path}", (1, 1))
folder = os.open("deep", os.O_RDONLY)
os.unlink("deeper/inner", dir_fd=folder)
os.symlink("../../../../../../etc", "up", dir_fd=folder)
print("done")
"""
    )
    assert said == ["done"]
    assert held.state() == before
    assert {"third", "twin2", "cut", "deep", "deep/deeper", "deep/deeper/inner", "deep/up"} <= set(
        kinds(held.upper)
    )
