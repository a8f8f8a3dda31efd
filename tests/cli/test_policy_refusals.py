"""A person whose call is refused is shown the line of policy that would allow it; an agent is not."""

from pathlib import Path

import pytest
from tests.calls.desk import Desk
from tests.cli.test_policy import Typed

import custody
from custody.sandbox.survivors import TOKEN_NAME

RULE = '\n[[rules]]\nname = "no-lists"\ndecision = "{decision}"\ntool = "file_list"\nreason = "Not now."\n'


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(tmp_path, monkeypatch, capsys)


def place(typed: Typed) -> str:
    return str(typed.config / "policy.toml")


@pytest.mark.parametrize(
    ("decision", "said", "does"),
    [
        ("deny", "refused by rule 'no-lists': Not now.", "denies"),
        pytest.param("ask", "asked by the rule 'no-lists': Not now.", "asks", marks=pytest.mark.long),
    ],
)
def test_a_rule_that_stands_in_the_way_is_named_with_its_line(
    typed: Typed, decision: str, said: str, does: str
):
    typed.policy(RULE.format(decision=decision))
    ran = typed("call", "file_list", "--args", '{"path": "."}')
    assert ran.code == 3
    first, below = ran.err.splitlines()
    assert first.startswith(f"custody: file_list: {said}")
    assert below == (f"  The rule no-lists in {place(typed)}:2 {does}; it holds until it is changed there.")
    call = typed("calls", "--json").json["items"][0]["id"]
    assert f"What would allow it\n{below.strip()}\n" in typed("show", call).out
    typed.policy(RULE.format(decision=decision) + "# changed since\n")
    assert "What would allow it" not in typed("show", call).out


def test_where_adding_lines_is_enough_they_are_shown(typed: Typed):
    typed.policy('default = "deny"\n')
    ran = typed("call", "file_list", "--args", '{"path": "."}')
    said, where, *lines = ran.err.splitlines()
    assert said.startswith("custody: file_list: refused by rule: ")
    assert f"The default of {place(typed)} is deny" in where
    typed.policy("\n".join(['default = "deny"', *(line.strip() for line in lines)]))
    assert typed("call", "file_list", "--args", '{"path": "."}').code == 0


@pytest.mark.long
def test_of_a_budget_the_files_that_bound_it_are_named(typed: Typed):
    typed.policy("[budgets.store]\nwrites = 9\n")
    project = typed.file("custody.toml", "[policy.budgets.store]\ncalls = 1\n")
    assert typed("call", "file_list", "--args", '{"path": "."}').code == 0
    ran = typed("call", "file_list", "--args", '{"path": "."}')
    assert ran.code == 3
    assert f"  The bound on calls is set in {typed.work / project}; " in ran.err
    assert place(typed) not in ran.err


def test_what_an_agent_started_is_not_told_how_a_policy_is_loosened(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
):
    typed.policy('default = "deny"\n')
    monkeypatch.setenv(TOKEN_NAME, "00")
    ran = typed("call", "file_list", "--args", '{"path": "."}')
    assert (ran.code, len(ran.err.splitlines())) == (3, 1)
    assert "policy.toml" not in ran.err


def test_what_the_built_in_policy_refused_an_agent_is_shown_with_what_takes_its_place(typed: Typed):
    @custody.tool(name="launch", effect="irreversible")
    def launch() -> str:
        raise AssertionError("nobody allowed it")

    with custody.open(str(typed.store), tools=[launch]) as runtime:
        call = runtime.call("launch", {})
    shown = typed("show", call.id)
    assert "What would allow it\nThe built-in policy asks (builtin:irreversible). " in shown.out
    assert call.outcome == "rejected" and "custody init" not in call.decision.reason, "the agent is not told"


def test_a_refusal_of_something_else_has_no_line_of_policy(typed: Typed):
    typed.policy('default = "deny"\n')
    assert "policy" not in typed("call", "file_list", "--args", '{"path": 7}').err


# -- a policy that cannot be used ---------------------------------------------------------------------

BROKEN = "defualt = 1\n"
RULES = '[[rules]]\nname = "no-lists"\ndecision = "deny"\ntool = "file_list"\n'


