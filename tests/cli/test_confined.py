"""Walls from the command line: `--level`, `--sandbox`, and what the record shows of them."""

import pytest

from custody.sandbox.walls.machine import look_at_machine


@pytest.mark.long
def test_what_is_typed_has_the_walls_it_asks_for_and_no_others(custody):
    missing = "; ".join(finding.why for finding in look_at_machine().missing)
    if missing:
        pytest.skip(f"`confined` is not offered here: {missing}")
    with custody.settings.open("a") as file:
        file.write('[calls]\nlevel = "confined"\nsandbox = "read_only"\n')

    unsaid = custody("exec", "--json", "--", "touch", "unsaid").json
    asked = custody("exec", "--json", "--sandbox", "workspace", "--", "touch", "asked").json
    refused = custody("call", "shell", "--level", "confined", "--args", '{"command": "touch no"}', "--json")
    shown = custody("show", asked["id"]).out

    assert (unsaid["level"], unsaid["sandbox"]) == ("process", None)
    assert (asked["level"], asked["sandbox"], asked["outcome"]) == ("confined", "workspace", "succeeded")
    assert (refused.code, refused.json["sandbox"]) == (1, "read_only")
    assert sorted(path.name for path in custody.work.iterdir()) == ["asked", "unsaid"]
    assert "workspace" in next(line for line in shown.splitlines() if line.startswith("sandbox"))


def test_a_level_or_a_sandbox_there_is_not_is_refused_with_what_there_is(custody):
    ran = custody("exec", "--sandbox", "none", "--", "true")
    assert ran.code == 125
    assert "workspace" in ran.err
    assert "transaction" not in custody("call", "shell", "--level", "transaction").err.partition("one of")[2]
