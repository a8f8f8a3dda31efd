"""`custody plan run`: a plan worked on, each of its actions a guarded, recorded call.

Owns what a person sees of it and the exit code. What is run when, and how a plan goes on where it was cut, is
`plans.steps.running`'s.
"""

import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
import msgspec
from msgspec import Struct

from custody.cli.acting import OUTCOME_EXIT_CODES, interruptibly, session_of
from custody.cli.invocation import Interrupted, message, turn_away
from custody.cli.options import act_options, load
from custody.cli.plan_check import show_report
from custody.cli.plan_file import complete_action, file_argument, read_file, refusal
from custody.cli.render import SHORT_ID, duration
from custody.errors import InvalidInput, NotRecorded

if TYPE_CHECKING:
    from custody.cli.plan_deciding import Decided
    from custody.cli.plan_live import Silent
    from custody.plans.steps.analysis import PlanReport
    from custody.plans.steps.model import StepPlan
    from custody.plans.steps.results import StepResult, StepsProgress, StepsResult

AT_ONCE = 16  # `plans.schedule` has the reason; it is not loaded for a page of help
PARALLEL_MAX = 64  # as many calls as a runtime makes at once
AGAIN = "custody plan run {} --again begins anew."

ACTIONS_LISTED_MAX = 200  # a person reads a screen or two; --json has all of them
FAILED_EXIT_CODE = 1


class PlanAsked(Struct, frozen=True, kw_only=True):
    """What the options of `custody plan run` say."""

    again: bool
    retry: tuple[str, ...]
    done: tuple[str, ...]
    parallel: int
    agent: str | None
    caller: str | None
    session: str | None
    roots: tuple[str, ...]
    boundary: str | None
    store: str | None


@click.command(
    "run",
    short_help="Have a plan worked on, each action a guarded call.",
    epilog="Example:  custody plan run release.plan.yaml --parallel 4",
)
@file_argument
@click.option("--again", is_flag=True, help="Begin anew, whatever an earlier run of the plan did.")
@click.option(
    "--retry",
    multiple=True,
    metavar="ACTION",
    shell_complete=complete_action,
    help="Do this one again, which failed or whose end nobody knows (repeatable).",
)
@click.option(
    "--done",
    multiple=True,
    metavar="ACTION",
    shell_complete=complete_action,
    help="Take this one as done: you saw to it, or saw that it was (repeatable).",
)
@click.option(
    "--parallel",
    type=click.IntRange(1, PARALLEL_MAX),
    default=AT_ONCE,
    show_default=True,
    metavar="N",
    help="At most so many actions at once.",
)
@click.option(
    "--dry-run",
    "dry_run",
    is_flag=True,
    help="Check all that is checked beforehand and say the order; begin and record nothing.",
)
@act_options("agent", "caller", "session", "root", "boundary", "store", "json")
def run_command(file: str, dry_run: bool, as_json: bool, **options: Any) -> int:  # fmt: skip
    """Work on a plan: each action is a call, guarded and recorded, as soon as what it comes after has ended.

    A plan with a fault is refused before anything is begun (2). Said again after it was interrupted or its
    process died, what is done is not done again, and what began and nobody knows the end of is asked about:
    at a terminal at once, else it stops and waits for --retry or --done. In another folder, or with other
    actions, it is another plan.

    \b
    Exit code: 0 all is done; else that of the action that stopped it:
      1 it failed, or was cancelled     2 its arguments do not fit, or the plan does not
      3 a guard refused it, or the plan is being run already
      4 it timed out     5 it could not be recorded, and did not run     6 nobody knows how it ended
    """
    import asyncio

    plan, faults = read_file(file)
    if plan is None or faults:
        raise refusal(faults)
    asked = PlanAsked(**options)
    if dry_run:
        show_report(asyncio.run(_dry_run(plan)), as_json=as_json)
        return 0
    from custody.cli.plan_live import display

    try:
        with display(plan, as_json=as_json) as shown:
            result = asyncio.run(interruptibly(_work(plan, asked, shown, asks=not as_json)))
    except Interrupted:
        message(
            f"interrupted: custody plan run {shlex.quote(file)} goes on, and asks about what was cut short."
        )
        raise
    if as_json:
        from custody.cli.document import print_document

        print_document(result)
        return exit_code(result, stopped_by(plan, result))
    try:
        _print_end(result, file, stopped_by(plan, result), listed=shown.listed)
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads it: the exit code says how the plan ended all the same
        turn_away(sys.stdout)
    code = exit_code(result, stopped_by(plan, result))
    if shown.lost is not None:
        message(f"some of the output could not be written: {shown.lost.strerror}. It is on the record.")
        return code or FAILED_EXIT_CODE
    return code


