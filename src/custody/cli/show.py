"""`custody show`: everything that is on the record of one run, call or step.

Owns how a run and a call are laid out for a person; a step is `step`'s, and what happened in a run that has
steps `timeline`'s. Used by `demo` too, which ends with a run.
"""

from typing import TYPE_CHECKING, Any

import click

from custody.cli.invocation import printable
from custody.cli.options import complete_id, json_option, look, store_option
from custody.errors import UsageError
from custody.records import Call, Run

if TYPE_CHECKING:
    from custody.cli.diffs import Differ
    from custody.cli.render import Cell
    from custody.index import StepView
    from custody.settings import Settings
    from custody.stores import View

HOST_READINGS = (
    ("processor", "cpu_percent", " %"),
    ("CPU pressure", "pressure_cpu_some_percent", " %"),
    ("load", "load_1m", ""),
    ("memory", "memory_used_percent", " %"),
    ("swap", "swap_used_bytes", "bytes"),
    ("I/O pressure", "pressure_io_some_percent", " %"),
    ("disk free", "disk_free_bytes", "bytes"),
)
"""Title, field of a sample, unit."""

CALLS_SHOWN_MAX = 200  # a person reads a screen or two; `custody calls --run` pages through the rest
ENTRIES_SHOWN_MAX = 200  # the same of a timeline; `--timeline` has all of it
CHILDREN_SHOWN_MAX = 50

OWN_EVENTS = ("run.", "app.", "journal.", "skill.")
"""How the names of events begin that say something of a run's course."""


@click.command(
    "show",
    epilog="Example:  custody show 3fa9c1d2   (first digits do; or a run's name, or latest)",
)
@click.argument("identifier", metavar="ID", shell_complete=complete_id)
@click.option("--timeline", is_flag=True, help="Of a run every step, call and event, however many there are.")
@click.option("--diff", "with_diff", is_flag=True, help="Of a call what it changed inside each text file.")
@click.option("--perf", is_flag=True, help="Print the perf lines that cut out exactly this call.")
@store_option
@json_option
def show_command(
    identifier: str, timeline: bool, with_diff: bool, perf: bool, store: str | None, as_json: bool
) -> int:
    """Show a run as it went, or all about one call or step."""
    from custody.cli.view import opened

    settings = look(store)
    with opened(settings) as view:
        found = view.index.find(identifier)
        if perf:
            return _perf(found, as_json=as_json)
        if timeline and not isinstance(found, Run):
            raise UsageError(
                f"Only a run has a timeline, and this is a {_kind(found)}.", hint=_its_run(found)
            )
        if with_diff and not isinstance(found, Call):
            hint = f"See custody changes {(found.id if isinstance(found, Run) else found.run_id)[:8]} --diff."
            raise UsageError(f"Only a call is shown with its diffs, and this is a {_kind(found)}.", hint=hint)
        differ = _differ(view, settings, found) if with_diff and isinstance(found, Call) else None
        if as_json:
            _print_json(view, found, timeline=timeline, differ=differ)
        elif isinstance(found, Run):
            print_run(view, found, whole=timeline)
        elif isinstance(found, Call):
            print_call(view, found, settings.cwd, differ)
            _say_held_fault(settings, found)
        else:
            from custody.cli.step import print_step

            print_step(found)
    return 0


def _kind(found: "Run | Call | StepView") -> str:
    if isinstance(found, Run):
        return "run"
    return "call" if isinstance(found, Call) else "step"


def _differ(view: "View", settings: "Settings", call: Call) -> "Differ":
    from custody.cli.diffs import differ_of

    return differ_of(view, settings, call)


def _say_held_fault(settings: "Settings", call: Call) -> None:
    """Where changes that are held are not those the record speaks of."""
    if call.held == "held":
        from custody.cli.held_changes import held_fault
        from custody.cli.render import remark

        fault = held_fault(settings, call)
        if fault is not None:
            remark(fault)


def _its_run(found: "Call | StepView") -> str | None:
    return None if found.run_id is None else f"See custody show {found.run_id[:8]}."


