"""MCP clients for tests: `custody mcp` as a process spoken to line by line, the official client over HTTP.

A line is written and read as an agent in another language would: nothing of the SDK stands between a test and
the wire.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from tests.settings_for_tests import never_short_of_resources

ANSWER_SECONDS = 30.0
END_SECONDS = 30.0

LEGACY = "2025-06-18"
MODERN = "2026-07-28"

GREETING: dict[str, Any] = {
    "protocolVersion": LEGACY,
    "capabilities": {},
    "clientInfo": {"name": "tester", "version": "1.2"},
}
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": GREETING["clientInfo"],
    "io.modelcontextprotocol/clientCapabilities": {},
}
"""What every request of the newest version carries instead of a greeting."""


class Home:
    """A folder with a store and settings of its own, and a folder to work in."""

    def __init__(
        self, folder: Path, settings: str = "", *, path: Path | None = None, variables: Mapping[str, str] = {}
    ) -> None:
        """`path` is a folder of modules."""
        self.folder = folder
        self.work = folder / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        file = never_short_of_resources(folder / "config")
        file.write_text(file.read_text(encoding="utf-8") + settings, encoding="utf-8")
        known = ("PATH", "LANG", "TMPDIR")
        self.environment = {
            **{name: os.environ[name] for name in known if name in os.environ},
            "HOME": os.fspath(folder),
            "XDG_CONFIG_HOME": os.fspath(folder / "config"),
            "CUSTODY_STORE": os.fspath(folder / "store"),
            **({} if path is None else {"PYTHONPATH": os.fspath(path)}),
            **variables,
        }

    def run(self, *arguments: str) -> Any:
        """Another command on the same store: its JSON document."""
        done = subprocess.run(
            [sys.executable, "-m", "custody", *arguments, "--json"],
            stdin=subprocess.DEVNULL, capture_output=True, env=self.environment, cwd=self.work, timeout=60,
        )  # fmt: skip
        assert done.stdout, done.stderr
        return json.loads(done.stdout)


class Lines:
    """`custody mcp` as a process, one JSON object a line."""

    def __init__(self, home: Home, *options: str) -> None:
        self.home = home
        self.greeting: dict[str, Any] = {}
        self.told: list[dict[str, Any]] = []
        """Notifications, and answers that nobody waited for."""
        self._rest = b""
        self._next = 0
        self.errors = home.folder / "errors.txt"
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "custody", "mcp", *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=home.work,
                env=home.environment,
            )

    def send(self, message: Any) -> None:
        """A message, or bytes as they are."""
        assert self.process.stdin is not None
        data = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def read_line(self) -> bytes | None:
        """The next line without its end; None at the end of all."""
        assert self.process.stdout is not None
        parts = [self._rest]
        while b"\n" not in parts[-1]:
            ready, _, _ = select.select([self.process.stdout], [], [], ANSWER_SECONDS)
            assert ready, f"nothing came in {ANSWER_SECONDS:g} s: {self.complaints()}"
            more = os.read(self.process.stdout.fileno(), 1 << 16)
            if not more:
                assert not any(parts), "the last line has no end"
                return None
            parts.append(more)
        line, _, self._rest = b"".join(parts).partition(b"\n")
        return line

    def read(self) -> dict[str, Any] | None:
        """The next message; None at the end."""
        line = self.read_line()
        return None if line is None else json.loads(line)

    def begin(self, method: str, params: Any = None, *, modern: bool = False) -> int:
        """Send a request; its id."""
        self._next += 1
        params = dict(params or {})
        if modern:
            params["_meta"] = {**ENVELOPE, **params.get("_meta", {})}
        self.send({"jsonrpc": "2.0", "id": self._next, "method": method, "params": params})
        return self._next

    def answer_to(self, identity: Any) -> dict[str, Any]:
        """Its answer; what else comes meanwhile is kept in `told`."""
        while True:
            message = self.read()
            assert message is not None, f"it ended: {self.complaints()}"
            if "method" not in message and message.get("id") == identity:
                return message
            self.told.append(message)

    def ask(self, method: str, params: Any = None, *, modern: bool = False) -> dict[str, Any]:
        return self.answer_to(self.begin(method, params, modern=modern))

    def greet(self) -> dict[str, Any]:
        self.greeting = self.ask("initialize", GREETING)["result"]
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return self.greeting

    def call(self, tool: str, arguments: Any = None, *, modern: bool = False) -> dict[str, Any]:
        """The result of a tool call."""
        answer = self.ask("tools/call", {"name": tool, "arguments": arguments or {}}, modern=modern)
        assert "result" in answer, answer
        return answer["result"]

    def told_of(self, method: str) -> dict[str, Any]:
        """The next notification of this method that comes."""
        while True:
            message = self.read()
            assert message is not None, f"it ended: {self.complaints()}"
            if message.get("method") == method:
                return message
            self.told.append(message)

    def complaints(self) -> str:
        return self.errors.read_text(encoding="utf-8", errors="replace")

    def close(self) -> int:
        """The client goes; the exit code."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        code = self.process.wait(END_SECONDS)
        self.process.stdout.close()
        return code

    def kill(self) -> None:
        """Whatever became of it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(END_SECONDS)
        self.process.stdin.close()
        self.process.stdout.close()


@contextmanager
def lines(home: Home | Path, *options: str) -> Generator[Lines]:
    """One that is ended in order, if it has not been."""
    made = Lines(Home(home) if isinstance(home, Path) else home, *options)
    try:
        yield made
        if made.process.poll() is None:
            assert made.close() == 0, made.complaints()
    finally:
        made.kill()


@asynccontextmanager
async def over_http(
    url: str, token: str | None = None, *, version: str = LEGACY
) -> AsyncGenerator[ClientSession]:
    """The official client at a daemon, greeted."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=ANSWER_SECONDS) as http,
        streamable_http_client(f"{url}/mcp", http_client=http) as (reading, writing),
        ClientSession(reading, writing) as session,
    ):
        await greeted(session, version)
        yield session


async def greeted(session: ClientSession, version: str) -> None:
    """Of the newest version, or of the last that has a greeting."""
    if version == MODERN:
        await session.discover()
    else:
        await session.initialize()
