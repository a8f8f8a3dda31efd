"""`custody serve` as people start it: what it says, whom it refuses, and how it ends."""

import asyncio
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from tests.cli.conftest import Program, eventually
from tests.doors.daemons import Daemon, daemon

from custody.cli.daemon import Serving
from custody.cli.serve import ready_lines

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 20.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def token_of(served: Daemon) -> str:
    return Path(served.said["token_file"]).read_text(encoding="utf-8").strip()


async def ask(connection: websockets.ClientConnection, method: str, params: Any = None) -> Any:
    frame: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": method}
    await connection.send(json.dumps(frame if params is None else {**frame, "params": params}))
    async with asyncio.timeout(WAIT_SECONDS):
        return json.loads(await connection.recv())


def events_of(served: Daemon, name: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        served.command("tail", "--json"),
        env=served.environment,
        cwd=served.work,
        capture_output=True,
        check=True,
    )
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return [record for record in records if record.get("name") == name]


# -- what it says and who may come -------------------------------------------------------------------------


def test_it_says_where_it_listens_and_where_the_token_lies_and_stops_in_order(folder: Path):
    work = folder / "their work"
    work.mkdir()
    with daemon(folder, "--cwd", str(work), "--root", "/usr") as served:
        assert set(served.said) == {
            "store", "pid", "addresses", "cwd", "roots", "auth", "token_file", "host_token_file",
            "started_at", "export",
        }  # fmt: skip
        assert served.said["cwd"] == str(work)
        assert {str(work), "/usr"} <= set(served.said["roots"])
        assert served.said["export"] == f"export CAR_AUTH_TOKEN=$(cat {served.said['token_file']})"
        assert stat.S_IMODE(os.stat(served.said["token_file"]).st_mode) == 0o600
        token = token_of(served)
        assert len(token) == 43

        async def main() -> None:
            async with websockets.connect(served.url) as connection:
                assert (await ask(connection, "session.auth", {"token": token}))["result"]["ok"]
                assert (await ask(connection, "state.keys"))["result"] == []
                assert await printed(connection, ["pwd"]) == f"{work}\n"
                assert await printed(connection, ["pwd"], cwd="/usr") == "/usr\n"
                assert await printed(connection, ["pwd"], cwd="/etc") is None
            async with websockets.connect(served.url) as wrong:
                assert "error" in await ask(wrong, "session.auth", {"token": token[:-1] + "x"})

        asyncio.run(main())
        second = served.run("serve", "--listen", "127.0.0.1:0", "--no-socket")
        assert second[0] == 2
        assert str(served.said["pid"]) in second[1]["error"]["message"]
        assert served.url in second[1]["error"]["message"]
        _, looked = served.run("doctor")
        (found,) = (finding for finding in looked["findings"] if finding["name"] == "daemon")
        assert found["text"] == f"process {served.said['pid']} at {served.url}"
    assert served.run("verify")[0] == 0
    (started,), (stopped,) = events_of(served, "server.started"), events_of(served, "server.stopped")
    assert started["payload"]["data"]["addresses"] == served.said["addresses"]
    assert started["payload"]["data"]["roots"] == served.said["roots"]
    assert stopped["payload"]["data"] == {"signal": "SIGTERM", "drained": True}
    assert token not in json.dumps(started)
    assert served.complaints() == ""


async def printed(connection: websockets.ClientConnection, argv: list[str], **where: str) -> str | None:
    """What a command printed, in a call of its own."""
    made = await ask(connection, "calls.make", {"tool": "exec", "arguments": {"argv": argv}, **where})
    result: dict[str, Any] | None = made["result"]["result"]
    return None if result is None else result["stdout"]


def test_what_it_says_is_what_the_documents_show():
    """The README and the how-to, which newcomers compare with what they see."""
    store = "/home/ada/.local/share/custody"
    said = ready_lines(
        Serving(
            store=store, pid=4242, addresses=["ws://127.0.0.1:9100", "unix:///run/user/1000/custody/serve.sock"],
            cwd="/home/ada/shop", roots=["/home/ada/shop", "/tmp"], auth=True,
            token_file=f"{store}/keys/serve.token", host_token_file="", started_at="",
        )
    )  # fmt: skip
    shown = "\n".join(["```", "$ custody serve", *said, "```"])
    for page in ("README.md", "docs/how-to/serve.md"):
        assert shown in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.long
