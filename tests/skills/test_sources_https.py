"""A skill over https, from a real server with a certificate authority of its own."""

import base64
import datetime as dt
import hashlib
import http.server
import io
import ipaddress
import os
import ssl
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.skills.installing import locked, set_aside, skill_text
from tests.tools.trees import Place, message, succeeded

from custody.blocking import BlockingRuntime
from custody.records import Call

WAIT_SECONDS = 60.0
"""For what takes milliseconds: what takes so long hangs."""


def packed(*members: tuple[str, str]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in members:
            archive.writestr(name, text)
    return data.getvalue()


ARCHIVE = packed(("pdf/SKILL.md", skill_text("pdf")), ("pdf/more.txt", "more"))
SHA256 = hashlib.sha256(ARCHIVE).hexdigest()
SECRET = "correct-horse-battery"

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


class Server(http.server.ThreadingHTTPServer):
    """Answers as each test says, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str | None, str | None]] = []
        self.done = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who hangs up in the middle, as the tests do, is no error of the server's."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append((self.path, self.headers["Host"], self.headers["Authorization"]))
        self.server.answers.get(path, gives(404, b"nothing"))(self)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


def gives(status: int, body: bytes = b"", **headers: str) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        with suppress(OSError):
            request.wfile.write(body)

    return answer


def certificates(folder: Path) -> tuple[Path, Path]:
    """An authority, and the server's certificate with its key."""
    now = dt.datetime.now(dt.UTC)

    def made(name: str, issuer: Any, signer: Any, *extensions: Any) -> tuple[Any, Any]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return key, builder.sign(signer or key, hashes.SHA256())

    authority_key, authority = made("authority", None, None, x509.BasicConstraints(ca=True, path_length=None))
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    key, server = made("localhost", authority.subject, authority_key, names)
    pem = serialization.Encoding.PEM
    (folder / "authority.pem").write_bytes(authority.public_bytes(pem))
    (folder / "server.pem").write_bytes(
        server.public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "authority.pem", folder / "server.pem"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def running(files: tuple[Path, Path]) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[1])
    with Server() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.done.set()
        server.shutdown()
        thread.join(WAIT_SECONDS)


@pytest.fixture
def server(running: Server) -> Server:
    running.answers.clear()
    running.asked.clear()
    return running


@pytest.fixture
def url(server: Server) -> str:
    return f"https://127.0.0.1:{server.server_address[1]}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("https"))


@pytest.fixture(scope="module")
def opened(place: Place) -> Iterator[BlockingRuntime]:
    with place.open() as runtime:
        yield runtime


@pytest.fixture
def runtime(
    opened: BlockingRuntime, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> BlockingRuntime:
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(files[0]))
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return opened


@pytest.fixture
def root(place: Place) -> Path:
    root = place.work / ".agents" / "skills"
    set_aside(root, place.outside)
    return root


def install(runtime: BlockingRuntime, source: str, **more: Any) -> Call:
    return runtime.call("skills_install", {"source": source, **more})


def test_what_is_fetched_is_what_was_expected_and_is_in_the_lock_with_its_sha256(
    runtime: BlockingRuntime, server: Server, url: str, root: Path
):
    server.answers["/pdf.zip"] = gives(200, ARCHIVE)
    result = succeeded(install(runtime, f"{url}/pdf.zip?token={SECRET}", sha256=SHA256))
    assert result["source"] == {
        "kind": "https",
        "location": f"{url}/pdf.zip",
        "commit": None,
        "path": None,
        "sha256": SHA256,
    }
    assert list(locked(root)) == ["pdf"]
    note = skill_text("notes").encode()
    server.answers["/notes.md"] = gives(200, note)
    call = install(runtime, f"{url}/notes.md", sha256=hashlib.sha256(note).hexdigest())
    assert succeeded(call)["path"] == "notes.md"


def test_without_a_sha256_it_is_refused_and_the_one_that_came_is_told(
    runtime: BlockingRuntime, server: Server, url: str, root: Path
):
    server.answers["/pdf.zip"] = gives(200, ARCHIVE)
    assert SHA256 in message(install(runtime, f"{url}/pdf.zip"))
    other = message(install(runtime, f"{url}/pdf.zip", sha256="0" * 64))
    assert f"its sha256 is {SHA256}" in other
    assert not root.exists()


def test_credentials_are_sent_and_never_recorded(
    runtime: BlockingRuntime, server: Server, url: str, root: Path, place: Place
):
    server.answers["/pdf.zip"] = gives(
        302, Location=f"https://localhost:{server.server_address[1]}/there.zip"
    )
    server.answers["/there.zip"] = gives(200, ARCHIVE)
    source = url.replace("https://", f"https://ada:{SECRET}@") + "/pdf.zip"
    result = succeeded(install(runtime, source, sha256=SHA256))
    assert result["source"]["location"] == f"{url}/pdf.zip"
    basic = "Basic " + base64.b64encode(f"ada:{SECRET}".encode()).decode()
    assert [authorization for _, _, authorization in server.asked] == [basic, None]
    assert SECRET not in (root / "skills.lock.json").read_text(encoding="utf-8")
    [recorded] = runtime.index.calls(limit=1).items
    assert SECRET not in str(recorded.arguments)
    failed = install(runtime, source.replace("pdf.zip", "none.zip"), sha256=SHA256)
    assert SECRET not in message(failed)


def test_only_https_is_followed_and_only_so_far(
    runtime: BlockingRuntime, server: Server, url: str, root: Path
):
    server.answers["/a.zip"] = gives(302, Location=f"http://127.0.0.1:{server.server_address[1]}/pdf.zip")
    server.answers["/b.zip"] = gives(302, Location="/b.zip")
    server.answers["/c.zip"] = gives(302, Location="file:///etc/passwd")
    assert "is not https" in message(install(runtime, f"{url}/a.zip", sha256=SHA256))
    assert "could not be fetched" in message(install(runtime, f"{url}/b.zip", sha256=SHA256))
    assert len(server.asked) < 15
    message(install(runtime, f"{url}/c.zip", sha256=SHA256))
    assert "404" in message(install(runtime, f"{url}/none.zip", sha256=SHA256))
    assert not root.exists()


def test_a_certificate_that_nobody_vouches_for_is_refused(
    runtime: BlockingRuntime, url: str, root: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[Path, Path]
):
    monkeypatch.delenv("SSL_CERT_FILE")
    assert "certificate is not trusted" in message(install(runtime, f"{url}/pdf.zip", sha256=SHA256))
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(files[0]))
    other = url.replace("127.0.0.1", "127.0.0.2")
    assert "could not be fetched" in message(install(runtime, f"{other}/pdf.zip", sha256=SHA256))
    assert not root.exists()


