"""A hook when things go wrong: it says no wherever the CLI can be stopped, and keeps no agent going."""

import json
import os
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.doors.hooks.driving import SOURCE, Cli
from tests.settings_for_tests import never_short_of_resources, without_walls

from custody.doors.hooks.lines import hook_command, hook_lines

BLOCKING = {"claude-code": "PreToolUse", "codex": "PreToolUse", "gemini": "BeforeTool"}
ENDING = {"claude-code": "Stop", "codex": "Stop", "gemini": "AfterAgent"}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of somebody with a home and a store of their own, and no daemon."""
    never_short_of_resources(tmp_path / "config")
    without_walls(tmp_path / "config")
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.fspath(tmp_path),
        "XDG_CONFIG_HOME": os.fspath(tmp_path / "config"),
        "CUSTODY_STORE": os.fspath(tmp_path / "store"),
        "PYTHONPATH": SOURCE,
    }


def hooked(
    command: str, environment: dict[str, str], told: str, cwd: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", command],
        env=environment,
        input=told,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )


def before(cwd: Path, event: str = "PreToolUse") -> str:
    arguments = {"command": "true"}
    said = {"tool_name": "Bash", "tool_input": arguments, "tool_use_id": "t1", "hook_event_name": event}
    return json.dumps({"session_id": "s", "cwd": os.fspath(cwd), **said})


@pytest.mark.parametrize("cli", sorted(BLOCKING))
def test_a_missing_interpreter_blocks_tools_and_lets_turns_end(
    cli: str, tmp_path: Path, environment: dict[str, str]
):
    def line(event: str) -> str:
        return hook_command(cli, event).replace(sys.executable, "/nowhere/python3")

    blocked = hooked(line(BLOCKING[cli]), environment, before(tmp_path), tmp_path)
    assert blocked.returncode == 2
    assert "Custody did not answer, so this is refused" in blocked.stderr
    ended = hooked(line(ENDING[cli]), environment, "{}", tmp_path)
    assert ended.returncode == 1


@pytest.mark.parametrize("told", ["", "no JSON", "[1]", '{"session_id": "s"'])
def test_what_is_no_json_is_blocked(
    told: str, served_by: "Stub", tmp_path: Path, environment: dict[str, str]
):
    """By the one that answers; the client hands it over as it came."""
    served_by.answer = {"exit_code": 2, "out": "", "err": "Custody: no\n"}
    done = hooked(hook_command("claude-code", "PreToolUse"), environment, told, tmp_path)
    assert (done.returncode, done.stderr) == (2, "Custody: no\n")
    assert served_by.requests[0]["told"] == told


class Stub:
    """Something that stands where a daemon would."""

    def __init__(self, store: Path) -> None:
        self.answer: Any = {"exit_code": 0, "out": "{}", "err": ""}
        self.status = b"200 OK"
        self.silent = False
        self.requests: list[Any] = []
        self._socket = socket.socket(socket.AF_UNIX)
        path = store / "serve.sock"
        (store / "journal").mkdir(parents=True)
        self._socket.bind(os.fspath(path))
        self._socket.listen()
        serving = {"addresses": ["ws://127.0.0.1:1", f"unix://{path}"], "auth": False}
        (store / "journal" / "serving").write_text(json.dumps(serving), encoding="utf-8")
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += connection.recv(65536)
                head, _, body = data.partition(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split()[0])
                while len(body) < length:
                    body += connection.recv(65536)
                self.requests.append(json.loads(body))
                said = json.dumps(self.answer).encode()
                if not self.silent:
                    connection.sendall(b"HTTP/1.1 " + self.status + b"\r\n\r\n" + said)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def served_by(environment: dict[str, str]) -> Iterator[Stub]:
    stub = Stub(Path(environment["CUSTODY_STORE"]))
    yield stub
    stub.close()


@pytest.mark.parametrize(
    ("status", "silent", "answer"),
    [
        (b"401 Unauthorized", False, {}),
        (b"500 Internal Server Error", False, {}),
        (b"200 OK", True, {}),
        (b"200 OK", False, {"exit_code": 0}),
        (b"200 OK", False, []),
    ],
)
def test_a_custody_that_does_not_answer_as_it_should_blocks(
    served_by: Stub, status: bytes, silent: bool, answer: Any, tmp_path: Path, environment: dict[str, str]
):
    served_by.status, served_by.silent, served_by.answer = status, silent, answer
    done = hooked(hook_command("claude-code", "PreToolUse"), environment, before(tmp_path), tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("Custody: ")


def test_the_cli_is_the_process_that_is_told_and_its_secrets_come_along(
    served_by: Stub, tmp_path: Path, environment: dict[str, str]
):
    environment |= {"SHOP_TOKEN": "a-token-of-theirs", "PLAIN": "nothing to hide"}
    with Cli(tmp_path, environment) as cli:
        cli.tell("stopped")
        (request,) = served_by.requests
        assert request["owner_pid"] == cli.pid
    assert request["secrets"] == {"SHOP_TOKEN": "a-token-of-theirs"}
    assert (request["cli"], request["event"], request["rewrite"]) == ("claude-code", "Stop", True)


def test_a_hook_that_is_killed_in_the_middle_blocks(
    served_by: Stub, tmp_path: Path, environment: dict[str, str]
):
    """What it is killed by is the tool's own line here: the shell around it says no."""
    line = hook_command("claude-code", "PreToolUse")
    words = shlex.split(line)
    killed = words[2].replace(
        shlex.quote(sys.executable), f"{shlex.quote(sys.executable)} -c 'import os; os.kill(os.getpid(), 9)'"
    )
    hooks = {"PreToolUse": [{"command": shlex.join([*words[:2], killed])}]}
    with Cli(tmp_path, environment, hooks=hooks) as cli:
        used = cli.use("Write", {"file_path": os.fspath(tmp_path / "new"), "content": "x"})
    assert not used["ran"]
    assert "did not answer, so this is refused" in used["reason"]
    assert not (tmp_path / "new").exists()
    assert served_by.requests == []


