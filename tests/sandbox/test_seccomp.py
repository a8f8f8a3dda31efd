import errno
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.errors import SandboxError
from custody.sandbox.walls import seccomp
from custody.sandbox.walls.seccomp import ARCHITECTURES, JUDGED, NEWEST, REFUSED, program

MACHINES = sorted(ARCHITECTURES)
ALLOWED = 0
X32 = 0x40000000
ANYWHERE = 2**64 - 1


def interpret(filter_bytes: bytes, data: bytes) -> int:
    """What the kernel would answer: classic BPF over a struct seccomp_data."""
    instructions = list(struct.iter_unpack("<HBBI", filter_bytes))
    at, loaded = 0, 0
    for _ in range(len(instructions)):
        code, true, false, k = instructions[at]
        at += 1
        if code == 0x20:  # load a word
            assert k % 4 == 0 and k + 4 <= len(data)
            (loaded,) = struct.unpack_from("<I", data, k)
        elif code == 0x54:  # and
            loaded &= k
        elif code == 0x06:  # return
            return k
        elif code == 0x15:  # equal
            at += true if loaded == k else false
        elif code == 0x25:  # greater
            at += true if loaded > k else false
        elif code == 0x45:  # any of the bits
            at += true if loaded & k else false
        else:
            raise AssertionError(f"instruction {code:#x}")
    raise AssertionError("it ran over its end")


def answer_to(machine: str, number: int, *arguments: int, audit: int | None = None) -> int:
    """0 when it is allowed, an errno, or -1 when the process is killed."""
    padded = [argument & ANYWHERE for argument in (*arguments, *[0] * 6)][:6]
    audit = ARCHITECTURES[machine].audit if audit is None else audit
    data = struct.pack("<iIQ6Q", number - 2**32 if number >= 2**31 else number, audit, 0x1000, *padded)
    answer = interpret(program(machine), data)
    if answer == seccomp.ALLOW:
        return ALLOWED
    if answer == seccomp.KILL_PROCESS:
        return -1
    assert answer >> 16 == 5, f"{answer:#x} is no errno"
    return answer & 0xFFFF


def number_of(machine: str, name: str) -> int | None:
    return (REFUSED | JUDGED)[name][ARCHITECTURES[machine].column]


def call(machine: str, name: str, *arguments: int) -> int:
    number = number_of(machine, name)
    assert number is not None
    return answer_to(machine, number, *arguments)


@pytest.mark.parametrize("machine", MACHINES)
def test_ordinary_calls_are_allowed(machine: str) -> None:
    ordinary = set(range(NEWEST + 1)) - {
        number for name in REFUSED | JUDGED if (number := number_of(machine, name)) is not None
    }
    assert {number for number in ordinary if answer_to(machine, number, *[ANYWHERE] * 6)} == set()
    names = {"x86_64": (0, 1, 3, 9, 57, 58, 59, 61, 62, 83), "aarch64": (57, 63, 64, 129, 221, 222, 260)}
    assert ordinary.issuperset(names[machine])  # read, write, close, mmap, fork, vfork, execve, wait4, kill …


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_into_the_kernels_own_affairs_are_refused_whatever_their_arguments(machine: str) -> None:
    numbers = {name: number_of(machine, name) for name in REFUSED}
    for arguments in ([], [ANYWHERE] * 6):
        answers = {
            name: answer_to(machine, number, *arguments)
            for name, number in numbers.items()
            if number is not None
        }
        assert answers == dict.fromkeys(answers, errno.EPERM)
    assert numbers.keys() >= set(
        "mount umount2 pivot_root chroot setns unshare ptrace process_vm_readv process_vm_writev kcmp bpf "
        "pidfd_getfd keyctl add_key request_key io_uring_setup io_uring_enter io_uring_register reboot acct "
        "userfaultfd kexec_load kexec_file_load init_module finit_module delete_module swapon swapoff syslog "
        "perf_event_open open_by_handle_at open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr "
        "settimeofday clock_settime adjtimex quotactl quotactl_fd".split()
    )


@pytest.mark.parametrize("machine", MACHINES)
def test_another_architecture_ends_the_process(machine: str) -> None:
    i386, arm, other = 0x40000003, 0x40000028, {*MACHINES} - {machine}
    for audit in (i386, arm, ARCHITECTURES[other.pop()].audit, 0):
        assert answer_to(machine, 0, audit=audit) == -1


