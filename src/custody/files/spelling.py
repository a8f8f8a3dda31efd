"""How a path is spelled: what is none at all, how two are compared, and how one is shown to a person.

Pure, but for the home folder that `~` stands for. Opens nothing and knows nothing of roots. Used by `reach`
and `protected`.
"""

import os
import re
import unicodedata
from functools import lru_cache

from custody.cuts import beginning
from custody.errors import PathInvalid

PATH_BYTES_MAX = 4095
"""PATH_MAX, less the zero byte that ends a path."""

NAME_BYTES_MAX = 255
"""NAME_MAX of every file system an agent works on."""

_SHOWN_CHARACTERS_MAX = 80

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_IGNORABLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Unicode's Default_Ignorable_Code_Point: ext4 (casefold) and HFS+ leave them out when they compare names."""


def check_spelling(path: str) -> None:
    """Raises PathInvalid for what is no path."""
    if not path:
        raise PathInvalid("The path is empty.")
    if _CONTROL.search(path):
        raise PathInvalid(f"The path {_shown(path)} holds a control character.")
    if len(path) <= NAME_BYTES_MAX and path.isascii():
        return
    try:
        data = os.fsencode(path)
    except UnicodeEncodeError:
        raise PathInvalid(f"The path {_shown(path)} cannot be written as bytes.") from None
    if len(data) > PATH_BYTES_MAX:
        raise PathInvalid(f"The path has {len(data)} bytes; {PATH_BYTES_MAX} is the most.")
    longest = max(map(len, data.split(b"/")))
    if longest > NAME_BYTES_MAX:
        raise PathInvalid(f"A name in the path has {longest} bytes; {NAME_BYTES_MAX} is the most.")


def _shown(path: str) -> str:
    return f"{beginning(path, _SHOWN_CHARACTERS_MAX)!a}"


def absolute_path(path: str, cwd: str) -> str:
    """From `cwd` on, or the home folder for `~/`: one slash between components, no `.`, each `..` left in.

    A slash at the end stays, as it says that a folder is meant. Raises PathInvalid.
    """
    check_spelling(path)
    if path == "~" or path.startswith("~/"):
        path = os.path.expanduser("~") + path[1:]
    absolute = path if path.startswith("/") else f"{cwd}/{path}"
    if "//" in absolute or "/." in absolute:
        parts = [part for part in absolute.split("/") if part not in ("", ".")]
        folder = absolute.endswith(("/", "/.")) and parts
        absolute = "/" + "/".join(parts) + ("/" if folder else "")
    return absolute


def below(root: str, absolute: str) -> str | None:
    """What is left of an absolute path behind the root, None where it is not below; compared after NFC."""
    if root == "/":
        return absolute[1:]
    if absolute.startswith(root) and absolute[len(root) : len(root) + 1] in ("", "/"):
        return absolute[len(root) + 1 :]
    if absolute.isascii():
        return None
    wanted = unicodedata.normalize("NFC", root).split("/")
    parts = absolute.split("/")
    if [unicodedata.normalize("NFC", part) for part in parts[: len(wanted)]] == wanted:
        return "/".join(parts[len(wanted) :])
    return None


def folded(text: str) -> str:
    """For comparison as the most lenient file system does it: NFC, without case and invisible characters."""
    return text.lower() if text.isascii() else _folded(text)


@lru_cache(maxsize=4096)
def _folded(text: str) -> str:
    visible = _IGNORABLE.sub("", text)
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", visible).casefold())


def shown(path: str) -> str:
    """For a message: bytes that are not UTF-8 as `\\xe9`, so that it is text every record can hold."""
    if path.isascii() or not _SURROGATE.search(path):
        return path
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
