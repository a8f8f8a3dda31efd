"""The program that a CLI starts for its hooks: hands what it was told to Custody, and says what that answers.

Owns the way to a running Custody (its Unix socket, else its port), what is done where none runs (the same, in
a program of its own), and the no where anything goes wrong. Standard library alone, and little of that: it is
started before and after every tool, as `python -I -S client.py [--store S] [--no-rewrite] CLI EVENT`. Imports
nothing of Custody. Knows nothing of what a hook is told.

`json` and `socket` load so much that the interpreter takes twice as long to start; CPython has what is behind
them by itself.
"""

import os
import sys
import time

scanning: "Any"
signals: "Any"
try:
    import _json as scanning
    import _signal as signals  # pyright: ignore[reportMissingImports]
    import _socket as sockets
except ImportError:  # another Python
    scanning = None
    import signal as signals
    import socket as sockets

TYPE_CHECKING = False
if TYPE_CHECKING:  # as `json`
    from typing import Any, NoReturn

SECONDS_MAX = 30.0
"""For all of it. A CLI that has to end a hook goes on as if it had said yes, so it is never left to that."""

LAST_SECONDS_MAX = 40
"""Then the kernel ends it, and what it has become where no daemon serves: a disk or a pipe may hang for ever.
The shell around it says no."""

INPUT_BYTES_MAX = 64 * 1024 * 1024
ANSWER_BYTES_MAX = 80 * 1024 * 1024
ANCESTORS_MAX = 64
ENVIRON_BYTES_MAX = 256 * 1024  # of secrets that are told

BLOCKING = frozenset({"PreToolUse", "UserPromptSubmit", "BeforeTool", "BeforeAgent"})
"""Events before which a CLI can be stopped; a test holds it against the tables of the dialects."""

SHELLS = frozenset({"sh", "bash", "dash", "zsh", "fish", "ksh", "busybox", "ash"})

SECRET_PARTS = (
    "KEY", "TOKEN", "SECRET", "PASS", "PWD", "CREDENTIAL", "AUTH", "COOKIE", "JWT", "BEARER", "HEADERS",
    "CONNECTION",
)  # fmt: skip
"""A variable whose name has none of these is no secret; which of the others are, Custody decides."""

FOLDERS = ("CLAUDE_CONFIG_DIR", "CODEX_HOME")
"""Variables that say where a CLI has its settings: those are kept from it, wherever they are."""

PATH = "/hooks"
PEERCRED_BYTES = 12  # socket(7): process, user and group, each of four bytes


class Gone(Exception):
    """Nobody serves: the same is done here."""


class Failed(Exception):
    """Custody is there and does not answer as it should."""


def main(words: list[str]) -> int:
    event = words[-1] if words else ""
    signals.alarm(LAST_SECONDS_MAX)
    until = time.monotonic() + SECONDS_MAX
    try:
        options = read_options(words)
        told = sys.stdin.buffer.read(INPUT_BYTES_MAX + 1)
        if len(told) > INPUT_BYTES_MAX:
            raise Failed(f"the hook was told more than {INPUT_BYTES_MAX} bytes")
        request = make_request(options, told)
        try:
            answer = ask(options["store"], request, until)
        except Gone:
            answer_here(request)
        return say(answer)
    except Exception as error:
        why = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
        sys.stderr.write(f"Custody: {why.rstrip('.')}; see `custody status`.\n")
        return 2 if event in BLOCKING else 1


def read_options(words: list[str]) -> dict[str, str]:
    options = {"store": "", "rewrite": "yes"}
    rest = list(words)
    while rest and rest[0].startswith("--"):
        option = rest.pop(0)
        if option == "--store" and rest:
            options["store"] = rest.pop(0)
        elif option == "--no-rewrite":
            options["rewrite"] = ""
        else:
            raise Failed(f"{option} is no option of a hook")
    if len(rest) != 2:
        raise Failed("a hook is called as: client.py [--store FOLDER] [--no-rewrite] CLI EVENT")
    options["cli"], options["event"] = rest
    options["store"] = options["store"] or store_folder()
    return options


