"""What the demo shows of the daemon: an agent in another process, its own tools, and a daemon that is killed.

Owns this chapter of the story. Plays the agent through the public Python face, and the operator who starts
the daemon, kills it and starts it again. Used by `demo`.
"""

import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from custody.cli.demo_story import Story

if TYPE_CHECKING:
    from custody.blocking import BlockingRuntime

START_SECONDS = 20.0
STOP_SECONDS = 10.0
NEEDED = ("starlette", "uvicorn", "websockets", "prometheus_client")
"""What the extra `serve` installs."""


def agent_elsewhere(story: Story, workspace: Path, store: Path) -> None:
    """A daemon, an agent that connects to it, and a kill in the middle of the agent's own tool."""
    import custody

    story.chapter("11. An agent in another process, through a daemon")
    if not all(importlib.util.find_spec(name) for name in NEEDED):
        story.say("  (left out here: it needs  pip install 'custody-runtime[serve]')")
        return
    logging.getLogger("custody").setLevel(
        logging.ERROR
    )  # the client says what it cannot tell: it is meant to
    operator = _Operator(workspace, store)
    address = operator.serve("127.0.0.1:0")
    token = (store / "keys" / "serve.token").read_text().strip()

    @custody.tool
    def measure(room: str) -> dict[str, Any]:
        """Runs at the agent; its call is recorded at the daemon."""
        return {"room": room, "celsius": 21.5}

    @custody.tool
    def outlive_the_daemon() -> None:
        """In the middle of this call the daemon is killed, and started again."""
        operator.kill()
        operator.serve(address.partition("://")[2])

    try:
        with custody.open(address, token=token, agent="thermostat") as runtime:
            _work(story, runtime, measure, outlive_the_daemon)
    finally:
        operator.stop()


def _work(story: Story, runtime: "BlockingRuntime", measure: Any, outlive_the_daemon: Any) -> None:
    """What the agent does."""
    from custody.errors import CustodyError

    with suppress(CustodyError), runtime.run("Keep the house warm") as run:
        call = run.call(measure, {"room": "kitchen"})
        story.claim(
            f"a tool that runs at the agent was on the record there before it ran: {call.result}",
            call.outcome == "succeeded" and call.position == 0,
            call.reason,
        )
        there = run.call("exec", {"argv": ["true"]})
        story.claim(
            f"the daemon's own tools stand beside it: exec {there.outcome}, at position {there.position}",
            there.outcome == "succeeded",
            there.reason,
        )
        run.call(outlive_the_daemon)
    with runtime.run("Keep the house warm, again") as again:
        back = again.call(measure, {"room": "kitchen"})
    found = runtime.index.run(run.id)
    last = runtime.index.run_calls(bytes.fromhex(run.id))[-1]
    story.claim(
        f"kill -9 of the daemon in the middle of a call: the call is {last.outcome}, its run {found.outcome}",
        (found.outcome, last.outcome) == ("incomplete", "unknown"),
        (found.outcome, last.outcome),
    )
    story.claim(
        f"the daemon is started again, and its agent is back by itself: {back.outcome}",
        back.outcome == "succeeded",
        back.reason,
    )


class _Operator:
    """Whoever starts and ends the daemon."""

    def __init__(self, workspace: Path, store: Path) -> None:
        self._workspace = workspace
        self._environment = {**os.environ, "CUSTODY_STORE": str(store)}
        self._daemon: subprocess.Popen[str] | None = None

    def serve(self, listen: str) -> str:
        """Start `custody serve`; returns its address when it says so."""
        command = [sys.executable, "-m", "custody", "serve", "--listen", listen, "--no-socket", "--json"]
        self._daemon = daemon = subprocess.Popen(
            command,
            cwd=self._workspace,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert daemon.stdout is not None, "it was asked for"
        too_late = threading.Timer(START_SECONDS, daemon.kill)
        too_late.start()
        try:
            return json.loads(daemon.stdout.readline())["addresses"][0]
        finally:
            too_late.cancel()

    def kill(self) -> None:
        """As a power failure would, without the power."""
        assert self._daemon is not None, "it was started"
        self._daemon.kill()
        self._daemon.communicate()

    def stop(self) -> None:
        """In good order: it signs what it recorded."""
        assert self._daemon is not None, "it was started"
        self._daemon.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._daemon.communicate(timeout=STOP_SECONDS)
