"""The program in processes forked from one that has loaded it: a test waits for the command, not for imports.

What is forked is a process of its own with an environment, a working directory, standard streams and an exit
code of its own. What runs beside its test or with other settings of Python begins from nothing.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

MESSAGE_BYTES_MAX = 1 << 20

SERVER = """
import atexit, json, os, socket, sys, threading
import apsw, asyncio, jsonschema_rs, logging, msgspec, re2, rich.console, rich.table, tomllib
import custody.blocking, custody.calls.recovery, custody.calls.runtime, custody.cli.view, custody.compose
import custody.changes, custody.index, custody.retention, custody.sandbox, custody.tools
from custody.cli.program import HOMES
for home in set(HOMES.values()):
    __import__(home.partition(":")[0])
asked = socket.socket(fileno=int(sys.argv[1]))
while True:
    message, streams, _, _ = socket.recv_fds(asked, 1 << 20, 3)
    if not message:
        break
    if os.fork() == 0:
        asked.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        request = json.loads(message)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["cwd"])
        sys.argv = ["custody", *request["arguments"]]
        if os.isatty(1):  # as when Python starts at a terminal
            sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
            sys.stdout, sys.stderr = (
                open(number, "w", 1, "utf-8", errors, closefd=False)
                for number, errors in ((1, "surrogateescape"), (2, "backslashreplace"))
            )
        try:
            custody.cli.main()
        except SystemExit as ended:
            threading._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ended.code)
    for stream in streams:
        os.close(stream)
    asked.send(b"%d" % os.waitstatus_to_exitcode(os.wait()[1]))
"""


class Forked:
    """One process that has loaded the program, and forks at each call."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVER, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=dict(environment),
            )
        self._asked = ours

    def run(
        self,
        arguments: tuple[str, ...],
        environment: Mapping[str, str],
        cwd: Path,
        stdin: str,
        seconds_max: float,
    ) -> tuple[int, bytes, bytes]:
        """Exit code, standard output, standard error. Raises TimeoutError."""
        streams = [_input(stdin), *(os.memfd_create(name) for name in ("stdout", "stderr"))]
        try:
            self.start(arguments, environment, cwd, streams)
            code = self.ended(seconds_max)
            return code, _all_of(streams[1]), _all_of(streams[2])
        finally:
            for stream in streams:
                os.close(stream)

    def start(
        self, arguments: tuple[str, ...], environment: Mapping[str, str], cwd: Path, streams: Sequence[int]
    ) -> None:
        """One at a time: the next one only when this has ended. `streams` are its standard ones."""
        request = {"arguments": arguments, "environment": environment, "cwd": os.fspath(cwd)}
        socket.send_fds(self._asked, [json.dumps(request).encode()], streams)

    def ended(self, seconds_max: float) -> int:
        """The exit code of what was started. Raises TimeoutError; then this is closed, since what comes later
        would be taken for the end of the next one."""
        self._asked.settimeout(seconds_max)
        try:
            return int(self._asked.recv(MESSAGE_BYTES_MAX))
        except TimeoutError:
            self.process.kill()
            self.close()
            raise

    @property
    def is_closed(self) -> bool:
        return self._asked.fileno() < 0

    def close(self) -> None:
        self._asked.close()
        self.process.wait()


def _input(text: str) -> int:
    if not text:
        return os.open(os.devnull, os.O_RDONLY)
    stream = os.memfd_create("stdin")
    os.write(stream, text.encode("utf-8", "surrogateescape"))
    os.lseek(stream, 0, os.SEEK_SET)
    return stream


def _all_of(stream: int) -> bytes:
    return os.pread(stream, os.fstat(stream).st_size, 0)
