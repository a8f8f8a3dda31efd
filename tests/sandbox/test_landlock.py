import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from custody.errors import SandboxError
from custody.sandbox.walls import landlock
from custody.sandbox.walls.landlock import DEVICES, FILE_RIGHTS, Ruleset, ruleset
from custody.sandbox.walls.model import Network

READ = landlock.READ_FILE | landlock.READ_DIR
EXECUTE = landlock.EXECUTE
NEVER_GIVEN = landlock.MAKE_CHAR | landlock.MAKE_BLOCK | landlock.RESOLVE_UNIX
ABIS = range(landlock.ABI_MIN, 12)


def rules_of(
    abi: int = 7,
    *,
    read: tuple[str, ...] = (),
    write: tuple[str, ...] = (),
    execute: tuple[str, ...] | None = None,
    network: Network = "open",
) -> dict[str, int]:
    """Those for places; devices left out."""
    made = ruleset(abi, read=read, write=write, execute=execute, network=network)
    return {path: rights for path, rights in made.rules if path not in DEVICES}


@pytest.mark.parametrize("abi", [-1, 0, 1, 2])
def test_an_abi_that_lets_files_be_truncated_is_refused(abi: int) -> None:
    with pytest.raises(SandboxError, match="`confined` needs 3"):
        ruleset(abi, read=("/",), write=(), execute=None, network="none")


@pytest.mark.parametrize(
    ("abi", "fs"),
    [(3, 0x7FFF), (4, 0x7FFF), (5, 0xFFFF), (6, 0xFFFF), (7, 0xFFFF), (8, 0xFFFF), (9, 0x1FFFF)],
)
def test_every_right_of_the_abi_is_handled(abi: int, fs: int) -> None:
    made = ruleset(abi, read=("/usr",), write=("/srv",), execute=None, network="open")
    assert (made.fs, made.net, made.scoped) == (fs, 0, 3 if abi >= 6 else 0)


@pytest.mark.parametrize("abi", ABIS)
def test_no_rule_gives_what_is_not_handled(abi: int) -> None:
    made = ruleset(abi, read=("/usr",), write=("/srv",), execute=("/usr/bin",), network="none")
    assert [path for path, rights in made.rules if not rights or rights & ~made.fs] == []


def test_tcp_is_handled_where_there_is_no_network_at_all() -> None:
    networks: tuple[Network, ...] = ("none", "loopback", "listed", "open")
    handled = {
        (abi, network): ruleset(abi, read=(), write=(), execute=None, network=network).net
        for abi in (3, 4, 7)
        for network in networks
    }
    both = landlock.BIND_TCP | landlock.CONNECT_TCP
    assert handled == {**dict.fromkeys(handled, 0), (4, "none"): both, (7, "none"): both}


def test_what_is_readable_may_be_read_and_executed_and_nothing_else() -> None:
    assert rules_of(read=("/usr", "/srv")) == {"/usr": READ | EXECUTE, "/srv": READ | EXECUTE}


def test_what_is_writable_may_be_changed_in_all_ways_but_devices_and_sockets_of_others() -> None:
    for abi in ABIS:
        everything = landlock.handled_fs(abi) & ~NEVER_GIVEN & ~landlock.IOCTL_DEV
        assert rules_of(abi, write=("/srv",)) == {"/srv": everything}


def test_a_place_both_readable_and_writable_has_one_rule() -> None:
    assert rules_of(read=("/srv", "/usr"), write=("/srv",)) == {
        "/srv": rules_of(write=("/srv",))["/srv"],
        "/usr": READ | EXECUTE,
    }


def test_listed_programs_are_executed_where_reading_is_allowed_and_nowhere_else() -> None:
    rights = rules_of(read=("/usr",), write=("/srv",), execute=("/usr/bin", "/root/bin", "/"))
    assert rights["/usr"] == READ | EXECUTE  # beneath `/`, all that may be read
    assert "/root/bin" not in rights
    assert "/" not in rights
    rights = rules_of(read=("/usr",), write=("/srv",), execute=("/usr/bin", "/root/bin"))
    assert rights == {
        "/usr": READ,
        "/usr/bin": EXECUTE,
        "/srv": rules_of(write=("/srv",))["/srv"] & ~EXECUTE,
    }
    assert rules_of(read=("/usr",), execute=()) == {"/usr": READ}


def test_pseudo_terminals_are_given_only_where_none_is_somebody_elses() -> None:
    def devices(*, terminals: bool) -> set[str]:
        made = ruleset(7, read=(), write=(), execute=None, network="open", terminals=terminals)
        return {path for path, _ in made.rules}

    assert devices(terminals=True) - devices(terminals=False) == {"/dev/ptmx", "/dev/pts"}