@pytest.mark.parametrize("machine", MACHINES)
def test_x32_and_calls_newer_than_the_filter_are_not_there(machine: str) -> None:
    for number in (NEWEST + 1, 512, 547, X32, X32 | 165, X32 | 520, 2**31, 2**32 - 1):
        assert answer_to(machine, number) == errno.ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_sockets_are_unix_internet_and_route_netlink(machine: str) -> None:
    unix, inet, inet6, netlink, packet, vsock, alg = 1, 2, 10, 16, 17, 40, 38
    stream, dgram, raw, rdm, seqpacket, dccp = 1, 2, 3, 4, 5, 6
    flags = 0x80800  # SOCK_CLOEXEC and SOCK_NONBLOCK

    def socket(family: int, kind: int, protocol: int = 0) -> int:
        answers = {call(machine, "socket", family, kind | bits, protocol) for bits in (0, flags)}
        assert len(answers) == 1
        return answers.pop()

    assert [socket(unix, kind) for kind in (stream, dgram, seqpacket)] == [ALLOWED] * 3
    assert [socket(unix, kind) for kind in (raw, rdm, dccp)] == [errno.EPERM] * 3
    for family in (inet, inet6):
        assert [socket(family, stream, protocol) for protocol in (0, 6)] == [ALLOWED] * 2
        assert [socket(family, dgram, protocol) for protocol in (0, 17, 1, 58)] == [ALLOWED] * 4
        assert [socket(family, kind) for kind in (raw, rdm, seqpacket, dccp, 10)] == [errno.EPERM] * 5
        assert socket(family, raw, 255) == errno.EPERM
        assert [socket(family, stream, protocol) for protocol in (132, 255, 256, 262)] == [
            errno.EPROTONOSUPPORT
        ] * 4  # SCTP, raw, SMC, MPTCP
    assert [socket(netlink, kind) for kind in (raw, dgram)] == [ALLOWED] * 2
    assert [socket(netlink, raw, protocol) for protocol in (4, 9, 12, 15, 16)] == [
        errno.EPROTONOSUPPORT
    ] * 5  # sock_diag, audit, netfilter, kobject_uevent, generic
    for family in (0, 3, packet, vsock, alg, 2**32 - 1):
        assert {socket(family, kind) for kind in (stream, dgram, raw)} == {errno.EAFNOSUPPORT}


@pytest.mark.parametrize("machine", MACHINES)
def test_pairs_of_sockets_carry_no_datagrams_to_elsewhere(machine: str) -> None:
    answers = {kind: call(machine, "socketpair", 1, kind | 0x80000) for kind in range(1, 7)}
    assert answers == {1: ALLOWED, 5: ALLOWED, **dict.fromkeys((2, 3, 4, 6), errno.EPERM)}
    assert call(machine, "socketpair", 30, 1) == errno.EAFNOSUPPORT


@pytest.mark.parametrize("machine", MACHINES)
def test_new_processes_get_no_namespaces(machine: str) -> None:
    threads, child = 0x3D0F00, 0x1200011  # as pthread_create(3) and fork(3) ask
    assert [call(machine, "clone", flags) for flags in (threads, child, 17, 0x4111)] == [ALLOWED] * 4
    for bit in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert call(machine, "clone", child | bit) == errno.EPERM
    assert call(machine, "clone3", 0x7000, 88) == errno.ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_nothing_is_typed_into_a_terminal(machine: str) -> None:
    get_size, get_mode = 0x5413, 0x5401
    assert [call(machine, "ioctl", 0, number) for number in (get_size, get_mode)] == [ALLOWED] * 2
    for number in (0x5412, 0x541C):
        for above in (0, 1 << 32, 0xFFFFFFFF << 32):
            assert call(machine, "ioctl", 0, number | above) == errno.EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_limits_are_set_for_oneself_only(machine: str) -> None:
    assert call(machine, "prlimit64", 0, 7, 0x7000, 0x8000) == ALLOWED
    assert call(machine, "prlimit64", 1, 7, 0, 0x8000) == ALLOWED
    for new in (0x7000, 1 << 32, 0x7FFF00000000, 1 << 63):
        assert call(machine, "prlimit64", 1, 7, new) == errno.EPERM
        assert call(machine, "prlimit64", 1 << 32, 7, new) == ALLOWED  # a process id has 32 bits: 0, oneself


