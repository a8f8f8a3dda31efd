"""The built-in tool `undo`: takes back what a call changed, or what a run changed, backwards.

Owns which calls are meant, in which order they are taken back, what was taken back already, and what the
result says. Whether a path is still as it was left, and giving it back, is `changes`'. Taking back is a call
like any other: it is recorded, and can be taken back.

A run is taken back without the runs started from it, unless `children` asks for them. Calls that only read,
or changed nothing, are passed over; so are those that were undone already. A call whose changes were held and
then committed is taken back as that commit, whoever made it and in whichever run; what is held still has
touched no file, and is passed over.
"""

import functools
import itertools
import os
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from custody.changes import Conflict, UndoPlan, UndoSet, UndoStore, net_changes, plan_call, undo_call
from custody.errors import CustodyError, PathRefused, ToolError, UndoConflict, UndoGone
from custody.files import State
from custody.index import CallFilter, Index
from custody.records import Call, Change, Decision, Effect, Level, document, rfc3339
from custody.tools.roots import Scope
from custody.tools.threads import Changed, run_in_thread
from custody.tools.tool import Context, Ended, Keep
from custody.tools.undone import Undoing, Undone, touched_by, undoing_of

PAGE_CALLS = 100
"""Calls read from the index at once, each with its arguments, of which `file_write` has up to 64 MiB."""

CALLS_MAX = 100_000
"""Calls of one run that are looked through, and later calls of `undo`; each leaves a line in memory."""

NAMED_MAX = 1_000
"""Calls that a result lists under one heading; the count is told."""

ALWAYS_KEPT = frozenset({"commit", "file_delete", "file_edit", "file_write", "undo"})
"""Tools that keep what was there before they change it: where nothing is kept they changed nothing, or what
they had begun was put back when the store was opened."""

DISCARD_TOOL = "discard"
NOT_HELD = "not held any more, and the record does not say why"

UNDOINGS_MAX = 100
"""Calls of `undo` that took back one another; beyond it nobody knows what is written."""

REASONS_MAX = 3  # in the sentence; the result has the others

FINISH_SECONDS = 60.0
"""Past its deadline it either stops or is past stopping, and then a large tree takes so long."""


class UndoTool:
    """Take changes back."""

    name = "undo"
    description = (
        "Take back what a call (`call`) or all calls of a run (`run`, backwards) changed in files. Refused "
        "where a file changed since, unless `force`. It can be undone itself."
    )
    effect: Effect = "write"
    level: Level = "none"
    timeout_seconds: float | None = None
    keep: Keep = "full"
    schema: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "call": {"type": "string", "minLength": 1, "description": "A call's id, or its beginning."},
            "run": {
                "type": "string",
                "minLength": 1,
                "description": "A run's id, its beginning, or its name.",
            },
            "force": {
                "type": "boolean",
                "description": "Also where files changed since, or not all was kept: that is lost. (false)",
            },
            "children": {
                "type": "boolean",
                "description": "With `run`: the runs started from it as well, and theirs. (false)",
            },
        },
        "oneOf": [{"required": ["call"]}, {"required": ["run"]}],
        "dependentRequired": {"children": ["run"]},
        "additionalProperties": False,
    }

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        return None

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        work = functools.partial(_undo, arguments, context)
        return await run_in_thread(work, context, self.name, finish_seconds=FINISH_SECONDS)


class _Candidate(Struct, frozen=True):
    """A call that may have to be taken back."""

    call_id: str
    tool: str
    at: str
    """When it began to change something, else when it was asked for. RFC 3339."""
    told: int | None
    """How many changes its record has; None: nobody looked."""
    running: bool
    kept: bool
    """Whether there is undo data of it."""

    def named(self, **more: Any) -> dict[str, Any]:
        return {"call": self.call_id, "tool": self.tool, **more}


class _Chosen(Struct):
    """What is to be taken back, the newest first, and what is not."""

    candidates: list[_Candidate]
    not_kept: list[dict[str, Any]] = []
    """Calls whose changes, if they made any, cannot be taken back."""
    already: list[str] = []
    held: list[str] = []
    """Calls that have touched no file: what they changed is held."""
    committed_by: dict[str, str] = {}
    """Calls whose changes were held -> those that committed them, which are taken back in their place."""
    children: list[str] = []
    """Runs that are left as they are."""
    stop: tuple[_Candidate, Exception] | None = None
    """The call before which it ends, and why."""


