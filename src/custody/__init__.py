"""Custody guards and records every act of an AI agent.

Owns the public names and nothing else: each is imported from its module when it is first used, so that
`import custody` loads no library and opens no store. Used by applications; Custody's own modules import
one another directly.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from custody.calls.disabled import disabled
    from custody.calls.observed import observed
    from custody.calls.runtime import Runtime
    from custody.compose import open
    from custody.errors import CustodyError, Denied, NotRecorded, OutcomeUnknown, UsageError
    from custody.records import Call, Run
    from custody.tools import Context, tool

__version__ = "0.1.0"

__all__ = [
    "Call",
    "Context",
    "CustodyError",
    "Denied",
    "NotRecorded",
    "OutcomeUnknown",
    "Run",
    "Runtime",
    "UsageError",
    "__version__",
    "disabled",
    "observed",
    "open",
    "tool",
]

_HOMES: dict[str, str] = {
    "Call": "custody.records",
    "Context": "custody.tools",
    "CustodyError": "custody.errors",
    "Denied": "custody.errors",
    "NotRecorded": "custody.errors",
    "OutcomeUnknown": "custody.errors",
    "UsageError": "custody.errors",
    "Run": "custody.records",
    "Runtime": "custody.calls.runtime",
    "disabled": "custody.calls.disabled",
    "observed": "custody.calls.observed",
    "open": "custody.compose",
    "tool": "custody.tools",
}
"""Public name -> the module it comes from."""


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'custody' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
