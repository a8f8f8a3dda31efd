"""What a tool is: a named thing with a JSON Schema, an effect, and one way to execute it.

Owns the seam between a call and the work it asks for: `Tool.execute(arguments, context) -> Ended`. The
kinds of tool are `function` (Python), `isolated` (Python in a child that can be killed), `process` (commands)
and the built-ins that work on files, one file each. Knows nothing of runs, records or guards; `calls` alone
executes tools.
"""

import os
import stat
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec
from msgspec import Struct

from custody.records import Change, Decision, Effect, Level, Settled, Source, Usage
from custody.sandbox import Command, Control, Finished, Launchers, LimitHit, TerminalSize
from custody.tools.confinement import Confinement
from custody.tools.roots import Scope
from custody.tools.schema import ArgumentsSchema

if TYPE_CHECKING:
    from custody.changes import HeldStore, UndoStore
    from custody.files import Opening
    from custody.index import Index
    from custody.sandbox.egress.proxy import Connection
    from custody.sandbox.egress.rules import Allowed

Keep = Literal["full", "digest", "none"]

NULL_DEVICE = os.makedev(1, 3)
"""/dev/null, on every Linux."""


class Ended(Struct, frozen=True, kw_only=True):
    """How an execution ended, before anyone judged it. Times are CLOCK_MONOTONIC nanoseconds."""

    started_ns: int
    ended_ns: int
    result: Any = None
    error: BaseException | None = None
    limit_hit: LimitHit | None = None
    note: str | None = None
    """What the person reading the record should know: a thread that could not be stopped."""
    exit_code: int | None = None
    signal: int | None = None
    usage: Usage | None = None
    child_pid: int | None = None
    child_start_ticks: int | None = None
    changes: tuple[Change, ...] | None = None
    """What was done to files; None where the tool does not tell."""
    held: int | None = None
    """The changes are held, so many: no file has been touched."""
    held_digest: bytes | None = None
    """Of the manifest of what is held."""
    settles: tuple[str, Settled] | None = None
    """The call whose held changes were committed or discarded."""
    connections: "tuple[Connection, ...]" = ()
    """What its command reached, or tried to, behind walls that list hosts."""
    connections_untold: int = 0
    """How many more there were."""
    recorded: Any = None
    """What the record has in place of a result that came from the record itself; None: the result."""
    source: Source = "executed"
    """`cache` where an earlier result was given again and nothing was done."""


class Difference(Struct, frozen=True, kw_only=True):
    """What a call would make of files, where its arguments do not say it: a person is shown it when asked.

    A tool that knows has `difference(arguments, scope, clean)`, which may wait; None where there is nothing.
    """

    digest: str
    """Of all of it, hex: a yes is to exactly this."""
    text: str
    """As much of it as a person reads at once, secrets replaced by `clean`; each line ends with a newline."""


class Asker(Struct, frozen=True, kw_only=True):
    """Who asks for a call: the door it came in through, and what that door says of them."""

    door: str = "python"
    caller: str | None = None
    session_id: str | None = None
    run_id: str | None = None
    typed: bool = False
    """Whether a person has typed it: at the command line, and not by a command of a recorded call."""
    caused: bool = False
    """Whether it follows from another call, as settings or policy say."""


class Offered(Protocol):
    """Tools by name, as a call looks them up; `Registry` is it."""

    def get(self, name: str) -> "Tool | None": ...

    def schema(self, name: str) -> ArgumentsSchema: ...

    def nearest(self, name: str) -> list[str]: ...

    def keep(self, tool: "Tool") -> Keep: ...


class Origin(Struct, frozen=True, kw_only=True):
    """Through which door and connection, and as which action of a proposal, a call comes in."""

    door: str | None = None
    """None: the runtime's."""
    connection: str | None = None
    proposal_id: str | None = None
    action_id: str | None = None
    attempt: int | None = None
    """1-based."""
    tools: Offered | None = None
    """In which the tool's name is looked up; None: the runtime's own."""
    guards: tuple[Callable[[Any], Decision | None], ...] = ()
    """Asked after the runtime's own, of the same proposal: they say no, or have somebody asked."""
    state: Callable[[], Mapping[str, Any]] = dict
    """What the peer's calls and it have set, for rules that ask."""
    policy_session: str | None = None
    """Under which of its own sets of rules the peer asks; told again to a tool that runs there."""
    caused: bool = False
    """It follows from another call, as settings or policy say."""
    told: dict[str, Any] = {}
    """What the tool tells whoever made the call, beside its result."""


class ProcessIO(Struct, frozen=True, kw_only=True):
    """How a door that shows a process live is joined to it. The default joins nothing."""

    on_output: Callable[[Literal["stdout", "stderr"], bytes], None] | None = None
    stdin_fd: int | None = None
    """The door's own standard input, handed to the process."""
    terminal: TerminalSize | None = None
    """Run it under a pseudo-terminal of this size, because the door sits at one."""
    control: Control | None = None
    """Through which the door sends signals, keys and sizes while it runs."""

    @property
    def unread(self) -> bool:
        """Whether the process would be handed what nobody can look at before: a pipe's content, a file's."""
        if self.stdin_fd is None or os.isatty(self.stdin_fd):
            return False
        status = os.fstat(self.stdin_fd)
        return not (stat.S_ISCHR(status.st_mode) and status.st_rdev == NULL_DEVICE)


class Means(Struct, frozen=True, kw_only=True):
    """What a runtime lends to every call it makes."""

    launchers: Launchers
    inherit: Callable[[], tuple[dict[str, str], tuple[str, ...]]]
    """Gives what a child gets of our environment, and the names of what it does not."""
    no_new_privs: bool
    limits: Mapping[str, int]
    undo: "Callable[[], UndoStore]"
    held: "Callable[[], HeldStore]"
    index: "Callable[[], Index]"
    watch: bool