def _undo(arguments: Mapping[str, Any], context: Context) -> Changed:
    """Raises UndoGone, NotFound, Ambiguous, ToolError; then nothing was changed."""
    if "call" in arguments:
        chosen = _of_call(arguments["call"], context)
    else:
        chosen = _of_run(arguments, context)
    taking = _Taking(context, force=arguments.get("force", False))
    for candidate in chosen.candidates:
        if not taking.take(candidate):
            break
    return taking.changed(chosen)


# -- which calls ----------------------------------------------------------------------------------------


def _of_call(prefix: str, context: Context) -> _Chosen:
    call = asked = context.index.call(prefix, details=False)
    candidate = _candidate(call, context.undo)
    if candidate.running:
        raise ToolError(f"Call {call.id} is still running.")
    if not candidate.kept and (commit := _commit_of(call, context)) is not None:
        call, candidate = commit, _candidate(commit, context.undo)
    by = Undone(_undoings(context.index, since=call.asked_at)).by(call.id)
    if by is not None:
        raise ToolError(
            f"Call {call.id} was undone already, by call {by}.", hint="Undo that one to have it again."
        )
    if not candidate.kept:
        raise _nothing_kept(call, context.undo)
    return _Chosen([candidate], committed_by={} if call is asked else {asked.id: call.id})


def _commit_of(call: Call, context: Context) -> Call | None:
    """The call that committed what this one had changed; None where it was not held. Raises ToolError where
    nobody has committed it."""
    if call.held == "held" and _is_held(call, context):
        raise ToolError(
            f"What call {call.id} changed is held: no file has been touched.",
            hint=f"Discard it: custody discard {call.id}.",
        )
    if call.held == "held":
        raise UndoGone(
            f"What call {call.id} changed is {NOT_HELD}.",
            hint="If it was committed: custody calls --tool commit lists that call, which can be undone.",
        )
    if call.held == "discarded":
        raise ToolError(f"What call {call.id} changed was discarded; no file was ever touched.")
    if call.held != "committed" or call.settled_by is None:
        return None
    return context.index.call(call.settled_by, details=False)


def _is_held(call: Call, context: Context) -> bool:
    """Also where the record says so: a commit or discard that was killed has no end on it."""
    return bytes.fromhex(call.id) in context.held.calls()


def _nothing_kept(call: Call, undo: UndoStore) -> Exception:
    """Why there is nothing to take back of a call."""
    if call.outcome == "rejected":
        return ToolError(f"Call {call.id} was refused and did nothing.")
    if call.tool == DISCARD_TOOL and call.outcome == "succeeded" and not call.dry_run:
        return ToolError(f"Call {call.id} discarded changes that were held; they cannot be brought back.")
    if call.changes_count:
        return undo.gone(bytes.fromhex(call.id))
    if call.dry_run or call.effect == "read" or call.changes_count == 0:
        return ToolError(f"Call {call.id} ({call.tool}) changed no files; there is nothing to take back.")
    return UndoGone(f"What call {call.id} ({call.tool}) changed in files, if anything, is not known.")


def _of_run(arguments: Mapping[str, Any], context: Context) -> _Chosen:
    """The calls of a run in the order of taking back, as far as that goes."""
    index = context.index
    run = index.run(arguments["run"])
    below = index.children(run.id, recursive=True)
    children = [child.id for child in below.items]
    if arguments.get("children") and not below.complete:
        raise ToolError(
            f"More than {len(children)} runs were started from run {run.id}; undo them one by one."
        )
    runs = [run.id, *(children if arguments.get("children") else ())]
    chosen = _Chosen([], children=[] if arguments.get("children") else children)
    # A commit may be one of the run's calls itself.
    candidates = {one.call_id: one for run_id in runs for one in _candidates(run_id, context, chosen)}
    undone = Undone(_undoings(index, since=run.started_at))
    # Calls of one run may overlap, and those of its children lie between them.
    for one in sorted(candidates.values(), key=lambda one: one.at, reverse=True):
        if undone.by(one.call_id) is not None:
            chosen.already.append(one.call_id)
        elif one.running:
            chosen.stop = one, ToolError(f"Call {one.call_id} ({one.tool}) is still running.")
            break
        elif one.kept:
            undone.take_back(one.call_id)
            chosen.candidates.append(one)
        elif one.told and not arguments.get("force"):
            chosen.stop = one, context.undo.gone(bytes.fromhex(one.call_id))
            break
        elif one.told or one.tool not in ALWAYS_KEPT:
            words = "not kept, or not any more" if one.told else "not known"
            chosen.not_kept.append(one.named(changes=one.told, words=f"what it changed is {words}"))
    return chosen


