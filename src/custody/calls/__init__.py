"""MAKE IT HAPPEN: the way of a call. Read `execute` first."""

from custody.calls.run import RunHandle
from custody.calls.runtime import CallSettings, Runtime

__all__ = ["CallSettings", "RunHandle", "Runtime"]