def _print_json(
    view: "View", found: "Run | Call | StepView", *, timeline: bool, differ: "Differ | None"
) -> None:
    from custody.cli.document import print_document

    if differ is not None and isinstance(found, Call):
        from custody.cli.diffs import change_documents
        from custody.records import document

        changes = change_documents(differ, found.changes or (), found.workspace)
        print_document(document(found) | {"changes": changes if found.changes is not None else None})
        return
    if not timeline:
        print_document(found)
        return
    from custody.cli.timeline import pages

    went = [entry for page in pages(view.index, found.id, None) for entry in page.items]
    print_document({"run": found, "timeline": went})


def _perf(found: "Run | Call | StepView", *, as_json: bool) -> int:
    from custody.cli.perf import perf_lines

    if isinstance(found, Run):
        raise UsageError(
            "perf cuts out one call, and this is a run.", hint=f"See its calls: custody show {found.id[:8]}."
        )
    if not isinstance(found, Call):
        raise UsageError("perf cuts out one call, and this is a step.", hint=_its_run(found))
    lines = perf_lines(found)
    if as_json:
        from custody.cli.document import print_document

        print_document(lines)
    else:
        print(lines["record"])
        print(lines["script"])
    return 0


def print_run(view: "View", run: Run, *, whole: bool = False) -> None:
    """A run's head; below it what happened, or where nothing but calls was recorded a line for each."""
    from custody.cli.render import fields, heading

    heading(f"Run {run.id}")
    fields([*_run_fields(view, run), *_run_sums(run)])
    if whole or run.steps or _has_own_events(view, run):
        _print_timeline(view, run, whole=whole)
    else:
        _print_calls(view, run)
    _print_children(view, run)


def _run_fields(view: "View", run: Run) -> "list[tuple[str, Cell | str | None]]":
    from custody.cli.render import duration, local_time, outcome

    return [
        ("intent", run.intent),
        ("name", run.name),
        ("outcome", outcome(run.outcome)),
        ("reason", run.reason),
        ("passed", _compact(run.passed)),
        ("agent", run.agent),
        ("caller", run.caller),
        ("session", run.session_id),
        ("parent", _parent(view, run)),
        ("client", run.client),
        ("channel", run.channel),
        ("user", run.user and f"{run.user} on {run.host}"),
        ("workspace", run.workspace),
        ("door", run.door),
        ("external id", run.external_id),
        ("wanted", run.outcome_description),
        ("inputs", _compact(run.inputs)),
        ("labels", _compact(run.labels)),
        ("output", _compact(run.output)),
        ("started", local_time(run.started_at)),
        ("took", duration(run.duration_us)),
    ]


def _run_sums(run: Run) -> "list[tuple[str, Cell | str | None]]":
    from custody.cli.render import count, outcomes
    from custody.cli.step import cost_in_sum, tokens_in_sum

    totals = run.totals
    return [
        ("calls", outcomes(run.calls_by_outcome) or "0"),
        ("steps", count(run.steps) if run.steps else None),
        ("tokens", tokens_in_sum(totals)),
        ("cost", cost_in_sum(totals)),
        ("stated", _compact(run.stated_totals)),
        ("refused", f"{totals.refused:,} offered after its end" if totals.refused else None),
        ("dropped", f"{totals.dropped:,} records could not be kept" if totals.dropped else None),
    ]


def _has_own_events(view: "View", run: Run) -> bool:
    """Whether the run itself said something; what Custody notes of its calls does not need a timeline."""
    from custody.index import EventFilter

    events = view.index.events(EventFilter(run=run.id, order="oldest"), refresh=False).items
    return any(event.name.startswith(OWN_EVENTS) for event in events)


def _parent(view: "View", run: Run) -> str | None:
    """The run it was started from, which may be recorded in another store."""
    from custody.errors import NotFound

    if run.parent_run_id is None:
        return None
    try:
        agent = view.index.run(run.parent_run_id, refresh=False).agent
    except NotFound:
        return f"{run.parent_run_id}, not in this store"
    return run.parent_run_id if agent is None else f"{run.parent_run_id}, {agent}"


def _print_timeline(view: "View", run: Run, *, whole: bool) -> None:
    from custody.cli.render import remark
    from custody.cli.timeline import print_timeline

    print()
    if not print_timeline(view.index, run.id, most=None if whole else ENTRIES_SHOWN_MAX):
        remark(f"The first {ENTRIES_SHOWN_MAX}; all of it: custody show {run.id[:8]} --timeline")