def store_folder() -> str:
    """As `settings.default_store` and the environment have it."""
    named = os.environ.get("CUSTODY_STORE", "")
    if not named:
        data = os.environ.get("XDG_DATA_HOME", "")
        named = os.path.join(data if os.path.isabs(data) else os.path.expanduser("~/.local/share"), "custody")
    return os.path.abspath(os.path.expanduser(named))


def make_request(options: dict[str, str], told: bytes) -> bytes:
    pid, ticks = owner()
    request = {
        "cli": options["cli"],
        "event": options["event"],
        "rewrite": bool(options["rewrite"]),
        "store": options["store"],
        "owner_pid": pid,
        "owner_start_ticks": ticks,
        "secrets": secrets(),
        "folders": {name: os.environ[name] for name in FOLDERS if os.environ.get(name)},
        "told": told.decode("utf-8", "strict" if options["event"] in BLOCKING else "replace"),
    }
    return spelt(request)


# -- JSON ---------------------------------------------------------------------------------------------------


class Reading:
    """How JSON is read, for the scanner."""

    strict = True
    object_hook = object_pairs_hook = parse_constant = None
    parse_float, parse_int = float, int


def spelt(value: "Any") -> bytes:
    """Of text, numbers, truth and dictionaries of them."""
    if scanning is None:
        import json

        return json.dumps(value).encode()
    if isinstance(value, dict):
        named: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
        parts = [spelt(name) + b": " + spelt(item) for name, item in named.items()]
        return b"{" + b", ".join(parts) + b"}"
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return (scanning.encode_basestring_ascii(value) if isinstance(value, str) else str(int(value))).encode(
        "ascii"
    )


def understood(data: bytes) -> "Any":
    """Raises ValueError, StopIteration."""
    text = data.decode().strip()
    if scanning is None:
        import json

        return json.loads(text)
    value, end = scanning.make_scanner(Reading)(text, 0)
    if end != len(text):
        raise ValueError("more than one JSON value")
    return value


# -- whose hook it is ---------------------------------------------------------------------------------------


def owner() -> tuple[int, int]:
    """The CLI's process, and when it started: the first above us that is not a shell that runs a line."""
    pid = os.getppid()
    for _ in range(ANCESTORS_MAX):
        parent, ticks, name = stat_of(pid)
        if parent <= 1 or name not in SHELLS or not runs_a_line(pid):
            return pid, ticks
        pid = parent
    raise Failed("the CLI that called cannot be told")