def _candidates(run_id: str, context: Context, chosen: _Chosen) -> Iterator[_Candidate]:
    """The calls of a run that changed something, or may have; `chosen` is told of those that held it."""
    index = context.index
    for call in _calls(index, CallFilter(run=run_id)):
        if call.id == context.call_id or call.dry_run or call.outcome == "rejected" or call.effect == "read":
            continue
        candidate = _candidate(call, context.undo)
        if call.held is not None and not candidate.kept:
            if call.held == "held" and _is_held(call, context):
                chosen.held.append(call.id)
            elif call.held == "held":
                chosen.not_kept.append(
                    candidate.named(changes=candidate.told, words=f"what it changed is {NOT_HELD}")
                )
            if call.held != "committed" or call.settled_by is None:
                continue
            chosen.committed_by[call.id] = call.settled_by
            candidate = _candidate(index.call(call.settled_by, details=False, refresh=False), context.undo)
        if candidate.kept or candidate.running or candidate.told != 0:
            yield candidate


def _candidate(call: Call, undo: UndoStore) -> _Candidate:
    try:
        kept = undo.read(bytes.fromhex(call.id))
        at = call.asked_at if kept is None else rfc3339(kept.at_us)
    except UndoGone:  # it is damaged, which is said where it is to be taken back
        kept, at = True, call.asked_at
    return _Candidate(
        call_id=call.id,
        tool=call.tool,
        at=at,
        told=call.changes_count,
        running=call.outcome is None,
        kept=kept is not None,
    )


def _undoings(index: Index, *, since: str) -> list[Undoing]:
    """Every call of `undo` that took something back, the oldest first. One asked for before `since` took back
    what was older still."""
    calls = _calls(index, CallFilter(tool=UndoTool.name))
    newer = itertools.takewhile(lambda call: call.asked_at >= since, calls)
    return [undoing for call in newer if (undoing := undoing_of(call)) is not None][::-1]


def _calls(index: Index, wanted: CallFilter) -> Iterator[Call]:
    """The newest first, a page at a time."""
    cursor, seen = None, 0
    while True:
        page = index.calls(wanted, PAGE_CALLS, cursor)
        yield from page.items
        cursor, seen = page.next, seen + len(page.items)
        if cursor is None:
            return
        if seen >= CALLS_MAX:
            raise ToolError(f"There are more than {CALLS_MAX} calls to look through.")


# -- taking back ----------------------------------------------------------------------------------------


