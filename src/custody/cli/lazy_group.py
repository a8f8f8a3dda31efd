"""A command with commands below it that are loaded when they are asked for.

Owns that, and the nearest name for one there is not. Used by the commands whose parts need many libraries.
"""

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """`homes`: name of a command -> where it is defined (`custody.cli.module:attribute`)."""

    def __init__(self, *arguments: Any, homes: Mapping[str, str], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._homes = homes

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._homes)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module, _, attribute = self._homes.get(cmd_name, "").partition(":")
        return getattr(importlib.import_module(module), attribute) if module else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self._homes and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self._homes, n=1, cutoff=0.5)
            hint = f"Did you mean '{near[0]}'?" if near else f"There are {', '.join(self._homes)}."
            raise click.UsageError(f"There is no command '{args[0]}'. {hint}", ctx)
        return super().resolve_command(ctx, args)