async def _work(plan: "StepPlan", asked: PlanAsked, shown: "Silent", *, asks: bool) -> "StepsResult":
    """`asks`: whoever sits here may be asked about actions that nobody knows the end of."""
    from custody.cli.answering import person_here
    from custody.cli.plan_deciding import Decided, decided
    from custody.compose import open_runtime
    from custody.plans.steps.running import run_steps

    settings = load(asked.store, roots=asked.roots)
    runtime = await open_runtime(
        settings,
        door="cli",
        agent=asked.agent,
        caller=asked.caller,
        session=session_of(asked.session),
        boundary=asked.boundary,
    )

    if settings.policy_layers:  # else nothing asks
        from custody.cli.prompting import terminal_prompt

        runtime.prompt = terminal_prompt(shown.aside, lambda: runtime.index)

    def clean(text: str) -> str:  # errors of tools become words of ours: without secrets, as in the record
        return runtime.ledger.recorder.clean_text(text, "text")[0]

    changes = _Changes(shown, clean)

    async def work(said: "Decided", person: str | None = None) -> "StepsResult":
        return await run_steps(
            runtime,
            plan,
            on_change=changes,
            again=asked.again,
            retry=(*asked.retry, *said.retry),
            done=(*asked.done, *said.done),
            person=person,
            parallel_max=asked.parallel,
        )

    try:
        result = await work(Decided())
        if asks and (said := await decided(result, shown.aside, lambda: runtime.index)) is not None:
            result = await work(said, person_here())
        return msgspec.structs.replace(
            result,
            why=clean(result.why),
            actions=tuple(_sayable(one, clean) for one in result.actions),
        )
    except InvalidInput as error:
        if "faults" in error.details:
            raise refusal(error.details["faults"]) from None
        raise
    finally:
        await runtime.close()


class _Changes:
    """Shows what changes, and once what an earlier run left, however often the plan is looked at."""

    def __init__(self, shown: "Silent", clean: Callable[[str], str]) -> None:
        self._shown = shown
        self._clean = clean
        self._left: dict[str, StepResult] = {}

    def __call__(self, progress: "StepsProgress") -> None:
        changed = progress.changed
        if progress.run_id is None and self._left.get(changed.id) == changed:
            return
        self._left[changed.id] = changed
        self._shown.changed(_sayable(changed, self._clean))


def _sayable(result: "StepResult", clean: Callable[[str], str]) -> "StepResult":
    if result.reason is None:
        return result
    return msgspec.structs.replace(result, reason=clean(result.reason))


def stopped_by(plan: "StepPlan", result: "StepsResult") -> "StepResult | None":
    """The action to blame: one whose end nobody knows, else one that stops a plan, else any."""
    stops = {step.id for step in plan.actions if step.on_failure == "stop"}
    failed = [one for one in result.actions if one.status == "failed"]
    failed.sort(key=lambda one: (one.outcome != "unknown", one.id not in stops))
    return failed[0] if failed else None


def exit_code(result: "StepsResult", blamed: "StepResult | None") -> int:
    """0 where all is done, else that of the action to blame."""
    if result.state == "complete":
        return 0
    if not result.recorded:
        return NotRecorded.exit_code
    outcome = None if blamed is None else blamed.outcome
    return FAILED_EXIT_CODE if outcome is None else OUTCOME_EXIT_CODES[outcome]


def _print_end(result: "StepsResult", file: str, blamed: "StepResult | None", *, listed: bool) -> None:
    from custody.cli.plan_live import summed

    if not listed:
        _print_actions(result.actions)
    run = "" if result.run_id is None else f" (run {result.run_id[:SHORT_ID]})"
    before = "" if result.resumed_from is None else f", gone on from run {result.resumed_from[:SHORT_ID]}"
    print(f"{result.state}: {summed(result.counts)}{before}{run}")
    if result.state == "complete":
        if result.run_id is None and result.resumed_from is not None:
            message(
                f"all of it was done before, and nothing was done again: {AGAIN.format(shlex.quote(file))}"
            )
        return
    message(f"plan {result.plan_id}: {result.why}")
    if not result.recorded:
        message(f"to go on once records can be kept: custody plan run {shlex.quote(file)}")
        return
    if blamed is None or blamed.outcome == "unknown" or blamed.source == "plan":
        return  # of the second `why` says what to do; the third is the file's to say
    name, plan = shlex.quote(blamed.id), shlex.quote(file)
    message(f"to go on: custody plan run {plan} --retry {name} (do it again) or --done {name} (it is done).")
    if result.run_id is None:
        message(AGAIN.format(plan))


def _print_actions(results: "tuple[StepResult, ...]") -> None:
    """What came of each: of a large plan what was not done as it should."""
    from custody.cli.plan_live import STYLES
    from custody.cli.render import Cell, flexible, number, table
    from custody.plans.steps.drawing import SIGNS, WORDS

    if len(results) > ACTIONS_LISTED_MAX:
        results = tuple(one for one in results if one.status != "completed")[:ACTIONS_LISTED_MAX]
    table(
        [flexible("Action"), "Status", number("Tried", optional=True), number("Took"), flexible("Why")],
        [
            (
                one.id,
                Cell(f"{SIGNS[one.status]} {WORDS[one.status]}", STYLES[one.status]),
                str(one.attempts) if one.attempts else None,
                None if one.duration_s is None else duration(one.duration_s * 1e6),
                one.reason,
            )
            for one in results
        ],
    )


async def _dry_run(plan: "StepPlan") -> "PlanReport":
    """What would be begun in what order, if it were begun anew. Raises InvalidInput."""
    import asyncio

    from custody.compose import open_runtime
    from custody.plans.steps.analysis import check_plan
    from custody.plans.steps.unrunnable import faults_of_run
    from custody.settings import MEMORY

    in_memory = msgspec.structs.replace(load(None), store=MEMORY)
    runtime = await open_runtime(in_memory, door="cli")  # for its tools alone
    try:
        faults = await asyncio.to_thread(faults_of_run, plan, runtime.tools)
        if faults:
            raise refusal(faults)
        return check_plan(plan, runtime.tools.names())
    finally:
        await runtime.close()
