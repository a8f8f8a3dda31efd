"""What is on the record of earlier runs of a step plan: what is done, and what nobody knows the outcome of.

Owns how a run of a plan is found again and how one run goes on from another. The state of a plan is nowhere
but in the records of its calls. Knows nothing of what may begin next. Every function asks the index and
waits; used by `running`, and by whoever shows how a plan stands.

A run of a plan has `plan:` and the plan's digest as its external id. One that goes on from another
has an event `plan.resumed` that names it, and `plan.decided` for each action whose fate a person decided.
"""

import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from msgspec import Struct

from custody.errors import NotFound
from custody.index import EventFilter, Index, RunFilter
from custody.index.query import LIMIT_MAX
from custody.plans.steps.model import StepPlan
from custody.plans.steps.results import StepResult
from custody.plans.steps.run import referred_to
from custody.records import Call, Run
from custody.redaction import MARK_KEYS

EXTERNAL_ID = "plan:"
"""Begins the external ids of runs of plans, and of no others: such a run says what is done."""

RUNS_LOOKED_AT_MAX = 1_000
"""Of the same plan in other places, and of one run after the other that was cut."""

Clean = Callable[[str], str]
"""What the record makes of a name."""


class Place(Struct, frozen=True, kw_only=True):
    """Where a plan is run: in another folder the same actions are others."""

    workspace: str | None
    cwd: str
    agent: str | None = None
    """Whose run it is to be, as the record has it."""
    own_runs_only: bool = False
    """Whether runs of other agents are as if they had never been."""

    def has(self, run: Run) -> bool:
        """By its workspace, and by its folder while the record still has that."""
        is_here = run.workspace == self.workspace and _inputs(run).get("cwd") in (None, self.cwd)
        return is_here and self.shows(run)

    def shows(self, run: Run) -> bool:
        """Whether anything of it may be known here."""
        return not self.own_runs_only or run.agent == self.agent


Shows = Callable[[Run], bool]
"""Whether anything of a run may be known to whoever asks."""


class Earlier(Struct, frozen=True, kw_only=True):
    """What the last run of a plan left, with what that one had taken over itself."""

    run: Run
    results: Mapping[str, StepResult]
    """Of the actions that were begun and are not to be tried further."""
    attempts: Mapping[str, int]
    """How often those were tried that may be tried further."""
    outputs: Mapping[str, Any]
    """Of actions that others refer to, where the record has them as they were."""

    def may_be_decided(self, action_id: str) -> bool:
        """Whether it failed, or began and nobody knows how it ended."""
        found = self.results.get(action_id)
        return action_id in self.attempts or (found is not None and found.status == "failed")


def external_id_of(digest: str) -> str:
    return f"{EXTERNAL_ID}{digest}"


def last_run_of(index: Index, digest: str, place: Place | None = None) -> Run | None:
    """The newest run of the plan of that digest, at that place if one is named."""
    cursor, looked_at = None, 0
    while looked_at < RUNS_LOOKED_AT_MAX:
        page = index.runs(RunFilter(external_id=external_id_of(digest)), cursor=cursor, refresh=not looked_at)
        for run in page.items:
            if place is None or place.has(run):
                return run
        looked_at, cursor = looked_at + len(page.items), page.next
        if cursor is None:
            break
    return None


def left_by(index: Index, run: Run, plan: StepPlan, clean: Clean, shows: Shows = lambda run: True) -> Earlier:
    """What that run of the plan, and those it went on from, left, as far as they are shown."""
    ids = {clean(step.id): step.id for step in plan.actions}
    wanted, proposal_id = referred_to(plan), clean(plan.id)
    results: dict[str, StepResult] = {}
    outputs: dict[str, Any] = {}
    for run_id in reversed(_chain(index, run, shows)):
        for said in _events(index, run_id, "plan.decided"):
            action_id = ids.get(str(said.get("action_id")))
            if action_id is not None:
                outputs.pop(action_id, None)
                results.pop(action_id, None)
                if said.get("as") == "done":
                    results[action_id] = done_by(action_id, said.get("who"))
        for call in _calls(index, run_id):
            action_id = ids.get(call.action_id or "") if call.proposal_id == proposal_id else None
            if action_id is not None:
                results[action_id] = _result(action_id, call, results.get(action_id))
                if action_id in wanted and call.outcome == "succeeded" and _is_as_it_was(call):
                    outputs[action_id] = call.result
    further = _to_be_tried_further(plan, results)
    ended = {action_id: one for action_id, one in results.items() if action_id not in further}
    return Earlier(run=run, results=ended, attempts=further, outputs=outputs)