@pytest.mark.parametrize("machine", MACHINES)
def test_files_are_made_but_no_devices(machine: str) -> None:
    for name, at in (("mknod", 1), ("mknodat", 2)):
        if number_of(machine, name) is None:
            continue
        answers = {kind: call(machine, name, *[5] * at, kind << 12 | 0o644) for kind in range(16)}
        assert {kind for kind, answer in answers.items() if answer == ALLOWED} == {
            0,
            1,
            8,
        }
        assert set(answers.values()) == {ALLOWED, errno.EPERM}
    for no_replace, exchange, whiteout in ((1, 2, 4), (0, 0, 6), (1, 3, 5)):
        answers = {
            flags: call(machine, "renameat2", *[ANYWHERE] * 4, flags) for flags in (no_replace, exchange)
        }
        assert set(answers.values()) == {ALLOWED}
        assert call(machine, "renameat2", *[ANYWHERE] * 4, whiteout) == errno.EPERM


MODES = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2, "creat": 1, "mknod": 1, "mknodat": 2}
"""Which argument is the mode, whatever the others are."""
OPENING = {"open": 1, "openat": 2}
"""Which argument holds the flags; the mode follows them."""
BITS = (0o4000, 0o2000, 0o6000)


@pytest.mark.parametrize("machine", MACHINES)
@given(mode=st.integers(0, ANYWHERE))
def test_no_file_gets_a_bit_to_run_as_its_owner_or_group(machine: str, mode: int) -> None:
    for name, at in MODES.items():
        if number_of(machine, name) is None:
            continue
        mode = mode & ~0o170000 if name.startswith("mknod") else mode  # a regular file
        others = [ANYWHERE] * at
        assert call(machine, name, *others, mode & ~0o6000) == ALLOWED
        for bits in BITS:
            assert call(machine, name, *others, mode | bits) == errno.EPERM


@pytest.mark.parametrize("machine", MACHINES)
@given(flags=st.integers(0, ANYWHERE), mode=st.integers(0, ANYWHERE))
def test_a_mode_counts_where_opening_makes_a_file(machine: str, flags: int, mode: int) -> None:
    for name, at in OPENING.items():
        if number_of(machine, name) is None:
            continue
        others = [ANYWHERE] * at
        makes = {flags | os.O_CREAT, flags | 0o20000000, flags | os.O_TMPFILE | os.O_CREAT}
        for bits in BITS:
            assert {call(machine, name, *others, one, mode | bits) for one in makes} == {errno.EPERM}
            assert call(machine, name, *others, flags & ~(os.O_CREAT | 0o20000000), mode | bits) == ALLOWED
        assert {call(machine, name, *others, one, mode & ~0o6000) for one in (*makes, flags)} == {ALLOWED}


@pytest.mark.parametrize("machine", MACHINES)
def test_what_hides_its_mode_in_memory_is_not_there(machine: str) -> None:
    assert call(machine, "openat2", ANYWHERE, 0x7000, 0x8000, 24) == errno.ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_the_personality_may_be_asked_for_and_not_changed(machine: str) -> None:
    assert [call(machine, "personality", value) for value in (0, 0xFFFFFFFF, ANYWHERE)] == [ALLOWED] * 3
    for value in (8, 0x40000, 0x400000, 0x6000000):
        assert call(machine, "personality", value) == errno.EPERM


def test_a_processor_it_has_no_numbers_for_is_refused() -> None:
    with pytest.raises(SandboxError, match="no system call filter"):
        program("riscv64")


@given(
    st.sampled_from(MACHINES),
    st.integers(0, 2**32 - 1) | st.integers(0, NEWEST),
    st.lists(st.integers(0, ANYWHERE), min_size=6, max_size=6),
)
def test_every_call_has_an_answer(machine: str, number: int, arguments: list[int]) -> None:
    known = {ALLOWED, errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}
    assert answer_to(machine, number, *arguments) in known


HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_are_the_kernels(machine: str) -> None:
    header = next((Path(path) for path in HEADERS[machine] if Path(path).exists()), None)
    if header is None:
        pytest.skip("the kernel's headers are not installed")
    found = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)$", header.read_text(), re.MULTILINE)
    theirs = {name: int(number) for name, number in found}
    newest = max(theirs[name] for name in theirs.keys() - {"syscalls"})
    ours = {name: number_of(machine, name) for name in REFUSED | JUDGED}
    unlike = {
        name: (number, theirs.get(name))
        for name, number in ours.items()
        if theirs.get(name) != number and (number is None or number <= newest)
    }
    assert unlike == {}


CHILD = """
import ctypes, json, os, socket, subprocess, sys, threading, tempfile
numbers, program = json.loads(sys.argv[1]), bytes.fromhex(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)

class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]

loaded = Program(len(program) // 8, program)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(loaded), 0, 0) == 0, os.strerror(ctypes.get_errno())

answers = {}
for name, number in numbers.items():
    ctypes.set_errno(0)
    arguments = [ctypes.c_long(-1)] * 6  # without the filter each would only be told that it makes no sense
    libc.syscall(ctypes.c_long(number), *arguments)
    answers[name] = ctypes.get_errno()

def error(do):
    try:
        do()
    except OSError as refused:
        return refused.errno

folder = tempfile.mkdtemp(dir=sys.argv[3])
answers["packet"] = error(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
answers["raw"] = error(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
answers["tcp"] = error(lambda: socket.socket().close())
answers["interfaces"] = error(socket.if_nameindex)
answers["pair"] = error(lambda: [one.close() for one in socket.socketpair()])
answers["datagrams"] = error(lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
answers["fifo"] = error(lambda: os.mkfifo(folder + "/fifo"))
answers["file"] = error(lambda: os.close(os.open(folder + "/file", os.O_CREAT | os.O_RDWR, 0o1755)))
answers["mode"] = error(lambda: os.chmod(folder + "/file", 0o1777))
for bits, mode in (("user", 0o4755), ("group", 0o2755)):
    answers["set " + bits] = error(lambda: os.chmod(folder + "/file", mode))
    answers["made " + bits] = error(lambda: os.open(folder + "/" + bits, os.O_CREAT, mode))
os.mkdir(folder + "/folder", 0o6755)  # the kernel itself takes no such bit from whoever makes a folder
answers["bits"] = oct(os.stat(folder + "/folder").st_mode & 0o6000)
answers["device"] = error(lambda: os.mknod(folder + "/null", 0o20600, os.makedev(1, 3)))
thread = threading.Thread(target=answers.__setitem__, args=("thread", None))
thread.start()
thread.join()
answers["command"] = subprocess.run(["true"]).returncode or None
answers["fork"] = None
pid = os.fork()
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
print(json.dumps(answers))
"""

HARMLESS = (
    "mount umount2 setns unshare open_tree move_mount fsopen fsmount process_vm_readv process_vm_writev kcmp "
    "pidfd_getfd bpf perf_event_open userfaultfd io_uring_setup io_uring_enter keyctl add_key request_key "
    "open_by_handle_at mount_setattr"
).split()  # with arguments that make no sense


@pytest.mark.skipif(os.uname().machine not in ARCHITECTURES, reason="no filter for this processor")
def test_a_process_lives_with_the_filter_and_is_refused_by_it(tmp_path: Path) -> None:
    machine = os.uname().machine
    numbers = {name: number_of(machine, name) for name in HARMLESS}
    numbers |= {name: number_of(machine, name) for name in ("clone3", "openat2")}
    arguments = [json.dumps(numbers), program(machine).hex(), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", CHILD, *arguments], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        **dict.fromkeys(numbers, errno.EPERM),
        **dict.fromkeys(("clone3", "openat2"), errno.ENOSYS),
        "packet": errno.EAFNOSUPPORT,
        "raw": errno.EPERM,
        "datagrams": errno.EPERM,
        "device": errno.EPERM,
        **dict.fromkeys(("set user", "set group", "made user", "made group"), errno.EPERM),
        "bits": "0o0",
        **dict.fromkeys(
            ("tcp", "interfaces", "pair", "fifo", "file", "mode", "thread", "command", "fork"),
        ),
    }
