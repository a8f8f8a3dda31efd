"""What may be said of a run when it is started, and its first record before it is drafted.

Used by `run`, and by whoever starts one.
"""

import getpass
import hashlib
import os
from collections.abc import Mapping
from typing import Any, TypedDict

from msgspec import Struct

from custody.calls import stated
from custody.calls.delegation import Task
from custody.calls.recording import OnError
from custody.recorder import Draft, Recorder
from custody.records import RunOutcome, RunStarted, now_us


class RunOptions(TypedDict, total=False):
    """What may be said of a run when it is started; what is left out is the runtime's."""

    agent: str | None
    caller: str | None
    session: str | None
    """Id shared by runs that belong together."""
    parent: str | None
    """Id of the run it was started from; by default the surrounding one."""
    client: str | None
    door: str | None
    channel: str | None
    user: str | None
    host: str | None
    workspace: str | None
    external_id: str | None
    outcome_description: str | None
    """What would count as success, in words."""
    inputs: Any
    labels: Mapping[str, str] | None
    on_error: OnError
    """`warn`: a record that cannot be kept is counted, and the agent goes on. `raise`: NotRecorded."""
    owner_pid: int
    """The process a shared run lives and dies with; by default this one."""


NAMES = frozenset(
    {
        "agent", "caller", "channel", "client", "door", "external_id", "host", "name", "session_id", "user",
        "workspace",
    }
)  # fmt: skip
"""What a run's first leaf says as text."""


class Beginning(Struct, frozen=True):
    """A run's first record before it is drafted."""

    payload: dict[str, Any]
    """Intent, outcome description, inputs and labels, as far as they were given."""
    fields: dict[str, Any]
    """The leaf's, but for the run's id and the time."""
    on_error: OnError | None = None

    @property
    def shared(self) -> bool:
        return self.fields["shared"]

    def draft(self, recorder: Recorder, run_id: bytes) -> Draft:
        return recorder.draft(RunStarted, self.payload, run_id=run_id, at_us=now_us(), **self.fields)

    def task(self) -> Task:
        """What it was started for; see `delegation`."""
        inputs = self.payload.get("inputs")
        try:
            spelt = repr(inputs).encode("utf-8", "surrogatepass")
        except Exception:  # its own code: equal to itself alone
            spelt = b"%d" % id(inputs)
        intent = stated.name(self.payload.get("intent"))
        return Task(self.fields["agent"], intent, hashlib.sha256(spelt).hexdigest())


class NewRun(Struct, frozen=True):
    """A run before anybody holds it: what a runtime makes, and each face wraps in its own way."""

    run_id: bytes
    beginning: Beginning
    joined: bool = False
    """Somebody else has started it, and finishes it."""
    ancestors: tuple[Task, ...] = ()
    """What the runs above it were started for, the topmost first."""
    outcome: RunOutcome | None = None
    """Of one that was joined after its end."""
    above: tuple[bytes, ...] = ()
    """The run it was started from, the one that run was started from, and so on."""


def user_name() -> str | None:
    """Of whoever this process works for."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name
        return str(os.getuid())
