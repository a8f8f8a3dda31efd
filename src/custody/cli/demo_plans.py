"""What the demo shows of skills and plans: a skill that was changed after its install, a plan that is killed.

Owns this chapter of the story. Plays whoever changes a skill behind everybody's back, and whoever has a plan
worked on, kills that and goes on. Used by `demo`.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from custody.cli.demo_commands import kill_custody, run_custody
from custody.cli.demo_story import Story

if TYPE_CHECKING:
    from custody.blocking import BlockingRuntime

SKILLS = ".agents/skills"  # of the workspace: whatever skills this user has are no part of the story
SKILL = {
    "SKILL.md": """---
name: thermometer
description: Take the temperature of a room.
---
Run scripts/measure.py and believe what it says.
""",
    "scripts/measure.py": "print(21.5)\n",
}
TAMPERED = "print(99.9)\n"

PLAN: dict[str, Any] = {
    "id": "heating",
    "goal": "Warm the kitchen",
    "actions": [
        {"id": "look", "tool": "exec", "arguments": {"argv": ["sh", "-c", "echo looked >> looked"]}},
        {
            "id": "heat",
            "depends_on": ["look"],
            "tool": "exec",
            "arguments": {"argv": ["sh", "-c", "[ -e begun ] || { touch begun; exec sleep 600; }"]},
        },
        {
            "id": "complain",
            "depends_on": ["heat"],
            "condition": {"if_failed": "heat"},
            "tool": "exec",
            "arguments": {"argv": ["false"]},
        },
    ],
}
MISSPELT = "lok"
UNKNOWN_EXIT_CODE = 6


def follow_skill(story: Story, runtime: "BlockingRuntime", workspace: Path, store: Path) -> None:
    """Install a skill, change it on disk, and see that nobody follows it any more."""
    story.chapter("9. A skill is installed, and somebody changes it")
    source, root = workspace / "thermometer-skill", workspace / SKILLS
    for name, text in SKILL.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    arguments = {"source": str(source), "name": "thermometer"}
    installed = runtime.call("skills_install", arguments, agent="demo-agent")
    result: dict[str, Any] = installed.result or {}
    digest = str(result.get("digest"))
    script = {"name": "thermometer", "script": "scripts/measure.py"}
    measured = runtime.call("skill_run", script, agent="demo-agent")
    story.claim(
        f"installed, with every file in the lock ({digest[:19]}…), and its script runs: {measured.outcome}",
        installed.outcome == measured.outcome == "succeeded" and (root / "skills.lock.json").is_file(),
        installed.error or measured.error,
    )
    (root / "thermometer" / "scripts" / "measure.py").write_text(TAMPERED)
    offered = json.loads(run_custody("skills", "list", "--json", store=store, cwd=workspace).stdout)
    refused = runtime.call("skill_run", script, agent="demo-agent")
    story.claim(
        "its script is changed on disk: the skill is not offered and not run any more",
        not offered["items"] and refused.outcome == "failed" and refused.result is None,
        refused.outcome,
    )
    verified = run_custody("skills", "verify", "--json", store=store, cwd=workspace)
    changed = json.loads(verified.stdout)["roots"][0]["changed"]
    story.claim(
        f"custody skills verify names the file: {', '.join(str(one['message']) for one in changed)}",
        verified.returncode == 1 and [one["file"] for one in changed] == ["scripts/measure.py"],
        verified.stdout,
    )


def work_on_plan(story: Story, workspace: Path, store: Path) -> None:
    """Check a plan, have it worked on, kill that, and go on."""
    story.chapter("10. A plan is checked, worked on, killed, and gone on with")
    file = workspace / "heating.plan.json"
    text = json.dumps(PLAN)
    file.write_text(text.replace('"depends_on": ["look"]', f'"depends_on": ["{MISSPELT}"]'))
    checked = run_custody("plan", "check", file.name, "--json", store=store, cwd=workspace)
    faults = json.loads(checked.stdout)["faults"]
    story.claim(
        f"its one fault is told before anything begins: {faults[0]['message'] if faults else 'none'}",
        checked.returncode == 1 and len(faults) == 1 and not (workspace / "looked").exists(),
        checked.stdout,
    )
    file.write_text(text)
    begun = workspace / "begun"
    kill_custody("plan", "run", file.name, store=store, cwd=workspace, once=begun.exists)
    stopped = run_custody("plan", "run", file.name, "--json", store=store, cwd=workspace)
    became = {one["id"]: one for one in json.loads(stopped.stdout)["actions"]}
    story.claim(
        "kill -9 in its second action: how that ended nobody knows, so it is not done again unasked",
        stopped.returncode == UNKNOWN_EXIT_CODE and became["heat"]["outcome"] == "unknown",
        stopped.stdout,
    )
    ended = run_custody("plan", "run", file.name, "--retry", "heat", "--json", store=store, cwd=workspace)
    counts = json.loads(ended.stdout)["counts"]
    story.claim(
        f"--retry heat ends it: {counts['completed']} completed, {counts['skipped']} skipped; "
        "the first action was done once",
        ended.returncode == 0 and (workspace / "looked").read_text() == "looked\n",
        ended.stdout,
    )
