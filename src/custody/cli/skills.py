"""`custody skills`: the folders of instructions and scripts that agents follow.

Owns which commands there are below it; each is loaded when it is asked for. Used by the program alone.
"""

import click

from custody.cli.lazy_group import LazyGroup

COMMANDS = {
    "list": "custody.cli.skills_look:list_command",
    "info": "custody.cli.skills_look:info_command",
    "search": "custody.cli.skills_look:search_command",
    "verify": "custody.cli.skills_verify:verify_command",
    "install": "custody.cli.skills_install:install_command",
    "remove": "custody.cli.skills_install:remove_command",
    "run": "custody.cli.skills_run:run_command",
    "sign": "custody.cli.skills_trust:sign_command",
    "trust": "custody.cli.skills_trust:trust_command",
}
"""Name of a command -> where it is defined."""


@click.group(
    "skills",
    cls=LazyGroup,
    homes=COMMANDS,
    epilog="Example:  custody skills install ./pdf   then:  custody skills list --json",
)
def skills_command() -> None:
    """Find, check, install and run the skills that agents follow."""
