"""What a confined command may reach, decided here and carried out by the launcher.

`model` is the value a policy chooses and narrows, and all that is light enough to load for any command. Who
runs one behind walls loads the rest: `machine` finds out which walls hold here; `plan` makes of both what a
launcher is told, with `seccomp` and `landlock` for what the kernel takes. Nothing here changes the machine or
this process.
"""

from custody.sandbox.walls.model import NAMED, Network, Sandbox, View, narrowed

__all__ = ["NAMED", "Network", "Sandbox", "View", "narrowed"]
