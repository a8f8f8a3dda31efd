"""`custody serve` as a process of its own, with a store and a home of its own."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.settings_for_tests import never_short_of_resources

START_SECONDS = 30.0
END_SECONDS = 30.0


class Daemon:
    """One folder: a store, settings, and whichever daemon serves it now."""

    def __init__(self, folder: Path, *options: str, settings: str = "") -> None:
        self.folder = folder
        self.store = folder / "store"
        self.options = options
        work = folder / "work"
        work.mkdir(parents=True, exist_ok=True)
        self.work = work
        file = never_short_of_resources(folder / "config")
        if settings:
            file.write_text(file.read_text(encoding="utf-8") + settings, encoding="utf-8")
        self.environment = {
            **{name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ},
            "HOME": os.fspath(folder),
            "XDG_CONFIG_HOME": os.fspath(folder / "config"),
            "XDG_DATA_HOME": os.fspath(folder / "data"),
            "XDG_RUNTIME_DIR": os.fspath(folder / "runtime"),
            "CUSTODY_STORE": os.fspath(self.store),
        }
        (folder / "runtime").mkdir(mode=0o700, exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.said: dict[str, Any] = {}
        """What it printed when it was ready."""

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "custody", *arguments]

    def start(self, listen: str = "127.0.0.1:0") -> None:
        """Returns once it listens."""
        self.errors = self.folder / "errors.txt"
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                self.command("serve", "--listen", listen, "--no-socket", "--json", *self.options),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self.work,
                env=self.environment,
            )
        self.said = json.loads(self._line())
        assert "addresses" in self.said, self.said

    def _line(self) -> bytes:
        assert self.process is not None
        assert self.process.stdout is not None
        until = time.monotonic() + START_SECONDS
        text = b""
        while b"\n" not in text:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"no daemon after {START_SECONDS:g} s: {self.complaints()}"
            more = os.read(self.process.stdout.fileno(), 65536)
            assert more, f"the daemon ended: {self.complaints()}"
            text += more
        return text

    def complaints(self) -> str:
        return self.errors.read_text(encoding="utf-8", errors="replace")

    @property
    def url(self) -> str:
        """Of its WebSocket."""
        return next(address for address in self.said["addresses"] if address.startswith("ws"))

    @property
    def address(self) -> str:
        """Host and port, for one that comes after it."""
        return self.url.removeprefix("ws://").rstrip("/")

    def kill(self) -> None:
        """As a crash would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(END_SECONDS)
        self._forget()

    def stop(self) -> int:
        """In order; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(END_SECONDS)
        self._forget()
        return code

    def _forget(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None

    def run(self, *arguments: str) -> Any:
        """Another command on the same store: its exit code and its JSON document."""
        done = subprocess.run(
            self.command(*arguments, "--json"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=self.environment,
            cwd=self.work,
            timeout=60,
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def is_intact(self) -> None:
        """What is recorded so far, by `custody verify`."""
        code, verified = self.run("verify")
        assert (code, verified["ok"]) == (0, True), verified


@contextmanager
def held_address() -> Generator[str]:
    """Host and port that are known before a daemon listens there, and that nobody else is given: the port is
    bound, which keeps out nobody who names it."""
    with socket.socket() as holding:
        holding.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holding.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{holding.getsockname()[1]}"


@contextmanager
def daemon(folder: Path, *options: str, settings: str = "", listen: str = "127.0.0.1:0") -> Generator[Daemon]:
    """One that serves until the end, when it must stop in order."""
    made = Daemon(folder, *options, settings=settings)
    made.start(listen)
    try:
        yield made
    except BaseException:
        if made.process is not None:
            made.kill()
        raise
    if made.process is not None:
        assert made.stop() == 0, made.complaints()
