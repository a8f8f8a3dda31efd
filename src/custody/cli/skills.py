"""`custody skills`: the folders of instructions and scripts that agents follow.

Owns which commands there are below it; each is loaded when it is asked for. Used by the program alone.
"""

import difflib
import importlib

import click

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


class SkillsGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module, _, attribute = COMMANDS.get(cmd_name, "").partition(":")
        return getattr(importlib.import_module(module), attribute) if module else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1, cutoff=0.5)
            hint = f"Did you mean '{near[0]}'?" if near else f"There are {', '.join(COMMANDS)}."
            raise click.UsageError(f"There is no command '{args[0]}'. {hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    "skills",
    cls=SkillsGroup,
    epilog="Example:  custody skills install ./pdf   then:  custody skills list --json",
)
def skills_command() -> None:
    """Find, check, install and run the skills that agents follow."""