def _to_be_tried_further(plan: StepPlan, results: Mapping[str, StepResult]) -> dict[str, int]:
    """How often those actions were tried that failed and have attempts left, as far as nothing was begun that
    comes after them."""
    relied_on = {
        other
        for step in plan.actions
        if step.id in results
        for other in (*step.after, step.condition.action_id)
    }
    return {
        step.id: one.attempts
        for step in plan.actions
        if (one := results.get(step.id)) is not None
        and one.outcome in ("failed", "timed_out")
        and one.attempts <= step.retries
        and step.id not in relied_on
    }


def done_by(action_id: str, who: object) -> StepResult:
    """An action that a person says is done."""
    reason = f"{who or 'Somebody'} said that it is done."
    return StepResult(id=action_id, status="completed", reason=reason, source="earlier run")


def _chain(index: Index, run: Run, shows: Shows) -> list[str]:
    """This run, the one it went on from, and so on: runs of a plan that are shown."""
    chain = [run.id]
    before = _resumed_from(index, run)
    while before is not None and before not in chain and len(chain) < RUNS_LOOKED_AT_MAX:
        try:
            found = index.run(before, by_name=False, refresh=False)
        except NotFound:  # its start was lost with the power, and so was all that came after
            break
        if found.external_id != run.external_id or not shows(found):
            break
        chain.append(found.id)
        before = _resumed_from(index, found)
    return chain


def _resumed_from(index: Index, run: Run) -> str | None:
    """Its first record says so, as it may have been cut right behind that; once the words of that are purged
    its event does."""
    said = [_inputs(run), *_events(index, run.id, "plan.resumed")]
    return next((before for one in said if isinstance(before := one.get("resumed_from"), str)), None)


def _inputs(run: Run) -> dict[str, Any]:
    return cast("dict[str, Any]", run.inputs) if isinstance(run.inputs, dict) else {}


def _events(index: Index, run_id: str, name: str) -> Iterator[dict[str, Any]]:
    cursor = None
    while True:
        wanted = EventFilter(run=run_id, name=name, order="oldest")
        page = index.events(wanted, limit=LIMIT_MAX, cursor=cursor, refresh=False)
        for event in page.items:
            if isinstance(event.data, dict):
                yield cast("dict[str, Any]", event.data)
        cursor = page.next
        if cursor is None:
            return


def _calls(index: Index, run_id: str) -> Iterator[Call]:
    position = -1
    while True:
        calls = index.run_calls(bytes.fromhex(run_id), after_position=position, refresh=False)
        yield from calls
        if len(calls) < LIMIT_MAX:
            return
        position = calls[-1].position or 0


def _result(action_id: str, call: Call, before: StepResult | None) -> StepResult:
    """With this call of it, the last so far."""
    outcome = call.outcome or "unknown"
    return StepResult(
        id=action_id,
        status="completed" if outcome == "succeeded" else "failed",
        reason=None if outcome == "succeeded" else why_not_done(action_id, call.id, outcome, said_of(call)),
        call_ids=(*(before.call_ids if before is not None else ()), call.id),
        attempts=call.attempt or 1,
        outcome=outcome,
        source="earlier run",
    )


def said_of(call: Call) -> str | None:
    """Why a call did not succeed, as far as anybody said: its guard, its tool, or whoever ended it."""
    if call.outcome == "rejected":
        return call.decision.reason
    message = (call.error or {}).get("message")
    return message if isinstance(message, str) and message else call.reason


def why_not_done(action_id: str, call_id: str, outcome: str, reason: str | None) -> str:
    """A sentence that names the call, and what a person can do where one has to decide."""
    name = shlex.quote(action_id)  # to be typed as it stands, whatever somebody has called an action
    if outcome == "unknown":
        return (
            f"It began and nobody knows how it ended (call {call_id}): see `custody show {call_id}`, then "
            f"say `--done {name}` if it did its work, or `--retry {name}` to have it done again."
        )
    if outcome == "cancelled":
        return (
            f"It was cancelled while it ran (call {call_id}): see `custody show {call_id}` for how far it "
            f"got; `--retry {name}` does it again."
        )
    words = {"failed": "It failed", "timed_out": "It timed out", "rejected": "It was rejected"}
    said = "" if reason is None else f": {reason.strip()}"
    ended = said.endswith((".", "!", "?", "…"))
    return f"{words.get(outcome, outcome)} (call {call_id}){said}{'' if ended else '.'}"


def _is_as_it_was(call: Call) -> bool:
    """Whether the recorded result is what the tool gave: nothing redacted, withheld, cut or purged."""
    purged = call.arguments is None
    hit = any(one.path == "result" or one.path.startswith(("result.", "result[")) for one in call.redactions)
    return not (purged or hit or _has_mark(call.result))


def _has_mark(value: Any) -> bool:
    if isinstance(value, dict):
        named = cast("dict[str, Any]", value)
        return not MARK_KEYS.isdisjoint(named) or any(map(_has_mark, named.values()))
    return isinstance(value, list) and any(map(_has_mark, cast("list[Any]", value)))
