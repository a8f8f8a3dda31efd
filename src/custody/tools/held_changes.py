"""The built-in tools `commit` and `discard`: what a command changed and is held is put in place, or dropped.

Owns which held changes are meant, the check of every path among them, and what the results say. Holding
changes, putting them in place as a whole and removing them is `changes`'. Both are calls like any other: they
are guarded and recorded, and a commit can be undone. What was discarded is gone.
"""

import functools
import os
import stat
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from custody.errors import NothingHeld, PathRefused, ToolError, UndoConflict
from custody.records import Call, Decision, Effect, Level, Settled, document
from custody.tools.roots import Scope
from custody.tools.threads import Changed, run_in_thread
from custody.tools.tool import Asker, Context, Difference, Ended, Keep

if TYPE_CHECKING:
    from custody.changes import HeldSet, HeldStore

CONFLICTS_MAX = 1_000
"""Conflicts that a result lists; all are counted."""

REASONS_MAX = 3  # in the sentence; the result has the others

NOT_BOUND = "What is held is not bound to the record: an earlier version recorded it, without its digest."

FINISH_SECONDS = 60.0
"""Past its deadline it either stops or is past stopping, and then a large tree takes so long."""

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "call": {
            "type": "string",
            "minLength": 1,
            "description": "The id of the call whose changes are held, or its beginning.",
        },
    },
    "required": ["call"],
    "additionalProperties": False,
}


class CommitTool:
    """Put held changes in place."""

    name = "commit"
    description = (
        "Put the changes in place that a command made at the level `transaction` and that are held since: "
        "all of them, or none where a file changed meanwhile. It can be undone."
    )
    effect: Effect = "write"
    level: Level = "none"
    timeout_seconds: float | None = None
    keep: Keep = "full"
    schema: Mapping[str, Any] = SCHEMA
    typed_opens = True
    """Who types it has seen what it puts where, and needs no yes of his own."""

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        held = _meant(arguments["call"], scope)
        refusal = None if held is None else _outside(held, scope) or _protected(held, scope)
        return None if refusal is None else Decision("deny", "path", refusal)

    def permit(self, arguments: Mapping[str, Any], asker: Asker) -> Decision | None:
        """Changes are held for a person to look at, unless settings or policy have said what becomes of
        them."""
        if asker.typed or asker.caused:
            return None
        return Decision("ask", "rule", "Held changes are for a person to look at before they count.")

    def difference(
        self, arguments: Mapping[str, Any], scope: Scope, clean: Callable[[str], str] | None
    ) -> Difference | None:
        """What the commit would put in place. Without `clean` only its digest is wanted."""
        from custody.changes.held.difference import difference

        held = _meant(arguments["call"], scope)
        if held is None:
            return None
        text = "" if clean is None else difference(held, clean)
        return Difference(digest=held.manifest_digest.hex(), text=text)

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        work = functools.partial(_commit, arguments, context)
        ended = await run_in_thread(work, context, self.name, finish_seconds=FINISH_SECONDS)
        return _settling(ended, "committed", context)


class DiscardTool:
    """Drop held changes."""

    name = "discard"
    description = (
        "Drop the changes that a command made at the level `transaction` and that are held since. The files "
        "are as they were; what is dropped cannot be brought back."
    )
    effect: Effect = "write"
    level: Level = "none"
    timeout_seconds: float | None = None
    keep: Keep = "full"
    schema: Mapping[str, Any] = SCHEMA

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        held = _meant(arguments["call"], scope)
        refusal = None if held is None else _outside(held, scope)
        return None if refusal is None else Decision("deny", "path", refusal)

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        work = functools.partial(_discard, arguments, context)
        ended = await run_in_thread(work, context, self.name, finish_seconds=FINISH_SECONDS)
        return _settling(ended, "discarded", context)


def _settling(ended: Ended, word: Settled, context: Context) -> Ended:
    """With what became of the held changes, where it came to that."""
    if context.dry_run or ended.error is not None or ended.limit_hit is not None:
        return ended
    return msgspec.structs.replace(ended, settles=(ended.result["call"], word))


# -- which changes, and may they be touched ---------------------------------------------------------------


def _meant(prefix: str, scope: Scope) -> "HeldSet | None":
    """The held changes of the one call whose id begins so, for a guard; None where there is none, or more
    than one, or they cannot be read: then the call itself says why."""
    store = None if scope.held is None else scope.held()
    found = [] if store is None else [one for one in store.calls() if one.hex().startswith(prefix.lower())]
    return None if store is None or len(found) != 1 else _readable(store, found[0])


def _readable(store: "HeldStore", call_id: bytes) -> "HeldSet | None":
    try:
        return store.read(call_id)
    except NothingHeld:  # it is damaged
        return None


def _outside(held: "HeldSet", scope: Scope) -> str | None:
    """A refusal of changes beneath another root than those of this call."""
    for root in held.roots:
        if not any(f"{root}/".startswith(f"{allowed.rstrip('/')}/") for allowed in scope.roots):
            return (
                f"The changes held are beneath {root}, which is outside the allowed roots "
                f"({', '.join(scope.roots)}); --root {root} would allow it."
            )
    return None


def _protected(held: "HeldSet", scope: Scope) -> str | None:
    """A refusal of protected files among the changes, which a person may open as for any tool that writes.

    Their links are resolved: the paths are compared as they are, also those that no tool would be given.
    """
    from custody.files import Opening

    protected = scope.protected()
    for path in (entry.target.path for entry in held.entries):
        refused = protected.refused(path, write=True, inode=_inode(path))
        if refused is None:
            continue
        if refused.own or scope.opens is None or not scope.opens(Opening(path, "protected", refused.words)):
            return refused.words
    return None


