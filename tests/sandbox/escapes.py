"""Small programs that try to get out of a confined command, each in one way.

Each is harmless even where it succeeds: what it opens it does not write to, unless it is a sentinel of the
test; what it signals is its own launcher. And none of them begins before it has seen that it is in other
namespaces than the test, so that it cannot meet a process or a mount that is not its own.

A program finds in `given` what the test has laid out (`Given`). It prints one line: `refused ERRNO` where the
kernel said no, else what its attempt returned. `DRIVER` runs one after the other, each in a process of its
own.
"""

import json
import os
import textwrap
from dataclasses import dataclass, fields
from typing import Any

NAMESPACES = ("pid", "mnt", "net", "ipc")

UNWALLED = "no walls"


@dataclass
class Given:
    """What the test has laid out."""

    outside: str
    """A sentinel in a folder the command has nothing to do with; as all below it is under a private path."""
    outside_folder: str
    readable: str
    """A sentinel in a folder the command may read."""
    readable_folder: str
    bare: str
    """A sentinel that is neither under a private path nor in a root; empty where none could be laid out."""
    device: str
    """One that everybody may open, and no program needs; empty where there is none."""
    setuid: str
    """A program with the setuid bit in the workspace, which prints who it runs as; empty without root."""
    path_stream: str
    path_datagram: str
    abstract_stream: str
    abstract_datagram: str
    tcp_port: int
    udp_port: int
    host_pid: int
    shared_memory: int
    """The key of a System V segment that everybody may read."""
    secret: str
    """Stands in the environment of another confined call, and in the test's own."""
    held: str = ""
    """Where lies what the command changes in its view; empty where it has none."""

    def values(self) -> dict[str, Any]:
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        values["namespaces"] = {name: os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES}
        return values


_IMPORTS = "import ctypes, errno, fcntl, json, os, resource, signal, socket, stat, struct, subprocess, sys"

_BEFORE = f"""
{_IMPORTS}
for name, host in given["namespaces"].items():
    if os.readlink("/proc/self/ns/" + name) == host:
        print({UNWALLED!r})
        sys.exit(3)
library = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    result = getattr(library, name)(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result
def write(path):
    with open(path, "ab", buffering=0) as file:
        file.write(b"escaped")
    return "wrote"
def may_write(path):
    os.close(os.open(path, os.O_WRONLY))
    return "opened for writing"
def made():
    write("made")
    return "made"
def read(path):
    with open(path, "rb", buffering=0) as file:
        return len(file.read(100)) and "read"
"""

_AFTER = """
try:
    print(attempt())
except OSError as error:
    print("refused", errno.errorcode.get(error.errno, error.errno))
"""


@dataclass(frozen=True)
class Escape:
    """One way out."""

    name: str
    body: str
    allowed: tuple[str, ...] = ("refused *",)
    """What it may print; a star at the end is anything."""
    needs: str = ""
    """A field of `Given` without which there is nothing to try."""

    def program(self) -> str:
        return "\n".join((_BEFORE, textwrap.dedent(self.body), _AFTER))

    def is_contained(self, printed: str) -> bool:
        return any(
            printed.startswith(allowed[:-1]) if allowed.endswith("*") else printed == allowed
            for allowed in self.allowed
        )


def _expression(name: str, expression: str, *allowed: str, needs: str = "") -> Escape:
    body = f"def attempt():\n    return {expression}"
    return Escape(name, body, allowed or ("refused *",), needs)


