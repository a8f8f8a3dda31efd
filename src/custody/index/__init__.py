"""How to find it: a view of the journal in SQLite, which can be deleted at any time.

The public names of the package; `index` says what it does. What only some questions answer with is imported
when it is first used, so that a command loads no more than it needs.
"""

from typing import TYPE_CHECKING, Any

from custody.index.catch_up import Progress
from custody.index.index import Index
from custody.index.query import Bounded, CallFilter, EventFilter, Page, RunFilter, Scope
from custody.index.stats import Stats, ToolStats
from custody.index.views import EventView, OpenCall, OpenRun, Session, StepView

if TYPE_CHECKING:
    from custody.index.loops import Loop, Loops
    from custody.index.patterns import FailurePattern
    from custody.index.relatives import SilentRun
    from custody.index.sql import SqlAnswer
    from custody.index.timeline import TimelineEntry
    from custody.index.usage import UsageGroup, UsageReport

__all__ = [
    "Bounded",
    "CallFilter",
    "EventFilter",
    "EventView",
    "FailurePattern",
    "Index",
    "Loop",
    "Loops",
    "OpenCall",
    "OpenRun",
    "Page",
    "Progress",
    "RunFilter",
    "Scope",
    "Session",
    "SilentRun",
    "SqlAnswer",
    "Stats",
    "StepView",
    "TimelineEntry",
    "ToolStats",
    "UsageGroup",
    "UsageReport",
]

_HOMES: dict[str, str] = {
    "FailurePattern": "patterns",
    "Loop": "loops",
    "Loops": "loops",
    "SilentRun": "relatives",
    "SqlAnswer": "sql",
    "TimelineEntry": "timeline",
    "UsageGroup": "usage",
    "UsageReport": "usage",
}
"""Name -> the module of this package it comes from."""


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
