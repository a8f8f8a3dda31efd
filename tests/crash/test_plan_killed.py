"""A program that works on a plan is killed again and again: nothing that is done is done twice, and where
nobody can know, somebody is asked."""

import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from tests.crash import planned

import custody
from custody.index import CallFilter
from custody.index.query import LIMIT_MAX
from custody.plans.steps.results import StepsResult

SOURCE = Path(custody.__path__[0]).parent
KILLS = 10
PROGRAMS_MAX = 60
"""Each killed one does something, or leaves one question; far more would be a plan that never ends."""
MESSAGES_MAX = 8
SPIN_MAX = 300_000
"""Loops between a message and the kill: about as long as an action takes."""


@dataclass
class Lane:
    folder: Path
    chance: random.Random
    kills: int
    killed: int = 0
    decided_done: list[str] = field(default_factory=list[str])

    @property
    def lines(self) -> list[str]:
        path = self.folder / "lines"
        return path.read_text().split() if path.exists() else []

    def work(self) -> StepsResult:
        """Programs, most of them killed, until the plan is complete."""
        done, retry = "", ""
        for _ in range(PROGRAMS_MAX):
            kill = self.killed < self.kills
            result = self.program(done, retry, kill)
            assert max(Counter(self.lines).values(), default=0) <= 1, "an action was done twice"
            if result is None:  # what was decided may be on the record or not: the next one asks if not
                done, retry = "", ""
                continue
            if result.state == "complete":
                return result
            done, retry = self.decided(result)
        raise AssertionError("the plan never ends")

    def decided(self, result: StepsResult) -> tuple[str, str]:
        """What a person who looks at the file says of the actions that the plan asks about."""
        asked = [one for one in result.actions if one.outcome == "unknown"]
        assert asked and result.state == "blocked" and result.run_id is None
        for one in asked:
            assert one.reason is not None and f"--retry {one.id}" in one.reason
        there = set(self.lines)
        done = [one.id for one in asked if one.id in there]
        retry = [one.id for one in asked if one.id not in there]
        self.decided_done.extend(done)
        return " ".join(done), " ".join(retry)

    def program(self, done: str, retry: str, kill: bool) -> StepsResult | None:
        """Its result, or None where it was killed before it told one."""
        messages = self.chance.randrange(1, MESSAGES_MAX)
        spin = self.chance.randrange(SPIN_MAX)
        with subprocess.Popen(
            [sys.executable, planned.__file__, self.folder / "store", self.folder / "lines", done, retry],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": f"{SOURCE}"},
            cwd=self.folder,
            text=True,
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            told: list[str] = []
            while line := process.stdout.readline():
                told.append(line)
                if kill and len(told) == messages:
                    for _ in range(spin):
                        pass
                    process.kill()
                    self.killed += 1
                    told.extend(process.stdout)
                    break
            errors = process.stderr.read()
        if told and told[-1].startswith("{") and told[-1].endswith("}\n"):
            return msgspec.json.decode(told[-1], type=StepsResult)
        assert kill and not errors, errors
        return None


@pytest.mark.long
def test_every_action_of_a_plan_is_done_once_however_often_its_program_is_killed(tmp_path: Path) -> None:
    chance, killed = random.Random("plan"), 0
    for number in range(KILLS):  # a program may be done before it is killed: then another plan is begun
        folder = tmp_path / str(number)
        folder.mkdir()
        lane = Lane(folder, chance, kills=KILLS - killed)
        judge(lane, lane.work())
        killed += lane.killed
        if killed >= KILLS:
            return
    raise AssertionError(f"only {killed} programs were killed in time")


def judge(lane: Lane, result: StepsResult) -> None:
    """A plan that came to its end."""
    assert sorted(lane.lines) == sorted(f"a{number}" for number in range(planned.ACTIONS))
    assert result.counts == {"completed": planned.ACTIONS}
    with custody.open(os.fspath(lane.folder / "store")) as runtime:
        calls = runtime.index.calls(CallFilter(proposal_id="lines"), limit=LIMIT_MAX).items
    succeeded = Counter(call.action_id for call in calls if call.outcome == "succeeded")
    decided = set(lane.decided_done)
    assert succeeded.keys() | decided == set(lane.lines)
    assert max(succeeded.values()) == 1
    assert not succeeded.keys() & decided, "what somebody saw to was done again"
    assert {call.outcome for call in calls} <= {"succeeded", "unknown"}