def _print_calls(view: "View", run: Run) -> None:
    from custody.cli.render import (
        Cell,
        count,
        duration,
        flexible,
        number,
        outcome,
        remark,
        short,
        summary,
        table,
    )
    from custody.index import CallFilter

    page = view.index.calls(CallFilter(run=run.id, order="oldest"), limit=CALLS_SHOWN_MAX)
    if not page.items:
        return
    print()
    changing = any(call.changes_count for call in page.items)
    table(
        [number("#"), "call", "tool", flexible("what"), "outcome",
         *([number("changed", optional=True)] if changing else []), number("took"), flexible("why")],
        [
            [str(call.position), short(call.id), call.tool, summary(call.tool, call.arguments),
             outcome(call.outcome), *([count(call.changes_count)] if changing else []),
             duration(call.latency_us), Cell(call.reason or "", "dim")]
            for call in page.items
        ],
    )  # fmt: skip
    if page.next is not None:
        remark(f"The first {CALLS_SHOWN_MAX} of {run.calls} calls; all: custody calls --run {run.id[:8]}")
    if changing:
        remark(f"What it changed in files: custody changes {run.id[:8]}")


def _print_children(view: "View", run: Run) -> None:
    from custody.cli.render import duration, flexible, heading, number, outcome, remark, short, table

    children = view.index.children(run.id, refresh=False)
    if not children.items:
        return
    heading("Children")
    table(
        ["run", "agent", flexible("what"), "outcome", number("took")],
        [
            [short(child.id), child.agent, child.intent or child.name, outcome(child.outcome),
             duration(child.duration_us)]
            for child in children.items[:CHILDREN_SHOWN_MAX]
        ],
    )  # fmt: skip
    if len(children.items) > CHILDREN_SHOWN_MAX:
        remark(f"The first {CHILDREN_SHOWN_MAX}; all: custody runs --parent {run.id[:8]}")


def print_call(view: "View", call: Call, cwd: str, differ: "Differ | None" = None) -> None:
    """Everything that is known of a call; what is unknown is left out.

    Paths are shown from its workspace, or from `cwd` where it has none.
    """
    from custody.cli.changes import print_changes_of
    from custody.cli.refused_by_walls import print_refused
    from custody.cli.render import duration, fields, heading, local_time, outcome, summary

    heading(f"Call {call.id}")
    fields(
        [
            ("tool", call.tool),
            ("what", summary(call.tool, call.arguments)),
            ("outcome", outcome(call.outcome, ran=call.started_at is not None)),
            ("reason", call.reason),
            ("passed", _compact(call.passed)),
            ("exit code", _compact(call.exit_code)),
            ("signal", _compact(call.signal)),
            ("limit hit", call.limit_hit),
            ("dry run", "yes, nothing was run" if call.dry_run else None),
            ("decision", _decision(call)),
            ("rule", _rule(call)),
            ("run", call.run_id and f"{call.run_id}, position {call.position}"),
            ("session", call.session_id),
            ("parent call", call.parent_id),
            ("step", call.step_id),
            ("external id", call.external_id),
            ("proposal", call.proposal_id),
            ("action", _action(call)),
            ("connection", call.connection),
            ("agent", call.agent),
            ("caller", call.caller),
            ("effect", call.effect),
            ("level", call.level),
            ("sandbox", call.sandbox),
            ("source", call.source if call.source != "executed" else None),
            ("door", call.door),
            ("workspace", call.workspace),
            ("ran in", call.cwd),
            ("started", local_time(call.started_at or call.asked_at)),
            ("took", duration(call.latency_us)),
            ("waited", duration(call.queue_us)),
            ("decided in", duration(call.decide_us)),
            ("recorded in", duration(call.record_us)),
            ("process", _processes(call)),
            ("record", f"shard {call.shard}, sequence {call.sequence}"),
        ]
    )
    _print_allowing(call)
    print_refused(view, call)
    _print_usage(call)
    _print_host(call)
    _print_withheld(call)
    _print_content(call)
    print_changes_of(view, call, call.workspace or cwd, differ)


def _print_allowing(call: Call) -> None:
    """Of a call that the policy here refused."""
    from custody.cli.refusing import lines_that_allow
    from custody.cli.render import heading

    lines = lines_that_allow(call)
    if lines:
        heading("What would allow it")
        print(printable("\n".join(lines)))