def test_a_killed_daemon_is_followed_by_one_with_the_same_token_and_socket(folder: Path):
    path = folder / "runtime" / "custody" / "here.sock"
    served = Daemon(folder)
    served.options = ("--socket", str(path))
    start_with_socket(served)
    token = token_of(served)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(path.parent).st_mode) == 0o700
    served.kill()
    assert path.exists()
    start_with_socket(served)
    assert token_of(served) == token

    async def main() -> None:
        async with websockets.unix_connect(str(path), uri="ws://localhost/") as connection:
            assert (await ask(connection, "session.auth", {"token": token}))["result"]["ok"]

    asyncio.run(main())
    other = served.run(
        "serve", "--store", str(folder / "other"), "--listen", "127.0.0.1:0", "--socket", str(path)
    )
    assert other[0] == 2
    assert "listens on" in other[1]["error"]["message"]
    assert served.stop() == 0
    assert not path.exists()


def start_with_socket(served: Daemon) -> None:
    """As `start`, which does without a socket."""
    command = served.command
    served.command = lambda *arguments: [word for word in command(*arguments) if word != "--no-socket"]
    try:
        served.start()
    finally:
        served.command = command


def test_the_second_signal_does_not_wait_and_what_was_under_way_is_on_the_record(folder: Path):
    """A call that would take a minute: the first signal lets it end, the second ends it."""
    with daemon(folder, "--drain", "60s", "--no-auth") as served:
        begun = threading.Event()

        async def main() -> None:
            connection = await websockets.connect(served.url)
            await ask(connection, "tools.register", [{"name": "slow"}])
            action: dict[str, Any] = {"type": "tool_call", "tool": "slow", "parameters": {}}
            submit = {"proposal": {"actions": [action]}}
            frame = {"jsonrpc": "2.0", "id": 2, "method": "proposal.submit", "params": submit}
            await connection.send(json.dumps(frame))
            assert json.loads(await connection.recv())["method"] == "tools.execute"
            begun.set()
            async with asyncio.timeout(WAIT_SECONDS):
                await connection.wait_closed()

        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        assert begun.wait(WAIT_SECONDS)
        assert served.process is not None
        served.process.send_signal(signal.SIGTERM)
        with httpx.Client(base_url=served.url.replace("ws", "http", 1)) as client:
            eventually(lambda: nobody_is_let_in(client))
        assert served.process.poll() is None
        assert "one request is under way and may take 60 s" in served.complaints()
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(WAIT_SECONDS) == 0
        thread.join()
        served.process.stdout.close()  # pyright: ignore[reportOptionalMemberAccess]
        served.process = None
    _, calls = served.run("calls", "--all")
    assert [call["outcome"] in ("cancelled", "unknown") for call in calls["items"]] == [True]
    assert served.run("verify")[0] == 0


def nobody_is_let_in(client: httpx.Client) -> bool:
    try:
        client.get("/health", headers={"Connection": "close"})
    except httpx.ConnectError:
        return True
    except httpx.TransportError:  # it had been let in, and was sent away
        pass
    return False