def test_a_hook_whose_input_never_ends_is_ended_by_the_kernel_and_blocks(
    tmp_path: Path, environment: dict[str, str]
):
    """Its alarm is set before it reads; here it rings at once."""
    rings = "import sys; sys.argv.pop(0); sys.path.insert(0, sys.argv[0].rpartition('/')[0]); "
    rings += "import client; client.LAST_SECONDS_MAX = 1; sys.exit(client.main(sys.argv[1:]))"
    words = shlex.split(hook_command("claude-code", "PreToolUse"))
    words[2] = words[2].replace(" -I -S ", f" -I -S -c {shlex.quote(rings)} ")
    waiting = subprocess.Popen(
        words, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert waiting.stderr is not None
    assert "did not answer, so this is refused" in waiting.stderr.read()
    assert waiting.wait() == 2
    waiting.stderr.close()
    assert waiting.stdin is not None
    waiting.stdin.close()


@pytest.mark.long
def test_without_a_daemon_it_is_done_by_the_hook_itself(tmp_path: Path, environment: dict[str, str]):
    def custody(*words: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "custody", *words, "--json"],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return json.loads(done.stdout)

    with Cli(tmp_path / "shop", environment) as cli:
        cli.tell("prompted", prompt="By itself")
        path = os.fspath(cli.work / "a.txt")
        assert cli.use("Write", {"file_path": path, "content": "a"})["ran"]
        assert cli.use("Bash", {"command": "echo hello"})["result"]["stdout"] == "hello\n"
        cli.tell("stopped")
        calls = custody("calls", "--all", "--session", cli.session)["items"][::-1]
        runs = custody("runs", "--all", "--session", cli.session)["items"]
    assert [(call["tool"], call["outcome"]) for call in calls] == [
        ("Write", "succeeded"),
        ("Bash", "succeeded"),
        ("exec", "succeeded"),
    ]
    assert [(run["intent"], run["outcome"]) for run in runs] == [("By itself", "succeeded")]


@pytest.mark.long
def test_a_store_that_cannot_be_used_blocks(tmp_path: Path, environment: dict[str, str]):
    (tmp_path / "store").write_text("a file stands here", encoding="utf-8")
    done = hooked(hook_command("claude-code", "PreToolUse"), environment, before(tmp_path), tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("Custody: ")
    told = json.dumps({"session_id": "s", "hook_event_name": "Stop"})
    assert hooked(hook_command("claude-code", "Stop"), environment, told, tmp_path).returncode == 1


@pytest.mark.long
@pytest.mark.parametrize("cli", ["codex", "gemini"])
def test_the_other_clis_are_answered_in_their_own_form(cli: str, tmp_path: Path, environment: dict[str, str]):
    tool = {"codex": "Bash", "gemini": "run_shell_command"}[cli]
    identifier = {"codex": "call_1", "gemini": None}[cli]
    with Cli(tmp_path / "shop", environment, cli) as session:
        used = session.use(tool, {"command": "echo one; exit 3"}, id=identifier, tells_changed=True)
        refused = session.use(tool, {"command": "cat ~/.ssh/id_rsa"}, id=identifier and "call_2")
    assert used["result"]["stdout"] == "one\n"
    assert "exec --adopt" in used["input"]["command"]
    assert not refused["ran"]
    assert "id_rsa is protected" in refused["reason"]


def test_every_event_of_every_cli_has_its_line():
    for cli in BLOCKING:
        assert len({line.command for line in hook_lines(cli)}) == len(hook_lines(cli)) > 5
