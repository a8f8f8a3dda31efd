"""Behind which wall a command runs: its process, its tree, its environment, and what is left after a crash.

`process` starts every process there is; `launcher` is the program it starts, which starts the commands.
"""

from custody.sandbox.command import Command, Finished, LimitHit, TerminalSize
from custody.sandbox.control import Control
from custody.sandbox.environment import EnvironmentMode, InheritedEnvironment, build_environment
from custody.sandbox.output import Output
from custody.sandbox.process import Launchers
from custody.sandbox.survivors import (
    Survivor,
    end_survivor,
    end_survivors,
    find_survivors,
    start_ticks,
    ticks_now,
)

__all__ = [
    "Command",
    "Control",
    "EnvironmentMode",
    "Finished",
    "InheritedEnvironment",
    "Launchers",
    "LimitHit",
    "Output",
    "Survivor",
    "TerminalSize",
    "build_environment",
    "end_survivor",
    "end_survivors",
    "find_survivors",
    "start_ticks",
    "ticks_now",
]
