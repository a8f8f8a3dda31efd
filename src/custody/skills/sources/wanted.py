"""What a person or an agent writes for a source, read once: which kind it is, where it is, and which version.

Owns the spellings and the refusals that need nothing but the words. Pure. Used by `acts`, which asks before a
call is allowed, and by the fetching of each kind.

    ./pdf  ./notes.md  ./pdf.zip  .tar  .tar.gz  .tgz  .tar.xz          local, within the allowed roots
    https://host/pdf.zip                                               with its sha256
    git+https://host/skills.git@<commit or ref>  git+ssh://…  git+file:///…  and local paths that end in .git
"""

import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from custody.errors import InvalidInput
from custody.files.spelling import shown
from custody.skills.skill import SourceKind
from custody.skills.tree import TreeBounds, path_fault
from custody.tools.git.names import AddressKind, address_of, branch_problem

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz")
FILE_SUFFIX = ".md"
GIT_SUFFIX = ".git"
GIT_PREFIX = "git+"

SOURCE_CHARACTERS_MAX = 4096

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SCP = re.compile(r"[^/]+@[^/:]+:[^/]")
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_SHA256 = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PATH_BEGINS = re.compile(r"[/?#]")

_WAYS = (
    "A skill comes from a folder, a .md file or an archive (.zip, .tar, .tar.gz, .tgz, .tar.xz), from "
    "https:// with its sha256, or from git+https://, git+ssh:// or git+file:// with a commit."
)

Form = Literal["folder", "file", "archive"]


class Wanted(Struct, frozen=True, kw_only=True):
    """One source."""

    kind: SourceKind
    form: Form
    """What comes from it; a repository gives a folder, or the file that `path` names."""
    location: str
    """As it is used: a path as it was written, or an address, with its credentials."""
    said: str
    """As it is shown and kept: a URL without credentials, query or fragment. A path as it was written."""
    address: AddressKind | None = None
    """Of a repository: how it is reached."""
    commit: str | None = None
    ref: str | None = None
    path: str | None = None
    sha256: str | None = None


def wanted(arguments: Mapping[str, Any]) -> Wanted:
    """What the arguments of an install say of the source. Raises InvalidInput."""
    source: str = arguments["source"]
    if not source.strip() or len(source) > SOURCE_CHARACTERS_MAX or _CONTROL.search(source):
        raise InvalidInput(
            f"`source` has 1 to {SOURCE_CHARACTERS_MAX} characters, none of them a control character."
        )
    found = _read(source, arguments)
    given = {name: arguments[name] for name in ("commit", "ref", "path", "sha256") if name in arguments}
    _check_fits(found, given)
    path = _inside(given["path"]) if "path" in given else None
    commit, ref = _version(found, given)
    sha256 = None
    if "sha256" in given:
        if (digits := _SHA256.fullmatch(given["sha256"])) is None:
            raise InvalidInput("`sha256` is 64 hexadecimal digits.")
        sha256 = digits[1].lower()
    return Wanted(
        kind=found.kind,
        form=found.form,
        location=found.location,
        said=found.said,
        address=found.address,
        commit=commit,
        ref=ref,
        path=path,
        sha256=sha256,
    )


def _read(source: str, arguments: Mapping[str, Any]) -> Wanted:
    """By the spelling alone; `ref` holds what stands behind an `@`."""
    if source.startswith(GIT_PREFIX):
        return _repository(source.removeprefix(GIT_PREFIX), source)
    if (scheme := _SCHEME.match(source)) is not None:
        if scheme[1].lower() != "https":
            raise InvalidInput(f"A skill is not fetched over {scheme[1]}://. {_WAYS}")
        url = _split(source)
        if url.path.lower().endswith(GIT_SUFFIX):
            return _repository(source, source)
        return Wanted(
            kind="https", form=_form(url.path, source), location=source, said=without_secrets(source)
        )
    if _SCP.match(source):
        raise InvalidInput(f"{source!a} is spelled git+ssh://user@host/path here. {_WAYS}")
    if source.endswith(GIT_SUFFIX) or "commit" in arguments or "ref" in arguments:
        return Wanted(kind="git", form="folder", location=source, said=source, address="local")
    lower = source.lower()
    if lower.endswith(ARCHIVE_SUFFIXES):
        return Wanted(kind="archive", form="archive", location=source, said=shown(source))
    here: Form = "file" if lower.endswith(FILE_SUFFIX) else "folder"
    return Wanted(kind="local", form=here, location=source, said=shown(source))