def _inode(path: str) -> tuple[int, int] | None:
    """Of a file that has several names: another of them may be protected."""
    try:
        status = os.lstat(path)
    except (OSError, ValueError):  # nothing there, or no name that one system call takes
        return None
    several = stat.S_ISREG(status.st_mode) and status.st_nlink > 1
    return (status.st_dev, status.st_ino) if several else None


def _asked(prefix: str, context: Context) -> Call:
    """The call that is meant. Raises NotFound, Ambiguous, ToolError, NothingHeld."""
    call = context.index.call(prefix, details=False)
    if call.outcome is None:
        raise ToolError(f"Call {call.id} is still running; its changes are held when it has ended.")
    if bytes.fromhex(call.id) not in context.held.calls():
        raise _nothing_held(call)
    return call


def _within(held: "HeldSet", scope: Scope) -> "HeldSet":
    """The same. Raises PathRefused where it is beneath other roots than these."""
    refusal = _outside(held, scope)
    if refusal is not None:
        raise PathRefused(refusal)
    return held


def _bound(call: Call, held: "HeldSet", agreed: bytes | None = None) -> "HeldSet":
    """The same, where it is what the record of the call says, and what a person said yes to. Raises
    NothingHeld."""
    from custody.changes.held import another_set

    digest = held.manifest_digest
    if call.held_digest not in (None, digest.hex()) or agreed not in (None, digest):
        raise another_set(held.call_id)
    return held


def _nothing_held(call: Call) -> NothingHeld:
    """What became of a call's changes."""
    by = "" if call.settled_by is None else f", by call {call.settled_by}"
    if call.held == "committed":
        hint = f"custody undo {call.id} takes it back."
        return NothingHeld(f"What call {call.id} had changed was committed already{by}.", hint=hint)
    if call.held == "discarded" and call.settled_by is None:
        return NothingHeld(f"What call {call.id} had changed was discarded: it had been held for too long.")
    if call.held == "discarded":
        return NothingHeld(f"What call {call.id} had changed was discarded already{by}; it is gone.")
    if call.held == "held":
        return NothingHeld(
            f"What call {call.id} had changed is not held any more, and the record does not say why.",
            hint="custody calls --tool commit lists what was committed.",
        )
    if call.outcome == "rejected":
        return NothingHeld(f"Call {call.id} was refused and did nothing.")
    return NothingHeld(
        f"Call {call.id} ({call.tool}) left no changes that are held.",
        hint="Those of a command are with --level transaction; custody calls --held lists such calls.",
    )


# -- commit, discard --------------------------------------------------------------------------------------


def _commit(arguments: Mapping[str, Any], context: Context) -> Any:
    """Raises what `HeldStore.commit` raises, but UndoConflict, and more; then nothing was changed."""
    call, scope = _asked(arguments["call"], context), context.scope
    held = context.held.read(bytes.fromhex(call.id))
    if held is None:  # since we looked
        raise _nothing_held(call)
    _within(_bound(call, held, context.agreed), scope)
    refusal = _protected(held, scope)
    if refusal is not None:
        raise PathRefused(refusal)
    if context.dry_run:
        return {"dry_run": True, "would_commit": _said(call, held, committed=len(held.changes))}
    try:
        changes = context.held.commit(
            context.undo,
            bytes.fromhex(context.call_id),
            bytes.fromhex(call.id),
            digest=held.manifest_digest,
            stop=lambda: context.cancelled,
        )
    except UndoConflict as error:
        conflicts = error.details.get("conflicts", ())
        result = _said(call, held, committed=0) | {
            "conflicts": [document(conflict) for conflict in conflicts[:CONFLICTS_MAX]],
            "conflicts_count": len(conflicts),
        }
        return Changed(result, (), _refusal(call, error))
    return Changed(_said(call, held, committed=len(changes)), changes)


def _discard(arguments: Mapping[str, Any], context: Context) -> Any:
    """Raises what `HeldStore.discard` raises, and more; then they are held still."""
    call = _asked(arguments["call"], context)
    held = _readable(context.held, bytes.fromhex(call.id))
    warnings: list[str] = []
    if held is not None:  # of what is damaged nobody knows where it was to go
        _within(held, context.scope)
        try:
            _bound(call, held)
        except NothingHeld as error:
            if not context.asker.typed:  # what an agent may have tampered with is not its to clear away
                raise
            warnings.append(error.message)
    if context.dry_run:
        changes = 0 if held is None else len(held.changes)
        return {"dry_run": True, "would_discard": {"call": call.id, "tool": call.tool, "discarded": changes}}
    dropped = context.held.discard(bytes.fromhex(call.id))
    said = _said(call, dropped, discarded=len(dropped.changes))
    return Changed(said | {"warnings": [*warnings, *said["warnings"]]}, ())


def _said(call: Call, held: "HeldSet", **count: int) -> dict[str, Any]:
    """The part of a result that both have."""
    return {
        "call": call.id,
        "tool": call.tool,
        **count,
        "bytes": held.bytes,
        "kind": held.kind,
        "warnings": [*held.warnings, *(() if call.held_digest else (NOT_BOUND,))],
    }


def _refusal(call: Call, error: UndoConflict) -> UndoConflict:
    """The same, for a person: the first reasons, and that nothing is lost."""
    conflicts = error.details.get("conflicts", ())
    reasons: list[str] = [conflict.words for conflict in conflicts] or [error.message]
    more = f" And {len(reasons) - REASONS_MAX} more." if len(reasons) > REASONS_MAX else ""
    return UndoConflict(
        f"What call {call.id} ({call.tool}) changed is not committed. {' '.join(reasons[:REASONS_MAX])}{more}"
        " Nothing was changed, and it is held still.",
        hint=f"Take over by hand what you want of it, then drop it: custody discard {call.id}.",
        conflicts=conflicts,
    )