FILES = (
    _expression("write outside", "write(given['outside'])"),
    _expression("make a file outside", "write(os.path.join(given['outside_folder'], 'planted'))"),
    _expression("read outside", "read(given['outside'])"),
    _expression("write to what may be read", "write(given['readable'])"),
    _expression("truncate what may be read", "os.truncate(given['readable'], 1)"),
    _expression("remove what may be read", "os.unlink(given['readable'])"),
    _expression("mode of what may be read", "os.chmod(given['readable'], 0o777)"),
    _expression("times of what may be read", "os.utime(given['readable'], (1, 1))"),
    _expression("attribute of what may be read", "os.setxattr(given['readable'], 'user.a', b'')"),
    _expression("write beside every root", "write(given['bare'])", needs="bare"),
    _expression("read beside every root", "read(given['bare'])", needs="bare"),
    _expression("mode of a file beside every root", "os.chmod(given['bare'], 0o777)", needs="bare"),
    _expression("times of a file beside every root", "os.utime(given['bare'], (1, 1))", needs="bare"),
    _expression("read what is held", "os.listdir(given['held'])", needs="held"),
    _expression("write beside what is held", "write(given['held'] + '/planted')", needs="held"),
    _expression("by dots", "write(os.path.relpath(given['readable']))"),
    _expression("by the root of itself", "write('/proc/self/root' + given['readable'])"),
    _expression("by the root of the launcher", "read('/proc/1/root' + given['outside'])"),
    _expression("by the folder of itself", "write('/proc/self/cwd/' + os.path.relpath(given['readable']))"),
    _expression("by the folder of the launcher", "os.listdir('/proc/1/cwd/' + given['outside_folder'])"),
    Escape(
        "by a symbolic link",
        """
        def attempt():
            os.symlink(given["readable"], "symbolic")
            return write("symbolic")
        """,
    ),
    Escape(
        "by a hard link",
        """
        def attempt():
            os.link(given["readable"], "hard")
            return write("hard")
        """,
    ),
    Escape(
        "by moving it in",
        """
        def attempt():
            os.rename(given["readable"], "moved")
            return write("moved")
        """,
    ),
    Escape(
        "by moving out",
        """
        def attempt():
            write("mine")
            os.rename("mine", os.path.join(given["readable_folder"], "planted"))
            return "moved"
        """,
    ),
    Escape(
        "by a descriptor it was born with",
        """
        def attempt():
            found = []
            for number in range(1024):
                try:
                    os.fstat(number)
                    found.append(number)
                except OSError:
                    pass
            return found
        """,
        ("[0, 1, 2]",),
    ),
    _expression("by a descriptor of the launcher", "os.listdir('/proc/1/fd') and 'listed'"),
    _expression("the shadow file", "read('/etc/shadow')"),
    _expression("memory of the machine", "may_write('/dev/mem')"),
    _expression("a device", "os.close(os.open(given['device'], os.O_RDONLY))", needs="device"),
    _expression("names at the top of the machine", "os.listdir('/') and 'listed'"),
    Escape(
        "the disk itself",
        """
        def attempt():
            for name in sorted(os.listdir("/dev")):
                if stat.S_ISBLK(os.stat("/dev/" + name).st_mode):
                    os.close(os.open("/dev/" + name, os.O_RDONLY))
                    return "opened"
            raise FileNotFoundError(errno.ENOENT, "no disk")
        """,
    ),
)

KERNEL = (
    _expression("what runs on a crash", "may_write('/proc/sys/kernel/core_pattern')"),
    _expression("another sysctl", "may_write('/proc/sys/kernel/hostname')"),
    _expression("magic keys", "may_write('/proc/sysrq-trigger')"),
    _expression("the kernel's modules", "may_write('/sys/module/kernel/parameters/panic')"),
    _expression("bind mount", "call('mount', given['readable_folder'].encode(), b'.', None, 4096, None)"),
    _expression("fresh mount", "call('mount', b'none', b'.', b'tmpfs', 0, None)"),
    _expression("remount", "call('mount', None, given['readable_folder'].encode(), None, 32, None)"),
    _expression("unmount", "call('umount2', b'/tmp', 2)"),
    _expression("other root", "os.chroot('.')"),
    _expression("new user namespace", "call('unshare', 0x10000000)"),
    _expression("new mount namespace", "call('unshare', 0x00020000)"),
    Escape(
        "namespace of another",
        """
        def attempt():
            return call("setns", os.open("/proc/1/ns/mnt", os.O_RDONLY), 0)
        """,
    ),
    _expression("making a device", "os.mknod('device', stat.S_IFCHR | 0o666, os.makedev(1, 1))"),
    _expression("another user", "os.setresuid(0, 0, 0) or os.getresuid()", "refused *"),
    _expression("another group", "os.setgroups([0])"),
    Escape(
        "privileges by a program",
        """
        def attempt():
            ended = subprocess.run([given["setuid"], "-u"], stdout=subprocess.PIPE)
            return "root" if ended.stdout.split() == [b"0"] else "itself"
        """,
        ("refused *", "itself"),
        needs="setuid",
    ),
    Escape(
        "capabilities",
        """
        def attempt():
            with open("/proc/self/status") as file:
                lines = dict(line.split(":", 1) for line in file)
            names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
            return [sum(int(lines[name], 16) for name in names), int(lines["NoNewPrivs"])]
        """,
        ("[0, 1]",),
    ),
)

