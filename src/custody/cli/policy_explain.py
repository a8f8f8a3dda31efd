"""`custody policy explain`: what the policy says of one call, rule by rule.

Owns where the call comes from, the record or the command line, and how the answer is shown. Who decides, and
why each rule matches or not, is said by `policy`. Used by the group `policy`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

import click
from msgspec import Struct

from custody.cli.call import read_arguments
from custody.cli.options import complete_id, complete_tool, json_option, load, store_option
from custody.errors import InvalidInput, UsageError
from custody.records import EFFECTS, By, Verdict

if TYPE_CHECKING:
    from custody.policy import Case, Layer, Policy, RuleExplained, Ruling, Walls
    from custody.policy.layers import Allowing
    from custody.records import Call
    from custody.settings import Settings
    from custody.stores import View

Answer = Literal["yes", "no", "undecidable"]
ANSWERS: Mapping[bool | None, Answer] = {True: "yes", False: "no", None: "undecidable"}


class Explained(Struct, frozen=True, kw_only=True):
    """What is said of one call."""

    call_id: str | None
    tool: str
    verdict: Verdict
    by: By
    rule: str | None
    reason: str
    schema: str | None
    """Why the arguments do not fit the tool, which is looked at first; None where they do, or for a tool that
    is not known here."""
    walls: "Walls | None"
    """Which its command has at least; None: no rule demands any, or the tool starts no process."""
    rules: "tuple[RuleExplained, ...]"
    would_allow: "Allowing | None"
    notes: tuple[str, ...]
    """What the answer does not take into account."""


@click.command(
    "explain", epilog="""Example:  custody policy explain --tool git --args '{"operation": "status"}'"""
)
@click.argument("call_text", metavar="[CALL]", required=False, shell_complete=complete_id)
@click.option("--tool", metavar="NAME", shell_complete=complete_tool, help="A call of this tool instead.")
@click.option("--args", "text", metavar="JSON|@FILE|-", help="Its arguments, a JSON object [default: {}].")
@click.option("--effect", type=click.Choice(EFFECTS), help="[default: as the tool says of itself]")
@click.option("--agent", metavar="NAME", help="Which agent asks.")
@click.option("--session", metavar="NAME", help="In which session.")
@click.option("--door", default="python", show_default=True, metavar="NAME", help="At which door.")
@click.option("--state", metavar="JSON|@FILE|-", help="The state rules may read, a JSON object.")
@click.option(
    "--file", metavar="FILE", type=click.Path(), help="Under this file alone [default: all that hold here]."
)
@store_option
@json_option
def explain_command(
    call_text: str | None,
    tool: str | None,
    text: str | None,
    state: str | None,
    file: str | None,
    store: str | None,
    as_json: bool,
    **who: Any,
) -> int:
    """Say for each rule why it matches a call or does not. CALL is one on the record. Nothing is run."""
    if (call_text is None) is (tool is None):
        raise UsageError(
            "Name a call on the record, or a tool.",
            hint="""Example: custody policy explain --tool git --args '{"operation": "status"}'""",
        )
    if call_text is not None and text is not None:
        raise UsageError("--args goes with --tool: a call on the record has arguments.")
    from custody.policy import Policy

    settings = load(store)
    policy = Policy(_layers(settings, file))
    known = read_arguments(state)
    if tool is not None:
        case = _made_up(settings, tool, read_arguments(text), known, who)
        explained = _explained(settings, policy, case, notes=_unknown(settings, tool))
    else:
        assert call_text is not None, "one of them is given"
        explained = _of_record(settings, policy, call_text, known)
    if as_json:
        from custody.cli.document import print_document

        print_document(explained)
    else:
        _print(explained)
    return 0


def _layers(settings: "Settings", file: str | None) -> "tuple[Layer, ...]":
    from custody.cli.policy_places import named_policy, policies_here

    return policies_here(settings).layers if file is None else (named_policy(file),)


def _made_up(
    settings: "Settings", tool: str, params: dict[str, Any], state: dict[str, Any], who: dict[str, Any]
) -> "Case":
    from custody.cli.policy_case import case_of, effect_of, openings_here, registry_of, starts_process

    registry = registry_of(settings)
    effect = who["effect"] or effect_of(registry, tool)
    closed = {opening.why for opening in openings_here(settings, tool, params)}
    return case_of(
        settings,
        tool,
        params,
        writes_outside="outside" in closed,
        writes_protected="protected" in closed,
        starts_process=starts_process(registry, tool),
        effect=effect,
        state=state,
        agent=who["agent"],
        session_id=who["session"],
        door=who["door"],
    )


def _of_record(settings: "Settings", policy: "Policy", call_text: str, state: dict[str, Any]) -> Explained:
    """Raises NotFound, Ambiguous, InvalidInput."""
    from custody.cli.policy_case import case_of, openings_here, registry_of, starts_process
    from custody.cli.view import opened

    with opened(settings) as view:
        call = view.index.call(call_text)
        arguments: Any = call.arguments
        if not isinstance(arguments, dict):
            raise InvalidInput(
                f"What call {call.id[:8]} was asked to do is not on the record any more.",
                hint="Say it with --tool and --args.",
            )
        params = cast("dict[str, Any]", arguments)
        closed = {opening.why for opening in openings_here(settings, call.tool, params, call.cwd)}
        case = case_of(
            settings,
            call.tool,
            params,
            effect=call.effect,
            dry_run=call.dry_run,
            writes_outside="outside" in closed,
            writes_protected="protected" in closed,
            starts_process=starts_process(registry_of(settings), call.tool),
            cwd=call.cwd,
            state=state,
            agent=call.agent or _agent_of_run(view, call),
            caller=call.caller,
            session_id=call.session_id,
            door=call.door,
            run={} if call.run_id is None else {"id": call.run_id},
        )
        hidden = any(hit.path.startswith("arguments") for hit in call.redactions)
        notes = ("Its arguments are redacted: rules saw what stood there then.",) if hidden else ()
        return _explained(settings, policy, case, call_id=call.id, notes=notes)


def _agent_of_run(view: "View", call: "Call") -> str | None:
    return None if call.run_id is None else view.index.run(call.run_id).agent


def _explained(
    settings: "Settings",
    policy: "Policy",
    case: "Case",
    *,
    call_id: str | None = None,
    notes: tuple[str, ...] = (),
) -> Explained:
    ruling = policy.decide(case)
    return Explained(
        call_id=call_id,
        tool=case.tool,
        verdict="allow" if ruling is None else ruling.verdict,
        by="rule" if ruling is None else ruling.by,
        rule=None if ruling is None else ruling.rule,
        reason="No rule is against it." if ruling is None else ruling.reason,
        schema=_schema(settings, case),
        walls=None if ruling is None else ruling.walls,
        rules=policy.explain(case),
        would_allow=None if ruling is None else _would_allow(case, ruling, policy),
        notes=(*notes, *_notes(ruling), *_no_walls(case, policy), *_closed(case, ruling)),
    )


def _would_allow(case: "Case", ruling: "Ruling", policy: "Policy") -> "Allowing | None":
    from custody.policy.layers import what_would_allow

    if ruling.verdict == "allow":
        return None
    return what_would_allow(case.tool, ruling.matched, policy.layers)


def _closed(case: "Case", ruling: "Ruling | None") -> list[str]:
    """What a rule that allows does not open."""
    if not (case.writes_outside or case.writes_protected) or (ruling and ruling.verdict != "allow"):
        return []
    what = "outside the roots" if case.writes_outside else "a protected file"
    return [f"It would write {what}, which no rule opens: it is refused there, unless a person can be asked."]


def _notes(ruling: "Ruling | None") -> list[str]:
    if ruling is None:
        return []
    said: list[str] = []
    if ruling.undecidable:
        names = ", ".join(ruling.undecidable)
        said.append(f"Undecidable here, as what was called before is not counted: {names}.")
    for match in ruling.shadow:
        name = "a default" if match.rule is None else f"the rule {match.rule}"
        said.append(f"In shadow {name} would say {match.decision}.")
    if ruling.walls_in_shadow is not None:
        from custody.policy.walls import demand_words

        said.append(f"With the files in shadow its walls would be: {demand_words(ruling.walls_in_shadow)}.")
    return said


def _no_walls(case: "Case", policy: "Policy") -> list[str]:
    """Rules that speak of walls are passed over where there is no command for them to be around."""
    walled = any(rule.walls is not None for rule in policy.rules_for(case.tool))
    if case.starts_process or not walled:
        return []
    return [f"{case.tool} starts no process, so no walls are around it; its roots hold anyway."]


def _schema(settings: "Settings", case: "Case") -> str | None:
    """What the first guard would say, of a tool that is known here."""
    from custody.cli.policy_case import registry_of

    registry = registry_of(settings)
    if registry.get(case.tool) is None:
        return None
    return registry.schema(case.tool).violation(case.params)


def _unknown(settings: "Settings", tool: str) -> tuple[str, ...]:
    """What names no tool here may be one of the other side, or a slip of who types."""
    from custody.cli.policy_case import registry_of
    from custody.policy.tables import nearest

    registry = registry_of(settings)
    if registry.get(tool) is not None:
        return ()
    near = nearest(tool, registry.names())
    meant = f"; did you mean {near}?" if near else "."
    return (f"No tool of that name is known here{meant}",)


def _wall_lines(walls: "Walls") -> list[str]:
    """Each thing that is demanded, and by whom."""
    from custody.policy.walls import WALL_KEYS, demand_words, who_demands

    whose = [(key, who_demands(walls, key)) for key in WALL_KEYS]
    return [f"Walls: {demand_words(walls)}.", *(f"{key}: {who}" for key, who in whose if who)]


def _print(explained: Explained) -> None:
    from custody.cli.invocation import printable
    from custody.cli.lines import one_line
    from custody.cli.policy_show import VERDICT_STYLES
    from custody.cli.render import Cell, flexible, paint, remark, table

    by = f" by the rule {explained.rule}" if explained.rule else ""
    verdict = paint(explained.verdict, VERDICT_STYLES[explained.verdict])
    print(f"{one_line(explained.tool)}: {verdict}{by}: {one_line(explained.reason)}")
    if explained.schema is not None:
        print(f"Its arguments do not fit, so it is refused before that: {one_line(explained.schema)}")
    if explained.walls is not None and explained.verdict != "deny":
        for line in _wall_lines(explained.walls):
            print(one_line(line))
    if explained.rules:
        print()
        styles = {"yes": "bold", "no": "dim", "undecidable": "magenta"}
        table(
            ["matches", "decision", "rule", flexible("where"), flexible("why")],
            [
                [
                    Cell(ANSWERS[rule.matched], styles[ANSWERS[rule.matched]]),
                    Cell(rule.decision, VERDICT_STYLES[rule.decision]),
                    rule.rule,
                    rule.source if rule.line is None else f"{rule.source}:{rule.line}",
                    rule.why,
                ]
                for rule in explained.rules
            ],
        )
    if explained.would_allow is not None:
        print(f"\n{printable(explained.would_allow.words)}")
        if explained.would_allow.text is not None:
            print(f"\n{printable(explained.would_allow.text)}", end="")
    for note in explained.notes:
        remark(note)