# -- who is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--listen", "0.0.0.0:0", "--no-auth"], "--no-auth"),
        (["--listen", "0.0.0.0:0"], "in the clear"),
        (["--listen", ""], "HOST:PORT"),
        (["--socket", ""], "--no-socket"),
        (["--drain", "none"], "a bound"),
        (["--cwd", "/no/such/folder"], "is no folder"),
        (["--root", "/no/such/folder"], "is no folder"),
        (["--allow-origin", "*"], "is no origin"),
        (["--systemd-unit", "--allow-host", "https://x"], "is no name of a host"),
        (["--listen", "127.0.0.1:70000"], "address"),
        (["--listen", "198.51.100.7:0", "--insecure"], "cannot be listened on"),
        (["--listen", "127.0.0.1:0", "--tls-cert", "x"], "key"),
        (["--tls-cert", "no", "--tls-key", "no"], "/no cannot be read: No such file"),
        (["--tls-cert", "/dev/null", "--tls-key", "/dev/null"], "no certificate and its key. Both are PEM"),
        (["--socket", "x", "--no-socket"], "exclude"),
        (["--listen", "127.0.0.1:0", "--socket", "/dev/null"], "no socket"),
        (["--listen", "127.0.0.1:0", "--socket", "/" + "x" * 200 + "/y"], "cannot be made"),
    ],
)
def test_what_nobody_can_have_meant_is_refused_before_anything_is_served(
    custody: Program, arguments: list[str], words: str
):
    done = custody("serve", "--json", *arguments)
    assert done.code == 2, done.err
    error = done.json["error"]
    assert words in f"{error['message']} {error['hint']}"


def test_a_port_that_is_taken_is_said(custody: Program):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = custody("serve", "--json", "--no-socket", "--listen", address)
    assert done.code == 2
    assert address in done.json["error"]["message"]


@pytest.mark.long
def test_without_its_packages_it_names_the_line_that_installs_them(custody: Program, tmp_path: Path):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'uvicorn' else find(name, *rest)\n"
    )
    done = custody("serve", "--json", PYTHONPATH=os.fspath(tmp_path / "hidden"))
    assert done.code == 2
    assert done.json["error"]["hint"] == "pip install 'custody-runtime[serve]'"


# -- as others start it ------------------------------------------------------------------------------------


def test_a_unit_for_systemd_starts_what_was_asked_for(custody: Program):
    (custody.work / 'a "b%').mkdir()
    done = custody(
        "serve", "--systemd-unit", "--listen", "127.0.0.1:7", "--allow-host", "ledger.example",
        "--root", 'a "b%', CUSTODY_CONFIG=str(custody.settings),
    )  # fmt: skip
    lines = done.out.splitlines()
    (start,) = (line for line in lines if line.startswith("ExecStart="))
    assert f"{sys.executable} -m custody serve --store {custody.store} --cwd {custody.work} " in start
    assert "--listen 127.0.0.1:7" in start
    assert f'--root "{custody.work}/a \\"b%%"' in start
    assert f"Environment=CUSTODY_CONFIG={custody.settings}" in lines
    assert "Type=notify" in lines
    assert "KillMode=mixed" in lines


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[socket.socket]:
    """Who is told as systemd is."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(WAIT_SECONDS)
        yield sock


@pytest.mark.long
def test_who_supervises_it_is_told_when_it_is_ready_alive_and_stopping(
    folder: Path, supervisor: socket.socket
):
    served = Daemon(folder)
    served.environment |= {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "200000"}
    served.start()
    assert supervisor.recv(4_096).splitlines()[0] == b"READY=1"
    assert {supervisor.recv(4_096) for _ in range(3)} == {b"WATCHDOG=1"}
    assert served.stop() == 0
    told = b"WATCHDOG=1"
    while told == b"WATCHDOG=1":
        told = supervisor.recv(4_096)
    assert told.splitlines()[0] == b"STOPPING=1"


@pytest.mark.long
def test_other_machines_are_served_over_tls(folder: Path):
    certificate, key = self_signed(folder)
    with daemon(folder, "--tls-cert", certificate, "--tls-key", key) as served:
        assert served.url.startswith("wss://")
        trusting = ssl.create_default_context(cafile=certificate)

        async def main() -> None:
            url = served.url.replace("127.0.0.1", "localhost")
            async with websockets.connect(url, ssl=trusting) as connection:
                answer = await ask(connection, "session.auth", {"token": token_of(served)})
                assert answer["result"]["ok"]

        asyncio.run(main())
        with pytest.raises(httpx.TransportError):
            httpx.get(served.url.replace("wss", "http", 1) + "/health")


def self_signed(folder: Path) -> tuple[str, str]:
    """Files of a certificate for localhost, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "cert.pem", folder / "key.pem"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return str(files[0]), str(files[1])
