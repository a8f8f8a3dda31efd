"""`custody policy`: the rules calls are held to, looked at, tried out and trusted.

Owns which commands there are below it; each is loaded when it is asked for. Used by the program alone.
"""

import click

from custody.cli.lazy_group import LazyGroup

HOMES = {
    "show": "custody.cli.policy_show:show_command",
    "check": "custody.cli.policy_check:check_command",
    "test": "custody.cli.policy_test:test_command",
    "explain": "custody.cli.policy_explain:explain_command",
    "replay": "custody.cli.policy_replay:replay_command",
    "trust": "custody.cli.policy_trust:trust_command",
    "distrust": "custody.cli.policy_trust:distrust_command",
}


@click.group(
    "policy",
    cls=LazyGroup,
    homes=HOMES,
    epilog="Example:  custody policy show --json",
)
def policy_command() -> None:
    """Look at the rules calls are held to, and try them out before they count."""