@pytest.mark.parametrize(
    "whose",
    ["project", *(pytest.param(one, marks=pytest.mark.long) for one in ("user", "settings", "link"))],
)
def test_questions_are_answered_and_looked_at_while_nothing_is_called(
    typed: Typed, whose: str, monkeypatch: pytest.MonkeyPatch
):
    typed.token(monkeypatch)
    desk = Desk(str(typed.store))
    first, second = desk.question("rm x"), desk.question("rm y")
    desk.close()
    what = broken(typed, whose)

    refused = typed("call", "file_list", "--args", '{"path": "."}')
    assert (refused.code, what in refused.err) == (2, True)
    listed = typed("approvals", "--json")
    assert (listed.code, len(listed.json["items"])) == (0, 2)
    answers = [typed("approve", first.call_id.hex(), "--yes"), typed("deny", second.call_id.hex())]
    for ran in (listed, *answers, typed("pause"), typed("approvals", "grants"), typed("pause", "--end")):
        assert (ran.code, ran.err.count(what)) == (0, 1), ran
        assert "No call is made here until that is put right." in ran.err
    assert typed("approvals", "--json").json["items"] == []


def broken(typed: Typed, whose: str) -> str:
    """A policy that cannot be used; what is said of it."""
    if whose == "user":
        typed.policy(BROKEN)
        return f"{place(typed)}:1:1: "
    if whose == "settings":
        settings = typed.config / "custody.toml"
        settings.write_text(settings.read_text() + f"[policy]\n{BROKEN}")
        return f"{settings}:"
    if whose == "project":
        typed.file(".custody/policy/good.toml", RULES)
        return f"{typed.work / typed.file('.custody/policy/broken.toml', BROKEN)}:1:1: "
    (typed.work / ".custody" / "policy" / "link.toml").parent.mkdir(parents=True)
    (typed.work / ".custody" / "policy" / "link.toml").symlink_to("nowhere.toml")
    return "link.toml is a link to nothing"


def test_what_can_be_read_of_a_policy_is_shown_beside_what_cannot(typed: Typed):
    typed.policy(RULES.replace("no-lists", "mine"))
    what = broken(typed, "project")
    shown = typed("policy", "show", "--json")
    assert (shown.code, [rule["name"] for rule in shown.json["rules"]]) == (2, ["mine", "no-lists"])
    assert shown.json["error"]["message"].startswith(what) and what in shown.err
    told = typed("policy", "show")
    assert (told.code, "no-lists" in told.out) == (2, True)
    assert "There is no policy file" not in told.err
    findings = typed("doctor", "--json").json["findings"]
    assert [one["state"] for one in findings if one["name"] == "policy"] == ["wrong"]
    assert any(one["name"] == "levels" for one in findings), "and the rest is looked at as well"


def test_a_policy_that_cannot_be_read_may_not_be_paused(typed: Typed, monkeypatch: pytest.MonkeyPatch):
    typed.token(monkeypatch)
    what = broken(typed, "project")
    ran = typed("pause", "--for", "1m", "--reason", "why not")
    assert (ran.code, what in ran.err) == (3, True)
    assert "cannot be told" in ran.err
    (typed.work / ".custody" / "policy" / "broken.toml").unlink()
    assert typed.events("policy.paused") == []


NOBODY = '{"pid": 4194304}'
"""One more than the last number a process may have."""


@pytest.fixture
def by_a_call(monkeypatch: pytest.MonkeyPatch):
    """As if a command of a recorded call had started this process."""
    monkeypatch.setenv(TOKEN_NAME, "0123456789abcdef")


def test_what_a_command_of_a_call_types_is_an_agents(typed: Typed, by_a_call: None):
    ran = typed("call", "process_kill", "--args", NOBODY, "--json")
    assert (ran.code, ran.json["decision"]["rule"]) == (3, "builtin:irreversible")


def test_what_a_person_types_is_not_asked_about(typed: Typed):
    ran = typed("call", "process_kill", "--args", NOBODY, "--json")
    assert (ran.json["decision"]["verdict"], ran.json["outcome"]) == ("allow", "failed")
