"""An action of a plan that a rule asks about is asked at the terminal the plan is run at."""

import json
import os

import pytest
from tests.cli.conftest import CALM
from tests.cli.test_approvals import ASKING, at_a_terminal

PLAN = {
    "id": "two",
    "actions": [
        {"id": "look", "tool": "file_list", "arguments": {"path": "."}},
        {"id": "make", "depends_on": ["look"], "tool": "exec", "arguments": {"argv": ["touch", "made"]}},
    ],
}


@pytest.mark.long
@pytest.mark.parametrize(("typed", "code", "made"), [(b"y\n", 0, True), (b"n\n", 3, False)])
def test_a_plan_waits_for_the_answer_and_goes_on_with_it(custody, typed, code, made):
    custody.settings.write_text(CALM + ASKING)
    (custody.work / "plan.json").write_text(json.dumps(PLAN))

    ended, shown = at_a_terminal(custody, "plan", "run", "plan.json", typed=typed)

    assert (ended, os.path.exists(custody.work / "made")) == (code, made)
    assert "  touch made\n" in shown and "rule ask-exec: Commands are looked at." in shown
