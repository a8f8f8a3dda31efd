"""What the demo shows of a policy: rules that deny and ask, why, and the same in shadow.

Owns this chapter of the story, which has a folder and a project's policy of its own. Plays the agent. The
person who would answer is not played: that takes a terminal of their own, and what to type there is said.
Used by `demo`.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from custody.cli.demo_commands import run_custody
from custody.cli.demo_story import Story

if TYPE_CHECKING:
    from custody.blocking import BlockingRun

SCRIPT = "water.sh"
WATER = 'echo "$1" >> watered\n'
POLICY_FILE = ".custody/policy/garden.toml"
DENIES, ASKS = "not-at-noon", "look-before-watering"
POLICY = f"""
[[rules]]
name = "{DENIES}"
decision = "deny"
tool = "exec"
when = '"noon" in params.argv'
reason = "The sun would burn the leaves."

[[rules]]
name = "{ASKS}"
decision = "ask"
tool = "exec"
when = '"{SCRIPT}" in params.argv'
reason = "Water is scarce."
"""
IMPATIENT = "[approvals]\nwait_seconds = 1\n"
"""Should somebody listen at a store the demo was given, it goes on all the same."""
SHADOW = 'mode = "shadow"\n'

REFUSED_EXIT_CODE = 3


def ask_first(story: Story, garden: Path, store: Path) -> None:
    """A call that is refused, one that is asked about, and that one again in shadow."""
    import custody

    story.chapter("8. Rules say what may happen in a garden")
    policy = garden / POLICY_FILE
    policy.parent.mkdir(parents=True)
    policy.write_text(POLICY + IMPATIENT)
    (garden / SCRIPT).write_text(WATER)
    with (
        custody.open(str(store), cwd=str(garden)) as runtime,
        runtime.run("Water the garden", agent="gardener") as run,
    ):
        asked = _decided(story, run, garden)
        _explained(story, asked, garden, store)
        _not_answered_by_itself(story, asked, garden, store)
    policy.write_text(SHADOW + POLICY)
    with custody.open(str(store), cwd=str(garden)) as runtime:
        again = runtime.call("exec", {"argv": ["sh", SCRIPT, "dawn"]}, agent="gardener")
        noted: list[Any] = [event.data for event in runtime.index.events(name="shadow.denied").items]
        story.claim(
            'with mode = "shadow" the same call runs, and the record has which rule would have asked',
            again.outcome == "succeeded" and [one["rule"] for one in noted] == [ASKS],
            again.decision.reason or again.outcome,
        )
    policy.write_text(POLICY)
    story.say(f"  A yes is a person's. At a terminal, in {garden}:")
    story.say(f"    custody exec --store {store} -- sh {SCRIPT} dawn   (asks you there)")
    story.say(f"    custody approvals -f --store {store}   (shows what others ask)")


def _decided(story: Story, run: "BlockingRun", garden: Path) -> Any:
    """What the rules say; returns the call that was asked about."""
    denied = run.call("exec", {"argv": ["sh", SCRIPT, "noon"]})
    story.claim(
        f"of two rules that match, the one that denies decides: {denied.decision.rule}: "
        f"{denied.decision.reason}",
        denied.outcome == "rejected" and set(denied.decision.matched) == {DENIES, ASKS},
        denied.decision.reason or denied.outcome,
    )
    asked = run.call("exec", {"argv": ["sh", SCRIPT, "dawn"]})
    story.claim(
        f"the other asks, and no person is there: refused at once, by {asked.decision.by}",
        asked.outcome == "rejected"
        and (asked.decision.by, asked.decision.rule) == ("nobody", ASKS)
        and not (garden / "watered").exists(),
        asked.decision.reason or asked.outcome,
    )
    return asked


def _explained(story: Story, asked: Any, garden: Path, store: Path) -> None:
    explained = run_custody("policy", "explain", asked.id, "--json", store=store, cwd=garden)
    said = {one["rule"]: one for one in json.loads(explained.stdout)["rules"]}
    words = "; ".join(f"{name}: {said[name]['why']}" for name in (ASKS, DENIES))
    story.claim(
        f"custody policy explain {asked.id[:8]}: {words}",
        said[ASKS]["matched"] is True and said[DENIES]["matched"] is False,
        explained.stdout,
    )


def _not_answered_by_itself(story: Story, asked: Any, garden: Path, store: Path) -> None:
    answered = run_custody("approve", asked.id, "--yes", "--json", store=store, cwd=garden)
    story.claim(
        "an agent does not say yes to itself: custody approve is refused to what it starts, and recorded",
        answered.returncode == REFUSED_EXIT_CODE,
        answered.stdout or answered.stderr,
    )
