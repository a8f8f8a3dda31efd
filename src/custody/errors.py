"""Every error Custody raises, in one tree.

Owns the words a person reads when something cannot be done. Knows nothing of how it is shown: the
command line maps an error to an exit code through `exit_code`, doors map it to their own wire codes.
The docstring of a class is its default message; what is particular is kept as attributes; `hint` tells
the operator what to do next.
"""

from typing import Any


class CustodyError(Exception):
    """Custody could not do what was asked."""

    exit_code = 1

    def __init__(self, message: str | None = None, *, hint: str | None = None, **details: Any) -> None:
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        self.hint = hint
        self.details = details
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} {self.hint}"


# -- the caller erred ---------------------------------------------------------------------------------


class UsageError(CustodyError):
    """The request cannot be understood."""

    exit_code = 2


class InvalidInput(UsageError):
    """The input is not well formed."""


class FactsUnclear(InvalidInput):
    """The arguments are too many or too deep to be looked at; make the call smaller."""


class InvalidSetting(UsageError):
    """A setting has a value it cannot have."""


class InvalidPolicy(InvalidSetting):
    """The policy cannot be used; the one before it stays in force.

    `details` has `file`, `line`, `column`, `key`, `expected` of the first fault, and `faults`, all of them as
    mappings with `line`, `column` and `message`.
    """


class InvalidCondition(InvalidSetting):
    """The condition of a rule cannot be compiled.

    `line` and `column` are places in its text, counted from 1.
    """

    def __init__(self, message: str, *, line: int = 1, column: int = 1) -> None:
        super().__init__(message, line=line, column=column)
        self.line = line
        self.column = column


class ConditionFailed(CustodyError):
    """The condition of a rule could not be decided; its rule denies.

    The words name no value of the call.
    """

    exit_code = 3


class NotFound(UsageError):
    """Nothing in this store has that id."""


class Ambiguous(UsageError):
    """Several things in this store have an id that starts so."""


class RunClosed(UsageError):
    """The run has finished; it takes no further calls, steps or events."""


class RunNotShared(UsageError):
    """The run was not started as shared, so no other process may join it."""


class PathInvalid(UsageError):
    """The path cannot be used."""


# -- skills -------------------------------------------------------------------------------------------


class InvalidSkill(UsageError):
    """This cannot be used as a skill.

    `details` may have the `file` below the skill's folder and the `errno` it is about, and for front matter
    `kind`, `line` and `column`.
    """


class LockUnusable(UsageError):
    """The lock file of a folder of skills cannot be used, so nothing in that folder is offered or changed."""


class TrustUnusable(UsageError):
    """The file of trusted keys cannot be used, so no signature counts."""


# -- the store ----------------------------------------------------------------------------------------


class StoreError(CustodyError):
    """The store cannot be used."""

    exit_code = 2


class StoreUnusable(StoreError):
    """The store's folder cannot be opened."""


class StoreReadOnly(StoreUnusable):
    """The store can be read and not written, so nothing can be recorded and nothing is run."""

    exit_code = 5


class StoreTooNew(StoreError):
    """The store was written by a newer Custody."""


class StoreClosed(StoreError):
    """The store has been closed."""


class CorruptJournal(StoreError):
    """The journal is damaged before its end.

    `details` has shard, segment, offset and sequence of the first damaged frame.
    """

    exit_code = 1


class MalformedNote(InvalidInput):
    """This is not a signed checkpoint.

    `details` may have the number and the offset of the note in its log.
    """


class MalformedKey(StoreError):
    """This is not a key of checkpoints."""


class CheckpointRefused(CustodyError):
    """What is on the record does not go on from what was signed, so it is not signed.

    `details` may have the shard.
    """


class AnswerRefused(CustodyError):
    """The question cannot be answered, or not by you; nothing was allowed.

    `details` has `why` (answered, used, expired, session, started, standing, revoked) and `call_id`.
    """

    exit_code = 3


class PurgeRefused(CustodyError):
    """What was asked for is held, has not ended, or another process is purging; nothing was purged."""

    exit_code = 3


class Denied(CustodyError):
    """A guard says no; nothing was run.

    `details` has `decision` and `call_id`.
    """

    exit_code = 3


class DelegationRefused(Denied):
    """An agent hands its task on in a circle, or too deep.

    `details` has `depth` and `agent`.
    """


class PathRefused(CustodyError):
    """The path is outside the allowed roots, or protected.

    `details` may have `outside`: where it leads, without links, if that is outside.
    """

    exit_code = 3


class PlanBusy(CustodyError):
    """The plan is being run already, and is run once at a time.

    `details` may have `run_id` and `pid`.
    """

    exit_code = 3


class UndoConflict(CustodyError):
    """Files have changed since, so the change cannot be taken back as it stands.

    `details` has `conflicts`: for each path what was left there and what is found now.
    """


class UndoGone(CustodyError):
    """What would be needed to take the change back is not kept, or not kept any more."""


class ExportFailed(CustodyError):
    """What is on the record could not be exported; it is still there to be exported later."""


class NotRecorded(CustodyError):
    """The record cannot be kept, so nothing was run."""

    exit_code = 5


class OutcomeUnknown(CustodyError):
    """The call ran, but its outcome could not be recorded; the result is withheld."""

    exit_code = 6


# -- running ------------------------------------------------------------------------------------------


class SandboxError(CustodyError):
    """The process could not be started."""

    shell_exit_code = 125
    """What `exec` exits with, as `timeout(1)` and shells do."""


class CommandNotFound(SandboxError):
    """There is no such command.

    `details` has `command`.
    """

    shell_exit_code = 127


class CommandNotExecutable(SandboxError):
    """The command cannot be executed.

    `details` has `command` and `errno`.
    """

    shell_exit_code = 126


class WorkingDirectoryGone(SandboxError):
    """The working directory does not exist or cannot be entered.

    `details` has `cwd` and `errno`.
    """


class LauncherLost(SandboxError):
    """The launcher process ended while it held a running child.

    `details` has `ended`, the processes of the command that were found and ended, and `left`, those that may
    belong to it and were let be: lists of mappings with `pid` and `start_ticks`.
    """


class ToolError(CustodyError):
    """The tool could not do its work.

    A tool raises this (or any other exception) to end its call as *failed*.
    """


class PeerLost(ToolError):
    """Whoever was to do the work went away before it answered, so nobody knows what became of it."""


class HeldBusy(ToolError):
    """A root, or what is held, is in use by another call.

    `details` has `call_id`, the other call.
    """


class CannotHold(ToolError):
    """What a command changes in this root cannot be held.

    `details` may have `limit`, `files` or `disk`, where a bound says so.
    """


class NothingHeld(ToolError):
    """Nothing is held of this call."""


def exit_code(error: BaseException) -> int:
    """The command line's exit code for an error (see the exit table in the README)."""
    return error.exit_code if isinstance(error, CustodyError) else 1
