"""Credentials in URLs: what stands before the `@` of `https://user:secret@host` and `https://TOKEN@host`.

Owns how such a place is found and which part of it is a secret. Knows nothing of the value the text stands
in. Used by the redactor.

A password is one under every scheme. What stands there alone is one from 8 characters on, where the scheme
takes tokens in that place; `ssh://git@host` and `postgres://shop@db` name an account. Of a pair, the name
goes too when it may be the token (`https://TOKEN:x-oauth-basic@github.com`).
"""

import re
from collections.abc import Iterator

from custody.redaction.encodings import encoded
from custody.redaction.known import Fingerprints

RULE = "url_credentials"

LONE_CHARACTERS_MIN = 8
"""Shorter names before an `@` are accounts; no service hands out so short a token."""

_SCHEME_CHARACTERS_MAX = 32
"""Looked at in front of `://`; the longest scheme that matters here has nine."""

_WITHIN = r"""[^\x00-\x20\x7f/?#"'<>\\`]"""
"""What an authority (RFC 3986, section 3.2) may be made of, and what people write there all the same; not
what ends a URL in text, JSON or a command line. The C twin knows the same characters."""

_USERINFO = re.compile(rf"://({_WITHIN}+)@")
_SUSPICIOUS = re.compile(
    rf"://(?:{_WITHIN}{{{LONE_CHARACTERS_MIN},}}|{_WITHIN.replace('[^', '[^:')}*:{_WITHIN}*)@".encode()
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*\Z")
_TOKEN = r"\[redacted:[a-z0-9_]+:[0-9a-f]{8}\]"
_PARTS = re.compile(rf"({_TOKEN}|[^:]*)(?:(:)(.*))?", re.DOTALL)
_LONE = re.compile(rf"[A-Za-z0-9._~%+=!$&*@^-]{{{LONE_CHARACTERS_MIN},}}")
_DIGIT = re.compile(r"[0-9]")
_NO_SECRET = re.compile(
    rf"{_TOKEN}|\*+|\$?\{{+\w+\}}+|\$[A-Z_][A-Z0-9_]*|(?:YOUR[-_]?)?(?:PASSWORD|PASSWD|PASS|TOKEN|SECRET)"
    r"|password|passwd|x{3,}|x-oauth-basic|"
)
"""Hidden before, by us or by the program that wrote it; a template's, a shell's or a document's placeholder;
the word that stands for no password where the name is the token; nothing."""

_WEB = frozenset({"http", "https", "git+http", "git+https", "ws", "wss"})
"""Here a name alone may be a token of letters only."""

_ACCOUNTS = frozenset({
    "ssh", "git+ssh", "ssh+git", "svn+ssh", "sftp", "scp", "rsync", "ftp", "ftps", "vscode-remote",
    "postgres", "postgresql", "mysql", "mariadb", "mongodb", "mongodb+srv", "amqp", "amqps", "ldap", "ldaps",
    "smtp", "smtps", "imap", "imaps", "sip", "sips", "xmpp", "docker", "oci",
})  # fmt: skip
"""Here a name alone is an account's (or an image's), however long."""


def holds_userinfo(data: bytes) -> bool:
    """Whether the bytes may hold credentials in a URL; no means that they do not."""
    return b"@" in data and b"://" in data and _SUSPICIOUS.search(data) is not None


class UrlCredentials:
    """Finds and replaces credentials in URLs."""

    def __init__(self, fingerprints: Fingerprints) -> None:
        self._fingerprints = fingerprints

    def replace(self, text: str) -> tuple[str, int]:
        """The text without them, and how many there were."""
        if "@" not in text or "://" not in text:
            return text, 0
        return self._replace(text, "utf-8")

    def replace_bytes(self, data: bytes) -> tuple[bytes, int]:
        if not holds_userinfo(data):
            return data, 0
        text, count = self._replace(data.decode("latin-1"), "latin-1")
        return (text.encode("latin-1"), count) if count else (data, 0)

    def _replace(self, text: str, encoding: str) -> tuple[str, int]:
        count = 0

        def hide(secret: str) -> str:
            nonlocal count
            count += 1
            data = secret.encode("latin-1") if encoding == "latin-1" else encoded(secret)
            return self._fingerprints.token(RULE, _unquoted(data))

        def clean(found: re.Match[str]) -> str:
            parts = _PARTS.fullmatch(found[1])
            assert parts is not None, "the expression takes any text"
            user, colon, password = parts[1], parts[2] or "", parts[3] or ""
            open_password = _NO_SECRET.fullmatch(password) is None
            if _may_be_token(user, _scheme_before(text, found.start()), beside_password=open_password):
                user = hide(user)
            return f"://{user}{colon}{hide(password) if open_password else password}@"

        text = _USERINFO.sub(clean, text)
        return text, count


def credentials_in(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Where `UrlCredentials` would replace something, and what."""
    if not holds_userinfo(data):
        return
    text = data.decode("latin-1")
    for found in _USERINFO.finditer(text):
        parts = _PARTS.fullmatch(found[1])
        assert parts is not None, "the expression takes any text"
        open_password = _NO_SECRET.fullmatch(parts[3] or "") is None
        spans: list[tuple[int, int]] = []
        if _may_be_token(parts[1], _scheme_before(text, found.start()), beside_password=open_password):
            spans.append(parts.span(1))
        if open_password:
            spans.append(parts.span(3))
        for start, end in spans:
            start, end = start + found.start(1), end + found.start(1)
            yield start, end, _unquoted(data[start:end])


def _scheme_before(text: str, end: int) -> str:
    found = _SCHEME.search(text[max(0, end - _SCHEME_CHARACTERS_MAX) : end])
    return "" if found is None else found[0].lower()


def _may_be_token(user: str, scheme: str, *, beside_password: bool) -> bool:
    """Whether the first part, which an account's name or a token may stand in, is hidden."""
    if scheme in _ACCOUNTS or _NO_SECRET.fullmatch(user) or not _LONE.fullmatch(user):
        return False
    return (scheme in _WEB and not beside_password) or _DIGIT.search(user) is not None


def _unquoted(data: bytes) -> bytes:
    """The secret itself, so that it has one fingerprint in a URL and elsewhere."""
    if b"%" not in data:
        return data
    from urllib.parse import unquote_to_bytes  # milliseconds that few processes have a use for

    return unquote_to_bytes(data)
