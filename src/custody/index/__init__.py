"""How to find it: a view of the journal in SQLite, which can be deleted at any time.

The public names of the package; `index` says what it does.
"""

from custody.index.catch_up import Progress
from custody.index.index import Index
from custody.index.query import CallFilter, EventFilter, Page, RunFilter
from custody.index.reading import EventView, OpenCall, OpenRun, Session, StepView
from custody.index.stats import Stats, ToolStats

__all__ = [
    "CallFilter",
    "EventFilter",
    "EventView",
    "Index",
    "OpenCall",
    "OpenRun",
    "Page",
    "Progress",
    "RunFilter",
    "Session",
    "Stats",
    "StepView",
    "ToolStats",
]
