"""Row 19: what a decision costs with 50 and with 5,000 rules, and how fast recorded calls are decided again.

Beside it the engines people take for this, each with its policies compiled beforehand and the same question:
may this agent call this tool with these arguments? Of 50 rules three are about the tool that is asked for,
each with a condition over its arguments. The CEL library alone evaluates these three and nothing else.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import casbin
import cedarpy
import cel

from custody.calls.replay import Replay
from custody.policy import Case, Layer, Policy
from custody.policy.document import read_document
from harness import Measurement, Timing, Way, arguments, interleave, report, scratch, settle
from recording import SMALL_RESULT, Store

RULES = 50
MANY_RULES = 5_000
NAMING = 10  # rules for the tool that is asked for among the many

CONDITIONS_US_MAX = 25.0
NONE_APPLIES_US_MAX = 8.0
MANY_RATIO_MAX = 2.0
REPLAY_CALLS_PER_SECOND_MIN = 20_000

PARAMS: dict[str, Any] = {"argv": ["git", "push", "--force"], "cwd": "/home/ada/shop", "timeout": 30}
CONDITIONS = (
    'params.argv[1] == "push" && "--force" in params.argv',
    'params.cwd.startsWith("/srv/") || params.timeout > 600',
    'agent.name == "eve" && size(params.argv) > 1',
)


def main() -> None:
    options = arguments(__doc__, calls=(50_000, "recorded calls to decide again"))
    rounds = 4 if options.quick else 40
    few, naming, many = (
        Policy([layer(*counts)]) for counts in ((RULES, 3), (RULES, NAMING), (MANY_RULES, NAMING))
    )
    ways: dict[str, Way] = {
        "three conditions": lambda: few.decide(case("exec")),
        "none applies": lambda: few.decide(case("file_read")),
        "ten of fifty": lambda: naming.decide(case("exec")),
        "ten of five thousand": lambda: many.decide(case("exec")),
        **peers(),
    }
    assert (ruling := few.decide(case("exec"))) is not None
    assert ruling.verdict == "ask", ruling
    timings = interleave(ways, rounds=rounds, calls=200)
    with scratch() as folder:
        per_second = replayed(folder, options.calls // (10 if options.quick else 1))
    report("policy", measurements(timings, per_second), timings, quick=options.quick)


def measurements(timings: Mapping[str, Timing], per_second: float) -> list[Measurement]:
    us = {name: timing.p50_us for name, timing in timings.items()}
    beside = {name: us[name] for name in ("cedarpy", "casbin", "the CEL library alone")}
    return [
        Measurement(
            row=19, what=f"a decision with {RULES} rules, conditions of three evaluated, p50",
            value=us["three conditions"], unit="µs", target=f"≤ {CONDITIONS_US_MAX:g} µs",
            limit=CONDITIONS_US_MAX, peers=beside,
        ),
        Measurement(
            row=19, what=f"the same where none of the {RULES} applies, p50",
            value=us["none applies"], unit="µs", target=f"≤ {NONE_APPLIES_US_MAX:g} µs",
            limit=NONE_APPLIES_US_MAX,
        ),
        Measurement(
            row=19, what=f"a decision with {MANY_RULES:,} rules, {NAMING} of them for the tool, p50",
            value=us["ten of five thousand"], unit="µs",
            target=f"≤ {MANY_RATIO_MAX:g} × {RULES} rules, as many of them for the tool",
            limit=MANY_RATIO_MAX * us["ten of fifty"], peers={f"{RULES} rules": us["ten of fifty"]},
        ),
        Measurement(
            row=19, what="recorded calls decided again, three conditions for every second one",
            value=per_second, unit="calls/s", target=f"≥ {REPLAY_CALLS_PER_SECOND_MIN:,} calls/s",
            limit=REPLAY_CALLS_PER_SECOND_MIN, better="more",
        ),
    ]  # fmt: skip


def case(tool: str) -> Case:
    return Case(tool=tool, effect="write", params=PARAMS, agent="ada", session_id="today")


def layer(rules: int, naming: int) -> Layer:
    """So many rules with a condition each, `naming` of them for `exec`."""
    lines: list[str] = []
    for number in range(rules):
        tool = "exec" if number < naming else f"tool_{number}"
        condition = CONDITIONS[number % len(CONDITIONS)]
        lines += ["[[rules]]", f'name = "rule {number}"', f'tool = "{tool}"', 'decision = "ask"']
        lines += [f"when = '{condition}'"]
    return read_document("\n".join(lines), "policy.toml", "user")


# -- the others -------------------------------------------------------------------------------------------


def peers() -> dict[str, Way]:
    return {"cedarpy": cedar(), "casbin": casbin_way(), "the CEL library alone": cel_alone()}


def cedar() -> Way:
    policies = ["permit(principal, action, resource);"]
    conditions = (
        'context.verb == "push" && context.force',
        'context.cwd like "/srv/*" || context.timeout > 600',
        'principal == Agent::"eve" && context.words > 1',
    )
    for number in range(RULES):
        tool = "exec" if number < 3 else f"tool_{number}"
        condition = conditions[number % 3]
        policies.append(f'forbid(principal, action == Action::"{tool}", resource) when {{ {condition} }};')
    held = cedarpy.PolicySet.from_str("\n".join(policies))
    entities = cedarpy.Entities.from_json_str("[]")
    request: dict[str, Any] = {
        "principal": 'Agent::"ada"',
        "action": 'Action::"exec"',
        "resource": 'Store::"here"',
        "context": {"verb": "push", "force": True, "cwd": "/home/ada/shop", "timeout": 30, "words": 3},
    }
    found = cedarpy.is_authorized(request, held, entities)
    assert found.decision == cedarpy.Decision.Deny, found.diagnostics.errors
    return lambda: cedarpy.is_authorized(request, held, entities)


CASBIN_MODEL = """
[request_definition]
r = agent, tool, verb
[policy_definition]
p = agent, tool, verb, eft
[policy_effect]
e = !some(where (p.eft == deny))
[matchers]
m = r.tool == p.tool && r.verb == p.verb
"""


def casbin_way() -> Way:
    """Names compared only: its expressions are evaluated in Python, and cost several times as much."""
    model = casbin.Model()
    model.load_model_from_text(CASBIN_MODEL)
    enforcer = casbin.Enforcer(model)
    for number in range(RULES):
        tool = "exec" if number < 3 else f"tool_{number}"
        enforcer.add_policy("*", tool, ("push", "clean", "reset")[number % 3], "deny")
    assert enforcer.enforce("ada", "exec", "push") is False
    return lambda: enforcer.enforce("ada", "exec", "push")


def cel_alone() -> Way:
    programs = [cel.compile(condition) for condition in CONDITIONS]

    def way() -> list[Any]:
        context = cel.Context({"params": PARAMS, "agent": {"name": "ada"}})
        return [program.execute(context) for program in programs]

    assert way() == [True, False, False]
    return way


# -- recorded calls ---------------------------------------------------------------------------------------


def replayed(folder: Path, calls: int) -> float:
    """Calls a second, read from the disk; of 50 rules three look at the arguments of every second call."""
    store = Store(folder)
    store.start_run("ada")
    for number in range(calls):
        store.record_call(PARAMS, SMALL_RESULT, "exec" if number % 2 else "file_read")
    store.journal.sync()
    rules = layer(RULES, 3)
    settle()
    start = time.perf_counter()
    found = Replay(store.journal, rules).report()
    seconds = time.perf_counter() - start
    assert (found.calls, found.by_verdict["asked"]) == (calls, calls // 2), found
    store.journal.close()
    return calls / seconds


if __name__ == "__main__":
    main()