def test_a_download_that_is_too_large_or_ends_too_early_is_refused(
    runtime: BlockingRuntime, server: Server, url: str, root: Path
):
    server.answers["/large.zip"] = gives(200, ARCHIVE, Content_Length=str(2**40))
    assert "bytes; " in message(install(runtime, f"{url}/large.zip", sha256=SHA256))
    server.answers["/short.zip"] = gives(200, ARCHIVE[:-10], Content_Length=str(len(ARCHIVE)))
    assert "ended after" in message(install(runtime, f"{url}/short.zip", sha256=SHA256))
    assert not root.exists()


@pytest.mark.long
def test_a_stream_without_end_is_cut_at_the_bound(
    runtime: BlockingRuntime, server: Server, url: str, root: Path, place: Place
):
    def pours(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        with suppress(OSError):
            while not server.done.is_set():
                request.wfile.write(bytes(1024 * 1024))

    server.answers["/a.zip"] = pours
    assert "has more than 67,108,864 bytes" in message(install(runtime, f"{url}/a.zip", sha256=SHA256))
    assert list(place.temporary.iterdir()) == []


@pytest.mark.parametrize("where", [pytest.param("headers", marks=pytest.mark.long), "body"])
def test_a_server_that_never_ends_its_answer_is_left_at_the_deadline(
    runtime: BlockingRuntime, server: Server, url: str, root: Path, where: str
):
    begun, gone = threading.Event(), threading.Event()

    def drips(request: http.server.BaseHTTPRequestHandler) -> None:
        begun.set()
        begin = b"HTTP/1.1 200 OK\r\n"
        if where == "body":
            begin += b"Content-Length: 1000\r\n\r\n"
        try:
            request.wfile.write(begin)
            while not server.done.wait(0.05):
                request.wfile.write(b"X" if where == "body" else b"X-More: x\r\n")
        except OSError:
            gone.set()

    server.answers["/a.zip"] = drips
    for seconds in (0.2, 2.0, 20.0):  # until it has come to an answer: a busy machine takes its time
        call = runtime.call("skills_install", {"source": f"{url}/a.zip", "sha256": SHA256}, timeout=seconds)
        assert call.outcome == "timed_out"
        if begun.is_set():
            break
    assert gone.wait(WAIT_SECONDS)
    assert not root.exists()
