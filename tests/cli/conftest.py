import atexit
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.cli.forked import Forked

from custody import open as open_store
from custody.blocking import BlockingRuntime

CALM = """
[breaker]
memory_percent_max = 100
cpu_pressure_percent_max = 100
disk_free_percent_min = 0
disk_free_bytes_min = 0
zombies_max = 1_000_000
"""
"""Settings with which no load of the machine the tests run on refuses a call."""

STARTING = re.compile("PYTHON|LANG|LC_|LD_|_CUSTODY_COMPLETE")
"""Variables that are read while a process starts."""

RUN_SECONDS_MAX = 60  # a command that hangs fails its test instead of stopping all


_forked: list[Forked] = []


def forked(environment: Mapping[str, str]) -> Forked:
    """Once for all tests of this process. What each of them starts has an environment of its own."""
    if not _forked or _forked[-1].is_closed:
        _forked.append(Forked({**environment, "PYTHONUTF8": "1"}))
        atexit.register(_forked[-1].close)
    return _forked[-1]


@dataclass
class Ran:
    """One finished run of the program."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON document."""
        return json.loads(self.out)


class Program:
    """The real program, as a process, with a store, a home and a working directory of its own."""

    def __init__(self, folder: Path, *, from_nothing: bool = False) -> None:
        self.folder = folder
        self.from_nothing = from_nothing
        self.work = folder / "work"
        self.work.mkdir()
        self.started: list[subprocess.Popen[bytes]] = []
        self.store = folder / "store"
        self.settings = folder / "config" / "custody" / "custody.toml"
        self.settings.parent.mkdir(parents=True)
        self.settings.write_text(CALM)
        self.environment = {
            **{name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ},
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_DATA_HOME": str(folder / "data"),
            "CUSTODY_STORE": str(self.store),
            "PYTHONWARNINGS": "error,default::UserWarning",  # Custody's own, said in a line
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "custody", *arguments]

    def __call__(
        self, *arguments: str, stdin: str | None = None, cwd: Path | None = None, **environment: str
    ) -> Ran:
        whole, where = {**self.environment, **environment}, cwd or self.work
        if not self.from_nothing and not any(map(STARTING.match, environment)):
            code, out, err = forked(self.environment).run(
                arguments, whole, where, stdin or "", RUN_SECONDS_MAX
            )
            return Ran(code, *(text.decode("utf-8", "surrogateescape") for text in (out, err)))
        done = subprocess.run(
            self.command(*arguments),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            cwd=where,
            env=whole,
            timeout=RUN_SECONDS_MAX,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def altered(self, change: str, *arguments: str) -> list[str]:
        """The command with something in it changed first, such as how long it waits."""
        program = f"from custody.cli import main\n{change}\nmain()"
        return [sys.executable, "-c", program, *arguments]

    @contextmanager
    def recording(self, folder: Path | None = None) -> Iterator[BlockingRuntime]:
        """The store, for a program that runs its own tools; `folder` is where it works."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CONFIG_HOME", self.environment["XDG_CONFIG_HOME"])
            patch.chdir(folder or self.work)
            with open_store(os.fspath(self.store)) as runtime:
                yield runtime

    def at_terminal(
        self, *arguments: str, columns: int, typed: str = "", code: int = 0, **environment: str
    ) -> str:
        """What a terminal so wide shows, on which somebody types; the command must exit with `code`."""
        import fcntl
        import pty
        import struct
        import termios

        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        whole = {**self.environment, "TERM": "xterm-256color", "PYTHONUTF8": "1", **environment}
        started = None
        if self.from_nothing:
            started = subprocess.Popen(
                self.command(*arguments), cwd=self.work, stdin=slave, stdout=slave, stderr=slave, env=whole
            )
        else:
            forked(self.environment).start(arguments, whole, self.work, [slave] * 3)
        os.close(slave)
        os.write(master, typed.encode())  # a terminal keeps what is typed until it is read
        output = b""
        try:
            while data := os.read(master, 65536):
                output += data
        except OSError:  # nobody writes to it any more
            pass
        os.close(master)
        if started is None:
            ended = forked(self.environment).ended(RUN_SECONDS_MAX)
        else:
            ended = started.wait(RUN_SECONDS_MAX)
        assert ended == code, output
        return output.decode().replace("\r\n", "\n")

    def start(self, *arguments: str, **options: Any) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(self.command(*arguments), cwd=self.work, env=self.environment, **options)
        self.started.append(process)
        return process

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            with process:
                pass


@pytest.fixture
def custody(tmp_path: Path) -> Iterator[Program]:
    program = Program(tmp_path)
    yield program
    program.close()


def eventually(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What `condition` gives once it is true; fails when it does not become true in time."""
    import time

    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.01)
    return found
