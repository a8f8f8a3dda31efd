"""Finding the one run, call or step that a person means by the beginning of its id, or by a name.

Owns the rules of prefixes and the sentences for none and for several. Used by `index`.
"""

import difflib
import re
from typing import NamedTuple

from custody.errors import Ambiguous, NotFound
from custody.index.database import Database
from custody.records import CALL_ID_BYTES, RUN_ID_BYTES

CANDIDATES_MAX = 5
"""Ids named when several begin so."""

LATEST = ("latest", "-")
"""Stand for the run started last."""

_HEX = re.compile(r"[0-9a-fA-F]+\Z")


class Found(NamedTuple):
    """A run, call or step by its row, good in the present transaction only."""

    of: str
    id: bytes
    row: int


def id_range(prefix: str, id_bytes: int) -> tuple[bytes, bytes] | None:
    """The first id that begins with a hex prefix and a bound above the last; None where none can."""
    if not _HEX.match(prefix) or len(prefix) > 2 * id_bytes:
        return None
    low = bytes.fromhex(prefix.ljust(2 * id_bytes, "0"))
    above = f"{int(prefix, 16) + 1:0{len(prefix)}x}"
    if len(above) > len(prefix):
        # Nothing of this length is above an id of all ones; a longer string of them is.
        return low, b"\xff" * (id_bytes + 1)
    return low, bytes.fromhex(above.ljust(2 * id_bytes, "0"))


class Lookup:
    """Looks ids and names up. Runs inside a transaction of its caller's."""

    def __init__(self, database: Database, *, by_name: bool = True) -> None:
        self._database = database
        self._by_name = by_name

    def call(self, text: str) -> Found:
        return self._only(self._calls(text), text, "call")

    def run(self, text: str) -> Found:
        """A whole id goes before a name that spells it, and a whole name before ids that begin with it."""
        whole = self._runs(text) if len(text) == 2 * RUN_ID_BYTES else []
        named = self._named(text) if not whole else None
        return named or self._only(whole or self._runs(text), text, "run")

    def step(self, text: str) -> Found:
        return self._only(self._steps(text), text, "step")

    def any(self, text: str) -> Found:
        """A run, call or step, by the same rule."""
        whole = [found for found in self._with_id(text) if found.id.hex() == text.lower()]
        named = self._named(text) if not whole else None
        return named or self._only(whole or self._with_id(text), text, "run, call or step")

    def _with_id(self, text: str) -> list[Found]:
        return [*self._runs(text), *self._calls(text), *self._steps(text)]

    def _calls(self, text: str) -> list[Found]:
        return self._from("calls", text, CALL_ID_BYTES)

    def _runs(self, text: str) -> list[Found]:
        return self._from("runs", text, RUN_ID_BYTES)

    def _steps(self, text: str) -> list[Found]:
        return self._from("steps", text, CALL_ID_BYTES)

    def _from(self, of: str, text: str, id_bytes: int) -> list[Found]:
        wanted = id_range(text, id_bytes)
        if wanted is None:
            return []
        rows = self._database.rows(f"{of}_from", *wanted, CANDIDATES_MAX + 1)
        return [Found(of, row[0], row[1]) for row in rows]

    def _named(self, text: str) -> Found | None:
        if not self._by_name:
            return None
        clean = text.encode("utf-8", "replace").decode()
        row = self._database.row("latest_run") if text in LATEST else self._database.row("run_named", clean)
        return None if row is None else Found("runs", row[1], row[0])

    def _only(self, found: list[Found], text: str, what: str) -> Found:
        if len(found) == 1:
            return found[0]
        shown = text if len(text) <= 80 else f"{text[:80]}…"
        if not found:
            raise NotFound(
                f"No {what} in this store has an id that begins with {shown!r}, and no run that name.",
                hint=self._nearest(text),
                text=text,
            )
        ids = [candidate.id.hex() for candidate in found[:CANDIDATES_MAX]]
        more = ", …" if len(found) > CANDIDATES_MAX else ""
        raise Ambiguous(
            f"Several ids begin with {shown!r}: {', '.join(ids)}{more}.",
            hint="Give more of it.",
            candidates=ids,
        )

    def _nearest(self, text: str) -> str:
        names = {str(row[0]) for row in self._database.rows("recent_names")}
        near = difflib.get_close_matches(text[:200], names, n=3)
        said = f"Did you mean {' or '.join(near)}? " if near else ""
        return f"{said}`custody runs --all` and `custody calls --all` list what there is."