def stat_of(pid: int) -> tuple[int, int, str]:
    """Parent, start in clock ticks since boot, and name (proc_pid_stat(5)). Raises OSError."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        head, _, rest = file.read(4096).rpartition(b")")
    fields = rest.split()
    return int(fields[1]), int(fields[19]), head.partition(b"(")[2].decode("utf-8", "replace")


def runs_a_line(pid: int) -> bool:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read(4096).split(b"\0")
    return any(word.startswith(b"-") and word.endswith(b"c") for word in words[1:4])


def secrets() -> dict[str, str]:
    """Variables here that may be secrets: Custody keeps their values out of commands and of the record. They
    go to a program of this user over a socket of this machine, and are kept nowhere."""
    found = {
        name: value
        for name, value in os.environ.items()
        if len(value) >= 8
        and name not in ("PWD", "OLDPWD")
        and any(part in name.upper() for part in SECRET_PARTS)
    }
    while sum(map(len, found.values())) > ENVIRON_BYTES_MAX:
        del found[max(found, key=lambda name: len(found[name]))]
    return found


# -- a Custody that runs ------------------------------------------------------------------------------------


def ask(store: str, request: bytes, until: float) -> "dict[str, Any]":
    """What the daemon of the store answers. Raises Gone, Failed, OSError, ValueError."""
    try:
        with open(os.path.join(store, "journal", "serving"), "rb") as file:
            owned(file.fileno(), file.name)
            serving = understood(file.read(1024 * 1024))
    except (OSError, ValueError, StopIteration):
        raise Gone from None
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += "Content-Type: application/json\r\n"
    if serving.get("auth"):
        with open(serving["token_file"], encoding="ascii") as file:
            head += f"Authorization: Bearer {file.read().strip()}\r\n"
    head += f"Content-Length: {len(request)}\r\n\r\n"
    connection = connected(serving["addresses"], until)
    try:
        connection.settimeout(max(0.01, until - time.monotonic()))
        connection.sendall(head.encode("ascii") + request)
        return answered(connection, until)
    finally:
        connection.close()


def owned(fd: int, path: str) -> None:
    """Whoever else says where Custody is would be told the secrets, and say yes to everything. Raises
    Failed."""
    status = os.fstat(fd)
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise Failed(f"{path} is not yours alone, so it is not believed: give --store a folder of your own")


def connected(addresses: list[str], until: float) -> sockets.socket:
    """A port is tried where there is no socket alone: once a daemon is gone, anybody may listen there."""
    unix = [address for address in addresses if address.startswith("unix://")]
    for address in unix or addresses:
        scheme, _, place = address.partition("://")
        host, _, port = place.rpartition(":")
        if scheme not in ("unix", "ws"):
            continue
        family = sockets.AF_INET6 if "[" in host else sockets.AF_INET
        if scheme == "unix":
            family = sockets.AF_UNIX
        connection = sockets.socket(family, sockets.SOCK_STREAM)
        connection.settimeout(max(0.01, until - time.monotonic()))
        try:
            connection.connect(place if scheme == "unix" else (host.strip("[]"), int(port)))
            if scheme == "unix":
                peer_is_ours(connection, place)
            return connection
        except (ConnectionRefusedError, FileNotFoundError):
            connection.close()
    raise Gone


def peer_is_ours(connection: sockets.socket, place: str) -> None:
    """Raises Failed where the program at the other end is somebody else's."""
    credentials = connection.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, PEERCRED_BYTES)
    if int.from_bytes(credentials[4:8], sys.byteorder) not in (0, os.geteuid()):
        raise Failed(f"another user's program listens at {place}: end it, or serve with another --socket")


def answered(connection: sockets.socket, until: float) -> "dict[str, Any]":
    data = bytearray()
    while chunk := connection.recv(1 << 16):
        data += chunk
        if len(data) > ANSWER_BYTES_MAX:
            raise Failed("the answer has no end")
        connection.settimeout(max(0.01, until - time.monotonic()))
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status == [b"503"]:
        raise Gone
    if status != [b"200"]:
        first = head[:80].partition(b"\r\n")[0].decode("latin-1")
        raise Failed(f"Custody answered {first!r}: {words_of(body)}")
    return understood(body)


def words_of(body: bytes) -> str:
    """What a refusal says; the text itself where it says nothing that is known."""
    try:
        error = understood(body)["error"]
        return " ".join(str(error[name]) for name in ("message", "hint") if error.get(name))
    except (ValueError, StopIteration, LookupError, TypeError, AttributeError):
        return body[:300].decode("utf-8", "replace")


def say(answer: "dict[str, Any]") -> int:
    sys.stdout.write(answer["out"])
    sys.stdout.flush()
    sys.stderr.write(answer["err"])
    sys.stderr.flush()
    return int(answer["exit_code"])


# -- none that runs -----------------------------------------------------------------------------------------

HERE = "import sys; sys.path.insert(0, sys.argv.pop(1)); from custody.cli import main; main()"


def answer_here(request: bytes) -> "NoReturn":
    """Become the program that answers by itself: the same Custody this file is of, and no other that lies in
    the working directory or on PYTHONPATH. Does not return."""
    folder = os.path.abspath(__file__)
    for _ in range(4):
        folder = os.path.dirname(folder)
    handed = os.memfd_create("custody-hook")
    view = memoryview(request)
    while view:
        view = view[os.write(handed, view) :]
    os.lseek(handed, 0, os.SEEK_SET)
    os.dup2(handed, 0)
    os.execv(sys.executable, [sys.executable, "-I", "-c", HERE, folder, "hook", "run"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
