"""A skill fetched over https: one file or archive, which has to be the one that was expected.

Owns the download: https only, also where a server sends it elsewhere, certificates checked, bounded in size
and in time. Knows nothing of what is in it (`archive`). Used by `acts`. Waits for the network, so it runs in
a thread.

Certificates are checked against the system's, or what SSL_CERT_FILE and SSL_CERT_DIR name. Proxies are those
of the environment.
"""

import base64
import hashlib
import http.client
import os
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any
from urllib.parse import unquote, urljoin, urlsplit

from custody.errors import CustodyError, InvalidSkill, ToolError
from custody.skills.skill import Source
from custody.skills.sources.archive import unpack
from custody.skills.sources.wanted import FILE_SUFFIX, Wanted, without_secrets
from custody.skills.staging import CHUNK_BYTES, Fetched, Intake, Staging, room_error
from custody.skills.tree import SKILL_FILE, TreeBounds

REDIRECTS_MAX = 5  # a download page, a mirror and a signed link make three

SECONDS_MAX = 300.0
"""For a call without a deadline: the largest skill over a line of 2 Mbit/s."""

LATE_SECONDS = 2.0
"""Behind the call's deadline, which ends the download by itself, and says so in its own words."""

USER_AGENT = "custody"


class Cut:
    """By which a download is ended from another thread: the deadline's, or that of whoever cancels."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._socket: socket.socket | None = None
        self.done = False

    def hold(self, connection: socket.socket) -> None:
        """The connection that is waited for now."""
        with self._mutex:
            self._socket = connection
            if self.done:
                _shut(connection)

    def end(self) -> None:
        with self._mutex:
            self.done = True
            if self._socket is not None:
                _shut(self._socket)


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        # Of the connection beneath TLS: whoever waits to read from it wakes up.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def fetch_https(
    wanted: Wanted, staging: Staging, bounds: TreeBounds, seconds: float | None, cut: Cut
) -> Fetched:
    """Download and unpack. Raises InvalidSkill, ToolError, which names the sha256 of what came unexpected."""
    path = os.path.join(staging.path, "download")
    allowed_seconds = SECONDS_MAX if seconds is None else seconds + LATE_SECONDS
    sha256 = _downloaded(wanted, path, bounds.bytes_max, allowed_seconds, cut)
    if wanted.sha256 is None:
        raise ToolError(
            f"A download is only installed where its sha256 is said. What {wanted.said} gives now has the "
            f"sha256 {sha256}.",
            hint="Where that is what its publisher says, too, give it as `sha256`.",
        )
    if sha256 != wanted.sha256:
        raise ToolError(
            f"What {wanted.said} gives is not what was expected: its sha256 is {sha256}, `sha256` is "
            f"{wanted.sha256}. Nothing was installed."
        )
    source = Source(kind="https", location=wanted.said, path=wanted.path, sha256=sha256)
    name = unquote(urlsplit(wanted.said).path.rpartition("/")[2])
    if wanted.form == "archive":
        return unpack(path, name, wanted, source, staging, bounds)
    intake = Intake(staging.folder("skill"), bounds)
    intake.add_file(SKILL_FILE, _chunks_of(path), executable=False)
    return Fetched(
        path=os.path.join(staging.path, "skill", SKILL_FILE),
        kind="file",
        natural_name=name[: -len(FILE_SUFFIX)],
        source=source,
    )


def _chunks_of(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _downloaded(wanted: Wanted, path: str, bytes_max: int, seconds: float, cut: Cut) -> str:
    """The sha256 of what was written to `path`."""
    ended = time.monotonic() + seconds
    watch = threading.Timer(seconds, cut.end)
    watch.daemon = True
    watch.start()
    try:
        with _opened(wanted, seconds, cut) as response:
            return _written(response, wanted, path, bytes_max)
    except CustodyError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        if cut.done:
            late = time.monotonic() >= ended
            why = f"did not come within {seconds:.0f} s" if late else "was not waited for"
            raise ToolError(f"{wanted.said} {why}. Nothing was installed.") from error
        raise ToolError(f"{wanted.said} could not be fetched: {_in_words(error)}.") from error
    finally:
        watch.cancel()


def _written(response: Any, wanted: Wanted, path: str, bytes_max: int) -> str:
    declared = response.headers.get("Content-Length")
    expected = int(declared) if declared and declared.isascii() and declared.isdigit() else None
    if expected is not None and expected > bytes_max:
        raise InvalidSkill(f"{wanted.said} has {expected:,} bytes; {bytes_max:,} are allowed.")
    digest = hashlib.sha256()
    size = 0
    with _created(path) as file:
        while chunk := response.read1(CHUNK_BYTES):
            size += len(chunk)
            if size > bytes_max:
                raise InvalidSkill(f"{wanted.said} has more than {bytes_max:,} bytes.")
            digest.update(chunk)
            _write(file, chunk, path)
    if expected is not None and size < expected:
        raise ToolError(f"{wanted.said} ended after {size:,} of {expected:,} bytes. Nothing was installed.")
    return digest.hexdigest()


def _created(path: str) -> IO[bytes]:
    try:
        return open(path, "xb", buffering=0)
    except OSError as error:
        raise room_error(os.path.dirname(path), error) from error


def _write(file: IO[bytes], chunk: bytes, path: str) -> None:
    view = memoryview(chunk)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        raise room_error(os.path.dirname(path), error) from error


def _in_words(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return f"the server says {error.code} {error.reason}"
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({reason.verify_message}); SSL_CERT_FILE may name others"
    return str(getattr(reason, "strerror", None) or reason or type(error).__name__)


# -- how it is asked for ----------------------------------------------------------------------------------


def _opened(wanted: Wanted, seconds: float, cut: Cut) -> Any:
    """The response. Each connection is one that `cut` can end."""

    class Connection(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            cut.hold(self.sock)

    class Handler(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Connection, req, context=ssl.create_default_context())

    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        Handler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    opener.addheaders = []
    return opener.open(_request(wanted.location), timeout=seconds)


def _request(location: str) -> urllib.request.Request:
    """Credentials in the address are sent as a header, as no server takes them otherwise."""
    parts = urlsplit(location)
    userinfo, at, host = parts.netloc.rpartition("@")
    url = parts._replace(netloc=host, fragment="").geturl()
    request = urllib.request.Request(
        url, headers={"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
    )
    if at:
        token = base64.b64encode(unquote(userinfo).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


class _Redirects(urllib.request.HTTPRedirectHandler):
    """To https only, a few times, and credentials stay with the server they were given for."""

    max_redirections = REDIRECTS_MAX

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request:
        fp.close()  # whatever it says beside the address is read by nobody
        url = urljoin(req.full_url, newurl)
        if urlsplit(url).scheme != "https":
            raise ToolError(
                f"{without_secrets(req.full_url)} sends on to {without_secrets(url)}, which is not https. "
                "Nothing was installed."
            )
        return urllib.request.Request(url, headers=dict(req.headers), unverifiable=True)
