"""WHAT CAN HAPPEN: tools, their schemas, the registry, and the built-ins that need only processes."""

from custody.tools.registry import Registry, installed_tools, tool
from custody.tools.roots import Scope
from custody.tools.tool import Asker, Context, Ended, Means, Offered, Origin, ProcessIO, Tool

__all__ = [
    "Asker",
    "Context",
    "Ended",
    "Means",
    "Offered",
    "Origin",
    "ProcessIO",
    "Registry",
    "Scope",
    "Tool",
    "installed_tools",
    "tool",
]