PROCESSES = (
    _expression("trace the launcher", "call('ptrace', 16, 1, 0, 0)"),
    Escape(
        "read the launcher's memory by a call",
        """
        def attempt():
            room = ctypes.create_string_buffer(8)
            here = struct.pack("QQ", ctypes.addressof(room), 8)
            there = struct.pack("QQ", ctypes.addressof(room), 8)
            return call("process_vm_readv", 1, here, 1, there, 1, 0)
        """,
    ),
    _expression("the launcher's memory by its file", "read('/proc/1/mem')"),
    _expression("write the launcher's memory", "may_write('/proc/1/mem')"),
    _expression("the launcher's environment", "read('/proc/1/environ')", "refused *", "0"),
    _expression("limits of the launcher", "resource.prlimit(1, resource.RLIMIT_FSIZE, (0, 0)) and 'limited'"),
    _expression("a process of the host", "os.kill(given['host_pid'], 0)", "refused ESRCH"),
    _expression("a process of the host by its folder", "os.listdir('/proc/%d' % given['host_pid'])"),
    Escape(
        "every signal to the launcher",
        """
        def attempt():
            for number in range(1, signal.SIGRTMAX + 1):
                if number not in (32, 33):
                    os.kill(1, number)
            return "sent"
        """,
        ("refused EPERM", "sent"),
    ),
    Escape(
        "a signal to the launcher by its input",
        """
        def attempt():
            for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGIO):
                reading, writing = os.pipe()
                fcntl.fcntl(reading, 15, struct.pack("ii", 1, 1))  # F_SETOWN_EX: the process 1
                fcntl.fcntl(reading, 10, int(number))  # F_SETSIG
                fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC)
                os.write(writing, b"x")
            return "sent"
        """,
        ("refused *", "sent"),
    ),
    Escape(
        "environments of others",
        """
        def attempt():
            found = []
            for name in filter(str.isdigit, os.listdir("/proc")):
                try:
                    with open("/proc/" + name + "/environ", "rb") as file:
                        found.append(given["secret"].encode() in file.read())
                except OSError:
                    pass
            return sorted(set(found))
        """,
        ("[False]",),
    ),
    _expression("shared memory of the host", "call('shmget', given['shared_memory'], 0, 0)"),
)

SOCKETS = (
    _expression("TCP of the host", "socket.create_connection(('127.0.0.1', given['tcp_port']), 5)"),
    _expression("TCP of the host over IPv6", "socket.create_connection(('::1', given['tcp_port']), 5)"),
    _expression("TCP of elsewhere", "socket.create_connection(('192.0.2.1', 9), 5)"),
    Escape(
        "UDP of the host",
        """
        def attempt():
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sender.sendto(b"escaped", ("127.0.0.1", given["udp_port"]))
            return "sent"
        """,
        ("refused *", "sent"),  # to its own loopback, where nobody listens
    ),
    Escape(
        "abstract socket of the host",
        """
        def attempt():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.connect("\\0" + given["abstract_stream"])
        """,
    ),
    Escape(
        "abstract datagram socket of the host",
        """
        def attempt():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
                client.sendto(b"escaped", "\\0" + given["abstract_datagram"])
        """,
    ),
    Escape(
        "named socket of the host",
        """
        def attempt():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.connect(given["path_stream"])
        """,
    ),
    Escape(
        "named datagram socket of the host by a pair",
        """
        def attempt():
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            here.sendto(b"escaped", given["path_datagram"])
        """,
    ),
    Escape(
        "abstract datagram socket of the host by a pair",
        """
        def attempt():
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            here.sendto(b"escaped", "\\0" + given["abstract_datagram"])
        """,
    ),
    _expression("raw socket", "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)"),
    _expression("packet socket", "socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)"),
    _expression("socket of the host's machine", "socket.socket(40, socket.SOCK_STREAM)"),  # AF_VSOCK
    _expression("socket into the kernel's ciphers", "socket.socket(38, socket.SOCK_SEQPACKET)"),  # AF_ALG
)

