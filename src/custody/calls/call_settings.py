"""How a runtime treats calls; what the settings of a store and the door of a program come down to.

Used by `runtime` and whatever it is made of; made by `compose`.
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from custody.policy.model import Afterwards
from custody.records import Effect
from custody.tools import Scope


class CallSettings(Struct, frozen=True, kw_only=True):
    """How a runtime treats calls."""

    scope: Scope
    timeout_seconds: float | None = 30.0
    parallel_calls: int = 64
    durable_before: frozenset[Effect] = frozenset({"write", "irreversible", "unknown"})
    environment: Literal["all_but_secret", "allow_list"] = "allow_list"
    environment_added: Mapping[str, str] = {}
    no_new_privs: bool = True
    level: Literal["strongest", "process", "confined", "transaction"] = "strongest"
    """What commands that no person has typed run at, unless they are asked for behind more. `strongest`:
    those of tools that run what an agent writes at `confined`, where this machine gives that."""
    sandbox: str = "workspace"
    """The walls from level `confined` up, where a call names none."""
    afterwards: Afterwards = "hold"
    """What becomes of the changes of a transaction that says nothing of it."""
    hosts: tuple[str, ...] = ()
    """What commands may reach beside what their sandbox lists, where its network is `listed`."""
    limits: Mapping[str, int] = {}
    """Resource limits of every process, by the name of setrlimit(2) in lower case."""
    watch: bool = True
    """Whether what a command changes in its workspace is told."""
    door: str = "python"
    agent: str | None = None
    caller: str | None = None
    workspace: str | None = None
    session_id: str | None = None
