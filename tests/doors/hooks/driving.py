"""A stand-in CLI as a process of its own, driven step by step, with the hooks `custody install` writes."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.doors.daemons import Daemon

import custody
from custody.doors.hooks.dialects import DIALECTS
from custody.doors.hooks.lines import hook_lines
from custody.index import CallFilter
from custody.index.query import RunFilter
from custody.records import document
from custody.settings import load_settings
from custody.stores import View, open_view

SOURCE = os.fspath(Path(custody.__path__[0]).parent)
STAND_IN = Path(__file__).with_name("stand_in.py")


@contextmanager
def served_for_hooks(folder: Path, *, settings: str, policy: str) -> Generator[Daemon]:
    """A daemon of the Custody that is tested, wherever another is installed."""
    made = Daemon(folder, settings=settings)
    made.environment["PYTHONPATH"] = SOURCE
    (folder / "config" / "custody" / "policy.toml").write_text(policy, encoding="utf-8")
    made.start()
    try:
        yield made
    finally:
        assert made.stop() == 0, made.complaints()


class Cli:
    """One session of a coding CLI."""

    def __init__(
        self,
        work: Path,
        environment: Mapping[str, str],
        cli: str = "claude-code",
        *,
        rewrite: bool = True,
        twice: bool = False,
        hooks: dict[str, list[dict[str, Any]]] | None = None,
    ) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.work = work
        self.cli = cli
        self.session = uuid.uuid4().hex
        self.environment = dict(environment)
        events = DIALECTS[cli].events
        self.events = {kind: name for name, kind in events.items()}
        if hooks is None:
            lines = hook_lines(cli, rewrite=rewrite)
            hooks = {one.event: [{"command": one.command}] * (1 + twice) for one in lines}
        self.process = subprocess.Popen(
            [sys.executable, "-I", os.fspath(STAND_IN)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=work,
            env=self.environment,
            text=True,
        )
        self.pid = self._ask({"do": "begin", "hooks": hooks, "session": self.session, "events": self.events})[
            "pid"
        ]

    def _ask(self, step: dict[str, Any]) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(step) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the stand-in ended"
        return json.loads(line)

    def tell(self, kind: str, **said: Any) -> Any:
        """An event that is no tool's."""
        return self._ask({"do": "tell", "event": self.events[kind], "said": said})

    def hook(self, event: str, **said: Any) -> Any:
        """One hook by the CLI's own name of it, whatever it is told."""
        return self._ask({"do": "tell", "event": event, "said": said})

    def start(self, line: str) -> int:
        """A line of the shell that goes on beside; its process."""
        return self._ask({"do": "start", "line": line})["pid"]

    def output(self, pid: int) -> Any:
        """What it gave, once it has ended."""
        return self._ask({"do": "wait", "pid": pid})

    def use(self, tool: str, arguments: dict[str, Any], **step: Any) -> Any:
        """A tool from its first hook to its last; its id is made up unless it is said, or is None."""
        identifier = step.pop("id", f"toolu_{uuid.uuid4().hex[:12]}")
        more = {} if identifier is None else {"id": identifier}
        return self._ask({"do": "use", "tool": tool, "input": arguments, **more, **step})

    def leave(self) -> None:
        """It ends without a word."""
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> "Cli":
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


class Record:
    """What the store says, as `custody show` and `custody runs` would."""

    def __init__(self, daemon: Daemon) -> None:
        self._store = os.fspath(daemon.store)

    def calls(self, session: str) -> list[dict[str, Any]]:
        """Of a session, the oldest first. What the dead left open is closed before, as by any reader."""
        with self._view() as view:
            found = view.index.calls(CallFilter(session=session), limit=200).items
            return [document(view.index.call(call.id)) for call in found[::-1]]

    def runs(self, session: str) -> list[dict[str, Any]]:
        with self._view() as view:
            return [document(run) for run in view.index.runs(RunFilter(session=session)).items[::-1]]

    def _view(self) -> View:
        return open_view(load_settings(store=self._store, layers_of=lambda _folder, _user: ()))