BITS = tuple(
    _expression(f"what runs as its owner by {how}", expression)
    for how, expression in (
        ("chmod", "os.chmod(made(), 0o4755)"),
        ("chmod for its group", "os.chmod(made(), 0o2755)"),
        ("fchmod", "os.fchmod(os.open(made(), os.O_RDWR), 0o6755)"),
        ("fchmodat", "os.chmod(made(), 0o4755, dir_fd=os.open('.', os.O_RDONLY))"),
        ("fchmodat2", "call('syscall', 452, -100, made().encode(), 0o4755, 0)"),
        ("open", "os.open('opened', os.O_CREAT | os.O_WRONLY, 0o4755)"),
        ("opening an unnamed file", "os.open('.', os.O_TMPFILE | os.O_WRONLY, 0o4755)"),
        ("openat", "os.open('opened at', os.O_CREAT | os.O_RDWR, 0o4755, dir_fd=os.open('.', os.O_PATH))"),
        ("openat2", "call('syscall', 437, -100, b'opened 2', struct.pack('QQQ', 0o102, 0o4755, 0), 24)"),
        ("creat", "call('creat', b'created', 0o4755)"),
        ("mknod", "os.mknod('node', stat.S_IFREG | 0o4755)"),
        ("mkfifo", "os.mkfifo('fifo', 0o2755)"),
    )
)
"""What a command of root's makes in a workspace is root's on disk, by an idmapped mount: with either bit it
would run as root for whoever starts it out there."""

ESCAPES = (*FILES, *KERNEL, *BITS, *PROCESSES, *SOCKETS)

DRIVER = f"""
{_IMPORTS}
told = json.load(sys.stdin)
printed = {{}}
for name, program in told["programs"].items():
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.dup2(writing, 1)
        os.close(writing)
        signal.alarm(60)
        try:
            exec(compile(program, name, "exec"), {{"given": told["given"]}})
        except SystemExit:
            pass
        except BaseException as error:
            print("failed", type(error).__name__, error)
        sys.stdout.flush()
        os._exit(0)
    os.close(writing)
    with open(reading, errors="replace") as file:
        said = file.read().strip()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    printed[name] = said or "ended by %d" % status
print(json.dumps(printed))
"""


def told(given: Given) -> bytes:
    """What `DRIVER` reads: all of them that can be tried here."""
    programs = {escape.name: escape.program() for escape in ESCAPES if _is_possible(escape, given)}
    return json.dumps({"given": given.values(), "programs": programs}).encode()


def escaped(printed: dict[str, str], given: Given) -> dict[str, str]:
    """Those that are not contained, with what they printed; also those that were not tried."""
    return {
        escape.name: printed.get(escape.name, "not tried")
        for escape in ESCAPES
        if _is_possible(escape, given) and not escape.is_contained(printed.get(escape.name, "not tried"))
    }


def _is_possible(escape: Escape, given: Given) -> bool:
    return not escape.needs or bool(getattr(given, escape.needs))


FORKS = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
made = 0
for _ in range(int(sys.argv[1])):
    try:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                while True:
                    time.sleep(100)
            os._exit(0)
        made += 1
    except OSError:
        break
print(made, flush=True)
while True:
    time.sleep(100)
"""
"""Forks as often as it may be told, or is let, and every child is away from its parent, deaf to SIGTERM, and
holds the pipe."""

FILL = """
import os, sys
written = 0
try:
    with open(sys.argv[1], "wb", buffering=0) as file:
        while written < int(sys.argv[2]):
            written += file.write(bytes(1 << 20))
    print("all of it")
except OSError as error:
    print("refused", error.errno)
"""
"""Writes so many bytes into a file, or as many as it is let."""

LITTER = """
import os
os.chdir(os.environ["HOME"])
for depth in range(300):
    os.mkdir("d" * 20)
    os.chdir("d" * 20)
os.chdir(os.environ["TMPDIR"])
for name in ("line\\nbreak", "\\x1b[2Jscreen", "-rf", "\\udcff"):
    open(name, "w").close()
for kind in ("pid", "mnt", "net", "ipc"):
    print(os.readlink(f"/proc/self/ns/{kind}"))
"""
"""Leaves a folder deeper than a path can be long, and names no list shows as they are; says which namespaces
it was in."""
