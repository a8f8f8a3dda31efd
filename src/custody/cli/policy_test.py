"""`custody policy test`: a policy held to what it is meant to say, for continuous integration.

Owns the form of the cases and how what differs is shown. Used by the group `policy`.

    [[cases]]
    tool = "git"
    params = { operation = "commit" }
    expect = "ask"
    rule = "ask-before-commit"

In JSON and YAML: a list of such cases, or a mapping with `cases`. A case tells a world of its own: no call
was made before it, but for the rules it names in `rate_used` and `happened`.
"""

import os
import stat
from typing import TYPE_CHECKING, Annotated, Any, cast

import click
import msgspec
from msgspec import Struct

from custody.cli.options import json_option, load, store_option
from custody.errors import InvalidInput
from custody.policy.model import Afterwards, SandboxName, WallLevel, Walls
from custody.records import Effect, Verdict

if TYPE_CHECKING:
    from custody.cli.policy_places import Kind
    from custody.policy import Policy, Ruling
    from custody.settings import Settings
    from custody.tools import Registry

CASES_BYTES_MAX = 16 * 1024**2
"""Of the file: a hundred thousand cases, which a person no longer keeps right."""

MISMATCH_EXIT_CODE = 1


class Expected(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One case."""

    tool: Annotated[str, msgspec.Meta(min_length=1)]
    expect: Verdict
    name: str | None = None
    params: dict[str, Any] = {}
    rule: str | None = None
    """Has to be among the rules that match."""
    level: WallLevel | None = None
    """That walls are demanded of at least this level, and of no more."""
    sandbox: SandboxName | None = None
    """The narrowest that is named."""
    afterwards: Afterwards | None = None
    effect: Effect | None = None
    """Unsaid: as the tool says of itself."""
    agent: str | None = None
    caller: str | None = None
    session: str | None = None
    door: str = "python"
    cwd: str | None = None
    run: dict[str, Any] = {}
    state: dict[str, Any] = {}
    counters: dict[str, Any] = {}
    rate_used: tuple[str, ...] = ()
    """Rules whose rate is used up."""
    happened: tuple[str, ...] = ()
    """Rules whose sequence has happened."""


class Tried(Struct, frozen=True, kw_only=True):
    """What became of one case."""

    number: int
    name: str | None
    tool: str
    expect: Verdict
    verdict: Verdict
    rule: str | None
    """That decided; None: a default did, or nothing was against it."""
    level: WallLevel | None
    sandbox: SandboxName | None
    afterwards: Afterwards | None
    reason: str
    passed: bool
    why: str | None
    """Why it did not pass."""


@click.command("test", epilog="Example:  custody policy test policy.toml cases.toml --json")
@click.argument("file", type=click.Path())
@click.argument("cases_file", metavar="CASES", type=click.Path())
@click.option(
    "--as", "kind", type=click.Choice(["organisation", "user", "project"]),
    help="Whose file it will be [default: as where it lies, else the user's].",
)  # fmt: skip
@store_option
@json_option
def test_command(file: str, cases_file: str, kind: "Kind | None", store: str | None, as_json: bool) -> int:
    """Decide each case of CASES (TOML, JSON or YAML) under FILE alone, and compare with what it expects.

    A case has tool, expect (allow, deny, ask) and perhaps params, rule, level, sandbox, effect, agent,
    session, door, state and more; docs/reference/policy.md has all. Exits with 1 where one differs. FILE is
    taken as enforced.
    """
    from custody.cli.policy_case import registry_of
    from custody.cli.policy_places import named_policy
    from custody.policy import Policy

    policy = Policy([msgspec.structs.replace(named_policy(file, kind), mode="enforce")])
    cases = read_cases(cases_file)
    settings = load(store)
    registry = registry_of(settings)
    tried = [_tried(number, case, policy, settings, registry) for number, case in enumerate(cases, 1)]
    failed = sum(not one.passed for one in tried)
    if as_json:
        from custody.cli.document import print_document

        print_document({"cases": len(tried), "failed": failed, "items": tried})
    else:
        _print(tried, failed)
    return MISMATCH_EXIT_CODE if failed else 0


def read_cases(path: str) -> tuple[Expected, ...]:
    """The cases of a file, by its name's end. Raises InvalidInput naming the case and the key."""
    raw = _raw(path)
    others = False
    if isinstance(raw, dict):
        tables = cast("dict[str, Any]", raw)
        others = bool(tables.keys() - {"cases"})
        raw = tables.get("cases")
    if not isinstance(raw, list) or not raw or others:
        raise InvalidInput(
            f"{path} has no cases{', or has something else beside them' if others else ''}.",
            hint="Write each under [[cases]], or a list of them in JSON or YAML.",
        )
    found: list[Expected] = []
    for number, case in enumerate(cast("list[Any]", raw), 1):
        try:
            found.append(msgspec.convert(case, Expected))
        except msgspec.ValidationError as error:
            raise InvalidInput(
                f"{path}: case {number}: {str(error).replace('`$.', '`')}.",
                hint="docs/reference/policy.md says what a case has.",
            ) from None
    return tuple(found)


def _raw(path: str) -> Any:
    try:
        # Without waiting: a pipe there may never be written to.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidInput(f"{path} is not a file.", hint="Name one file of cases.")
            data = file.read(CASES_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > CASES_BYTES_MAX:
        raise InvalidInput(f"{path} is larger than {CASES_BYTES_MAX:,} bytes, the most that is read.")
    ending = os.path.splitext(path)[1]
    try:
        if ending == ".toml":
            import tomllib

            return tomllib.loads(data.decode())
        if ending == ".json":
            return msgspec.json.decode(data)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} cannot be read: byte {error.start} is not UTF-8.") from None
    except (ValueError, RecursionError) as error:  # msgspec's and tomllib's errors
        raise InvalidInput(f"{path} cannot be read: {error}.") from None
    if ending in (".yaml", ".yml"):
        from custody import safe_yaml

        return safe_yaml.load(data, what=path, bytes_max=CASES_BYTES_MAX)
    raise InvalidInput(f"{path} is neither TOML, JSON nor YAML by its name.")


def _tried(
    number: int, case: Expected, policy: "Policy", settings: "Settings", registry: "Registry"
) -> Tried:
    from custody.cli.policy_case import case_of, effect_of, starts_process

    ruling = policy.decide(
        case_of(
            settings,
            case.tool,
            case.params,
            effect=case.effect or effect_of(registry, case.tool),
            cwd=case.cwd,
            state=case.state,
            counters=case.counters,
            rate_used=lambda rule: rule.name in case.rate_used,
            happened=lambda rule: rule.name in case.happened,
            agent=case.agent,
            caller=case.caller,
            session_id=case.session,
            door=case.door,
            run=case.run,
            starts_process=starts_process(registry, case.tool),
        )
    )
    why = _difference(case, ruling)
    walls = _walls(ruling)
    return Tried(
        number=number,
        name=case.name,
        tool=case.tool,
        expect=case.expect,
        verdict="allow" if ruling is None else ruling.verdict,
        rule=None if ruling is None else ruling.rule,
        level=walls.level,
        sandbox=next(iter(walls.sandboxes), None),
        afterwards=walls.afterwards,
        reason="" if ruling is None else ruling.reason,
        passed=why is None,
        why=why,
    )


def _difference(case: Expected, ruling: "Ruling | None") -> str | None:
    verdict = "allow" if ruling is None else ruling.verdict
    if verdict != case.expect:
        return f"it is {verdict}, not {case.expect}"
    matched = () if ruling is None else tuple(match.rule for match in ruling.matched)
    if case.rule is not None and case.rule not in matched:
        return f"the rule {case.rule} does not match"
    walls = _walls(ruling)
    wanted = (
        ("level", case.level, walls.level),
        ("sandbox", case.sandbox, next(iter(walls.sandboxes), None)),
        ("afterwards", case.afterwards, walls.afterwards),
    )
    for key, expected, found in wanted:
        if expected is not None and expected != found:
            return f"the {key} is {found or 'not said'}, not {expected}"
    return None


def _walls(ruling: "Ruling | None") -> Walls:
    return (None if ruling is None else ruling.walls) or Walls()


def _print(tried: list[Tried], failed: int) -> None:
    from custody.cli.render import Cell, flexible, number, table

    table(
        [number("case"), flexible("name"), "tool", "expected", "verdict", "rule", "result"],
        [
            [
                str(one.number),
                one.name,
                one.tool,
                one.expect,
                one.verdict,
                one.rule,
                Cell("passed", "green") if one.why is None else Cell(one.why, "red"),
            ]
            for one in tried
        ],
    )
    cases = "1 case" if len(tried) == 1 else f"{len(tried):,} cases"
    differ = "1 differs" if failed == 1 else f"{failed:,} differ"
    print(f"\n{cases}: {differ if failed else 'all as expected'}.")
