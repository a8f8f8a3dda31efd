"""The clients people have, through the proxy: curl, Python's TLS, pip and npm."""

import asyncio
import base64
import datetime as dt
import hashlib
import io
import json
import os
import shutil
import ssl
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.sandbox.egress.serving import INSTALL_SECONDS_MAX, Handler, Proxied, proxied, run, serving

from custody.sandbox.egress import Connection

NAME = "secure.example"

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


class Done(NamedTuple):
    code: int | None
    out: str
    err: str


async def client(proxy: Proxied, folder: Path, *words: str) -> Done:
    """Run with what a confined command has in its environment."""
    variables = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "NO_PROXY": "", "PIP_CONFIG_FILE": "/dev/null",
        **dict.fromkeys(variables, proxy.url),
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=folder,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Done(process.returncode, out.decode(), err.decode())


def serving_files(files: Mapping[str, bytes], kinds: Mapping[str, str] | None = None) -> Handler:
    """A host that has these paths and keeps connections open."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split()[1].decode()
            body = files.get(path)
            status = "404 Not Found" if body is None else "200 OK"
            kind = (kinds or {}).get(path, "application/octet-stream")
            answer = (
                f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body or b'')}\r\n\r\n"
            )
            writer.write(answer.encode() + (body or b""))
            await writer.drain()

    return handle


async def resolve(_host: str, _port: int) -> Sequence[str]:
    return ("127.0.0.1",)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a server that vouches for itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    file = tmp_path_factory.mktemp("certificate") / "server.pem"
    file.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(pem)
    )
    return file


def server_side(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_what_is_encrypted_stays_so_between_the_command_and_the_host(certificate: Path):
    async def main() -> None:
        handler = serving_files({"/": b"secret"})
        async with (
            serving(handler, ssl=server_side(certificate)) as port,
            proxied(f"{NAME}:{port}", f"127.0.0.1:{port}", resolve=resolve) as proxy,
        ):
            reader, writer = await proxy.connect()
            writer.write(f"CONNECT {NAME}:{port} HTTP/1.1\r\n\r\n".encode())
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            context = ssl.create_default_context(cafile=str(certificate))
            await writer.start_tls(context, server_hostname=NAME)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert (await reader.readuntil(b"secret")).startswith(b"HTTP/1.1 200 OK")
            writer.close()
            told = await proxy.told.get()
            assert (told.host, told.address, told.verdict) == (NAME, "127.0.0.1", "allowed")
            assert told.bytes_in > len(b"secret") and told.bytes_out > 0

    run(main())


@needs_curl
def test_curl_reaches_a_listed_host_encrypted_and_not(certificate: Path, tmp_path: Path):
    async def main() -> None:
        handler = serving_files({"/a": b"here"})
        async with serving(handler, ssl=server_side(certificate)) as tls, serving(handler) as plain:
            hosts = (f"{NAME}:{tls}", f"{NAME}:{plain}", f"127.0.0.1:{tls}", f"127.0.0.1:{plain}")
            async with proxied(*hosts, resolve=resolve) as proxy:
                urls = (f"https://{NAME}:{tls}/a", f"http://{NAME}:{plain}/a", f"http://{NAME}:{plain}/a")
                done = await client(proxy, tmp_path, "curl", "-sS", "--cacert", str(certificate), *urls)
                assert done == Done(0, "here" * 3, "")
                ports = sorted([(await proxy.told.get()).port for _ in urls])
                assert ports == sorted([tls, plain, plain])

    run(main())


@needs_curl
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_curl_to_a_host_that_is_not_listed_ends_at_once_with_the_line_that_allows_it(
    scheme: str, tmp_path: Path
):
    line = '[sandbox] hosts = ["evil.example"]'

    async def main() -> None:
        async with proxied("example.org") as proxy:
            done = await client(
                proxy, tmp_path, "curl", "-sS", "-i", "--max-time", "50", f"{scheme}://evil.example/"
            )
            assert f"X-Custody-Refused: evil.example:{443 if scheme == 'https' else 80} is not on" in done.out
            assert line in done.out
            assert done.code == (56 if scheme == "https" else 0)
            assert ("response 403" in done.err) is (scheme == "https")
            assert (await proxy.told.get()).verdict == "refused"

    run(main())


@needs_curl
def test_curl_uploads_of_unknown_length_arrive(tmp_path: Path):
    whole = b"0123456789" * 20_000
    (tmp_path / "whole").write_bytes(whole)
    received: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"100-continue" in head:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while size := int(await reader.readuntil(b"\r\n"), 16):
            received.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readexactly(2)
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    async def main() -> None:
        async with serving(take) as port, proxied(f"127.0.0.1:{port}") as proxy:
            done = await client(
                proxy, tmp_path, "curl", "-sS", "-i", "-H", "Transfer-Encoding: chunked", "-T", "whole",
                f"http://127.0.0.1:{port}/",
            )  # fmt: skip
            assert done.code == 0, done.err
            assert "201 Created" in done.out

    run(main())
    assert b"".join(received) == whole


def test_python_says_why_it_is_refused(tmp_path: Path):
    """Its first line is all that many clients show of an answer to CONNECT."""
    program = "import urllib.request; urllib.request.urlopen('https://evil.example/', timeout=50)"

    async def main() -> None:
        async with proxied("example.org") as proxy:
            done = await client(proxy, tmp_path, sys.executable, "-I", "-c", program)
            assert 'Allow it in the settings: [sandbox] hosts = ["evil.example"]' in done.err

    run(main())


# -- package managers -----------------------------------------------------------------------------------


def wheel() -> bytes:
    files = {
        "small_package/__init__.py": "ANSWER = 42\n",
        "small_package-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: small-package\nVersion: 1.0\n",
        "small_package-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*files, "small_package-1.0.dist-info/RECORD"))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in {**files, "small_package-1.0.dist-info/RECORD": record}.items():
            archive.writestr(name, text)
    return packed.getvalue()


async def told_of(proxy: Proxied, more_than_bytes: int) -> list[Connection]:
    """All accounts, once more than so much came in: a client may have ended before the last is told."""
    told: list[Connection] = []
    while sum(one.bytes_in for one in told) <= more_than_bytes:
        told.append(await proxy.told.get())
    return told + [proxy.told.get_nowait() for _ in range(proxy.told.qsize())]


@pytest.mark.long
def test_pip_installs_from_a_registry_that_is_listed(tmp_path: Path):
    pytest.importorskip("pip", reason="pip is not installed")
    name = "small_package-1.0-py3-none-any.whl"
    digest = hashlib.sha256(wheel()).hexdigest()
    files = {
        "/simple/small-package/": f'<a href="/files/{name}#sha256={digest}">{name}</a>'.encode(),
        f"/files/{name}": wheel(),
    }

    async def main() -> None:
        async with serving(serving_files(files, {"/simple/small-package/": "text/html"})) as port:
            index = ("--index-url", f"http://127.0.0.1:{port}/simple/", "--no-cache-dir", "--retries", "0")
            words = (sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *index)
            async with proxied(f"127.0.0.1:{port}") as proxy:
                done = await client(proxy, tmp_path, *words, "--target", "installed", "small-package")
                assert done.code == 0, done.err
                assert (tmp_path / "installed/small_package/__init__.py").read_text() == "ANSWER = 42\n"
                told = await told_of(proxy, len(wheel()))
                assert {(one.host, one.verdict, one.error) for one in told} == {
                    ("127.0.0.1", "allowed", None)
                }
            async with proxied("example.org") as proxy:
                done = await client(proxy, tmp_path, *words, "--target", "refused", "small-package")
                assert done.code != 0
                assert (await proxy.told.get()).verdict == "refused"
                assert not (tmp_path / "refused").exists()

    run(main(), INSTALL_SECONDS_MAX)


def tarball() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in {
            "package/package.json": '{"name": "small-package", "version": "1.0.0", "main": "index.js"}',
            "package/index.js": "module.exports = 42\n",
        }.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o644
            archive.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


@pytest.mark.long
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_npm_installs_from_a_registry_that_is_listed(tmp_path: Path):
    packed = tarball()
    (tmp_path / "package.json").write_text("{}")
    files: dict[str, bytes] = {"/small-package/-/small-package-1.0.0.tgz": packed}

    async def main() -> None:
        async with serving(serving_files(files)) as port:
            integrity = "sha512-" + base64.b64encode(hashlib.sha512(packed).digest()).decode()
            url = f"http://127.0.0.1:{port}/small-package/-/small-package-1.0.0.tgz"
            version = {
                "name": "small-package",
                "version": "1.0.0",
                "dist": {"tarball": url, "integrity": integrity},
            }
            about = {
                "name": "small-package",
                "dist-tags": {"latest": "1.0.0"},
                "versions": {"1.0.0": version},
            }
            files["/small-package"] = json.dumps(about).encode()
            words = (
                "npm", "install", "small-package", "--no-audit", "--no-fund", "--no-update-notifier",
                "--fetch-retries=0", f"--registry=http://127.0.0.1:{port}/", "--cache=cache",
                "--userconfig=npmrc",
            )  # fmt: skip
            async with proxied(f"127.0.0.1:{port}") as proxy:
                done = await client(proxy, tmp_path, *words)
                assert done.code == 0, done.err
                installed = tmp_path / "node_modules/small-package/index.js"
                assert installed.read_text() == "module.exports = 42\n"
                told = await told_of(proxy, len(packed))
                assert {(one.host, one.verdict, one.error) for one in told} == {
                    ("127.0.0.1", "allowed", None)
                }

    run(main(), INSTALL_SECONDS_MAX)