class Context:
    """What a tool may know of the call it serves; a function asks for it with a `context` parameter."""

    def __init__(
        self,
        *,
        call_id: str,
        run_id: str | None,
        dry_run: bool,
        scope: Scope,
        timeout_seconds: float | None,
        io: ProcessIO,
        means: Means,
        asker: Asker = Asker(),  # noqa: B008 - frozen
        origin: Origin | None = None,
        confinement: Confinement | None = None,
        egress: "Callable[[], Allowed] | None" = None,
    ) -> None:
        self.call_id = call_id
        self.run_id = run_id
        self.dry_run = dry_run
        self.scope = scope
        self.timeout_seconds = timeout_seconds
        self.deadline: float | None = None
        """When the call will be ended, on time.monotonic()'s clock; None: never."""
        self.asker = asker
        self.origin = origin or Origin()
        self._egress = egress
        self.agreed: bytes | None = None
        """What a person's yes is to, beside the arguments: see `Difference.digest`."""
        self.confinement = confinement
        """What holds its command; None where its tool starts no process."""
        self.private = ""
        """Where the private folders of its run are kept, if it has any: see `Command`."""
        self._means = means
        self._cancelled = False
        self._on_cancel: list[Callable[[], None]] = []
        self._io = io
        self.begin_deadline()

    @cached_property
    def inherited(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """What a child gets of our environment by the door's rule, and the names of what it does not."""
        return self._means.inherit()

    def environment(self, added: Mapping[str, str]) -> dict[str, str]:
        """A child's whole environment."""
        return {**self.inherited[0], **added}

    def open(self, openings: "tuple[Opening, ...]") -> None:
        """Let this one call write where a person has said it may."""
        opened = {(opening.path, opening.why) for opening in openings}

        def opens(opening: "Opening") -> bool:
            return (opening.path, opening.why) in opened

        self.scope = msgspec.structs.replace(self.scope, opens=opens)

    @property
    def input_unread(self) -> bool:
        """Whether its command would be handed on its standard input what nobody has looked at."""
        return self._io.unread

    @property
    def cwd(self) -> str:
        """The call's working directory."""
        return self.scope.cwd

    @property
    def undo(self) -> "UndoStore":
        """Where a tool that changes files keeps what they were."""
        return self._means.undo()

    @property
    def egress(self) -> "Allowed":
        """What it may reach over the network."""
        from custody.sandbox.egress.rules import Allowed  # few tools reach anything

        return Allowed() if self._egress is None else self._egress()

    @property
    def holds(self) -> bool:
        """Whether what its command changes is held."""
        return self.confinement is not None and self.confinement.level == "transaction"

    @property
    def held(self) -> "HeldStore":
        """Where changes are held until a call commits or discards them."""
        return self._means.held()

    async def viewed_roots(self) -> tuple[str, ...]:
        """The roots in place of which a command whose changes are held sees views. Raises SandboxError."""
        return await self._means.launchers.writable_roots(self.scope.roots, self.scope.cwd)

    @property
    def index(self) -> "Index":
        """Questions about what is recorded. It waits, so it has no place on the event loop."""
        return self._means.index()

    @property
    def watch(self) -> bool:
        """Whether a command's changes to files are to be told."""
        return self._means.watch

    @property
    def cancelled(self) -> bool:
        """Whether the call is to end (cancelled, or past its deadline). A long function looks here."""
        return self._cancelled

    def request_cancel(self) -> None:
        """Ask the execution to end. Only on the runtime's event loop."""
        self._cancelled = True
        for callback in self._on_cancel:
            callback()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Have `callback` called on the runtime's event loop when the call is to end, or now if it is."""
        self._on_cancel.append(callback)
        if self._cancelled:
            callback()

    def on_early_end(self, callback: Callable[[], None]) -> None:
        """Have `callback` called where the call is to end, or its command is signalled, before it runs."""
        self.on_cancel(callback)
        if self._io.control is not None:
            self._io.control.on_early_signal = callback

    def begin_deadline(self) -> None:
        """The call's time begins now, and not when it was asked for."""
        if self.timeout_seconds is not None:
            self.deadline = time.monotonic() + self.timeout_seconds

    def remaining_seconds(self) -> float | None:
        """Time left until the deadline; None when there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    async def run_process(self, command: Command) -> Finished:
        """Run a command behind the call's level, deadline and cancellation. Raises SandboxError."""
        io, means = self._io, self._means
        joined = msgspec.structs.replace(
            command,
            stdin_fd=io.stdin_fd,
            terminal=io.terminal,
            no_new_privs=means.no_new_privs,
            limits=dict(means.limits),
            token=self.call_id,
            sandbox=None if self.confinement is None else self.confinement.sandbox,
            roots=self.scope.roots,
            run_id=self.run_id or self.call_id,
            private=self.private,
        )
        control = io.control or Control()
        self.on_cancel(control.cancel)
        return await means.launchers.run(joined, on_output=io.on_output, control=control)


class Tool(Protocol):
    """The one seam through which anything is run."""

    name: str
    description: str
    schema: Mapping[str, Any]
    """JSON Schema (draft 2020-12) of the arguments, an object."""
    effect: Effect
    level: Level
    timeout_seconds: float | None
    """None: the runtime's default."""
    keep: Keep

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        """The tool's own check after the schema's; None when it has nothing against the call.

        A tool that is not everybody's also has `permit(arguments, asker)`, which is asked next.
        """
        ...

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        """Do the work. Errors of the work are returned in `Ended`, never raised."""
        ...
