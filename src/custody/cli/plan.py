"""`custody plan`: look at a plan before anybody acts on it, and have it worked on.

Owns the group; its commands are `plan_check`'s, `plan_show`'s and `plan_run`'s.
"""

import click

from custody.cli.plan_check import check_command
from custody.cli.plan_run import run_command
from custody.cli.plan_show import show_command


@click.group("plan", epilog="Example:  custody plan check release.plan.yaml --json")
def plan_command() -> None:
    """Check a plan of actions, draw it, and have it worked on."""


for command in (check_command, show_command, run_command):
    plan_command.add_command(command)