class _Taking:
    """Takes calls back, one after another, until one cannot be; or says what that would do."""

    def __init__(self, context: Context, *, force: bool) -> None:
        self._context = context
        self._force = force
        self._undone: list[dict[str, Any]] = []
        self._changes: list[tuple[Change, ...]] = []
        self._conflicts: list[Conflict] = []
        self._lost: list[str] = []
        self._standing: dict[str, State] = {}
        """In a dry run: what would stand where calls would have been taken back."""
        self._stopped: tuple[_Candidate, Exception] | None = None

    def take(self, candidate: _Candidate) -> bool:
        """Take a call back; False where that cannot be done."""
        call_id = bytes.fromhex(candidate.call_id)
        try:
            sets = self._sets(call_id, candidate)
            changes, plan = self._plan(call_id) if self._context.dry_run else self._carry_out(call_id)
        except UndoConflict as error:
            self._conflicts += error.details.get("conflicts", ())
            self._lost += error.details.get("lost", ())
            self._changes.append(error.details.get("changes", ()))
            self._stopped = candidate, self._refusal(candidate, error)
        except (CustodyError, OSError) as error:
            self._stopped = candidate, error
        else:
            self._conflicts += plan.conflicts  # which force overrode
            self._lost += plan.lost
            partly = {"partly": True} if _leaves_some(sets, plan) else {}
            self._undone.append(candidate.named(changes=changes, **partly))
        return self._stopped is None

    def _sets(self, call_id: bytes, candidate: _Candidate) -> list[UndoSet]:
        """What was kept of a call. Raises PathRefused: the roots may be others than they were, and what a
        person was asked about is not taken back without one."""
        undo = self._context.undo
        sets = [undo.read(call_id, part) for part in range(undo.parts(call_id))]
        found = [undo_set for undo_set in sets if undo_set is not None]
        for entry in (entry for undo_set in found for entry in undo_set.entries):
            self._check(candidate, entry.target.path)
        return found

    def _check(self, candidate: _Candidate, path: str) -> None:
        scope = self._context.scope
        if not any(path.startswith(root.rstrip("/") + "/") for root in scope.roots):
            raise PathRefused(
                f"Call {candidate.call_id} changed {path}, which is outside the allowed roots "
                f"({', '.join(scope.roots)}); --root {os.path.dirname(path)} would allow it."
            )
        if self._context.asker.typed:
            return
        refused = scope.protected().refusal(path, write=True)
        if refused is not None and _asks_for_protected(candidate, self._context.index):
            raise PathRefused(f"{refused} A person takes it back: custody undo {candidate.call_id}.")

    def _plan(self, call_id: bytes) -> tuple[int, UndoPlan]:
        plan = plan_call(self._context.undo, call_id, force=self._force, standing=self._standing)
        if (plan.conflicts or plan.lost) and not self._force:
            raise UndoConflict(conflicts=plan.conflicts, lost=plan.lost)
        return len(plan.wanted), plan

    def _carry_out(self, call_id: bytes) -> tuple[int, UndoPlan]:
        context = self._context
        done = undo_call(
            context.undo,
            call_id,
            bytes.fromhex(context.call_id),
            force=self._force,
            stop=lambda: context.cancelled,
        )
        self._changes.append(done.changes)
        return len(done.changes), done.plan

    def _refusal(self, candidate: _Candidate, error: UndoConflict) -> UndoConflict:
        """The same, for a person: the first reasons, and what was done until then."""
        conflicts, lost = error.details.get("conflicts", ()), error.details.get("lost", ())
        reasons: list[str] = [conflict.words for conflict in conflicts] or list(lost) or [error.message]
        more = f" And {len(reasons) - REASONS_MAX} more." if len(reasons) > REASONS_MAX else ""
        done = "Nothing was changed."
        if self._undone:
            done = f"Calls that came after it were taken back: {len(self._undone)}."
        return UndoConflict(
            f"Call {candidate.call_id} ({candidate.tool}) is not taken back. "
            f"{' '.join(reasons[:REASONS_MAX])}{more} {done}",
            hint="With force it is taken back as far as that can be done." if conflicts or lost else None,
            conflicts=conflicts,
            lost=lost,
        )

    def changed(self, chosen: _Chosen) -> Changed:
        """What the call ends with."""
        at, error = self._stopped or chosen.stop or (None, None)
        result = {
            "undone": self._undone,
            "stopped_at": None if at is None else at.call_id,
            "conflicts": [document(conflict) for conflict in self._conflicts[:NAMED_MAX]],
            "conflicts_count": len(self._conflicts),
            "lost": self._lost[:NAMED_MAX],
            "not_kept": chosen.not_kept[:NAMED_MAX],
            "already_undone": chosen.already[:NAMED_MAX],
            "held": chosen.held[:NAMED_MAX],
            "committed_by": dict(itertools.islice(chosen.committed_by.items(), NAMED_MAX)),
            "children": chosen.children,
        }
        if self._context.dry_run:
            return Changed({"dry_run": True, "would_undo": result}, (), error)
        return Changed(result, tuple(net_changes(self._changes)), error)


def _asks_for_protected(candidate: _Candidate, index: Index) -> bool:
    """Whether the call's tool writes a protected file with a person's yes alone. One that is known to write
    such files of its own (git's, a lock file) takes them back as well; an undo is what it took back."""
    if candidate.tool != UndoTool.name:
        return candidate.tool in ALWAYS_KEPT
    pending, seen = [candidate.call_id], {candidate.call_id}
    while pending and len(seen) <= UNDOINGS_MAX:
        touched = touched_by(index.call(pending.pop()))
        if touched is None:
            return True
        for call in (index.call(call_id, details=False) for call_id in touched):
            if call.tool != UndoTool.name and call.tool in ALWAYS_KEPT:
                return True
            if call.tool == UndoTool.name and call.id not in seen:
                seen.add(call.id)
                pending.append(call.id)
    return bool(pending)


def _leaves_some(sets: list[UndoSet], plan: UndoPlan) -> bool:
    """Whether some path that the call changed stays as it is.

    Also where somebody else has already made it what it was: should that be taken back, it stands again.
    """
    wanted = {one.target.path for one in plan.wanted}
    not_kept = any(not entry.kept for undo_set in sets for entry in undo_set.entries)
    left = any(conflict.path not in wanted for conflict in plan.conflicts)
    return not_kept or left or bool(plan.as_before)
