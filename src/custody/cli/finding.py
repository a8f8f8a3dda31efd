"""One thing that `custody doctor` looked at. Owns its shape. Used by the checks of `doctor`."""

from dataclasses import dataclass
from typing import Any, Literal

State = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """`note` is worth knowing, `wrong` makes the exit code 1."""

    name: str
    state: State
    value: Any
    text: str
    hint: str | None = None
