"""What a run needs of the runtime it belongs to.

Used by `run`; `runtime.Runtime` is it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from custody.calls.new_runs import NewRuns
from custody.calls.recording import Recording
from custody.calls.walled import Walled
from custody.journal import Journal
from custody.policy.model import Afterwards, WallLevel
from custody.records import Call


class Home(Protocol):
    """A runtime, as its runs see it."""

    journal: Journal
    recording: Recording
    new_runs: NewRuns
    walled: Walled

    async def call(
        self,
        tool: str | Callable[..., Any],
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        level: WallLevel | None = None,
        sandbox: str | None = None,
        afterwards: Afterwards | None = None,
        dry_run: bool = False,
        run: Any = None,
        external_id: str | None = None,
    ) -> Call: ...
