"""Values that a CLI was given as secrets: found in what it is about to do, and kept out of the record.

Owns the search and the replacement in what a hook is told. The runtime knows only the secrets of its own
process; these come with each hook and are forgotten with it. Used by `answering`.
"""

import base64
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import quote

from custody.doors.hooks.event import HookUnclear
from custody.records import Redaction
from custody.redaction import secrets_of

RULE = "known_value"
REPLACED = f"[redacted:{RULE}]"
DEPTH_MAX = 64
"""Of lists and maps in each other, as of all that is recorded; no tool's arguments come near."""

TOO_DEEP = "too_deep"
LEFT_OUT = f"[left out: more than {DEPTH_MAX} levels deep]"


class Secrets:
    """Those of one hook."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._named = secrets_of(environ)
        forms: dict[str, str] = {}
        for name, value in self._named.items():
            value = value.strip()
            raw = value.encode("utf-8", "surrogateescape")
            for form in (value, quote(value, safe=""), base64.b64encode(raw).decode().rstrip("=")):
                forms.setdefault(form, name)
        self._forms = dict(sorted(forms.items(), key=lambda one: -len(one[0])))

    def found_in(self, value: Any) -> list[str]:
        """Names of those whose value stands somewhere in it, in one of the ways it may be written. Raises
        HookUnclear where that is too deep to be looked through."""
        texts: list[str] = []
        _texts(value, texts, DEPTH_MAX)
        return sorted({name for form, name in self._forms.items() if any(form in text for text in texts)})

    def replaced(self, value: Any, path: str) -> tuple[Any, tuple[Redaction, ...]]:
        """The same without them, and how many there were. What is too deep is left out, and counted too."""
        if not self._forms:
            return value, ()
        count = [0, 0]
        clean = self._clean(value, count, DEPTH_MAX)
        hits = [Redaction(RULE, path, count[0]), Redaction(TOO_DEEP, path, count[1])]
        return clean, tuple(hit for hit in hits if hit.count)

    def _clean(self, value: Any, count: list[int], depth: int) -> Any:
        if not depth and isinstance(value, (dict, list)):
            count[1] += 1
            return LEFT_OUT
        if isinstance(value, str):
            for form in self._forms:
                if form in value:
                    count[0] += value.count(form)
                    value = value.replace(form, REPLACED)
            return value
        if isinstance(value, dict):
            named = cast("dict[Any, Any]", value)
            return {
                self._clean(name, count, 0): self._clean(item, count, depth - 1)
                for name, item in named.items()
            }
        if isinstance(value, list):
            return [self._clean(item, count, depth - 1) for item in cast("list[Any]", value)]
        return value


def _texts(value: Any, found: list[str], depth: int) -> None:
    if isinstance(value, str):
        found.append(value)
    elif not depth and isinstance(value, (dict, list)):
        raise HookUnclear(f"It is more than {DEPTH_MAX} levels deep, so no secret in it would be found.")
    elif isinstance(value, dict):
        for name, item in cast("dict[Any, Any]", value).items():
            found.append(str(name))
            _texts(item, found, depth - 1)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            _texts(item, found, depth - 1)
