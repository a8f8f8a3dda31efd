"""A hook when things go wrong: it says no wherever the CLI can be stopped, and keeps no agent going."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.doors.hooks.driving import SOURCE, Cli
from tests.settings_for_tests import never_short_of_resources, without_walls

from custody.doors.hooks import client, lines
from custody.doors.hooks.lines import hook_command, hook_lines
from custody.installing.hooks import is_ours

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


def test_a_refusal_is_told_in_its_own_words(served_by: Stub, tmp_path: Path, environment: dict[str, str]):
    served_by.status = b"429 Too Many Requests"
    served_by.answer = {"error": {"code": "too_busy", "message": "No room.", "hint": "Try again."}}
    done = hooked(hook_command("claude-code", "PreToolUse"), environment, before(tmp_path), tmp_path)
    said = "Custody: Custody answered 'HTTP/1.1 429 Too Many Requests': No room. Try again; see"
    assert (done.returncode, done.stderr.startswith(said)) == (2, True)


STRANGER = 12345
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user for a while")
LISTEN = f"""
import os, socket, sys
os.setuid({STRANGER})
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listens", flush=True)
sys.stdin.read()
"""


@NEEDS_ROOT
def test_a_daemon_that_another_user_names_is_not_asked(
    served_by: Stub, tmp_path: Path, environment: dict[str, str]
):
    os.chown(tmp_path / "store" / "journal" / "serving", STRANGER, STRANGER)
    done = hooked(hook_command("claude-code", "PreToolUse"), environment, before(tmp_path), tmp_path)
    assert (done.returncode, "is not yours alone" in done.stderr) == (2, True)
    assert served_by.requests == []


def test_a_word_that_others_may_change_is_not_believed(
    served_by: Stub, tmp_path: Path, environment: dict[str, str]
):
    os.chmod(tmp_path / "store" / "journal" / "serving", 0o666)
    done = hooked(hook_command("claude-code", "PreToolUse"), environment, before(tmp_path), tmp_path)
    assert (done.returncode, served_by.requests) == (2, [])


@NEEDS_ROOT
def test_a_socket_on_which_another_user_listens_is_told_nothing(
    served_by: Stub, tmp_path: Path, environment: dict[str, str]
):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        path = f"{folder}/serve.sock"
        serving = {"addresses": [f"unix://{path}"], "auth": False}
        (tmp_path / "store" / "journal" / "serving").write_text(json.dumps(serving), encoding="utf-8")
        with subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", LISTEN, path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as listener:  # fmt: skip
            assert listener.stdout is not None
            assert listener.stdout.readline() == "listens\n"
            done = hooked(hook_command("claude-code", "PreToolUse"), environment, before(tmp_path), tmp_path)
            listener.communicate("")
    assert (done.returncode, "another user's program listens" in done.stderr) == (2, True)


def test_no_variable_of_the_interpreter_and_no_folder_lends_it_other_code(
    served_by: Stub, tmp_path: Path, environment: dict[str, str]
):
    theirs = tmp_path / "theirs"
    (theirs / "custody").mkdir(parents=True)
    for name in ("json", "_json", "os", "socket", "sitecustomize", "encodings", "client", "custody/__init__"):
        theirs.joinpath(f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    environment |= dict.fromkeys(
        ("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONPLATLIBDIR"), os.fspath(theirs)
    )
    environment |= {"PYTHONSTARTUP": os.fspath(theirs / "json.py"), "PYTHONINSPECT": "1"}
    done = hooked(hook_command("claude-code", "PreToolUse"), environment, before(theirs), theirs)
    assert (done.returncode, done.stdout, len(served_by.requests)) == (0, "{}", 1)
    assert not (tmp_path / "ran").exists()


def test_any_folder_may_hold_custody_and_its_store(
    served_by: Stub, tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    odd = tmp_path / 'o\'d "d" é $HOME `id`; \\ n'
    program = odd / "custody" / "doors" / "hooks" / "client.py"
    program.parent.mkdir(parents=True)
    shutil.copy(client.__file__, program)
    (odd / "python").symlink_to(os.path.realpath(sys.executable))
    (odd / "store").symlink_to(tmp_path / "store")
    monkeypatch.setattr(lines, "CLIENT", os.fspath(program))
    monkeypatch.setattr(sys, "executable", os.fspath(odd / "python"))
    line = hook_command("claude-code", "PreToolUse", store=os.fspath(odd / "store"))
    monkeypatch.undo()
    del environment["CUSTODY_STORE"]
    done = hooked(line, environment, before(tmp_path), tmp_path)
    assert (done.returncode, done.stdout) == (0, "{}"), done.stderr
    assert served_by.requests[0]["store"] == os.fspath(odd / "store")
    assert is_ours(line)


def test_a_port_is_no_way_where_the_socket_is_gone(tmp_path: Path):
    """Whoever listens there by now would be told the secrets."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        addresses = [f"ws://127.0.0.1:{other.getsockname()[1]}", f"unix://{tmp_path}/gone.sock"]
        with pytest.raises(client.Gone):
            client.connected(addresses, time.monotonic() + 5)
        client.connected(addresses[:1], time.monotonic() + 30).close()


def test_what_is_not_utf_8_is_blocked_before_a_tool_and_an_end_is_told_all_the_same():
    options = {"store": "/srv/store", "rewrite": "yes", "cli": "codex"}
    with pytest.raises(ValueError, match="utf-8"):
        client.make_request({**options, "event": "PreToolUse"}, b'{"a": "\xff"}')
    request = json.loads(client.make_request({**options, "event": "PostToolUse"}, b'{"a": "\xff"}'))
    assert request["told"] == '{"a": "\ufffd"}'


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
@pytest.mark.parametrize("limit", ["-f 0", "-v 60000"], ids=["disk", "memory"])
def test_a_hook_that_runs_short_blocks(limit: str, tmp_path: Path, environment: dict[str, str]):
    line = f"ulimit {limit}; {hook_command('claude-code', 'PreToolUse')}"
    done = hooked(line, environment, before(tmp_path), tmp_path)
    assert (done.returncode, done.stdout) == (2, "")


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