def _form(path: str, source: str) -> Form:
    lower = path.lower()
    if lower.endswith(FILE_SUFFIX):
        return "file"
    if lower.endswith(ARCHIVE_SUFFIXES):
        return "archive"
    raise InvalidInput(f"{without_secrets(source)} does not end as an archive or a .md file does. {_WAYS}")


def _repository(url: str, source: str) -> Wanted:
    version = None
    left, at, right = url.rpartition("@")
    if at and "/" not in right and "/" in left.partition("://")[2]:
        url, version = left, right
    try:
        address = address_of(url)
    except ValueError as error:
        raise InvalidInput(f"{without_secrets(source)} is no repository: {error}") from None
    if "://" not in url:
        raise InvalidInput(f"{source!a} has no scheme: git+https://, git+ssh:// or git+file:///. {_WAYS}")
    if address.kind != "local":
        _split(url)
    return Wanted(
        kind="git",
        form="folder",
        location=address.text,
        said=without_secrets(url),
        address=address.kind,
        ref=version,
    )


def _split(url: str) -> SplitResult:
    """Raises InvalidInput for what is no URL with a host."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # its words may hold a password with a `/` in it, taken for a port
        raise InvalidInput(
            "The address cannot be read: its host or its port is none.",
            hint="In a user name or a password `/`, `?`, `#` and `@` are spelled %2F, %3F, %23 and %40.",
        ) from None
    if not parts.hostname:
        raise InvalidInput("The address names no host.")
    return parts


def without_secrets(url: str) -> str:
    """The address without what may be a secret in it: user and password, query, fragment."""
    clean = without_userinfo(url)
    return re.split(r"[?#]", clean, maxsplit=1)[0] if "://" in url else url


def without_userinfo(url: str) -> str:
    """The address without user and password."""
    scheme, separator, rest = url.partition("://")
    end = begins.start() if (begins := _PATH_BEGINS.search(rest)) else len(rest)
    return f"{scheme}{separator}{rest[:end].rpartition('@')[2]}{rest[end:]}" if separator else url


def _check_fits(found: Wanted, given: Mapping[str, str]) -> None:
    """Raises InvalidInput for a detail that means nothing here: whoever said it meant it to hold."""
    fits = {
        "commit": found.kind == "git",
        "ref": found.kind == "git",
        "sha256": found.kind in ("archive", "https"),
        "path": found.kind == "git" or found.form == "archive",
    }
    for name in given:
        if not fits[name]:
            raise InvalidInput(f"`{name}` has no meaning for this source, which is {_IN_WORDS[found.kind]}.")


_IN_WORDS = {
    "local": "a folder or a file on this machine",
    "archive": "an archive on this machine",
    "git": "a git repository",
    "https": "a download",
}


def _inside(path: str) -> str:
    """The folder inside, without `./` and a slash at the end."""
    clean = path.removeprefix("./").rstrip("/")
    if fault := path_fault(clean, TreeBounds()):
        raise InvalidInput(f"`path` is a folder inside the archive or repository: {fault}")
    return clean


def _version(found: Wanted, given: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Commit and ref. Raises InvalidInput for more than one of them, or for none that can be."""
    said = [text for text in (found.ref, given.get("commit"), given.get("ref")) if text is not None]
    if len(said) > 1:
        raise InvalidInput("The source, `commit` and `ref` say which version more than once.")
    commit = given.get("commit")
    if commit is None and found.ref is not None and _COMMIT.fullmatch(found.ref):
        commit = found.ref
    if commit is not None:
        if not _COMMIT.fullmatch(commit):
            raise InvalidInput("`commit` is the whole name of a commit: 40 (or 64) hexadecimal digits.")
        return commit, None
    ref = said[0] if said else None
    if ref is not None and (problem := branch_problem(ref)) is not None:
        raise InvalidInput(problem)
    return None, ref