def _decision(call: Call) -> str:
    decision = call.decision
    if not decision.reason:
        return f"{decision.verdict}: nothing is against it"
    return f"{decision.verdict} by {decision.by}: {decision.reason}"


def _rule(call: Call) -> str | None:
    rule, param = call.decision.rule, call.decision.param
    return rule if rule is None or param is None else f"{rule}, about {param}"


def _action(call: Call) -> str | None:
    action, attempt = call.action_id, call.attempt
    return action if action is None or attempt is None else f"{action}, attempt {attempt}"


def _processes(call: Call) -> str:
    ours = f"recorded by {call.pid} (thread {call.thread_id})"
    return ours if call.child_pid is None else f"{call.child_pid}, {ours}"


def _print_usage(call: Call) -> None:
    from custody.cli.render import duration, fields, heading, size

    usage = call.usage
    if usage is None:
        return
    heading("Used")
    fields(
        [
            ("wall", duration(usage.wall_us)),
            ("user", duration(usage.user_us)),
            ("system", duration(usage.system_us)),
            ("peak memory", size(usage.memory_peak_bytes)),
            ("read", size(usage.read_bytes)),
            ("written", size(usage.write_bytes)),
            ("context switches", _switches(call)),
            ("descendants", _compact(usage.descendants)),
            ("stdout", _stream_size(usage.stdout_bytes, usage.stdout_dropped_bytes)),
            ("stderr", _stream_size(usage.stderr_bytes, usage.stderr_dropped_bytes)),
        ]
    )


def _switches(call: Call) -> str | None:
    usage = call.usage
    if usage is None or usage.context_switches_voluntary is None:
        return None
    return f"{usage.context_switches_voluntary} voluntary, {usage.context_switches_involuntary} not"


def _stream_size(total: int | None, dropped: int | None) -> str | None:
    from custody.cli.render import size

    if total is None:
        return None
    return f"{size(total)}, of which {size(dropped)} in the middle were not kept" if dropped else size(total)


def _print_host(call: Call) -> None:
    """The few readings a person looks for; `--json` has them all."""
    from custody.cli.render import fields, heading

    before, after = call.host_before or {}, call.host_after or {}
    rows = [
        (title, _change(_reading(before.get(name), unit), _reading(after.get(name), unit)))
        for title, name, unit in HOST_READINGS
    ]
    if any(shown for _, shown in rows):
        heading("Machine, before → after")
        fields(rows)


def _reading(value: Any, unit: str) -> str | None:
    from custody.cli.render import size

    if value is None or unit == "bytes":
        return size(value)
    return f"{value:.3g}{unit}"


def _change(before: str | None, after: str | None) -> str | None:
    if before is None or after is None or before == after:
        return after if before is None else before
    return f"{before} → {after}"


def _print_withheld(call: Call) -> None:
    from custody.cli.render import heading, redacted

    if call.environment_withheld:
        heading("Withheld from its environment")
        print(printable(", ".join(call.environment_withheld)))
    redacted(call.redactions)


def _print_content(call: Call) -> None:
    import msgspec

    from custody.cli.document import encode
    from custody.cli.render import heading

    result = call.result
    streams: dict[str, Any] = result if isinstance(result, dict) and "stdout" in result else {}  # pyright: ignore[reportUnknownVariableType]
    if call.prompt is not None:
        heading("Prompt")
        print(printable(call.prompt))
    if call.arguments and not (call.tool == "exec" and set(call.arguments) == {"argv"}):
        heading("Arguments")
        print(printable(msgspec.json.format(encode(call.arguments), indent=2).decode()))
    for name in ("stdout", "stderr"):
        text = streams.get(name)
        if text:
            heading(name)
            print(printable(text if isinstance(text, str) else encode(text).decode()).rstrip("\n"))
    if result is not None and not streams:
        heading("Result")
        print(
            printable(
                result if isinstance(result, str) else msgspec.json.format(encode(result), indent=2).decode()
            )
        )
    if call.error is not None:
        heading("Error")
        print(printable(f"{call.error.get('type')}: {call.error.get('message')}"))


def _compact(value: Any) -> str | None:
    """A value in one short text; None stays unknown."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.4g}"
    from custody.cli.document import encode

    return encode(value).decode()