def test_devices_are_read_and_written_and_not_executed_nor_made() -> None:
    made = ruleset(7, read=(), write=(), execute=None, network="open")
    assert [path for path, _ in made.rules] == sorted(DEVICES)
    expected = FILE_RIGHTS & ~EXECUTE & ~landlock.RESOLVE_UNIX | landlock.READ_DIR
    assert {rights for _, rights in made.rules} == {expected}


CHILD = """
import ctypes, json, os, stat, struct, sys
fs, net, scoped, rules, file_rights, tries = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    answer = libc.syscall(ctypes.c_long(number), *arguments)
    assert answer >= 0, os.strerror(ctypes.get_errno())
    return answer

attributes = struct.pack("QQQ", fs, net, scoped)
made = call(444, attributes, ctypes.c_size_t(len(attributes)), 0)
for path, rights in rules:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        continue
    rights &= -1 if stat.S_ISDIR(os.fstat(place).st_mode) else file_rights
    call(445, made, 1, struct.pack("=Qi", rights, place), 0)
assert libc.prctl(38, 1, 0, 0, 0) == 0
call(446, made, 0)
for name, code in tries.items():
    try:
        exec(code)
        tries[name] = None
    except OSError as refused:
        tries[name] = refused.errno
print(json.dumps(tries))
"""


def in_domain(made: Ruleset, tries: dict[str, str]) -> dict[str, int | None]:
    """What each line of Python meets in a process that has entered it: None or an errno."""
    argument = json.dumps([made.fs, made.net, made.scoped, made.rules, FILE_RIGHTS, tries])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", CHILD, argument], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_process_that_enters_the_domain_reaches_what_it_was_given(tmp_path: Path) -> None:
    abi = landlock_abi()
    if abi < landlock.ABI_MIN:
        pytest.skip(f"Landlock has ABI {abi} here")
    for name in ("outside", "readable", "writable"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("sentinel")
    inside = {name: str(tmp_path / name) for name in ("outside", "readable", "writable")}
    system = tuple(
        {os.path.realpath(path) for path in ("/usr", "/lib", "/lib64", sys.base_prefix, sys.prefix)}
    )
    made = ruleset(
        abi, read=(*system, inside["readable"]), write=(inside["writable"],), execute=system, network="none"
    )
    at = "open({!r} + '/file', {!r}).close()"
    copy = inside["writable"] + "/program"
    met = in_domain(
        made,
        {
            "read outside": at.format(inside["outside"], "r"),
            "write outside": at.format(inside["outside"], "a"),
            "list outside": f"os.listdir({inside['outside']!r})",
            "truncate outside": f"os.truncate({inside['outside'] + '/file'!r}, 0)",
            "read readable": at.format(inside["readable"], "r"),
            "write readable": at.format(inside["readable"], "a"),
            "truncate readable": f"os.truncate({inside['readable'] + '/file'!r}, 0)",
            "remove readable": f"os.unlink({inside['readable'] + '/file'!r})",
            "move in": f"os.rename({inside['readable'] + '/file'!r}, {inside['writable'] + '/moved'!r})",
            "write writable": at.format(inside["writable"], "a"),
            "truncate writable": f"os.truncate({inside['writable'] + '/file'!r}, 0)",
            "make and remove": f"os.mkdir({copy!r}); os.rmdir({copy!r})",
            "execute listed": "os.waitpid(os.posix_spawn('/usr/bin/env', ['env'], {}), 0)",
            "execute elsewhere": (
                f"open({copy!r}, 'w').write('#!/usr/bin/env true'); os.chmod({copy!r}, 0o755);"
                f"os.posix_spawn({copy!r}, ['program'], {{}})"
            ),
            "null": "open('/dev/null', 'w').close()",
            "connect": "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
        },
    )
    refused = {name for name, error in met.items() if error == 13}
    allowed = {name for name, error in met.items() if error is None}
    assert allowed == {
        "read readable", "write writable", "truncate writable", "make and remove", "execute listed", "null",
    }  # fmt: skip
    assert refused == met.keys() - allowed - ({"connect"} if abi < 4 else set())
    assert (tmp_path / "outside" / "file").read_text() == "sentinel"
    assert (tmp_path / "readable" / "file").read_text() == "sentinel"


def landlock_abi() -> int:
    code = "import ctypes; print(ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1))"
    return int(
        subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, timeout=30).stdout
    )
