"""A client of `custody proxy`, line by line, with the hand-made server behind it."""

import json
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.doors.mcp_clients import ENVELOPE, GREETING, Home, Lines

import custody

SOURCE = str(Path(custody.__file__).parents[1])
"""The tree that is tested, wherever else Custody may be installed."""
SERVER = Path(__file__).parent / "echo_server.py"
FORMS = {"elicitation": {"form": {}}}
LEGACY_FORMS: dict[str, Any] = {**GREETING, "capabilities": {"elicitation": {}}}


class Proxied(Lines):
    """`custody proxy` as a process. `calls` is what the server was sent, a line each."""

    def __init__(
        self, home: Home, *options: str, server: Sequence[str] = (sys.executable, str(SERVER))
    ) -> None:
        home.environment.setdefault("PYTHONPATH", SOURCE)
        self.home = home
        self.greeting: dict[str, Any] = {}
        self.told: list[dict[str, Any]] = []
        self._rest = b""
        self._next = 0
        self.errors = home.folder / "errors.txt"
        self.calls = home.folder / "calls.txt"
        self.describes = home.folder / "describes.txt"
        variables = {"CALLS": str(self.calls), "DESCRIBES": str(self.describes)}
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "custody", "proxy", "--name", "echo", *options, "--", *server],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=home.work,
                env=home.environment | variables,
            )

    def sent(self) -> list[bytes]:
        """What the server has got by now, as it came. Something may still be on its way."""
        return self.calls.read_bytes().splitlines() if self.calls.exists() else []

    def settled(self) -> list[bytes]:
        """What the server got of all that was said before: it has answered what was asked behind it."""
        assert "result" in self.ask("ping")
        return self.sent()[:-1]

    def modern(self, name: str, *, forms: bool = False, **params: Any) -> dict[str, Any]:
        """A tool call of the newest version; its answer."""
        meta = ENVELOPE | ({"io.modelcontextprotocol/clientCapabilities": FORMS} if forms else {})
        said = {"name": name, "arguments": {}, **params, "_meta": meta}
        return self.answer_to(self.begin("tools/call", said))

    def records(self) -> list[dict[str, Any]]:
        """The client goes; then what is on the record, in its order."""
        if self.process.poll() is None:
            assert self.close() == 0, self.complaints()
        done = subprocess.run(
            [sys.executable, "-m", "custody", "export", "--format", "jsonl", "--records"],
            capture_output=True, text=True, check=True, env=self.home.environment, cwd=self.home.work,
            timeout=60,
        )  # fmt: skip
        return [json.loads(line) for line in done.stdout.splitlines()]


def events(records: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """What the events of a name say."""
    found = [one for one in records if one["kind"] == "event" and one["name"] == name]
    return [one["data"] or one["payload"]["data"] for one in found]


def calls(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By id, what the records of each call say together."""
    found: dict[str, dict[str, Any]] = {}
    for one in records:
        if one["kind"].startswith("call_"):
            kept = found.setdefault(one["call_id"], {"kinds": []})
            kept["kinds"].append(one["kind"])
            said = {name: value for name, value in one.items() if value is not None and name != "payload"}
            kept |= said | (one.get("request") or {}) | (one["payload"] or {})
    return found


@contextmanager
def proxied(home: Home | Path, *options: str, greet: bool = True, **named: Any) -> Generator[Proxied]:
    made = Proxied(Home(home) if isinstance(home, Path) else home, *options, **named)
    try:
        if greet:
            made.greet()
        yield made
        if made.process.poll() is None:
            assert made.close() == 0, made.complaints()
    finally:
        made.kill()
