"""What may be the name of a branch, a revision or a repository's address, before git ever sees it.

Owns git's rules for names as far as a caller may use them, and which addresses are cloned. Pure: knows
nothing of repositories or of what exists. Used by the `git` tool, which hands git no text of a caller's that
was not checked here.
"""

import re
from typing import Literal

from msgspec import Struct

BRANCH_BYTES_MAX = 244
"""A branch is a file name in `refs/heads`, with room for `.lock` and a few letters behind it."""

REVISION_CHARACTERS_MAX = 1024  # `HEAD^{/some words}` included, this is more than anyone writes
URL_CHARACTERS_MAX = 2048  # what proxies and servers take

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BRANCH_NEVER = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//")
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
_USER = r"[A-Za-z0-9_][A-Za-z0-9._~+-]*"
_HTTPS = re.compile(rf"https://(?:[^\s/?#@]+(?:@[^\s/?#@]+)*@)?{_HOST}(?::[0-9]{{1,5}})?/\S+", re.IGNORECASE)
_SSH = re.compile(rf"ssh://(?:{_USER}@)?{_HOST}(?::[0-9]{{1,5}})?/\S+", re.IGNORECASE)
_SCP = re.compile(rf"(?:{_USER}@)?{_HOST}:(?!:)[^\s:-][^\s]*")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HELPER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)::")

AddressKind = Literal["https", "ssh", "local"]


class Address(Struct, frozen=True):
    """Where a repository is cloned from."""

    kind: AddressKind
    text: str
    """As git takes it; for a local one the path as it was written."""


def branch_problem(name: str) -> str | None:
    """Why this cannot be a branch's name, after git-check-ref-format(1); None when it can."""
    if not name:
        return "The name of a branch is empty."
    if len(name.encode("utf-8", "surrogateescape")) > BRANCH_BYTES_MAX:
        return f"The name of a branch has {BRANCH_BYTES_MAX} bytes at most."
    parts = name.split("/")
    wrong = (
        name.startswith("-")
        or name.endswith((".", "/"))
        or name in ("@", "HEAD")
        or _BRANCH_NEVER.search(name) is not None
        or any(not part or part.startswith(".") or part.endswith(".lock") for part in parts)
    )
    return f"{name[:80]!a} is no name for a branch (see git-check-ref-format)." if wrong else None


def revision_problem(text: str) -> str | None:
    """Why this cannot name a revision or a range of them; None when it may."""
    if not text:
        return "The revision is empty."
    if len(text) > REVISION_CHARACTERS_MAX:
        return f"A revision has {REVISION_CHARACTERS_MAX} characters at most."
    if _CONTROL.search(text) is not None:
        return "The revision holds a control character."
    if any(side.startswith("-") for side in range_of(text)):
        return f"{text[:80]!a} is no revision: it begins with a dash."
    return None


def range_of(text: str) -> tuple[str, str, str]:
    """`a..b` and `a...b` as their two sides and the dots; of a single revision the last two are empty.

    A side that is left out is HEAD.
    """
    for dots in ("...", ".."):
        left, found, right = text.partition(dots)
        if found and "/" not in f"{left[-1:]}{right[:1]}":  # `../x` in `HEAD:../x` is a path
            return left or "HEAD", right or "HEAD", dots
    return text, "", ""


def address_of(url: str) -> Address:
    """Which way a repository is reached. Raises ValueError, in words for the caller, for no way."""
    if not url or len(url) > URL_CHARACTERS_MAX or _CONTROL.search(url):
        raise ValueError(
            f"`url` is an address of 1 to {URL_CHARACTERS_MAX} characters, none of them a control character."
        )
    if url.startswith("-"):
        raise ValueError("`url` begins with a dash, which no address does.")
    if (helper := _HELPER.match(url)) is not None:
        raise ValueError(f"`url` names the transport {helper[1]}::, which runs a program. {_WAYS}")
    if (scheme := _SCHEME.match(url)) is not None:
        return _with_scheme(url, scheme[1].lower())
    if ":" in url.partition("/")[0]:
        if _SCP.fullmatch(url) is None:
            raise ValueError(f"`url` is not a host and a path, as in git@host:path. {_WAYS}")
        return Address("ssh", url)
    return Address("local", url)


_WAYS = (
    "Repositories are cloned over https:// and ssh:// (also git@host:path), and from paths inside the "
    "allowed roots."
)


def _with_scheme(url: str, scheme: str) -> Address:
    if scheme == "https" and _HTTPS.fullmatch(url):
        return Address("https", url)
    if scheme == "ssh" and _SSH.fullmatch(url):
        return Address("ssh", url)
    if scheme == "file" and url[7:8] == "/":
        return Address("local", url[7:])
    if scheme in ("https", "ssh", "file"):
        raise ValueError(f"`url` is no address git understands. {_WAYS}")
    raise ValueError(f"`url` uses {scheme}://. {_WAYS}")
